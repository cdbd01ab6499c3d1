"""QEfficient's YAML: `QEfficient.finetune.experimental`, core/config_manager.py.

Its loader silently drops unknown keys and only logs the problems it finds; the mistakes in its own
documentation and samples are fixed here, each with a note.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.errors import Problem
from nbft.interop.conversions import NOT_SET, OFF, half_precision, train_method
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.preferences import trl_name
from nbft.interop.table import UNSET, Convert, Converted

_ROWS = "data.train.datasets[0]"

_ONLY_TRAIN = {"yahma/alpaca-cleaned", "tatsu-lab/alpaca"}
"""Datasets on the Hub with a train split only."""

_SUBSET = {"openai/gsm8k": "main", "gsm8k": "main"}
"""The configuration that some datasets on the Hub need to be loaded."""


def _template(value: Any, work: Work) -> Converted:
    """Fix a template: an f before the quotes, quoted columns, escaped newlines."""
    if value is None:
        return NOT_SET
    text, notes = str(value), []
    if re.fullmatch(r"f(['\"]).*\1", text, re.DOTALL):
        try:
            text = ast.literal_eval(text[1:])
        except (SyntaxError, ValueError):
            text = text[2:-1]
        notes.append(
            "YAML has no f-strings: the f and the quotes are removed and \\n becomes a line break"
        )
    if re.search(r"\{\s*(['\"])\w+\1\s*\}", text):
        text = re.sub(r"\{\s*(['\"])(\w+)\1\s*\}", r"{\2}", text)
        notes.append("quotes inside the braces raise KeyError there; they are removed")
    return Converted(text, "; ".join(notes), "deviates" if notes else None)


def _function(value: Any, work: Work) -> Converted:
    """Find a function beside the file, in a package, or ours that builds the same prompt."""
    if value is None:
        return NOT_SET
    where, colon, name = str(value).rpartition(":")
    if not colon or not where or not name:
        work.wrong("dataset.prompt_func", value, "QEfficient: must be written <module>:<function>.")
        return Converted()
    as_path = where.replace(".", "/") if "/" not in where else where
    file = work.folder / f"{as_path.removesuffix('.py')}.py"
    if file.is_file():
        note = "found beside the file; QEfficient fails on a path with slashes"
        found = f"{as_path.removesuffix('.py')}:{name}"
        return Converted(found, note, "deviates") if "/" in where else Converted(found)
    if name == "create_alpaca_prompt":
        note = (
            f"{where} is not beside the file; nbft has the function, which writes the same prompt. "
            "QEfficient fails on a path with slashes, and skips rows with an empty input"
        )
        return Converted("nbft.data.ready:create_alpaca_prompt", note, "deviates")
    dotted = where.replace("/", ".")
    note = "not a file beside the config, so it must be an installed package"
    return Converted(f"{dotted}:{name}", note, "converted" if dotted != where else None)


def _subset(value: Any, work: Work) -> Converted:
    if value in (None, "default"):
        return Converted(kind="taken", note="the only configuration of the dataset")
    return Converted(value)


def _json_path(value: Any, work: Work) -> Converted:
    if value is None:
        return Converted(kind="taken", note="not set: dataset_name is used")
    return Converted(value)


def _precision(value: Any, work: Work) -> Converted:
    name = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}.get(str(value), value)
    if name == "fp32":
        return Converted(
            "no", "float32 throughout; QEfficient accepts fp32 and then crashes", "deviates"
        )
    return half_precision(name)


def _loss_back(value: Any, config: Config) -> Any:
    return UNSET if config.training.method != "dpo" else trl_name(value)


def _dataset_type(value: Any, work: Work) -> Converted:
    if value == "sft_dataset":
        note = "QEfficient registers it as sft_dataset"
        return Converted("seq_completion", note)
    if value == "dpo_dataset":
        return Converted("auto", "detected from the columns prompt, chosen and rejected")
    return Converted(value)


def _device(value: Any, work: Work) -> Converted:
    device = str(value).split(":")[0]
    if device == "qaic" and importlib.util.find_spec("torch_qaic") is None:
        note = "torch_qaic is not installed here, so the first available device is used"
        return Converted("auto", note, "converted")
    return Converted(device)


def _method(value: Any, work: Work) -> Converted:
    return train_method(value, work)


def _eval_strategy(value: Any, work: Work) -> Converted:
    if work.given.get("training.do_eval") is False:
        return Converted("no", "do_eval is false", "converted")
    return Converted(value)


def _do_eval(value: Any, work: Work) -> Converted:
    if value:
        return Converted(kind="taken", note="decided by eval_strategy")
    return Converted(more={"evaluation.eval_strategy": "no"}, note="never evaluated")


def _fsdp(value: Any, work: Work) -> Converted:
    if not value:
        return OFF
    return Converted(more={"distributed.fsdp": "full_shard", "distributed.fsdp_config": value})


def _method_of(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    if name in ("lora", "ia3"):
        note = "QEfficient ignores this key and always takes LoRA" if name == "ia3" else ""
        if work.given.get("model.use_peft") is False:
            return Converted(kind="taken", note="use_peft is false: there is no adapter")
        return Converted(name, note, "deviates" if note else None)
    work.wrong("model.peft_config.peft_type", value, "QEfficient: LORA or IA3.")
    return Converted()


_ARGUMENTS = {"start_step": "first_step", "end_step": "last_step"}


def _callback(value: Any, work: Work) -> Converted:
    """Convert a callback with its arguments; steps have other names here."""
    given = value if isinstance(value, dict) else {}
    known = {*_ARGUMENTS, *_ARGUMENTS.values()}
    kept = {_ARGUMENTS.get(name, name): item for name, item in given.items() if name in known}
    gone = [name for name in given if name not in known]
    note = f"nbft's has no {', '.join(gone)}" if gone else ""
    return Converted(kept, note, "deviates" if gone else "renamed")


def _resume(value: Any, work: Work) -> Converted:
    if value in (None, False):
        return NOT_SET
    return Converted("auto" if value is True else value)


def _unless(other: str) -> Convert:
    """Return a conversion of a key that QEfficient reads and does not use."""

    def convert(value: Any, work: Work) -> Converted:
        if other in work.given:
            note = f"{other} is given too and wins, as it does there"
            return Converted(kind="converted", note=note)
        return Converted(
            value, "QEfficient reads it and does not use it; nbft applies it", "deviates"
        )

    return convert


def _bias(value: Any, work: Work) -> Converted:
    if value is None:
        return Converted("none", "null crashes PEFT; taken as none")
    return Converted(value)


def _dataset_type_back(value: Any, config: Config) -> Any:
    is_theirs = value == "seq_completion" or registry.datasets.is_own(value)
    return value if is_theirs else UNSET


_ALPACA = "QEfficient.finetune.experimental.preprocessing.alpaca_func:create_alpaca_prompt"


def _function_back(value: Any, config: Config) -> Any:
    return _ALPACA if value == "nbft.data.ready:create_alpaca_prompt" else value or UNSET


def _device_back(value: Any, config: Config) -> Any:
    return UNSET if value in ("auto", "mps", "xpu") else value


def _optimizer_back(value: Any, config: Config) -> Any:
    return "adamw" if value in ("adamw_torch", "adamw_torch_fused") else value


def _tensorboard_back(value: Any, config: Config) -> Any:
    return {} if "tensorboard" in value else UNSET


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
            "QEfficient: a completion needs prompt_template or prompt_func.",
            "Add one.",
        )


def settle(work: Work) -> None:
    """Combine the dataset, and report where nbft differs from QEfficient."""
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
                    note = "PyTorch rejects it without workers; left out"
                    work.report(key, "deviates", note, value=None)
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
                work.report(key, "converted", "the template names the columns", setting="")
                work.lines[key].setting = ""


def _loss(work: Work) -> None:
    if work.settings.get("data.completion_only_loss") is False:
        key = "training.completion_only_loss"
        line = work.lines.get(key)
        if line is not None and line.kind == "defaulted":
            line.kind = "deviates"
            line.note = (
                "by default QEfficient trains on the prompt too and never on the end-of-text token; "
                "nbft trains on the completion and its end token"
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
            work.report("dataset.dataset_name", "converted", note)
            work.lines["dataset.dataset_name"].setting = ""
        for split in ("dataset.train_split", key):
            if split in work.lines:
                work.report(split, "converted", "a file has no splits; split_ratio divides it")
                work.lines[split].setting = ""
        work.settings.pop(f"{_ROWS}.split", None)
        return
    if name in _SUBSET and not work.settings.get(f"{_ROWS}.subset"):
        work.put(
            "dataset.config_name",
            "deviates",
            f"{name} cannot be loaded without one; QEfficient fails there",
            **{f"{_ROWS}.subset": _SUBSET[name]},
        )
    if of_test is None:
        return
    if name in _ONLY_TRAIN or name is None:
        note = "the dataset has only a train split; split_ratio divides it, as it does there"
        work.report(key, "converted", note if name else "no dataset is named")
        work.lines[key].setting = ""
        return
    work.drop_default("dataset.split_ratio")
    for setting, value in list(work.settings.items()):
        if setting.startswith(f"{_ROWS}."):
            held_out = setting.replace("data.train", "data.validation")
            work.settings.setdefault(held_out, value)
    work.settings["data.validation.datasets[0].split"] = of_test
    work.settings.pop("data.validation.datasets[0].sample_count", None)


SYSTEM = load_system("qefficient", globals(), rules=rules, settle=settle)
