"""Oddities in a text: damaged encodings, invisible characters, markup, another model's chat markers.

Called by `measure` for every row, so a text without any costs one or two searches.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

# A byte from 128 on, read as a character of Windows-1252 or Latin-1.
_BYTE = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"


@dataclass(frozen=True)
class Oddity:
    """A kind of characters that should not be in a text.

    Attributes:
        pattern: What to look for.
        clean: Returns a text without it; None where the text cannot be recovered.
        what: What rows with it are called; then why it matters and how to fix it, as in `Finding`.
    """

    pattern: re.Pattern[str]
    clean: Callable[[str], str] | None
    what: str
    why: str
    fix: str


def unmangled(text: str) -> str:
    r"""Return a text whose UTF-8 was read as Windows-1252 as it was meant.

    >>> unmangled("CafÃ© â€œJimâ€\x9d, SÃ£o Paulo")
    'Café “Jim”, São Paulo'
    """
    return _MOJIBAKE.sub(lambda found: _decoded(found[0]), text)


def _decoded(mangled: str) -> str:
    try:
        # A character that Windows-1252 lacks stands for the byte of its own number.
        bytes_ = b"".join(
            c.encode("latin-1") if ord(c) < 256 else c.encode("cp1252") for c in mangled
        )
        return bytes_.decode("utf-8")
    except ValueError:
        return mangled


# The first bytes of Latin letters and signs (Â, Ã), of punctuation (â and a sign), of Cyrillic and
# Greek (at least two letters) and of emoji. A wider pattern would take “Spaß“ for damage.
_MOJIBAKE = re.compile(f"[ÂÃ]{_BYTE}|â[€„†‚™œˆ‰]{_BYTE}|(?:[ÐÑÎÏ]{_BYTE}){{2,}}|ðŸ{_BYTE}{{2}}|ï»¿")


def without_controls(text: str) -> str:
    r"""Return a text without control characters; those that were LaTeX become LaTeX again.

    >>> without_controls("\x0crac{1}{2} and\x00 \x08eta")
    '\\frac{1}{2} and \\beta'
    """
    return _CONTROL.sub("", _LATEX.sub(lambda found: _ESCAPES[found[0]], text))


# Written in JSON without its second backslash, \frac is a form feed and "rac".
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\v": "\\v", "\f": "\\f"}
_LATEX = re.compile("[\a\b\v\f](?=[a-zA-Z])")
# Tab, line feed and carriage return belong into texts. 0x80 to 0x9f are controls of Latin-1.
_CONTROL = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]")
# Zero-width spaces, soft hyphens and marks that change the direction of the text. The
# joiners U+200C and U+200D stay: Persian, Indian scripts and emoji are written with them.
_INVISIBLE = re.compile("[\u00ad\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]")
_ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|ndash|mdash|hellip|rsquo|lsquo|ldquo|rdquo|copy|euro|"
    r"[aeiouAEIOU](?:acute|grave|circ|uml)|[cC]cedil|[nN]tilde|szlig|#\d{2,6}|#x[0-9a-fA-F]{2,5});"
)

ODDITIES: Mapping[str, Oddity] = {
    "replacement_characters": Oddity(
        re.compile("[\ufffd\ud800-\udfff]"),  # tokenizers refuse half of a surrogate pair
        None,
        "Rows with U+FFFD or half a character, where text was lost when it was read",
        "The model learns to write the gap.",
        "Read the source again with the right encoding, or leave these rows out.",
    ),
    "mojibake": Oddity(
        _MOJIBAKE,
        unmangled,
        "Rows with UTF-8 that was read as Windows-1252, such as Ã© for é",
        "The model learns to write it that way.",
        "Restore the original characters.",
    ),
    "control_characters": Oddity(
        _CONTROL,
        without_controls,
        "Rows with control characters, such as NUL",
        "They cost tokens and are invisible. A form feed before “rac” was \\frac.",
        "Remove them; those that were LaTeX become LaTeX again.",
    ),
    "invisible_characters": Oddity(
        _INVISIBLE,
        lambda text: _INVISIBLE.sub("", text),
        "Rows with zero-width characters, soft hyphens or direction marks",
        "They break words into unusual tokens and are invisible.",
        "Remove them.",
    ),
    "html_entities": Oddity(
        _ENTITY,
        lambda text: _ENTITY.sub(lambda entity: html.unescape(entity[0]), text),
        "Rows with HTML entities, such as &amp; for &",
        "The model learns to write them instead of the characters.",
        "Write the characters, unless the rows are about HTML.",
    ),
}
"""Kinds of odd characters, by the name of their finding."""

_ASCII = ("control_characters", "html_entities")  # the others need a character beyond ASCII


def odd_in(text: str) -> dict[str, int]:
    r"""Return which kinds of odd characters a text contains, with the place of the first.

    >>> odd_in("A\x00B &amp; C"), odd_in("Persian ‌ and Spaß“ are fine")
    ({'control_characters': 1, 'html_entities': 4}, {})
    """
    found = {}
    for name in _ASCII if text.isascii() else ODDITIES:
        if match := ODDITIES[name].pattern.search(text):
            restored = unmangled(text)
            if name == "mojibake" and restored == text:
                continue
            if name == "control_characters" and not _CONTROL.search(restored):
                continue  # it is the last byte of something mangled
            found[name] = match.start()
    return found


@dataclass(frozen=True)
class Family:
    """The markers of a chat template; `families.yaml` says what each field means."""

    name: str
    marks: list[str]
    turn: re.Pattern[str]
    is_special: bool = True


FAMILIES = tuple(
    Family(**{**family, "turn": re.compile(family["turn"], re.DOTALL)})
    for family in yaml.safe_load(Path(__file__).with_name("families.yaml").read_text("utf-8"))
)

_ANY_MARK = re.compile("|".join(re.escape(mark) for one in FAMILIES for mark in one.marks))
_ROLES = {"model": "assistant", "human": "user", "gpt": "assistant"}


def family_in(text: str) -> tuple[Family, int] | None:
    """Return the family whose marker comes first in a text, and where; None without any.

    >>> family, place = family_in("Hi <|im_start|>user")
    >>> family.name, place
    ('ChatML', 3)
    """
    match = _ANY_MARK.search(text)
    if match is None:
        return None
    return next(one for one in FAMILIES if match[0] in one.marks), match.start()


def turns_in(text: str, family: Family) -> list[dict[str, str]]:
    r"""Return the turns that a text holds in the markers of a family; empty where it has no answer.

    >>> turns_in("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>", FAMILIES[0])
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Yo'}]
    """
    turns = []
    for match in family.turn.finditer(text):
        found = {name: value for name, value in match.groupdict().items() if value is not None}
        if "role" in found:
            role = found["role"].lower()
            turns.append({"role": _ROLES.get(role, role), "content": found["content"].strip()})
        else:
            turns += [{"role": role, "content": text.strip()} for role, text in found.items()]
    is_answered = any(turn["role"] == "assistant" and turn["content"] for turn in turns)
    return turns if is_answered else []


def special_tokens(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Return what finds a model's special tokens in a text; None for a model without any."""
    written = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, written))) if written else None


def excerpt(text: str, around: int = 0, width: int = 90) -> str:
    r"""Return the part of a text around a place on one line, what cannot be seen written out.

    >>> excerpt("One\ntwo \u200b three", 8)
    'One two \\u200b three'
    """
    start = max(0, min(around - width // 3, len(text) - width))
    piece = re.sub("[ \t\r\n]+", " ", text[start : start + width].strip())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in piece)
    return f"{'…' if start else ''}{shown}{'…' if start + width < len(text) else ''}"
