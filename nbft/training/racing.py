"""The worker of a race: a thread for each contestant, one of which trains at a time.

Called by `nbft.launchers.race_worker`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from nbft.limits import usable_cores
from nbft.models.load import quiet
from nbft.runs.folder import Run
from nbft.runs.race import rungs, verdicts
from nbft.runs.race_record import changed_record, read_record
from nbft.training.shared_weights import SharedWeights
from nbft.training.turns import Turn, Turns
from nbft.training.worker import work

_POLL_SECONDS = 0.2


def race(folder: Path, let_go: Callable[[], None]) -> None:
    """Train the contestants of a race, also those that join meanwhile, until all have ended.

    Args:
        folder: The race's folder.
        let_go: Called in the thread of a contestant before another one computes.
    """
    record = read_record(folder)
    keep, by = record["keep"], record["by"]
    if torch.get_num_threads() > usable_cores():  # of this process, which no contestant changes
        torch.set_num_threads(usable_cores())

    def judge(going: Sequence[Turn]) -> None:
        try:
            states = {turn.run.name: Run(turn.run).state for turn in going}
            found = verdicts(states, by, keep, f"race {folder.name}")
        except Exception:  # all go on: this is the thread of one of them, which others wait for
            logging.exception("The contestants could not be judged")
            return
        for turn in going:
            turn.verdict = found.get(turn.run.name, "")

    logging.captureWarnings(True)  # each contestant finds it so, and leaves it so
    with quiet():
        turns = Turns(
            record["device"],
            record["steps_per_turn"],
            rungs(len(record["runs"]), keep) if keep else [],
            judge,
            by_held_out=by.startswith("eval_"),
            let_go=let_go,
        )
        shared = SharedWeights()
        threads: dict[str, threading.Thread] = {}
        while not _is_over(folder, threads):
            for name in read_record(folder)["runs"]:
                run = folder.parent / name
                if name not in threads and (run / "events.jsonl").exists():  # it is supervised
                    turn = turns.join(run)
                    turn.share = shared.load
                    threads[name] = threading.Thread(
                        target=_take_part, args=(turns, turn), name=name, daemon=True
                    )
                    threads[name].start()
            time.sleep(_POLL_SECONDS)


def _take_part(turns: Turns, turn: Turn) -> None:
    with turns.taking_part(turn):
        work(turn.run, turn=turn)


def _is_over(folder: Path, threads: dict[str, threading.Thread]) -> bool:
    """Close the race once all contestants have ended, and return whether it is closed."""
    if not threads or any(thread.is_alive() for thread in threads.values()):
        return False
    with changed_record(folder) as record:
        record["is_over"] = record["runs"].keys() <= threads.keys()
    return bool(record["is_over"])
