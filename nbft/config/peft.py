"""Settings of the adapter that is trained instead of all weights."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Peft(Section):
    """Parameter-efficient fine-tuning."""

    method: Literal["lora", "full"] = setting(
        "lora",
        help="lora trains a small adapter beside the frozen model; full trains every weight.",
        source="PEFT",
        level="basic",
        why="An adapter needs a fraction of the memory, is a few MB to keep and share, and can be "
        "taken off again.",
    )
    r: int = setting(
        16,
        help="Rank of the adapter: how much it can learn, and how large it is.",
        source="LoRA, arXiv:2106.09685, section 7.2; QLoRA practice",
        ge=1,
        le=1024,
        usual=(4, 64),
        why="8 to 16 suits most tasks. Doubling it doubles the trained parameters.",
    )
    lora_alpha: int = setting(
        32,
        help="Strength of the adapter; its output is scaled by lora_alpha / r.",
        source="usual practice: twice the rank",
        ge=1,
        usual=(8, 128),
    )
    lora_dropout: float = setting(
        0.0,
        help="Share of the adapter's inputs that is dropped at random while training.",
        source="Oumi peft.lora_dropout",
        ge=0,
        lt=1,
        usual=(0.0, 0.1),
    )
    target_modules: list[str] = setting(
        help="Layers that get an adapter; all-linear means every linear layer but the head.",
        source="QLoRA, arXiv:2305.14314, section 4",
        default_factory=lambda: ["all-linear"],
        suggestions=("all-linear", "q_proj", "k_proj", "v_proj", "o_proj"),
    )
    modules_to_save: list[str] = setting(
        help="Layers outside the adapter that are trained in full and saved with it.",
        source="PEFT LoraConfig.modules_to_save",
        level="expert",
        default_factory=list,
    )
    bias: Literal["none", "all", "lora_only"] = setting(
        "none",
        help="Which bias terms are trained too.",
        source="PEFT LoraConfig.bias",
        level="expert",
    )
    use_rslora: bool = setting(
        False,
        help="Scale by lora_alpha / sqrt(r), which keeps high ranks stable.",
        source="rsLoRA, arXiv:2312.03732",
    )
    use_dora: bool = setting(
        False,
        help="Learn the length of the weights apart from their direction; slower, often better.",
        source="DoRA, arXiv:2402.09353",
    )
    init_lora_weights: Literal["default", "gaussian", "pissa", "olora", "orthogonal"] = setting(
        "default",
        help="How the adapter starts.",
        source="PEFT LoraConfig.init_lora_weights",
        level="expert",
    )
