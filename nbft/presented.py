"""Values that are shown as HTML in a notebook and as text in a terminal, by `nbft.pages`."""

from __future__ import annotations

from nbft import facade


class Presented:
    """A value with a page in `nbft.pages`."""

    def __str__(self) -> str:
        """Return it as text for a terminal."""
        return str(facade.text(self))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return str(facade.html(self))
