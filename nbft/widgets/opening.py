"""Where the settings of a form come from: a preset, a config file, or another system's file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ipywidgets

from nbft.config import Config, io, presets
from nbft.config.data import SPLITS
from nbft.formatting import count
from nbft.interop.importer import is_theirs
from nbft.widgets.kit import Kit
from nbft.widgets.state_line import StateLine, guarded
from nbft.widgets.tree import Tree
from nbft.widgets.views import MODES, Page, Views

OWN = ""
_OPEN = "open"
_MODEL = "model.model_name"


class Replace(Protocol):
    """Shows another config in the form."""

    def __call__(self, config: Config, preset: str = OWN, *, keeps_rows: bool = False) -> None:
        """Show it, with the rows in memory of the one before if it is to keep them."""


class Opening:
    """The list of presets, and the page on which a file is opened.

    Args:
        kit: Makes the widgets.
        tree: The settings.
        line: Says what became of it.
        preset: The preset that is shown first; "" for settings of one's own.
        replace: Shows another config.
        show_results: Shows a page below the form.

    Attributes:
        control: The list.
    """

    views: Views  # set by the form: the views need the page below first

    def __init__(
        self,
        kit: Kit,
        tree: Tree,
        line: StateLine,
        *,
        preset: str,
        replace: Replace,
        show_results: Callable[[Page], None],
    ) -> None:
        self._kit, self._tree, self.line = kit, tree, line
        self._replace, self._show_results = replace, show_results
        self._is_filling = False
        self._agreed_to: list[str] = []  # functions of an opened file that may run
        self._model_of_preset = Config().model.model_name
        self.control = kit(
            ipywidgets.Dropdown,
            "nbft-preset",
            description="Preset",
            options=[
                *((title, name) for name, title in presets().items()),
                ("Open a file…", _OPEN),
                ("Own settings", OWN),
            ],
            value=preset,
        )
        self.control.observe(self._take_preset, "value")

    @functools.cached_property
    def file(self) -> tuple[Any, Any]:
        """The box for the path of a file, and the button that opens it."""
        path = self._kit(
            ipywidgets.Text, "nbft-control", description="File", placeholder="config.yaml"
        )
        button = self._kit(ipywidgets.Button, "nbft-push", description="Open")
        button.on_click(self._open_file)
        return path, button

    def show(self, preset: str) -> None:
        """Show which preset the settings are."""
        self._is_filling = True
        try:
            self.control.value = preset
        finally:
            self._is_filling = False

    @guarded
    def _take_preset(self, change: dict[str, Any]) -> None:
        if self._is_filling or change["new"] == OWN:
            return
        if change["new"] == _OPEN:
            self.views.show("file")
            return
        tree = io.preset(change["new"])
        mine = self._tree.config
        keeps_rows = "train" not in tree.get("data", {})
        its_model, my_model = tree.get("model", {}).get("model_name"), mine.model.model_name
        is_my_model = keeps_rows and self._has_own_model()
        if keeps_rows:  # it says how to train, not on what
            given = mine.to_dict()
            data = {k: v for k, v in given.get("data", {}).items() if k in SPLITS}
            tree["data"] = {**tree.get("data", {}), **data}
            if is_my_model or its_model is None:
                tree["model"] = {**given.get("model", {}), "model_name": my_model}
        if its_model and not is_my_model:
            self._model_of_preset = its_model
        self._replace(Config(**tree), change["new"], keeps_rows=keeps_rows)
        if is_my_model:
            self._tree.left.add(_MODEL)
            self._tree.kept.add(_MODEL)
        if self.views.view not in MODES:
            self.views.show(self.views.home)
        if is_my_model and its_model not in (None, my_model):
            self.line.say_too(
                f"The base model stays {my_model}, which you chose; this preset suggests "
                f"{its_model}."
            )

    def _has_own_model(self) -> bool:
        """Whether a person chose the model, and not a preset."""
        usual = (self._model_of_preset, Config().model.model_name)
        return _MODEL in self._tree.left or self._tree.config.model.model_name not in usual

    @guarded
    def _open_file(self, _button: Any) -> None:
        path = Path(self.file[0].value.strip()).expanduser()
        if is_theirs(path):
            self._open_theirs(path)
            return
        tree = io.read(path)
        config, problems = Config.parse(tree)
        if problems:  # its text is corrected where all of it can be seen
            self.views.show("yaml")
            self.views.yaml.write(path.read_text(encoding="utf-8"), is_applied=False)
            self.views.yaml.show_problems(problems)
            self.line.say(
                f"{path.name}: {count(len(problems), 'problem')}. Fix the YAML and apply it.",
                "wrong",
            )
            return
        self._show(config)

    def _open_theirs(self, path: Path) -> None:
        """Show another system's file as settings, and below what became of each of its keys."""
        config, report = Config.import_file(path)
        self._show_results(lambda kit: [kit.html(report._repr_html_())])
        if report.functions and self._agreed_to != report.functions:
            self._agreed_to = report.functions
            names = ", ".join(report.functions)
            self.line.say(
                f"{path.name} runs your own code: {names}. Press Open again to allow it.", "wrong"
            )
            return
        self._show(config)

    def _show(self, config: Config) -> None:
        self._replace(config)
        self.views.show("guided" if self.views.home == "guided" else "basic")
