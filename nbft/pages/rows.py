"""The first rows of a data file, as the model sees them or as they are in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from nbft.formatting import shortened
from nbft.pages.environment import render

_MOST_CHARACTERS = 200  # of a prompt or a completion
_CELL_CHARACTERS = 80
_ROW_CHARACTERS = 1_000


def as_examples(rows: Sequence[Mapping[str, str]]) -> Markup:
    """Return the prompt and the completion of each row."""
    shown = [{name: _shortened(text, _MOST_CHARACTERS) for name, text in r.items()} for r in rows]
    return render("rows", rows=shown, texts=())


def as_in_file(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return rows as they are in their file, for an unknown format."""
    texts = []
    for row in rows:
        short = {name: _shortened(value, _CELL_CHARACTERS) for name, value in row.items()}
        text = json.dumps(short, ensure_ascii=False, default=str)
        texts.append(_shortened(text, _ROW_CHARACTERS))
    return render("rows", rows=(), texts=texts)


def _shortened(value: Any, most: int) -> Any:
    """Return a value; a long text is cut off."""
    return shortened(value, most) if isinstance(value, str) else value
