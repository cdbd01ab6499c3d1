"""Settings of Unsloth and TRL: `SFTConfig`, `LoraConfig` and related calls.

They come from Python (a script or notebook, parsed but never run), or from flat JSON or YAML, such
as for `trl sft --config` or an adapter's config saved by PEFT.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from nbft.errors import ConfigError, Problem
from nbft.interop.conversions import half_precision
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.preferences import has_rewards, is_preference, is_reward_model, method_in
from nbft.interop.read import Document
from nbft.interop.report import Line
from nbft.interop.scripts.cells import read_script
from nbft.interop.scripts.evaluation import Program, block_of
from nbft.interop.scripts.notes import Note, RefusalError, known_methods, unknown_method
from nbft.interop.scripts.training import Training, find_training
from nbft.interop.scripts.values import Code
from nbft.interop.table import Convert, Converted
from nbft.models.peft_types import peft_types


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
    return Converted(value if isinstance(value, str) else list(value))


def _checkpointing(value: Any, work: Work) -> Converted:
    if value == "unsloth":
        return Converted(True, "Unsloth's own variant; nbft uses the standard one", "converted")
    return Converted(bool(value))


def _peft_type(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    if name in peft_types():
        return Converted(name)
    known = ", ".join(peft_types())
    return Converted(kind="impossible", note=f"nbft has {known} and full, no {value}")


def _save_steps(value: Any, work: Work) -> Converted:
    if value == 0:
        note = "0 saves nothing while training"
        return Converted(note=note, kind="converted", more={"checkpoint.save_strategy": "no"})
    return Converted(value)


def _off(value: Any, work: Work) -> Converted:
    """Convert a switch that nbft does not have."""
    if not value or value == "none":
        return Converted(kind="taken", note="off, as here")
    return Converted(kind="impossible", note="nbft has nothing like it")


def _layers(value: Any, work: Work) -> Converted:
    """Convert a switch for a part of the layers that Unsloth adapts."""
    if value is False:
        return Converted(kind="impossible", note="name the layers to train in peft.target_modules")
    return Converted(kind="taken", note="on, as here")


_ROWS = "data.train.datasets[0]"


def _text_field(value: Any, work: Work) -> Converted:
    if work.document.language == "python":
        return Converted(kind="converted", note="the text of train_dataset")
    if value == "text":
        return Converted(kind="taken", note="the column that nbft uses by default")
    return Converted([value], kind="converted")


def prepare(document: Document) -> Document:
    """Collect the arguments of the calls that make up the training, or the assigned names.

    Raises:
        ConfigError: The file trains by a method that nbft does not have.
    """
    if document.language != "python" or document.program is None:
        return document
    training, document = _training_of(document)
    tree: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for block, call in training.blocks.items() if training else ():
        values = block_of(call)
        for name in _NO_SETTINGS.get(block, ()):
            values.pop(name, None)
        values = {_POSITIONAL.get((block, n), n): v for n, v in values.items() if n[0] != "*"}
        tree[block] = {name: _value(name, value) for name, value in values.items()}
        lines |= {f"{block}.{name}": call.lines.get(name, call.line) for name in tree[block]}
    names = document.tree.get("", {})
    if training is None:
        known = {entry.path: entry for entry in SYSTEM.table}
        tree = {name: value for name, value in names.items() if name in known}
        lines = {name: document.lines[name] for name in tree if name in document.lines}
    if training is None and not tree:
        used = {n.id for n in _nodes(document) if isinstance(n, ast.Name)}
        tree = {name: None for name in known if name in used and known[name].is_documented}
    tree = {block: values for block, values in tree.items() if values != {}}
    if not tree and training is None:
        raise ConfigError(
            f"{document.path}: creates no trainer of TRL, transformers or Unsloth, and loads no model, "
            "so there is no training to import."
        )
    if training and not training.has_trainer:
        document.remarks.append("The file creates no trainer: what it would train is a guess.")
    return dataclasses.replace(document, tree=tree, lines=lines, training=training)


def _training_of(document: Document) -> tuple[Training | None, Document]:
    """Return what a document trains; of a notebook that only writes scripts, what they train."""
    document = dataclasses.replace(document, remarks=list(document.remarks))
    folder = document.path.absolute().parent
    program, statements = document.program, document.statements
    assert program is not None
    assert statements is not None
    try:
        training = find_training(program, folder)
        for name, text in statements.written.items():
            if training is not None and training.has_trainer:
                break
            script = read_script(Path(name), text)
            found = find_training(Program(script.body), folder)
            if found is not None and found.has_trainer:
                training, document.statements = found, script
                document.remarks.append(f"The notebook writes {name}, which trains; it is read.")
    except RefusalError as refusal:
        place = statements.place(refusal.line)
        raise ConfigError(f"{document.path}, {place}: {refusal}") from None
    return training, document


def _nodes(document: Document) -> Iterator[ast.AST]:
    assert document.statements is not None
    for statement in document.statements.body:
        yield from ast.walk(statement)


_NO_SETTINGS = {
    "LoraConfig": ("[0]", "[1]", "model", "peft_config"),
    "SFTTrainer": (
        *(f"[{number}]" for number in range(8)),
        *("args", "train_dataset", "eval_dataset", "formatting_func", "peft_config", "ref_model"),
    ),
}
"""Arguments that are followed to what they hold."""

_POSITIONAL = {
    ("SFTConfig", "[0]"): "output_dir",
    ("from_pretrained", "[1]"): "max_seq_length",
}


def _value(name: str, value: Any) -> Any:
    if name == "device_map" and isinstance(value, dict):
        return "" if list(value) == [""] else Code("a map of layers")
    checks = ("is_bfloat16_supported", "is_bf16_supported")
    if name in ("fp16", "bf16") and isinstance(value, Code):
        return "auto" if any(check in value.text for check in checks) else value
    return value


def rules(work: Work) -> Iterator[Problem]:
    """Their own rules over several keys."""
    given = work.given
    if work.document.language != "python":
        for key, method in _OF_METHODS.items():
            if given.get(key) is not None and method not in known_methods():
                work.refuse(key, given[key], unknown_method(method, f"a file with {key}"))
                return
        _flat_method(work)
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


def _flat_method(work: Work) -> None:
    """Take the method from the keys of a flat file, which names no trainer."""
    for key, method in _OF_METHODS.items():
        if work.given.get(key) is not None:
            note = f"only the arguments of TRL's {method.upper()} have it"
            work.put(f"trl {method}", "converted", f"{key}: {note}", training__method=method)
            return


_OF_METHODS = {
    **dict.fromkeys(("num_generations", "reward_funcs"), "grpo"),
    **dict.fromkeys(("center_rewards_coefficient",), "reward"),
    **dict.fromkeys(("desirable_weight", "undesirable_weight"), "kto"),
    **dict.fromkeys(("cpo_alpha", "simpo_gamma"), "cpo"),
    **dict.fromkeys(
        ("beta", "rpo_alpha", "ref_model_init_kwargs", "precompute_ref_log_probs"), "dpo"
    ),
    "max_completion_length": "grpo",
}
"""Keys of a flat file that only the arguments of other methods have."""


def settle(work: Work) -> None:
    """Drop defaults of absent blocks, and find out whether an adapter is trained."""
    tree, training = work.document.tree, work.document.training
    if has_rewards(method_in(work)):
        if "preference.beta" in work.settings:
            work.settings["grpo.beta"] = work.settings.pop("preference.beta")
        if work.settings.get("preference.max_prompt_length"):
            note = "prompts longer than data.max_length are left out"
            work.leave_out("preference.max_prompt_length", "impossible", note)
    has_arguments = training is not None and (training.has_trainer or "SFTConfig" in tree)
    if work.document.language != "python":
        has_arguments = any(key.rpartition(".")[2] in _OF_TRAINING for key in _given(work))
    adapter = {"r", "lora_r", "lora_alpha", "target_modules", "lora_target_modules", "peft_type"}
    has_adapter = bool(training and training.has_adapter) or any(
        k.rpartition(".")[2] in adapter for k in _given(work)
    )
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
    if has_adapter and not has_arguments:
        work.settings.setdefault("peft.method", "lora")
    if training is not None:
        for note in training.notes:
            _take(work, note)
        return
    if not has_arguments:
        return
    if work.settings.get("evaluation.eval_strategy", "no") == "no":
        note = "no rows are held out: all are trained on, as there"
        work.put("eval_dataset", "defaulted", note, data__split_ratio=1.0)
    asked = work.settings.get("training.method")
    if is_preference(asked) or has_rewards(asked):
        line = work.lines.get("learning_rate")
        if line is not None and line.kind == "defaulted":
            rate = 1e-4 if is_reward_model(asked) else 1e-6
            work.put("learning_rate", "defaulted", "theirs", training__learning_rate=rate)
        return
    if not {"completion_only_loss", "assistant_only_loss"} & {
        key for key, value in work.given.items() if value is not None
    }:
        why = "TRL trains on the whole text, unless the rows have a prompt and a completion"
        work.put("completion_only_loss", "defaulted", why, data__completion_only_loss=False)


def _take(work: Work, note: Note) -> None:
    """Add a note on what a script trains to the report, and its settings to ours."""
    for key, line in list(work.lines.items()):
        if line.setting in note.changes and (line.kind == "defaulted" or key == note.key):
            del work.lines[key]
    number, cell = work.document.place(note.line)
    line = Line(note.key, note.value, note.kind, note=note.text, line=number, cell=cell)
    for setting, value in note.changes.items():
        line.setting, line.became = setting, value
        work.settings[setting] = value
    work.lines[_free(note.key, work.lines)] = line


def _free(key: str, lines: Collection[str]) -> str:
    """Return a key that no line has yet."""
    return next(k for n in itertools.count() if (k := key + "'" * n) not in lines)


def _given(work: Work) -> Iterator[str]:
    return (key for key, line in work.lines.items() if line.kind != "defaulted")


_OF_TRAINING = {
    *("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("num_train_epochs", "max_steps", "output_dir", "lr_scheduler_type", "dataset_name"),
}

SYSTEM = load_system("unsloth", globals(), prepare=prepare, rules=rules, settle=settle)
