"""Loading a model and its tokenizer from a folder. Called by `nbft.training` and `nbft.runs`."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.config.code import MODEL_CODE, forbidden
from nbft.config.model import Model
from nbft.errors import ModelError, Problem
from nbft.hardware import available_devices
from nbft.models.classifiers import HEAD
from nbft.models.find import find_model, find_tokenizer, first_line
from nbft.models.templates import chosen_template

IMPORTING = threading.RLock()
"""Held while transformers is imported: it replaces itself meanwhile, so a second thread importing it
would get half a module and an ImportError."""


_QUIET = threading.Lock()
_quiet_depth = 0
_loud = contextlib.ExitStack()  # restores the output when the last thread is done


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and advice of transformers and datasets off the screen.

    Text from a training thread lands in whatever cell is running, so it goes to the run's log
    instead. Several threads may be quiet at once; the last one restores everything.
    """
    global _quiet_depth
    with IMPORTING:
        import datasets  # noqa: F401
        import transformers.utils.logging  # noqa: F401
    with _QUIET:
        if not _quiet_depth:
            _silence(_loud)
        _quiet_depth += 1
        logger = logging.getLogger("transformers")
        logger.propagate = not logger.handlers  # the remaining ones write a run's log
    try:
        yield
    finally:
        with _QUIET:
            _quiet_depth -= 1
            if not _quiet_depth:
                _loud.close()


def _silence(undo: contextlib.ExitStack) -> None:
    """Turn bars and advice off, and add to `undo` what turns them on again."""
    import datasets
    from transformers.utils import logging as transformers_logging

    own = transformers_logging._default_handler
    if own is not None and transformers_logging.is_progress_bar_enabled():
        undo.callback(transformers_logging.enable_progress_bar)
    if not datasets.are_progress_bars_disabled():
        undo.callback(datasets.enable_progress_bars)
    root = logging.getLogger("transformers")
    if own in root.handlers:
        undo.callback(root.addHandler, own)
        root.removeHandler(own)
    undo.callback(setattr, root, "propagate", root.propagate)
    # PEFT still uses the old name; users can do nothing about it.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


def tokenizer_source(config: Config) -> tuple[str, str | None]:
    """Return the name and the revision of the model whose tokenizer is used."""
    settings = config.model
    if settings.tokenizer_name:
        return settings.tokenizer_name, None
    return settings.model_name, settings.model_revision


def tokenizer_for_display(config: Config, folder: Path, base: Path | None = None) -> Any:
    """Return the tokenizer, which takes rows of any length without a warning; loads no weights.

    Arguments and errors as in `load_tokenizer`.
    """
    with IMPORTING, contextlib.suppress(ImportError):
        # If another thread is importing it, the first import waits for that and fails.
        from transformers import AutoTokenizer  # noqa: F401
    tokenizer = load_tokenizer(config, folder, base)
    tokenizer.model_max_length = 2**62
    return tokenizer


def load_tokenizer(config: Config, folder: Path, base: Path | None = None) -> Any:
    """Return the tokenizer, with a padding token and the chosen chat template.

    Args:
        config: Its model section applies.
        folder: Folder of the model.
        base: Folder of the config file, for relative paths.

    Raises:
        ModelError: The folder holds no tokenizer, or a setting does not fit it.
    """
    with IMPORTING:
        from transformers import AutoTokenizer

    settings = config.model
    folder = find_tokenizer(settings, folder) or _fetch_tokenizer(settings.tokenizer_name or "")
    _check_consent(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, **{"trust_remote_code": settings.trust_remote_code, **settings.tokenizer_kwargs}
        )
    except Exception as error:
        raise ModelError(_cannot_load("tokenizer", *_names_tokenizer(settings), error)) from error
    if settings.pad_token:
        if settings.pad_token not in tokenizer.get_vocab():
            why = "is not a token of this model."
            fix = f"Leave it empty to use {tokenizer.pad_token or tokenizer.eos_token}."
            raise ModelError(Problem("model.pad_token", settings.pad_token, why, fix))
        tokenizer.pad_token = settings.pad_token
    if tokenizer.eos_token is None:
        why = "has a tokenizer without an end-of-sequence token, so it could not learn to stop."
        fix = "Name another tokenizer in model.tokenizer_name."
        raise ModelError(Problem(*_names_tokenizer(settings), why, fix))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if template := chosen_template(settings, base):
        tokenizer.chat_template = template
    return tokenizer


def _fetch_tokenizer(name: str) -> Path:
    """Return the folder of a tokenizer that is not on this machine yet.

    Raises:
        ModelError: It cannot be found.
    """
    try:
        return find_model(name, say=lambda _: None).path
    except ModelError as error:
        field, fix = "model.tokenizer_name", "Leave it empty to use the model's own."
        whys = [getattr(problem, "why", str(problem)) for problem in error.problems]
        problems = [Problem(field, name, why, fix, {field: None}) for why in whys]
        raise ModelError(problems) from error


def _names_tokenizer(settings: Model) -> tuple[str, str]:
    """Return the setting that names the tokenizer, and its value."""
    if settings.tokenizer_name:
        return "model.tokenizer_name", settings.tokenizer_name
    return "model.model_name", settings.model_name


def _check_consent(config: Config) -> None:
    """Refuse to run code that comes with a model unless its user has agreed."""
    if problems := [code.problem for code in forbidden(config) if code.setting == MODEL_CODE]:
        raise ModelError(problems)


def load_model(
    config: Config,
    folder: Path,
    dtype: str,
    device: str = "cpu",
    *,
    for_answers: bool = False,
    scores_answers: bool = False,
) -> Any:
    """Return the base model in evaluation mode, on the CPU or where its settings put it.

    Args:
        config: Its model and quantization sections apply.
        folder: Folder of the model.
        dtype: "bfloat16", "float16", "float32" or "float64".
        device: The chosen device.
        for_answers: Whether it will only answer, which is faster in 4 bits, and never be trained.
        scores_answers: Whether it gives an answer one score instead of writing it. Its head is new
            and random where the weights have none.

    Raises:
        ModelError: The weights cannot be loaded.
    """
    import torch

    from nbft.models.quantize import quantize

    _check_consent(config)
    settings = config.model
    arguments = {**model_arguments(config, dtype, device), "dtype": getattr(torch, dtype)}
    try:
        if settings.model_type != "hf":
            model = registry.models.get(settings.model_type).from_pretrained(folder, **arguments)
        else:
            model = _of_transformers(config, folder, arguments, scores_answers=scores_answers)
    except Exception as error:
        problem = _cannot_load("model", "model.model_name", settings.model_name, error)
        raise ModelError(problem) from error
    quantize(model, config, for_answers=for_answers)
    if dtype == "float16" and settings.model_type == "hf":
        from nbft.models.float16 import sum_in_float32

        sum_in_float32(model)
    if settings.attention_dropout is not None or settings.hidden_dropout is not None:
        from nbft.models.dropout import set_dropout

        try:
            set_dropout(model, settings.attention_dropout, settings.hidden_dropout)
        except ValueError as error:
            name = "hidden" if settings.attention_dropout is None else "attention"
            value = getattr(settings, f"{name}_dropout")
            why = f"cannot be set in this model: {error}."
            problem = Problem(f"model.{name}_dropout", value, why, "Leave it empty.")
            raise ModelError(problem) from None
    return model


def model_arguments(config: Config, dtype: str, device: str) -> dict[str, Any]:
    """Return the arguments of from_pretrained except dtype, as plain values.

    quantization_config holds the arguments of BitsAndBytesConfig.
    """
    from nbft.models.quantize import bitsandbytes_arguments

    settings = config.model
    arguments: dict[str, Any] = {
        "trust_remote_code": settings.trust_remote_code,
        **settings.model_init_kwargs,
    }
    if settings.attn_implementation:
        arguments["attn_implementation"] = settings.attn_implementation
    if settings.device_map:  # keeps a run on the CPU off an existing GPU
        stays = device == "cpu" and len(available_devices()) > 1
        arguments["device_map"] = {"": "cpu"} if stays else settings.device_map
    if quantized := bitsandbytes_arguments(config, dtype):
        arguments["quantization_config"] = quantized
        arguments.setdefault("device_map", {"": device})
    return arguments


def place(model: Any, device: str) -> Any:
    """Move a model to a device, unless loading placed it already."""
    import torch

    return model if getattr(model, "hf_device_map", None) else model.to(torch.device(device))


def _of_transformers(
    config: Config, folder: Path, arguments: dict[str, Any], *, scores_answers: bool
) -> Any:
    """Load with the chosen Auto class, or build the same architecture with random weights."""
    import torch
    import transformers

    kind = getattr(transformers, config.model.auto_class_name)
    how = arguments.get("quantization_config")
    if scores_answers:
        kind = transformers.AutoModelForSequenceClassification
        how = how and {**how, "llm_int8_skip_modules": [HEAD]}
    if how:
        arguments = {**arguments, "quantization_config": transformers.BitsAndBytesConfig(**how)}
    if config.model.load_pretrained_weights:
        labels = {"num_labels": 1} if scores_answers else {}
        model = kind.from_pretrained(folder, **arguments, **labels)
    else:
        trust = config.model.trust_remote_code
        shape = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        if scores_answers:
            shape.num_labels = 1
        torch.manual_seed(config.training.seed)
        arguments.pop("device_map", None)
        model = kind.from_config(shape, **arguments)
    if scores_answers:
        from nbft.models.reward_head import use_reward_head

        use_reward_head(model)
    return model


def _cannot_load(what: str, field: str, name: str, error: Exception) -> Problem:
    why = f"the {what} cannot be loaded ({first_line(error)})."
    return Problem(field, name, why, "The whole message is in log.txt.")
