"""The settings of a form, kept beside the runs, so that a restarted kernel can continue with them.

One small file for each notebook holds its last three forms. It is written a moment after a change
and never from the thread that answers the person. Secrets and rows in memory are not kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from IPython.core.getipython import get_ipython
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbft.atomic import replacing
from nbft.config import presets
from nbft.config.code import forbidden
from nbft.errors import NbftError
from nbft.formatting import count, duration, one_line
from nbft.reading import read_bytes, why_not
from nbft.redaction import HIDDEN, redact, redact_text
from nbft.widgets.background import Task
from nbft.widgets.kernel import main_loop
from nbft.widgets.kit import Kit
from nbft.widgets.launching import Launching
from nbft.widgets.opening import OWN, Opening
from nbft.widgets.state_line import LOCKED, StateLine, guarded
from nbft.widgets.tree import Tree, Typed, fields
from nbft.widgets.views import MODES, TABS, Fields, Views

WITHOUT_WIDGETS = "The form of nbft: run this cell to show it."
"""What a front end shows that has no widgets, or does not trust the notebook."""

STILL = (
    "<style>.nbft-still { display: none } .jp-OutputArea-child:has(+ .jp-OutputArea-child "
    ".nbft-still):not(:has(.nbft-form)) { display: none } .jp-OutputArea-child:not(:has(.nbft-form)) "
    "+ .jp-OutputArea-child .nbft-still { display: block }</style>"
    '<p class="nbft-still">The form of this cell is gone with its kernel. Run this cell again: your '
    "settings are kept.</p>"
)
"""What JupyterLab shows below a form, in place of the error for a widget whose kernel is gone."""

_SOON_SECONDS = 1.0
_FILE_BYTES = 3_000_000
_MOST_FORMS = 3
_writing = threading.Lock()  # the forms of a notebook share a file
_MOST_RUNS = 10
_READING_SECONDS = 0.05  # for the events of one run of the list
_RUN_NAME = "training.run_name"


class View(BaseModel):
    """Which page is shown.

    Attributes:
        home: The view that the switch shows.
        shown: The same, or what covers it, such as a search.
        search: The text of the search.
        tab: Number of the advanced view's tab, from 0.
        step: Number of the guided mode's step, from 1.
        yaml: YAML that was edited and not applied; "" for none.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    home: str = Field(pattern=f"^({'|'.join(MODES)})$")
    shown: str
    search: str
    tab: int = Field(ge=0, lt=len(TABS))
    step: int = Field(ge=1)
    yaml: str


class Kept(BaseModel):
    """A form as its file keeps it.

    Attributes:
        form: A random name, which tells the forms of a notebook apart.
        saved: When it was written, in seconds since the epoch.
        about: What it is, such as "words.csv, 3 changed".
        typed: The settings.
        in_memory: The datasets whose rows were in memory.
        preset: The preset that the list shows; "" for one's own settings.
        view: The page.
        run: Folder of the run that the form shows, or that is training; None if there is none.
        is_run_shown: Whether the fields show that run.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    form: str
    saved: float = Field(ge=0, allow_inf_nan=False)
    about: str
    typed: Typed
    in_memory: list[str]
    preset: str
    view: View
    run: str | None
    is_run_shown: bool


class KeptForms(BaseModel):
    """What the file of a notebook holds.

    Attributes:
        version: Of this format.
        notebook: File name of the notebook, for people who read the file; "" if it is unknown.
        forms: The last forms, newest first.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    version: Literal[1] = 1
    notebook: str
    forms: list[Kept]


@dataclass
class Keeping:
    """Keeps the settings of a form, and offers earlier ones and those of runs.

    Attributes:
        guide: Returns what knows the step of the guided mode.
        follow: Updates the form after a change, given the preset that its list shows.
        on_kept: Called when the settings are kept for the first time.
        kept: What can be continued, newest first.
    """

    kit: Kit
    tree: Tree
    fields: Fields
    line: StateLine
    opening: Opening
    views: Views
    launching: Launching
    guide: Callable[[], Any]
    follow: Callable[[str], None]
    on_kept: Callable[[], None]
    kept: list[Kept] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._form = secrets.token_hex(4)
        self._continued: set[str] = set()  # the form whose place this one takes in the file
        self._path: Path | None = None
        self._problem = ""  # with the file
        self._offer: Any = None  # made if there is something to offer at the start
        self._is_offered = self._is_waiting = self._has_failed = self._is_written = False

    # Keeping

    def start(self, *, offers: bool) -> None:
        """Read what was kept, and keep what changes from now on; only in a kernel.

        Args:
            offers: Show above the fields what can be continued, and not only on the page.
        """
        if not _is_in_kernel():
            return
        try:
            folder = Path(self.tree.config.training.output_dir).expanduser().absolute()
        except RuntimeError:  # the home of nobody
            return
        self._path = place(folder)
        try:
            self.kept = read(self._path)
        except OSError as error:
            self._problem = (
                f"{self._path}: the settings kept here cannot be read: {why_not(error)}."
            )
        except ValidationError:
            self._problem = (
                f"{self._path} holds no settings that this version of nbft can read. It is ignored."
            )
        self._fresh = self._last = self._now()
        self._is_offered = offers and bool(self.kept or self._problem)
        if self._is_offered:
            self._offer = self.kit.slot("nbft-offer")
        self.views.on_mark = self.later

    def later(self) -> None:
        """Keep the settings soon, if they have changed."""
        loop = main_loop()
        if self._path is None or self._is_waiting or loop is None:
            return
        self._is_waiting = True
        loop.call_later(_SOON_SECONDS, self.keep)

    @guarded
    def keep(self) -> None:
        """Keep the settings, if they have changed; written on a thread, never two at once."""
        self._is_waiting = False
        path = self._path
        if path is None or (now := self._now()) == self._last:
            return
        self._last = now
        is_something = now.typed != self._fresh.typed or now.run is not None
        if not (is_something or self._is_written):
            return
        kept = now.model_copy(update={"saved": time.time()}) if is_something else None
        work = functools.partial(write, path, kept, {self._form, *self._continued})
        self._continued = set()  # if it changes after all, it is kept again
        self._is_waiting = self._is_written = True
        Task(work, lambda _: self._take_kept(is_something), self._take_failure)

    def _take_kept(self, is_something: bool) -> None:
        self._is_waiting = False
        if is_something:
            self.on_kept()
        self.later()

    def _take_failure(self, error: Exception) -> None:
        """Say once that nothing can be kept; the next change tries again."""
        self._is_waiting = False
        if not self._has_failed and self._path is not None:
            self._has_failed = True
            why = why_not(error) if isinstance(error, OSError) else str(error)
            self.line.say_too(
                f"{self._path}: cannot be written: {why}. These settings are lost when the kernel "
                "restarts."
            )

    def close(self) -> None:
        """Keep nothing any more."""
        self._path = None

    def _now(self) -> Kept:
        """Return the form as it is."""
        tree, views, launching = self.tree, self.views, self.launching
        typed = tree.typed()
        run = launching.run
        is_run_shown = run is not None and (launching.is_locked or launching.is_finished)
        text = views.yaml.edited if "yaml" in vars(views) else ""
        is_advanced = "tabs" in vars(views)
        return Kept(
            form=self._form,
            saved=0,
            about=self._about(),
            typed=typed,
            in_memory=tree.in_memory,
            preset=self.opening.control.value if self.opening.control.value in presets() else OWN,
            view=View(
                home=views.home,
                shown=views.view,
                search=views.search.value,
                tab=(views.tabs.selected_index or 0) if is_advanced else 0,
                step=self.guide().number if views.home == "guided" else 1,
                yaml=text,
            ),
            run=str(run.path) if run and (is_run_shown or launching.is_training) else None,
            is_run_shown=is_run_shown,
        )

    def _about(self) -> str:
        datasets = self.tree.so_far().data.train.datasets
        parts = [" + ".join(redact_text(dataset.called) for dataset in datasets) or "no data yet"]
        if changes := len(self.tree.changes):
            parts.append(f"{count(changes)} changed")
        if wrong := len(self.tree.wrong):
            parts.append(f"{count(wrong)} to fix")
        if self.launching.run is not None:
            parts.append(f"run {self.launching.run.id}")
        return ", ".join(parts)

    # Continuing

    def show_offer(self) -> tuple[Any, ...]:
        """Return what is shown above the fields: an empty box when it is not needed any more."""
        if self._offer is None:
            return ()
        is_shown = self._is_offered and not self.launching.is_locked
        if is_shown != bool(self._offer.children):
            self._offer.show(self._offered if is_shown else lambda _: ())
        return (self._offer,)

    def _offered(self, kit: Kit) -> Iterator[Any]:
        if not self.kept:
            yield kit.html(Markup("<p>{}</p>").format(self._problem))
            return
        newest, *older = map(functools.partial(self._continuing, kit), self.kept)
        runs = kit.button("Start from a run…", lambda _: self.views.show("runs"), "nbft-push")
        yield kit.row(*newest, runs)
        for parts in older:
            yield kit.row(*parts)

    def _continuing(self, kit: Kit, kept: Kept) -> Iterator[Any]:
        """Yield what it is, and the button that continues with it."""
        about = f"Kept {_ago(kept.saved)}: {one_line(kept.about, 120)}."
        yield kit.html(Markup("<p>{}</p>").format(about))
        is_newest = kept is self.kept[0]
        name = "Continue where I was" if is_newest else "Continue with these settings"
        yield kit.button(name, functools.partial(self._continue, kept), "nbft-push")

    def page(self, kit: Kit) -> Iterator[Any]:
        """Yield what can be continued, and a button for each of the newest runs."""
        if self.kept:
            yield kit.html("<h3>Continue with this notebook’s earlier settings</h3>")
            for kept in self.kept:
                yield kit.row(*self._continuing(kit, kept))
        elif self._problem:
            yield kit.html(Markup("<p>{}</p>").format(self._problem))
        yield kit.html("<h3>Start from the settings of a run</h3>")
        folder = Path(self.tree.config.training.output_dir).expanduser()
        from nbft.runs import list_runs
        from nbft.runs.summary import summary

        runs = list_runs(folder)
        if not runs:
            yield kit.html(Markup("<p>There are no runs in {} yet.</p>").format(folder))
        for run in runs[:_MOST_RUNS]:
            about = summary(run, _READING_SECONDS)
            model = about["model"]
            if model and Path(model).is_absolute():
                model = Path(model).name
            known = (about["data"], model, about["method"], about["status"])
            when = [_ago(about["started"])] if about["started"] else []
            text = f"{run.id}: {', '.join([*map(str, filter(None, known)), *when])}"
            yield kit.button(text, functools.partial(self._start_from, run), "nbft-link")
        if hidden := len(runs[_MOST_RUNS:]):
            yield kit.html(f"<p>{count(hidden)} older: the panel lists them all.</p>")

    @guarded
    def _start_from(self, run: Any, _button: Any) -> None:
        if self._refuses():
            return
        self.opening.open(run.config.apply({_RUN_NAME: None}))
        self._is_offered = False
        self.line.say_too(f"These are the settings of run {run.id}.")

    @guarded
    def _continue(self, kept: Kept, _button: Any) -> None:
        if kept not in self.kept or self._refuses():
            return
        has_rows = self.tree.restore(kept.typed, kept.in_memory)
        self.kept.remove(kept)
        self._continued.add(kept.form)
        self._is_offered = False
        self.fields.fill()
        self.follow(kept.preset if kept.preset in presets() else OWN)
        self._show_view(kept.view)
        if any(forbidden(self.tree.config)):
            self.opening.show_results(self.opening.consent)
        said = []
        if kept.run is not None:
            from nbft.runs import attach

            try:
                self.launching.show_run(attach(kept.run), is_locked=kept.is_run_shown)
            except NbftError as error:
                said.append(str(error))
        if hidden := sorted(self.tree.hidden):
            label = {path: setting.label for path, setting in fields()}
            names = ", ".join(label.get(path, path) for path in hidden)
            said.append(f"Secrets are not kept. Type them again: {names}.")
        if HIDDEN in kept.view.yaml:
            said.append("The edited YAML held a secret and is not kept.")
        if not has_rows:
            names = ", ".join(kept.in_memory)
            said.append(f"Rows in memory are not kept ({names}). Give them with nbft.Form(config).")
        for sentence in said:
            self.line.say_too(sentence)

    def _refuses(self) -> bool:
        if self.launching.is_locked:
            self.line.say(LOCKED, "wrong")
        return self.launching.is_locked

    def _show_view(self, view: View) -> None:
        views = self.views
        views.home = view.home
        if view.home == "guided":
            guide = self.guide()
            guide.number = min(view.step, len(guide.answers))
        if view.yaml and HIDDEN not in view.yaml:
            views.yaml.write(view.yaml, is_applied=False)
        views.show(view.home)
        if view.home == "advanced":
            views.tabs.selected_index = view.tab
        if view.shown == "search":
            views.search.value = view.search
        elif view.shown == "changed":
            views.show("changed")


# The file


def place(folder: Path) -> Path:
    """Return the file that keeps the form of this notebook, or of the folder if it is unknown.

    Args:
        folder: The absolute path of the folder of the runs.
    """
    notebook = _notebook()
    if not notebook:
        return folder / ".nbft-form.json"
    with contextlib.suppress(ValueError):  # on another drive
        notebook = os.path.relpath(notebook, folder)  # so that both can be moved
    name = hashlib.sha256(os.fsencode(notebook)).hexdigest()[:8]
    return folder / f".nbft-form-{name}.json"


def read(path: Path) -> list[Kept]:
    """Read the last forms of a notebook, newest first.

    Raises:
        OSError: They cannot be read.
        ValidationError: Another version or another program has written them.
    """
    try:
        return KeptForms.model_validate_json(read_bytes(path, _FILE_BYTES)).forms
    except (FileNotFoundError, NotADirectoryError):
        return []


def write(path: Path, kept: Kept | None, replaced: Collection[str]) -> None:
    """Write a form before the others of its notebook, without secrets; only its owner may read it.

    Args:
        path: The file.
        kept: The form; None if there is nothing to keep of it.
        replaced: The forms whose place it takes.

    Raises:
        OSError: The folder is not writable, or the disk is full.
    """
    with _writing:
        try:
            others = [other for other in read(path) if other.form not in replaced]
        except (OSError, ValidationError):  # the form has said so, and that it is ignored
            others = []
        forms = [*([kept] if kept else []), *others][:_MOST_FORMS]
        if not forms:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = KeptForms(notebook=Path(_notebook()).name, forms=forms).model_dump()
        text = json.dumps(redact(content), indent=1, default=str)  # YAML has dates
        with replacing(path) as partial:
            partial.touch(mode=0o600)
            partial.write_text(text + "\n", encoding="utf-8")


def _notebook() -> str:
    """Return the path of the notebook, if its front end tells; "" otherwise."""
    shell = get_ipython()
    vs_code = shell.user_ns.get("__vsc_ipynb_file__") if shell is not None else None
    path = str(vs_code or os.environ.get("JPY_SESSION_NAME", ""))
    return path if path.endswith(".ipynb") else ""  # a console has a name that never comes again


def _is_in_kernel() -> bool:
    """Whether this is the kernel of a notebook, and of one person: Voila serves many with one."""
    is_shared = any(name.startswith("VOILA_") for name in os.environ)
    return hasattr(get_ipython(), "kernel") and not is_shared


def _ago(seconds: float) -> str:
    """Return how long ago a time was; no clock time, since the person's zone is not known here."""
    minutes = max(1, round((time.time() - seconds) / 60))
    return f"{duration(60 * minutes)} ago"
