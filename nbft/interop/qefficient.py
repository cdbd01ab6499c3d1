"""QEfficient's YAML: `QEfficient.finetune.experimental`, core/config_manager.py.

Its loader drops unknown keys without a word and only logs what its checks find; the slips that its
own document and samples contain are mended here, each with a note.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

from nbft.errors import Problem
from nbft.interop.importer import Work
from nbft.interop.table import (
    UNSET,
    Entry,
    Says,
    System,
    extra,
    no_effect,
    none,
    optimizer,
    words,
)

_ROWS = "data.train.datasets[0]"

_ONLY_TRAIN = {"yahma/alpaca-cleaned", "tatsu-lab/alpaca"}
"""Datasets on the hub that have no split but train."""

_SUBSET = {"openai/gsm8k": "main", "gsm8k": "main"}
"""Configuration that a dataset on the hub cannot be loaded without."""


def _template(value: Any, work: Work) -> Says:
    """Mend a template: an f before the quotes, quoted columns, newlines written out."""
    if value is None:
        return Says(kind="taken", note="not set")
    text, notes = str(value), []
    if re.fullmatch(r"f(['\"]).*\1", text, re.DOTALL):
        try:
            text = ast.literal_eval(text[1:])
        except (SyntaxError, ValueError):
            text = text[2:-1]
        notes.append(
            "YAML knows no f-strings: the f and the quotes are taken off and \\n becomes a line break"
        )
    if re.search(r"\{\s*(['\"])\w+\1\s*\}", text):
        text = re.sub(r"\{\s*(['\"])(\w+)\1\s*\}", r"{\2}", text)
        notes.append("the quotes inside the braces fail there (KeyError); they are taken off")
    return Says(text, "; ".join(notes), "deviates" if notes else None)


def _function(value: Any, work: Work) -> Says:
    """Find a function: beside the file, in a package, or ours that writes the same text."""
    if value is None:
        return Says(kind="taken", note="not set")
    where, colon, name = str(value).rpartition(":")
    if not colon or not where or not name:
        work.wrong("dataset.prompt_func", value, "QEfficient: must be written <module>:<function>.")
        return Says()
    as_path = where.replace(".", "/") if "/" not in where else where
    file = work.folder / f"{as_path.removesuffix('.py')}.py"
    if file.is_file():
        note = "found beside the file; QEfficient fails on a path with slashes"
        found = f"{as_path.removesuffix('.py')}:{name}"
        return Says(found, note, "deviates") if "/" in where else Says(found)
    if name == "create_alpaca_prompt":
        note = (
            f"{where} is not beside the file; nbft's own function writes the same (Stanford) text. "
            "QEfficient fails on a path with slashes, and leaves out rows whose input is empty"
        )
        return Says("nbft.data.ready:alpaca_prompt", note, "deviates")
    dotted = where.replace("/", ".")
    note = "there is no such file beside the config, so it must be an installed package"
    return Says(f"{dotted}:{name}", note, "converted" if dotted != where else None)


def _subset(value: Any, work: Work) -> Says:
    if value in (None, "default"):
        return Says(kind="taken", note="the only configuration of the dataset")
    return Says(value)


def _json_path(value: Any, work: Work) -> Says:
    if value is None:
        return Says(kind="taken", note="not set: dataset_name is used")
    return Says(value)


def _precision(value: Any, work: Work) -> Says:
    name = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}.get(str(value), value)
    if name == "fp32":
        return Says(
            "no", "float32 throughout; QEfficient accepts fp32 and then crashes", "deviates"
        )
    return half_precision(name)


def half_precision(name: Any) -> Says:
    """Take bf16 or fp16; where no device computes in float16, let the plan decide."""
    from nbft.hardware import available_devices

    if name == "fp16" and set(available_devices()) <= {"cpu"}:
        note = "fp16 needs a GPU; without one it would compute in float32 without a word"
        return Says("auto", note, "converted")
    return Says(name)


def _half(name: str) -> Any:
    def convert(value: Any, work: Work) -> Says:
        if not value:
            return Says(kind="taken", note="off")
        return half_precision(name)

    return convert


def _first(value: Any, work: Work) -> Says:
    return Says(value[0] if isinstance(value, list) and value else value)


def _dataset_type(value: Any, work: Work) -> Says:
    if value == "sft_dataset":
        note = "QEfficient registers it as sft_dataset; the same is meant"
        return Says("seq_completion", note)
    if value == "dpo_dataset":
        return Says("auto", "seen by the columns prompt, chosen and rejected")
    return Says(value)


def _device(value: Any, work: Work) -> Says:
    device = str(value).split(":")[0]
    if device == "qaic" and importlib.util.find_spec("torch_qaic") is None:
        note = "torch_qaic is not installed here, so the first device there is trains"
        return Says("auto", note, "converted")
    return Says(device)


def _method(value: Any, work: Work) -> Says:
    if value == "dpo":
        return Says(more={"preference.method": "dpo"}, note="planned")
    return Says(value)


def _eval_strategy(value: Any, work: Work) -> Says:
    if work.given.get("training.do_eval") is False:
        return Says("no", "do_eval is false", "converted")
    return Says(value)


def _do_eval(value: Any, work: Work) -> Says:
    if value:
        return Says(kind="taken", note="what eval_strategy says")
    return Says(more={"evaluation.eval_strategy": "no"}, note="measured at the end only")


def _shards(name: str) -> Any:
    def convert(value: Any, work: Work) -> Says:
        if not value:
            return Says(kind="taken", note="off, as here")
        return Says(value)

    return convert


def _fsdp(value: Any, work: Work) -> Says:
    if not value:
        return Says(kind="taken", note="off, as here")
    return Says(more={"distributed.fsdp": "full_shard", "distributed.fsdp_config": value})


def _method_of(value: Any, work: Work) -> Says:
    name = str(value).lower()
    if name in ("lora", "ia3"):
        note = "QEfficient ignores this key and always takes LoRA" if name == "ia3" else ""
        if work.given.get("model.use_peft") is False:
            return Says(kind="taken", note="use_peft is false: nothing is adapted")
        return Says(name, note, "deviates" if note else None)
    work.wrong("model.peft_config.peft_type", value, "QEfficient: LORA or IA3.")
    return Says()


_ARGUMENTS = {"start_step": "first_step", "end_step": "last_step"}


def _callback(value: Any, work: Work) -> Says:
    """Take a callback with its arguments: steps are called otherwise here."""
    given = value if isinstance(value, dict) else {}
    known = {*_ARGUMENTS, *_ARGUMENTS.values()}
    kept = {_ARGUMENTS.get(name, name): item for name, item in given.items() if name in known}
    gone = [name for name in given if name not in known]
    note = f"nbft's has no {', '.join(gone)}" if gone else ""
    return Says(kept, note, "deviates" if gone else "renamed")


def _tokens_seen(value: Any, work: Work) -> Any:
    return {True: "all", False: "no"}.get(value, value)


def _resume(value: Any, work: Work) -> Says:
    if value in (None, False):
        return Says(kind="taken", note="not set")
    return Says("auto" if value is True else value)


def _logging_steps(value: Any, work: Work) -> Any:
    return value


_CALLBACKS = {
    "enhanced_progressbar": "enhanced_progressbar",
    "default_flow": "default_flow",
    "Printer": "printer",
    "JSONLoggerCallback": "json_logger",
    "QAICProfilerCallback": "profiler",
    "QAICOpByOpVerifierCallback": "op_by_op_verifier",
}

_SPELT = {
    "profiler": ("qaic_profiler_callback",),
    "op_by_op_verifier": ("qaic_op_by_op_verifier_callback",),
}
"""How its code spells them."""

TABLE = (
    Entry("model.model_type", "model.model_type"),
    Entry("model.auto_class_name", "model.auto_class_name"),
    Entry("model.model_name", "model.model_name", default="HuggingFaceTB/SmolLM-135M"),
    Entry("model.load_in_4bit", "quantization.load_in_4bit"),
    Entry("model.use_cache", "model.use_cache"),
    Entry("model.attn_implementation", "model.attn_implementation", default="sdpa"),
    Entry("model.device_map", "model.device_map"),
    Entry(
        "model.use_peft",
        "peft.method",
        words({True: "lora", False: "full"}),
        lambda value, config: value != "full",
        type=bool,
        default=True,
    ),
    Entry("model.peft_config", kind="taken", note="its keys follow", type=None),
    Entry("model.peft_config.lora_r", "peft.r", default=8, low=1),
    Entry("model.peft_config.lora_alpha", "peft.lora_alpha", default=16, low=1),
    Entry(
        "model.peft_config.lora_dropout",
        "peft.lora_dropout",
        default=0.1,
        low=0,
        high=1,
        beyond_high=True,
    ),
    Entry("model.peft_config.target_modules", "peft.target_modules", default=["q_proj", "v_proj"]),
    Entry(
        "model.peft_config.bias",
        "peft.bias",
        lambda value, _: (
            Says("none", "null crashes PEFT; the word none is meant") if value is None else value
        ),
        lambda value, _: value,
        choices=("none", "all", "lora_only"),
    ),
    Entry("model.peft_config.task_type", "peft.task_type"),
    Entry(
        "model.peft_config.peft_type",
        "peft.method",
        _method_of,
        lambda value, _: UNSET if value == "full" else value.upper(),
        type=str,
    ),
    Entry("dataset.tokenizer_name", "model.tokenizer_name"),
    Entry(
        "dataset.dataset_type",
        f"{_ROWS}.dataset_type",
        _dataset_type,
        lambda value, _: UNSET if value == "auto" else value,
        type=str,
    ),
    Entry("dataset.dataset_name", f"{_ROWS}.dataset_name"),
    Entry("dataset.json_file_path", f"{_ROWS}.path", _json_path, lambda value, _: value),
    Entry("dataset.train_split", f"{_ROWS}.split", also=("dataset.split",)),
    Entry("dataset.test_split", "data.validation.datasets[0].split"),
    Entry(
        "dataset.split_ratio",
        "data.split_ratio",
        default=0.8,
        low=0,
        high=1,
        beyond_low=True,
        beyond_high=True,
    ),
    Entry("dataset.prompt_func", f"{_ROWS}.prompt_func", _function, lambda value, _: value),
    Entry("dataset.prompt_template", f"{_ROWS}.prompt_template", _template, lambda value, _: value),
    Entry("dataset.completion_func", f"{_ROWS}.completion_func", _function, lambda value, _: value),
    Entry(
        "dataset.completion_template",
        f"{_ROWS}.completion_template",
        _template,
        lambda value, _: value,
    ),
    Entry(
        "dataset.dataset_subset",
        f"{_ROWS}.subset",
        _subset,
        lambda value, _: value,
        also=("dataset.config_name",),
    ),
    Entry(
        "dataset.max_seq_length",
        "data.max_length",
        lambda value, _: Says(
            value, "QEfficient never passes it on and cuts at 1,024; here it counts", "deviates"
        ),
        lambda value, _: value,
        type=int,
        default=512,
        low=1,
    ),
    Entry("dataset.input_columns", f"{_ROWS}.input_columns"),
    Entry("dataset.target_column", f"{_ROWS}.target_column"),
    Entry(
        "dataset.train_batch_size",
        "training.per_device_train_batch_size",
        lambda value, work: (
            Says(
                kind="converted",
                note="training.per_device_train_batch_size is given too and wins, as it does there",
            )
            if "training.per_device_train_batch_size" in work.given
            else Says(value, "QEfficient reads it and does not use it; here it counts", "deviates")
        ),
        type=int,
        low=1,
    ),
    Entry(
        "dataset.eval_batch_size",
        "evaluation.per_device_eval_batch_size",
        lambda value, work: (
            Says(
                kind="converted",
                note="training.per_device_eval_batch_size is given too and wins, as it does there",
            )
            if "training.per_device_eval_batch_size" in work.given
            else Says(value, "QEfficient reads it and does not use it; here it counts", "deviates")
        ),
        type=int,
        low=1,
    ),
    Entry("dataset.collate_fn", "data.collate_fn"),
    Entry(
        "dataset.group_by_length",
        "data.train_sampling_strategy",
        words({True: "group_by_length", False: "random"}, "transformers 5 has no group_by_length"),
        lambda value, _: value == "group_by_length",
        type=bool,
        default=True,
    ),
    Entry("dataset.length_column_name", "data.length_column_name"),
    Entry(
        "dataset.num_workers",
        "data.dataloader_num_workers",
        lambda value, work: (
            Says(kind="converted", note="dataloader_num_workers is given too and wins")
            if "dataset.dataloader_num_workers" in work.given
            else Says(value, "QEfficient reads it and does not use it; here it counts", "deviates")
        ),
        type=int,
        low=0,
    ),
    Entry("dataset.dataloader_pin_memory", "data.dataloader_pin_memory", default=True),
    Entry("dataset.dataloader_drop_last", "data.dataloader_drop_last"),
    Entry(
        "dataset.dataloader_prefetch_factor",
        "data.dataloader_prefetch_factor",
        default=1,
        low=1,
    ),
    Entry(
        "dataset.dataloader_persistent_workers",
        "data.dataloader_persistent_workers",
        default=True,
    ),
    Entry("dataset.dataloader_num_workers", "data.dataloader_num_workers", default=1, low=0),
    Entry("training.type", "training.method", _method, lambda value, _: value, type=str),
    Entry("training.output_dir", "training.output_dir", default="./training_results"),
    Entry("training.overwrite_output_dir", "checkpoint.overwrite_output_dir"),
    Entry("training.do_eval", "evaluation.eval_strategy", _do_eval, type=bool),
    Entry(
        "training.eval_strategy",
        "evaluation.eval_strategy",
        _eval_strategy,
        lambda value, _: value,
        type=str,
        default="epoch",
        choices=("no", "steps", "epoch"),
    ),
    Entry(
        "training.eval_steps",
        "evaluation.eval_steps",
        back=lambda value, config: value or config.logging.logging_steps,
        low=1,
    ),
    Entry(
        "training.gradient_accumulation_steps",
        "training.gradient_accumulation_steps",
        default=1,
        low=1,
    ),
    Entry(
        "training.dtype",
        "precision.mixed_precision",
        _precision,
        lambda value, _: UNSET if value == "auto" else {"no": "fp32"}.get(value, value),
        type=str,
        default="fp16",
        choices=("fp16", "bf16", "fp32", "float16", "bfloat16", "float32"),
        also=("training.torch_dtype",),
    ),
    Entry("training.seed", "training.seed", default=42, low=0),
    Entry(
        "training.device",
        "compute.device",
        _device,
        lambda value, _: UNSET if value in ("auto", "mps", "xpu") else value,
        type=str,
        choices=("qaic", "cuda", "cpu"),
        also=("model.device",),
    ),
    Entry(
        "training.per_device_train_batch_size",
        "training.per_device_train_batch_size",
        default=1,
        low=1,
    ),
    Entry(
        "training.per_device_eval_batch_size",
        "evaluation.per_device_eval_batch_size",
        default=1,
        low=1,
    ),
    Entry(
        "training.num_train_epochs", "training.num_train_epochs", default=1, low=0, beyond_low=True
    ),
    Entry("training.max_steps", "training.max_steps", low=-1),
    Entry(
        "training.log_level",
        "logging.log_level",
        choices=("debug", "info", "warning", "error"),
    ),
    Entry("training.log_on_each_node", "logging.log_on_each_node"),
    Entry(
        "training.logging_strategy", "logging.logging_strategy", choices=("no", "steps", "epoch")
    ),
    Entry("training.logging_steps", "logging.logging_steps", default=10, low=1),
    Entry(
        "training.save_strategy",
        "checkpoint.save_strategy",
        default="epoch",
        choices=("no", "steps", "epoch"),
    ),
    Entry("training.save_steps", "checkpoint.save_steps", default=100, low=1),
    Entry("training.save_total_limit", "checkpoint.save_total_limit", default=5, low=1),
    Entry("training.metric_for_best_model", "checkpoint.metric_for_best_model"),
    Entry(
        "training.include_num_input_tokens_seen",
        "logging.include_num_input_tokens_seen",
        _tokens_seen,
        lambda value, _: UNSET if value == "auto" else value != "no",
    ),
    Entry(
        "training.average_tokens_across_devices",
        "distributed.average_tokens_across_devices",
    ),
    Entry(
        "training.fsdp_config",
        "distributed.fsdp_config",
        _fsdp,
        lambda value, _: value or UNSET,
        type=None,
    ),
    Entry(
        "training.deepspeed_config",
        "distributed.deepspeed",
        _shards("deepspeed"),
        lambda value, _: value or UNSET,
    ),
    Entry(
        "training.accelerator_config",
        "distributed.accelerator_config",
        _shards("accelerator_config"),
        lambda value, _: value or UNSET,
    ),
    Entry("training.ddp_config", kind="taken", note="its keys follow"),
    Entry(
        "training.ddp_config.ddp_backend",
        "distributed.ddp_backend",
        choices=("qccl", "nccl", "gloo"),
    ),
    Entry(
        "training.ddp_config.ddp_find_unused_parameters", "distributed.ddp_find_unused_parameters"
    ),
    Entry("training.ddp_config.ddp_bucket_cap_mb", "distributed.ddp_bucket_cap_mb"),
    Entry("training.ddp_config.ddp_broadcast_buffers", "distributed.ddp_broadcast_buffers"),
    Entry("training.ddp_config.ddp_timeout", "distributed.ddp_timeout", low=1),
    Entry(
        "training.use_cpu",
        "compute.device",
        lambda value, _: Says("cpu") if value else Says(kind="taken", note="device decides"),
        type=bool,
    ),
    Entry(
        "training.restore_callback_states_from_checkpoint",
        "callbacks.restore_callback_states_from_checkpoint",
    ),
    Entry("training.gradient_checkpointing", "memory.gradient_checkpointing"),
    Entry("training.gradient_checkpointing_kwargs", kind="taken", note="its keys follow"),
    Entry(
        "training.gradient_checkpointing_kwargs.preserve_rng_state",
        "memory.gradient_checkpointing_kwargs.preserve_rng_state",
        type=bool,
    ),
    Entry(
        "training.gradient_checkpointing_kwargs.use_reentrant",
        "memory.gradient_checkpointing_kwargs.use_reentrant",
        type=bool,
    ),
    Entry("training.torch_compile", "compute.torch_compile"),
    Entry(
        "training.resume_from_checkpoint",
        "training.resume_from_checkpoint",
        _resume,
        lambda value, _: value,
    ),
    Entry("training.disable_tqdm", "logging.disable_tqdm"),
    Entry(
        "optimizers.optimizer_name",
        "optimizer.optim",
        optimizer,
        lambda value, _: {"adamw_torch": "adamw", "adamw_torch_fused": "adamw"}.get(value, value),
        type=str,
        default="adamw",
        also=("optimizer", "optimizer.optimizer_name", "optimizer.name", "optimizers"),
        name="optimizer",
    ),
    Entry(
        "optimizers.lr",
        "training.learning_rate",
        default=5e-5,
        low=0,
        beyond_low=True,
        also=("optimizer.lr",),
        name="optimizer.lr",
    ),
    Entry(
        "optimizers.weight_decay",
        "optimizer.weight_decay",
        default=0.01,
        low=0,
        also=("optimizer.weight_decay",),
        name="optimizer.weight_decay",
    ),
    Entry(
        "scheduler.scheduler_name",
        "scheduler.lr_scheduler_type",
        default="cosine",
        choices=(
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "constant",
            "constant_with_warmup",
            "inverse_sqrt",
        ),
        also=("scheduler", "scheduler.name"),
        name="scheduler",
    ),
    Entry("scheduler.warmup_steps", "scheduler.warmup_steps", default=100, low=0),
    extra(
        "scheduler.warmup_ratio",
        "scheduler.warmup_steps",
        lambda value, work: (
            Says(kind="converted", note="warmup_steps is given too and wins, as it does there")
            if work.given.get("scheduler.warmup_steps")
            else Says(
                value, "transformers 5 has no warmup_ratio: warm-up steps below 1 are a share"
            )
        ),
        type=float,
        low=0,
        high=1,
    ),
    Entry(
        "callbacks.early_stopping",
        "callbacks.early_stopping_patience",
        lambda value, _: Says(3, "without keys of its own it waits for 3 measurements"),
        lambda value, _: UNSET,
    ),
    Entry(
        "callbacks.early_stopping.early_stopping_patience",
        "callbacks.early_stopping_patience",
        low=1,
    ),
    Entry(
        "callbacks.early_stopping.early_stopping_threshold", "callbacks.early_stopping_threshold"
    ),
    *(
        Entry(
            f"callbacks.{theirs}",
            f"callbacks.callbacks.{ours}",
            _callback,
            lambda value, _: value,
            type=dict,
            also=tuple(
                f"callbacks.{name}" for name in {ours, *_SPELT.get(ours, ())} if name != theirs
            ),
        )
        for theirs, ours in _CALLBACKS.items()
    ),
    Entry(
        "callbacks.tensorboard",
        "tracking.report_to",
        lambda value, _: Says(["tensorboard"], kind="converted"),
        lambda value, _: {} if "tensorboard" in value else UNSET,
    ),
    # What its code has and its document does not
    extra("dataset.dataset_num_samples", f"{_ROWS}.sample_count", words({-1: None}), type=int),
    extra("dataset.data_seed", "training.data_seed"),
    extra(
        "dataset.remove_samples_with_empty_columns",
        "",
        no_effect("rows are kept: only a prompt or completion that is empty would teach nothing"),
        kind="deviates",
    ),
    extra(
        "dataset.dataset_disc_style",
        convert=none("is of a dataset of QEfficient's own; name the columns in a template"),
    ),
    extra("dataset.prompt_columns", f"{_ROWS}.input_columns", type=list),
    extra("training.completion_only_loss", "data.completion_only_loss", default=False, type=bool),
    extra(
        "training.report_to",
        "tracking.report_to",
        lambda value, _: (
            Says(kind="taken", note="nothing")
            if value in (None, "none", [])
            else Says(value if isinstance(value, list) else [value])
        ),
        lambda value, _: value or UNSET,
    ),
    extra("training.logging_dir", "logging.logging_dir"),
    extra("training.max_grad_norm", "training.max_grad_norm"),
    extra("training.learning_rate", "training.learning_rate", low=0, beyond_low=True),
    extra("training.optim", "optimizer.optim", optimizer, lambda *_: UNSET, type=str),
    extra("training.fp16", "precision.mixed_precision", _half("fp16"), lambda *_: UNSET, type=bool),
    extra("training.bf16", "precision.mixed_precision", _half("bf16"), lambda *_: UNSET, type=bool),
    extra("dpo.beta", "preference.beta"),
    extra("dpo.loss_type", "preference.loss_type", _first, lambda v, _: v),
    extra("dpo.label_smoothing", "preference.label_smoothing"),
    extra("dpo.max_prompt_length", "preference.max_prompt_length"),
    extra("dpo.max_length", "data.max_length", type=int),
    *(
        extra(f"dpo.{name}", "", no_effect("is of preference training, which comes later"))
        for name in (
            *("truncation_mode", "disable_dropout", "precompute_ref_log_probs", "ref_model"),
            "reference_model_name",
        )
    ),
    *(
        extra(f"dataset.{name}_column", f"{_ROWS}.columns.{name}", type=str)
        for name in ("prompt", "chosen", "rejected", "completion")
    ),
    extra("training.run_name", "training.run_name"),
    extra("training.pp_degree", "distributed.pipeline_parallel_size", low=1),
    extra("training.tp_degree", "distributed.tensor_parallel_size", low=1),
    extra("training.ddp_degree", "distributed.num_processes", low=1),
)


def rules(work: Work) -> Iterator[Problem]:
    """QEfficient's own rules over several keys."""
    given = work.given
    for part in ("prompt", "completion"):
        func, template = (given.get(f"dataset.{part}_{kind}") for kind in ("func", "template"))
        if func and template:
            yield Problem(
                f"dataset.{part}_func",
                func,
                f"QEfficient: {part}_func and {part}_template are mutually exclusive.",
                "Keep one of them.",
            )
    by_steps = given.get("training.eval_strategy") == "steps"
    if by_steps and not given.get("training.eval_steps") and given.get("training.do_eval", True):
        yield Problem(
            "training.eval_strategy",
            "steps",
            "QEfficient: with steps, eval_steps must be given.",
            "Add training.eval_steps.",
        )
    ways = ("prompt_func", "prompt_template", "input_columns", "prompt_columns")
    has_rows = given.get("dataset.dataset_name") or given.get("dataset.json_file_path")
    has_answer = given.get("dataset.completion_template") or given.get("dataset.completion_func")
    if has_rows and has_answer and not any(given.get(f"dataset.{name}") for name in ways):
        yield Problem(
            "dataset.prompt_template",
            None,
            "QEfficient: one of prompt_template and prompt_func is needed beside a completion.",
            "Add one.",
        )


def settle(work: Work) -> None:
    """Put the dataset together, and say where nbft does otherwise than QEfficient."""
    _loss(work)
    _splits(work)
    if work.given.get("training.use_cpu"):
        work.settings["compute.device"] = "cpu"
    workers = work.settings.get("data.dataloader_num_workers")
    if workers == 0:
        for name in ("prefetch_factor", "persistent_workers"):
            setting = f"data.dataloader_{name}"
            if work.settings.pop(setting, None):
                key = f"dataset.dataloader_{name}"
                if key in work.lines and work.lines[key].kind == "defaulted":
                    del work.lines[key]
                else:
                    note = "without workers PyTorch refuses it; left out"
                    work.say(key, "deviates", note, value=None)
    columns = work.settings.pop(f"{_ROWS}.input_columns", None)
    templates = [f"{_ROWS}.prompt_{kind}" for kind in ("template", "func")]
    if columns and not any(work.settings.get(name) for name in templates):
        if (
            work.settings.get(f"{_ROWS}.completion_template")
            and "dataset.prompt_columns" in work.lines
        ):
            text = "\n".join(f"{{{name}}}" for name in columns) + "\n"
            work.put(
                "dataset.prompt_columns",
                "converted",
                "the columns as a template",
                **{f"{_ROWS}.prompt_template": text},
            )
        else:
            work.settings[f"{_ROWS}.input_columns"] = columns
    elif columns:
        for key in ("dataset.input_columns", "dataset.prompt_columns"):
            if key in work.lines:
                work.say(key, "converted", "the template names the columns", setting="")
                work.lines[key].setting = ""


def _loss(work: Work) -> None:
    if work.settings.get("data.completion_only_loss") is False:
        key = "training.completion_only_loss"
        line = work.lines.get(key)
        if line is not None and line.kind == "defaulted":
            line.kind = "deviates"
            line.note = (
                "by default QEfficient trains on the prompt too and never on the end of the text; "
                "here the completion and its end are learnt"
            )
            line.became = True
            work.settings["data.completion_only_loss"] = True


def _splits(work: Work) -> None:
    name = work.settings.get(f"{_ROWS}.dataset_name")
    path = work.settings.get(f"{_ROWS}.path")
    of_test = work.settings.pop("data.validation.datasets[0].split", None)
    key = "dataset.test_split"
    if path:
        if "dataset.dataset_name" in work.lines:
            work.settings.pop(f"{_ROWS}.dataset_name", None)
            note = "json_file_path wins, as it does there"
            work.say("dataset.dataset_name", "converted", note)
            work.lines["dataset.dataset_name"].setting = ""
        for split in ("dataset.train_split", key):
            if split in work.lines:
                work.say(split, "converted", "a file has no splits; split_ratio cuts it")
                work.lines[split].setting = ""
        work.settings.pop(f"{_ROWS}.split", None)
        return
    if name in _SUBSET and not work.settings.get(f"{_ROWS}.subset"):
        work.put(
            "dataset.config_name",
            "deviates",
            f"{name} cannot be loaded without one; QEfficient fails",
            **{f"{_ROWS}.subset": _SUBSET[name]},
        )
    if of_test is None:
        return
    if name in _ONLY_TRAIN or name is None:
        note = "the dataset has only the split train; split_ratio cuts it, as it does there"
        work.say(key, "converted", note if name else "no dataset is named")
        work.lines[key].setting = ""
        return
    if (
        "dataset.split_ratio" in work.lines
        and work.lines["dataset.split_ratio"].kind == "defaulted"
    ):
        del work.lines["dataset.split_ratio"]
        work.settings.pop("data.split_ratio", None)
    for setting, value in list(work.settings.items()):
        if setting.startswith(f"{_ROWS}."):
            held_out = setting.replace("data.train", "data.validation")
            work.settings.setdefault(held_out, value)
    work.settings["data.validation.datasets[0].split"] = of_test
    work.settings.pop("data.validation.datasets[0].sample_count", None)


SYSTEM = System(
    "qefficient",
    "QEfficient",
    TABLE,
    marks=frozenset({"dataset", "optimizers", "callbacks", "model.peft_config", "scheduler"}),
    languages=("yaml", "json"),
    rules=rules,
    settle=settle,
)
