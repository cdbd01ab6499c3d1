"""What Check shows: every problem with its fix, the list before a start, and the rows looked at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbft.config import Config
from nbft.errors import Problem
from nbft.models.find import find_local
from nbft.widgets.fields import fix_words
from nbft.widgets.kernel import main_loop
from nbft.widgets.kit import Kit
from nbft.widgets.state_line import LOCKED, StateLine, guarded
from nbft.widgets.tree import Tree, path_of

if TYPE_CHECKING:
    from nbft.widgets.doctor import Findings

_GROUPS = {"error": "Fix before training", "warning": "Worth a look"}


class Checking:
    """The checks of a form.

    Args:
        kit: Makes the widgets.
        tree: The settings.
        line: Says what became of a fix.
        reveal: Called with the path of the field that a problem belongs to.
        apply_fix: Called with that path, "" for none, and the changes of a fix.
        check_again: Called after a fix.
    """

    def __init__(
        self,
        kit: Kit,
        tree: Tree,
        line: StateLine,
        *,
        reveal: Callable[[str], None],
        apply_fix: Callable[[str, dict[str, Any]], None],
        check_again: Callable[[], None],
    ) -> None:
        self._kit, self._tree, self.line = kit, tree, line
        self._reveal, self._apply_fix, self._check_again = reveal, apply_fix, check_again
        self.is_locked = False

    @functools.cached_property
    def findings(self) -> Findings:
        """What the doctor finds in the rows."""
        from nbft.widgets.doctor import Findings

        return Findings(kit=self._kit, on_fixed=self._take_fixed)

    def problems(self, kit: Kit) -> Iterator[Any]:
        """Yield every problem with a button that leads to its field; those that stop a run first."""
        problems = self._tree.problems
        if not problems:
            yield kit.html("<h3>No problems</h3><p>In the settings, the data and this machine.</p>")
        for level, title in _GROUPS.items():
            if any(problem.level == level for problem in problems):
                yield kit.html(f"<h3>{title}</h3>")
            for problem in problems:
                if problem.level == level:
                    yield self._problem(kit, problem)

    def _problem(self, kit: Kit, problem: Problem) -> Any:
        path = path_of(problem)
        parts = []
        if path:
            link = kit(ipywidgets.Button, "nbft-link", description=problem.field)
            link.on_click(lambda _: self._reveal(path))
            parts.append(link)
        text = problem.sentence if path else str(problem)
        parts.append(kit.html(f"<p>{escape(text)}</p>"))
        if problem.changes:
            changes = dict(problem.changes)
            button = kit(ipywidgets.Button, "nbft-link nbft-fix", description=fix_words(changes))
            button.on_click(lambda _: (self._apply_fix(path or "", changes), self._check_again()))
            parts.append(button)
        return kit(ipywidgets.HBox, "nbft-row", children=tuple(parts))

    def checklist(self, kit: Kit) -> Iterator[Any]:
        """Yield the list before a start; it waits while fields are wrong."""
        if self._tree.wrong:
            return
        from nbft.plan.checklist import checklist

        rows = "".join(
            f"<tr><td>{escape(item.state)}</td><th scope='row'>{escape(item.title)}</th>"
            f"<td>{escape(item.text)}</td></tr>"
            for item in checklist(self._tree.plan)
        )
        head = "<tr><th scope='col'>state</th><th scope='col'>check</th><th scope='col'>result</th></tr>"
        yield kit.html(
            f"<h3>Before you start</h3><table class='nbft-table nbft-checklist'>{head}{rows}</table>"
        )

    def review(self, kit: Kit) -> Iterator[Any]:
        """Yield what is looked through before a start."""
        yield from self.problems(kit)
        yield from self.checklist(kit)

    def page(self, kit: Kit) -> Iterator[Any]:
        """Yield what Check shows: the problems, and a sample of the rows as the doctor sees them."""
        yield from self.problems(kit)
        if any(problem.level == "error" for problem in self._tree.problems):
            return
        yield self.findings.widget
        config = self._tree.config
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
        """Take over what fixes the rows; what was typed meanwhile stays."""
        report = self.findings.report
        assert report is not None
        if self.is_locked:
            self.line.say(LOCKED, "wrong")
            return
        self._tree.take_rows(config)
        self._apply_fix("", {path: new for path, (_, new) in config.diff(report.config).items()})
        self._check_again()
        self.line.say(sentence, "ready")

    def close(self) -> None:
        """Give up what is looked at in the background."""
        if "findings" in self.__dict__:
            self.findings.stop()
