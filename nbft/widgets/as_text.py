"""The settings as text, beside the fields: editable YAML, and plain Python to take away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import traitlets
from markupsafe import Markup

from nbft.config import Config
from nbft.errors import Problem
from nbft.widgets.kit import Kit

_HERE = Path(__file__).parent


class CopyButton(anywidget.AnyWidget):
    """A button that copies text to the clipboard."""

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
    """The config as YAML, without secrets: edits stay, and Apply changes the fields.

    Args:
        kit: Makes the widgets.
        on_apply: Called with the text when Apply is pressed; returns the problems with it.
    """

    def __init__(self, kit: Kit, on_apply: Callable[[str], Sequence[str | Problem]]) -> None:
        self._shown = ""
        self.text = kit(ipywidgets.Textarea, "nbft-text", description="Settings as YAML", rows=18)
        self.apply_button = kit.button(
            "Apply to the fields",
            lambda _: self.show_problems(on_apply(self.text.value)),
            "nbft-push",
        )
        self.copy = kit(CopyButton, name="Copy the YAML")
        self.problems = kit.html("", "nbft-problem")
        self.text.observe(lambda change: setattr(self.copy, "text", change["new"]), "value")
        children = (self.text, kit.row(self.apply_button, self.copy), self.problems)
        self.widget = kit(ipywidgets.VBox, "nbft-as-text", children=children)

    @property
    def edited(self) -> str:
        """The text, if it has edits that were not applied yet; else ""."""
        return "" if self.text.value == self._shown else str(self.text.value)

    def show(self, config: Config) -> None:
        """Show a config, unless there are edits that were not applied yet."""
        if self.text.value == self._shown:
            self.write(config.to_yaml(redacted=True) or "# Every setting is at its default.\n")

    def write(self, text: str, *, is_applied: bool = True) -> None:
        """Replace the text."""
        self._shown = text if is_applied else ""
        self.text.value = text
        self.show_problems(())

    def show_problems(self, problems: Sequence[str | Problem]) -> None:
        """List the problems with the text."""
        items = Markup("").join(Markup("<li>{}</li>").format(str(p)) for p in problems)
        self.problems.value = Markup('<ul role="alert">{}</ul>').format(items) if items else ""


class PythonView:
    """The config as a cell of transformers, TRL and PEFT that trains the same."""

    def __init__(self, kit: Kit) -> None:
        self.copy = kit(CopyButton, name="Copy the Python")
        self.text = kit.html("", "nbft-code")
        self.widget = kit(ipywidgets.VBox, "nbft-as-text", children=(self.copy, self.text))

    def show(self, config: Config) -> None:
        """Show a config.

        Raises:
            ConfigError: It cannot be expressed in Python.
        """
        self.copy.text = config.to_python()
        html = '<pre tabindex="0" role="region" aria-label="Settings as Python">{}</pre>'
        self.text.value = Markup(html).format(self.copy.text)  # noqa: S704 - no value in it yet
