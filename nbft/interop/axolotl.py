"""Axolotl's flat YAML: `axolotl train FILE`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbft.errors import Problem
from nbft.interop.importer import Work
from nbft.interop.qefficient import half_precision
from nbft.interop.table import (
    Says,
    System,
    extra,
    no_effect,
    none,
    optimizer,
    warmup_ratio,
    words,
    words_of,
)

_ROWS = "data.train.datasets[]"

_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def _adapter(value: Any, work: Work) -> Says:
    if value in (None, ""):
        return Says("full", "without an adapter every weight is trained", "converted")
    name = str(value).lower()
    if name == "qlora":
        return Says(
            "lora", "LoRA on weights in 4 bits", "converted", {"quantization.load_in_4bit": True}
        )
    return Says(name) if name == "lora" else Says("lora", f"nbft has no {name}", "impossible")


def _path(value: Any, work: Work) -> Says:
    text = str(value)
    is_file = Path(text).suffix.lower() in _FILES or text.startswith(("./", "/", "~"))
    if is_file:
        return Says(value)
    return Says(more={f"{_ROWS}.dataset_name": text}, kind="renamed")


_KINDS = {
    "alpaca": "alpaca",
    "chat_template": "auto",
    "chatml": "auto",
    "sharegpt": "sharegpt",
    "completion": "text",
    "input_output": "auto",
}


def _kind(value: Any, work: Work) -> Says:
    if isinstance(value, dict):
        return Says(kind="impossible", note="write prompt_template and completion_template instead")
    name = str(value).partition(":")[0].partition(".")[0]
    if name not in _KINDS:
        return Says("auto", f"nbft has no {value}; it goes by the columns", "deviates")
    note = "seen by the columns" if _KINDS[name] == "auto" else ""
    return Says(_KINDS[name], note)


def _half(name: str) -> Any:
    def convert(value: Any, work: Work) -> Says:
        if value in ("auto", "full"):
            return Says("auto", "decided by the device, as there", "converted")
        if not value:
            return Says(kind="taken", note="off")
        return half_precision(name)

    return convert


def _attention(name: str) -> Any:
    def convert(value: Any, work: Work) -> Says:
        from nbft.hardware import available_devices

        if not value:
            return Says(kind="taken", note="off")
        if name == "flash_attention_2" and "cuda" not in available_devices():
            return Says(
                "sdpa", "flash attention needs a GPU; sdpa gives the same numbers", "converted"
            )
        return Says(name)

    return convert


def _many(strategy: str, setting: str) -> Any:
    """Return a conversion of saves_per_epoch and evals_per_epoch."""

    def convert(value: Any, work: Work) -> Says:
        if not value:
            return Says(kind="taken", note="not set")
        note = "" if value == 1 else f"{value} in an epoch there; once here, or write {setting}"
        return Says("epoch", note, "converted" if value == 1 else "deviates")

    return convert


TABLE = (
    extra("base_model", "model.model_name"),
    extra("model_type", "", no_effect("seen by the model's own config")),
    extra("tokenizer_type", "", no_effect("seen by the model's own config")),
    extra("tokenizer_config", "model.tokenizer_name"),
    extra("trust_remote_code", "model.trust_remote_code"),
    extra("revision_of_model", "model.model_revision"),
    extra("load_in_4bit", "quantization.load_in_4bit"),
    extra("load_in_8bit", "quantization.load_in_8bit"),
    extra("strict", "", no_effect("unknown keys are always said")),
    extra("datasets", kind="taken", note="its sets follow"),
    extra("datasets[].path", f"{_ROWS}.path", _path, type=str),
    extra("datasets[].type", f"{_ROWS}.dataset_type", _kind),
    extra("datasets[].split", f"{_ROWS}.split"),
    extra("datasets[].name", f"{_ROWS}.subset"),
    extra("datasets[].data_files", f"{_ROWS}.dataset_kwargs.data_files", type=list),
    extra("datasets[].ds_type", "", no_effect("seen by the file's ending")),
    extra("datasets[].field_messages", "", no_effect("seen by the columns")),
    extra("datasets[].field", "", no_effect("seen by the columns")),
    extra("datasets[].conversation", "", no_effect("the tokenizer's own chat template is used")),
    extra("datasets[].chat_template", "", no_effect("the tokenizer's own chat template is used")),
    extra("datasets[].roles", "", no_effect("the usual names of speakers are known"), type=dict),
    extra("datasets[].message_property_mappings", "", no_effect("seen by the columns"), type=dict),
    extra("datasets[].shards", "", none("name a sample_count instead")),
    extra("test_datasets", "", none("name them in data.validation"), type=list),
    extra("chat_template", "", no_effect("the tokenizer's own chat template is used")),
    extra("dataset_prepared_path", "", no_effect("tokens are kept by their content")),
    extra("dataset_processes", "data.dataset_num_proc"),
    extra("shuffle_merged_datasets", "data.shuffle"),
    extra(
        "val_set_size",
        "data.split_ratio",
        lambda value, _: (
            Says(round(1 - value, 6), "the share held out there, the share trained on here")
            if 0 <= value < 1
            else Says(
                kind="impossible", note="a number of rows; nbft takes a share: data.split_ratio"
            )
        ),
        type=float,
        default=0.0,
        low=0,
    ),
    extra("output_dir", "training.output_dir", default="./model-out"),
    extra("adapter", "peft.method", _adapter, default=None),
    extra("lora_model_dir", "model.adapter_name_or_path"),
    extra("lora_r", "peft.r", low=1),
    extra("lora_alpha", "peft.lora_alpha", low=1),
    extra("lora_dropout", "peft.lora_dropout", low=0, high=1),
    extra(
        "lora_target_modules",
        "peft.target_modules",
        lambda v, _: [v] if isinstance(v, str) else list(v or ["all-linear"]),
    ),
    extra(
        "lora_target_linear",
        "peft.target_modules",
        lambda v, _: (
            Says(["all-linear"], "every linear layer but the head", "converted")
            if v
            else Says(kind="taken", note="off")
        ),
        type=bool,
    ),
    extra("lora_modules_to_save", "peft.modules_to_save", lambda v, _: words_of(v)),
    extra("lora_fan_in_fan_out", "", no_effect("PEFT sees it by the layer")),
    extra("peft_use_dora", "peft.use_dora"),
    extra("peft_use_rslora", "peft.use_rslora"),
    extra("loraplus_lr_ratio", "peft.loraplus_lr_ratio"),
    extra("sequence_len", "data.max_length", default=512, low=8),
    extra("sample_packing", "data.packing"),
    extra(
        "eval_sample_packing",
        "",
        no_effect("held-out rows are never packed, which changes no loss"),
    ),
    extra("pad_to_sequence_len", "", no_effect("padding changes no loss")),
    extra("excess_length_strategy", "", no_effect("longer rows are cut, and Check says how many")),
    extra("micro_batch_size", "training.per_device_train_batch_size", default=1, low=1),
    extra("eval_batch_size", "evaluation.per_device_eval_batch_size", low=1),
    extra("gradient_accumulation_steps", "training.gradient_accumulation_steps", default=1, low=1),
    extra("num_epochs", "training.num_train_epochs", default=1),
    extra("max_steps", "training.max_steps"),
    extra("optimizer", "optimizer.optim", optimizer, type=str),
    extra("lr_scheduler", "scheduler.lr_scheduler_type", default="cosine"),
    extra(
        "cosine_min_lr_ratio",
        "scheduler.lr_scheduler_kwargs.min_lr_rate",
        lambda v, _: Says(v, more={"scheduler.lr_scheduler_type": "cosine_with_min_lr"}),
    ),
    extra("learning_rate", "training.learning_rate", type=float, low=0, beyond_low=True),
    extra("weight_decay", "optimizer.weight_decay"),
    extra("adam_beta1", "optimizer.adam_beta1"),
    extra("adam_beta2", "optimizer.adam_beta2"),
    extra("adam_epsilon", "optimizer.adam_epsilon"),
    extra("max_grad_norm", "training.max_grad_norm"),
    extra("warmup_steps", "scheduler.warmup_steps"),
    extra("warmup_ratio", "scheduler.warmup_steps", warmup_ratio, type=float, low=0, high=1),
    extra("train_on_inputs", "data.completion_only_loss", lambda v, _: not v, type=bool),
    extra(
        "group_by_length",
        "data.train_sampling_strategy",
        words({True: "group_by_length", False: "random"}),
        type=bool,
    ),
    extra("bf16", "precision.mixed_precision", _half("bf16")),
    extra("fp16", "precision.mixed_precision", _half("fp16")),
    extra("tf32", "precision.tf32", words({False: None, "auto": None}), type=object),
    extra("gradient_checkpointing", "memory.gradient_checkpointing", lambda v, _: bool(v)),
    extra("gradient_checkpointing_kwargs", "memory.gradient_checkpointing_kwargs", type=dict),
    extra("early_stopping_patience", "callbacks.early_stopping_patience"),
    extra("resume_from_checkpoint", "training.resume_from_checkpoint"),
    extra(
        "auto_resume_from_checkpoints",
        "training.resume_from_checkpoint",
        lambda v, _: Says("auto") if v else Says(kind="taken", note="off, as here"),
        type=bool,
    ),
    extra("logging_steps", "logging.logging_steps"),
    extra(
        "flash_attention", "model.attn_implementation", _attention("flash_attention_2"), type=bool
    ),
    extra("sdp_attention", "model.attn_implementation", _attention("sdpa"), type=bool),
    extra("eager_attention", "model.attn_implementation", _attention("eager"), type=bool),
    extra("xformers_attention", "", no_effect("PyTorch's sdpa has that kernel")),
    extra("s2_attention", "", none("nbft has eager, sdpa and flash_attention_2")),
    extra("liger_rope", "model.use_liger_kernel"),
    extra("neftune_noise_alpha", "training.neftune_noise_alpha"),
    extra("saves_per_epoch", "checkpoint.save_strategy", _many("save", "checkpoint.save_steps")),
    extra("evals_per_epoch", "evaluation.eval_strategy", _many("eval", "evaluation.eval_steps")),
    extra("save_steps", "checkpoint.save_steps", type=int),
    extra(
        "save_strategy",
        "checkpoint.save_strategy",
        type=str,
        choices=("no", "steps", "epoch", "best"),
    ),
    extra("save_total_limit", "checkpoint.save_total_limit"),
    extra(
        "eval_steps",
        "evaluation.eval_steps",
        lambda v, _: Says(int(v), more={"evaluation.eval_strategy": "steps"}),
    ),
    extra("eval_strategy", "evaluation.eval_strategy", type=str, choices=("no", "steps", "epoch")),
    extra("eval_table_size", "", no_effect("run.compare() shows answers")),
    extra("eval_max_new_tokens", "evaluation.sample_max_new_tokens", type=int),
    extra("dataloader_num_workers", "data.dataloader_num_workers"),
    extra("dataloader_prefetch_factor", "data.dataloader_prefetch_factor"),
    extra("dataloader_pin_memory", "data.dataloader_pin_memory"),
    extra("seed", "training.seed"),
    extra(
        "wandb_project",
        "tracking.project",
        lambda v, _: (
            Says(v, more={"tracking.report_to": ["wandb"]})
            if v
            else Says(kind="taken", note="not set")
        ),
    ),
    extra("wandb_name", "training.run_name"),
    *(
        extra(name, "", no_effect("nothing more is sent to the tracker"))
        for name in ("wandb_entity", "wandb_watch", "wandb_log_model", "wandb_run_id", "wandb_mode")
    ),
    extra("deepspeed", "distributed.deepspeed"),
    extra("fsdp", "distributed.fsdp", lambda v, _: next(iter(words_of(v)), None), type=object),
    extra("fsdp_config", "distributed.fsdp_config", type=dict),
    extra("debug", "", no_effect("the log says it all")),
    extra(
        "special_tokens",
        "",
        none("no tokens are added; model.pad_token names the padding"),
        type=dict,
    ),
    extra("tokens", "", none("no tokens are added"), type=list),
    extra("plugins", "", none("nbft runs no plug-ins of Axolotl"), type=list),
    extra("hub_model_id", "", none("nbft pushes nothing by itself; run.model() gives the adapter")),
    extra("rl", "", none("nbft imitates answers")),
)


def rules(work: Work) -> Iterator[Problem]:
    """Axolotl's own rules over several keys."""
    given = work.given
    if given.get("adapter") == "qlora" and not given.get("load_in_4bit"):
        yield Problem(
            "load_in_4bit",
            given.get("load_in_4bit"),
            "Axolotl: qlora requires load_in_4bit.",
            "Write true.",
        )
    if given.get("load_in_4bit") and given.get("load_in_8bit"):
        yield Problem(
            "load_in_8bit",
            True,
            "Axolotl: load_in_8bit and load_in_4bit are exclusive.",
            "Keep one.",
        )
    if given.get("warmup_steps") and given.get("warmup_ratio"):
        yield Problem(
            "warmup_ratio",
            given["warmup_ratio"],
            "Axolotl: warmup_steps and warmup_ratio are mutually exclusive.",
            "Keep one.",
        )
    if given.get("eval_strategy") and given.get("evals_per_epoch"):
        yield Problem(
            "evals_per_epoch",
            given["evals_per_epoch"],
            "Axolotl: goes with no eval_strategy.",
            "Keep one.",
        )
    if given.get("sample_packing") and given.get("rl"):
        yield Problem("sample_packing", True, "Axolotl: does not work with rl.", "Keep one.")


def settle(work: Work) -> None:
    """Sets of rows: those named on the hub have no path."""
    line = work.lines.get("val_set_size")
    if line is not None and line.kind == "defaulted":
        line.note = "theirs; ours is 0.9: none are held out"


SYSTEM = System(
    "axolotl",
    "Axolotl",
    TABLE,
    marks=frozenset(
        {
            "adapter",
            "micro_batch_size",
            "sequence_len",
            "sample_packing",
            "datasets",
            "val_set_size",
            "lora_target_linear",
        }
    ),
    languages=("yaml",),
    rules=rules,
    settle=settle,
)
