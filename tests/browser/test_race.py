"""A race as a person meets it: live curves, the table, Drop and Stop by keyboard, the still picture."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, expect

from nbft.data.tiny_model import make_tiny_model

from .conftest import Notebook

TRAINED_MS = 90_000  # torch, transformers and peft are imported first

MAKE = """
import os
import nbft
os.environ["NBFT_QUEUE"] = {queue!r}
config = nbft.Config.preset("two-minute-try").apply({{
    "model.model_name": {model!r}, "model.dtype": "float32", "training.max_steps": 100_000,
    "training.output_dir": {folder!r}, "training.run_name": "kind-otter-14",
    "evaluation.eval_strategy": "no", "evaluation.metrics": [], "evaluation.sample_count": 0}})
race = nbft.race(config, {{"training.learning_rate": [1e-4, 1e-3]}})
"""


def test_a_race_is_watched_and_stopped(
    notebook: Notebook,
    looks: Callable[[str, Locator], None],
    console_errors: list[str],
    tmp_path: Path,
) -> None:
    model = str(make_tiny_model(tmp_path / "tiny"))
    folders = {"queue": str(tmp_path / "queue"), "folder": str(tmp_path / "runs")}
    notebook.open([MAKE.format(model=model, **folders), "race"])
    notebook.run_cell(0)
    notebook.run_cell(1)
    view = notebook.output(1)
    expect(view.get_by_role("status").first).to_contain_text("2 of 2 contestants still training")
    table = view.get_by_role("table")
    expect(table.get_by_role("columnheader", name="training loss")).to_be_visible()
    expect(table.get_by_role("row", name=re.compile("1 kind-otter-14-"))).to_be_visible(
        timeout=TRAINED_MS
    )
    expect(view.locator(".nbft-chart-cell canvas").first).to_be_visible()
    looks("race", view.first)

    chosen = view.get_by_label("Contestant")
    expect(chosen).to_have_value("kind-otter-14-1 (learning_rate 0.0001)")
    chosen.select_option(label="kind-otter-14-2 (learning_rate 0.001)")
    view.get_by_role("button", name="Drop").press("Enter")
    dropped = table.get_by_role("row", name=re.compile("kind-otter-14-2"))
    expect(dropped).to_contain_text("stopped", timeout=TRAINED_MS)
    view.get_by_role("button", name="Stop all").press("Enter")
    picture = view.get_by_role("img", name=re.compile("learning_rate 0.0001: .* points"))
    expect(picture).to_be_visible(timeout=TRAINED_MS)
    expect(view).to_contain_text("over; best: kind-otter-14-")
    looks("race-over", view.first)
    assert notebook.kernel_eval("[run.status for run in race.runs]") == ["stopped", "stopped"]
    assert console_errors == []
