"""What can be wrong with a single row: the catalogue. One entry is one kind.

An entry says where a row has it, in words what it is, and, where that can be exact, how a text is
mended. To add one, write a function below a `@kind(…)`; people register their own in
`nbft.registry.checks`. Called by `measure` for every row, so a row without any costs a few searches.
"""

from __future__ import annotations

import functools
import html
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ftfy

from nbft.data import turns
from nbft.data.formats import Example
from nbft.redaction import redact_tokens

Level = Literal["error", "warning", "note"]
Hit = tuple[str, int]
"""A text, and the place in it."""


class Said:
    """What a row says.

    Attributes:
        example: The example.
        prompt: What comes before the last answer.
        answer: The last answer.
        text: All of it, as people wrote it, without the chat template.
    """

    def __init__(self, example: Example) -> None:
        self.example = example
        self.prompt, self.answer = (part[:MOST_CHARS] for part in parts_of(example))
        self.text = text_of(example)[:MOST_CHARS]
        self.is_ascii = self.text.isascii()

    @functools.cached_property
    def asked(self) -> str:
        """The last question: the prompt, or the last turn of the user."""
        if not self.example.messages:
            return self.example.prompt
        asked = (turn for turn in reversed(self.example.messages) if turn["role"] == "user")
        return turns.text_of(next(asked, {"content": ""}))

    @property
    def task(self) -> str:
        """Where a prompt says what to do: its start and its end."""
        return f"{self.prompt[:200]}\n{self.prompt[-80:]}"

    @property
    def answers(self) -> list[str]:
        """Every answer."""
        if not self.example.messages:
            return [self.answer]
        return [turns.text_of(t) for t in self.example.messages if t["role"] == "assistant"]

    @functools.cached_property
    def is_code(self) -> bool:
        """Whether it seems to be about code or markup, where odd signs are meant."""
        return looks_like_code(self.text)


_CODE = re.compile(
    r"```|</?(?:html|script|body|head|table)\b|\bx?html\b|\bXML\b|\bregex|\bescap(?:e|ing)\b"
    r"|\bampersand|\bentit(?:y|ies)\b|\bdef \w+\(|\bfunction\s*\w*\(|\b(?:import|return|print)\b.{0,80}[({]"
    r"|#include|[{}]\s*$|[\w)\]\"'];\s*$|=>|\bSELECT\b",
    re.MULTILINE | re.IGNORECASE,
)

MOST_CHARS = 100_000
"""Characters of a row that are looked at: far more than any model reads at once."""


def looks_like_code(text: str) -> bool:
    r"""Whether a text seems to be code or markup, or about it.

    >>> looks_like_code("x = f(1);"), looks_like_code("Tea &amp;\ncoffee; and so on")
    (True, False)
    """
    return bool(_CODE.search(_ENTITY.sub("", text[:MOST_CHARS])))


def text_of(example: Example) -> str:
    """Return all text of an example: what people wrote, without the chat template."""
    if example.messages:
        return "\n".join(map(turns.text_of, example.messages))
    return example.prompt + example.completion


def parts_of(example: Example) -> tuple[str, str]:
    """Return what comes before the last answer, and that answer."""
    if not example.messages:
        return example.prompt, example.completion
    said = example.messages
    last = max((n for n, turn in enumerate(said) if turn["role"] == "assistant"), default=-1)
    before = "\n".join(f"{turn['role']}: {turns.text_of(turn)}" for turn in said[:last])
    return before, turns.text_of(said[last])


@dataclass(frozen=True)
class Kind:
    """A kind of fault of a single row.

    Attributes:
        find: Returns where a row has it, or None.
        level: As of a `Finding`.
        weight: As of a `Finding`.
        what: What rows with it are called.
        why: Why it matters.
        fix: What to do.
        mend: Returns a text without it, and every other text unchanged; None where only a person can
            say what was meant.
        is_choice: Whether rows may be left out by choice, because it is a judgement.
        answers_only: Whether only answers are mended.
        may_be_label: Whether such an answer may be one of a few labels, and is fine then.
    """

    find: Callable[[Said], Hit | None]
    level: Level
    weight: float
    what: str
    why: str
    fix: str
    mend: Callable[[str], str] | None = None
    is_choice: bool = False
    answers_only: bool = False
    may_be_label: bool = False


KINDS: dict[str, Kind] = {}
"""Every kind, by the name of its finding."""


def kind(
    level: Level, weight: float, what: str, why: str, fix: str, **more: Any
) -> Callable[[Callable[[Said], Hit | None]], Callable[[Said], Hit | None]]:
    """Add a kind to the catalogue, named after the function that finds it; arguments as of `Kind`."""

    def add(find: Callable[[Said], Hit | None]) -> Callable[[Said], Hit | None]:
        KINDS[find.__name__.strip("_")] = Kind(find, level, weight, what, why, fix, **more)
        return find

    return add


def _at(text: str, match: re.Match[str] | None) -> Hit | None:
    return None if match is None else (text, match.start())


def _where_they_differ(text: str, other: str) -> int:
    pairs = enumerate(zip(text, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(text), len(other)))


def _too_long(said: Said, mend: Callable[[str], str]) -> Hit | None:
    """Return the first answer of which something at the end has to go, and where that begins."""
    pairs = ((answer, mend(answer)) for answer in said.answers)
    return next(((answer, len(bare)) for answer, bare in pairs if bare != answer), None)


# Characters

_REPLACED = re.compile("[\ufffd\ud800-\udfff]")  # tokenizers refuse half of a surrogate pair


@kind(
    "warning",
    3,
    "Rows with U+FFFD or half a character, where text was lost when it was read",
    "The model learns to write the gap.",
    "Read the source again with the right encoding.",
    is_choice=True,
)
def _replacement_characters(said: Said) -> Hit | None:
    return None if said.is_ascii else _at(said.text, _REPLACED.search(said.text))


def unmangled(text: str) -> str:
    r"""Return a text whose UTF-8 was read as another encoding as it was meant.

    >>> unmangled("CafÃ© â€œJimâ€\x9d, SÃ£o Paulo"), unmangled("“AMANHÃ")
    ('Café “Jim”, São Paulo', '“AMANHÃ')
    """
    return text if text.isascii() else ftfy.fix_encoding(text)


@kind(
    "warning",
    3,
    "Rows with UTF-8 that was read as another encoding, such as Ã© for é",
    "The model learns to write it that way.",
    "Restore the original characters.",
    mend=unmangled,
)
def _mojibake(said: Said) -> Hit | None:
    if said.is_ascii or (meant := unmangled(said.text)) == said.text:
        return None
    return said.text, _where_they_differ(said.text, meant)


_ASCII_CONTROL = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]")
_COLOUR = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")
# Tab, line feed and carriage return belong into texts. 0x80 to 0x9f are controls of Latin-1.
_CONTROL = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]")
# Written in JSON without its second backslash, \frac is a form feed and "rac".
_LATEX = re.compile(
    "(?:\x07(?=lpha|pprox|rctan|rccos|rcsin|ngle)|\x08(?=egin|eta|inom|oxed|ar\\b|ar\\{|ig|ullet)"
    "|\x0b(?=ec|arepsilon|dots|ee\\b|arphi)|\x0c(?=rac|orall|lat\\b|loor))"
)
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\v": "\\v", "\f": "\\f"}


def without_controls(text: str) -> str:
    r"""Return a text without control characters; those that were LaTeX become LaTeX again.

    >>> without_controls("\x0crac{1}{2} and\x00 \x08eta"), without_controls("One.\x0cTwo \x1b[31mred")
    ('\\frac{1}{2} and \\beta', 'One.\nTwo red')
    """
    text = _COLOUR.sub("", _LATEX.sub(lambda found: _ESCAPES[found[0]], text))
    text = re.sub(r"(?<=\S)[\f\v](?=\S)", "\n", text)  # a page break between two words
    # Those of Latin-1 may be bytes of a mangled character, which another kind decodes.
    return (_CONTROL if unmangled(text) == text else _ASCII_CONTROL).sub("", text)


@kind(
    "note",
    1,
    "Rows with control characters, such as NUL",
    "They cost tokens and are invisible. A form feed before “rac” was \\frac.",
    "Remove them; those that were LaTeX become LaTeX again, page breaks become line breaks.",
    mend=without_controls,
)
def _control_characters(said: Said) -> Hit | None:
    text = said.text
    match = _CONTROL.search(text)
    if match and ord(match[0]) >= 0x80 and unmangled(text) != text:
        match = _CONTROL.search(unmangled(text))  # it was the last byte of something mangled
    return _at(text, match)


# Zero-width spaces, soft hyphens and marks that change the direction of the text. The
# joiners U+200C and U+200D stay: Persian, Indian scripts and emoji are written with them.
_WRITTEN_WITH = "\u0590-\u08ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Hebrew to Arabic, Thai, Lao, Burmese, Khmer
_INVISIBLE = re.compile(
    f"(?<![{_WRITTEN_WITH}])[\u00ad\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
    f"(?![{_WRITTEN_WITH}])"
)


@kind(
    "note",
    1,
    "Rows with zero-width characters, soft hyphens or direction marks",
    "They break words into unusual tokens and are invisible.",
    "Remove them.",
    mend=lambda text: _INVISIBLE.sub("", text),
)
def _invisible_characters(said: Said) -> Hit | None:
    return None if said.is_ascii else _at(said.text, _INVISIBLE.search(said.text))


# Between two words of some length: French, Polish or Czech have them beside signs, numbers and
# short words.
_UNBROKEN = re.compile(
    r"(?<=[^\W\d_]{3})[\u00a0\u2007\u202f]+(?=[^\W\d_]{3})|[\u00a0\u2007\u202f]{2,}"
)


@kind(
    "note",
    0.5,
    "Rows with no-break spaces between words",
    "They look like spaces, but the model reads other tokens, so a prompt typed by hand does not match.",
    "Write plain spaces.",
    mend=lambda text: _UNBROKEN.sub(" ", text),
)
def _no_break_spaces(said: Said) -> Hit | None:
    return None if said.is_ascii else _at(said.text, _UNBROKEN.search(said.text))


_LOOK_ALIKES = (
    "аa еe оo сc рp хx уy іi јj ѕs һh ԁd АA ВB ЕE КK МM НH ОO РP СC ТT ХX ІI ЈJ ЅS "  # Cyrillic
    "οo νv ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX"  # Greek; α is a sign of its own, as in TNFα
)
_ALIKE = str.maketrans({pair[0]: pair[1] for pair in _LOOK_ALIKES.split()})
_WORD = re.compile(r"[^\W\d_]{4,}")


def _in_latin(word: re.Match[str]) -> str:
    """Return a word in Latin letters if it is one but for letters that look alike."""
    text, latin = word[0], word[0].translate(_ALIKE)
    is_word = latin.isascii() and sum(map(str.isascii, text)) >= 2
    return latin if is_word else text


def without_look_alikes(text: str) -> str:
    """Return a text with Latin letters in Latin words.

    >>> without_look_alikes("рassword, пароль, Δx") == "password, пароль, Δx"
    True
    """
    return text if text.isascii() else _WORD.sub(_in_latin, text)


@kind(
    "warning",
    1,
    "Rows with letters of another alphabet inside a Latin word, such as a Cyrillic а",
    "The word is cut into rare tokens, and the model learns a spelling that nobody types.",
    "Write Latin letters.",
    mend=without_look_alikes,
)
def _look_alike_letters(said: Said) -> Hit | None:
    if said.is_ascii or (latin := without_look_alikes(said.text)) == said.text:
        return None
    return said.text, _where_they_differ(said.text, latin)


@kind(
    "note",
    0.5,
    "Rows with carriage returns: the line ends of Windows",
    "The model has mostly read plain line breaks, which are other tokens.",
    "Write plain line breaks.",
    mend=lambda text: text.replace("\r\n", "\n").replace("\r", "\n"),
)
def _carriage_returns(said: Said) -> Hit | None:
    place = said.text.find("\r")
    return None if place < 0 else (said.text, place)


# Between sentences or paragraphs; elsewhere the two signs may be meant.
_WRITTEN_BREAK = re.compile(r"\\n(?=\\n)|(?<=\\n)\\n|(?<=[.!?:;,])\\n(?=\\n|[A-Z0-9*•-]|\s*$)")


def _with_breaks(text: str) -> str:
    if "\n" in text.strip() or looks_like_code(text):
        return text
    return _WRITTEN_BREAK.sub("\n", text)


@kind(
    "warning",
    2,
    "Rows with a backslash and an n where a line break was meant",
    "The model learns to write the two signs instead of a new line.",
    "Write line breaks.",
    mend=_with_breaks,
)
def _written_line_breaks(said: Said) -> Hit | None:
    if "\\n" not in said.text:
        return None
    for part in (said.prompt, said.answer):
        if _with_breaks(part) != part:
            return _at(part, _WRITTEN_BREAK.search(part))
    return None


# Markup

_ENTITY = re.compile(
    r"&(?:amp;){0,4}(?:amp|lt|gt|quot|apos|nbsp|ndash|mdash|hellip|rsquo|lsquo|ldquo|rdquo|copy|euro|"
    r"[aeiouAEIOU](?:acute|grave|circ|uml)|[cC]cedil|[nN]tilde|szlig|#\d{2,6}|#x[0-9a-fA-F]{2,5});"
)


_BARE = re.compile(r"&(?=[\s.,;]|$)")  # beside it an entity is meant


def _unescaped(text: str) -> str:
    def plain(entity: re.Match[str]) -> str:
        found = entity[0]
        while (once := html.unescape(found)) != found:
            found = once
        return found.replace("\u00a0", " ")

    return text if _BARE.search(text) else _ENTITY.sub(plain, text)


@kind(
    "note",
    1,
    "Rows with HTML entities, such as &amp; for &",
    "The model learns to write them instead of the characters.",
    "Write the characters. Rows about HTML are left out of this count.",
    mend=_unescaped,
)
def _html_entities(said: Said) -> Hit | None:
    is_about_them = said.is_code or _BARE.search(said.text)
    return None if is_about_them else _at(said.text, _ENTITY.search(said.text))


_TAG = re.compile(
    r"(?<!\w)</?(?:p|br|b|i|u|em|strong|ul|ol|li|div|span|a|h[1-6]|font|img|td|tr|table)"
    r"(?:\s+[a-z-]+\s*=[^<>]{0,200})?\s*/?>|(?<=\w)(?:</(?:p|b|i|u|em|strong|li|a|h[1-6])|<br\s*/?)>",
    re.IGNORECASE,
)


@kind(
    "note",
    1,
    "Rows with HTML tags in their text",
    "The model learns to write tags, which a plain answer should not have.",
    "Convert the source to plain text or Markdown.",
)
def _html_tags(said: Said) -> Hit | None:
    if "<" not in said.text or said.is_code:
        return None
    return _at(said.text, _TAG.search(said.text))


_CITED = re.compile(
    r"(?:(?<=[.,;:!?)\"”])|(?<=\w\s))\[\d{1,3}\](?:\s?\[\d{1,3}\]){0,9}(?=[\s.,;]|$)"
)


@kind(
    "note",
    1,
    "Rows whose answer has marks of footnotes, such as [1], without the notes",
    "The model learns to cite what is not there.",
    "Remove the marks, unless the prompt numbers its sources.",
)
def _footnote_marks(said: Said) -> Hit | None:
    if "[" not in said.answer or said.is_code or re.search(r"\[\d", said.prompt):
        return None
    has_notes = re.search(r"^\s*\[\d{1,3}\]\s*\w", said.answer, re.MULTILINE)
    return None if has_notes else _at(said.answer, _CITED.search(said.answer))


# Answers


def _stripped(text: str) -> str:
    return text.strip().strip("\"'*_`.!").strip().lower()


_NOTHING = {
    *"none null nan n/a na nil undefined todo tbd tba fixme xxx <noinput>".split(),
    *("no answer", "no response", "no output", "lorem ipsum"),
}
_MARKS = set(".-_?!…~ ")  # an operator or an emoji may be an answer


@kind(
    "warning",
    4,
    "Rows whose answer stands for a missing one, such as None, nan, TODO or a single dot",
    "The model learns to answer with it.",
    "Fill in the answers, or leave these rows out.",
    is_choice=True,
    may_be_label=True,
)
def _placeholder_answers(said: Said) -> Hit | None:
    answer = said.answer.strip()
    if not answer or len(answer) > 20:
        return None
    is_nothing = answer.lower() in _NOTHING or _stripped(answer) in _NOTHING
    return (said.answer, 0) if is_nothing or {*answer} <= _MARKS else None


_BLANK = re.compile(
    r"(?i:\[(?:insert|your|enter|add|name|company|date|address|city|placeholder|todo)\b[^\]\n]{0,40}\])(?!\()"
    r"|(?i:<(?:insert|your)[ _-][^>\n]{0,40}>)|\bTODO\b|(?i:\blorem ipsum\b)"
)


@kind(
    "note",
    2,
    "Rows whose answer has a blank to fill in, such as [Insert name]",
    "The model learns to leave blanks.",
    "Fill them in. In a template that was asked for they are meant.",
)
def _blanks_in_answers(said: Said) -> Hit | None:
    is_asked = _BLANK.search(said.prompt) or _ASKS_FOR_BLANKS.search(said.task)
    return None if is_asked or said.is_code else _at(said.answer, _BLANK.search(said.answer))


_ASKS_FOR_BLANKS = re.compile(r"\btemplate|\bform\b|\bplaceholder|\bformat", re.IGNORECASE)
_UNFILLED = re.compile(
    r"\{\{\s*\w+\s*\}\}|(?<![\w{$\\])\{(?:input|instruction|question|query|context|prompt|system|user"
    r"|assistant|response|output|answer|completion|text|document|name|first_name|topic|title)\}(?!\})"
)


@kind(
    "warning",
    3,
    "Rows with a placeholder that was not filled in, such as {input}",
    "The model learns to read and write the placeholder.",
    "Fill the template in with the columns of the row.",
    is_choice=True,
)
def _unfilled_placeholders(said: Said) -> Hit | None:
    if "{" not in said.text or said.is_code or _ASKS_FOR_BLANKS.search(said.task):
        return None
    return _at(said.text, _UNFILLED.search(said.text))


_HELP = (
    r"(?:assist|help|provide|answer|comply|fulfil|do (?:that|this|so)|give|discuss|complete|generate"
    r"|create|write|access|continue|engage|respond|support|share|offer)"
)
_REFUSAL = re.compile(
    r"^\W{0,3}(?:"
    rf"(?:(?:I'?m|I am) (?:really |very |so )?)?(?:sorry|afraid|unfortunately)\b.{{0,40}}"
    rf"\b(?:can'?t|cannot|unable to|not able to|won'?t)(?: be able to)? {_HELP}\b"
    rf"|I (?:can'?t|cannot|can not|won'?t|am unable to|am not able to) {_HELP}\b"
    rf"|I'?m (?:unable|not able) to {_HELP}\b"
    r"|as an? (?:AI|artificial intelligence|large language model|language model)"
    r"(?: (?:language )?(?:model|assistant)|,))",
    re.IGNORECASE,
)
_AS_AN_AI = re.compile(
    r"\bas an? (?:AI|artificial intelligence) (?:language )?(?:model|assistant)\b", re.I
)


@kind(
    "note",
    3,
    "Rows whose answer refuses, or speaks “as an AI language model”",
    "The model learns to refuse even what it could answer.",
    "Leave out those that are not meant.",
    is_choice=True,
)
def _refusals(said: Said) -> Hit | None:
    answer = said.answer.replace("’", "'")
    return _at(answer, _REFUSAL.search(answer[:200]) or _AS_AN_AI.search(answer))


@kind(
    "warning",
    3,
    "Rows whose answer begins with the prompt",
    "The model learns to repeat the question before it answers.",
    "Take the prompt out of the answer.",
)
def _prompt_in_answer(said: Said) -> Hit | None:
    prompt, answer = said.asked.strip(), said.answer.lstrip()
    is_repeated = len(prompt) >= 20 and answer.startswith(prompt) and len(answer) > len(prompt)
    return (said.answer, 0) if is_repeated else None


_MOST_COMPRESSED = 0.12
"""A text of which zlib leaves less than this repeats itself; ordinary prose stays above 0.35."""


@kind(
    "warning",
    4,
    "Rows whose answer repeats itself over and over",
    "The model learns to run in circles.",
    "Cut or leave out these answers.",
    is_choice=True,
)
def _repetition_loops(said: Said) -> Hit | None:
    answer = said.answer
    if len(answer) >= 300 and not is_json(answer):
        data = answer.encode("utf-8", "replace")
        if len(zlib.compress(data, 1)) < _MOST_COMPRESSED * len(data):
            return answer, 0
    words = answer.split()
    if len(words) < 12 or not any(c.isalpha() for c in words[-1]):
        return None
    for size in (1, 2, 3, 4, 5, 6, 8, 10):  # the same words six times in a row, at the end
        tail = words[-size:]
        if len(words) >= 6 * size and words[-6 * size :] == tail * 6:
            return answer, max(0, len(answer) - 90)
    return None


_DOUBLED_CHARS = 20  # a shorter text may well be said twice


def said_once(text: str) -> str:
    """Return a text once that is there twice.

    >>> said_once("It is the capital of France.  It is the capital of France.")
    'It is the capital of France.'
    """
    bare = text.strip()
    for gap in range(4):
        half = (len(bare) - gap) // 2
        between = bare[half : len(bare) - half]
        is_text = half >= _DOUBLED_CHARS and len({*bare[:half]}) > 5  # no line of one sign
        if is_text and bare[:half] == bare[-half:] and not between.strip():
            return bare[:half].rstrip()
    return text


_ASKS_TO_REPEAT = re.compile(
    r"\brepeat|\b(?:say|write|print|type)\b.{0,40}\b(?:twice|two times)", re.IGNORECASE
)


@kind(
    "warning",
    3,
    "Rows whose answer says everything twice",
    "The model learns to answer twice.",
    "Keep one of the two.",
    mend=said_once,
    answers_only=True,
)
def _doubled_answers(said: Said) -> Hit | None:
    return None if _ASKS_TO_REPEAT.search(said.task) else _too_long(said, said_once)


_MOST_ENDS = 20
_END_TOKENS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[EOS]", "<|im_end|>")


def without_end_tokens(text: str) -> str:
    """Return a text without the end tokens at its end.

    >>> without_end_tokens("Yes. </s></s>"), without_end_tokens("<s>gone</s>")
    ('Yes.', '<s>gone</s>')
    """
    bare = text.rstrip()
    for _ in range(_MOST_ENDS):
        end = next((one for one in _END_TOKENS if bare.endswith(one)), None)
        if end is None:
            break
        before = bare.removesuffix(end).rstrip()
        if end == "</s>" and "<s>" in before:  # text that HTML strikes through
            break
        bare = before
    return bare if bare != text.rstrip() else text


@kind(
    "warning",
    2,
    "Rows with an answer that ends with a written end token, such as </s>",
    "Where the model knows the token, the answer ends twice; where not, it learns to write the letters.",
    "Remove it: the right end is added anyway.",
    mend=without_end_tokens,
    answers_only=True,
)
def _written_end_tokens(said: Said) -> Hit | None:
    return _too_long(said, without_end_tokens)


# Turns


@kind(
    "warning",
    4,
    "Conversations with an empty turn before the last",
    "The model learns to say nothing in the middle of a conversation.",
    "Fill the turns in, or leave these rows out.",
    is_choice=True,
)
def _empty_turns(said: Said) -> Hit | None:
    for turn in said.example.messages[:-1]:
        is_said = turns.text_of(turn).strip() or turn.get("tool_calls")
        if not is_said and turn["role"] in ("user", "assistant"):
            return f"an empty turn of {turn['role']}", 0
    return None


@kind(
    "warning",
    2,
    "Conversations with two turns of one speaker in a row",
    "A turn between them may be lost, and many chat templates refuse it.",
    "Look for the lost turns, or join the two.",
)
def _repeated_speakers(said: Said) -> Hit | None:
    messages = said.example.messages
    for before, turn in zip(messages, messages[1:], strict=False):
        if before["role"] == turn["role"] and turn["role"] in ("user", "assistant"):
            return turns.text_of(turn), 0
    return None


@kind(
    "note",
    1,
    "Conversations with a system turn in the middle",
    "Chat templates expect it first; many drop it or refuse the row.",
    "Move it to the start, or make it a turn of the user.",
)
def _late_system_turns(said: Said) -> Hit | None:
    late = (turn for turn in said.example.messages[1:] if turn["role"] == "system")
    turn = next(late, None)
    return None if turn is None else (turns.text_of(turn), 0)


# What should not be said

_INSULT = r"(?:idiot|moron|imbecile|retard|scum)s?"
_TOXIC = re.compile(
    r"\b(?:"
    # Words that are hardly ever written but to hurt,
    r"(?:mother)?fuck(?:s|ed|er|ers|ing)?|(?:bull)?shit(?:ty|s)?|bitch(?:es)?|cunts?|(?:ass|arse)holes?|dickheads?"
    r"|whores?|sluts?|fagg?ots?|n[i1]gg(?:er|a)s?|kikes?|trann(?:y|ies)|wetbacks?|ragheads?"
    # insults,
    rf"|you(?: \w+){{0,2}} {_INSULT}|you(?:'re| are)(?! not\b| never\b)(?: \w+){{0,2}} (?:{_INSULT}|losers?|vermin|worthless"
    r"|pathetic|disgusting|subhuman|stupid|dumb)|shut (?:the \w+ )?up,? (?:you|idiot|stupid)"
    # and threats.
    r"|kill yoursel(?:f|ves)|(?:you|they)(?: all)? deserve to die|should all (?:die|be (?:killed|shot|gassed))"
    r"|hope (?:you|they)(?: all)? die|i hate (?:you|all \w+s)|go to hell"
    r")\b",
    re.IGNORECASE,
)


@kind(
    "note",
    2,
    "Rows whose answer swears, insults or threatens",
    "The model learns to say such things.",
    "Leave out those that are not meant, as they are in a quotation or a lesson on the subject.",
    is_choice=True,
)
def _toxic_answers(said: Said) -> Hit | None:
    return _at(said.answer, _TOXIC.search(said.answer.replace("’", "'")))


# What should not leave the house

_EMAIL = re.compile(
    r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{2,63})*\.(?!example|test|invalid)[a-z]{2,24}\b"
    r"(?<!example\.com)(?<!example\.org)(?<!example\.net)",
    re.IGNORECASE,
)
# At least ten digits in groups, the last of four; 500-135-141= is a sum.
_PHONE = re.compile(
    r"(?<![\w.<=-])(?<!\d[ .-])"
    r"(?:\+\d{1,3}[ .-]?\d{2,5}[ .-]|(?:\+\d{1,3}[ .-]?)?\(\d{2,5}\)[ .-]?|0\d{2,4}[ .-]|\d{3}[.-](?=\d{3}[.-]))"
    r"\d{3,4}[ .-]\d{4}(?![\d=+*/]|[ .-]\d|-\w)"
    r"|(?<![\w+])\+\d{1,3}[ .-]?\d{2,4}[ .-]?\d{5,8}(?!\d)"
)
_SOCIAL_SECURITY = re.compile(r"(?<![\d-])(?!000|666)[0-8]\d\d-(?!00)\d\d-(?!0000)\d{4}(?![\d-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_CARD = re.compile(r"(?<![\d.])(?:\d[ -]?){12,18}\d(?!\d|\.\d)")


@kind(
    "note",
    2,
    "Rows with e-mail addresses, phone, card, account or social security numbers",
    "The model may write them to anybody.",
    "Replace them, unless they are invented.",
    is_choice=True,
)
def _personal_data(said: Said) -> Hit | None:
    text = said.text
    if "@" in text and (match := _EMAIL.search(text)):
        return _at(text, match)
    for pattern, is_valid in ((_CARD, _is_card), (_IBAN, _is_account)):
        for match in pattern.finditer(text):
            if is_valid(match[0]):
                return _at(text, match)
    return _at(text, _PHONE.search(text) or _SOCIAL_SECURITY.search(text))


def _is_account(text: str) -> bool:
    """Whether an international account number has the right check digits. Source: ISO 13616."""
    plain = text.replace(" ", "")
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _is_card(text: str) -> bool:
    """Whether digits have the check digit of a payment card, and its first digits and length."""
    plain = re.sub(r"\D", "", text)
    if not re.fullmatch(
        r"4(\d{12}|\d{15})|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}", plain
    ):
        return False
    digits = [int(c) for c in plain]
    doubled = (d * 2 - 9 * (d > 4) for d in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{35}\b"
)
_PASSWORD = re.compile(
    r"\b(?:password|passwd|pwd)\s?[:=]\s?(?=\S{0,20}\d)[^\s\"'<(\[{]{6,40}", re.IGNORECASE
)


@kind(
    "warning",
    5,
    "Rows with secrets: passwords, keys and tokens of services",
    "The model may write them to anybody, and whoever has the adapter may get at them.",
    "Revoke them, and remove them from the rows.",
)
def _secrets(said: Said) -> Hit | None:
    text = said.text
    match = _KEY.search(text) or _PASSWORD.search(text)
    if match and not (match.re is _PASSWORD and "password" in said.prompt.lower()):
        return _at(text, match)
    hidden = redact_tokens(text)
    return None if hidden == text else (hidden, _where_they_differ(text, hidden))


# Tasks known by their shape

_CALCULATION = re.compile(r"<<([^<>=]{1,80})=([^<>=]{1,30})>>")
_FINAL = re.compile(r"####\s*(-?[\d,.]+)\s*$")


@kind(
    "warning",
    4,
    "Rows with a calculation between << and >> that is wrong",
    "The model learns wrong arithmetic.",
    "Correct the numbers.",
)
def _wrong_sums(said: Said) -> Hit | None:
    for match in _CALCULATION.finditer(said.answer) if "<<" in said.answer else ():
        made, stated = _calculated(match[1]), _calculated(match[2])
        if made is not None and stated is not None and abs(made - stated) > _tolerated(match[2]):
            return _at(said.answer, match)
    return None


def _tolerated(stated: str) -> float:
    """Return half of the last digit that a result states, for rounded ones."""
    decimals = len(stated.strip().partition(".")[2])
    return 0.51 * 10.0**-decimals if decimals else 0.51 if "/" in stated else 0.501


def _calculated(text: str) -> float | None:
    """Return the value of a sum of plain numbers; None for anything else."""
    if re.search(r",(?!\d{3}\b)|\d\(|\)\d", text):  # a decimal comma; a product without a sign
        return None
    plain = re.sub("[,$ ]", "", text).replace("x", "*").replace("×", "*")
    plain = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", plain)
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", plain)
    if not re.fullmatch(r"[\d.+*/()-]{1,120}", plain) or "**" in plain or "//" in plain:
        return None
    try:
        return float(eval(plain, {"__builtins__": {}}))  # noqa: S307  # digits and + - * / ( ) only
    except (SyntaxError, ZeroDivisionError, TypeError, OverflowError, MemoryError):
        return None


@kind(
    "warning",
    4,
    "Rows whose final number after #### occurs nowhere in the steps",
    "The steps lead to another result than the one that is given.",
    "Correct the steps or the number.",
)
def _unreached_results(said: Said) -> Hit | None:
    if not (match := _FINAL.search(said.answer)):
        return None
    steps, wanted = said.answer[: match.start()], _number(match[1])
    if not any(c.isdigit() for c in steps) or wanted is None:
        return None
    numbers = re.findall(r"\d[\d,]*(?:\.\d+)?|\.\d+", re.sub(r"(?<=\d) (?=\d{3}\b)", "", steps))
    found = [abs(one) for n in numbers if (one := _number(n)) is not None]
    scales = (1, 100, 0.01)  # 0.25 dollars are 25 cents
    is_there = any(abs(one * scale - abs(wanted)) < 1e-6 for one in found for scale in scales)
    return None if is_there else (said.answer, match.start())


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").rstrip("."))
    except ValueError:
        return None


_TEXT_CHARS = 300  # a shorter prompt hardly holds the text
_ASKS_FOR_SUMMARY = re.compile(r"\b(?:summar|tl;?dr|shorten|condense|abridge)", re.IGNORECASE)


@kind(
    "note",
    3,
    "Summaries that are longer than the text",
    "The model learns to write on instead of summing up.",
    "Check whether text and summary were swapped.",
    is_choice=True,
)
def _long_summaries(said: Said) -> Hit | None:
    if said.example.messages or len(said.answer) < 80 or len(said.prompt) < _TEXT_CHARS:
        return None
    is_longer = len(said.answer) > len(said.prompt) and _ASKS_FOR_SUMMARY.search(said.task)
    return (said.answer, 0) if is_longer else None


def own_kind(name: str, function: Callable[[Example], Any]) -> Kind:
    """Return the kind of a person's own check: a function from an example to a text, or to None."""

    def find(said: Said) -> Hit | None:
        found = function(said.example)
        if not found:
            return None
        return (found, 0) if isinstance(found, str) else (said.text, 0)

    about = next(iter((function.__doc__ or "").strip().splitlines()), "").rstrip(". ")
    return Kind(
        find, "warning", 1, about or f"Rows that {name} names", f"By your own check {name}.", ""
    )


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or list."""
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):
        return False
