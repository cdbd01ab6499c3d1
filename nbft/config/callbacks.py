"""Settings of callbacks."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from nbft import registry
from nbft.config.base import Section, expert_setting, setting


class Callbacks(Section):
    """Callbacks during training, such as early stopping."""

    early_stopping_patience: int | None = setting(
        help="Stop after this many evaluations without a better score; never when empty.",
        unit="measurements",
        ge=1,
        usual=(2, 5),
        source="transformers EarlyStoppingCallback",
    )
    early_stopping_threshold: float = setting(
        0.0,
        help="Smallest change in the score that counts as an improvement.",
        ge=0,
        source="transformers EarlyStoppingCallback",
    )
    restore_callback_states_from_checkpoint: bool = expert_setting(
        True,
        help="Restore the state of callbacks when resuming, such as early stopping's patience.",
        source="nbft: a resumed run ends where the uninterrupted one would; transformers has false",
    )
    callbacks: dict[str, dict[str, Any]] = expert_setting(
        help="More callbacks by key, with arguments: {profiler: {first_step: 2, last_step: 4}}.",
        source="QEfficient callbacks",
        why="Keys: early_stopping, enhanced_progressbar, default_flow, printer, json_logger, "
        "tensorboard, profiler, op_by_op_verifier, and your own from nbft.registry.callbacks.",
        default_factory=dict,
    )

    @property
    def stops_early(self) -> bool:
        """Whether a score can end the run, by either way to ask for it."""
        return self.early_stopping_patience is not None or "early_stopping" in self.callbacks

    @field_validator("callbacks", mode="before")
    @classmethod
    def _no_arguments(cls, value: Any) -> Any:
        """Accept a key without arguments, such as `printer:` in YAML."""
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
