"""The columns of a file's rows as roles, picked from lists, with the first rows as the model sees them.

`Columns` shows below the field of a file what `nbft.data.looking` sees in it. What is picked becomes
settings of the dataset (`nbft.data.roles`), so templates can be edited afterwards as any other field.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
from markupsafe import Markup

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.data import roles
from nbft.data.looking import Look, as_picked, look
from nbft.data.ready import READY
from nbft.data.roles import WORDINGS, Roles
from nbft.formatting import shortened
from nbft.pages import rows as page
from nbft.reading import stamp
from nbft.widgets.kit import Kit, unobserved

LISTS = {
    "prompt": "Prompt",
    "context": "Further text",
    "completion": "Answer or label",
    "system": "System prompt",
    "messages": "Conversation",
}
"""The lists, by the roles that are picked in them."""

_MOST_COLUMNS = 500  # a list with more cannot be read
_NAME_CHARS = 60
_NONE = ("–", "")
_FIRST_SHEET = ("the first with rows", "")


class Columns:
    """The lists and the first rows.

    Args:
        kit: Makes the widgets.
        block: Path of the dataset's settings: data.train.datasets[0].
        on_pick: Called with the settings that picked roles change.
        on_sheet: Called with the settings of another sheet of a workbook.
    """

    def __init__(
        self,
        kit: Kit,
        block: str,
        on_pick: Callable[[dict[str, Any]], None],
        on_sheet: Callable[[dict[str, Any]], None],
    ) -> None:
        self._kit, self._block, self._on_pick, self._on_sheet = kit, block, on_pick, on_sheet
        self._split = block.split(".")[1]
        self._known: Any = None
        self._look: Look | None = None
        self._dataset = Dataset()
        self._is_locked = False
        self._lists: dict[str, Any] = {}

    @functools.cached_property
    def widget(self) -> Any:
        """The panel."""
        kit = self._kit
        self._said = kit.html("", "nbft-columns-said")
        self._lists = {
            role: kit(ipywidgets.Dropdown, "nbft-role", description=title, options=[_NONE])
            for role, title in LISTS.items()
        }
        self._wording = kit(
            ipywidgets.Dropdown, "nbft-role", description="Text around it", options=[_NONE]
        )
        for control in (*self._lists.values(), self._wording):
            control.observe(self._picked, "value")
        self._sheet = kit(
            ipywidgets.Dropdown, "nbft-role", description="Sheet", options=[_FIRST_SHEET]
        )
        self._sheet.observe(self._turn_to, "value")
        self._use = kit.button("Use these columns", self._use_guess, "nbft-push")
        self._picks = kit(ipywidgets.VBox, "nbft-picks")
        self._rows = kit.html("", "nbft-rows")
        self.lock(self._is_locked)
        children = (self._said, self._picks, self._rows)
        return kit(ipywidgets.VBox, "nbft-columns", children=children)

    @property
    def is_shown(self) -> bool:
        """Whether there are rows to look at."""
        return self._look is not None

    @property
    def is_asked(self) -> bool:
        """Whether the person has to say what the columns are."""
        return self._look is not None and self._look.is_asked

    def follow(self, config: Config) -> None:
        """Show the rows of a config, if they are others than before or read in another way."""
        split = config.data.splits().get(self._split)
        dataset = split.datasets[0] if split and split.datasets else Dataset()
        method = config.training.method
        known = (dataset.model_dump(), id(dataset.rows), _stamp(dataset), method)
        if known == self._known:
            return
        self._known, self._dataset = known, dataset
        is_bundled = dataset.dataset_name in READY and not dataset.path and dataset.rows is None
        self._look = None if is_bundled else look(dataset, self._split, method)
        if self._look is not None:
            _ = self.widget  # made when there is something to show
            self._show(self._look)

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock the lists."""
        self._is_locked = is_locked
        for control in self._controls():
            control.disabled = is_locked

    def _controls(self) -> Sequence[Any]:
        return (self._sheet, *self._lists.values(), self._wording, self._use) if self._lists else ()

    def _show(self, seen: Look) -> None:
        shown = seen.columns[:_MOST_COLUMNS]
        cut = len(seen.columns) > _MOST_COLUMNS
        more = f" The lists have the first {_MOST_COLUMNS} columns." if cut else ""
        self._said.value = Markup('<p role="status">{}</p>').format(seen.sentence + more)
        for role, control in self._lists.items():
            value = getattr(seen.roles, role)
            options = [
                _NONE,
                *(
                    (shortened(name, _NAME_CHARS), name)
                    for name in dict.fromkeys((*shown, value))
                    if name
                ),
            ]
            self._fill(control, options, value)
        wordings = [(wording.title, name) for name, wording in WORDINGS.items()]
        sheets = [_FIRST_SHEET, *((shortened(name, _NAME_CHARS), name) for name in seen.sheets)]
        self._fill(self._sheet, sheets, self._dataset.subset or "")
        own = [] if seen.roles.wording else [("your own templates", "")]
        self._fill(self._wording, own + wordings, seen.roles.wording)
        pair = (self._wording,) if seen.roles.prompt else ()
        use = (self._use,) if seen.is_asked else ()
        sheet = (self._sheet,) if len(seen.sheets) > 1 else ()
        self._picks.children = (*sheet, *self._lists.values(), *pair, *use)
        examples = seen.examples or as_picked(seen, self._dataset)
        self._rows.value = page.as_examples(examples) if examples else page.as_in_file(seen.first)

    def _fill(self, control: Any, options: list[tuple[str, str]], value: str) -> None:
        heard = self._turn_to if control is self._sheet else self._picked
        with unobserved(control, heard):
            if list(control.options) != options:
                control.options = options
            control.value = value

    def _picked(self, change: dict[str, Any]) -> None:
        assert self._look is not None
        values = {role: control.value for role, control in self._lists.items()}
        changed = next((r for r, control in self._lists.items() if control is change["owner"]), "")
        if changed and self._look.is_set and not self._look.roles.wording:
            self._rewrite(changed, change["old"], change["new"])
            return
        if changed == "messages" and values["messages"]:
            values |= dict.fromkeys(("prompt", "context", "completion"), "")
        elif changed in ("prompt", "context", "completion") and values[changed]:
            values["messages"] = ""
        for role, value in values.items():  # a column has one role: the two change places
            if changed and role != changed and value and value == values[changed]:
                values[role] = change["old"]
        picked = Roles(**values, wording=self._wording.value or "plain")
        if not picked.is_whole:
            self._refuse("The answer cannot be empty: it is what the model is trained on.")
            return
        if self._look.is_asked:  # the other lists still hold guesses, which the button accepts
            self._look = dataclasses.replace(self._look, roles=picked)
            self._show(self._look)
            return
        changes = roles.changes_of(picked, self._dataset, self._look.columns)
        if not changed and not self._look.roles.wording:  # a text around the prompt alone
            changes.pop("completion_template", None)
        self._take(changes)

    def _turn_to(self, change: dict[str, Any]) -> None:
        """Read another sheet of the workbook, whose columns have other roles."""
        path, sheet = f"{self._block}.path", f"{self._block}.subset"
        self._on_sheet({path: self._dataset.path, sheet: change["new"] or None})

    def _rewrite(self, role: str, before: str, after: str) -> None:
        """Put another column into templates that a person has written."""
        name = "completion" if role == "completion" else "prompt"
        template = getattr(self._dataset, f"{name}_template") or ""
        if role == "system":
            self._take({"system_template": f"{{{after}}}" if after else None})
        elif before and after and f"{{{before}}}" in template and role != "messages":
            self._take({f"{name}_template": template.replace(f"{{{before}}}", f"{{{after}}}")})
        else:
            column = f"{{{after}}}" if after else f"no {{{before}}}"
            self._refuse(
                f"Your own templates stay as they are. Write {column} into them, or choose another "
                "text around the prompt first."
            )

    def _refuse(self, sentence: str) -> None:
        """Show the roles as they are, and why a pick was not taken."""
        assert self._look is not None
        self._show(self._look)
        self._said.value += Markup('<p role="alert">{}</p>').format(sentence)

    def _use_guess(self, _button: Any) -> None:
        assert self._look is not None
        self._take(roles.changes_of(self._look.roles, self._dataset, self._look.columns))

    def _take(self, changes: dict[str, Any]) -> None:
        self._on_pick({f"{self._block}.{name}": value for name, value in changes.items()})


def _stamp(dataset: Dataset) -> Any:
    """Return what changes when the file does."""
    try:
        return stamp(Path(dataset.path).expanduser()) if dataset.path else None
    except OSError:
        return None
