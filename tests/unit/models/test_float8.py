"""Products of float8 numbers: what is rounded, and what the gradients are."""

import pytest
import torch

from nbft.models.float8 import LARGEST, Float8Linear, to_float8, use_float8


def test_the_largest_number_becomes_the_largest_of_float8():
    values = torch.tensor([-3.0, 0.5, 1.5])
    rounded, scale = to_float8(values)
    assert rounded.dtype == torch.float8_e4m3fn
    assert float(rounded[0].float()) == -LARGEST
    assert float(scale) == pytest.approx(3 / LARGEST)
    # Three bits after the leading one: at most a sixteenth off.
    assert torch.allclose(rounded.float() * scale, values, rtol=1 / 16)


def test_zeros_stay_zeros():
    rounded, scale = to_float8(torch.zeros(4))
    assert torch.equal(rounded.float() * scale, torch.zeros(4))


def test_the_product_is_that_of_the_rounded_numbers():
    torch.manual_seed(0)
    linear = torch.nn.Linear(32, 16)
    layer = Float8Linear(linear)
    x = torch.randn(5, 3, 32, requires_grad=True)
    (xs, x_scale), (ws, w_scale) = to_float8(x), to_float8(linear.weight)
    expected = (xs.float() * x_scale) @ (ws.float() * w_scale).t() + linear.bias
    y = layer(x)
    assert torch.allclose(y, expected, atol=1e-5)
    assert not torch.allclose(y, linear(x), atol=1e-3)
    y.sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand_as(x), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_hardware_kernel_gives_the_same_numbers(dtype):
    torch.manual_seed(0)
    layer = Float8Linear(torch.nn.Linear(32, 16, bias=False).to(dtype))
    x = torch.randn(16, 32, dtype=dtype)
    rounded, own = to_float8(x)
    try:
        y = torch._scaled_mm(
            rounded, layer.rounded.t(), scale_a=own, scale_b=layer.scale, out_dtype=torch.bfloat16
        )
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"no float8 product here: {error}")
    assert torch.allclose(y.float(), layer(x).float(), rtol=0.02, atol=0.02)


def test_every_linear_layer_but_the_head(tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    use_float8(model)
    kinds = {type(m).__name__ for m in model.model.layers.modules() if hasattr(m, "in_features")}
    assert kinds == {"Float8Linear"}
    assert type(model.lm_head) is torch.nn.Linear
