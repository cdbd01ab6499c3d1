"""report.html: one page that holds everything about a run, and opens without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft import charts, events
from nbft.atomic import replacing
from nbft.config import Config
from nbft.config.data import Dataset
from nbft.evaluate.compare import Comparison
from nbft.evaluate.timeline import Timeline
from nbft.events import Event
from nbft.formatting import count, duration, number, size
from nbft.models.peft_types import described
from nbft.pages import comparison, timeline
from nbft.pages import scores as score_table
from nbft.pages.environment import render
from nbft.redaction import redact, redact_text
from nbft.runs import progress
from nbft.runs.curves import draw_curves, draw_scores, in_words, scores_in_words
from nbft.runs.exports import read_exports
from nbft.runs.receipt import receipt
from nbft.runs.state import RunState, read_state

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(run: Path, ending: Mapping[str, Any] | None = None) -> Path:
    """Write a run's report.html and return its path.

    Args:
        run: The run's folder.
        ending: The last event, when it is not written yet.

    Raises:
        OSError: The disk is full; an earlier report is unchanged.
    """
    state = read_state(run / "events.jsonl")
    if ending is not None:
        state.take(events.checked(dict(ending)))
    config = Config.load(run / "config.yaml")
    target = run / "report.html"
    with replacing(target) as partial:
        partial.write_text(_page(run, config, state) + "\n", encoding="utf-8")
    return target


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _page(run: Path, config: Config, state: RunState) -> str:
    scores, scores_drawn = state.scores, draw_scores(state)
    answers, over_steps = _answers(state)
    return render(
        "report",
        name=run.name,
        summary=_summary(config, state),
        curves=_png(draw_curves(state)),
        curves_in_words=in_words(state),
        scores=score_table.html(scores) if scores else "",
        sentences=scores.sentences,
        scores_drawn=_png(scores_drawn) if scores_drawn is not None else "",
        scores_in_words=scores_in_words(state),
        answers=comparison.html(answers) if answers else "",
        limits=progress.what_not_to_expect(state, config),
        timeline=timeline.html(over_steps) if over_steps else "",
        settings=[
            (path, _shown(value), _shown(default))
            for path, (default, value) in redact(config.diff()).items()
        ],
        files=redact(_files(config)),
        rows=_rows(state.prepared),
        receipt=receipt(run, config, state).rows,
        machine=_machine(state.started, state.prepared),
        exports=_exports(run),
        cell=_cell(config),
        notes=progress.sentences(state.notes),
    )


def _summary(config: Config, state: RunState) -> str:
    last = state.end or {}
    text = f"{config.model.model_name}, {described(config) or 'full training'}."
    if last:
        seconds = last.get("seconds")
        text += f" {last['event'].capitalize()} after {count(last.get('step') or 0, 'step')}"
        text += "." if seconds is None else f" and {duration(seconds)}."
    for sentence in filter(None, (state.reason, *state.problems)):
        text += f" {sentence}"
    return redact_text(text)


def _png(figure: Figure) -> str:
    """Return a figure as PNG in base64."""
    return base64.b64encode(charts.png(figure)).decode()


def _answers(state: RunState) -> tuple[Comparison | None, Timeline | None]:
    """Return the answers before and after, and those over the steps where there are more."""
    samples, over_steps = state.samples, state.timeline
    if len(samples) < 2:
        return None, None
    both = Comparison.of_samples(samples[0]["samples"], samples[-1]["samples"])
    return both, over_steps if len(over_steps.steps) > 2 else None


def _place(path: Path | None, dataset: Dataset) -> str:
    """Say where rows are that are no file."""
    if path is not None:
        return "a folder" if path.is_dir() else "no longer there"
    return "on the hub" if dataset.dataset_name else "in memory"


def _files(config: Config) -> list[tuple[str, str, str]]:
    from nbft.data.ready import READY
    from nbft.data.samples import sample_path

    found = []
    for field, dataset in config.data.named_datasets():
        path = None
        if dataset.path is not None:
            path = Path(dataset.path)
        elif dataset.dataset_name in READY:
            split = dataset.split or field.split(".")[1]
            path = sample_path(dataset.dataset_name, "train" if split == "train" else "test")
        if path is not None and path.is_file():
            found.append((path.name, fingerprint(path), size(path.stat().st_size)))
        else:
            found.append((dataset.called, _place(path, dataset), ""))
    return found


def _rows(prepared: Event) -> str:
    if not prepared:
        return "The rows were not read."
    rows, held_out, tokens, trained = map(
        prepared.get, ("rows", "eval_rows", "tokens", "trained_tokens")
    )
    text = "Streamed rows" if rows is None else count(rows, "training row")
    if rows is not None and tokens is not None:
        text += f" with {count(tokens, 'token')}"
        if trained is not None:
            text += f", of which {trained / max(tokens, 1):.0%} are trained on"
    return f"{text}." if held_out is None else f"{text}; {count(held_out)} held out."


def _machine(started: Event, prepared: Event) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = [
        (name, f"{value} ({reason})" if (reason := prepared.get(f"{name}_reason")) else value)
        for name in ("device", "dtype")
        if (value := prepared.get(name))
    ]
    trained, all_of_them = (prepared.get(f"{part}_parameters") for part in ("trainable", "total"))
    if trained is not None and all_of_them is not None:
        rows += [("parameters trained", f"{count(trained)} of {count(all_of_them)}")]
    rows += [(name, version) for name, version in started.get("versions", {}).items()]
    seed = started.get("seed")
    return rows if seed is None else [*rows, ("seed", str(seed))]


def _exports(run: Path) -> list[tuple[str, str, str]]:
    """Return each export of the run: its format, the name of its folder, and what its proof found."""
    return [(one.to, one.path.name, one.sentence) for one in read_exports(run)]


def _cell(config: Config) -> str:
    tree = config.to_yaml(redacted=True)
    quoted = tree.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'import nbft\n\nconfig = nbft.Config.from_yaml("""\n{quoted}""")\nrun = nbft.train(config)\n'


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, float) else "none" if value is None else str(value)
