"""Values that show themselves: as HTML in a notebook, as text in a terminal.

A value computes; `nbft.pages` lays it out. This is the one place where a value hands over to it.
"""

from __future__ import annotations


class Presented:
    """A value whose page is in `nbft.pages`."""

    def __str__(self) -> str:
        """Return it as text for a terminal."""
        from nbft import pages

        return pages.text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from nbft import pages

        return pages.html(self)
