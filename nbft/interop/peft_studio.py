"""PEFT Studio's JSON, in the four shapes that it has.

The flat one of its document, the nested one of its docs, what its export writes (metadata and
configuration), and its presets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbft.config import Config
from nbft.errors import Problem
from nbft.interop.importer import Work
from nbft.interop.qefficient import half_precision
from nbft.interop.table import (
    UNSET,
    Back,
    Convert,
    Entry,
    Says,
    System,
    extra,
    no_effect,
    words,
)

_ALGORITHMS: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {"quantization.load_in_4bit": True},
    "dora": {"peft.use_dora": True},
    "pissa": {"peft.init_lora_weights": "pissa"},
    "rslora": {"peft.use_rslora": True},
    "full": {},
}


def _algorithm(value: Any, work: Work) -> Says:
    name = str(value).lower()
    if name not in _ALGORITHMS:
        return Says("lora", f"nbft has no {value}; LoRA instead", "impossible")
    more = dict(_ALGORITHMS[name])
    note = ", ".join(f"{setting.rpartition('.')[2]}={item}" for setting, item in more.items())
    return Says("full" if name == "full" else "lora", note, "converted" if more else None, more)


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


def _quantization(value: Any, work: Work) -> Says:
    name = str(value).lower() if value else "none"
    if name == "none":
        return Says(kind="taken", note="none, as here unless the algorithm is qlora")
    if name == "int8":
        return Says(
            False,
            "8 bits",
            "converted",
            {"quantization.load_in_8bit": True, "quantization.load_in_4bit": False},
        )
    kind, note = "nf4", ""
    if name == "int4":
        kind, note = "fp4", "bitsandbytes has no int4; fp4 has 4 bits too, spaced as floats"
    return Says(True, note, "converted", {"quantization.bnb_4bit_quant_type": kind})


def _quantization_back(value: Any, config: Config) -> Any:
    if config.quantization.load_in_8bit:
        return "int8"
    four_bits = {"nf4": "nf4", "fp4": "int4"}[config.quantization.bnb_4bit_quant_type]
    return four_bits if value else "none"


def _share(value: Any, work: Work) -> Says:
    return Says(round(1 - float(value), 6), "the share held out there, the share trained on here")


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


def _tracker(value: Any, work: Work) -> Says:
    name = str(value).lower() if value else "none"
    if name == "none":
        return Says(kind="taken", note="none, as here")
    if name not in _TRACKERS:
        work.wrong(
            "experiment_tracker",
            value,
            "PEFT Studio: is not one of wandb, cometml, phoenix.",
        )
        return Says()
    return Says([_TRACKERS[name]], kind="converted")


def _tracker_back(value: Any, config: Config) -> Any:
    names = {"wandb": "wandb", "comet_ml": "cometml", "phoenix": "phoenix"}
    return next((names[name] for name in value if name in names), UNSET)


def _precision(value: Any, work: Work) -> Says:
    name = str(value).lower()
    if name in ("fp32", "float32", "no", "none"):
        return Says("no")
    return half_precision({"float16": "fp16", "bfloat16": "bf16"}.get(name, name))


def _stopping(value: Any, work: Work) -> Says:
    if not value:
        return Says(kind="taken", note="off, as here")
    if "early_stopping_patience" in str(list(work.document.tree)) or any(
        key.endswith("early_stopping_patience") for key in work.lines
    ):
        return Says(kind="taken", note="the patience follows")
    return Says(3, "PEFT Studio's example waits for 3 measurements", "converted")


def _patience(value: Any, work: Work) -> Says:
    if work.given.get("early_stopping") is False:
        return Says(kind="taken", note="early_stopping is off")
    return Says(value)


def _price(value: Any, work: Work) -> Says:
    return Says(float(value))


def _of(*names: str) -> tuple[str, ...]:
    """Return the spellings of a key in the nested shapes."""
    blocks = ("configuration", "training", "peft", "compute", "model", "hyperparameters")
    return (*names[1:], *(f"{block}.{name}" for block in blocks for name in names))


def _entry(
    path: str,
    setting: str = "",
    convert: Convert | None = None,
    back: Back | None = None,
    *,
    also: tuple[str, ...] = (),
    **rest: Any,
) -> Entry:
    return Entry(path, setting, convert, back, also=_of(path, *also), **rest)


TABLE = (
    _entry(
        "base_model",
        "model.model_name",
        also=("model_id", "model_path", "model_name"),
    ),
    _entry(
        "algorithm",
        "peft.method",
        _algorithm,
        _algorithm_back,
        type=str,
        also=("method", "peft_method"),
    ),
    _entry("rank", "peft.r", default=8, low=4, high=64, also=("r", "lora_r")),
    _entry("alpha", "peft.lora_alpha", default=16, low=1, also=("lora_alpha",)),
    _entry("dropout", "peft.lora_dropout", default=0.05, low=0, high=0.1, also=("lora_dropout",)),
    _entry("target_modules", "peft.target_modules", also=("lora_target_modules",)),
    _entry(
        "quantization",
        "quantization.load_in_4bit",
        _quantization,
        _quantization_back,
        choices=("int4", "int8", "nf4", "none"),
    ),
    _entry(
        "double_quantization",
        "quantization.bnb_4bit_use_double_quant",
        also=("double_quant",),
    ),
    _entry("learning_rate", "training.learning_rate", default=2e-4, low=1e-6, high=1e-2),
    _entry(
        "scheduler",
        "scheduler.lr_scheduler_type",
        words({}),
        lambda *_: UNSET,
        type=str,
        choices=("linear", "cosine", "constant"),
    ),
    _entry(
        "batch_size",
        "training.per_device_train_batch_size",
        default=4,
        low=1,
        high=32,
        also=("per_device_train_batch_size",),
    ),
    _entry(
        "gradient_accumulation_steps",
        "training.gradient_accumulation_steps",
        default=4,
        low=1,
        high=32,
        also=("gradient_accumulation",),
    ),
    _entry(
        "num_epochs",
        "training.num_train_epochs",
        default=3,
        low=1,
        high=10,
        also=("epochs", "num_train_epochs"),
    ),
    _entry(
        "warmup_steps",
        "scheduler.warmup_steps",
        lambda value, work: (
            Says(kind="converted", note="warmup_ratio is given too and fits any number of steps")
            if any(key.rpartition(".")[2] == "warmup_ratio" for key in work.document.tree)
            else Says(value)
        ),
        lambda value, _: int(value) if value >= 1 else UNSET,
        type=int,
        default=100,
        low=0,
        high=1000,
    ),
    _entry(
        "num_gpus",
        "distributed.num_processes",
        words({0: 1}),
        lambda v, _: v,
        type=int,
        also=("gpu_count",),
    ),
    _entry(
        "compute_provider",
        "compute.provider",
        words(_PROVIDERS),
        lambda value, _: value,
        type=str,
        also=("provider", "platform"),
    ),
    *(
        Entry(
            f"compute_provider[{name}].price",
            "compute.price_usd_per_hour",
            _price,
            lambda *_: UNSET,
            type=float,
            low=0,
            also=("price_per_hour", "compute.price_per_hour") if name == "Local GPU" else (),
        )
        for name in ("Local GPU", "RunPod", "Lambda Labs", "Vast.ai")
    ),
    _entry(
        "dataset_format",
        "",
        no_effect("nbft sees the format by the file and its columns"),
        also=("format",),
        name="dataset format",
    ),
    _entry(
        "validation_split",
        "data.split_ratio",
        _share,
        lambda value, _: round(1 - value, 6),
        type=float,
        low=0,
        high=1,
        beyond_low=True,
        beyond_high=True,
        also=("val_split",),
        name="validation split",
    ),
    _entry("experiment_tracker", "tracking.report_to", _tracker, _tracker_back, also=("tracker",)),
    _entry("project_name", "tracking.project", also=("project",)),
    _entry("run_name", "training.run_name", also=("experiment_name",)),
    _entry("tags", "tracking.tags"),
    _entry(
        "output_dir", "training.output_dir", also=("output_directory",), name="output directory"
    ),
    _entry("gradient_checkpointing", "memory.gradient_checkpointing"),
    _entry(
        "precision",
        "precision.mixed_precision",
        _precision,
        lambda value, _: UNSET if value == "auto" else {"no": "fp32"}.get(value, value),
        type=str,
        choices=("fp16", "bf16", "fp32"),
        also=("mixed_precision",),
        name="mixed precision",
    ),
    _entry(
        "lr_scheduler_type",
        "scheduler.lr_scheduler_type",
        choices=("linear", "cosine", "constant", "polynomial", "constant_with_warmup"),
    ),
    _entry(
        "warmup_ratio",
        "scheduler.warmup_steps",
        lambda value, _: Says(
            float(value), "transformers 5 has no warmup_ratio: warm-up steps below 1 are a share"
        ),
        lambda value, _: value if value < 1 else UNSET,
        type=float,
        low=0,
        high=1,
        beyond_high=True,
    ),
    _entry("num_cycles", "scheduler.num_cycles"),
    _entry(
        "early_stopping",
        "callbacks.early_stopping_patience",
        _stopping,
        lambda value, _: value is not None,
        type=bool,
    ),
    _entry(
        "early_stopping_patience",
        "callbacks.early_stopping_patience",
        _patience,
        lambda value, _: UNSET if value is None else value,
        type=int,
        low=1,
    ),
    _entry("early_stopping_threshold", "callbacks.early_stopping_threshold", low=0),
    _entry(
        "max_grad_norm",
        "training.max_grad_norm",
        also=("gradient_clipping", "gradient_clip"),
        name="gradient clipping",
    ),
    # What its code has and its document does not
    extra("format_version", "", no_effect("read as version 1.0"), choices=("1.0",), type=str),
    extra("config_type", "", no_effect("the shape of its export"), type=str),
    extra("model_source", "", no_effect("the hub, or a folder"), also=_of("model_source")),
    extra("metadata", "", no_effect("about the file, not about the training"), type=dict),
    extra("effective", "", no_effect("follows from the batch and the accumulation")),
    extra("dataset_path", "data.train.datasets[0].path", also=_of("dataset_path", "dataset")),
    extra("dataset_id", "data.train.datasets[0].dataset_name", also=_of("dataset_id")),
    extra(
        "max_steps",
        "training.max_steps",
        words({None: -1, 0: -1}),
        lambda v, _: v,
        also=_of("max_steps"),
    ),
    extra("max_seq_length", "data.max_length", also=_of("max_seq_length")),
    extra("weight_decay", "optimizer.weight_decay", also=_of("weight_decay")),
    extra("seed", "training.seed", also=_of("seed")),
    extra("logging_steps", "logging.logging_steps", also=_of("logging_steps")),
    extra("checkpoint_steps", "checkpoint.save_steps", also=_of("checkpoint_steps", "save_steps")),
    extra("eval_steps", "evaluation.eval_steps", also=_of("eval_steps")),
    extra(
        "use_case", "", no_effect("about the model, not about the training"), also=_of("use_case")
    ),
    extra(
        "gpu_type",
        "",
        no_effect("nbft trains on the machine that it runs on"),
        also=_of("gpu_type", "resource_id"),
    ),
    extra(
        "description",
        "",
        no_effect("about the file, not about the training"),
        also=_of("description", "name"),
    ),
    extra(
        "optimizer",
        "optimizer.optim",
        words({"adamw": "adamw_torch"}),
        lambda v, _: v,
        also=_of("optimizer"),
    ),
)

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
            "PEFT Studio: belongs to qlora, and nothing is quantised.",
            "Add quantization: nf4.",
        )


def settle(work: Work) -> None:
    """What depends on several keys."""
    key = next((k for k in work.lines if k.rpartition(".")[2] == "num_cycles"), None)
    shape = work.settings.get("scheduler.lr_scheduler_type")
    has_cycles = shape in ("cosine", "cosine_with_restarts", None)
    if key and work.settings.get("scheduler.num_cycles") is not None and not has_cycles:
        work.settings.pop("scheduler.num_cycles")
        work.say(key, "converted", f"{shape} has no cycles")
    algorithm = str(work.given.get("algorithm", "")).lower()
    if algorithm == "qlora" and not work.given.get("quantization"):
        work.settings["quantization.load_in_4bit"] = True
        work.settings["quantization.bnb_4bit_quant_type"] = "nf4"
    ratio = work.given.get("warmup_ratio")
    line = work.lines.get("warmup_steps")
    if ratio and line is not None and line.kind == "defaulted":
        del work.lines["warmup_steps"]
        work.settings["scheduler.warmup_steps"] = float(ratio)


def write(config: Config, tree: dict[str, Any]) -> None:
    """Name the algorithm, which several settings of ours decide, and the shape of the rate."""
    if config.peft.method == "lora":
        tree["algorithm"] = _algorithm_back("lora", config)
    if config.quantization.load_in_4bit or config.quantization.load_in_8bit:
        tree["quantization"] = _quantization_back(config.quantization.load_in_4bit, config)
    if config.scheduler.lr_scheduler_type in ("linear", "cosine", "constant"):
        tree["scheduler"] = config.scheduler.lr_scheduler_type


SYSTEM = System(
    "peft_studio",
    "PEFT Studio",
    TABLE,
    marks=frozenset(
        {
            *("algorithm", "rank", "alpha", "double_quantization", "experiment_tracker"),
            *("early_stopping", "configuration", "metadata", "peft_method", "peft.method"),
            *("base_model", "model.model_id", "num_epochs", "early_stopping_patience"),
        }
    ),
    languages=("json", "yaml"),
    rules=rules,
    settle=settle,
    write=write,
)
