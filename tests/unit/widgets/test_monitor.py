import asyncio
import re
import threading
from types import SimpleNamespace

import IPython.display
import ipywidgets
import pytest
from IPython.core.interactiveshell import InteractiveShell

from nbft import events
from nbft.config import Config
from nbft.errors import RunError
from nbft.plan.fixes import Fix
from nbft.runs import notes, progress
from nbft.runs.checkpoints import mark_whole
from nbft.runs.exports import add_export
from nbft.runs.state import RunState
from nbft.widgets import kernel
from nbft.widgets.monitor import Monitor


class FakeRun:
    """The part of a run that a monitor uses."""

    id = "kind-otter-14"
    adapter = None

    def __init__(self, path):
        self.path = path
        self.events_path = path / "events.jsonl"
        self.config = Config(
            model={"model_name": "smollm2-135m"},
            data={"dataset_name": "alpaca"},
            training={"seed": 7},
        )
        self.plan = {}
        self.status = "running"
        self.asked = []
        self.is_background = True
        self.fixes = [Fix(words, {}, 2**30, True) for words in ("batch 2", "LoRA")]
        self.other = None
        self.error = ""

    def retry(self, number, *, background):
        self.asked.append((number, background))
        if self.other is None:
            raise RunError("kind-otter-14 cannot be started again.")
        return self.other

    def say(self, event, **fields):
        events.append(self.events_path, event, **fields)

    def log(self, step, **fields):
        self.say("log", step=step, loss=2.0 / step, learning_rate=2e-4, **fields)

    def stop(self):
        self.asked.append("stop")

    def save(self):
        self.asked.append("save")

    def resume(self):
        if self.error:
            raise RunError(self.error)
        self.asked.append("resume")

    def sample(self):
        raise RunError("kind-otter-14 trains no adapter yet.")

    def log_tail(self, lines=20):
        return "<last> line"

    def curves(self):
        from matplotlib.figure import Figure

        figure = Figure()
        figure.subplots().plot([1, 2], [2, 1])
        return figure


class FakeHandle:
    def __init__(self):
        self.bundle = {}

    def update(self, bundle, raw=False, metadata=None):
        assert raw
        self.bundle = bundle


@pytest.fixture(autouse=True)
def no_loop(monkeypatch):
    """Browser tests of the same session leave Playwright's loop running on this thread."""
    theirs = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    monkeypatch.setattr(kernel, "_loop", None)
    yield
    asyncio._set_running_loop(theirs)


@pytest.fixture
def run(tmp_path):
    return FakeRun(tmp_path)


@pytest.fixture
def displayed(monkeypatch):
    """Bundles displayed, as a notebook would show them."""
    found = []

    def display(bundle, raw, display_id, metadata=None):
        handle = FakeHandle()
        handle.update(bundle, raw)
        found.append(handle)
        return handle

    monkeypatch.setattr(InteractiveShell, "initialized", lambda: True)
    monkeypatch.setattr(IPython.display, "display", display)
    return found


def html(monitor):
    """All HTML of the view, the charts left out."""
    found = []

    def walk(widget):
        found.append(str(getattr(widget, "value", "")))
        for child in getattr(widget, "children", ()):
            walk(child)

    walk(monitor.widget)
    return "\n".join(found)


def find(monitor, name):
    def walk(widget):
        if getattr(widget, "description", None) == name:
            yield widget
        for child in getattr(widget, "children", ()):
            yield from walk(child)

    return next(walk(monitor.widget))


def charts(monitor):
    return monitor.widget.children[1].children


def tab(monitor):
    return monitor.widget.children[4]


def test_the_header_says_which_run_and_how_it_stands(run):
    monitor = Monitor(run)
    assert monitor.update()
    assert "run kind-otter-14</b> · smollm2-135m · LoRA r=16 · alpaca</span>" in html(monitor)
    assert monitor.state == "starting"
    run.say("started")
    run.say("stage", stage="model", text="Loading the model…")
    monitor.update()
    assert monitor.state == "Loading the model…"
    run.say("prepared", rows=41200, total_steps=94)
    monitor.update()
    assert "alpaca (41,200 rows)" in html(monitor)
    assert monitor.state == "running, the first step of 94"
    run.log(41)
    monitor.update()
    assert monitor.state == "running, step 41 of 94"
    run.say("stage", stage="scoring", text="Scoring 16 held-out rows …", seconds_left=72.4)
    monitor._view._status_at -= 10  # it is told at most every two seconds
    monitor.update()
    assert monitor.state == "running, step 41 of 94 · Scoring 16 held-out rows …"
    assert re.search("1 min 1[0-2] s left", html(monitor))
    run.say("scores", step=41, split="validation", rows=16, scores={"rougeL": 0.5})
    monitor.update()
    assert monitor.state == "running, step 41 of 94"


@pytest.mark.parametrize(
    ("event", "fields", "state"),
    [
        ("completed", {"seconds": 192}, "completed in 3 min 12 s"),
        ("stopped", {"seconds": 61}, "stopped after step 2 of 94, in 1 min 1 s"),
        ("failed", {}, "failed after step 2 of 94"),
    ],
)
def test_every_end_has_its_words(run, event, fields, state):
    run.say("prepared", total_steps=94)
    run.log(2)
    run.say(event, step=2, **fields)
    monitor = Monitor(run)
    assert not monitor.update()
    assert monitor.state == state
    for name in ("Stop and save", "Pause", "Save now", "Sample now", "Resume"):
        with pytest.raises(StopIteration):
            find(monitor, name)


def test_a_process_that_died_silently_is_lost(run):
    run.say("started", total_steps=94)
    run.status = "lost"
    monitor = Monitor(run)
    monitor.update()  # an event came just now
    monitor._heard_at -= 10
    assert not monitor.update()
    assert monitor.state == "lost: the process ended without a word"
    run.say("started", total_steps=94)  # resumed
    assert monitor.update()


def test_a_resumed_run_goes_on(run):
    monitor = Monitor(run)
    run.say("stopped", step=3)
    assert not monitor.update()
    run.say("started", total_steps=9)
    assert monitor.update()


def test_numbers_have_units_and_people_words():
    state = RunState()
    log = {"tokens_per_second": 12345.6, "memory_bytes": 2_040_109_466, "seconds_left": 112}
    state.take({"event": "log", "step": 1, "loss": 1.43, "grad_norm": 0.8, "epoch": 0.5, **log})
    state.take({"event": "eval", "step": 0, "eval_loss": 1.96})
    assert progress.numbers(state) == (
        "12,346 tokens/s · 1.9 GiB · 1 min 52 s left · loss 1.43 · held-out loss 1.96 · "
        "grad norm 0.800 · epoch 0.50"
    )


def test_the_peak_of_memory_is_beside_its_forecast_which_it_corrects():
    state = RunState()
    state.take({"event": "prepared", "planned_bytes": 2**31, "planned_most_bytes": 2.5 * 2**30})
    assert state.forecast_bytes == 2**31
    assert state.peak_bytes is None
    state.take({"event": "log", "step": 1, "memory_bytes": 2**30, "peak_bytes": 1.5 * 2**30})
    assert progress.numbers(state) == "1.0 GiB (peak 1.5 GiB of 2.0 GiB forecast)"
    assert notes.more_memory(state, Config()) is None
    state.take({"event": "log", "step": 2, "memory_bytes": 2**30, "peak_bytes": 2.25 * 2**30})
    assert state.forecast_bytes == 2.25 * 2**30
    assert notes.more_memory(state, Config()) is None  # within the range of the plan
    state.take({"event": "log", "step": 3, "memory_bytes": 2**30, "peak_bytes": 3 * 2**30})
    assert progress.numbers(state) == "1.0 GiB (peak 3.0 GiB of 3.0 GiB forecast)"
    found = notes.more_memory(state, Config())
    assert (
        "takes 3.0 GiB of memory; the plan expected 2.0 GiB, and 2.5 GiB at most" in found.evidence
    )


def test_missing_and_non_finite_numbers_do_no_harm(run):
    run.say("log", step=1, loss=float("nan"), learning_rate=None, grad_norm=float("inf"))
    run.say("log", step=2)
    run.say("eval", step=2, rouge=0.4)
    run.say("sample", step=0)
    run.say("something new", step=2)
    monitor = Monitor(run)
    assert monitor.update()
    assert "no points yet" in charts(monitor)[0].summary()


def test_events_reach_the_curves_and_notes_stand_at_their_step(run):
    run.say("eval", step=0, eval_loss=2.5)
    for step in (1, 2, 3):
        run.log(step)
    run.say("eval", step=3, eval_loss=1.5)
    run.say("note", step=2, text="warm-up <ends>")
    run.say("warning", text="12 rows were cut.")
    monitor = Monitor(run)
    monitor.update()
    loss, rate = charts(monitor)
    assert "loss: 3 points, step 1 to 3" in loss.summary()
    assert "held-out loss: 2 points, step 0 to 3" in loss.summary()
    assert "3 points" in rate.summary()
    assert loss.marks == [{"x": 2.0, "text": "warm-up <ends>"}]
    assert "Step 2: warm-up &lt;ends&gt;" in html(monitor)
    assert "12 rows were cut." in html(monitor)
    assert tab(monitor).titles[0] == "Notes (2)"


def test_a_note_that_is_no_longer_true_is_struck(run):
    run.log(1)
    run.say("note", step=2, kind="flat", text="The loss is flat.")
    run.say("answered", step=9, kind="flat")
    monitor = Monitor(run)
    monitor.update()
    struck = "<s>Step 2: The loss is flat. (No longer true since step 9.)</s>"
    assert struck in html(monitor)
    assert charts(monitor)[0].marks == []
    assert tab(monitor).titles[0] == "Notes"


def test_update_reads_only_what_is_new(run):
    monitor = Monitor(run)
    run.log(1)
    monitor.update()
    run.log(2)
    monitor.update()
    assert charts(monitor)[0].summary().startswith("loss: 2 points")


def test_the_panels_are_filled_when_they_are_opened(run):
    run.say("sample", step=0, samples=[{"prompt": "Say <hi>.", "text": "no"}])
    run.say("sample", step=5, samples=[{"prompt": "Say <hi>.", "text": "hi"}])
    run.log(5, grad_norm=0.5, tokens_per_second=10, memory_bytes=2**30)
    monitor = Monitor(run)
    monitor.update()
    assert "Say &lt;hi&gt;." not in html(monitor)
    tab(monitor).selected_index = 3
    assert "Say &lt;hi&gt;." in html(monitor)
    tab(monitor).selected_index = 2
    assert "&lt;last&gt; line" in html(monitor)
    assert "training.seed" in html(monitor)
    tab(monitor).selected_index = 1
    more = tab(monitor).children[1].children
    assert [chart.title for chart in more] == ["gradient norm", "tokens per second", "memory, GiB"]
    run.log(6, grad_norm=0.4)
    monitor.update()
    assert more[0].summary().startswith("gradient norm: 2 points")


def test_a_click_is_passed_on_and_answered(run):
    monitor = Monitor(run)
    run.log(41)
    monitor.update()
    find(monitor, "Stop and save").click()
    assert run.asked == ["stop"]
    assert "stopping after step 42…" in html(monitor)
    run.say("command", command="stop", step=42, text="saving the adapter of step 42")
    monitor.update()
    assert "saving the adapter of step 42" in html(monitor)
    find(monitor, "Save now").click()
    assert "saving after step 43…" in html(monitor)
    run.say("checkpoint", step=42, path="checkpoints/step-42")
    monitor.update()
    assert "saved in checkpoints/step-42" in html(monitor)


def test_a_click_that_cannot_be_passed_on_says_why(run):
    monitor = Monitor(run)
    monitor.update()
    find(monitor, "Sample now").click()
    assert "kind-otter-14 trains no adapter yet." in html(monitor)


def test_a_click_on_another_thread_touches_no_widget(run):
    async def main():
        monitor = Monitor(run)
        monitor.update()
        before = html(monitor)
        thread = threading.Thread(target=find(monitor, "Stop and save").click)
        thread.start()
        thread.join()
        assert run.asked == ["stop"]
        assert html(monitor) == before
        await asyncio.sleep(0)
        assert "stopping after step 1…" in html(monitor)

    asyncio.run(main())


def test_a_busy_cell_has_no_buttons_and_says_how_to_stop(run):
    run.say("sample", step=0, samples=[{"prompt": "Say hi.", "text": "no"}])
    monitor = Monitor(run, interactive=False)
    monitor.update()
    assert "press ■ (interrupt) to stop and save" in html(monitor)
    assert "Say hi." in html(monitor)  # nobody could ask for it later
    with pytest.raises(StopIteration):
        find(monitor, "Stop and save")


def test_shown_live_it_ends_as_a_picture_and_the_result(run, displayed):
    async def main():
        monitor = Monitor(run)
        monitor.show()
        view, _, beneath = displayed
        assert "application/vnd.jupyter.widget-view+json" in view.bundle
        assert beneath.bundle["text/html"] == ""
        run.say("eval", step=0, eval_loss=2.5)
        run.log(1)
        run.say("eval", step=1, eval_loss=1.5)
        run.say("sample", step=0, samples=[{"prompt": "p", "text": "old"}])
        run.say("sample", step=1, samples=[{"prompt": "p", "text": "new"}])
        run.say("completed", step=1, seconds=3, adapter="adapter")
        await asyncio.wait_for(monitor._following, timeout=5)
        assert set(view.bundle) == {"image/png", "text/plain"}
        assert "completed in 3 s" in view.bundle["text/plain"]
        assert "held-out loss: 2 points" in view.bundle["text/plain"]
        end = beneath.bundle
        assert "Held-out loss: 2.50 before training, 1.50 after step 1." in end["text/html"]
        assert "<u>new</u></mark>" in end["text/html"]
        assert str(run.path / "adapter") in end["text/plain"]
        assert "run.generate('p')  # try it" in end["text/plain"]
        assert "run.export('merged')  # export it" in end["text/plain"]

    asyncio.run(main())


def test_the_export_is_a_widget_of_its_own_between_picture_and_result(run, displayed):
    async def main():
        monitor = Monitor(run)
        monitor.show()
        view, exports, beneath = displayed
        assert exports.bundle == {"text/html": "", "text/plain": ""}
        run.log(1)
        run.say("completed", step=1, seconds=3, adapter="adapter")
        await asyncio.wait_for(monitor._following, timeout=5)
        box = monitor._view.exporting.box
        widget = exports.bundle["application/vnd.jupyter.widget-view+json"]
        assert widget["model_id"] == box.model_id
        assert find(monitor, "Export…") in box.children
        # Without its kernel it is hidden; picture and result stay.
        assert ":not(:has(.nbft-export)) { display: none }" in beneath.bundle["text/html"]
        assert set(view.bundle) == {"image/png", "text/plain"}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "event", "fields"),
    [
        ("sft", "completed", {}),
        ("sft", "failed", {"problems": ["No."]}),
        ("reward", "completed", {"adapter": "adapter"}),
    ],
)
def test_what_cannot_be_exported_is_not_offered(run, displayed, method, event, fields):
    run.config = run.config.apply({"training.method": method})
    run.log(1)
    run.say(event, step=1, **fields)
    monitor = Monitor(run)
    monitor.show()
    with pytest.raises(StopIteration):
        find(monitor, "Export…")


def test_exports_so_far_are_listed_with_the_result(run, displayed, tmp_path):
    run.log(1)
    run.say("completed", step=1, seconds=3, adapter="adapter")
    add_export(run.path, "gguf", tmp_path / "<out>", {"passed": True}, "Same token ids.")
    Monitor(run).show()
    end = displayed[-1].bundle
    assert "&lt;out&gt;: Same token ids.</li>" in end["text/html"]
    assert f"gguf in {tmp_path / '<out>'}: Same token ids." in end["text/plain"]


def test_one_given_output_holds_picture_and_result(run, displayed):
    async def main():
        handle = FakeHandle()
        monitor = Monitor(run)
        monitor.show(handle)
        assert not displayed
        run.log(1)
        run.say("completed", step=1, seconds=3)
        await asyncio.wait_for(monitor._following, timeout=5)
        assert set(handle.bundle) == {"image/png", "text/html", "text/plain"}
        assert "data:image/png;base64," in handle.bundle["text/html"]

    asyncio.run(main())


def test_full_training_ends_with_a_model(run, displayed):
    run.log(1)
    run.say("completed", step=1, model="model")
    (run.path / "report.html").touch()
    Monitor(run).show()
    text = displayed[-1].bundle["text/plain"]
    assert f"The model is in {run.path / 'model'}." in text
    assert f"A page to share: {run.path / 'report.html'}" in text


def test_the_report_is_a_link_relative_to_the_notebook(run, displayed, monkeypatch):
    run.log(1)
    run.say("completed", step=1)
    (run.path / "my notebooks").mkdir()
    monkeypatch.chdir(run.path / "my notebooks")
    Monitor(run).show()
    assert "<a href" not in displayed[-1].bundle["text/html"]
    (run.path / "report.html").touch()
    Monitor(run).show()
    link = '<a href="../report.html" target="_blank">Open the report</a>'
    assert link in displayed[-1].bundle["text/html"]
    monkeypatch.chdir(run.path.parent)
    run.path = run.path.rename(run.path.with_name("50% done?"))
    run.events_path = run.path / "events.jsonl"
    Monitor(run).show()
    assert '<a href="50%25%20done%3F/report.html"' in displayed[-1].bundle["text/html"]


def checkpoint(run, step):
    folder = run.path / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w")
    mark_whole(folder)


@pytest.mark.parametrize(
    ("event", "fields"),
    [("stopped", {}), ("failed", {"problems": ["The disk is full."]}), ("cancelled", {})],
)
def test_a_run_that_was_cut_short_is_resumed_by_a_button(run, displayed, event, fields):
    async def main():
        monitor = Monitor(run)
        monitor.show()
        run.log(4)
        checkpoint(run, 4)
        run.say("command", command="stop", text="Stopping after step 4.")
        run.say(event, step=4, **fields)
        await asyncio.wait_for(monitor._following, timeout=5)
        view, _, beneath = displayed
        assert "Stopping after step 4." not in html(monitor)
        assert "run.resume()  # resume it" in beneath.bundle["text/plain"]
        # The button alone is a widget: picture and result stay in the saved notebook.
        assert set(view.bundle) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
        assert {"image/png", "text/html"} <= set(beneath.bundle)
        assert "data:image/png;base64," in beneath.bundle["text/html"]
        find(monitor, "Resume from step 4").click()
        run.say("started")
        await asyncio.sleep(0.5)
        assert run.asked == ["resume"]
        assert beneath.bundle["text/html"] == ""  # it belonged to the earlier attempt
        assert monitor.state == "running, step 4"
        assert not find(monitor, "Stop and save").disabled
        run.log(5)
        run.say("completed", step=5, seconds=3)
        await asyncio.wait_for(monitor._following, timeout=5)
        assert set(view.bundle) == {"image/png", "text/plain"}
        assert "completed in 3 s" in beneath.bundle["text/html"]

    asyncio.run(main())


def test_a_run_that_cannot_be_resumed_says_why(run, displayed):
    run.log(4)
    checkpoint(run, 4)
    run.say("stopped", step=4)
    run.error = "kind-otter-14: is being started by another process."
    monitor = Monitor(run)
    monitor.show()
    find(monitor, "Resume from step 4").click()
    assert run.error in html(monitor)
    assert find(monitor, "Resume from step 4")


def test_a_pause_is_said_once(run):
    monitor = Monitor(run)
    run.log(4)
    monitor.update()
    run.say("command", command="pause", step=5, text="Pausing after step 5.")
    monitor.update()
    assert "Pausing after step 5." in html(monitor)
    run.say("paused", step=5)
    monitor.update()
    assert "Pausing" not in html(monitor)
    assert monitor.state == "paused at step 5"


def test_a_run_that_failed_before_its_first_step_shows_its_problem_and_the_log(run, displayed):
    async def main():
        Monitor(run).show()
        run.say("failed", problems=["The <GPU> is full. Use 4."], error="OutOfMemoryError")
        await asyncio.sleep(0.5)
        view, _, beneath = displayed
        assert "image/png" not in view.bundle
        assert "run kind-otter-14" in view.bundle["text/html"]
        assert "The &lt;GPU&gt; is full. Use 4." in beneath.bundle["text/html"]
        assert "&lt;last&gt; line</pre></details>" in beneath.bundle["text/html"]

    asyncio.run(main())


def run_out_of_memory(run):
    run.log(1)
    run.say("failed", step=1, problems=["5 GiB were asked for."], error="X", out_of_memory=True)


def test_a_run_that_memory_ran_out_on_is_started_again_with_a_fix(run, displayed, tmp_path):
    async def main():
        monitor = Monitor(run)
        monitor.show()
        run_out_of_memory(run)
        await asyncio.wait_for(monitor._following, timeout=5)
        view, _, beneath = displayed
        assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= set(view.bundle)
        assert "5 GiB were asked for." in beneath.bundle["text/html"]
        assert "5 GiB were asked for." not in html(monitor)  # said once
        assert "Each of these changes needs less." in html(monitor)
        (tmp_path / "other").mkdir()
        run.other = FakeRun(tmp_path / "other")
        run.other.id = "calm-crane-7"
        run.is_background = False
        told: list[FakeRun] = []
        monitor.on_run_again = told.append
        find(monitor, "Run again with LoRA (about 1.0 GiB)").click()
        find(monitor, "Run again with LoRA (about 1.0 GiB)").click()
        assert run.asked == [(1, False)]
        await asyncio.sleep(0)
        assert told == [run.other]
        assert "run calm-crane-7" in html(monitor)
        assert "calm-crane-7" in view.bundle["text/plain"]
        assert beneath.bundle["text/html"] == ""
        run.other.log(1)
        run.other.say("completed", step=1, seconds=3)
        await asyncio.sleep(0.5)
        assert set(view.bundle) == {"image/png", "text/plain"}
        assert "calm-crane-7 completed in 3 s" in beneath.bundle["text/html"]

    asyncio.run(main())


def test_a_fix_that_cannot_be_started_says_why(run, displayed):
    run_out_of_memory(run)
    monitor = Monitor(run)
    monitor.show()
    find(monitor, "Run again with batch 2 (about 1.0 GiB)").click()
    assert "kind-otter-14 cannot be started again." in html(monitor)
    run.other = FakeRun(run.path)
    find(monitor, "Run again with batch 2 (about 1.0 GiB)").click()
    assert run.asked == [(0, True), (0, True)]


def test_a_run_that_failed_otherwise_offers_no_fix(run, displayed):
    run.say("failed", problems=["The disk is full."], error="OSError", out_of_memory=False)
    monitor = Monitor(run)
    monitor.show()
    assert "Each of these changes needs less." not in html(monitor)


def test_a_finished_run_is_whole_at_once_and_stays_interactive(run, displayed):
    run.log(1)
    run.say("completed", step=1, seconds=3, adapter="adapter")
    monitor = Monitor(run)
    monitor._ipython_display_()
    view, _, beneath = displayed
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= set(view.bundle)
    assert "completed in 3 s" in beneath.bundle["text/html"]
    assert "run.export(" not in html(monitor)  # said once


def test_a_finished_run_in_one_output_says_its_end_in_the_view(run, displayed):
    run.say("completed", step=1, seconds=3, adapter="adapter")
    monitor = Monitor(run)
    monitor.show(FakeHandle())
    assert "run.export(" in html(monitor)


def test_a_lost_run_says_what_may_have_happened_and_shows_the_log(run, displayed):
    run.say("started")
    run.status = "lost"
    monitor = Monitor(run)
    monitor.update()
    monitor._heard_at -= 10
    monitor.show()
    end = displayed[-1].bundle["text/html"]
    assert "Run kind-otter-14 was lost: the process ended without a word." in end
    assert "the kernel was restarted" in end
    assert "&lt;last&gt; line" in end


def test_show_from_a_thread_waits_for_the_main_loop(run, displayed):
    async def main():
        kernel.main_loop()
        thread = threading.Thread(target=lambda: Monitor(run).show())
        thread.start()
        thread.join()
        assert not displayed
        await asyncio.sleep(0.05)
        assert len(displayed) == 3

    asyncio.run(main())


def test_without_a_notebook_show_does_nothing(run):
    Monitor(run).show()


def test_a_hundred_thousand_points_are_read_once(run, cpu_seconds):
    line = '{"event": "log", "time": 1.0, "step": %d, "loss": 1.5, "learning_rate": 0.0002}\n'
    run.events_path.write_text("".join(line % step for step in range(100_000)))
    monitor = Monitor(run)
    first = cpu_seconds(monitor.update)
    assert "100,000 points" in charts(monitor)[0].summary()
    assert cpu_seconds(monitor.update) < first / 10


def test_a_comm_that_routes_to_the_busy_shell_is_told_not_to():
    comm = SimpleNamespace(_reply_subshell_for=lambda data, default: "busy shell")
    other = SimpleNamespace()
    kernel.hear_while_busy(SimpleNamespace(comm=comm), SimpleNamespace(comm=other))
    assert comm._reply_subshell_for({}, "free shell") == "free shell"
    assert not hasattr(other, "_reply_subshell_for")


def scored(step, **scores):
    return {"event": "scores", "step": step, "split": "validation", "rows": 8, "scores": scores}


def told(step, text):
    return {"event": "sample", "step": step, "samples": [{"prompt": "p", "text": text}]}


def test_scores_and_answers_are_kept_and_what_is_done_again_counts_once():
    state = RunState()
    for event in (scored(0, rougeL=0.1), told(0, "a"), scored(5, rougeL=0.2), told(5, "b")):
        state.take(event)
    state.take({"event": "prepared", "resumed_step": 3})
    assert state.scores[0]["history"] == ((0, 0.1),)
    state.take(scored(5, rougeL=0.4))
    state.take(told(5, "c"))
    assert state.scores[0]["last"] == 0.4
    assert state.timeline.prompts[0].answers == [(0, "a"), (5, "c")]


def test_the_end_shows_what_was_wanted_how_many_are_right_and_what_not_to_expect(run):
    run.say(
        "prepared", total_steps=94, total_parameters=137_000_000, trainable_parameters=2_000_000
    )
    wanted = {"prompt": "p", "wanted": "He goes."}
    run.say(**scored(0, exact_match=0.125))
    run.say("sample", step=0, samples=[wanted | {"text": "He go."}])
    run.say(**scored(94, exact_match=0.75))
    run.say("sample", step=94, samples=[wanted | {"text": "He goes."}])
    run.say("completed", step=94, seconds=3)
    monitor = Monitor(run)
    monitor.update()
    for said in (monitor._outcome()["text/html"], monitor._outcome()["text/plain"]):
        assert "He goes." in said
        assert "1 of 8 held-out rows before training, 6 after step 94." in said
        assert "A model of 135 million parameters" in said
    assert "wanted      He goes." in monitor._outcome()["text/plain"]
    assert "tuned       He goes. (right)" in monitor._outcome()["text/plain"]


def test_of_a_large_model_no_limits_are_said(run):
    run.say("prepared", total_steps=94, total_parameters=7_000_000_000)
    run.say("completed", step=94, seconds=3)
    monitor = Monitor(run)
    monitor.update()
    assert "Do not expect" not in monitor._outcome()["text/plain"]


def test_the_scores_have_a_table_and_a_chart_for_each_scale(run):
    monitor = Monitor(run)
    run.say(**scored(0, rougeL=0.1, exact_match=0.25, perplexity=30.0))
    run.say(**scored(5, rougeL=0.3, exact_match=0.25, perplexity=40.0))
    tab(monitor).selected_index = list(tab(monitor).titles).index("Scores")
    monitor.update()
    table, shares, perplexity = tab(monitor).children[tab(monitor).selected_index].children
    assert "+0.200: better" in table.value
    assert "exact match did not improve; perplexity did not improve" in table.value
    assert [one["label"] for one in shares.series] == ["ROUGE-L", "exact match"]
    assert "last 40.0" in perplexity.summary()
    run.say(**scored(9, rougeL=0.5, exact_match=0.25, perplexity=35.0, mine=1.0))
    run.say("completed", step=9, seconds=3, adapter="adapter")
    monitor.update()
    assert "3 points" in perplexity.summary()
    assert "ROUGE-L" in monitor._outcome()["text/html"]
    assert "improved" in monitor._outcome()["text/plain"]


def test_a_run_without_scores_says_how_to_get_some(run):
    monitor = Monitor(run)
    tab(monitor).selected_index = list(tab(monitor).titles).index("Scores")
    monitor.update()
    (table,) = tab(monitor).children[tab(monitor).selected_index].children
    assert "evaluation.metrics says what is measured" in table.value


def test_updates_make_no_widgets(run):
    """What a new score, answer, measure or fix replaces is closed."""
    monitor = Monitor(run)

    def look(step):
        run.log(step, grad_norm=0.5, **{"rewards/chosen": 0.1})
        run.say(**scored(step, rougeL=step / 100))
        run.say(**told(step, str(step)))
        run.say("note", step=step, text="seen")
        for panel in range(len(tab(monitor).titles)):
            tab(monitor).selected_index = panel
            monitor.update()
        monitor._built.offer(run.fixes)

    look(1)
    before = len(ipywidgets.Widget.widgets)
    for step in range(2, 52):
        look(step)
    assert len(ipywidgets.Widget.widgets) == before
    run.log(52, grad_norm=0.5, **{"rewards/chosen": 0.1, "rewards/margins": 0.2})
    run.say(**scored(52, rougeL=0.5, rouge1=0.4))
    tab(monitor).selected_index = 1
    monitor.update()
    assert [one["label"] for one in tab(monitor).children[1].children[0].series] == [
        "chosen",
        "margins",
    ]
    tab(monitor).selected_index = 4
    monitor.update()
    assert len(ipywidgets.Widget.widgets) == before


def test_a_run_that_gives_way_to_another_leaves_no_widgets(run, displayed, tmp_path):
    async def main():
        run_out_of_memory(run)
        monitor = Monitor(run)
        monitor.show()
        (tmp_path / "other").mkdir()
        run.other = FakeRun(tmp_path / "other")
        before = set(ipywidgets.Widget.widgets)
        find(monitor, "Run again with LoRA (about 1.0 GiB)").click()
        await asyncio.sleep(0)
        still = before & set(ipywidgets.Widget.widgets)
        assert {monitor.widget.model_id, monitor.widget.layout.model_id} == still - others
        assert "run kind-otter-14" in html(monitor)

    others = set(ipywidgets.Widget.widgets)
    asyncio.run(main())


def test_a_measure_that_nobody_named_has_a_chart(run):
    monitor = Monitor(run)
    run.log(1, **{"rewards/chosen": 0.5, "eval_rewards/chosen": 0.25})
    tab(monitor).selected_index = 1
    monitor.update()
    chart = tab(monitor).children[1].children[0]
    assert chart.title == "rewards"
    assert chart.summary() == "chosen: 0.500 at step 1; chosen, held-out: 0.250 at step 1"
