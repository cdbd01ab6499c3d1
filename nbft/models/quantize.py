"""The base model's weights in fewer bits, by bitsandbytes or as float8.

Blocks of 64 weights share a scale in 4 bits, each row has one in 8. An adapter is trained on top of
the frozen layers (QLoRA, arXiv:2305.14314). Called by `nbft.models.load`.
"""

from __future__ import annotations

import logging
from typing import Any

from nbft.config import Config


def bitsandbytes_arguments(config: Config, dtype: str) -> dict[str, Any]:
    """Return the arguments of BitsAndBytesConfig; {} if transformers does not quantise."""
    settings = config.quantization
    if settings.load_in_4bit:
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": settings.bnb_4bit_quant_type,
            "bnb_4bit_use_double_quant": settings.bnb_4bit_use_double_quant,
            "bnb_4bit_quant_storage": settings.bnb_4bit_quant_storage,
            "bnb_4bit_compute_dtype": settings.bnb_4bit_compute_dtype or dtype,
        }
    if settings.load_in_8bit or settings.weight_quantize_algo == "weight_only_int8":
        return {"load_in_8bit": True}
    return {}


def quantize(model: Any, config: Config, *, for_answers: bool = False) -> None:
    """Quantise a loaded model if transformers has not done it on loading.

    Args:
        model: The model, changed in place.
        config: Its quantization section says how.
        for_answers: Whether it will only answer, and never be trained.
    """
    # It reports at every layer and step that float32 is cast, which fills the log.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if config.quantization.weight_quantize_algo == "fp8_linear":
        from nbft.models.float8 import use_float8

        use_float8(
            model,
            apply_hadamard=config.precision.apply_hadamard,
            online_steps=config.precision.apply_online_actscale_step,
        )
    elif config.quantization.weight_quantize_algo == "weight_only_mix":
        _mix(model, config)
    if not for_answers:
        _keep_trainable(model)


def _keep_trainable(model: Any) -> None:
    """Let gradients pass through 4-bit layers after an evaluation, too.

    On a CPU with AVX512-BF16 bitsandbytes rearranges the weights at the first forward pass in
    evaluation mode, for a kernel that has no backward pass: every layer below would train without
    the gradient through them.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _mix(model: Any, config: Config) -> None:
    """Quantise experts to 4 bits and other linear layers except the head to 8."""
    import torch
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    from nbft.models.reward_head import head_of

    settings = config.quantization
    four: dict[str, Any] = {
        "compress_statistics": settings.bnb_4bit_use_double_quant,
        "quant_type": settings.bnb_4bit_quant_type,
    }
    head = head_of(model)
    for path, parent in list(model.named_modules()):
        if is_expert(path):
            for name, weights in list(parent.named_parameters(recurse=False)):
                if weights.dim() == 3:  # [experts, d_out, d_in], as transformers 5 keeps them
                    replace_parameter_4bit(parent, name, **four)
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and child is not head:
                bits = 4 if is_expert(f"{path}.{name}") else 8
                setattr(parent, name, _in_bits(child, bits, four))
    model.is_loaded_in_4bit = model.is_loaded_in_8bit = True  # PEFT asks for it


def _in_bits(linear: Any, bits: int, four: dict[str, Any]) -> Any:
    """Return a bitsandbytes layer with the weights of a linear layer."""
    import bitsandbytes.nn.modules as bnb

    shape = (linear.in_features, linear.out_features, linear.bias is not None)
    weights, dtype = linear.weight.data, linear.weight.dtype
    new: Any
    if bits == 4:
        new = bnb.Linear4bit(*shape, compute_dtype=dtype, **four)
        new.weight = bnb.Params4bit(weights, requires_grad=False, **four)
    else:
        new = bnb.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
        new.weight = bnb.Int8Params(weights, requires_grad=False, has_fp16_weights=False)
    new.bias = linear.bias
    return new.to(weights.device)


def is_expert(name: str) -> bool:
    """Whether a layer is one of a mixture's experts.

    >>> is_expert("model.layers.0.mlp.experts"), is_expert("model.layers.0.mlp.gate")
    (True, False)
    """
    return "experts" in name.split(".")
