"""Settings of preference training: DPO, KTO, ORPO, CPO and their losses, and reward models."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, expert_setting, setting


class Preference(Section):
    """Learning from better and worse answers, with training.method dpo, kto, orpo, cpo or reward."""

    beta: float = setting(
        0.1,
        label="Beta",
        help="How strongly the model is kept close to the reference model.",
        gt=0,
        le=10,
        usual=(0.05, 0.5),
        source="DPO, arXiv:2305.18290; TRL DPOConfig.beta",
        why="A small beta lets the model move far from where it started, and forget more of it. "
        "Without a reference model, beta scales the difference between the two answers (with "
        "simpo, 2 to 2.5 are usual); with orpo, it weighs the odds ratio.",
    )
    loss_type: (
        Literal[
            "sigmoid",
            "hinge",
            "ipo",
            "simpo",
            "orpo",
            "dpop",
            "kto_pair",
            "sppo_hard",
            "nca_pair",
            "sigmoid_norm",
            "robust",
            "exo_pair",
            "bco_pair",
            "apo_zero",
            "apo_down",
            "kto",
            "apo_zero_unpaired",
        ]
        | None
    ) = setting(
        help="Loss; the method's own when empty: sigmoid for dpo and cpo, kto for kto, orpo for orpo.",
        source="TRL DPOConfig.loss_type; ERNIEKit loss_type",
        why="ipo does not drive the margin ever higher, dpop keeps the chosen answers likely, and "
        "simpo and orpo need no reference model.",
    )
    simpo_gamma: float = expert_setting(
        0.5,
        help="Margin between the better and the worse answer when loss_type is simpo.",
        ge=0,
        source="SimPO, arXiv:2405.14734; TRL CPOConfig.simpo_gamma",
    )
    dpop_lambda: float = expert_setting(
        50.0,
        help="Penalty for chosen answers that become less likely, when loss_type is dpop.",
        ge=0,
        source="DPO-Positive, arXiv:2402.13228; ERNIEKit dpop_lambda",
    )
    offset_alpha: float = expert_setting(
        0.0,
        help="How much a difference in scores widens the margin; the rows must contain scores.",
        ge=0,
        source="ODPO, arXiv:2402.10571; ERNIEKit offset_alpha",
    )
    max_prompt_length: int | None = setting(
        help="Maximum prompt length; of longer prompts the end is kept.",
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
    sft_loss_ratio: float | None = expert_setting(
        label="Weight of the SFT loss",
        help="Weight of an additional loss for imitating the better answer; the method's own when "
        "empty: 0 for dpo, 1 for cpo and orpo.",
        ge=0,
        source="ERNIEKit sft_loss_ratio; TRL DPOConfig.loss_weights, CPOConfig.cpo_alpha",
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
    desirable_weight: float = expert_setting(
        1.0,
        help="Weight of the good answers in kto.",
        ge=0,
        source="KTO, arXiv:2402.01306; TRL KTOConfig.desirable_weight",
    )
    undesirable_weight: float = expert_setting(
        1.0,
        help="Weight of the bad answers in kto.",
        ge=0,
        source="KTO, arXiv:2402.01306; TRL KTOConfig.undesirable_weight",
    )
    center_rewards_coefficient: float = expert_setting(
        0.0,
        help="Weight of a loss that keeps the rewards of both answers around 0, in reward; 0.01 is "
        "recommended, 0 turns it off.",
        ge=0,
        source="TRL RewardConfig.center_rewards_coefficient; arXiv:2312.09244, equation 2",
        why="Only differences of rewards are trained, so that all of them may drift together.",
    )
