"""The callback that notes what goes wrong with a training, and what no longer does.

What there is to note, and how to see it, is in `nbft.runs.notes`; this module decides when to look,
and writes it. Called by transformers' Trainer after each log and each evaluation, and at the end.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from nbft import events
from nbft.config import Config
from nbft.errors import RunError
from nbft.methods import method_of
from nbft.runs import notes
from nbft.runs.state import StateReader

_LOOKS_APART = 50
"""Looks at a long run become rarer, a fiftieth of the logs apart, so their cost stays small."""

_ANSWERED_LOOKS = 3
"""Looks in a row that must not find a note before it is struck."""

_MOST_TIMES = 3
"""How often a note that was struck may come back."""


class NotANumberError(RunError):
    """The loss is not a number, and training.stop_on_nan is on."""


class WatchingCallback(TrainerCallback):
    """Writes `note` events about what went wrong, and `answered` events when it is over.

    Args:
        run: Folder of the run; its events must be written before this callback is called.
        config: The config of the run.
    """

    def __init__(self, run: Path, config: Config) -> None:
        self._events = run / "events.jsonl"
        self._config = config
        declared = (measure.name for measure in method_of(config).measures_of(config))
        self._reader = StateReader(self._events, measures={*notes.MEASURES, *declared})
        self._logs = self._next = 0
        self._missed: Counter[str] = Counter()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Any = None, **__: Any
    ) -> None:
        """Look at the run, if it is time to.

        Raises:
            NotANumberError: The loss is not a number and training.stop_on_nan is on.
        """
        if not logs or "loss" not in logs:
            return
        self._logs += 1
        loss = float(logs["loss"])
        if math.isfinite(loss) and self._logs < self._next:
            return
        self._next = self._logs + max(1, self._logs // _LOOKS_APART)
        self._look()
        if not math.isfinite(loss) and self._config.training.stop_on_nan:
            found = notes.nan(self._reader.state, self._config)
            advice = notes.advise(found, self._config).text if found else "The loss is no number."
            again = "Resume from an earlier checkpoint or start a new run with that change. "
            raise NotANumberError(
                f"{advice} Training is useless from here on. {again if state.global_step > 1 else ''}"
                "training.stop_on_nan=false continues regardless."
            )

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Look at the run with its new held-out loss."""
        self._look()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Look at the run for the last time."""
        self._look(is_last=True)

    def _look(self, *, is_last: bool = False) -> None:
        """Note what is new, and strike what is over."""
        self._reader.read()
        run = self._reader.state
        said = Counter(note.kind for note in run.notes)
        holding = {note.kind for note in run.notes if note.answered_step is None}
        for name, found in notes.notes_of(run, self._config).items():
            if name not in holding and said[name] < _MOST_TIMES:
                text, changes = notes.advise(found, self._config)
                events.append(
                    self._events, "note", step=run.step, kind=name, text=text, changes=changes
                )
        for name in holding & notes.NOTES.keys():
            kind = notes.NOTES[name]
            is_found = kind.lasts or kind.find(run, self._config) is not None
            self._missed[name] = 0 if is_found else self._missed[name] + 1
            if self._missed[name] >= (1 if is_last else _ANSWERED_LOOKS):
                events.append(self._events, "answered", step=run.step, kind=name)
                del self._missed[name]
