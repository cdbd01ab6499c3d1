"""Settings of what watches a run and may end it."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from nbft import registry
from nbft.config.base import Section, setting


class Callbacks(Section):
    """What watches the run and may end it."""

    early_stopping_patience: int | None = setting(
        help="Stop after this many measurements without a better score; never when empty.",
        unit="measurements",
        ge=1,
        usual=(2, 5),
        source="transformers EarlyStoppingCallback",
    )
    early_stopping_threshold: float = setting(
        0.0,
        help="How much better a score must be to count.",
        ge=0,
        source="transformers EarlyStoppingCallback",
    )
    restore_callback_states_from_checkpoint: bool = setting(
        False,
        help="On resuming, bring back what callbacks had counted, such as early stopping's wait.",
        source="transformers TrainingArguments.restore_callback_states_from_checkpoint",
        level="expert",
    )
    callbacks: dict[str, dict[str, Any]] = setting(
        help="Further callbacks by their key, each with its arguments: {profiler: {first_step: 2, "
        "last_step: 4}}.",
        source="QEfficient callbacks",
        level="expert",
        why="Keys are those of nbft.registry.callbacks: early_stopping, enhanced_progressbar, "
        "default_flow, printer, json_logger, tensorboard, profiler, op_by_op_verifier, and yours.",
        default_factory=dict,
    )

    @field_validator("callbacks", mode="before")
    @classmethod
    def _no_arguments(cls, value: Any) -> Any:
        """Take a key without arguments, as YAML writes it: `printer:`."""
        if not isinstance(value, dict):
            return value
        return {key: {} if arguments is None else arguments for key, arguments in value.items()}

    @field_validator("callbacks")
    @classmethod
    def _are_registered(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for key in value:
            if key not in registry.callbacks:
                why, fix, _ = registry.callbacks.unknown(key)
                raise PydanticCustomError("nbft", "{text}", {"text": f"{key} {why} {fix}"})
        return value
