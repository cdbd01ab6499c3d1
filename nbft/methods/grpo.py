"""Learning from rewards with TRL's GRPOTrainer: several answers to each prompt are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nbft.errors import Problem
from nbft.methods.method import Kind, Measure, Method
from nbft.models.peft_types import peft_type_of
from nbft.models.targets import adapts_head

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.data.formats import Example
    from nbft.decisions import Decisions
    from nbft.plan.memory import Shape

_SAME_NAME = """
    num_generations max_completion_length temperature top_p top_k beta epsilon epsilon_high
    num_iterations steps_per_generation mask_truncated_completions use_vllm
    vllm_gpu_memory_utilization
""".split()


class Grpo(Method):
    """TRL's GRPOTrainer."""

    title = "training with rewards (GRPO)"
    accepts = frozenset({"pair", "conversation", "preference", "feedback", "prompt"})
    section = "grpo"
    trainer = "trl:GRPOTrainer"
    arguments = "trl:GRPOConfig"
    trainer_part = "nbft.training.answers:OwnAnswers"
    takes_peft_config = True
    fast_parts = frozenset({"fused_lora", "lean_norm"})
    generates = True

    def refusal(self, kind: Kind, *, of_one: bool = False) -> tuple[str, str]:
        """Return why plain text cannot be used, and what to do."""
        holds = "holds" if of_one else "the rows hold"
        return (
            f"{holds} plain text; {self.title} needs prompts to answer.",
            "Use rows with a prompt, or another training.method.",
        )

    def trained_on(self, format_name: str) -> str:
        """Return that nothing of a row is trained on."""
        return "the model answers the prompts itself, and the rewards see the rest of the row"

    def texts(self, examples: Sequence[Example]) -> dict[str, Sequence[Example]]:
        """Return the examples themselves, whose prompts are used."""
        return {"completion": examples}

    def measures_of(self, config: Config) -> tuple[Measure, ...]:
        """Return the rewards, each with its mean and spread, and what is known of the answers."""
        names = reward_names(config)
        return (
            Measure("reward", "all, weighted", "Reward", "higher", is_main=True),
            *(Measure(f"rewards/{name}/mean", name, "Reward", "higher", True) for name in names),
            Measure("reward_std", "all, weighted", "Reward spread", ""),
            *(Measure(f"rewards/{name}/std", name, "Reward spread", "") for name in names),
            Measure("frac_reward_zero_std", "equal rewards", "Groups without a signal", "lower"),
            Measure("completions/mean_length", "mean", "Answer length (tokens)", ""),
            Measure("completions/max_length", "longest", "Answer length (tokens)", ""),
            Measure("completions/clipped_ratio", "cut", "Answers cut by the limit", "lower"),
            Measure("reward_length_correlation", "within groups", "Reward and length", ""),
            Measure("entropy", "entropy", "Entropy (nats per token)", ""),
            *((Measure("kl", "KL", "KL from the base model", ""),) if config.grpo.beta else ()),
        )

    def micro_batches(self, config: Config, rows: int) -> int:
        """Return the micro-batches of an epoch: each prompt is in num_generations of their rows.

        Source: TRL, `RepeatSampler.__len__` over `GRPOTrainer.get_train_dataloader`.
        """
        rounds = rows // max(1, prompts_per_round(config))
        return rounds * micro_batches_per_round(config) * config.grpo.num_iterations

    def answers_at_once(self, config: Config) -> int:
        """Return the answers of one round of writing."""
        return config.training.per_device_train_batch_size * micro_batches_per_round(config)

    def trained_lengths(self, config: Config, lengths: Sequence[int]) -> list[int]:
        """Return prompts with the longest answer that may be written."""
        return [length + config.grpo.max_completion_length for length in lengths]

    def problems(self, config: Config) -> Iterable[Problem]:
        """Yield what conflicts with groups of answers, or with TRL's trainer."""
        grpo, training, data = config.grpo, config.training, config.data
        answers = self.answers_at_once(config)
        if answers % grpo.num_generations:
            times = grpo.num_generations // math.gcd(grpo.num_generations, answers)
            batch = times * training.per_device_train_batch_size
            yield Problem(
                "grpo.num_generations",
                grpo.num_generations,
                f"does not divide the {answers} answers of a step "
                f"(training.per_device_train_batch_size={training.per_device_train_batch_size} × "
                f"{micro_batches_per_round(config)}), so a prompt would have an incomplete group.",
                f"Use training.per_device_train_batch_size={batch}, or another number of answers.",
                {"training.per_device_train_batch_size": batch},
            )
        evaluation = config.evaluation
        if evaluation.eval_strategy != "no" and (
            evaluation.per_device_eval_batch_size % grpo.num_generations
        ):
            yield Problem(
                "evaluation.per_device_eval_batch_size",
                evaluation.per_device_eval_batch_size,
                f"is not a multiple of grpo.num_generations={grpo.num_generations}; held-out prompts "
                "are answered in groups too.",
                f"Use {grpo.num_generations}.",
                {"evaluation.per_device_eval_batch_size": grpo.num_generations},
            )
        for field, value, why, usual in (
            (
                "data.train.stream",
                data.train.stream,
                "reads rows once; the rewards need them",
                False,
            ),
            ("data.packing", data.packing, "joins rows; each prompt is answered alone", False),
            (
                "data.max_tokens_per_batch",
                data.max_tokens_per_batch,
                "makes batches by their tokens; a group has grpo.num_generations answers",
                None,
            ),
            (
                "training.num_samples_each_epoch",
                training.num_samples_each_epoch,
                "draws single rows; a group has grpo.num_generations answers",
                None,
            ),
            (
                "memory.auto_find_batch_size",
                config.memory.auto_find_batch_size,
                "would halve the batch and break groups of answers",
                False,
            ),
        ):
            if value:
                yield Problem(field, value, f"{why}.", f"Use {usual}.", {field: usual})
        kind = peft_type_of(config)
        if kind is not None and kind.changes_rows:
            yield Problem(
                "peft.method",
                config.peft.method,
                f"puts virtual tokens in front of each prompt; PEFT repeats them where "
                f"{self.trainer_name} writes answers.",
                "Use lora.",
                {"peft.method": "lora"},
            )
        if grpo.beta and config.peft.trains_adapter and config.peft.bias != "none":
            yield Problem(
                "peft.bias",
                config.peft.bias,
                "trains biases of the model itself, which is also the reference model that "
                f"grpo.beta={grpo.beta:g} holds the answers to, so the reference would be trained too.",
                "Use none, or grpo.beta=0.",
                {"peft.bias": "none"},
            )
        if data.train_sampling_strategy != "random":
            field = "data.train_sampling_strategy"
            why = "orders single rows; prompts are drawn with grpo.num_generations answers each."
            yield Problem(
                field, data.train_sampling_strategy, why, "Use random.", {field: "random"}
            )
        if config.model.model_type == "hf" and (
            config.model.auto_class_name == "AutoModelForSeq2SeqLM"
        ):
            field = "model.auto_class_name"
            why = f"is an encoder-decoder model; {self.title} trains models that continue a text."
            yield Problem(field, "AutoModelForSeq2SeqLM", why, "Use another model.")
        if adapts_head(config):
            field = "peft.target_modules"
            why = (
                f"puts an adapter on the head, whose weights {self.trainer_name} reads without it."
            )
            yield Problem(field, config.peft.target_modules, why, "Leave the head out.")

    def memory_bytes(self, config: Config, shape: Shape, trained: int) -> float:
        """Return the bytes of a second model, where all weights are trained and beta needs one."""
        needs_copy = config.grpo.beta and not config.peft.trains_adapter
        return 4.0 * shape.parameters if needs_copy else 0.0

    def trainer_arguments(self, config: Config, decisions: Decisions) -> dict[str, Any]:
        """Return the arguments of GRPOConfig."""
        grpo = config.grpo
        return {
            **{name: getattr(grpo, name) for name in _SAME_NAME},
            "loss_type": grpo.loss_type,
            "scale_rewards": grpo.scale_rewards,
            "reward_weights": [reward.weight for reward in grpo.rewards],
            "shuffle_dataset": config.data.shuffle,
            "remove_unused_columns": False,
            "include_num_input_tokens_seen": "no",  # the trainer counts prompts and answers itself
        }


def prompts_per_round(config: Config) -> int:
    """Return the prompts that are answered at a time."""
    answers = config.training.per_device_train_batch_size * micro_batches_per_round(config)
    return answers // config.grpo.num_generations


def micro_batches_per_round(config: Config) -> int:
    """Return the micro-batches that share one round of writing."""
    return config.grpo.steps_per_generation or config.training.gradient_accumulation_steps


def reward_names(config: Config) -> list[str]:
    """Return the name of each reward; equal ones are numbered.

    >>> from nbft.config import Config
    >>> reward_names(Config(grpo={"rewards": [{"function": "a.py:f"}, {"function": "b.py:f"}]}))
    ['f', 'f 2']
    """
    names: list[str] = []
    for reward in config.grpo.rewards:
        name = reward.name or reward.function.rpartition(":")[2]
        same = sum(one == name or one.startswith(f"{name} ") for one in names)
        names.append(f"{name} {same + 1}" if same else name)
    return names


METHOD = Grpo()
