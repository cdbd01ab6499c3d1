"""The monitor in a real notebook, on a run whose worker is a few lines of Python."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from nbft.config import Config

from .conftest import App, Notebook, Server

WORKER = '''
"""Writes the events of a run of N steps and obeys its commands. Trains nothing."""
import math, os, sys, time
from nbft.processes import process_start_time
from pathlib import Path
from nbft.events import EventReader, append

folder, steps, step_seconds, ends = Path(sys.argv[1]), *map(float, sys.argv[2:4]), sys.argv[4]
log = folder / "log.txt"
commands = EventReader(folder / "commands.jsonl")

def say(event, **fields):
    append(folder / "events.jsonl", event, **fields)
    with log.open("a") as file:
        file.write(f"{event} {fields}\\n")

def ask(step, texts):
    prompts = ["Name three colours.", "Rewrite in the passive: The dog chased the cat <fast>."]
    say("sample", step=step, samples=[dict(prompt=p, text=t) for p, t in zip(prompts, texts)])

say("started", pid=os.getpid(), process_start_time=process_start_time(os.getpid()))
say("stage", stage="preparing", text="Loading the model…")
while not (folder / "go").exists():
    time.sleep(0.02)
def score(step, rouge, perplexity):
    say("scores", step=step, split="validation", rows=16, seconds=4,
        scores=dict(rougeL=rouge, exact_match=round(rouge * 16) / 16, perplexity=perplexity))

score(0, 0.12, 31.4)
ask(0, ["The colours are red, red, red and also the colours.", "The dog chased the cat."])
say("eval", step=0, epoch=0, eval_loss=2.31)
say("warning", text="12 of 300 rows were cut at 256 tokens. Raise data.max_length to keep them.")
said = "completed"
say("prepared", rows=300, total_steps=int(steps), device="cpu")
for step in range(1, int(steps) + 1):
    time.sleep(step_seconds)
    say("log", step=step, epoch=2 * step / steps, loss=1.3 + math.exp(-step / 12) + 0.1 * math.sin(step * 1.7),
        learning_rate=2e-4 * min(step / 10, (steps - step) / (steps - 10)), grad_norm=0.8 + 0.2 * math.sin(step),
        tokens_per_second=2380 + step, memory_bytes=2.04e9 + 1e5 * step, seconds_left=(steps - step) * 1.2)
    if step == 10:
        say("note", step=10, text="warm-up ends", setting="")
    if step % 20 == 0:
        say("eval", step=step, epoch=2 * step / steps, eval_loss=1.4 + math.exp(-step / 12))
        score(step, 0.4 - math.exp(-step / 30) / 4, 12 + 20 * math.exp(-step / 30))
    for command in commands.read():
        name = command["event"]
        say("command", command=name, step=step, text=f"{name}: heard at step {step}")
        if name == "save":
            say("checkpoint", step=step, path=f"checkpoints/step-{step}")
        if name == "sample":
            ask(step, ["Red, green and blue.", "The cat was chased by the dog <fast>."])
        if name == "stop":
            said = "stopped"
    if said == "stopped":
        break
    if ends == "failed" and step == 12:
        say("failed", step=step, error="OutOfMemoryError", problems=[
            "The GPU ran out of memory: 15.2 GiB were asked for, 15.0 GiB are there. "
            "Use per_device_train_batch_size=8 with gradient_accumulation_steps=2."])
        sys.exit()
ask(step, ["Red, green and blue.", "The cat was chased by the dog <fast>."])
say("eval", step=step, epoch=2, eval_loss=1.43)
say(said, step=step, seconds=192, adapter="adapter")
'''


class Worker:
    """A run's folder beside the notebook, and the process that fills it."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = root / name
        self.folder.mkdir()
        Config(
            model={"model_name": "smollm2-135m"},
            data={"dataset_name": "alpaca"},
            training={"learning_rate": 3e-4, "num_train_epochs": 2},
        ).save(self.folder / "config.yaml", full=True)
        self.setup = f"from nbft.widgets import Monitor\nmonitor = Monitor({name!r})"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, steps: int = 94, step_seconds: float = 0.05, ends: str = "completed") -> None:
        """Begin to load the model; the steps follow on `go`."""
        command = [sys.executable, "-c", WORKER, self.folder, steps, step_seconds, ends]
        self._process = subprocess.Popen([str(part) for part in command])

    def go(self) -> None:
        (self.folder / "go").touch()

    def wait(self) -> None:
        assert self._process
        assert self._process.wait(60) == 0

    def commands(self) -> list[str]:
        path = self.folder / "commands.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["event"] for line in lines]

    def end(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def worker(jupyter_lab: Server, request: pytest.FixtureRequest) -> Iterator[Worker]:
    number = len(list(jupyter_lab.root.iterdir()))
    worker = Worker(jupyter_lab.root, f"kind-otter-{number}")
    yield worker
    worker.end()


def saved_outputs(notebook: Notebook, cell: int) -> list[dict[str, object]]:
    """The bundles that the notebook file holds."""
    notebook.save()
    files = sorted(notebook.server.root.glob(f"{notebook.name}-*.ipynb"))
    outputs = json.loads(files[-1].read_text())["cells"][cell]["outputs"]
    return [output["data"] for output in outputs]


def test_live_to_the_still_picture(
    notebook: Notebook, worker: Worker, axe: Callable[[Locator], list[str]]
) -> None:
    notebook.open([worker.setup, "monitor", "import asyncio; await asyncio.sleep(4)"])
    page = notebook.page
    notebook.run_cell(0)
    output = notebook.run_cell(1)
    expect(output.first).to_contain_text(f"run {worker.folder.name}")
    expect(output.first).to_contain_text("starting")

    # Points, numbers and notes arrive.
    worker.start(steps=4000)
    expect(output.first).to_contain_text("Loading the model…")
    worker.go()
    expect(output.first).to_contain_text(re.compile(r"running, step \d+ of 4,000"))
    loss = output.get_by_role("img", name=re.compile("held-out loss: "))
    expect(loss).to_have_attribute("aria-label", re.compile(r"loss: [2-9]\d+ points"))
    expect(output.first).to_contain_text(re.compile(r"tokens/s · 1\.9 GiB · 1 h 1\d min left"))
    expect(output.first).to_contain_text("Step 10: warm-up ends")
    expect(output.first).to_contain_text("12 of 300 rows were cut")

    # Every panel opens by keyboard.
    page.get_by_role("tab", name="Notes").focus()
    for name, text in (
        ("More curves", "gradient norm"),
        ("Log", "learning_rate"),
        ("Samples", "Name three colours."),
        ("Scores", "perplexity improved"),
        ("Settings", "training.num_train_epochs"),
    ):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        expect(output.first.get_by_text(text).filter(visible=True).first).to_be_visible()
        notebook.screenshot(f"monitor-{name.lower().replace(' ', '-')}", output.first)
        assert axe(output.first) == []

    # Buttons are heard while another cell awaits.
    notebook.run_cell(2, wait=False)
    expect(notebook.cell(2).locator(".jp-InputPrompt")).to_have_text("[*]:")
    output.get_by_role("button", name="Save now").click()
    expect(output.first).to_contain_text(re.compile(r"saved in checkpoints/step-\d+"))
    assert worker.commands() == ["save"]
    expect(notebook.cell(2).locator(".jp-InputPrompt")).to_have_text("[*]:")

    # The end: a picture and the result, in the page and in the file.
    output.get_by_role("button", name="Stop and save").click()
    picture = output.locator("img")
    expect(picture).to_be_visible()
    assert worker.commands() == ["save", "stop"]
    expect(output.last).to_contain_text("Held-out loss: 2.31 before training, 1.43 after step")
    expect(output.last.locator("mark").last).to_contain_text("<fast>.")
    expect(output.last).to_contain_text("run.generate(")
    assert axe(output.last) == []
    notebook.screenshot("monitor-end")
    export = output.get_by_role("button", name="Export…")
    expect(export).to_be_visible()
    still, exports, result = saved_outputs(notebook, 1)
    assert set(still) == {"image/png", "text/plain"}
    assert set(exports) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert set(result) == {"text/html", "text/plain"}

    # Opened again, its kernel gone.
    notebook.server.shut_kernels_down()
    notebook.reload()
    expect(picture).to_be_visible()
    expect(notebook.output(1).last).to_contain_text("run.generate(")
    expect(export).to_have_count(0)
    expect(notebook.output(1).filter(has_text="rror", visible=True)).to_have_count(0)


def test_a_reloaded_page_is_whole_and_its_stop_is_heard(notebook: Notebook, worker: Worker) -> None:
    notebook.open([worker.setup, "monitor"])
    notebook.run_cell(0)
    output = notebook.run_cell(1)
    worker.start(steps=4000)
    worker.go()
    expect(output.first).to_contain_text(re.compile(r"running, step \d\d+"))
    notebook.save()
    notebook.reload()
    loss = output.get_by_role("img", name=re.compile("held-out loss: "))
    expect(loss).to_have_attribute("aria-label", re.compile(r"loss: \d+ points, step 1 to"))
    output.get_by_role("button", name="Stop and save").click()
    expect(output.first).to_contain_text("Held-out loss: 2.31 before training")
    expect(output.get_by_role("button", name="Stop and save")).to_have_count(0)
    assert worker.commands() == ["stop"]


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_the_report_opens_by_its_link(notebook: Notebook, worker: Worker, app: App) -> None:
    worker.start(steps=3, step_seconds=0)
    worker.go()
    worker.wait()
    (worker.folder / "report.html").write_text("<title>r</title><h1>What the run did</h1>")
    notebook.open([worker.setup, "monitor"], app=app)
    notebook.run_cell(0)
    output = notebook.run_cell(1)
    link = output.last.get_by_role("link", name="Open the report")
    title = "What the run did"
    if app == "lab":
        link.click()
        report = notebook.page.frame_locator(".jp-HTMLViewer iframe")
        expect(report.get_by_role("heading", name=title)).to_be_visible()
    else:
        with notebook.page.context.expect_page() as opened:
            link.click()
        expect(opened.value.get_by_role("heading", name=title)).to_be_visible()


def test_a_cell_that_waits_says_how_to_stop(notebook: Notebook, worker: Worker) -> None:
    waits = """
import time
monitor = Monitor(monitor.run, interactive=False)
monitor.show()
while monitor.update():
    time.sleep(0.1)
"""
    notebook.open([worker.setup, waits])
    notebook.run_cell(0)
    worker.start(steps=120)
    worker.go()
    output = notebook.run_cell(1, wait=False)
    expect(output.first).to_contain_text("This cell is busy: press ■ (interrupt)")
    expect(output.first).to_contain_text(re.compile(r"running, step \d+ of 120"))
    expect(output.get_by_role("img", name=re.compile("loss: [1-9]"))).to_be_visible()
    expect(output.get_by_role("button", name="Stop and save")).to_have_count(0)
    notebook.screenshot("monitor-busy", output.first)
    expect(output.locator("img")).to_be_visible(timeout=20_000)
    expect(output.last).to_contain_text("completed in 3 min 12 s")


def test_a_failed_run_dark_and_narrow(
    notebook: Notebook, worker: Worker, axe: Callable[[Locator], list[str]]
) -> None:
    notebook.open([worker.setup, "monitor"], theme="dark", width=700)
    notebook.run_cell(0)
    output = notebook.run_cell(1)
    worker.start(step_seconds=0.4, ends="failed")
    worker.go()
    expect(output.first).to_contain_text(re.compile(r"running, step [5-9] of 94"))
    notebook.screenshot("monitor-dark-700")
    assert output.first.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert axe(output.first) == []
    expect(output.last).to_contain_text("The GPU ran out of memory", timeout=10_000)
    log = output.last.get_by_text("OutOfMemoryError")
    expect(log).to_be_hidden()
    output.last.get_by_text("the last lines of the log").click()
    expect(log).to_be_visible()
    assert axe(output.last) == []
    notebook.screenshot("monitor-failed-dark-700")


@pytest.mark.parametrize("app", ["lab", "notebook", "voila"])
def test_a_run_long_over_is_whole_at_once(
    notebook: Notebook, worker: Worker, app: App, axe: Callable[[Locator], list[str]]
) -> None:
    worker.start(step_seconds=0)
    worker.go()
    worker.wait()
    notebook.open([worker.setup, "monitor"], app=app)
    if app != "voila":
        notebook.run_cell(0)
        output = notebook.run_cell(1)
    else:
        output = notebook.page.locator(".jp-OutputArea-output")
    loss = output.get_by_role("img", name=re.compile("held-out loss: "))
    expect(loss).to_have_attribute("aria-label", re.compile("loss: 94 points, step 1 to 94"))
    expect(output.first).to_contain_text("completed in 3 min 12 s")
    expect(output.last).to_contain_text("Held-out loss: 2.31 before training, 1.43 after step 94.")
    notebook.screenshot(f"monitor-over-{app}")
    if app == "lab":
        assert axe(output.first) == []
