"""Conversions of values between systems, for the tables of all of them.

Those of one system are in its own module. The .yaml files name both.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, get_args

from nbft import registry
from nbft.config import io
from nbft.config.distributed import Distributed
from nbft.errors import ConfigError
from nbft.interop.report import Kind
from nbft.interop.table import UNSET, Back, Convert, Converted
from nbft.models.peft_types.peft_type import LAYER_WORDS

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


_ANYWHERE: ContextVar[bool] = ContextVar("anywhere", default=False)


@contextlib.contextmanager
def for_any_machine() -> Iterator[None]:
    """Read files as on a machine with a GPU and all packages, to compare what they say."""
    token = _ANYWHERE.set(True)
    try:
        yield
    finally:
        _ANYWHERE.reset(token)


def has_gpu() -> bool:
    """Whether there is an NVIDIA or AMD GPU."""
    from nbft.hardware import available_devices

    return _ANYWHERE.get() or "cuda" in available_devices()


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return _ANYWHERE.get() or importlib.util.find_spec(package) is not None


def on_gpu(note: str) -> Convert:
    """Return a conversion of what needs a GPU: taken where there is one, else left out.

    Args:
        note: Why nothing is lost without it.
    """

    def convert(value: Any, work: Work) -> Converted:
        if not value or has_gpu():
            return Converted(value)
        return Converted(kind="ignored", note=f"needs a GPU; {note}")

    return convert


def liger(value: Any, work: Work) -> Converted:
    """Take Liger's kernels where they run."""
    if not value or (has_gpu() and is_installed("liger_kernel")):
        return Converted(bool(value))
    needs = "the package liger-kernel" if has_gpu() else "a GPU"
    return Converted(kind="ignored", note=f"needs {needs}; the results are the same without it")


def half_precision(name: Any) -> Converted:
    """Take bf16 or fp16; where no device computes in float16, let the plan decide."""
    from nbft.hardware import available_devices

    if name == "fp16" and not has_gpu() and set(available_devices()) <= {"cpu"}:
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


def train_method(value: Any, work: Work, wanted: str = "") -> Converted:
    """Take a training method by its name; refuse the file where nbft has none of that name.

    Args:
        value: As the file has it.
        work: The import, which is refused.
        wanted: Its name in nbft, if that is another.
    """
    name = wanted or str(value).lower()
    if name in registry.trainers:
        return Converted(name)
    asked = _METHODS.get(name, str(value))
    *have, last = sorted(registry.trainers)
    listed = f"{', '.join(have)} and {last}"
    work.refuse(work.key, value, f"asks for {asked}, but nbft trains with {listed} only.")
    return Converted(kind="impossible", note=f"nbft has no {asked}")


_METHODS = {
    "dpo": "DPO (preference training)",
    "ipo": "IPO (preference training)",
    "simpo": "SimPO (preference training)",
    "orpo": "ORPO (preference training)",
    "kto": "KTO (training on feedback)",
    "grpo": "GRPO (reinforcement learning)",
    "gdpo": "GDPO (reinforcement learning)",
    "ppo": "PPO (reinforcement learning)",
    "ebft": "EBFT (reinforcement learning)",
    "reward": "a reward model",
    "prm": "a process reward model",
    "gkd": "GKD (distillation)",
    "gold": "GOLD (distillation)",
    "vl-sft": "VL-SFT (images)",
    "ocr-vl-sft": "OCR-VL-SFT (images)",
}
"""Methods as people write them."""


def plain_text(note: str) -> Converted:
    """Take training on whole texts, joined and cut into sequences of equal length."""
    more = {
        "data.completion_only_loss": False,
        "data.packing": True,
        "data.packing_strategy": "wrapped",
    }
    return Converted("sft", note, "converted", more)


_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "adamw_custom": "adamw_torch",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
}
"""Names of optimisers that transformers refuses, as it calls them."""

_INSTEAD = {
    "adamw_torch_8bit": "8-bit moments by torchao there, by bitsandbytes here",
    "ao_adamw_8bit": "8-bit moments by torchao there, by bitsandbytes here",
    "ao_adamw_fp8": "float8 moments there, 8-bit moments by bitsandbytes here",
    "adamw_torch_4bit": "4-bit moments there, 8-bit moments here: more memory, less rounding",
    "ao_adamw_4bit": "4-bit moments there, 8-bit moments here: more memory, less rounding",
}
"""Optimisers that adamw_8bit comes close to, each with the difference."""

_USUAL = "adamw_torch_fused"


def optimizer(value: Any, _: Any) -> Any:
    """Name an optimiser as transformers does, or take the nearest."""
    key = str(value).lower()
    name, note = _OPTIMIZERS.get(key, key), ""
    if key in _INSTEAD:
        name, note = "adamw_8bit", _INSTEAD[key]
    if name not in registry.optimizers:
        note = f"nbft has no optimiser {value}; {_USUAL} is used, at the same learning rate"
        return Converted(_USUAL, note, "impossible")
    if ("8bit" in name or "paged" in name) and not is_installed("bitsandbytes"):
        note = f"{name} needs bitsandbytes, which is not installed here: more memory, no rounding"
        return Converted(_USUAL, note, "deviates")
    if note:
        return Converted(name, note, "deviates")
    if name != value:
        return Converted(name, f"transformers calls it {name}" if name != key else "in lower case")
    return name


def init_lora_weights(value: Any, _: Any) -> str:
    """Take how PEFT initialises an adapter: a name, or true or false."""
    name = str(value).lower()
    return {"true": "default", "false": "random"}.get(name, name)


def layer_numbers(value: Any, _: Any) -> list[int]:
    """Take the numbers of layers: one, several, or null for all."""
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def pattern_of_layers(value: Any, _: Any) -> Converted:
    """Take what stands before the number of a layer, which nbft finds by itself where it is usual."""
    if value in (None, *LAYER_WORDS) or (value and set(words_of(value)) <= set(LAYER_WORDS)):
        return Converted(kind="converted", note="nbft finds the numbers of layers by itself")
    return Converted(kind="impossible", note="write a pattern in peft.target_modules instead")


def excluded_names(value: Any, _: Any) -> Converted:
    """Take the names of layers that get no adapter."""
    if not value:
        return Converted(kind="taken", note="none, as here")
    if not isinstance(value, list):
        return Converted(
            kind="impossible", note="a pattern; name the layers in peft.target_modules"
        )
    note = "a frozen layer gets no adapter"
    return Converted(kind="converted", note=note, more={"model.freeze_layers": list(value)})


def prompt_tuning_init(value: Any, _: Any) -> str:
    """Take how virtual tokens start: a name, or that of an enumeration in code."""
    return str(value).rpartition(".")[2].upper()


def eva_config(value: Any, _: Any) -> Converted:
    """Take how EVA gives out ranks."""
    if isinstance(value, dict) and "rho" in value:
        return Converted(kind="converted", note="rho", more={"peft.eva_rho": value["rho"]})
    return Converted(kind="taken", note="PEFT's own default, as here")


def loftq_config(value: Any, _: Any) -> Converted:
    """Take the bits of LoftQ, which are those of the weights here."""
    note = "nbft's LoftQ makes up for the 4-bit weights as they are" if value else "empty, as here"
    return Converted(kind="converted", note=note)


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


def report_to(value: Any, _: Any) -> Converted:
    """Take the names of trackers that are installed, without those that stand for none or for all."""
    names = [name for name in words_of(value) if name not in ("none", "all", "visualdl")]
    kept = [name for name in names if name in _TRACKERS and is_installed(name)]
    gone = [name for name in names if name not in kept]
    if gone:
        why = "not installed here" if set(gone) <= _TRACKERS else "no tracker of nbft"
        return Converted(kept, f"{', '.join(gone)}: {why}; every run has its own log", "ignored")
    return Converted(kept, "" if names else "none, as here", None if kept else "taken")


def tracker(name: str) -> Convert:
    """Return a conversion of the switch for one tracker."""

    def convert(value: Any, work: Work) -> Converted:
        if not value:
            return OFF
        if not is_installed(name):
            note = f"{name} is not installed here; every run has its own log"
            return Converted(kind="ignored", note=note)
        there = list(work.settings.get("tracking.report_to", []))
        return Converted([*there, name], kind="converted")

    return convert


_TRACKERS = {"tensorboard", "wandb", "comet_ml", "mlflow", "trackio"}

ONE_PROCESS = "one process has nothing to shard, so it is left out: the results are the same"
IN_SEVERAL = "has an effect with distributed.num_processes above 1"


def deepspeed(value: Any, work: Work) -> Converted:
    """Take DeepSpeed's configuration, a block or a file, which is looked for beside that of the system."""
    if not value:
        return OFF
    if isinstance(value, dict):
        return Converted(value, IN_SEVERAL, "converted")
    try:
        return Converted(io.read(work.folder / str(value)), f"read; {IN_SEVERAL}", "converted")
    except ConfigError as error:
        return Converted(kind="ignored", note=f"{error} {ONE_PROCESS[0].upper()}{ONE_PROCESS[1:]}")


def fsdp(value: Any, work: Work) -> Converted:
    """Take what FSDP shards from a list of words, in any order; the others are its options."""
    known = get_args(get_args(Distributed.model_fields["fsdp"].annotation)[0])
    given = words_of(value)
    name = next((word for word in given if word in known), None)
    rest = [word for word in given if word != name]
    if name is None:
        return Converted(kind="ignored", note=ONE_PROCESS) if given else NOT_SET
    options = f"; {', '.join(rest)} is left out" if rest else ""
    return Converted(name, f"{IN_SEVERAL}{options}", "converted")


def sharded(value: Any, work: Work) -> Converted:
    """Leave a key out that concerns sharding or several processes alone."""
    return Converted(kind="ignored", note=ONE_PROCESS) if value not in (None, False) else OFF


def tf32(value: Any, work: Work) -> Converted:
    """Take TF32 where a GPU has it."""
    from nbft.hardware import has_bfloat16

    if not value or value == "auto":
        return Converted(None, "off", "taken")
    if _ANYWHERE.get() or (has_gpu() and has_bfloat16("cuda").value == "yes"):
        return Converted(True)
    return Converted(
        kind="ignored", note="needs an NVIDIA GPU (Ampere); it only speeds products up"
    )


def attention(value: Any, work: Work) -> Converted:
    """Take an attention kernel; where this machine or nbft has none of that name, sdpa."""
    if value in (None, "auto"):
        return NOT_SET
    name, needs = str(value), ""
    if name == "flash_attention_2":
        needs = "" if is_installed("flash_attn") else "the package flash-attn"
        needs = needs if has_gpu() else "a GPU"
    elif name not in ("eager", "sdpa"):
        return Converted("sdpa", f"nbft has no {name}; {_SAME_ATTENTION}", "ignored")
    if needs:
        return Converted("sdpa", f"needs {needs}; {_SAME_ATTENTION}", "ignored")
    return Converted(name)


_SAME_ATTENTION = "sdpa computes the same attention"


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


def lists_only(value: Any, config: Config) -> Any:
    """Write a list; a pattern has no place in the other format."""
    return value if isinstance(value, list) else UNSET


def numbers_only(value: Any, config: Config) -> Any:
    """Write a number; a word such as auto has no place in the other format."""
    return UNSET if isinstance(value, str) else value


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
