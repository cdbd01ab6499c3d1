"""AdaLoRA's ranks and its loss during training. Called by `nbft.models.peft_types.adalora`.

After each step the importance of every singular value is measured, and the least important ones
become 0, so many that the budget of that step is kept.
Source: AdaLoRA, arXiv:2303.10512, section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback


class RankAllocation(TrainerCallback):
    """Moves the ranks while the gradients of the step still exist.

    Args:
        model: PEFT's model.
    """

    def __init__(self, model: Any) -> None:
        self._tuner = model.base_model

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep to the budget of this step, which the state does not count yet."""
        self._tuner.update_and_allocate(state.global_step + 1)


def keep_orthogonal(trainer: Any, weight: float) -> None:
    """Add the orthogonality of A and B to the loss of each training step.

    weight / n sum over the n matrices of ||A A' - I|| and ||B' B - I||, with Frobenius norms. PEFT adds
    it to the loss that the model returns, which TRL does not use, and to that of held-out rows.

    Args:
        trainer: Its model has an adapter of AdaLoRA.
        weight: Weight of the term.
    """
    matrices = [
        (p, ".lora_A." in name)
        for name, p in trainer.model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    ]
    for asked in trainer.model.peft_config.values():
        asked.orth_reg_weight = 0.0
    usual = trainer.compute_loss

    def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        found = usual(model, inputs, *args, **kwargs)
        if not model.training or not weight:
            return found
        products = [p @ p.T if is_a else p.T @ p for p, is_a in matrices]
        norms = [torch.norm(one - torch.eye(len(one), device=one.device)) for one in products]
        term = weight * torch.stack(norms).mean()
        if kwargs.get("num_items_in_batch") is not None:  # else the trainer divides the whole loss
            term = term / trainer.current_gradient_accumulation_steps
        return (found[0] + term, *found[1:]) if isinstance(found, tuple) else found + term

    trainer.compute_loss = compute_loss
