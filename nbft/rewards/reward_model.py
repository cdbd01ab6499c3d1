"""A reward model as a reward: its score of each answer.

Loads torch when it is called.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbft.data.chat import with_answer
from nbft.data.examples import Example
from nbft.data.turns import turns
from nbft.errors import NbftError, Problem
from nbft.models.find import find_local
from nbft.rewards.load import RewardError, text

_FIX = "Name a run of training.method=reward, or the folder of a reward model."


def reward_model(prompts: Sequence[Any], completions: Sequence[Any], *, model: str) -> list[float]:
    """Return the score of each answer by a reward model.

    Texts are scored as they are, messages through the chat template that was saved with the model.

    Args:
        prompts: The prompts.
        completions: The answers.
        model: A run of training.method=reward, or the folder or name of a model for sequence
            classification with one label, or of an adapter for one.

    Raises:
        RewardError: It cannot be loaded, or is no reward model.
    """
    from nbft.data.tokens import encode
    from nbft.models.reward_head import scores_of

    scorer, tokenizer = _loaded(model)
    examples = []
    for prompt, completion in zip(prompts, completions, strict=True):
        if isinstance(prompt, str):
            asked = Example(prompt)
        else:
            empty = {"role": "assistant", "content": ""}
            asked = Example(messages=(*turns(list(prompt), "prompt"), empty))
        examples.append(with_answer(asked, text(completion)))
    ids = [one.ids for one in encode(examples, tokenizer)]
    return scores_of(scorer, ids, tokenizer.pad_token_id)


def folder_of(model: str) -> Path | None:
    """Return the folder with the files of a reward model; None if it is not on this machine."""
    given = Path(model).expanduser()
    for folder in (given / "adapter", given / "model", given):
        if any((folder / file).is_file() for file in ("adapter_config.json", "config.json")):
            return folder
    found = find_local(model)
    return found.path if found else None


def obstacle(folder: Path) -> str:
    """Return why a folder holds no reward model; "" if it may."""
    for file in ("adapter_config.json", "config.json"):
        if not (folder / file).is_file():
            continue
        try:
            about = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return f"has a {file} that cannot be read"
        if file == "adapter_config.json":
            is_one = about.get("task_type") == "SEQ_CLS"
            return "" if is_one else "is an adapter for writing answers"
        name = str(*(about.get("architectures") or [""])[:1])
        if not name.endswith("ForSequenceClassification"):
            return f"is a {name or 'model of another kind'}, which gives no scores"
        labels = about.get("id2label")
        number = len(labels) if isinstance(labels, dict) else about.get("num_labels", 2)
        return "" if number == 1 else f"sorts texts into {number} classes"
    return "holds no model"


def _error(model: str, why: str) -> RewardError:
    return RewardError(Problem("grpo.rewards", "reward_model", f"{model} {why}.", _FIX))


@functools.lru_cache(maxsize=2)
def _loaded(model: str) -> tuple[Any, Any]:
    """Return a reward model with its tokenizer."""
    import transformers

    from nbft.models.adapters import with_adapter
    from nbft.models.find import find_model
    from nbft.models.reward_head import has_head, use_reward_head

    folder = folder_of(model)
    try:
        if folder is None:
            folder = find_model(model, None, lambda _: None).path
        if why := obstacle(folder):
            raise _error(model, why)
        base = folder
        if is_adapter := (folder / "adapter_config.json").is_file():
            about = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            base = find_model(about["base_model_name_or_path"], None, lambda _: None).path
        scorer = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        if has_head(scorer):
            use_reward_head(scorer)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        scorer.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        if is_adapter:
            scorer = with_adapter(scorer, folder)
    except RewardError:
        raise
    except (NbftError, OSError, ValueError, KeyError) as error:
        raise _error(model, f"cannot be loaded ({str(error).splitlines()[0]})") from error
    return scorer.eval().requires_grad_(False), tokenizer
