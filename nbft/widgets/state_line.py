"""The state of the form in one line, which screen readers read too."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Literal

from markupsafe import Markup

from nbft.errors import NbftError, Problem
from nbft.widgets.kernel import call_soon, is_main_thread
from nbft.widgets.kit import Kit

State = Literal["ready", "wrong", "empty", "checking", "running", "finished"]

LOCKED = "The fields are locked while a run is training. Press “Edit a copy” to change them."


class StateLine:
    """The line, and below it what leads to the fields that it speaks of.

    Attributes:
        widget: The line itself.
        log: The traceback of the last unexpected error.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self.widget = kit.html("", "nbft-state")
        self._linked: tuple[tuple[str, str], ...] = ()
        self.log = ""

    @functools.cached_property
    def links(self) -> Any:
        """A button for each such field."""
        return self._kit.slot("nbft-links")

    @property
    def widgets(self) -> tuple[Any, ...]:
        """What is shown of the line; what it has shown once stays in its place."""
        return (self.widget, self.links) if "links" in self.__dict__ else (self.widget,)

    def link(self, texts: Sequence[tuple[str, str]], follow: Callable[[str], None]) -> None:
        """Show a button for each of some fields, in place of the earlier ones.

        Args:
            texts: The path of each field, and the text of its button.
            follow: Called with the path when a button is pressed.
        """
        if tuple(texts) != self._linked:
            self._linked = tuple(texts)
            self.links.show(
                lambda kit: [
                    kit.button(text, lambda _, path=path: follow(path), "nbft-link")
                    for path, text in texts
                ]
            )

    def say(self, sentence: str, state: State) -> None:
        """Show the state in a sentence."""
        html = Markup('<p role="status" class="nbft-{}">{}</p>')
        self.widget.value = html.format(state, sentence)

    def say_too(self, sentence: str) -> None:
        """Show a sentence below the state, until that changes."""
        self.widget.value += Markup('<p role="status">{}</p>').format(sentence)

    def say_problems(self, problems: Sequence[str | Problem]) -> None:
        """Show problems."""
        sentences = Markup("<br>").join(map(str, problems))
        self.widget.value = Markup('<p role="alert" class="nbft-wrong">{}</p>').format(sentences)

    def say_failed(self, error: Exception) -> None:
        """Show an unexpected error, and keep the traceback."""
        self.log = "".join(traceback.format_exception(error))
        what = f"{type(error).__name__}: {error}".strip(": ")
        self.say(
            f"Something went wrong ({what}). print(form.log) shows the whole traceback.", "wrong"
        )


def guarded(action: Callable[..., None]) -> Callable[..., None]:
    """Run a handler on the main thread, and show its errors in the `line` of its object."""

    @functools.wraps(action)
    def run(owner: Any, *args: Any) -> None:
        try:
            action(owner, *args)
        except NbftError as error:
            owner.line.say_problems(error.problems)
        except Exception as error:  # most front ends do not show a handler's exception
            owner.line.say_failed(error)

    @functools.wraps(action)
    def start(owner: Any, *args: Any) -> None:
        if is_main_thread():
            run(owner, *args)
        else:
            call_soon(run, owner, *args)

    return start
