"""Attention of rows joined without padding, each within itself, without a mask of tokens by tokens.

Registered with transformers as an attention implementation; the collator passes where rows begin
(`cu_seq_lens_q`). On a GPU torch's FlashAttention takes all rows at once; on a GPU that is too old for
it rows are computed one by one. On a CPU rows of similar length are computed at once, padded to the
longest of them: eight short rows take eight times as many products otherwise, each too small for two
threads. The lengths come from the batch (`nbft.training.fast.batches`), so that nothing waits for a
GPU. Padded batches, as in generation, use torch's own attention.

Source: rows attend within themselves, as in FlashAttention's varlen functions (arXiv:2307.08691).
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from nbft.decisions import GROUP_STEP_TOKENS, SHORT_ROW_TOKENS
from nbft.models.subclass import extend

NAME = "nbft_documents"

_PADDING_SCORES = 64**2
"""Padding that a row may add to its group, in scores; with more, a group of its own is faster.

Measured on an AMD EPYC with two cores: 32² to 128² differ by less than 10% on rows of 60 to 512
tokens; above 80², short rows take twice as long in float32.
"""

_log = logging.getLogger("nbft")


def attend_within_rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    row_lengths: list[int] | None = None,
    row_branches: list[tuple[int, int, int]] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each row.

    Args:
        module: The attention layer.
        query: [1, heads, s, d].
        key: [1, key heads, s, d].
        value: [1, key heads, s, d].
        attention_mask: None or empty if rows are joined without padding.
        dropout: Share of the weights that are dropped.
        scaling: Factor of the scores; 1 / sqrt(d) when None.
        sliding_window: Tokens that a token attends to, itself included; all when None.
        cu_seq_lens_q: Where rows begin and the last ends, [rows + 1]; None if they are not joined,
            as in generation.
        max_length_q: Tokens of the longest row.
        row_lengths: Tokens of each row; read from the device when None.
        row_branches: Of rows with two answers to one prompt, the tokens of the prompt and of each
            answer; None where no row has two. Neither answer attends to the other.
        **kwargs: For torch's own attention.

    Returns:
        The attention's output, [1, s, heads, d], and None for the weights.
    """
    if cu_seq_lens_q is None or (attention_mask is not None and attention_mask.numel()):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    if row_branches is not None:
        apart = _apart(tuple(row_branches), query.device)
        query, key, value = (part.index_select(2, apart.there) for part in (query, key, value))
        found, _ = attend_within_rows(
            module,
            *(query, key, value),
            attention_mask=None,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            cu_seq_lens_q=apart.begins,
            max_length_q=apart.longest,
            row_lengths=apart.lengths,
        )
        return found.index_select(1, apart.back), None
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    device, dtype = query.device.type, query.dtype
    if torch.is_autocast_enabled(device):  # rotary embeddings leave queries and keys in float32
        dtype = torch.get_autocast_dtype(device)
    if max_length_q is not None and not dropout and _takes_varlen(query, key, dtype):
        rows = query.to(dtype), key.to(dtype), value.to(dtype)
        return _by_varlen(rows, scaling, sliding_window, cu_seq_lens_q, max_length_q), None
    if row_lengths is None:
        row_lengths = cu_seq_lens_q.diff().tolist()
    rows = query, key, value
    if query.is_cuda:
        rows = _with_all_heads(rows)
    if query.is_cuda or dropout or min(row_lengths) > SHORT_ROW_TOKENS:
        return _row_by_row(rows, scaling, sliding_window, row_lengths, dropout), None
    return _by_groups(rows, scaling, sliding_window, tuple(row_lengths)), None


_Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries [1, heads, s, d], keys and values [1, key heads, s, d]."""


class _Apart(NamedTuple):
    """How rows with two answers become rows with one, each after the prompt.

    Attributes:
        there: The token of each place of the rows with one answer, [m].
        back: The place of each token among them, [n]; of a prompt in the first row.
        lengths: Tokens of each of these rows.
        begins: Where they begin and the last ends.
        longest: Tokens of the longest.
    """

    there: torch.Tensor
    back: torch.Tensor
    lengths: list[int]
    begins: torch.Tensor
    longest: int


@functools.lru_cache(maxsize=8)
def _apart(branches: tuple[tuple[int, int, int], ...], device: torch.device) -> _Apart:
    there: list[int] = []
    back: list[int] = []
    lengths: list[int] = []
    for prompt, first, second in branches:
        begin, place = len(back), len(there)
        split, end = begin + prompt + first, begin + prompt + first + second
        there += [*range(begin, split), *range(begin, begin + prompt), *range(split, end)]
        back += [*range(place, place + prompt + first), *range(len(there) - second, len(there))]
        lengths += [prompt + first, prompt + second]
    begins = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    indices = [torch.tensor(numbers, device=device) for numbers in (there, back)]
    return _Apart(indices[0], indices[1], lengths, begins, max(lengths))


def _with_all_heads(rows: _Rows) -> _Rows:
    """Repeat keys and values for each head that shares them.

    Of torch's kernels for older GPUs only the one that keeps all scores takes fewer of them.
    """
    query, *others = rows
    key, value = (p.repeat_interleave(query.shape[1] // p.shape[1], dim=1) for p in others)
    return query, key, value


def _row_by_row(
    rows: _Rows,
    scaling: float,
    sliding_window: int | None,
    lengths: Sequence[int],
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attend row by row with torch's attention."""
    # Split, not sliced: the gradient of each slice would be as large as all rows.
    outputs = [
        _by_library(row, scaling, sliding_window, dropout)
        for row in zip(*(part.split(lengths, dim=2) for part in rows), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _by_library(
    rows: _Rows, scaling: float, sliding_window: int | None, dropout: float = 0.0
) -> torch.Tensor:
    """Return torch's attention of rows of one length, [rows, heads, s, d]."""
    query, key, value = rows
    length, mask = query.shape[2], None
    if sliding_window and sliding_window < length:
        mask = _mask(length, sliding_window, query.dtype, query.device) == 0
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _by_groups(
    rows: _Rows, scaling: float, sliding_window: int | None, lengths: tuple[int, ...]
) -> torch.Tensor:
    """Attend within rows of similar length at once, padded to the longest of them.

    The padding is at the end, where no token of its row attends to it.
    """
    width = rows[0].shape[-1]
    groups = [(len(group), _padded(lengths, group)) for group in _groups(lengths)]
    split = []
    for part in rows:
        there, back, _ = _places(lengths, part.shape[1], part.device)
        moved = _Moved.apply(part[0].transpose(0, 1).reshape(-1, width), there, back, None)
        sizes = [count * part.shape[1] * length for count, length in groups]
        split.append(
            [
                of_group.view(count, -1, length, width)
                for of_group, (count, length) in zip(moved.split(sizes), groups, strict=True)
            ]
        )
    outputs = []
    for group in zip(*split, strict=True):
        is_short = group[0].shape[2] <= SHORT_ROW_TOKENS
        attend = _by_products if is_short else _by_library
        outputs.append(attend(group, scaling, sliding_window).reshape(-1, width))
    heads = rows[0].shape[1]
    there, back, padding = _places(lengths, heads, rows[0].device)
    found: torch.Tensor = _Moved.apply(torch.cat(outputs), back, there, padding)
    return found.view(1, -1, heads, width)


class _Moved(torch.autograd.Function):
    """x [n, d] to x[there], [m, d]; gradients go back, those of padding are none."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        there: torch.Tensor,
        back: torch.Tensor,
        padding: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(back, padding)
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        back, padding = ctx.saved_tensors
        of_x = gradients[0].index_select(0, back)
        if padding is not None:
            of_x.index_fill_(0, padding, 0)
        return of_x, None, None, None


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Return the rows that are computed together, each by its place, the longest first.

    >>> _groups([30, 400, 81, 65, 600, 399])
    [[4], [1, 5], [2, 3], [0]]
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest = lengths[groups[-1][0]] if groups else 0
        padding = longest**2 - lengths[row] ** 2
        if groups and longest <= SHORT_ROW_TOKENS and padding <= _PADDING_SCORES:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _padded(lengths: Sequence[int], group: Sequence[int]) -> int:
    """Return the length to which a group is padded."""
    longest = lengths[group[0]]
    if longest > SHORT_ROW_TOKENS:
        return longest
    return -(-longest // GROUP_STEP_TOKENS) * GROUP_STEP_TOKENS


@functools.lru_cache(maxsize=8)
def _places(
    lengths: tuple[int, ...], heads: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return where the numbers of each token and head are among groups of rows, and back.

    Args:
        lengths: Tokens of each row, joined in this order.
        heads: Heads of each token.
        device: Where the results are.

    Returns:
        For each head and place of each row of a group, [m], the number of its token and head, token
        by token; for each token and head, [n], its place; and the places that are padding.
    """
    begins = [0, *itertools.accumulate(lengths)]
    head = torch.arange(heads, device=device)[:, None]
    there, padding, taken = [], [], 0
    back: list[torch.Tensor] = [head] * len(lengths)
    for group in _groups(lengths):
        place = torch.arange(_padded(lengths, group), device=device)
        for row in group:
            token = begins[row] + place.clamp(max=lengths[row] - 1)
            there.append((token * heads + head).flatten())
            padding.append((taken + head * len(place) + place[lengths[row] :]).flatten())
            back[row] = (taken + head * len(place) + place[: lengths[row]]).t().flatten()
            taken += heads * len(place)
    return torch.cat(there), torch.cat(back), torch.cat(padding)


def _by_varlen(
    rows: _Rows, scaling: float, window: int | None, begins: torch.Tensor, longest: int
) -> torch.Tensor:
    """Attend within all rows at once, by torch's FlashAttention."""
    from torch.nn.attention.varlen import varlen_attn  # from torch 2.10 on

    query, key, value = (part[0].transpose(0, 1) for part in rows)
    found: Any = varlen_attn(
        query,
        key,
        value,
        begins,
        begins,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found[None]  # type: ignore[no-any-return]


def _takes_varlen(query: torch.Tensor, key: torch.Tensor, dtype: torch.dtype) -> bool:
    if not query.is_cuda or dtype not in (torch.bfloat16, torch.float16):
        return False
    return not _is_too_old(query.device) and not _refusal(
        query.device, dtype, query.shape[1], key.shape[1], query.shape[-1]
    )


def _is_too_old(device: torch.device) -> bool:
    """Whether a GPU has no FlashAttention at all, which the plan has said."""
    return torch.cuda.get_device_capability(device) < (8, 0)


def flash_refusal(model: Any, mixed_precision: str) -> str:
    """Explain why the rows of a model are computed one by one on its GPU; "" if they are not.

    Args:
        model: The model, on its device.
        mixed_precision: Number type of autocast: bf16, fp16 or no.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision, model.dtype)
    if model.device.type != "cuda" or dtype == torch.float32 or _is_too_old(model.device):
        return ""
    shape = model.config.get_text_config()
    heads = shape.num_attention_heads
    key_heads = getattr(shape, "num_key_value_heads", None) or heads
    width = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    if not (why := _refusal(model.device, dtype, heads, key_heads, width)):
        return ""
    return (
        f"FlashAttention is not used on this GPU: {why}. The attention of each row is computed by "
        "itself: the losses are the same, but short rows take longer."
    )


@functools.lru_cache(maxsize=4)
def _refusal(
    device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int
) -> str:
    """Return why varlen attention does not work on a device, by trying it; "" if it does."""
    plain = torch.autocast(device.type, enabled=False)
    try:
        with torch.inference_mode(False), torch.enable_grad(), plain:
            _try_varlen(device, dtype, heads, key_heads, width)
    except torch.OutOfMemoryError:  # not the kernel's fault
        raise
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else repr(error)
        _log.warning("FlashAttention is not used: %s. Rows are computed one by one.", why)
        return why
    return ""


def _try_varlen(
    device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int
) -> None:
    """Compare varlen attention with separate rows, forward and backward, on 64 tokens.

    Raises:
        ValueError: They differ.
    """
    lengths, scaling = [5, 40, 19], width**-0.5
    begins = torch.tensor([0, 5, 45, 64], dtype=torch.int32, device=device)

    def values(some_heads: int, phase: float) -> torch.Tensor:
        angles = torch.arange(some_heads * 64 * width, device=device) * 0.7 + phase
        return angles.sin().to(dtype).view(1, some_heads, 64, width).requires_grad_()

    rows = values(heads, 0), values(key_heads, 1), values(key_heads, 2)
    slope = values(heads, 3).detach().transpose(1, 2)
    for window in (None, 16):
        at_once = _by_varlen(rows, scaling, window, begins, max(lengths))
        apart = _row_by_row(rows, scaling, window, lengths)
        for actual, expected in zip(
            (at_once, *torch.autograd.grad(at_once, rows, slope)),
            (apart, *torch.autograd.grad(apart, rows, slope)),
            strict=True,
        ):
            if not torch.allclose(actual.float(), expected.float(), rtol=0.05, atol=0.05):
                raise ValueError("its results differ from those of separate rows")


def _by_products(rows: _Rows, scaling: float, window: int | None) -> torch.Tensor:
    """Attend by two matrix products, [rows, heads, s, d].

    Query heads that share a key head form one matrix.
    """
    query, key, value = rows
    length, width = query.shape[2:]
    heads = query.reshape(-1, query.shape[1] // key.shape[1] * length, width)
    scores = torch.bmm(heads * scaling, key.reshape(-1, length, width).transpose(1, 2))
    # Detached, since adding a constant in place changes no gradient.
    seen = _mask(length, window, scores.dtype, scores.device)
    scores.detach().view(-1, length, length).add_(seen)
    found = torch.bmm(scores.softmax(-1), value.reshape(-1, length, width))
    return found.view(query.shape)


def _mask(
    length: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return 0 where a token may attend and minus infinity elsewhere, [length, length]."""
    return _whole_mask(max(length, SHORT_ROW_TOKENS), window, dtype, device)[:length, :length]


@functools.lru_cache(maxsize=4)
def _whole_mask(
    length: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    everything = torch.ones(length, length, dtype=torch.bool, device=device)
    hidden = everything.triu(1)
    if window is not None:
        hidden |= everything.tril(-window)
    return torch.zeros(length, length, dtype=dtype, device=device).masked_fill(
        hidden, float("-inf")
    )


class _JoinedRows:
    """Part of a decoder's class: joined rows need no mask.

    Without one, transformers would read from the device whether rows are joined, in each forward
    pass. A mask of four dimensions counts as finished, so an empty one goes to the attention as it is.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the usual output."""
        if kwargs.get("cu_seq_lens_q") is not None and kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = torch.empty(1, 1, 0, 0)
        return super().forward(*args, **kwargs)  # type: ignore[misc]


def use_row_attention(model: Any) -> None:
    """Let a causal language model attend within the rows of a joined batch."""
    AttentionInterface.register(NAME, attend_within_rows)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    extend(model.base_model, _JoinedRows)
