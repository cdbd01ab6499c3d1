"""The head of the tab Compute: what is here, and what the run would be on each place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets
from markupsafe import Markup

from nbft.formatting import count
from nbft.plan.places import Places, places
from nbft.widgets.background import Task
from nbft.widgets.kit import Kit
from nbft.widgets.state_line import StateLine, guarded
from nbft.widgets.tree import Tree

_OLD = "The settings have changed since. Press “Compare again” for new numbers."


class PlacesView:
    """Devices and places in tables, and a list that one is chosen from.

    Args:
        kit: Makes the widgets.
        tree: The settings.
        line: Shows errors.
        use: Called with the settings that choose a place.

    Attributes:
        widget: The view itself.
    """

    def __init__(
        self,
        kit: Kit,
        tree: Tree,
        line: StateLine,
        use: Callable[[dict[str, Any]], object],
    ) -> None:
        self._tree, self.line, self._use = tree, line, use
        self._is_locked = self._is_busy = False
        self._found: Places | None = None
        self._tables = kit.html("", "nbft-places")
        self._state = kit.html("")
        self._choice = kit(ipywidgets.Dropdown, description="Train on")
        self._use_button = kit.button("Use", self._take, "nbft-push")
        self._again = kit.button("Compare again", self.compare, "nbft-push")
        row = kit.row(self._choice, self._use_button, self._again)
        head = kit.html("<h3>Where it can train</h3>")
        self.widget = kit(ipywidgets.VBox, children=(head, self._tables, row, self._state))
        self._enable()

    @guarded
    def compare(self, _button: Any = None) -> None:
        """Plan the run for each place, on a thread, and show the numbers."""
        if wrong := len(self._tree.wrong):
            self._say(f"{count(wrong, 'field')} to fix first. Then press “Compare again”.")
            return
        self._compared = config = self._tree.config
        self._is_busy = True
        self._enable()
        self._say("Planning the run for each place …")
        Task(lambda: places(config), self._show, self._fail)

    def follow(self) -> None:
        """Say so if the numbers are of earlier settings."""
        if self._found is not None and not self._is_busy:
            is_now = not self._tree.wrong and self._tree.config == self._compared
            self._say("" if is_now else _OLD)

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock what would change settings."""
        self._is_locked = is_locked
        self._enable()

    def _enable(self) -> None:
        self._again.disabled = self._is_busy
        can_use = self._found is not None and not self._is_busy and not self._is_locked
        self._choice.disabled = self._use_button.disabled = not can_use

    def _show(self, found: Places) -> None:
        self._found, self._is_busy = found, False
        self._tables.value = found._repr_html_()
        self._choice.options = [(p.title, n) for n, p in enumerate(found) if p.settings]
        self._choice.value = next((n for n, place in enumerate(found) if place.is_chosen), 0)
        self._enable()
        self.follow()

    def _fail(self, error: Exception) -> None:
        self._is_busy = False
        self._enable()
        self._say(str(error))

    @guarded
    def _take(self, _button: Any) -> None:
        """Use the place that is chosen in the list."""
        if self._found is not None:
            self._use(self._found[self._choice.value].settings)
            self.compare()

    def _say(self, sentence: str) -> None:
        self._state.value = Markup('<p role="status">{}</p>').format(sentence) if sentence else ""
