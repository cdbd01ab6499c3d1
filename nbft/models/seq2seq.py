"""Batches for encoder-decoder models: the encoder reads the prompt, the decoder learns the completion.

A row is [prompt, completion] with -100 as the labels of the prompt. The encoder also reads an end
token. Source: T5, arXiv:1910.10683, section 2.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import transformers

_IGNORED = -100


class Seq2SeqCollator:
    """Makes a batch of rows.

    Args:
        tokenizer: Its padding and end tokens are used.
        model: May shift the labels for its decoder.
        pad_to_multiple_of: As in data.pad_to_multiple_of.
    """

    def __init__(self, tokenizer: Any, model: Any, pad_to_multiple_of: int | None = None) -> None:
        self._end = tokenizer.eos_token_id
        self._pad = transformers.DataCollatorForSeq2Seq(
            tokenizer,
            model=model,
            label_pad_token_id=_IGNORED,
            pad_to_multiple_of=pad_to_multiple_of,
        )

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> Any:
        """Return input_ids, attention_mask and labels, [rows, s] each."""
        split = []
        for row in rows:
            ids, labels = row["input_ids"], row["labels"]
            begin = next(n for n, label in enumerate(labels) if label != _IGNORED)
            split.append({"input_ids": [*ids[:begin], self._end], "labels": labels[begin:]})
        return self._pad(split)
