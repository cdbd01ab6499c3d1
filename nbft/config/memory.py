"""Settings that trade time for memory."""

from __future__ import annotations

from typing import Any, Literal

from nbft.config.base import Section, expert_setting, setting


class Memory(Section):
    """What trades time for memory."""

    gradient_checkpointing: bool = setting(
        False,
        help="Recompute activations instead of storing them: much less memory, 20 to 30% slower.",
        source="transformers; TRL turns it on by itself",
        why="PEFT Studio: 30 to 40% less memory. It also recommends it for slow training, "
        "although it makes training slower.",
    )
    gradient_checkpointing_kwargs: dict[str, Any] = expert_setting(
        help="Arguments of torch.utils.checkpoint, such as use_reentrant.",
        source="transformers TrainingArguments.gradient_checkpointing_kwargs",
        default_factory=lambda: {"use_reentrant": False},
    )
    torch_empty_cache_steps: int | None = expert_setting(
        help="Release unused GPU memory every this many steps.",
        unit="steps",
        ge=1,
        source="transformers TrainingArguments.torch_empty_cache_steps",
    )
    auto_find_batch_size: bool = expert_setting(
        False,
        help="If memory runs out, restart with half the batch size.",
        source="transformers TrainingArguments.auto_find_batch_size",
    )
    recompute_granularity: Literal["full", "full_attn", "core_attn"] = expert_setting(
        "full",
        help="What gradient_checkpointing recomputes: whole layers, only attention, or only the "
        "product of queries, keys and values.",
        source="ERNIEKit recompute_granularity; arXiv:2205.05198, section 5",
    )
    offload_optimizer: bool = expert_setting(
        False,
        help="Keep the optimiser state in CPU memory instead of on the GPU; slower.",
        source="ERNIEKit offload_optim; ZeRO-Offload, arXiv:2101.06840",
    )
    use_sparse_head_and_loss_fn: bool = expert_setting(
        False,
        help="Compute logits only for the tokens that are trained on.",
        source="ERNIEKit use_sparse_head_and_loss_fn",
    )
    use_fused_head_and_loss_fn: bool = expert_setting(
        False,
        help="Compute logits and loss a few tokens at a time, and again for the gradient.",
        source="ERNIEKit use_fused_head_and_loss_fn; Cut Your Losses, arXiv:2411.09009",
        why="training.method sft already does this; here chunks are half as large, and base has "
        "it too.",
    )
    release_grads: bool = expert_setting(
        True,
        help="Free gradients after each step; false keeps their memory and sets them to zero.",
        source="torch Optimizer.zero_grad set_to_none; ERNIEKit release_grads",
    )
    use_attn_mask_start_row_indices: bool | None = expert_setting(
        help="Store where each packed row starts instead of a full attention mask; decided by "
        "speed.row_attention when empty.",
        source="ERNIEKit use_attn_mask_start_row_indices; FlashMask, arXiv:2410.01359",
        why="The mask's memory grows with the number of rows instead of the square of the length. "
        "Requires data.packing or data.padding_free, and an architecture whose losses are tested.",
    )
