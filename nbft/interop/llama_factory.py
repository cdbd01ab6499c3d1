"""LLaMA-Factory's flat YAML: `llamafactory-cli train FILE`.

Sets of rows are names in its dataset_info.json, which is read where it stands beside the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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


def _stage(value: Any, work: Work) -> Says:
    name = str(value).lower()
    if name == "sft":
        return Says("sft")
    if name == "pt":
        return Says("sft", "all of the text is learnt", None, {"data.completion_only_loss": False})
    if name == "dpo":
        return Says(more={"preference.method": "dpo"}, note="planned", kind="converted")
    return Says(kind="impossible", note=f"{name} is not among nbft's methods")


def _method(value: Any, work: Work) -> Says:
    name = str(value).lower()
    if name in ("lora", "full"):
        return Says(name)
    note = "nbft freezes by name: model.freeze_layers"
    return Says("full", note, "impossible")


def _targets(value: Any, work: Work) -> Says:
    names = words_of(value)
    if names == ["all"]:
        return Says(["all-linear"], "all stands for every linear layer")
    return Says(names)


def _alpha(value: Any, work: Work) -> Says:
    return Says(value)


def _bits(value: Any, work: Work) -> Says:
    if value is None:
        return Says(kind="taken", note="not set")
    name = "load_in_8bit" if value == 8 else "load_in_4bit"
    if value not in (4, 8):
        return Says(kind="impossible", note="bitsandbytes has 4 and 8 bits")
    return Says(more={f"quantization.{name}": True}, kind="converted")


def _attention(value: Any, work: Work) -> Says:
    names = {"fa2": "flash_attention_2", "sdpa": "sdpa", "disabled": "eager", "auto": None}
    if value not in names:
        return Says(kind="impossible", note="nbft has eager, sdpa and flash_attention_2")
    return Says(names[value])


def _half(name: str) -> Any:
    def convert(value: Any, work: Work) -> Says:
        if not value:
            return Says(kind="taken", note="off")
        return half_precision(name)

    return convert


def _rows(value: Any, work: Work) -> Says:
    return Says(kind="taken")


TABLE = (
    extra("model_name_or_path", "model.model_name"),
    extra("adapter_name_or_path", "model.adapter_name_or_path"),
    extra("trust_remote_code", "model.trust_remote_code"),
    extra("stage", "training.method", _stage, type=str),
    extra("do_train", "training.do_train"),
    extra("do_eval", "", no_effect("what eval_strategy says")),
    extra("do_predict", "", no_effect("run.evaluate() scores answers")),
    extra("predict_with_generate", "", no_effect("run.evaluate() scores answers")),
    extra(
        "finetuning_type",
        "peft.method",
        _method,
        type=str,
        choices=("lora", "full", "freeze", "oft"),
        default="lora",
    ),
    extra("lora_rank", "peft.r", default=8, low=1),
    extra("lora_alpha", "peft.lora_alpha", low=1),
    extra("lora_dropout", "peft.lora_dropout", low=0, high=1),
    extra("lora_target", "peft.target_modules", _targets, default="all"),
    extra("additional_target", "peft.modules_to_save", lambda v, _: words_of(v)),
    extra("use_rslora", "peft.use_rslora"),
    extra("use_dora", "peft.use_dora"),
    extra(
        "pissa_init", "peft.init_lora_weights", words({True: "pissa", False: "default"}), type=bool
    ),
    extra("loraplus_lr_ratio", "peft.loraplus_lr_ratio"),
    extra("quantization_bit", "", _bits, type=int),
    extra(
        "quantization_method", "", no_effect("bitsandbytes, as here"), also=("quantization_type",)
    ),
    extra("double_quantization", "quantization.bnb_4bit_use_double_quant"),
    extra("dataset", "data.train.datasets[0].dataset_name", _rows),
    extra("eval_dataset", "data.validation.datasets[0].dataset_name", _rows),
    extra("dataset_dir", "", no_effect("where dataset_info.json is looked for")),
    extra("media_dir", "", none("nbft trains on text")),
    extra("template", "", no_effect("the tokenizer's own chat template is used")),
    extra("cutoff_len", "data.max_length", default=2048, low=1),
    extra("max_samples", "data.train.datasets[0].sample_count", low=1),
    extra(
        "val_size",
        "data.split_ratio",
        lambda v, _: (
            Says(round(1 - v, 6), "the share held out there, the share trained on here")
            if 0 < v < 1
            else Says(kind="taken", note="none held out")
            if not v
            else Says(
                kind="impossible", note="a number of rows; nbft takes a share: data.split_ratio"
            )
        ),
        type=float,
        low=0,
    ),
    extra("overwrite_cache", "", no_effect("tokens are kept by their content")),
    extra("preprocessing_num_workers", "data.dataset_num_proc"),
    extra("dataloader_num_workers", "data.dataloader_num_workers"),
    extra("packing", "data.packing"),
    extra("neat_packing", "data.packing"),
    extra("train_on_prompt", "data.completion_only_loss", lambda v, _: not v, type=bool),
    extra(
        "mix_strategy",
        "data.train.mixture_strategy",
        words(
            {
                "concat": "first_exhausted",
                "interleave_under": "first_exhausted",
                "interleave_over": "all_exhausted",
            }
        ),
    ),
    extra("streaming", "data.train.stream"),
    extra("buffer_size", "data.train.shuffle_buffer_size"),
    extra("output_dir", "training.output_dir"),
    extra("logging_steps", "logging.logging_steps"),
    extra("logging_dir", "logging.logging_dir"),
    extra("save_steps", "checkpoint.save_steps", type=int),
    extra(
        "save_strategy",
        "checkpoint.save_strategy",
        choices=("no", "steps", "epoch", "best"),
        type=str,
    ),
    extra("save_total_limit", "checkpoint.save_total_limit"),
    extra("save_only_model", "checkpoint.save_only_model"),
    extra("plot_loss", "", no_effect("curves are always drawn")),
    extra("overwrite_output_dir", "checkpoint.overwrite_output_dir"),
    extra("report_to", "tracking.report_to", lambda v, _: [n for n in words_of(v) if n != "none"]),
    extra("run_name", "training.run_name"),
    extra("per_device_train_batch_size", "training.per_device_train_batch_size", default=8, low=1),
    extra("per_device_eval_batch_size", "evaluation.per_device_eval_batch_size", default=8, low=1),
    extra("gradient_accumulation_steps", "training.gradient_accumulation_steps", default=1, low=1),
    extra("learning_rate", "training.learning_rate", default=5e-5, low=0, beyond_low=True),
    extra("num_train_epochs", "training.num_train_epochs", default=3.0),
    extra("max_steps", "training.max_steps"),
    extra("lr_scheduler_type", "scheduler.lr_scheduler_type", default="linear"),
    extra("lr_scheduler_kwargs", "scheduler.lr_scheduler_kwargs", type=dict),
    extra("warmup_ratio", "scheduler.warmup_steps", warmup_ratio, type=float, low=0, high=1),
    extra("warmup_steps", "scheduler.warmup_steps", default=0.0),
    extra("optim", "optimizer.optim", optimizer, type=str),
    extra("weight_decay", "optimizer.weight_decay"),
    extra("adam_beta1", "optimizer.adam_beta1"),
    extra("adam_beta2", "optimizer.adam_beta2"),
    extra("adam_epsilon", "optimizer.adam_epsilon"),
    extra("max_grad_norm", "training.max_grad_norm"),
    extra("neftune_noise_alpha", "training.neftune_noise_alpha"),
    extra("bf16", "precision.mixed_precision", _half("bf16"), type=bool),
    extra("fp16", "precision.mixed_precision", _half("fp16"), type=bool),
    extra("pure_bf16", "model.dtype", words({True: "bfloat16", False: "auto"}), type=bool),
    extra("gradient_checkpointing", "memory.gradient_checkpointing"),
    extra(
        "disable_gradient_checkpointing",
        "memory.gradient_checkpointing",
        lambda v, _: not v,
        type=bool,
    ),
    extra("flash_attn", "model.attn_implementation", _attention, type=str),
    extra("enable_liger_kernel", "model.use_liger_kernel"),
    extra("use_unsloth", "", none("nbft trains with transformers, TRL and PEFT")),
    extra(
        "eval_strategy",
        "evaluation.eval_strategy",
        default="no",
        choices=("no", "steps", "epoch"),
        type=str,
        also=("evaluation_strategy",),
    ),
    extra("eval_steps", "evaluation.eval_steps", type=int),
    extra("load_best_model_at_end", "checkpoint.load_best_model_at_end"),
    extra("metric_for_best_model", "checkpoint.metric_for_best_model"),
    extra("seed", "training.seed"),
    extra(
        "group_by_length",
        "data.train_sampling_strategy",
        words({True: "group_by_length", False: "random"}),
        type=bool,
    ),
    extra("resume_from_checkpoint", "training.resume_from_checkpoint"),
    extra("ddp_timeout", "distributed.ddp_timeout"),
    extra("deepspeed", "distributed.deepspeed"),
    extra("fsdp", "distributed.fsdp", lambda v, _: next(iter(words_of(v)), None)),
    extra("fsdp_config", "distributed.fsdp_config", type=dict),
    extra("pref_beta", "preference.beta"),
    extra("pref_loss", "preference.loss_type"),
    *(
        extra(name, "", no_effect("Ray starts processes; nbft trains in one"))
        for name in (
            "ray_run_name",
            "ray_storage_path",
            "ray_num_workers",
            "resources_per_worker",
            "placement_strategy",
        )
    ),
)


def rules(work: Work) -> Iterator[Problem]:
    """LLaMA-Factory's own rules over several keys."""
    given = work.given
    if (
        given.get("quantization_bit")
        and str(given.get("finetuning_type", "lora")).lower() != "lora"
    ):
        yield Problem(
            "quantization_bit",
            given["quantization_bit"],
            "LLaMA-Factory: quantisation goes with the LoRA method only.",
            "Write finetuning_type: lora.",
        )
    if given.get("bf16") and given.get("fp16"):
        yield Problem(
            "fp16", True, "LLaMA-Factory: at most one of fp16 and bf16 can be on.", "Keep one."
        )
    if given.get("val_size") and given.get("eval_dataset"):
        yield Problem(
            "val_size",
            given["val_size"],
            "LLaMA-Factory: eval_dataset and val_size are exclusive.",
            "Keep one.",
        )


def settle(work: Work) -> None:
    """Find the sets of rows, and what depends on several keys."""
    for key, split in (("dataset", "train"), ("eval_dataset", "validation")):
        _datasets(work, key, split)
    if work.settings.get("peft.method") == "full":
        for key in ("lora_rank", "lora_target"):
            if key in work.lines and work.lines[key].kind == "defaulted":
                work.settings.pop(work.lines.pop(key).setting, None)
    elif "lora_alpha" not in work.lines:
        rank = work.settings.get("peft.r", 8)
        work.put(
            "lora_alpha", "defaulted", "theirs: twice the rank", peft__lora_alpha=2 * int(rank)
        )
    if not work.given.get("val_size") and "eval_dataset" not in work.given:
        work.put(
            "val_size", "defaulted", "theirs; ours is 0.9: none are held out", data__split_ratio=1.0
        )


def _datasets(work: Work, key: str, split: str) -> None:
    count = (
        work.settings.pop("data.train.datasets[0].sample_count", None) if split == "train" else None
    )
    names = words_of(work.given.get(key))
    folder = work.folder / str(work.given.get("dataset_dir") or "data")
    known: dict[str, Any] = {}
    for place in (folder, work.folder):
        try:
            known |= json.loads((place / "dataset_info.json").read_text(encoding="utf-8"))
            break
        except (OSError, ValueError, TypeError):
            continue
    notes = []
    for number, name in enumerate(names):
        block = f"data.{split}.datasets[{number}]"
        about = known.get(name, {}) if isinstance(known.get(name), dict) else {}
        if "file_name" in about:
            work.settings[f"{block}.path"] = str(place / about["file_name"])
            notes.append(f"{name} is {about['file_name']} in dataset_info.json")
        elif about.get("hf_hub_url"):
            work.settings[f"{block}.dataset_name"] = about["hf_hub_url"]
        else:
            work.settings[f"{block}.dataset_name"] = name
            notes.append(
                f"{name}: no dataset_info.json says where it is, so it is a name on the hub"
            )
        columns = dict(about.get("columns") or {})
        renamed = {
            ours: columns[theirs]
            for theirs, ours in (
                ("prompt", "instruction"),
                ("query", "input"),
                ("response", "output"),
            )
            if columns.get(theirs) and columns[theirs] != ours
        }
        if renamed:
            work.settings[f"{block}.columns"] = renamed
        if count:
            work.settings[f"{block}.sample_count"] = count
    if names:
        setting = f"data.{split}.datasets[0]"
        found = work.settings.get(f"{setting}.path") or work.settings.get(f"{setting}.dataset_name")
        name = "path" if f"{setting}.path" in work.settings else "dataset_name"
        work.say(
            key, "converted" if notes else "renamed", "; ".join(notes), f"{setting}.{name}", found
        )


SYSTEM = System(
    "llama_factory",
    "LLaMA-Factory",
    TABLE,
    marks=frozenset(
        {
            "finetuning_type",
            "cutoff_len",
            "template",
            "lora_target",
            "dataset_dir",
            "quantization_bit",
        }
    ),
    rules=rules,
    settle=settle,
)
