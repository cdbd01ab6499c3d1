"""`Config`: all settings of a run as one validated tree."""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from nbft import facade
from nbft.config import io
from nbft.config.base import Section, Setting, setting, walk_settings
from nbft.config.callbacks import Callbacks
from nbft.config.checkpoint import Checkpoint
from nbft.config.compute import Compute
from nbft.config.data import Data, Dataset
from nbft.config.distributed import Distributed
from nbft.config.evaluation import Evaluation
from nbft.config.grpo import Grpo
from nbft.config.logging import Logging
from nbft.config.memory import Memory
from nbft.config.model import Model
from nbft.config.optimizer import Optimizer
from nbft.config.peft import Peft
from nbft.config.precision import Precision
from nbft.config.preference import Preference
from nbft.config.problems import problems_of
from nbft.config.quantization import Quantization
from nbft.config.scheduler import Scheduler
from nbft.config.speed import Speed
from nbft.config.tracking import Tracking
from nbft.config.training import Training
from nbft.errors import ConfigError, Problem
from nbft.redaction import redact

if TYPE_CHECKING:
    from nbft.interop.report import Report


def _section(kind: type[Section]) -> Any:
    return setting(help=(kind.__doc__ or "").strip(), source="nbft", default_factory=kind)


_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


class Config(Section):
    """All settings of a run.

    >>> config = Config(data={"dataset_name": "alpaca"}, training={"max_steps": 60})
    >>> config.training.max_steps
    60
    >>> Config(training={"max_step": 60})
    Traceback (most recent call last):
    nbft.errors.ConfigError: training.max_step=60: is not a setting. Did you mean max_steps?

    Raises:
        ConfigError: Some settings are invalid; it contains every problem.
    """

    model: Model = _section(Model)
    data: Data = _section(Data)
    peft: Peft = _section(Peft)
    quantization: Quantization = _section(Quantization)
    training: Training = _section(Training)
    optimizer: Optimizer = _section(Optimizer)
    scheduler: Scheduler = _section(Scheduler)
    evaluation: Evaluation = _section(Evaluation)
    checkpoint: Checkpoint = _section(Checkpoint)
    callbacks: Callbacks = _section(Callbacks)
    precision: Precision = _section(Precision)
    memory: Memory = _section(Memory)
    compute: Compute = _section(Compute)
    speed: Speed = _section(Speed)
    distributed: Distributed = _section(Distributed)
    preference: Preference = _section(Preference)
    grpo: Grpo = _section(Grpo)
    logging: Logging = _section(Logging)
    tracking: Tracking = _section(Tracking)

    def __init__(self, /, **sections: Any) -> None:
        try:  # a section whose settings are all commented out is null in YAML
            super().__init__(**_renamed({k: v for k, v in sections.items() if v is not None}))
        except ValidationError as error:
            raise ConfigError(problems_of(error, type(self))) from None
        if not sys._getframe(1).f_code.co_filename.startswith(_PACKAGE):
            self.own()

    @property
    def is_own(self) -> bool:
        """Whether a person's own code made this config in this session, so its code may run."""
        return self._is_own

    def own(self) -> Self:
        """Say that the code that this config names is the person's own, and return the config."""
        from nbft.config.code import allow_packages

        for section in (self, *self._datasets()):
            object.__setattr__(section, "_is_own", True)
        allow_packages(self)
        return self

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> tuple[Self, list[Problem]]:
        """Read the valid part of a tree, and report the problems with the rest.

        Args:
            tree: Sections and their settings, as in a config file.

        Returns:
            A config in which each invalid value is replaced by its default, and the problems.
        """
        remaining: Any = copy.copy(dict(tree)) if isinstance(tree, Mapping) else {}
        problems: list[Problem] = []
        for _ in range(20):
            try:
                return cls(**remaining), problems
            except ConfigError as error:
                new = [p for p in error.problems if isinstance(p, Problem) and p not in problems]
                problems += new
                if not new:  # what is left cannot be taken out of the tree
                    break
                for problem in reversed(new):  # so that list items keep their indices
                    remaining = io.without(remaining, problem.field)
        return cls(), problems

    @classmethod
    def load(
        cls, path: str | Path, overrides: Iterable[str] = (), *, allow_code: bool = False
    ) -> Self:
        """Read a config from a YAML or JSON file.

        Args:
            path: The file.
            overrides: Settings that take precedence over the file ("training.learning_rate=5e-5").
            allow_code: Consent to the code that it names, such as a prompt_func; otherwise running
                it is an error that shows where it is. Remembered until the code changes.

        Raises:
            ConfigError: The file is missing, is not YAML, or contains invalid settings.
        """
        config = cls(**io.overridden(io.read(Path(path)), overrides))
        if allow_code:
            from nbft.config.code import allow_code as consent_to

            consent_to(config, Path(path).absolute().parent)
        return config

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Read a config from YAML text.

        Raises:
            ConfigError: The text is not YAML or contains invalid settings.
        """
        return cls(**io.parse_yaml(text, "the text"))

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return the config of a preset, by its name such as two-minute-try.

        Raises:
            ConfigError: There is no such preset.
        """
        return cls(**io.preset(name)).own()

    def override(self, *overrides: str) -> Self:
        """Return a copy with dotted overrides, such as "training.learning_rate=5e-5".

        Raises:
            ConfigError: An override names no setting or has an invalid value.
        """
        return self._from_tree(io.overridden(self._tree(), overrides))

    def apply(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with settings changed, by dotted path.

        Raises:
            ConfigError: A path names no setting or a value is invalid.
        """
        tree = self._tree()
        for path, value in changes.items():
            io.put(tree, path, value)
        return self._from_tree(tree)

    def _tree(self) -> dict[str, Any]:
        """Return the tree of all settings, with the rows in memory, which no file contains."""
        tree = self.to_dict(full=True)
        for field, dataset in self.data.named_datasets():
            if dataset.rows is not None:
                io.put(tree, f"{field}.rows", dataset.rows)
        return tree

    def _from_tree(self, tree: dict[str, Any]) -> Self:
        changed = type(self)(**tree)
        return changed.own() if self.is_own else changed

    def _datasets(self) -> list[Dataset]:
        return [dataset for _, dataset in self.data.named_datasets()]

    def to_dict(self, *, full: bool = False) -> dict[str, Any]:
        """Return the tree of settings that differ from the defaults, or of all settings."""
        return self.model_dump(mode="json", exclude_defaults=not full)

    def to_yaml(self, *, full: bool = False, comments: bool = False, redacted: bool = False) -> str:
        """Return the config as YAML; the inverse of `from_yaml`.

        Args:
            full: Include settings that have their default value.
            comments: Add the help of each setting as a comment.
            redacted: Leave secrets out, such as a password in an address, for others to see.
        """
        help_of = {s.path: s.help for s in settings()} if comments else {}
        tree = self.to_dict(full=full)
        return io.dump_yaml(redact(tree) if redacted else tree, help_of)

    def save(self, path: str | Path, *, full: bool = False, comments: bool = False) -> Path:
        """Write the config to a YAML file and return its path; arguments as in `to_yaml`.

        Raises:
            ConfigError: The rows are in memory, or the folder is not writable.
        """
        for field, dataset in self.data.named_datasets():
            if dataset.rows is not None:
                why = "rows in memory cannot be saved in a config file."
                fix = "Write them to a file and set path, or start the run, which saves them."
                raise ConfigError(Problem(f"{field}.rows", None, why, fix))
        return io.write(Path(path), self.to_yaml(full=full, comments=comments))

    def diff(self, other: Config | None = None) -> dict[str, tuple[Any, Any]]:
        """Return the settings that differ, as {path: (other's value, this value)}.

        Args:
            other: The config to compare with; the defaults when None.

        >>> Config(training={"seed": 1}).diff()
        {'training.seed': (42, 1)}
        """
        default = {s.path: s.default for s in settings()}
        theirs = io.flatten((other or type(self)()).to_dict(full=True), default)
        mine = io.flatten(self.to_dict(full=True), default)
        changes = {}
        for path in [*mine, *(p for p in theirs if p not in mine)]:
            usual = default.get(io.without_indices(path))
            before, after = theirs.get(path, usual), mine.get(path, usual)
            if before != after and (before or after or path in default):
                changes[path] = (before, after)
        return changes

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of a config file, for editors."""
        return cls.model_json_schema()

    @classmethod
    def import_file(
        cls, path: str | Path, system: str | None = None, *, strict: bool = False
    ) -> tuple[Config, Report]:
        """Read a config file of another system, with a report on each of its keys.

        Args:
            path: YAML, JSON, Python or a notebook; Python is parsed and never run.
            system: qefficient, oumi, erniekit, peft_studio, unsloth (TRL too), llama_factory or
                axolotl; detected from the file's keys when None.
            strict: Refuse a file with a key that cannot be taken, which is otherwise only reported.

        Returns:
            The config, and one line for each key of the file; `report.dropped` are the keys that
            could not be taken.

        Raises:
            ConfigError: The file cannot be read, its system is unknown, it asks for a training
                method that nbft does not have, or it is refused by `strict`.
        """
        return facade.import_file(path, system, strict=strict)  # type: ignore[no-any-return]

    def export(self, system: str) -> str:
        """Return a config file for another system; its `left_out` lists what was not exported.

        Args:
            system: qefficient, oumi, erniekit, peft_studio, or python for a cell of plain
                transformers, TRL and PEFT.

        Raises:
            ConfigError: Export to that system is not supported.
        """
        if system.lower() == "python":
            return self.to_python()
        return facade.export(self, system)  # type: ignore[no-any-return]

    def to_python(self) -> str:
        """Return equivalent plain Python code with transformers, TRL and PEFT."""
        return facade.to_python(self)  # type: ignore[no-any-return]


def _renamed(sections: dict[str, Any]) -> dict[str, Any]:
    """Return sections without the former preference.method, which is training.method now."""
    preference, training = sections.get("preference"), sections.get("training", {})
    if not isinstance(preference, Mapping) or not isinstance(training, Mapping):
        return sections
    if preference.get("method") is None:
        return {**sections, "preference": {k: v for k, v in preference.items() if k != "method"}}
    rest = dict(preference)
    method = rest.pop("method")
    if training.get("method", "sft") == "sft":  # as it is by default
        training = {**training, "method": method}
    return {**sections, "preference": rest, "training": training}


@functools.cache
def settings() -> tuple[Setting, ...]:
    """Return all settings, in the order of the sections."""
    return tuple(walk_settings(Config))
