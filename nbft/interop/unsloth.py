"""Unsloth's and TRL's settings: `SFTConfig`, `LoraConfig` and the calls around them.

They are written as Python (a script or a notebook, which is parsed and never run), or as flat JSON
or YAML, as `trl sft --config` takes them and as PEFT saves an adapter's.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from nbft.errors import Problem
from nbft.interop.importer import Work
from nbft.interop.qefficient import half_precision
from nbft.interop.read import Code, Document
from nbft.interop.table import (
    UNSET,
    Back,
    Convert,
    Entry,
    Says,
    System,
    extra,
    no_effect,
    none,
    optimizer,
    warmup_ratio,
    words,
)

_CALLS = {
    "SFTConfig": "SFTConfig",
    "TrainingArguments": "SFTConfig",
    "UnslothTrainingArguments": "SFTConfig",
    "DPOConfig": "DPOConfig",
    "LoraConfig": "LoraConfig",
    "get_peft_model": "LoraConfig",
    "FastLanguageModel.get_peft_model": "LoraConfig",
    "FastModel.get_peft_model": "LoraConfig",
    "FastVisionModel.get_peft_model": "LoraConfig",
    "FastLanguageModel.from_pretrained": "from_pretrained",
    "FastModel.from_pretrained": "from_pretrained",
    "AutoModelForCausalLM.from_pretrained": "from_pretrained",
    "AutoTokenizer.from_pretrained": "AutoTokenizer",
    "BitsAndBytesConfig": "BitsAndBytesConfig",
    "load_dataset": "load_dataset",
    "SFTTrainer": "SFTTrainer",
    "UnslothTrainer": "SFTTrainer",
}
"""Calls whose keywords are settings, by what they are called here."""


def _half(name: str) -> Any:
    def convert(value: Any, work: Work) -> Says:
        if value == "auto":
            return Says("auto", "decided by the device, as there", "converted")
        other = {"bf16": "fp16", "fp16": "bf16"}[name]
        if not value:
            given = [v for k, v in work.given.items() if k == other]
            if given and given[0]:
                return Says(kind="taken", note=f"{other} decides")
            return Says("no", kind="converted")
        return half_precision(name)

    return convert


def _optim(value: Any, work: Work) -> Any:
    return optimizer(value, work)


def _targets(value: Any, work: Work) -> Says:
    if value is None:
        return Says(["all-linear"], "null lets PEFT choose by model", "converted")
    return Says([value] if isinstance(value, str) else list(value))


def _init(value: Any, work: Work) -> Says:
    names = {"true": "default", "false": "random"}
    return Says(names.get(str(value).lower(), str(value).lower()))


def _checkpointing(value: Any, work: Work) -> Says:
    if value == "unsloth":
        return Says(True, "Unsloth's own variant; the plain one here", "converted")
    return Says(bool(value))


def _report(value: Any, work: Work) -> Says:
    names = [value] if isinstance(value, str) else list(value or [])
    kept = [name for name in names if name not in ("none", "all")]
    return Says(kept, "" if kept == names else "none, as here", None if kept else "taken")


def _collator(value: Any, work: Work) -> Says:
    return Says(kind="converted", note="an object of theirs; nbft makes its own")


def _group(value: Any, work: Work) -> str:
    return "group_by_length" if value else "random"


def _save(value: Any, work: Work) -> Says:
    names = {"checkpoint": "steps", True: "steps", False: "no"}
    return Says(names.get(value, value))


def _use_peft(value: Any, work: Work) -> str:
    return "lora" if value else "full"


def _peft_type(value: Any, work: Work) -> Says:
    name = str(value).lower()
    if name in ("lora", "ia3"):
        return Says(name)
    return Says(kind="impossible", note=f"nbft has lora, ia3 and full, no {value}")


def _tokenised(value: Any, work: Work) -> Says:
    return Says(kind="taken", note="what nbft does anyway")


def _as(block: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{part}.{name}" for part in block.split("|") for name in names)


def _arg(
    path: str,
    setting: str = "",
    convert: Convert | None = None,
    back: Back | None = None,
    *,
    also: tuple[str, ...] = (),
    doc: bool = False,
    **rest: Any,
) -> Entry:
    """Return an entry of SFTConfig and TrainingArguments."""
    spelt = _as("SFTConfig|DPOConfig|SFTTrainer", path, *also)
    return Entry(path, setting, convert, back, also=(*also, *spelt), is_documented=doc, **rest)


def _lora(
    path: str,
    setting: str = "",
    convert: Convert | None = None,
    back: Back | None = None,
    *,
    also: tuple[str, ...] = (),
    **rest: Any,
) -> Entry:
    """Return an entry of LoraConfig and get_peft_model."""
    spelt = _as("LoraConfig", path, *also)
    return extra(path, setting, convert, back, also=(*also, *spelt), **rest)


def _load(
    path: str,
    setting: str = "",
    convert: Convert | None = None,
    back: Back | None = None,
    *,
    also: tuple[str, ...] = (),
    **rest: Any,
) -> Entry:
    """Return an entry of from_pretrained, and of ModelConfig."""
    spelt = _as("from_pretrained|BitsAndBytesConfig", path, *also)
    return extra(path, setting, convert, back, also=(*also, *spelt), **rest)


_ROWS = "data.train.datasets[0]"

TABLE = (
    _arg("learning_rate", "training.learning_rate", default=2e-5, low=0, beyond_low=True, doc=True),
    _arg(
        "per_device_train_batch_size",
        "training.per_device_train_batch_size",
        default=8,
        low=1,
        doc=True,
    ),
    _arg(
        "gradient_accumulation_steps",
        "training.gradient_accumulation_steps",
        default=1,
        low=1,
        doc=True,
    ),
    _arg("num_train_epochs", "training.num_train_epochs", default=3, low=0, doc=True),
    _arg(
        "warmup_ratio",
        "scheduler.warmup_steps",
        warmup_ratio,
        lambda v, _: v if v < 1 else UNSET,
        type=float,
        low=0,
        high=1,
        doc=True,
    ),
    _arg("weight_decay", "optimizer.weight_decay", default=0.0, low=0, doc=True),
    Entry("num_gpus", "distributed.num_processes", words({0: 1}), lambda v, _: v, type=int, low=0),
    _arg("warmup_steps", "scheduler.warmup_steps", low=0, default=0.0, doc=True),
    Entry("base_lr", "training.learning_rate", type=float, low=0, beyond_low=True),
    Entry("scheduler", "scheduler.lr_scheduler_type", type=str),
    _arg("max_steps", "training.max_steps", low=-1, doc=True, name="max_steps (Epochs/Steps)"),
    _arg(
        "save_strategy",
        "checkpoint.save_strategy",
        _save,
        lambda v, _: v,
        doc=True,
        name="checkpointing and logging",
    ),
    # TRL's and transformers' own
    _arg("output_dir", "training.output_dir"),
    _arg("per_device_eval_batch_size", "evaluation.per_device_eval_batch_size", default=8, low=1),
    _arg("max_length", "data.max_length", also=("max_seq_length",), default=1024),
    _arg("lr_scheduler_type", "scheduler.lr_scheduler_type", default="linear"),
    _arg("lr_scheduler_kwargs", "scheduler.lr_scheduler_kwargs", type=dict),
    _arg("optim", "optimizer.optim", _optim, lambda v, _: v, type=str),
    _arg("adam_beta1", "optimizer.adam_beta1"),
    _arg("adam_beta2", "optimizer.adam_beta2"),
    _arg("adam_epsilon", "optimizer.adam_epsilon"),
    _arg("max_grad_norm", "training.max_grad_norm"),
    _arg("seed", "training.seed", also=("random_state",)),
    _arg("data_seed", "training.data_seed"),
    _arg("bf16", "precision.mixed_precision", _half("bf16"), lambda *_: UNSET),
    _arg("fp16", "precision.mixed_precision", _half("fp16"), lambda *_: UNSET),
    _arg("tf32", "precision.tf32"),
    _arg("logging_steps", "logging.logging_steps", default=10),
    _arg("logging_first_step", "logging.logging_first_step"),
    _arg("logging_strategy", "logging.logging_strategy"),
    _arg("logging_dir", "logging.logging_dir"),
    _arg("log_level", "logging.log_level", words({"passive": "info"}), lambda v, _: v),
    _arg("disable_tqdm", "logging.disable_tqdm"),
    _arg("save_steps", "checkpoint.save_steps", words({}), lambda v, _: v, type=int),
    _arg("save_total_limit", "checkpoint.save_total_limit"),
    _arg("save_only_model", "checkpoint.save_only_model"),
    _arg("load_best_model_at_end", "checkpoint.load_best_model_at_end"),
    _arg("metric_for_best_model", "checkpoint.metric_for_best_model"),
    _arg("greater_is_better", "checkpoint.greater_is_better"),
    _arg("overwrite_output_dir", "checkpoint.overwrite_output_dir"),
    _arg(
        "eval_strategy",
        "evaluation.eval_strategy",
        default="no",
        also=("evaluation_strategy",),
        choices=("no", "steps", "epoch"),
        type=str,
    ),
    _arg("eval_steps", "evaluation.eval_steps", type=int),
    _arg(
        "do_train",
        "training.do_train",
        lambda v, _: Says(True, "an import is to train"),
        lambda *_: UNSET,
    ),
    _arg("do_eval", "", _tokenised),
    _arg("packing", "data.packing"),
    _arg("packing_strategy", "data.packing_strategy", words({"bfd_split": "bfd"}), lambda v, _: v),
    _arg("padding_free", "data.padding_free"),
    _arg("pad_to_multiple_of", "data.pad_to_multiple_of"),
    _arg("completion_only_loss", "data.completion_only_loss", words({None: True}), lambda v, _: v),
    _arg("assistant_only_loss", "data.completion_only_loss"),
    _arg(
        "dataset_text_field",
        f"{_ROWS}.input_columns",
        lambda v, _: (
            Says(kind="taken", note="the column that nbft takes anyway")
            if v == "text"
            else Says([v], kind="converted")
        ),
        lambda *_: UNSET,
    ),
    _arg("dataset_num_proc", "data.dataset_num_proc"),
    _arg(
        "dataset_kwargs",
        "",
        no_effect("says how TRL prepares rows; nbft prepares them itself"),
        type=dict,
    ),
    _arg("train_sampling_strategy", "data.train_sampling_strategy"),
    _arg("group_by_length", "data.train_sampling_strategy", _group, lambda *_: UNSET, type=bool),
    _arg("length_column_name", "data.length_column_name"),
    _arg("shuffle_dataset", "data.shuffle"),
    _arg("dataloader_num_workers", "data.dataloader_num_workers"),
    _arg("dataloader_pin_memory", "data.dataloader_pin_memory"),
    _arg("dataloader_drop_last", "data.dataloader_drop_last"),
    _arg("dataloader_prefetch_factor", "data.dataloader_prefetch_factor"),
    _arg("dataloader_persistent_workers", "data.dataloader_persistent_workers"),
    _arg(
        "gradient_checkpointing",
        "memory.gradient_checkpointing",
        _checkpointing,
        lambda v, _: v,
        also=("activation_checkpointing",),
    ),
    _arg("gradient_checkpointing_kwargs", "memory.gradient_checkpointing_kwargs", type=dict),
    _arg("torch_empty_cache_steps", "memory.torch_empty_cache_steps"),
    _arg("auto_find_batch_size", "memory.auto_find_batch_size"),
    _arg("torch_compile", "compute.torch_compile"),
    _arg(
        "use_cpu",
        "compute.device",
        lambda v, _: Says("cpu") if v else Says(kind="taken", note="off, as here"),
        lambda *_: UNSET,
        type=bool,
    ),
    _arg("use_liger_kernel", "model.use_liger_kernel"),
    _arg("neftune_noise_alpha", "training.neftune_noise_alpha"),
    _arg("full_determinism", "training.full_determinism"),
    _arg("report_to", "tracking.report_to", _report, lambda v, _: v or UNSET),
    _arg("run_name", "training.run_name"),
    _arg("project", "tracking.project"),
    _arg("push_to_hub", "", none("nbft pushes nothing by itself; run.model() gives the adapter")),
    _arg("hub_model_id", "", none("nbft pushes nothing by itself; run.model() gives the adapter")),
    _arg("hub_token", "", none("nbft pushes nothing by itself, and needs no token")),
    _arg("remove_unused_columns", "", _tokenised),
    _arg(
        "embedding_learning_rate",
        "",
        none("one learning rate for all; LoRA+ has peft.loraplus_lr_ratio"),
    ),
    _arg("eos_token", "", no_effect("the tokenizer's own ends every completion")),
    _arg("pad_token", "model.pad_token"),
    _arg("chat_template_path", "model.chat_template_path"),
    _arg("model_init_kwargs", "model.model_init_kwargs", type=dict),
    _arg("resume_from_checkpoint", "training.resume_from_checkpoint"),
    _arg("average_tokens_across_devices", "distributed.average_tokens_across_devices"),
    _arg("ddp_find_unused_parameters", "distributed.ddp_find_unused_parameters"),
    _arg("deepspeed", "distributed.deepspeed"),
    _arg("beta", "preference.beta"),
    _arg("loss_type", "", no_effect("the plain loss on the completion"), type=object),
    *(
        _arg(name, "", _collator, type=object)
        for name in (
            *("model", "tokenizer", "processing_class", "train_dataset", "eval_dataset", "args"),
            *("peft_config", "data_collator", "formatting_func", "callbacks", "compute_metrics"),
        )
    ),
    _lora("r", "peft.r", also=("lora_r",), low=1, default=8),
    _lora("lora_alpha", "peft.lora_alpha", low=1, type=int, default=8),
    _lora("lora_dropout", "peft.lora_dropout", low=0, high=1),
    _lora(
        "target_modules",
        "peft.target_modules",
        _targets,
        lambda v, _: v,
        also=("lora_target_modules",),
    ),
    _lora(
        "modules_to_save",
        "peft.modules_to_save",
        words({None: []}),
        lambda v, _: v,
        also=("lora_modules_to_save",),
    ),
    _lora("bias", "peft.bias", choices=("none", "all", "lora_only")),
    _lora("task_type", "peft.task_type", also=("lora_task_type",)),
    _lora("use_rslora", "peft.use_rslora"),
    _lora("use_dora", "peft.use_dora"),
    _lora("init_lora_weights", "peft.init_lora_weights", _init, lambda v, _: v),
    _lora("loftq_config", "", no_effect("empty, as here"), type=object),
    _lora(
        "use_gradient_checkpointing",
        "memory.gradient_checkpointing",
        _checkpointing,
        lambda *_: UNSET,
    ),
    _lora("random_state", "", no_effect("training.seed is the one seed")),
    _lora("peft_type", "peft.method", _peft_type, lambda *_: UNSET),
    _lora("base_model_name_or_path", "model.model_name"),
    _lora("inference_mode", "", no_effect("an adapter to go on with")),
    *(
        _lora(name, "", no_effect("PEFT's own default, as here"), type=object)
        for name in (
            *(
                "alpha_pattern",
                "rank_pattern",
                "layers_pattern",
                "layers_to_transform",
                "fan_in_fan_out",
            ),
            *(
                "auto_mapping",
                "revision",
                "corda_config",
                "eva_config",
                "exclude_modules",
                "lora_bias",
            ),
            *(
                "megatron_config",
                "megatron_core",
                "layer_replication",
                "qalora_group_size",
                "use_qalora",
            ),
            *(
                "target_parameters",
                "trainable_token_indices",
                "arrow_config",
                "ensure_weight_tying",
            ),
            *("peft_version", "alora_invocation_tokens", "runtime_config"),
        )
    ),
    Entry("use_peft", "peft.method", _use_peft, lambda *_: UNSET, type=bool, is_documented=False),
    _load(
        "model_name_or_path",
        "model.model_name",
        also=("model_name", "pretrained_model_name_or_path"),
    ),
    _load("load_in_4bit", "quantization.load_in_4bit"),
    _load("load_in_8bit", "quantization.load_in_8bit"),
    _load(
        "full_finetuning",
        "peft.method",
        words({True: "full", False: "lora"}),
        lambda *_: UNSET,
        type=bool,
    ),
    _load("bnb_4bit_quant_type", "quantization.bnb_4bit_quant_type"),
    _load(
        "bnb_4bit_use_double_quant",
        "quantization.bnb_4bit_use_double_quant",
        also=("use_bnb_nested_quant",),
    ),
    _load("bnb_4bit_compute_dtype", "quantization.bnb_4bit_compute_dtype"),
    _load("bnb_4bit_quant_storage", "quantization.bnb_4bit_quant_storage"),
    _load("quantization_config", "", _collator, type=object),
    _load("dtype", "model.dtype", words({None: "auto"}), lambda v, _: v, also=("torch_dtype",)),
    _load("attn_implementation", "model.attn_implementation"),
    _load("device_map", "model.device_map", words({"": None}), lambda v, _: v, type=object),
    _load("trust_remote_code", "model.trust_remote_code"),
    _load("model_revision", "model.model_revision"),
    _load("token", "", no_effect("the hub's own log-in is used"), type=object),
    extra("from_pretrained.[0]", "model.model_name"),
    extra("from_pretrained.max_seq_length", "data.max_length"),
    extra("AutoTokenizer.[0]", "model.tokenizer_name"),
    extra("AutoTokenizer.pretrained_model_name_or_path", "model.tokenizer_name"),
    extra("dataset_name", f"{_ROWS}.dataset_name", also=("load_dataset.[0]", "load_dataset.path")),
    extra("dataset_config", f"{_ROWS}.subset", also=("load_dataset.[1]", "load_dataset.name")),
    extra("dataset_train_split", f"{_ROWS}.split", also=("load_dataset.split",)),
    extra("dataset_test_split", "data.validation.datasets[0].split"),
    extra("load_dataset.data_files", f"{_ROWS}.dataset_kwargs.data_files", type=object),
)


def prepare(document: Document) -> Document:
    """Take the keywords of the calls that hold settings, or the names that are assigned."""
    if document.language != "python":
        return document
    tree: dict[str, Any] = {}
    calls = dict(document.tree)
    names = calls.pop("", {})
    for called, block in calls.items():
        if called in _CALLS:
            tree.setdefault(_CALLS[called], {}).update(
                {name: _value(name, value) for name, value in block.items()}
            )
    known = {entry.path: entry for entry in TABLE}
    if not tree:
        tree = {name: value for name, value in names.items() if name in known}
    if not tree:
        used = {n.id for n in ast.walk(ast.parse(document.text)) if isinstance(n, ast.Name)}
        tree = {name: None for name in known if name in used and known[name].is_documented}
    adapter = tree.get("LoraConfig", {})
    for name in ("[0]", "[1]"):  # the model and the config that get_peft_model is given
        adapter.pop(name, None)
    return Document(document.path, "python", tree, document.lines, document.remarks, document.text)


def _value(name: str, value: Any) -> Any:
    if (
        isinstance(value, Code)
        and "is_bfloat16_supported" in value.text
        and name in ("fp16", "bf16")
    ):
        return "auto"
    if isinstance(value, Code) and "is_bf16_supported" in value.text and name in ("fp16", "bf16"):
        return "auto"
    return value


def rules(work: Work) -> Iterator[Problem]:
    """Their own rules over several keys."""
    given = work.given
    if given.get("bf16") is True and given.get("fp16") is True:
        yield Problem(
            "fp16", True, "transformers: at most one of fp16 and bf16 can be on.", "Keep one."
        )
    if given.get("load_in_4bit") is True and given.get("load_in_8bit") is True:
        yield Problem(
            "load_in_8bit",
            True,
            "bitsandbytes: load_in_4bit and load_in_8bit are exclusive.",
            "Keep one.",
        )


def settle(work: Work) -> None:
    """Leave out defaults of what is not there, and see whether an adapter is trained."""
    tree = work.document.tree
    has_arguments = "SFTConfig" in tree or "DPOConfig" in tree
    if work.document.language != "python":
        has_arguments = any(key.rpartition(".")[2] in _OF_TRAINING for key in work.lines)
    adapter = {"r", "lora_r", "lora_alpha", "target_modules", "lora_target_modules", "peft_type"}
    has_adapter = "LoraConfig" in tree or any(k.rpartition(".")[2] in adapter for k in _given(work))
    for key, line in list(work.lines.items()):
        is_lora = key in ("r", "lora_alpha")
        if line.kind == "defaulted" and not (has_adapter if is_lora else has_arguments):
            work.settings.pop(line.setting, None)
            del work.lines[key]
    if has_arguments and not has_adapter and "peft.method" not in work.settings:
        work.settings["peft.method"] = "full"
        key = "use_peft" if work.document.language != "python" else "peft_config"
        if key not in work.lines:
            work.say(
                key,
                "defaulted",
                "without a LoraConfig every weight is trained",
                "peft.method",
                "full",
            )
    strategy = work.settings.get("data.validation.datasets[0].split")
    if strategy and f"{_ROWS}.dataset_name" in work.settings:
        for setting, value in list(work.settings.items()):
            if setting.startswith(f"{_ROWS}."):
                work.settings.setdefault(setting.replace("data.train", "data.validation"), value)
    elif strategy:
        work.settings.pop("data.validation.datasets[0].split")
    if "LoraConfig" in tree and has_arguments is False:
        work.settings.setdefault("peft.method", "lora")


def _given(work: Work) -> Iterator[str]:
    return (key for key, line in work.lines.items() if line.kind != "defaulted")


_OF_TRAINING = {
    *("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("num_train_epochs", "max_steps", "output_dir", "lr_scheduler_type", "dataset_name"),
}

SYSTEM = System(
    "unsloth",
    "Unsloth and TRL",
    TABLE,
    marks=frozenset(
        {"SFTConfig", "LoraConfig", "peft_type", "use_peft", "base_lr", "from_pretrained"}
    ),
    languages=("python", "json", "yaml"),
    prepare=prepare,
    rules=rules,
    settle=settle,
    is_strict=True,
)
