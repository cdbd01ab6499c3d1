"""`nbft.find_learning_rate`: a short training at rising learning rates, before the real one.

It runs in a process of its own (`nbft.training.range_test`), whose messages are read here, so it can
be interrupted at any time and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nbft.config import Config
from nbft.devices import names_to_take, visible_variable
from nbft.errors import ConfigError, NbftError, Problem
from nbft.formatting import duration, number
from nbft.methods import method_of
from nbft.plan.cluster import trained_here
from nbft.plan.rates import rates_of
from nbft.presented import in_notebook
from nbft.queue import turn
from nbft.redaction import redact_text
from nbft.runs.folder import self_contained
from nbft.runs.range_test import FIRST_STEPS, Ending, RangeTest, rising_rates

if TYPE_CHECKING:
    from nbft.plan import Plan

STEPS = 100
_FEWEST_STEPS, _MOST_STEPS = 2 * FIRST_STEPS, 1_000

_BELOW, _ABOVE = 10, 100
"""Where the test begins and ends: so many times below the lowest and above the highest usual rate."""

_POLL_SECONDS = 0.2
_WATCH_SECONDS = 1.0

_NAME = "learning-rate-test"
"""What a run that waits for the device calls it."""


def find_learning_rate(
    config: Config,
    *,
    steps: int = STEPS,
    lowest: float | None = None,
    highest: float | None = None,
    folder: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    watch: Callable[[RangeTest], None] | None = None,
    give_up: Callable[[], bool] = lambda: False,
) -> RangeTest:
    """Train a few steps at rising learning rates, and suggest the one from which to start.

    The training is that of a run with this config: its rows, batches, optimiser and precision. It
    ends early when the loss explodes. Nothing is saved, and there is no run; it waits for its device
    like one. An interrupt (■, Ctrl-C) ends it, with what was measured until then.

    Args:
        config: The config. Its learning rate and schedule do not matter.
        steps: Steps of the test, each at a higher rate than the one before; 20 to 1,000.
        lowest: The first rate; when None, a tenth of the lowest that is usual for the method.
        highest: The last rate; when None, a hundred times the highest that is usual, at most 1.
        folder: Folder of the config file, for relative paths.
        say: Called with what is being done, as a sentence. When None, a notebook shows it.
        watch: Called with what was measured so far, at most once a second.
        give_up: Called several times a second; returns whether to stop.

    Returns:
        The losses by learning rate, which show themselves as a curve, and the suggestion.

    Raises:
        ConfigError: Every problem that would stop a run, or a method without such a test.
        NbftError: The training failed; says why.
    """
    from nbft.plan import make_plan

    _check(config, steps)
    where = Path(folder) if folder is not None else None
    low, high = _range(config, lowest, highest)
    config = trained_here(config)
    plan = make_plan(config, folder=where)
    if plan.errors:
        raise ConfigError(plan.errors)
    search = _Search(config, plan, rising_rates(low, high, steps))
    with contextlib.ExitStack() as stack:
        if say is None:
            say, watch = stack.enter_context(_shown_in_cell(watch))
        temporary = tempfile.TemporaryDirectory(prefix="nbft-", ignore_cleanup_errors=True)
        place = Path(stack.enter_context(temporary)) / _NAME
        place.mkdir()
        with contextlib.suppress(KeyboardInterrupt):
            search.run(place, where, say, watch or (lambda _: None), give_up)
    return search.found(is_over=True)


def _check(config: Config, steps: int) -> None:
    """Refuse what cannot be tested.

    Raises:
        ConfigError: Says why.
    """
    if not isinstance(config, Config):
        raise TypeError(f"config is a {type(config).__name__}. Give an nbft.Config.")
    training = config.training
    if not (type(steps) is int and _FEWEST_STEPS <= steps <= _MOST_STEPS):
        why = f"is not a whole number from {_FEWEST_STEPS} to {_MOST_STEPS:,}."
        raise ConfigError(Problem("steps", steps, why, f"Use {STEPS}."))
    if method_of(config).generates:
        why = "has no learning rate test: its loss does not say how much is learned."
        fix = "Compare short runs at several learning rates by their rewards."
        raise ConfigError(Problem("training.method", training.method, why, fix))
    if (processes := config.distributed.num_processes) != 1:
        why = "cannot be tested: the learning rate test runs in one process."
        by = f"by {processes}" if processes else "by the number of GPUs"
        fix = f"Use 1, and multiply training.gradient_accumulation_steps {by}."
        raise ConfigError(Problem("distributed.num_processes", processes or "auto", why, fix))
    if not training.do_train:
        why = "leaves nothing to test."
        raise ConfigError(Problem("training.do_train", False, why, "Turn it on."))
    if training.resume_from_checkpoint:
        given = training.resume_from_checkpoint
        why = "continues a training, but a learning rate is tested from its beginning."
        raise ConfigError(Problem("training.resume_from_checkpoint", given, why, "Leave it out."))


def _range(config: Config, lowest: float | None, highest: float | None) -> tuple[float, float]:
    """Return the first and the last learning rate.

    Raises:
        ConfigError: They are no range.
    """
    usual = rates_of(config)
    low = usual.lowest / _BELOW if lowest is None else lowest
    high = min(1.0, usual.highest * _ABOVE) if highest is None else highest
    for name, value in (("lowest", low), ("highest", high)):
        if not (isinstance(value, (int, float)) and 0 < value <= 1):
            raise ConfigError(Problem(name, value, "is no learning rate above 0 and up to 1."))
    if high < 10 * low:
        why = f"is less than ten times the lowest rate, {number(low)}, which is too short a range."
        raise ConfigError(Problem("highest", high, why, "Use a higher one, or a lower lowest."))
    return low, high


class _Search:
    """A range test while it runs; what ends it early leaves it stopped.

    Args:
        config: The config.
        plan: Its plan.
        rates: The learning rates to try.
    """

    def __init__(self, config: Config, plan: Plan, rates: list[float]) -> None:
        self._config, self._plan, self._planned = config, plan, rates
        self._rates: list[float] = []
        self._losses: list[float] = []
        self._ending: Ending = "running"
        self._began = time.monotonic()
        self._first_at = 0.0

    def found(self, *, is_over: bool = False) -> RangeTest:
        """Return what was measured so far."""
        if is_over and self._ending == "running":
            self._ending = "stopped"
        return RangeTest(
            self._config,
            tuple(self._rates),
            tuple(self._losses),
            len(self._planned),
            self._plan.effective_batch_size,
            self._ending,
            time.monotonic() - self._began,
        )

    def run(
        self,
        place: Path,
        folder: Path | None,
        say: Callable[[str], None],
        watch: Callable[[RangeTest], None],
        give_up: Callable[[], bool],
    ) -> None:
        """Wait for the device, start the process and read what it tells, until it is over."""
        config = self_contained(self._config, place, folder)
        empty = place / "empty"
        empty.mkdir()
        task = {
            "config": config.to_dict(full=True),
            "learning_rates": self._planned,
            "folder": str(empty),
        }
        device = self._plan.device.value
        among = functools.partial(names_to_take, device)
        with turn(device, place, say, give_up, among=among) as ticket:
            if ticket is None:
                return
            with _process(task, place / "log.txt", ticket.uses) as messages:
                self._read(messages, say, watch, give_up)

    def _read(
        self,
        messages: queue.SimpleQueue[dict[str, Any]],
        say: Callable[[str], None],
        watch: Callable[[RangeTest], None],
        give_up: Callable[[], bool],
    ) -> None:
        """Take in messages until the last one.

        Raises:
            NbftError: The training failed.
        """
        watched_at = time.monotonic()
        while not give_up():
            try:
                message = messages.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if "problems" in message:
                raise NbftError(message["problems"])
            if "exploded" in message:
                self._ending = "exploded" if message["exploded"] else "done"
                return
            if "say" in message:
                say(message["say"])
            if "loss" in message:
                self._rates.append(message["learning_rate"])
                self._losses.append(message["loss"])
                say(self._progress())
                if time.monotonic() - watched_at >= _WATCH_SECONDS:
                    watched_at = time.monotonic()
                    watch(self.found())

    def _progress(self) -> str:
        """Return how far it is, as a sentence."""
        done, now = len(self._losses), time.monotonic()
        self._first_at = self._first_at or now
        left = ""
        if done > 1:
            seconds = (now - self._first_at) / (done - 1) * (len(self._planned) - done)
            left = f", at most {duration(seconds)} left"
        return (
            f"Step {done:,} of {len(self._planned):,}: loss {number(self._losses[-1])} at "
            f"{number(self._rates[-1])}{left}."
        )


@contextlib.contextmanager
def _process(
    task: dict[str, Any], log: Path, sees: Sequence[str] = ()
) -> Iterator[queue.SimpleQueue[dict[str, Any]]]:
    """Start the process of a test, yield its messages, and end it.

    It ends by itself when this process ends in whatever way: it reads a pipe that is then closed.

    Args:
        task: What it does.
        log: File for what it prints.
        sees: Names of the GPUs that it sees; all that this process sees if there are none.
    """
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    # What libraries leave in their temporary folders when they are ended is removed with ours.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(log.parents[1]))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "nbft.training.range_test"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            encoding="utf-8",
            env=os.environ | temporary | visible_variable(sees),
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
    assert process.stdin is not None
    reader = threading.Thread(target=_take, args=(process, messages, log), daemon=True)
    reader.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
            process.stdin.write(f"{json.dumps(task)}\n")
            process.stdin.flush()
        yield messages
    finally:
        _end(process)
        reader.join()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _end(process: subprocess.Popen[str]) -> None:
    """End a process with those that load its data, and wait for its end."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _take(
    process: subprocess.Popen[str], messages: queue.SimpleQueue[dict[str, Any]], log: Path
) -> None:
    """Put each message into a queue; at the end one that says that there are no more."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            messages.put(json.loads(line))
    code = process.wait()
    with contextlib.suppress(OSError):
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        why = redact_text(last[0]) if last else "there is no message; memory may have run out"
        ended = f"The process of the test ended early, with {code}: {why.rstrip('.')}."
        messages.put({"problems": [ended]})


@contextlib.contextmanager
def _shown_in_cell(
    watch: Callable[[RangeTest], None] | None,
) -> Iterator[tuple[Callable[[str], None], Callable[[RangeTest], None] | None]]:
    """Yield what shows the state and the curve in the cell, which is cleared at the end."""
    if not in_notebook():
        yield (lambda _: None), watch
        return
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    curve = ""
    last = ""

    def show() -> None:
        status = Markup('<p role="status">{}</p>').format(last)
        handle.update(HTML(status + Markup(curve)))  # noqa: S704 - a page, escaped by jinja2

    def say(text: str) -> None:
        nonlocal last
        last = text
        show()

    def follow(found: RangeTest) -> None:
        nonlocal curve
        curve = found._repr_html_()
        if watch is not None:
            watch(found)

    try:
        yield say, follow
    finally:
        handle.update(HTML(""))
