"""What each operator computes in, and what O2 makes of weights and gradients."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from nbft.config import Config
from nbft.config.precision import OPERATORS
from nbft.errors import ConfigError
from nbft.hardware import Choice
from nbft.training.optim import OffloadedOptimizer
from nbft.training.precision import OperatorLists, OwnPrecision, low_weights, train_in_float32

A, B = torch.randn(4, 4), torch.randn(4, 4)


def dtypes(white=(), black=()):
    with torch.autocast("cpu", torch.bfloat16), OperatorLists(white, black, torch.bfloat16):
        return {
            "matmul": (A @ B).dtype,
            "linear": functional.linear(A, B).dtype,
            "softmax": functional.softmax(A, -1).dtype,
            "sum": A.sum().dtype,
            "div": (A / B).dtype,
        }


def test_the_lists_decide_over_autocast():
    usual = dtypes()
    assert usual["matmul"] == usual["linear"] == torch.bfloat16
    assert usual["softmax"] == usual["div"] == torch.float32
    black = dtypes(black=["matmul"])
    assert black["matmul"] == torch.float32
    assert black["linear"] == torch.bfloat16
    white = dtypes(white=["softmax", "elementwise_div", "reduce_sum"])
    assert white["softmax"] == white["div"] == white["sum"] == torch.bfloat16
    both = dtypes(white=["matmul"], black=["matmul"])
    assert both["matmul"] == torch.float32


def test_a_black_operator_computes_in_float32():
    x = torch.full((1, 257), 1.0, dtype=torch.bfloat16)
    with OperatorLists([], ["reduce_sum"], torch.bfloat16):
        exact = x.sum() + 0
    assert exact.dtype == torch.float32
    assert exact == 257  # bfloat16 has no 257


def test_gradients_pass_the_casts():
    x = A.clone().requires_grad_()
    with OperatorLists(["softmax"], [], torch.bfloat16):
        functional.softmax(x, -1)[:, 0].sum().backward()
    y = A.clone().requires_grad_()
    functional.softmax(y, -1)[:, 0].sum().backward()
    assert x.grad.dtype == torch.float32
    assert torch.allclose(x.grad, y.grad, atol=0.02)


@pytest.mark.parametrize("name", sorted(set(OPERATORS.values())))
def test_every_operator_is_torchs(name):
    places = (torch, torch.Tensor, functional)
    assert any(hasattr(place, name) for place in places)


def test_names_as_erniekit_writes_them():
    config = Config(precision={"amp_custom_white_list": "lookup_table flash_attn matmul"})
    assert config.precision.amp_custom_white_list == ["lookup_table", "flash_attn", "matmul"]


def test_an_unknown_operator():
    with pytest.raises(ConfigError, match=r"matmull is not a supported operator.* Use matmul\."):
        Config(precision={"amp_custom_black_list": ["matmull"]})


def two_passes(*, master_grad):
    """Add 1 and then 1/256 to a gradient, which bfloat16 cannot hold together."""
    layer = torch.nn.Linear(1, 1, bias=False)
    low_weights(layer, "bf16", master_grad=master_grad)
    for value in (1.0, 2**-9):
        layer(torch.full((1, 1), value, dtype=torch.bfloat16)).sum().backward()
    return layer.weight


def test_gradients_add_up_in_float32_when_asked():
    kept, lost = two_passes(master_grad=True), two_passes(master_grad=False)
    assert kept.dtype == lost.dtype == torch.bfloat16
    assert kept.grad.dtype == torch.float32
    assert kept.grad.item() == 1 + 2**-9
    assert lost.grad.item() == 1.0


@pytest.mark.parametrize("master_grad", [False, True])
def test_a_loss_scale_is_removed_from_float32_gradients_alone(master_grad):
    """So the plan refuses the other case."""
    layer = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1.0)
    low_weights(layer, "fp16", master_grad=master_grad)
    optimizer = OffloadedOptimizer(
        [{"params": [layer.weight]}],
        lambda groups: torch.optim.SGD(groups, lr=1e-4),
        dtype=torch.float32,
        device=None,
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024)
    scaler.scale(layer(torch.ones(1, 2, dtype=torch.float16)).sum()).backward()
    if not master_grad:
        with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
            scaler.unscale_(optimizer)
        return
    scaler.step(optimizer)
    (master,) = optimizer.state_dict()["masters"]
    assert torch.equal(master, torch.full((1, 2), 1.0) - 1e-4)
    assert layer.weight.dtype == torch.float16


def test_the_first_loss_scale_reaches_the_scaler():
    class Base:
        def _build_accelerator_args(self, **kwargs):
            return {"kwargs_handlers": ["ddp"], **kwargs}

    class Ours(OwnPrecision, Base):
        nbft_config = Config(precision={"loss_scale": 1024})
        nbft_decisions = SimpleNamespace(mixed_precision=Choice("fp16", "as asked"))

    ddp, scaler = Ours()._build_accelerator_args()["kwargs_handlers"]
    assert ddp == "ddp"
    made = torch.amp.GradScaler("cpu", **scaler.to_kwargs())
    assert made.scale(torch.tensor(2.0)).item() == 2048


def test_what_is_written_in_place_or_to_a_place_arrives():
    """A cast makes a copy, and what is written into a copy is lost."""
    x, out = torch.ones(2, 2), torch.zeros(2, 2)
    with OperatorLists([], ["mul", "matmul", "add"], torch.bfloat16):
        low = x.to(torch.bfloat16)
        low.mul_(3)
        low += 1
        torch.matmul(x, x, out=out)
    assert low.tolist() == [[4.0, 4.0]] * 2
    assert out.tolist() == [[2.0, 2.0]] * 2


def test_what_is_trained_of_float16_weights_is_float32():
    layer = torch.nn.Linear(2, 2, dtype=torch.float16)
    layer.weight.requires_grad_(False)
    train_in_float32(layer)
    assert (layer.weight.dtype, layer.bias.dtype) == (torch.float16, torch.float32)
