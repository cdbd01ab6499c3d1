"""An export that was written: its proof in words, where it is, and the commands that use it."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from nbft.pages.environment import render


def html(sentence: str, *, passed: bool, folder: str, commands: Sequence[str]) -> Markup:
    """Return what became of an export.

    Args:
        sentence: What its proof found.
        passed: Whether the proof passed.
        folder: Its folder.
        commands: What loads, serves or asks it; blocks of code.
    """
    return render("exported", sentence=sentence, passed=passed, folder=folder, commands=commands)
