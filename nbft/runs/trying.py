"""`nbft.try_rewards`: what the base model answers, and what each reward gives it, before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.data.examples import Examples, load_examples
from nbft.data.sources import spread
from nbft.errors import ConfigError, Problem
from nbft.methods import method_of
from nbft.plan.reward_checks import reward_problems
from nbft.rewards.load import asked_of, load_rewards, text
from nbft.rewards.table import Rewarded, RewardTable
from nbft.runs.ask import kept_model
from nbft.runs.folder import self_contained

_PROMPTS = 4
_ANSWERS_AT_ONCE = 32


def try_rewards(
    config: Config,
    prompts: int = _PROMPTS,
    *,
    num_generations: int | None = None,
    answers: Sequence[str] | None = None,
    folder: str | Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> RewardTable:
    """Let the base model answer some rows, and show what each reward gives every answer.

    The answers are drawn as in the training. The model stays in memory for the next call, as with
    `nbft.ask`; `nbft.release_model` gives the memory back.

    Args:
        config: Its sections data and grpo name the rows and the rewards.
        prompts: Rows to answer, spread over the training rows.
        num_generations: Answers to each; grpo.num_generations when None.
        answers: Answers of your own to each of the rows, instead of the model's: to see what the
            rewards give an answer that should be good, or one that should not.
        folder: Folder of the config file, for relative paths.
        say: Called with what is being done, as a sentence.

    Returns:
        The answers, which show themselves as a table; its `remarks` say where all answers to a
        prompt have the same reward, so that nothing can be learned from them.

    Raises:
        ConfigError: There are no rewards, or one of them is wrong.
        RewardError: A reward failed, or returned no number; says for which answer.
        DataError: The rows cannot be read.
        ModelError: There is no such model.

    >>> config = Config(
    ...     data={"dataset_name": "larger_number"}, training={"method": "grpo"},
    ...     grpo={"rewards": [{"function": "format", "options": {"pattern": "<answer>.+</answer>"}}]},
    ... )
    >>> [row.reward for row in try_rewards(config, 1, answers=["<answer>7</answer>", "7"])]
    [1.0, 0.0]
    """
    config = self_contained(config, None, None if folder is None else Path(folder))
    _check("prompts", prompts)
    several = config.grpo.num_generations if num_generations is None else num_generations
    _check("num_generations", several)
    if not method_of(config).generates:
        config = config.apply({"training.method": "grpo"})
    if problems := reward_problems(config, None, None, None):
        raise ConfigError(problems)
    loaded = load_rewards(config)
    say("Reading the rows …")
    examples, _ = load_examples(config, "train")
    examples = examples.take(spread(len(examples), prompts))
    if answers is None:
        texts, sizes = _written(config, examples, several, say)
    else:
        several = len(answers)
        texts, sizes = [*answers] * len(examples), [0] * (several * len(examples))
    asked = [
        asked_of(examples[n], examples.row(n)) for n in range(len(examples)) for _ in range(several)
    ]
    say("Scoring the answers …")
    columns = {
        name: [one.get(name) for one in asked]
        for name in dict.fromkeys(name for one in asked for name in one)
    }
    questions = columns.pop("prompt")
    completions: list[Any] = [
        words if isinstance(question, str) else [{"role": "assistant", "content": words}]
        for question, words in zip(questions, texts, strict=True)
    ]
    values = {reward.name: reward(questions, completions, **columns) for reward in loaded}
    weights = {reward.name: reward.weight for reward in loaded}
    rows = []
    for n, words in enumerate(texts):
        rewards = {name: of_one[n] for name, of_one in values.items()}
        reward = sum(weights[name] * value for name, value in rewards.items())
        is_cut = sizes[n] >= config.grpo.max_completion_length
        question, wanted = text(questions[n]), str(columns["references"][n])
        rows.append(Rewarded(question, words, wanted, rewards, reward, sizes[n], is_cut))
    return RewardTable(rows)


def _check(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ConfigError(Problem(name, value, "is not at least 1.", "Use 4."))


def _written(
    config: Config, examples: Examples, several: int, say: Callable[[str], None]
) -> tuple[list[str], list[int]]:
    """Return several answers of the base model to each example, and the tokens of each."""
    from nbft.data.tokens import encode_rows
    from nbft.evaluate.generate import generate_ids, own_random_numbers
    from nbft.models.load import quiet

    grpo = config.grpo
    say(f"Loading {config.model.model_name} …")
    with (
        quiet(),
        kept_model(config) as (model, tokenizer),
        own_random_numbers(config.training.seed),
    ):
        encoded = encode_rows(examples, tokenizer, method_of(config))
        ids = [next(iter(one.values())).ids for one in encoded]
        if (longest := max(map(len, ids))) > (limit := config.data.max_length):
            why = f"leaves out one of these rows, whose prompt has {longest:,} tokens."
            raise ConfigError(Problem("data.max_length", limit, why, f"Use {longest}."))
        say(f"Writing {several * len(ids):,} answers …")
        written = generate_ids(
            model,
            tokenizer,
            [one for one in ids for _ in range(several)],
            grpo.max_completion_length,
            batch_size=_ANSWERS_AT_ONCE,
            do_sample=True,
            temperature=grpo.temperature,
            top_p=grpo.top_p,
        )
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return texts, [len(one) for one in written]
