"""What to do with a run that is over, in Python and for a shell.

Called by the monitor and the command line, which show it below the result.
"""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nbft.methods import method_of
from nbft.models.peft_types import merge_obstacle
from nbft.plan.guidance import most_passes
from nbft.runs.checkpoints import last_whole, step_of
from nbft.runs.state import RunState

if TYPE_CHECKING:
    from nbft.runs.folder import Run

_PROMPT_CHARS = 200
_RESUMABLE = ("stopped", "cancelled", "failed")


class NextStep(NamedTuple):
    """One thing to do.

    Attributes:
        what: What it does, in a few words.
        python: A line of Python, of a variable `run`.
        shell: A command line; "" if there is none.
    """

    what: str
    python: str
    shell: str = ""


def resume_step(run: Path, state: RunState, *, is_lost: bool = False) -> int | None:
    """Return the step that an unfinished run would be resumed from; None if it cannot be.

    Args:
        run: The run's folder.
        state: Its state.
        is_lost: Whether its process ended without a word.
    """
    ended = state.end["event"] if state.end else ""
    if not is_lost and ended not in _RESUMABLE:
        return None
    checkpoint = last_whole(run)
    return None if checkpoint is None else step_of(checkpoint)


def name_of(run: Run) -> str:
    """Return the name under which `attach` finds a run from here: its id, or else its folder."""
    folder = run.path.resolve()
    if folder == Path.cwd() / "runs" / run.id:
        return run.id
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def next_steps(run: Run, state: RunState, *, is_lost: bool = False) -> list[NextStep]:
    """Return what to do next with a run that is over.

    Args:
        run: The run.
        state: Its state.
        is_lost: Whether its process ended without a word.
    """
    name, end, config = shlex.quote(name_of(run)), state.end or {}, run.config
    found = []
    is_reward_model = method_of(config).scores_answers
    if end.get("adapter") or end.get("model"):
        if is_reward_model:
            found += [
                NextStep("score answers", "run.rewards('What is 2 + 2?', ['4', 'Five.'])"),
                NextStep("use it in GRPO", _as_reward(run)),
            ]
        if prompt := _prompt(state):
            dashes = "-- " if prompt.startswith("-") else ""  # or it is taken for an option
            asked = "" if "\n" in prompt else f" {dashes}{shlex.quote(prompt)}"
            found += [
                NextStep("try it, also with words that are in no row", f"run.generate({prompt!r})"),
                NextStep(
                    "compare it with the base model",
                    f"run.compare([{prompt!r}])",
                    f"nbft compare {name}{asked}",
                ),
            ]
        if not merge_obstacle(config):
            what = "export it for other programs, read back and compared"
            shell = f"nbft export-model {name} --to merged"
            found.append(NextStep(what, "run.export('merged')", shell))
        else:
            found.append(NextStep("load it", "model, tokenizer = run.load_model()"))
    if resume_step(run.path, state, is_lost=is_lost) is not None:
        found.append(NextStep("resume it", "run.resume()", f"nbft resume {name}"))
    elif end.get("event") == "completed" and not state.reason and last_whole(run.path):
        for path, length in _longer(run, state).items():
            change = f"run.resume({{{path!r}: {length}}})"
            found.append(NextStep("train longer", change, f"nbft resume {name} {path}={length}"))
    return found


def _as_reward(run: Run) -> str:
    """Return what names a run's reward model in the settings of GRPO."""
    reward = {"function": "reward_model", "options": {"model": str(run.adapter or run.path)}}
    return f"reward = {reward!r}"


def _prompt(state: RunState) -> str:
    """Return a short prompt in the form in which the model was trained; "" if there is none."""
    answers = state.samples[-1]["samples"] if state.samples else []
    prompts = [answer["prompt"] for answer in answers]
    return min((prompt for prompt in prompts if len(prompt) <= _PROMPT_CHARS), key=len, default="")


def _longer(run: Run, state: RunState) -> dict[str, float]:
    """Return the setting that decides how long a run is, and a useful larger value.

    Returns:
        {} if the held-out loss no longer falls, every scored answer is right, or more passes over
        the rows would be too many.
    """
    losses = state.curve("eval_loss").values
    is_right = any(one.score == "exact_match" and one.last == 1 for one in state.scores.compared)
    if is_right or (losses and losses[-1] > min(losses)):
        return {}
    training, rows = run.config.training, run.plan.get("train_rows")
    most: float = most_passes(rows) if rows else math.inf
    if training.max_steps > 0:
        most *= run.plan.get("steps_per_epoch") or math.inf
        name, now = "training.max_steps", float(training.max_steps)
    else:
        name, now = "training.num_train_epochs", training.num_train_epochs
    longer = min(2 * now, most)
    if longer <= now:
        return {}
    return {name: int(longer) if longer == int(longer) else longer}


def as_python(name: str, steps: list[NextStep]) -> str:
    """Return the steps as a cell, with what each does behind it.

    >>> print(as_python("kind-otter-14", [NextStep("try it", "run.generate('Hi.')")]))
    run = nbft.attach('kind-otter-14')
    run.generate('Hi.')  # try it
    """
    if not steps:
        return ""
    lines = [f"{step.python}  # {step.what}" for step in steps]
    return "\n".join([f"run = nbft.attach({name!r})", *lines])
