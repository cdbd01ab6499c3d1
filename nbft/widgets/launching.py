"""From the form to a run: the buttons that start one, its Monitor below, and what follows its end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbft.config import Config
from nbft.formatting import count, duration, shortened
from nbft.methods import method_of
from nbft.redaction import redact_text
from nbft.widgets.kernel import main_loop
from nbft.widgets.kit import Kit
from nbft.widgets.state_line import StateLine, guarded
from nbft.widgets.tree import Tree
from nbft.widgets.views import Page

if TYPE_CHECKING:
    from nbft.runs import Run

ABOUT = (
    "“Train here” below trains in this kernel. “Run in background” continues after the notebook is "
    "closed."
)
_PLACE_OF_A_RUN = ("training.run_name", "training.output_dir")
_FOLLOW_SECONDS = 0.5
_NAME_CHARS = 40


@dataclass
class Launching:
    """The run of a form.

    Attributes:
        apply_fix: Called with "" and the changes of another run.
        on_lock: Called with whether the fields are locked.
        show_state: Updates the state of the form.
        show_results: Shows a page below the form.
        run: The run that was started last, or None.
        is_locked: Whether the fields show a run that is training.
        is_finished: Whether the fields show a run that has ended.
        handles: The outputs below the form, for the run, its result and its export.
        buttons: Those that start a run.
    """

    kit: Kit
    tree: Tree
    line: StateLine
    apply_fix: Callable[[str, dict[str, Any]], None]
    on_lock: Callable[[bool], None]
    show_state: Callable[[], None]
    show_results: Callable[[Page], None]

    def __post_init__(self) -> None:
        self._is_closed = False
        self.run: Run | None = None
        self.is_locked = self.is_finished = False
        self.handles: list[Any] = []
        self._has_compared = False
        train, submit = (functools.partial(self._launch, name) for name in ("start", "submit"))
        self.buttons = {
            "Train here": self.kit.button("Train here", train, "nbft-push nbft-primary"),
            "Run in background": self.kit.button("Run in background", submit, "nbft-push"),
        }

    @functools.cached_property
    def _edit(self) -> Any:
        return self.kit.button("Edit a copy", self._edit_copy, "nbft-push")

    @functools.cached_property
    def _compare(self) -> Any:
        return self.kit.button("Compare", self._show_comparison, "nbft-push")

    @property
    def is_training(self) -> bool:
        """Whether the last run is still going."""
        return self.run is not None and not self.run.is_over

    @property
    def extra_buttons(self) -> tuple[Any, ...]:
        """The buttons for the run that the fields show."""
        if self.is_locked:
            return (self._edit,)
        return (self._compare,) if self.is_finished else ()

    def show(self, errors: int) -> bool:
        """Enable the buttons that can work, and show the state of the run if the fields show one.

        Args:
            errors: Number of problems that stop a run.

        Returns:
            Whether the state of the run was shown.
        """
        for button in self.buttons.values():
            button.disabled = self.is_locked or self.is_training or bool(errors)
        what = "Run again" if self.is_finished else "Train here"
        is_known = self.tree.known_plan is not None and not self.buttons["Train here"].disabled
        self.buttons["Train here"].description = what + (self._forecast() if is_known else "")
        run = self.run
        if run is None or not (self.is_locked or self.is_finished):
            return False
        if self.is_locked:
            self.line.say(f"Running: run {run.id}, shown below. The fields are locked.", "running")
            return True
        self._compare.disabled = run.adapter is None
        why = "" if run.adapter else " There is no adapter to compare."
        self.line.say(f"Finished: run {run.id} {run.status}.{why}", "finished")
        return True

    def _forecast(self) -> str:
        """Say what a run will do: ": 60 steps on alpaca, about 2 min"."""
        plan = self.tree.plan
        if plan.total_steps is None:
            return ""
        on = " + ".join(redact_text(one.called) for one in plan.config.data.train.datasets)
        time = f", about {duration(plan.seconds)}" if plan.seconds is not None else ""
        config = plan.config
        by = f" of {config.training.method.upper()}" if method_of(config).section else ""
        return f": {count(plan.total_steps, 'step')}{by} on {shortened(on, _NAME_CHARS)}{time}"

    def prepare(self, config: Config) -> None:
        """Start a worker that imports its libraries while the form is filled in."""
        if config.speed.spare_worker:
            from nbft.launchers import spare

            spare.prepare()

    def close(self) -> None:
        """Stop following the run, which goes on."""
        self._is_closed = True

    @guarded
    def _launch(self, name: str, _button: Any) -> None:
        """Start a run by a function of `nbft.launchers`, and show it below the form."""
        from nbft import launchers

        for button in self.buttons.values():
            button.disabled = True  # against a second click
        self.line.say("Starting…", "checking")
        try:
            run = getattr(launchers, name)(self.tree.right())
        except BaseException:
            self.show_state()
            raise
        self.show_run(run)

    def show_run(self, run: Run, *, is_locked: bool = True) -> None:
        """Follow a run, with its Monitor below.

        Args:
            run: The run, which may be over.
            is_locked: Whether the fields show it.
        """
        from nbft.widgets import Monitor

        self.run = run
        self.is_finished = False
        self.lock(is_locked)
        if self._has_compared:  # its table is the earlier run's
            self._has_compared = False
            self.show_results(lambda _: ())
        if self.handles:
            monitor = Monitor(run)
            monitor.on_run_again = self._take_over
            monitor.show(*self.handles)
        self.follow()

    @guarded
    def _take_over(self, run: Run) -> None:
        """Follow the run that a fix below the form has started instead of its own."""
        before, self.run = self.run, run
        if before is not None and self.is_finished:  # the fields show the run that failed
            changed = run.config.diff(before.config)
            self.apply_fix(
                "", {p: new for p, (_, new) in changed.items() if p not in _PLACE_OF_A_RUN}
            )
            self.lock(True)
        self.show_state()
        self.follow()

    def follow(self) -> None:
        """Check regularly, from the kernel's own loop, whether the run has ended."""
        loop = main_loop()
        if self._is_closed:
            return
        if self.run is not None and self.run.is_over:
            self.is_finished = self.is_locked
            self.lock(False)
            self.prepare(self.tree.config)
        elif loop is not None:
            loop.call_later(_FOLLOW_SECONDS, self.follow)

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock the fields."""
        self.is_locked = is_locked
        self.on_lock(is_locked)
        self.show_state()

    @guarded
    def _edit_copy(self, _button: Any) -> None:
        self.lock(False)

    @guarded
    def _show_comparison(self, _button: Any) -> None:
        assert self.run is not None
        self.line.say("Comparing: the base model and yours answer the same prompts…", "checking")
        comparison = self.run.compare()
        self._has_compared = True
        self.show_results(lambda kit: [kit.html(comparison._repr_html_())])
        self.show_state()
