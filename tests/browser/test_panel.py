"""The panel of runs in a real JupyterLab, over a folder of runs that a small process writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect

from nbft import events
from nbft.config import Config
from nbft.data.samples import sample_path
from nbft.data.tiny_model import make_tiny_model
from nbft.plan.fixes import fixes_for_event
from nbft.runs import Run, list_runs
from nbft.runs.mark import mark

from .conftest import ARTIFACTS, READY, THEMES, Notebook, Server

# A worker without a model: five steps a second until it is told to stop.
WORKER = """
import math, os, sys, time
from pathlib import Path
from nbft import events
from nbft.processes import process_start_time
run = Path(sys.argv[1])
path = run / "events.jsonl"
pid = os.getpid()
events.append(path, "started", pid=pid, process_start_time=process_start_time(pid), model="m")
events.append(path, "prepared", rows=300, eval_rows=30, total_steps=94)
commands = events.EventReader(run / "commands.jsonl")
step = 0
while True:
    step += 1
    events.append(path, "log", step=step, loss=1 + 1 / math.sqrt(step), learning_rate=2e-4 / step,
                  seconds_left=112.0)
    if step % 10 == 0:
        events.append(path, "eval", step=step, eval_loss=1.2 + 1 / step)
    for command in commands.read():
        if command["event"] == "stop":
            events.append(path, "stopped", step=step, seconds=9, adapter="adapter")
            sys.exit()
    time.sleep(0.2)
"""

Worker = Callable[[Run], None]


def make_run(root: Path, name: str, ended: str | None = None, **settings: object) -> Run:
    path = root / "runs" / name
    path.mkdir(parents=True)
    config = Config(model={"model_name": "smollm2-135m"}, data={"path": "/data/alpaca.jsonl"})
    config = config.apply(settings)
    mark(path)
    config.save(path / "config.yaml", full=True)
    run = Run(path)
    if ended:
        events.append(run.events_path, "started", pid=1, process_start_time=1.0, model="m")
        events.append(run.events_path, "prepared", rows=300, total_steps=40)
        for step in range(1, 41):
            events.append(run.events_path, "log", step=step, loss=2 - step / 40, learning_rate=1e-4)
        events.append(run.events_path, "eval", step=40, eval_loss=1.25)
        problems = {"problems": ["Memory ran out at step 40."]} if ended == "failed" else {}
        events.append(run.events_path, ended, step=40, seconds=75, **problems)
        (path / "log.txt").write_text("step 39\nstep 40\n")
    return run


@pytest.fixture
def work() -> Iterator[Worker]:
    """Starts the worker of a run; each is ended with the test."""
    processes = []

    def start(run: Run) -> None:
        processes.append(subprocess.Popen([sys.executable, "-c", WORKER, str(run.path)]))

    yield start
    for process in processes:
        process.kill()
        process.wait()


class Panel:
    """The side panel on a page."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self.asked: list[str] = []
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if "/nbft/api/" in request.url:
            path = re.sub(r"[?&]\d+$", "", request.url.partition("/nbft/api/")[2])  # a time stamp
            self.asked.append(f"{request.method} {path}")

    def open(self, theme: str = "light", tab: str = "") -> Panel:
        self.page.goto(f"{self.server.url}/lab{tab}?reset&token={self.server.token}")
        self.page.locator(".jp-Launcher, .jp-Notebook").first.wait_for(timeout=60_000)
        self.run_command("apputils:change-theme", theme=THEMES[theme])
        self.run_command("nbft:show-runs")
        self.region.wait_for()
        return self

    def run_command(self, command: str, **args: object) -> None:
        self.page.evaluate(
            "async ([command, args]) => "
            "{ await window.jupyterapp.commands.execute(command, args); }",
            [command, args],
        )

    @property
    def region(self) -> Locator:
        return self.page.get_by_role("region", name="Fine-tuning runs")

    def row(self, run: Run) -> Locator:
        return self.region.get_by_role("listitem").filter(has_text=run.id)

    def details(self, run: Run) -> Locator:
        self.row(run).get_by_role("button").click()
        found = self.page.get_by_role("region", name=f"Run {run.id}")
        expect(found.get_by_role("heading", name=run.id)).to_be_visible()
        return found


@pytest.fixture
def panel(page: Page, jupyter_lab: Server) -> Panel:
    return Panel(page, jupyter_lab)


def points(row: Locator) -> int:
    return int(row.get_by_role("img").get_attribute("data-points") or 0)


def test_an_empty_panel_offers_a_notebook_with_the_form(
    panel: Panel, root: Path, page: Page, axe: Callable[[Locator], list[str]]
) -> None:
    panel.open()
    expect(panel.region).to_contain_text("No model has been fine-tuned here yet.")
    assert axe(panel.region) == []
    page.screenshot(path=ARTIFACTS / "panel-empty.png")
    panel.region.get_by_role("button", name="Fine-tune a model").click()
    page.locator(".jp-Notebook").wait_for()
    page.wait_for_function(READY, timeout=60_000)
    cells = page.locator(".jp-Notebook .jp-CodeCell .cm-content")
    assert [text.split() for text in cells.all_inner_texts()] == [["import", "nbft", "nbft.Form()"]]


def test_a_run_grows_in_the_panel_and_stops_from_its_tab(
    panel: Panel, root: Path, page: Page, work: Worker, console_errors: list[str]
) -> None:
    finished = make_run(root, "calm-crane-7", "completed")
    run = make_run(root, "kind-otter-14")
    work(run)
    panel.open()
    row = panel.row(run)
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("of 94")
    expect(row).to_contain_text("1 min 52 s left")
    titles = panel.region.get_by_role("heading").all_inner_texts()
    assert titles == ["Active", "Today"]
    assert panel.region.get_by_role("listitem").count() == 2
    expect(panel.row(finished)).to_contain_text("completed")

    expect(row.get_by_role("img", name="loss from 2.000 to")).to_be_visible()
    before = points(row)
    page.wait_for_function(
        "([before]) => Number(document.querySelector('[data-status=running] svg')"
        ".dataset.points) > before",
        arg=[before],
    )
    expect(page.get_by_title("Open kind-otter-14")).to_contain_text("of 94, loss 1.")

    details = panel.details(run)
    chart = details.get_by_role("img", name="loss. loss 2.000 to")
    expect(chart).to_be_visible()
    said = chart.get_attribute("aria-label")
    expect(chart).not_to_have_attribute("aria-label", said or "")
    details.get_by_role("button", name="Stop").click()
    expect(details.get_by_role("status", name="Answer")).to_contain_text("Stopping after this step")
    expect(details).to_contain_text("stopped", timeout=15_000)
    assert [e["event"] for e in events.read(run.path / "commands.jsonl")] == ["stop"]
    expect(details.get_by_role("button", name="Resume")).to_be_visible()
    expect(details.get_by_role("button", name="Stop")).to_have_count(0)
    expect(panel.row(run)).to_contain_text("stopped")
    expect(page.get_by_title("Open kind-otter-14")).to_have_count(0)
    assert console_errors == []


def test_details_show_settings_log_and_problems(
    panel: Panel, root: Path, page: Page, axe: Callable[[Locator], list[str]]
) -> None:
    run = make_run(root, "brave-fox-3", "failed", **{"training.learning_rate": 5e-5})
    details = panel.open().details(run)
    row = details.get_by_role("row", name="training.learning_rate")
    assert row.get_by_role("cell").all_inner_texts() == ["2e-4", "5e-5"]
    expect(details.get_by_label("Log", exact=True)).to_contain_text("step 40")
    expect(details).to_contain_text("Memory ran out at step 40.")
    expect(details).to_contain_text("held-out loss 1.250")
    assert axe(details) == []
    page.screenshot(path=ARTIFACTS / "panel-details.png")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_details_draw_what_else_a_method_measures(
    panel: Panel,
    root: Path,
    page: Page,
    axe: Callable[[Locator], list[str]],
    theme: str,
) -> None:
    run = make_run(root, "brave-fox-3", "completed")
    for step in range(41, 61):
        rewards = {"rewards/chosen": step / 60, "rewards/rejected": -step / 60}
        events.append(run.events_path, "log", step=step, loss=1.0, **rewards)
    details = panel.open(theme).details(run)
    chart = details.get_by_role("img", name="rewards. chosen 0.6833 to 1.000, rejected")
    expect(chart).to_be_visible()
    page.screenshot(path=ARTIFACTS / f"panel-rewards-{theme}.png")
    # The first measurement of held-out rows adds a curve to the chart.
    events.append(run.events_path, "eval", step=60, **{"eval_rewards/chosen": 0.5})
    with_held_out = re.compile(r"rewards\. chosen .* chosen, held-out 0\.5")
    expect(details.get_by_role("img", name=with_held_out)).to_be_visible(timeout=30_000)
    assert axe(details) == []


def test_delete_asks_first(panel: Panel, root: Path, page: Page) -> None:
    run = make_run(root, "brave-fox-3", "completed")
    details = panel.open().details(run)
    details.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Delete brave-fox-3?")
    expect(dialog).to_contain_text(str(run.path))
    page.screenshot(path=ARTIFACTS / "panel-delete.png")
    dialog.get_by_role("button", name="Cancel").click()
    expect(details).to_be_visible()
    assert run.path.is_dir()
    details.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(details).to_have_count(0)
    expect(panel.region).to_contain_text("No model has been fine-tuned here yet.")
    assert not run.path.exists()


def test_cancel_asks_first(panel: Panel, root: Path, page: Page, work: Worker) -> None:
    run = make_run(root, "kind-otter-14")
    work(run)
    details = panel.open().details(run)
    details.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Cancel kind-otter-14?")
    dialog.get_by_role("button", name="Keep running").click()
    expect(details).to_contain_text("running")
    assert not (run.path / "commands.jsonl").exists()
    details.get_by_role("button", name="Cancel").click()
    dialog.get_by_role("button", name="Cancel the run").click()
    expect(details.get_by_role("status", name="Answer")).to_contain_text("Cancelling")
    assert [e["event"] for e in events.read(run.path / "commands.jsonl")] == ["cancel"]


def test_a_command_that_is_refused_is_said(panel: Panel, root: Path, page: Page) -> None:
    run = make_run(root, "brave-fox-3", "stopped")  # without a checkpoint
    details = panel.open().details(run)
    details.get_by_role("button", name="Resume").click()
    expect(details.get_by_role("status", name="Answer")).to_contain_text("brave-fox-3")
    expect(details.get_by_role("status", name="Answer")).to_contain_text("checkpoint")


def test_a_run_that_memory_ran_out_on_is_started_again(
    panel: Panel,
    root: Path,
    page: Page,
    axe: Callable[[Locator], list[str]],
    console_errors: list[str],
) -> None:
    model = make_tiny_model(root / "runs" / "tiny")
    settings = {
        "model.model_name": str(model),
        "model.dtype": "float32",
        "data.train.datasets[0].path": str(sample_path("grammar", "train")),
        "data.train.datasets[0].prompt_template": "Correct: {input}\n",
        "data.train.datasets[0].completion_template": "{target}",
        "training.max_steps": 2,
        "evaluation.eval_strategy": "no",
        "evaluation.sample_count": 0,
    }
    run = make_run(root, "brave-fox-3", "failed", **settings)
    said = {"error": "MemoryError", "problems": ["Memory ran out at step 40."]}
    said["fixes"] = fixes_for_event(run.path)
    events.append(run.events_path, "failed", step=40, out_of_memory=True, **said)
    details = panel.open().details(run)
    fixes = details.get_by_role("group", name="Run again").get_by_role("button")
    expect(fixes.first).to_contain_text("Run again with batch 2 with accumulation")
    assert fixes.count() >= 4
    assert axe(details) == []
    page.screenshot(path=ARTIFACTS / "panel-fixes.png")
    fixes.nth(1).click()
    expect(details.get_by_role("status", name="Answer")).to_contain_text("Starting a new run")
    page.wait_for_function("() => document.querySelectorAll('.nbft-details').length === 2")
    new = next(one for one in list_runs(root / "runs") if one.id != run.id)
    tab = page.get_by_role("region", name=f"Run {new.id}")
    expect(tab.get_by_role("heading", name=new.id)).to_be_visible()
    expect(tab.get_by_text("completed", exact=True)).to_be_visible(timeout=120_000)
    assert new.config.training.per_device_train_batch_size == 1
    assert console_errors == []


def test_two_runs_are_compared(
    panel: Panel, root: Path, page: Page, axe: Callable[[Locator], list[str]]
) -> None:
    one = make_run(root, "calm-crane-7", "completed")
    two = make_run(root, "brave-fox-3", "failed", **{"training.learning_rate": 5e-5})
    panel.open()
    compare = panel.region.get_by_role("button", name="Compare")
    expect(compare).to_be_disabled()
    for run in (one, two):
        page.get_by_label(f"Select {run.id} to compare").check()
    compare.click()
    tab = page.get_by_role("region", name="Comparison of runs")
    label = "loss. calm-crane-7 1.975 to 1.000, brave-fox-3 1.975 to 1.000"
    expect(tab.get_by_role("img", name=label)).to_be_visible()
    row = tab.get_by_role("row", name="training.learning_rate")
    assert row.get_by_role("cell").all_inner_texts() == ["2e-4", "5e-5"]
    assert axe(tab) == []
    page.screenshot(path=ARTIFACTS / "panel-compare.png")


def test_search(panel: Panel, root: Path) -> None:
    one = make_run(root, "calm-crane-7", "completed")
    two = make_run(root, "brave-fox-3", "failed")
    panel.open()
    expect(panel.row(two)).to_be_visible()
    panel.region.get_by_role("searchbox", name="Find a run").fill("crane")
    expect(panel.row(two)).to_have_count(0)
    expect(panel.row(one)).to_be_visible()
    panel.region.get_by_role("searchbox", name="Find a run").fill("nothing")
    expect(panel.region).to_contain_text("No matching runs.")


def test_a_hidden_panel_asks_nothing(panel: Panel, root: Path, page: Page, work: Worker) -> None:
    make_run(root, "calm-crane-7", "completed")
    panel.open()
    expect(panel.region.get_by_role("listitem")).to_have_count(1)
    panel.run_command("filebrowser:activate")
    expect(panel.region).to_be_hidden()
    page.wait_for_load_state("networkidle")
    panel.asked.clear()
    page.wait_for_timeout(12_000)  # what does not happen can only be waited for
    assert panel.asked == []
    panel.run_command("nbft:show-runs")
    expect(panel.region).to_be_visible()
    page.wait_for_timeout(500)
    assert panel.asked == ["GET runs?search="]


def test_the_status_bar_asks_slowly_while_the_panel_is_hidden(
    panel: Panel, root: Path, page: Page, work: Worker
) -> None:
    work(make_run(root, "kind-otter-14"))
    panel.open()
    item = page.get_by_title("Open kind-otter-14")
    expect(item).to_be_visible()
    panel.run_command("filebrowser:activate")
    expect(panel.region).to_be_hidden()
    panel.asked.clear()
    before = item.inner_text()
    expect(item).not_to_have_text(before, timeout=20_000)
    assert len(panel.asked) == 1


def test_a_cell_that_attaches_is_inserted(
    panel: Panel, root: Path, page: Page, jupyter_lab: Server
) -> None:
    run = make_run(root, "calm-crane-7", "completed")
    details = panel.open().details(run)
    details.get_by_role("button", name="Insert a cell").click()
    page.wait_for_function(READY, timeout=60_000)
    cells = page.locator(".jp-Notebook .jp-CodeCell .cm-content")
    expect(cells).to_have_count(1)
    expect(cells.first).to_contain_text("import nbft")
    expect(cells.first).to_contain_text(f'nbft.attach("{run.path}")')
    panel.row(run).get_by_role("button").click()
    details.get_by_role("button", name="Insert a cell").click()
    expect(cells).to_have_count(2)
    jupyter_lab.shut_kernels_down()


def test_open_folder(panel: Panel, root: Path, page: Page) -> None:
    run = make_run(root, "calm-crane-7", "completed")
    panel.open().details(run).get_by_role("button", name="Open folder").click()
    expect(page.locator(".jp-DirListing-item", has_text="config.yaml")).to_be_visible()


def test_a_comparison_comes_back_with_the_page(panel: Panel, root: Path, page: Page) -> None:
    runs = [make_run(root, name, "completed") for name in ("calm-crane-7", "brave-fox-3")]
    panel.open()
    for run in runs:
        page.get_by_label(f"Select {run.id} to compare").check()
    panel.region.get_by_role("button", name="Compare 2").click()
    tab = page.get_by_role("region", name="Comparison of runs")
    heading = tab.get_by_role("heading", name="calm-crane-7 and brave-fox-3")
    expect(heading).to_be_visible()
    page.wait_for_timeout(1_500)  # until JupyterLab has saved its layout
    page.goto(f"{panel.server.url}/lab?token={panel.server.token}")
    expect(heading).to_be_visible(timeout=30_000)
    expect(page.get_by_role("tab", name="Compare 2 runs")).to_have_count(1)


@pytest.mark.parametrize("command", ["nbft:open-run", "nbft:compare-runs"])
@pytest.mark.parametrize("args", [{}, {"id": 3, "ids": 3}, {"id": None, "ids": [None]}])
def test_a_command_without_usable_arguments_shows_the_panel(
    panel: Panel, root: Path, command: str, args: dict, console_errors: list[str]
) -> None:
    panel.open()
    panel.run_command("filebrowser:activate")
    expect(panel.region).to_be_hidden()
    panel.run_command(command, **args)
    expect(panel.region).to_be_visible()
    assert console_errors == []


def test_commands_describe_their_arguments(panel: Panel, page: Page) -> None:
    panel.open()
    described = page.evaluate(
        """() => Promise.all(
            ["nbft:new-notebook", "nbft:show-runs", "nbft:open-run", "nbft:compare-runs"].map(
                async id => Object.keys(
                    (await window.jupyterapp.commands.describedBy(id)).args.properties)))"""
    )
    assert described == [["cwd", "isPalette"], [], ["id"], ["ids", "isToolbar"]]


def test_an_unknown_run_is_said(panel: Panel, root: Path, page: Page) -> None:
    panel.open()
    panel.run_command("nbft:open-run", id="nobody")
    tab = page.get_by_role("region", name="Run nobody")
    expect(tab.get_by_role("status")).to_contain_text("There is no run with this id.")


def test_a_new_refresh_interval_counts_at_once(
    panel: Panel, root: Path, page: Page, work: Worker, jupyter_lab: Server
) -> None:
    run = make_run(root, "kind-otter-14")
    work(run)
    panel.open()
    expect(panel.row(run)).to_contain_text("running")
    panel.run_command("settingeditor:open", query="nbft")
    form = page.locator(".jp-SettingsForm")
    expect(form).to_contain_text("Refresh interval (seconds)")
    seconds = form.locator("input").first

    page.screenshot(path=ARTIFACTS / "panel-settings.png")

    def set_interval(value: int) -> None:
        with page.expect_response(lambda r: r.request.method == "PUT" and "settings" in r.url):
            seconds.fill(str(value))

    try:
        set_interval(60)
        page.wait_for_timeout(1_000)  # for what was asked before
        panel.asked.clear()
        page.wait_for_timeout(5_000)
        assert panel.asked == []
        set_interval(1)
        for _ in range(3):
            with page.expect_request("**/nbft/api/runs**", timeout=5_000):
                pass
    finally:
        shutil.rmtree(jupyter_lab.root.parent / "settings" / "nbft", ignore_errors=True)


def test_settings_that_cannot_be_loaded_leave_the_defaults(
    panel: Panel, root: Path, page: Page
) -> None:
    run = make_run(root, "calm-crane-7", "completed")

    def forget(route: Route) -> None:
        answer = route.fetch().json()
        known = [one for one in answer["settings"] if one["id"] != "nbft:plugin"]
        route.fulfill(json={**answer, "settings": known})

    page.route("**/lab/api/settings?*", forget)
    page.route("**/lab/api/settings/nbft:plugin*", lambda route: route.fulfill(status=404))
    panel.open()
    expect(panel.row(run)).to_contain_text("completed")
    panel.run_command("apputils:display-notifications")
    expect(page.get_by_text("The settings of nbft could not be loaded")).to_be_visible()


def test_a_run_tab_comes_back_with_the_page(panel: Panel, root: Path, page: Page) -> None:
    run = make_run(root, "calm-crane-7", "completed")
    details = panel.open().details(run)
    page.wait_for_timeout(1_500)  # until JupyterLab has saved its layout
    page.goto(f"{panel.server.url}/lab?token={panel.server.token}")
    expect(details.get_by_role("heading", name=run.id)).to_be_visible(timeout=30_000)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, "<html>404</html>", "The server extension of nbft is not running."),
        (
            200,
            {"version": "0.0.1", "total": 0, "matching": 0, "runs": []},
            "the server runs nbft 0.0.1.",
        ),
        (409, {"message": "The disk refuses: full."}, "The disk refuses: full."),
    ],
)
def test_what_is_wrong_is_said(
    panel: Panel, root: Path, page: Page, status: int, body: object, said: str
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    page.route("**/nbft/api/runs**", lambda route: route.fulfill(status=status, body=text))
    panel.open()
    expect(panel.region.get_by_role("status")).to_contain_text(said)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_panel_is_readable_when_narrow(
    panel: Panel,
    root: Path,
    page: Page,
    work: Worker,
    theme: str,
    axe: Callable[[Locator], list[str]],
) -> None:
    run = make_run(root, "kind-otter-14", **{"training.learning_rate": 5e-5})
    work(run)
    for name, ended in (("calm-crane-7", "completed"), ("brave-fox-3", "failed")):
        make_run(root, name, ended)
    make_run(root, "a-very-long-name-of-a-run-that-somebody-chose-01", "completed")
    panel.open(theme)
    expect(panel.row(run)).to_contain_text("1 min 52 s left")
    panel.region.evaluate(
        "() => window.jupyterapp.shell.restoreLayout && "
        "window.jupyterapp.shell._hsplitPanel.setRelativeSizes([300, 900, 0])"
    )
    expect(panel.row(run).get_by_role("img")).to_be_visible()
    assert panel.region.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert axe(panel.region) == []
    page.screenshot(path=ARTIFACTS / f"panel-{theme}.png")
    details = panel.details(run)
    expect(details.get_by_role("img", name="learning rate. ")).to_be_visible()
    page.wait_for_timeout(1_000)  # a few points for the picture
    assert axe(details) == []
    page.screenshot(path=ARTIFACTS / f"panel-{theme}-details.png")


def test_the_keyboard_is_enough(panel: Panel, root: Path, page: Page) -> None:
    run = make_run(root, "calm-crane-7", "completed")
    panel.open()
    panel.region.get_by_role("button", name="New").focus()
    focused = []
    for _ in range(4):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("() => document.activeElement.getAttribute('aria-label')"
                                     " ?? document.activeElement.innerText.split('\\n')[0]"))  # fmt: skip
        if focused[-1] == run.id:
            break
    assert focused == ["Find a run", f"Select {run.id} to compare", run.id]
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name=f"Run {run.id}")).to_be_visible()


def test_ids_are_encoded(panel: Panel, root: Path, page: Page) -> None:
    run = make_run(root, "a run & more #1", "completed")
    details = panel.open().details(run)
    expect(details).to_contain_text("completed")
    assert any(unquote(one).startswith("GET runs/a run & more #1~") for one in panel.asked)


def test_a_run_opens_beside_the_files_of_jupyter_notebook(
    panel: Panel, root: Path, page: Page
) -> None:
    runs = [make_run(root, name, "completed") for name in ("calm-crane-7", "brave-fox-3")]
    page.goto(f"{panel.server.url}/tree?token={panel.server.token}")
    files = page.locator(".jp-DirListing-item")
    files.first.wait_for(timeout=60_000)
    panel.run_command("nbft:show-runs")
    for run in runs:
        panel.details(run)
    expect(page.get_by_role("tab", name=runs[0].id)).to_be_visible()
    details = panel.details(runs[0])
    expect(page.get_by_role("tab", name=runs[0].id)).to_have_count(1)
    for run in runs:
        page.get_by_label(f"Select {run.id} to compare").check()
    panel.region.get_by_role("button", name="Compare 2").click()
    expect(page.get_by_role("region", name="Comparison of runs").get_by_role("img")).to_be_visible()
    page.screenshot(path=ARTIFACTS / "panel-notebook-files.png")
    panel.details(runs[0])
    details.get_by_role("button", name="Open folder").click()
    expect(files.filter(has_text="config.yaml")).to_be_visible()


def test_a_run_opens_below_a_notebook_of_jupyter_notebook(
    panel: Panel, root: Path, page: Page, notebook: Notebook
) -> None:
    runs = [make_run(root, name, "completed") for name in ("calm-crane-7", "brave-fox-3")]
    notebook.open(["1 + 1"], app="notebook")
    panel.run_command("nbft:show-runs")
    for run in runs:
        details = panel.details(run)
        assert (details.bounding_box() or {"height": 0})["height"] > 200
    page.screenshot(path=ARTIFACTS / "panel-notebook.png")
    details.get_by_role("button", name="Insert a cell").click()
    expect(notebook.cell(1)).to_contain_text(f'nbft.attach("{runs[1].path}")')
