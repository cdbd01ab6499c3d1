"""A chat with two models side by side, in the cell: the page of `nbft.runs.chat`.

What the page shows is in traits, so that a view opened later is complete; what a person does arrives
as messages. Answers are written on a thread, which hands over what there is at most ten times a
second; only the main thread touches the widget. In a busy kernel the latest text waits, not all.

    front end → kernel   {"type": "send", "text": …, "settings": {…}}, {"type": "again", "settings": …},
                         {"type": "stop"}, {"type": "clear"}, {"type": "set", "settings": {…}},
                         {"type": "rate", "turn": n, "choice": "left" | "right" | "tie"},
                         {"type": "choose", "left": title, "right": title}
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbft.errors import NbftError
from nbft.evaluate.compare import Comparison
from nbft.formatting import count, duration
from nbft.pages import chat as page
from nbft.runs.chat import ChatSession, Reply, Turn
from nbft.runs.folder import Run
from nbft.runs.ratings import PREFERENCES
from nbft.widgets.background import Task
from nbft.widgets.kernel import call_soon, hear_while_busy, is_main_thread

_HERE = Path(__file__).parent

_ENDS = {
    "length": "cut at {tokens}",
    "stop": "ended at a stop text",
    "stopped": "stopped",
}


class Chat(anywidget.AnyWidget):
    """Two models that answer the same messages; see `Run.chat` for the arguments."""

    _esm = _HERE / "chat.js"
    _css = _HERE / "chat.css"

    sides: traitlets.List[Any] = traitlets.List(help="titles to choose from").tag(sync=True)
    chosen: traitlets.List[Any] = traitlets.List(help="titles on the left and right").tag(sync=True)
    templates: traitlets.List[Any] = traitlets.List(help="[name, title] of each").tag(sync=True)
    settings: traitlets.Dict[Any, Any] = traitlets.Dict(
        help="as in ChatSettings, and changed_at"
    ).tag(sync=True)
    turns: traitlets.List[Any] = traitlets.List(help="messages and answers").tag(sync=True)
    live: traitlets.Dict[Any, Any] = traitlets.Dict(help="the answer being written").tag(sync=True)
    state = traitlets.Unicode("loading", help="loading, ready, answering, failed").tag(sync=True)
    says = traitlets.Unicode(help="what happens, or what is wrong").tag(sync=True)
    is_wrong = traitlets.Bool(False, help="whether that is a problem").tag(sync=True)
    about: traitlets.List[Any] = traitlets.List(help="sentences about the models").tag(sync=True)
    rated = traitlets.Unicode(help="how many ratings there are, and where").tag(sync=True)
    refused = traitlets.Unicode(help="a message that could not be asked").tag(sync=True)
    still = traitlets.Unicode(help="id of the still picture, to be hidden").tag(sync=True)

    def __init__(
        self,
        run: Run,
        checkpoint: int | None = None,
        against: Run | str | Path | int | None = None,
        **settings: Any,
    ) -> None:
        self.session = session = ChatSession(run, checkpoint, against, **settings)
        self._waiting: str | None = None  # a message sent before the models were there
        self._handing = threading.Lock()
        self._written: tuple[Turn, Reply] | None = None  # not handed over yet
        self._shown_place = (0, 0)  # how many messages the page has, and which answer of the last
        self._picture_shown: Any = None
        self._changed_at = 0  # when the page changed the settings, in milliseconds of its clock
        super().__init__(
            still=uuid.uuid4().hex,
            sides=[side.title for side in session.sides],
            settings=self._shown_settings(),
        )
        self.on_msg(self._hear)
        hear_while_busy(self)
        self._load()

    def close(self) -> None:
        """Stop writing, and close the widget with its layout; `nbft.release_model` frees memory."""
        if "session" not in self.__dict__:
            return  # it was refused
        self.session.stop()
        self.layout.close()
        super().close()

    # What is displayed, here and in a saved notebook

    def __repr__(self) -> str:
        left, right = self.session.chosen
        return f"Chat: {left.title} and {right.title}"

    def _ipython_display_(self) -> None:
        """Show the widget, and below it a still picture that it hides as long as it lives."""
        from IPython.display import display

        view, metadata = super()._repr_mimebundle_() or ({}, {})
        view.pop("text/plain", None)  # the picture has it
        display(view, raw=True, metadata=metadata)
        self._picture_shown = display(self._picture(), raw=True, display_id=True)

    def _picture(self) -> dict[str, str]:
        """Return the conversation as HTML and as text, without answers that are still unnamed."""
        left, right = self.session.chosen
        rows = []
        for turn in self.session.turns:
            base, tuned = turn.reply_of(0), turn.reply_of(1)
            if base and tuned and turn.is_answered and not turn.is_blind:
                rows.append((turn.message, base.text, tuned.text))
        answers = Comparison(rows, right.title, left.title)
        html = str(page.html(answers, self.still, repr(self)))
        return {"text/html": html, "text/plain": str(answers) if rows else repr(self)}

    def _redraw(self) -> None:
        if self._picture_shown is not None:
            self._picture_shown.update(self._picture(), raw=True)

    # What a person does

    def _hear(self, _widget: Chat, message: Mapping[str, Any], _buffers: object) -> None:
        """Take a message of the page; some kernels call this on another thread."""
        if message.get("type") == "stop":
            if self.state == "answering":
                self.session.stop()  # at once, also while a cell runs
        elif is_main_thread():
            self._act(message)
        else:
            call_soon(self._act, message)

    def _act(self, message: Mapping[str, Any]) -> None:
        kind = message.get("type")
        if kind == "rate":
            self._rate(int(message["turn"]), message["choice"])
            return
        if self.state == "answering" or (self.state == "loading" and kind in ("again", "choose")):
            return  # a click from before the page knew
        try:
            if changes := dict(message.get("settings", {})):
                self._changed_at = changes.pop("changed_at", 0)
                self.session.settings = self.session.settings.changed(changes)
                self.settings = self._shown_settings()
            if kind == "send":
                self.send_message(str(message["text"]))
            elif kind == "again":
                self._write(None)
            elif kind == "clear":
                self.session.clear()
                self._show_turns()
                self._say("A new conversation. Ratings are kept.")
            elif kind == "choose":
                self.session.choose(str(message["left"]), str(message["right"]))
                self._show_turns()
                self._load()
        except NbftError as error:
            self._fail(error)

    def send_message(self, text: str) -> None:
        """Ask both sides something; the answers appear as they are written."""
        if self.state == "ready":
            self._write(text)
        elif self.state != "answering":
            self._waiting = text
            if self.state == "failed":
                self._load()
            else:
                self._say("The message is sent when the models are loaded.")

    def _rate(self, number: int, choice: Any) -> None:
        self._say("")  # so that the page notices a second refusal
        try:
            self.session.rate(number, choice)
        except NbftError as error:
            self._say(str(error), is_wrong=True)
            return
        self._show_turns()
        self._say("Kept as a tie." if choice == "tie" else "Kept as a pair.")
        self._redraw()

    # On a thread

    def _load(self) -> None:
        left, right = self.session.chosen
        self.chosen = [left.title, right.title]
        self.state, self.about = "loading", []
        self._say(f"Loading {left.title} and {right.title}…")
        Task(self.session.load, self._take_loaded, self._fail)

    def _take_loaded(self, about: list[str]) -> None:
        self.about, self.state = about, "ready"
        self._show_ways()
        self._show_turns()
        self._say("")
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._write(waiting)

    def _write(self, text: str | None) -> None:
        """Ask both sides a message, or the last one again if there is none."""
        session = self.session

        def work() -> Turn:
            if text is None:
                return session.regenerate(self._take)
            return session.ask(text, self._take)

        self._shown_place = (0, 0)
        self.refused, self.live, self.state = "", {}, "answering"
        self._say("Reading the message…")
        Task(work, self._take_answers, self._refuse(text))

    def _take(self, turn: Turn, reply: Reply) -> None:
        """Note what is written, and hand it to the main thread unless that is on its way."""
        with self._handing:
            is_on_its_way, self._written = self._written is not None, (turn, reply)
        if not is_on_its_way:
            call_soon(self._show_written)

    def _show_written(self) -> None:
        with self._handing:
            written, self._written = self._written, None
        if written is None or self.state != "answering":
            return
        turn, reply = written
        place = turn.replies.index(reply)
        if (len(self.session.turns), place) != self._shown_place:
            self._shown_place = len(self.session.turns), place
            self._show_turns()
            who = _heading(turn, place)
            who = who if turn.is_blind else f"The answer of {who}"
            self._say(f"{who} is being written ({place + 1} of 2). Escape stops.")
        self.live = {"turn": len(self.session.turns) - 1, "place": place, "text": reply.text}

    def _take_answers(self, turn: Turn) -> None:
        self.state, self.live = "ready", {}
        self._show_turns()
        is_stopped = any(reply.end == "stopped" for reply in turn.replies)
        self._say("Stopped." if is_stopped else "Both answers are there.")
        self._redraw()

    def _refuse(self, text: str | None) -> Callable[[Exception], None]:
        def refuse(error: Exception) -> None:
            self.refused = text or ""
            self._fail(error)

        return refuse

    def _fail(self, error: Exception) -> None:
        """Show what is wrong; the conversation so far stays."""
        what = f"{type(error).__name__}: {error}".strip(": ")
        self.live = {}
        self.state = "ready" if self.session.wordings else "failed"
        if self._waiting is not None:
            self.refused, self._waiting = self._waiting, None
        self._show_ways()
        self._show_turns()
        text = str(error) if isinstance(error, NbftError) else f"The models failed ({what})."
        self._say(text, is_wrong=True)

    # What the page shows

    def _say(self, sentence: str, *, is_wrong: bool = False) -> None:
        with self.hold_sync():
            self.says, self.is_wrong = sentence, is_wrong

    def _shown_settings(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self.session.settings)
        return {
            **settings,
            "stop": list(settings["stop"]),
            "template": self.session.template,
            "changed_at": self._changed_at,
        }

    def _show_ways(self) -> None:
        self.templates = [[name, title] for name, title in self.session.ways.items()]
        self.settings = self._shown_settings()

    def _show_turns(self) -> None:
        turns = [
            {
                "message": turn.message,
                "replies": [_shown(turn, place) for place in range(len(turn.replies))],
                "rating": turn.rating,
                "isAnswered": turn.is_answered,
                "isBlind": turn.is_blind,
            }
            for turn in self.session.turns
        ]
        pairs, ties = self.session.counts()
        and_ties = f" and {count(ties, 'tie')}" if ties else ""
        where = f"{self.session.run.id}/{PREFERENCES}"
        rated = f"{count(pairs, 'pair')}{and_ties} rated; pairs are kept in {where}."
        with self.hold_sync():
            self.turns, self.rated = turns, rated if pairs or ties else ""


def _heading(turn: Turn, place: int) -> str:
    return f"Answer {'AB'[place]}" if turn.is_blind else turn.replies[place].title


def _shown(turn: Turn, place: int) -> dict[str, Any]:
    """Return an answer as the page shows it."""
    reply = turn.replies[place]
    parts = []
    if reply.end:
        tokens = count(reply.tokens, "token")
        parts.append(_ENDS.get(reply.end, "{tokens}").format(tokens=tokens))
        if reply.end in ("stop", "stopped"):
            parts.insert(0, tokens)
        if reply.tokens:
            parts.append(duration(reply.seconds))
    return {
        "title": _heading(turn, place),
        "text": reply.text,
        "prompt": reply.prompt,
        "note": " · ".join(parts),
        "isOver": bool(reply.end),
    }
