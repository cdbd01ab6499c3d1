"""The checklist before a run is started, filled in by checks that ran.

Based on the final checklist of PEFT Studio. Shown on the form's Review tab and at the end of
`nbft config create`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nbft.config import Config
from nbft.errors import NbftError
from nbft.formatting import count, number, size
from nbft.models.adapters import base_name
from nbft.models.find import find_local
from nbft.models.peft_types import peft_type_of
from nbft.models.templates import model_template
from nbft.plan.disk import free_disk_bytes
from nbft.plan.plan import Plan, read_examples
from nbft.tracking import TRACKERS, version_of

State = Literal["passed", "to fix", "unknown"]

_MARKS: dict[State, str] = {"passed": "[x]", "to fix": "[ ]", "unknown": "[?]"}


@dataclass(frozen=True)
class Item:
    """One line of the checklist.

    Attributes:
        title: What was checked.
        state: The result.
        text: Details.
    """

    title: str
    state: State
    text: str

    def __str__(self) -> str:
        """Return the line with a mark: [x] passed, [ ] to fix, [?] unknown."""
        return f"{_MARKS[self.state]} {self.title}: {self.text}"


def checklist(plan: Plan, *, folder: Path | None = None) -> list[Item]:
    """Return what was checked before a run, and the results.

    Args:
        plan: What the run will be.
        folder: Folder of the config file, for relative paths.
    """
    fields_elsewhere = tuple(field for fields, _ in _LINES.values() for field in fields)
    items = []
    for title, (fields, inspect) in _LINES.items():
        errors = [
            str(problem)
            for problem in plan.errors
            if problem.field.startswith(fields)
            or (title == "Hyperparameters" and not problem.field.startswith(fields_elsewhere))
        ]
        result: _Result = ("to fix", " ".join(errors)) if errors else inspect(plan, folder)
        items.append(Item(title, *result))
    return items


_Result = tuple[State, str]


def _model(plan: Plan, folder: Path | None) -> _Result:
    model = plan.config.model
    found = find_local(base_name(plan.config), model.model_revision)
    if found is None:
        return "unknown", f"{model.model_name} is not on this machine; the run will download it."
    size = f", {count(plan.total_parameters, 'parameter')}" if plan.total_parameters else ""
    return "passed", f"{model.model_name} is available ({found.source}){size}."


def _method(plan: Plan, folder: Path | None) -> _Result:
    name = method_of(plan.config)
    if plan.trainable_parameters is None:
        return "passed", f"{name}; no conflicting settings."
    return "passed", f"{name} trains {count(plan.trainable_parameters, 'parameter')}."


def method_of(config: Config) -> str:
    """Return the usual name of a config's fine-tuning method.

    >>> method_of(Config(quantization={"load_in_4bit": True}))
    'QLoRA'
    """
    kind = peft_type_of(config)
    return "Full training" if kind is None else kind.title_of(config)


def _hyperparameters(plan: Plan, folder: Path | None) -> _Result:
    rate = f"learning rate {number(plan.config.training.learning_rate)}"
    steps = f"{count(plan.total_steps, 'step')} of " if plan.total_steps else ""
    warnings = f"; {count(len(plan.warnings), 'warning')}" if plan.warnings else ""
    return "passed", f"{steps}{count(plan.effective_batch_size, 'row')}, {rate}{warnings}."


def _machine(plan: Plan, folder: Path | None) -> _Result:
    use = f"; {plan.device_use}" if plan.device_use else ""
    return "passed", f"{plan.device}, {plan.dtype}{use}."


def _memory(plan: Plan, folder: Path | None) -> _Result:
    free = f"{size(plan.free_memory_bytes)} free"
    if plan.memory_bytes is None:
        return "unknown", f"{free}; needs the model and the data for an estimate."
    fits = plan.memory_bytes <= plan.free_memory_bytes
    return "passed" if fits else "to fix", f"about {size(plan.memory_bytes)} needed, {free}."


def _time(plan: Plan, folder: Path | None) -> _Result:
    if not plan.time:
        return "unknown", "estimated after the first steps."
    return "passed", f"{plan.time}."


def _rows(plan: Plan, folder: Path | None) -> _Result:
    if plan.train_rows is None:
        return "unknown", "streamed during training."
    return "passed", f"{count(plan.train_rows, 'row')} read, {count(plan.eval_rows or 0)} held out."


def _template(plan: Plan, folder: Path | None) -> _Result:
    """Check that conversations have a template that formats them."""
    config = plan.config
    try:
        examples, _ = read_examples(config, "train", folder)
        is_chat = bool(examples[0].messages)
    except (NbftError, IndexError):
        return "unknown", "checked once the data can be read."
    if not is_chat:
        return "passed", "not needed: the rows are prompts and completions."
    if config.model.chat_template or config.model.chat_template_path:
        return "passed", "set in the settings."
    found = find_local(base_name(config), config.model.model_revision)
    if found is None:
        return "unknown", "the rows are conversations; the model is not on this machine yet."
    if model_template(found.path):
        return "passed", "the rows are conversations, and the model has a template."
    fix = "Use model.chat_template=chatml."
    return "to fix", f"the rows are conversations, but the model has no template. {fix}"


def _tracking(plan: Plan, folder: Path | None) -> _Result:
    names = plan.config.tracking.report_to
    if not names:
        return "passed", "the run's own log; no tracker is set."
    if missing := [name for name in names if version_of(name) is None]:
        return "to fix", f"not installed: {', '.join(missing)}."
    uses = plan.decisions.trackers.items()
    return "passed", " ".join(f"{TRACKERS[n].title} {u.value}: {u.reason}." for n, u in uses)


def _output(plan: Plan, folder: Path | None) -> _Result:
    name, free = plan.config.training.output_dir, free_disk_bytes(plan.config)
    if plan.disk_bytes is None:
        return "passed", f"{name}, {size(free)} free."
    text = f"{name}, about {size(plan.disk_bytes)} needed, {size(free)} free."
    return "passed" if plan.disk_bytes <= free else "to fix", text


_LINES: dict[str, tuple[tuple[str, ...], Callable[[Plan, Path | None], _Result]]] = {
    "Model": (("model.",), _model),
    "Method": (("peft.", "quantization.", "preference."), _method),
    "Hyperparameters": ((), _hyperparameters),
    "Machine": (("compute.", "precision.", "memory.", "speed.", "distributed."), _machine),
    "Memory": ((), _memory),
    "Time": ((), _time),
    "Rows": (("data",), _rows),
    "Chat template": ((), _template),
    "Tracking": (("tracking.", "logging."), _tracking),
    "Output folder": (("training.output_dir",), _output),
}
"""Title, fields whose errors belong to the line (those of no other line: Hyperparameters), check."""
