"""Rows of the SamSum sample: a chat and its summary.

The chats are scenarios in `written/samsum.txt`, written by hand. A scenario begins with `# name`
and holds slots (`place = the lake | the coast`), the lines with which every chat opens, and
endings separated by `---`. A line that begins with `?` is left out half of the time. A summary,
after `=>`, belongs to one ending, so that it is true whatever was drawn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from nbft.data.samples.families import Row
from nbft.data.samples.families.markup import fill, read_written
from nbft.data.samples.families.people import draw_people

_HELD_OUT_MARK = "(test only)"
_SENTENCE_START = re.compile(r"(^|: |(?<!\.)[.!?] )([a-z])")


class Value(tuple[str, ...]):
    """What a slot holds: text, then further words for it, as in `cat; her`.

    In a template `{pet}` is "cat" and `{pet[1]}` is "her".
    """

    def __str__(self) -> str:
        """Return the text."""
        return self[0]


Slots = Mapping[str, Sequence[Value]]


@dataclass(frozen=True)
class Turn:
    """One message, as a template with its speaker; an optional one may be left out."""

    text: str
    optional: bool


@dataclass(frozen=True)
class Ending:
    """How a chat may go on, and the summary of the whole chat."""

    turns: Sequence[Turn]
    summary: str


@dataclass(frozen=True, eq=False)
class Scenario:
    """A kind of chat; calling it draws one.

    Attributes:
        name: What the chat is about.
        held_out: True if only the test rows may come from it.
        slots: The values to draw from, by name.
        opening: The turns with which every chat begins.
        endings: How it may go on.
    """

    name: str
    held_out: bool
    slots: Slots
    opening: Sequence[Turn]
    endings: Sequence[Ending]

    def __call__(self, rng: Random) -> Row:
        """Draw a chat."""
        ending = rng.choice(self.endings)
        values = _draw_values(self.slots, rng)
        messages = [
            _with_capitals(fill(turn.text, rng, values))
            for turn in [*self.opening, *ending.turns]
            if not turn.optional or rng.random() < 0.5
        ]
        summary = _with_capitals(fill(ending.summary, rng, values))
        return {"dialogue": "\n".join(messages), "summary": summary}


def read_scenarios() -> list[Scenario]:
    """Read every scenario of the source; the first block holds the slots that all share."""
    shared, *blocks = read_written("samsum.txt").strip().split("\n\n")
    shared_slots = _read_slots(shared.splitlines())
    return [_read_scenario(block, shared_slots) for block in blocks]


def _read_scenario(block: str, shared_slots: Slots) -> Scenario:
    head, *endings = block.split("\n---\n")
    title, *lines = head.splitlines()
    return Scenario(
        name=title.removeprefix("# ").removesuffix(_HELD_OUT_MARK).strip(),
        held_out=title.endswith(_HELD_OUT_MARK),
        slots={**shared_slots, **_read_slots(lines)},
        opening=[_read_turn(line) for line in lines if " = " not in line],
        endings=[_read_ending(ending) for ending in endings],
    )


def _read_slots(lines: Sequence[str]) -> dict[str, list[Value]]:
    pairs = [line.split(" = ", 1) for line in lines if " = " in line]
    return {
        name: [Value(value.split("; ")) for value in values.split(" | ")] for name, values in pairs
    }


def _read_ending(text: str) -> Ending:
    chat, summary = text.split("\n=> ")
    return Ending(turns=[_read_turn(line) for line in chat.splitlines()], summary=summary)


def _read_turn(line: str) -> Turn:
    speaker, message = line.removeprefix("? ").split(": ", 1)
    return Turn(text=f"{{{speaker}}}: {message}", optional=line.startswith("? "))


def _draw_values(slots: Slots, rng: Random) -> dict[str, object]:
    """Draw a value for each slot, three people A, B and C, and a second day."""
    values: dict[str, object] = {name: rng.choice(options) for name, options in slots.items()}
    values["other_day"] = rng.choice([day for day in slots["day"] if day != values["day"]])
    return values | dict(zip("ABC", draw_people(rng, 3), strict=True))


def _with_capitals(text: str) -> str:
    """Begin each sentence with a capital, as a slot such as "the lake" may stand first."""
    return _SENTENCE_START.sub(lambda start: start[1] + start[2].upper(), text)
