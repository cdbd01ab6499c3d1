"""Settings of preference training, which is not supported yet and rejected by `nbft.plan.checks`."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, expert_setting, setting


class Preference(Section):
    """Learning from pairs of a better and a worse answer. Not supported yet."""

    method: Literal["dpo"] | None = setting(
        label="Preference method",
        help="dpo learns from pairs of answers; when empty, the model imitates the answers.",
        source="DPO, arXiv:2305.18290",
    )
    beta: float = setting(
        0.1,
        label="Beta",
        help="How strongly the model is kept close to the reference model.",
        gt=0,
        le=10,
        usual=(0.05, 0.5),
        source="DPO, arXiv:2305.18290; TRL DPOConfig.beta",
    )
    loss_type: Literal[
        "sigmoid", "hinge", "ipo", "simpo", "orpo", "dpop", "kto_pair", "sppo_hard"
    ] = setting(
        "sigmoid",
        help="Loss: sigmoid is the original DPO, ipo does not saturate, simpo needs no reference.",
        source="TRL DPOConfig.loss_type; ERNIEKit loss_type",
    )
    simpo_gamma: float = expert_setting(
        0.5,
        help="Margin between the better and the worse answer when loss_type is simpo.",
        ge=0,
        source="SimPO, arXiv:2405.14734",
    )
    offset_alpha: float = expert_setting(
        0.0,
        help="How much a difference in scores widens the margin; the rows must contain scores.",
        ge=0,
        source="ODPO, arXiv:2402.10571; ERNIEKit offset_alpha",
    )
    max_prompt_length: int | None = setting(
        help="Maximum prompt length; longer prompts are truncated.",
        unit="tokens",
        ge=1,
        source="ERNIEKit max_prompt_len",
    )
    pref_loss_ratio: float = expert_setting(
        1.0,
        label="Weight of the preference loss",
        help="Weight of the preference loss.",
        ge=0,
        source="ERNIEKit pref_loss_ratio; TRL DPOConfig.loss_weights",
    )
    sft_loss_ratio: float = expert_setting(
        0.0,
        label="Weight of the SFT loss",
        help="Weight of an additional loss for imitating the better answer.",
        ge=0,
        source="ERNIEKit sft_loss_ratio; TRL DPOConfig.loss_weights",
    )
    label_smoothing: float = expert_setting(
        0.0,
        help="Assumed share of pairs whose order is wrong.",
        ge=0,
        lt=0.5,
        source="cDPO; TRL DPOConfig.label_smoothing",
    )
    reference_free: bool = expert_setting(
        False,
        help="Train without a reference model.",
        source="ERNIEKit reference_free",
    )
    ref_model_update_steps: int = expert_setting(
        -1,
        help="Steps after which the current model becomes the reference model; -1 for never.",
        unit="steps",
        ge=-1,
        source="ERNIEKit ref_model_update_steps; TRL DPOConfig.ref_model_sync_steps",
    )
