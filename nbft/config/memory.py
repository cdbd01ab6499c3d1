"""Settings that trade time for memory."""

from __future__ import annotations

from typing import Any

from nbft.config.base import Section, setting


class Memory(Section):
    """What trades time for memory."""

    gradient_checkpointing: bool = setting(
        False,
        help="Compute activations again instead of keeping them: much less memory, 20 to 30% "
        "slower.",
        source="transformers; TRL turns it on by itself",
    )
    gradient_checkpointing_kwargs: dict[str, Any] = setting(
        help="Arguments of torch.utils.checkpoint, such as use_reentrant.",
        source="transformers TrainingArguments.gradient_checkpointing_kwargs",
        level="expert",
        default_factory=lambda: {"use_reentrant": False},
    )
    torch_empty_cache_steps: int | None = setting(
        help="Give unused GPU memory back every so many steps.",
        unit="steps",
        ge=1,
        source="transformers TrainingArguments.torch_empty_cache_steps",
        level="expert",
    )
    auto_find_batch_size: bool = setting(
        False,
        help="When memory runs out, start again with half the batch.",
        source="transformers TrainingArguments.auto_find_batch_size",
        level="expert",
    )
