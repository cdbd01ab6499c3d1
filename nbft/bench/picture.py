"""The comparisons as a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nbft.bench.compare import Comparisons
from nbft.errors import NbftError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS, _THEIRS = "#0072B2", "#8c8c8c"  # colour-blind people tell them apart; each bar is named too

_KINDS = (".png", ".svg", ".pdf")


def check_path(path: Path) -> None:
    """Check where a picture shall go, before minutes are spent on what it shows.

    Raises:
        NbftError: It has an unknown ending or no folder.
    """
    if path.suffix not in _KINDS:
        raise NbftError(f"picture={path}: ends in {', '.join(_KINDS[:-1])} or {_KINDS[-1]}.")
    if not path.absolute().parent.is_dir():
        raise NbftError(f"picture={path}: there is no folder {path.absolute().parent}. Make it.")


def draw(found: Mapping[str, Comparisons]) -> Figure:
    """Draw tokens a second, one group of bars for each task.

    Args:
        found: Comparisons by the name of their task.
    """
    from matplotlib.figure import Figure

    bars = []
    for what, comparisons in found.items():
        bars.append((f"{what}\nnbft", comparisons.alone.tokens_per_second, "", _OURS))
        for one in comparisons.found:
            words = "losses differ" if one.ratio is None else f"nbft is {one.ratio:.1f} ×"
            bars.append((one.peer, one.theirs.tokens_per_second, words, _THEIRS))
    figure = Figure(figsize=(7, 0.8 + 0.45 * len(bars)), layout="constrained")
    axes = figure.subplots()
    places = range(len(bars))
    axes.barh(places, [bar[1] for bar in bars], color=[bar[3] for bar in bars])
    axes.set_yticks(places, [bar[0] for bar in bars])
    axes.invert_yaxis()
    for place, (_, speed, words, _) in enumerate(bars):
        axes.annotate(f" {speed:,.0f}  {words}", (speed, place), va="center")
    axes.margins(x=0.25)
    axes.set_xlabel("tokens a second, padding not counted")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
