"""The form's guided mode: seven steps, each with its few fields and the rule behind each value.

Steps, words and rules are those of `nbft.plan.advice`, which `nbft config create` goes through
too. `Guide` knows where a person stands and what the rules decide, without a widget; `GuidedView`
shows a step with the form's own fields; `GuidedMode` lets the rules set the form's tree. Called by
the form.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets

from nbft.config import Config, io, settings
from nbft.plan.advice import (
    IN_MEMORY,
    STEPS,
    Machine,
    Question,
    answers_of,
    settings_asked,
    settings_of,
    this_machine,
)
from nbft.widgets.as_text import Focus
from nbft.widgets.fields import Field, css_name, in_words
from nbft.widgets.kit import Kit
from nbft.widgets.state_line import LOCKED, StateLine, guarded
from nbft.widgets.tree import Tree
from nbft.widgets.views import Fields, Page

_HELD_OUT = "data.validation."
_ROUNDS = 3  # what a rule changes may be what another depends on


@dataclass(frozen=True)
class Answer:
    """What a question of a step is answered with.

    Attributes:
        question: What is asked, with the value that the rule gives.
        value: What the config has.
        is_kept: Whether it stands whatever the rule says.
    """

    question: Question
    value: Any
    is_kept: bool

    @property
    def is_by_rule(self) -> bool:
        """Whether the value is the rule's."""
        return bool(self.value == self.question.value)


class Guide:
    """Where a person stands in the seven steps, and what the rules decide.

    Attributes:
        number: The step, from 1.
        answers: The answers of each step.
    """

    def __init__(self) -> None:
        self.number = 1
        self.answers: tuple[tuple[Answer, ...], ...] = tuple(() for _ in STEPS)
        self._decided: set[str] = set()  # settings that stand by a rule, or because of one
        self._machines: dict[str, Machine] = {}

    def decide(self, config: Config, kept: Collection[str]) -> dict[str, Any]:
        """Answer every question: as the config does where that is kept, else by its rule.

        Args:
            config: The settings as they are.
            kept: Settings that no rule changes.

        Returns:
            The settings that change by this.
        """
        default = {setting.path: setting.default for setting in settings()}
        now = io.flatten(config.to_dict(full=True), default)
        self.answers = tuple(self._answers(config, lambda path: path in kept))
        changes: dict[str, Any] = {}
        decided: set[str] = set()
        for answer in (answer for answers in self.answers for answer in answers):
            if answer.is_kept:
                continue
            path = answer.question.path
            asked = settings_asked(path)
            changes |= {one: default[io.without_indices(one)] for one in asked}
            changes |= settings_of(path, answer.question.value)
            decided |= {*asked}
            if path == "data":  # the rows that a bundled sample is measured with go when it goes
                decided |= {one for one in now if one.startswith(_HELD_OUT)}
        for path in self._decided - decided - {*kept}:
            changes[path] = default[io.without_indices(path)]
        self._decided = decided
        usual = {path: now.get(path, default[io.without_indices(path)]) for path in changes}
        return {path: value for path, value in changes.items() if value != usual[path]}

    def accept(self, config: Config) -> set[str]:
        """Take the settings as they are; return those that answer otherwise than the rules."""
        self._decided = set()
        answers = self._answers(config, lambda _: True)
        return {
            path
            for answer in (answer for step in answers for answer in step)
            if not answer.is_by_rule
            for path in settings_asked(answer.question.path)
        }

    def step_of(self, path: str) -> int | None:
        """Return the number of the step that asks for a setting."""
        for number, answers in enumerate(self.answers, 1):
            if any(path in settings_asked(answer.question.path) for answer in answers):
                return number
        return None

    def _answers(
        self, config: Config, is_kept: Callable[[str], bool]
    ) -> Iterator[tuple[Answer, ...]]:
        answers = answers_of(config)
        device = config.compute.device
        if device not in self._machines:  # looked at once: its free memory moves all the time
            self._machines[device] = this_machine(config)
        for step in STEPS:
            found = []
            for question in step.questions(answers, self._machines[device]):
                path = question.path
                stays = any(map(is_kept, settings_asked(path))) or answers.get(path) == IN_MEMORY
                if not stays:
                    answers[path] = question.value
                found.append(Answer(question, answers.get(path), stays))
            yield tuple(found)


class GuidedMode:
    """The seven steps of a form.

    Args:
        kit: Makes the widgets.
        tree: The settings, which the rules change.
        fields: The form's fields.
        line: Says what cannot be done.
        last_page: What the last step shows below its fields.
        follow: Called when the tree has changed.
        mark: Called when other fields are shown.

    Attributes:
        guide: Where the person stands.
        is_locked: Whether a run is training with these settings.
    """

    def __init__(
        self,
        kit: Kit,
        tree: Tree,
        fields: Fields,
        line: StateLine,
        *,
        last_page: Page,
        follow: Callable[[], None],
        mark: Callable[[], None],
    ) -> None:
        self._tree, self._fields, self.line = tree, fields, line
        self._last_page, self._follow, self._mark = last_page, follow, mark
        self.guide = Guide()
        self.is_locked = False
        self.view = GuidedView(kit, fields.make, self.go_to, self.use_rule)

    def page(self) -> Sequence[Any]:
        """Return the step as a page of the form. To come here changes no setting."""
        self.accept()
        self.decide()
        self.show()
        return [self.view.widget]

    def accept(self) -> None:
        """Keep the settings as they are, whatever the rules say."""
        self._tree.kept |= self.guide.accept(self._tree.so_far())

    def decide(self) -> dict[str, Any]:
        """Set what the rules decide; return what changed by it."""
        followed: dict[str, Any] = {}
        for _ in range(_ROUNDS):
            changes = self.guide.decide(self._tree.so_far(), self._tree.kept)
            if not changes:
                break
            followed |= changes
            self._tree.put(changes)
            self._fields.fill(changes)
            self._tree.read()
        return followed

    def show(self, followed: dict[str, Any] | None = None) -> None:
        """Show the step.

        Args:
            followed: Settings that have followed the last answer.
        """
        is_last = self.guide.number == len(self.guide.answers)
        self.view.show(
            self.guide,
            wrong={problem.field for problem in self._tree.wrong},
            news=news(followed or {}),
            more=self._last_page if is_last else None,
        )

    @guarded
    def go_to(self, number: int, path: str = "") -> None:
        """Show another step, with the focus on a field of it or on its heading."""
        self.guide.number = number
        self.show()
        self._mark()
        self.view.focus.move(css_name(path) if path else step_css(number))

    @guarded
    def use_rule(self, question: Question) -> None:
        """Let the rule decide what was kept."""
        if self.is_locked:
            self.line.say(LOCKED, "wrong")
            return
        asked = settings_asked(question.path)
        self._tree.kept.difference_update(asked)
        self._tree.left.difference_update(asked)
        self._follow()
        self._fields.make(asked[0]).control.focus()


class GuidedView:
    """A step on the screen.

    Args:
        kit: Makes the widgets.
        field: Called for the form's field of a setting.
        on_step: Called with the number of the step that Back or Next leads to.
        on_use: Called with the question whose rule is to decide again.

    Attributes:
        widget: All of it, to be shown.
        focus: Moves the focus within it.
    """

    def __init__(
        self,
        kit: Kit,
        field: Callable[[str], Field],
        on_step: Callable[[int], None],
        on_use: Callable[[Question], None],
    ) -> None:
        self._kit, self._field, self._on_use = kit, field, on_use
        self._number = 0
        self._paths: list[str] = []
        self._heads: dict[int, Any] = {}
        self._groups: dict[str, _Group] = {}
        self.focus = kit(Focus)
        self._news = kit.html("", "nbft-note")
        self._more = kit.slot()
        self.back = kit(ipywidgets.Button, "nbft-push")
        self.next = kit(ipywidgets.Button, "nbft-push nbft-next")
        self.back.on_click(lambda _: on_step(self._number - 1))
        self.next.on_click(lambda _: on_step(self._number + 1))
        self._buttons = kit(ipywidgets.HBox, "nbft-row nbft-turns")
        self.widget = kit(ipywidgets.VBox, "nbft-guided")

    def show(
        self,
        guide: Guide,
        *,
        wrong: Collection[str] = (),
        news: str = "",
        more: Page | None = None,
    ) -> None:
        """Show the step that a guide stands at.

        Args:
            guide: Where, with the answers.
            wrong: Settings whose values are wrong, which their fields say.
            news: What changed elsewhere by the last answer.
            more: What follows the fields.
        """
        answers = {answer.question.path: answer for answer in guide.answers[guide.number - 1]}
        if guide.number != self._number:
            self._number, self._paths = guide.number, []
            self._turn()
        # What is on the page stays there while the person is: a field that goes takes the focus.
        self._paths += [path for path in answers if path not in self._paths]
        for path in self._paths:
            if path not in self._groups:
                fields = [self._field(one).widget for one in settings_asked(path)]
                self._groups[path] = _Group(self._kit, fields, self._on_use)
            is_wrong = any(one in wrong for one in settings_asked(path))
            self._groups[path].show(None if is_wrong else answers.get(path))
        self._news.value = f'<p role="status">{escape(news)}</p>'
        self._more.show(more or (lambda _: ()))
        groups = (self._groups[path].widget for path in self._paths)
        after = (self._more,) if more else ()
        children = (self.focus, self._head(), *groups, *after, self._news, self._buttons)
        if self.widget.children != children:
            self.widget.children = children

    def _turn(self) -> None:
        """Let the buttons say where they lead."""
        before, after = self._number - 1, self._number + 1
        if before:
            self.back.description = f"Back: {STEPS[before - 1].title}"
        if after <= len(STEPS):
            self.next.description = f"Next: {STEPS[after - 1].title}"
        there = (before and self.back, after <= len(STEPS) and self.next)
        self._buttons.children = tuple(button for button in there if button)

    def _head(self) -> Any:
        """Return the way with the place on it, the step's name and what it is about.

        Each step has a widget of its own, so that the focus waits until it is there.
        """
        number = self._number
        if number not in self._heads:
            step = STEPS[number - 1]
            items = "".join(
                f"<li{' aria-current=step' if place == number else ''}>{escape(one.title)}</li>"
                for place, one in enumerate(STEPS, 1)
            )
            html = (
                f'<ol class="nbft-steps" aria-label="The steps">{items}</ol>'
                f'<h3 tabindex="-1">Step {number} of {len(STEPS)}: {escape(step.title)}</h3>'
                f"<p>{escape(step.about)}</p>"
            )
            self._heads[number] = self._kit.html(html, step_css(number))
        return self._heads[number]


class _Group:
    """The fields of one question, and beneath them what was chosen and why."""

    def __init__(self, kit: Kit, fields: Sequence[Any], on_use: Callable[[Question], None]) -> None:
        self._why = kit.html("", "nbft-why")
        self._use = kit(ipywidgets.Button, "nbft-link nbft-use")
        self._use.on_click(lambda _: on_use(self._question))
        self._question: Question
        self._always = (*fields, self._why)
        self.widget = kit(ipywidgets.VBox, "nbft-question", children=self._always)

    def show(self, answer: Answer | None) -> None:
        """Say how the question is answered; None when it is not asked, or wrong."""
        self._why.value = "" if answer is None else f"<p>{_why(answer)}</p>"
        children = self._always
        if answer is not None and not answer.is_by_rule and answer.question.path != "data":
            self._question = answer.question
            self._use.description = f"Use {_shown(answer.question.value)} as suggested"
            children = (*children, self._use)
        if self.widget.children != children:
            self.widget.children = children


def step_css(number: int) -> str:
    """Return the CSS class of a step's head.

    >>> step_css(3)
    'nbft-step-3'
    """
    return f"nbft-step-{number}"


def news(changes: dict[str, Any]) -> str:
    """Say which settings followed an answer by their rules; empty if none did.

    >>> news({"peft.lora_alpha": 16, "training.learning_rate": 2e-5})
    'Updated to match: LoRA alpha is now 16, Learning rate is now 2e-5.'
    """
    by_path = {setting.path: setting for setting in settings()}
    said = [
        f"{by_path[io.without_indices(path)].label} is now {in_words(value)}"
        for path, value in changes.items()
    ]
    return f"Updated to match: {', '.join(said)}." if said else ""


def _why(answer: Answer) -> str:
    """Say what was chosen and by which rule, as HTML."""
    question, value = answer.question, escape(_shown(answer.value))
    reason = escape(question.reason)
    if not answer.is_kept:
        return f"<b>Chosen: {value}.</b> {reason}"
    if answer.is_by_rule:
        return f"<b>Set to {value}</b>, as suggested. {reason}"
    if question.path == "data":  # nobody's own rows are worse than a sample
        return f"<b>Set to {value}.</b>" if value else "<b>No data yet.</b>"
    return f"<b>Set to {value}.</b> Suggested: {escape(_shown(question.value))}. {reason}"


def _shown(value: Any) -> str:
    return "none" if value == [] else in_words(value)
