"""The trained model of a run: loaded with its adapter apart, and merged into one plain model.

Called by `nbft.export.exporting`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.decisions import decide
from nbft.errors import RunError
from nbft.hardware import free_memory_bytes, release_memory
from nbft.models.adapters import with_adapter
from nbft.reading import read_bytes
from nbft.runs.folder import Run, load_base, load_tuned

_CONFIG_BYTES = 10_000_000
_FLOAT32_BYTES = 4 * 2
"""Needed for each parameter to compute in float32: the weights, and room to merge and save them."""


@dataclass
class Trained:
    """The model that a run has trained.

    Attributes:
        run: The run.
        model: The model, with its adapter apart until `merge` has been called.
        tokenizer: Its tokenizer.
        dtype: Number type in which it computes.
        stored_dtype: Number type of the base model's files.
        ends: Tokens that end an answer.
        device: Where it computes.
        parameters: Its parameters.
    """

    run: Run
    model: Any
    tokenizer: Any
    dtype: str
    stored_dtype: str
    ends: list[int]
    device: Any
    parameters: int

    @property
    def has_adapter(self) -> bool:
        """Whether the adapter is apart from the weights of the base model."""
        import peft

        return isinstance(self.model, peft.PeftModel)


def load_trained(run: Run) -> Trained:
    """Load the model of a run as it was trained, in float32 where there is room for it.

    In float32, what differs after an export is what the export has changed, and not the rounding of
    each product.

    Raises:
        RunError: The run has no adapter yet.
        ModelError: The base model or its files cannot be loaded.
    """
    decisions = decide(run.config)
    dtype = decisions.dtype.value
    parameters = run.state.prepared.get("total_parameters")
    if parameters and parameters * _FLOAT32_BYTES < free_memory_bytes(decisions.device.value):
        dtype = "float32"
    config, folder = run.config, run.adapter
    assert folder is not None
    for_answers = config.quantization.bits is None
    model, tokenizer = load_tuned(config, folder, dtype, for_answers=for_answers)
    ends = _ends(model, tokenizer)
    model.generation_config.eos_token_id = ends
    device = next(model.parameters()).device
    parameters = parameters or sum(p.numel() for p in model.parameters())
    return Trained(run, model, tokenizer, dtype, stored_dtype(run), ends, device, parameters)


def merge(trained: Trained) -> Any:
    """Merge the adapter into the weights, and return the plain model.

    A quantised base model is restored to the values that it was trained with, so that the merged
    model is the trained one; the original weights would be another model.

    Raises:
        RunError: The merged weights are not finite.
    """
    if not trained.has_adapter:
        return trained.model
    run = trained.run
    if run.config.quantization.bits is not None:
        import torch

        trained.model = None
        release_memory()
        base, _ = load_base(run.config, trained.dtype, for_answers=False)
        base = base.dequantize(dtype=getattr(torch, trained.dtype))
        base.to(getattr(torch, trained.dtype))
        assert run.adapter is not None
        trained.model = with_adapter(base, run.adapter).eval()
    try:
        model = trained.model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise RunError(
            f"{run.id}: the adapter cannot be merged: {str(error).splitlines()[0]}"
        ) from None
    _tell_whether_tied(model)
    model.generation_config.eos_token_id = trained.ends
    trained.model = model
    return model


def _tell_whether_tied(model: Any) -> None:
    """Have the config say that embeddings and head differ, where one of them was trained apart."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight.data_ptr() != embeddings.weight.data_ptr():
        model.config.tie_word_embeddings = False


def stored_dtype(run: Run) -> str:
    """Return the number type in which the base model was stored, or the model after full training."""
    from nbft.models.adapters import base_name
    from nbft.models.find import find_local

    folder = run.adapter
    if folder is not None and not folder.name.startswith("model"):
        found = find_local(base_name(run.config), run.config.model.model_revision)
        folder = found.path if found else None
    try:
        assert folder is not None
        about = json.loads(read_bytes(Path(folder) / "config.json", _CONFIG_BYTES))
        stored = about.get("dtype") or about.get("torch_dtype")
    except (OSError, ValueError, AssertionError):
        stored = None
    return stored if stored in ("float32", "float16", "bfloat16") else "bfloat16"


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: those of model and tokenizer, and the end of a turn."""
    own = getattr(model.generation_config, "eos_token_id", None)
    named = own if isinstance(own, list) else [own]
    ids = {tokenizer.eos_token_id, end_of_turn(tokenizer), *named}
    return sorted(token for token in ids if token is not None)


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the special token that the chat template writes after an answer; None if none."""
    if not tokenizer.chat_template:
        return None
    answer = "The answer."
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # the template refuses it in a way of its own
        return None
    after = tokenizer(text.rpartition(answer)[2], add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return next((token for token in after if token in special), None)
