"""The form: every setting as a field, the plan of the run beside them, and a button to start it.

Generated from `nbft.config.settings`. `Tree` holds the settings as typed and their problems, `Views`
the pages and fields, `GuidedMode` the seven steps, `Opening` presets and files, `Checking` the
problems and findings, `Launching` the run, `Keeping` what outlives the kernel. The form connects
them, and updates all of them after a change (`_follow`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbft.config import Config, io
from nbft.config.data import SPLITS
from nbft.config.problems import nearest
from nbft.data.looking import certain
from nbft.errors import ConfigError, Problem
from nbft.formatting import count, shortened
from nbft.methods import method_of
from nbft.pages.plan import summary
from nbft.redaction import restore
from nbft.widgets.checking import Checking, link_text
from nbft.widgets.fields import UNITS, css_name
from nbft.widgets.keeping import STILL, WITHOUT_WIDGETS, Keeping
from nbft.widgets.kernel import main_loop
from nbft.widgets.kit import Kit
from nbft.widgets.launching import ABOUT, Launching
from nbft.widgets.opening import OWN, Opening
from nbft.widgets.state_line import StateLine, guarded
from nbft.widgets.tree import NAMES_ROWS, OF_ROWS, Tree, path_of
from nbft.widgets.views import Fields, Page, Views

if TYPE_CHECKING:
    from nbft.plan import Plan
    from nbft.runs import Run
    from nbft.widgets.guided import GuidedMode
    from nbft.widgets.places import PlacesView
    from nbft.widgets.rewards import RewardEditor

_FIRST_PRESET = "two-minute-try"
_REPLACED = (
    "These rows replace those of the preset, with the settings that belonged to them. Without "
    "validation rows of your own, a part of the rows to train on is held out."
)
_MOST_LINKED = 3  # problems below the state
_LINK_CHARS = 300
_CSS = Path(__file__).parent / "form.css"


class Form:
    """A form for a fine-tuning run.

    Args:
        config: The initial settings; the preset "two-minute-try" if None.
        guided: Start with the guided mode, which leads through seven steps and suggests a value
            for each setting that the config does not set.

    Attributes:
        widget: The form itself, to be put into other widgets. Closing it closes the form.

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
        is_given = config is not None
        preset = OWN if is_given or guided else _FIRST_PRESET
        config = config or (Config.preset(preset) if preset else Config())
        self._tree = Tree(config)
        self._start_from(preset, config)
        self._build(preset, "guided" if guided else "basic")
        if guided:
            self._guided.decide()
        self._views.show(self._views.view)
        self._keeping.start(offers=not is_given)
        self._show_state()

    def _start_from(self, preset: str, config: Config) -> None:
        """Note what a person starts from, and which settings are their own already."""
        self._preset = preset
        self._tree.base = Config.preset(preset) if preset else Config()
        self._tree.kept = set() if preset else set(config.diff())

    def _build(self, preset: str, view: str) -> None:
        """Make the permanent widgets. Containers cost messages, so the root's CSS lays them out."""
        self._kit = kit = Kit()
        tree = self._tree
        self.line = StateLine(kit)
        self._fields = Fields(kit, tree, self._take, self._apply_fix, self._take_columns)
        self._checking = Checking(
            kit,
            tree,
            self.line,
            reveal=self._reveal,
            apply_fix=self._apply_fix,
            check_again=self._check,
            show_plan=self._show_checked,
        )
        self._opening = Opening(
            kit,
            tree,
            self.line,
            preset=preset,
            replace=self._replace,
            show_results=self._show_results,
            consent=self._checking.consent,
        )
        self._views = self._opening.views = Views(
            kit,
            tree,
            self._fields,
            self.line,
            view=view,
            pages={
                "guided": lambda _: self._guided.page(),
                "file": lambda _: self._opening.file,
                "runs": lambda kit: [*self._keeping.page(kit)],
            },
            review=self._checking.review,
            compute=self._compare_places,
            on_yaml=self._apply_yaml,
        )
        self._launching = Launching(
            kit,
            tree,
            self.line,
            apply_fix=self._apply_fix,
            on_lock=self._lock,
            show_state=self._show_state,
            show_results=self._show_results,
        )
        self._keeping = Keeping(
            kit,
            tree,
            self._fields,
            self.line,
            opening=self._opening,
            views=self._views,
            launching=self._launching,
            guide=lambda: self._guided.guide,
            follow=self._follow,
            on_kept=lambda: self.widget.add_class("nbft-kept"),
        )
        units = "".join(
            f".nbft-unit-{unit} > .nbft-control::after {{ content: '{unit}' }}" for unit in UNITS
        )
        css = _CSS.read_text(encoding="utf-8") + units
        head = f"<style>{css}</style><h2>Fine-tune a model</h2>"
        self._side = kit.html(summary(None), "nbft-side")
        self._check_button = kit.button("Check", self._check, "nbft-push")
        self._look_button = kit.button("Look at the data", self._look, "nbft-push")
        self._reset_button = kit.button("Reset all", self._reset_all)
        views = self._views
        self._top = (
            kit.html(head, "nbft-head"),
            *(self._opening.control, views.mode, views.search, views.page, self._side),
            *(self._check_button, self._look_button, *self._launching.buttons.values()),
            *(views.changed_button, self._reset_button),
        )
        self.widget = kit(ipywidgets.Box, "nbft-form", children=(*self._top, self.line.widget))
        self.widget.observe(self._take_closed, "comm")

    # These parts are not always needed, so they are made on first use.

    @functools.cached_property
    def _guided(self) -> GuidedMode:
        from nbft.widgets.guided import GuidedMode

        return GuidedMode(
            self._kit,
            self._tree,
            self._fields,
            self.line,
            last_page=self._last_page,
            follow=self._follow,
            mark=self._views.mark,
        )

    @functools.cached_property
    def _more_buttons(self) -> Any:
        return self._kit.row(css="nbft-more")

    @functools.cached_property
    def _results(self) -> Any:
        return self._kit.slot("nbft-results")

    @functools.cached_property
    def _rewards_button(self) -> Any:
        return self._kit.button("Rewards", self._open_rewards, "nbft-push")

    @functools.cached_property
    def _rewards(self) -> RewardEditor:
        from nbft.widgets.rewards import RewardEditor

        return RewardEditor(
            self._tree.right, self._take_rewards, refuses=self._checking.refuses, kit=self._kit
        )

    @functools.cached_property
    def _places(self) -> PlacesView:
        from nbft.widgets.places import PlacesView

        return PlacesView(self._kit, self._tree, self.line, functools.partial(self._apply_fix, ""))

    # What Python sees

    @property
    def config(self) -> Config:
        """The settings as a config.

        Raises:
            ConfigError: Some fields are wrong; it holds every problem.
        """
        return self._tree.right()

    @property
    def problems(self) -> list[Problem]:
        """Every error and warning: of the fields, or, when these are valid, of the plan."""
        return self._tree.problems

    @property
    def plan(self) -> Plan:
        """The plan of the last valid settings."""
        return self._tree.plan

    @property
    def run(self) -> Run | None:
        """The run that was started last, or None."""
        return self._launching.run

    @property
    def log(self) -> str:
        """The traceback of the last unexpected error."""
        return self.line.log

    def close(self) -> None:
        """Close the form with every widget of its own. A run that it started goes on."""
        self._keeping.close()
        self._launching.close()
        self._checking.close()
        self._kit.close()

    def _take_closed(self, change: dict[str, Any]) -> None:
        if change["new"] is None:
            self.close()

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(self.widget._repr_mimebundle_() | {"text/plain": WITHOUT_WIDGETS}, raw=True)
        display({"text/html": STILL, "text/plain": ""}, raw=True)
        # A callback has no cell for its output; the run is shown in these.
        view, exports, result = (display(HTML(""), display_id=True) for _ in range(3))
        self._launching.handles = [view, result, exports]
        main_loop()
        self._launching.prepare(self._tree.config)
        self._show_plan()

    # Changes

    @guarded
    def _take(self, path: str, value: Any) -> None:
        """A person has left a field."""
        self._leave_results(path)
        self._take_all({path: value})

    def _leave_results(self, path: str) -> None:
        """Remove the page below the form if it is of rows that a field replaces."""
        if path in NAMES_ROWS and "_results" in self.__dict__:
            self._show_results(lambda kit: ())

    def _take_all(
        self, changes: dict[str, Any], shown: Iterable[str] = (), *, are_same_rows: bool = False
    ) -> None:
        """Take what a person has chosen, and show it where no field was typed into."""
        replaced = self._tree.take(changes, are_same_rows=are_same_rows)
        found = self._find_roles(changes)
        self._fields.fill([*replaced, *found, *shown])
        self._follow()
        if NAMES_ROWS.keys() & replaced.keys():
            self.line.say_too(_REPLACED)

    def _find_roles(self, changes: Iterable[str]) -> list[str]:
        """Give the columns of newly named rows the roles that their names leave no doubt about."""
        found: list[str] = []
        for path in NAMES_ROWS.keys() & changes:
            self._tree.read()
            block, split = path.rpartition(".")[0], path.split(".")[1]
            data = self._tree.so_far().data
            given, train = data.splits().get(split), data.train.datasets
            like = train[0] if train and split != "train" else None
            settings = certain(given.datasets[0], split, like) if given and given.datasets else {}
            roles = {f"{block}.{name}": value for name, value in settings.items()}
            self._tree.put(roles)
            self._tree.kept -= roles.keys()
            found += roles
        return found

    @guarded
    def _take_rewards(self, rewards: list[dict[str, Any]]) -> None:
        """Take the rewards as a person has edited them."""
        self._take_all({"grpo.rewards": rewards})

    @guarded
    def _open_rewards(self, _button: Any = None) -> None:
        editor = self._rewards
        self._show_results(lambda kit: [editor.widget])

    @guarded
    def _take_columns(self, changes: dict[str, Any]) -> None:
        """Give columns the roles that a person has picked; other rows will have roles of their own."""
        changes = changes | self._alike(changes)
        self._tree.put(changes)
        self._tree.left |= changes.keys()
        self._fields.fill(changes)
        self._follow()

    def _alike(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Return the same changes for held-out rows that are read as those to train on."""
        before = self._tree.values(changes)
        also: dict[str, Any] = {}
        for split in ("validation", "test"):
            theirs = {path.replace("data.train.", f"data.{split}."): path for path in changes}
            block = self._tree.so_far().data.splits().get(split)
            if block and block.datasets and theirs.keys() != changes.keys():
                now = self._tree.values(theirs)
                if all(now[path] == before[ours] for path, ours in theirs.items()):
                    also |= {path: changes[ours] for path, ours in theirs.items()}
        return also

    @guarded
    def _apply_fix(self, path: str, changes: dict[str, Any]) -> None:
        self._leave_results(path)
        self._take_all(changes, shown=changes, are_same_rows=not path)
        if path in self._fields:
            self._views.focus.move(css_name(path))
            self._lay_out()

    def _apply_yaml(self, text: str) -> Sequence[str | Problem]:
        try:
            tree = io.parse_yaml(text, "the text")
            config = Config(**restore(tree, self._tree.config.to_dict()))
        except ConfigError as error:
            return error.problems
        self._views.yaml.write(text)
        self._replace(config)
        self.line.say("The YAML was applied to the fields.", "ready")
        return ()

    @guarded
    def _reset_all(self, _button: Any) -> None:
        """Reset everything to the preset or the defaults, except rows that the person has chosen."""
        tree, base = self._tree, self._tree.base.to_dict()
        own = {path for path in tree.kept if path.startswith(OF_ROWS)}
        if own or tree.in_memory or "train" not in base.get("data", {}):
            now = tree.config.to_dict().get("data", {})
            usual = {name: v for name, v in base.get("data", {}).items() if name not in SPLITS}
            base["data"] = usual | {name: now[name] for name in SPLITS if name in now}
        self._replace(Config(**base), self._preset, keeps_rows=True)
        if self._preset and own:
            tree.kept |= own
            tree.expect_rows()
            self._show_plan()
        self._views.show(self._views.view)
        kept = " except the rows" if own or tree.in_memory else ""
        where = "preset" if self._preset else "defaults"
        self.line.say_too(f"Everything{kept} is back to the {where}.")

    def _replace(self, config: Config, preset: str = OWN, *, keeps_rows: bool = False) -> None:
        """Show another config, with the earlier rows in memory if it keeps them."""
        if keeps_rows and self._tree.config.is_own:  # so are the rows that it keeps
            config.own()
        self._tree.replace(config, keeps_rows=keeps_rows)
        self._start_from(preset, config)
        self._fields.fill()
        if self._views.view == "guided" and preset != OWN:
            self._tree.read()
            self._guided.accept()
        self._follow(preset)

    def _follow(self, preset: str = OWN) -> None:
        """Update everything on the screen after a change; what is near the person first."""
        self._launching.is_finished = False
        self._tree.read()
        is_guided = self._views.view == "guided"
        followed = self._guided.decide() if is_guided else {}
        self._views.mark()
        self._opening.show(preset)
        self._show_plan()
        if is_guided:
            self._guided.show(followed)
        else:
            self._views.follow()
        if "_rewards" in self.__dict__ and not self._tree.wrong:
            self._rewards.show()
        if "_places" in self.__dict__:
            self._places.follow()

    def _show_plan(self) -> None:
        """Make the plan, if the fields are valid, and show it."""
        suits = self._tree.suit_rows()
        if suits:
            self._fields.fill()
        if wrong := len(self._tree.wrong):
            verb = "needs" if wrong == 1 else "need"
            waiting = f"{count(wrong, 'field')} {verb} fixing."
            self._side.value = summary(self._tree.known_plan, waiting)
        else:
            self._side.value = summary(self._tree.plan)
            self._views.mark()
        self._show_state()
        if self._views.view == "guided":  # there the epochs have their reason beside them
            suits.pop("training.num_train_epochs", None)
        if suits:
            self.line.say_too(" ".join(suits.values()))

    def _lock(self, is_locked: bool) -> None:
        self._checking.is_locked = is_locked
        if "_guided" in self.__dict__:
            self._guided.is_locked = is_locked
        if "_places" in self.__dict__:
            self._places.lock(is_locked)
        self._views.lock(is_locked)
        for control in (self._opening.control, self._reset_button):
            control.disabled = is_locked

    # The state of the form

    def _show_state(self) -> None:
        """Show the state in words, and enable the buttons that can work."""
        self._keeping.later()
        tree, launching = self._tree, self._launching
        errors = tree.errors
        has_rows = bool(tree.config.data.train.datasets)
        self._check_button.disabled = launching.is_locked
        self._look_button.disabled = bool(tree.wrong) or not has_rows
        is_run_shown = launching.show(len(errors))
        problems = [] if is_run_shown else [*(errors or tree.known_problems)]
        self.line.link([*map(_linked, problems[:_MOST_LINKED])], self._reveal)
        self._lay_out()
        if self._views.view == "guided":
            self._guided.show_problems()
        if is_run_shown:
            return
        more = " Press Check to see them all." if len(problems) > _MOST_LINKED else ""
        if tree.wrong:
            said = f"{count(len(errors), 'problem')}. Training can start when every field is valid."
            self.line.say(said + more, "wrong")
        elif not has_rows:
            self.line.link([("data.train.datasets[0].path", "Choose a data file")], self._reveal)
            self._lay_out()
            self.line.say(
                "No data yet. Choose a data file or a dataset to look at the data and to train.",
                "empty",
            )
        elif errors:
            self.line.say(f"{count(len(errors), 'problem')} to fix before training.{more}", "wrong")
        elif tree.known_plan is None:
            self.line.say("Checking the settings…", "checking")
        else:
            run, plan = launching.run, tree.known_plan
            waits = ""
            if run is not None and launching.is_training:
                waits = f" Train here waits: run {run.id} is training."
            chosen = ", ".join(f"{c.value} ({c.reason})" for c in (plan.device, plan.dtype))
            doubts = f", {count(len(problems), 'warning')}" if problems else ""
            self.line.say(f"Ready{doubts}: {chosen}.{plan.cautions}{waits}{more}", "ready")

    def _lay_out(self) -> None:
        """Place the buttons for a run and the results.

        A front end makes a view anew, and loses what is being typed in it, when one before it comes
        or goes. So what comes and goes does so within a box that stays, or at the end.
        """
        offer = self._keeping.show_offer()
        generates = method_of(self._tree.config).generates
        rewards = (self._rewards_button,) if generates else ()
        buttons = (*rewards, *self._launching.extra_buttons)
        more: tuple[Any, ...] = ()
        if buttons or vars(self).keys() & {"_more_buttons", "_results"}:
            self._more_buttons.children = buttons
            more = (self._more_buttons,)
        below = self.line.widgets[1:]
        if "_results" in vars(self):
            below = (self.line.links, self._results)
        leads = below or "focus" in vars(self._views)  # to fields, or has led there
        focus = (self._views.focus,) if leads else ()
        top = (*self._top[:2], *offer, *self._top[2:])
        self.widget.children = (*top, *more, self.line.widget, *below, *focus)

    def _show_results(self, page: Page) -> None:
        """Replace the page below the form."""
        self._results.show(page)
        self._lay_out()

    @guarded
    def _check(self, _button: Any = None) -> None:
        self._tree.is_checked = True
        self.line.say("Checking the settings, the data files and this machine…", "checking")
        self._tree.read()  # the files may have changed
        self._show_plan()
        self._views.mark()
        self._show_results(self._checking.page)

    def _show_checked(self) -> None:
        self._show_plan()
        self._show_results(self._checking.page)

    def _last_page(self, kit: Kit) -> Any:
        """Yield the page of the last guided step."""
        yield from self._checking.review(kit)
        if not self._tree.wrong:
            yield kit.html(f"<p>{ABOUT}</p>")

    def _compare_places(self, _kit: Kit) -> Iterable[Any]:
        """Return the head of the tab Compute, which is filled once it is shown."""
        self._places.lock(self._launching.is_locked)
        self._places.compare()
        return [self._places.widget]

    @guarded
    def _reveal(self, path: str) -> None:
        """Open the page that shows a field, and move the focus there; Check for a problem without one."""
        if not path:
            self._check()
        elif path.startswith("grpo.rewards"):
            self._open_rewards()
        elif self._views.view != "guided" or not self._guided.reveal(path):
            self._views.reveal(path)

    @guarded
    def _look(self, _button: Any) -> None:
        from nbft.widgets.lens import Lens

        self.line.say("Reading the rows…", "checking")
        config = self._tree.right()
        self._show_results(lambda kit: [kit.own(Lens(config))])
        self._show_state()


def _linked(problem: Problem) -> tuple[str, str]:
    """Return the path of the field of a problem, and the problem as the text of a button."""
    return path_of(problem) or "", shortened(link_text(problem), _LINK_CHARS)
