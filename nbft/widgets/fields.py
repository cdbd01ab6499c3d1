"""One field of the form: a control, its help and range, and what is wrong with it.

A field is made from a `Setting` and nothing else. Numbers are typed into text boxes and read by
`read`, because number boxes change or drop what they do not understand without a word. What a
value means for the others, and when a problem is shown, is the form's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from html import escape
from typing import Any

import ipywidgets

from nbft.config import Setting, io
from nbft.errors import ConfigError, Problem
from nbft.widgets.kit import Kit

_THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+")


class Field:
    """A setting on the screen.

    Args:
        kit: Makes the widgets.
        setting: What is set.
        path: Where in the config; `setting.path` with its lists' items numbered.
        on_change: Called with the path and the value when the person leaves the control.
        on_fix: Called with the path and the changes of a problem whose button was pressed.

    Attributes:
        widget: All of it, to be shown.
        control: The box, list or text that takes the value.
    """

    def __init__(
        self,
        kit: Kit,
        setting: Setting,
        path: str,
        on_change: Callable[[str, Any], None],
        on_fix: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.setting, self.path = setting, path
        self._kit, self._on_change, self._on_fix = kit, on_change, on_fix
        self._is_filling = False
        self._fix: dict[str, Any] = {}
        self._reset_button: Any = None
        self._problem: Any = None
        self._fix_button: Any = None
        self.control = self._make_control()
        self.control.observe(self._changed, "value")
        self._note = self._make_note(_note(setting, path))
        self.widget = kit(
            ipywidgets.VBox, f"nbft-field {css_name(path)}", children=(self.control, self._note)
        )

    def _make_control(self) -> Any:
        setting, kit = self.setting, self._kit
        about: dict[str, Any] = {"description": setting.label}
        if setting.type is bool and not setting.optional:
            return kit(ipywidgets.Checkbox, "nbft-control", indent=True, **about)
        if setting.type is bool or (setting.choices and setting.type is not list):
            words = [("yes", True), ("no", False)] if setting.type is bool else []
            options = words or [(str(choice), choice) for choice in setting.choices]
            unset = [("not set", None)] if setting.optional else []
            return kit(ipywidgets.Dropdown, "nbft-control", options=unset + options, **about)
        about["continuous_update"] = False
        if setting.type is str and setting.name.endswith("_template"):
            return kit(ipywidgets.Textarea, "nbft-control", rows=2, **about)
        if setting.type is str and setting.suggestions:
            return kit(ipywidgets.Combobox, "nbft-control", options=setting.suggestions, **about)
        return kit(ipywidgets.Text, "nbft-control", **about)

    def _make_note(self, html: str) -> Any:
        return self._kit.html(html, "nbft-note")

    def show(self, value: Any) -> None:
        """Show a value without telling anybody that it changed."""
        if isinstance(self.control, ipywidgets.Dropdown):
            known = [value_of for _, value_of in self.control.options]
            shown = value if value in known else self.setting.default
        elif isinstance(self.control, ipywidgets.Checkbox):
            shown = value if isinstance(value, bool) else self.setting.default
        else:
            shown = write(value)
        self._is_filling = True
        try:
            self.control.value = shown
        finally:
            self._is_filling = False

    def _changed(self, change: dict[str, Any]) -> None:
        if not self._is_filling:
            value = change["new"]
            self._on_change(self.path, read(self.setting, value))

    def show_changed(self, is_changed: bool) -> None:
        """Mark whether the value differs from the default, with a button that resets it."""
        if is_changed and self._reset_button is None:
            self._reset_button = self._kit(
                ipywidgets.Button, "nbft-link nbft-reset", description=_reset_words(self.setting)
            )
            self._reset_button.on_click(
                lambda _: self._on_fix(self.path, {self.path: self.setting.default})
            )
        self._mark("nbft-changed", is_changed)
        self._show_extras(self._reset_button, is_changed)

    def show_problems(self, problems: Sequence[Problem]) -> None:
        """Show what is wrong under the control, and the first fix as a button."""
        is_error = any(problem.level == "error" for problem in problems)
        self._mark("nbft-wrong", is_error)
        self._mark("nbft-doubtful", bool(problems) and not is_error)
        if problems and self._problem is None:
            self._problem = self._kit.html("", "nbft-problem")
            self._fix_button = self._kit(ipywidgets.Button, "nbft-link nbft-fix")
            self._fix_button.on_click(lambda _: self._on_fix(self.path, self._fix))
        if self._problem is None:
            return
        sentences = "<br>".join(
            f"{'✕' if problem.level == 'error' else '!'} {escape(said(problem))}"
            for problem in problems
        )
        self._problem.value = f'<span role="alert">{sentences}</span>' if problems else ""
        self._fix = next((dict(p.changes) for p in problems if p.changes), {})
        self._fix_button.description = fix_words(self._fix)
        self._show_extras(self._problem, bool(problems))
        self._show_extras(self._fix_button, bool(self._fix))

    def lock(self, is_locked: bool) -> None:
        """Take or give the person the hand over the value."""
        for part in (self.control, self._reset_button, self._fix_button):
            if part is not None:
                part.disabled = is_locked

    def _mark(self, css: str, is_on: bool) -> None:
        if is_on != (css in self.widget._dom_classes):
            (self.widget.add_class if is_on else self.widget.remove_class)(css)

    def _show_extras(self, part: Any, is_shown: bool) -> None:
        # Added at the end only: a front end draws again whatever follows, and it loses the focus.
        children = self.widget.children
        if part is not None and is_shown != (part in children):
            rest = tuple(child for child in children if child is not part)
            self.widget.children = (*rest, part) if is_shown else rest


def css_name(path: str) -> str:
    """Return a CSS class for a dotted path.

    >>> css_name("data.train.datasets[0].path")
    'nbft-at-data-train-datasets-0-path'
    """
    return "nbft-at-" + re.sub(r"[^a-z0-9_]+", "-", path)


def read(setting: Setting, text: Any) -> Any:
    """Read what was typed; what cannot be read stays as it is, for the config to refuse.

    >>> from nbft.config import settings
    >>> rate = next(s for s in settings() if s.name == "learning_rate")
    >>> read(rate, "5e-5"), read(rate, "1,024"), read(rate, "fast")
    (5e-05, 1024, 'fast')
    """
    if not isinstance(text, str) or (setting.choices and setting.type is str):
        return text
    if not text.strip():
        return None if setting.optional else setting.type() if setting.type in (list, dict) else ""
    if setting.type in (int, float):
        return _read_number(text.strip())
    if setting.type is list and not text.strip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    if setting.type in (list, dict):
        try:
            return io.parse_yaml(f"value: {text}", "the text")["value"]
        except ConfigError:
            return text
    return text if setting.name.endswith("_template") else text.strip()


def _read_number(text: str) -> Any:
    digits = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
    for kind in (int, float):
        try:
            return kind(digits)
        except ValueError:
            continue
    return text


def write(value: Any) -> str:
    """Write a value as a person would type it; the inverse of `read`.

    >>> [write(v) for v in (2e-5, 2.0, 1024, None, ["a", "b"], {"a": 1})]
    ['2e-5', '2', '1024', '', 'a, b', '{"a": 1}']
    """
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, float):
        exact = Decimal(repr(value))
        return f"{exact:e}" if 0 < abs(value) < 1e-3 else f"{exact:f}".removesuffix(".0")
    if isinstance(value, list):
        plain = all(isinstance(item, str) and item and "," not in item for item in value)
        plain = plain and not value[0].startswith("[")
        return ", ".join(value) if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def in_words(value: Any) -> str:
    """Say a value in a sentence.

    >>> [in_words(v) for v in (True, None, 1024, 2e-4, "auto")]
    ['on', 'empty', '1,024', '2e-4', 'auto']
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    return write(value) or "empty"


def said(problem: Problem) -> str:
    """Say a problem under its field: the value, what is wrong and what to do."""
    if problem.value is None or problem.value == "":
        return problem.sentence[:1].upper() + problem.sentence[1:]
    return f"{in_words(problem.value)}: {problem.sentence}"


def fix_words(changes: dict[str, Any]) -> str:
    """Say what a button does that applies changes.

    >>> fix_words({"training.learning_rate": 2e-4})
    'Use 2e-4'
    """
    if len(changes) == 1:
        return f"Use {in_words(next(iter(changes.values())))}"
    return "Use " + ", ".join(f"{p.rpartition('.')[2]} {in_words(v)}" for p, v in changes.items())


def _reset_words(setting: Setting) -> str:
    default = in_words(setting.default)
    return f"Reset to {default}" if len(default) <= 20 else "Reset"


def _note(setting: Setting, path: str) -> str:
    """Return what stands with a control: the setting's own name, its help, and more on request."""
    default = in_words(setting.default)
    parts = [setting.why, f"Default: {default} (source: {setting.source}).", f"Name: {path}"]
    more = "".join(f"<p>{escape(part)}</p>" for part in parts if part)
    return (
        f'<code class="nbft-name">{escape(setting.name).replace("_", "_<wbr>")}</code>'
        f'{escape(setting.help)} <span class="nbft-range">{escape(range_words(setting))}</span>'
        f' <details><summary>more<span class="nbft-hidden"> about {escape(setting.label)}</span>'
        f"</summary>{more}</details>"
    )


def range_words(setting: Setting) -> str:
    """Say what a setting takes: "1 to 65,536 rows; 1 to 64 is usual."."""
    if setting.type is list:
        if setting.choices:
            return f"Any of {', '.join(map(str, setting.choices))}; commas between."
        examples = (
            f", for example {', '.join(setting.suggestions[:3])}" if setting.suggestions else ""
        )
        return f"Commas between{examples}."
    if setting.type is dict:
        return "Written {key: value}."
    unit = f" {setting.unit}" if setting.unit else ""
    said = f"{setting.range_text}{unit}" if setting.range_text else ""
    if setting.usual:
        low, high = (in_words(limit) for limit in setting.usual)
        said += f"{'; ' if said else ''}{low} to {high} is usual"
    return f"{said[:1].upper()}{said[1:]}." if said else ""
