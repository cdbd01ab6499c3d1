"""Preference training as a person meets it: chosen in the form, looked at, trained, and its charts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from nbft.data.tiny_model import make_tiny_model

from .conftest import Notebook, Theme

LOADED_MS = 60_000  # transformers is imported first
RUN_MS = 120_000
FORM = """
import nbft
form = nbft.Form(nbft.Config(
    model={"model_name": "tiny", "dtype": "float32"},
    training={"max_steps": 12, "per_device_train_batch_size": 4, "learning_rate": 1e-3},
    peft={"r": 4},
    evaluation={"eval_strategy": "steps", "eval_steps": 6, "sample_count": 0, "metrics": []},
    logging={"logging_steps": 1},
))
form
"""


@pytest.fixture
def files(root: Path) -> None:
    """Pairs and labelled answers to the same prompts, and a tiny model."""
    if not (root / "tiny").exists():
        make_tiny_model(root / "tiny")
    pairs = [
        {
            "prompt": f"How many legs have {n + 2} cats?\n",
            "chosen": f"They have {4 * n + 8} legs.",
            "rejected": f"I would say {n}, but who knows about cats?" if n % 2 else "Many.",
            "score_chosen": 9,
            "score_rejected": 1 + n % 7,
        }
        for n in range(48)
    ]
    labelled = [
        {"prompt": p["prompt"], "completion": p[side], "label": side == "chosen"}
        for n, p in enumerate(pairs)
        for side in [("chosen", "rejected")[n % 2]]
    ]
    for name, rows in (("pairs", pairs), ("labelled", labelled)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def opened(notebook: Notebook, theme: Theme = "light", width: int = 1200) -> Locator:
    notebook.open([FORM, "nbft.Monitor(form.run)"], theme=theme, width=width)
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    expect(form.get_by_label("Learning rate", exact=True)).to_be_visible()
    return form


def choose(form: Locator, name: str) -> None:
    box = form.get_by_label("Data file", exact=True)
    box.fill(name)
    box.press("Tab")
    expect(form.locator(".nbft-side")).to_contain_text(name, timeout=30_000)


def looked_at(form: Locator) -> Locator:
    form.get_by_role("button", name="Look at the data").click()
    lens = form.locator(".nbft-lens")
    tokens = lens.get_by_role("listbox", name="Tokens").get_by_role("option")
    expect(tokens.first).to_be_visible(timeout=LOADED_MS)
    return lens


def trained(notebook: Notebook, form: Locator, method: str) -> None:
    start = form.get_by_role("button", name=re.compile(f"^Train here: 12 steps of {method}"))
    expect(start).to_be_enabled()
    start.click()
    expect(form.get_by_text(re.compile("Finished: run .* completed"))).to_be_visible(timeout=RUN_MS)
    notebook.expect_value("form.run.status", "completed")


def charts(notebook: Notebook, *titles: str) -> Locator:
    """Show the run in a cell of its own, and return the panel with the charts of its method."""
    notebook.page.set_viewport_size({"width": notebook.page.viewport_size["width"], "height": 2400})
    output = notebook.run_cell(1).first
    output.get_by_role("tab", name="More curves").click()
    for title in titles:
        expect(output.get_by_text(title, exact=True)).to_be_visible()
    return output


def test_pairs_stand_beside_each_other_and_train_by_dpo(
    notebook: Notebook,
    files: None,
    looks: Callable[[str, Locator], None],
) -> None:
    form = opened(notebook)
    choose(form, "pairs.jsonl")
    expect(form.get_by_text("trains on the good answers only").first).to_be_visible()
    form.get_by_label("Advanced", exact=True).check()
    form.get_by_role("tab", name="Method", exact=True).click()
    method = form.get_by_label("Training method", exact=True)
    expect(form.get_by_label("Beta", exact=True)).to_have_count(0)
    method.select_option("dpo: preference training (DPO)")
    expect(form.get_by_label("Beta", exact=True)).to_be_visible()
    notebook.expect_value("form.config.training.method", "dpo")
    looks("preference-form", form)

    lens = looked_at(form)
    parts = lens.locator(".nbft-lens-part")
    captions = [
        "prompt (not trained)",
        "chosen: completion (trained)",
        "rejected: completion (trained)",
    ]
    expect(lens.locator(".nbft-lens-caption")).to_have_text(captions)
    for width in (700, 1400):
        notebook.page.set_viewport_size({"width": width, "height": 800})
        top, left, right = (parts.nth(n).bounding_box() for n in range(3))
        assert top
        assert left
        assert right
        if width > 1000:
            assert left["y"] == right["y"] > top["y"], "beside each other"
            assert right["x"] > left["x"] + left["width"] - 1
        else:
            assert right["y"] > left["y"] > top["y"], "below each other"
            assert right["x"] == left["x"]
    heading = lens.get_by_role("status").first
    expect(heading).to_contain_text(re.compile(r"chosen \d+ tokens, \d+ trained · rejected \d+"))
    expect(heading).to_contain_text(re.compile(r"chosen scored \d higher"))
    first = lens.get_by_role("group", name="rejected: completion (trained)").get_by_role("option")
    first.first.click()
    notebook.page.keyboard.press("ArrowLeft")  # to the end of the chosen answer
    expect(
        lens.get_by_role("group", name="chosen: completion (trained)").locator(":focus")
    ).to_have_count(1)
    looks("preference-lens", lens)

    trained(notebook, form, "DPO")
    run = charts(notebook, "Reward margin", "Chosen preferred", "Rewards")
    margin = run.get_by_role(
        "img", name=re.compile(r"margin: 12 points.*margin, held-out: \d point")
    )
    expect(margin).to_have_count(1)
    for name in ("accuracy", "chosen", "rejected"):
        both = re.compile(rf"{name}: 12 points.*{name}, held-out: ")
        expect(run.get_by_role("img", name=both).first).to_be_visible()
    looks("preference-run", run)


def test_labelled_answers_train_by_kto(
    notebook: Notebook, files: None, axe: Callable[[Locator], list[str]]
) -> None:
    form = opened(notebook)
    choose(form, "labelled.jsonl")
    form.get_by_role("button", name="Check", exact=True).click()
    form.locator(".nbft-fix").filter(has_text="kto").click()
    notebook.expect_value("form.config.training.method", "kto")
    lens = looked_at(form)
    heading = lens.get_by_role("status").first
    expect(heading).to_contain_text("labelled good")
    lens.get_by_role("button", name="Next").click()
    expect(heading).to_contain_text("labelled bad")
    expect(lens.locator(".nbft-lens-sides")).to_have_count(0)
    trained(notebook, form, "KTO")
    run = charts(notebook, "Rewards", "Distance from the reference model")
    for name in ("good", "bad", "KL"):
        assert run.get_by_role("img", name=re.compile(rf"{name}: \d+ points")).count() > 0, name
    notebook.screenshot("preference-kto", run)
    assert axe(run) == []


@pytest.mark.parametrize("method", ["orpo", "cpo", "reward"])
def test_other_methods_train_on_pairs(notebook: Notebook, files: None, method: str) -> None:
    form = opened(notebook)
    choose(form, "pairs.jsonl")
    notebook.kernel_eval(f"form._take('training.method', {method!r})")
    trained(notebook, form, method.upper())
    charts(notebook, "Reward margin")
