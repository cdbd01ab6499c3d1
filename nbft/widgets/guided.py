"""The form's guided mode: seven steps, each with its few fields and the reason for each value.

Steps, texts and rules are those of `nbft.plan.advice`, which `nbft config create` uses too. `Guide`
knows the current step and what the rules decide, without a widget; `GuidedView` shows a step with
the form's own fields; `GuidedMode` applies the rules to the form's tree. Next waits until the
settings of the step are valid and its data can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ipywidgets
from markupsafe import Markup

from nbft.config import Config, io, settings
from nbft.errors import Problem
from nbft.pages.environment import render
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
from nbft.widgets.checking import link_text
from nbft.widgets.fields import Field, css_name, in_words
from nbft.widgets.kit import Kit
from nbft.widgets.state_line import LOCKED, StateLine, guarded
from nbft.widgets.tree import Tree, fields, path_of
from nbft.widgets.views import TABS, Fields, Page

_HELD_OUT = "data.validation."
_ROWS = "data.train.datasets[0]"
_TEMPLATES = tuple(
    path
    for path, _ in fields()
    if path.startswith(f"{_ROWS}.") and path.endswith(("prompt_template", "completion_template"))
)
_ROUNDS = 3  # a rule may depend on what another changes

Origin = Literal["rule", "preset", "default", "you"]
"""Who has chosen a value."""


@dataclass(frozen=True)
class Answer:
    """The answer to a question of a step.

    Attributes:
        question: The question, with the value that the rule gives.
        value: The value in the config.
        is_kept: Whether the value stays even if the rule differs.
        origin: Who has chosen it.
    """

    question: Question
    value: Any
    is_kept: bool
    origin: Origin

    @property
    def is_by_rule(self) -> bool:
        """Whether the value is the rule's."""
        return bool(self.value == self.question.value)

    @property
    def offers_rule(self) -> bool:
        """Whether the rule's value is offered: to a person always, else where the value is unusual."""
        if self.is_by_rule or self.question.is_free:
            return False
        return self.origin == "you" or not self.question.suits(self.value)


class Guide:
    """The current one of the seven steps, and what the rules decide.

    Attributes:
        number: The current step, from 1.
        answers: The answers of each step.
    """

    def __init__(self) -> None:
        self.number = 1
        self.answers: tuple[tuple[Answer, ...], ...] = tuple(() for _ in STEPS)
        self._decided: set[str] = set()  # settings that a rule has set
        self._machines: dict[str, Machine] = {}

    def decide(
        self, config: Config, kept: Collection[str], of_preset: Mapping[str, Any] = {}
    ) -> dict[str, Any]:
        """Answer every question: by the config for kept settings, else by its rule.

        Args:
            config: The current settings.
            kept: Settings that no rule changes.
            of_preset: What a preset sets, without what a person has chosen since.

        Returns:
            The settings that this changes.
        """
        default = {setting.path: setting.default for setting in settings()}
        now = io.flatten(config.to_dict(full=True), default)
        self.answers = tuple(self._answers(config, lambda path: path in kept, of_preset))
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
            if path == "data":  # the held-out rows of a bundled sample go with it
                decided |= {one for one in now if one.startswith(_HELD_OUT)}
        for path in self._decided - decided - {*kept}:
            changes[path] = default[io.without_indices(path)]
        self._decided = decided
        usual = {path: now.get(path, default[io.without_indices(path)]) for path in changes}
        return {path: value for path, value in changes.items() if value != usual[path]}

    def accept(self, config: Config) -> set[str]:
        """Keep the settings as they are; return those that differ from the rules."""
        self._decided = set()
        return {
            path
            for answers in self._answers(config, lambda _: True, {})
            for answer in answers
            if not answer.is_by_rule
            for path in settings_asked(answer.question.path)
        }

    def step_of(self, path: str) -> int | None:
        """Return the number of the step that a setting belongs to."""
        for number, answers in enumerate(self.answers, 1):
            if any(path in settings_asked(answer.question.path) for answer in answers):
                return number
        section = path.split(".")[0]
        return next((n for n, part in enumerate(TABS.values(), 1) if section in part), None)

    def _answers(
        self, config: Config, is_kept: Callable[[str], bool], of_preset: Mapping[str, Any]
    ) -> Iterator[tuple[Answer, ...]]:
        answers = answers_of(config)
        changed = {path: new for path, (_, new) in config.diff().items()}
        still_preset = {path for path, value in of_preset.items() if changed.get(path) == value}
        device = config.compute.device
        if device not in self._machines:  # measured once: its free memory changes all the time
            self._machines[device] = this_machine(config)
        for step in STEPS:
            step_answers = []
            for question in step.questions(answers, self._machines[device]):
                path, asked = question.path, settings_asked(question.path)
                stays = any(map(is_kept, asked)) or answers.get(path) == IN_MEMORY
                if not stays:
                    answers[path] = question.value
                origin: Origin = "you" if stays else "rule"
                if still_preset.intersection(asked):
                    origin = "preset"
                elif stays and not changed.keys() & asked:
                    origin = "default"
                step_answers.append(Answer(question, answers.get(path), stays, origin))
            yield tuple(step_answers)


@dataclass
class GuidedMode:
    """The seven steps of a form.

    Attributes:
        last_page: What the last step shows below its fields.
        follow: Called when the tree has changed.
        mark: Called when other fields are shown.
        is_locked: Whether a run is training with these settings.
        guide: The current step.
    """

    kit: Kit
    tree: Tree
    fields: Fields
    line: StateLine
    last_page: Page
    follow: Callable[[], None]
    mark: Callable[[], None]
    is_locked: bool = False

    def __post_init__(self) -> None:
        self.guide = Guide()
        self._revealed: set[str] = set()
        self.view = GuidedView(self.kit, self.fields.make, self.turn, self.go_to, self.use_rule)

    def page(self) -> Sequence[Any]:
        """Return the step as a page of the form. Coming here changes no setting."""
        self.accept()
        self.decide()
        self.show()
        return [self.view.widget]

    def accept(self) -> None:
        """Keep the settings that differ from the rules."""
        self.tree.kept |= self.guide.accept(self.tree.so_far())

    def decide(self) -> dict[str, Any]:
        """Set what the rules decide; return what this changed."""
        followed: dict[str, Any] = {}
        for _ in range(_ROUNDS):
            left, of_preset = self.tree.left, self.tree.of_preset
            of_preset = {path: value for path, value in of_preset.items() if path not in left}
            changes = self.guide.decide(self.tree.so_far(), self.tree.kept, of_preset)
            if not changes:
                break
            followed |= changes
            self.tree.put(changes)
            self.fields.fill(changes)
            self.tree.read()
        return followed

    def show(self, followed: dict[str, Any] | None = None) -> None:
        """Show the step, and which settings have followed the last answer."""
        is_last = self.guide.number == len(self.guide.answers)
        problems, known = self._problems(), len(self.fields)
        self.view.show(
            self.guide,
            besides=self._besides(problems),
            wrong={*problems},
            news=news(followed or {}),
            more=self.last_page if is_last else None,
        )
        if len(self.fields) > known:
            self.mark()
        self.show_problems()

    def show_problems(self) -> None:
        """Let Next wait for the problems of the step."""
        problems = self._problems()
        self.view.wait([(path, link_text(each)) for path, each in problems.items()])

    def _problems(self) -> dict[str, Problem]:
        """Return the first error of each field of the step."""
        problems: dict[str, Problem] = {}
        for problem in self.tree.errors:
            path = path_of(problem)
            if path is not None and self.guide.step_of(path) == self.guide.number:
                problems.setdefault(path, problem)
        return problems

    def _besides(self, problems: Collection[str]) -> list[str]:
        """Return further fields of the step: templates in use, what is wrong, where a link led."""
        shown = {*problems, *self._revealed}
        shown |= {path for path, value in self.tree.values(_TEMPLATES).items() if value}
        return [path for path, _ in fields() if path in shown]

    @guarded
    def turn(self, number: int) -> None:
        """Go to the step before or after, but not on while this one lacks something."""
        problems = self._problems()  # pressing Next left a field, which may be wrong
        if number > self.guide.number and problems:
            self.view.focus.move(css_name(next(iter(problems))))
            return
        self._revealed.clear()
        self.go_to(number)

    @guarded
    def go_to(self, number: int, path: str = "") -> None:
        """Show another step, with the focus on a field of it or on its heading."""
        self.guide.number = number
        self._revealed |= {path} - {""}
        self.show()
        self.mark()
        self.view.focus.move(css_name(path) if path else step_css(number))

    def reveal(self, path: str) -> bool:
        """Show a field in its step; return whether it belongs to one."""
        step = self.guide.step_of(path)
        if step is not None:
            self.go_to(step, path)
        return step is not None

    @guarded
    def use_rule(self, question: Question) -> None:
        """Let the rule decide a setting that was kept."""
        if self.is_locked:
            self.line.say(LOCKED, "wrong")
            return
        asked = settings_asked(question.path)
        self.tree.kept.difference_update(asked)
        self.tree.left.difference_update(asked)
        self.follow()
        self.view.focus.move(css_name(asked[0]))


class GuidedView:
    """A step on the screen.

    Args:
        kit: Makes the widgets.
        field: Returns the form's field of a setting.
        on_step: Called with the number of the step that Back or Next leads to.
        on_link: Called with the number of the step and the field that Next waits for.
        on_use: Called with the question whose rule shall decide again.

    Attributes:
        widget: All of it, to be shown.
        focus: Moves the focus within it.
    """

    def __init__(
        self,
        kit: Kit,
        field: Callable[[str], Field],
        on_step: Callable[[int], None],
        on_link: Callable[[int, str], None],
        on_use: Callable[[Question], None],
    ) -> None:
        self._kit, self._field, self._on_link, self._on_use = kit, field, on_link, on_use
        self._number = 0
        self._paths: list[str] = []
        self._heads: dict[int, Any] = {}
        self._groups: dict[str, _Group] = {}
        self.focus = kit(Focus)
        self._news = kit.html("", "nbft-note")
        self._more = kit.slot()
        self.back = kit.button("", lambda _: on_step(self._number - 1), "nbft-push")
        self.next = kit.button("", lambda _: on_step(self._number + 1), "nbft-push nbft-next")
        self._waits: tuple[tuple[str, str], ...] = ()
        self._reasons = kit.slot("nbft-waits")
        self._buttons = kit.row(css="nbft-row nbft-turns")
        self.widget = kit(ipywidgets.VBox, "nbft-guided")

    def show(
        self,
        guide: Guide,
        *,
        besides: Sequence[str] = (),
        wrong: Collection[str] = (),
        news: str = "",
        more: Page | None = None,
    ) -> None:
        """Show the current step.

        Args:
            guide: The step, with the answers.
            besides: Settings that are shown without a question, if they belong to the step.
            wrong: Settings whose values are wrong.
            news: What the last answer changed elsewhere.
            more: The page below the fields.
        """
        answers = {answer.question.path: answer for answer in guide.answers[guide.number - 1]}
        if guide.number != self._number:
            self._number, self._paths = guide.number, []
            self._turn()
        # Fields stay until the next step: one that goes would take the focus with it.
        asked = {setting for path in (*answers, *self._paths) for setting in settings_asked(path)}
        others = [p for p in besides if p not in asked and guide.step_of(p) == self._number]
        self._paths += [path for path in (*answers, *others) if path not in self._paths]
        for path in self._paths:
            if path not in self._groups:
                fields = [self._field(setting).widget for setting in settings_asked(path)]
                self._groups[path] = _Group(self._kit, fields, self._on_use)
            is_wrong = any(setting in wrong for setting in settings_asked(path))
            self._groups[path].show(None if is_wrong else answers.get(path))
        self._news.value = Markup('<p role="status">{}</p>').format(news)
        self._more.show(more or (lambda _: ()))
        groups = (self._groups[path].widget for path in self._paths)
        after = (self._more,) if more else ()
        children = (self.focus, self._head(), *groups, *after, self._news, self._buttons)
        if self.widget.children != children:
            self.widget.children = children

    def wait(self, problems: Sequence[tuple[str, str]]) -> None:
        """Let Next wait for some fields; each has its path and what is wrong in words."""
        waits = tuple(problems) if self._number < len(STEPS) else ()
        self.next.disabled = bool(waits)
        if waits != self._waits:
            self._waits, number = waits, self._number

            def links(kit: Kit) -> Iterator[Any]:
                if waits:
                    yield kit.html('<p role="status">Next waits for:</p>')
                for path, text in waits:
                    yield kit.button(
                        text, lambda _, path=path: self._on_link(number, path), "nbft-link"
                    )

            self._reasons.show(links)
        self._lay_out_buttons()

    def _turn(self) -> None:
        """Label the buttons with the steps that they lead to."""
        before, after = STEPS[: self._number - 1], STEPS[self._number :]
        if before:
            self.back.description = f"Back: {before[-1].title}"
        if after:
            self.next.description = f"Next: {after[0].title}"
        self._lay_out_buttons()

    def _lay_out_buttons(self) -> None:
        before = [self.back] if self._number > 1 else []
        after = [self.next] if self._number < len(STEPS) else []
        children = (*before, *([self._reasons] if self._waits else []), *after)
        if self._buttons.children != children:
            self._buttons.children = children

    def _head(self) -> Any:
        """Return the list of steps with the current one marked, and its title and description.

        Each step has a widget of its own, so that the focus waits until it is displayed.
        """
        number = self._number
        if number not in self._heads:
            html = render("step", steps=STEPS, number=number)
            self._heads[number] = self._kit.html(html, step_css(number))
        return self._heads[number]


class _Group:
    """The fields of one question, and below them what was chosen and why."""

    def __init__(self, kit: Kit, fields: Sequence[Any], on_use: Callable[[Question], None]) -> None:
        self._why = kit.html("", "nbft-why")
        self._use = kit.button("", lambda _: on_use(self._question), "nbft-link nbft-use")
        self._question: Question
        self._always = (*fields, self._why)
        self.widget = kit(ipywidgets.VBox, "nbft-question", children=self._always)

    def show(self, answer: Answer | None) -> None:
        """Show how the question is answered; None when it is not asked, or wrong."""
        about = {"answer": answer, "shown": _shown, "in_memory": IN_MEMORY}
        self._why.value = "" if answer is None else render("why", **about)
        children = self._always
        if answer is not None and answer.offers_rule:
            self._question = answer.question
            self._use.description = f"Use {_shown(answer.question.value)} as recommended"
            children = (*children, self._use)
        if self.widget.children != children:
            self.widget.children = children


def step_css(number: int) -> str:
    """Return the CSS class of a step's head."""
    return f"nbft-step-{number}"


def news(changes: dict[str, Any]) -> str:
    """Return which settings followed an answer by their rules, as a sentence; empty if none did.

    >>> news({"peft.lora_alpha": 16, "training.learning_rate": 2e-5})
    'Updated to match: LoRA alpha is now 16, Learning rate is now 2e-5.'
    """
    by_path = {setting.path: setting for setting in settings()}
    updates = [
        f"{by_path[io.without_indices(path)].label} is now {in_words(value)}"
        for path, value in changes.items()
    ]
    return f"Updated to match: {', '.join(updates)}." if updates else ""


def _shown(value: Any) -> str:
    return "none" if value == [] else in_words(value)
