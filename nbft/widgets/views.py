"""The pages of the form: the basic fields, the tabs, the results of a search, YAML and Python.

`Fields` makes a field when it is first shown; `Views` puts fields on pages. The form handles changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ipywidgets
from markupsafe import Markup

from nbft.config import Setting
from nbft.errors import Problem
from nbft.formatting import count
from nbft.methods import Method, built_in_methods, method_of
from nbft.pages.environment import render
from nbft.pages.layers import layer_table
from nbft.redaction import redact
from nbft.widgets.as_text import Focus, PythonView, YamlView
from nbft.widgets.choosing import Datasets, Files, Models, Offer
from nbft.widgets.fields import Field, css_name, in_words
from nbft.widgets.kit import Kit, unobserved
from nbft.widgets.rate_search import RATE, RateField
from nbft.widgets.state_line import StateLine, guarded
from nbft.widgets.trackers import TrackersField
from nbft.widgets.tree import Tree, fields, find
from nbft.widgets.upload import FileField

Page = Callable[[Kit], Iterable[Any]]
"""Returns the widgets of a page; those made with the given kit are closed with the page."""

TABS = {
    "Model": ("model",),
    "Data": ("data",),
    "Method": ("peft", "quantization", "preference", "grpo"),
    "Training": (
        *("training", "optimizer", "scheduler"),
        *("evaluation", "checkpoint", "callbacks"),
    ),
    "Compute": ("compute", "precision", "memory", "speed", "distributed"),
    "Tracking": ("logging", "tracking"),
    "Review": (),
}
"""The tabs of the advanced view and their sections."""

_METHOD = "training.method"
"""Shown on the tab Method, above the settings that only this method has."""

_RUN_NAME = "training.run_name"
"""Shown on the tab Tracking, below the project: a run has the same name in the trackers."""

_REVIEW = list(TABS).index("Review")
MODES = {name.lower(): name for name in ("Guided", "Basic", "Advanced", "YAML", "Python")}
"""The views of the switch; a search, the changes and a file are reached by other controls."""

_MOST_FOUND = 15
_MOST_SUMMED = 4


class Fields(Mapping[str, Field]):
    """The fields that were shown so far, by the paths of their settings; arguments as `FileField`."""

    def __init__(
        self,
        kit: Kit,
        tree: Tree,
        on_change: Callable[[str, Any], None],
        on_fix: Callable[[str, dict[str, Any]], None],
        on_columns: Callable[[dict[str, Any]], None],
    ) -> None:
        self._kit, self._tree, self._handlers = kit, tree, (on_change, on_fix)
        self._on_columns = on_columns
        self._made: dict[str, Field] = {}
        self._is_locked = False

    def __getitem__(self, path: str) -> Field:
        return self._made[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def make(self, path: str) -> Field:
        """Return the field of a setting; the same one each time."""
        if path not in self._made:
            setting = dict(fields())[path]
            about = (self._kit, setting, path, *self._handlers, self._offer(path, setting))
            if path == "tracking.report_to":
                field: Field = TrackersField(self._tree.so_far, *about)
            elif path == RATE:
                field = RateField(self._tree.right, *about)
            elif setting.name == "path":
                field = FileField(self._tree.so_far, self._on_columns, *about)
            else:
                field = Field(*about)
            field.show(self._tree.values([path])[path])
            field.follow()
            field.lock(self._is_locked)
            self._made[path] = field
        return self._made[path]

    def _offer(self, path: str, setting: Setting) -> Offer | None:
        """Return what can be chosen for a field from a list, if there is one."""
        if path == "model.model_name":
            return Models(self._tree.so_far, path)
        kinds = {"path": Files, "dataset_name": Datasets}
        kind = kinds.get(setting.name) if setting.section == "data" else None
        return kind(self._tree.so_far, path) if kind else None

    def fill(self, paths: Iterable[str] | None = None) -> None:
        """Show the values of the tree: all, or those of some paths."""
        made = [path for path in (self if paths is None else paths) if path in self]
        for path, value in self._tree.values(made).items():
            self[path].show(value)

    def mark(self, changes: Container[str]) -> None:
        """Mark changed and wrong fields; those the person has not left yet are not judged."""
        problems, of_preset = self._tree.problems_of_fields(), self._tree.of_preset
        for path, field in self.items():
            field.follow()
            field.show_problems(problems.get(path, ()))
            usual = of_preset.get(path, field.setting.default)
            field.show_changed(path in changes, usual, is_preset=path in of_preset)

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock the values."""
        self._is_locked = is_locked
        for field in self.values():
            field.lock(is_locked)


class Group:
    """Some fields of a page below a heading, which folds them into one line.

    Args:
        kit: Makes the heading.
        page: The slot of the page.
        title: The heading.
        fields: The fields.
    """

    def __init__(self, kit: Kit, page: Any, title: str, fields: Sequence[Field]) -> None:
        self.page, self._title, self.fields = page, title, fields
        self.is_folded = False
        about = "Fold or unfold these settings"
        self._head = kit.button(
            "", lambda _: self.fold(not self.is_folded), "nbft-group", tooltip=about
        )
        self.show()

    @property
    def widgets(self) -> tuple[Any, ...]:
        """The heading, and the fields unless they are folded."""
        return (self._head, *(() if self.is_folded else (field.widget for field in self.fields)))

    def fold(self, is_folded: bool) -> None:
        """Fold or unfold the fields."""
        if is_folded == self.is_folded:
            return
        self.is_folded = is_folded
        mine = [field.widget for field in self.fields]
        shown = [widget for widget in self.page.children if widget not in mine]
        at = shown.index(self._head)
        self.page.children = (*shown[:at], *self.widgets, *shown[at + 1 :])
        self.show()

    def show(self) -> None:
        """Show the heading, with the values of folded fields."""
        if not self.is_folded:
            self._head.description = f"▾ {self._title}"
            return
        values = [words for field in self.fields if (words := field.in_words())]
        more = ", …" if len(values) > _MOST_SUMMED else ""
        self._head.description = f"▸ {self._title}: {', '.join(values[:_MOST_SUMMED])}{more}"


class Views:
    """The pages, and the controls that switch between them.

    Args:
        kit: Makes the widgets.
        tree: The settings.
        made: The fields.
        line: Shows errors.
        view: The view that is shown first.
        pages: Further pages by name, made elsewhere: "guided", "file" and "runs".
        review: The page above the changes on the tab Review.
        compute: The page above the settings on the tab Compute.
        on_yaml: Called with the text when YAML is applied; returns the problems with it.

    Attributes:
        view: The current view.
        home: The view to return to after a search or the list of changes.
        mode: The switch.
        search: The box for a search.
        on_mark: Called when other fields are shown, or something was typed.
        changed_button: Shows the settings that the person has changed, and hides them again.
        page: The page itself.
    """

    def __init__(
        self,
        kit: Kit,
        tree: Tree,
        made: Fields,
        line: StateLine,
        *,
        view: str,
        pages: Mapping[str, Page],
        review: Page,
        compute: Page,
        on_yaml: Callable[[str], Sequence[str | Problem]],
    ) -> None:
        self._kit, self._tree, self._fields, self.line = kit, tree, made, line
        self._review, self._compute, self._on_yaml = review, compute, on_yaml
        self._groups: list[Group] = []
        self._of_method: Any = None  # the place of the settings that only some methods have
        self._method: Method | None = None
        self.view = self.home = view
        self.on_mark: Callable[[], None] = lambda: None
        self.mode = kit(
            ipywidgets.RadioButtons,
            "nbft-mode",
            description="Show",
            options=[(name, view) for view, name in MODES.items()],
            value=view,
        )
        self.search = kit(
            ipywidgets.Text,
            "nbft-search",
            description="Find a setting",
            placeholder="warm-up, batch, lr …",
        )
        self.page = kit.slot("nbft-page")
        self.changed_button = kit.button("", self._toggle_changed, "nbft-link nbft-changes")
        self._pages: dict[str, Page] = {
            "basic": self._basic,
            "advanced": lambda _: [self.tabs],
            "yaml": lambda _: self._text_page(self.yaml),
            "python": lambda _: self._text_page(self.python),
            "search": self._found,
            "changed": self._changed,
            **pages,
        }
        self.mode.observe(self._take_mode, "value")
        self.search.observe(self._take_search, "value")

    # The parts below are rarely wanted, so they are made when they are.

    @functools.cached_property
    def tabs(self) -> Any:
        """The tabs of the advanced view."""
        pages = [self._kit.slot() for _ in TABS]
        tabs = self._kit(ipywidgets.Tab, children=pages, titles=tuple(TABS), selected_index=0)
        tabs.observe(self._open_tab, "selected_index")
        return tabs

    @functools.cached_property
    def yaml(self) -> YamlView:
        """The settings as YAML."""
        view = YamlView(self._kit, self._on_yaml)
        view.text.observe(lambda _: self.on_mark(), "value")
        return view

    @functools.cached_property
    def python(self) -> PythonView:
        """The settings as Python."""
        return PythonView(self._kit)

    @functools.cached_property
    def layers(self) -> Any:
        """What the adapter adds to each layer."""
        return self._kit.html("", "nbft-note")

    @functools.cached_property
    def focus(self) -> Any:
        """Moves the focus."""
        return self._kit(Focus)

    def show(self, view: str) -> None:
        """Show a page."""
        self.view = view
        self._fill(self.mode, view if view in MODES else None)
        self._groups = [group for group in self._groups if group.page is not self.page]
        self.page.show(self._pages[view])
        if view == "advanced":
            self._open_tab()
        self.mark()

    def follow(self) -> None:
        """Update the pages that show more than fields."""
        if self._of_method is not None:
            self._show_of_method()
        if self.view in ("yaml", "python"):
            self._show_text()
        elif self.view == "advanced" and self.tabs.selected_index == _REVIEW:
            self._open_tab()
        if "layers" in self.__dict__:
            self._show_layers()

    def mark(self) -> None:
        """Mark changed and wrong fields, and count the changes."""
        changes = self._tree.changes
        self._fields.mark(changes)
        for group in self._groups:
            group.show()
        what = "hide" if self.view == "changed" else "show"
        base = "the preset" if self._tree.of_preset else "defaults"
        self.changed_button.description = f"{len(changes)} changed from {base} ({what})"
        self.on_mark()

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock the settings."""
        self._fields.lock(is_locked)
        if "yaml" in self.__dict__:
            self.yaml.apply_button.disabled = is_locked

    def reveal(self, path: str) -> None:
        """Open the page that shows a field, and move the focus there."""
        setting = dict(fields())[path]
        self._fill(self.search, "")
        if setting.level == "expert":
            self._fill(self.search, path)
            self.show("search")
        elif self.view != "basic" or not _is_basic(path, setting):
            self.tabs.selected_index = next(
                index for index, part in enumerate(TABS.values()) if _tab_section(path) in part
            )
            self.show("advanced")
        for group in self._groups:
            if any(field.path == path for field in group.fields):
                group.fold(False)
        self.focus.move(css_name(path))

    def _fill(self, control: Any, value: Any) -> None:
        with unobserved(control, self._take_mode if control is self.mode else self._take_search):
            control.value = value

    @guarded
    def _take_mode(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            self._fill(self.search, "")
            self.home = change["new"]
            self.show(self.home)

    @guarded
    def _take_search(self, change: dict[str, Any]) -> None:
        self.show("search" if change["new"].strip() else self.home)

    @guarded
    def _toggle_changed(self, _button: Any) -> None:
        self._fill(self.search, "")
        self.show(self.home if self.view == "changed" else "changed")

    # The pages

    def _basic(self, kit: Kit) -> Iterator[Any]:
        basic = [(path, setting) for path, setting in fields() if _is_basic(path, setting)]
        for title, sections in TABS.items():
            paths = [path for path, _ in basic if _tab_section(path) in sections]
            yield from self._group(kit, self.page, title, paths)

    def _group(self, kit: Kit, page: Any, title: str, paths: Sequence[str]) -> Iterator[Any]:
        """Yield a heading and its fields."""
        if paths:
            group = Group(kit, page, title, [self._fields.make(path) for path in paths])
            self._groups.append(group)
            yield from group.widgets

    def _text_page(self, view: YamlView | PythonView) -> Sequence[Any]:
        self._show_text()  # before the page can be seen, and copied
        return [view.widget]

    def _found(self, kit: Kit) -> Iterator[Any]:
        paths = find(self.search.value)
        if not paths:
            text = Markup("<p>No setting has “{}” in its name or help.</p>")
            yield kit.html(text.format(self.search.value.strip()), "nbft-note")
        block = ""
        for path in paths[:_MOST_FOUND]:
            if block != (block := path.rpartition(".")[0]):
                yield kit.html(Markup("<h3>{}</h3>").format(_title(block)))
            yield self._fields.make(path).widget
        if hidden := len(paths[_MOST_FOUND:]):
            yield kit.html(f"<p>{hidden} more. Type more letters to narrow the search.</p>")

    def _changed(self, kit: Kit) -> Iterator[Any]:
        changes, known = self._tree.changes, dict(fields())
        if not changes:
            base = "as in the preset" if self._tree.of_preset else "at its default"
            yield kit.html(f"<p>Every setting is {base}.</p>")
        for path in known:
            if path in changes:
                yield self._fields.make(path).widget
        item = Markup("<li>{}: {}</li>")
        others = [item.format(p, in_words(v)) for p, v in changes.items() if p not in known]
        if others:
            yield kit.html(f"<p>Also changed, in the YAML:</p><ul>{''.join(others)}</ul>")

    @guarded
    def _open_tab(self, *_change: Any) -> None:
        index = self.tabs.selected_index or 0
        page = self.tabs.children[index]
        if index == _REVIEW:
            page.show(self._review_page)
            self._show_text()
        elif not page.children:
            page.show(functools.partial(self._tab_page, page, list(TABS.values())[index]))
            self.mark()

    def _tab_page(self, page: Any, sections: Sequence[str], kit: Kit) -> Iterator[Any]:
        if "compute" in sections:
            yield from self._compute(kit)
        owned = {method.section for method in built_in_methods().values()}
        if owned.intersection(sections):
            yield from self._group(kit, page, "Training method", [_METHOD])
            self._of_method, self._method = kit.slot(), None
            self._show_of_method()
            yield self._of_method
        yield from self._sections(page, {*sections} - owned, kit)

    def _show_of_method(self) -> None:
        """Show the settings that only the chosen method has."""
        method, last = method_of(self._tree.so_far()), self._method
        if last is None or (method.section, method.unused_settings) != (
            last.section,
            last.unused_settings,
        ):
            self._method, page = method, self._of_method
            self._groups = [group for group in self._groups if group.page is not page]
            shown = {method.section} - {None}
            page.show(lambda kit: self._sections(page, shown, kit))
            self.mark()

    def _sections(self, page: Any, sections: Container[str | None], kit: Kit) -> Iterator[Any]:
        """Yield the settings of some sections in groups, and a button for the rare ones."""
        blocks: dict[str, list[str]] = {}
        rare = []
        method, changed = method_of(self._tree.so_far()), self._tree.changes
        unused = {f"{method.section}.{name}" for name in method.unused_settings}
        for path, setting in fields():
            if _tab_section(path) not in sections or path in (_METHOD, _RUN_NAME):
                continue
            if path in unused and path not in changed:
                continue
            if setting.level == "expert":
                rare.append(path)
            else:
                blocks.setdefault(path.rpartition(".")[0], []).append(path)
            if path == "tracking.project":
                blocks["tracking"].append(_RUN_NAME)
        for block, paths in blocks.items():
            yield from self._group(kit, page, _title(block), paths)
        if "peft" in sections:
            self._show_layers()
            yield kit.html("<h3>Layers</h3>")
            yield self.layers
        if rare:
            rest = kit(ipywidgets.VBox)

            def show(button: Any) -> None:
                button.description = f"{len(rare)} rarely needed settings"
                button.disabled = True
                rest.children = tuple(self._fields.make(path).widget for path in rare)
                self.mark()

            text = f"Show {count(len(rare), 'rarely needed setting')}"
            yield kit.button(text, show, "nbft-link nbft-rare")
            yield rest

    def _review_page(self, kit: Kit) -> Iterator[Any]:
        yield from self._review(kit)
        rows = [
            (path, in_words(new), in_words(old))
            for path, (old, new) in redact(self._tree.config.diff()).items()
            if new not in ([], {})
        ]
        table = render("table", head=("setting", "value", "default"), rows=rows, css="", header=0)
        yield kit.html(f"<h3>Changed from defaults</h3>{table if rows else '<p>Nothing.</p>'}")
        yield self.yaml.widget
        yield self.python.widget

    def _show_layers(self) -> None:
        if not self._tree.wrong:  # else it stays as it was
            self.layers.value = str(layer_table(self._tree.config))

    @guarded
    def _show_text(self) -> None:
        if "yaml" in self.__dict__:
            self.yaml.show(self._tree.config)
        if "python" in self.__dict__:
            self.python.show(self._tree.config)


def _tab_section(path: str) -> str:
    """Return the section by which a setting has its tab: its own, but for two of training."""
    moved = {_METHOD: "peft", _RUN_NAME: "tracking"}
    return moved.get(path, path.partition(".")[0])


def _title(block: str) -> str:
    """Return the heading of a block of settings.

    >>> _title("data.train.datasets[0]")
    'Data, train'
    """
    return ", ".join(block.removesuffix(".datasets[0]").split(".")).capitalize()


def _is_basic(path: str, setting: Setting) -> bool:
    return setting.level == "basic" and not path.startswith(("data.validation", "data.test"))
