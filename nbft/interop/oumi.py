"""Oumi's YAML: `oumi.core.configs.TrainingConfig`, and the command that starts it.

Oumi refuses unknown keys. The LoRA and QLoRA examples in its own documentation use some (`peft.r`,
`peft.enable_peft`, …), which are accepted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.errors import ConfigError, Problem
from nbft.interop.chat_formats import chat_template, name_of, untrained_end
from nbft.interop.conversions import (
    IN_SEVERAL,
    NOT_SET,
    OFF,
    deepspeed,
    half_precision,
    train_method,
)
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.preferences import has_weights, trl_loss_back
from nbft.interop.read import Document, read_document
from nbft.interop.table import UNSET, Convert, Converted
from nbft.models.peft_types import peft_types
from nbft.models.templates import NAMES

_ALPACA = {"dataset_type": "alpaca_chat"}
_MESSAGES = {"dataset_type": "messages"}
_SHAREGPT = {"dataset_type": "sharegpt"}


def _pair(prompt: str, answer: str) -> dict[str, Any]:
    """Return the settings of rows with a column each for the turns of user and assistant."""
    return {
        "dataset_type": "chat_completion",
        "prompt_template": f"{{{prompt}}}",
        "completion_template": f"{{{answer}}}",
    }


_READERS: dict[str, dict[str, Any]] = {
    "yahma/alpaca-cleaned": _ALPACA,
    "tatsu-lab/alpaca": _ALPACA,
    "uiuc-convai/CoALM-IT": _ALPACA,
    "text_sft": {"dataset_type": "text_sft"},
    "text_sft_jsonl": {"dataset_type": "text_sft"},
    "PromptResponseDataset": _pair("instruction", "output"),
    "O1-OPEN/OpenO1-SFT": _pair("instruction", "output"),
    "argilla/magpie-ultra-v0.1": _pair("instruction", "response"),
    "CohereForAI/aya_dataset": _pair("inputs", "targets"),
    "HuggingFaceDataset": _MESSAGES,
    "HuggingFaceH4/ultrachat_200k": _MESSAGES,
    "allenai/tulu-3-sft-mixture": _MESSAGES,
    "allenai/WildChat-1M": {**_MESSAGES, "columns": {"messages": "conversation"}},
    "Magpie-Align/Llama-3-Magpie-Pro-1M-v0.1": _SHAREGPT,
    "Magpie-Align/Magpie-Pro-300K-Filtered": _SHAREGPT,
}
"""How Oumi's dataset classes make turns of rows. Source: Oumi, src/oumi/datasets/sft."""

_TEXTS = frozenset(
    "HuggingFaceFW/fineweb-edu allenai/c4 allenai/dolma bigcode/starcoderdata bigcode/the-stack "
    "tiiuae/falcon-refinedweb EleutherAI/pile togethercomputer/RedPajama-Data-1T "
    "togethercomputer/RedPajama-Data-V2 gmongaras/SlimPajama-627B_Reupload cerebras/SlimPajama-627B "
    "roneneldan/TinyStories nampdn-ai/tiny-textbooks wikimedia/wikipedia Salesforce/wikitext "
    "PleIAs/YouTube-Commons".split()
)
"""Datasets of plain text. Source: Oumi, src/oumi/datasets/pretraining."""

_OWN_READERS = {
    "nvidia/ChatQA-Training-Data": "a document before the turns",
    "nvidia/ChatRAG-Bench": "a document before the turns",
    "argilla/databricks-dolly-15k-curated-en": "columns that hold records",
    "hf_vision": "images",
    "vl_sft": "images",
    "vision_language_jsonl": "images",
}
"""Datasets that Oumi reads in ways that nbft has not, with what is special about their rows."""

_NO_DATASETS = ("text_sft", "text_sft_jsonl", "PromptResponseDataset", "HuggingFaceDataset")
"""Names of readers rather than of datasets."""


def _rows(work: Work) -> None:
    """Give every set its rows, and the turns that Oumi's class of that name makes of them."""
    for split in ("train", "validation", "test"):
        block = work.document.tree.get("data")
        block = block.get(split) if isinstance(block, dict) else None
        sets = block.get("datasets") if isinstance(block, dict) else None
        for number, item in enumerate(sets if isinstance(sets, list) else []):
            item = item if isinstance(item, dict) else {"dataset_name": str(item)}
            _reader(work, f"data.{split}.datasets[{number}]", item)


def _reader(work: Work, place: str, item: Mapping[str, Any]) -> None:
    name = str(item.get("dataset_name") or "")
    kwargs = item.get("dataset_kwargs")
    kwargs = dict(kwargs) if isinstance(kwargs, dict) else {}
    key = f"{place}.dataset_name"
    line = work.lines.get(key)

    def put(**settings: Any) -> None:
        work.settings |= {f"{place}.{n}": v for n, v in settings.items() if v not in (None, {})}

    work.settings.pop(f"{place}.dataset_kwargs", None)
    if name in _NO_DATASETS:
        work.settings.pop(f"{place}.dataset_name", None)
        put(dataset_name=kwargs.pop("hf_dataset_path", None))
    if name in _TEXTS:
        column = kwargs.pop("dataset_text_field", "text")
        put(dataset_type="text", columns={"text": column} if column != "text" else {})
        if place.startswith("data.train"):
            work.settings |= {"data.packing": True, "data.packing_strategy": "wrapped"}
        if length := kwargs.pop("seq_length", None):
            work.settings["data.max_length"] = length
        note = "plain text, joined and cut into sequences of equal length"
        work.report(key, "converted", note, f"{place}.dataset_name", name)
    elif name in _OWN_READERS:
        what = _OWN_READERS[name]
        note = f"Oumi has a reader of its own for it ({what}); the columns decide here"
        work.report(key, "impossible", note)
    elif name in _READERS:
        settings = dict(_READERS[name])
        if "prompt_template" in settings:
            columns = (
                ("prompt_template", "prompt_column"),
                ("completion_template", "response_column"),
            )
            for setting, column in columns:
                if column in kwargs:
                    settings[setting] = f"{{{kwargs.pop(column)}}}"
        if (column := kwargs.pop("messages_column", "messages")) != "messages":
            settings["columns"] = {"messages": column}
        if settings == _ALPACA and kwargs.pop("include_system_prompt", True) is False:
            settings = _pair("instruction", "output") | {
                "prompt_template": "{instruction}\n\n### Input:\n{input}",
                "no_input_template": "{instruction}",
            }
        put(**settings)
        note = f"rows become turns as Oumi's reader makes them: {settings['dataset_type']}"
        if line is not None and line.kind != "impossible":
            work.report(key, "converted", note, f"{place}.dataset_type", settings["dataset_type"])
    else:
        put(dataset_kwargs=kwargs)
        return
    for name in ("return_conversations", "return_conversations_format", "format"):
        kwargs.pop(name, None)
    note = "read as the columns and the length of its rows"
    if kwargs:
        note = f"nbft's reader has no {', '.join(kwargs)}"
    work.report(f"{place}.dataset_kwargs", "impossible" if kwargs else "converted", note)
    work.lines[f"{place}.dataset_kwargs"].setting = ""
    if "dataset_kwargs" not in item:
        del work.lines[f"{place}.dataset_kwargs"]


def _pack(value: Any, work: Work) -> Converted:
    if not value:
        return Converted(False)
    note = "Oumi packs rows into chunks of equal length, splitting rows"
    return Converted(True, note, "renamed", {"data.packing_strategy": "wrapped"})


_COLLATORS = {
    "text_with_padding": ("dynamic_padding", False),
    "text_completions_only_with_padding": ("dynamic_padding", True),
}


def _collator(value: Any, work: Work) -> Converted:
    if value is None:
        return NOT_SET
    if value not in _COLLATORS:
        return Converted(
            kind="impossible",
            note=f"{value} is for images; nbft trains on text" if "vision" in str(value) else "",
        )
    name, completion_only = _COLLATORS[value]
    note = "trained on the answers only" if completion_only else "trained on the whole text"
    if not work.key.startswith("data.train."):
        return Converted(kind="taken", note=f"{note}, as the train split says")
    return Converted(name, note, "converted", {"data.completion_only_loss": completion_only})


def _mask(work: Work) -> None:
    """Keep Oumi's rule: without a collator that masks them, prompts are trained on too."""
    if work.given.get("data.train.collator_name") is None and "data.train" in _sections(work):
        work.put(
            "data.train.collator_name",
            "defaulted",
            "theirs: without a collator the whole text is trained on; ours is the answers only",
            data__completion_only_loss=False,
        )
    target = work.given.get("data.train.train_target")
    if target == "final_assistant_turn":
        for number in range(_count_sets(work)):
            work.settings[f"data.train.datasets[{number}].train_target"] = target


def _sections(work: Work) -> list[str]:
    data = work.document.tree.get("data")
    return (
        [f"data.{name}" for name, block in data.items() if block] if isinstance(data, dict) else []
    )


def _count_sets(work: Work) -> int:
    numbers = (re.match(r"data\.train\.datasets\[(\d+)\]", name) for name in work.settings)
    return 1 + max((int(number[1]) for number in numbers if number), default=-1)


def _target_col(value: Any, work: Work) -> Converted:
    if value in (None, "prompt", "text", "messages"):
        return Converted(kind="converted", note="deprecated in Oumi; detected from the columns")
    return Converted([value], "the column with the text; deprecated in Oumi", "converted")


def _workers(value: Any, work: Work) -> Converted:
    if value != "auto":
        return Converted(int(value))
    note = "auto depends on GPUs and CPUs there; without a GPU nbft's 0 is faster"
    return Converted(0, note, "converted")


def _prefetch(value: Any, work: Work) -> Converted:
    if value is None or work.given.get("training.dataloader_num_workers") in (None, 0, "auto"):
        note = "needs workers; PyTorch rejects it without them" if value else "not set"
        return Converted(None, note, "converted" if value else "taken")
    return Converted(value)


_TRAINERS = {"TRL_SFT": "sft", "HF": "base", "OUMI": "base"}


def _trainer_back(value: Any, config: Config) -> Any:
    return {"sft": "TRL_SFT", "base": "HF", "dpo": "TRL_DPO", "kto": "TRL_KTO"}.get(value, UNSET)


def _smoothing_back(value: Any, config: Config) -> Any:
    return value if config.preference.loss_type in ("robust", "exo_pair") else UNSET


def _trainer(value: Any, work: Work) -> Converted:
    name = str(value).upper()
    if name in _TRAINERS:
        note = "the plain transformers Trainer" if name == "OUMI" else ""
        return Converted(_TRAINERS[name], note)
    return train_method(value, work, name.removeprefix("TRL_").removeprefix("VERL_").lower())


def _dtype(value: Any, work: Work) -> Converted:
    names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    name = names.get(str(value).lower(), str(value).lower())
    if name == "float16" and half_precision("fp16").value == "auto":
        return Converted("auto", "float16 needs a GPU; decided by the device here", "converted")
    return Converted(name)


def _mixed(value: Any, work: Work) -> Converted:
    if str(value).lower() == "none":
        return Converted("no")
    return half_precision(str(value).lower())


def _switch(name: str) -> Convert:
    """Return a conversion of training.bf16 and training.fp16."""

    def convert(value: Any, work: Work) -> Converted:
        other = {"bf16": "fp16", "fp16": "bf16"}[name]
        if not value:
            if work.given.get(f"training.{other}"):
                return Converted(kind="taken", note=f"{other} is on")
            return Converted("no")
        result = half_precision(name)
        note = "; ".join(
            t for t in ("Oumi has no such key; it is mixed_precision_dtype", result.note) if t
        )
        return Converted(result.value, note, "converted")

    return convert


def _targets(value: Any, work: Work) -> Converted:
    if value is None:
        return Converted(["all-linear"], "null lets PEFT choose by model", "converted")
    if isinstance(value, str):
        work.wrong(
            "peft.lora_target_modules", value, "Oumi: must be a list.", f"Write [{value!r}]."
        )
        return Converted()
    return Converted(value)


def _quantised(value: Any, work: Work) -> Converted:
    if not value:
        return Converted(False)
    bits = work.document.tree.get("peft", {})
    bits = bits.get("q_lora_bits", 4) if isinstance(bits, dict) else 4
    name = "load_in_8bit" if bits == 8 else "load_in_4bit"
    return Converted(more={f"quantization.{name}": True})


def _peft_method(value: Any, work: Work) -> Converted:
    ours = {
        **{name: name for name in peft_types()},
        "qlora": "lora",
        "full": "full",
        "none": "full",
    }
    name = ours.get(str(value).lower())
    if name is None:
        return Converted(kind="impossible", note=f"nbft has {', '.join(peft_types())} and full")
    more = {"quantization.load_in_4bit": True} if value == "qlora" else {}
    return Converted(
        name, "Oumi has no such key; training.use_peft is the switch", "converted", more
    )


def _fsdp(value: Any, work: Work) -> Converted:
    if not value:
        return OFF
    name = str(work.given.get("fsdp.sharding_strategy", "FULL_SHARD")).lower()
    is_given = "fsdp.auto_wrap_policy" in work.given
    more = {} if is_given else {"distributed.fsdp_auto_wrap_policy": "NO_WRAP"}  # Oumi's default
    return Converted(name, IN_SEVERAL, "converted", more)


def _deepspeed(value: Any, work: Work) -> Converted:
    """Take the stage of ZeRO and what is kept in CPU memory, or the file that is named instead."""
    if not value or not value.get("enable_deepspeed"):
        return OFF
    if file := value.get("deepspeed_config_path"):
        return deepspeed(file, work)
    stage = str(value.get("zero_stage") or "ZERO_0").upper().removeprefix("ZERO_")
    zero = {"stage": int(stage) if stage.isdigit() else stage}
    offload = {n: value[n] for n in ("offload_optimizer", "offload_param") if value.get(n)}
    kept = {"enable_deepspeed", "zero_stage", *offload}
    rest = [name for name, given in value.items() if name not in kept and given is not None]
    note = f"; {', '.join(rest)} is left out" if rest else ""
    return Converted({"zero_optimization": zero | offload}, f"{IN_SEVERAL}{note}", "converted")


def _fsdp_precision(value: Any, work: Work) -> Converted:
    if value is None or not work.given.get("fsdp.enable_fsdp"):
        return Converted(kind="taken", note="fsdp is off" if value else "not set")
    names = {"bfloat16": "bf16", "float16": "fp16", "float32": "no", "none": "no"}
    name = names.get(str(value).lower(), str(value).lower())
    return half_precision(name) if name != "no" else Converted("no")


def _sharding(value: Any, work: Work) -> Converted:
    fsdp = work.document.tree.get("fsdp")
    if isinstance(fsdp, dict) and fsdp.get("enable_fsdp"):
        return Converted(str(value).lower(), kind="converted")
    return Converted(kind="taken", note="fsdp is off")


def _lower(value: Any, work: Work) -> Any:
    return value.lower() if isinstance(value, str) else value


def _minutes(value: Any, work: Work) -> Converted:
    if value is None:
        return NOT_SET
    return Converted(round(float(value) * 60), "minutes there, seconds here", "converted")


def _chat_template(value: Any, work: Work) -> Converted:
    if value in (None, "auto"):
        return Converted(None, "the tokenizer's own", "taken")
    name = str(value)
    known = chat_template("oumi", name.lower())
    if known is not None:
        is_masked = "completions_only" in str(work.given.get("data.train.collator_name"))
        end = untrained_end("oumi", name.lower()) if is_masked else ""
        return Converted(known, "; ".join(filter(None, (f"the text of {name}", end))))
    if "{" in name or name in NAMES:
        return Converted(name)
    note = f"nbft has no {name}: the tokenizer's own chat template is used, which may differ"
    return Converted(kind="deviates", note=note)


def _chat_template_back(value: Any, config: Config) -> Any:
    return (name_of("oumi", value) or UNSET) if value else UNSET


def _training_type(value: Any, work: Work) -> Converted:
    """Return the method that the wizard was asked for; auto follows Oumi's guide to model sizes."""
    # Imported here, because only this key needs to inspect the machine.
    from nbft.plan.advice import SETTINGS_OF, choose_method, parameters_of, this_machine

    model = work.given.get("cli.create.model") or Config().model.model_name
    method, note = str(value), ""
    if method == "auto":
        choice = choose_method(method, parameters_of(str(model)), this_machine())
        method, note = choice.value, f"decided here: {choice.reason}"
    more = dict(SETTINGS_OF[method])
    ours = more.pop("peft.method")
    return Converted(ours, note, "converted" if more or note else None, more)


def _transform_workers(value: Any, work: Work) -> Converted:
    if value in (None, "auto"):
        return NOT_SET
    return Converted(max(int(value), work.settings.get("data.dataset_num_proc") or 1))


def _warmup_steps(value: Any, work: Work) -> Converted:
    if value is not None:
        return Converted(value)
    if work.given.get("training.warmup_ratio"):
        return NOT_SET
    return Converted(0.0, "null means none there", "converted")


def _warmup_ratio_back(value: Any, config: Config) -> Any:
    return value if 0 < value < 1 else UNSET


def _minutes_back(value: Any, config: Config) -> Any:
    return value / 60


def _init_lora_weights_back(value: Any, config: Config) -> Any:
    return value.upper() if value in ("default", "random") else value


def _train_target(value: Any, work: Work) -> Converted:
    if value in (None, "all_assistant_turns"):
        return Converted(kind="taken", note="every answer of the assistant, as here")
    return Converted(kind="renamed")


def _save_mode(value: Any, work: Work) -> Converted:
    if value == "ADAPTER_ONLY":
        return Converted(kind="taken", note="the adapter is saved")
    note = "the adapter is saved; run.export('merged') writes the merged model"
    return Converted(kind="impossible", note=note)


def prepare(document: Document) -> Document:
    """Merge the file and the overrides of a shell script into one tree."""
    if document.language != "shell":
        return document
    tree: dict[str, Any] = {"cli": {}}
    lines: dict[str, int] = {}
    for command, block in document.tree.items():
        if command.startswith("oumi config create"):
            tree["cli"]["create"] = dict(block)
        if not command.startswith("oumi train"):
            continue
        for name in ("c", "config"):
            if name in block:
                tree["cli"][name] = block[name]
                file = document.path.absolute().parent / str(block[name])
                if file.is_file():
                    inner = read_document(file)
                    tree, lines = {**inner.tree, "cli": tree["cli"]}, inner.lines
        from nbft.config import io

        for name, value in block.items():
            if "." in name:
                tree["cli"]["override"] = "read below"
                try:
                    io.put(tree, name, io.parse_yaml(f"value: {value}", name)["value"])
                except ConfigError:
                    document.remarks.append(f"--{name}: is not a key of the file; left out.")
    if not tree["cli"]:
        del tree["cli"]
    return Document(document.path, "shell", tree, lines, document.remarks, document.text)


def rules(work: Work) -> Iterator[Problem]:
    """Oumi's own rules over several keys."""
    given = work.given
    deepspeed = work.document.tree.get("deepspeed")
    is_deepspeed = isinstance(deepspeed, dict) and deepspeed.get("enable_deepspeed")
    if given.get("fsdp.enable_fsdp") and is_deepspeed:
        yield Problem(
            "deepspeed.enable_deepspeed",
            True,
            "Oumi: FSDP and DeepSpeed are mutually exclusive.",
            "Keep one of them.",
        )
    mixed = str(given.get("training.mixed_precision_dtype", "none")).lower()
    weights = str(given.get("model.torch_dtype_str", "float32")).lower()
    if mixed != "none" and weights not in ("float32", "fp32", "auto"):
        yield Problem(
            "training.mixed_precision_dtype",
            mixed,
            f"Oumi: mixed precision needs float32 weights, and torch_dtype_str is {weights}.",
            "Remove one of the two.",
        )
    for split in ("train", "validation", "test"):
        block = work.document.tree.get("data", {})
        block = block.get(split) if isinstance(block, dict) else None
        sets = block.get("datasets") if isinstance(block, dict) else None
        sets = [item for item in sets if isinstance(item, dict)] if isinstance(sets, list) else []
        shares = [item["mixture_proportion"] for item in sets if item.get("mixture_proportion")]
        if shares and len(shares) < len(sets):
            yield Problem(
                f"data.{split}.datasets",
                None,
                f"Oumi: {len(shares)} of {len(sets)} datasets have a mixture_proportion; either "
                "all or none must have one.",
            )
        elif all(isinstance(s, (int, float)) for s in shares) and shares:
            total = sum(shares)
            if abs(total - 1) > 1e-4:
                why = f"Oumi: the mixture_proportion of a split must add up to 1, not {total:g}."
                yield Problem(f"data.{split}.datasets", None, why)
        for number, item in enumerate(sets):
            if not item.get("dataset_name") and work.document.language != "shell":
                yield Problem(
                    f"data.{split}.datasets[{number}].dataset_name",
                    None,
                    "Oumi: is required.",
                    "Name a dataset, or text_sft with a dataset_path.",
                )


def settle(work: Work) -> None:
    """What depends on several keys."""
    _rows(work)
    _mask(work)
    peft_keys = [
        key
        for key, line in work.lines.items()
        if key.startswith("peft.") and line.kind != "defaulted"
    ]
    chosen = work.settings.get("peft.method")
    switches = ("training.use_peft", "peft.enable_peft", "peft.peft_method")
    if peft_keys and chosen == "full" and not any(name in work.given for name in switches):
        line = work.lines.get("training.use_peft")
        if line is not None:
            line.kind, line.became = "deviates", "lora"
            line.note = "the file configures an adapter but never enables it; it is enabled here"
        work.settings["peft.method"] = "lora"
    is_quantised = any(work.settings.get(f"quantization.load_in_{n}bit") for n in (4, 8))
    prefix = "peft." if work.settings.get("peft.method") == "full" else "peft.bnb_"
    if prefix == "peft." or not is_quantised:
        for key in [key for key in work.lines if key.startswith(prefix)]:
            work.drop_default(key)
    if work.settings.get("evaluation.eval_strategy") == "no":
        work.drop_default("training.eval_steps")
    if work.settings.get("checkpoint.save_steps") == 0:
        work.settings.pop("checkpoint.save_steps")
        strategy = "epoch" if work.settings.get("checkpoint.save_on_epoch_end") else "no"
        work.settings.pop("checkpoint.save_on_epoch_end", None)
        work.put(
            "training.save_steps",
            "converted",
            "0 disables saving",
            checkpoint__save_strategy=strategy,
        )


def _reader_back(dataset: Dataset, config: Config) -> dict[str, Any]:
    """Return the keys for one of Oumi's readers that makes the same turns of the rows."""
    if dataset.path or not dataset.dataset_name:
        return {}
    if dataset.dataset_name in _TEXTS:
        return {"dataset_kwargs": {"seq_length": config.data.max_length}}
    if dataset.dataset_name in _READERS:
        return {}
    hub = {"hf_dataset_path": dataset.dataset_name}
    parts = (dataset.prompt_template or "", dataset.completion_template or "")
    named = [re.fullmatch(r"\{([^{}]+)\}", part) for part in parts]
    if dataset.dataset_type == "chat_completion" and all(named):
        asked, answer = (match[1] for match in named if match)
        kwargs = {**hub, "prompt_column": asked, "response_column": answer}
        return {"dataset_name": "PromptResponseDataset", "dataset_kwargs": kwargs}
    if dataset.dataset_type == "messages":
        kwargs = {**hub, "messages_column": dataset.columns.get("messages", "messages")}
        return {"dataset_name": "HuggingFaceDataset", "dataset_kwargs": kwargs}
    return {}


def write(config: Config, tree: dict[str, Any]) -> None:
    """Write what is trained on, and give every dataset a name, which Oumi requires."""
    data = tree.get("data", {})
    for name, split in config.data.splits().items():
        written = data.get(name, {}).get("datasets", [])
        for ours, theirs in zip(split.datasets, written, strict=False):
            theirs |= _reader_back(ours, config)
            if "dataset_path" in theirs:
                theirs.setdefault("dataset_name", "text_sft")
    if config.training.method == "dpo" and has_weights(config):
        loss = trl_loss_back(config.preference.loss_type, config)
        if loss is not UNSET:
            weights = [config.preference.pref_loss_ratio, config.preference.sft_loss_ratio or 0.0]
            more = {"loss_type": loss, "loss_weights": weights}
            tree.setdefault("training", {}).setdefault("trainer_kwargs", {}).update(more)
    if config.data.train.datasets:
        split = tree.setdefault("data", {}).setdefault("train", {})
        if config.data.completion_only_loss:
            split["collator_name"] = "text_completions_only_with_padding"
            targets = {dataset.train_target for dataset in config.data.train.datasets}
            split["train_target"] = targets.pop() if len(targets) == 1 else "all_assistant_turns"
        else:
            split.pop("collator_name", None)


SYSTEM = load_system("oumi", globals(), prepare=prepare, rules=rules, settle=settle, write=write)
