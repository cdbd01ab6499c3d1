"""A run as OpenTelemetry spans for Arize Phoenix; needs arize-phoenix-otel.

One span has the run's settings; each log is a span below it and in the same session. A span is sent
when it ends, and that of a killed run never does; as events of the run's span there could be 128 logs.
transformers has no callback for Phoenix. Enabled by tracking.report_to: [phoenix].
"""

from __future__ import annotations

import os
from numbers import Real
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments


class PhoenixCallback(TrainerCallback):
    """Reports to Phoenix at PHOENIX_COLLECTOR_ENDPOINT.

    Args:
        project: Phoenix project.
        run_name: Name of the run's span.
        tags: Labels of the run.

    Attributes:
        failed: Whether the run failed; set before its end.
    """

    def __init__(self, project: str, run_name: str | None, tags: list[str]) -> None:
        from phoenix.otel import register  # type: ignore[import-not-found]

        self.failed = False
        is_grpc = os.environ.get("PHOENIX_COLLECTOR_ENDPOINT", "").endswith(":4317")
        self._provider = register(
            project_name=project,
            protocol=None if is_grpc else "http/protobuf",  # the port of the page takes spans too
            set_global_tracer_provider=False,
            batch=True,
            verbose=False,
        )
        self._tracer = self._provider.get_tracer("nbft")
        self._name = run_name or "nbft run"
        self._about = {"session.id": self._name, "tags": tags}
        self._span: Any = None

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Open the span of the run."""
        names = ("learning_rate", "max_steps", "per_device_train_batch_size", "seed")
        about = {f"training.{name}": getattr(args, name) for name in names}
        self._span = self._tracer.start_span(self._name, attributes={**self._about, **about})

    def on_log(self, args: Any, state: TrainerState, *_: Any, logs: Any = None, **__: Any) -> None:
        """Send the numbers of a step."""
        if self._span is None:  # a run that only evaluates
            self.on_train_begin(args)
        from opentelemetry.trace import set_span_in_context

        numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, Real)}
        self._tracer.start_span(
            "log",
            context=set_span_in_context(self._span),
            attributes={**self._about, **numbers, "step": state.global_step},
        ).end()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the span of the run and send what remains."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR if self.failed else StatusCode.OK)
            self._span.end()
            self._span = None
        self._provider.force_flush()
        self._provider.shutdown()
