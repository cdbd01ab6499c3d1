"""Notebooks and scripts as Python statements, without the commands of IPython. Nothing is executed.

Each cell of a notebook is parsed on its own, so that one that cannot be read is passed over and named.
Lines count on through all cells; `Statements.place` says which cell a line is of. Called by `read`.
"""

from __future__ import annotations

import ast
import bisect
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nbft.errors import ConfigError
from nbft.syntax import invalid, position


class Place(NamedTuple):
    """Where something stands: a line of a script, or of a cell of a notebook.

    Attributes:
        line: Counted from 1, in its cell where there is one.
        cell: Counted from 1 over all cells of the notebook; 0 in a script.
    """

    line: int
    cell: int = 0

    def __str__(self) -> str:
        return f"cell {self.cell}, line {self.line}" if self.cell else f"line {self.line}"


@dataclass
class Statements:
    """The code of a file.

    Attributes:
        body: Its statements; their line numbers count on through all cells.
        remarks: Sentences on what was passed over.
        starts: Line before the first of each cell that has code, ascending; empty for a script.
        cells: Numbers of these cells.
        written: Scripts that the notebook writes with %%writefile, by name.
    """

    body: list[ast.stmt] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)

    def __deepcopy__(self, _memo: object) -> Statements:
        """Return itself: it does not change once it is read."""
        return self

    def place(self, line: int) -> Place:
        """Return the place of a line that counts through all cells."""
        number = bisect.bisect_left(self.starts, line) - 1
        if number < 0:
            return Place(line)
        return Place(line - self.starts[number], self.cells[number])


def read_script(path: Path, text: str) -> Statements:
    """Read a Python script, which may hold commands of IPython (as Colab exports them).

    Raises:
        ConfigError: It is not valid Python.
    """
    statements = Statements()
    try:
        statements.body = _parsed(text)
    except (SyntaxError, ValueError):
        try:
            statements.body = _parsed(without_commands(text))
        except SyntaxError as error:
            place = position(error.lineno or 1, error.offset or 1)
            raise ConfigError(f"{path} {place}: {invalid('Python', error.msg)}") from None
        except (ValueError, MemoryError) as error:
            raise ConfigError(f"{path}: {invalid('Python', error)}") from None
    return statements


def read_notebook(path: Path, text: str, largest: int) -> Statements:
    """Read the code cells of a notebook.

    Args:
        path: The file, for messages.
        text: Its content.
        largest: Most characters of code.

    Raises:
        ConfigError: It is not a notebook, or has no code that can be read.
    """
    sources = list(_sources(path, text))
    if sum(len(source) for _, source in sources) > largest:
        raise ConfigError(
            f"{path}: has more than {largest:,} characters of code, too many to read."
        )
    if not any(source.strip() for _, source in sources):
        raise ConfigError(f"{path}: has no code cells, so there is no training to import.")
    statements = Statements()
    line = 0
    for number, source in sources:
        statements.starts.append(line)
        statements.cells.append(number)
        _read_cell(source, number, line, statements)
        line += source.count("\n") + 1
    if not statements.body and not statements.written:
        why = statements.remarks[0] if statements.remarks else "All cells hold commands only."
        raise ConfigError(f"{path}: has no Python code that can be read. {why}")
    return statements


def _sources(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the source of each code cell."""
    try:
        content = json.loads(text)
    except ValueError:
        raise ConfigError(f"{path}: is not a notebook: it is not valid JSON.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is not a notebook: it has no cells.")
    cells = content.get("cells")
    if cells is None and isinstance(sheets := content.get("worksheets"), list):  # nbformat 3
        cells = [c for sheet in sheets if isinstance(sheet, dict) for c in sheet.get("cells", [])]
    if not isinstance(cells, list):
        raise ConfigError(f"{path}: is not a notebook: it has no cells.")
    for number, cell in enumerate(cells, start=1):
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            source = cell.get("source", cell.get("input", ""))
            yield number, "".join(map(str, source)) if isinstance(source, list) else str(source)


_CELL_MAGIC = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]*%%(\S+)[ \t]*([^\n]*)")

_PYTHON_MAGICS = {
    *("capture", "time", "timeit", "prun", "memit", "mprun", "debug", "wandb", "notify"),
    *("px", "skip_if", "track", "measure"),
}
"""Cell magics whose cell is Python that runs in the kernel."""

_OTHER_MAGICS = {
    *("bash", "sh", "script", "cmd", "system", "sx", "!", "perl", "ruby", "javascript", "js"),
    *("html", "HTML", "SVG", "svg", "latex", "markdown", "writefile", "file", "python", "python2"),
    *("python3", "pypy", "sql", "cython", "R", "julia", "powershell", "configure", "shell"),
}
"""Cell magics whose cell is something else, or runs outside the kernel."""


def _read_cell(source: str, number: int, line: int, statements: Statements) -> None:
    """Add the statements of a cell that starts after a line."""
    remark = ""
    if head := _CELL_MAGIC.match(source):
        magic, arguments, rest = head[1], head[2].split(), source[head.end() :]
        if magic in ("writefile", "file") and arguments and arguments[-1].endswith(".py"):
            statements.written[arguments[-1]] = rest.removeprefix("\n")
        if magic in _OTHER_MAGICS:
            return
        if magic not in _PYTHON_MAGICS:
            remark = f"Cell {number}: %%{magic} is not known here; the cell is read as Python."
        source = "\n" * source[: head.end()].count("\n") + rest
    try:
        body = _parsed(without_commands(source))
    except SyntaxError as error:
        last = source.count("\n") + 1
        place = str(Place(min(error.lineno or 1, last), number)).capitalize()
        remark = f"{place}: the cell is passed over; it {invalid('Python', error.msg)}"
        body = []
    except (ValueError, MemoryError, RecursionError) as error:
        remark, body = f"Cell {number}: is passed over; it {invalid('Python', error)}", []
    statements.remarks += [remark] if remark else []
    for node in body:
        ast.increment_lineno(node, line)
    statements.body += body


def _parsed(text: str) -> list[ast.stmt]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escape sequences
        return ast.parse(text).body


# Commands of IPython

_ASSIGNED = re.compile(r"(\s*[\w.,\[\]'\" *()]+=\s*)[!%](?!=)")
_TIMED = re.compile(r"((?:\s*[\w., ]+=)?\s*)%(?:time|prun|memit)\s+(?!-)(.+)")
_HELP = re.compile(r"\s*[%\w.*]+\s*\?{1,2}\s*(#.*)?")


def without_commands(text: str) -> str:
    r"""Return code with a Python statement in the place of each command of IPython.

    Lines and indentation stay. Lines within brackets and strings are no commands.

    >>> without_commands("if True:\n    !pip install a \\\n        b\nx = !ls\nx?\n")
    'if True:\n    pass\n\nx = get_ipython()\npass\n'
    """
    lines = text.split("\n")
    scan = _Scan()
    number = 0
    while number < len(lines):
        line = lines[number]
        if not scan.is_inside:
            stripped = line.lstrip()
            indent = line[: len(line) - len(stripped)]
            assigned = _ASSIGNED.match(line)
            if timed := _TIMED.fullmatch(line):
                line = lines[number] = timed[1] + timed[2]
            elif stripped[:1] in ("!", "%", "?") or _HELP.fullmatch(line):
                number = _blank_continued(lines, number, f"{indent}pass")
                continue
            elif assigned:
                number = _blank_continued(lines, number, f"{assigned[1]}get_ipython()")
                continue
        scan.read(line)
        number += 1
    return "\n".join(lines)


def _blank_continued(lines: list[str], number: int, instead: str) -> int:
    """Replace a command with the lines that continue it; return the number of the next line."""
    goes_on = lines[number].rstrip().endswith("\\")
    lines[number] = instead
    number += 1
    while goes_on and number < len(lines):
        goes_on = lines[number].rstrip().endswith("\\")
        lines[number] = ""
        number += 1
    return number


_TOKEN = re.compile(
    r"""(?P<quote>\"\"\"|'''|"|')|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<comment>\#.*)|\\.?|[^"'()\[\]{}\\#]+"""
)


class _Scan:
    """Follows whether a line starts within a string or brackets, or continues the one before."""

    def __init__(self) -> None:
        self._quote, self._depth, self._goes_on = "", 0, False

    @property
    def is_inside(self) -> bool:
        return bool(self._quote) or self._depth > 0 or self._goes_on

    def read(self, line: str) -> None:
        at = 0
        self._goes_on = False
        while at < len(line):
            if self._quote:
                at = self._close(line, at)
                continue
            match = _TOKEN.match(line, at)
            assert match is not None
            at = match.end()
            self._quote = match["quote"] or ""
            self._depth = max(0, self._depth + bool(match["open"]) - bool(match["close"]))
            self._goes_on = at == len(line) and match[0] == "\\"
        if len(self._quote) == 1 and not line.endswith("\\"):
            self._quote = ""  # not closed on its line: not valid, and reported by the parser

    def _close(self, line: str, at: int) -> int:
        """Return the place after the end of the open string, or the end of the line."""
        while at < len(line):
            if line[at] == "\\":
                at += 2
            elif line.startswith(self._quote, at):
                at += len(self._quote)
                self._quote = ""
                return at
            else:
                at += 1
        return len(line)
