"""What Check shows: every problem with its fix, the checklist, and what the doctor finds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nbft import consent
from nbft.config import Config
from nbft.config.code import forbidden
from nbft.consent import Code
from nbft.errors import Problem
from nbft.models.find import find_local
from nbft.pages.environment import render
from nbft.widgets.background import Task
from nbft.widgets.fields import described, fix_words
from nbft.widgets.kernel import main_loop
from nbft.widgets.kit import Kit
from nbft.widgets.state_line import LOCKED, StateLine, guarded
from nbft.widgets.tree import Tree, fields, path_of

if TYPE_CHECKING:
    from nbft.plan import Plan
    from nbft.widgets.doctor import Findings

_GROUPS = {"error": "Fix before training", "warning": "Worth a look"}


_SIMULATE = "Run the training step without data or memory, and count what it would hold."

_PICK = "Pick the columns of your file: which is the prompt, and which the answer?"
_NO_ROWS = "Choose a data file or a dataset."


def link_text(problem: Problem) -> str:
    """Return what to do about a problem, as the text of a link to its field."""
    path = path_of(problem)
    if problem.field.endswith(".datasets"):
        return _NO_ROWS
    if problem.field.endswith("]") and problem.changes:  # the roles that its columns may have
        return _PICK
    if path is None:
        return str(problem)
    return f"{dict(fields())[path].label}: {described(problem)}"


@dataclass
class Checking:
    """The checks of a form.

    Attributes:
        reveal: Called with the path of the field that a problem belongs to.
        apply_fix: Called with that path, "" for none, and the changes of a fix.
        check_again: Called after a fix.
        show_plan: Called with a simulated plan in the tree.
        is_locked: Whether a run is training with these settings.
    """

    kit: Kit
    tree: Tree
    line: StateLine
    reveal: Callable[[str], None]
    apply_fix: Callable[[str, dict[str, Any]], None]
    check_again: Callable[[], None]
    show_plan: Callable[[], None]
    is_locked: bool = False

    @functools.cached_property
    def findings(self) -> Findings:
        """What the doctor finds in the rows."""
        from nbft.widgets.doctor import Findings

        return Findings(kit=self.kit, on_fixed=self._take_fixed, refuses=self.refuses)

    def refuses(self) -> bool:
        """Whether the settings are locked, which is then said."""
        if self.is_locked:
            self.line.say(LOCKED, "wrong")
        return self.is_locked

    def consent(self, kit: Kit) -> Iterator[Any]:
        """Yield the code that waits for consent, each with its text and a button."""
        for code in forbidden(self.tree.config):
            if not code.refusal:
                yield kit.html(render("code", code=code))
                allow = functools.partial(self._allow, code)
                yield kit.row(kit.button(f"Allow {code.name}", allow, "nbft-push"))

    @guarded
    def _allow(self, code: Code, _button: Any) -> None:
        consent.allow(code)
        self.check_again()

    def problems(self, kit: Kit) -> Iterator[Any]:
        """Yield every problem with a button that leads to its field; errors first."""
        yield from self.consent(kit)
        problems = self.tree.problems
        if not problems:
            yield kit.html("<h3>No problems</h3><p>In the settings and on this machine.</p>")
        for level, title in _GROUPS.items():
            group = [problem for problem in problems if problem.level == level]
            if group:
                yield kit.html(f"<h3>{title}</h3>")
            yield from (self._problem(kit, problem) for problem in group)

    def _problem(self, kit: Kit, problem: Problem) -> Any:
        path = path_of(problem)
        parts = []
        if path:
            parts.append(kit.button(problem.field, lambda _: self.reveal(path)))
        text = problem.sentence if path else str(problem)
        parts.append(kit.html(Markup("<p>{}</p>").format(text)))
        if changes := dict(problem.changes or {}):

            def fix(_button: Any) -> None:
                self.apply_fix(path or "", changes)
                self.check_again()

            parts.append(kit.button(fix_words(changes), fix, "nbft-link nbft-fix"))
        return kit.row(*parts)

    def checklist(self, kit: Kit) -> Iterator[Any]:
        """Yield the checklist before a start, unless fields are wrong."""
        if self.tree.wrong:
            return
        from nbft.plan.checklist import checklist

        rows = [(item.state, item.title, item.text) for item in checklist(self.tree.plan)]
        head = ("state", "check", "result")
        table = render("table", head=head, rows=rows, css="nbft-checklist", header=1)
        yield kit.html(f"<h3>Before you start</h3>{table}")

    def forecast(self, kit: Kit) -> Iterator[Any]:
        """Yield what the run takes, and a button that simulates its step, unless fields are wrong."""
        if self.tree.wrong:
            return
        from nbft.plan.largest import in_words

        plan = self.tree.plan
        sentences = [*plan.costs, *plan.assumptions, in_words(plan.largest)]
        if not any(sentences):
            return
        lines = Markup("<br>").join(filter(None, sentences))
        yield kit.html(Markup("<h3>What it takes</h3><p>{}</p>").format(lines))
        if plan.lengths_tokens and plan.memory_source == "formula":
            yield kit.row(kit.button("Simulate", self._simulate, "nbft-push", tooltip=_SIMULATE))

    @guarded
    def _simulate(self, button: Any) -> None:
        """Simulate the step in the background; what was planned for other settings is dropped."""
        plan = self.tree.plan
        button.disabled = True
        self.line.say_too("Simulating a training step: about 15 seconds.")

        def take(simulated: Plan) -> None:
            if self.tree.known_plan is plan:
                self.tree.take_plan(simulated)
                self.show_plan()

        def fail(error: Exception) -> None:
            button.disabled = False
            self.line.say_too(str(error))

        Task(plan.simulate, take, fail)

    def review(self, kit: Kit) -> Iterator[Any]:
        """Yield the problems, the checklist and the forecast."""
        yield from self.problems(kit)
        yield from self.checklist(kit)
        yield from self.forecast(kit)

    def page(self, kit: Kit) -> Iterator[Any]:
        """Yield what Check shows: the problems, and what the doctor finds in a sample of the rows."""
        yield from self.problems(kit)
        yield from self.forecast(kit)
        if any(problem.level == "error" for problem in self.tree.problems):
            return
        yield self.findings.widget
        config = self.tree.config
        model = config.model
        if main_loop() is None:
            self.findings.offer(config, "The rows have not been checked yet.")
        elif find_local(model.model_name, model.model_revision) is None:
            self.findings.offer(
                config,
                f"Checking the rows needs the tokenizer of {model.model_name}, which is not on "
                "this machine yet. It is downloaded first.",
            )
        else:
            self.findings.check(config)

    @guarded
    def _take_fixed(self, config: Config, sentence: str) -> None:
        """Take over a fix of the rows; what was typed meanwhile stays."""
        report = self.findings.report
        assert report is not None
        if self.refuses():
            return
        self.tree.take_rows(config)
        self.apply_fix("", {path: new for path, (_, new) in config.diff(report.config).items()})
        self.check_again()
        self.line.say(sentence, "ready")

    def close(self) -> None:
        """Stop the check in the background."""
        if "findings" in self.__dict__:
            self.findings.stop()
