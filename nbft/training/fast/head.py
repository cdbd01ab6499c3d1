"""Head and loss for trained tokens only (sparse), and a few tokens at a time (fused).

loss = -Σ log softmax(W h_t)[y_{t+1}] / n over the n trained tokens. Sparse: positions without a
target never reach W. Fused: logits of at most 256 tokens exist at once, on a GPU a GiB of them, and
the gradient of the hidden states is computed in the forward pass while they exist:
d log p(y) / dh = W[y] - softmax(h W') W. Losses and gradients equal those of the full logits.

Source: Cut Your Losses in Large-Vocabulary Language Models, arXiv:2411.09009, section 4, in plain
torch. Called by `nbft.training.trainer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast
from trl.trainer.utils import FusedCausalLMOutput

from nbft.decisions import EXACT_CHUNK_TOKENS, FAST_CHUNK_TOKENS, GPU_LOGITS_BYTES, HEAD_EXTRAS
from nbft.errors import ModelError, Problem
from nbft.methods import IGNORE_INDEX
from nbft.models.subclass import extend


class _LogProbabilities(torch.autograd.Function):
    """h [n, d], W [v, d], y [n] to log p(y) and whether y is the likeliest token, [n] each."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n, (chunk_tokens, exact_tokens) = len(targets), _chunks(weight)
        found = torch.empty(n, dtype=torch.float32, device=hidden.device)
        is_top = torch.empty(n, dtype=torch.bool, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Allocated once: new memory for each chunk would cost more than the computation.
        scores = hidden.new_empty(min(n, chunk_tokens), len(weight))
        whole = torch.empty(
            min(n, exact_tokens), len(weight), dtype=torch.float32, device=hidden.device
        )
        for begin in range(0, n, chunk_tokens):
            chunk = slice(begin, begin + chunk_tokens)
            wanted = targets[chunk, None]
            logits = scores[: len(wanted)]
            torch.mm(hidden[chunk], weight.t(), out=logits)
            for rows, y, p, top in zip(
                *(
                    part.split(exact_tokens)
                    for part in (logits, wanted, found[chunk], is_top[chunk])
                ),
                strict=True,
            ):
                most, at_target = rows.amax(-1, keepdim=True), rows.gather(1, y)
                torch.ge(at_target, most, out=top[:, None])
                shares = whole[: len(rows)].copy_(rows)
                torch.softmax(shares, -1, out=shares)
                # The largest share is exp(most - log of the sum of exp), and never underflows.
                largest = shares.amax(-1, keepdim=True)
                p[:, None] = at_target.float() - most.float() + largest.log()
                if slope is not None:
                    shares.scatter_add_(1, y, shares.new_full((len(rows), 1), -1))
                    rows.copy_(shares)
            if slope is not None:
                torch.mm(logits, weight, out=slope[chunk])
        ctx.save_for_backward(slope, hidden, weight, targets)
        ctx.mark_non_differentiable(is_top)
        return found, is_top

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slope, hidden, weight, targets = ctx.saved_tensors
        gradient = gradients[0][:, None]
        of_hidden = None if slope is None else slope * gradient.neg().to(slope.dtype)
        of_weight = None
        if ctx.needs_input_grad[1]:  # a trained head: its chunks are recomputed
            of_weight = torch.zeros_like(weight, dtype=torch.float32)
            chunk_tokens, _ = _chunks(weight)
            for begin in range(0, len(targets), chunk_tokens):
                chunk = slice(begin, begin + chunk_tokens)
                shares = (hidden[chunk] @ weight.t()).float().softmax(-1)
                shares.scatter_add_(1, targets[chunk, None], shares.new_full((len(shares), 1), -1))
                shares *= -gradient[chunk]
                of_weight += shares.to(hidden.dtype).t() @ hidden[chunk]
            of_weight = of_weight.to(weight.dtype)
        return of_hidden, of_weight, None


def _chunks(weight: torch.Tensor) -> tuple[int, int]:
    """Return of how many tokens the logits exist at a time, and of how many those in float32.

    A CPU is fastest with what stays in its cache, a GPU with few, large kernels.
    """
    if weight.device.type == "cpu":
        return FAST_CHUNK_TOKENS, EXACT_CHUNK_TOKENS
    tokens = max(FAST_CHUNK_TOKENS, GPU_LOGITS_BYTES // (4 * len(weight)))
    return tokens, tokens


def log_probabilities(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each target, and whether it is the likeliest, [n] each.

    Args:
        hidden: Last hidden states, [n, d].
        weight: Weight of the head, [v, d].
        targets: Token ids, [n].
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    return _LogProbabilities.apply(hidden, weight, targets)  # type: ignore[no-any-return]


class LossHead:
    """Part of a causal language model's class: the loss of labels, without the full logits.

    SFTTrainer calls the model with `fused_lm_head=True` and computes the loss from
    log-probabilities; transformers' Trainer gets the loss itself during training. All other calls
    are unchanged.

    Attributes:
        is_sparse: Skip positions without a target.
        is_fused: Compute the logits a few at a time.
    """

    is_sparse = True
    is_fused = True

    def forward(
        self,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Any = None,
        num_items_in_batch: Any = None,
        trained_positions: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the log-probabilities of the labels, their loss, or the model's usual output.

        `trained_positions` are those of `nbft.training.fast.batches`; read from the labels when None.
        """
        model: Any = self
        if labels is None or not (fused_lm_head or model.training):
            more = {"labels": labels, "num_items_in_batch": num_items_in_batch}
            given = {name: value for name, value in more.items() if value is not None}
            return super().forward(*args, **given, **kwargs)  # type: ignore[misc]
        kwargs["use_cache"] = False
        targets = labels[:, 1:]
        is_trained = targets != IGNORE_INDEX
        at = trained_positions
        if at is None:
            at = is_trained.flatten().nonzero()[:, 0]
        if self.is_fused:
            found, is_top = self._fused(targets, at, args, kwargs)
        else:
            found, is_top = self._sparse(targets, at, args, kwargs)
        if not fused_lm_head:
            number = len(found) if num_items_in_batch is None else num_items_in_batch
            return CausalLMOutputWithPast(loss=-found.sum() / torch.as_tensor(number).clamp(min=1))
        spread = torch.zeros(targets.shape, dtype=found.dtype, device=found.device)
        spread = spread.masked_scatter(is_trained, found)
        return FusedCausalLMOutput(
            log_probs=spread,
            label_mask=is_trained,
            entropy=torch.zeros_like(spread),  # not computed; the trainer does not log it
            is_top1=torch.zeros_like(is_trained).masked_scatter(is_trained, is_top),
        )

    def _fused(
        self, targets: torch.Tensor, at: torch.Tensor, args: Any, kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log p(y) and whether y is the likeliest token, [n] each, from hidden states."""
        model: Any = self
        states = model.base_model(*args, **kwargs).last_hidden_state[:, :-1].flatten(0, 1)
        weight, wanted = model.get_output_embeddings().weight, targets.flatten()
        if self.is_sparse:
            return log_probabilities(states[at], weight, wanted[at])
        found, is_top = log_probabilities(states, weight, wanted.clamp(min=0))
        return found[at], is_top[at]

    def _sparse(
        self, targets: torch.Tensor, at: torch.Tensor, args: Any, kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same from the model's logits, which it may scale or cap."""
        model: Any = self
        head = model.get_output_embeddings()
        with _only(head, lambda states: states[:, :-1].flatten(0, 1)[at]):
            logits = super().forward(*args, **kwargs).logits  # type: ignore[misc]
        wanted = targets.flatten()[at]
        found = logits.float().log_softmax(-1).gather(1, wanted[:, None])[:, 0]
        return found, logits.argmax(-1) == wanted


@contextlib.contextmanager
def _only(head: torch.nn.Module, pick: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Apply a head to some of the hidden states [b, s, d]."""
    handle = head.register_forward_pre_hook(lambda _, args: (pick(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def use_loss_head(model: Any, *, sparse: bool, fused: bool) -> None:
    """Let a causal language model compute its loss with `LossHead`.

    Args:
        model: The model, without an adapter around it.
        sparse: Skip positions without a target.
        fused: Compute the logits a few at a time; needs a head that is one matrix.

    Raises:
        ModelError: Fused, and the head is more than one matrix.
    """
    if fused and not _is_plain(model.get_output_embeddings(), model):
        memory = "memory.use_fused_head_and_loss_fn", "memory.use_sparse_head_and_loss_fn"
        why = "needs a head that is one matrix without bias, adapter, scale or cap."
        changes = dict(zip(memory, (False, True), strict=True))
        fix = "Use use_sparse_head_and_loss_fn."
        raise ModelError(Problem(memory[0], True, why, fix, changes))
    # SFTTrainer has set a forward on the instance, which would take precedence over the class.
    vars(model).pop("forward", None)
    extend(model, LossHead)
    model.is_sparse, model.is_fused = sparse, fused


def _is_plain(head: Any, model: Any) -> bool:
    scales = any(getattr(model.config, name, None) not in (None, 1, 1.0) for name in HEAD_EXTRAS)
    return type(head) is torch.nn.Linear and getattr(head, "bias", None) is None and not scales


class TokenHead:
    """Part of a causal language model's class: the log-probabilities of given tokens only.

    Attributes:
        is_fused: Compute the logits a few at a time.
    """

    is_fused: bool

    def forward(
        self,
        *args: Any,
        places: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return log p of each target at its place, [n], or the model's usual output.

        `places` are those of the hidden states [b, s] that predict the targets, flattened.
        """
        model: Any = self
        if places is None or targets is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        kwargs["use_cache"] = False
        if self.is_fused:
            states = model.base_model(*args, **kwargs).last_hidden_state.flatten(0, 1)[places]
            return log_probabilities(states, model.get_output_embeddings().weight, targets)[0]
        with _only(model.get_output_embeddings(), lambda states: states.flatten(0, 1)[places]):
            logits = super().forward(*args, **kwargs).logits  # type: ignore[misc]
        return logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


def use_token_head(model: Any, *, fused: bool) -> None:
    """Let a causal language model compute the log-probabilities of given tokens with `TokenHead`.

    Args:
        model: The model, without an adapter around it.
        fused: Compute the logits a few at a time, where the head is one matrix.
    """
    extend(model, TokenHead)
    model.is_fused = fused and _is_plain(model.get_output_embeddings(), model)
