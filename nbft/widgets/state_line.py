"""What the form says about itself: one line that screen readers hear too."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Literal

from nbft.errors import NbftError, Problem
from nbft.widgets.kernel import call_soon, is_main_thread
from nbft.widgets.kit import Kit

State = Literal["ready", "wrong", "empty", "checking", "running", "finished"]

LOCKED = "The fields are locked while a run is training. Press “Edit a copy” to change them."


class StateLine:
    """The line.

    Attributes:
        widget: The line itself.
        log: The traceback of the last thing that went wrong unexpectedly.
    """

    def __init__(self, kit: Kit) -> None:
        self.widget = kit.html("", "nbft-state")
        self.log = ""

    def say(self, sentence: str, state: State) -> None:
        """Say the state in a sentence."""
        self.widget.value = f'<p role="status" class="nbft-{state}">{escape(sentence)}</p>'

    def say_too(self, sentence: str) -> None:
        """Say something below the state, until that changes."""
        self.widget.value += f'<p role="status">{escape(sentence)}</p>'

    def say_problems(self, problems: Sequence[str | Problem]) -> None:
        """Say what went wrong."""
        sentences = "<br>".join(escape(str(problem)) for problem in problems)
        self.widget.value = f'<p role="alert" class="nbft-wrong">{sentences}</p>'

    def say_failed(self, error: Exception) -> None:
        """Say that something failed that should not, and keep the traceback."""
        self.log = "".join(traceback.format_exception(error))
        what = f"{type(error).__name__}: {error}".strip(": ")
        self.say(
            f"Something went wrong ({what}). print(form.log) shows the whole traceback.", "wrong"
        )


def guarded(action: Callable[..., None]) -> Callable[..., None]:
    """Run a handler on the main thread, and say what goes wrong instead of losing it.

    Its object has the `line` in which that is said.
    """

    @functools.wraps(action)
    def run(owner: Any, *args: Any) -> None:
        try:
            action(owner, *args)
        except NbftError as error:
            owner.line.say_problems(error.problems)
        except Exception as error:  # a handler's exception would vanish in most front ends
            owner.line.say_failed(error)

    @functools.wraps(action)
    def start(owner: Any, *args: Any) -> None:
        if is_main_thread():
            run(owner, *args)
        else:
            call_soon(run, owner, *args)

    return start
