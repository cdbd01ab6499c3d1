"""The list to go through before a run is started, ticked by checks that ran.

After the final checklist of PEFT Studio. Shown on the form's Review tab and at the end of
`nbft config create`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nbft.config import Config
from nbft.data.sources import is_there
from nbft.errors import NbftError
from nbft.formatting import count, duration, number, size
from nbft.models.adapters import base_name
from nbft.models.find import find_local
from nbft.plan.plan import Plan, _examples

State = Literal["passed", "to mend", "not known"]

_MARKS: dict[State, str] = {"passed": "[x]", "to mend": "[ ]", "not known": "[?]"}
_KEYS = {"wandb": "WANDB_API_KEY", "comet_ml": "COMET_API_KEY", "phoenix": "PHOENIX_API_KEY"}
"""Trackers that want a login, and the variable that holds it."""

_BYTES_A_WEIGHT = 12
"""A trained weight in a checkpoint: itself and the optimiser's two moments, in float32."""


@dataclass(frozen=True)
class Item:
    """One line of the list.

    Attributes:
        title: What was checked.
        state: What came out.
        text: What was found, in words.
    """

    title: str
    state: State
    text: str

    def __str__(self) -> str:
        """Return the line with a mark: [x] passed, [ ] to mend, [?] not known."""
        return f"{_MARKS[self.state]} {self.title}: {self.text}"


def checklist(plan: Plan, *, folder: Path | None = None) -> list[Item]:
    """Return what was checked before a run, and what came out.

    Args:
        plan: What the run will be.
        folder: Folder of the config file, for relative paths.
    """
    lines = (
        _model(plan),
        _method(plan),
        _settings(plan),
        _machine(plan),
        _memory(plan),
        _time(plan),
        _rows(plan),
        _template(plan, folder),
        _tracking(plan),
        _output(plan),
    )
    return [Item(*line) for line in lines]


_Line = tuple[str, State, str]

_PLACES = {
    "Model": ("model.",),
    "Method": ("peft.", "quantization.", "preference."),
    "Machine": ("compute.", "precision.", "memory.", "speed.", "distributed."),
    "Rows": ("data.", "data"),
    "Tracking": ("tracking.", "logging."),
    "Output folder": ("training.output_dir",),
}


def _wrong(plan: Plan, title: str) -> str:
    """Return the problems that stop a run and belong to a line, as text."""
    places = _PLACES.get(title)
    everywhere = tuple(place for places in _PLACES.values() for place in places)
    found = [
        str(problem)
        for problem in plan.errors
        if (
            problem.field.startswith(places) if places else not problem.field.startswith(everywhere)
        )
    ]
    return " ".join(found)


def _model(plan: Plan) -> _Line:
    if wrong := _wrong(plan, "Model"):
        return "Model", "to mend", wrong
    config = plan.config
    found = find_local(base_name(config), config.model.model_revision)
    if found is None:
        text = f"{config.model.model_name} is not on this machine; the start of the run fetches it."
        return "Model", "not known", text
    many = f", {count(plan.total_parameters, 'parameter')}" if plan.total_parameters else ""
    return "Model", "passed", f"{config.model.model_name} is here ({found.source}){many}."


def _method(plan: Plan) -> _Line:
    if wrong := _wrong(plan, "Method"):
        return "Method", "to mend", wrong
    name = method_of(plan.config)
    if plan.trainable_parameters is None:
        return "Method", "passed", f"{name}; the settings go together."
    return "Method", "passed", f"{name} trains {count(plan.trainable_parameters, 'parameter')}."


def method_of(config: Config) -> str:
    """Name the method of a config as people do.

    >>> method_of(Config(quantization={"load_in_4bit": True}))
    'QLoRA'
    """
    if config.peft.method == "full":
        return "Full training"
    if config.peft.method == "ia3":
        return "IA3"
    name = "DoRA" if config.peft.use_dora else "LoRA"
    return f"Q{name}" if config.quantization.bits else name


def _settings(plan: Plan) -> _Line:
    if wrong := _wrong(plan, "Hyperparameters"):
        return "Hyperparameters", "to mend", wrong
    rate = f"learning rate {number(plan.config.training.learning_rate)}"
    steps = f"{count(plan.total_steps, 'step')} of " if plan.total_steps else ""
    doubts = f"; {count(len(plan.warnings), 'warning')}" if plan.warnings else ""
    rows = count(plan.effective_batch_size, "row")
    return "Hyperparameters", "passed", f"{steps}{rows}, {rate}{doubts}."


def _machine(plan: Plan) -> _Line:
    if wrong := _wrong(plan, "Machine"):
        return "Machine", "to mend", wrong
    return "Machine", "passed", f"{plan.device}, {plan.dtype}."


def _memory(plan: Plan) -> _Line:
    free = f"{size(plan.free_memory_bytes)} free"
    if plan.memory_bytes is None:
        return "Memory", "not known", f"{free}; the need is known once model and rows are here."
    fits = plan.memory_bytes <= plan.free_memory_bytes
    text = f"about {size(plan.memory_bytes)} needed, {free}."
    return "Memory", "passed" if fits else "to mend", text


def _time(plan: Plan) -> _Line:
    if plan.seconds is None:
        return "Time", "not known", "told after the first steps."
    return "Time", "passed", f"about {duration(plan.seconds)}."


def _rows(plan: Plan) -> _Line:
    if wrong := _wrong(plan, "Rows"):
        return "Rows", "to mend", wrong
    if plan.train_rows is None:
        return "Rows", "not known", "they are a stream, which is read while training."
    held_out = f"{count(plan.eval_rows or 0)} held out"
    return "Rows", "passed", f"{count(plan.train_rows, 'row')} read, {held_out}."


def _template(plan: Plan, folder: Path | None) -> _Line:
    """Check that rows which are conversations have a template that writes them."""
    title, config = "Chat template", plan.config
    try:
        examples, _ = _examples(config, "train", folder)
        is_chat = bool(examples[0].messages)
    except (NbftError, IndexError):
        return title, "not known", "waits for rows that can be read."
    if not is_chat:
        return title, "passed", "not needed: the rows are prompts and completions."
    if config.model.chat_template or config.model.chat_template_path:
        return title, "passed", "the one of the settings."
    found = find_local(base_name(config), config.model.model_revision)
    if found is None:
        return title, "not known", "the rows are conversations; the model is not here yet."
    if _has_template(found.path):
        return title, "passed", "the rows are conversations, and the model has a template."
    text = "the rows are conversations, and the model has none. Use model.chat_template=chatml."
    return title, "to mend", text


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        about = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(about.get("chat_template"))


def _tracking(plan: Plan) -> _Line:
    if wrong := _wrong(plan, "Tracking"):
        return "Tracking", "to mend", wrong
    names = plan.config.tracking.report_to
    if not names:
        return "Tracking", "passed", "the run's own log; no tracker was asked for."
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    absent = [name for name in absent if name != "phoenix"]  # a part of other packages
    if absent:
        return "Tracking", "to mend", f"not installed: {', '.join(absent)}."
    unknown = [name for name in names if name in _KEYS and not os.environ.get(_KEYS[name])]
    if unknown:
        keys = ", ".join(_KEYS[name] for name in unknown)
        text = f"{', '.join(unknown)} wants a login, and {keys} is not set; a saved login counts."
        return "Tracking", "not known", text
    return "Tracking", "passed", f"{', '.join(names)}."


def _output(plan: Plan) -> _Line:
    title = "Output folder"
    if wrong := _wrong(plan, title):
        return title, "to mend", wrong
    place = Path(plan.config.training.output_dir).expanduser().absolute()
    while not is_there(place):
        place = place.parent
    free = shutil.disk_usage(place).free
    if plan.trainable_parameters is None:
        text = f"{plan.config.training.output_dir}, {size(free)} free."
        return title, "passed", text
    needed = plan.trainable_parameters * _BYTES_A_WEIGHT * (_kept(plan) + 1)
    text = f"{plan.config.training.output_dir}, about {size(needed)} needed, {size(free)} free."
    return title, "passed" if needed < free else "to mend", text


def _kept(plan: Plan) -> int:
    """Estimate how many checkpoints stand on the disk at once."""
    saving = plan.config.checkpoint
    if saving.save_strategy == "steps" and plan.total_steps:
        made = math.ceil(plan.total_steps / max(1, saving.save_steps))
    else:
        made = 0 if saving.save_strategy == "no" else math.ceil(_epochs(plan))
    return min(made, saving.save_total_limit or made)


def _epochs(plan: Plan) -> float:
    if plan.total_steps and plan.steps_per_epoch:
        return plan.total_steps / plan.steps_per_epoch
    return plan.config.training.num_train_epochs
