"""What is wrong with the rewards of a config, before any model is loaded. Called by `nbft.plan`.

Rewards of nbft are tried on wanted answers of the rows, which shows an option that they cannot use;
your own are only imported. `nbft.try_rewards` calls them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.data.examples import Examples
from nbft.errors import NbftError, Problem
from nbft.methods import method_of
from nbft.models.context import context_tokens
from nbft.models.find import find_local
from nbft.plan.problems import error, is_installed
from nbft.rewards.load import LoadedReward, asked_of, load_rewards
from nbft.rewards.reward_model import folder_of, obstacle

_TRIED_ROWS = 4

EXAMPLE: list[dict[str, Any]] = [
    {"function": "contains"},
    {"function": "length", "options": {"at_most": 100}},
]
"""Rewards that work with any rows that have answers, to begin with."""


def reward_problems(
    config: Config, train: Examples | None, model: Path | None, folder: Path | None
) -> list[Problem]:
    """Return what is wrong with rewards and the length of answers.

    Args:
        config: A config with a method that generates.
        train: The training examples, if they can be read.
        model: Folder of the model's config.json, if it is on this machine.
        folder: Folder of the config file, for relative paths.
    """
    grpo = config.grpo
    if not grpo.rewards:
        why = "names no reward, so no answer would be better than another."
        fix = "Add one, such as exact_number, contains or a function of yours."
        return [Problem("grpo.rewards", None, why, fix, {"grpo.rewards": EXAMPLE})]
    problems: list[Problem] = []
    if all(reward.weight == 0 for reward in grpo.rewards):
        why = "is 0, and so is that of every other reward."
        problems.append(Problem("grpo.rewards[0].weight", 0.0, why, "Use 1."))
    try:
        loaded = load_rewards(config, folder)
    except NbftError as found:
        loaded = []
        problems += [p for p in found.problems if isinstance(p, Problem)]
    for reward in loaded:
        problems += _tried(reward, train)
    if train is not None and len({bool(part.kind == "conversation") for part in train.parts}) > 1:
        why = "mixes texts and conversations; a reward is given one of the two."
        problems.append(Problem("data.train.datasets", None, why, "Use rows of one kind."))
    if train is not None and not train.is_stream:
        problems += _rounds(config, len(train))
    tokens = context_tokens(model) if model else None
    most = grpo.max_completion_length
    if tokens is not None and config.data.max_length + most > tokens:
        room = max(1, tokens - most)
        why = (
            f"and answers of grpo.max_completion_length={most:,} are more than the {tokens:,} tokens "
            "that this model reads at once."
        )
        problems.append(error("data.max_length", why, use=room, value=config.data.max_length))
    if grpo.use_vllm and not is_installed("vllm"):
        why = "needs the package vllm, which is not installed."
        fix = "pip install vllm on a machine with an NVIDIA GPU, or turn it off."
        problems.append(error("grpo.use_vllm", why, fix, {"grpo.use_vllm": False}, value=True))
    return problems


def _tried(reward: LoadedReward, train: Examples | None) -> list[Problem]:
    """Call a reward of nbft with wanted answers; models are looked for only."""
    options = f"{reward.setting.removesuffix('.function')}.options"
    if reward.written == "judge":
        name = str(reward.options["model"])
        if find_local(name) is None and not Path(name).expanduser().is_dir():
            why = f"names the model {name}, which is not on this machine."
            return [Problem(options, dict(reward.options), why, "Name the folder of a model.")]
        return []
    if reward.written == "reward_model":
        name = str(reward.options["model"])
        folder = folder_of(name)
        why = "is not on this machine" if folder is None else obstacle(folder)
        if why:
            fix = "Name a run of training.method=reward, or the folder of a reward model."
            return [Problem(options, dict(reward.options), f"names {name}, which {why}.", fix)]
        return []
    if not reward.function.__module__.startswith("nbft.rewards.") or not train:
        return []
    try:
        asked = [asked_of(train[n], train.row(n)) for n in range(min(_TRIED_ROWS, len(train)))]
        columns = {name: [one.get(name) for one in asked] for name in asked[0]}
        prompts = columns.pop("prompt")
        reward(prompts, columns["references"], **columns)
    except NbftError as found:
        return [
            Problem(reward.setting, reward.written, p.why, p.fix)
            if isinstance(p, Problem)
            else Problem(reward.setting, reward.written, p)
            for p in found.problems
        ]
    return []


def _rounds(config: Config, rows: int) -> list[Problem]:
    """Report rows that are too few to fill one round of answers."""
    batches = method_of(config).micro_batches(config, rows)
    answers = method_of(config).answers_at_once(config)
    prompts = answers // config.grpo.num_generations
    if batches or not prompts:
        return []
    why = (
        f"makes {prompts:,} prompts × {config.grpo.num_generations} answers a step, but there are "
        f"{rows:,} rows, so there would be no step."
    )
    batch = config.training.per_device_train_batch_size
    fix = "Use more rows, a smaller batch, or more grpo.num_generations."
    return [Problem("training.per_device_train_batch_size", batch, why, fix)]
