"""report.html: one page that holds everything about a run, and opens without a network."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft import events
from nbft.config import Config
from nbft.evaluate.compare import Comparison
from nbft.evaluate.scores import Scores
from nbft.evaluate.timeline import Timeline
from nbft.events import Event
from nbft.formatting import count, duration, number, size
from nbft.pages import comparison, timeline
from nbft.pages import scores as score_table
from nbft.pages.environment import render
from nbft.runs.curves import draw_curves, draw_scores, in_words, scores_in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(run: Path, ending: Mapping[str, Any] | None = None) -> Path:
    """Write a run's report.html and return its path.

    Args:
        run: The run's folder.
        ending: The last event, when it is not written yet.

    Raises:
        OSError: There is no room for it; an earlier report is as it was.
    """
    found = events.current(events.read(run / "events.jsonl"))
    if ending is not None:
        found = [*found, dict(ending)]
    config = Config.load(run / "config.yaml")
    target = run / "report.html"
    partial = target.with_name("report.html.partial")
    try:
        partial.write_text(_page(run, config, found), encoding="utf-8")
        partial.replace(target)  # a full disk leaves an earlier report as it was
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return target


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _page(run: Path, config: Config, found: Sequence[Event]) -> str:
    started, prepared = _last(found, "started"), _last(found, "prepared")
    scores, scores_drawn = Scores(found), draw_scores(found)
    answers, over_steps = _answers(found)
    return render(
        "report",
        name=run.name,
        summary=_summary(config, found),
        curves=_png(draw_curves(found)),
        curves_in_words=in_words(found),
        scores=score_table.html(scores) if scores else "",
        sentences=scores.sentences,
        scores_drawn=_png(scores_drawn) if scores_drawn is not None else "",
        scores_in_words=scores_in_words(found),
        answers=comparison.html(answers) if answers else "",
        timeline=timeline.html(over_steps) if over_steps else "",
        settings=[
            (path, _shown(value), _shown(default))
            for path, (default, value) in config.diff().items()
        ],
        files=_files(config),
        rows=_rows(prepared),
        machine=_machine(started, prepared),
        cell=_cell(config),
        notes=[e["text"] for e in found if e["event"] in ("warning", "note")],
    )


def _last(found: Sequence[Event], kind: str) -> Event:
    return next((e for e in reversed(found) if e["event"] == kind), {})


def _summary(config: Config, found: Sequence[Event]) -> str:
    last = found[-1] if found else {}
    kind = last.get("event", "")
    method = {"lora": f"LoRA r={config.peft.r}", "ia3": "IA3"}.get(
        config.peft.method, "full training"
    )
    text = f"{config.model.model_name}, {method}."
    if kind in events.FINAL_KINDS:
        word = kind.capitalize()
        text += f" {word} after {count(last.get('step', 0), 'step')}"
        text += f" and {duration(last['seconds'])}." if "seconds" in last else "."
    for problem in last.get("problems", []):
        text += f" {problem}"
    return text


def _png(figure: Figure) -> str:
    """Return a figure as PNG, written in base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _answers(found: Sequence[Event]) -> tuple[Comparison | None, Timeline | None]:
    """Return the answers before and after, and those over the steps where there are more."""
    samples = [e for e in found if e["event"] == "sample"]
    if len(samples) < 2:
        return None, None
    over_steps = Timeline(found)
    both = Comparison.of_samples(samples[0]["samples"], samples[-1]["samples"])
    return both, over_steps if len(over_steps.steps) > 2 else None


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
            found.append((str(dataset.dataset_name), "on the hub", ""))
    return found


def _rows(prepared: Event) -> str:
    if not prepared:
        return "The rows were not read."
    trained, tokens = prepared["trained_tokens"], prepared["tokens"]
    return (
        f"{count(prepared['rows'], 'training row')} with {count(tokens, 'token')}, of which "
        f"{trained / max(tokens, 1):.0%} are trained on; {count(prepared['eval_rows'])} held out."
    )


def _machine(started: Event, prepared: Event) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = [
        (name, f"{prepared[name]} ({prepared.get(f'{name}_reason', '')})")
        for name in ("device", "dtype")
        if name in prepared
    ]
    if "trainable_parameters" in prepared:
        trained, all_of_them = prepared["trainable_parameters"], prepared["total_parameters"]
        rows += [("parameters trained", f"{count(trained)} of {count(all_of_them)}")]
    rows += [(name, version) for name, version in started.get("versions", {}).items()]
    return [*rows, ("seed", str(started.get("seed", "")))]


def _cell(config: Config) -> str:
    tree = config.to_yaml()
    quoted = tree.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'import nbft\n\nconfig = nbft.Config.from_yaml("""\n{quoted}""")\nrun = nbft.train(config)\n'


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, float) else "none" if value is None else str(value)
