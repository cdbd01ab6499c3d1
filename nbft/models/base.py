"""The base class of your own model; register it in `nbft.registry.models`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class BaseModel:
    """Loads a model; inherit from it and register the class under a key for model.model_type.

    @nbft.registry.models.register("mine")
    class Mine(nbft.models.BaseModel): ...
    """

    @classmethod
    def from_pretrained(cls, folder: Path, **arguments: Any) -> Any:
        """Return a torch module whose forward pass takes input_ids and labels and returns a loss.

        Args:
            folder: Folder of model.model_name, with config.json.
            **arguments: dtype and other arguments of transformers' from_pretrained.
        """
        raise NotImplementedError(f"{cls.__name__} does not say how it is loaded.")
