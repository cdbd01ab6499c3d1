"""Draws comparisons as a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nbft.bench.compare import Comparisons
from nbft.charts import drawn
from nbft.errors import NbftError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS, _THEIRS = "#0072B2", "#8c8c8c"  # distinct for colour-blind readers

_KINDS = (".png", ".svg", ".pdf")


def check_path(path: Path) -> None:
    """Check the path of a picture before minutes are spent on measuring.

    Raises:
        NbftError: The file type is unknown, or the folder does not exist.
    """
    if path.suffix not in _KINDS:
        raise NbftError(f"picture={path}: must end in {', '.join(_KINDS[:-1])} or {_KINDS[-1]}.")
    if not path.absolute().parent.is_dir():
        raise NbftError(f"picture={path}: no such folder {path.absolute().parent}. Create it.")


def draw(comparisons: Mapping[str, Comparisons]) -> Figure:
    """Draw tokens per second, one group of bars per task.

    Args:
        comparisons: Comparisons by the name of their task.
    """
    from matplotlib.figure import Figure

    bars = []
    for what, of_task in comparisons.items():
        bars.append((f"{drawn(what)}\nnbft", of_task.ours.tokens_per_second, "", _OURS))
        for pair in of_task.pairs:
            note = "losses differ" if pair.ratio is None else f"nbft is {pair.ratio:.1f} ×"
            bars.append((drawn(pair.peer), pair.theirs.tokens_per_second, note, _THEIRS))
    figure = Figure(figsize=(7, 0.8 + 0.45 * len(bars)), layout="constrained")
    axes = figure.subplots()
    positions = range(len(bars))
    axes.barh(positions, [bar[1] for bar in bars], color=[bar[3] for bar in bars])
    axes.set_yticks(positions, [bar[0] for bar in bars])
    axes.invert_yaxis()
    for position, (_, speed, note, _) in enumerate(bars):
        axes.annotate(f" {speed:,.0f}  {note}", (speed, position), va="center")
    axes.margins(x=0.25)
    axes.set_xlabel("tokens per second, padding not counted")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
