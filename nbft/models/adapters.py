"""Existing adapters: finding one and reading its config. Loads no library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.errors import ModelError, Problem
from nbft.models.find import find_local, find_model, first_line

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Files that hold the weights of an adapter, one of the two."""


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter on this machine.

    Attributes:
        path: Folder with adapter_config.json and the weights.
        field: The setting that named it.
        about: Contents of adapter_config.json.
    """

    path: Path
    field: str
    about: dict[str, Any]

    @property
    def method(self) -> str:
        """Its kind, as in peft.method."""
        return str(self.about.get("peft_type", "")).lower()

    @property
    def targets(self) -> list[str] | str:
        """Names of its layers, or a pattern for them."""
        asked = self.about.get("target_modules")
        return asked if isinstance(asked, str) else _texts(asked)

    @property
    def modules_to_save(self) -> list[str]:
        """Names of the layers that it has in full."""
        return _texts(self.about.get("modules_to_save"))

    @property
    def base(self) -> str | None:
        """Name of its base model, as written in its config."""
        return self.about.get("base_model_name_or_path")


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def adapter_of(
    config: Config, find: Callable[[str], Path | None] | None = None
) -> FoundAdapter | None:
    """Return the adapter that a run continues to train, or None for a new one.

    Args:
        config: Its model section names the adapter.
        find: Finds a folder by name; looks on this machine only when None.
    """
    find = find or _local
    if config.model.adapter_name_or_path:
        field, name = "model.adapter_name_or_path", config.model.adapter_name_or_path
    else:
        field, name = "model.model_name", config.model.model_name
        find = _local
    folder = find(name)
    if folder is None or (field == "model.model_name" and (folder / "config.json").is_file()):
        return None
    try:
        about = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return FoundAdapter(folder, field, about) if isinstance(about, dict) else None


def base_name(config: Config) -> str:
    """Return the name of the base model: model_name, or the base of the adapter of that name."""
    adapter = adapter_of(config)
    if adapter is not None and adapter.field == "model.model_name" and adapter.base:
        return adapter.base
    return config.model.model_name


def fetch_adapter(config: Config, say: Callable[[str], None]) -> FoundAdapter | None:
    """Return the adapter to continue with, downloaded from the hub if it is not on this machine.

    Raises:
        ModelError: The adapter cannot be found.
    """
    adapter = adapter_of(config, lambda name: find_model(name, say=say).path)
    if adapter is None and (name := config.model.adapter_name_or_path):
        why, fix = "holds no adapter_config.json.", "Name the folder of an adapter."
        raise ModelError(Problem("model.adapter_name_or_path", name, why, fix))
    return adapter


def with_adapter(model: Any, folder: Path, *, is_trainable: bool = False) -> Any:
    """Return a base model with a saved adapter."""
    import peft

    from nbft.models.peft_types import peft_types

    changes_rows = peft.PeftConfig.from_pretrained(str(folder)).is_prompt_learning
    now = is_trainable and not changes_rows  # PEFT refuses to train loaded virtual tokens
    adapted = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=now)
    (about,) = adapted.peft_config.values()
    if is_trainable and changes_rows:
        about.inference_mode = False
        adapted.prompt_encoder.requires_grad_(True)
    found_type = str(getattr(about.peft_type, "value", about.peft_type)).lower()
    kind = peft_types().get(found_type)
    if kind is not None and kind.fit_types(adapted):
        weights = peft.utils.load_peft_weights(str(folder), device="cpu")
        peft.set_peft_model_state_dict(adapted, weights)  # they were rounded
    return adapted


def can_switch_off(model: Any) -> bool:
    """Whether a model with an adapter has its base model within; trained biases replace the base's."""
    about = getattr(model, "peft_config", {}).values()
    return bool(about) and all(getattr(one, "bias", "none") == "none" for one in about)


def load_adapter(model: Any, found: FoundAdapter) -> Any:
    """Put an adapter on its base model, ready to be trained on.

    Raises:
        ModelError: It does not fit the model.
    """
    try:
        return with_adapter(model, found.path, is_trainable=True)
    except Exception as error:
        why = f"does not fit the model ({first_line(error)})."
        fix = f"It was made for {found.base}." if found.base else "Name another adapter."
        raise ModelError(Problem(found.field, str(found.path), why, fix)) from error


def _local(name: str) -> Path | None:
    found = find_local(name)
    return found.path if found else None
