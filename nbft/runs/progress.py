"""The state of a run in words: for the monitor, the command line and the reports."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from nbft import formatting
from nbft.config import Config
from nbft.evaluate.compare import Comparison
from nbft.runs.state import Note, RunState


def headline(state: RunState) -> str:
    """Return the state of the run in words.

    >>> headline(RunState([{"event": "completed", "step": 9, "seconds": 192.0}]))
    'completed in 3 min 12 s'
    """
    if state.host and state.end is None:
        return f"{_headline(state).rstrip(' …')}, on {state.host}"
    return _headline(state)


def status_words(status: str, host: str | None, heard: float | None) -> str:
    """Return a status in words, with the other machine that has the run, if any.

    >>> status_words("running", "gpu-7", None), status_words("lost", None, None)
    ('running on gpu-7', 'lost')
    >>> status_words("lost", "gpu-7", None)
    'no word from gpu-7'
    """
    if not host:
        return status
    return f"{status} on {host}" if status != "lost" else f"no word from {host}{_since(heard)}"


def _since(seconds: float | None) -> str:
    if seconds is None:
        return ""
    try:
        then = datetime.datetime.fromtimestamp(seconds).astimezone()
    except (OverflowError, ValueError, OSError):  # of a file with odd values
        return ""
    day = "" if then.date() == datetime.datetime.now().astimezone().date() else f"{then:%Y-%m-%d} "
    return f" since {day}{then:%H:%M}"


def _headline(state: RunState) -> str:
    total, end = state.total_steps, state.end
    of = f" of {formatting.count(total)}" if total else ""
    at = f"step {formatting.count(state.step)}{of}"
    if state.is_paused:
        return f"paused at {at}"
    if end is None:
        if state.stage and state.log:
            return f"running, {at} · {state.stage}"
        if state.stage or not (state.started or state.prepared or state.log):
            return state.stage or "starting"
        return f"running, {at}" if state.log else f"running, the first step{of}"
    took = end.get("seconds")
    span = f" in {formatting.duration(took)}" if took is not None else ""
    if end["event"] == "completed":
        is_early = bool(state.reason and total and state.step < total)
        return (
            f"completed early, after {at}{span and ',' + span}" if is_early else f"completed{span}"
        )
    if end["event"] in ("stopped", "cancelled"):
        return f"{end['event']} after {at}{span and ',' + span}"
    return f"failed after {at}" if state.step else "failed"


def numbers(state: RunState) -> str:
    """Return the last numbers in one line; empty before the first step."""
    log, parts = state.log, []
    if log.get("tokens_per_second") is not None:
        parts.append(f"{formatting.count(log['tokens_per_second'])} tokens/s")
    if log.get("memory_bytes"):
        parts.append(formatting.size(log["memory_bytes"]) + _peak(state))
    if (left := state.seconds_left) is not None:
        parts.append(f"{formatting.duration(left)} left")
    if log.get("loss") is not None:
        parts.append(f"loss {formatting.number(log['loss'])}")
    if log and state.eval_loss is not None:
        parts.append(f"held-out loss {formatting.number(state.eval_loss)}")
    if log.get("grad_norm") is not None:
        parts.append(f"grad norm {formatting.number(log['grad_norm'])}")
    if log.get("epoch") is not None:
        parts.append(f"epoch {log['epoch']:.2f}")
    return " · ".join(parts)


def _peak(state: RunState) -> str:
    """Return the peak of memory in brackets, beside its forecast; "" if it is not known."""
    peak, forecast = state.peak_bytes, state.forecast_bytes
    if peak is None:
        return ""
    of = f" of {formatting.size(forecast)} forecast" if forecast is not None else ""
    return f" (peak {formatting.size(peak)}{of})"


def held_out(state: RunState) -> str:
    """Return the first and the last held-out loss in a sentence; empty if there is none."""
    curve = state.curve("eval_loss")
    if not curve:
        return ""
    first, last = curve.steps[0], curve.steps[-1]
    after = f"{formatting.number(curve.values[-1])} after step {formatting.count(last)}"
    if rows := state.prepared.get("eval_rows"):
        after += f", on {formatting.count(rows, 'held-out row')}"
    if len(curve) == 1:
        return f"Held-out loss: {after}."
    before = f"after step {formatting.count(first)}" if first else "before training"
    return f"Held-out loss: {formatting.number(curve.values[0])} {before}, {after}."


def answers(state: RunState) -> Comparison:
    """Return the base model's answers beside the latest."""
    base = [event for event in state.samples if event["step"] == 0]
    latest = state.samples[-1] if state.samples else {}
    step = latest.get("step", 0)
    label = (
        "tuned" if state.end else f"step {formatting.count(step)}" if step else "not trained yet"
    )
    return Comparison.of_samples(
        base[-1]["samples"] if base else [], latest["samples"] if step else [], label
    )


_LARGE_PARAMETERS = 1_000_000_000


def what_not_to_expect(state: RunState, config: Config) -> str:
    """Return a sentence about what a small model cannot learn; "" of a large or unknown one."""
    parameters = state.prepared.get("total_parameters") or 0
    if config.peft.trains_adapter:
        parameters -= state.prepared.get("trainable_parameters") or 0
    if not parameters or parameters >= _LARGE_PARAMETERS:
        return ""
    size = f"{parameters / 1e6:,.0f} million" if parameters >= 1e6 else f"{parameters:,}"
    return (
        f"A model of {size} parameters learns the form of the answers and patterns that many rows "
        "share. Do not expect new facts, reliable arithmetic or reasoning from it; these take a "
        "larger model."
    )


def sentence(note: Note) -> str:
    """Return a note with its step.

    >>> sentence(Note("The loss rises.", 1200))
    'Step 1,200: The loss rises.'
    >>> sentence(Note("The loss rises.", 1200, answered_step=1500))
    'Step 1,200: The loss rises. (No longer true since step 1,500.)'
    """
    text = note.text if note.step is None else f"Step {formatting.count(note.step)}: {note.text}"
    if note.answered_step is None:
        return text
    return f"{text} (No longer true since step {formatting.count(note.answered_step)}.)"


def sentences(notes: Iterable[Note]) -> list[tuple[str, bool]]:
    """Return notes for a page: each with its step, and whether it is struck."""
    return [(sentence(note), note.answered_step is not None) for note in notes]
