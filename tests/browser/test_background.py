"""A run that outlives the tab and the kernel, by a person's steps."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, expect

import nbft
from nbft.data.tiny_model import make_tiny_model

from .conftest import OPEN_MS, READY, Notebook

RUN_SECONDS = 120

FORM = """
import nbft
form = nbft.Form(nbft.Config.preset("two-minute-try").apply({
    "model.model_name": "tiny", "model.dtype": "float32", "training.max_steps": 100_000,
    "training.learning_rate": 1e-3, "checkpoint.save_steps": 50,
    "evaluation.eval_strategy": "no", "evaluation.sample_max_new_tokens": 4}))
form
"""


REFUSING = """
import nbft, transformers
steps = transformers.Trainer.training_step
def refuse(trainer, *arguments, **named):
    if trainer.args.per_device_train_batch_size == 4:
        raise MemoryError("tried to allocate 5.00 GiB")
    return steps(trainer, *arguments, **named)
transformers.Trainer.training_step = refuse
config = nbft.Config.preset("two-minute-try").apply({
    "model.model_name": "tiny", "model.dtype": "float32", "training.max_steps": 3,
    "training.per_device_train_batch_size": 4, "training.gradient_accumulation_steps": 1,
    "evaluation.eval_strategy": "no", "evaluation.sample_max_new_tokens": 4})
"""


def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + RUN_SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {RUN_SECONDS} s: {what}"
        time.sleep(0.1)


def test_a_run_outlives_tab_and_kernel(notebook: Notebook, tmp_path: Path) -> None:
    page, root = notebook.page, notebook.server.root
    make_tiny_model(root / "tiny")

    # Start it in the background, from the form.
    notebook.open(["import nbft.widgets.form", FORM, "run = nbft.attach(name)\nrun"])
    notebook.kernel_eval(f"__import__('os').environ.update(NBFT_QUEUE={str(tmp_path)!r})")
    notebook.run_cell(0)
    notebook.run_cell(1)
    form = notebook.output(1).locator(".nbft-form")
    form.get_by_role("button", name="Run in background").click()
    expect(form.locator(".nbft-state").get_by_role("status")).to_contain_text("Running: run")
    name = notebook.kernel_eval("form.run.id")
    run = nbft.Run(root / "runs" / name)
    points = re.compile(r"loss: ([3-9]|\d\d+) points|loss: [\d,]+ points")
    loss = notebook.output(1).get_by_role("img", name=re.compile("held-out"))
    expect(loss).to_have_attribute("aria-label", points, timeout=RUN_SECONDS * 1000)
    notebook.save()
    url = page.url

    # Close the tab, and open another.
    page.goto("about:blank")
    assert run.status == "running"
    page.goto(f"{notebook.server.url}/lab?reset&token={notebook.server.token}")
    page.locator(".jp-Launcher").first.wait_for(timeout=OPEN_MS)
    page.evaluate("() => window.jupyterapp.commands.execute('nbft:show-runs')")
    panel = page.get_by_role("region", name="Fine-tuning runs")
    row = panel.get_by_role("listitem").filter(has_text=name)
    expect(row).to_contain_text("running")
    expect(row.get_by_role("img")).to_be_visible()
    notebook.screenshot("background-panel")

    # Restart the kernel, and attach.
    page.goto(url)
    page.locator(".jp-Notebook").first.wait_for(timeout=OPEN_MS)
    page.wait_for_function(READY, timeout=OPEN_MS)
    notebook.restart()
    assert run.status == "running"
    notebook.kernel_eval("exec('import nbft') or 1")
    notebook.kernel_eval(f"globals().update(name={name!r}) or 1")
    notebook.run_cell(2)
    attached = notebook.output(2).get_by_role("img", name=re.compile("held-out"))
    expect(attached).to_have_attribute("aria-label", points)

    # Stop it from the panel.
    page.evaluate("() => window.jupyterapp.commands.execute('nbft:show-runs')")
    row.get_by_role("button").click()
    details = page.get_by_role("region", name=f"Run {name}")
    details.get_by_role("button", name="Stop").click()
    until(lambda: run.status == "stopped", "the stop")
    expect(details.get_by_role("button", name="Resume")).to_be_visible(timeout=30_000)
    stopped_at = run.step

    # Resume it, and watch it end.
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("100000", str(stopped_at + 20)))
    details.get_by_role("button", name="Resume").click()
    until(lambda: run.status == "completed", "the end")
    assert run.step == stopped_at + 20
    expect(details).to_contain_text("completed", timeout=30_000)
    notebook.screenshot("background-details")


def test_a_run_that_memory_ran_out_on_is_started_again(
    notebook: Notebook, looks: Callable[[str, Locator], None]
) -> None:
    make_tiny_model(notebook.server.root / "tiny")
    notebook.open([REFUSING, "run = nbft.train(config)"])
    notebook.run_cell(0)
    output = notebook.run_cell(1)
    expect(output.last).to_contain_text("Memory ran out on cpu after step 0")
    fixes = output.first.get_by_role("button", name=re.compile("Run again with"))
    expect(fixes.first).to_contain_text("Run again with batch 2 with accumulation 2")
    looks("fixes", output.first)
    fixes.first.click()
    failed = notebook.kernel_eval("run.id")
    expect(output.last).to_contain_text("completed in", timeout=RUN_SECONDS * 1000)
    expect(output.last).not_to_contain_text(failed)
    expect(fixes).to_have_count(0)
    expect(output.locator("img").first).to_be_visible()
    runs = notebook.kernel_eval("[[r.id, r.status, r.is_background] for r in nbft.list_runs()]")
    assert runs[0][1:] == ["completed", False]  # where the other was trained: in the kernel
    assert runs[1] == [failed, "failed", False]
