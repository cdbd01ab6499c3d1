"""Runs beside each other in a cell: curves, settings, scores and answers that differ.

The runs are written by hand, with curves as long as those of a real one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, expect

from nbft import events
from nbft.config import Config
from nbft.data.samples import sample_path
from nbft.data.tiny_model import make_tiny_model
from nbft.runs import Run

from .conftest import Notebook

STEPS = 120
PROMPTS = {
    "Correct: She go to school by the bus.": "She goes to school by bus.",
    "Correct: I has a cat.": "I have a cat.",
    "Correct: They was late.": "They were late.",
}


def make_run(
    root: Path, name: str, rate: float, right: int, answers: list[str], **more: Any
) -> Run:
    """Return a finished run whose loss falls at a rate, and that had some held-out rows right."""
    config = Config(
        model={"model_name": str(make_tiny_model(root / "tiny"))},
        data={
            "path": str(sample_path("grammar", "train")),
            "prompt_template": "Correct: {input}\n",
            "completion_template": "{target}",
        },
        training={"output_dir": str(root / "runs"), "run_name": name, "learning_rate": rate},
    )
    run = Run.create(config.apply(more))
    for step in range(1, STEPS + 1):
        loss = 0.8 + 2 * math.exp(-step * rate * 100) + 0.2 * math.sin(step * (3 + right))
        events.append(run.events_path, "log", step=step, loss=loss, learning_rate=rate)
        if step % 40 == 0:
            events.append(run.events_path, "eval", step=step, eval_loss=loss + 0.1)
    for step, count in ((0, 3), (STEPS, right)):
        values = {"exact_match": [1] * count + [0] * (48 - count)}
        about = {"split": "validation", "rows": 48, "max_new_tokens": 32, "values": values}
        events.append(
            run.events_path, "scores", step=step, scores={"exact_match": count / 48}, **about
        )
        samples = [
            {"prompt": prompt, "wanted": wanted, "text": text if step else "Correct: correct."}
            for (prompt, wanted), text in zip(PROMPTS.items(), answers, strict=True)
        ]
        events.append(run.events_path, "sample", step=step, samples=samples)
    events.append(run.events_path, "completed", step=STEPS, seconds=60)
    return run


def test_runs_are_compared_in_a_cell(
    notebook: Notebook,
    looks: Callable[[str, Locator], None],
    console_errors: list[str],
    root: Path,
) -> None:
    wanted = list(PROMPTS.values())
    make_run(root, "kind-otter-14", 2e-4, 24, ["She goes to school by the bus.", *wanted[1:]])
    make_run(root, "brave-heron-3", 8e-4, 41, wanted, **{"peft.r": 8, "peft.use_dora": True})
    notebook.open(['import nbft\nnbft.compare("kind-otter-14", "brave-heron-3")'])
    output = notebook.run_cell(0)

    curves = output.get_by_role("img", name="kind-otter-14: Training loss over 120 steps")
    expect(curves).to_have_accessible_name(re.compile("brave-heron-3: Training loss over 120"))
    scores = output.get_by_role("table", name="Scores, with what to expect on more rows")
    score = scores.get_by_role("row", name="exact match")
    expect(score.get_by_role("cell").nth(0)).to_have_text("50% (24 of 48), 36% to 64%")
    expect(score.get_by_role("cell").nth(1)).to_have_text("85% (41 of 48), 73% to 93%; better")
    settings = output.get_by_role("table", name="Settings that differ")
    rows = [row.split("\t") for row in settings.get_by_role("row").all_inner_texts()]
    assert rows == [
        ["setting", "kind-otter-14", "brave-heron-3"],
        ["peft.r", "16", "8"],
        ["peft.use_dora", "off", "on"],
        ["training.learning_rate", "0.0002", "0.0008"],
    ]
    expect(output).to_contain_text("1 of 3 prompts in common are answered differently.")
    answers = output.get_by_role("table").last
    expect(answers.locator("mark")).to_have_text("the")
    notebook.page.set_viewport_size({"width": 1200, "height": 1500})
    looks("compare", output.first)
    assert console_errors == []
