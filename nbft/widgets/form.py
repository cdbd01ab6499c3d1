"""The form: every setting as a field, what the run will be beside it, and the button that starts.

Generated from `nbft.config.settings`; nothing is listed twice. The form keeps one tree, as typed;
`Config.parse` says what is right and wrong with it, `make_plan` what will happen. It trains
nothing itself: `nbft.launchers.launch` does, and a `Monitor` shows it below the form.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbft.config import Config, Setting, io, presets, settings
from nbft.config.data import SPLITS
from nbft.config.problems import nearest
from nbft.config.search import find_settings
from nbft.errors import ConfigError, NbftError, Problem
from nbft.formatting import count
from nbft.interop.importer import is_theirs
from nbft.models.find import find_local
from nbft.widgets.as_text import Focus, PythonView, YamlView
from nbft.widgets.fields import Field, Kit, css_name, fix_words, in_words, label
from nbft.widgets.kernel import call_soon, is_main_thread, main_loop
from nbft.widgets.summary import summary
from nbft.widgets.upload import FileField

if TYPE_CHECKING:
    from nbft.plan import Plan
    from nbft.plan.advice import Question
    from nbft.runs import Run
    from nbft.widgets.doctor import Findings
    from nbft.widgets.guided import Guide, GuidedView
    from nbft.widgets.lens import Lens

TABS = {
    "Model": ("model",),
    "Data": ("data",),
    "Method": ("peft", "quantization", "preference"),
    "Training": (
        *("training", "optimizer", "scheduler"),
        *("evaluation", "checkpoint", "callbacks"),
    ),
    "Compute": ("compute", "precision", "memory", "speed", "distributed"),
    "Tracking": ("logging", "tracking"),
    "Review": (),
}
"""The tabs of the advanced view and their sections."""

_TYPES = (bool, int, float, str, list, dict)  # rows in memory are set from Python only
_MODES = {name.lower(): name for name in ("Guided", "Basic", "Advanced", "YAML", "Python")}
_FIRST_PRESET = "two-minute-try"
_OWN = ""
_OPEN = "open"
_MODEL = "model.model_name"
_PLACE_OF_A_RUN = ("training.run_name", "training.output_dir")
_ROUNDS = 3  # what a rule changes may be what another goes by
_LAUNCH = "Train here, below, trains in this kernel. Run in background goes on when the notebook is closed."
_MOST_FOUND = 15
_FOLLOW_SECONDS = 0.5
_CSS = Path(__file__).parent / "form.css"


def _guarded(action: Callable[..., None]) -> Callable[..., None]:
    """Run a handler on the main thread, and say what goes wrong instead of losing it."""

    @functools.wraps(action)
    def run(form: Form, *args: Any) -> None:
        try:
            action(form, *args)
        except NbftError as error:
            form._say_problems(error.problems)
        except Exception as error:  # a handler's exception would vanish in most front ends
            form.log = traceback.format_exc()
            what = f"{type(error).__name__}: {error}".strip(": ")
            form._say(f"The form could not do this ({what}). print(form.log) says more.", "wrong")

    @functools.wraps(action)
    def start(form: Form, *args: Any) -> None:
        if is_main_thread():
            run(form, *args)
        else:
            call_soon(run, form, *args)

    return start


class Form:
    """A form for a fine-tuning run.

    Args:
        config: What it shows first; the preset "two-minute-try" if None.
        guided: Lead through seven steps, with a default for each setting that the config leaves
            open; the switch "Show" leads to the other views and back.

    Attributes:
        widget: The form itself, to be put into other widgets.
        run: The run that was started last, or None.
        log: The traceback of the last thing that went wrong unexpectedly.

    Raises:
        TypeError: An unknown keyword, or something that is no config.
    """

    def __init__(
        self, config: Config | None = None, *, guided: bool = False, **unknown: Any
    ) -> None:
        for name in unknown:
            raise TypeError(f"Form has no {name!r}. {nearest(name, ('config', 'guided'))}")
        if config is not None and not isinstance(config, Config):
            raise TypeError(f"config is a {type(config).__name__}. Give an nbft.Config.")
        self.run: Run | None = None
        self.log = ""
        self._lens: Lens | None = None
        self._is_locked = False
        self._agreed_to: list[str] = []  # functions of an opened file that may run
        self._plan: Plan | None = None
        self._fields: dict[str, Field] = {}
        self._left: set[str] = set()  # fields that the person has left
        self._is_checked = False  # then every field counts as left
        self._is_filling = False
        self._is_finished = False  # the run that the fields show has ended
        # What is shown; where the way back leads.
        self._view = self._home = "guided" if guided else "basic"
        self._handles: list[Any] = []  # the outputs below, for the run and for how it ended
        preset = _OWN if config is not None or guided else _FIRST_PRESET
        self._config = config or (Config.preset(preset) if preset else Config())
        # Settings that no rule of the guided mode changes, and the model that a preset brought.
        self._kept = set(self._config.diff()) if preset == _OWN else set()
        self._model_of_preset = Config().model.model_name
        self._rows = [dataset.rows for dataset in self._config._datasets()]  # no tree holds them
        self._tree = self._config.to_dict()
        self._read_tree()
        self._build(preset)
        if guided:
            self._decide()
        self._show_view(self._view)
        self._show_state()

    def _build(self, preset: str) -> None:
        """Make what is always there. Containers cost messages, so the root's CSS lays it out."""
        self._kit = kit = Kit()
        self._preset = kit(
            ipywidgets.Dropdown,
            "nbft-preset",
            description="Preset",
            options=[
                *((title, name) for name, title in presets().items()),
                ("Open a file…", _OPEN),
                ("Own settings", _OWN),
            ],
            value=preset,
        )
        self._mode = kit(
            ipywidgets.RadioButtons,
            "nbft-mode",
            description="Show",
            options=[(name, view) for view, name in _MODES.items()],
            value=self._view,
        )
        self._search = kit(
            ipywidgets.Text,
            "nbft-search",
            description="Find a setting",
            placeholder="warm-up, batch, lr …",
        )
        head = f"<style>{_CSS.read_text(encoding='utf-8')}</style><h2>Fine-tune a model</h2>"
        self._page = kit(ipywidgets.VBox, "nbft-page")
        self._side = kit(ipywidgets.HTML, "nbft-side", value=summary(None))
        self._buttons = {
            name: self._button(name, css, action)
            for name, css, action in (
                ("Check", "nbft-push", self._check),
                ("Look at the data", "nbft-push", self._look),
                ("Train here", "nbft-push nbft-primary", self._train),
                ("Run in background", "nbft-push", self._submit),
            )
        }
        self._changed_button = self._button("", "nbft-link nbft-changes", self._toggle_changed)
        self._reset_button = self._button("Reset all", "nbft-link", self._reset_all)
        self._state = kit(ipywidgets.HTML, "nbft-state")
        self._top = (
            kit(ipywidgets.HTML, "nbft-head", value=head),
            *(self._preset, self._mode, self._search, self._page, self._side),
            *self._buttons.values(),
            *(self._changed_button, self._reset_button),
        )
        self.widget = kit(ipywidgets.Box, "nbft-form", children=(*self._top, self._state))
        self._preset.observe(self._take_preset, "value")
        self._mode.observe(self._take_mode, "value")
        self._search.observe(self._take_search, "value")

    def _button(self, name: str, css: str, action: Callable[..., None]) -> Any:
        button = self._kit(ipywidgets.Button, css, description=name)
        button.on_click(action)
        return button

    # The parts below are rarely wanted, so they are made when they are.

    @functools.cached_property
    def _tabs(self) -> Any:
        pages = tuple(self._kit(ipywidgets.VBox) for _ in TABS)
        tabs = self._kit(ipywidgets.Tab, children=pages, titles=tuple(TABS), selected_index=0)
        tabs.observe(self._open_tab, "selected_index")
        return tabs

    @functools.cached_property
    def _yaml(self) -> YamlView:
        return YamlView(self._kit, self._apply_yaml)

    @functools.cached_property
    def _python(self) -> PythonView:
        return PythonView(self._kit)

    @functools.cached_property
    def _guide(self) -> Guide:
        from nbft.widgets.guided import Guide

        return Guide()

    @functools.cached_property
    def _guided(self) -> GuidedView:
        from nbft.widgets.guided import GuidedView

        return GuidedView(self._kit, self._field, self._go_to_step, self._use_rule)

    @functools.cached_property
    def _focus(self) -> Focus:
        return Focus()

    @functools.cached_property
    def _results(self) -> Any:
        results = self._kit(ipywidgets.VBox, "nbft-results", children=(self._focus,))
        self.widget.children = (*self.widget.children, results)
        return results

    @functools.cached_property
    def _file(self) -> tuple[Any, Any]:
        path = self._kit(
            ipywidgets.Text, "nbft-control", description="File", placeholder="config.yaml"
        )
        return path, self._button("Open", "nbft-push", self._open_file)

    @functools.cached_property
    def _extra_buttons(self) -> dict[str, Any]:
        return {
            "Edit a copy": self._button("Edit a copy", "nbft-push", self._edit_copy),
            "Compare": self._button("Compare", "nbft-push", self._compare),
        }

    # What Python sees

    @property
    def config(self) -> Config:
        """The settings as a config.

        Raises:
            ConfigError: Some fields are wrong; it holds every problem found.
        """
        if self._wrong:
            raise ConfigError(self._wrong)
        return self._config

    @property
    def problems(self) -> list[Problem]:
        """Everything wrong or doubtful: of the fields, or, when they are right, of the plan."""
        return [*self._wrong] if self._wrong else [*self.plan.problems]

    @property
    def plan(self) -> Plan:
        """What the last settings that were right will lead to."""
        if self._plan is None:
            from nbft.plan import make_plan

            self._plan = make_plan(self._config)
        return self._plan

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(self.widget)
        # A callback has no cell to show things in; what the run shows goes through these.
        self._handles = [display(HTML(""), display_id=True) for _ in range(2)]
        main_loop()
        self._prepare_spare()
        self._show_plan()

    def _prepare_spare(self) -> None:
        """Let a worker import its libraries while the form is filled in."""
        if self._config.speed.spare_worker:
            from nbft.launchers import spare

            spare.prepare()

    # The tree, and what follows from it

    def _read_tree(self) -> None:
        config, self._wrong = self._parse()
        if not self._wrong:
            self._config, self._plan = config, None

    def _parse(self) -> tuple[Config, list[Problem]]:
        config, wrong = Config.parse(self._tree)
        for dataset, rows in zip(config._datasets(), self._rows, strict=False):
            dataset.rows = rows
        return config, wrong

    def _put(self, changes: dict[str, Any]) -> None:
        """Put values into the tree; a default leaves it, and so does a dataset of defaults."""
        is_in_memory = any(rows is not None for rows in self._rows)
        default = {setting.path: setting.default for setting in settings()}
        for path, value in changes.items():
            known = io.without_indices(path)
            if known in default and default[known] == value:
                _take_out(self._tree, io.parts(path), keeps_items=is_in_memory)
            else:
                io.put(self._tree, path, value)

    @_guarded
    def _take(self, path: str, value: Any) -> None:
        """A person has left a field."""
        self._left.add(path)
        self._kept.add(path)
        self._put({path: value})
        self._follow()

    @_guarded
    def _apply_fix(self, path: str, changes: dict[str, Any]) -> None:
        self._left |= changes.keys()
        self._kept |= changes.keys()
        self._put(changes)
        self._fill_fields(changes)
        self._follow()
        if path in self._fields:
            self._fields[path].control.focus()

    def _replace(self, config: Config, preset: str = _OWN, *, keeps_rows: bool = False) -> None:
        """Show another config, with the rows in memory of the one before if it is to keep them."""
        self._rows = self._rows if keeps_rows else []
        self._tree = config.to_dict()
        self._left, self._is_checked = set(), False
        self._kept = set(config.diff()) if preset == _OWN else set()
        self._fill_fields(self._fields)
        if self._view == "guided" and preset != _OWN:
            self._read_tree()
            self._kept |= self._guide.accept(self._config_so_far())
        self._follow(preset)

    def _follow(self, preset: str = _OWN) -> None:
        """Bring everything on the screen in line with the tree; what is near the person first."""
        self._is_finished = False
        self._read_tree()
        followed = self._decide() if self._view == "guided" else {}
        self._show_fields()
        self._fill(self._preset, preset)
        self._show_plan()
        if self._view in ("yaml", "python"):
            self._show_text()
        elif self._view == "guided":
            self._show_step(followed)
        elif self._view == "advanced" and self._tabs.selected_index == list(TABS).index("Review"):
            self._fill_review()

    def _fill_fields(self, paths: Any) -> None:
        values = io.flatten(self._tree)
        for path in paths:
            if path in self._fields:
                field = self._fields[path]
                field.show(self._value(path, field.setting, values))

    def _value(self, path: str, setting: Setting, values: dict[str, Any]) -> Any:
        if setting.type is dict:
            inner = {p[len(path) + 1 :]: v for p, v in values.items() if p.startswith(f"{path}.")}
            return inner or values.get(path, setting.default)
        return values.get(path, setting.default)

    def _show_fields(self) -> None:
        """Mark what is changed and wrong. Nothing is wrong yet where the person has not been."""
        changed = self._changes()
        by_path: dict[str, list[Problem]] = {}
        for problem in self._known_problems():
            by_path.setdefault(self._path_of(problem) or "", []).append(problem)
        for path, field in self._fields.items():
            is_seen = self._is_checked or path in self._left
            field.show_problems(by_path.get(path, ()) if is_seen else ())
            field.show_changed(path in changed)
        self._changed_button.description = f"Changed from the default: {len(changed)}, " + (
            "hide" if self._view == "changed" else "show"
        )

    def _known_problems(self) -> Sequence[Problem]:
        """The problems that are known without making the plan anew."""
        return self._wrong or (self._plan.problems if self._plan else ())

    def _changes(self) -> dict[str, Any]:
        """What differs from the defaults, as {path: value}; wrong values too."""
        changed = {path: new for path, (_, new) in self._config.diff().items()}
        changed |= {p.field: p.value for p in self._wrong}
        return {path: value for path, value in changed.items() if value not in ([], {})}

    def _path_of(self, problem: Problem) -> str | None:
        """Return the field that a problem belongs to: itself, or the first one inside."""
        paths = [path for path, _ in _all_fields()]
        if problem.field in paths:
            return problem.field
        inside = (path for path in paths if path.startswith(f"{problem.field}"))
        return next(inside, None)

    def _show_plan(self) -> None:
        """Work the plan out, if the fields are right, and show what it says."""
        if self._wrong:
            waiting = f"Waits for {count(len(self._wrong), 'field')} to be mended."
            self._side.value = summary(self._plan, waiting)
        else:
            self._side.value = summary(self.plan)
            self._show_fields()
        self._show_state()

    # What the form says about itself

    def _show_state(self) -> None:
        """Say the state in words, and let those buttons work that can."""
        errors = self._wrong or [p for p in self._known_problems() if p.level == "error"]
        is_training = self.run is not None and not self.run.is_over
        has_rows = bool(self._config.data.train.datasets)
        self._buttons["Check"].disabled = self._is_locked
        self._buttons["Look at the data"].disabled = bool(self._wrong) or not has_rows
        for name in ("Train here", "Run in background"):
            self._buttons[name].disabled = self._is_locked or is_training or bool(errors)
        self._buttons["Train here"].description = "Run again" if self._is_finished else "Train here"
        if self.run is not None and (self._is_locked or self._is_finished):
            self._show_run_state(self.run)
            return
        self._show_extra_buttons()
        if self._wrong:
            self._say(f"{_problems(errors)}. Train here waits until every field is right.", "wrong")
        elif not has_rows:
            self._say(
                "Empty: no rows are named yet. Give a path or a dataset name; then Look at the "
                "data and Train here work.",
                "empty",
            )
        elif errors:
            first = errors[0]
            self._say(
                f"{_problems(errors)}. {first.field}: {first.sentence} "
                "Train here waits; Check lists them all.",
                "wrong",
            )
        elif self._plan is None:
            self._say("Checking the settings…", "checking")
        else:
            waits = ""
            if is_training and self.run is not None:
                waits = f" Train here waits: run {self.run.id} is training."
            self._say(f"Ready: {_chosen(self._plan)}.{waits}", "ready")

    def _show_run_state(self, run: Run) -> None:
        if self._is_locked:
            self._show_extra_buttons("Edit a copy")
            self._say(f"Running: run {run.id}, shown below. The fields are locked.", "running")
            return
        self._show_extra_buttons("Compare")
        self._extra_buttons["Compare"].disabled = run.adapter is None
        why = "" if run.adapter else " Compare needs an adapter, and there is none."
        self._say(f"Finished: run {run.id} {run.status}.{why}", "finished")

    def _show_extra_buttons(self, *names: str) -> None:
        if not names and "_extra_buttons" not in self.__dict__:
            return
        extra = tuple(self._extra_buttons[name] for name in names)
        results = (self._results,) if "_results" in self.__dict__ else ()
        self.widget.children = (*self._top, *extra, self._state, *results)

    def _say(self, sentence: str, state: str) -> None:
        self._state.value = f'<p role="status" class="nbft-{state}">{escape(sentence)}</p>'

    def _say_too(self, sentence: str) -> None:
        """Say something beneath the state, until that changes."""
        self._state.value += f'<p role="status">{escape(sentence)}</p>'

    def _say_problems(self, problems: Sequence[str | Problem]) -> None:
        sentences = "<br>".join(escape(str(problem)) for problem in problems)
        self._state.value = f'<p role="alert" class="nbft-wrong">{sentences}</p>'

    def _show_results(self, *widgets: Any) -> None:
        """Show something below the form, in place of what was there."""
        self._results.children = (self._focus, *widgets)

    def _html(self, html: str, css: str = "") -> Any:
        return self._kit(ipywidgets.HTML, css, value=html)

    # Views

    def _show_view(self, view: str) -> None:
        self._view = view
        self._fill(self._mode, view if view in _MODES else None)
        if view == "guided":
            self._kept |= self._guide.accept(self._config_so_far())  # coming here changes nothing
            self._decide()
            self._show_step()
            page = [self._guided.widget]
        elif view == "basic":
            page = [self._field(path).widget for path, s in _all_fields() if _is_basic(path, s)]
        elif view == "advanced":
            page = [self._tabs]
            self._open_tab()
        elif view in ("yaml", "python"):
            page = [getattr(self, f"_{view}").widget]
            self._show_text()
        elif view == "search":
            page = self._found(self._search.value)
        elif view == "changed":
            page = self._changed_page()
        else:
            page = list(self._file)
        self._page.children = tuple(page)
        self._show_fields()

    # The guided mode

    def _decide(self) -> dict[str, Any]:
        """Set what the rules of the seven steps decide; return what changed by it."""
        followed: dict[str, Any] = {}
        for _ in range(_ROUNDS):
            changes = self._guide.decide(self._config_so_far(), self._kept)
            if not changes:
                break
            followed |= changes
            self._put(changes)
            self._fill_fields(changes)
            self._read_tree()
        return followed

    def _show_step(self, followed: dict[str, Any] | None = None) -> None:
        """Show the step that the guide stands at, and which settings followed the last answer."""
        from nbft.widgets.guided import news

        is_last = self._guide.number == len(self._guide.answers)
        more = [*self._problem_list(), *self._checklist()] if is_last else []
        if is_last and not self._wrong:
            more.append(self._html(f"<p>{_LAUNCH}</p>"))
        wrong = {problem.field for problem in self._wrong}
        self._guided.show(self._guide, wrong=wrong, news=news(followed or {}), more=more)

    @_guarded
    def _go_to_step(self, number: int, path: str = "") -> None:
        """Show another step, with the focus on a field of it or on its heading."""
        from nbft.widgets.guided import step_css

        self._guide.number = number
        self._show_step()
        self._show_fields()
        self._guided.focus.move(css_name(path) if path else step_css(number))

    @_guarded
    def _use_rule(self, question: Question) -> None:
        """Let the rule decide what was kept."""
        from nbft.plan.advice import settings_asked

        asked = settings_asked(question.path)
        if self._is_locked:
            self._say("The fields are locked while the run trains. Edit a copy first.", "wrong")
            return
        self._kept.difference_update(asked)
        self._left.difference_update(asked)
        self._follow()
        self._field(asked[0]).control.focus()

    def _field(self, path: str) -> Field:
        if path not in self._fields:
            setting = dict(_all_fields())[path]
            about = (self._kit, setting, path, self._take, self._apply_fix)
            is_file = setting.name == "path"
            field = FileField(self._config_so_far, *about) if is_file else Field(*about)
            field.show(self._value(path, setting, io.flatten(self._tree)))
            field.lock(self._is_locked)
            self._fields[path] = field
        return self._fields[path]

    def _config_so_far(self) -> Config:
        return self._parse()[0] if self._wrong else self._config

    def _fill(self, control: Any, value: Any) -> None:
        self._is_filling = True
        try:
            control.value = value
        finally:
            self._is_filling = False

    @_guarded
    def _take_mode(self, change: dict[str, Any]) -> None:
        if not self._is_filling and change["new"] is not None:
            self._fill(self._search, "")
            self._home = change["new"]
            self._show_view(self._home)

    @_guarded
    def _take_search(self, change: dict[str, Any]) -> None:
        if not self._is_filling:
            self._show_view("search" if change["new"].strip() else self._home)

    def _found(self, text: str) -> list[Any]:
        found = find(text)
        if not found:
            word = escape(text.strip())
            return [self._html(f"<p>No setting has “{word}” in its name or help.</p>", "nbft-note")]
        widgets = [self._field(path).widget for path in found[:_MOST_FOUND]]
        more = len(found) - len(widgets)
        if more:
            widgets.append(self._html(f"<p>{more} more. Type more letters.</p>"))
        return widgets

    @_guarded
    def _toggle_changed(self, _button: Any) -> None:
        self._fill(self._search, "")
        self._show_view(self._home if self._view == "changed" else "changed")

    def _changed_page(self) -> list[Any]:
        changed = self._changes()
        known = dict(_all_fields())
        fields = [self._field(path).widget for path in known if path in changed]
        others = "".join(
            f"<li>{escape(path)}: {escape(in_words(value))}</li>"
            for path, value in changed.items()
            if path not in known
        )
        if others:
            fields.append(self._html(f"<p>Changed too, in the YAML:</p><ul>{others}</ul>"))
        return fields or [self._html("<p>Every setting is at its default.</p>")]

    @_guarded
    def _reset_all(self, _button: Any) -> None:
        """Reset everything but the rows, which have no default."""
        kept = self._config.to_dict().get("data", {})
        data = {name: kept[name] for name in SPLITS if name in kept}
        self._replace(Config(data=data), keeps_rows=True)
        self._show_view(self._view)

    @_guarded
    def _open_tab(self, *_change: Any) -> None:
        index = self._tabs.selected_index or 0
        name, page = list(TABS)[index], self._tabs.children[index]
        if name == "Review":
            self._fill_review()
        elif not page.children:
            page.children = tuple(self._tab_page(TABS[name]))
            self._show_fields()

    def _tab_page(self, sections: Sequence[str]) -> Iterator[Any]:
        mine = [(path, s) for path, s in _all_fields() if s.section in sections]
        block = sections[0] if len(sections) == 1 else ""
        for path, setting in mine:
            if setting.level == "expert":
                continue
            here = path.rpartition(".")[0]
            if here != block:
                block = here
                yield self._html(f"<h3>{escape(_block_title(here))}</h3>")
            yield self._field(path).widget
        rare = [path for path, setting in mine if setting.level == "expert"]
        if rare:
            inside = self._kit(ipywidgets.VBox)

            def show(button: Any) -> None:
                button.description = f"{len(rare)} rarely needed settings"
                button.disabled = True
                inside.children = tuple(self._field(path).widget for path in rare)
                self._show_fields()

            words = f"Show {count(len(rare), 'rarely needed setting')}"
            yield self._button(words, "nbft-link nbft-rare", show)
            yield inside

    def _fill_review(self) -> None:
        page = self._tabs.children[list(TABS).index("Review")]
        rows = "".join(
            f"<tr><th scope='row'>{escape(path)}</th><td>{escape(in_words(new))}</td>"
            f"<td>{escape(in_words(old))}</td></tr>"
            for path, (old, new) in self._config.diff().items()
            if new not in ([], {})
        )
        head = "<tr><th scope='col'>setting</th><th scope='col'>now</th><th scope='col'>default</th></tr>"
        table = f"<table class='nbft-table'>{head}{rows}</table>"
        page.children = (
            *self._problem_list(),
            *self._checklist(),
            self._html(
                "<h3>Changed from the default</h3>" + (table if rows else "<p>Nothing.</p>")
            ),
            self._yaml.widget,
            self._python.widget,
        )
        self._show_text()

    def _checklist(self) -> Iterator[Any]:
        """Yield the list before a launch; it waits while fields are wrong."""
        if self._wrong:
            return
        from nbft.plan.checklist import checklist

        rows = "".join(
            f"<tr><td>{escape(item.state)}</td><th scope='row'>{escape(item.title)}</th>"
            f"<td>{escape(item.text)}</td></tr>"
            for item in checklist(self.plan)
        )
        head = "<tr><th scope='col'>state</th><th scope='col'>check</th><th scope='col'>found</th></tr>"
        yield self._html(
            f"<h3>Before the start</h3><table class='nbft-table nbft-checklist'>{head}{rows}</table>"
        )

    @_guarded
    def _show_text(self) -> None:
        if "_yaml" in self.__dict__:
            self._yaml.show(self._config)
        if "_python" in self.__dict__:
            self._python.show(self._config)

    def _apply_yaml(self, text: str) -> Sequence[str | Problem]:
        try:
            config = Config.from_yaml(text)
        except ConfigError as error:
            return error.problems
        self._yaml.write(text)
        self._replace(config)
        self._say("The YAML is applied: the fields show it now.", "ready")
        return ()

    @_guarded
    def _take_preset(self, change: dict[str, Any]) -> None:
        if self._is_filling or change["new"] == _OWN:
            return
        if change["new"] == _OPEN:
            self._show_view("file")
            return
        tree = io.preset(change["new"])
        mine = self._config.to_dict()
        keeps_rows = "train" not in tree.get("data", {})
        its_model, my_model = tree.get("model", {}).get("model_name"), self._config.model.model_name
        is_my_model = keeps_rows and self._has_own_model()
        if keeps_rows:  # it says how to train, not on what
            data = {k: v for k, v in mine.get("data", {}).items() if k in SPLITS}
            tree["data"] = {**tree.get("data", {}), **data}
            if is_my_model or its_model is None:
                tree["model"] = {**mine.get("model", {}), "model_name": my_model}
        if its_model and not is_my_model:
            self._model_of_preset = its_model
        self._replace(Config(**tree), change["new"], keeps_rows=keeps_rows)
        if is_my_model:
            self._left.add(_MODEL)
            self._kept.add(_MODEL)
        if self._view not in _MODES:
            self._show_view(self._home)
        if is_my_model and its_model not in (None, my_model):
            self._say_too(
                f"The model stays {my_model}, as you chose it; the recipe names {its_model}."
            )

    def _has_own_model(self) -> bool:
        """Whether a person chose the model, and not a preset."""
        usual = (self._model_of_preset, Config().model.model_name)
        return _MODEL in self._left or self._config.model.model_name not in usual

    @_guarded
    def _open_file(self, _button: Any) -> None:
        path = Path(self._file[0].value.strip()).expanduser()
        if is_theirs(path):
            self._open_theirs(path)
            return
        tree = io.read(path)
        config, problems = Config.parse(tree)
        if problems:  # its text is mended where it can be seen whole
            self._show_view("yaml")
            self._yaml.write(path.read_text(encoding="utf-8"), is_applied=False)
            self._yaml.show_problems(problems)
            self._say(f"{path.name}: {_problems(problems)}. Mend the YAML and apply it.", "wrong")
            return
        self._replace(config)
        self._show_view("guided" if self._home == "guided" else "basic")

    def _open_theirs(self, path: Path) -> None:
        """Show another system's file as settings, and below what became of each of its keys."""
        config, report = Config.import_file(path)
        self._show_results(self._html(report._repr_html_()))
        if report.functions and self._agreed_to != report.functions:
            self._agreed_to = report.functions
            names = ", ".join(report.functions)
            self._say(f"{path.name} runs code of yours: {names}. Open it again to agree.", "wrong")
            return
        self._replace(config)
        self._show_view("guided" if self._home == "guided" else "basic")

    # Checking, looking, training

    @_guarded
    def _check(self, _button: Any) -> None:
        self._is_checked = True
        self._say("Checking the settings, the data files and this machine…", "checking")
        self._read_tree()  # the files may have changed
        self._show_plan()
        self._show_fields()
        self._show_results(*self._problem_list(), *self._looked_at())

    @functools.cached_property
    def _findings(self) -> Findings:
        from nbft.widgets.doctor import Findings

        return Findings(kit=self._kit, on_mended=self._take_mended)

    def _looked_at(self) -> Iterator[Any]:
        """Let the doctor look at a sample of the rows, in the background."""
        if any(problem.level == "error" for problem in self.problems):
            return
        yield self._findings.widget
        model = self._config.model
        if main_loop() is None:
            self._findings.offer(self._config, "The rows have not been looked at yet.")
        elif find_local(model.model_name, model.model_revision) is None:
            self._findings.offer(
                self._config,
                f"{model.model_name} cuts the rows into tokens, and is not on this machine yet. "
                "Looking at the rows gets it.",
            )
        else:
            self._findings.check(self._config)

    @_guarded
    def _take_mended(self, config: Config, sentence: str) -> None:
        """Take over what mends the rows; what was typed meanwhile stays."""
        report = self._findings.report
        assert report is not None
        if self._is_locked:
            self._say("The fields are locked while the run trains. Edit a copy first.", "wrong")
            return
        self._rows = [dataset.rows for dataset in config._datasets()]
        changes = {path: new for path, (_, new) in config.diff(report.config).items()}
        self._apply_fix("", changes)
        self._check(None)
        self._say(sentence, "ready")

    def _problem_list(self) -> Iterator[Any]:
        """Every problem with a button that leads to its field; those that stop a run first."""
        problems = self.problems
        if not problems:
            yield self._html(
                "<h3>No problems</h3><p>In the settings, the data and this machine.</p>"
            )
        groups = {"error": "To mend before training", "warning": "Worth a look"}
        for level, title in groups.items():
            if any(problem.level == level for problem in problems):
                yield self._html(f"<h3>{title}</h3>")
            for problem in problems:
                if problem.level == level:
                    yield self._problem_row(problem)

    def _problem_row(self, problem: Problem) -> Any:
        path = self._path_of(problem)
        parts = []
        if path:
            button = self._button(problem.field, "nbft-link", lambda _: self._reveal(path))
            parts.append(button)
            text = problem.sentence
        else:
            text = str(problem)
        parts.append(self._html(f"<p>{escape(text)}</p>"))
        if problem.changes:
            changes = dict(problem.changes)

            def mend(_button: Any) -> None:
                self._apply_fix(path or "", changes)
                self._check(None)

            parts.append(self._button(fix_words(changes), "nbft-link nbft-fix", mend))
        return self._kit(ipywidgets.HBox, "nbft-row", children=tuple(parts))

    @_guarded
    def _reveal(self, path: str) -> None:
        """Open the page that shows a field, and move the focus there."""
        setting = dict(_all_fields())[path]
        self._fill(self._search, "")
        if self._view == "guided" and (step := self._guide.step_of(path)):
            self._go_to_step(step, path)
            return
        if self._view == "basic" and _is_basic(path, setting):
            pass
        elif setting.level == "expert":
            self._fill(self._search, path)
            self._show_view("search")
        else:
            tab = next(i for i, part in enumerate(TABS.values()) if setting.section in part)
            self._tabs.selected_index = tab
            self._show_view("advanced")
        self._focus.move(css_name(path))

    @_guarded
    def _look(self, _button: Any) -> None:
        from nbft.widgets.lens import Lens

        self._say("Reading the rows…", "checking")
        before, self._lens = self._lens, Lens(self.config)
        self._show_results(self._lens)
        if before is not None:
            before.close()  # it holds the rows
        self._show_state()

    @_guarded
    def _train(self, _button: Any) -> None:
        from nbft.launchers import start

        self._launch(start)

    @_guarded
    def _submit(self, _button: Any) -> None:
        from nbft.launchers import submit

        self._launch(submit)

    def _launch(self, launch: Callable[[Config], Run]) -> None:
        """Start a run, here or in the background, and show it beneath the form."""
        from nbft.widgets import Monitor

        for name in ("Train here", "Run in background"):
            self._buttons[name].disabled = True  # a second click finds it so
        self._say("Starting…", "checking")
        try:
            self.run = launch(self.config)
        except BaseException:
            self._show_state()
            raise
        self._is_finished = False
        self._lock(True)
        if self._handles:
            monitor = Monitor(self.run)
            monitor.on_run_again = self._take_over
            monitor.show(*self._handles)
        self._follow_run()

    @_guarded
    def _take_over(self, run: Run) -> None:
        """Follow the run that a fix beneath the form has started in the place of its own."""
        before, self.run = self.run, run
        if before is not None and self._is_finished:  # the fields show the run that failed
            changed = run.config.diff(before.config)
            self._apply_fix(
                "", {p: new for p, (_, new) in changed.items() if p not in _PLACE_OF_A_RUN}
            )
            self._lock(True)
        self._show_state()
        self._follow_run()

    def _follow_run(self) -> None:
        """Look, from the kernel's own loop, whether the run has ended."""
        loop = main_loop()
        if self.run is not None and self.run.is_over:
            self._is_finished = self._is_locked
            self._lock(False)
            self._prepare_spare()
        elif loop is not None:
            loop.call_later(_FOLLOW_SECONDS, self._follow_run)

    def _lock(self, is_locked: bool) -> None:
        self._is_locked = is_locked
        for field in self._fields.values():
            field.lock(is_locked)
        for control in (self._preset, self._reset_button):
            control.disabled = is_locked
        if "_yaml" in self.__dict__:
            self._yaml.apply_button.disabled = is_locked
        self._show_state()

    @_guarded
    def _edit_copy(self, _button: Any) -> None:
        self._lock(False)

    @_guarded
    def _compare(self, _button: Any) -> None:
        assert self.run is not None
        self._say("Comparing: the base model and yours answer the same prompts…", "checking")
        self._show_results(self._html(self.run.compare()._repr_html_()))
        self._show_state()


def find(text: str) -> list[str]:
    """Return the fields that have every word of a text in their name, alias or help.

    >>> find("warm")[0], find("lr")[0]
    ('scheduler.warmup_steps', 'training.learning_rate')
    """
    fields = {setting.path: path for path, setting in _all_fields()}
    among = [setting for _, setting in _all_fields()]
    labels = {setting.path: label(setting).replace(" ", "_") for setting in among}
    return [fields[setting.path] for setting in find_settings(text, among, labels)]


@functools.cache
def _all_fields() -> tuple[tuple[str, Setting], ...]:
    """Every setting that a form can show, with its path; of a list of blocks, the first."""
    return tuple((s.path.replace("[]", "[0]"), s) for s in settings() if s.type in _TYPES)


def _is_basic(path: str, setting: Setting) -> bool:
    return setting.level == "basic" and not path.startswith(("data.validation", "data.test"))


def _block_title(block: str) -> str:
    """Return a heading: "data.train.datasets[0]" is "Data, train"."""
    return ", ".join(block.removesuffix(".datasets[0]").split(".")).capitalize()


def _problems(problems: Sequence[Any]) -> str:
    return count(len(problems), "problem")


def _chosen(plan: Plan) -> str:
    parts = (plan.device, plan.dtype)
    return ", ".join(f"{part.value} ({part.reason})" for part in parts)


def _take_out(tree: Any, way: list[str | int], *, keeps_items: bool) -> None:
    """Take the value at the end of a way out of a tree, and the blocks that it leaves empty.

    An item of a list goes only if it is the last, and never if items are to be kept.
    """
    here, *rest = way
    inside = here < len(tree) if isinstance(here, int) else here in tree
    if not inside:
        return
    if rest:
        _take_out(tree[here], rest, keeps_items=keeps_items)
        is_kept = isinstance(here, int) and (keeps_items or here < len(tree) - 1)
        if is_kept or tree[here] not in ({}, []):
            return
    del tree[here]
