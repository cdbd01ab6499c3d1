"""Oumi's YAML: `oumi.core.configs.TrainingConfig`, and the command that starts it.

Oumi refuses unknown keys. The LoRA and QLoRA examples in its own documentation use some (`peft.r`,
`peft.enable_peft`, …), which are accepted here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbft.config import Config
from nbft.errors import ConfigError, Problem
from nbft.interop.conversions import NOT_SET, OFF, half_precision, on_gpu
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.read import Document, read_document
from nbft.interop.table import UNSET, Convert, Converted

_SET = "data.<split>.datasets[]"

_BY_NAME = {"text_sft", "text_sft_jsonl", "PromptResponseDataset", "text_completions"}
"""Names of readers rather than of datasets."""


def _dataset_name(value: Any, work: Work) -> Converted:
    if value in _BY_NAME:
        note = "names a reader, not a dataset; nbft detects the format from the columns"
        return Converted(note=note, kind="converted")
    return Converted(value)


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
    note = "trained on the completion only" if completion_only else "trained on the whole text"
    return Converted(name, note, "converted", {"data.completion_only_loss": completion_only})


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


def _trainer(value: Any, work: Work) -> Converted:
    name = str(value).upper()
    ours = {"TRL_SFT": "sft", "HF": "base", "OUMI": "base"}
    if name in ours:
        note = "the plain transformers Trainer" if name == "OUMI" else ""
        return Converted(ours[name], note)
    if name == "TRL_DPO":
        return Converted(more={"preference.method": "dpo"}, note="planned")
    return Converted(kind="impossible", note=f"{name} is not among nbft's methods; sft is kept")


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
    ours = {"lora": "lora", "qlora": "lora", "ia3": "ia3", "full": "full", "none": "full"}
    name = ours.get(str(value).lower())
    if name is None:
        return Converted(kind="impossible", note="nbft has lora, ia3 and full")
    more = {"quantization.load_in_4bit": True} if value == "qlora" else {}
    return Converted(
        name, "Oumi has no such key; training.use_peft is the switch", "converted", more
    )


def _tracker(name: str) -> Convert:
    def convert(value: Any, work: Work) -> Converted:
        if not value:
            return OFF
        there = list(work.settings.get("tracking.report_to", []))
        return Converted([*there, name], kind="converted")

    return convert


def _fsdp(value: Any, work: Work) -> Converted:
    if not value:
        return OFF
    name = str(work.given.get("fsdp.sharding_strategy", "FULL_SHARD")).lower()
    note = "with one process nothing is sharded"
    return Converted(name, note, "converted")


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
    return Converted(value)


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


def _attention(value: Any, work: Work) -> Any:
    if value == "flash_attention_2":
        return on_gpu("sdpa gives the same numbers", "sdpa")(value, work)
    return value


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
    if value == "all_assistant_turns":
        return Converted(True, "trained on every answer of the assistant", "converted")
    return Converted(True, "trained on every answer, not only the last", "deviates")


def _save_mode(value: Any, work: Work) -> Converted:
    if value == "ADAPTER_ONLY":
        return Converted(kind="taken", note="the adapter is saved")
    note = "the adapter is saved; run.merge() writes the merged model"
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


def write(config: Config, tree: dict[str, Any]) -> None:
    """Give every dataset a name, which Oumi requires."""
    for split in tree.get("data", {}).values():
        for dataset in split.get("datasets", []):
            if "dataset_path" in dataset:
                dataset.setdefault("dataset_name", "text_sft")


SYSTEM = load_system("oumi", globals(), prepare=prepare, rules=rules, settle=settle, write=write)
