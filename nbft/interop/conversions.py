"""Conversions of values between systems, for the tables of all of them.

Those of one system are in its own module. The .yaml files name both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nbft.interop.report import Kind
from nbft.interop.table import UNSET, Back, Convert, Converted

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.interop.importer import Work

OFF = Converted(kind="taken", note="off")
NOT_SET = Converted(kind="taken", note="not set")

# From their value to ours


def words(pairs: Mapping[Any, Any], note: str = "") -> Convert:
    """Return a conversion by a list of values; others are left as they are.

    >>> words({"adamw": "adamw_torch"})("adamw", None)
    'adamw_torch'
    """

    def convert(value: Any, _: Any) -> Any:
        key = value.lower() if isinstance(value, str) else value
        changed = next((new for old, new in pairs.items() if old == key), value)
        return Converted(changed, note) if note and changed != value else changed

    return convert


def same(value: Any, _: Any) -> Any:
    """Take a value as it is, whatever the type of our setting; also the way back."""
    return value


def negated(value: Any, _: Any) -> bool:
    """Turn a switch around; also the way back.

    >>> negated(True, None)
    False
    """
    return not value


def as_bool(value: Any, _: Any) -> bool:
    """Take any value that is not empty as on."""
    return bool(value)


def always(value: Any, note: str = "", kind: Kind | None = None) -> Convert:
    """Return a conversion to one value, whatever theirs is."""
    return lambda _, work: Converted(value, note, kind)


def when_on(value: Any, note: str = "", kind: Kind | None = None) -> Convert:
    """Return a conversion of a switch that stands for a value of ours."""
    return lambda given, work: Converted(value, note, kind) if given else OFF


def if_on(value: Any, _: Any) -> Converted:
    """Take what is not empty."""
    return Converted(value) if value else OFF


def off_only(note: str, kind: Kind = "impossible") -> Convert:
    """Return a conversion of a switch that nbft has only off."""
    return lambda value, work: Converted(kind=kind, note=note) if value else OFF


def settled_later(value: Any, _: Any) -> Converted:
    """Leave a key to the system's `settle`, which reads it together with others."""
    return Converted(kind="taken")


def on_gpu(note: str, instead: Any = UNSET) -> Convert:
    """Return a conversion of what needs a GPU: taken where there is one, else left out.

    Args:
        note: Why nothing is lost without it.
        instead: The value without a GPU.
    """

    def convert(value: Any, work: Work) -> Converted:
        from nbft.hardware import available_devices

        if not value or "cuda" in available_devices():
            return Converted(value)
        return Converted(instead, f"needs a GPU; {note}", "converted")

    return convert


def half_precision(name: Any) -> Converted:
    """Take bf16 or fp16; where no device computes in float16, let the plan decide."""
    from nbft.hardware import available_devices

    if name == "fp16" and set(available_devices()) <= {"cpu"}:
        note = "fp16 needs a GPU; without one it would silently compute in float32"
        return Converted("auto", note, "converted")
    return Converted(name)


def half(name: str) -> Convert:
    """Return a conversion of the switch bf16 or fp16."""

    def convert(value: Any, work: Work) -> Converted:
        if value in ("auto", "full"):
            return Converted("auto", "decided by the device, as there", "converted")
        return half_precision(name) if value else Converted(kind="taken", note="off")

    return convert


def stage(others: str) -> Convert:
    """Return a conversion of a stage of training.

    Args:
        others: What is wrong with a stage other than sft, pt and dpo.
    """

    def convert(value: Any, work: Work) -> Converted:
        name = str(value).lower()
        if name == "sft":
            return Converted("sft")
        if name == "pt":
            only_completion = {"data.completion_only_loss": False}
            return Converted("sft", "trained on the whole text", "converted", only_completion)
        if name == "dpo":
            return Converted(more={"preference.method": "dpo"}, note="planned", kind="converted")
        return Converted(kind="impossible", note=f"{value} {others}")

    return convert


_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "adamw_custom": "adamw_torch",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
}
"""Names of optimisers that transformers refuses, as it calls them."""


def optimizer(value: Any, _: Any) -> Any:
    """Name an optimiser as transformers does."""
    key = str(value).lower()
    name = _OPTIMIZERS.get(key, key)
    if name != value:
        return Converted(name, f"transformers calls it {name}" if name != key else "in lower case")
    return name


def init_lora_weights(value: Any, _: Any) -> str:
    """Take how PEFT initialises an adapter: a name, or true or false."""
    name = str(value).lower()
    return {"true": "default", "false": "random"}.get(name, name)


def words_of(text: Any) -> list[str]:
    """Split a list written as text with spaces or commas; a list stays one.

    >>> words_of("sync_param sync_grad"), words_of("a, b"), words_of(None)
    (['sync_param', 'sync_grad'], ['a', 'b'], [])
    """
    if isinstance(text, (list, tuple)):
        return [str(item) for item in text]
    return str(text or "").replace(",", " ").split()


def word_list(value: Any, _: Any) -> list[str]:
    """Take a list of words, written as a list or as text."""
    return words_of(value)


def first_word(value: Any, _: Any) -> str | None:
    """Take the first of a list of words."""
    return next(iter(words_of(value)), None)


def report_to(value: Any, _: Any) -> Converted:
    """Take the names of trackers, without those that stand for none or for all."""
    names = words_of(value)
    kept = [name for name in names if name not in ("none", "all", "visualdl")]
    return Converted(kept, "" if kept == names else "none, as here", None if kept else "taken")


def held_out_share(value: Any, _: Any) -> Converted:
    """Turn the share of the rows that is held out into the share that is trained on."""
    if 0 <= value < 1:
        return Converted(round(1 - value, 6), "the share held out there, the share trained on here")
    return Converted(
        kind="impossible", note="a number of rows; nbft takes a share: data.split_ratio"
    )


def warmup_ratio(value: Any, work: Work) -> Converted:
    """Write a share of all steps as transformers 5 does: as warm-up steps below 1."""
    if value is None:
        return NOT_SET
    if any((work.given.get(name) or 0) > 0 for name in work.given if name.endswith("warmup_steps")):
        return Converted(
            kind="converted", note="warmup_steps is given too and wins, as it does there"
        )
    if value == 0:
        return Converted(kind="taken", more={"scheduler.warmup_steps": 0.0})
    if value >= 1:
        return Converted(0.999999, "all steps", "converted")
    note = "transformers 5 has no warmup_ratio: warm-up steps below 1 are a share"
    return Converted(float(value), note, "converted")


# From our value to theirs


def never(value: Any, config: Config) -> Any:
    """Leave a key out of exports: another key of the same setting is written."""
    return UNSET


def if_any(value: Any, config: Config) -> Any:
    """Write what is not empty."""
    return value or UNSET


def is_set(value: Any, config: Config) -> bool:
    """Write whether there is a value."""
    return value is not None


def has(name: str) -> Back:
    """Return the way back of a switch for one name in a list of ours."""
    return lambda value, config: name in value


def upper(value: Any, config: Config) -> Any:
    """Write a name in capitals."""
    return value.upper() if value else UNSET


def eval_steps_back(value: Any, config: Config) -> int:
    """Write how many steps lie between two evaluations, which follow the log by default."""
    return int(value or config.logging.logging_steps)


def whole_steps(value: Any, config: Config) -> Any:
    """Write warm-up steps where they are no share of all steps."""
    return int(value) if value >= 1 else UNSET
