"""AdaLoRA's ranks during training. Called by `nbft.models.peft_types.adalora`.

After each step the importance of every singular value is measured, and the least important ones
become 0, so many that the budget of that step is kept.
Source: AdaLoRA, arXiv:2303.10512, section 3.
"""

from __future__ import annotations

from typing import Any

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
