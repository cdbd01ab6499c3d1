"""Settings that trade time for memory."""

from __future__ import annotations

from typing import Any, Literal

from nbft.config.base import Section, setting


class Memory(Section):
    """What trades time for memory."""

    gradient_checkpointing: bool = setting(
        False,
        help="Compute activations again instead of keeping them: much less memory, 20 to 30% "
        "slower.",
        source="transformers; TRL turns it on by itself",
        why="PEFT Studio: 30 to 40% less memory. It also advises it for slow training, which it makes "
        "slower.",
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
    recompute_granularity: Literal["full", "full_attn", "core_attn"] = setting(
        "full",
        help="What gradient_checkpointing computes again: whole layers, their attention, or only "
        "the product of queries, keys and values.",
        source="ERNIEKit recompute_granularity; arXiv:2205.05198, section 5",
        level="expert",
    )
    offload_optimizer: bool = setting(
        False,
        help="Keep the optimiser's state in the computer's memory, not on the GPU; slower.",
        source="ERNIEKit offload_optim; ZeRO-Offload, arXiv:2101.06840",
        level="expert",
    )
    use_sparse_head_and_loss_fn: bool = setting(
        False,
        help="Work out scores over the vocabulary only where a token is learnt.",
        source="ERNIEKit use_sparse_head_and_loss_fn",
        level="expert",
    )
    use_fused_head_and_loss_fn: bool = setting(
        False,
        help="Work out scores and loss a few tokens at a time, and again for the gradient.",
        source="ERNIEKit use_fused_head_and_loss_fn; Cut Your Losses, arXiv:2411.09009",
        level="expert",
        why="training.method sft does so by itself; this halves its chunks and serves base too.",
    )
    release_grads: bool = setting(
        True,
        help="Free the gradients after each step; false keeps their memory and fills it with 0.",
        source="torch Optimizer.zero_grad set_to_none; ERNIEKit release_grads",
        level="expert",
    )
    use_attn_mask_start_row_indices: bool | None = setting(
        help="Keep where each packed row starts instead of a mask of all pairs of tokens; decided "
        "by speed.row_attention when empty.",
        source="ERNIEKit use_attn_mask_start_row_indices; FlashMask, arXiv:2410.01359",
        level="expert",
        why="Memory for the mask grows with the rows, not with the square of the length. Acts with "
        "data.packing or data.padding_free.",
    )
