"""Quantised layers stay trainable."""

import bitsandbytes
import pytest
import torch

from nbft.config import Config
from nbft.models.quantize import quantize


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_gradients_pass_through_4_bit_layers_after_an_evaluation(kind, monkeypatch):
    """Whatever the CPU: on one with AVX512-BF16 the first evaluation would end it."""
    layer = bitsandbytes.nn.Linear4bit(64, 128, bias=False, compute_dtype=kind, quant_type="nf4")
    layer = layer.to("cpu")
    quantize(torch.nn.ModuleList([layer]), Config(quantization={"load_in_4bit": True}))
    x = torch.randn(16, 64, dtype=kind, requires_grad=True)

    def gradient():
        x.grad = None
        layer.train()(x).square().sum().backward()
        return x.grad.clone()

    before = gradient()
    with torch.no_grad():
        layer.eval()(x.detach())
    assert torch.equal(gradient(), before)
    assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)


def test_a_model_that_only_answers_may_use_the_faster_kernel():
    config = Config(quantization={"load_in_4bit": True})
    layers = [bitsandbytes.nn.Linear4bit(64, 64).to("cpu") for _ in range(2)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    quantize(torch.nn.ModuleList(layers[:1]), config, for_answers=True)
    quantize(torch.nn.ModuleList(layers[1:]), config)
    assert [layer.support_avx512bf16_for_cpu for layer in layers] == [True, False]
