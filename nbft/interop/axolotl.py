"""Axolotl's flat YAML: `axolotl train FILE`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbft.errors import Problem
from nbft.interop.conversions import NOT_SET, OFF
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.table import Convert, Converted

_ROWS = "data.train.datasets[]"

_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def _adapter(value: Any, work: Work) -> Converted:
    if value in (None, ""):
        return Converted("full", "without an adapter all weights are trained", "converted")
    name = str(value).lower()
    if name == "qlora":
        return Converted(
            "lora", "LoRA on weights in 4 bits", "converted", {"quantization.load_in_4bit": True}
        )
    return (
        Converted(name)
        if name == "lora"
        else Converted("lora", f"nbft has no {name}", "impossible")
    )


def _path(value: Any, work: Work) -> Converted:
    text = str(value)
    is_file = Path(text).suffix.lower() in _FILES or text.startswith(("./", "/", "~"))
    if is_file:
        return Converted(value)
    return Converted(more={f"{_ROWS}.dataset_name": text}, kind="renamed")


_KINDS = {
    "alpaca": "alpaca",
    "chat_template": "auto",
    "chatml": "auto",
    "sharegpt": "sharegpt",
    "completion": "text",
    "input_output": "auto",
}


def _kind(value: Any, work: Work) -> Converted:
    if isinstance(value, dict):
        return Converted(
            kind="impossible", note="write prompt_template and completion_template instead"
        )
    name = str(value).partition(":")[0].partition(".")[0]
    if name not in _KINDS:
        return Converted("auto", f"nbft has no {value}; the columns decide", "deviates")
    note = "detected from the columns" if _KINDS[name] == "auto" else ""
    return Converted(_KINDS[name], note)


def _attention(name: str) -> Convert:
    def convert(value: Any, work: Work) -> Converted:
        from nbft.hardware import available_devices

        if not value:
            return OFF
        if name == "flash_attention_2" and "cuda" not in available_devices():
            return Converted(
                "sdpa", "flash attention needs a GPU; sdpa gives the same results", "converted"
            )
        return Converted(name)

    return convert


def _each_epoch(setting: str) -> Convert:
    """Return a conversion of saves_per_epoch and evals_per_epoch."""

    def convert(value: Any, work: Work) -> Converted:
        if not value:
            return NOT_SET
        note = "" if value == 1 else f"{value} in an epoch there; once here, or write {setting}"
        return Converted("epoch", note, "converted" if value == 1 else "deviates")

    return convert


def _targets(value: Any, work: Work) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ["all-linear"])


def _min_lr_ratio(value: Any, work: Work) -> Converted:
    return Converted(value, more={"scheduler.lr_scheduler_type": "cosine_with_min_lr"})


def _eval_steps(value: Any, work: Work) -> Converted:
    return Converted(int(value), more={"evaluation.eval_strategy": "steps"})


def _project(value: Any, work: Work) -> Converted:
    return Converted(value, more={"tracking.report_to": ["wandb"]}) if value else NOT_SET


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
    """Explain the default of val_set_size."""
    line = work.lines.get("val_set_size")
    if line is not None and line.kind == "defaulted":
        line.note = "theirs; ours is 0.9: none are held out"


SYSTEM = load_system("axolotl", globals(), rules=rules, settle=settle)
