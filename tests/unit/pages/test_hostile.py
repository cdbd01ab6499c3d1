"""What stands in rows, answers, settings and logs stays text on every page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbft import events
from nbft.config import Config
from nbft.data.doctor import Report
from nbft.data.doctor.finding import Finding
from nbft.data.doctor.measure import Place
from nbft.data.lens import LensPart, LensRow, LensToken
from nbft.decisions import PARTS, Decisions
from nbft.errors import Problem
from nbft.evaluate.compare import Comparison
from nbft.evaluate.scores import Scores
from nbft.evaluate.timeline import Timeline
from nbft.hardware import Choice
from nbft.interop.report import Line
from nbft.interop.report import Report as ImportReport
from nbft.pages import chat, ending, findings, html, lens, rows
from nbft.pages.plan import summary
from nbft.pages.report import write_report
from nbft.plan import Plan
from nbft.rewards.table import Rewarded, RewardTable
from nbft.runs import Run
from nbft.runs.comparison import compare
from nbft.tracking import Tracker, TrackerState, TrackerTable

HOSTILE = (
    "<script>alert(1)</script> $\\frac$ {{ 7 * 7 }} {% raw %} \"><img src=x onerror=a> '&lt;b&gt;"
)
# Shorter, for what is cut off; no page may show it as markup either.
SHORT = "<i>{{ 7*7 }}$x$&\"'</i>"


class Page(HTMLParser):
    """Notes the elements of a page, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def scores(text: str) -> Scores:
    base = {"event": "scores", "step": 0, "rows": 4, "scores": {text: 0.0}}
    return Scores([base, base | {"step": 9, "scores": {text: 1.0}}], remarks=[text])


def timeline(text: str) -> Timeline:
    samples = [(0, f"{text} a"), (1, f"{text} b"), (2, "c")]
    return Timeline(
        {"event": "sample", "step": n, "samples": [{"prompt": text, "text": t}]} for n, t in samples
    )


def finding(text: str) -> Finding:
    places = (
        Place(row=1, number=0, split=text, field=text, text=text),
        Place(row=2, number=1, split=text, field="other", text=text),
    )
    about = dict.fromkeys(("name", "what", "why", "fix"), text)
    return Finding(level="error", **about, count=2, total=2, places=places, changes={"a": 1})


def report(text: str) -> Report:
    return Report(
        config=Config(),
        findings=[finding(text)],
        rows={"train": 2},
        looked_at=2,
        tokens=np.array([3, 4]),
        trained_share=np.array([0.5, 0.6]),
        remarks=[text],
    )


def plan(text: str) -> Plan:
    choice = Choice(text, text)
    return Plan(
        problems=[Problem(text, text, text, text)],
        decisions=Decisions(choice, choice, choice, dict.fromkeys(PARTS, choice)),
        effective_batch_size=4,
        free_memory_bytes=None,
        total_steps=4,
        warmup_steps=0,
        config=Config(),
    )


def lens_row(text: str) -> LensRow:
    kinds = (("text", 1), ("special", 1), ("special", -100), ("cut", -100))
    tokens = [LensToken(text=text, ids=(1,), label=label, kind=kind) for kind, label in kinds]
    return LensRow([LensPart(text, True, text, []), LensPart(text, True, text, tokens)])


def run_report(text: str, folder: Path) -> str:
    run = folder / "kind-otter-1"
    run.mkdir()
    config = Config(
        model={"model_name": text},
        data={"train": {"datasets": [{"dataset_name": text, "prompt_template": text}]}},
    )
    (run / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    path = run / "events.jsonl"
    events.append(path, "started", pid=1, versions={text: text}, seed=text)
    events.append(
        path, "prepared", device=text, device_reason=text, dtype=text, dtype_reason=text, rows=2,
        eval_rows=1, tokens=10, trained_tokens=5, trainable_parameters=1, total_parameters=2,
    )  # fmt: skip
    for step in (0, 1, 2):
        events.append(
            path, "sample", step=step, samples=[{"prompt": text, "text": f"{text} {step}"}]
        )
        events.append(path, "scores", step=step, rows=2, scores={text: step / 2})
    events.append(path, "log", step=1, loss=1.0, learning_rate=1e-4)
    events.append(path, "note", step=1, text=text)
    events.append(path, "failed", step=2, seconds=1.0, problems=[text])
    return write_report(run).read_text(encoding="utf-8")


def runs_beside_each_other(text: str, folder: Path) -> str:
    runs = []
    for name, said in (("calm-fox-2", text), ("calm-owl-3", "other")):
        run = folder / name
        run.mkdir()
        config = Config(model={"model_name": said})
        (run / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        path = run / "events.jsonl"
        samples = [{"prompt": text, "text": said, "wanted": text}]
        events.append(path, "log", step=1, loss=1.0)
        events.append(path, "sample", step=1, samples=samples)
        events.append(path, "scores", step=1, rows=2, scores={text: 0.5})
        runs.append(Run(run))
    return html(compare(*runs))


PAGES: dict[str, Callable[[str], Any]] = {
    "comparison": lambda text: html(Comparison([(text, f"{text} a", f"{text} b")], tuned=text)),
    "one answer": lambda text: html(Comparison([(text, "", text)])),
    "timeline": lambda text: html(timeline(text)),
    "chat": lambda text: chat.html(Comparison([(text, text, "b")], text, text), "id", text),
    "answers with rewards": lambda text: html(
        RewardTable([Rewarded(text, text, text, {text: 1.0}, 1.0)], [text])
    ),
    "scores": lambda text: html(scores(text)),
    "findings": lambda text: html(report(text)),
    "finding": lambda text: findings.finding(finding(text)),
    "success": lambda text: ending.success(
        text, text, [(text, True)], Comparison([(text, text, "b")]), scores=scores(text), place=text,
        code=text, page=text, report=text,
    ),
    "failure": lambda text: ending.failure(
        text, [text], text, code=text, page=text, report=text
    ),
    "lens": lambda text: lens.html([(text, lens_row(text), [text])], [text], "id"),
    "examples": lambda text: rows.as_examples([{"prompt": text, "completion": text}]),
    "rows of a file": lambda text: rows.as_in_file([{text[:10]: text}]),
    "plan": lambda text: summary(plan(text), text),
    "trackers": lambda text: html(
        TrackerTable([TrackerState(Tracker(text, text, text, text), text, Choice(text, text))])
    ),
    "imported": lambda text: ImportReport(
        text, text, text, [Line(text, text, "taken", text, text, text)], [text]
    )._repr_html_(),
}  # fmt: skip


def pages(text: str, folder: Path) -> Iterator[tuple[str, str]]:
    for name, page in PAGES.items():
        yield name, str(page(text))
    yield "report of a run", run_report(text, folder)
    yield "runs beside each other", runs_beside_each_other(text, folder)


@pytest.mark.parametrize("text", [HOSTILE, SHORT])
def test_hostile_text_stays_text(text: str, tmp_path: Path) -> None:
    harmless = {name: Page(page) for name, page in pages("harmless", tmp_path / "a")}
    for name, page in pages(text, tmp_path / "b"):
        parsed = Page(page)
        added = parsed.elements - harmless[name].elements
        # A word that differs is marked wherever the texts differ.
        assert added <= {"mark", "u"}, name
        assert not [key for key, _ in parsed.attributes if key.startswith("on")], name
        assert "49" not in parsed.text or "49" in harmless[name].text, name
        if name != "rows of a file":  # written as JSON there, so quotes are
            assert text[:22] in parsed.text, name


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
