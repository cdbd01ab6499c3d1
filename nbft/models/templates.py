"""Chat templates by name, in Jinja, for base models that have none.

Each template writes a message once and never changes it afterwards, so that answers can be told
from the rest. Loads no library.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from nbft.errors import Problem
from nbft.syntax import invalid

_NAMES = ("chatml", "llama3", "zephyr", "alpaca", "mistral", "gemma")
_FOLDER = Path(__file__).with_name("chat_templates")
TEMPLATES = {
    name: (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n")
    for name in _NAMES
}
"""Name → template."""


def template_of(given: str) -> str:
    """Return the template of a name, or the text itself if it is Jinja."""
    return TEMPLATES.get(given, given)


def template_problem(given: str) -> Problem | None:
    """Return what is wrong with a name or text, or None."""
    if given in TEMPLATES:
        return None
    names = ", ".join(TEMPLATES)
    if "{" not in given:
        close = difflib.get_close_matches(given.lower(), TEMPLATES, n=1, cutoff=0.5)
        return Problem(
            "model.chat_template",
            given,
            f"is no Jinja text and not one of {names}.",
            f"Use {close[0]}." if close else "Leave it empty to use the model's own.",
            {"model.chat_template": close[0] if close else None},
        )
    import jinja2

    try:
        jinja2.Environment(autoescape=True).parse(given)
    except jinja2.TemplateSyntaxError as error:
        why = f"line {error.lineno}: {invalid('Jinja', error.message)}"
        return Problem("model.chat_template", given, why, f"Fix it, or use one of {names}.")
    return None
