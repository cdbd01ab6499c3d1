"""Scores of answers by the reward model of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbft.errors import DataError, Problem, RunError
from nbft.methods import built_in_methods, method_of

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.data.formats import Example
    from nbft.runs.folder import Run

_EMPTY = {"role": "assistant", "content": ""}


def rewards(run: Run, prompt: Any, completions: Sequence[str]) -> list[float]:
    """Score answers to a prompt; see `Run.rewards`."""
    from nbft.data.chat import with_answer
    from nbft.data.tokens import encode_rows
    from nbft.models.load import quiet
    from nbft.models.reward_head import scores_of

    config = run.config
    method = method_of(config)
    if not method.scores_answers:
        raise RunError(
            f"{run.id}: was trained with {config.training.method}, so it scores no answers. Train with "
            "training.method=reward."
        )
    if not completions:
        return []
    asked = _asked(prompt, config)
    with quiet():
        model, tokenizer = run.load_model()
        encoded = encode_rows(
            [with_answer(asked, completion) for completion in completions],
            tokenizer,
            built_in_methods()["sft"],
            most_prompt_tokens=method.most_prompt_tokens(config),
        )
        texts = [one["completion"].ids for one in encoded]
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        for number, ids in enumerate(texts):
            if room is not None and len(ids) > room:
                why = f"has {len(ids):,} tokens with its prompt; the model reads {room:,} at once."
                raise DataError(Problem(f"completions[{number}]", None, why, "Shorten it."))
        return scores_of(model, texts, tokenizer.pad_token_id)


def _asked(prompt: Any, config: Config) -> Example:
    """Return a prompt as an example, whose answer is not used."""
    from nbft.data.examples import Example, load_examples, make_example
    from nbft.data.turns import RowError, turns

    if isinstance(prompt, str):
        found = Example(prompt)
    elif isinstance(prompt, Example):
        found = prompt
    elif isinstance(prompt, Mapping):
        found = make_example(load_examples(config, "train")[0].parts[0], prompt, "prompt")
    elif isinstance(prompt, (list, tuple)) and prompt:
        try:
            found = Example(messages=(*turns(list(prompt), "prompt"), _EMPTY))
        except RowError as error:
            raise DataError(Problem("prompt", None, error.why, error.fix)) from None
    else:
        why = f"is {type(prompt).__name__}, not a text, turns, a row or an example."
        raise DataError(Problem("prompt", None, why))
    if not (found.prompt.strip() or found.messages):
        raise DataError(Problem("prompt", None, "is empty.", "Write what was asked."))
    return found
