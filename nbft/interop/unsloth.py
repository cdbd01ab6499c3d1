"""Settings of Unsloth and TRL: `SFTConfig`, `LoraConfig` and related calls.

They come from Python (a script or notebook, parsed but never run), or from flat JSON or YAML, such
as for `trl sft --config` or an adapter's config saved by PEFT.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from nbft.errors import Problem
from nbft.interop.conversions import half_precision
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.read import Code, Document
from nbft.interop.table import Convert, Converted

_CALLS = {
    "SFTConfig": "SFTConfig",
    "TrainingArguments": "SFTConfig",
    "UnslothTrainingArguments": "SFTConfig",
    "DPOConfig": "DPOConfig",
    "LoraConfig": "LoraConfig",
    "get_peft_model": "LoraConfig",
    "FastLanguageModel.get_peft_model": "LoraConfig",
    "FastModel.get_peft_model": "LoraConfig",
    "FastVisionModel.get_peft_model": "LoraConfig",
    "FastLanguageModel.from_pretrained": "from_pretrained",
    "FastModel.from_pretrained": "from_pretrained",
    "AutoModelForCausalLM.from_pretrained": "from_pretrained",
    "AutoTokenizer.from_pretrained": "AutoTokenizer",
    "BitsAndBytesConfig": "BitsAndBytesConfig",
    "load_dataset": "load_dataset",
    "SFTTrainer": "SFTTrainer",
    "UnslothTrainer": "SFTTrainer",
}
"""Calls whose keyword arguments are settings, and the block that each belongs to."""


def _switch(name: str) -> Convert:
    def convert(value: Any, work: Work) -> Converted:
        if value == "auto":
            return Converted("auto", "decided by the device, as there", "converted")
        if value:
            return half_precision(name)
        other = {"bf16": "fp16", "fp16": "bf16"}[name]
        if work.given.get(other):
            return Converted(kind="taken", note=f"{other} decides")
        return Converted("no", kind="converted")

    return convert


def _targets(value: Any, work: Work) -> Converted:
    if value is None:
        return Converted(["all-linear"], "null lets PEFT choose by model", "converted")
    return Converted([value] if isinstance(value, str) else list(value))


def _checkpointing(value: Any, work: Work) -> Converted:
    if value == "unsloth":
        return Converted(True, "Unsloth's own variant; nbft uses the standard one", "converted")
    return Converted(bool(value))


def _peft_type(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    if name in ("lora", "ia3"):
        return Converted(name)
    return Converted(kind="impossible", note=f"nbft has lora, ia3 and full, no {value}")


_ROWS = "data.train.datasets[0]"


def _text_field(value: Any, work: Work) -> Converted:
    if value == "text":
        return Converted(kind="taken", note="the column that nbft uses by default")
    return Converted([value], kind="converted")


def prepare(document: Document) -> Document:
    """Collect the keyword arguments of calls that hold settings, or the assigned names."""
    if document.language != "python":
        return document
    tree: dict[str, Any] = {}
    calls = dict(document.tree)
    names = calls.pop("", {})
    for called, block in calls.items():
        if called in _CALLS:
            tree.setdefault(_CALLS[called], {}).update(
                {name: _value(name, value) for name, value in block.items()}
            )
    known = {entry.path: entry for entry in SYSTEM.table}
    if not tree:
        tree = {name: value for name, value in names.items() if name in known}
    if not tree:
        used = {n.id for n in ast.walk(ast.parse(document.text)) if isinstance(n, ast.Name)}
        tree = {name: None for name in known if name in used and known[name].is_documented}
    adapter = tree.get("LoraConfig", {})
    for name in ("[0]", "[1]"):  # the model and the config that get_peft_model is given
        adapter.pop(name, None)
    return Document(document.path, "python", tree, document.lines, document.remarks, document.text)


def _value(name: str, value: Any) -> Any:
    checks = ("is_bfloat16_supported", "is_bf16_supported")
    if name in ("fp16", "bf16") and isinstance(value, Code):
        return "auto" if any(check in value.text for check in checks) else value
    return value


def rules(work: Work) -> Iterator[Problem]:
    """Their own rules over several keys."""
    given = work.given
    if given.get("bf16") is True and given.get("fp16") is True:
        yield Problem(
            "fp16", True, "transformers: at most one of fp16 and bf16 can be on.", "Keep one."
        )
    if given.get("load_in_4bit") is True and given.get("load_in_8bit") is True:
        yield Problem(
            "load_in_8bit",
            True,
            "bitsandbytes: load_in_4bit and load_in_8bit are exclusive.",
            "Keep one.",
        )


def settle(work: Work) -> None:
    """Drop defaults of absent blocks, and find out whether an adapter is trained."""
    tree = work.document.tree
    has_arguments = "SFTConfig" in tree or "DPOConfig" in tree
    if work.document.language != "python":
        has_arguments = any(key.rpartition(".")[2] in _OF_TRAINING for key in work.lines)
    adapter = {"r", "lora_r", "lora_alpha", "target_modules", "lora_target_modules", "peft_type"}
    has_adapter = "LoraConfig" in tree or any(k.rpartition(".")[2] in adapter for k in _given(work))
    for key in list(work.lines):
        if not (has_adapter if key in ("r", "lora_alpha") else has_arguments):
            work.drop_default(key)
    if has_arguments and not has_adapter and "peft.method" not in work.settings:
        work.settings["peft.method"] = "full"
        key = "use_peft" if work.document.language != "python" else "peft_config"
        if key not in work.lines:
            work.report(
                key,
                "defaulted",
                "without a LoraConfig all weights are trained",
                "peft.method",
                "full",
            )
    strategy = work.settings.get("data.validation.datasets[0].split")
    if strategy and f"{_ROWS}.dataset_name" in work.settings:
        for setting, value in list(work.settings.items()):
            if setting.startswith(f"{_ROWS}."):
                work.settings.setdefault(setting.replace("data.train", "data.validation"), value)
    elif strategy:
        work.settings.pop("data.validation.datasets[0].split")
    if "LoraConfig" in tree and has_arguments is False:
        work.settings.setdefault("peft.method", "lora")


def _given(work: Work) -> Iterator[str]:
    return (key for key, line in work.lines.items() if line.kind != "defaulted")


_OF_TRAINING = {
    *("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("num_train_epochs", "max_steps", "output_dir", "lr_scheduler_type", "dataset_name"),
}

SYSTEM = load_system("unsloth", globals(), prepare=prepare, rules=rules, settle=settle)
