"""The tokenizer of a run, as far as its files tell without transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.errors import Problem
from nbft.models.adapters import base_name
from nbft.models.find import find_local, find_tokenizer, is_hub_name
from nbft.plan.problems import error
from nbft.reading import cached_by_stamp, is_file

_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.*",
    "*.model",
    "*.tiktoken",
    "tekken.json",
)
"""Where a tokenizer is, some of these files are."""

_WITHOUT_DEFAULTS = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that have no end-of-sequence token of their own."""


def read_tokenizer(folder: Path | None) -> Any | None:
    """Return the `tokenizers.Tokenizer` of a folder; None where there is none that can be read."""
    file = (folder or Path()) / "tokenizer.json"
    if folder is None or not is_file(file):
        return None
    found = _read(file)
    return None if isinstance(found, str) else found


@cached_by_stamp(maxsize=4)
def _read(file: Path) -> Any:
    """Return a tokenizer, or why it cannot be read."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more specific
        return next(iter(str(error).splitlines()), "") or type(error).__name__


def tokenizer_problems(config: Config) -> Iterator[Problem]:
    """Yield why the tokenizer of a config could not be loaded, as far as that is known."""
    settings = config.model
    field, fix = "model.model_name", "Name another model, or a tokenizer in model.tokenizer_name."
    changes: dict[str, Any] = {}
    if name := settings.tokenizer_name:
        field, fix = "model.tokenizer_name", "Leave it empty to use the model's own."
        changes = {field: None}
        is_there = Path(name).expanduser().exists()
        if find_local(name) is None and not is_there and not is_hub_name(name):
            why = "is neither a folder with a tokenizer nor a name on the hub (owner/name)."
            yield error(field, why, fix, changes)
            return
    model = find_local(base_name(config), settings.model_revision)
    folder = find_tokenizer(settings, model.path if model else None)
    if folder is None:
        if settings.tokenizer_name and Path(settings.tokenizer_name).expanduser().exists():
            yield error(field, "holds no tokenizer (tokenizer_config.json).", fix, changes)
        return
    if not any(True for pattern in _FILES for _ in folder.glob(pattern)):
        yield error(field, "holds no tokenizer.", fix, changes)
        return
    try:
        about = _about(folder)
    except ValueError as found:
        yield error(
            field, f"has a tokenizer_config.json that cannot be read ({found}).", fix, changes
        )
        return
    file = folder / "tokenizer.json"
    tokenizer = _read(file) if is_file(file) else None
    if isinstance(tokenizer, str):
        yield error(field, f"has a tokenizer.json that cannot be read ({tokenizer}).", fix, changes)
        return
    yield from _special_tokens(config, field, about, tokenizer)


def _special_tokens(
    config: Config, field: str, about: dict[str, Any], tokenizer: Any
) -> Iterator[Problem]:
    given = config.model.tokenizer_kwargs
    pad, own = config.model.pad_token, about.get("pad_token") or about.get("eos_token")
    own = own.get("content") if isinstance(own, dict) else own
    is_known = tokenizer is None or tokenizer.token_to_id(pad or "") is not None
    if pad and not is_known and pad not in str(about) and pad not in str(given):
        why = "is not a token of this model."
        fix = f"Leave it empty to use {own}." if own else ""
        yield error("model.pad_token", why, fix, use=None)
    has_end = about.get("eos_token") or given.get("eos_token")
    if not has_end and about.get("tokenizer_class") in _WITHOUT_DEFAULTS and tokenizer is not None:
        yield error(
            field,
            "has a tokenizer without an end-of-sequence token, so it could not learn to stop.",
            "Name another tokenizer in model.tokenizer_name.",
        )


def _about(folder: Path) -> dict[str, Any]:
    """Return the settings of a tokenizer.

    Raises:
        ValueError: They are not JSON, or something else than an object.
    """
    about: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if is_file(folder / name):
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it is no object")
            about |= found
    return about
