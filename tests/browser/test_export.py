"""The trained model, exported from the end of a run in a cell and from the run's tab in the panel.

The run is a tiny model with an adapter that nobody has trained; its exports are real.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from nbft import events
from nbft.config import Config
from nbft.data.samples import sample_path
from nbft.data.tiny_model import make_tiny_model
from nbft.runs import Run
from nbft.runs.mark import mark

from .conftest import ARTIFACTS, Notebook, Server
from .test_panel import Panel


def make_run(root: Path) -> Run:
    """Return a finished run whose adapter changes every answer."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = make_tiny_model(root / "tiny")
    path = root / "runs" / "kind-otter-14"
    path.mkdir(parents=True)
    mark(path)
    data = {"path": str(sample_path("grammar", "train")), "prompt_template": "Correct: {input}\n"}
    config = Config(
        model={"model_name": str(model), "dtype": "float32"},
        data={**data, "completion_template": "{target}"},
    )
    config.save(path / "config.yaml", full=True)
    torch.manual_seed(1)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora)
    with torch.no_grad():
        for name, weights in tuned.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.5)
    tuned.save_pretrained(path / "adapter")
    AutoTokenizer.from_pretrained(model).save_pretrained(path / "adapter")
    run = Run(path)
    parameters = sum(weights.numel() for weights in tuned.parameters())
    events.append(run.events_path, "prepared", rows=3, total_steps=1, total_parameters=parameters)
    events.append(run.events_path, "log", step=1, loss=1.0, learning_rate=1e-4)
    samples = [{"prompt": "Correct: She go to school.\n", "text": "She goes."}]
    for step in (0, 1):
        events.append(run.events_path, "sample", step=step, samples=samples)
    events.append(run.events_path, "completed", step=1, seconds=3, adapter="adapter")
    return run


@pytest.fixture
def run(root: Path) -> Run:
    return make_run(root)


def test_a_run_is_exported_in_its_cell_and_in_its_tab(
    notebook: Notebook,
    run: Run,
    root: Path,
    page: Page,
    jupyter_lab: Server,
    axe: Callable[[Locator], list[str]],
) -> None:
    shown = f"import nbft\nfrom nbft.widgets import Monitor\nMonitor({str(run.path)!r})"
    notebook.open([shown], theme="dark", width=700)
    output = notebook.run_cell(0)

    # In the cell, by keyboard.
    output.get_by_role("button", name="Export…").focus()
    page.keyboard.press("Enter")
    kind = output.get_by_label("Format")
    expect(kind).to_have_value(re.compile("GGUF file"))
    output.get_by_label("Number type").select_option("q8_0")
    folder = output.get_by_label("Folder")
    expect(folder).to_have_value(f"{run.id}-gguf")
    assert output.first.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert axe(output.first) == []
    notebook.screenshot("export-form-dark-700", output.locator(".nbft-export").first)
    output.get_by_role("button", name=re.compile(r"Export as GGUF \(q8_0\), about \d+ KiB")).focus()
    page.keyboard.press("Enter")
    export = output.locator(".nbft-export").first
    expect(export.get_by_role("status")).to_contain_text("the trained model …")
    expect(export).to_contain_text("The proof passed.", timeout=60_000)
    target = root / f"{run.id}-gguf"
    expect(export).to_contain_text(f"It is in {target}")
    expect(export).to_contain_text(f"llama-cli -m {target / 'model.gguf'}")
    assert json.loads((target / "proof.json").read_text())["dtype"] == "q8_0"
    assert axe(output.first) == []
    notebook.screenshot("export-done-dark-700", export)

    # In the panel, where that export is listed, in a process of the server.
    page.set_viewport_size({"width": 1200, "height": 800})
    notebook.set_theme("light")
    panel = Panel(page, jupyter_lab)
    panel.run_command("nbft:show-runs")
    details = panel.details(run)
    exports = details.get_by_role("list", name="Exports").get_by_role("listitem")
    expect(exports).to_have_count(1)
    expect(exports.first).to_contain_text("gguf: the proof passed.")
    expect(exports.first).to_contain_text(f"llama-cli -m {target / 'model.gguf'}")
    details.get_by_role("button", name="Export…").click()
    details.get_by_label("Format").select_option("adapter")
    expect(details.get_by_role("textbox", name="Folder")).to_have_value(f"{run.id}-adapter")
    assert axe(details) == []
    page.screenshot(path=ARTIFACTS / "panel-export.png")
    details.get_by_role("button", name="Export as adapter, about").click()
    state = details.get_by_role("status", name="State of the export")
    expect(state).to_contain_text(f"Exporting to {run.id}-adapter.")
    expect(details.get_by_role("button", name="Stop the export")).to_be_visible()
    expect(exports).to_have_count(2, timeout=60_000)
    expect(exports.first).to_contain_text("adapter: the proof passed.")
    expect(state).to_contain_text(f"Exported to {root / f'{run.id}-adapter'}. Reloaded by peft")
    expect(details.get_by_role("button", name="Export…")).to_have_attribute(
        "aria-expanded", "false"
    )
    assert axe(details) == []
    page.screenshot(path=ARTIFACTS / "panel-exported.png")
    exports.first.get_by_role("button", name=f"Open the folder {run.id}-adapter").click()
    expect(page.locator(".jp-DirListing-item", has_text="proof.json")).to_be_visible()
