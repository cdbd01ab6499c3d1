"""What is odd in a text: damaged encodings, characters nobody sees, markup, another chat's marks.

Each kind of oddity says where it first stands and, where it can, mends it. Called by `measure` for
every row, so a text without any costs one or two searches.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# A byte from 128 on, read as a character of Windows-1252 or Latin-1.
_BYTE = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"


@dataclass(frozen=True)
class Oddity:
    """A kind of characters that should not stand in a text.

    Attributes:
        pattern: What to look for.
        mend: Returns a text without it; None where the text cannot be known any more.
    """

    pattern: re.Pattern[str]
    mend: Callable[[str], str] | None


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
# Greek (two letters at least) and of emoji. More would take “Spaß“ for damage.
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
# Zero-width space and its like, soft hyphens, and marks that turn the direction of the text. The
# joiners U+200C and U+200D stay: Persian, Indian scripts and emoji are written with them.
_INVISIBLE = re.compile("[\u00ad\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]")
_ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|ndash|mdash|hellip|rsquo|lsquo|ldquo|rdquo|copy|euro|"
    r"[aeiouAEIOU](?:acute|grave|circ|uml)|[cC]cedil|[nN]tilde|szlig|#\d{2,6}|#x[0-9a-fA-F]{2,5});"
)

ODDITIES: Mapping[str, Oddity] = {
    # With half of a surrogate pair: what was cut in two says as little, and tokenizers refuse it.
    "replacement_characters": Oddity(re.compile("[\ufffd\ud800-\udfff]"), None),
    "mojibake": Oddity(_MOJIBAKE, unmangled),
    "control_characters": Oddity(_CONTROL, without_controls),
    "invisible_characters": Oddity(_INVISIBLE, lambda text: _INVISIBLE.sub("", text)),
    "html_entities": Oddity(_ENTITY, lambda text: _ENTITY.sub(lambda e: html.unescape(e[0]), text)),
}
"""Kinds of odd characters, by the name of their finding."""

_ASCII = ("control_characters", "html_entities")  # the others need a character beyond ASCII


def odd_in(text: str) -> dict[str, int]:
    r"""Return which kinds of odd characters stand in a text, with the place of the first.

    >>> odd_in("A\x00B &amp; C"), odd_in("Persian ‌ and Spaß“ are fine")
    ({'control_characters': 1, 'html_entities': 4}, {})
    """
    found = {}
    for name in _ASCII if text.isascii() else ODDITIES:
        if match := ODDITIES[name].pattern.search(text):
            mended = unmangled(text)
            if name == "mojibake" and mended == text:
                continue
            if name == "control_characters" and not _CONTROL.search(mended):
                continue  # it is the last byte of something mangled
            found[name] = match.start()
    return found


@dataclass(frozen=True)
class Family:
    """The marks of a chat template, as they stand in a text.

    Attributes:
        name: Whose template it is.
        marks: Texts that only this family writes; one is enough.
        turn: Finds a turn; its groups are named after the roles of messages, or role and content.
        is_special: Whether the marks are single tokens of the models of the family.
    """

    name: str
    marks: tuple[str, ...]
    turn: re.Pattern[str]
    is_special: bool = True


def _turn(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


FAMILIES = (
    Family(
        "ChatML",
        ("<|im_start|>", "<|im_end|>"),
        _turn(r"<\|im_start\|>(?P<role>\w+)\n(?P<content>.*?)(?:<\|im_end\|>|(?=<\|im_start)|$)"),
    ),
    Family(
        "Llama 3",
        ("<|start_header_id|>", "<|eot_id|>"),
        _turn(
            r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\s*(?P<content>.*?)"
            r"(?:<\|eot_id\|>|(?=<\|start_header)|$)"
        ),
    ),
    Family(
        "Llama 2 and Mistral",
        ("[INST]", "[/INST]", "<<SYS>>"),
        _turn(
            r"\[INST\]\s*(?:<<SYS>>\s*(?P<system>.*?)\s*<</SYS>>\s*)?(?P<user>.*?)\s*\[/INST\]"
            r"\s*(?P<assistant>.*?)\s*(?:</s>|(?=\[INST\])|$)"
        ),
    ),
    Family(
        "Gemma",
        ("<start_of_turn>", "<end_of_turn>"),
        _turn(
            r"<start_of_turn>(?P<role>\w+)\n(?P<content>.*?)(?:<end_of_turn>|(?=<start_of_turn)|$)"
        ),
    ),
    Family(
        "Zephyr and Phi-3",
        ("<|user|>", "<|assistant|>"),
        _turn(
            r"<\|(?P<role>user|assistant|system)\|>\s*(?P<content>.*?)"
            r"\s*(?:</s>|<\|end\|>|(?=<\|(?:user|assistant|system)\|>)|$)"
        ),
    ),
    Family(
        "DeepSeek",
        ("<｜User｜>", "<｜Assistant｜>"),
        _turn(
            r"<｜(?P<role>User|Assistant)｜>(?P<content>.*?)"
            r"(?:<｜end▁of▁sentence｜>|(?=<｜(?:User|Assistant)｜>)|$)"
        ),
    ),
    Family(
        "Alpaca",
        ("### Instruction:", "### Response:"),
        _turn(
            r"### Instruction:\s*(?P<user>.*?)\s*### Response:\s*(?P<assistant>.*?)\s*"
            r"(?=### Instruction:|$)"
        ),
        is_special=False,
    ),
    Family(
        "Guanaco",
        ("### Human:", "### Assistant:"),
        _turn(
            r"### Human:\s*(?P<user>.*?)\s*### Assistant:\s*(?P<assistant>.*?)\s*(?=### Human:|$)"
        ),
        is_special=False,
    ),
)
"""Chat templates whose marks are known. Sources: the templates of the models they are named after."""

_ANY_MARK = re.compile("|".join(re.escape(mark) for one in FAMILIES for mark in one.marks))
_ROLES = {"model": "assistant", "human": "user", "gpt": "assistant"}


def family_in(text: str) -> tuple[Family, int] | None:
    """Return the family whose mark stands first in a text, and where; None without any.

    >>> family, place = family_in("Hi <|im_start|>user")
    >>> family.name, place
    ('ChatML', 3)
    """
    match = _ANY_MARK.search(text)
    if match is None:
        return None
    return next(one for one in FAMILIES if match[0] in one.marks), match.start()


def turns_in(text: str, family: Family) -> list[dict[str, str]]:
    r"""Return the turns that a text holds in the marks of a family; empty where it has no answer.

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
