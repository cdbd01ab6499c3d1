"""Settings of the fast path: parts that change the time and the memory, never the losses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from nbft.config.base import Section, setting

Part = Literal["auto", "on", "off"]


class Speed(Section):
    """Parts of the fast path; auto uses each where it applies, and the plan says why not."""

    row_attention: Part = setting(
        "auto",
        help="Attend within each row where rows lie end to end, without a mask of all by all tokens.",
        source="nbft",
    )
    label_head: Part = setting(
        "auto",
        help="Compute logits and loss only where a token is learnt, a few tokens at a time.",
        source="nbft",
    )
    fused_lora: Part = setting(
        "auto",
        help="Do a LoRA layer on frozen weights in one step, without gradients nobody needs.",
        source="nbft",
    )
    lean_norm: Part = setting(
        "auto",
        help="Do a RMSNorm layer in one step, without the copies that it keeps otherwise.",
        source="nbft",
    )
    spare_worker: bool = setting(
        True,
        help="While the form is shown, let a worker wait with its libraries imported, so that a "
        "background run begins at once.",
        source="nbft",
        why="It holds 0.6 GB, and ends after 10 idle minutes or when memory gets short. "
        "NBFT_SPARE_WORKER=off turns it off for everyone on a server.",
    )

    @field_validator("row_attention", "label_head", "fused_lora", "lean_norm", mode="before")
    @classmethod
    def _yes_is_on(cls, value: Any) -> Any:
        """Take the booleans that YAML 1.1 makes of on and off."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
