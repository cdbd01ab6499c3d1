"""The result of a run: how it ended, the answers before and after, and the next steps."""

from __future__ import annotations

from collections.abc import Iterable

from nbft.evaluate.compare import Comparison
from nbft.evaluate.scores import Scores
from nbft.pages import comparison
from nbft.pages import scores as score_table
from nbft.pages.environment import render


def success(
    headline: str,
    score: str,
    notes: Iterable[tuple[str, bool]],
    answers: Comparison,
    *,
    scores: Scores | None = None,
    limits: str = "",
    place: str = "",
    exports: Iterable[str] = (),
    code: str = "",
    page: str = "",
    report: str = "",
) -> str:
    """Show a run that completed or was stopped.

    Args:
        headline: Which run, and how it ended; a sentence.
        score: The held-out loss before and after; a sentence, empty if it was not measured.
        notes: Notes of the run; sentences, each with whether it is struck.
        answers: The answers of the base model and of the tuned one.
        scores: The scores of both.
        limits: What a model of this size cannot learn; a sentence, empty for a large one.
        place: Where the adapter is; a sentence, empty if there is none.
        exports: The exports so far, each with its folder and its proof.
        code: Python that does what usually comes next.
        page: Where the report is, or a sentence that says how to write it.
        report: Address of the report, relative to the notebook; "" if there is none.
    """
    html = render(
        "success",
        headline=headline,
        score=score,
        notes=list(notes),
        scores=score_table.html(scores) if scores else "",
        sentences=scores.sentences if scores else (),
        answers=comparison.html(answers) if answers else "",
        limits=limits,
        place=place,
        exports=list(exports),
        code=code,
        page=page,
        report=report,
    )
    return str(html)


def failure(
    headline: str,
    problems: Iterable[str],
    log: str = "",
    *,
    code: str = "",
    page: str = "",
    report: str = "",
) -> str:
    """Show a run that failed or was lost.

    Args:
        headline: Which run, and at which step it ended; a sentence.
        problems: What happened and what to do; sentences.
        log: The last lines of the log, shown folded.
        code: As `success`.
        page: As `success`.
        report: As `success`.
    """
    html = render(
        "failure",
        headline=headline,
        problems=list(problems),
        log=log,
        place="",
        code=code,
        page=page,
        report=report,
    )
    return str(html)
