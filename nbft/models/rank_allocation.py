"""AdaLoRA's ranks during training. Called by `nbft.models.peft_types.adalora`.

After each step the importance of every singular value is measured, and the least important ones
become 0, so many that the budget of that step is kept.
Source: AdaLoRA, arXiv:2303.10512, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

_MEASURED = ("ipt", "exp_avg_ipt", "exp_avg_unc")


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


def allocation_state(model: Any) -> dict[str, Any]:
    """Return the importance of the singular values, and which are kept."""
    allocator = getattr(model.base_model, "rankallocator", None)
    if allocator is None:  # a finished adapter is trained further, and its ranks stay
        return {}
    pattern = model.peft_config[allocator.adapter_name].rank_pattern
    return {"rank_pattern": pattern} | {name: getattr(allocator, name) for name in _MEASURED}


def load_allocation(model: Any, state: Mapping[str, Any]) -> None:
    """Put back what `allocation_state` returned."""
    allocator = getattr(model.base_model, "rankallocator", None)
    if allocator is None or "rank_pattern" not in state:
        return
    model.peft_config[allocator.adapter_name].rank_pattern = state["rank_pattern"]
    device = next(model.parameters()).device
    for name in _MEASURED:
        setattr(allocator, name, {key: value.to(device) for key, value in state[name].items()})
