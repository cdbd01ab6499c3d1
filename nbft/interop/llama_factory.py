"""LLaMA-Factory's flat YAML: `llamafactory-cli train FILE`.

Datasets are names in its dataset_info.json, which is read from the folder of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from nbft.errors import Problem
from nbft.interop.conversions import NOT_SET, held_out_share, words_of
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.table import Converted


def _method(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    if name in ("lora", "full"):
        return Converted(name)
    note = "nbft freezes by name: model.freeze_layers"
    return Converted("full", note, "impossible")


def _targets(value: Any, work: Work) -> Converted:
    names = words_of(value)
    if names == ["all"]:
        return Converted(["all-linear"], "all means every linear layer")
    return Converted(names)


def _bits(value: Any, work: Work) -> Converted:
    if value is None:
        return NOT_SET
    name = "load_in_8bit" if value == 8 else "load_in_4bit"
    if value not in (4, 8):
        return Converted(kind="impossible", note="bitsandbytes has 4 and 8 bits")
    return Converted(more={f"quantization.{name}": True}, kind="converted")


def _attention(value: Any, work: Work) -> Converted:
    names = {"fa2": "flash_attention_2", "sdpa": "sdpa", "disabled": "eager", "auto": None}
    if value not in names:
        return Converted(kind="impossible", note="nbft has eager, sdpa and flash_attention_2")
    return Converted(names[value])


def _val_size(value: Any, work: Work) -> Converted:
    return held_out_share(value, work) if value else Converted(kind="taken", note="none held out")


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
    """Find the datasets, and settle what depends on several keys."""
    for key, split in (("dataset", "train"), ("eval_dataset", "validation")):
        _datasets(work, key, split)
    if work.settings.get("peft.method") == "full":
        for key in ("lora_rank", "lora_target"):
            work.drop_default(key)
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
    for parent in (folder, work.folder):
        try:
            known |= json.loads((parent / "dataset_info.json").read_text(encoding="utf-8"))
            break
        except (OSError, ValueError, TypeError):
            continue
    notes = []
    for number, name in enumerate(names):
        block = f"data.{split}.datasets[{number}]"
        about = known.get(name, {}) if isinstance(known.get(name), dict) else {}
        if "file_name" in about:
            work.settings[f"{block}.path"] = str(parent / about["file_name"])
            notes.append(f"{name} is {about['file_name']} in dataset_info.json")
        elif about.get("hf_hub_url"):
            work.settings[f"{block}.dataset_name"] = about["hf_hub_url"]
        else:
            work.settings[f"{block}.dataset_name"] = name
            notes.append(f"{name}: not in a dataset_info.json, so it is a name on the Hub")
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
        value = work.settings.get(f"{setting}.path") or work.settings.get(f"{setting}.dataset_name")
        name = "path" if f"{setting}.path" in work.settings else "dataset_name"
        work.report(
            key, "converted" if notes else "renamed", "; ".join(notes), f"{setting}.{name}", value
        )


SYSTEM = load_system("llama_factory", globals(), rules=rules, settle=settle)
