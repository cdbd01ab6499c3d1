"""Settings of the fast path: optimisations of time and memory that never change the losses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from nbft.config.base import Section, setting

Part = Literal["auto", "on", "off"]


class Speed(Section):
    """Optimisations that do not change the losses; auto uses each where it applies."""

    row_attention: Part = setting(
        "auto",
        help="Compute attention within each row when rows are joined, without a full attention "
        "mask.",
        source="nbft",
    )
    label_head: Part = setting(
        "auto",
        help="Compute logits and loss only for the tokens that are trained on, a few at a time.",
        source="nbft",
    )
    fused_lora: Part = setting(
        "auto",
        help="Compute a LoRA layer on frozen weights in one step, without unused gradients.",
        source="nbft",
    )
    lean_norm: Part = setting(
        "auto",
        help="Compute an RMSNorm layer in one step, without the extra copies it usually keeps.",
        source="nbft",
    )
    shared_prompt: Part = setting(
        "auto",
        help="Compute a prompt once for both of its answers in preference training.",
        source="nbft",
    )
    spare_worker: bool = setting(
        True,
        help="Keep a worker with its libraries imported ready while the form is open, so a "
        "background run starts immediately.",
        source="nbft",
        why="It uses 0.6 GB and stops after 10 idle minutes, when memory runs low or when packages "
        "are installed. NBFT_SPARE_WORKER=off disables it for everyone on a server. It is off on a "
        "JupyterHub and while another user trains on the machine.",
    )

    @field_validator(
        *("row_attention", "label_head", "fused_lora", "lean_norm", "shared_prompt"), mode="before"
    )
    @classmethod
    def _yes_is_on(cls, value: Any) -> Any:
        """Accept booleans, which YAML 1.1 makes of on and off."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
