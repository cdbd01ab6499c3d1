"""The settings of a form: the tree as typed, the problems with it, and the plan. No widgets.

`Config.parse` finds the problems, `make_plan` the plan.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from nbft.config import Config, Setting, io, settings
from nbft.config.data import SPLITS
from nbft.config.search import find_settings
from nbft.errors import ConfigError, Problem
from nbft.redaction import HIDDEN

if TYPE_CHECKING:
    from nbft.plan import Plan

OF_ROWS = tuple(f"data.{split}." for split in SPLITS)
"""How the settings of the rows begin."""

NAMES_ROWS = {
    f"data.{split}.datasets[0].{name}": OF_ROWS if split == "train" else (f"data.{split}.",)
    for split in SPLITS
    for name in ("path", "dataset_name")
}
"""The settings that name rows, and where the settings are that belonged to the earlier ones."""

_BLOCKS = frozenset(setting.path for setting in settings() if setting.type is dict)
"""The settings whose value is a dict, which is one value."""

_TYPES = (bool, int, float, str, list, dict)  # rows in memory are set from Python only


class Typed(BaseModel):
    """What a tree holds, as values that a file can keep: no rows in memory.

    Attributes:
        settings: The tree as typed, wrong values too.
        base: The settings that the person started from.
        kept: As in `Tree`; so are `left`, `hidden` and `is_checked`.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    settings: dict[str, Any]
    base: dict[str, Any]
    kept: list[str]
    left: list[str]
    hidden: list[str]
    is_checked: bool


class Tree:
    """The settings as a person typed them.

    Args:
        config: The initial settings.

    Attributes:
        config: The last valid settings.
        wrong: The problems with the fields; empty when the config is that of the fields.
        left: Settings whose fields the person has left; only these are checked.
        base: What a person starts from: a preset, or the defaults.
        kept: Settings that the person has chosen, which no rule of the guided mode changes.
        hidden: Settings that held a secret, which was not kept; each is a problem until it is set.
        is_checked: Whether every field is checked.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.base = config, Config()
        self.wrong: list[Problem] = []
        self.kept: set[str] = set()
        self._plan: Plan | None = None
        self._tree: dict[str, Any] = {}
        self.replace(config)
        self.take_rows(config)
        self.read()

    def replace(self, config: Config, *, keeps_rows: bool = False) -> None:
        """Take another config, which `read` then checks; earlier rows in memory may stay."""
        if not keeps_rows:
            self._rows: list[Any] = []
        self._tree = config.to_dict()
        self._is_own = config.is_own
        self.left: set[str] = set()
        self.hidden: set[str] = set()
        self.is_checked = False
        self._has_new_rows = False

    def typed(self) -> Typed:
        """Return a copy of what was typed."""
        return Typed(
            settings=copy.deepcopy(self._tree),
            base=self.base.to_dict(),
            kept=sorted(self.kept),
            left=sorted(self.left),
            hidden=sorted(self.hidden),
            is_checked=self.is_checked,
        )

    def restore(self, typed: Typed, in_memory: Sequence[str]) -> bool:
        """Take over what was typed earlier; it comes from a file, so its code is nobody's own.

        A setting whose secret was hidden gets the value that the person started from.

        Args:
            typed: The settings.
            in_memory: The datasets whose rows were in memory; if the same ones are now, they stay.

        Returns:
            Whether no rows are missing.
        """
        has_rows = [*in_memory] == self.in_memory
        rows = self._rows if has_rows else []
        self.replace(Config())
        self._tree, self._rows, self._is_own = copy.deepcopy(typed.settings), rows, False
        self.base = Config.parse(typed.base)[0]
        self.kept, self.left = set(typed.kept), set(typed.left)
        self._take_hidden(typed.hidden)
        self.is_checked = typed.is_checked
        self._plan = None
        self.read()
        self.config = self.so_far()
        return has_rows or not in_memory

    def _take_hidden(self, earlier: Iterable[str]) -> None:
        """Set what holds the sign for a hidden secret, now or earlier, to the usual values."""
        default = {setting.path: setting.default for setting in settings()}
        typed, usual = (io.flatten(tree, _BLOCKS) for tree in (self._tree, self.base.to_dict()))
        signs = (path for path, value in typed.items() if HIDDEN in str(value))
        hidden = {p for p in (*earlier, *signs) if io.without_indices(p) in default}
        self.put({path: usual.get(path, default[io.without_indices(path)]) for path in hidden})
        self.hidden = hidden
        self.left |= hidden

    @property
    def in_memory(self) -> list[str]:
        """The datasets whose rows are in memory, such as "data.train.datasets[0]"."""
        datasets = self.so_far().data.named_datasets()
        return [name for name, dataset in datasets if dataset.rows is not None]

    def take_rows(self, config: Config) -> None:
        """Take the rows in memory of a config; no tree holds them."""
        self._rows = [dataset.rows for dataset in config._datasets()]

    def take(self, changes: dict[str, Any], *, are_same_rows: bool = False) -> dict[str, Any]:
        """Set values that a person has chosen; return what was set besides.

        Other rows replace those of a preset with all that belonged to them: their templates, their
        number, and in place of rows to train on the held-out rows, too. The same rows in another
        file keep the epochs.
        """
        named = [path for path in NAMES_ROWS if changes.get(path)]
        places = tuple(place for path in named for place in NAMES_ROWS[path])
        beside = {p: v for p, v in self._of_preset(places).items() if p not in changes}
        given = io.flatten(self._tree)
        for path in named:  # a file and a name exclude each other
            block = path.rpartition(".")[0]
            names = [f"{block}.{name}" for name in ("path", "dataset_name")]
            if self.kept.intersection(names):  # a sheet, subset or split was that of the former
                names += [f"{block}.{name}" for name in ("subset", "split")]
            beside |= {p: None for p in names if p in given and p not in changes}
        is_train = any(path.startswith("data.train.") for path in named)
        self._has_new_rows |= is_train and not are_same_rows
        self.left |= changes.keys()
        self.kept |= changes.keys()
        self.put(beside | changes)
        return beside

    def _of_preset(self, places: tuple[str, ...]) -> dict[str, Any]:
        """Return the default of every setting of some rows that the person has not chosen."""
        if any(rows is not None for rows in self._rows):
            return {}
        default = {setting.path: setting.default for setting in settings()}
        return {
            path: default[io.without_indices(path)]
            for path in io.flatten(self._tree, _BLOCKS)
            if path.startswith(places) and path not in self.kept
        }

    def expect_rows(self) -> None:
        """Let the next plan set what suits the rows, as for new ones."""
        self._has_new_rows = True

    def suit_rows(self) -> dict[str, str]:
        """Set the epochs and metrics that suit the rows that replaced those of a preset.

        Returns:
            Why, in a sentence for each setting; {} if nothing was set.
        """
        plan = None if not self._has_new_rows or self.wrong else self.plan
        if plan is None or plan.train_rows is None:
            return {}
        from nbft.plan import advice

        self._has_new_rows = False
        why = {}
        epochs = advice.epochs(plan.train_rows)
        if epochs.path not in self.kept:
            self.put({epochs.path: float(epochs.value)})
            why[epochs.path] = f"Epochs: {epochs.value}. {epochs.reason}"
        metrics = advice.metrics(self.config)
        if metrics.path not in self.kept and plan.eval_rows:
            self.put({metrics.path: metrics.value})
            if metrics.value:
                why[metrics.path] = f"Scored by {', '.join(metrics.value)}: {metrics.reason}"
        if few := advice.few_rows(plan.train_rows, plan.eval_rows or 0):
            why["data"] = few
        self.read()
        return why

    def put(self, changes: dict[str, Any]) -> None:
        """Set values; defaults are removed from the tree, and so is a dataset of defaults."""
        self.hidden -= changes.keys()
        is_in_memory = any(rows is not None for rows in self._rows)
        default = {setting.path: setting.default for setting in settings()}
        for path, value in changes.items():
            known = io.without_indices(path)
            if known in default and default[known] == value:
                _take_out(self._tree, io.parts(path), keeps_items=is_in_memory)
            else:
                io.put(self._tree, path, value)

    def read(self) -> None:
        """Check the settings again, also when only the files have changed."""
        config, self.wrong = self._parse()
        if not self.wrong:
            self.config, self._plan = config, None

    def so_far(self) -> Config:
        """Return the current settings, with defaults in place of wrong values."""
        return self._parse()[0] if self.wrong else self.config

    def _parse(self) -> tuple[Config, list[Problem]]:
        config, wrong = Config.parse(self._tree)
        why, fix = "held a secret, which is not kept.", "Type it again."
        wrong += [Problem(path, None, why, fix) for path in sorted(self.hidden)]
        for dataset, rows in zip(config._datasets(), self._rows, strict=False):
            dataset.rows = rows
        return config.own() if self._is_own else config, wrong

    @property
    def plan(self) -> Plan:
        """The plan of the last valid settings."""
        if self._plan is None:
            from nbft.plan import make_plan

            self._plan = make_plan(self.config)
        return self._plan

    @property
    def known_plan(self) -> Plan | None:
        """The plan, if it was made already."""
        return self._plan

    def take_plan(self, plan: Plan) -> None:
        """Take a better plan of the same settings, until they change."""
        self._plan = plan

    @property
    def problems(self) -> list[Problem]:
        """Every error and warning: of the fields, or, when these are valid, of the plan."""
        return [*self.wrong] if self.wrong else [*self.plan.problems]

    @property
    def known_problems(self) -> Sequence[Problem]:
        """The problems that are known without making a new plan."""
        return self.wrong or (self._plan.problems if self._plan else ())

    @property
    def errors(self) -> Sequence[Problem]:
        """The known problems that stop a run."""
        return self.wrong or [p for p in self.known_problems if p.level == "error"]

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the base, as {path: value}; wrong values too."""
        changed = {path: new for path, (_, new) in self.so_far().diff(self.base).items()}
        changed |= {problem.field: problem.value for problem in self.wrong}
        return {path: value for path, value in changed.items() if value not in ([], {})}

    @property
    def of_preset(self) -> dict[str, Any]:
        """What a preset sets, as {path: value}."""
        return {path: new for path, (_, new) in self.base.diff().items()}

    def values(self, paths: Iterable[str]) -> dict[str, Any]:
        """Return the values of fields, by their paths."""
        values, known = io.flatten(self._tree), dict(fields())
        return {path: _value(path, known[path], values) for path in paths}

    def problems_of_fields(self) -> dict[str, list[Problem]]:
        """Return the known problems of each field that the person has left."""
        problems: dict[str, list[Problem]] = {}
        for problem in self.known_problems:
            path = path_of(problem)
            if path is not None and (self.is_checked or path in self.left):
                problems.setdefault(path, []).append(problem)
        return problems

    def right(self) -> Config:
        """Return the settings as a config.

        Raises:
            ConfigError: Some fields are wrong; it holds every problem.
        """
        if self.wrong:
            raise ConfigError(self.wrong)
        return self.config


@functools.cache
def fields() -> tuple[tuple[str, Setting], ...]:
    """Return every setting that a form can show, with its path; of a list of blocks, the first."""
    return tuple((s.path.replace("[]", "[0]"), s) for s in settings() if s.type in _TYPES)


def find(text: str) -> list[str]:
    """Return the fields that have every word of a text in their name, label, alias or help.

    >>> find("warm")[0], find("lr")[0]
    ('scheduler.warmup_steps', 'training.learning_rate')
    """
    paths = {setting.path: path for path, setting in fields()}
    among = [setting for _, setting in fields()]
    return [paths[setting.path] for setting in find_settings(text, among)]


def path_of(problem: Problem) -> str | None:
    """Return the path of the field of a problem: the same, or the first inside."""
    paths = [path for path, _ in fields()]
    if problem.field in paths:
        return problem.field
    return next((path for path in paths if path.startswith(problem.field)), None)


def _value(path: str, setting: Setting, values: dict[str, Any]) -> Any:
    if setting.type is dict:
        inner = {p[len(path) + 1 :]: v for p, v in values.items() if p.startswith(f"{path}.")}
        return inner or values.get(path, setting.default)
    return values.get(path, setting.default)


def _take_out(tree: Any, path: list[str | int], *, keeps_items: bool) -> None:
    """Remove the value at a path of a tree, and the blocks that this leaves empty.

    Only the last item of a list is removed, and none if items are to be kept.
    """
    here, *rest = path
    if not (here < len(tree) if isinstance(here, int) else here in tree):
        return
    if rest:
        _take_out(tree[here], rest, keeps_items=keeps_items)
        is_kept = isinstance(here, int) and (keeps_items or here < len(tree) - 1)
        if is_kept or tree[here] not in ({}, []):
            return
    del tree[here]
