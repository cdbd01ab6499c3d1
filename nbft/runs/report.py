"""report.html: one page that holds everything about a run, and opens without a network."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft import events
from nbft.config import Config
from nbft.evaluate.compare import Comparison
from nbft.events import Event
from nbft.formatting import count, duration, number, size
from nbft.runs.curves import draw_curves, draw_scores, in_words, scores_in_words
from nbft.runs.state import RunState, read_state

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .6rem;
border-bottom: 1px solid #8886; vertical-align: top; } img { max-width: 100%; background: white; }
pre { white-space: pre-wrap; background: #8882; padding: .8rem; border-radius: 4px; }
"""


def write_report(run: Path, ending: Mapping[str, Any] | None = None) -> Path:
    """Write a run's report.html and return its path.

    Args:
        run: The run's folder.
        ending: The last event, when it is not written yet.

    Raises:
        OSError: There is no room for it; an earlier report is as it was.
    """
    state = read_state(run / "events.jsonl")
    if ending is not None:
        state.take(events.checked(dict(ending)))
    config = Config.load(run / "config.yaml")
    target = run / "report.html"
    partial = target.with_name("report.html.partial")
    try:
        partial.write_text(_page(run, config, state), encoding="utf-8")
        partial.replace(target)  # a full disk leaves an earlier report as it was
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return target


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _page(run: Path, config: Config, state: RunState) -> str:
    started, prepared = state.started, state.prepared
    sections = [
        f"<h1>{escape(run.name)}</h1>",
        f"<p>{escape(_summary(config, state))}</p>",
        f'<img alt="{escape(in_words(state))}" src="{_picture(draw_curves(state))}">',
        f"<p>{escape(in_words(state))}</p>",
        *_scores(state),
        *_answers(state),
        "<h2>Settings that differ from the defaults</h2>",
        _table(
            ("setting", "value", "default"),
            [(k, mine, default) for k, (default, mine) in config.diff().items()],
        ),
        "<h2>Data</h2>",
        _table(("file", "SHA-256", "size"), _files(config)),
        f"<p>{escape(_rows(prepared))}</p>",
        "<h2>Machine</h2>",
        _table(("what", "value"), _machine(started, prepared)),
        "<h2>Repeat this run</h2>",
        f"<pre>{escape(_cell(config))}</pre>",
    ]
    said = [note.text for note in state.notes]
    if said:
        sections += ["<h2>What was noticed</h2><ul>", *[f"<li>{escape(t)}</li>" for t in said]]
        sections += ["</ul>"]
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(run.name)}</title><style>{_STYLE}</style></head><body>\n{body}\n"
        "</body></html>\n"
    )


def _summary(config: Config, state: RunState) -> str:
    last = state.end or {}
    method = {"lora": f"LoRA r={config.peft.r}", "ia3": "IA3"}.get(
        config.peft.method, "full training"
    )
    text = f"{config.model.model_name}, {method}."
    if last:
        seconds = last.get("seconds")
        text += f" {last['event'].capitalize()} after {count(last.get('step') or 0, 'step')}"
        text += "." if seconds is None else f" and {duration(seconds)}."
    for problem in state.problems:
        text += f" {problem}"
    return text


def _picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _scores(state: RunState) -> list[str]:
    """Show the scores before and after, what to make of them, and their way there."""
    scores = state.scores
    if not scores:
        return []
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in scores.sentences)
    sections = ["<h2>Scores before and after</h2>", scores._repr_html_(), said]
    figure = draw_scores(state)
    if figure is not None:
        sections += [f'<img alt="{escape(scores_in_words(state))}" src="{_picture(figure)}">']
    return sections


def _answers(state: RunState) -> list[str]:
    samples = state.samples
    if len(samples) < 2:
        return []
    pair = Comparison.of_samples(samples[0]["samples"], samples[-1]["samples"])
    sections = ["<h2>Answers before and after</h2>", pair._repr_html_()]
    timeline = state.timeline
    if len(timeline.steps) > 2:
        sections += ["<h2>The same prompts over the steps</h2>", timeline._repr_html_()]
    return sections


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
    rows, held_out = prepared.get("rows") or 0, prepared.get("eval_rows") or 0
    trained, tokens = prepared.get("trained_tokens") or 0, prepared.get("tokens") or 0
    return (
        f"{count(rows, 'training row')} with {count(tokens, 'token')}, of which "
        f"{trained / max(tokens, 1):.0%} are trained on; {count(held_out)} held out."
    )


def _machine(started: Event, prepared: Event) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = [
        (name, f"{prepared[name]} ({prepared.get(f'{name}_reason', '')})")
        for name in ("device", "dtype")
        if name in prepared
    ]
    trained, all_of_them = (prepared.get(f"{part}_parameters") for part in ("trainable", "total"))
    if trained is not None and all_of_them is not None:
        rows += [("parameters trained", f"{count(trained)} of {count(all_of_them)}")]
    rows += [(name, version) for name, version in started.get("versions", {}).items()]
    return [*rows, ("seed", str(started.get("seed", "")))]


def _cell(config: Config) -> str:
    tree = config.to_yaml()
    quoted = tree.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'import nbft\n\nconfig = nbft.Config.from_yaml("""\n{quoted}""")\nrun = nbft.train(config)\n'


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, float) else "none" if value is None else str(value)
