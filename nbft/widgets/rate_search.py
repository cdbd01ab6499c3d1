"""The field of the learning rate, with a button that looks for one by a short training.

The search runs in a process that a thread follows, as the doctor does; only the main thread touches
widgets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import ipywidgets
from markupsafe import Markup

from nbft.config import Config
from nbft.errors import NbftError
from nbft.widgets.background import Task
from nbft.widgets.fields import Field, fix_words
from nbft.widgets.kernel import call_soon, is_main_thread
from nbft.widgets.kit import Kit

if TYPE_CHECKING:
    from nbft.runs.range_test import RangeTest

RATE = "training.learning_rate"

_ABOUT = "Train a few steps at rising learning rates, save nothing, and suggest one"


class RateField(Field):
    """The learning rate, with a search for it below.

    Args:
        config: Returns the config as it is now; raises if some fields are wrong.
        *about: As for every field.
    """

    def __init__(self, config: Callable[[], Config], *about: Any) -> None:
        super().__init__(*about)
        self._config = config
        self._find = _button(self._kit, "Find…", _ABOUT, self._search_now, "nbft-link nbft-choose")
        self.widget.children = (*self.widget.children, self._find)

    @functools.cached_property
    def search(self) -> RateSearch:
        """The search, which is made on first use."""
        search = RateSearch(self._config, self._use, self._close_search, self._kit)
        self._kit.own(search)
        return search

    def _search_now(self) -> None:
        self._show_extras(self.search.widget, True)
        self.search.start()

    def _use(self, rate: float) -> None:
        self._close_search()
        self._on_fix(self.path, {self.path: rate})

    def _close_search(self) -> None:
        self._show_extras(self.search.widget, False)

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock the value, and what would change it."""
        super().lock(is_locked)
        self._find.disabled = is_locked
        if "search" in vars(self):
            self.search.lock(is_locked)


class RateSearch:
    """A learning rate test: its state in words, its curve, and a button that uses its suggestion.

    Args:
        config: Returns the config as it is now.
        use: Called with the suggested learning rate.
        leave: Called when the person is done with it.
        kit: Makes the widgets.

    Attributes:
        widget: The widget to be shown.
        found: The last result; None before it.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        use: Callable[[float], None],
        leave: Callable[[], None],
        kit: Kit,
    ) -> None:
        self._config, self._use, self._leave, self._kit = config, use, leave, kit
        self._turn = 0  # grows with each search; earlier ones are given up
        self._is_enough = False  # whether what was measured is enough
        self._is_locked = False
        self._use_button: Any = None
        self.found: RangeTest | None = None
        self._state = kit.html("")
        self._buttons = kit.slot()
        self._curve = kit.html("")
        parts = (self._state, self._buttons, self._curve)
        self.widget = kit(ipywidgets.VBox, "nbft-rate-search", children=parts)

    def start(self) -> None:
        """Look for a learning rate in the background, in place of an earlier search."""
        from nbft.runs.rate_search import find_learning_rate

        self._turn += 1
        turn, self._is_enough = self._turn, False
        self.found, self._use_button = None, None
        self._curve.value = ""
        try:
            config = self._config()
        except NbftError as error:
            self._fail(error)
            return
        self._say("Looking for a learning rate …")
        self._buttons.show(self._while_running)

        def unless_overtaken(action: Callable[[Any], None], value: Any) -> None:
            if turn == self._turn:
                action(value)

        def later(action: Callable[[Any], None]) -> Callable[[Any], None]:
            return functools.partial(call_soon, unless_overtaken, action)

        def search() -> RangeTest:
            return find_learning_rate(
                config,
                say=later(self._say),
                watch=later(self._show_curve),
                give_up=lambda: self._is_enough or turn != self._turn,
            )

        Task(
            search,
            functools.partial(unless_overtaken, self._show),
            functools.partial(unless_overtaken, self._fail),
        )

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock the button that uses the suggestion."""
        self._is_locked = is_locked
        if self._use_button is not None:
            self._use_button.disabled = is_locked

    def close(self) -> None:
        """Give up; its widgets are closed by whoever owns their kit."""
        self._turn += 1

    def _while_running(self, kit: Kit) -> Iterator[Any]:
        stop = functools.partial(setattr, self, "_is_enough", True)
        about = "End the search with what was measured until now"
        yield kit.row(
            _button(kit, "Stop here", about, stop),
            _button(kit, "Cancel", "Give the search up", self._cancel),
        )

    def _afterwards(self, kit: Kit) -> Iterator[Any]:
        buttons = []
        rate = self.found.suggested if self.found is not None else None
        if rate is not None:
            self._use_button = _button(
                kit,
                fix_words({RATE: rate}),
                "Put the suggested learning rate into the field",
                functools.partial(self._use, rate),
                "nbft-link nbft-fix",
            )
            self._use_button.disabled = self._is_locked
            buttons.append(self._use_button)
        buttons.append(_button(kit, "Close", "Close the search", self._cancel))
        yield kit.row(*buttons)

    def _cancel(self) -> None:
        self._turn += 1
        self._leave()

    def _show(self, found: RangeTest) -> None:
        self.found = found
        self._say(found.sentence)
        self._show_curve(found)
        self._buttons.show(self._afterwards)

    def _show_curve(self, found: RangeTest) -> None:
        from nbft.pages import range_test as page

        self._curve.value = page.html(found, has_sentence=False)

    def _fail(self, error: Exception) -> None:
        words = f"This failed ({type(error).__name__}: {error})."
        if isinstance(error, NbftError):
            words = " ".join(map(str, error.problems))
        self._say(words, "alert")
        self._curve.value = ""
        self._buttons.show(self._afterwards)

    def _say(self, words: str, role: str = "status") -> None:
        self._state.value = Markup('<p role="{}">{}</p>').format(role, words)


def _button(
    kit: Kit, words: str, about: str, action: Callable[[], None], css: str = "nbft-link"
) -> Any:
    """Return a button that calls an action on the main thread."""
    return kit.button(
        words,
        lambda _: action() if is_main_thread() else call_soon(action),
        css,
        tooltip=about,
    )
