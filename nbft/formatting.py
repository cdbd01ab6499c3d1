"""Formats numbers for the form, the monitor, the command line and reports."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

_JOINER = "\u200d"  # joins the parts of an emoji
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def count(number: float, noun: str = "") -> str:
    """Format a whole number with thousands separators, and what it counts.

    Args:
        number: The number.
        noun: What is counted, in the singular; its plural ends in "s".

    >>> count(41200), count(1, "row"), count(300, "row")
    ('41,200', '1 row', '300 rows')
    """
    if not noun:
        return f"{number:,.0f}"
    return f"{number:,.0f} {noun}" + ("" if number == 1 else "s")


def listed(names: Sequence[str], most: int = 10) -> str:
    """List names, and how many more there are.

    >>> listed(["a", "b"]), listed(["a", "b", "c", "d"], 2)
    ('a, b', 'a, b and 2 more')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shortened(text: str, most_chars: int) -> str:
    """Return a text; a longer one is cut off.

    >>> shortened("a long name", 7), shortened("short", 7)
    ('a long…', 'short')
    """
    return text if len(text) <= most_chars else f"{text[: most_chars - 1]}…"


def one_line(text: str, most_chars: int = 60) -> str:
    r"""Return a name that somebody else chose as a label: one line, printable, not too long.

    >>> one_line("my\nscore \x1b[31m" + "x" * 60, 20)
    'my score [31mxxxxxx…'
    """
    words = " ".join(text.split())
    label = "".join(c for c in words if c.isprintable() or c == _JOINER)
    if text and not label:
        return "(no name)"
    return shortened(label, most_chars)


def aligned(lines: Sequence[Sequence[str]], to: str = "<") -> str:
    """Return lines of cells as text in columns.

    >>> print(aligned([("run", "step"), ("kind-otter-14", "41")]))
    run            step
    kind-otter-14  41

    Args:
        lines: The cells of each line.
        to: Their side, < or >.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = (zip(line, widths, strict=True) for line in lines)
    return "\n".join("  ".join(f"{c:{to}{w}}" for c, w in line).rstrip() for line in shown)


def number(value: float) -> str:
    """Format a measured value with three significant digits.

    >>> [number(v) for v in (1.4, 0.8, 238, 12345, 2e-4, 0, float("nan"))]
    ['1.40', '0.800', '238', '12,345', '2e-4', '0', 'not a number']
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    if value == 0:
        return "0"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    if 0.01 <= abs(value) < 1000:
        return f"{value:#.3g}".rstrip(".")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def duration(seconds: float) -> str:
    """Format a time span in its two largest units.

    >>> [duration(s) for s in (0.42, 7, 112, 7500, 100_000)]
    ['0.4 s', '7 s', '1 min 52 s', '2 h 5 min', '1 d 3 h']
    """
    if not math.isfinite(seconds):
        return number(seconds)
    if seconds < 1:
        return f"{seconds:.1f} s"
    left = round(seconds)
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    for (large, size), (small, part) in itertools.pairwise(units):
        if left >= size:
            rest = left % size // part
            return f"{left // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{left} s"


def size(size_bytes: float) -> str:
    """Format an amount of memory or disk space.

    >>> [size(n) for n in (0, 512, 1024, 2_040_109_466, 80 * 2**30)]
    ['0 B', '512 B', '1.0 KiB', '1.9 GiB', '80 GiB']
    """
    for unit in _BINARY_UNITS:
        if abs(size_bytes) < 1024 or unit == _BINARY_UNITS[-1]:
            break
        size_bytes /= 1024
    digits = 1 if unit != "B" and abs(size_bytes) < 10 else 0
    return f"{size_bytes:.{digits}f} {unit}"
