"""Settings of training with rewards: which answers are good, how many are written, and the loss."""

from __future__ import annotations

from typing import Any, Literal

from nbft.config.base import Section, expert_setting, setting


class Reward(Section):
    """One reward: what gives each answer a number."""

    function: str = setting(
        "",
        help="What scores an answer: exact_number, contains, format, length, json_schema, reward_model, "
        "judge, or a function of yours as path/to/file.py:function.",
        source="TRL GRPOTrainer reward_funcs",
        suggestions=(
            *("exact_number", "contains", "format", "length", "json_schema"),
            *("reward_model", "judge"),
        ),
        why="A function is called with prompts, completions and every column of the rows as lists, "
        "and returns one number for each completion. A file runs only after you allow it.",
    )
    weight: float = setting(
        1.0,
        help="What the reward is multiplied with before all are added up.",
        usual=(0.1, 2.0),
        source="TRL GRPOConfig.reward_weights",
    )
    name: str | None = setting(
        help="Name in charts and tables; that of the function when empty.",
        source="nbft",
    )
    options: dict[str, Any] = setting(
        help="Arguments of the reward, such as {pattern: '<answer>.+</answer>'} for format.",
        source="nbft",
        default_factory=dict,
    )


class Grpo(Section):
    """Learning from rewards, with training.method=grpo or rloo."""

    rewards: list[Reward] = setting(
        help="What makes an answer a good one.",
        source="TRL GRPOTrainer reward_funcs",
        default_factory=list,
    )
    num_generations: int = setting(
        8,
        help="Answers written to each prompt, which are compared with each other.",
        ge=2,
        le=256,
        usual=(4, 16),
        source="TRL GRPOConfig",
        why="The effective batch size counts answers, so it must be a multiple of this.",
    )
    max_completion_length: int = setting(
        512,
        help="Longest answer that is written; longer ones are cut.",
        unit="tokens",
        ge=1,
        source="TRL GRPOConfig",
    )
    temperature: float = setting(
        1.0,
        help="Above 1 the answers differ more, below 1 less.",
        gt=0,
        le=5,
        usual=(0.7, 1.2),
        source="TRL GRPOConfig",
    )
    top_p: float = setting(
        1.0,
        help="Draw from the most likely tokens with this share in all.",
        gt=0,
        le=1,
        source="TRL GRPOConfig",
    )
    top_k: int = expert_setting(
        0,
        help="Draw from this many of the most likely tokens; 0 for all.",
        ge=0,
        source="TRL GRPOConfig",
    )
    beta: float = setting(
        0.0,
        help="Weight of the KL divergence from the model before training; at 0 it is not computed.",
        ge=0,
        le=10,
        usual=(0.0, 0.1),
        source="TRL GRPOConfig; DeepSeek-R1, arXiv:2501.12948: 0.001",
    )
    epsilon: float = expert_setting(
        0.2,
        help="How far the probability of a token may move before its gradient is clipped.",
        gt=0,
        lt=1,
        source="TRL GRPOConfig; PPO, arXiv:1707.06347",
    )
    epsilon_high: float | None = expert_setting(
        help="Upper limit of the same, where it differs.",
        gt=0,
        source="TRL GRPOConfig; DAPO, arXiv:2503.14476: 0.28",
    )
    num_iterations: int = expert_setting(
        1,
        help="Optimizer passes over the same answers before new ones are written.",
        ge=1,
        source="TRL GRPOConfig",
    )
    steps_per_generation: int | None = expert_setting(
        help="Micro-batches that share one round of writing; training.gradient_accumulation_steps "
        "when empty.",
        ge=1,
        source="TRL GRPOConfig",
    )
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = setting(
        "dapo",
        help="How the loss is averaged: grpo by answer, bnpo and dapo by token, dr_grpo by a "
        "constant.",
        source="TRL GRPOConfig; grpo only",
    )
    scale_rewards: Literal["group", "batch", "none"] = expert_setting(
        "group",
        help="Spread that the advantages are divided by: of the answers to one prompt, of all "
        "answers, or nothing.",
        source="TRL GRPOConfig; Dr. GRPO, arXiv:2503.20783: none",
    )
    mask_truncated_completions: bool = expert_setting(
        False,
        help="Train on no answer that was cut at max_completion_length.",
        source="TRL GRPOConfig; DAPO, arXiv:2503.14476",
    )
    use_vllm: bool = setting(
        False,
        label="Write with vLLM",
        help="Write the answers with vLLM, which must be installed and needs an NVIDIA GPU.",
        source="TRL GRPOConfig",
    )
    vllm_gpu_memory_utilization: float = expert_setting(
        0.3,
        help="Share of the GPU's memory that vLLM takes.",
        gt=0,
        lt=1,
        source="TRL GRPOConfig",
    )
