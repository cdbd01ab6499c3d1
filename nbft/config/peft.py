"""Settings of the adapter that is trained instead of all weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from nbft.config.base import Section, setting


class Peft(Section):
    """Parameter-efficient fine-tuning."""

    method: Literal["lora", "ia3", "full"] = setting(
        "lora",
        label="Fine-tuning method",
        help="lora and ia3 train a small adapter beside the frozen model; full trains every weight.",
        source="PEFT",
        level="basic",
        why="An adapter needs a fraction of the memory, is a few MB to keep and share, and can be "
        "taken off again. lora adds two thin matrices to each layer, ia3 one number to each of its "
        "outputs. On a quantised model (quantization section) lora is QLoRA.",
    )
    task_type: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM"] = setting(
        "CAUSAL_LM",
        help="What the adapter's model does: go on with a text, or answer one with an encoder and "
        "a decoder.",
        source="PEFT LoraConfig.task_type",
        level="expert",
    )
    r: int = setting(
        16,
        label="LoRA rank",
        help="Rank of the adapter: how much it can learn, and how large it is.",
        source="LoRA, arXiv:2106.09685, section 7.2; QLoRA practice",
        ge=1,
        le=1024,
        usual=(4, 64),
        why="8 to 16 suits most tasks. Doubling it doubles the trained parameters. PEFT Studio has "
        "8, within 4 to 64; Oumi's recipe 16.",
    )
    lora_alpha: int = setting(
        32,
        help="Strength of the adapter; its output is scaled by lora_alpha / r. -1 means twice the "
        "rank, or 4 with use_rslora.",
        source="usual practice: twice the rank",
        ge=-1,
        usual=(8, 128),
        why="-1 comes from ERNIEKit, where it stands for these two values.",
    )
    lora_dropout: float = setting(
        0.0,
        help="Share of the adapter's inputs that is dropped at random while training.",
        source="Oumi peft.lora_dropout",
        ge=0,
        lt=1,
        usual=(0.0, 0.1),
        why="Against learning the rows by heart; PEFT Studio and Oumi's recipe have 0.05.",
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
        why="The guides disagree: PEFT Studio has it for ranks above 16, ERNIEKit from 64 on.",
    )
    use_dora: bool = setting(
        False,
        help="Learn the length of the weights apart from their direction; slower, often better.",
        source="DoRA, arXiv:2402.09353",
    )
    init_lora_weights: Literal[
        "default",
        "random",
        "gaussian",
        "pissa",
        "pissa_niter_4",
        "pissa_niter_16",
        "olora",
        "orthogonal",
    ] = setting(
        "default",
        label="Initial LoRA weights",
        help="How the adapter starts.",
        source="PEFT LoraConfig.init_lora_weights",
        level="expert",
        why="default and gaussian change nothing at first. pissa starts from the largest singular "
        "values of the weights (arXiv:2404.02948), pissa_niter_16 finds them faster; olora from a "
        "QR decomposition (arXiv:2406.01775). random changes the model at once: for tests.",
    )
    loraplus_lr_ratio: float = setting(
        1.0,
        label="LoRA+ learning rate ratio",
        help="LoRA+: how many times faster the adapter's second matrix learns than its first; 1 is "
        "plain LoRA.",
        source="LoRA+, arXiv:2402.12354",
        ge=1,
        le=1000,
        usual=(1.0, 16.0),
        why="4 to 16 is advised, with half the usual learning rate.",
    )
    feedforward_modules: list[str] = setting(
        help="ia3: layers whose inputs are scaled, not their outputs: the last of a feed-forward.",
        source="IA3, arXiv:2205.05638, section 3.3",
        level="expert",
        default_factory=lambda: ["down_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "wo"],
    )

    @field_validator("bias", mode="before")
    @classmethod
    def _no_bias_is_none(cls, value: Any) -> Any:
        return "none" if value is None else value  # QEfficient writes null

    @field_validator("lora_alpha", mode="after")
    @classmethod
    def _alpha_is_positive_or_automatic(cls, value: int) -> int:
        if value == 0:
            raise PydanticCustomError(
                "nbft", "would switch the adapter off. Use -1 for twice the rank, or 1 or more."
            )
        return value

    @property
    def trains_adapter(self) -> bool:
        """Whether an adapter is trained beside the frozen model, rather than the model itself."""
        return self.method != "full"

    @property
    def alpha(self) -> int:
        """The strength that counts: lora_alpha, or what -1 stands for.

        Source: ERNIEKit, erniekit/hparams/finetuning_args.py.

        >>> Peft(r=8, lora_alpha=-1).alpha, Peft(r=8, lora_alpha=-1, use_rslora=True).alpha
        (16, 4)
        """
        if self.lora_alpha != -1:
            return self.lora_alpha
        return 4 if self.use_rslora else 2 * self.r
