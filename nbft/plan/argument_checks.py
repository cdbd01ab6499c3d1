"""Checks of arguments that are passed on to an optimiser or a schedule by name.

The libraries ignore what an optimiser does not take, and fail on what does not parse only once the
model is loaded. Called by `training_checks` and `checks`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.errors import Problem
from nbft.plan.problems import error
from nbft.plan.schedule import ARGUMENTS_OF, shape_of

OPTIMISER_ARGUMENTS: dict[str, dict[str, type]] = {
    "sgd": {"momentum": float, "dampening": float, "nesterov": bool},
    "rmsprop": {"momentum": float, "alpha": float, "eps": float, "centered": bool},
}
"""What transformers takes from optim_args for each optimiser; of others it takes nothing. Weight
decay is not among them: the groups of parameters have that of optimizer.weight_decay.
Source: transformers/trainer_optimizer.py, 5.24."""

_SETTING_OF = {
    "lr": "training.learning_rate",
    "learning_rate": "training.learning_rate",
    "weight_decay": "optimizer.weight_decay",
    "beta1": "optimizer.adam_beta1",
    "beta2": "optimizer.adam_beta2",
    "betas": "optimizer.adam_beta1 and optimizer.adam_beta2",
    "eps": "optimizer.adam_epsilon",
    "epsilon": "optimizer.adam_epsilon",
    "momentum": "optimizer.sgd_momentum, with optimizer.optim=sgd",
}
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def optimiser_argument_problems(config: Config) -> Iterator[Problem]:
    """Yield what is wrong with optimizer.optim_args."""
    field, text, optim = "optimizer.optim_args", config.optimizer.optim_args, config.optimizer.optim
    if not text or registry.optimizers.is_own(optim):
        return
    known = OPTIMISER_ARGUMENTS.get(optim, {})
    if config.optimizer.moment_dtype != "float32":
        known = {}
    parts = text.replace(" ", "").split(",")
    values: dict[str, Any] = {}
    for number, part in enumerate(parts):
        name, equals, written = part.partition("=")
        others = parts[:number] + parts[number + 1 :]
        use = ",".join(filter(None, others)) or None
        if not (name and equals and written) or "=" in written:
            example = next(iter(known), "momentum")
            why = f"{part!r} is not written name=value." if part else "has a comma too many."
            yield error(field, why, f"Write {example}=0.9.", {field: use})
        elif name not in known:
            yield _unknown(name, written, optim, known, others)
        elif name in values:
            yield error(field, f"has {name} twice.", "Keep one of them.", {field: use})
        elif (value := _parsed(written, known[name])) is None:
            what = "neither true nor false" if known[name] is bool else "not a number"
            yield error(field, f"{name} is {what} ({written}).", "Correct it.", {field: use})
        elif known[name] is float and name != "dampening" and value < 0:
            yield error(field, f"{name} must be at least 0, and is {value:g}.", "", {field: use})
        else:
            values[name] = value
    momentum = config.optimizer.sgd_momentum if optim == "sgd" else 0.0
    if momentum and "momentum" in values:
        why = f"sets momentum too, which is {momentum:g} in optimizer.sgd_momentum."
        yield error(field, why, "Keep one of them.", {"optimizer.sgd_momentum": 0.0})
    momentum = momentum or values.get("momentum", 0.0)
    if values.get("nesterov") and (not momentum or values.get("dampening")):
        why = "nesterov needs a momentum, and no dampening."
        kept = [part for part in parts if not part.startswith("nesterov=")]
        fix = "Set optimizer.sgd_momentum=0.9, or leave nesterov out."
        yield error(field, why, fix, {field: ",".join(kept) or None})


def _unknown(
    name: str, written: str, optim: str, known: dict[str, type], others: list[str]
) -> Problem:
    """Return the problem of an argument that the optimiser does not take."""
    field = "optimizer.optim_args"
    takes = f"which takes {', '.join(sorted(known))}" if known else "which takes none"
    why = f"{name} is not an argument of {optim}, {takes}."
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    use = ",".join(filter(None, others)) or None
    if close:
        use = ",".join([*filter(None, others), f"{close[0]}={written}"])
        return error(field, why, f"Did you mean {close[0]}?", {field: use})
    usual = [*_SETTING_OF, *known]
    near = difflib.get_close_matches(name.lower(), usual, n=1, cutoff=0.75)
    if near and near[0] in _SETTING_OF:
        return error(field, why, f"Set {_SETTING_OF[near[0]]} instead.", {field: use})
    return error(field, why, "Leave it out.", {field: use})


def _parsed(text: str, kind: type) -> Any:
    """Return a value, or None where it does not parse."""
    if kind is bool:
        return _BOOLEANS.get(text.lower())
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def schedule_argument_problems(config: Config) -> Iterator[Problem]:
    """Yield what is wrong with scheduler.lr_scheduler_kwargs."""
    field, shape = "scheduler.lr_scheduler_kwargs", shape_of(config)[0]
    if registry.schedulers.is_own(shape):
        return
    given, known = config.scheduler.lr_scheduler_kwargs, ARGUMENTS_OF.get(shape, set())
    if unknown := [name for name in given if name not in known]:
        close = difflib.get_close_matches(str(unknown[0]), known, n=1, cutoff=0.6)
        rest = {name: value for name, value in given.items() if name in known}
        use = {close[0]: given[unknown[0]], **rest} if close else rest
        yield error(
            field,
            f"{', '.join(map(str, unknown))} is not an argument of {shape}, which takes "
            f"{', '.join(sorted(known)) or 'none'}.",
            f"Did you mean {close[0]}?" if close else "Leave it out.",
            use=use,
        )
    for name, value in given.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in known and value is not None and not is_number:
            use = {other: v for other, v in given.items() if other != name}
            yield error(field, f"{name} is not a number ({value!r}).", "Write a number.", use=use)
