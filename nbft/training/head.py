"""Head and loss where a token is learnt (sparse), and a few tokens at a time (fused), or both.

loss = -Σ log softmax(W h_t)[y_{t+1}] / n over the learnt tokens. Sparse: rows of h whose label is
no target are left out before W. Fused: the logits of 256 tokens at most exist at once, and are made
again for the gradient. Losses and gradients are those of the whole logits.

The model is called as ever, so that autocast, compiling and adapters stay around it; only its head
is told which of its inputs count. Source: Cut Your Losses in Large-Vocabulary Language Models,
arXiv:2411.09009. Called by `nbft.training.extended`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from nbft.config import Config
from nbft.data.tokens import IGNORE_INDEX
from nbft.errors import ModelError, Problem
from nbft.training.fast.head import log_probabilities

_EXTRAS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier")


@contextlib.contextmanager
def _head_sees(head: torch.nn.Module, learnt: torch.Tensor | None, *, skip: bool) -> Iterator[None]:
    """Let a head work on some places alone, or pass the hidden states through.

    Args:
        head: The head.
        learnt: Where the next token is learnt, [b, s]; everywhere when None.
        skip: Return the hidden states themselves.
    """
    usual = head.forward

    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if learnt is not None:
            hidden = hidden[learnt]
        return hidden if skip else usual(hidden, *args, **kwargs)

    head.forward = forward
    try:
        yield
    finally:
        head.forward = usual


def learnt_log_probabilities(
    model: Any, inputs: dict[str, Any], head: Any, *, sparse: bool, fused: bool
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Return the log-probability of each learnt token, whether it is the likeliest, and the rest.

    Args:
        model: Called with the inputs, without their labels.
        inputs: input_ids and labels, [b, s] each, and what else the model takes.
        head: Its head, [d] to [v].
        sparse: Make logits only where a token is learnt.
        fused: Make them a few at a time.
    """
    targets = functional.pad(inputs["labels"], (0, 1), value=IGNORE_INDEX)[:, 1:]
    learnt = targets != IGNORE_INDEX
    rest = {key: value for key, value in inputs.items() if key != "labels"}
    with _head_sees(head, learnt if sparse else None, skip=fused):
        outputs = model(**rest)
    states = outputs.logits if sparse else outputs.logits[learnt]
    wanted = targets[learnt]
    if fused:
        if not sparse:  # all places pass the head, those that are not learnt as well
            every = outputs.logits.flatten(0, 1)
            found, is_top = log_probabilities(every, head.weight, targets.clamp(min=0).flatten())
            return found[learnt.flatten()], is_top[learnt.flatten()], outputs
        found, is_top = log_probabilities(states, head.weight, wanted)
        return found, is_top, outputs
    found = states.float().log_softmax(-1).gather(1, wanted[:, None])[:, 0]
    return found, states.argmax(-1) == wanted, outputs


class OwnHead:
    """Part of a trainer: the loss through `learnt_log_probabilities` while training."""

    nbft_config: Config

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch."""
        trainer: Any = self
        if not trainer.model.training or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        memory = self.nbft_config.memory
        sparse, fused = memory.use_sparse_head_and_loss_fn, memory.use_fused_head_and_loss_fn
        head = trainer.model.get_output_embeddings()
        if fused and not _is_plain(head, trainer.model):
            raise ModelError(_no_plain_head())
        if not hasattr(trainer, "_total_train_tokens"):  # transformers' Trainer
            found, _, _ = learnt_log_probabilities(model, inputs, head, sparse=sparse, fused=fused)
            many = len(found) if num_items_in_batch is None else num_items_in_batch
            return -found.sum() / torch.as_tensor(many).clamp(min=1)

        def called(fused_lm_head: bool = False, **inputs: Any) -> Any:
            from trl.trainer.utils import FusedCausalLMOutput

            found, is_top, _ = learnt_log_probabilities(
                model, inputs, head, sparse=sparse, fused=fused
            )
            return FusedCausalLMOutput(
                log_probs=found,
                label_mask=torch.ones_like(is_top),
                entropy=torch.zeros_like(found),
                is_top1=is_top,
            )

        return super().compute_loss(called, inputs, False, num_items_in_batch)  # type: ignore[misc]


def _is_plain(head: Any, model: Any) -> bool:
    scales = any(getattr(model.config, name, None) not in (None, 1, 1.0) for name in _EXTRAS)
    return type(head) is torch.nn.Linear and getattr(head, "bias", None) is None and not scales


def _no_plain_head() -> Problem:
    return Problem(
        "memory.use_fused_head_and_loss_fn",
        True,
        "needs a head that is one matrix without bias, adapter, scale or cap.",
        "Use use_sparse_head_and_loss_fn.",
        {
            "memory.use_fused_head_and_loss_fn": False,
            "memory.use_sparse_head_and_loss_fn": True,
        },
    )
