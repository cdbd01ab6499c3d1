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

    method: Literal[
        "lora", "adalora", "vera", "oft", "ia3", "ln_tuning", "prompt_tuning", "full"
    ] = setting(
        "lora",
        label="Fine-tuning method",
        help="full trains every weight; all others train a small adapter and freeze the model.",
        source="PEFT PeftType",
        level="basic",
        why="An adapter needs a fraction of the memory, is only a few MB to store and share, and "
        "can be removed again. lora adds two thin matrices to each layer; adalora does too, and "
        "moves their ranks to the layers that need them (arXiv:2303.10512). vera shares two random "
        "matrices and trains only their scales (arXiv:2310.11454). oft rotates the inputs of each "
        "layer (arXiv:2306.07280), ia3 scales its outputs, ln_tuning trains the norms "
        "(arXiv:2312.11420), and prompt_tuning a few vectors in front of each row "
        "(arXiv:2104.08691). On a quantised model (quantization section) lora becomes QLoRA.",
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
        "uses 8 (range 4 to 64), Oumi's recipe 16. With adalora it is the average rank at the end, "
        "with vera the rank of the shared matrices, usually 256 or more.",
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
    layers_to_transform: list[int] = expert_setting(
        label="Layers to adapt",
        help="Numbers of the layers that get an adapter, from 0; all if empty.",
        source="PEFT LoraConfig.layers_to_transform",
        default_factory=list,
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
        "eva",
        "loftq",
    ] = expert_setting(
        "default",
        label="Initial LoRA weights",
        help="How to initialise the adapter.",
        source="PEFT LoraConfig.init_lora_weights",
        why="default and gaussian leave the model unchanged at first. pissa starts from the "
        "largest singular values of the weights (arXiv:2404.02948), pissa_niter_16 computes them "
        "faster; olora starts from a QR decomposition (arXiv:2406.01775). eva looks at training rows "
        "and starts from the directions in which the inputs of a layer vary most (arXiv:2410.07170). "
        "loftq makes up for the rounding of 4-bit weights (arXiv:2310.08659). random changes the "
        "model immediately and is meant for tests.",
    )
    eva_rho: float = expert_setting(
        2.0,
        label="EVA rank range",
        help="EVA: largest rank of a layer, as a multiple of r; 1 gives every layer the same rank.",
        source="PEFT EvaConfig.rho",
        ge=1,
        le=100,
    )
    rank_pattern: dict[str, int] = expert_setting(
        help="Ranks of layers that differ from r, by their names, the end of them, or a pattern.",
        source="PEFT LoraConfig.rank_pattern",
        default_factory=dict,
        why="For example {q_proj: 32, 'layers.0.mlp.*': 4}. At most one may fit a layer.",
    )
    alpha_pattern: dict[str, float] = expert_setting(
        help="lora_alpha of layers that differ, by their names, the end of them, or a pattern.",
        source="PEFT LoraConfig.alpha_pattern",
        default_factory=dict,
        why="A layer whose rank is in rank_pattern keeps lora_alpha unless it is named here.",
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
    init_r: int | None = expert_setting(
        None,
        label="AdaLoRA initial rank",
        help="AdaLoRA: rank of every layer at the start; empty means 1.5 times r.",
        source="AdaLoRA, arXiv:2303.10512, appendix C",
        ge=1,
        le=1024,
    )
    tinit: int | None = expert_setting(
        None,
        label="AdaLoRA first steps",
        help="AdaLoRA: steps before ranks are reduced; empty means a tenth of the run.",
        source="PEFT AdaLoraConfig.tinit",
        unit="steps",
        ge=0,
    )
    tfinal: int | None = expert_setting(
        None,
        label="AdaLoRA last steps",
        help="AdaLoRA: steps after the ranks have been decided; empty means a third of the run.",
        source="PEFT AdaLoraConfig.tfinal",
        unit="steps",
        ge=0,
    )
    deltaT: int = expert_setting(  # noqa: N815 - PEFT's name
        1,
        label="AdaLoRA interval",
        help="AdaLoRA: steps from one change of the ranks to the next.",
        source="PEFT AdaLoraConfig.deltaT",
        unit="steps",
        ge=1,
    )
    orth_reg_weight: float = expert_setting(
        0.5,
        label="AdaLoRA regularization",
        help="AdaLoRA: weight of the term in the loss that keeps both matrices orthogonal.",
        source="PEFT AdaLoraConfig.orth_reg_weight",
        ge=0,
    )
    d_initial: float = expert_setting(
        0.1,
        label="VeRA initial scale",
        help="VeRA: initial value of the scales between the two shared matrices.",
        source="VeRA, arXiv:2310.11454, table 6",
        gt=0,
    )
    save_projection: bool = expert_setting(
        True,
        label="Save VeRA's matrices",
        help="VeRA: save the shared random matrices too; without them they are drawn again from "
        "their seed.",
        source="PEFT VeraConfig.save_projection",
    )
    num_virtual_tokens: int = expert_setting(
        20,
        label="Virtual tokens",
        help="Prompt tuning: number of trained vectors in front of each row.",
        source="Prompt tuning, arXiv:2104.08691, section 3.2",
        unit="tokens",
        ge=1,
        le=4096,
        usual=(5, 100),
    )
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = expert_setting(
        "SAMPLE_VOCAB",
        label="Initial virtual tokens",
        help="Prompt tuning: start from random numbers, random tokens, or the tokens of a text.",
        source="Prompt tuning, arXiv:2104.08691, section 3.2",
    )
    prompt_tuning_init_text: str | None = expert_setting(
        None,
        label="Initial text",
        help="Prompt tuning: the text to start from, repeated or cut to the number of tokens.",
        source="PEFT PromptTuningConfig.prompt_tuning_init_text",
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
