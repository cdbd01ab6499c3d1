"""Values that are shown as HTML in a notebook and as text in a terminal, by `nbft.pages`."""

from __future__ import annotations

import sys

from nbft import facade


def in_notebook() -> bool:
    """Whether this runs in a kernel with a front end. A script may import one's libraries."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class Presented:
    """A value with a page in `nbft.pages`."""

    def __str__(self) -> str:
        """Return it as text for a terminal."""
        return str(facade.text(self))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return str(facade.html(self))
