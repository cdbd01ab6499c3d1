"""Values that show themselves: as HTML in a notebook, as text in a terminal.

A value computes; `nbft.pages` lays it out.
"""

from __future__ import annotations

from nbft import facade


class Presented:
    """A value whose page is in `nbft.pages`."""

    def __str__(self) -> str:
        """Return it as text for a terminal."""
        return facade.text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return facade.html(self)
