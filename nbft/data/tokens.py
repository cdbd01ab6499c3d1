"""From examples to tokens and labels.

The prompt and the completion are cut into tokens so that none crosses the boundary between them;
the end-of-sequence token is learnt; a label of -100 is not learnt. Called by `nbft.training`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbft.config import Config
from nbft.data.examples import Example
from nbft.errors import DataError, Problem

IGNORE_INDEX = -100
"""Label of a token that adds nothing to the loss. Source: torch.nn.CrossEntropyLoss."""

Segment = tuple[str, bool]


@dataclass
class Tokenised:
    """Examples as tokens.

    Attributes:
        input_ids: Token ids of each example, [s] each.
        labels: What each position shall predict, [s] each: its own token id, or -100.
        prompt_ids: The ids of what comes before the first learnt token.
        cut: Examples that are kept but lost their end at `data.max_length`.
        left_out: Examples left out because their prompt alone fills `data.max_length`.
        empty: Examples left out because they hold no text.
        merged: Examples whose prompt and completion would have shared a token.
    """

    input_ids: list[list[int]] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    cut: int = 0
    left_out: int = 0
    empty: int = 0
    merged: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all examples."""
        return sum(map(len, self.input_ids))

    @property
    def trained_tokens(self) -> int:
        """Tokens that add to the loss. The first token of a row is never predicted."""
        return sum(label != IGNORE_INDEX for row in self.labels for label in row[1:])


def tokenise(
    examples: Sequence[Example], tokenizer: Any, config: Config, split: str = "train"
) -> Tokenised:
    """Cut examples into tokens and say which are learnt.

    Args:
        examples: Prompts and completions, or chat messages.
        tokenizer: A transformers tokenizer.
        config: Its data section says max_length and completion_only_loss.
        split: Name of the split, for messages.

    Raises:
        DataError: Messages were given to a tokenizer without a chat template, or no example leaves
            anything to learn.
    """
    out = Tokenised()
    whole_lengths: list[int] = []
    max_length = config.data.max_length
    completion_only = config.data.completion_only_loss
    for ids, learnt, merged in _encoded(examples, tokenizer, split):
        out.merged += merged
        whole_lengths.append(len(ids))
        labels = [
            i if (on or not completion_only) else IGNORE_INDEX
            for i, on in zip(ids, learnt, strict=True)
        ]
        is_cut = len(ids) > max_length
        ids, labels = ids[:max_length], labels[:max_length]
        if all(label == IGNORE_INDEX for label in labels[1:]):
            out.left_out += is_cut
            out.empty += not is_cut
            continue
        out.cut += is_cut
        out.input_ids.append(ids)
        out.labels.append(labels)
        out.prompt_ids.append(ids[: learnt.index(True)] if True in learnt else ids)
    if not out.input_ids:
        raise DataError(_nothing_left(whole_lengths, max_length, split))
    return out


def remarks(tokenised: Tokenised, config: Config, split: str) -> list[str]:
    """Say what happened to the rows of a split, with numbers; nothing when nothing happened."""
    total = len(tokenised.input_ids) + tokenised.left_out + tokenised.empty
    said = []
    if tokenised.left_out:
        said.append(
            f"{split}: {tokenised.left_out:,} of {total:,} rows are left out: their prompt alone "
            f"fills data.max_length={config.data.max_length}, so nothing of them would be learnt."
        )
    if tokenised.empty:
        said.append(f"{split}: {tokenised.empty:,} of {total:,} rows are left out: they are empty.")
    if tokenised.cut:
        said.append(
            f"{split}: {tokenised.cut:,} of {total:,} rows lose their end at data.max_length="
            f"{config.data.max_length}; the model does not learn to stop there."
        )
    return said


def _nothing_left(lengths: list[int], max_length: int, split: str) -> Problem:
    longest = max(lengths, default=0)
    if longest <= max_length:
        return Problem(f"data.{split}", None, "no row leaves anything to learn.", "Look at it.")
    enough = sorted(lengths)[min(len(lengths) - 1, round(0.95 * len(lengths)))]
    return Problem(
        "data.max_length",
        max_length,
        f"cuts every completion away: nothing is left to learn in {len(lengths):,} {split} rows of "
        f"up to {longest:,} tokens.",
        f"Use {enough}, which keeps 95% of the rows whole.",
        {"data.max_length": enough},
    )


def _encoded(
    examples: Sequence[Example], tokenizer: Any, split: str
) -> list[tuple[list[int], list[bool], bool]]:
    """Return (ids, which are learnt, whether a merged token was split) of each example."""
    plain = [n for n, e in enumerate(examples) if not e.messages]
    found: dict[int, tuple[list[int], list[bool], bool]] = {}
    if plain:
        prompts = _ids([examples[n].prompt for n in plain], tokenizer, special=True)
        wholes = _ids(
            [examples[n].prompt + examples[n].completion for n in plain], tokenizer, special=True
        )
        clean = [w[: len(p)] == p for p, w in zip(prompts, wholes, strict=True)]
        apart = _ids(
            [examples[n].completion for n, ok in zip(plain, clean, strict=True) if not ok],
            tokenizer,
            special=False,
        )
        rest = iter(apart)
        for n, prompt, whole, ok in zip(plain, prompts, wholes, clean, strict=True):
            completion = whole[len(prompt) :] if ok else next(rest)
            completion = [*completion, tokenizer.eos_token_id]
            learnt = [False] * len(prompt) + [True] * len(completion)
            found[n] = (prompt + completion, learnt, not ok)
    for n, example in enumerate(examples):
        if example.messages:
            found[n] = _chat(example.messages, tokenizer, split, n)
    return [found[n] for n in range(len(examples))]


def _ids(texts: list[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    """Return the token ids of texts, with what the tokenizer puts before a text, but no end."""
    if not texts:
        return []
    found: list[list[int]] = tokenizer(texts, add_special_tokens=special)["input_ids"]
    end = tokenizer.eos_token_id
    if special and tokenizer("a")["input_ids"][-1:] == [end]:  # this tokenizer appends the end
        return [ids[:-1] for ids in found]
    return found


def _chat(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, split: str, number: int
) -> tuple[list[int], list[bool], bool]:
    """Cut a conversation into tokens through the chat template; the assistant's turns are learnt.

    The text up to each answer is rendered as it will be when the model is asked, so the model
    learns exactly what it will have to write.
    """
    ids: list[int] = []
    learnt: list[bool] = []
    for text, is_answer in chat_segments(messages, tokenizer, split, number):
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        learnt += [is_answer] * len(piece)
    end = tokenizer.eos_token_id
    if end not in ids[-2:]:  # a template may end in <end of turn> and a new line
        ids.append(end)
        learnt.append(True)
    return ids, learnt, False


def chat_segments(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, split: str = "train", number: int = 0
) -> list[Segment]:
    """Return a conversation as (text, whether it is learnt), through the chat template.

    Raises:
        DataError: The tokenizer has no chat template, or the template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise DataError(
            Problem(
                f"data.{split}",
                None,
                'has "messages", but the model has no chat template.',
                "Choose an instruct model, set model.chat_template_path, or give prompt and "
                "completion.",
            )
        )

    def render(turns: Sequence[Mapping[str, str]], *, ask: bool = False) -> str:
        text: str = tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=ask
        )
        return text

    segments: list[Segment] = []
    done = ""
    try:
        for n, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked, answered = render(messages[:n], ask=True), render(messages[: n + 1])
            if not answered.startswith(asked) or not asked.startswith(done):
                raise ValueError("the template changes earlier turns when one is added")
            segments += [(asked[len(done) :], False), (answered[len(asked) :], True)]
            done = answered
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            Problem(
                f"data.{split}",
                None,
                f"row {number + 1}: the chat template refuses the messages ({error}).",
                "Roles are usually system, user, assistant, by turns.",
            )
        ) from None
    return segments
