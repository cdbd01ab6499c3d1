"""PEFT Studio's JSON in its four forms: flat, nested, exported (with metadata), and presets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbft.config import Config
from nbft.errors import Problem
from nbft.interop.conversions import OFF, half_precision, tracker
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.table import UNSET, Converted

_ALGORITHMS: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {"quantization.load_in_4bit": True},
    "dora": {"peft.use_dora": True},
    "pissa": {"peft.init_lora_weights": "pissa"},
    "rslora": {"peft.use_rslora": True},
    "full": {},
}


def _algorithm(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    if name not in _ALGORITHMS:
        return Converted("lora", f"nbft has no {value}; LoRA instead", "impossible")
    more = dict(_ALGORITHMS[name])
    note = ", ".join(f"{setting.rpartition('.')[2]}={item}" for setting, item in more.items())
    return Converted(
        "full" if name == "full" else "lora", note, "converted" if more else None, more
    )


def _algorithm_back(value: Any, config: Config) -> Any:
    if value == "full":
        return UNSET
    if config.peft.use_dora:
        return "dora"
    if config.quantization.load_in_4bit:
        return "qlora"
    if config.peft.init_lora_weights == "pissa":
        return "pissa"
    return "rslora" if config.peft.use_rslora else "lora"


def _quantization(value: Any, work: Work) -> Converted:
    name = str(value).lower() if value else "none"
    if name == "none":
        return Converted(kind="taken", note="none, as here unless the algorithm is qlora")
    if name == "int8":
        return Converted(
            False,
            "8 bits",
            "converted",
            {"quantization.load_in_8bit": True, "quantization.load_in_4bit": False},
        )
    kind, note = "nf4", ""
    if name == "int4":
        kind, note = "fp4", "bitsandbytes has no int4; fp4 is a 4-bit format too"
    return Converted(True, note, "converted", {"quantization.bnb_4bit_quant_type": kind})


def _quantization_back(value: Any, config: Config) -> Any:
    if config.quantization.load_in_8bit:
        return "int8"
    four_bits = {"nf4": "nf4", "fp4": "int4"}[config.quantization.bnb_4bit_quant_type]
    return four_bits if value else "none"


_PROVIDERS = {
    "local gpu": "local",
    "local": "local",
    "runpod": "runpod",
    "lambda labs": "lambda_labs",
    "lambda": "lambda_labs",
    "lambda_labs": "lambda_labs",
    "vast.ai": "vast_ai",
    "vastai": "vast_ai",
    "vast_ai": "vast_ai",
}

_TRACKERS = {
    "wandb": "wandb",
    "comet ml": "comet_ml",
    "cometml": "comet_ml",
    "comet_ml": "comet_ml",
    "arize phoenix": "phoenix",
    "phoenix": "phoenix",
    "tensorboard": "tensorboard",
}


def _tracker(value: Any, work: Work) -> Converted:
    name = str(value).lower() if value else "none"
    if name == "none":
        return Converted(kind="taken", note="none, as here")
    if name not in _TRACKERS:
        work.wrong(
            "experiment_tracker",
            value,
            "PEFT Studio: is not one of wandb, cometml, phoenix.",
        )
        return Converted()
    ours = _TRACKERS[name]
    if ours == "phoenix":  # a part of other packages
        return Converted([ours], kind="converted")
    taken: Converted = tracker(ours)(value, work)
    return taken


def _tracker_back(value: Any, config: Config) -> Any:
    names = {"wandb": "wandb", "comet_ml": "cometml", "phoenix": "phoenix"}
    return next((names[name] for name in value if name in names), UNSET)


def _precision(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    if name in ("fp32", "float32", "no", "none"):
        return Converted("no")
    return half_precision({"float16": "fp16", "bfloat16": "bf16"}.get(name, name))


def _stopping(value: Any, work: Work) -> Converted:
    if not value:
        return OFF
    if "early_stopping_patience" in str(list(work.document.tree)) or any(
        key.endswith("early_stopping_patience") for key in work.lines
    ):
        return Converted(kind="taken", note="set by early_stopping_patience")
    return Converted(3, "PEFT Studio's example has a patience of 3 evaluations", "converted")


def _patience(value: Any, work: Work) -> Converted:
    if work.given.get("early_stopping") is False:
        return Converted(kind="taken", note="early_stopping is off")
    return Converted(value)


def _warmup_steps(value: Any, work: Work) -> Converted:
    if any(key.rpartition(".")[2] == "warmup_ratio" for key in work.document.tree):
        note = "warmup_ratio is given too and is used instead"
        return Converted(kind="converted", note=note)
    return Converted(value)


def _warmup_ratio_back(value: Any, config: Config) -> Any:
    return value if value < 1 else UNSET


def _held_out_share_back(value: Any, config: Config) -> Any:
    return round(1 - value, 6)


_REQUIRED = ("metadata", "configuration")


def rules(work: Work) -> Iterator[Problem]:
    """PEFT Studio's own rules over several keys."""
    tree = work.document.tree
    if "format_version" in tree or "config_type" in tree:
        for name in _REQUIRED:
            if not isinstance(tree.get(name), dict):
                yield Problem(
                    name, None, f"PEFT Studio: its import needs {name}.", "Add the block."
                )
    if work.given.get("double_quantization") and not (
        work.given.get("quantization") or str(work.given.get("algorithm")).lower() == "qlora"
    ):
        yield Problem(
            "double_quantization",
            True,
            "PEFT Studio: needs qlora, and nothing is quantised.",
            "Add quantization: nf4.",
        )


def settle(work: Work) -> None:
    """What depends on several keys."""
    key = next((k for k in work.lines if k.rpartition(".")[2] == "num_cycles"), None)
    shape = work.settings.get("scheduler.lr_scheduler_type")
    has_cycles = shape in ("cosine", "cosine_with_restarts", None)
    if key and work.settings.get("scheduler.num_cycles") is not None and not has_cycles:
        work.settings.pop("scheduler.num_cycles")
        work.report(key, "converted", f"{shape} has no cycles")
    algorithm = str(work.given.get("algorithm", "")).lower()
    if algorithm == "qlora" and not work.given.get("quantization"):
        work.settings["quantization.load_in_4bit"] = True
        work.settings["quantization.bnb_4bit_quant_type"] = "nf4"
    ratio = work.given.get("warmup_ratio")
    line = work.lines.get("warmup_steps")
    if ratio and line is not None and line.kind == "defaulted":
        work.drop_default("warmup_steps")
        work.settings["scheduler.warmup_steps"] = float(ratio)


def write(config: Config, tree: dict[str, Any]) -> None:
    """Write the algorithm and quantization, which depend on several settings, and the scheduler."""
    if config.peft.method == "lora":
        tree["algorithm"] = _algorithm_back("lora", config)
    if config.quantization.load_in_4bit or config.quantization.load_in_8bit:
        tree["quantization"] = _quantization_back(config.quantization.load_in_4bit, config)
    if config.scheduler.lr_scheduler_type in ("linear", "cosine", "constant"):
        tree["scheduler"] = config.scheduler.lr_scheduler_type


SYSTEM = load_system("peft_studio", globals(), rules=rules, settle=settle, write=write)
