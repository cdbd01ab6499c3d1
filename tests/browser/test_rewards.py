"""Training with rewards by a person's steps: chosen, looked at, tried, trained, and seen."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from nbft.data.tiny_model import make_tiny_model

from .conftest import Notebook

FORM = """
import nbft
form = nbft.Form(nbft.Config(
    model={{"model_name": {model!r}, "dtype": "float32"}},
    data={{"dataset_name": "larger_number", "split_ratio": 1.0, "max_length": 400}},
    training={{"output_dir": "runs", "max_steps": 3, "per_device_train_batch_size": 8,
              "gradient_accumulation_steps": 1, "learning_rate": 1e-3}},
    evaluation={{"eval_strategy": "no", "sample_count": 0, "metrics": []}},
    grpo={{"num_generations": 4, "max_completion_length": 6}},
    logging={{"logging_steps": 1}},
))
form
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def choose_method(form: Locator) -> None:
    form.get_by_label("Find a setting").fill("training.method")
    field = form.locator(".nbft-at-training-method")
    field.get_by_label("Training method").select_option("grpo: training with rewards (GRPO)")


def test_rewards_are_chosen_tried_and_trained(
    notebook: Notebook,
    root: Path,
    model: Path,
    looks: Callable[[str, Locator], None],
) -> None:
    cells = [FORM.format(model=str(model)), "nbft.Monitor(form.run)"]
    notebook.open(cells)
    notebook.run_cell(0)
    form = notebook.page.locator(".nbft-form")
    expect(form).to_be_visible()
    expect(form.get_by_role("button", name="Rewards", exact=True)).to_have_count(0)
    choose_method(form)
    notebook.expect_value("form.config.training.method", "grpo")
    form.get_by_label("Find a setting").fill("")
    expect(form).to_contain_text("no answer would be better than another")

    form.get_by_role("button", name="Rewards", exact=True).click()
    editor = form.locator(".nbft-reward-editor")
    expect(editor).to_contain_text("No reward yet.")
    add = editor.get_by_role("button", name="Add a reward")
    add.click()
    first = editor.get_by_label("Reward 1")
    first.fill("length")
    first.press("Tab")
    notebook.expect_value("[r.function for r in form.config.grpo.rewards]", ["length"])
    editor.get_by_label("Options 1").fill("{at_most: 12, unit: characters}")
    editor.get_by_label("Options 1").press("Tab")
    notebook.expect_value(
        "[r.model_dump() for r in form.config.grpo.rewards]",
        [
            {
                "function": "length",
                "weight": 1.0,
                "name": None,
                "options": {"at_most": 12, "unit": "characters"},
            }
        ],
    )
    add.click()
    expect(editor.get_by_label("Reward 2")).to_have_value("exact_number")
    editor.get_by_role("button", name="Remove").nth(1).click()
    expect(editor.get_by_label("Reward 2")).to_have_count(0)

    editor.get_by_role("button", name="Try the rewards").click()
    expect(editor.get_by_role("status")).to_contain_text(
        "16 answers to 4 rows; mean of each reward: length", timeout=90_000
    )
    table = editor.get_by_role("table", name="Answers with their rewards")
    expect(table.get_by_role("columnheader", name="length")).to_be_visible()
    expect(table.get_by_role("row")).to_have_count(1 + 4 + 16)
    looks("rewards", form)

    form.get_by_role("button", name="Look at the data").click()
    lens = form.locator(".nbft-lens")
    expect(lens).to_contain_text("Write the larger number between tags.")
    expect(lens).to_contain_text("nothing of it is trained on")

    form.get_by_role("button", name="Train here").click()
    expect(form.get_by_text("Finished: run")).to_be_visible(timeout=180_000)
    notebook.expect_value("form.run.status", "completed")
    notebook.expect_value(
        "[e['step'] for e in form.run.events() if e['event'] == 'completions']", [1, 2, 3]
    )
    output = notebook.run_cell(1)
    expect(output.get_by_role("img", name=re.compile("all, weighted: 3 points"))).to_be_visible()
    output.get_by_role("tab", name="Answers").click()
    expect(output.get_by_role("table", name="Answers with their rewards")).to_be_visible()
    looks("rewards-monitor", output.first)
