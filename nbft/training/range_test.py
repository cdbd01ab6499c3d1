"""The first steps of a run at learning rates that rise, and the loss of each; nothing is kept.

It is the training of the run itself: its rows in their order, batches, optimiser, precision and fast
path. Only the schedule differs, which is one of our own registry. Runs in a process of its own, which
`nbft.runs.rate_search` starts, reads and ends: the model's memory is the system's again at once, and
the random numbers of a kernel stay as they were.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.access import own_process
from nbft.config import Config
from nbft.decisions import decide, sees_all_gpus
from nbft.devices import see_one_gpu
from nbft.errors import NbftError
from nbft.methods import method_of
from nbft.models.adapters import base_name
from nbft.models.find import find_model
from nbft.models.load import load_tokenizer, quiet
from nbft.plan.schedule import total_steps
from nbft.processes import set_title
from nbft.progress import telling
from nbft.runs.range_test import has_exploded
from nbft.training.beginning import NOTHING_BUT_STEPS, load_untrained
from nbft.training.environment import environment, redact_output
from nbft.training.libraries import import_libraries

_RISING = "nbft_rising"


class _Rising:
    """A schedule: the share of the learning rate at each step, and the rate that it stands for.

    Args:
        rates: The learning rate of each step; the first one is the config's.

    Attributes:
        rate: The learning rate that the optimiser has now.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates = rates
        self.rate = rates[0]

    def __call__(self, step: int, _warmup: int, _total: int) -> float:
        """Return the share at a step; after the last one it stays."""
        self.rate = self._rates[min(step, len(self._rates) - 1)]
        return self.rate / self._rates[0]


def run_range_test(
    config: Config, rates: Sequence[float], folder: Path, tell: Callable[..., None]
) -> None:
    """Train one step at each learning rate, or until the loss explodes.

    Args:
        config: The config; its paths are absolute.
        rates: The learning rates, rising.
        folder: An empty folder, which stays empty: where a trainer would save.
        tell: Called with `say=`, a sentence about what is being done; with `step=`,
            `learning_rate=` and `loss=` after each step; and with `exploded=` at the end.

    Raises:
        NbftError: The training cannot begin.
    """

    def say(text: str) -> None:
        tell(say=text)

    from nbft.training.rows import read_rows
    from nbft.training.trainer import build_trainer

    with quiet():
        found = find_model(base_name(config), config.model.model_revision, say)
        decisions = decide(config, found.path)
        with environment(config, decisions.device.value):
            tokenizer = load_tokenizer(config, found.path)
            say("Reading and tokenising the rows …")
            with telling(say):
                rows = read_rows(
                    config, tokenizer, say, lambda _: None, padding_free=decisions.padding_free
                )
            rows = dataclasses.replace(rows, held_out=None)
            schedule = _Rising(rates)
            registry.schedulers.register(_RISING)(schedule)
            steps_only = config.apply(
                {
                    **NOTHING_BUT_STEPS,
                    "training.learning_rate": rates[0],
                    "scheduler": {"lr_scheduler_type": _RISING},
                    "logging.logging_strategy": "steps",
                    "logging.logging_steps": 1,
                    # The length of the run counts where something follows it, such as AdaLoRA's ranks.
                    "training.max_steps": max(total_steps(config, rows.sequences), len(rates)),
                }
            )
            model = load_untrained(config, decisions, found.path, say)
            reporting = _reporting(schedule, len(rates), tell)
            trainer = build_trainer(
                steps_only,
                decisions,
                model,
                tokenizer,
                rows,
                output_dir=folder,
                callbacks=[reporting],
                begin=lambda _stage, _step, text: say(text),
            )
            method_of(config).prepare(trainer)
            say("Training …")
            trainer.train()
    tell(exploded=has_exploded(reporting.losses))


def _reporting(schedule: _Rising, steps: int, tell: Callable[..., None]) -> Any:
    """Return a callback that tells the loss of each step, and ends the training."""
    from transformers import TrainerCallback

    class Reporting(TrainerCallback):
        def __init__(self) -> None:
            self.losses: list[float] = []
            self._rate = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._rate = schedule.rate  # the schedule goes on before the log

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return  # the totals at the end
            self.losses.append(float(logs["loss"]))
            tell(step=state.global_step, learning_rate=self._rate, loss=self.losses[-1])
            if len(self.losses) >= steps or has_exploded(self.losses):
                control.should_training_stop = True

    return Reporting()


def _end_with_parent() -> None:
    """End this process when the one that started it has gone, or closes its end of the pipe."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _problems(error: BaseException) -> list[str]:
    """Return why the test failed, in sentences."""
    if isinstance(error, NbftError):
        return [str(problem) for problem in error.problems]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ["Memory ran out. A run would need as much; choose a smaller batch or shorter rows."]
    first = next(iter(str(error).splitlines()), "")
    return [f"The training failed ({type(error).__name__}: {first.rstrip('.')})."]


def _main() -> None:
    given = json.loads(sys.stdin.readline())
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no message
    redact_output()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    own_process()
    set_title("finding a learning rate")

    def tell(**message: Any) -> None:
        pipe.write(f"{json.dumps(message)}\n")
        pipe.flush()

    try:
        config = Config(**given["config"]).own()  # its code was checked by the plan
        if not sees_all_gpus(config):
            see_one_gpu()
        tell(say="Loading the libraries …")
        import_libraries(owns_process=True)
        run_range_test(config, given["learning_rates"], Path(given["folder"]), tell)
    except BaseException as error:
        traceback.print_exc()
        tell(problems=_problems(error))
    os._exit(0)  # everything is told; the libraries' cleanup would hold the device for seconds


if __name__ == "__main__":
    _main()
