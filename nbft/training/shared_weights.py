"""One copy of a base model's weights for several trainings of one process.

Each gets modules of its own, so what is added to them or changed in them stays its own; only the
numbers of the frozen weights are shared. Called by `nbft.training.racing`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from nbft.config import Config
from nbft.models.load import load_model, place
from nbft.runs.race import shares_weights
from nbft.runs.sides import weights_key


class SharedWeights:
    """Loads base models, those of trainings that leave them as they are once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Any] = {}

    def load(
        self, config: Config, folder: Path, dtype: str, device: str, *, scores_answers: bool
    ) -> Any:
        """Return a base model on its device; arguments and errors as in `load_model`."""
        how = {"scores_answers": scores_answers}
        if not shares_weights(config):
            return load_model(config, folder, dtype, device, **how)
        as_new = config.apply({"model.adapter_name_or_path": None})
        key = (*weights_key(as_new), str(folder), dtype, device, scores_answers)
        if key not in self._kept:
            before = torch.get_rng_state()
            model = place(load_model(config, folder, dtype, device, **how), device)
            is_drawn = not torch.equal(before, torch.get_rng_state())
            if is_drawn or any(hasattr(layer, "_hf_hook") for layer in model.modules()):
                return model  # its weights are those of this seed, or its modules cannot be copied
            self._kept[key] = model
        return with_same_weights(self._kept[key])


def with_same_weights(model: Any) -> Any:
    """Return a copy of a model that shares the memory of its parameters; its buffers are copied."""
    shared: dict[int, Any] = {}
    for one in model.parameters():
        is_usual = type(one) is torch.nn.Parameter  # others hold integers, which nobody trains
        shared[id(one)] = torch.nn.Parameter(one.detach(), one.requires_grad) if is_usual else one
    return copy.deepcopy(model, shared)
