"""A run as OpenTelemetry spans for Arize Phoenix; needs arize-phoenix-otel.

One span has the run's settings; each log and each generation is a span below it and in the same
session, with the attributes of OpenInference. A span is sent when it ends, and that of a killed run
never does; as events of the run's span there could be 128 logs. transformers has no callback for
Phoenix. Enabled by tracking.report_to: [phoenix].

Source: OpenInference's semantic conventions, with its span evaluations for scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from numbers import Real
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from nbft.tracking import phoenix_address
from nbft.training.callbacks.generations import Generation

_KIND = "openinference.span.kind"


class PhoenixCallback(TrainerCallback):
    """Reports to Phoenix at PHOENIX_COLLECTOR_ENDPOINT.

    Args:
        project: Phoenix project.
        run_name: Name of the run's span.
        tags: Labels of the run.
        model_name: The base model.

    Attributes:
        failed: Whether the run failed; set before its end.
    """

    def __init__(
        self, project: str, run_name: str | None, tags: list[str], model_name: str = ""
    ) -> None:
        from phoenix.otel import register  # type: ignore[import-not-found]

        self.failed = False
        is_grpc = phoenix_address().endswith(":4317")
        self._provider = register(
            project_name=project,
            protocol=None if is_grpc else "http/protobuf",  # the port of the page takes spans too
            set_global_tracer_provider=False,
            batch=True,
            verbose=False,
        )
        self._tracer = self._provider.get_tracer("nbft")
        self._name = run_name or "nbft run"
        self._about = {"session.id": self._name, "tag.tags": tags}
        self._model_name = model_name
        self._span: Any = None
        self._waiting: list[Generation] = []

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Open the span of the run, and send what the base model has written before."""
        names = ("learning_rate", "max_steps", "per_device_train_batch_size", "seed")
        about = {f"training.{name}": getattr(args, name) for name in names}
        self._span = self._tracer.start_span(
            self._name, attributes={**self._about, _KIND: "CHAIN", **about}
        )
        waiting, self._waiting = self._waiting, []
        self.take_generations(waiting)

    def on_log(self, args: Any, state: TrainerState, *_: Any, logs: Any = None, **__: Any) -> None:
        """Send the numbers of a step."""
        if self._span is None:  # a run that only evaluates
            self.on_train_begin(args)
        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, Real)}
        about = {**self._about, _KIND: "CHAIN", **numbers, "step": state.global_step}
        self._tracer.start_span("log", context=self._below(), attributes=about).end()

    def take_generations(self, generations: Sequence[Generation]) -> None:
        """Send what the model has written, with its scores; kept until the span of the run is open."""
        if self._span is None:
            self._waiting += generations
            return
        for one in generations:
            about = {**self._about, **_attributes(one), "llm.model_name": self._model_name}
            span = self._tracer.start_span(
                "sample" if one.kind == "sample" else f"score {one.kind}",
                context=self._below(),
                attributes=about,
                start_time=one.time_ns,
            )
            span.end(one.time_ns)

    def _below(self) -> Any:
        """Return the context of spans below that of the run."""
        from opentelemetry.trace import set_span_in_context

        return set_span_in_context(self._span)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the span of the run and send what remains."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR if self.failed else StatusCode.OK)
            self._span.end()
            self._span = None
        self._provider.force_flush()
        self._provider.shutdown()


def _attributes(one: Generation) -> dict[str, Any]:
    """Return the attributes of a generation by OpenInference's names.

    >>> found = _attributes(Generation("test", 3, "2 + 2 =", "4", "4", {"exact_match": 1.0}))
    >>> found["input.value"], found["output.value"], found["evaluations.0.evaluation.score"]
    ('2 + 2 =', '4', 1.0)
    """
    wanted = {"wanted": one.wanted} if one.wanted else {}
    attributes = {
        _KIND: "LLM",
        "input.value": one.prompt,
        "input.mime_type": "text/plain",
        "output.value": one.answer,
        "output.mime_type": "text/plain",
        "metadata": json.dumps({"step": one.step, **wanted}, ensure_ascii=False),
        "step": one.step,
    }
    for number, (name, score) in enumerate(sorted(one.scores.items())):
        place = f"evaluations.{number}.evaluation"
        attributes |= {
            f"{place}.name": name,
            f"{place}.score": score,
            f"{place}.annotator_kind": "CODE",
        }
    return attributes
