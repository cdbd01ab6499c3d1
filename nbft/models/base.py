"""The base class of a model of your own, which `nbft.registry.models` knows by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class BaseModel:
    """How a model is loaded; inherit, and register the class under the key of model.model_type.

    @nbft.registry.models.register("mine")
    class Mine(nbft.models.BaseModel): ...
    """

    @classmethod
    def from_pretrained(cls, folder: Path, **arguments: Any) -> Any:
        """Return a torch module whose forward pass takes input_ids and labels and gives a loss.

        Args:
            folder: The folder that model.model_name stands for; holds config.json.
            **arguments: dtype, and what else the settings ask of transformers' from_pretrained.
        """
        raise NotImplementedError(f"{cls.__name__} does not say how it is loaded.")
