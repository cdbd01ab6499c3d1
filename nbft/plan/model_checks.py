"""Checks of the model, its numbers and its adapter. Each is one function; called by `checks.check`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.decisions import Decisions
from nbft.errors import Problem
from nbft.models.adapters import adapter_of, base_name
from nbft.models.find import find_local
from nbft.models.freezing import frozen_pattern
from nbft.models.templates import template_problem
from nbft.plan.memory import Shape, model_shape


def model_problems(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Yield what is wrong with the sections model, quantization and peft.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
    """
    checks = (_adapter, _quantization, _starts, _seq2seq, _layers, _templates, _loraplus)
    for one in checks:
        yield from one(config)
    yield from _hardware(config, decisions)


def model_remarks(config: Config) -> list[str]:
    """Return what a person should know about settings that decide for themselves."""
    said = []
    peft = config.peft
    if peft.method == "lora" and peft.lora_alpha == -1:
        rule = "4, as use_rslora is on" if peft.use_rslora else f"twice the rank: {peft.alpha}"
        said.append(f"peft.lora_alpha=-1 means {rule}.")
    if (found := adapter_of(config)) is not None:
        said.append(
            f"The run goes on with the adapter {found.path.name}; its own settings count, not those "
            "of the peft section."
        )
    if config.quantization.weight_quantize_algo == "fp8_linear":
        said.append(
            "quantization.weight_quantize_algo=fp8_linear rounds to float8 before each product; "
            "without a GPU of compute capability 8.9 the products are no faster."
        )
    return said


def _shape(config: Config) -> Shape | None:
    found = find_local(base_name(config), config.model.model_revision)
    return model_shape(found.path) if found else None


def _off(path: str, value: Any, why: str, fix: str, instead: Any = None) -> Problem:
    """Return a problem that setting something else mends."""
    return Problem(path, value, why, fix, {path: instead})


def _adapter(config: Config) -> Iterator[Problem]:
    """Check the adapter that a run goes on with."""
    asked = config.model.adapter_name_or_path
    found = adapter_of(config)
    if asked and found is None and find_local(asked) is not None:
        yield _off(
            "model.adapter_name_or_path",
            asked,
            "holds a model, not an adapter: there is no adapter_config.json.",
            "Name it in model.model_name.",
        )
    if found is None:
        return
    if config.peft.method != found.method:
        known = found.method in ("lora", "ia3")
        yield Problem(
            "peft.method",
            config.peft.method,
            f"does not go on with the adapter in {found.field}, which was made by "
            f"{found.method or 'an unknown method'}.",
            f"Use {found.method}." if known else "Leave the adapter out.",
            {"peft.method": found.method} if known else {"model.adapter_name_or_path": None},
        )


def _quantization(config: Config) -> Iterator[Problem]:
    """Check that the weights are quantised in one way, and under an adapter."""
    settings = config.quantization
    ways = [name for name in ("load_in_4bit", "load_in_8bit") if getattr(settings, name)]
    algorithm = settings.weight_quantize_algo
    if len(ways) == 2:
        yield _off(
            "quantization.load_in_8bit",
            True,
            "goes against quantization.load_in_4bit: a weight has 4 bits or 8.",
            "Keep one of them.",
            instead=False,
        )
    if ways and algorithm:
        yield _off(
            "quantization.weight_quantize_algo",
            algorithm,
            f"goes against quantization.{ways[0]}, which quantises the same layers.",
            "Keep one of them.",
        )
    if settings.bits is None:
        return
    path = f"quantization.{ways[0] if ways else 'weight_quantize_algo'}"
    value = True if ways else algorithm
    if config.peft.method == "full":
        yield Problem(
            path,
            value,
            "freezes the weights, and peft.method=full would train them.",
            "Use lora.",
            {"peft.method": "lora"},
        )
    if not config.model.load_pretrained_weights:
        yield Problem(
            path,
            value,
            "would freeze the random weights of model.load_pretrained_weights=false.",
            "Start from the trained weights.",
            {"model.load_pretrained_weights": True},
        )
    if algorithm != "fp8_linear" and importlib.util.find_spec("bitsandbytes") is None:
        yield _off(
            path,
            value,
            "needs the package bitsandbytes, which is not installed.",
            "pip install bitsandbytes, or leave it out.",
            False if ways else None,
        )


_DECOMPOSED = ("pissa", "pissa_niter_4", "pissa_niter_16", "olora")


def _starts(config: Config) -> Iterator[Problem]:
    """Check that the adapter can start as asked."""
    start = config.peft.init_lora_weights
    if config.peft.method != "lora" or start == "default":
        return
    if start in _DECOMPOSED and config.quantization.bits:
        yield _off(
            "peft.init_lora_weights",
            start,
            "changes the weights of the base model, and they are quantised.",
            "Use default, or leave the weights whole.",
            "default",
        )
    if start == "orthogonal" and config.peft.r % 2:
        yield Problem(
            "peft.r",
            config.peft.r,
            "is odd, and init_lora_weights=orthogonal wants an even rank.",
            f"Use {config.peft.r + 1}.",
            {"peft.r": config.peft.r + 1},
        )


def _seq2seq(config: Config) -> Iterator[Problem]:
    """Check that an encoder with a decoder is asked for everywhere or nowhere."""
    loads = config.model.auto_class_name == "AutoModelForSeq2SeqLM"
    if config.model.model_type != "hf":
        return
    if config.peft.trains_adapter and config.peft.task_type == "SEQ_2_SEQ_LM" and not loads:
        yield _off(
            "peft.task_type",
            "SEQ_2_SEQ_LM",
            "is for a model with an encoder and a decoder, and model.auto_class_name="
            f"{config.model.auto_class_name} loads another.",
            "Use CAUSAL_LM, or model.auto_class_name=AutoModelForSeq2SeqLM.",
            "CAUSAL_LM",
        )
    if not loads:
        return
    if config.peft.trains_adapter and config.peft.task_type == "CAUSAL_LM":
        yield _off(
            "peft.task_type",
            "CAUSAL_LM",
            "is for a model that goes on with a text, and model.auto_class_name="
            "AutoModelForSeq2SeqLM loads one with an encoder and a decoder.",
            "Use SEQ_2_SEQ_LM.",
            "SEQ_2_SEQ_LM",
        )
    if not config.data.completion_only_loss:
        yield _off(
            "data.completion_only_loss",
            False,
            "leaves no prompt for the encoder to read.",
            "Use true.",
            instead=True,
        )
    for name in ("packing", "padding_free"):
        if getattr(config.data, name):
            yield _off(
                f"data.{name}",
                True,
                "lays rows end to end, which an encoder with a decoder cannot tell apart.",
                "Use false.",
                instead=False,
            )


def _layers(config: Config) -> Iterator[Problem]:
    """Check that names of layers mean some."""
    import re

    names, shape = config.model.freeze_layers, _shape(config)
    if not names or shape is None:
        return
    modules = [name for name, _ in shape.modules] + (["lm_head"] if shape.is_tied else [])
    for name in names:
        pattern = re.compile(frozen_pattern([name]))
        if not any(map(pattern.fullmatch, modules)):
            known = sorted({m.rsplit(".", 1)[-1] for m in modules})
            yield Problem(
                "model.freeze_layers",
                name,
                "matches no layer of the model.",
                f"Layers end in {', '.join(known)}; layers.0 means all in the first.",
                {"model.freeze_layers": [n for n in names if n != name]},
            )


def _templates(config: Config) -> Iterator[Problem]:
    """Check the chat template."""
    given = config.model.chat_template
    if given and (problem := template_problem(given)):
        yield problem
    if given and config.model.chat_template_path:
        yield _off(
            "model.chat_template_path",
            config.model.chat_template_path,
            "goes against model.chat_template: there is one template.",
            "Keep one of them.",
        )


def _loraplus(config: Config) -> Iterator[Problem]:
    """Check settings that need others to have an effect."""
    peft, model = config.peft, config.model
    if peft.loraplus_lr_ratio != 1 and peft.method != "lora":
        yield _off(
            "peft.loraplus_lr_ratio",
            peft.loraplus_lr_ratio,
            f"is for LoRA's second matrix, and peft.method is {peft.method}.",
            "Use 1.",
            1.0,
        )
    optimizer = config.optimizer
    is_own = optimizer.optim == "adam" or registry.optimizers.is_own(optimizer.optim)
    if peft.loraplus_lr_ratio != 1 and (is_own or optimizer.moment_dtype != "float32"):
        yield _off(
            "peft.loraplus_lr_ratio",
            peft.loraplus_lr_ratio,
            f"is built with transformers' own optimisers, and optimizer.optim={optimizer.optim}, "
            f"moment_dtype={optimizer.moment_dtype} is none of them.",
            "Use adamw_torch_fused with float32, or 1 here.",
            1.0,
        )
    if peft.use_dora and peft.method == "ia3":
        yield _off("peft.use_dora", True, "is a form of LoRA, not of ia3.", "Use false.", False)
    dropouts = (model.attention_dropout, model.hidden_dropout)
    if model.dropout_warmup_steps is not None and not any(dropouts):
        yield Problem(
            "model.dropout_warmup_steps",
            model.dropout_warmup_steps,
            "raises no dropout: model.attention_dropout and model.hidden_dropout are not set.",
            "Leave it empty.",
            {"model.dropout_warmup_steps": None},
            level="warning",
        )
    if model.use_cache and config.memory.gradient_checkpointing:
        yield Problem(
            "model.use_cache",
            True,
            "is turned off in training by memory.gradient_checkpointing.",
            "Use false.",
            {"model.use_cache": False},
            level="warning",
        )


def _hardware(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Check what needs a GPU, or a package for one."""
    model, device = config.model, decisions.device.value
    for path, value, package, instead in (
        ("model.attn_implementation", "flash_attention_2", "flash_attn", "sdpa"),
        ("model.use_liger_kernel", True, "liger_kernel", False),
    ):
        if getattr(model, path.partition(".")[2]) != value:
            continue
        word = package.replace("_", "-")
        if device not in ("cuda", "xpu"):
            why = f"runs on a GPU only, and the run is on {device}."
        elif importlib.util.find_spec(package) is None:
            why = f"needs the package {word}, which is not installed."
        else:
            continue
        yield _off(path, value, why, f"Use {str(instead).lower()}.", instead)
    if model.dtype == "float64" and device == "mps":
        yield _off("model.dtype", "float64", "is not there on mps.", "Use auto.", "auto")
    uses_bitsandbytes = config.quantization.bits and (
        config.quantization.weight_quantize_algo != "fp8_linear"
    )
    if uses_bitsandbytes and device not in ("cpu", "cuda", "xpu"):
        yield Problem(
            "compute.device",
            device,
            "has no quantised layers; bitsandbytes runs on cpu, cuda and xpu.",
            "Use cpu, or leave the weights whole.",
            {"compute.device": "cpu"},
        )
