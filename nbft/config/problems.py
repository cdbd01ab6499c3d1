"""Converts pydantic's validation errors to `Problem`s."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from nbft.config.base import Section, Setting, limit_text, section_type, walk_settings
from nbft.config.numbers import likely_number, read_number
from nbft.errors import Problem


def problems_of(
    error: ValidationError, root: type[Section], place: tuple[str, ...] = ()
) -> list[Problem]:
    """Return each validation error as a `Problem`, in the order of the settings.

    Args:
        error: The errors.
        root: The section with all settings.
        place: Location in it of the section that was validated.
    """
    return [_problem(detail, place, root) for detail in error.errors(include_url=False)]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean x?" for the closest known name, or the list of the known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]}?"
    if len(known) <= 12:
        return f"Known: {', '.join(known)}."
    return "Remove it, or list the settings with: nbft config show --all."


def dotted(location: Iterable[str | int]) -> str:
    """Format a location.

    >>> dotted(("data", "train", "datasets", 0, "path"))
    'data.train.datasets[0].path'
    """
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _problem(detail: Mapping[str, Any], place: tuple[str, ...], root: type[Section]) -> Problem:
    if detail["type"] == "invalid_key" or detail["loc"][-1:] == ("[key]",):
        location = [part for part in detail["loc"] if part != "[key]"]
        name, block = location[-1], dotted([*place, *location[:-1]])
        return Problem(block, None, f"the key {name!r} is not text.", "Write it in quotes.")
    location = [*place, *(p for p in detail["loc"] if not str(p).startswith("function-"))]
    field, value = dotted(location), detail["input"]
    if detail["type"] in ("extra_forbidden", "no_such_attribute"):
        return _unknown_key(location, value, root)
    setting = _setting_at(location, root)
    context = {**detail.get("ctx", {}), "message": detail["msg"]}
    explain = _EXPLANATIONS.get(detail["type"], _plain(f"is not valid ({detail['msg']})."))
    why, fix, proposal = explain(value, setting, context)
    changes = {field: proposal} if proposal is not None else {}
    return Problem(field, None if isinstance(value, (dict, list)) else value, why, fix, changes)


def _setting_at(location: list[str | int], root: type[Section]) -> Setting | None:
    path = "".join("[]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    known = {setting.path: setting for setting in walk_settings(root)}
    while path and path not in known:
        path = path[:-2] if path.endswith("[]") else path.rpartition(".")[0]
    return known.get(path)


# Other tools' names for settings.
CALLED_ELSEWHERE = {
    "warmup_ratio": "Set scheduler.warmup_steps to a value below 1, which is a share of all steps.",
    "lr": "It is called training.learning_rate.",
    "epochs": "It is called training.num_train_epochs.",
    "batch_size": "It is called training.per_device_train_batch_size.",
    "evaluation_strategy": "It is called evaluation.eval_strategy.",
    "max_seq_length": "It is called data.max_length.",
    "lora_r": "It is called peft.r.",
    "fp16": "Write precision.mixed_precision: fp16.",
    "bf16": "Write precision.mixed_precision: bf16.",
    "optimizer": "It is called optimizer.optim.",
    "overwrite_output_dir": "Every run has its own folder; nothing is overwritten.",
    "group_by_length": "Write data.train_sampling_strategy: group_by_length.",
}


def _unknown_key(location: list[str | int], value: Any, root: type[Section]) -> Problem:
    name, block = str(location[-1]), root
    for part in location[:-1]:
        if isinstance(part, str) and part in block.model_fields:
            block = section_type(block.model_fields[part].annotation)[0] or block
    elsewhere = [s.path for s in walk_settings(root) if s.name == name]
    here = difflib.get_close_matches(name.lower(), list(block.model_fields), n=1, cutoff=0.75)
    if elsewhere:
        fix = f"It is called {elsewhere[0].replace('[]', '[0]')}."
    elif name in CALLED_ELSEWHERE:
        fix = CALLED_ELSEWHERE[name]
    elif here:
        fix = f"Did you mean {here[0]}?"
    else:
        everywhere = {s.name: s.path for s in reversed([*walk_settings(root)])}
        close = difflib.get_close_matches(name.lower(), list(everywhere), n=1, cutoff=0.75)
        fix = nearest(name, block.model_fields)
        if close:
            fix = f"Did you mean {everywhere[close[0]].replace('[]', '[0]')}?"
    shown = None if isinstance(value, (dict, list)) else value
    return Problem(dotted(location), shown, "is not a setting.", fix)


_Explanation = tuple[str, str, Any]

_LARGEST_PROPOSAL = 2**53
"""Larger whole numbers are slips, not values to be rounded."""


def _use_default(setting: Setting | None) -> tuple[str, Any]:
    if setting is not None and setting.optional and setting.default is None:
        return "Leave it empty to let nbft decide, or write a number.", None
    if setting is None or setting.default in (None, "", [], {}):
        return "Write a number.", None
    return f"The default is {setting.default}.", setting.default


def _number_meant(value: Any, setting: Setting | None) -> float | None:
    """Return the number that a text with commas means, if the setting can take it."""
    if not isinstance(value, str):
        return None
    number = read_number(value)
    number = likely_number(value) if number is None else number
    if number is None or not math.isfinite(number):
        return None
    return number if setting is None or setting.takes(number) else None


def _not_a_number(value: Any, setting: Setting | None, _: Mapping[str, Any]) -> _Explanation:
    why = "is not a number."
    if isinstance(value, str) and likely_number(value) is not None:
        why = "has a point and a comma, so it could be two numbers."
    meant = _number_meant(value, setting)
    if meant is not None:
        return why, f"Use {meant:g}.", meant
    return (why, *_use_default(setting))


def _not_whole(value: Any, setting: Setting | None, _: Mapping[str, Any]) -> _Explanation:
    meant = _number_meant(value, setting)
    try:
        whole = float(round(float(value if meant is None else meant)))
    except (TypeError, ValueError, OverflowError):
        return ("is not a whole number.", *_use_default(setting))
    if abs(whole) > _LARGEST_PROPOSAL:
        return ("is not a whole number of a usable size.", *_use_default(setting))
    if setting is not None:
        whole = whole if setting.ge is None else max(whole, setting.ge)
        whole = whole if setting.le is None else min(whole, setting.le)
    return "is not a whole number.", f"Use {round(whole)}.", round(whole)


def _beyond(words: str, key: str) -> Callable[..., _Explanation]:
    def say(value: Any, setting: Setting | None, context: Mapping[str, Any]) -> _Explanation:
        limit = context[key]
        at_limit = key in ("ge", "le") and not (setting and setting.usual)
        usable = limit if at_limit else setting.default if setting else None
        fix = f"Use {usable}." if usable is not None else "Write another number."
        if setting and setting.range_text not in ("", f"{words} {limit_text(limit)}"):
            fix = f"The range is {setting.range_text}. {fix}".strip()
        return f"must be {words} {limit_text(limit)}.", fix, usable

    return say


def _not_listed(value: Any, setting: Setting | None, _: Mapping[str, Any]) -> _Explanation:
    choices = [str(choice) for choice in setting.choices] if setting else []
    word = str(value).lower()
    close = [choice for choice in choices if choice.startswith(word)]
    close += difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    proposal = close[0] if close else None
    fix = f"Use {proposal}." if proposal else ""
    return f"is not one of {', '.join(choices)}.", fix, proposal


def _not_registered(
    value: Any, setting: Setting | None, context: Mapping[str, Any]
) -> _Explanation:
    return context["why"], context["fix"], context["nearest"]


def _plain(why: str, fix: str = "") -> Callable[..., _Explanation]:
    return lambda value, setting, context: (why, fix, None)


_EXPLANATIONS: dict[str, Callable[..., _Explanation]] = {
    "float_parsing": _not_a_number,
    "float_type": _not_a_number,
    "number_type": _not_a_number,
    "finite_number": _not_a_number,
    "int_parsing": _not_whole,
    "int_type": _not_whole,
    "int_from_float": _not_whole,
    "int_parsing_size": _not_whole,
    "greater_than_equal": _beyond("at least", "ge"),
    "greater_than": _beyond("above", "gt"),
    "less_than_equal": _beyond("at most", "le"),
    "less_than": _beyond("below", "lt"),
    "literal_error": _not_listed,
    "not_registered": _not_registered,
    "bool_parsing": _plain("is neither true nor false.", "Write true or false."),
    "bool_type": _plain("is neither true nor false.", "Write true or false."),
    "string_type": _plain("is not text.", "Write it in quotes."),
    "string_unicode": _plain("contains an incomplete character.", "Write it again."),
    "list_type": _plain("is not a list.", "Write [a, b]."),
    "dict_type": _plain("is not a block of keys.", "Write {key: value}."),
    "model_type": _plain("is not a block of settings.", "Indent its settings under it."),
    "model_attributes_type": _plain("is not a block of settings.", "Indent its settings under it."),
    "nbft": lambda value, setting, context: (str(context["message"]), "", None),
}
