"""Rows of tables as people keep them: CSV and TSV as spreadsheet programs write them, and workbooks.

Finds the separator, the encoding and the column names, and says what was not as it should be. The
numbers of rows are those that a spreadsheet program shows. Called by `sources` and `lines`.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import datetime
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nbft.formatting import count, listed, one_line
from nbft.progress import open_told
from nbft.syntax import invalid

TEXTS = {".csv": ",", ".tsv": "\t"}
"""Endings of text tables, and the separator that each promises."""

WORKBOOKS = (".xlsx", ".ods")

FORMATS = (*TEXTS, *WORKBOOKS)

Cells = Sequence[str | None]
Item = dict[str, str | None] | str | None
_Filled = dict[int, str]
"""The cells of a row that are not empty, by place from 0."""

_HEAD_BYTES = 32 * 2**20
"""How much of a text decides its encoding, and what its quotes mean in a table with tabs."""

_HEAD_CHARACTERS = 2**20
_HEAD_ROWS = 10_000
"""Rows that are read to find out which columns are empty."""

_SNIFFED_ROWS = 200
_NAMES_SHOWN = 5


FIX_ROW = "Fix or remove the row."


class TableError(ValueError):
    """Why a table cannot be read, as a sentence, and what to do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


class Table:
    """The rows of a table by the names in its first row that has any.

    Iteration yields an item for each row of the file, from the first: the cells by column; None
    where nothing is to be trained on (the names, a title, an empty row); or, as a sentence, why the
    row cannot be used.

    Args:
        records: Returns the cells of each row, "" or None where one is empty.
        remarks: What is known about the file already.
        titles: Numbers of rows in which one cell is as wide as several columns.

    Attributes:
        names: Name of each column; None for one that is left out.
        skipped_rows: Rows above the first one below the names, as a plain reader counts them.
        encoding, separator: Of a text.
        sheet: The sheet of a workbook.
        remarks: Sentences on how the file was read; complete after an iteration.
    """

    encoding = separator = sheet = ""

    def __init__(
        self,
        records: Callable[[], Iterable[Cells]],
        remarks: Iterable[str] = (),
        titles: Collection[int] = (),
    ) -> None:
        self._records, self._titles = records, titles
        self.remarks = list(remarks)
        head = list(itertools.islice(records(), _HEAD_ROWS))
        self._header = self._find_header(head)
        self.names = self._name_columns(head)
        self.skipped_rows = self._header

    def __iter__(self) -> Iterator[Item]:
        names, header = self.names, self._header
        used = [(place, name) for place, name in enumerate(names) if name is not None]
        whole = [name for _, name in used] if len(used) == len(names) else []
        empty: list[int] = []
        has_rows = False
        for row, cells in enumerate(self._records(), start=1):
            if row <= header:
                yield None
            elif not any(cell and not cell.isspace() for cell in cells):
                empty.append(row)
                yield None
            else:
                has_rows = True
                is_plain = whole and len(cells) == len(whole)
                yield dict(zip(whole, cells, strict=True)) if is_plain else self._row(cells, used)
        if not has_rows:
            shown = listed([name for _, name in used])
            raise TableError(f"has column names ({shown}), but no rows below them.", "Add some.")
        if empty:
            which = f"the first is row {empty[0]:,}" if len(empty) > 1 else f"row {empty[0]:,}"
            verb = "is" if len(empty) == 1 else "are"
            self._say(f"{count(len(empty), 'empty row')} {verb} left out ({which}).")

    def _row(self, cells: Cells, used: list[tuple[int, str]]) -> Item:
        """Return a row that is shorter or longer than the names, or has cells in no column."""
        last = len(cells)
        while last and not cells[last - 1]:
            last -= 1
        named = len(self.names)
        if last > named:
            return (
                f"has {count(last, 'cell')}, but row {self._header:,} names "
                f"{count(named, 'column')}; a cell with the separator in it needs quotes."
            )
        if len(cells) < used[-1][0] + 1:
            return (
                f"has {count(len(cells), 'cell')}, but row {self._header:,} names "
                f"{count(used[-1][0] + 1, 'column')}; one is missing, or a cell with a line break "
                "in it needs quotes."
            )
        lost = [n for n in range(last) if cells[n] and self.names[n] is None]
        if lost:
            return f"has a value in column {lost[0] + 1:,}, which has no name."
        return {name: cells[place] for place, name in used}

    def _say(self, remark: str) -> None:
        if remark not in self.remarks:
            self.remarks.append(remark)

    def _find_header(self, head: list[Cells]) -> int:
        """Return the number of the row with the names, from 1; a title above it is passed over."""
        filled = (
            (number, {n: cell for n, cell in enumerate(cells) if cell and not cell.isspace()})
            for number, cells in enumerate(head, start=1)
        )
        rows = ((number, cells) for number, cells in filled if cells)
        first = next(rows, None)
        if first is None:
            raise TableError("holds no rows.", "Name another.")
        number, cells = first
        if len(cells) > 1:
            return number
        next_number, next_cells = next(rows, first)
        is_title = number in self._titles or len(next_cells) > 2
        if is_title or _are_names(next_cells, cells, (below for _, below in rows)):
            (title,) = cells.values()
            number = next_number
            self._say(
                f"“{one_line(title, 40)}” is taken for a title; row {number:,} names the columns."
            )
        return number

    def _name_columns(self, head: list[Cells]) -> list[str | None]:
        """Return the name of each column; None for one without a name and without values."""
        header, below = head[self._header - 1], head[self._header :]
        written = [cell or "" for cell in header]
        names: list[str | None] = [" ".join(name.split()) for name in written]
        if any(name and name != old for name, old in zip(names, written, strict=True)):
            self._say("Spaces around column names, and line breaks in them, are removed.")
        unnamed = [place for place, name in enumerate(names) if not name]
        has_values = {
            place: None
            for place in unnamed
            if any(len(cells) > place and (cells[place] or "").strip() for cells in below)
        }
        taken = Counter(names)
        for place in unnamed:
            names[place] = _free(f"column_{place + 1}", taken) if place in has_values else None
        if has_values:
            given = listed([f"“{names[place]}”" for place in has_values], _NAMES_SHOWN)
            verb = "is a column" if len(has_values) == 1 else "are columns"
            self._say(f"{given} {verb} without a name in row {self._header:,}.")
        if left_out := len(unnamed) - len(has_values):
            verb = "is" if left_out == 1 else "are"
            self._say(f"{count(left_out, 'column')} without a name or values {verb} left out.")
        seen: set[str] = set()
        again = []
        for place, name in enumerate(names):
            if name in seen:
                names[place] = _free(f"{name}_2", taken)
                again.append(f"“{name}”, now “{names[place]}”")
            elif name:
                seen.add(name)
        if again:
            self._say(f"Columns have the name of another: {listed(again, _NAMES_SHOWN)}.")
        return names


def _are_names(names: _Filled, above: _Filled, below: Iterable[_Filled]) -> bool:
    """Whether two cells are the names of most rows below them, rather than the first of these.

    Args:
        names: The two cells.
        above: The one cell above them, a title or the only name. Where its column is not the first,
            it is the only name: so pandas writes one column and its index.
        below: The other rows.
    """
    if len(names) != 2 or min(above) > min(names) or any(map(is_no_name, names.values())):
        return False
    have_both = [len(cells) == 2 for cells in below]
    return sum(have_both) * 2 > len(have_both)


def _free(name: str, taken: Counter[str | None]) -> str:
    """Return a name that no column has yet, and count it as taken."""
    stem, _, number = name.rpartition("_")
    for free in (f"{stem}_{n}" for n in itertools.count(int(number))):
        if not taken[free]:
            taken[free] += 1
            return free
    raise AssertionError


def is_no_name(name: str) -> bool:
    """Whether the name of a column looks like data, since the names are missing.

    >>> [is_no_name(name) for name in ("english meaning", "Question:", "3,5", "How are you?")]
    [False, False, True, True]
    """
    is_number = bool(re.fullmatch(r"[-+]?\d[\d.,\s]*%?", name))
    return is_number or len(name) > 60 or name.endswith((".", "?", "!"))


def read_table(path: Path, sheet: str | None = None) -> Table:
    """Return the table in a file.

    Args:
        path: A file with one of the endings in `FORMATS`.
        sheet: Name of a workbook's sheet; the first one with rows if None.

    Raises:
        TableError: It cannot be read as a table.
        OSError: It cannot be opened.
    """
    kind = path.suffix.lower()
    return _workbook(path, sheet) if kind in WORKBOOKS else _text(path, TEXTS[kind])


# CSV and TSV


def _text(path: Path, promised: str) -> Table:
    csv.field_size_limit(2**31 - 1)
    encoding, remarks = _encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        head = file.read(_HEAD_CHARACTERS)
        is_whole = not file.read(1)
    first = re.match(r'"?sep=(.)"?[^\S\r\n]*\r?\n', head, re.IGNORECASE)
    separator = first[1] if first else _separator(head, promised, is_whole=is_whole)
    if separator != promised:
        remarks.append(f"The cells are separated by {_SEPARATORS.get(separator, separator)}.")

    quoting: Any = csv.QUOTE_MINIMAL
    if separator == "\t":
        with path.open(encoding=encoding, newline="") as file:
            lines = file.readlines(_HEAD_BYTES)[bool(first) :]
        if _are_quotes_text(lines):
            quoting = csv.QUOTE_NONE
            remarks.append(
                "Quotes are read as text, since some of them do not enclose a whole cell."
            )

    def records() -> Iterator[list[str]]:
        with io.TextIOWrapper(open_told(path), encoding, newline="") as file:
            if first:
                file.readline()  # no row for a spreadsheet program
            reader = csv.reader(file, delimiter=separator, quoting=quoting, strict=True)
            row = 0
            try:
                for row, cells in enumerate(reader, start=1):  # noqa: B007
                    yield cells
            except csv.Error as error:
                raise _misread(error, row + 1, reader.line_num + bool(first)) from None

    table = Table(records, remarks)
    table.encoding, table.separator = encoding, separator
    table.skipped_rows += bool(first)
    return table


def _misread(error: csv.Error, row: int, line: int) -> TableError:
    """Return what is wrong with a text that csv cannot read.

    Args:
        error: Its error.
        row: Number of the row that it stopped in.
        line: Number of the line that it stopped in; a cell in quotes may have several.
    """
    if "end of data" in str(error):
        why = "has a quote that is never closed; it takes in all that follows."
    elif "expected after" in str(error):
        why = f"a cell starts with a quote, but text follows its closing quote in line {line:,}."
    else:
        return TableError(f"row {row:,}: {invalid('CSV', error)}", "Fix the row.")
    fix = 'Put the cell in quotes, and double the quotes inside it: """Hello,"" he said".'
    return TableError(f"row {row:,}: {why}", fix)


def _are_quotes_text(lines: list[str]) -> bool:
    """Whether the quotes of a table with tabs are part of its text.

    They are where lines and tabs alone make all rows as wide as the first, and quotes as marks of
    cells would join lines or be misplaced.
    """
    if not any('"' in line for line in lines):
        return False
    reader = csv.reader(lines, delimiter="\t", strict=True)
    with contextlib.suppress(csv.Error):
        if sum(1 for _ in reader) == len(lines):
            return False
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    widths = {len(cells) for cells in rows if cells}
    return len(widths) == 1 and widths != {1}


_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def _separator(head: str, promised: str, *, is_whole: bool) -> str:
    """Return the separator with which most rows have as many cells as the first.

    Args:
        head: The beginning of a file.
        promised: The separator to prefer.
        is_whole: Whether that is all of the file.
    """
    best, best_score = promised, (0.0, 0)
    for separator in dict.fromkeys([promised, *_SEPARATORS]):
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
        rows = [cells for cells in itertools.islice(reader, _SNIFFED_ROWS) if any(cells)]
        if not is_whole and len(rows) > 1 and len(rows) < _SNIFFED_ROWS:
            rows.pop()  # cut off
        if not rows or len(rows[0]) < 2:
            continue
        width = len(rows[0])
        score = sum(len(cells) == width for cells in rows) / len(rows), width
        if score > best_score:
            best, best_score = separator, score
    return best


def _encoding(path: Path) -> tuple[str, list[str]]:
    """Return the encoding of a text, and a remark where it is unusual.

    Raises:
        TableError: It is no text, or its encoding cannot be told.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", []
    if head.startswith((_ZIP, _OLE)):
        raise TableError("is a workbook or an archive, not text.", "Give it its own ending, .xlsx.")
    if b"\0" in head:
        raise TableError("is not text: it holds zero bytes.", _SAVE_AS_UTF8)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        return "utf-8-sig", []
    except UnicodeDecodeError:
        text = head.decode("cp1252", "replace")
    example = re.search(r"\w*[^\x00-\x7f]\w*", text)
    if not example or not _is_western(text):
        raise TableError("is not UTF-8 text, and its encoding cannot be told.", _SAVE_AS_UTF8)
    remark = (
        f"The text is read as Windows-1252, since it is not UTF-8: “{one_line(example[0], 40)}”. If "
        "that looks wrong, save the file as UTF-8."
    )
    return "cp1252", [remark]


_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_SAVE_AS_UTF8 = "Save it as UTF-8; in Excel, choose “CSV UTF-8” under Save As."

_WESTERN = frozenset("äöüßàâæçéèêëîïôœùûáíñóúãõìòåø" + "äöüàâæçéèêëîïôœùûáíñóúãõìòåø".upper())
_SIGNS = frozenset("‘’“”„‚–—…•€£§©®°²«»¡¿ªº´·×\u00a0")


def _is_western(text: str) -> bool:
    """Whether a text that was decoded as Windows-1252 can be nothing else.

    Other encodings of one byte would show here as letters that no Western European language has,
    words without a plain letter, or punctuation inside words.
    """
    others = {character for character in set(text) if not character.isascii()}
    if others - _WESTERN - _SIGNS:
        return False
    if "õ" in others and others & {*"öüû"}:  # Hungarian in Windows-1250
        return False
    return not re.search(rf"\b[{_LETTERS}]{{2,}}\b|[^\W_][{_INSIDE_NO_WORD}][^\W_]", text)


_LETTERS = "".join(_WESTERN)
_INSIDE_NO_WORD = "“„‚…•€£§©®°¡¿´×"


# Workbooks


def _workbook(path: Path, wanted: str | None) -> Table:
    import python_calamine as calamine

    with path.open("rb") as file:
        if file.read(4) == _OLE:
            why = "is protected by a password, or an old workbook under a new name."
            raise TableError(why, "Save it as .xlsx without a password.")
    try:
        with calamine.CalamineWorkbook.from_path(str(path)) as workbook:
            names = _sheets(workbook, wanted, calamine.SheetVisibleEnum.Visible)
            sheet = next(
                (one for one in map(workbook.get_sheet_by_name, names) if one.start is not None),
                None,
            )
            known = [*workbook.sheet_names]
    except calamine.PasswordError:
        raise TableError("is protected by a password.", "Save it without one.") from None
    except calamine.CalamineError as error:
        why = invalid(path.suffix.lower(), error)
        raise TableError(why, "Save it again with the program that made it.") from None
    if sheet is None or sheet.start is None:
        raise TableError("holds no rows.", "Name another.")
    remarks = []
    if len(known) > 1:
        others = listed([f"“{name}”" for name in known if name != sheet.name], _NAMES_SHOWN)
        remarks.append(
            f"The sheet “{sheet.name}” is read. To read another, choose it or name it in subset: "
            f"{others}."
        )
    if merged := [(a, b) for a, b in sheet.merged_cell_ranges or () if a != b]:
        cells = listed([f"{_cell(*a)}:{_cell(*b)}" for a, b in merged], _NAMES_SHOWN)
        remarks.append(f"Of merged cells ({cells}), only the first holds the text.")
    above, left = sheet.start

    def records() -> Iterator[Cells]:
        yield from itertools.repeat((), above)
        for cells in sheet.iter_rows():
            yield [*itertools.repeat(None, left), *map(_shown, cells)]

    table = Table(records, remarks, {a[0] + 1 for a, b in merged if a[1] != b[1]})
    table.sheet = sheet.name
    return table


def sheets_of(path: Path) -> tuple[str, ...]:
    """Return the names of a workbook's sheets; () for another file, or one that cannot be read."""
    if path.suffix.lower() not in WORKBOOKS:
        return ()
    import python_calamine as calamine

    try:
        with calamine.CalamineWorkbook.from_path(str(path)) as workbook:
            return tuple(workbook.sheet_names)
    except (calamine.CalamineError, OSError):
        return ()


def _sheets(workbook: Any, wanted: str | None, visible: Any) -> list[str]:
    """Return the names of the sheets that may be read, in the order of preference."""
    known = [*workbook.sheet_names]
    if wanted is None:
        shown = {one.name: one.visible == visible for one in workbook.sheets_metadata}
        return sorted(known, key=lambda name: not shown[name])
    if wanted in known:
        return [wanted]
    why = f"has no sheet “{wanted}”; it has {listed([f'“{name}”' for name in known], 10)}."
    raise TableError(why, "Name one of these in subset, or leave it empty.")


def _cell(row: int, column: int) -> str:
    """Return the name of a cell, both numbers from 0.

    >>> _cell(0, 0), _cell(9, 27)
    ('A1', 'AB10')
    """
    letters = ""
    column += 1
    while column:
        column, letter = divmod(column - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}{row + 1}"


def _shown(value: Any) -> str | None:
    """Return a cell as a spreadsheet program shows it by default; None if it is empty.

    >>> [_shown(v) for v in ("", 3.0, 0.1 + 0.2, True, datetime.date(2024, 5, 3))]
    [None, '3', '0.3', 'TRUE', '2024-05-03']
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e16 else f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        if value.time() == datetime.time():
            return value.date().isoformat()
        return value.replace(microsecond=0, tzinfo=None).isoformat(" ").removesuffix(":00")
    if isinstance(value, datetime.time):
        return value.replace(microsecond=0).isoformat().removesuffix(":00")
    if isinstance(value, datetime.timedelta):
        minutes, seconds = divmod(round(value.total_seconds()), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    return str(value)
