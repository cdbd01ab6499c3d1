"""Axolotl's flat YAML: `axolotl train FILE`.

The prompt of a row follows from `type`, as in its prompt strategies; the loss mask from
`train_on_inputs` and `roles_to_train`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.data.ready import STANFORD_ALPACA
from nbft.errors import Problem
from nbft.interop.chat_formats import chat_template
from nbft.interop.conversions import NOT_SET, OFF, attention, is_installed, train_method
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.preferences import is_preference
from nbft.interop.report import Kind
from nbft.interop.table import Convert, Converted
from nbft.models.find import find_local

_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")


def _adapter(value: Any, work: Work) -> Converted:
    if value in (None, ""):
        return Converted("full", "without an adapter all weights are trained", "converted")
    name = str(value).lower()
    if name == "qlora":
        more = {"quantization.load_in_4bit": True}
        return Converted("lora", "LoRA on weights in 4 bits", "converted", more)
    if name == "lora":
        return Converted(name)
    return Converted("lora", f"nbft has no {name}; LoRA is trained instead", "impossible")


# Rows


@dataclass(frozen=True)
class _Style:
    """How a style of prompts writes a row: the system prompt, then the row with or without input."""

    system: str
    with_input: str
    without: str

    def templates(self, system: Mapping[bool, str] | None) -> dict[str, str]:
        """Return the templates of this style, with a system prompt by whether there is an input."""
        written = {
            key: self.system.replace("{system}", text) for key, text in (system or {}).items()
        }
        return {
            "prompt_template": written.get(True, "") + self.with_input,
            "no_input_template": written.get(False, "") + self.without,
            "completion_template": "{output}",
        }


_STYLES = {
    "instruct": _Style(
        "{system}\n\n",
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        "### Instruction:\n{instruction}\n\n### Response:\n",
    ),
    "chat": _Style(
        "SYSTEM: {system}\n",
        "USER: {instruction}\n{input}\nASSISTANT:",
        "USER: {instruction}\nASSISTANT:",
    ),
    "chatml": _Style(
        "<|im_start|>system\n{system}<|im_end|>\n",
        "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "phi": _Style(
        "<|system|>\n{system}<|end|>\n",
        "<|user|>\n{instruction}<|end|>{input}<|assistant|>",
        "<|user|>\n{instruction}<|end|>\n<|assistant|>\n",
    ),
    "orca": _Style(
        "### System:\n{system}\n",
        "### Human:\n{instruction}\n### Additional Context:\n{input}\n### Assistant:\n",
        "### Human:\n{instruction}\n### Assistant:\n",
    ),
}
"""Source: Axolotl, src/axolotl/prompters.py and prompt_strategies/alpaca_w_system.py."""

_CONCISE = {
    True: "Below is an instruction from a USER that describes a task, paired with an input that "
    "provides further context. The ASSISTANT writes a response that concisely and appropriately "
    "completes the request.\n\n",
    False: "Below is an instruction from a USER that describes a task. The ASSISTANT writes a "
    "response that appropriately and concisely completes the request.\n\n",
}

_Settings = dict[str, Any]


def _styled(
    style: str,
    columns: Mapping[str, str] | None = None,
    system: Mapping[bool, str] | None = STANFORD_ALPACA,
) -> _Settings:
    named = {"columns": dict(columns)} if columns else {}
    return {**_STYLES[style].templates(system), **named}


def _of_column(style: str, columns: Mapping[str, str] | None = None) -> _Settings:
    return {**_styled(style, columns, None), "system_template": _STYLES[style].system}


_ORCA = {"instruction": "question", "output": "response", "system": "system_prompt"}

_TYPES: dict[str, _Settings] = {
    "alpaca": {"dataset_type": "stanford_alpaca"},
    "alpaca:instruct": {"dataset_type": "stanford_alpaca"},
    "alpaca:chat": _styled("chat"),
    "alpaca:chatml": _styled("chatml"),
    "alpaca:phi": _styled("phi"),
    "alpaca_instruct": {"dataset_type": "stanford_alpaca"},
    "alpaca_instruct.load_no_prompt": _styled("instruct", system=None),
    "alpaca_chat": _styled("chat"),
    "alpaca_chat.load_concise": _styled("chat", system=_CONCISE),
    "alpaca_chat.load_no_prompt": _styled("chat", system=None),
    "alpaca_chat.load_qa": _styled(
        "chat", {"instruction": "question", "output": "answer"}, _CONCISE
    ),
    "alpaca_chat.load_camel_ai": _styled(
        "chat", {"instruction": "message_1", "output": "message_2"}, _CONCISE
    ),
    "alpaca_w_system": _of_column("chat"),
    "alpaca_w_system.load_chat": _of_column("chat"),
    "alpaca_w_system.load_instruct": _of_column("instruct"),
    "alpaca_w_system.load_open_orca": _of_column("orca", _ORCA),
    "alpaca_w_system.load_open_orca_chatml": _of_column("chatml", _ORCA),
    "gpteacher": _styled("instruct", {"output": "response"}),
    "oasst": _styled("instruct", {"instruction": "INSTRUCTION", "output": "RESPONSE"}),
    "jeopardy": {
        **_styled("instruct", {"instruction": "question", "input": "category", "output": "answer"}),
        "completion_template": "what is {output}",
    },
    "summarizetldr": {
        "prompt_template": "USER: Summarize the following article as a TL;DR.\n{article}\nASSISTANT:",
        "completion_template": "{summary}",
    },
    "input_output": {"dataset_type": "input_output"},
}
"""Settings of a dataset by its type. Source: Axolotl, src/axolotl/utils/data/wrappers.py."""

_CHATS = ("chat_template", "sharegpt", "chatml")
_TEXTS = ("completion", "pretrain")


def _rows(work: Work) -> None:
    """Give every set of the file its rows, their prompt and their loss mask."""
    blocks = _blocks(work, "datasets")
    streamed = _blocks(work, "pretraining_dataset")
    texts = [_kind_of(block) for block in (*blocks, *streamed)]
    for number, block in enumerate(blocks):
        _set(work, f"datasets[{number}]", f"data.train.datasets[{number}]", block)
    for number, block in enumerate(streamed, start=len(blocks)):
        place = f"pretraining_dataset[{number - len(blocks)}]"
        _set(work, place, f"data.train.datasets[{number}]", {"type": "pretrain", **block})
    for number, block in enumerate(_blocks(work, "test_datasets")):
        _set(work, f"test_datasets[{number}]", f"data.validation.datasets[{number}]", block)
    if streamed:
        work.settings["data.train.stream"] = True
    if texts and all(kind in _TEXTS for kind in texts):
        key = "pretraining_dataset[0].path" if streamed else "datasets[0].type"
        note = "texts are joined and cut wherever a sequence is full, so that none loses its end"
        work.settings |= {"data.packing": True, "data.packing_strategy": "wrapped"}
        work.report(key, "converted", note)
    _mask(work, blocks)


def _blocks(work: Work, name: str) -> list[dict[str, Any]]:
    given = work.document.tree.get(name)
    items = given if isinstance(given, list) else [given] if given else []
    for number, item in enumerate(items):
        if isinstance(item, dict) and not isinstance(item.get("path"), (str, type(None))):
            key = f"{name}[{number}].path" if isinstance(given, list) else f"{name}.path"
            work.wrong(key, item["path"], "is not text.", "Write path: rows.jsonl.")
    return [item if isinstance(item, dict) else {"path": str(item)} for item in items]


def _kind_of(block: Mapping[str, Any]) -> str:
    given = block.get("type")
    if isinstance(given, dict):
        return "block"
    name = str(given or "").removesuffix(".load").removesuffix(".default")
    name = name.removeprefix("bradley_terry.")
    if name in ("pretrain", "completion") or (given is None and "text_column" in block):
        return "completion"
    return name


def _set(work: Work, theirs: str, ours: str, block: Mapping[str, Any]) -> None:
    def say(name: str, kind: Kind, note: str = "", setting: str = "", value: Any = None) -> None:
        key = f"{theirs}.{name}"
        if key not in work.lines or work.is_wrong(key):
            return
        if setting:
            work.settings[f"{ours}.{setting}"] = value
            work.report(key, kind, note, f"{ours}.{setting}", value)
        else:
            work.report(key, kind, note)

    def put(**settings: Any) -> None:
        work.settings |= {f"{ours}.{name}": value for name, value in settings.items()}

    path = str(block.get("path") or "")
    is_file = Path(path).suffix.lower() in _FILES or path.startswith(("./", "/", "~"))
    say("path", "renamed", "", "path" if is_file else "dataset_name", path)
    if f"{theirs}.path" not in work.lines and path:
        put(**{"path" if is_file else "dataset_name": path})
    if files := block.get("data_files"):
        files = [files] if isinstance(files, str) else files
        say("data_files", "renamed", "", "dataset_kwargs", {"data_files": files})
    kind = _kind_of(block)
    if kind == "block":
        _own_format(work, theirs, block["type"], say, put)
    elif kind in _CHATS and is_preference(work.settings.get("training.method")):
        _answers(block, say, put)
    elif kind in _CHATS:
        _conversation(block, say, put)
    elif kind == "completion":
        column = block.get("field") or block.get("text_column") or "text"
        put(dataset_type="text", **({"columns": {"text": column}} if column != "text" else {}))
        say("type", "converted", "the whole text is trained on", "dataset_type", "text")
    elif kind in _TYPES:
        settings = _TYPES[kind]
        put(**settings)
        name = "dataset_type" if "dataset_type" in settings else "prompt_template"
        say("type", "converted", f"the prompt of {kind}", name, settings[name])
    elif kind:
        note = f"nbft has no {block['type']}; the columns of the rows decide the prompt"
        say("type", "impossible", note)


def _answers(block: Mapping[str, Any], say: Any, put: Any) -> None:
    """Take a set of conversations with two answers, or one that is labelled."""
    fields = {"messages": "field_messages", "chosen": "field_chosen", "rejected": "field_rejected"}
    columns = {
        ours: block[theirs]
        for ours, theirs in fields.items()
        if block.get(theirs) not in (None, ours)
    }
    put(**({"columns": columns} if columns else {}))
    say("type", "converted", "answers after a conversation, written by the chat template")
    for name in fields.values():
        say(name, "converted", "", "columns", columns)
    _names(block, say)


def _conversation(block: Mapping[str, Any], say: Any, put: Any) -> None:
    """Take a set of conversations, which the chat template writes."""
    columns = {}
    fields = {"conversations": "field_messages", "system": "field_system", "tools": "field_tools"}
    for ours, theirs in fields.items():
        usual = {"conversations": "messages", "system": "system", "tools": "tools"}[ours]
        name = block.get(theirs) or usual
        if name != ours and (theirs in block or ours == "conversations"):
            columns[ours] = name
    if str(block.get("type")).startswith("sharegpt") and "field_messages" not in block:
        columns.pop("conversations")
    put(dataset_type="sharegpt", **({"columns": columns} if columns else {}))
    say(
        "type",
        "converted",
        "conversations, written by the chat template",
        "dataset_type",
        "sharegpt",
    )
    for name in fields.values():
        say(name, "converted", "", "columns", columns)
    _names(block, say)


def _names(block: Mapping[str, Any], say: Any) -> None:
    """Take the names of turns and speakers."""
    keys = {**(block.get("message_property_mappings") or {})}
    keys |= {
        ours: block[theirs]
        for ours, theirs in (("role", "message_field_role"), ("content", "message_field_content"))
        if block.get(theirs)
    }
    more = sorted(keys.keys() - {"role", "content"})
    keys = {name: keys[name] for name in ("role", "content") if name in keys}
    is_usual = tuple(keys.values()) in (("role", "content"), ("from", "value"), ())
    for name in ("message_property_mappings", "message_field_role", "message_field_content"):
        if more:
            say(name, "impossible", f"nbft gives the template no {', '.join(more)}")
        elif is_usual:
            say(name, "taken", "names that nbft knows")
        else:
            say(name, "renamed", "", "message_property_mappings", keys)
    roles = block.get("roles") or {}
    if all(list(names) == [role] for role, names in roles.items()):
        say("roles", "taken", "names that nbft knows")
    else:
        say("roles", "renamed", "", "roles", roles)


_OF_A_BLOCK = {
    "system_prompt": "",
    "field_system": "system",
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "format": "{instruction} {input} ",
    "no_input_format": "{instruction} ",
    "system_format": "{system}",
}
"""Keys of a type written out, with their defaults. Source: Axolotl, prompt_strategies/user_defined.py."""


def _own_format(work: Work, theirs: str, given: Mapping[str, Any], say: Any, put: Any) -> None:
    """Take a type that is written out: the texts around the columns of a row."""
    block = {**_OF_A_BLOCK, **{k: v for k, v in given.items() if v is not None}}
    columns = {
        name: block[f"field_{name}"]
        for name in ("instruction", "input", "output", "system")
        if block[f"field_{name}"] != name
    }
    note, kind = "the text around the columns", "converted"
    short = block["no_input_format"]
    if "no_input_format" not in given and "{input}" not in block["format"]:
        short, kind = block["format"], "deviates"
        note = (
            "the format is used for every row; Axolotl writes rows without an input as "
            f"{_OF_A_BLOCK['no_input_format']!r}, its default of no_input_format"
        )
    put(
        prompt_template=block["format"],
        no_input_template=short,
        completion_template="{output}",
        system_template=block["system_format"],
        **({"columns": columns} if columns else {}),
        **({"system_prompt": block["system_prompt"]} if block["system_prompt"] else {}),
    )
    say("type", kind, note, "prompt_template", block["format"])
    if unknown := sorted(given.keys() - _OF_A_BLOCK.keys()):
        say("type", "unknown", f"nbft does not know {', '.join(unknown)} of a type")


def _mask(work: Work, blocks: list[dict[str, Any]]) -> None:
    """Settle which tokens are trained on."""
    whole = bool(work.given.get("train_on_inputs"))
    for number, block in enumerate(blocks):
        place = f"datasets[{number}]"
        roles = block.get("roles_to_train")
        if roles is None:
            continue
        names = {str(role) for role in roles} if isinstance(roles, list) else {str(roles)}
        answers = names & {"assistant", "gpt"}
        if not answers:
            note = "nbft trains on the answers of the assistant, and only with them on others"
            work.report(f"{place}.roles_to_train", "impossible", note)
        elif names == answers:
            work.report(f"{place}.roles_to_train", "taken", "the answers of the assistant")
        else:
            whole = True
            note = "the whole text is trained on: all roles, and the marks between the turns"
            work.settings["data.completion_only_loss"] = False
            work.report(
                f"{place}.roles_to_train", "deviates", note, "data.completion_only_loss", False
            )
    if whole and len(blocks) > 1:
        work.remarks.append("data.completion_only_loss=false applies to every set of the file.")
    if work.given.get("train_on_inputs") and any(_kind_of(b) in _CHATS for b in blocks):
        note = "the marks between the turns are trained on too; Axolotl leaves them out"
        work.report("train_on_inputs", "deviates", note)


def _train_on_eos(value: Any, work: Work) -> Converted:
    if value in (None, "turn"):
        return Converted(kind="taken", note="the end of each answer is trained on")
    note = f"the end of each answer is trained on, and of no other turn; there {value}"
    return Converted(kind="deviates", note=note)


def _thinking(value: Any, work: Work) -> Converted:
    if value in (None, "reasoning_content"):
        return Converted(kind="taken", note="the name that chat templates use")
    return Converted(kind="impossible", note="rename the key in the rows to reasoning_content")


def _template(value: Any, work: Work) -> Converted:
    name = str(value)
    if value is None or name in {"tokenizer_default", "jinja"}:
        return Converted(
            kind="taken", note="the tokenizer's own" if name != "jinja" else "see below"
        )
    if name.startswith("tokenizer_default_fallback_"):
        note = "the tokenizer's own; set model.chat_template if it has none"
        return Converted(kind="converted", note=note)
    known = chat_template("axolotl", name)
    if known is None:
        note = f"nbft has no {name}: the tokenizer's own chat template is used, which may differ"
        return Converted(kind="deviates", note=note)
    note = "its text" if known != name else ""
    return Converted(known, note, more={"model.chat_template": known} if "[" in work.key else {})


def _template_jinja(value: Any, work: Work) -> Converted:
    if not value:
        return NOT_SET
    if "{" in str(value):
        return Converted(value)
    file = work.folder / str(value)
    path = str(file if file.is_file() else value)
    return Converted(more={"model.chat_template_path": path}, kind="renamed")


# Training


def _rl(value: Any, work: Work) -> Converted:
    """Take a method of preference training; ipo and simpo are losses of it here."""
    if not value:
        return OFF
    name = str(value).lower()
    if name in _LOSS_METHODS:
        method, loss = _LOSS_METHODS[name]
        note = f"{name} is a loss of {method} here"
        return Converted(method, note, "converted", {"preference.loss_type": loss})
    return train_method(value, work)


_LOSS_METHODS = {"ipo": ("dpo", "ipo"), "simpo": ("cpo", "simpo")}
"""Source: Axolotl, src/axolotl/core/builders/rl.py."""


def _orpo_alpha(value: Any, work: Work) -> Converted:
    if work.given.get("rl_beta") is not None:
        return Converted(kind="taken", note="rl_beta is given too and wins, as there")
    return Converted(value, "weighs the odds ratio, as beta does here")


def _smoothing(value: Any, work: Work) -> Converted:
    if not value:
        return Converted(0.0)
    return Converted(value, "releases of TRL ignore it with sigmoid; nbft does not", "deviates")


def _reward(name: str) -> Convert:
    return lambda value, work: train_method(value, work, name) if value else OFF


def _attention(name: str) -> Convert:
    return lambda value, work: attention(name, work) if value else OFF


def _each_epoch(setting: str) -> Convert:
    """Return a conversion of saves_per_epoch and evals_per_epoch."""

    def convert(value: Any, work: Work) -> Converted:
        if not value:
            return NOT_SET
        note = "" if value == 1 else f"{value} in an epoch there; once here, or write {setting}"
        return Converted("epoch", note, "converted" if value == 1 else "deviates")

    return convert


def _in_steps(strategy: str) -> Convert:
    """Return a conversion of save_steps and eval_steps, which may be a share of all steps."""

    def convert(value: Any, work: Work) -> Converted:
        if value is None:
            return NOT_SET
        if 0 < value < 1:
            times = round(1 / value)
            note = f"every {value:g} of the training there, {times} times; once in an epoch here"
            return Converted(more={strategy: "epoch"}, kind="deviates", note=note)
        return Converted(int(value), more={strategy: "steps"})

    return convert


def _targets(value: Any, work: Work) -> Any:
    if value in (None, "", []):
        return NOT_SET
    return value if isinstance(value, str) else [str(name) for name in value]


def _min_lr_ratio(value: Any, work: Work) -> Converted:
    return Converted(value, more={"scheduler.lr_scheduler_type": "cosine_with_min_lr"})


def _checkpointing(value: Any, work: Work) -> Converted:
    if isinstance(value, str):
        note = "activations are recomputed rather than moved away: the results are the same"
        return Converted(True, note, "converted")
    return Converted(bool(value))


def _optim_args(value: Any, work: Work) -> Any:
    if isinstance(value, dict):
        text = ",".join(f"{name}={item}" for name, item in value.items())
        return Converted(text, "as transformers writes them", "converted")
    return value


def _project(value: Any, work: Work) -> Converted:
    if not value:
        return NOT_SET
    if not is_installed("wandb"):
        note = "wandb is not installed here; every run has its own log"
        return Converted(kind="ignored", note=note)
    return Converted(value, more={"tracking.report_to": ["wandb"]})


_SPEED = ("cut_cross_entropy", "liger", "kernels", "expert_parallel")


def _plugins(value: Any, work: Work) -> Converted:
    names = [str(name) for name in value] if isinstance(value, list) else [str(value)]
    others = [name for name in names if not any(f".{speed}." in name for speed in _SPEED)]
    if others:
        short = ", ".join(name.rpartition(".")[2] for name in others)
        return Converted(kind="impossible", note=f"nbft does not run plugins of Axolotl: {short}")
    return Converted(kind="ignored", note="kernels: the results are the same without them")


def _special_tokens(value: Any, work: Work) -> Converted:
    """Take the tokens of the tokenizer that have a special meaning, and that the model knows."""
    given = {name: token for name, token in value.items() if token}
    gone = [name for name, token in given.items() if not _is_token(token, work)]
    given = {name: token for name, token in given.items() if name not in gone}
    pad = given.pop("pad_token", None)
    more: dict[str, Any] = {"model.pad_token": pad} if pad else {}
    more |= {f"model.tokenizer_kwargs.{name}": token for name, token in given.items()}
    if gone == ["pad_token"]:
        note = f"{value['pad_token']} is no token of this model; padding changes no loss"
        return Converted(more=more, kind="ignored", note=note)
    if gone:
        note = f"nbft adds no tokens, and the model does not have those of {', '.join(gone)}"
        return Converted(more=more, kind="impossible", note=note)
    note = "arguments of the tokenizer" if given else ""
    return Converted(more=more, note=note, kind="converted") if more else NOT_SET


def _is_token(token: Any, work: Work) -> bool:
    """Whether a token is one of the model's; True where the model is not on this machine."""
    model = find_local(str(work.document.tree.get("base_model") or ""))
    try:
        text = (model.path / "tokenizer.json").read_text(encoding="utf-8") if model else ""
    except OSError:
        return True
    written = (json.dumps(token, ensure_ascii=is_ascii) for is_ascii in (False, True))
    return not text or any(one in text for one in written)


def _tokens(value: Any, work: Work) -> Converted:
    if not value:
        return NOT_SET
    if isinstance(value, dict):  # an older spelling of special_tokens
        return _special_tokens(value, work)
    note = "nbft adds no tokens; text with them is split into tokens that the model knows"
    return Converted(kind="impossible", note=note)


def _unfrozen(value: Any, work: Work) -> Converted:
    patterns = [value] if isinstance(value, str) else list(value or [])
    if not patterns:
        return NOT_SET
    kept, ranges = [], []
    for pattern in map(str, patterns):
        text, bracket, _last = pattern.partition("[:") if "[:" in pattern else (pattern, "", "")
        ranges += [pattern] if bracket else []
        kept.append(text.replace(".", r"\."))  # a dot is a dot there
    note = f"all rows of {', '.join(ranges)} are trained" if ranges else "a dot is a dot there"
    return Converted(kept, note, "deviates" if ranges else "converted")


def _sequence_len(value: Any, work: Work) -> Converted:
    strategy = work.document.tree.get("excess_length_strategy", "drop")
    note = (
        ""
        if strategy == "truncate"
        else "longer rows are dropped there, cut here; Check counts them"
    )
    return Converted(value, note, "deviates" if note else None)


def rules(work: Work) -> Iterator[Problem]:
    """Axolotl's own rules over several keys."""
    given = work.given
    if given.get("adapter") == "qlora" and not given.get("load_in_4bit"):
        yield Problem(
            "load_in_4bit",
            given.get("load_in_4bit"),
            "Axolotl: qlora requires load_in_4bit.",
            "Write true.",
        )
    if given.get("load_in_4bit") and given.get("load_in_8bit"):
        yield Problem(
            "load_in_8bit",
            True,
            "Axolotl: load_in_8bit and load_in_4bit are exclusive.",
            "Keep one.",
        )
    if given.get("warmup_steps") and given.get("warmup_ratio"):
        yield Problem(
            "warmup_ratio",
            given["warmup_ratio"],
            "Axolotl: warmup_steps and warmup_ratio are mutually exclusive.",
            "Keep one.",
        )
    if given.get("eval_strategy") and given.get("evals_per_epoch"):
        yield Problem(
            "evals_per_epoch",
            given["evals_per_epoch"],
            "Axolotl: goes with no eval_strategy.",
            "Keep one.",
        )
    if given.get("sample_packing") and given.get("rl"):
        yield Problem("sample_packing", True, "Axolotl: does not work with rl.", "Keep one.")


def settle(work: Work) -> None:
    """Take the rows, and explain the default of val_set_size."""
    _rows(work)
    line = work.lines.get("val_set_size")
    if line is not None and line.kind == "defaulted":
        line.note = "theirs; ours is 0.9: none are held out"
    is_full = work.settings.get("peft.method") == "full"
    if work.settings.get("model.unfrozen_parameters") and not is_full:
        del work.settings["model.unfrozen_parameters"]
        work.report("unfrozen_parameters", "impossible", "the adapter is trained, and it alone")
        work.lines["unfrozen_parameters"].setting = ""


SYSTEM = load_system("axolotl", globals(), rules=rules, settle=settle)
