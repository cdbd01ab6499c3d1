"""Adapters that exist already: where one lies, and what its files say. Loads no library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.errors import ModelError, Problem
from nbft.models.find import find_local, find_model


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter on this machine.

    Attributes:
        path: Folder with adapter_config.json and the weights.
        field: The setting that named it.
        about: What adapter_config.json says.
    """

    path: Path
    field: str
    about: dict[str, Any]

    @property
    def method(self) -> str:
        """How it was made, as peft.method writes it."""
        return str(self.about.get("peft_type", "")).lower()

    @property
    def base(self) -> str | None:
        """Name of the model that it belongs to, as its maker wrote it."""
        return self.about.get("base_model_name_or_path")


def adapter_of(
    config: Config, find: Callable[[str], Path | None] | None = None
) -> FoundAdapter | None:
    """Return the adapter that a run goes on training, or None where it begins a new one.

    Args:
        config: Its model section says which.
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
    """Return the name of the base model: model_name, or what the adapter of that name is for."""
    found = adapter_of(config)
    if found is not None and found.field == "model.model_name" and found.base:
        return found.base
    return config.model.model_name


def fetch_adapter(config: Config, say: Callable[[str], None]) -> FoundAdapter | None:
    """Return the adapter to go on with, fetched from the hub where it is not here.

    Raises:
        ModelError: The adapter that was asked for is nowhere.
    """

    def find(name: str) -> Path | None:
        return find_model(name, say=say).path

    found = adapter_of(config, find)
    if found is None and config.model.adapter_name_or_path:
        raise ModelError(
            Problem(
                "model.adapter_name_or_path",
                config.model.adapter_name_or_path,
                "holds no adapter_config.json.",
                "Name the folder of an adapter.",
            )
        )
    return found


def load_adapter(model: Any, found: FoundAdapter) -> Any:
    """Put an adapter on its base model, ready to be trained on.

    Raises:
        ModelError: It does not fit the model.
    """
    import peft

    try:
        return peft.PeftModel.from_pretrained(model, str(found.path), is_trainable=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ModelError(
            Problem(
                found.field,
                str(found.path),
                f"does not fit the model ({type(error).__name__}: {reason[:200]}).",
                f"It was made for {found.base}." if found.base else "Name another adapter.",
            )
        ) from error


def _local(name: str) -> Path | None:
    found = find_local(name)
    return found.path if found else None
