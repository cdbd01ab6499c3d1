"""How a training begins: the model before the first step, and a config of nothing but steps.

Shared by the worker and by what trains a few real steps without a run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.decisions import Decisions
from nbft.methods import method_of

NOTHING_BUT_STEPS: dict[str, Any] = {
    "evaluation.eval_strategy": "no",
    "checkpoint.save_strategy": "no",
    "checkpoint.save_on_epoch_end": False,
    "checkpoint.load_best_model_at_end": False,
    "callbacks.callbacks": {},
    "callbacks.early_stopping_patience": None,
    "logging.include_mfu": False,
    "tracking.report_to": [],
}
"""Settings that leave the steps as they are and switch off what happens between them."""


def load_untrained(
    config: Config,
    decisions: Decisions,
    folder: Path,
    say: Callable[[str], None],
    load: Callable[..., Any] | None = None,
) -> Any:
    """Load the model of a run, on its device, as it is before the first step.

    One that will be cut into shards stays on the CPU: it need not fit on a device.

    Sets the seed of the run, from which the first weights of an adapter follow.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
        folder: Folder of the base model.
        say: Called with what is being done, as a sentence.
        load: Loads the base model, with the arguments of `nbft.models.load.load_model`, which does
            it when None.

    Raises:
        ModelError: The model or its adapter cannot be loaded.
    """
    from transformers import set_seed

    from nbft.models.adapters import fetch_adapter, load_adapter
    from nbft.models.load import load_model, place

    say(f"Loading {config.model.model_name} …")
    set_seed(config.training.seed)
    device, dtype = decisions.device.value, decisions.dtype.value
    scores_answers = method_of(config).scores_answers
    load = load or load_model
    model = load(config, folder, dtype, device, scores_answers=scores_answers)
    if scores_answers:
        set_seed(config.training.seed)  # an adapter begins alike whether the head was drawn or read
    if adapter := fetch_adapter(config, say):
        say(f"Loading the adapter {adapter.path} …")
        model = load_adapter(model, adapter)
    return model if config.distributed.shards else place(model, device)
