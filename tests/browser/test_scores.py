"""Scores and the answers over the steps, in the panel's tab of a run and in the monitor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from nbft import events
from nbft.runs import Run

from .conftest import Notebook, Server
from .test_panel import Panel, make_run

PROMPT = "Question: Anna has 3 apples and buys 4 more. How many has she?\n\nAnswer:\n"
ANSWERS = {0: "Anna Anna has <b>", 20: "3 + 4 = 8\n#### 8", 40: "3 + 4 = 7\n#### 7"}


def with_scores(root: Path) -> Run:
    run = make_run(root, "wise-heron-5")
    say = lambda event, **fields: events.append(run.events_path, event, **fields)  # noqa: E731
    say("started", pid=1, process_start_time=1.0, model="m")
    say("prepared", rows=300, total_steps=40)
    for step in range(1, 41):
        say("log", step=step, loss=2 - step / 40, learning_rate=1e-4)
    for step, text in ANSWERS.items():
        verdicts = {"exact_match": "better", "rougeL": "worse, may be chance"} if step else {}
        scores = {
            "exact_match": step / 80,
            "rougeL": 0.31 - step / 4000,
            "perplexity": 30 - step / 4,
        }
        for split in ("validation",) if step == 20 else ("validation", "test"):
            say("scores", step=step, split=split, rows=16, scores=scores, verdicts=verdicts)
        say("sample", step=step, samples=[{"prompt": PROMPT, "text": text}])
    say("completed", step=40, seconds=75, adapter="adapter")
    return run


def test_the_panel_shows_scores_and_answers(
    page: Page,
    jupyter_lab: Server,
    root: Path,
    looks: Callable[[str, Locator], None],
) -> None:
    page.set_viewport_size({"width": 1200, "height": 1000})
    run = with_scores(root)
    details = Panel(page, jupyter_lab).open().details(run)
    table = details.get_by_role("group", name="Scores of held-out rows")
    row = table.get_by_role("row", name="exact match")
    assert row.get_by_role("cell").all_inner_texts() == [
        "0% (0 of 16)",
        "50% (8 of 16)",
        "+8 rows: better",
    ]
    row = table.get_by_role("row", name="ROUGE-L")
    assert row.get_by_role("cell").all_inner_texts() == [
        "0.310",
        "0.300",
        "−0.0100: worse, may be chance",
    ]
    expect(details.get_by_role("group", name="Scores of test rows")).to_be_visible()
    expect(details.get_by_role("img", name="perplexity. perplexity 30.00 to 20.00")).to_be_visible()

    answer = details.get_by_text("3 + 4 = 8")
    expect(answer).to_be_hidden()
    details.get_by_text("Anna has 3 apples").first.click()
    expect(answer).to_be_visible()
    expect(details.get_by_text("Anna Anna has <b>")).to_be_visible()
    looks("panel-scores", details)


def test_the_monitor_shows_scores_and_answers(
    notebook: Notebook,
    root: Path,
    axe: Callable[[Locator], list[str]],
) -> None:
    run = with_scores(root)
    code = f"from nbft.widgets import Monitor\nMonitor({str(run.path)!r})"
    notebook.open([code], theme="dark", width=700)
    output = notebook.run_cell(0)
    expect(output.last).to_contain_text("On 16 held-out rows", timeout=30_000)
    page = notebook.page
    page.get_by_role("tab", name="Samples", exact=True).click()
    page.locator("summary", has_text="Anna has 3 apples").click()
    expect(page.get_by_text("step 20").filter(visible=True)).to_be_visible()
    notebook.screenshot("monitor-timeline-dark-700", output.first)
    page.get_by_role("tab", name="Scores", exact=True).click()
    expect(output.first.get_by_role("row", name="exact match").first).to_contain_text(
        "+8 rows: better"
    )
    notebook.screenshot("monitor-scores-dark-700", output.first)
    assert axe(output.first) == []
