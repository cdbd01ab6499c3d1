"""The field for the experiment trackers: each with a box to tick and its state on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets
import traitlets
from markupsafe import Markup, escape

from nbft.config import Config
from nbft.tracking import TRACKERS, TrackerState, install_line, state_of
from nbft.widgets.fields import Field
from nbft.widgets.kit import Kit, unobserved


class TrackerList(ipywidgets.HBox):
    """Boxes to tick, as one control.

    Args:
        kit: Makes the boxes.
        description: Label of the control.
        **traits: Traits of a box.
    """

    value: traitlets.List[Any] = traitlets.List(help="names of the trackers that are ticked")
    disabled = traitlets.Bool(help="whether nothing can be ticked")
    description = traitlets.Unicode(help="label of the control")

    def __init__(self, kit: Kit, description: str, **traits: Any) -> None:
        self._boxes = {
            name: kit(ipywidgets.Checkbox, description=tracker.title, indent=False)
            for name, tracker in TRACKERS.items()
        }
        self._notes = {name: kit.html("", "nbft-note") for name in TRACKERS}
        rows = [
            kit(ipywidgets.VBox, "nbft-tracker", children=[self._boxes[name], self._notes[name]])
            for name in TRACKERS
        ]
        title, listed = (
            kit(ipywidgets.Label, value=description),
            kit(ipywidgets.VBox, children=rows),
        )
        super().__init__(children=[title, listed], description=description, **traits)
        for box in self._boxes.values():
            box.observe(self._tick, "value")

    def show_state(self, state: TrackerState) -> None:
        """Show the state of a tracker below its box."""
        text = escape(state.sentence)
        if not state.is_installed:
            line = install_line([state.tracker.name])
            text = Markup("Not installed: <code>{}</code>").format(line)
        note = self._notes[state.tracker.name]
        if note.value != str(text):
            note.value = str(text)

    def _tick(self, _change: dict[str, Any]) -> None:
        self.value = [name for name, box in self._boxes.items() if box.value]

    @traitlets.observe("value")
    def _show_value(self, change: dict[str, Any]) -> None:
        for name, box in self._boxes.items():
            with unobserved(box, self._tick):
                box.value = name in change["new"]

    @traitlets.observe("disabled")
    def _show_disabled(self, change: dict[str, Any]) -> None:
        for box in self._boxes.values():
            box.disabled = change["new"]


class TrackersField(Field):
    """The field for tracking.report_to.

    Args:
        config: Returns the current config, which says where TensorBoard writes.
        *field: Arguments of `Field`.
    """

    control: TrackerList

    def __init__(self, config: Callable[[], Config], *field: Any) -> None:
        self._config = config
        super().__init__(*field)

    def _make_control(self) -> TrackerList:
        about = {"kit": self._kit, "description": self.setting.label}
        control: TrackerList = self._kit(TrackerList, "nbft-control nbft-trackers", **about)
        return control

    def _range(self) -> str:
        return ""  # the boxes say it

    def show(self, value: Any) -> None:
        """Show a value without reporting a change; names of no tracker have no box."""
        with unobserved(self.control, self._changed):
            self.control.value = value if isinstance(value, list) else []

    def follow(self) -> None:
        """Show the states: something may have been installed, or somebody has logged in."""
        folder = self._config().logging.logging_dir
        for name in TRACKERS:
            self.control.show_state(state_of(name, folder))
