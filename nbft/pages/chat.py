"""A conversation as a still picture, for saved notebooks, which have no widgets."""

from __future__ import annotations

from markupsafe import Markup

from nbft.evaluate.compare import Comparison
from nbft.pages import comparison
from nbft.pages.environment import render


def html(answers: Comparison, name: str, title: str) -> Markup:
    """Return the messages with the answers of both sides, as an element that the page can hide.

    Args:
        answers: The messages as prompts.
        name: Id of the element.
        title: Who answered.
    """
    table = comparison.html(answers) if len(answers) else ""
    return render("chat", name=name, title=title, table=table)
