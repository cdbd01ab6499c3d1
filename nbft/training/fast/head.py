"""Head and loss only where a token is learnt, in chunks, the whole logits never made.

The gradient by the hidden states is made in the forward pass, while the chunk of logits is at hand:
d log p(y) / dh = W[y] - softmax(h W') W. A frozen head needs nothing else.

Source: the same idea as cut cross-entropy, arXiv:2411.09009, section 4, in plain torch.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.utils import FusedCausalLMOutput

from nbft.data.tokens import IGNORE_INDEX
from nbft.plan.speed import EXACT_CHUNK_TOKENS, FAST_CHUNK_TOKENS


class _LogProbabilities(torch.autograd.Function):
    """h [n, d], W [v, d], y [n] to log p(y) and whether y is the likeliest token, [n] each."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(targets)
        found = torch.empty(n, dtype=torch.float32, device=hidden.device)
        is_top = torch.empty(n, dtype=torch.bool, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Made once: each chunk of its own would be new memory, which costs more than the sums.
        scores = hidden.new_empty(min(n, FAST_CHUNK_TOKENS), len(weight))
        whole = torch.empty(
            EXACT_CHUNK_TOKENS, len(weight), dtype=torch.float32, device=hidden.device
        )
        for begin in range(0, n, FAST_CHUNK_TOKENS):
            chunk = slice(begin, begin + FAST_CHUNK_TOKENS)
            wanted = targets[chunk, None]
            logits = scores[: len(wanted)]
            torch.mm(hidden[chunk], weight.t(), out=logits)
            for rows, y, p, top in zip(
                *(
                    part.split(EXACT_CHUNK_TOKENS)
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
        if ctx.needs_input_grad[1]:  # a head that is trained: its chunks are made once more
            of_weight = torch.zeros_like(weight, dtype=torch.float32)
            for begin in range(0, len(targets), FAST_CHUNK_TOKENS):
                chunk = slice(begin, begin + FAST_CHUNK_TOKENS)
                shares = (hidden[chunk] @ weight.t()).float().softmax(-1)
                shares.scatter_add_(1, targets[chunk, None], shares.new_full((len(shares), 1), -1))
                shares *= -gradient[chunk]
                of_weight += shares.to(hidden.dtype).t() @ hidden[chunk]
            of_weight = of_weight.to(weight.dtype)
        return of_hidden, of_weight, None


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


def use_label_head(model: Any) -> None:
    """Let `model(..., labels=…, fused_lm_head=True)`, as SFTTrainer calls it, go through here.

    Args:
        model: A causal language model whose head is one matrix without bias, scale or cap.
    """
    usual = model.forward

    def forward(*args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head or labels is None:
            more = {} if labels is None else {"labels": labels}
            return usual(*args, fused_lm_head=fused_lm_head, **more, **kwargs)
        states = model.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state
        targets = labels[:, 1:]
        is_trained = targets != IGNORE_INDEX
        found, is_top = log_probabilities(
            states[:, :-1][is_trained], model.get_output_embeddings().weight, targets[is_trained]
        )
        spread = torch.zeros(targets.shape, dtype=found.dtype, device=found.device)
        spread = spread.masked_scatter(is_trained, found)
        return FusedCausalLMOutput(
            log_probs=spread,
            label_mask=is_trained,
            entropy=torch.zeros_like(spread),
            is_top1=torch.zeros_like(is_trained).masked_scatter(is_trained, is_top),
        )

    model.forward = forward
