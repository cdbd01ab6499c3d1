"""The head of a reward model: one number for a text, read at its last token.

r = w h_t, where t is the last token that is no padding, as in transformers' classes for sequence
classification. Those score every token of a batch and pick one; here only the picked ones are scored,
in float32 whatever the number type of the model: an update of w would be lost in 16 bits. Called by
`nbft.models.load`, `nbft.training.reward` and those who score answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from nbft.models.classifiers import HEAD
from nbft.models.subclass import extend

_BATCH = 8


class RewardHead:
    """Part of the class of a model for sequence classification with one label."""

    def forward(
        self,
        input_ids: torch.Tensor,
        *args: Any,
        places: torch.Tensor | None = None,
        labels: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the scores as logits, [n, 1].

        `places` are those of the scored tokens in the batch [b, s], flattened, [n]; the last one of
        each row when None. There is no loss, so `labels` are not used.
        """
        model: Any = self
        if places is None:
            places = last_places(input_ids, model.config.get_text_config().pad_token_id)
        kwargs["use_cache"] = False
        states = model.base_model(input_ids, *args, **kwargs).last_hidden_state.flatten(0, 1)
        picked = states[places.to(states.device)].float()
        with torch.autocast(picked.device.type, enabled=False):
            return SequenceClassifierOutputWithPast(logits=model.score(picked))


def last_places(ids: torch.Tensor, pad_token_id: int | None) -> torch.Tensor:
    """Return where the last token of each row that is no padding is, in the flattened batch, [b].

    Args:
        ids: Token ids, [b, s].
        pad_token_id: The padding token; None if there is none.

    >>> last_places(torch.tensor([[5, 6, 0], [0, 7, 8]]), 0).tolist()
    [1, 5]
    """
    rows, width = ids.shape
    is_text = torch.ones_like(ids) if pad_token_id is None else (ids != pad_token_id).long()
    last = (torch.arange(width, device=ids.device) * is_text).argmax(-1)
    return last + width * torch.arange(rows, device=ids.device)


def last_place(ids: Sequence[int], pad_token_id: int | None) -> int:
    """Return where the last token of one text is that is no padding; 0 without any.

    >>> last_place([5, 6, 0], 0), last_place([0], 0)
    (1, 0)
    """
    return max((n for n, token in enumerate(ids) if token != pad_token_id), default=0)


def has_head(model: Any) -> bool:
    """Whether a model for sequence classification scores the last token, as decoders do."""
    return isinstance(getattr(model, HEAD, None), torch.nn.Linear)


def use_reward_head(model: Any) -> None:
    """Let a model for sequence classification compute its scores with `RewardHead`.

    Args:
        model: The model, without an adapter around it.

    Raises:
        ValueError: It has no such head.
    """
    if not has_head(model):
        raise ValueError(f"{type(model).__name__} has no head named {HEAD}")
    model.score.float()
    extend(model, RewardHead)


def head_of(model: Any) -> Any:
    """Return the last layer of a model, of logits or of scores; None if it has or tells none."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return getattr(model, HEAD, None) if head is None else head


def scores_of(model: Any, texts: Sequence[Sequence[int]], pad_token_id: int) -> list[float]:
    """Return the score of each text, by a model in evaluation mode.

    Args:
        model: A model for sequence classification that knows its padding token, with or without an
            adapter.
        texts: Token ids of each text, [s] each, at least one.
        pad_token_id: The token that fills rows up.
    """
    found: list[float] = []
    for begin in range(0, len(texts), _BATCH):
        some = texts[begin : begin + _BATCH]
        width = max(map(len, some))
        ids = torch.full((len(some), width), pad_token_id)
        mask = torch.zeros(len(some), width, dtype=torch.long)
        for n, text in enumerate(some):
            ids[n, : len(text)] = torch.tensor(text)
            mask[n, : len(text)] = 1
        with torch.inference_mode():
            given = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
            logits = model(**given).logits
        found += logits[:, 0].float().tolist()
    return found
