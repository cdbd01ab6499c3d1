"""What Phoenix gets of the answers of a model, through a stand-in for its package.

The stand-in has the one function of arize-phoenix-otel that is called, with the parameters that it
documents; spans are made and collected by OpenTelemetry itself.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nbft.training.callbacks.generations import Generation
from nbft.training.callbacks.phoenix import PhoenixCallback
from nbft.training.callbacks.reporting import ReportingCallback

ARGS: Any = SimpleNamespace(learning_rate=1e-4, max_steps=3, per_device_train_batch_size=2, seed=1)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()

    def register(
        *,
        endpoint: str | None = None,
        project_name: str | None = None,
        batch: bool = False,
        set_global_tracer_provider: bool = True,
        headers: dict[str, str] | None = None,
        protocol: str | None = None,
        verbose: bool = True,
        auto_instrument: bool = False,
        api_key: str | None = None,
        **_: Any,
    ) -> TracerProvider:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return provider

    otel: Any = types.ModuleType("phoenix.otel")
    otel.register = register
    monkeypatch.setitem(sys.modules, "phoenix", types.ModuleType("phoenix"))
    monkeypatch.setitem(sys.modules, "phoenix.otel", otel)
    yield exporter
    exporter.shutdown()


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_an_answer_has_its_prompt_and_scores_by_the_names_of_openinference(
    sent: InMemorySpanExporter,
) -> None:
    callback = PhoenixCallback("mine", "kind-otter-1", ["a"], "smollm2-135m")
    callback.on_train_begin(ARGS)
    made = [
        Generation("sample", 2, "Hello", "you", time_ns=10**18),
        Generation("test", 3, "2 + 2 =", "4", "4", {"rouge": 0.5, "exact_match": 1.0}),
    ]
    callback.take_generations(made)
    callback.on_train_end()
    sample, score, run = sent.get_finished_spans()
    assert (sample.name, score.name, run.name) == ("sample", "score test", "kind-otter-1")
    for span in (sample, score):
        assert span.parent is not None
        assert span.parent.span_id == run.context.span_id
        assert about(span)["openinference.span.kind"] == "LLM"
        assert about(span)["session.id"] == "kind-otter-1"
        assert about(span)["tag.tags"] == ("a",)
        assert about(span)["llm.model_name"] == "smollm2-135m"
    assert about(run)["openinference.span.kind"] == "CHAIN"
    assert (about(sample)["input.value"], about(sample)["output.value"]) == ("Hello", "you")
    assert json.loads(about(sample)["metadata"]) == {"step": 2}
    assert not [name for name in about(sample) if name.startswith("evaluations")]
    assert sample.start_time == sample.end_time == 10**18
    assert (about(score)["input.value"], about(score)["output.value"]) == ("2 + 2 =", "4")
    assert json.loads(about(score)["metadata"]) == {"step": 3, "wanted": "4"}
    evaluations = {n: v for n, v in about(score).items() if n.startswith("evaluations")}
    assert evaluations == {
        "evaluations.0.evaluation.name": "exact_match",
        "evaluations.0.evaluation.score": 1.0,
        "evaluations.0.evaluation.annotator_kind": "CODE",
        "evaluations.1.evaluation.name": "rouge",
        "evaluations.1.evaluation.score": 0.5,
        "evaluations.1.evaluation.annotator_kind": "CODE",
    }


def test_what_the_base_model_wrote_waits_for_the_span_of_the_run(
    sent: InMemorySpanExporter, tmp_path: Any
) -> None:
    """It is asked before there is a trainer, and so before the tracker is known."""
    reporting = ReportingCallback(tmp_path, "cpu", lambda model: [])
    reporting.say_samples(0, [{"prompt": "Hello", "text": "base", "wanted": "you"}])
    callback = PhoenixCallback("mine", None, [])
    reporting.tell_to([callback.take_generations])
    assert sent.get_finished_spans() == ()
    callback.on_train_begin(ARGS)
    reporting.say_samples(1, [{"prompt": "Hello", "text": "tuned"}])
    answers = [about(span)["output.value"] for span in sent.get_finished_spans()]
    assert answers == ["base", "tuned"]


def test_without_a_tracker_that_takes_them_no_generation_is_made(tmp_path: Any) -> None:
    reporting = ReportingCallback(tmp_path, "cpu", lambda model: [])
    reporting.tell(lambda: [Generation("sample", 0, "Hello", "you")])
    reporting.tell_to([])

    def refuse() -> list[Generation]:
        raise AssertionError("nobody listens")

    reporting.tell(refuse)
