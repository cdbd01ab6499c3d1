"""Oumi's YAML: `oumi.core.configs.TrainingConfig`, and the command that starts it.

Oumi refuses unknown keys. The LoRA and QLoRA examples of its own document hold some (`peft.r`,
`peft.enable_peft`, …); they are taken here as they are meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbft.config import Config
from nbft.errors import ConfigError, Problem
from nbft.interop.importer import Work
from nbft.interop.qefficient import half_precision
from nbft.interop.read import Document, read_document
from nbft.interop.table import (
    UNSET,
    Entry,
    Says,
    System,
    extra,
    no_effect,
    none,
    on_gpu,
    optimizer,
    warmup_ratio,
    words,
)

_SET = "data.<split>.datasets[]"

_BY_NAME = {"text_sft", "text_sft_jsonl", "PromptResponseDataset", "text_completions"}
"""Names that say how rows are read, not which rows."""


def _dataset_name(value: Any, work: Work) -> Says:
    if value in _BY_NAME:
        note = "says how rows are read, not which; nbft sees it by their columns"
        return Says(note=note, kind="converted")
    return Says(value)


def _dtype(value: Any, work: Work) -> Says:
    name = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(str(value), str(value))
    return Says(name)


def _pack(value: Any, work: Work) -> Says:
    if not value:
        return Says(False)
    note = "Oumi packs end to end in chunks of equal length"
    return Says(True, note, "renamed", {"data.packing_strategy": "wrapped"})


_COLLATORS = {
    "text_with_padding": ("dynamic_padding", False),
    "text_completions_only_with_padding": ("dynamic_padding", True),
}


def _collator(value: Any, work: Work) -> Says:
    if value is None:
        return Says(kind="taken", note="not set")
    if value not in _COLLATORS:
        return Says(
            kind="impossible",
            note=f"{value} is for pictures; nbft trains on text" if "vision" in str(value) else "",
        )
    name, completion_only = _COLLATORS[value]
    note = "only the completion is learnt" if completion_only else "all of the text is learnt"
    return Says(name, note, "converted", {"data.completion_only_loss": completion_only})


def _target_col(value: Any, work: Work) -> Says:
    if value in (None, "prompt", "text", "messages"):
        return Says(kind="converted", note="deprecated in Oumi; nbft sees it by the columns")
    return Says([value], "the column with the text; deprecated in Oumi", "converted")


def _workers(value: Any, work: Work) -> Says:
    if value != "auto":
        return Says(int(value))
    note = "auto counts GPUs and CPUs there; without a GPU nbft's own 0 is quicker"
    return Says(0, note, "converted")


def _prefetch(value: Any, work: Work) -> Says:
    if value is None or work.given.get("training.dataloader_num_workers") in (None, 0, "auto"):
        note = "needs workers; PyTorch refuses it without" if value else "not set"
        return Says(None, note, "converted" if value else "taken")
    return Says(value)


def _trainer(value: Any, work: Work) -> Says:
    name = str(value).upper()
    ours = {"TRL_SFT": "sft", "HF": "base", "OUMI": "base"}
    if name in ours:
        note = "the plain transformers Trainer" if name == "OUMI" else ""
        return Says(ours[name], note)
    if name == "TRL_DPO":
        return Says(more={"preference.method": "dpo"}, note="planned")
    return Says(kind="impossible", note=f"{name} is not among nbft's methods; sft is kept")


def _mixed(value: Any, work: Work) -> Says:
    if str(value).lower() == "none":
        return Says("no")
    return half_precision(str(value).lower())


def _switch(name: str) -> Any:
    """Return a conversion of training.bf16 and training.fp16."""

    def convert(value: Any, work: Work) -> Says:
        other = {"bf16": "fp16", "fp16": "bf16"}[name]
        if not value:
            if work.given.get(f"training.{other}"):
                return Says(kind="taken", note=f"{other} is on")
            return Says("no")
        says = half_precision(name)
        note = "; ".join(t for t in ("Oumi has no such key: mixed_precision_dtype", says.note) if t)
        return Says(says.value, note, "converted")

    return convert


def _targets(value: Any, work: Work) -> Says:
    if value is None:
        return Says(["all-linear"], "null lets PEFT choose by model", "converted")
    if isinstance(value, str):
        work.wrong("peft.lora_target_modules", value, "Oumi: is no list.", f"Write [{value!r}].")
        return Says()
    return Says(value)


_INIT = {"default": "default", "random": "random", "true": "default", "false": "random"}


def _init(value: Any, work: Work) -> Says:
    name = str(value).lower()
    return Says(_INIT.get(name, name))


def _quantised(value: Any, work: Work) -> Says:
    if not value:
        return Says(False)
    bits = work.document.tree.get("peft", {})
    bits = bits.get("q_lora_bits", 4) if isinstance(bits, dict) else 4
    name = "load_in_8bit" if bits == 8 else "load_in_4bit"
    return Says(more={f"quantization.{name}": True})


def _use_peft(value: Any, work: Work) -> str:
    return "lora" if value else "full"


def _peft_method(value: Any, work: Work) -> Says:
    ours = {"lora": "lora", "qlora": "lora", "ia3": "ia3", "full": "full", "none": "full"}
    name = ours.get(str(value).lower())
    if name is None:
        return Says(kind="impossible", note="nbft has lora, ia3 and full")
    more = {"quantization.load_in_4bit": True} if value == "qlora" else {}
    return Says(name, "Oumi has no such key; training.use_peft is the switch", "converted", more)


_ALIAS = "Oumi refuses this spelling of its own document; {} is meant"


def _save_epoch(value: Any, work: Work) -> Says:
    return Says(bool(value))


def _tracker(name: str) -> Any:
    def convert(value: Any, work: Work) -> Says:
        if not value:
            return Says(kind="taken", note="off, as here")
        there = list(work.settings.get("tracking.report_to", []))
        return Says([*there, name], kind="converted")

    return convert


def _untracker(name: str) -> Any:
    return lambda value, config: name in value


def _resume(value: Any, work: Work) -> Says:
    return Says("auto") if value else Says(kind="taken", note="off, as here")


def _fsdp(value: Any, work: Work) -> Says:
    if not value:
        return Says(kind="taken", note="off, as here")
    name = str(work.given.get("fsdp.sharding_strategy", "FULL_SHARD")).lower()
    note = "with one process nothing is sharded"
    return Says(name, note, "converted")


def _fsdp_precision(value: Any, work: Work) -> Says:
    if value is None or not work.given.get("fsdp.enable_fsdp"):
        return Says(kind="taken", note="fsdp is off" if value else "not set")
    names = {"bfloat16": "bf16", "float16": "fp16", "float32": "no", "none": "no"}
    name = names.get(str(value).lower(), str(value).lower())
    return half_precision(name) if name != "no" else Says("no")


def _sharding(value: Any, work: Work) -> Says:
    fsdp = work.document.tree.get("fsdp")
    if isinstance(fsdp, dict) and fsdp.get("enable_fsdp"):
        return Says(str(value).lower(), kind="converted")
    return Says(kind="taken", note="fsdp is off")


def _lower(value: Any, work: Work) -> Any:
    return value.lower() if isinstance(value, str) else value


def _upper(value: Any, config: Config) -> Any:
    return value.upper() if isinstance(value, str) else value


def _minutes(value: Any, work: Work) -> Says:
    if value is None:
        return Says(kind="taken", note="not set")
    return Says(round(float(value) * 60), "minutes there, seconds here", "converted")


def _chat_template(value: Any, work: Work) -> Says:
    if value in (None, "auto"):
        return Says(None, "the tokenizer's own", "taken")
    return Says(value)


def _training_type(value: Any, work: Work) -> Says:
    """Read the method that the wizard is asked for; auto is decided by Oumi's guide to sizes."""
    # Only here, as an import that needs no advice looks at no machine.
    from nbft.plan.advice import SETTINGS_OF, choose_method, parameters_of, this_machine

    model = work.given.get("cli.create.model") or Config().model.model_name
    method, note = str(value), ""
    if method == "auto":
        choice = choose_method(method, parameters_of(str(model)), this_machine())
        method, note = choice.value, f"decided here: {choice.reason}"
    more = dict(SETTINGS_OF[method])
    ours = more.pop("peft.method")
    return Says(ours, note, "converted" if more or note else None, more)


def _wizard(setting: str) -> Any:
    return no_effect(f"nbft config create takes it too: {setting}")


TABLE = (
    Entry("model.model_name", "model.model_name"),
    Entry("model.adapter_model", "model.adapter_name_or_path"),
    Entry("model.tokenizer_name", "model.tokenizer_name"),
    Entry("model.tokenizer_pad_token", "model.pad_token"),
    Entry("model.tokenizer_kwargs", "model.tokenizer_kwargs", type=dict),
    Entry("model.model_max_length", "data.max_length", low=1),
    Entry("model.load_pretrained_weights", "model.load_pretrained_weights"),
    Entry("model.trust_remote_code", "model.trust_remote_code"),
    Entry(
        "model.torch_dtype_str",
        "model.dtype",
        _dtype,
        lambda value, _: value,
        type=str,
        choices=(
            *("auto", "float32", "float16", "bfloat16", "float64"),
            *("fp32", "fp16", "bf16"),
        ),
    ),
    Entry("model.device_map", "model.device_map"),
    Entry(
        "model.compile",
        "compute.torch_compile",
        lambda value, _: (
            Says(True, "Oumi refuses it in training and wants training.compile", "deviates")
            if value
            else Says(kind="taken", note="off, as here")
        ),
        lambda value, _: UNSET,
        type=bool,
    ),
    Entry(
        "model.attn_implementation",
        "model.attn_implementation",
        lambda value, work: (
            on_gpu("sdpa gives the same numbers", "sdpa")(value, work)
            if value == "flash_attention_2"
            else Says(value)
        ),
        lambda value, _: value,
        type=str,
        choices=("sdpa", "flash_attention_2", "eager"),
    ),
    Entry(
        "model.enable_liger_kernel",
        "model.use_liger_kernel",
        on_gpu("the numbers are the same without"),
        lambda value, _: value,
        type=bool,
    ),
    Entry("model.chat_template", "model.chat_template", _chat_template, lambda value, _: value),
    Entry("model.freeze_layers", "model.freeze_layers"),
    Entry("model.model_kwargs", "model.model_init_kwargs", type=dict),
    Entry("data.<split>", kind="taken", note="its keys follow"),
    Entry("data.<split>.datasets", kind="taken", note="its sets follow"),
    Entry(f"{_SET}.dataset_name", f"{_SET}.dataset_name", _dataset_name, lambda value, _: value),
    Entry(f"{_SET}.dataset_path", f"{_SET}.path"),
    Entry(f"{_SET}.subset", f"{_SET}.subset"),
    Entry(f"{_SET}.split", f"{_SET}.split"),
    Entry(f"{_SET}.sample_count", f"{_SET}.sample_count", low=0),
    Entry(f"{_SET}.mixture_proportion", f"{_SET}.mixture_proportion", low=0, high=1),
    Entry(f"{_SET}.shuffle", f"{_SET}.shuffle"),
    Entry(f"{_SET}.seed", f"{_SET}.seed"),
    Entry(
        f"{_SET}.shuffle_buffer_size",
        "data.<split>.shuffle_buffer_size",
        type=int,
        low=1,
    ),
    Entry(
        f"{_SET}.trust_remote_code",
        "",
        lambda value, _: (
            Says(kind="impossible", note="datasets 4 runs no code that comes with a dataset")
            if value
            else Says(kind="taken", note="off, as here")
        ),
        type=bool,
        status="refused",
        reason="Since version 4 datasets runs no code that comes with a dataset. Name its Parquet "
        "files, or a copy without code.",
    ),
    Entry(
        f"{_SET}.transform_num_workers",
        "data.dataset_num_proc",
        lambda value, work: (
            Says(kind="taken", note="not set")
            if value in (None, "auto")
            else Says(max(int(value), work.settings.get("data.dataset_num_proc") or 1))
        ),
        lambda value, _: UNSET,
    ),
    Entry(f"{_SET}.dataset_kwargs", f"{_SET}.dataset_kwargs", type=dict),
    Entry("data.<split>.collator_name", "data.collate_fn", _collator, lambda value, _: UNSET),
    Entry(
        "data.<split>.pack",
        "data.packing",
        _pack,
        lambda value, _: value,
        type=bool,
    ),
    Entry("data.<split>.stream", "data.<split>.stream"),
    Entry(
        "data.<split>.mixture_strategy",
        "data.<split>.mixture_strategy",
        choices=("first_exhausted", "all_exhausted"),
    ),
    Entry("data.<split>.seed", "data.<split>.seed"),
    Entry(
        "data.<split>.use_torchdata",
        "",
        lambda value, _: (
            Says(kind="converted", note="experimental in Oumi; the rows are the same without")
            if value
            else Says(kind="taken", note="off, as here")
        ),
        type=bool,
        status="refused",
        reason="Experimental in Oumi and another package; it changes how rows are read, not which "
        "rows or in what order. stream: true reads while training.",
    ),
    Entry(
        "data.<split>.target_col",
        "data.<split>.datasets[0].input_columns",
        _target_col,
        lambda value, _: UNSET,
    ),
    Entry("training.output_dir", "training.output_dir", default="output"),
    Entry("training.run_name", "training.run_name"),
    Entry("training.seed", "training.seed", default=42),
    Entry("training.use_deterministic", "training.full_determinism"),
    Entry("training.num_train_epochs", "training.num_train_epochs", default=3),
    Entry("training.max_steps", "training.max_steps", low=-1),
    Entry(
        "training.per_device_train_batch_size",
        "training.per_device_train_batch_size",
        default=8,
        low=1,
    ),
    Entry(
        "training.per_device_eval_batch_size",
        "evaluation.per_device_eval_batch_size",
        default=8,
        low=1,
    ),
    Entry(
        "training.gradient_accumulation_steps",
        "training.gradient_accumulation_steps",
        default=1,
        low=1,
    ),
    Entry("training.learning_rate", "training.learning_rate", default=5e-5, low=0),
    Entry(
        "training.optimizer",
        "optimizer.optim",
        optimizer,
        lambda value, _: value,
        type=str,
        default="adamw_torch",
        choices=(
            *("adam", "adamw", "adamw_torch", "adamw_torch_fused", "sgd", "adafactor"),
            *("adamw_8bit", "paged_adamw_8bit", "paged_adamw", "paged_adamw_32bit"),
        ),
    ),
    Entry("training.weight_decay", "optimizer.weight_decay", default=0.0, low=0),
    Entry("training.max_grad_norm", "training.max_grad_norm", default=1.0, low=0),
    Entry("training.adam_beta1", "optimizer.adam_beta1", default=0.9, low=0),
    Entry("training.adam_beta2", "optimizer.adam_beta2", default=0.999, low=0),
    Entry("training.adam_epsilon", "optimizer.adam_epsilon", default=1e-8, low=0),
    Entry("training.sgd_momentum", "optimizer.sgd_momentum", low=0),
    Entry(
        "training.lr_scheduler_type",
        "scheduler.lr_scheduler_type",
        default="linear",
        choices=(
            *("linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr", "constant"),
            *("polynomial", "constant_with_warmup", "inverse_sqrt"),
        ),
    ),
    Entry(
        "training.warmup_ratio",
        "scheduler.warmup_steps",
        warmup_ratio,
        lambda value, _: value if 0 < value < 1 else UNSET,
        type=float,
        low=0,
        high=1,
    ),
    Entry(
        "training.warmup_steps",
        "scheduler.warmup_steps",
        lambda value, work: (
            Says(value)
            if value is not None
            else Says(0.0, "null means none there", "converted")
            if not work.given.get("training.warmup_ratio")
            else Says(kind="taken", note="not set")
        ),
        lambda value, _: int(value) if value >= 1 else UNSET,
        type=int,
        low=0,
        default=None,
    ),
    Entry(
        "training.mixed_precision_dtype",
        "precision.mixed_precision",
        _mixed,
        lambda value, _: UNSET if value == "auto" else {"no": "none"}.get(value, value),
        type=str,
        default="none",
        choices=("none", "fp16", "bf16"),
    ),
    Entry("training.compile", "compute.torch_compile"),
    Entry("training.enable_gradient_checkpointing", "memory.gradient_checkpointing"),
    Entry("training.save_steps", "checkpoint.save_steps", default=500, low=0),
    Entry("training.save_epoch", "checkpoint.save_on_epoch_end"),
    Entry("training.save_final_model", "checkpoint.save_final_model"),
    Entry("training.resume_from_checkpoint", "training.resume_from_checkpoint"),
    Entry(
        "training.try_resume_from_last_checkpoint",
        "training.resume_from_checkpoint",
        _resume,
        lambda value, _: value == "auto" or UNSET,
        type=bool,
    ),
    Entry(
        "training.eval_strategy",
        "evaluation.eval_strategy",
        default="no",
        choices=("no", "steps", "epoch"),
    ),
    Entry(
        "training.eval_steps",
        "evaluation.eval_steps",
        back=lambda value, config: value or config.logging.logging_steps,
        default=500,
        low=1,
    ),
    Entry("training.metrics_function", "evaluation.metric_function"),
    Entry(
        "training.log_level",
        "logging.log_level",
        words({"critical": "error", "warn": "warning"}),
        lambda value, _: value,
        type=str,
        choices=("debug", "info", "warning", "error", "critical"),
    ),
    Entry(
        "training.dep_log_level",
        "logging.dep_log_level",
        words({"critical": "error"}),
        lambda value, _: value,
        type=str,
        choices=("debug", "info", "warning", "error", "critical"),
    ),
    Entry("training.enable_wandb", "tracking.report_to", _tracker("wandb"), _untracker("wandb")),
    Entry(
        "training.enable_tensorboard",
        "tracking.report_to",
        _tracker("tensorboard"),
        _untracker("tensorboard"),
    ),
    Entry(
        "training.logging_strategy", "logging.logging_strategy", choices=("steps", "epoch", "no")
    ),
    Entry("training.logging_steps", "logging.logging_steps", default=50, low=1),
    Entry("training.logging_first_step", "logging.logging_first_step"),
    Entry(
        "training.dataloader_num_workers",
        "data.dataloader_num_workers",
        _workers,
        lambda value, _: value,
    ),
    Entry(
        "training.dataloader_prefetch_factor",
        "data.dataloader_prefetch_factor",
        _prefetch,
        lambda value, _: value,
        type=int,
    ),
    Entry("training.dataloader_main_process_only", "distributed.dispatch_batches"),
    Entry("training.ddp_find_unused_parameters", "distributed.ddp_find_unused_parameters"),
    Entry(
        "training.nccl_default_timeout_minutes",
        "distributed.ddp_timeout",
        _minutes,
        lambda value, _: value / 60,
        type=float,
    ),
    Entry("training.include_performance_metrics", "logging.include_performance_metrics"),
    Entry("training.include_alternative_mfu_metrics", "logging.include_mfu"),
    Entry("training.log_model_summary", "logging.log_model_summary"),
    Entry("training.empty_device_cache_steps", "memory.torch_empty_cache_steps", low=1),
    Entry(
        "training.bf16", "precision.mixed_precision", _switch("bf16"), lambda *_: UNSET, type=bool
    ),
    Entry(
        "training.fp16", "precision.mixed_precision", _switch("fp16"), lambda *_: UNSET, type=bool
    ),
    Entry("peft.lora_r", "peft.r", default=8, low=1),
    Entry("peft.lora_alpha", "peft.lora_alpha", default=8, low=1),
    Entry("peft.lora_dropout", "peft.lora_dropout", default=0.0, low=0, high=1),
    Entry(
        "peft.lora_target_modules",
        "peft.target_modules",
        _targets,
        lambda value, _: value,
    ),
    Entry(
        "peft.lora_modules_to_save",
        "peft.modules_to_save",
        words({None: []}),
        lambda value, _: value,
    ),
    Entry("peft.lora_bias", "peft.bias", _lower, lambda value, _: value, type=str),
    Entry("peft.lora_task_type", "peft.task_type"),
    Entry(
        "peft.lora_init_weights",
        "peft.init_lora_weights",
        _init,
        lambda value, _: value.upper() if value in ("default", "random") else value,
        type=str,
    ),
    Entry(
        "peft.q_lora", "quantization.load_in_4bit", _quantised, lambda value, _: value, type=bool
    ),
    Entry(
        "peft.q_lora_bits",
        "",
        lambda value, _: Says(kind="taken", note="counts with q_lora"),
        type=int,
        choices=(4, 8),
    ),
    Entry(
        "peft.bnb_4bit_quant_type",
        "quantization.bnb_4bit_quant_type",
        default="fp4",
        choices=("fp4", "nf4"),
    ),
    Entry("peft.use_bnb_nested_quant", "quantization.bnb_4bit_use_double_quant"),
    Entry("peft.bnb_4bit_quant_storage", "quantization.bnb_4bit_quant_storage"),
    Entry(
        "peft.bnb_4bit_compute_dtype",
        "quantization.bnb_4bit_compute_dtype",
        _dtype,
        lambda value, _: UNSET if value is None else value,
        type=str,
        default="float32",
    ),
    Entry("peft.peft_method", "peft.method", _peft_method, lambda *_: UNSET, type=str),
    Entry(
        "peft.enable_peft",
        "peft.method",
        lambda value, _: Says(
            "lora" if value else "full", _ALIAS.format("training.use_peft"), "converted"
        ),
        lambda *_: UNSET,
        type=bool,
    ),
    Entry(
        "peft.r",
        "peft.r",
        lambda value, _: Says(value, _ALIAS.format("lora_r"), "renamed"),
        lambda *_: UNSET,
        type=int,
        low=1,
    ),
    Entry(
        "peft.target_modules",
        "peft.target_modules",
        lambda value, _: Says(value, _ALIAS.format("lora_target_modules"), "renamed"),
        lambda *_: UNSET,
        type=list,
    ),
    Entry(
        "peft.load_in_4bit",
        "quantization.load_in_4bit",
        lambda value, _: Says(value, _ALIAS.format("q_lora"), "renamed"),
        lambda *_: UNSET,
        type=bool,
    ),
    Entry(
        "peft.bnb_4bit_use_double_quant",
        "quantization.bnb_4bit_use_double_quant",
        lambda value, _: Says(value, _ALIAS.format("use_bnb_nested_quant"), "renamed"),
        lambda *_: UNSET,
        type=bool,
    ),
    Entry(
        "fsdp.enable_fsdp", "distributed.fsdp", _fsdp, lambda value, _: value is not None, type=bool
    ),
    Entry(
        "fsdp.sharding_strategy",
        "distributed.fsdp",
        _sharding,
        lambda value, _: value.upper() if value else UNSET,
        type=str,
        choices=("FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_SHARD", "NO_SHARD", "HYBRID_SHARD_ZERO2"),
    ),
    Entry(
        "fsdp.cpu_offload",
        "distributed.fsdp_cpu_offload",
        status="refused",
        reason="Moving shards to the CPU is FSDP's, which comes with several processes; on one GPU "
        "memory.offload_optimizer moves the optimiser's state.",
    ),
    Entry(
        "fsdp.mixed_precision",
        "precision.mixed_precision",
        _fsdp_precision,
        lambda *_: UNSET,
        type=str,
    ),
    Entry(
        "fsdp.backward_prefetch",
        "distributed.fsdp_backward_prefetch",
        _lower,
        _upper,
        type=str,
        choices=("BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH"),
    ),
    Entry("fsdp.forward_prefetch", "distributed.fsdp_forward_prefetch"),
    Entry("fsdp.use_orig_params", "distributed.fsdp_use_orig_params"),
    Entry(
        "fsdp.state_dict_type",
        "checkpoint.state_dict_type",
        words(
            {"local_state_dict": "SHARDED_STATE_DICT"},
            "PyTorch gave up LOCAL_STATE_DICT",
        ),
        lambda value, _: value,
        type=str,
        choices=("FULL_STATE_DICT", "SHARDED_STATE_DICT", "LOCAL_STATE_DICT"),
    ),
    Entry(
        "fsdp.auto_wrap_policy",
        "distributed.fsdp_auto_wrap_policy",
        choices=("NO_WRAP", "SIZE_BASED_WRAP", "TRANSFORMER_BASED_WRAP"),
    ),
    Entry("fsdp.min_num_params", "distributed.fsdp_min_num_params"),
    Entry("fsdp.transformer_layer_cls", "distributed.fsdp_transformer_layer_cls_to_wrap"),
    Entry("fsdp.sync_module_states", "distributed.fsdp_sync_module_states"),
    Entry(
        "cli.create.model",
        "model.model_name",
        name="cli: oumi config create train --model",
    ),
    Entry(
        "cli.create.training-type",
        "peft.method",
        _training_type,
        lambda *_: UNSET,
        name="cli: oumi config create train --training-type",
        choices=("lora", "auto", "full", "qlora"),
    ),
    Entry(
        "cli.create.output",
        "",
        no_effect("where the wizard writes; here: nbft config create --output FILE"),
        name="cli: oumi config create train --output",
    ),
    Entry(
        "cli.c",
        "",
        no_effect("the file is read, from the script's folder"),
        also=("cli.config",),
        name="cli: oumi train -c",
    ),
    Entry(
        "cli.override",
        "",
        no_effect("read as the key that it overrides"),
        name="cli: oumi train --<section>.<key>",
    ),
    # What its code has and its document does not
    extra("model.model_revision", "model.model_revision"),
    extra(
        "data.<split>.use_async_dataset", "", no_effect("rows are prepared before they are needed")
    ),
    extra("model.processor_kwargs", "", none("is for pictures; nbft trains on text"), type=dict),
    extra("data.<split>.collator_kwargs", "", no_effect("nbft's collator needs none"), type=dict),
    extra(
        "data.<split>.train_target",
        "data.completion_only_loss",
        lambda value, _: Says(
            True,
            "every answer of the assistant is learnt"
            if value == "all_assistant_turns"
            else "every answer is learnt, not only the last",
            "converted" if value == "all_assistant_turns" else "deviates",
        ),
        lambda *_: UNSET,
        type=str,
    ),
    extra(
        "training.use_peft",
        "peft.method",
        _use_peft,
        lambda value, _: value != "full",
        type=bool,
        default=False,
    ),
    extra(
        "training.trainer_type",
        "training.method",
        _trainer,
        lambda value, _: {"sft": "TRL_SFT", "base": "HF"}.get(value, UNSET),
        type=str,
    ),
    extra("training.data_seed", "training.data_seed"),
    extra("training.grpo", "", none("GRPO is not among nbft's methods"), type=dict),
    extra("training.enable_mlflow", "tracking.report_to", _tracker("mlflow"), _untracker("mlflow")),
    extra(
        "training.lr_scheduler_kwargs",
        "scheduler.lr_scheduler_kwargs",
        type=dict,
    ),
    extra(
        "training.gradient_checkpointing_kwargs",
        "memory.gradient_checkpointing_kwargs",
        type=dict,
    ),
    extra("training.trainer_kwargs.neftune_noise_alpha", "training.neftune_noise_alpha"),
    extra(
        "training.trainer_kwargs.group_by_length",
        "data.train_sampling_strategy",
        words({True: "group_by_length", False: "random"}),
        lambda *_: UNSET,
        type=bool,
    ),
    extra(
        "training.trainer_kwargs", "", none("its keys go straight to transformers; write nbft's")
    ),
    extra("training.label_ignore_index", "", no_effect("-100, as in transformers")),
    extra("training.log_examples", "", no_effect("the Lens shows rows as they are learnt")),
    extra("peft.lora_exclude_modules", "", none("name the layers in lora_target_modules instead")),
    extra(
        "peft.lora_target_parameters", "", none("name the layers in lora_target_modules instead")
    ),
    extra(
        "peft.peft_save_mode",
        "",
        lambda value, _: Says(
            kind="taken" if value == "ADAPTER_ONLY" else "impossible",
            note="the adapter is saved"
            if value == "ADAPTER_ONLY"
            else "the adapter is saved; run.merge() writes the merged model",
        ),
        type=str,
    ),
    extra("deepspeed", "distributed.deepspeed", type=dict),
    extra("deepspeed.enable_deepspeed", ""),
)


def prepare(document: Document) -> Document:
    """Take a shell script's file and overrides as one tree."""
    if document.language != "shell":
        return document
    tree: dict[str, Any] = {"cli": {}}
    lines: dict[str, int] = {}
    for command, block in document.tree.items():
        if command.startswith("oumi config create"):
            tree["cli"]["create"] = dict(block)
        if not command.startswith("oumi train"):
            continue
        for name in ("c", "config"):
            if name in block:
                tree["cli"][name] = block[name]
                file = document.path.absolute().parent / str(block[name])
                if file.is_file():
                    inner = read_document(file)
                    tree, lines = {**inner.tree, "cli": tree["cli"]}, inner.lines
        from nbft.config import io

        for name, value in block.items():
            if "." in name:
                tree["cli"]["override"] = "read below"
                try:
                    io.put(tree, name, io.parse_yaml(f"value: {value}", name)["value"])
                except ConfigError:
                    document.remarks.append(f"--{name}: leads nowhere in the file; left out.")
    if not tree["cli"]:
        del tree["cli"]
    return Document(document.path, "shell", tree, lines, document.remarks, document.text)


def rules(work: Work) -> Iterator[Problem]:
    """Oumi's own rules over several keys."""
    given = work.given
    deepspeed = work.document.tree.get("deepspeed")
    is_deepspeed = isinstance(deepspeed, dict) and deepspeed.get("enable_deepspeed")
    if given.get("fsdp.enable_fsdp") and is_deepspeed:
        yield Problem(
            "deepspeed.enable_deepspeed",
            True,
            "Oumi: FSDP and DeepSpeed are mutually exclusive.",
            "Keep one of them.",
        )
    mixed = str(given.get("training.mixed_precision_dtype", "none")).lower()
    weights = str(given.get("model.torch_dtype_str", "float32")).lower()
    if mixed != "none" and weights not in ("float32", "fp32", "auto"):
        yield Problem(
            "training.mixed_precision_dtype",
            mixed,
            f"Oumi: mixed precision needs float32 weights, and torch_dtype_str is {weights}.",
            "Take one of the two away.",
        )
    for split in ("train", "validation", "test"):
        block = work.document.tree.get("data", {})
        block = block.get(split) if isinstance(block, dict) else None
        sets = block.get("datasets") if isinstance(block, dict) else None
        sets = (
            [one for one in sets or [] if isinstance(one, dict)] if isinstance(sets, list) else []
        )
        shares = [one["mixture_proportion"] for one in sets if one.get("mixture_proportion")]
        if shares and len(shares) < len(sets):
            yield Problem(
                f"data.{split}.datasets",
                None,
                f"Oumi: {len(shares)} of {len(sets)} sets have a mixture_proportion; all or none "
                "must.",
            )
        elif all(isinstance(s, (int, float)) for s in shares) and shares:
            total = sum(shares)
            if abs(total - 1) > 1e-4:
                why = f"Oumi: the mixture_proportion of a split must add to 1, not {total:g}."
                yield Problem(f"data.{split}.datasets", None, why)
        for number, one in enumerate(sets):
            if not one.get("dataset_name") and work.document.language != "shell":
                yield Problem(
                    f"data.{split}.datasets[{number}].dataset_name",
                    None,
                    "Oumi: is required.",
                    "Name a dataset, or text_sft with a dataset_path.",
                )


def settle(work: Work) -> None:
    """What depends on several keys."""
    peft_keys = [
        key
        for key, line in work.lines.items()
        if key.startswith("peft.") and line.kind != "defaulted"
    ]
    chosen = work.settings.get("peft.method")
    switches = ("training.use_peft", "peft.enable_peft", "peft.peft_method")
    if peft_keys and chosen == "full" and not any(name in work.given for name in switches):
        line = work.lines.get("training.use_peft")
        if line is not None:
            line.kind, line.became = "deviates", "lora"
            line.note = "the file sets up an adapter but never turns it on; it is meant"
        work.settings["peft.method"] = "lora"
    is_quantised = any(work.settings.get(f"quantization.load_in_{n}bit") for n in (4, 8))
    for key, line in list(work.lines.items()):
        needs_adapter = key.startswith("peft.") and work.settings.get("peft.method") == "full"
        needs_bits = key.startswith("peft.bnb_") and not is_quantised
        if line.kind == "defaulted" and (needs_adapter or needs_bits):
            work.settings.pop(line.setting, None)
            del work.lines[key]
    if work.settings.get("evaluation.eval_strategy") == "no":
        line = work.lines.get("training.eval_steps")
        if line is not None and line.kind == "defaulted":
            del work.lines["training.eval_steps"]
            work.settings.pop("evaluation.eval_steps", None)
    if work.settings.get("checkpoint.save_steps") == 0:
        work.settings.pop("checkpoint.save_steps")
        strategy = "epoch" if work.settings.get("checkpoint.save_on_epoch_end") else "no"
        work.settings.pop("checkpoint.save_on_epoch_end", None)
        work.put(
            "training.save_steps", "converted", "0 saves none", checkpoint__save_strategy=strategy
        )


def write(config: Config, tree: dict[str, Any]) -> None:
    """Mend the tree of an export: every set of rows has a name there."""
    for split in tree.get("data", {}).values():
        for one in split.get("datasets", []):
            if "dataset_path" in one:
                one.setdefault("dataset_name", "text_sft")


SYSTEM = System(
    "oumi",
    "Oumi",
    TABLE,
    marks=frozenset(
        {
            *("training.trainer_type", "training.use_peft", "peft", "fsdp", "cli"),
            *("model.torch_dtype_str", "model.model_max_length", "data", "training.optimizer"),
        }
    ),
    languages=("yaml", "json", "shell"),
    prepare=prepare,
    rules=rules,
    settle=settle,
    write=write,
    is_strict=True,
)
