"""Settings of preference training. They are read and checked; the training comes later.

What would need it is refused by the plan's checks (`nbft.plan.checks`).
"""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Preference(Section):
    """Learning from pairs of a better and a worse answer. Planned: nbft imitates answers for now."""

    method: Literal["dpo"] | None = setting(
        label="Preference method",
        help="dpo learns from pairs of answers; the answers are imitated when empty.",
        source="DPO, arXiv:2305.18290",
    )
    beta: float = setting(
        0.1,
        label="Beta",
        help="How strongly the model is held near the one it began as.",
        gt=0,
        le=10,
        usual=(0.05, 0.5),
        source="DPO, arXiv:2305.18290; TRL DPOConfig.beta",
    )
    loss_type: Literal[
        "sigmoid", "hinge", "ipo", "simpo", "orpo", "dpop", "kto_pair", "sppo_hard"
    ] = setting(
        "sigmoid",
        help="Which loss: sigmoid is DPO's own, ipo does not saturate, simpo needs no reference.",
        source="TRL DPOConfig.loss_type; ERNIEKit loss_type",
    )
    simpo_gamma: float = setting(
        0.5,
        help="Margin between the better and the worse answer, with loss_type simpo.",
        ge=0,
        source="SimPO, arXiv:2405.14734",
        level="expert",
    )
    offset_alpha: float = setting(
        0.0,
        help="How much a difference of scores widens the margin; the rows must carry scores.",
        ge=0,
        source="ODPO, arXiv:2402.10571; ERNIEKit offset_alpha",
        level="expert",
    )
    max_prompt_length: int | None = setting(
        help="Longest prompt; the rest is cut off.",
        unit="tokens",
        ge=1,
        source="ERNIEKit max_prompt_len",
    )
    pref_loss_ratio: float = setting(
        1.0,
        label="Weight of the preference loss",
        help="Weight of the preference loss.",
        ge=0,
        source="ERNIEKit pref_loss_ratio; TRL DPOConfig.loss_weights",
        level="expert",
    )
    sft_loss_ratio: float = setting(
        0.0,
        label="Weight of the SFT loss",
        help="Weight of imitating the better answer beside it.",
        ge=0,
        source="ERNIEKit sft_loss_ratio; TRL DPOConfig.loss_weights",
        level="expert",
    )
    label_smoothing: float = setting(
        0.0,
        help="Share of pairs that are taken to be the wrong way round.",
        ge=0,
        lt=0.5,
        source="cDPO; TRL DPOConfig.label_smoothing",
        level="expert",
    )
    reference_free: bool = setting(
        False,
        help="Compare with no reference model.",
        source="ERNIEKit reference_free",
        level="expert",
    )
    ref_model_update_steps: int = setting(
        -1,
        help="Steps after which the reference becomes the model as it is then; -1 for never.",
        unit="steps",
        ge=-1,
        source="ERNIEKit ref_model_update_steps; TRL DPOConfig.ref_model_sync_steps",
        level="expert",
    )
