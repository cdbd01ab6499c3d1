"""LLaMA-Factory's flat YAML: `llamafactory-cli train FILE`.

Datasets are names in its dataset_info.json, which says how their rows become turns. Its `dataset_dir`
is relative to where it is started, so it is looked for around the file and in the working folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbft.errors import Problem
from nbft.interop.chat_formats import chat_template, untrained_end
from nbft.interop.conversions import (
    NOT_SET,
    OFF,
    attention,
    held_out_share,
    plain_text,
    train_method,
    words_of,
)
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.report import Kind
from nbft.interop.table import Convert, Converted


def _stage(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    if name == "pt":
        if work.document.tree.get("packing") is False:
            return Converted("sft", "trained on the whole text", "converted")
        return plain_text("trained on whole texts, which are joined and cut into equal sequences")
    if name == "rm":
        note = "transformers' class with one label; there a value head beside the language model"
        return Converted("reward", note, "converted")
    return train_method(value, work, name)


def _method(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    if name == "freeze":
        note = "all parameters are frozen but those of freeze_trainable_layers"
        return Converted("full", note, "converted")
    return Converted(name)


def _targets(value: Any, work: Work) -> Converted:
    names = words_of(value)
    if names == ["all"]:
        return Converted(["all-linear"], "all means every linear layer")
    return Converted(names)


def _for_oft(convert: Convert | None = None) -> Convert:
    """Return a conversion of a key of OFT, which has settings in common with LoRA here."""

    def only(value: Any, work: Work) -> Any:
        if str(work.document.tree.get("finetuning_type")).lower() != "oft":
            return Converted(kind="taken", note="used with finetuning_type oft only")
        return convert(value, work) if convert else value

    return only


_oft_target, _oft_only = _for_oft(_targets), _for_oft()


def _oft_rank(value: Any, work: Work) -> Converted:
    if not value:
        return NOT_SET
    return Converted(
        kind="impossible", note="set peft.oft_block_size: the inputs of a layer / rank"
    )


def _pissa(value: Any, work: Work) -> Converted:
    if not value:
        return OFF
    steps = work.document.tree.get("pissa_iter", 16)
    if steps == -1:
        return Converted("pissa")
    if steps in (4, 16):
        return Converted(f"pissa_niter_{steps}", f"pissa_iter is {steps}", "converted")
    return Converted("pissa", f"computed exactly, not in {steps} steps", "deviates")


def _bits(value: Any, work: Work) -> Converted:
    if value is None:
        return NOT_SET
    name = "load_in_8bit" if value == 8 else "load_in_4bit"
    if value not in (4, 8):
        return Converted(kind="impossible", note="bitsandbytes has 4 and 8 bits")
    return Converted(more={f"quantization.{name}": True}, kind="converted")


def _attention(value: Any, work: Work) -> Converted:
    names = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "disabled": "eager"}
    return attention(names.get(value, value), work)


def _val_size(value: Any, work: Work) -> Converted:
    return held_out_share(value, work) if value else Converted(kind="taken", note="none held out")


def _template(value: Any, work: Work) -> Converted:
    """Take the chat template by its name, with the system prompt that it has for rows without one."""
    if value is None:
        return Converted(kind="taken", note="the tokenizer's own chat template, as there")
    if str(work.document.tree.get("stage")).lower() == "pt":
        return Converted(kind="taken", note="plain text needs no chat template")
    tree = work.document.tree
    changes: dict[str, Any] = {}
    if tree.get("default_system") is not None:
        changes["default_system"] = tree["default_system"]
    if tree.get("enable_thinking", True) is not True:
        changes["has_thought"] = True
    known = chat_template("llama_factory", str(value), **changes)
    if known is None:
        note = f"nbft has no {value}: the tokenizer's own chat template is used, which may differ"
        return Converted(kind="deviates", note=note)
    parts = (f"the text of {value}" * (known != value), untrained_end("llama_factory", str(value)))
    return Converted(known, "; ".join(filter(None, parts)))


def _default_system(value: Any, work: Work) -> Converted:
    if work.document.tree.get("template"):
        return Converted(kind="converted", note="part of the chat template")
    return Converted(kind="impossible", note="set data.train.datasets[0].system_prompt")


def _thinking(value: Any, work: Work) -> Converted:
    return Converted(kind="converted", note="part of the chat template; for templates that think")


def _packing(value: Any, work: Work) -> Converted:
    if not value:
        return Converted(False)
    if str(work.document.tree.get("stage")).lower() == "pt":
        return Converted(True)
    note = "packed rows do not attend to each other; with packing alone they do there"
    return Converted(True, note, "deviates")


def _cutoff(value: Any, work: Work) -> Converted:
    note = "longer rows lose their end here; prompt and answer are both shortened there"
    return Converted(value, note, "deviates")


def _sft_weight(value: Any, work: Work) -> Converted:
    if not value:
        return OFF
    if str(work.document.tree.get("stage")).lower() == "kto":
        return Converted(kind="impossible", note="kto has no SFT loss here")
    return Converted(
        value, "averaged over all tokens of a batch; there over each answer first", "deviates"
    )


def rules(work: Work) -> Iterator[Problem]:
    """LLaMA-Factory's own rules over several keys."""
    given = work.given
    method = str(given.get("finetuning_type", "lora")).lower()
    if given.get("quantization_bit") and method not in ("lora", "oft"):
        yield Problem(
            "quantization_bit",
            given["quantization_bit"],
            "LLaMA-Factory: quantisation goes with the OFT or LoRA method only.",
            "Write finetuning_type: lora.",
        )
    if given.get("bf16") and given.get("fp16"):
        yield Problem(
            "fp16", True, "LLaMA-Factory: at most one of fp16 and bf16 can be on.", "Keep one."
        )
    if given.get("val_size") and given.get("eval_dataset"):
        yield Problem(
            "val_size",
            given["val_size"],
            "LLaMA-Factory: eval_dataset and val_size are exclusive.",
            "Keep one.",
        )
    if given.get("mask_history") and given.get("train_on_prompt"):
        yield Problem(
            "mask_history",
            True,
            "LLaMA-Factory: mask_history and train_on_prompt are exclusive.",
            "Keep one.",
        )


def settle(work: Work) -> None:
    """Find the datasets, and settle what depends on several keys."""
    count = work.settings.pop("data.train.datasets[0].sample_count", None)
    for key, split in (("dataset", "train"), ("eval_dataset", "validation")):
        _datasets(work, key, split, count)
    if work.settings.get("preference.loss_type") == "orpo":
        _odds_ratio(work)
    method = str(work.given.get("finetuning_type") or "lora").lower()
    if method == "freeze":
        _freeze(work)
    if method != "lora":
        for key in ("lora_rank", "lora_target"):
            work.drop_default(key)
    elif "lora_alpha" not in work.lines:
        rank = work.settings.get("peft.r", 8)
        work.put(
            "lora_alpha", "defaulted", "theirs: twice the rank", peft__lora_alpha=2 * int(rank)
        )
    if method == "oft" and "peft.target_modules" not in work.settings:
        work.settings["peft.target_modules"] = ["all-linear"]
    if not work.given.get("val_size") and "eval_dataset" not in work.given:
        work.put(
            "val_size", "defaulted", "theirs; ours is 0.9: none are held out", data__split_ratio=1.0
        )


def _odds_ratio(work: Work) -> None:
    """Take the loss orpo as the method of that name, whose SFT loss is on by itself."""
    if str(work.document.tree.get("stage")).lower() != "dpo":
        return
    work.leave_out("preference.loss_type", "converted", "")
    note = "the method, with its SFT loss"
    work.put("pref_loss", "converted", note, training__method="orpo")
    if added := work.settings.get("preference.sft_loss_ratio"):
        note = "added to the SFT loss that orpo has by itself, as there"
        work.put("pref_ftx", "converted", note, preference__sft_loss_ratio=1.0 + added)


def _freeze(work: Work) -> None:
    """Train the named layers only. Source: LLaMA-Factory, src/llamafactory/model/adapter.py."""
    tree = work.document.tree
    if tree.get("use_llama_pro"):
        work.key = "use_llama_pro"
        work.refuse(
            "use_llama_pro",
            True,
            "asks to train every n-th layer of finetuning_type=freeze, which nbft cannot select.",
            "Name the layers in model.unfrozen_parameters of an nbft config.",
        )
        return
    try:
        count = int(tree.get("freeze_trainable_layers", 2))
    except (TypeError, ValueError):
        count = 2
    numbers = [f"{{{-n}}}" for n in range(count, 0, -1)] or [str(n) for n in range(-count)]
    modules = words_of(tree.get("freeze_trainable_modules") or "all")
    patterns = [
        rf"\.{number}\." + ("" if module == "all" else re.escape(module))
        for number in numbers
        for module in modules
    ]
    patterns += [re.escape(name) for name in words_of(tree.get("freeze_extra_modules"))]
    if not patterns:
        work.refuse("freeze_trainable_layers", 0, "trains no layer.", "Name at least one.")
        return
    which = f"the last {count}" if count > 0 else f"the first {-count}"
    work.put(
        "finetuning_type",
        "converted",
        f"trains {which} layers ({', '.join(modules)}) and freezes the rest",
        peft__method="full",
        model__unfrozen_parameters=patterns,
    )


# Rows


def _datasets(work: Work, key: str, split: str, count: int | None) -> None:
    """Take the sets of a split by their names, and of each at most `count` rows."""
    given = work.given.get(key)
    names = [n.strip() for n in given.split(",")] if isinstance(given, str) else words_of(given)
    if not names:
        return
    file, known = _dataset_info(work)
    missing = f"is not in {file}" if file else "is in no dataset_info.json"
    probs = [float(p) for p in words_of(work.given.get("interleave_probs"))]
    notes: list[str] = []
    kind: Kind = "renamed"
    for number, name in enumerate(names):
        block = f"data.{split}.datasets[{number}]"
        about = known.get(name)
        if count:
            work.settings[f"{block}.sample_count"] = count
        if not isinstance(about, dict):
            work.settings[f"{block}.dataset_name"] = name
            if work.given.get("dataset_dir") != "ONLINE":
                kind = "impossible"
                notes.append(f"{name} {missing}; taken as a dataset on the Hub")
            continue
        notes.append(_dataset(work, block, file, name, about))
        kind = "converted" if kind == "renamed" else kind
        if about.get("num_samples"):
            work.settings[f"{block}.sample_count"] = min(count or 10**9, int(about["num_samples"]))
        if work.given.get("mask_history"):
            work.settings[f"{block}.train_target"] = "final_assistant_turn"
        if len(names) > 1 and str(work.given.get("mix_strategy") or "concat") != "concat":
            share = probs[number] if number < len(probs) else 1 / len(names)
            work.settings[f"{block}.mixture_proportion"] = share
    setting = f"data.{split}.datasets[0]"
    name = "path" if f"{setting}.path" in work.settings else "dataset_name"
    value = work.settings.get(f"{setting}.{name}")
    work.report(key, kind, "; ".join(notes), f"{setting}.{name}", value)


def _dataset_info(work: Work) -> tuple[Path | None, dict[str, Any]]:
    """Return the file dataset_info.json and its content: around the file, or in the working folder."""
    given = work.given.get("dataset_dir")
    if str(given).startswith(("ONLINE", "REMOTE:")):
        return None, {}
    name = Path(str(given or "data")).expanduser()
    around = [work.folder, *work.folder.parents]
    places = [folder / name for folder in (*around, Path.cwd())]
    for place in (*places, work.folder):
        file = place / "dataset_info.json"
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            work.report("dataset_dir", "impossible", f"{file} cannot be read: {error}")
            return file, {}
        work.report("dataset_dir", "converted", f"found in {place}")
        return file, content if isinstance(content, dict) else {}
    if given is not None:
        note = (
            f"no {name / 'dataset_info.json'} in {work.folder}, in a folder above it or in "
            f"{Path.cwd()}"
        )
        work.report("dataset_dir", "impossible", note)
    return None, {}


_Tags = Mapping[str, Any]

_USUAL_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
"""Source: LLaMA-Factory, src/llamafactory/data/parser.py."""


_BESIDE_THE_TURNS = {
    **{name: name for name in ("system", "tools", "chosen", "rejected")},
    "label": "kto_tag",
}
"""Our columns, and what dataset_info.json calls them."""


def _dataset(work: Work, block: str, file: Path | None, name: str, about: Mapping[str, Any]) -> str:
    """Take one dataset as dataset_info.json describes it; return a note."""

    def put(**settings: Any) -> None:
        work.settings |= {f"{block}.{n}": v for n, v in settings.items() if v not in (None, {}, "")}

    columns = about.get("columns")
    columns = columns if isinstance(columns, dict) else None
    where = _where(work, put, file, name, about)
    put(subset=about.get("subset"))
    if about.get("split") and "hf_hub_url" in about:
        put(split=about["split"])
    if about.get("ranking") and str(work.given.get("stage", "sft")).lower() == "sft":
        where += "; its rows are pairs of answers, of which the better one is trained on"
    named = columns or {}
    used = {ours: named[theirs] for ours, theirs in _BESIDE_THE_TURNS.items() if named.get(theirs)}
    if str(work.given.get("stage")).lower() == "pt":
        text = named.get("prompt", "instruction")
        put(dataset_type="text", columns={"text": text} if text != "text" else {})
        return f"{where}, plain text"
    if about.get("formatting") in ("sharegpt", "openai"):
        turns = named.get("messages", "conversations") or "conversations"
        ours = "messages" if "kto_tag" in named else "conversations"
        used = {o: n for o, n in {ours: turns, **used}.items() if o != n}
        # Pairs and feedback are recognised by their columns.
        kind = None if about.get("ranking") or "kto_tag" in named else "sharegpt"
        put(dataset_type=kind, columns=used, **_tags(about.get("tags")))
        return f"{where}, conversations for the chat template"
    theirs = {"instruction": "prompt", "input": "query", "output": "response"}
    taken = {ours: named.get(key, "") if columns else ours for ours, key in theirs.items()}
    used = {o: n for o, n in {**taken, **used}.items() if n and o != n}
    put(dataset_type="chat_completion", columns=used, history_column=named.get("history"))
    if about.get("ranking") or "kto_tag" in named:
        return f"{where}, answers to an instruction, as turns for the chat template"
    if not taken["input"]:
        put(prompt_template="{instruction}", completion_template="{output}")
    elif named.get("system"):
        put(
            prompt_template="{instruction}\n{input}",
            no_input_template="{instruction}",
            completion_template="{output}",
        )
    if named.get("system"):
        put(system_template="{system}")
    return f"{where}, instructions as turns for the chat template"


def _where(work: Work, put: Any, file: Path | None, name: str, about: Mapping[str, Any]) -> str:
    if about.get("hf_hub_url"):
        put(dataset_name=about["hf_hub_url"])
        return f"{name} is {about['hf_hub_url']}"
    if about.get("file_name") and file is not None:
        put(path=str(file.parent / str(about["file_name"])))
        return f"{name} is {about['file_name']} of dataset_info.json"
    other = next(
        (about[k] for k in ("ms_hub_url", "om_hub_url", "script_url") if about.get(k)), name
    )
    put(dataset_name=other)
    work.report("dataset", "impossible", f"{other}: nbft reads files and the Hugging Face Hub")
    return f"{name} is {other}"


def _tags(tags: Any) -> dict[str, Any]:
    """Return the names of turns and speakers that nbft does not know by itself."""
    if not isinstance(tags, dict):
        return {}
    given = {name: tags.get(name) for name in _USUAL_TAGS}
    keys = {"role": given["role_tag"], "content": given["content_tag"]}
    keys = {ours: theirs for ours, theirs in keys.items() if theirs and ours != theirs}
    speakers = {
        "user": [given["user_tag"]],
        "assistant": [given["assistant_tag"], given["function_tag"]],
        "system": [given["system_tag"]],
        "tool": [given["observation_tag"]],
    }
    roles = {role: [n for n in names if n and n != role] for role, names in speakers.items()}
    return {
        "message_property_mappings": {} if set(keys.values()) <= {"from", "value"} else keys,
        "roles": {role: names for role, names in roles.items() if names},
    }


SYSTEM = load_system("llama_factory", globals(), rules=rules, settle=settle)
