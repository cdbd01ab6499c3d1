r"""The small markup of the hand-written sources in `written/`.

| mark | meaning |
|---|---|
| `<a\|b\|c>` | one of these |
| `{A}`, `{A.his}`, `{place}` | filled in by name |
| `[wrong/right]` | a mistake and its correction (grammar only) |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from random import Random

_ALTERNATIVES = re.compile(r"<([^<>]*)>")
_CORRECTION = re.compile(r"\[([^\[\]/]*)/([^\[\]/]*)\]")
_WRITTEN = Path(__file__).parent.parent / "written"


def read_written(name: str) -> str:
    """Read a hand-written source."""
    return (_WRITTEN / name).read_text(encoding="utf-8")


def fill(text: str, rng: Random, values: Mapping[str, object]) -> str:
    """Choose one of each `<a|b>` and fill in each `{name}`.

    >>> fill("<Hi|Hi> {who}!", Random(0), {"who": "Ada"})
    'Hi Ada!'
    >>> fill("<<Hi|Hi>|Hi>", Random(0), {})
    'Hi'
    """
    while (chosen := _choose(text, rng)) != text:
        text = chosen
    return text.format_map(values)


def _choose(text: str, rng: Random) -> str:
    """Choose among alternatives that hold no others."""
    return _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), text)


def wrong_and_right(text: str) -> tuple[str, str]:
    """Split a marked sentence into the faulty one and the correct one.

    >>> wrong_and_right("She [go/goes] home[/.]")
    ('She go home', 'She goes home.')
    """
    return _CORRECTION.sub(r"\1", text), _CORRECTION.sub(r"\2", text)
