"""Loading a model and its tokenizer from a folder. Called by `nbft.training` and `nbft.runs`."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.errors import ModelError, Problem


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and advice of transformers and datasets off the screen.

    Text from a training thread lands in whatever cell is running, so what these libraries say
    goes to the run's log instead.
    """
    import datasets
    from transformers.utils import logging as transformers_logging

    handler_was_on = transformers_logging._default_handler is not None
    bars_were_on = transformers_logging.is_progress_bar_enabled()
    datasets_bars_were_on = not datasets.are_progress_bars_disabled()
    root = logging.getLogger("transformers")
    handlers, propagate = root.handlers[:], root.propagate
    root.handlers, root.propagate = [], True
    # PEFT still uses the old name; a person can do nothing about it.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        root.handlers, root.propagate = handlers, propagate
        if bars_were_on and handler_was_on:
            transformers_logging.enable_progress_bar()
        if datasets_bars_were_on:
            datasets.enable_progress_bars()


def load_tokenizer(config: Config, folder: Path, base: Path | None = None) -> Any:
    """Return the tokenizer, with a padding token and the chosen chat template.

    Args:
        config: Its model section says which.
        folder: Folder of the model.
        base: Folder of the config file, for relative paths.

    Raises:
        ModelError: The folder holds no tokenizer, or a setting does not fit it.
    """
    from transformers import AutoTokenizer

    from nbft.models.find import find_model

    settings = config.model
    if settings.tokenizer_name:
        folder = find_model(settings.tokenizer_name, say=lambda _: None).path
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:
        raise ModelError(_cannot_load("tokenizer", settings.model_name, error)) from error
    if settings.pad_token:
        if settings.pad_token not in tokenizer.get_vocab():
            raise ModelError(
                Problem(
                    "model.pad_token",
                    settings.pad_token,
                    "is no token of this model.",
                    f"Leave it empty to use {tokenizer.pad_token or tokenizer.eos_token}.",
                )
            )
        tokenizer.pad_token = settings.pad_token
    if tokenizer.eos_token is None:
        raise ModelError(
            Problem(
                "model.model_name",
                settings.model_name,
                "has a tokenizer without an end-of-sequence token, so it could not learn to stop.",
                "Name another tokenizer in model.tokenizer_name.",
            )
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if settings.chat_template_path:
        path = (base or Path()) / settings.chat_template_path
        try:
            tokenizer.chat_template = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ModelError(
                Problem(
                    "model.chat_template_path",
                    settings.chat_template_path,
                    f"cannot be read: {(error.strerror or str(error)).lower()}.",
                    "Name a file with a Jinja template.",
                )
            ) from None
    return tokenizer


def load_model(config: Config, folder: Path, dtype: str) -> Any:
    """Return the base model in evaluation mode, on the CPU.

    Args:
        config: Its model section says how.
        folder: Folder of the model.
        dtype: "bfloat16", "float16" or "float32".

    Raises:
        ModelError: The weights cannot be loaded.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = config.model
    arguments: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "trust_remote_code": settings.trust_remote_code,
        **settings.model_init_kwargs,
    }
    if settings.attn_implementation:
        arguments["attn_implementation"] = settings.attn_implementation
    try:
        if settings.load_pretrained_weights:
            return AutoModelForCausalLM.from_pretrained(folder, **arguments)
        shape = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
        torch.manual_seed(config.training.seed)
        return AutoModelForCausalLM.from_config(shape, **arguments)
    except Exception as error:
        raise ModelError(_cannot_load("model", settings.model_name, error)) from error


def _cannot_load(what: str, name: str, error: Exception) -> Problem:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return Problem(
        "model.model_name",
        name,
        f"the {what} cannot be loaded ({type(error).__name__}: {reason[:200]}).",
        "The whole message is in log.txt.",
    )
