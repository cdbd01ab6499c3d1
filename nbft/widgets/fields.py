"""One field of the form: a control, its help and range, and what is wrong with it.

A field is made from a `Setting` alone. Numbers are typed into text boxes and read by `read`,
because number boxes silently change or drop what they do not understand.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import ipywidgets
from markupsafe import Markup

from nbft.config import Setting, io, settings
from nbft.config.numbers import read_number
from nbft.errors import ConfigError, Problem
from nbft.formatting import shortened
from nbft.methods import built_in_methods
from nbft.pages.environment import render
from nbft.widgets.kit import Kit, unobserved

if TYPE_CHECKING:
    from nbft.widgets.choosing import Offer


_OF_PRESET = Markup(' <em class="nbft-origin">From the preset.</em>')

_OF_PATTERNS = re.compile(r"[*+?()|^$\\\\]")
"""Characters of a regular expression that no name of a layer has."""


UNITS = tuple(sorted({s.unit for s in settings() if s.unit and s.unit.isalpha()}))
"""The units that stand inside a field."""


class Field:
    """A setting on the screen.

    Args:
        kit: Makes the widgets.
        setting: The setting.
        path: Its path in the config: `setting.path` with numbered list items.
        on_change: Called with the path and the value when the person leaves the control.
        on_fix: Called with the path and the changes of a fix whose button was pressed.
        offer: What can be chosen instead of typing; None without such a list.

    Attributes:
        widget: The whole field.
        control: The box, list or text that takes the value.
    """

    def __init__(
        self,
        kit: Kit,
        setting: Setting,
        path: str,
        on_change: Callable[[str, Any], None],
        on_fix: Callable[[str, dict[str, Any]], None],
        offer: Offer | None = None,
    ) -> None:
        self.setting, self.path = setting, path
        self._offer = offer
        self._kit, self._on_change, self._on_fix = kit, on_change, on_fix
        self._fix: dict[str, Any] = {}
        self._reset_button: Any = None
        self._problem: Any = None
        self._fix_button: Any = None
        self.control = self._make_control()
        self.control.observe(self._changed, "value")
        default = in_words(setting.default)
        details = [setting.why, f"Default: {default} (source: {setting.source}).", f"Name: {path}"]
        about = {"setting": setting, "range": self._range(), "details": details}
        self._help = render("note", **about)
        self._note = self._make_note(self._help)
        unit = f" nbft-unit nbft-unit-{setting.unit}" if setting.unit in UNITS else ""
        css = f"nbft-field {css_name(path)}{unit}"
        children = [self.control, self._note]
        if offer is not None:
            children.append(kit.button(offer.title, self._choose, "nbft-link nbft-choose"))
        self.widget = kit(ipywidgets.VBox, css, children=children)

    @functools.cached_property
    def _chooser(self) -> Any:
        from nbft.widgets.choosing import Chooser

        assert self._offer is not None
        on_choose = functools.partial(self._on_fix, self.path)
        return self._kit(Chooser, "nbft-choosing", offer=self._offer, on_choose=on_choose)

    def _choose(self, _button: Any) -> None:
        """Open the list, or close it."""
        is_open = self._chooser not in self.widget.children
        if is_open:
            self._chooser.disabled = self.control.disabled
            self._chooser.refresh()
        self._show_extras(self._chooser, is_open)

    def _make_control(self) -> Any:
        setting, kit = self.setting, self._kit
        about: dict[str, Any] = {"description": setting.label}
        if setting.type is bool and not setting.optional:
            return kit(ipywidgets.Checkbox, "nbft-control", indent=True, **about)
        if setting.type is bool or (setting.choices and setting.type is not list):
            options = [(_titled(setting, choice), choice) for choice in setting.choices]
            if setting.type is bool:
                options = [("yes", True), ("no", False)]
            unset = [("not set", None)] if setting.optional else []
            return kit(ipywidgets.Dropdown, "nbft-control", options=unset + options, **about)
        about["continuous_update"] = False
        if setting.type is str and setting.name.endswith("_template"):
            return kit(ipywidgets.Textarea, "nbft-control", rows=_LEAST_LINES, **about)
        if setting.type is str and setting.suggestions:
            return kit(ipywidgets.Combobox, "nbft-control", options=setting.suggestions, **about)
        return kit(ipywidgets.Text, "nbft-control", **about)

    def _range(self) -> str:
        return range_words(self.setting)

    def _make_note(self, html: str) -> Any:
        return self._kit.html(html, "nbft-note")

    def show(self, value: Any) -> None:
        """Show a value without reporting a change."""
        if isinstance(self.control, ipywidgets.Dropdown):
            known = [choice for _, choice in self.control.options]
            shown = value if value in known else self.setting.default
        elif isinstance(self.control, ipywidgets.Checkbox):
            shown = value if isinstance(value, bool) else self.setting.default
        else:
            shown = write(value)
        with unobserved(self.control, self._changed):
            self.control.value = shown
        if isinstance(self.control, ipywidgets.Textarea):
            self.control.rows = min(max(_LEAST_LINES, shown.count("\n") + 1), _MOST_LINES)

    def in_words(self) -> str:
        """Return the label and the value, such as "Epochs 2"; "" for an empty one."""
        value = self.control.value
        if value in ("", None, []):
            return ""
        unit = self.setting.unit if self.setting.unit in UNITS else ""
        unit = f" {unit}" if unit and unit not in self.setting.label.lower() else ""
        short = shortened(in_words(value).replace("\n", "⏎"), _SUMMARY_CHARS)
        return f"{self.setting.label} {short}{unit}"

    def follow(self) -> None:
        """Show what else belongs to the field, after a change of any setting."""

    def _changed(self, change: dict[str, Any]) -> None:
        self._on_change(self.path, read(self.setting, change["new"]))

    def show_changed(self, is_changed: bool, usual: Any, *, is_preset: bool) -> None:
        """Mark whether the person has changed the value, with a button that resets it.

        Args:
            is_changed: Whether it differs from the usual value.
            usual: The value of the preset, or the default.
            is_preset: Whether the usual value is that of a preset.
        """
        if is_changed and self._reset_button is None:
            self._reset_button = self._kit.button("", self._reset, "nbft-link nbft-reset")
        if is_changed:
            words = in_words(usual)
            self._usual = usual
            self._reset_button.description = f"Reset to {words}" if len(words) <= 20 else "Reset"
        note = self._help + (_OF_PRESET if is_preset and not is_changed else "")
        if self._note.value != note:
            self._note.value = note
        self._mark("nbft-changed", is_changed)
        self._show_extras(self._reset_button, is_changed)

    def _reset(self, _button: Any) -> None:
        self._on_fix(self.path, {self.path: self._usual})

    def show_problems(self, problems: Sequence[Problem]) -> None:
        """Show problems under the control, and the first fix as a button."""
        is_error = any(problem.level == "error" for problem in problems)
        self._mark("nbft-wrong", is_error)
        self._mark("nbft-doubtful", bool(problems) and not is_error)
        if problems and self._problem is None:
            self._problem = self._kit.html("", "nbft-problem")
            self._fix_button = self._kit.button(
                "", lambda _: self._on_fix(self.path, self._fix), "nbft-link nbft-fix"
            )
        if self._problem is None:
            return
        sentences = [
            f"{'✕' if problem.level == 'error' else '!'} {described(problem)}"
            for problem in problems
        ]
        self._problem.value = render("alert", sentences=sentences) if problems else ""
        self._fix = next((dict(p.changes) for p in problems if p.changes), {})
        self._fix_button.description = fix_words(self._fix)
        self._show_extras(self._problem, bool(problems))
        self._show_extras(self._fix_button, bool(self._fix))

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock the value."""
        for part in (self.control, self._reset_button, self._fix_button):
            if part is not None:
                part.disabled = is_locked
        if "_chooser" in vars(self):
            self._chooser.disabled = is_locked

    def _mark(self, css: str, is_on: bool) -> None:
        if is_on != (css in self.widget._dom_classes):
            (self.widget.add_class if is_on else self.widget.remove_class)(css)

    def _show_extras(self, part: Any, is_shown: bool) -> None:
        # Added at the end only: a front end redraws what follows, which then loses the focus.
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
    """Parse what was typed; what cannot be parsed is returned as it is, for the config to reject.

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
        number = read_number(text)
        return text.strip() if number is None else number
    if setting.or_text and _OF_PATTERNS.search(text):
        return text.strip()
    if setting.type is list and not text.strip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    if setting.type in (list, dict):
        try:
            return io.parse_yaml(f"value: {text}", "the text")["value"]
        except ConfigError:
            return text
    return text if setting.name.endswith("_template") else text.strip()


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


def _titled(setting: Setting, choice: Any) -> str:
    """Return a choice as a list shows it; a training method with its name for people."""
    method = built_in_methods().get(choice) if setting.path == "training.method" else None
    return f"{choice}: {method.title}" if method else str(choice)


def in_words(value: Any) -> str:
    """Return a value as part of a sentence.

    >>> [in_words(v) for v in (True, None, 1024, 2e-4, "auto")]
    ['on', 'empty', '1,024', '2e-4', 'auto']
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    return write(value) or "empty"


def described(problem: Problem) -> str:
    """Describe a problem under its field: the value, the problem and the remedy."""
    is_long = "\n" in str(problem.value)  # it stands above
    if problem.value is None or problem.value == "" or is_long:
        return problem.sentence[:1].upper() + problem.sentence[1:]
    return f"{in_words(problem.value)}: {problem.sentence}"


_LEAST_LINES, _MOST_LINES = 2, 8
_BUTTON_CHARS = 60
_SUMMARY_CHARS = 30
_MOST_NAMED = 3


def fix_words(changes: dict[str, Any]) -> str:
    r"""Return the label of a button that applies changes.

    >>> fix_words({"training.learning_rate": 2e-4})
    'Use 2e-4'
    >>> fix_words({"data.prompt_template": "Question:\n{question}"})
    'Use Question:⏎{question}'
    >>> fix_words({"data.prompt_template": "{question}" * 10})
    'Use the new text'
    """

    def words(value: Any) -> str:
        text = in_words(value).replace("\n", "⏎")
        return text if len(text) <= _BUTTON_CHARS else "the new text"

    if len(changes) == 1:
        return f"Use {words(next(iter(changes.values())))}"
    if len(changes) > _MOST_NAMED:
        return f"Use these {len(changes)} settings"
    return "Use " + ", ".join(f"{p.rpartition('.')[2]} {words(v)}" for p, v in changes.items())


def range_words(setting: Setting) -> str:
    """Describe the range of a setting: "1 to 65,536 rows; 1 to 64 is usual."."""
    if setting.type is list:
        if setting.choices:
            return f"Any of {', '.join(map(str, setting.choices))}, separated by commas."
        examples = ", ".join(setting.suggestions[:3])
        text = f"Separated by commas{', for example ' if examples else ''}{examples}"
        return f"{text}; or one pattern." if setting.or_text else f"{text}."
    if setting.type is dict:
        return "Written {key: value}."
    unit = f" {setting.unit}" if setting.unit else ""
    if setting.range_text.endswith(" 1"):  # at least 1 row
        unit = re.sub(r"(?<=ch)es$|s$", "", unit)
    parts = [f"{setting.range_text}{unit}"] if setting.range_text else []
    if setting.usual:
        low, high = map(in_words, setting.usual)
        parts.append(f"{low} to {high} is usual")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
