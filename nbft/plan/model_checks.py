"""Checks of the model, its quantisation and its adapter. Called by `checks.check`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nbft import registry
from nbft.config import Config
from nbft.config.io import is_there
from nbft.decisions import Decisions, adapter_dtype
from nbft.errors import ModelError, Problem
from nbft.methods import method_of
from nbft.models.adapters import ADAPTER_WEIGHTS, FoundAdapter, adapter_of, base_name
from nbft.models.context import context_tokens
from nbft.models.find import find_local
from nbft.models.peft_types import PeftType, peft_type_of, peft_types
from nbft.models.targets import ends, layer_problems, layer_remarks
from nbft.models.templates import chosen_template
from nbft.plan.memory import file_layers, shape_for, tensor_shapes
from nbft.plan.problems import error, is_installed, warning, with_values
from nbft.plan.rates import with_its_rate
from nbft.plan.tokenizer import tokenizer_problems

QUANTISING = ("cpu", "cuda", "xpu")
"""Devices that bitsandbytes runs on."""


def model_problems(
    config: Config, decisions: Decisions, folder: Path | None = None
) -> Iterator[Problem]:
    """Yield what is wrong with the sections model, quantization and peft.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
        folder: Folder of the config file, for relative paths.
    """
    checks = (
        *(_adapter, _quantization, _lora, _encoder_decoder, _layers, _model, _context),
        tokenizer_problems,
    )
    for check in checks:
        yield from with_values(check(config), config)
    try:
        chosen_template(config.model, folder)
    except ModelError as found:
        yield from (problem for problem in found.problems if isinstance(problem, Problem))
    yield from with_values(_hardware(config, decisions), config)


def adapter_remarks(config: Config, decisions: Decisions) -> list[str]:
    """Return the number type of an adapter where the trainer could choose another."""
    if not (config.quantization.bits and config.peft.trains_adapter):
        return []
    kind = adapter_dtype(config, decisions.dtype.value)
    return [f"The adapter on the quantised weights is trained in {kind}."]


def model_remarks(config: Config) -> list[str]:
    """Return what to know about settings whose value is decided automatically."""
    remarks: list[str] = []
    if (kind := peft_type_of(config)) is not None and adapter_of(config) is None:
        remarks += kind.remarks(config)
    if (adapter := adapter_of(config)) is not None:
        remarks.append(
            f"The run continues training the adapter {adapter.path.name}; its own settings apply "
            "instead of those in the peft section."
        )
    if (layers := file_layers(config)) is not None:
        remarks += layer_remarks(config, layers)
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
        if asked and (why := _no_adapter(asked)):
            is_model = find_local(asked) is not None
            fix = "Name it in model.model_name." if is_model else "Name the folder of an adapter."
            yield error("model.adapter_name_or_path", why, fix, use=None)
        return
    if config.peft.method != adapter.method:
        is_known = adapter.method in peft_types()
        yield error(
            "peft.method",
            f"cannot continue the adapter in {adapter.field}, which was trained with "
            f"{adapter.method or 'an unknown method'}.",
            f"Use {adapter.method}." if is_known else "Leave the adapter out.",
            with_its_rate(config, {"peft.method": adapter.method})
            if is_known
            else {"model.adapter_name_or_path": None},
        )
    elif adapter.about.get("task_type") == "SEQ_CLS" and not method_of(config).scores_answers:
        why = "is a reward model's adapter, which scores answers and writes none."
        yield error(adapter.field, why, "Use training.method=reward, or another adapter.")
    elif not any((adapter.path / name).is_file() for name in ADAPTER_WEIGHTS):
        why = f"holds no weights: there is no {ADAPTER_WEIGHTS[0]}."
        yield error(adapter.field, why, "Name the folder of a whole adapter.")
    elif why := _misfit(config, adapter):
        made_for = f"It was made for {adapter.base}." if adapter.base else "Name another adapter."
        yield error(adapter.field, why, made_for)


def _no_adapter(asked: str) -> str:
    """Return why a name is that of no adapter; "" where only the hub knows."""
    folder = Path(asked).expanduser()
    if (folder / "adapter_config.json").is_file():
        return "has an adapter_config.json that is no JSON object."
    if find_local(asked) is not None:
        return "contains a model, not an adapter: there is no adapter_config.json."
    if is_there(folder):
        return "holds no adapter_config.json."
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", asked):
        return "is neither a folder with an adapter nor a name on the hub (owner/name)."
    return ""


_LORA_WEIGHTS = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def _misfit(config: Config, adapter: FoundAdapter) -> str:
    """Return why the matrices of a LoRA do not fit those of the model; "" if they do."""
    found = find_local(base_name(config), config.model.model_revision)
    shape = shape_for(config, found.path if found else None)
    shape = shape if config.model.model_type == "hf" else None
    if (
        shape is None or shape.is_assumed or shape.mixture
    ):  # the experts of a mixture have other names in an adapter
        return ""
    sizes = {name: size for name, *size in (*shape.layers, *shape.tables)}
    for name, of_adapter in tensor_shapes(adapter.path).items():
        if (parts := _LORA_WEIGHTS.fullmatch(name)) is None or len(of_adapter) != 2:
            continue
        layer, side = parts.groups()
        known = next((size for other, size in sizes.items() if ends(layer, other)), None)
        if known is None:
            return f"does not fit the model: it has an adapter for {layer}, which the model lacks."
        (there, mine), what = {
            "A": ((known[1], of_adapter[1]), "inputs"),
            "B": ((known[0], of_adapter[0]), "outputs"),
        }[side]
        if there != mine:
            return (
                f"does not fit the model: {layer} has {there:,} {what} there and {mine:,} in the "
                "adapter."
            )
    return ""


def _context(config: Config) -> Iterator[Problem]:
    found = find_local(base_name(config), config.model.model_revision)
    tokens = context_tokens(found.path) if found else None
    if tokens is not None and config.data.max_length > tokens:
        why = f"is more than the {tokens:,} tokens that this model reads at once."
        yield warning("data.max_length", why, use=tokens)


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
        changes = with_its_rate(config, {"peft.method": "lora"})
        yield error(path, why, "Use lora, with the learning rate that suits it.", changes)
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
    """Check the kind of adapter, what it has no use for, and LoRA+."""
    peft, optimizer = config.peft, config.optimizer
    kind = peft_type_of(config)
    if kind is not None and adapter_of(config) is None:
        yield from kind.problems(config)
        yield from _unused(config, kind)
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


def _unused(config: Config, kind: PeftType) -> Iterator[Problem]:
    """Warn of settings that another kind of adapter would use."""
    peft = config.peft
    usual = type(peft)()
    for name in type(peft).model_fields:
        if name in {"method", "task_type", "loraplus_lr_ratio", *kind.settings}:
            continue
        if (default := getattr(usual, name)) == getattr(peft, name):
            continue
        if name == "use_dora":
            yield error("peft.use_dora", f"is a variant of LoRA, not of {kind.title}.", use=False)
        elif name not in _CHECKED_BY_KIND:
            why = f"has no effect: {kind.title} does not use it."
            yield warning(f"peft.{name}", why, use=default)


_CHECKED_BY_KIND = {"modules_to_save", "layers_to_transform"}
"""Settings that a kind of adapter without them refuses."""


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


def _layers(config: Config) -> Iterator[Problem]:
    """Check the names of layers, where the files of the model tell which there are."""
    if (layers := file_layers(config)) is not None:
        yield from layer_problems(config, layers)


def _model(config: Config) -> Iterator[Problem]:
    """Check the choice of a chat template, dropout, cache and parameters of the model."""
    model = config.model
    if model.unfrozen_parameters and config.peft.trains_adapter:
        yield error(
            "model.unfrozen_parameters",
            f"is for training the model itself, and peft.method is {config.peft.method}.",
            "Use full with the learning rate that suits it, or leave it out.",
            with_its_rate(config, {"peft.method": "full"}),
        )
    if model.chat_template and model.chat_template_path:
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
    if needs_bitsandbytes and device not in QUANTISING:
        yield error(
            "compute.device",
            "does not support quantised layers; bitsandbytes runs on cpu, cuda and xpu.",
            "Use cpu, or do not quantise the model.",
            use="cpu",
            value=device,
        )
