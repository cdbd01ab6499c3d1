"""Answers of a model to prompts. Called by `nbft.training` and `nbft.runs`; torch comes loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BATCH = 8
"""Prompts answered at a time."""


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int
) -> list[str]:
    """Answer prompts, always with the likeliest next token, so that answers can be compared.

    Args:
        model: A causal language model, left in the mode it was in.
        tokenizer: Its tokenizer.
        prompts: Token ids of each prompt.
        max_new_tokens: Longest answer.

    Returns:
        The answers, without the prompt and without the end-of-sequence token.
    """
    import torch

    was_training = model.training
    model.eval()
    texts: list[str] = []
    pad = tokenizer.pad_token_id
    try:
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            width = max(map(len, batch))
            rows = [[pad] * (width - len(p)) + p for p in batch]
            seen = [[0] * (width - len(p)) + [1] * len(p) for p in batch]
            device = next(model.parameters()).device
            ids = torch.tensor(rows, device=device)
            with torch.no_grad():
                out = model.generate(
                    input_ids=ids,
                    attention_mask=torch.tensor(seen, device=device),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    use_cache=True,
                    pad_token_id=pad,
                    eos_token_id=tokenizer.eos_token_id,
                )
            for answer in out[:, width:].tolist():
                texts.append(tokenizer.decode(answer, skip_special_tokens=True).strip())
    finally:
        model.train(was_training)
    return texts
