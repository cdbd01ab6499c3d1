"""Where the settings of a form come from: a preset, a config file, or another system's file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ipywidgets

from nbft.config import Config, io, presets
from nbft.config.data import SPLITS
from nbft.formatting import count
from nbft.interop.importer import is_theirs
from nbft.widgets.kit import Kit, unobserved
from nbft.widgets.state_line import StateLine, guarded
from nbft.widgets.tree import OF_ROWS, Tree
from nbft.widgets.views import MODES, Page, Views

OWN = ""
_OPEN = "open"
_RUNS = "runs"
_MODEL = "model.model_name"


class Replace(Protocol):
    """Shows another config in the form."""

    def __call__(self, config: Config, preset: str = OWN, *, keeps_rows: bool = False) -> None:
        """Show it, with the earlier rows in memory if it keeps them."""


@dataclass
class Opening:
    """The list of presets, and the page on which a file is opened.

    Attributes:
        preset: The preset that is shown first; "" for one's own settings.
        replace: Shows another config.
        show_results: Shows a page below the form.
        consent: The page with the code that waits for consent.
        views: The pages of the form, which sets them: they need the page of this one first.
        control: The list.
    """

    kit: Kit
    tree: Tree
    line: StateLine
    preset: str
    replace: Replace
    show_results: Callable[[Page], None]
    consent: Page
    views: Views = field(init=False)

    def __post_init__(self) -> None:
        self._model_of_preset = Config().model.model_name
        self.control = self.kit(
            ipywidgets.Dropdown,
            "nbft-preset",
            description="Preset",
            options=[
                *((title, name) for name, title in presets().items()),
                ("Open a file…", _OPEN),
                ("Earlier settings or runs…", _RUNS),
                ("Own settings", OWN),
            ],
            value=self.preset,
        )
        self.control.observe(self._take_preset, "value")

    @functools.cached_property
    def file(self) -> tuple[Any, Any]:
        """The box for the path of a file, and the button that opens it."""
        path = self.kit(
            ipywidgets.Text, "nbft-control", description="File", placeholder="config.yaml"
        )
        return path, self.kit.button("Open", self._open_file, "nbft-push")

    def show(self, preset: str) -> None:
        """Show which preset the settings are."""
        with unobserved(self.control, self._take_preset):
            self.control.value = preset

    @guarded
    def _take_preset(self, change: dict[str, Any]) -> None:
        if change["new"] == OWN:
            return
        if change["new"] in (_OPEN, _RUNS):
            self.show(change["old"])  # so that it can be chosen again
            self.views.show("file" if change["new"] == _OPEN else "runs")
            return
        tree = io.preset(change["new"])
        keeps_rows = "train" not in tree.get("data", {})
        its_model = tree.get("model", {}).get("model_name")
        my_model = self.tree.config.model.model_name
        is_my_model = keeps_rows and self._has_own_model()
        if keeps_rows:  # the preset has no rows of its own
            given = self.tree.config.to_dict()
            data = {k: v for k, v in given.get("data", {}).items() if k in SPLITS}
            tree["data"] = {**tree.get("data", {}), **data}
            if is_my_model or its_model is None:
                tree["model"] = {**given.get("model", {}), "model_name": my_model}
        if its_model and not is_my_model:
            self._model_of_preset = its_model
        chosen = {path for path in self.tree.kept if path.startswith(OF_ROWS)}
        self.replace(Config(**tree), change["new"], keeps_rows=keeps_rows)
        if keeps_rows:
            self.tree.kept |= chosen
        if is_my_model:
            self.tree.left.add(_MODEL)
            self.tree.kept.add(_MODEL)
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
        return _MODEL in self.tree.left or self.tree.config.model.model_name not in usual

    @guarded
    def _open_file(self, _button: Any) -> None:
        path = Path(self.file[0].value.strip()).expanduser()
        if is_theirs(path):
            self._open_theirs(path)
            return
        tree = io.read(path)
        config, problems = Config.parse(tree)
        if problems:  # show all of its text, to be fixed there
            self.views.show("yaml")
            self.views.yaml.write(path.read_text(encoding="utf-8"), is_applied=False)
            self.views.yaml.show_problems(problems)
            self.line.say(
                f"{path.name}: {count(len(problems), 'problem')}. Fix the YAML and apply it.",
                "wrong",
            )
            return
        self.open(config)

    def _open_theirs(self, path: Path) -> None:
        """Show another system's file as settings, and below how each of its keys was read."""
        config, report = Config.import_file(path)
        self.open(config, lambda kit: [kit.html(report._repr_html_())])

    def open(self, config: Config, page: Page = lambda kit: ()) -> None:
        """Show a config, and below the form a page and the code that waits for consent."""
        self.replace(config)
        self.show_results(lambda kit: (*self.consent(kit), *page(kit)))
        self.views.show("guided" if self.views.home == "guided" else "basic")
