"""Settings of parameter-efficient fine-tuning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from nbft.config.base import Section, expert_setting, setting

ALL_LINEAR = "all-linear"
"""Every linear layer except the head."""


class Peft(Section):
    """Parameter-efficient fine-tuning with an adapter."""

    method: Literal["lora", "ia3", "oft", "full"] = setting(
        "lora",
        label="Fine-tuning method",
        help="lora, ia3 and oft train a small adapter and freeze the model; full trains every "
        "weight.",
        source="PEFT",
        level="basic",
        why="An adapter needs a fraction of the memory, is only a few MB to store and share, and "
        "can be removed again. lora adds two thin matrices to each layer, ia3 one number to each "
        "of its outputs, oft a rotation of its inputs (arXiv:2306.07280). On a quantised model "
        "(quantization section) lora becomes QLoRA.",
    )
    task_type: Literal["CAUSAL_LM", "SEQ_2_SEQ_LM"] = expert_setting(
        "CAUSAL_LM",
        help="What the adapter's model does: CAUSAL_LM continues a text, SEQ_2_SEQ_LM answers one "
        "with an encoder and a decoder.",
        source="PEFT LoraConfig.task_type",
    )
    r: int = setting(
        16,
        label="LoRA rank",
        help="Rank of the adapter: a higher rank can learn more, but the adapter is larger.",
        source="LoRA, arXiv:2106.09685, section 7.2; QLoRA practice",
        ge=1,
        le=1024,
        usual=(4, 64),
        why="8 to 16 suits most tasks. Doubling it doubles the trained parameters. PEFT Studio "
        "uses 8 (range 4 to 64), Oumi's recipe 16.",
    )
    lora_alpha: int = setting(
        32,
        help="Scaling of the adapter: its output is multiplied by lora_alpha / r. -1 means twice "
        "the rank, or 4 with use_rslora.",
        source="usual practice: twice the rank",
        ge=-1,
        usual=(8, 128),
        why="-1 has the same meaning as in ERNIEKit.",
    )
    lora_dropout: float = setting(
        0.0,
        help="Dropout rate of the adapter's inputs during training.",
        source="Oumi peft.lora_dropout",
        ge=0,
        lt=1,
        usual=(0.0, 0.1),
        why="Reduces overfitting; PEFT Studio and Oumi's recipe use 0.05.",
    )
    target_modules: list[str] | str = setting(
        help="Layers that get an adapter, by name or the end of it; all-linear means every linear "
        "layer except the head.",
        source="QLoRA, arXiv:2305.14314, section 4",
        default_factory=lambda: [ALL_LINEAR],
        suggestions=(ALL_LINEAR, "q_proj", "k_proj", "v_proj", "o_proj"),
        why="Names beside all-linear are added to it. A text instead of a list is a regular "
        r"expression for the whole name of a layer, as in PEFT: .*\.layers\.[0-3]\..*q_proj.",
    )
    modules_to_save: list[str] = expert_setting(
        help="Additional layers to train in full and save with the adapter.",
        source="PEFT LoraConfig.modules_to_save",
        default_factory=list,
    )
    bias: Literal["none", "all", "lora_only"] = expert_setting(
        "none",
        help="Which bias terms to train as well.",
        source="PEFT LoraConfig.bias",
    )
    use_rslora: bool = setting(
        False,
        help="Scale by lora_alpha / sqrt(r), which keeps training stable at high ranks.",
        source="rsLoRA, arXiv:2312.03732",
        why="The guides disagree: PEFT Studio uses it for ranks above 16, ERNIEKit from 64.",
    )
    use_dora: bool = setting(
        False,
        help="Train magnitude and direction of the weights separately; slower, but often better.",
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
    ] = expert_setting(
        "default",
        label="Initial LoRA weights",
        help="How to initialise the adapter.",
        source="PEFT LoraConfig.init_lora_weights",
        why="default and gaussian leave the model unchanged at first. pissa starts from the "
        "largest singular values of the weights (arXiv:2404.02948), pissa_niter_16 computes them "
        "faster; olora starts from a QR decomposition (arXiv:2406.01775). random changes the "
        "model immediately and is meant for tests.",
    )
    loraplus_lr_ratio: float = setting(
        1.0,
        label="LoRA+ learning rate ratio",
        help="LoRA+: learning rate of the adapter's second matrix over its first; 1 is plain LoRA.",
        source="LoRA+, arXiv:2402.12354",
        ge=1,
        le=1000,
        usual=(1.0, 16.0),
        why="4 to 16 is recommended, with half the usual learning rate.",
    )
    oft_block_size: int = expert_setting(
        32,
        label="OFT block size",
        help="OFT: size of the blocks in which a layer's inputs are rotated; larger ones can learn "
        "more.",
        source="PEFT OFTConfig.oft_block_size",
        ge=2,
        le=4096,
    )
    feedforward_modules: list[str] = expert_setting(
        help="IA3: layers that scale their inputs, not their outputs: the last of a feed-forward.",
        source="IA3, arXiv:2205.05638, section 3.3",
        default_factory=lambda: ["down_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "wo"],
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _names_or_a_pattern(cls, value: Any) -> Any:
        """Take a list of names, or a text: all-linear or, as in PEFT, a pattern."""
        if isinstance(value, str):
            return [ALL_LINEAR] if value.strip().lower() == ALL_LINEAR else value
        if not isinstance(value, (list, tuple)):
            raise PydanticCustomError("list_type", "is not a list.")
        if not all(isinstance(name, str) for name in value):
            raise PydanticCustomError("string_type", "is not text.")
        return [ALL_LINEAR if name.lower() == ALL_LINEAR else name for name in value]

    @field_validator("bias", mode="before")
    @classmethod
    def _no_bias_is_none(cls, value: Any) -> Any:
        return "none" if value is None else value  # QEfficient writes null

    @field_validator("lora_alpha", mode="after")
    @classmethod
    def _alpha_is_positive_or_automatic(cls, value: int) -> int:
        if value == 0:
            raise PydanticCustomError(
                "nbft", "would disable the adapter. Use -1 for twice the rank, or 1 or more."
            )
        return value

    @property
    def trains_adapter(self) -> bool:
        """Whether an adapter is trained instead of the model itself."""
        return self.method != "full"

    @property
    def alpha(self) -> int:
        """The effective lora_alpha, with -1 resolved.

        Source: ERNIEKit, erniekit/hparams/finetuning_args.py.

        >>> Peft(r=8, lora_alpha=-1).alpha, Peft(r=8, lora_alpha=-1, use_rslora=True).alpha
        (16, 4)
        """
        if self.lora_alpha != -1:
            return self.lora_alpha
        return 4 if self.use_rslora else 2 * self.r
