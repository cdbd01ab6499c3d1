"""A run as an OpenTelemetry span for Arize Phoenix; needs arize-phoenix-otel.

The span has the run's settings and one event per log. transformers has no callback for Phoenix.
Enabled by tracking.report_to: [phoenix].
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments


class PhoenixCallback(TrainerCallback):
    """Reports to Phoenix at PHOENIX_COLLECTOR_ENDPOINT.

    Args:
        project: Phoenix project.
        run_name: Name of the span.
        tags: Labels of the run.
    """

    def __init__(self, project: str, run_name: str | None, tags: list[str]) -> None:
        from phoenix.otel import register  # type: ignore[import-not-found]

        self._provider = register(project_name=project, set_global_tracer_provider=False)
        self._name, self._tags = run_name or "nbft run", tags
        self._span: Any = None

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Open the span of the run."""
        self._span = self._provider.get_tracer("nbft").start_span(self._name)
        self._span.set_attribute("tags", list(self._tags))
        for name in ("learning_rate", "max_steps", "per_device_train_batch_size", "seed"):
            self._span.set_attribute(f"training.{name}", getattr(args, name))

    def on_log(self, args: Any, state: TrainerState, *_: Any, logs: Any = None, **__: Any) -> None:
        """Add the numbers of a step."""
        if self._span is not None:
            numbers = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, (int, float))}
            self._span.add_event("log", {"step": state.global_step, **numbers})

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the span and send the rest."""
        if self._span is not None:
            self._span.end()
            self._span = None
        self._provider.force_flush()
