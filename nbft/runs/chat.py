"""A conversation with two models side by side: `Run.chat` without its page.

Each side has its own answers as history. Answers are written one after the other, from as few copies
of the weights as `sides` finds. What a person prefers is appended to `preferences.jsonl` in the run's
folder, as pairs that `training.method=dpo` reads. The page is `nbft.widgets.chat`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from nbft.config.problems import nearest
from nbft.errors import ConfigError, DataError, Problem, RunError
from nbft.formatting import size
from nbft.models.templates import NAMES
from nbft.runs.ask import kept_models
from nbft.runs.folder import Run
from nbft.runs.ratings import PREFERENCES, Kept, Rated, counts, keep_pair, keep_tie, take_back
from nbft.runs.sides import (
    Copy,
    Side,
    check_answers,
    check_room,
    choose_sides,
    copies_for,
    is_for,
    needed_bytes,
)
from nbft.runs.wording import CHAT, ROWS, TEXT, Wording

Choice = Literal["left", "right", "tie"]

_PACE_SECONDS = 0.1


@dataclass(frozen=True)
class ChatSettings:
    """How messages are asked and answered.

    Attributes:
        template: chat (the model's chat template), rows (as a row of the run's dataset), text (as it
            is), or the name of a chat template such as chatml; as the run was trained if None.
        system: System turn; only with a chat template.
        temperature: 0 takes the most likely token; above, tokens are drawn.
        top_p: Draw from the most likely tokens with this share in all.
        max_new_tokens: Longest answer, in tokens.
        stop: Texts at which an answer ends; they are not part of it.
        is_blind: Whether the sides are shuffled and unnamed until they are rated.
    """

    template: str | None = None
    system: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    is_blind: bool = False

    def changed(self, changes: Mapping[str, Any]) -> ChatSettings:
        """Return these settings with some changed.

        Raises:
            TypeError: There is no such setting.
            ConfigError: A value is wrong.
        """
        known = [one.name for one in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise TypeError(f"chat has no {name!r}. {nearest(name, known)}")
        given = dict(changes)
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        if problems := list(_problems(given)):
            raise ConfigError(problems)
        if "stop" in given:
            given["stop"] = tuple(filter(None, given["stop"]))
        return dataclasses.replace(self, **given)


def _problems(given: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with settings of a chat."""
    for name, most in (("temperature", 10.0), ("top_p", 1.0)):
        if name not in given:
            continue
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, Real):
            yield Problem(name, value, f"is {type(value).__name__}, not a number.")
        elif not (0 if name == "temperature" else 1e-6) <= float(value) <= most:
            least = "not between 0 and" if name == "temperature" else "not above 0 and at most"
            yield Problem(name, value, f"is {least} {most:g}.")
    tokens = given.get("max_new_tokens", 1)
    if type(tokens) is not int or tokens < 1:
        yield Problem("max_new_tokens", tokens, "is not at least 1.", "Use 256.")
    template = given.get("template")
    if template is not None and template not in (CHAT, ROWS, TEXT, *NAMES):
        known = ", ".join((CHAT, ROWS, TEXT, *NAMES))
        yield Problem("template", template, f"is not one of {known}.")
    if not isinstance(given.get("system", ""), str):
        yield Problem("system", given["system"], "is no text.")
    stop = given.get("stop", ())
    if not isinstance(stop, (list, tuple)) or not all(isinstance(text, str) for text in stop):
        yield Problem("stop", stop, "is no list of texts.", 'Write ["\\n\\n"].')


@dataclass
class Reply:
    """The answer of one side.

    Attributes:
        side: The place of its side: 0 for left, 1 for right.
        title: What the side is called.
        text: The answer, as far as it is written.
        prompt: What the model read, as text.
        turns: The same as turns of a conversation, if a chat template wrote it.
        tokens: Tokens of the answer.
        seconds: Time from the first token to the last.
        end: Why it ended: end (the model's own), length, stop (a stop text), stopped (by a person);
            "" while it is written.
    """

    side: int
    title: str
    text: str = ""
    prompt: str = ""
    turns: list[dict[str, str]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    end: str = ""

    @property
    def rated(self) -> Rated:
        """What a rating keeps of it."""
        return Rated(self.title, self.text, self.prompt, self.turns)


@dataclass
class Turn:
    """A message and its answers.

    Attributes:
        message: What was asked.
        replies: The answers in the order in which they are shown; fewer while they are written.
        is_blind: Whether nobody has been told which is which.
        rating: Which is better as they are shown; "" before it is said.
        kept: Where the rating is kept.
    """

    message: str
    replies: list[Reply] = field(default_factory=list)
    is_blind: bool = False
    rating: Choice | Literal[""] = ""
    kept: Kept | None = None

    @property
    def is_answered(self) -> bool:
        """Whether both answers are there."""
        return len(self.replies) == 2 and all(reply.end for reply in self.replies)

    def reply_of(self, side: int) -> Reply | None:
        """Return the answer of a side."""
        return next((reply for reply in self.replies if reply.side == side), None)


class ChatSession:
    """A conversation with two models.

    Attributes:
        run: The run, whose folder keeps the ratings.
        sides: Everything that can be on a side.
        chosen: What is on the left and on the right.
        settings: How messages are asked and answered.
        turns: The conversation so far.

    Args:
        run: The run.
        checkpoint: Step of the checkpoint on the right; the finished run if None.
        against: What is on the left: the base model if None, another run, or a step of this one.
        **settings: Settings to begin with; see `ChatSettings`.

    Raises:
        RunError: The run has no adapter yet, or writes no answers.
        ConfigError: There is no such checkpoint, or a setting is wrong.
    """

    def __init__(
        self,
        run: Run,
        checkpoint: int | None = None,
        against: Run | str | Path | int | None = None,
        **settings: Any,
    ) -> None:
        self.run = run
        self.sides, left, right = choose_sides(run, checkpoint, against)
        self.chosen = (left, right)
        self.settings = ChatSettings().changed(settings)
        self.turns: list[Turn] = []
        self.wordings: tuple[Wording, ...] = ()
        self._stop = threading.Event()

    # Models

    @property
    def copies(self) -> list[Copy]:
        """The copies of weights that answer."""
        return copies_for(self.chosen)

    def choose(self, left: str, right: str) -> None:
        """Put others on the sides, by their titles, and begin a new conversation.

        Raises:
            ConfigError: There is no such side, or both are the same.
            RunError: It writes no answers.
        """
        known = {side.title: side for side in self.sides}
        for title in (left, right):
            if title not in known:
                why = f"is not one of {', '.join(known)}."
                raise ConfigError(Problem("side", title, why))
        if left == right:
            raise ConfigError(Problem("side", right, "is on both sides.", "Choose two."))
        for title in (left, right):
            check_answers(known[title])
        self.chosen = known[left], known[right]
        self.wordings = ()
        self.clear()

    def load(self) -> list[str]:
        """Load what answers, unless it is there already; return what to know, in sentences.

        Raises:
            RunError: There is no memory for it.
            ModelError: A model cannot be loaded.
        """
        said: list[str] = []
        with self._models(said) as models:
            self._find_words(models)
        return [*said, *filter(None, [self.wordings[1].remark])]

    def _find_words(self, models: Sequence[tuple[Copy, Any, Any]]) -> None:
        """Find out how messages can be asked.

        Raises:
            ConfigError: The template of the settings cannot be used.
        """
        if not self.wordings:
            of_run: dict[Path, Wording] = {}
            for side in self.chosen:
                if side.run.path not in of_run:
                    tokenizer = self._of(side, models)[2]
                    of_run[side.run.path] = Wording(side.run.config, tokenizer)
            self.wordings = tuple(of_run[side.run.path] for side in self.chosen)
        template = self.settings.template
        if template is not None and template not in self.ways:
            lacking = "the model has no chat template"
            if template == ROWS:
                lacking = "the rows of the run are no prompts with one text in them, or are gone"
            raise ConfigError(Problem("template", template, f"cannot be used: {lacking}."))

    @property
    def ways(self) -> dict[str, str]:
        """The templates that can be used, each with its title; {} before `load`."""
        return self.wordings[1].ways if self.wordings else {}

    @property
    def template(self) -> str:
        """The template that is used; "" before `load`."""
        if not self.wordings:
            return self.settings.template or ""
        return self.settings.template or self.wordings[1].usual

    @contextlib.contextmanager
    def _models(self, said: list[str] | None = None) -> Iterator[list[tuple[Copy, Any, Any]]]:
        """Yield each copy with its model and tokenizer; loads what is missing if there is room."""
        from nbft.models.load import quiet

        copies = self.copies
        by_wanted = [(copy.wanted, copy) for copy in copies]
        why = self._why_two(copies)
        said = [] if said is None else said

        def check(missing: Sequence[Any]) -> None:
            absent = [copy for wanted, copy in by_wanted if any(wanted is m for m in missing)]
            said.append(check_room(absent, why))

        with quiet(), kept_models([wanted for wanted, _ in by_wanted], check) as loaded:
            said[:] = [self._about(copies, why), *filter(None, said)]
            yield [(copy, *pair) for copy, pair in zip(copies, loaded, strict=True)]

    def _why_two(self, copies: Sequence[Copy]) -> str:
        if len(copies) < 2:
            return ""
        for side in self.chosen:
            if side.folder is not None and not side.is_adapter:
                return f"Two models are needed, as {side.title} has trained all weights."
        return "Two models are needed, as the sides cannot share their weights."

    @staticmethod
    def _about(copies: Sequence[Copy], why: str) -> str:
        parts = [needed_bytes(copy) for copy in copies]
        memory = "" if None in parts else f" (about {size(sum(part or 0 for part in parts))})"
        if why:
            return f"{why.removesuffix('.')}{memory}."
        return f"One copy of the weights answers for both sides{memory}."

    @staticmethod
    def _of(side: Side, models: Sequence[tuple[Copy, Any, Any]]) -> tuple[Copy, Any, Any]:
        return next(one for one in models if is_for(one[0], side))

    # Messages

    def ask(
        self, message: str, take: Callable[[Turn, Reply], None] = lambda _turn, _reply: None
    ) -> Turn:
        """Ask both sides, and wait for their answers.

        Args:
            message: What to ask.
            take: Called with an answer that is being written, at most ten times a second.

        Raises:
            DataError: The message is empty, or too long.
            RunError: There is no memory for the models.
        """
        if not message.strip():
            raise DataError(Problem("message", None, "is empty.", "Write what to ask."))
        turn = Turn(message, is_blind=self.settings.is_blind)
        return self._answer(turn, list(self.turns), take)

    def regenerate(self, take: Callable[[Turn, Reply], None] = lambda _turn, _reply: None) -> Turn:
        """Ask the last message again; arguments and errors as in `ask`.

        Raises:
            RunError: Nothing was asked yet.
        """
        if not self.turns:
            raise RunError("Nothing was asked yet.")
        turn = Turn(self.turns[-1].message, is_blind=self.settings.is_blind)
        return self._answer(turn, self.turns[:-1], take)

    def stop(self) -> None:
        """End the answer that is being written after its next token, from any thread.

        If none is written yet, the next one is not begun.
        """
        self._stop.set()

    def clear(self) -> None:
        """Begin a new conversation. Ratings stay in their file."""
        self.turns = []

    def _answer(self, turn: Turn, before: list[Turn], take: Callable[[Turn, Reply], None]) -> Turn:
        earlier = self.turns
        order = [0, 1]
        if turn.is_blind:
            random.shuffle(order)
        try:
            with self._models() as models:
                self._find_words(models)
                asked = [self._asked(side, turn.message, before, models) for side in (0, 1)]
                self.turns = [*before, turn]
                for side in order:
                    reply, ids = asked[side]
                    turn.replies.append(reply)
                    take(turn, reply)
                    if self._stop.is_set():
                        reply.end = "stopped"
                    else:
                        self._write(reply, ids, models, lambda reply: take(turn, reply))
                    take(turn, reply)
        except BaseException:
            self.turns = earlier
            raise
        finally:
            self._stop.clear()
        return turn

    def _asked(
        self,
        place: int,
        message: str,
        before: Sequence[Turn],
        models: Sequence[tuple[Copy, Any, Any]],
    ) -> tuple[Reply, list[int]]:
        """Return the empty reply of a side, and the tokens that it answers.

        Raises:
            DataError: They leave no room for an answer.
        """
        side, wording = self.chosen[place], self.wordings[place]
        history = [(turn.message, reply.text) for turn in before if (reply := turn.reply_of(place))]
        way = self.template if self.template in wording.ways else wording.usual
        ids, text, turns = wording.read(way, message, history, self.settings.system)
        room = getattr(self._of(side, models)[1].config, "max_position_embeddings", None)
        most = None if room is None else room - self.settings.max_new_tokens
        if most is not None and len(ids) > most:
            raise DataError(
                f"The conversation has {len(ids):,} tokens for {side.title}, which has room for "
                f"{max(most, 0):,} beside an answer of {self.settings.max_new_tokens:,}. Begin a new "
                "conversation, or use a smaller max_new_tokens."
            )
        return Reply(place, side.title, prompt=text, turns=turns), ids

    def _write(
        self,
        reply: Reply,
        ids: list[int],
        models: Sequence[tuple[Copy, Any, Any]],
        take: Callable[[Reply], None],
    ) -> None:
        """Write one answer into its reply."""
        from nbft.evaluate.generate import write

        settings, side = self.settings, self.chosen[reply.side]
        weights, model, tokenizer = self._of(side, models)
        began = shown = time.monotonic()

        def decoded(written: list[int]) -> str:
            text: str = tokenizer.decode(written, skip_special_tokens=True)
            return text.strip()

        def goes_on(written: list[int]) -> bool:
            nonlocal shown
            now = time.monotonic()
            if settings.stop:
                so_far = tokenizer.decode(written, skip_special_tokens=True).lstrip()
                if (cut := _cut(so_far, settings.stop)) is not None:
                    reply.text, reply.end = cut, "stop"
                    return False
            if now - shown >= _PACE_SECONDS:
                shown = now
                # A character of several tokens is not there before its last one.
                reply.text, reply.tokens = decoded(written).rstrip("\ufffd"), len(written)
                take(reply)
            if self._stop.is_set():
                reply.end = "stopped"
                return False
            return True

        with weights.answering_as(side, model):
            written = write(
                model,
                tokenizer,
                ids,
                settings.max_new_tokens,
                goes_on,
                temperature=settings.temperature,
                top_p=settings.top_p,
            )
        reply.seconds, reply.tokens = time.monotonic() - began, len(written)
        if reply.end != "stop":
            reply.text = decoded(written)
        if not reply.end:
            reply.end = "length" if len(written) >= settings.max_new_tokens else "end"

    # Ratings

    def rate(self, number: int, choice: Choice) -> Turn:
        """Say which answer to a message is better, as they are shown, and keep the pair.

        Saying something else replaces what was said before.

        Args:
            number: Which message, from 0.
            choice: left, right or tie.

        Raises:
            ConfigError: There is no such message or choice.
            RunError: An answer is missing or empty, both are the same, or the file cannot be written.
        """
        if choice not in ("left", "right", "tie"):
            raise ConfigError(Problem("choice", choice, "is not one of left, right, tie."))
        if not 0 <= number < len(self.turns):
            raise ConfigError(Problem("number", number, "is no message of this conversation."))
        turn = self.turns[number]
        if not turn.is_answered:
            raise RunError("Both answers have to be there before they are rated.")
        left, right = turn.replies
        if choice != "tie" and left.text == right.text:
            raise RunError("Both answers are the same, so neither is better.")
        if choice != "tie" and not (left if choice == "left" else right).text:
            raise RunError("This answer is empty, so there is nothing to learn from it.")
        try:
            if turn.kept is not None:
                take_back(turn.kept)
                turn.kept = None
            if choice == "tie":
                turn.kept = keep_tie(self.run.path, left.rated, right.rated)
            else:
                chosen, rejected = (left, right) if choice == "left" else (right, left)
                turn.kept = keep_pair(self.run.path, chosen.rated, rejected.rated)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RunError(f"{self.run.id}: the rating could not be written: {reason}.") from None
        turn.rating, turn.is_blind = choice, False
        return turn

    @property
    def preferences(self) -> Path:
        """The file of the pairs."""
        return self.run.path / PREFERENCES

    def counts(self) -> tuple[int, int]:
        """Return how many pairs and ties the run's folder holds, of earlier chats too."""
        return counts(self.run.path)


def _cut(text: str, stops: Sequence[str]) -> str | None:
    r"""Return a text up to the first stop text in it; None if it has none.

    >>> _cut("Yes.\n\nQuestion: why", ["\n\n", "Question:"])
    'Yes.'
    """
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)].rstrip() if places else None
