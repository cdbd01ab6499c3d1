"""A race: runs that take turns on one device, and are compared while they train.

Each contestant is an ordinary run; `race.json` in the race's own folder, beside them, says which they
are. `nbft.launchers.racing` starts a race and `nbft.training.racing` trains it. Loads no library.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from nbft import facade
from nbft.config import Config
from nbft.decisions import sees_all_gpus
from nbft.errors import ConfigError, Problem, RunError
from nbft.formatting import count, listed, number, size
from nbft.hardware import free_memory_bytes
from nbft.models.peft_types.lora import changes_weights
from nbft.plan.cluster import trained_here
from nbft.presented import Presented
from nbft.redaction import redact
from nbft.runs.checkpoints import last_whole, step_of
from nbft.runs.comparison import differing_settings
from nbft.runs.folder import Run
from nbft.runs.race_record import RECORD, changed_record, read_record
from nbft.runs.state import RunState

if TYPE_CHECKING:
    from nbft.plan import Plan

MOST_CONTESTANTS = 64

_POLL_SECONDS = 0.2
_LOGS = 10
"""The loss of a single step depends on its rows, so the mean of so many logs counts."""

_PLACE = ("training.run_name", "training.output_dir")
_KEPT_BETWEEN_TURNS = ("adapter", "optimizer", "reference", "cache")
"""Parts of the memory that a run holds while another one trains."""

_STATE_OF_TRAINER = ("optimizer", "scheduler", "rng_state", "scaler", "train", "nbft_")
"""How the names of files begin that a checkpoint has beside the weights."""


class Entrant(NamedTuple):
    """A contestant before its run is made.

    Attributes:
        config: Its config.
        changes: {setting: value} of what it has of its own.
    """

    config: Config
    changes: dict[str, Any]


class Standing(NamedTuple):
    """A line of the table.

    Attributes:
        place: 1 for the best; None before anything is measured.
        run: Name of the run.
        title: What it has of its own.
        step: Optimiser steps done.
        total_steps: Planned steps; None before they are known.
        value: The measure that the table is sorted by; None before it is measured.
        status: The status of the run.
        reason: Why it ended, where that does not go without saying.
    """

    place: int | None
    run: str
    title: str
    step: int
    total_steps: int | None
    value: float | None
    status: str
    reason: str


class RaceTable(Presented):
    """The contestants, the best first.

    Attributes:
        measure: What they are sorted by, in words.
        rows: The contestants.
    """

    def __init__(self, measure: str, rows: Sequence[Standing]) -> None:
        self.measure = measure
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Standing]:
        return iter(self.rows)


class Race:
    """Runs that take turns on one device; `nbft.race` starts one.

    As the value of a cell it is shown live: all curves in one chart, and the table.

    Args:
        path: Folder of the race, such as runs/kind-otter-14-race, or its name in ./runs.

    Raises:
        RunError: There is no race in that folder.
    """

    def __init__(self, path: str | Path) -> None:
        places = Path(path).expanduser(), Path("runs") / str(path)
        found = next((one for one in places if (one / RECORD).is_file()), None)
        if found is None:
            raise RunError(f"{path}: is no race of nbft.")
        self.path = found.absolute()
        self._runs: dict[str, Run] = {}

    @property
    def id(self) -> str:
        """Name of the race, which is the name of its folder."""
        return self.path.name

    @property
    def runs(self) -> list[Run]:
        """The contestants, in the order in which they joined; each is an ordinary run."""
        return [self._run(name) for name in self._entries]

    @property
    def titles(self) -> dict[str, str]:
        """What each run has of its own, by its name."""
        paths = {path for about in self._entries.values() for path in about["changes"]}
        shorts = Counter(path.rpartition(".")[2] for path in paths)
        titles = {}
        for name, about in self._entries.items():
            parts = []
            for path, value in about["changes"].items():
                short = path.rpartition(".")[2]
                parts.append(f"{short if shorts[short] == 1 else path} {_shown(value)}")
            if about.get("from"):
                parts.append(f"from {about['from']} at step {count(about['from_step'])}")
            titles[name] = ", ".join(parts) or "as given"
        return titles

    @property
    def is_over(self) -> bool:
        """Whether every contestant has ended."""
        return bool(self._record.get("is_over")) or all(run.is_over for run in self.runs)

    @property
    def best(self) -> Run | None:
        """The first of the table; None before anything is measured."""
        first = self.table().rows[0]
        return None if first.value is None else self._run(first.run)

    def table(self) -> RaceTable:
        """Return the contestants, sorted by the measure of the race, the best first."""
        by, titles, rows = self.by, self.titles, []
        is_higher_better = False
        for run in self.runs:
            state = run.state
            is_higher_better |= higher_is_better(state, by)
            total = state.total_steps or run.plan.get("total_steps")
            value = measured(state, by)
            row = Standing(
                None, run.id, titles[run.id], run.step, total, value, run.status, state.reason
            )
            rows.append(row)
        rows.sort(key=lambda row: sorting(row.value, is_higher_better=is_higher_better))
        places = [None if row.value is None else n for n, row in enumerate(rows, start=1)]
        rows = [row._replace(place=place) for row, place in zip(rows, places, strict=True)]
        return RaceTable(in_words(by), rows)

    @property
    def by(self) -> str:
        """Name of the measure that the table is sorted by."""
        return str(self._record["by"])

    def drop(self, run: Run | str) -> None:
        """Stop a contestant with everything saved; the others go on.

        Raises:
            RunError: It is no contestant, or has ended.
        """
        self._contestant(run).stop()

    def stop(self) -> None:
        """Stop all contestants, each with everything saved."""
        for run in self.runs:
            with contextlib.suppress(RunError):  # it has ended
                run.stop()

    def wait(self) -> Race:
        """Wait until the race is over, and return it. An interrupt leaves the race alone."""
        while not self.is_over:
            time.sleep(_POLL_SECONDS)
        return self

    def clone(self, run: Run | str, changes: Mapping[str, Any] | None = None) -> Run:
        """Let a new contestant go on from the weights that another one has now.

        It begins its own steps and its own learning rate schedule, with the optimiser's state empty.
        Waits until the other one has saved its weights, which takes a few steps.

        Args:
            run: A contestant that has trained at least a step.
            changes: Settings to change, by dotted path; not those of the model and its adapter.

        Returns:
            The run of the new contestant.

        Raises:
            RunError: The race is over, or the contestant has no weights to start from.
            ConfigError: The changed settings cannot run.
        """
        parent, changes = self._contestant(run), dict(changes or {})
        if self.is_over:
            raise RunError(f"{self.id}: is over. Start a run of its own: nbft.submit(config).")
        for path in changes:
            if path.startswith(("model.", "peft.", "quantization.")) or path in _PLACE:
                why = "belongs to the weights that it starts from, so a clone cannot change it."
                why = "is chosen by the race." if path in _PLACE else why
                raise ConfigError(Problem(path, changes[path], why, "Leave it out."))
        config = parent.config
        if changes_weights(config.peft):
            raise RunError(
                f"{parent.id}: cannot be cloned: with init_lora_weights="
                f"{config.peft.init_lora_weights} its weights belong to a changed model, which is "
                "not kept."
            )
        source, step = _weights_now(parent)
        base, first = self.id.removesuffix("-race"), len(self._entries) + 1
        names = (f"{base}-{number}" for number in itertools.count(first))
        name = next(each for each in names if not (self.path.parent / each).exists())
        start = self.path / "starts" / name
        shutil.copytree(source, start, ignore=_state_of_trainer)
        where = "model.adapter_name_or_path" if config.peft.trains_adapter else "model.model_name"
        place = {
            where: str(start),
            "training.output_dir": str(self.path.parent),
            "training.run_name": name,
            "training.resume_from_checkpoint": None,
        }
        try:
            new = trained_here(config.apply({**changes, **place}))
            check_entrants([Entrant(new, changes)], device=str(self._record["device"]), joins=True)
            made = Run.create(new)
            with changed_record(self.path) as record:
                if record.get("is_over"):
                    shutil.rmtree(made.path)
                    raise RunError(f"{self.id}: is over. Start a run of its own instead.")
                about = {"changes": as_plain(changes), "from": parent.id, "from_step": step}
                record["runs"][name] = about
        except BaseException:
            shutil.rmtree(start, ignore_errors=True)
            raise
        return made

    def __str__(self) -> str:
        """Return the state of the race and the table, for a terminal."""
        return f"{self.headline}\n\n{self.table()}"

    def __repr__(self) -> str:
        return f"Race({self.id!r}, {'over' if self.is_over else 'going on'})"

    @property
    def headline(self) -> str:
        """The state of the race in a sentence."""
        table, record = self.table(), self._record
        going = sum(row.status in ("created", "queued", "running", "paused") for row in table)
        state = f"{going} of {count(len(table), 'contestant')} still training" if going else "over"
        first, leads = table.rows[0], "best so far" if going else "best"
        best = "" if first.value is None else f"; {leads}: {first.run}"
        shared = int(record.get("shared") or 0)
        how = f" {shared} share one copy of the base model's weights." if shared > 1 else ""
        return f"Race {self.id}: {state}{best}.{how}"

    def _ipython_display_(self) -> None:
        """Show the race live."""
        facade.race(self).show()

    @property
    def _record(self) -> dict[str, Any]:
        return read_record(self.path)

    @property
    def _entries(self) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = self._record["runs"]
        return entries

    def _run(self, name: str) -> Run:
        if name not in self._runs:
            self._runs[name] = Run(self.path.parent / name)
        return self._runs[name]

    def _contestant(self, run: Run | str) -> Run:
        name = run.id if isinstance(run, Run) else str(run)
        if name not in self._entries:
            raise RunError(f"{name}: is no contestant of {self.id}: {listed([*self._entries])}.")
        return self._run(name)


# Before a race


def entrants(
    config: Config | Sequence[Config], grid: Mapping[str, Sequence[Any]] | None
) -> list[Entrant]:
    """Return the contestants: every combination of a grid, or the given configs.

    Args:
        config: The config that the grid changes; or several configs, without a grid.
        grid: {setting: values to try}.

    Raises:
        ConfigError: Every problem with the grid.
    """
    if not isinstance(config, Config):
        if grid:
            raise ConfigError(Problem("grid", None, "goes with a single config.", "Leave it out."))
        return _given(list(config))
    if not isinstance(grid, Mapping) or not grid:
        why = "names no setting to try."
        fix = 'Write {"training.learning_rate": [1e-4, 3e-4]}.'
        raise ConfigError(Problem("grid", None, why, fix))
    problems: list[str | Problem] = []
    for path, values in grid.items():
        if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, range)):
            fix = f"Write {{{path!r}: [{values!r}, …]}}."
            problems.append(Problem(path, values, "is not a list of values to try.", fix))
        elif not values or any(a == b for a, b in itertools.combinations(values, 2)):
            why = "has a value twice." if values else "has no values to try."
            problems.append(Problem(path, list(values), why))
        elif path in _PLACE:
            problems.append(Problem(path, None, "is chosen by the race.", "Leave it out."))
        else:
            for value in values:
                try:
                    config.apply({path: value})
                except ConfigError as error:
                    new = [one for one in error.problems if str(one) not in map(str, problems)]
                    problems += new
    if problems:
        raise ConfigError(problems)
    combinations = math.prod(len(values) for values in grid.values())
    _check_number(combinations, "grid", "makes")
    return [
        Entrant(config.apply(changes), changes)
        for values in itertools.product(*grid.values())
        for changes in [dict(zip(grid, values, strict=True))]
    ]


def _given(configs: list[Config]) -> list[Entrant]:
    _check_number(len(configs), "config", "names")
    if len({config.training.output_dir for config in configs}) > 1:
        why = "differs between the configs, and the runs of a race are in one folder."
        raise ConfigError(Problem("training.output_dir", None, why))
    differing = differing_settings([config.diff() for config in configs])
    return [
        Entrant(config, {p: values[n] for p, values in differing.items() if p not in _PLACE})
        for n, config in enumerate(configs)
    ]


def _check_number(contestants: int, field: str, verb: str) -> None:
    if not 2 <= contestants <= MOST_CONTESTANTS:
        why = f"{verb} {count(contestants, 'contestant')}."
        fix = f"A race has 2 to {MOST_CONTESTANTS}."
        raise ConfigError(Problem(field, None, why, fix))


def check_entrants(
    contestants: Sequence[Entrant],
    folder: Path | None = None,
    device: str = "",
    *,
    joins: bool = False,
) -> list[Plan]:
    """Plan all contestants, and check that they can train in one process on one device.

    Args:
        contestants: Those that join.
        folder: Folder of the config file, for relative paths.
        device: The device of a race that goes on; that of the first contestant if "".
        joins: Whether they join a race that has its memory already.

    Raises:
        ConfigError: Every problem that would stop one of them.
    """
    from nbft.plan import make_plan

    plans = [make_plan(trained_here(one.config), folder=folder) for one in contestants]
    problems: dict[str, str | Problem] = {}
    for one, plan in zip(contestants, plans, strict=True):
        for problem in (*plan.errors, *_refusals(one.config)):
            problems.setdefault(str(problem), problem)
        device = device or plan.device.value
        if plan.device.value != device:
            why = f"chooses {plan.device.value}, and the race is on {device}."
            problem = Problem("compute.device", one.config.compute.device, why)
            problems.setdefault(str(problem), problem)
    for name in ("training.full_determinism", "precision.tf32"):
        section, _, key = name.partition(".")
        if len({getattr(getattr(one.config, section), key) for one in contestants}) > 1:
            why = "is switched for a whole process, so all contestants of a race have the same."
            problems.setdefault(name, Problem(name, None, why))
    if problems:
        raise ConfigError(problems.values())
    _check_memory(contestants, plans, device, joins=joins)
    return plans


def _refusals(config: Config) -> Iterator[Problem]:
    """Yield why a config cannot train beside others in one process."""
    if config.tracking.report_to:
        why = "cannot be used in a race: trackers follow one run of a process."
        yield Problem("tracking.report_to", config.tracking.report_to, why, "Leave it empty.")
    if sees_all_gpus(config):
        asked = "asks for several processes or GPUs, or for a device map"
        why = f"{asked}, and a race trains in one process on one device."
        yield Problem("distributed", None, why, "Race without it.")
    if "profiler" in config.callbacks.callbacks:
        why = "cannot be used in a race: it would measure the other contestants too."
        yield Problem("callbacks.callbacks.profiler", None, why, "Leave it out.")
    if not config.training.do_train:
        yield Problem("training.do_train", False, "leaves nothing to race.", "Use true.")


def shares_weights(config: Config) -> bool:
    """Whether a run leaves all weights of its base model as they are, so that others may use them."""
    peft, model, precision = config.peft, config.model, config.precision
    return (
        peft.trains_adapter
        and peft.bias == "none"
        and not changes_weights(peft)
        and not model.unfrozen_parameters
        and not precision.fp8
        and precision.fp16_opt_level != "O2"
    )


def sharing(contestants: Sequence[Entrant]) -> int:
    """Return how many contestants use one copy of the weights with another one."""
    keys = Counter(key for one in contestants if (key := _copy(one.config)) is not None)
    return sum(users for users in keys.values() if users > 1)


def _copy(config: Config) -> tuple[str, ...] | None:
    """Return what decides which copy of the weights a contestant uses; None for one of its own."""
    from nbft.runs.sides import weights_key

    return weights_key(config) if shares_weights(config) else None


def memory_bytes(
    contestants: Sequence[Entrant], plans: Sequence[Plan], *, joins: bool = False
) -> int | None:
    """Estimate the memory of a race: what each keeps between its turns, and the largest step.

    Args:
        contestants: The contestants.
        plans: Their plans.
        joins: Whether they join a race, which has the libraries and the shared weights already.

    Returns:
        Bytes; None where the plan does not know them.
    """
    if not all(plan.memory_parts for plan in plans):
        return None
    copies = set()
    kept, largest_step, libraries = 0, 0, 0
    for one, plan in zip(contestants, plans, strict=True):
        parts = dict(plan.memory_parts)
        weights, libraries = parts.pop("weights", 0), max(libraries, parts.pop("libraries", 0))
        copy = _copy(one.config)
        kept += 0 if copy is not None and (joins or copy in copies) else weights
        copies.add(copy)
        names = [*_KEPT_BETWEEN_TURNS, *([] if one.config.memory.release_grads else ["gradients"])]
        kept += sum(parts.pop(name, 0) for name in names)
        largest_step = max(largest_step, sum(parts.values()))
    return kept if joins else kept + largest_step + libraries


def _check_memory(
    contestants: Sequence[Entrant], plans: Sequence[Plan], device: str, *, joins: bool
) -> None:
    needed, free = memory_bytes(contestants, plans, joins=joins), free_memory_bytes(device)
    if needed is None or needed <= free:
        return
    own = sum(_copy(one.config) is None for one in contestants)
    fix = "Race fewer at a time, or a smaller batch."
    if own > 1:
        fix = f"{count(own, 'contestant')} change the model's weights and need a copy each. {fix}"
    name = "this machine" if device == "cpu" else device
    why = f"needs about {size(needed)} for {count(len(contestants), 'contestant')}, and {name} has "
    raise ConfigError(Problem("race", None, f"{why}{size(free)} free.", fix))


# During a race


def rungs(contestants: int, keep: int) -> list[float]:
    """Return after which shares of their steps the contestants are halved, until so many are left.

    The last halving is in the middle; each earlier one after half as many steps.

    >>> rungs(4, 1), rungs(5, 3), rungs(3, 3)
    ([0.25, 0.5], [0.5], [])
    """
    times = 0
    while contestants > keep:
        contestants = max(keep, math.ceil(contestants / 2))
        times += 1
    return [2.0 ** (n - times) for n in range(times)]


def verdicts(
    states: Mapping[str, RunState], by: str, keep: int, race: str = "the race"
) -> dict[str, str]:
    """Return why some contestants end at a rung: the worse half, or less where more are kept.

    Where one has not been measured by `by`, all are judged by the training loss.

    Args:
        states: The state of each contestant that goes on, by its name.
        by: The measure.
        keep: How many stay at least.
        race: Name of the race.
    """
    if any(measured(state, by) is None for state in states.values()):
        by = "loss"
    is_higher_better = any(higher_is_better(state, by) for state in states.values())
    values = {name: measured(state, by) for name, state in states.items()}
    order = sorted(
        values, key=lambda name: sorting(values[name], is_higher_better=is_higher_better)
    )
    stay = max(keep, math.ceil(len(order) / 2))
    reasons = {}
    for place, name in enumerate(order[stay:], start=stay + 1):
        value, state = values[name], states[name]
        shown = "not measured" if value is None else number(value)
        total = f" of {count(state.total_steps)}" if state.total_steps else ""
        reasons[name] = (
            f"Dropped from {race} after step {count(state.step)}{total}: {in_words(by)} {shown}, "
            f"place {place} of {len(order)}; the first {stay} go on."
        )
    return reasons


def measured(state: RunState, by: str) -> float | None:
    """Return the last value of a measure; of the training loss the mean of the last logs."""
    points = state.curve(by)
    if by != "loss" or not points:
        return points.last
    return fmean(points.values[-_LOGS:])


def in_words(by: str) -> str:
    """Return what a measure is called."""
    names = {
        "eval_loss": "held-out loss",
        "loss": f"training loss (mean of the last {_LOGS} logs)",
    }
    return names.get(by, by)


def higher_is_better(state: RunState, by: str) -> bool:
    """Whether a higher value is better, as the training method declares."""
    name = by.removeprefix("eval_")
    return any(
        isinstance(one, dict) and one.get("name") == name and one.get("better") == "higher"
        for one in state.measures
    )


def sorting(value: float | None, *, is_higher_better: bool) -> tuple[bool, float]:
    """Return the key by which contestants are sorted: the best first, the unmeasured last."""
    if value is None or math.isnan(value):
        return True, 0.0
    return False, -value if is_higher_better else value


def _weights_now(run: Run) -> tuple[Path, int]:
    """Return the folder of the weights that a contestant has now, and their step.

    Raises:
        RunError: There are none yet.
    """
    if not run.is_over and run.status != "paused":
        if not run.step:
            raise RunError(f"{run.id}: has trained no step yet, so there is nothing to start from.")
        before = run.state.counts["checkpoint"]
        run.save()
        while run.state.counts["checkpoint"] == before and not run.is_over:
            time.sleep(_POLL_SECONDS)
    if run.is_over and run.adapter is not None:
        return run.adapter, run.step
    checkpoint = last_whole(run.path)
    if checkpoint is None:
        raise RunError(f"{run.id}: is {run.status} and has saved no weights to start from.")
    return checkpoint, step_of(checkpoint)


def _state_of_trainer(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(_STATE_OF_TRAINER)]


def as_plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes as JSON, without secrets."""
    plain: dict[str, Any] = json.loads(json.dumps(redact(dict(changes)), default=str))
    return plain


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "empty" if value is None else str(value)
