"""The largest batch, row and model that fit into the memory that is free. Loads no library.

Called by `Plan.largest`; each answer changes one thing and keeps the rest of the config.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nbft.decisions import decide
from nbft.formatting import count, size
from nbft.plan.memory import Shape, memory_bytes, shape_of_config

if TYPE_CHECKING:
    from nbft.plan.plan import Plan

_MOST_ROWS = 4096  # nobody needs more at a time
_LEAST_TOKENS, _MOST_TOKENS = 8, 131_072

_SIZES: Mapping[str, tuple[int, int, int, int, int, int, int]] = {
    "135 million": (576, 30, 1536, 9, 3, 64, 49_152),
    "360 million": (960, 32, 2560, 15, 5, 64, 49_152),
    "1 billion": (2048, 16, 8192, 32, 8, 64, 128_256),
    "3 billion": (3072, 28, 8192, 24, 8, 128, 128_256),
    "8 billion": (4096, 32, 14_336, 32, 8, 128, 128_256),
    "14 billion": (5120, 40, 17_408, 40, 8, 128, 151_936),
    "32 billion": (5120, 64, 25_600, 64, 8, 128, 151_936),
    "70 billion": (8192, 80, 28_672, 64, 8, 128, 128_256),
}
"""Width, layers, inner width, heads, key heads, width of a head and vocabulary of usual models of a
size. Source: config.json of SmolLM2, Llama 3 and Qwen3."""


@dataclass(frozen=True)
class Largest:
    """The largest value of one thing that fits.

    Attributes:
        words: What fits, as part of a sentence.
        changes: The settings for it, by dotted path; {} for a model, which is to be chosen.
        memory_bytes: Memory needed then; an estimate.
    """

    words: str
    changes: dict[str, Any]
    memory_bytes: int

    def __str__(self) -> str:
        """Return what fits, with the memory needed."""
        return f"{self.words} (about {size(self.memory_bytes)})"


def largest(plan: Plan) -> dict[str, Largest]:
    """Return the largest batch, length and model that fit, by these names; those that are known.

    Args:
        plan: A plan whose memory is known.
    """
    if not plan.free_memory_bytes or plan.needed_bytes(plan.config) is None:
        return {}
    found: dict[str, Largest] = {}
    batch = "training.per_device_train_batch_size"
    if plan.config.data.max_tokens_per_batch is None:
        rows = _most(plan, lambda number: _of(plan, {batch: number}), 1, _MOST_ROWS)
        if rows:
            words = f"a batch of {count(rows, 'row')}"
            needed = _of(plan, {batch: rows})
            found["batch"] = Largest(words, {batch: rows}, needed)

    def of_rows_of(tokens: int) -> int:
        longer = replace(plan, lengths_tokens=(tokens,))
        return _of(longer, {"data.max_length": tokens})

    if tokens := _most(plan, of_rows_of, _LEAST_TOKENS, _MOST_TOKENS):
        words = f"rows of {count(tokens, 'token')}"
        found["length"] = Largest(words, {"data.max_length": tokens}, of_rows_of(tokens))
    for name in reversed([*_SIZES]):
        needed = memory_bytes(plan.config, _usual(name), plan.lengths_tokens, decide(plan.config))
        if needed <= plan.free_memory_bytes:
            found["model"] = Largest(f"a model of about {name} parameters", {}, needed)
            break
    return found


def in_words(found: Mapping[str, Largest]) -> str:
    """Say what fits; "" if nothing is known."""
    if not found:
        return ""
    return f"Largest that fits, each by itself: {', '.join(map(str, found.values()))}."


def _of(plan: Plan, changes: dict[str, Any]) -> int:
    needed = plan.needed_bytes(plan.config.apply(changes))
    assert needed is not None
    return needed


def _most(plan: Plan, needed: Callable[[int], int], least: int, most: int) -> int:
    """Return the largest number that fits, to a thirtieth; 0 if not even the least does."""
    if needed(least) > plan.free_memory_bytes:
        return 0
    low, high = least, most + 1
    while high - low > max(1, low // 30):
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= plan.free_memory_bytes else (low, middle)
    return low


@functools.cache
def _usual(name: str) -> Shape:
    hidden, layers, inner, heads, keys, width, vocabulary = _SIZES[name]
    return shape_of_config(
        {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "intermediate_size": inner,
            "num_attention_heads": heads,
            "num_key_value_heads": keys,
            "head_dim": width,
            "vocab_size": vocabulary,
            "tie_word_embeddings": layers < 32 or hidden < 4096,
        }
    )
