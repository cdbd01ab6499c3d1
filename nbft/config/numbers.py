"""Numbers as people type them, with commas. Called for fields, overrides and the fixes of problems."""

from __future__ import annotations

import re

_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
_BOTH = re.compile(r"[+-]?\d{1,3}(\.\d{3})*,\d+")


def read_number(text: str) -> int | float | None:
    """Return the number that a text is; None if it is none, or could be two.

    A comma before groups of three digits separates thousands, another one is a decimal point.

    >>> [read_number(text) for text in ("5e-5", "1,024", "0,0003", "3e-4,", "1.000,5", "fast")]
    [5e-05, 1024, 0.0003, 0.0003, None, None]
    """
    text = text.strip().removesuffix(",")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def likely_number(text: str) -> float | None:
    """Return the number that a text with a point before a comma probably is; None for another text.

    >>> likely_number("1.000,5"), likely_number("1,024")
    (1000.5, None)
    """
    if not _BOTH.fullmatch(text.strip()) or "." not in text:
        return None
    return float(text.replace(".", "").replace(",", "."))
