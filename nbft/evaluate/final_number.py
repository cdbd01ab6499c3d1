r"""The number that an answer ends in, in whatever form it is written.

Signs, currencies, percent signs, separators of thousands, decimal commas, fractions and LaTeX are
read; marks of lists, exponents of units and digits inside words are no numbers. Nothing is computed:
of "3 x 4" the last number is 4.

Source: grade-school-math, dataset.py, `extract_answer`, for what follows "####"; lm-evaluation-harness,
the "flexible" extraction of GSM8K, for the last number of a text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

_SIGN = "[-+\u2010-\u2013\u2212\ufe63\uff0d]"
_CURRENCY = r"(?:[$€£¥₹₩]|\b(?:US\$|USD|EUR|GBP|CHF|INR|JPY|CNY|Rs\.?))"
_SPACE = "[ \u00a0\u2009\u202f'’]"  # between thousands
_DIGITS = (
    r"\d{1,3}(?:,\d{2,3})*,\d{3}(?![\d,])(?:\.\d+)?"  # 1,234.5
    r"|\d{1,3}(?:\.\d{3})+,\d+(?![\d,])|\d{1,3}(?:\.\d{3}){2,}(?!\d)"  # 1.234,5
    rf"|\d{{1,3}}(?:{_SPACE}\d{{3}})+(?!\d)(?:[.,]\d+)?"  # 1 234,5
    r"|(?<!\d,)\d+,\d{1,2}(?![\d,])"  # 1,5
    r"|\d+(?:\.\d+)?(?:[eE]-?\d+)?|(?<!\w)\.\d+"
)
_POWER_OF_TEN = rf"\s?[x×*·]\s?10\^\{{?({_SIGN}?\d+)\}}?"
_NUMBER = re.compile(
    rf"(?<![\d/.])(?:(?P<whole>\d+)\s)?(?P<above>\d+)\s?/\s?(?P<below>\d+)(?!\d|/|\.\d)"
    rf"|(?P<digits>{_DIGITS})(?:{_POWER_OF_TEN})?"
)
_IS_NEGATIVE = re.compile(
    rf"(?:(?<![\w.)\]])(?P<sign>{_SIGN})"
    rf"|(?:[=(\[{{]|\#\#\#\#)[ \t]*(?P<apart>{_SIGN})[ \t]"
    rf"|(?:^|[^\d\s)%])\s*\b(?:minus|negative)\s)(?:{_CURRENCY}\s?)?$",
    re.IGNORECASE,
)
_SIGN_BEHIND_CURRENCY = re.compile(rf"{_CURRENCY}\s?({_SIGN})$")
_INSIDE_WORD = re.compile(r"(?:[^\W\d_]|[\^_]\{?)$")
_CURRENCY_BEFORE = re.compile(rf"{_CURRENCY}\s?$")
_CONTEXT_CHARS = 24
_ALONE = re.compile(
    rf"\s*(?:minus\s|negative\s)?{_SIGN}?\s?{_CURRENCY}?\s?{_SIGN}?"
    rf"(?:{_NUMBER.pattern})\s?(?:%|{_CURRENCY})?\s?\.?\s*".replace("?P<", "?P<alone_"),
    re.IGNORECASE,
)
_HASHES = "####"
_MARK = re.compile(r"^([ \t]*)(\d{1,2})[.)](?=[ \t]+\S)", re.MULTILINE)


def final_number(text: str) -> Decimal | None:
    r"""Return the number that an answer ends in, or None if there is none.

    It is the number after the first "####", as in GSM8K, or else that in the last \boxed{…}, or else
    the last of the text.

    >>> [str(final_number(t)) for t in ("3 + 4 = 7\n#### 1,234.", "It costs $5.50", "so 40% .")]
    ['1234', '5.50', '40']
    >>> [str(final_number(t)) for t in ("The total is:\n- 12", r"\boxed{-\frac{3}{4}}", "12 m^2")]
    ['12', '-0.75', '12']
    >>> final_number("#### 72") == final_number("It is 72.0.")
    True
    >>> final_number("none")
    """
    text = _plain(text)
    begin = text.find(_HASHES)
    if begin >= 0:
        begin += len(_HASHES)
        begin += len(text[begin:]) - len(text[begin:].lstrip())
        end = text.find("\n", begin)
        for number in _numbers(text, begin, len(text) if end < 0 else end):
            return number
    if (boxed := _boxed(text)) is not None:
        for number in reversed([*_numbers(boxed)]):
            return number
    return next(reversed([*_numbers(text)]), None)


def is_number(text: str) -> bool:
    """Whether a text is a number and nothing else."""
    return _ALONE.fullmatch(_plain(text)) is not None


def states_number(text: str) -> bool:
    r"""Whether a text is a number, or marks one as its answer by "####" or \boxed{…}."""
    text = _plain(text)
    marked = [text.partition(_HASHES)[2].strip().partition("\n")[0], _boxed(text) or ""]
    return _ALONE.fullmatch(text) is not None or any([*_numbers(part)] for part in marked)


def ends_in_hashes(text: str) -> bool:
    r"""Whether a text ends in "####" and a number.

    >>> ends_in_hashes("so it is 4\n#### 4"), ends_in_hashes("#### four")
    (True, False)
    """
    return _HASHES in text and is_number(text.rpartition(_HASHES)[2])


def _numbers(text: str, begin: int = 0, end: int | None = None) -> Iterator[Decimal]:
    """Yield the numbers between two places of a text; those inside words only if there are no others."""
    found = []
    for match in _NUMBER.finditer(text, begin, len(text) if end is None else end):
        before = text[max(0, match.start() - _CONTEXT_CHARS) : match.start()]
        try:
            value = _value(match)
        except InvalidOperation:
            continue
        sign = _IS_NEGATIVE.search(before) or _SIGN_BEHIND_CURRENCY.search(before)
        if sign and "+" not in sign[0]:
            value = -value
        is_inside = _INSIDE_WORD.search(before) and not _CURRENCY_BEFORE.search(before)
        found.append((value, bool(is_inside)))
    every = all(is_inside for _, is_inside in found)
    yield from (value for value, is_inside in found if every or not is_inside)


def _value(match: re.Match[str]) -> Decimal:
    if (digits := match["digits"]) is None:
        above, below = Decimal(match["above"]), Decimal(match["below"])
        return Decimal(match["whole"] or 0) + above / below if below else below
    digits = re.sub(_SPACE, "", digits)
    is_decimal_comma = "," in digits and (
        digits.rfind(",") > digits.rfind(".") > -1 or not re.search(r",\d{3}(?!\d)", digits)
    )
    if is_decimal_comma or digits.count(".") > 1:
        digits = digits.replace(".", "").replace(",", ".")
    value = Decimal(digits.replace(",", ""))
    if power := match[match.re.groups]:
        value = value.scaleb(int(re.sub(_SIGN, lambda s: s[0] if s[0] == "+" else "-", power)))
    return value


def _plain(text: str) -> str:
    """Return a text without LaTeX around numbers and without the numbers of numbered lists."""
    text = re.sub(r"(\d)?\\[dt]?frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?", _fraction, text)
    text = re.sub(r"\\[!,;: ](?=\d{3})|\{,\}(?=\d)", ",", text)
    text = re.sub(r"\\([$%#])|\\(?:text|mathrm|mbox)\b", r"\1", text)
    for character in {c for c in text if unicodedata.decomposition(c).startswith("<fraction>")}:
        fraction = unicodedata.normalize("NFKC", character).replace("\u2044", "/")
        text = re.sub(rf"(?<=\d){character}", f" {fraction}", text).replace(character, fraction)
    return _without_marks(text)


def _fraction(match: re.Match[str]) -> str:
    whole = f"{match[1]} " if match[1] else ""
    return f"{whole}{match[2]}/{match[3]}"


def _without_marks(text: str) -> str:
    """Remove the numbers of a list that counts from 1; a sentence may begin with a number as well."""
    marks, last = [], 0
    for match in _MARK.finditer(text):
        if int(match[2]) == last + 1:
            marks.append(match)
            last += 1
    if last < 2:
        return text
    for match in reversed(marks):
        text = text[: match.end(1)] + text[match.end() :]
    return text


def _boxed(text: str) -> str | None:
    r"""Return what is in the last \boxed{…}."""
    begin = text.rfind("\\boxed{")
    if begin < 0:
        return None
    begin += len("\\boxed{")
    depth = 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[begin:end]
    return text[begin:]
