"""What an adapter adds to each layer of the model, as a table below its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from nbft.formatting import count
from nbft.models.peft_types import described, peft_type_of
from nbft.pages.environment import render
from nbft.plan.layers import layer_groups

if TYPE_CHECKING:
    from nbft.config import Config


def layer_table(config: Config) -> Markup:
    """Return the table; a sentence where there is none."""
    kind = peft_type_of(config)
    if kind is None:
        return Markup("<p>Every layer is trained; there is no adapter.</p>")
    if not kind.adapts:
        return Markup("<p>No layer is changed.</p>")
    groups = layer_groups(config)
    if not groups:
        return Markup("<p>The layers are listed once the model is on this machine.</p>")
    what = "norms" if kind.adapts == "norms" else "linear layers"
    total = sum(one.number * one.added for one in groups)
    rows = [
        (
            one.name,
            count(one.number),
            count(one.d_in) if one.d_out == 1 else f"{count(one.d_out)} × {count(one.d_in)}",
            count(one.added) if one.added else "none",
            count(one.number * one.added) if one.added else "none",
        )
        for one in groups
    ]
    head = (what[:-1], "number", "shape", "added to each", "together")
    table = render("table", head=head, rows=rows, css="nbft-layers", header=0)
    text = Markup("<p>{} adds {} to the {} of the model.</p>")
    return text.format(described(config), count(total, "parameter"), what) + table
