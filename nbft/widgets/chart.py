"""The live chart: curves that grow while a run trains.

`Chart` keeps the numbers, sends a front end only those it lacks, and describes the curves in text.
It reads no run and decides no pace: the monitor appends and flushes. The drawing is
`extension/chart/chart.js`; where that was not built, only the text is shown.

The protocol, all of it custom messages of the widget:

    front end → kernel   {"type": "resync", "have": n}
    kernel → front end   {"type": "append", "start": n, "rows": m, "summary": "…"} and one
                         buffer, float64 [1 + series, m]: the column of x, then the series

A front end that gets rows from `start` on replaces its own from there; if it lacks rows before
`start`, it asks. This covers late views, reloads and lost messages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import anywidget
import numpy as np
import traitlets

from nbft.charts import (
    RAW_ALPHA,
    SMOOTHING,
    ChartSpec,
    Curve,
    Style,
    add_legend,
    drawn,
    moving_average,
    new_figure,
    tidy,
)
from nbft.config.problems import nearest
from nbft.formatting import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE = Path(__file__).parent
_BUNDLE = _HERE / "static" / "chart.js"
_FALLBACK = _HERE / "static_fallback" / "chart.js"

_HELLO_SECONDS = 1.0  # a free kernel hears its front end in well under this


def _reject_unknown(caller: str, unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raise a TypeError for the first unknown keyword, with the closest known one."""
    for name in unknown:
        raise TypeError(f"{caller} has no {name!r}. {nearest(name, known)}")


class Series(Curve):
    """One curve of a chart.

    Args:
        name: Keyword under which `Chart.append` takes its values.
        label: Its label in the legend; the name if None.
        style: A "line", or "marks" for infrequent values, such as `eval_loss`.
        smooth: Draw a moving average in front and the raw values faintly behind.

    Raises:
        TypeError: An unknown keyword.
        ValueError: An unknown style.
    """

    def __new__(
        cls,
        name: str,
        label: str | None = None,
        style: Style = "line",
        smooth: bool = False,
        **unknown: Any,
    ) -> Series:
        """Return a checked curve."""
        _reject_unknown("Series", unknown, ("name", "label", "style", "smooth"))
        if style not in get_args(Style):
            raise ValueError(f"style={style!r}: must be 'line' or 'marks'.")
        return super().__new__(cls, name, label or name, style, smooth)


class Chart(anywidget.AnyWidget):
    """Curves over a common x, drawn live in the notebook.

    x ascends. Appending at the last x again adds to its point; a smaller x means that the run
    went back to a checkpoint, and later points are replaced.

    Args:
        series: The curves, in the order of the legend and of the palette.
        x_label: Unit of x, in the singular.
        y_label: Label of the y axis, with the unit.
        title: Shown above the curves.
        height_px: Height of the drawing, in CSS pixels; it is as wide as the output.

    Raises:
        TypeError: An unknown keyword.
        ValueError: No series, or two with the same name.

    >>> chart = Chart([Series("loss", smooth=True), Series("eval_loss", style="marks")])
    >>> chart.append(1, loss=2.1)
    >>> chart.append(2, loss=1.4, eval_loss=1.5)
    >>> chart.summary()
    'loss: 2 points, step 1 to 2, last 1.40, lowest 1.40 at step 2; eval_loss: 1.50 at step 2'
    """

    _esm = _BUNDLE if _BUNDLE.is_file() else _FALLBACK
    _css = _BUNDLE.with_suffix(".css") if _BUNDLE.is_file() else ""

    series: traitlets.List[Any] = traitlets.List(
        help="name, label, style, smooth and colour of each curve"
    ).tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    x_label = traitlets.Unicode().tag(sync=True)
    y_label = traitlets.Unicode().tag(sync=True)
    height_px = traitlets.Int().tag(sync=True)
    marks: traitlets.List[Any] = traitlets.List(
        help="{'x': …, 'text': …} of each note on the curve"
    ).tag(sync=True)
    log_y = traitlets.Bool(False, help="whether the y axis is logarithmic").tag(sync=True)
    smoothing = traitlets.Float(SMOOTHING).tag(sync=True)

    def __init__(
        self,
        series: Sequence[Curve],
        x_label: str = "step",
        y_label: str = "",
        title: str = "",
        height_px: int = 220,
        **unknown: Any,
    ) -> None:
        _reject_unknown("Chart", unknown, ("series", "x_label", "y_label", "title", "height_px"))
        names = [one.name for one in series]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"series={names}: a chart needs at least one, with distinct names.")
        self._table = _Table(names)
        self._sent_rows = 0
        self._sent_summary = ""
        self._is_heard = False  # whether a front end has asked for rows
        self._whole_at = math.inf  # clock at which all rows are sent unasked
        self._whole_every_seconds = _HELLO_SECONDS
        super().__init__(
            series=ChartSpec(title, tuple(series)).series(),
            x_label=x_label,
            y_label=y_label,
            title=title,
            height_px=height_px,
        )
        self.on_msg(self._answer)

    def close(self) -> None:
        """Close it with its layout."""
        self.layout.close()
        super().close()

    def append(self, x: float, /, **values: float | None) -> None:
        """Add a point of one or more series; `flush` shows it.

        Args:
            x: Position, in the unit of `x_label`.
            **values: The value of each series that has one there.

        Raises:
            TypeError: No series has this name.
        """
        _reject_unknown("Chart.append", values.keys() - self._table.names, self._table.names)
        changed = self._table.append(float(x), values)
        self._sent_rows = min(self._sent_rows, changed)

    def mark(self, x: float, text: str) -> None:
        """Put a note on the curve: a line at x with a few words."""
        self.marks = [*self.marks, {"x": float(x), "text": text}]

    def flush(self) -> None:
        """Send the rows that no front end has yet. Call this at most every 100 ms.

        Nothing is sent before a front end asks, since the answer holds every row. In a busy cell
        its request cannot arrive (ipykernel hands messages to widgets between cells): after a
        second all rows are sent unasked, and again at doubling intervals, because the first may
        arrive before the drawing is ready.
        """
        if self._is_heard:
            self._send_rows(self._sent_rows)
            return
        now = time.monotonic()
        if self._whole_at == math.inf:
            self._whole_at = now + self._whole_every_seconds
        if now >= self._whole_at:
            self._whole_every_seconds *= 2
            self._whole_at = now + self._whole_every_seconds
            self._send_rows(0)
        elif self._whole_every_seconds > _HELLO_SECONDS:
            self._send_rows(self._sent_rows)

    def summary(self) -> str:
        """Describe the curves in text; the drawing has the same text as its label."""
        x, *columns = self._table.columns
        curves = [
            f"{series['label']}: {_in_words(self.x_label, x, column)}"
            for series, column in zip(self.series, columns, strict=True)
        ]
        notes = [f"{mark['text']} at {self.x_label} {_count(mark['x'])}" for mark in self.marks]
        return "; ".join(curves + notes)

    def figure(self) -> Figure:
        """Draw the same curves with matplotlib, for reports and saved notebooks."""
        figure = new_figure(7.0, 2.8, dpi=100)
        axes = figure.subplots()
        x_column, *columns = self._table.columns
        is_overlay = sum(one["smooth"] for one in self.series) > 1
        for one, column in zip(self.series, columns, strict=True):
            has_value = np.isfinite(column)
            x, y = x_column[has_value], column[has_value]
            style = {"color": one["color"], "label": drawn(one["label"])}
            if one["style"] == "marks":
                axes.plot(x, y, "o", markersize=5, zorder=3, **style)
            elif one["smooth"]:
                smoothed, raw = Curve(one["name"], style.pop("label")).labels(self.x_label)
                raw = "_" if is_overlay else raw  # left out: the thin curve of each colour
                axes.plot(x, y, alpha=RAW_ALPHA, linewidth=1, label=raw, **style)
                average = moving_average(y, self.smoothing)
                axes.plot(x, average, linewidth=2.5, label=smoothed, **style)
            else:
                axes.plot(x, y, linewidth=1.5, **style)
        for mark in self.marks:
            axes.axvline(mark["x"], color="#666666", linestyle=":", linewidth=1)
            axes.annotate(
                drawn(mark["text"]),
                (mark["x"], 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -3),
                textcoords="offset points",
                va="top",
                fontsize="small",
            )
        axes.set(xlabel=drawn(self.x_label), ylabel=drawn(self.y_label), title=drawn(self.title))
        axes.set_yscale("log" if self.log_y else "linear")
        tidy(axes)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            add_legend(axes)
        return figure

    def _answer(self, _widget: Chart, message: Mapping[str, Any], _buffers: object) -> None:
        """Send a front end the rows that it lacks."""
        if message.get("type") == "resync":
            self._is_heard = True
            self._send_rows(min(int(message["have"]), self._table.rows), even_if_empty=True)

    def _send_rows(self, start: int, even_if_empty: bool = False) -> None:
        """Send the rows from `start` on and the summary, unless both were sent already."""
        rows, summary = self._table.rows, self.summary()
        if start == rows and summary == self._sent_summary and not even_if_empty:
            return
        self.send(
            {"type": "append", "start": start, "rows": rows - start, "summary": summary},
            buffers=[np.ascontiguousarray(self._table.columns[:, start:rows])],
        )
        self._sent_rows, self._sent_summary = rows, summary


class _Table:
    """Rows of x and the series, as float64 columns in a buffer that doubles when it is full.

    Attributes:
        names: The series.
        rows: How many rows are filled.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.rows = 0
        self._buffer = np.empty((1 + len(names), 1024))

    @property
    def columns(self) -> np.ndarray:
        """A view [1 + series, rows] of x and the series; NaN where a series has no value."""
        return self._buffer[:, : self.rows]

    def append(self, x: float, values: Mapping[str, float | None]) -> int:
        """Add a row, or add to the last one, or go back to x; return the first row changed."""
        row = int(np.searchsorted(self.columns[0], x))
        continues = row == self.rows - 1 and self._buffer[0, row] == x
        if row == self._buffer.shape[1]:
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)], axis=1)
        self.rows = row + 1
        if not continues:
            self._buffer[0, row] = x
            self._buffer[1:, row] = np.nan
        for name, value in values.items():
            self._buffer[1 + self.names.index(name), row] = math.nan if value is None else value
        return row


def _in_words(x_label: str, x: np.ndarray, values: np.ndarray) -> str:
    """Describe the number of points [n] of a series, their range, the last and the lowest."""
    has_value = np.isfinite(values)
    x, values = x[has_value], values[has_value]
    if not len(x):
        return "no points yet"
    last = number(float(values[-1]))
    if len(x) == 1:
        return f"{last} at {x_label} {_count(x[0])}"
    lowest = int(values.argmin())
    return (
        f"{len(x):,} points, {x_label} {_count(x[0])} to {_count(x[-1])}, last {last}, "
        f"lowest {number(float(values[lowest]))} at {x_label} {_count(x[lowest])}"
    )


def _count(x: float) -> str:
    """Write a position: whole numbers with thousands separators."""
    return f"{x:,.0f}" if float(x).is_integer() else f"{x:.4g}"
