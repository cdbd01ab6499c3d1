"""Checks of the model, its quantisation and its adapter. Called by `checks.check`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nbft import registry
from nbft.config import Config
from nbft.decisions import Decisions
from nbft.errors import Problem
from nbft.models.adapters import adapter_of, base_name
from nbft.models.find import find_local
from nbft.models.freezing import frozen_pattern
from nbft.models.templates import template_problem
from nbft.plan.memory import model_shape
from nbft.plan.problems import error, is_installed, warning, with_values


def model_problems(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Yield what is wrong with the sections model, quantization and peft.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
    """
    checks = (_adapter, _quantization, _lora, _encoder_decoder, _frozen_layers, _model)
    for check in checks:
        yield from with_values(check(config), config)
    yield from with_values(_hardware(config, decisions), config)


def model_remarks(config: Config) -> list[str]:
    """Return what to know about settings whose value is decided automatically."""
    remarks = []
    peft = config.peft
    if peft.method == "lora" and peft.lora_alpha == -1:
        rule = "4, because use_rslora is on" if peft.use_rslora else f"twice the rank: {peft.alpha}"
        remarks.append(f"peft.lora_alpha=-1 means {rule}.")
    if (adapter := adapter_of(config)) is not None:
        remarks.append(
            f"The run continues training the adapter {adapter.path.name}; its own settings apply "
            "instead of those in the peft section."
        )
    if config.quantization.weight_quantize_algo == "fp8_linear":
        remarks.append(
            "quantization.weight_quantize_algo=fp8_linear rounds to float8 before each product; "
            "without a GPU of compute capability 8.9 the products are no faster."
        )
    return remarks


def _adapter(config: Config) -> Iterator[Problem]:
    """Check the adapter that a run continues with."""
    asked, adapter = config.model.adapter_name_or_path, adapter_of(config)
    if adapter is None:
        if asked and find_local(asked) is not None:
            yield error(
                "model.adapter_name_or_path",
                "contains a model, not an adapter: there is no adapter_config.json.",
                "Name it in model.model_name.",
                use=None,
            )
    elif config.peft.method != adapter.method:
        is_known = adapter.method in ("lora", "ia3")
        yield error(
            "peft.method",
            f"cannot continue the adapter in {adapter.field}, which was trained with "
            f"{adapter.method or 'an unknown method'}.",
            f"Use {adapter.method}." if is_known else "Leave the adapter out.",
            {"peft.method": adapter.method} if is_known else {"model.adapter_name_or_path": None},
        )


def _quantization(config: Config) -> Iterator[Problem]:
    """Check that the weights are quantised in one way, and under an adapter."""
    ours = config.quantization
    ways = [name for name in ("load_in_4bit", "load_in_8bit") if getattr(ours, name)]
    algorithm, keep_one = ours.weight_quantize_algo, "Keep one of them."
    if len(ways) == 2:
        why = "conflicts with quantization.load_in_4bit: a weight has either 4 or 8 bits."
        yield error("quantization.load_in_8bit", why, keep_one, use=False)
    if ways and algorithm:
        why = f"conflicts with quantization.{ways[0]}, which quantises the same layers."
        yield error("quantization.weight_quantize_algo", why, keep_one, use=None)
    if ours.bits is None:
        return
    path = f"quantization.{ways[0] if ways else 'weight_quantize_algo'}"
    if config.peft.method == "full":
        why = "freezes the weights, but peft.method=full would train them."
        yield error(path, why, "Use lora.", {"peft.method": "lora"})
    if not config.model.load_pretrained_weights:
        yield error(
            path,
            "would freeze the random weights of model.load_pretrained_weights=false.",
            "Start from the pretrained weights.",
            {"model.load_pretrained_weights": True},
        )
    if algorithm != "fp8_linear" and not is_installed("bitsandbytes"):
        yield error(
            path,
            "needs the package bitsandbytes, which is not installed.",
            "pip install bitsandbytes, or leave it out.",
            use=False if ways else None,
        )


def _lora(config: Config) -> Iterator[Problem]:
    """Check the kind of adapter, its initial weights and LoRA+."""
    peft, optimizer = config.peft, config.optimizer
    start = peft.init_lora_weights
    if peft.method == "lora":
        if start.startswith(("pissa", "olora")) and config.quantization.bits:
            yield error(
                "peft.init_lora_weights",
                "changes the weights of the base model, but they are quantised.",
                "Use default, or do not quantise the model.",
                use="default",
            )
        if start == "orthogonal" and peft.r % 2:
            why = "is odd, but init_lora_weights=orthogonal needs an even rank."
            yield error("peft.r", why, use=peft.r + 1)
    if peft.use_dora and peft.method == "ia3":
        yield error("peft.use_dora", "is a variant of LoRA, not of IA3.", use=False)
    if peft.loraplus_lr_ratio == 1:
        return
    if peft.method != "lora":
        why = f"is for LoRA's second matrix, and peft.method is {peft.method}."
        yield error("peft.loraplus_lr_ratio", why, use=1.0)
    is_own = optimizer.optim == "adam" or registry.optimizers.is_own(optimizer.optim)
    if is_own or optimizer.moment_dtype != "float32":
        yield error(
            "peft.loraplus_lr_ratio",
            f"works with transformers' own optimisers only, not with optimizer.optim="
            f"{optimizer.optim} and moment_dtype={optimizer.moment_dtype}.",
            "Use adamw_torch_fused with float32, or 1 here.",
            use=1.0,
        )


def _encoder_decoder(config: Config) -> Iterator[Problem]:
    """Check that all settings agree on whether the model is an encoder-decoder model."""
    model, is_adapter = config.model, config.peft.trains_adapter
    if model.model_type != "hf":
        return
    if model.auto_class_name != "AutoModelForSeq2SeqLM":
        if is_adapter and config.peft.task_type == "SEQ_2_SEQ_LM":
            yield error(
                "peft.task_type",
                "is for encoder-decoder models, but model.auto_class_name is "
                f"{model.auto_class_name}.",
                "Use CAUSAL_LM, or model.auto_class_name=AutoModelForSeq2SeqLM.",
                use="CAUSAL_LM",
            )
        return
    if is_adapter and config.peft.task_type == "CAUSAL_LM":
        why = "is for models that continue a text, but AutoModelForSeq2SeqLM loads none."
        yield error("peft.task_type", why, use="SEQ_2_SEQ_LM")
    for name in ("use_sparse_head_and_loss_fn", "use_fused_head_and_loss_fn"):
        if getattr(config.memory, name):
            why = "shifts the labels, which an encoder-decoder model does not."
            yield error(f"memory.{name}", why, use=False)
    if not config.data.completion_only_loss:
        why = "leaves no prompt for the encoder to read."
        yield error("data.completion_only_loss", why, use=True)
    for name in ("packing", "padding_free"):
        if getattr(config.data, name):
            why = "joins rows, which an encoder-decoder model cannot keep apart."
            yield error(f"data.{name}", why, use=False)


def _frozen_layers(config: Config) -> Iterator[Problem]:
    """Check that each name of a layer to freeze matches some."""
    names = config.model.freeze_layers
    model = find_local(base_name(config), config.model.model_revision) if names else None
    if model is None or (shape := model_shape(model.path)) is None:
        return
    modules = [name for name, _ in shape.modules] + (["lm_head"] if shape.is_tied else [])
    for name in names:
        if not any(map(re.compile(frozen_pattern([name])).fullmatch, modules)):
            known = sorted({m.rsplit(".", 1)[-1] for m in modules})
            yield error(
                "model.freeze_layers",
                "matches no layer of the model.",
                f"Layer names end in {', '.join(known)}; layers.0 is the whole first layer.",
                use=[other for other in names if other != name],
                value=name,
            )


def _model(config: Config) -> Iterator[Problem]:
    """Check the chat template, dropout and cache of the model."""
    model = config.model
    if model.chat_template:
        if problem := template_problem(model.chat_template):
            yield problem
        if model.chat_template_path:
            why = "conflicts with model.chat_template: there can be only one template."
            yield error("model.chat_template_path", why, "Keep one of them.", use=None)
    if model.dropout_warmup_steps is not None and not (
        model.attention_dropout or model.hidden_dropout
    ):
        why = "has no effect: neither model.attention_dropout nor model.hidden_dropout is set."
        yield warning("model.dropout_warmup_steps", why, use=None)
    if model.use_cache and config.memory.gradient_checkpointing:
        why = "is turned off during training by memory.gradient_checkpointing."
        yield warning("model.use_cache", why, use=False)


def _hardware(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Check what needs a GPU, or a package for one."""
    model, quantization, device = config.model, config.quantization, decisions.device.value
    for name, asked, package, instead in (
        ("attn_implementation", "flash_attention_2", "flash_attn", "sdpa"),
        ("use_liger_kernel", True, "liger_kernel", False),
    ):
        if getattr(model, name) != asked:
            continue
        if device not in ("cuda", "xpu"):
            why = f"runs only on a GPU, and the run uses {device}."
            yield error(f"model.{name}", why, use=instead)
        elif not is_installed(package):
            why = f"needs the package {package.replace('_', '-')}, which is not installed."
            yield error(f"model.{name}", why, use=instead)
    if model.dtype == "float64" and device == "mps":
        yield error("model.dtype", "is not available on mps.", use="auto")
    needs_bitsandbytes = quantization.bits and quantization.weight_quantize_algo != "fp8_linear"
    if needs_bitsandbytes and device not in ("cpu", "cuda", "xpu"):
        yield error(
            "compute.device",
            "does not support quantised layers; bitsandbytes runs on cpu, cuda and xpu.",
            "Use cpu, or do not quantise the model.",
            use="cpu",
            value=device,
        )
