"""Callbacks that write a run's progress into files of its folder, never onto the screen.

Text from a training thread would land in whatever notebook cell is running. Registered as
`enhanced_progressbar`, `printer` and `json_logger` for callbacks.callbacks.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

_BAR_CHARS = 30


def run_folder(args: TrainingArguments) -> Path:
    """Return the folder of the run that writes its checkpoints to args.output_dir."""
    return Path(str(args.output_dir)).parent


class _FileCallback(TrainerCallback):
    """Writes one file in the run's folder.

    Args:
        file: Name of the file; the default of the class when None.
    """

    default_file: str

    def __init__(self, file: str | None = None) -> None:
        self._file = file or self.default_file

    def _path(self, args: TrainingArguments) -> Path:
        return run_folder(args) / self._file


class ProgressBarCallback(_FileCallback):
    """Keeps one line of progress in progress.txt: a bar, steps, time left, the last numbers."""

    default_file = "progress.txt"

    def __init__(self, file: str | None = None) -> None:
        super().__init__(file)
        self._began = time.monotonic()
        self._first = 0
        self._numbers: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._began, self._first = time.monotonic(), state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Any = None, **__: Any
    ) -> None:
        """Update the numbers."""
        names = ("loss", "mean_token_accuracy", "eval_loss", "grad_norm", "learning_rate")
        self._numbers |= {name: float(logs[name]) for name in names if logs and name in logs}
        self._write(args, state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Update the bar."""
        self._write(args, state)

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        done, total = state.global_step, max(1, state.max_steps)
        filled = round(_BAR_CHARS * done / total)
        a_step = (time.monotonic() - self._began) / max(1, done - self._first)
        left = a_step * (total - done)
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in self._numbers.items())
        bar = "#" * filled + "." * (_BAR_CHARS - filled)
        text = f"[{bar}] {done}/{total} {done / total:.0%}, {left:.0f} s left  {numbers}\n"
        self._path(args).write_text(text, encoding="utf-8")


class PrinterCallback(_FileCallback):
    """Writes each log as a line of printer.txt, as transformers' own prints it."""

    default_file = "printer.txt"

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Any = None, **__: Any
    ) -> None:
        """Write a line."""
        shown = {k: v for k, v in (logs or {}).items() if k != "total_flos"}
        with self._path(args).open("a", encoding="utf-8") as stream:
            stream.write(f"step {state.global_step}: {shown}\n")


class JsonLoggerCallback(_FileCallback):
    """Writes each log as one JSON object a line, with its step and the time."""

    default_file = "metrics.jsonl"

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Any = None, **__: Any
    ) -> None:
        """Write a line."""
        line = {"step": state.global_step, "time": time.time(), **(logs or {})}
        with self._path(args).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, default=float) + "\n")
