"""A model as a judge. A reward model gives its score; any other is asked whether an answer is good."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbft.errors import Problem
from nbft.rewards.load import RewardError, text

QUESTION = (
    "Question:\n{prompt}\n\nAnswer:\n{completion}\n\n"
    "Is this a correct and helpful answer? Reply with Yes or No."
)
"""What a model is asked when no question is given."""

_BATCH = 8


def judge(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    references: Sequence[str],
    *,
    model: str,
    question: str = QUESTION,
) -> list[float]:
    """Return the score of each answer by a model.

    A model for sequence classification gives its first logit. Any other is asked the question, and
    the reward is its probability of Yes among Yes and No, from 0 to 1.

    Args:
        prompts: The prompts.
        completions: The answers.
        references: The wanted answers.
        model: Folder or name of the judge.
        question: What it is asked, with {prompt}, {completion} and {reference} in braces.

    Raises:
        RewardError: The judge cannot be loaded.
    """
    judging, tokenizer, is_classifier = _loaded(model)
    texts = []
    for prompt, completion, reference in zip(prompts, completions, references, strict=True):
        given = {"prompt": text(prompt), "completion": text(completion), "reference": reference}
        if is_classifier:
            texts.append(_written(tokenizer, given["prompt"], given["completion"]))
            continue
        asked = question
        for name, value in given.items():
            asked = asked.replace("{" + name + "}", value)
        texts.append(_written(tokenizer, asked, None))
    rewards: list[float] = []
    for begin in range(0, len(texts), _BATCH):
        rewards += _scores(judging, tokenizer, texts[begin : begin + _BATCH], is_classifier)
    return rewards


def _written(tokenizer: Any, asked: str, answered: str | None) -> str:
    """Return a question, with its answer or ready for one, through the chat template if it has one."""
    turns = [{"role": "user", "content": asked}]
    if answered is not None:
        turns.append({"role": "assistant", "content": answered})
    if tokenizer.chat_template:
        return str(
            tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=answered is None
            )
        )
    return asked + (f"\n{answered}" if answered is not None else "\n")


def _scores(model: Any, tokenizer: Any, texts: list[str], is_classifier: bool) -> list[float]:
    import torch

    batch = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        logits = model(**batch).logits
    if is_classifier:
        return [float(score) for score in logits[:, 0].float().tolist()]
    ids = [
        [tokenizer(form, add_special_tokens=False)["input_ids"][0] for form in (word, f" {word}")]
        for word in ("Yes", "No")
    ]
    last = logits[:, -1].float().log_softmax(-1)
    yes, no = (last[:, forms].logsumexp(-1) for forms in ids)
    return [float(p) for p in torch.sigmoid(yes - no).tolist()]


@functools.lru_cache(maxsize=2)
def _loaded(name: str) -> tuple[Any, Any, bool]:
    """Return a judge with its tokenizer, and whether it classifies."""
    import transformers

    from nbft.errors import NbftError
    from nbft.models.find import find_model

    try:
        folder: Path = find_model(name, None, lambda _: None).path
        about = transformers.AutoConfig.from_pretrained(folder)
        named = "".join(about.architectures or ())
        is_classifier = named.endswith("ForSequenceClassification")
        kind = (
            transformers.AutoModelForSequenceClassification
            if is_classifier
            else transformers.AutoModelForCausalLM
        )
        model = kind.from_pretrained(folder).eval().requires_grad_(False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (NbftError, OSError, ValueError) as error:
        why = f"cannot load the model {name} ({str(error).splitlines()[0]})."
        raise RewardError(Problem("grpo.rewards", "judge", why, "Name its folder.")) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer, is_classifier
