"""Settings of what watches a run and may end it."""

from __future__ import annotations

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
