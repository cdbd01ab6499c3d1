"""The settings as text, beside the fields: editable YAML, and plain Python to take away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import anywidget
import ipywidgets
import traitlets

from nbft.config import Config
from nbft.errors import Problem
from nbft.widgets.kit import Kit

_HERE = Path(__file__).parent


class CopyButton(anywidget.AnyWidget):
    """A button that puts text on the clipboard, in the browser and without a network."""

    _esm = _HERE / "copy.js"

    name = traitlets.Unicode("Copy").tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)


class Focus(anywidget.AnyWidget):
    """Moves the focus to a field of the form, also to one that is not on the page yet."""

    _esm = _HERE / "focus.js"

    target = traitlets.Unicode(help="CSS class of the field").tag(sync=True)
    request = traitlets.Int(help="grows with each request").tag(sync=True)

    def move(self, target: str) -> None:
        """Focus the control inside the element of a CSS class."""
        self.target = target
        self.request += 1


class YamlView:
    """The config as YAML: what is typed stays, and Apply changes the fields.

    Args:
        kit: Makes the widgets.
        on_apply: Called with the text when Apply is pressed; returns what is wrong with it.
    """

    def __init__(self, kit: Kit, on_apply: Callable[[str], Sequence[str | Problem]]) -> None:
        self._shown = ""
        self.text = kit(ipywidgets.Textarea, "nbft-text", description="Settings as YAML", rows=18)
        self.apply_button = kit(ipywidgets.Button, "nbft-push", description="Apply to the fields")
        self.copy = kit(CopyButton, name="Copy the YAML")
        self.problems = kit.html("", "nbft-problem")
        self.text.observe(lambda change: setattr(self.copy, "text", change["new"]), "value")
        self.apply_button.on_click(lambda _: self.show_problems(on_apply(self.text.value)))
        buttons = kit(ipywidgets.HBox, "nbft-row", children=(self.apply_button, self.copy))
        self.widget = kit(
            ipywidgets.VBox, "nbft-as-text", children=(self.text, buttons, self.problems)
        )

    def show(self, config: Config) -> None:
        """Show a config, unless there is text that was edited and not applied yet."""
        if self.text.value == self._shown:
            self.write(config.to_yaml() or "# Every setting is at its default.\n")

    def write(self, text: str, *, is_applied: bool = True) -> None:
        """Show this text, whatever stands there."""
        self._shown = text if is_applied else ""
        self.text.value = text
        self.show_problems(())

    def show_problems(self, problems: Sequence[str | Problem]) -> None:
        """List what is wrong with the text."""
        items = "".join(f"<li>{escape(str(problem))}</li>" for problem in problems)
        self.problems.value = f'<ul role="alert">{items}</ul>' if items else ""


class PythonView:
    """The config as a cell of transformers, TRL and PEFT that trains the same."""

    def __init__(self, kit: Kit) -> None:
        self.copy = kit(CopyButton, name="Copy the Python")
        self.text = kit.html("", "nbft-code")
        self.widget = kit(ipywidgets.VBox, "nbft-as-text", children=(self.copy, self.text))

    def show(self, config: Config) -> None:
        """Show a config.

        Raises:
            ConfigError: It cannot be said in Python.
        """
        self.copy.text = config.to_python()
        label = 'role="region" aria-label="Settings as Python"'
        self.text.value = f'<pre tabindex="0" {label}>{escape(self.copy.text)}</pre>'
