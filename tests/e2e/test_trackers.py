"""Trackers themselves, offline or on a loopback server: they hold the numbers of the run.

One process trains several runs with all trackers at once, as a kernel does; background runs have a
process each. `make test-trackers` installs those trackers that the development environment lacks.
"""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import sqlite3
import struct
import subprocess
import sys
import threading
import types
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import transformers

import nbft
from nbft.runs import Run, list_runs
from nbft.training import trackers

MODULES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "comet_ml": "comet_ml",
    "mlflow": "mlflow",
    "phoenix": "phoenix.otel",
}


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


INSTALLED = [name for name, module in MODULES.items() if is_installed(module)]
each_tracker = pytest.mark.parametrize(
    "tracker",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(name not in INSTALLED, reason=f"{module} is missing")
        )
        for name, module in MODULES.items()
    ],
)

MARKS_FAILED = ("wandb", "mlflow", "phoenix")

Numbers = dict[str, dict[int, float]]
"""Name of a measure → step → value."""

MEASURES = {"loss": "log", "learning_rate": "log", "grad_norm": "log", "eval_loss": "eval"}


def logged(run: Run) -> Numbers:
    """Return what the events of a run say."""
    numbers: Numbers = {name: {} for name in MEASURES}
    for event in run.events():
        for name, kind in MEASURES.items():
            if event["event"] == kind and name in event:
                numbers[name][event["step"]] = event[name]
    return numbers


@dataclasses.dataclass
class Tracked:
    """A run as a tracker knows it.

    Attributes:
        numbers: What was logged.
        ending: Whether it was finished: "ok", "failed", or "" if it is still open.
    """

    numbers: Numbers
    ending: str


class Collector:
    """Receives the spans of OpenTelemetry on loopback, as Phoenix does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                if handler.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
                self.spans += [
                    span
                    for resource in request.resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
                handler.send_response(200)
                handler.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@dataclasses.dataclass
class Place:
    """Where the trackers of a test write."""

    folder: Path
    collector: Collector

    @property
    def environment(self) -> dict[str, str]:
        self.folder.mkdir(exist_ok=True)
        return {
            **{f"WANDB_{name}": value for name, value in (("MODE", "offline"), ("SILENT", "true"))},
            "WANDB_DIR": str(self.folder),
            "TRACKIO_DIR": str(self.folder / "trackio"),
            "COMET_START_ONLINE": "0",
            "COMET_OFFLINE_DIRECTORY": str(self.folder),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "PHOENIX_COLLECTOR_ENDPOINT": self.collector.endpoint,
            "COMET_DISABLE_AUTO_LOGGING": "1",  # it would make an experiment of MLflow's run as well
            "TMPDIR": str(self.folder),  # Comet writes there until it is finished
        }

    def read(self, tracker: str, run: Run) -> Tracked:
        """Return what a tracker knows of a run, which it has once."""
        found = getattr(self, f"_{tracker}")(run)
        assert len(found) == 1, f"{tracker} has {len(found)} runs for {run.id}"
        return found[0]

    def _tensorboard(self, run: Run) -> list[Tracked]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = []
        for file in run.path.rglob("events.out.tfevents.*"):
            events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
            numbers: Numbers = defaultdict(dict)
            for tag in events.Tags()["scalars"]:
                for scalar in events.Scalars(tag):
                    numbers[plain(tag)][scalar.step] = scalar.value
            found.append(Tracked(numbers, "ok"))
        return found

    def _wandb(self, run: Run) -> list[Tracked]:
        found = []
        for file in self.folder.glob("wandb/offline-run-*/run-*.wandb"):
            name, numbers, ending = "", defaultdict(dict), ""
            for record in wandb_records(file):
                if record.HasField("run") and record.run.display_name:
                    name = record.run.display_name
                    assert record.run.project == "mine"
                    assert [*record.run.tags] == ["a", "b"]
                elif record.HasField("history"):
                    row = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
                    row = {name: json.loads(value) for name, value in row.items()}
                    for key, value in row.items():
                        numbers[plain(key)][row["train/global_step"]] = value
                elif record.HasField("exit"):
                    ending = "failed" if record.exit.exit_code else "ok"
            if name == run.id:
                found.append(Tracked(numbers, ending))
        return found

    def _trackio(self, run: Run) -> list[Tracked]:
        numbers: Numbers = defaultdict(dict)
        with sqlite3.connect(self.folder / "trackio" / "mine.db") as table:
            rows = table.execute("select metrics from metrics where run_name = ?", [run.id])
            for (metrics,) in rows:
                row = json.loads(metrics)
                for key, value in row.items():
                    numbers[plain(key)][row["train/global_step"]] = value
        return [Tracked(numbers, "ok")] if numbers else []

    def _comet_ml(self, run: Run) -> list[Tracked]:
        finished = [file for file in self.folder.glob("*.zip") if zipfile.ZipFile(file).namelist()]
        texts = [(zipfile.ZipFile(file).read("messages.json"), "ok") for file in finished]
        texts += [(file.read_bytes(), "") for file in self.folder.glob("tmp*/messages.json")]
        found = []
        for text, ending in texts:
            name, numbers = "", defaultdict(dict)
            for message in map(json.loads, text.decode().splitlines()):
                about = message["payload"]
                if message["type"] == "metric_msg":
                    metric = about["metric"]
                    numbers[plain(metric["metricName"])][metric["step"]] = metric["metricValue"]
                elif message["type"] == "log_other" and about["key"] == "Name":
                    name = about["value"]
            if name == run.id:
                found.append(Tracked(numbers, ending))
        return found

    def _mlflow(self, run: Run) -> list[Tracked]:
        from mlflow import MlflowClient

        client = MlflowClient(self.environment["MLFLOW_TRACKING_URI"])
        experiment = client.get_experiment_by_name("mine")
        found = []
        for known in client.search_runs([experiment.experiment_id]):
            if known.info.run_name == run.id:
                numbers = {
                    name: {
                        m.step: m.value for m in client.get_metric_history(known.info.run_id, name)
                    }
                    for name in known.data.metrics
                }
                assert {"a", "b"} <= {*known.data.tags}
                ending = {"FINISHED": "ok", "FAILED": "failed", "RUNNING": ""}[known.info.status]
                found.append(Tracked(numbers, ending))
        return found

    def _phoenix(self, run: Run) -> list[Tracked]:
        of_runs: dict[bytes, Tracked] = {}
        samples = []
        for span in self.collector.spans:
            about = {attribute.key: attribute.value for attribute in span.attributes}
            tags = about["tag.tags"].array_value.values
            assert [tag.string_value for tag in tags] == ["a", "b"]
            if about["session.id"].string_value != run.id:
                continue
            if span.name == "sample":
                texts = [about[f"{name}.value"].string_value for name in ("input", "output")]
                samples.append((about["step"].int_value, *texts))
                continue
            tracked = of_runs.setdefault(
                span.parent_span_id or span.span_id, Tracked(defaultdict(dict), "")
            )
            if span.parent_span_id:
                for name, value in about.items():
                    tracked.numbers[name][about["step"].int_value] = value.double_value
            else:
                assert span.name == run.id
                tracked.ending = {1: "ok", 2: "failed"}[span.status.code]
        assert samples
        assert samples == [
            (event["step"], one["prompt"], one["text"])
            for event in run.events()
            if event["event"] == "sample"
            for one in event["samples"]
        ]
        return [*of_runs.values()]


def plain(name: str) -> str:
    """Return the name of a measure as the trainer logs it."""
    return name.removeprefix("train/").replace("eval/", "eval_")


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield the records of an offline run: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32_768 - at % 32_768 < 7:  # the rest of a block is too short for a header
            at += 32_768 - at % 32_768
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        if kind == 0:
            return
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def assert_equal(tracked: Tracked, run: Run, ending: str = "ok") -> None:
    """Compare with events.jsonl, the last step included."""
    assert tracked.ending == ending
    expected = logged(run)
    assert expected["loss"]
    for name, points in expected.items():
        found = tracked.numbers.get(name, {})
        assert [*sorted(found)] == [*sorted(points)], name
        assert found == pytest.approx(points, rel=1e-6, nan_ok=True), name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    collector = Collector()
    yield Place(tmp_path_factory.mktemp("trackers"), collector)
    collector.server.shutdown()


@pytest.fixture(scope="module")
def config_file(
    place: Place, tiny_model: Path, rows: list[dict[str, Any]], tmp_path_factory: Any
) -> Path:
    """A config whose runs report to every tracker that is installed."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    nbft.Config(
        model={"model_name": str(tiny_model), "dtype": "float32"},
        data={
            "path": str(folder / "rows.jsonl"),
            "max_length": 128,
            "prompt_template": "Correct: {input}\n",
            "completion_template": "{target}",
        },
        training={
            "output_dir": str(folder / "runs"),
            "max_steps": 5,
            "gradient_accumulation_steps": 1,
            "learning_rate": 2e-3,
        },
        evaluation={
            "eval_strategy": "steps",
            "eval_steps": 2,
            "sample_count": 1,
            "sample_max_new_tokens": 4,
        },
        tracking={"report_to": INSTALLED, "project": "mine", "tags": ["a", "b"]},
        speed={"spare_worker": False},
    ).save(folder / "config.yaml")
    return folder / "config.yaml"


def python(script: str, place: Place, *arguments: object) -> None:
    """Run a script as a kernel would."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | place.environment,
        cwd=place.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


IN_A_KERNEL = """
import sys
import nbft, transformers
from nbft.launchers import start
from nbft.launchers.kernel import join

@nbft.registry.callbacks.register("raises")
class Raises(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            raise RuntimeError("The third step is enough.")

config = nbft.Config.load(sys.argv[1])
for name in ("first", "second"):
    join(nbft.train(config.apply({"training.run_name": name}), show=False))
raises = {"training.run_name": "failing", "callbacks.callbacks": {"raises": {}}}
join(nbft.train(config.apply(raises), show=False))
long = {"training.run_name": "stopped", "training.max_steps": 10_000}
run = start(config.apply(long))
while run.step < 4:
    assert not run.is_over, run.problems
run.stop()
join(run)
"""


@pytest.fixture(scope="module")
def in_a_kernel(place: Place, config_file: Path) -> dict[str, Run]:
    """Several runs of one process, one after another."""
    python(IN_A_KERNEL, place, config_file)
    runs = {run.id: run for run in list_runs(config_file.parent / "runs")}
    statuses = {name: run.status for name, run in runs.items()}
    assert statuses == {
        "first": "completed",
        "second": "completed",
        "failing": "failed",
        "stopped": "stopped",
    }
    return runs


@each_tracker
@pytest.mark.parametrize("name", ["first", "second", "failing", "stopped"])
def test_a_run_in_a_kernel(
    place: Place, in_a_kernel: dict[str, Run], tracker: str, name: str
) -> None:
    run = in_a_kernel[name]
    is_marked = name == "failing" and tracker in MARKS_FAILED
    assert_equal(place.read(tracker, run), run, "failed" if is_marked else "ok")
    assert not [e for e in run.events() if e["event"] == "warning"]


IN_THE_BACKGROUND = """
import sys
import nbft
run = nbft.submit(nbft.Config.load(sys.argv[1]).apply({"training.run_name": sys.argv[2]}))
run.wait()
"""


@pytest.fixture(scope="module")
def in_the_background(place: Place, config_file: Path) -> Run:
    python(IN_THE_BACKGROUND, place, config_file, "background")
    run = Run(config_file.parent / "runs" / "background")
    assert run.status == "completed", run.problems
    return run


@each_tracker
def test_a_run_in_the_background(place: Place, in_the_background: Run, tracker: str) -> None:
    assert_equal(place.read(tracker, in_the_background), in_the_background)


KILLED = """
import sys, time
import nbft
long = {"training.run_name": "killed", "training.max_steps": 10_000}
run = nbft.submit(nbft.Config.load(sys.argv[1]).apply(long))
while run.step < 7:
    assert not run.is_over, run.problems
run.pause()
while not run.state.is_paused:
    assert not run.is_over, run.problems
time.sleep(3)  # some trackers write or send what they have once a second
"""


@pytest.fixture(scope="module")
def killed(place: Place, config_file: Path) -> Run:
    """A run whose worker was killed while it paused."""
    python(KILLED, place, config_file)
    run = Run(config_file.parent / "runs" / "killed")
    os.kill(run.state.started["pid"], 9)
    run.wait()
    assert run.status == "failed"
    assert len(logged(run)["loss"]) >= 7  # the pause comes before the log of its step
    return run


@each_tracker
def test_a_killed_run_leaves_what_it_has_logged(place: Place, killed: Run, tracker: str) -> None:
    tracked = place.read(tracker, killed)
    assert_equal(tracked, killed, tracked.ending)


def test_a_tracker_that_hangs_delays_nothing_that_is_saved(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    class HangingCallback(transformers.TrainerCallback):
        def on_train_end(self, args: Any, *_: Any, **__: Any) -> None:
            run = Path(args.output_dir).parent
            saved.append(sorted(path.name for path in (run / "adapter").iterdir()))
            threading.Event().wait()

    saved: list[list[str]] = []
    known = transformers.integrations.integration_utils.INTEGRATION_TO_CALLBACK
    monkeypatch.setitem(known, "wandb", HangingCallback)
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 1.0)
    run = train(tracking__report_to=["wandb"], training__max_steps=2, evaluation__sample_count=0)
    assert run.status == "completed"
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= {*saved[0]}
    (warning,) = [e["text"] for e in run.events() if e["event"] == "warning"]
    assert warning.startswith("Hanging did not finish within 1 s.")


def test_phoenix_gets_what_the_model_wrote(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the base model and of the trained one, and exactly what the run's own events say."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, sent = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(sent))
    otel: Any = types.ModuleType("phoenix.otel")
    otel.register = lambda **_: provider
    monkeypatch.setitem(sys.modules, "phoenix", types.ModuleType("phoenix"))
    monkeypatch.setitem(sys.modules, "phoenix.otel", otel)
    monkeypatch.setattr("nbft.plan.checks.version_of", lambda _: "1")
    run = train(
        tracking__report_to=["phoenix"],
        training__max_steps=2,
        evaluation__metrics=["exact_match"],
        evaluation__score_max_new_tokens=8,
    )
    assert run.status == "completed", run.problems
    spans = [(span, dict(span.attributes or {})) for span in sent.get_finished_spans()]
    kinds = {about["openinference.span.kind"] for span, about in spans if span.name != run.id}
    assert kinds == {"CHAIN", "LLM"}
    samples = [
        (event["step"], one["prompt"], one["text"])
        for event in run.events()
        if event["event"] == "sample"
        for one in event["samples"]
    ]
    names = ("step", "input.value", "output.value")
    answers = [tuple(about[n] for n in names) for span, about in spans if span.name == "sample"]
    assert {step for step, *_ in samples} == {0, 2}
    assert answers == samples
    scored = [about for span, about in spans if span.name == "score validation"]
    for event in run.events():
        if event["event"] == "scores":
            values = [
                about["evaluations.0.evaluation.score"]
                for about in scored
                if about["step"] == event["step"]
            ]
            assert values == event["values"]["exact_match"]
    assert {about["step"] for about in scored} == {0, 2}
    (root,) = [span for span, _ in spans if span.parent is None]
    assert root.name == run.id
    assert {span.parent.span_id for span, _ in spans if span.parent} == {root.context.span_id}


WITHOUT_A_LOGIN = """
import os, sys
import nbft
asked = {"tracking.report_to": ["wandb"], "training.run_name": "nobody"}
run = nbft.train(nbft.Config.load(sys.argv[1]).apply(asked), show=False)
assert run.status == "completed", run.problems
assert os.environ["WANDB_MODE"] == "online"
import wandb
assert wandb.setup().settings.mode == "online"
"""


def test_without_a_login_wandb_is_offline_and_the_plan_says_so(
    place: Place, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where somebody asks for online, which would ask for a key or fail."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    logins = {name: str(tmp_path / "none") for name in ("NETRC", "WANDB_CONFIG_DIR")}
    variables = {**place.environment, **logins, "WANDB_MODE": "online", "WANDB_DIR": str(tmp_path)}
    monkeypatch.setattr(Place, "environment", variables)
    python(WITHOUT_A_LOGIN, place, config_file)
    planned = Run(config_file.parent / "runs" / "nobody").plan["trackers"]["wandb"]
    assert planned["value"] == "offline"
    assert planned["reason"].startswith("no login was found")
    assert [*tmp_path.glob("wandb/offline-run-*/*.wandb")]
