"""“Export…” at the end of a run: a small form in place, the export on a thread, and its proof.

The form asks `nbft.export.exporting.foresee` what an export will be, and says so on its button;
`write_export` does it. Used by the monitor.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
from markupsafe import Markup

from nbft import registry
from nbft.errors import NbftError, RunError
from nbft.formatting import size
from nbft.pages import exported as page
from nbft.runs.exports import left_by_stopped
from nbft.widgets.background import Task
from nbft.widgets.kernel import call_soon, hear_while_busy, is_main_thread
from nbft.widgets.kit import Kit, unobserved

if TYPE_CHECKING:
    from nbft.export.exporting import Exported, Foreseen
    from nbft.export.format import Format
    from nbft.runs import Run

_CSS = Path(__file__).parent / "exporting.css"
_OPEN, _CLOSE = "Export…", "Close export"
_LABELS = {
    "dtype": "Number type",
    "max_shard_size": "Largest file",
    "repo_id": "Repository",
    "private": "Private",
    "adapter": "Adapter only",
}


class _StoppedError(RunError):
    """A person has stopped the export."""


class Exporting:
    """The button, and below it the form, what happens, and what came of it.

    Args:
        run: The run, which has an adapter or a model.

    Attributes:
        box: What is shown.
        state: closed, open, asking (whether to publish) or exporting.
    """

    def __init__(self, run: Run) -> None:
        self._given = run
        self._kit = kit = Kit()
        self._stop = threading.Event()
        self.state = "closed"
        self._changed = self._on_main(self._foresee)
        self._toggle = kit.button(_OPEN, self._on_main(self._open_or_close), "")
        self._form = kit.slot("nbft-export-form")
        self._status = kit.html("")
        self._actions = kit.slot("nbft-export-actions")
        self._result = kit.html("")
        hear_while_busy(self._toggle)
        style = kit.html(f"<style>{_CSS.read_text(encoding='utf-8')}</style>", "nbft-style")
        children = (self._toggle, self._form, self._actions, self._status, self._result, style)
        self.box = kit(ipywidgets.VBox, "nbft-export", children=children)

    def close(self) -> None:
        """Stop the export that is going on, and close the widgets."""
        self._stop.set()
        self._kit.close()

    # The form

    @functools.cached_property
    def _run(self) -> Run:
        from nbft.export.exporting import SettledRun

        return SettledRun(self._given.path)

    @functools.cached_property
    def _formats(self) -> dict[str, Format]:
        """The formats by their names, without those of packages that nobody has consented to."""
        found = {}
        for name in registry.exports:
            try:
                found[name] = registry.exports.get(name)
            except NbftError:
                continue
        return found

    def _open_or_close(self) -> None:
        if self.state == "exporting":
            self._say("Stop the export first.")
        elif self.state == "closed":
            self._toggle.description, self.state = _CLOSE, "open"
            self._form.show(self._fields)
            self._show_format()
        else:
            self._toggle.description, self.state = _OPEN, "closed"
            self._form.show()
            self._actions.show()
            self._say("")

    def _fields(self, kit: Kit) -> Iterator[Any]:
        """Yield the format, the place of its options, and the folder."""
        names = [(_capital(form.title), name) for name, form in self._formats.items()]
        usual = "gguf" if self._is_possible("gguf") else "merged"
        usual = usual if self._is_possible(usual) else "adapter"
        kind = kit(ipywidgets.Dropdown, description="Format", options=names, value=usual)
        kind.observe(self._on_main(self._show_format), "value")
        self._kind, self._about, self._options = kind, kit.html(""), kit.slot()
        self._folder = kit(ipywidgets.Text, description="Folder")
        self._folder.observe(self._changed, "value")
        self._usual_folder = ""
        self._place = kit.html("")
        yield kind
        yield self._about
        yield self._options
        yield self._folder
        yield self._place

    def _is_possible(self, name: str) -> bool:
        """Whether nothing about the run is against a format."""
        form = self._formats.get(name)
        try:
            return form is not None and not form.obstacle(self._run)
        except NbftError:
            return False

    def _show_format(self) -> None:
        """Show the options of the chosen format, and its usual folder."""
        form = self._formats[self._kind.value]
        self._about.value = _help(form.about)
        self._controls: dict[str, Any] = {}
        self._options.show(functools.partial(self._option_fields, form))
        before, self._usual_folder = self._usual_folder, f"{self._run.id}-{self._kind.value}"
        if self._folder.value in ("", before):  # one that a person has typed stays
            with unobserved(self._folder, self._changed):
                self._folder.value = self._usual_folder
        self._foresee()

    def _option_fields(self, form: Format, kit: Kit) -> Iterator[Any]:
        from nbft.export.format import HELP
        from nbft.export.trained import stored_dtype

        for name in form.options:
            if name == "dtype" and not form.dtypes:
                continue
            about = {"description": _LABELS.get(name, name)}
            if name == "dtype":
                usual = form.default_dtype(stored_dtype(self._run))
                control = kit(
                    ipywidgets.Dropdown, options=form.offered_dtypes(), value=usual, **about
                )
            elif name in ("private", "adapter"):
                control = kit(ipywidgets.Checkbox, value=name == "private", **about)
            else:
                value = "5GB" if name == "max_shard_size" else ""
                control = kit(ipywidgets.Text, value=value, **about)
            control.observe(self._changed, "value")
            self._controls[name] = control
            yield control
            yield kit.html(_help(HELP.get(name, "")))

    @property
    def _chosen(self) -> dict[str, Any]:
        """The options as they are in the form."""
        chosen = {name: control.value for name, control in self._controls.items()}
        if chosen.get("adapter"):
            chosen.pop("dtype", None)  # its files are copied
        return chosen

    def _foresee(self) -> None:
        """Say what the export will be, or why it cannot be."""
        from nbft.export.exporting import foresee

        if self.state not in ("open", "asking"):
            return
        self.state = "open"
        parameters = self._given.state.prepared.get("total_parameters")
        path = self._folder.value.strip() or None
        foreseen = foresee(self._run, self._kind.value, path, parameters=parameters, **self._chosen)
        needed = foreseen.needed_bytes.get(foreseen.dtype)
        about = "" if needed is None else f"It takes about {size(needed)} there; "
        free = f"{size(foreseen.free_bytes)} are free."
        self._place.value = _help(f"{foreseen.folder}. {about}{free}")
        self._foreseen: Foreseen = foreseen
        self._say(foreseen.problem)
        self._offer()

    # The buttons below it

    def _offer(self) -> None:
        """Show the button that exports, which says what it will do."""

        def offered(kit: Kit) -> Iterator[Any]:
            text = self._foreseen.offer()
            go = kit.button(text, self._on_main(self._go), "", tooltip=text)
            go.disabled = bool(self._foreseen.problem)
            hear_while_busy(go)
            yield go

        self._actions.show(offered)

    def _go(self) -> None:
        if self.state != "open" or self._foreseen.problem:
            return  # a second click
        if not self._foreseen.question:
            self._begin()
            return
        self.state = "asking"

        def offered(kit: Kit) -> Iterator[Any]:
            yield kit.button("Yes, upload it", self._on_main(self._begin), "")
            yield kit.button("No", self._changed, "")

        self._actions.show(offered)
        self._say(self._foreseen.question)

    def _begin(self) -> None:
        """Export on a thread."""
        from nbft.export.exporting import write_export

        if self.state not in ("open", "asking"):
            return
        self.state, self._result.value = "exporting", ""
        self._stop.clear()
        self._began = time.time()
        self._enable(False)

        def offered(kit: Kit) -> Iterator[Any]:
            stop = kit.button("Stop", self._on_main(self._ask_to_stop), "")
            hear_while_busy(stop)
            yield stop

        self._actions.show(offered)
        self._say("Starting …")
        chosen = {**self._chosen, "yes": True}
        work = functools.partial(
            write_export,
            self._given,
            self._kind.value,
            self._foreseen.folder,
            say=self._hear,
            **chosen,
        )
        Task(work, self._take, self._fail)

    def _ask_to_stop(self) -> None:
        self._stop.set()
        self._say("Stopping after this stage …")

    def _hear(self, stage: str) -> None:
        """Show a stage, from the thread that exports."""
        if self._stop.is_set():
            raise _StoppedError(f"Stopped before: {stage}")
        call_soon(self._show_stage, stage)

    def _show_stage(self, stage: str) -> None:
        if self.state == "exporting" and not self._stop.is_set():
            self._say(stage)

    def _take(self, exported: Exported) -> None:
        """Show what was written, and the proof."""
        proof = exported.proof
        self._result.value = page.html(
            proof.sentence.removeprefix("The proof failed: "),
            passed=proof.passed,
            folder=str(exported.path),
            commands=exported.commands,
        )
        self._end("Exported." if proof.passed else "Exported, but the proof failed.")

    def _fail(self, error: Exception) -> None:
        if isinstance(error, _StoppedError):
            self._end(left_by_stopped(self._given.path, self._foreseen.folder, self._began))
            return
        what = f"{type(error).__name__}: {error}".strip(": ")
        self._end(str(error) if isinstance(error, NbftError) else f"The export failed ({what}).")

    def _end(self, sentence: str) -> None:
        self.state = "open"
        self._enable(True)
        self._foresee()
        self._say(sentence)

    def _enable(self, is_enabled: bool) -> None:
        for control in (self._kind, self._folder, *self._controls.values()):
            control.disabled = not is_enabled

    def _say(self, sentence: str) -> None:
        self._status.value = Markup('<div role="status">{}</div>').format(sentence)

    def _on_main(self, action: Callable[[], None]) -> Callable[..., None]:
        """Return a handler that calls an action on the main thread; its errors are said."""

        def run() -> None:
            try:
                action()
            except NbftError as error:
                self._say(str(error))
            except Exception as error:  # most front ends do not show a handler's exception
                self._say(f"Something went wrong ({type(error).__name__}: {error}).")

        def handle(*_: object) -> None:
            if is_main_thread():
                run()
            else:
                call_soon(run)

        return handle


def _help(text: str) -> Markup:
    return Markup('<div class="nbft-export-help">{}</div>').format(text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
