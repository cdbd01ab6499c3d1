"""What a script of TRL, transformers or Unsloth trains: its trainer, model, adapter, rows and mask.

Everything is followed back from the call of the trainer, so that what is loaded for other purposes
does not count. Called by `unsloth`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbft.interop.preferences import has_rewards, is_preference, is_reward_model
from nbft.interop.report import Kind
from nbft.interop.scripts.evaluation import Program
from nbft.interop.scripts.notes import (
    Note,
    RefusalError,
    has_sft_trainer,
    known_methods,
    unknown_method,
)
from nbft.interop.scripts.rows import RowsReader
from nbft.interop.scripts.values import (
    MISSING,
    Attribute,
    Call,
    Code,
    Either,
    Imported,
    Instance,
    Item,
    Text,
    brief,
    found_in,
    plain,
)
from nbft.models.peft_types import peft_types


@dataclass
class Training:
    """What a file trains.

    Attributes:
        method: Key of the method.
        trainer: The call of the trainer.
        blocks: Calls whose arguments are settings, by the block that they are read as.
        notes: What became of all else.
        has_trainer: Whether the file creates its trainer.
        has_adapter: Whether it trains an adapter, of whatever kind.
    """

    method: str
    trainer: Call
    blocks: dict[str, Call] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    has_trainer: bool = True
    has_adapter: bool = False


def find_training(program: Program, folder: Path) -> Training | None:
    """Return what a program trains; None if it trains nothing.

    Args:
        program: The program.
        folder: Folder of the file, in which rows are looked for.

    Raises:
        RefusalError: It trains by a method that nbft does not have.
    """
    trainers = [call for call in program.calls if _is_trainer(call)]
    if not trainers:
        program.follow_unused()
        trainers = [call for call in program.calls if _is_trainer(call)]
    if not trainers:
        _refuse_other_arguments(program)
        return _without_trainer(program, folder)
    started = [
        found[0]
        for call in program.calls
        if (call.name == "train" and call.receiver is not None) or call.name == "unsloth_train"
        if (found := found_in(call.receiver or list(call.arguments), lambda v: v in trainers))
    ]
    used = list(dict.fromkeys(started)) or trainers
    for trainer in used:
        _refuse(trainer)
    return _Reading(program, used[0] if started else used[-1], used, folder).training


def _without_trainer(program: Program, folder: Path) -> Training | None:
    """Return what a part of a script would train: the model and the arguments that it has."""
    found: dict[str, Any] = {}
    for call in program.calls:
        if call.name in ("from_pretrained", "get_peft_model") and _WRITERS.fullmatch(call.owner):
            found.setdefault("model", call)
        if call.name == "get_peft_model":
            found["model"] = call
        if call.name in {kind.config_class for kind in peft_types().values()}:
            found["peft_config"] = call
        if call.name.endswith("TrainingArguments") or _ARGUMENTS.fullmatch(call.name):
            found["args"] = call
    if not found:
        return None
    named = _ARGUMENTS.fullmatch(found["args"].name) if "args" in found else None
    function = f"{named[1]}Trainer" if named else "SFTTrainer"
    trainer = Call("no trainer", 0, function=function, keywords=found)
    training = _Reading(program, trainer, [trainer], folder).training
    training.blocks.pop("SFTTrainer")
    training.has_trainer = False
    if training.method != "sft":
        changes = {"training.method": training.method}
        training.notes.append(Note(found["args"].name, "converted", "", changes=changes))
    return training


# Methods

_OF_TOKENIZERS = ("BpeTrainer", "WordLevelTrainer", "WordPieceTrainer", "UnigramTrainer")
_SAME_METHOD = {"unsloth": "sft", "unslothsft": "sft", "": "base", "seq2seq": "base"}
_OTHER_LIBRARIES = ("lightning", "pytorch_lightning", "pl", "L", "tokenizers", "ray", "catalyst")


def _is_trainer(call: Call) -> bool:
    return bool(
        call.receiver is None
        and re.fullmatch(r"(?!Patch)[A-Z]\w*Trainer|Trainer", call.name)
        and call.name not in _OF_TOKENIZERS
        and call.function.partition(".")[0] not in _OTHER_LIBRARIES
    )


def method_of_trainer(name: str) -> str:
    """Return the key that a method has if its trainer has this name.

    >>> method_of_trainer("SFTTrainer"), method_of_trainer("UnslothTrainer"), method_of_trainer("DPOTrainer")
    ('sft', 'sft', 'dpo')
    """
    key = name.removesuffix("Trainer").lower()
    return _SAME_METHOD.get(key, key.removeprefix("unsloth"))


def _refuse(trainer: Call) -> None:
    key = method_of_trainer(trainer.name)
    if key not in known_methods():
        raise RefusalError(unknown_method(key, trainer.name), trainer.line)
    collators = found_in(trainer.get("data_collator"), lambda v: isinstance(v, Call))
    images = next((call for call in collators if "Vision" in call.name), None)
    if images is not None and "vision" not in known_methods():
        raise RefusalError(unknown_method("vision", images.name, "rows with images"), images.line)


def _refuse_other_arguments(program: Program) -> None:
    """Refuse the arguments of a method that nbft does not have, in a file without a trainer."""
    for call in program.calls:
        match = _ARGUMENTS.fullmatch(call.name)
        key = match[1].lower() if match else "sft"
        if key in _METHODS_OF_TRL and key not in known_methods():
            raise RefusalError(unknown_method(key, call.name), call.line)


_ARGUMENTS = re.compile(r"([A-Z]{2,5}|Reward|OnlineDPO|NashMD)Config")
_METHODS_OF_TRL = {
    *("dpo", "grpo", "kto", "orpo", "cpo", "reward", "ppo", "rloo", "bco", "gkd", "xpo", "prm"),
    *("onlinedpo", "nashmd"),
}


_OF_ADAPTER = {"r": ("peft.r", 16), "lora_alpha": ("peft.lora_alpha", 16)}
_OF_ARGUMENTS = {
    "learning_rate": ("training.learning_rate", 5e-5),
    "logging_steps": ("logging.logging_steps", 500),
}
_OF_UNSLOTH = {
    "learning_rate": ("training.learning_rate", 5e-5),
    "per_device_train_batch_size": ("training.per_device_train_batch_size", 4),
    "gradient_accumulation_steps": ("training.gradient_accumulation_steps", 2),
    "weight_decay": ("optimizer.weight_decay", 0.01),
    "warmup_steps": ("scheduler.warmup_steps", 0.1),
    "seed": ("training.seed", 3407),
    "optim": ("optimizer.optim", "adamw_8bit"),
    "logging_steps": ("logging.logging_steps", 1),
}
"""What Unsloth sets in TRL's SFTConfig. Source: unsloth/models/rl.py."""

_OF_PREFERENCES = {"learning_rate": ("training.learning_rate", 1e-6)}
"""What TRL's trainers of preferences, and those with rewards, set in their arguments."""

_OF_REWARD_MODELS = {"learning_rate": ("training.learning_rate", 1e-4)}
"""The same for reward models. Source: TRL, trl/trainer/reward_config.py."""

_SCORERS = re.compile(r"\w*ForSequenceClassification")

_WHOLE = ("embed_tokens", "lm_head")
_INSTEAD = {"warmup_steps": ("warmup_ratio",), "r": ("lora_r",)}

# What reaches the trainer

_FOLLOWED = {
    *("get_peft_model", "prepare_model_for_kbit_training", "prepare_model_for_int8_training"),
    *("for_training", "compile", "setup_chat_format", "prepare", "patch_peft_model"),
}
_WITH_REFERENCE = ("dpo", "kto")
"""Methods whose trainers take a reference model before their arguments."""

_POSITIONS = {"args": 1, "data_collator": 2, "train_dataset": 3, "eval_dataset": 4}
_ADAPTERS = re.compile(r"[A-Z]\w*Config|PromptEncoder")
_WRITERS = re.compile(
    r"Fast\w*Model|FastLlamaModel|Auto(Peft)?ModelForCausalLM|\w+ForCausalLM|AutoModelForSeq2SeqLM|"
    r"AutoModelForImageTextToText|AutoModelForVision2Seq|\w+ForConditionalGeneration|AutoLigerKernel\w+|"
    r"AutoModel"
)
_NOT_WRITERS = re.compile(
    r"\w*For(Sequence|Token|Image|Audio|Video)Classification|\w*For(QuestionAnswering|MaskedLM|"
    r"MultipleChoice|CTC|SpeechSeq2Seq|Pretraining)\w*|SentenceTransformer|FastSentenceTransformer|"
    r"CrossEncoder|SparseEncoder"
)


class _Reading:
    """Reads what a trainer is given."""

    def __init__(self, program: Program, trainer: Call, used: list[Call], folder: Path) -> None:
        self.program, self.trainer, self._folder = program, trainer, folder
        method = method_of_trainer(trainer.name)
        self.training = Training(method, trainer)
        self.notes = self.training.notes
        if trainer.own_class:
            why = "a class of the file; what it changes in training is not imported"
            self.note(trainer.own_class, "impossible", why, trainer.line, trainer.name)
        for other in used:
            if other is not trainer:
                why = "the file trains again here; this config is its first training only"
                self.note("trainer", "impossible", why, other.line, other.name)
        if trainer.line:
            kind: Kind = "taken" if has_sft_trainer(method) else "converted"
            self.note("trainer", kind, "", trainer.line, trainer.name, training__method=method)
        self._arguments()
        self._stopping()
        self._model()
        self._reference()
        self._tokenizer()
        self._defaults()
        self._rows()

    def note(
        self,
        key: str,
        kind: Kind,
        text: str,
        line: int = 0,
        value: Any = None,
        **changes: Any,
    ) -> None:
        """Add a note; `__` in the name of a setting stands for a dot."""
        settings = {name.replace("__", "."): item for name, item in changes.items()}
        self.notes.append(Note(key, kind, text, line, plain(value), settings))

    def given(self, *names: str) -> Any:
        """Return an argument of the trainer."""
        for name in names:
            value = self.trainer.get(name, default=MISSING)
            if value is MISSING and name in _POSITIONS:
                place = _POSITIONS[name] + (self.training.method in _WITH_REFERENCE)
                value = self.trainer.get(place, default=MISSING)
            if value is not MISSING:
                return value
        return None

    # Arguments

    def _arguments(self) -> None:
        value = self.given("args")
        calls = found_in(
            value, lambda v: isinstance(v, Call) and v.name.endswith(("Config", "Arguments"))
        )
        if calls:
            self.training.blocks["SFTConfig"] = calls[0]
        elif value is not None:
            why = "code that would have to be run; the defaults of TRL are imported instead"
            self.note("args", "impossible", why, self.trainer.line, value)
        self.training.blocks["SFTTrainer"] = self.trainer
        for block, call in self.training.blocks.items():
            for name, value in call.keywords.items():
                if name.startswith("**"):
                    why = "further arguments that only running the file would tell"
                    self.note(f"{block}.{name[:2]}{brief(value)}", "impossible", why, int(name[2:]))

    def _stopping(self) -> None:
        """Take early stopping; other callbacks are code."""
        for call in found_in(self.given("callbacks"), lambda v: isinstance(v, Call)):
            if call.name != "EarlyStoppingCallback":
                continue
            patience = call.get("early_stopping_patience", 0, default=1)
            threshold = call.get("early_stopping_threshold", 1, default=0.0)
            for name, value in (("patience", patience), ("threshold", threshold)):
                changes = {f"callbacks__early_stopping_{name}": value}
                if not isinstance(value, Code):
                    self.note(f"early_stopping_{name}", "renamed", "", call.line, value, **changes)

    # The model

    def _model(self) -> None:
        model = self.trainer.get("model", 0)
        adapter: Any = None
        loads: list[Call] = []
        todo, seen = [model], set[int]()
        while todo:
            value = todo.pop(0)
            if isinstance(value, Code) and id(value) in seen:
                continue
            seen.add(id(value))
            if not isinstance(value, Call):
                if isinstance(value, (Item, Attribute)):
                    todo.insert(0, value.value)
                elif isinstance(value, (Either, list, tuple)):
                    todo[:0] = value.options if isinstance(value, Either) else value
                elif isinstance(value, Code):
                    todo += [v for v in _parts(value) if isinstance(v, Code)]
                continue
            if value.name in ("from_pretrained", "from_config"):
                if value.owner in ("PeftModel", "PeftModelForCausalLM"):
                    self._trained_further(value)
                    todo.insert(0, value.get("model", 0))
                else:
                    loads.append(value)
                continue
            if value.name == "get_peft_model":
                adapter = adapter or value
            todo.insert(0, value.receiver if value.receiver is not None else value.get("model", 0))
            if value.receiver is None and value.name not in _FOLLOWED:
                todo += [
                    v for v in (*value.arguments, *value.keywords.values()) if isinstance(v, Code)
                ]
        if isinstance(model, str):
            self.note("model", "renamed", "", self.trainer.line, model, model__model_name=model)
        elif not loads:
            self._no_model(model)
        else:
            self._loaded(loads)
        self._adapter(adapter)

    def _no_model(self, model: Any) -> None:
        why = (
            f"the base model was not found: {brief(model)} could not be followed to what loads it. "
            "Set model.model_name before training; it has nbft's own default now"
        )
        self.note("model", "impossible", why, self.trainer.line, model)

    def _loaded(self, loads: list[Call]) -> None:
        for call in loads:
            is_scorer = _SCORERS.fullmatch(call.owner) and is_reward_model(self.training.method)
            if _NOT_WRITERS.fullmatch(call.owner) and not is_scorer:
                why = f"{call.owner} is not a model that writes text, and nbft trains only such models"
                raise RefusalError(f"{why}.", call.line)
        load = loads[0]
        name = load.get("model_name", "pretrained_model_name_or_path", "model_name_or_path", 0)
        if isinstance(name, Either):
            name = next((one for one in name.options if isinstance(one, str)), name)
            why = "decided while running; the first is taken"
            self.note("model_name", "deviates", why, load.line, load.text, model__model_name=name)
        elif not isinstance(name, str):
            self._no_model(name)
        names = {brief(one.get("model_name", "pretrained_model_name_or_path", 0)) for one in loads}
        if len(names) > 1:
            why = f"one of {', '.join(sorted(names))}, decided while running; the first is taken"
            self.note("from_pretrained", "deviates", why, load.line)
        self.training.blocks = {"from_pretrained": load, **self.training.blocks}
        kinds = {"AutoModelForSeq2SeqLM": "AutoModelForSeq2SeqLM"}
        kinds |= dict.fromkeys(
            ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "FastVisionModel"),
            "AutoModelForImageTextToText",
        )
        if load.owner in kinds:
            kind = kinds[load.owner]
            why = "the class that loads such models" if kind != load.owner else ""
            self.note(load.owner, "converted", why, load.line, model__auto_class_name=kind)
        if load.name == "from_config":
            why = "the weights start at random values"
            self.note(
                "from_config", "converted", why, load.line, model__load_pretrained_weights=False
            )
        for name in ("quantization_config", "bnb_config"):
            for call in found_in(load.get(name), lambda v: isinstance(v, Call)):
                if call.name == "BitsAndBytesConfig":
                    self.training.blocks["BitsAndBytesConfig"] = call

    def _tokenizer(self) -> None:
        """Take a tokenizer of another name, its padding token, and say what is added to it."""
        given = self.given("processing_class", "tokenizer")
        load = self.training.blocks.get("from_pretrained")
        names = ("pretrained_model_name_or_path", "model_name", 0)
        base = load.get(*names) if load else self.trainer.get("model", 0)
        for call in found_in(given, lambda v: isinstance(v, Call) and v.name == "from_pretrained"):
            name = call.get("pretrained_model_name_or_path", 0)
            is_own = "Tokenizer" in call.owner or "Processor" in call.owner
            if is_own and isinstance(name, str) and name != base:
                self.note(call.owner, "renamed", "", call.line, name, model__tokenizer_name=name)
            for attribute, value in call.changed.items():
                if attribute.endswith("pad_token") and isinstance(value, str):
                    self.note("pad_token", "renamed", "", call.line, value, model__pad_token=value)
        for call in self.program.calls:
            if call.name in ("add_special_tokens", "add_tokens") and call.receiver is not None:
                why = "new tokens need new embeddings, which nbft does not add"
                self.note(call.name, "impossible", why, call.line, call.get(0))

    def _trained_further(self, call: Call) -> None:
        name = call.get("model_id", 1)
        if not isinstance(name, str):
            why = "the adapter's name is code that would have to be run. Write it"
            self.note("PeftModel.from_pretrained", "impossible", why, call.line, name)
            return
        why = "this adapter is trained further"
        self.note(
            "PeftModel.from_pretrained",
            "renamed",
            why,
            call.line,
            name,
            model__adapter_name_or_path=name,
        )

    def _reference(self) -> None:
        """Say what the reference model is."""
        place = 1 if self.training.method in _WITH_REFERENCE else None
        value = self.trainer.get("ref_model", *([place] if place else []))
        if value is None:
            return
        loads = found_in(value, lambda v: isinstance(v, Call) and v.name == "from_pretrained")
        mine = self.training.blocks.get("from_pretrained")
        names = {
            brief(load.get("model_name", "pretrained_model_name_or_path", 0))
            for load in (*loads[:1], *([mine] if mine else []))
        }
        if mine is not None and loads and len(names) == 1:
            why = "the model before training, which is the reference"
            self.note("ref_model", "taken", why, self.trainer.line, value)
            return
        why = "the reference model is the model before training, and no other"
        self.note("ref_model", "impossible", why, self.trainer.line, value)

    def _adapter(self, adapter: Call | None) -> None:
        """Find the adapter: Unsloth's arguments, or a config of PEFT."""
        given = self.trainer.get("peft_config")
        self.training.has_adapter = adapter is not None or given is not None
        if adapter is not None and (
            adapter.owner.startswith("Fast") or adapter.receiver is not None
        ):
            self.training.blocks["LoraConfig"] = adapter
            return
        if adapter is not None:
            given = adapter.get("peft_config", 1) if given is None else given
        configs = found_in(
            given, lambda v: isinstance(v, Call) and bool(_ADAPTERS.fullmatch(v.name))
        )
        if not configs:
            if given is not None:
                why = "code that would have to be run; write the adapter's settings under peft"
                self.note("peft_config", "impossible", why, self.trainer.line, given)
            return
        config = configs[0]
        self.training.blocks["LoraConfig"] = config
        if config.name != "LoraConfig":
            kinds = {kind.config_class: kind.name for kind in peft_types().values()}
            if kind := kinds.get(config.name):
                self.note(config.name, "converted", "", config.line, peft__method=kind)
            else:
                why = f"nbft has {', '.join(kinds.values())} and full; choose peft.method before training"
                self.note(config.name, "impossible", why, config.line)

    # Defaults of their own

    def _defaults(self) -> None:
        """Keep what Unsloth and transformers set where the file is silent, and TRL does not."""
        blocks = self.training.blocks
        load, adapter, arguments = (
            blocks.get(n) for n in ("from_pretrained", "LoraConfig", "SFTConfig")
        )
        is_unsloth = any(
            isinstance(value, Imported) and value.text.partition(".")[0] == "unsloth"
            for value in self.program.scope.names.values()
        ) or bool(load and load.owner.startswith("Fast"))
        if load is not None and load.owner.startswith("Fast"):
            others = (
                "load_in_8bit",
                "load_in_16bit",
                "load_in_fp8",
                "full_finetuning",
                "fast_inference",
            )
            if "load_in_4bit" not in load.keywords and not any(load.get(n) for n in others):
                why = "Unsloth's default; ours is false"
                self.note(
                    "load_in_4bit", "defaulted", why, 0, True, quantization__load_in_4bit=True
                )
        if adapter is not None and adapter.owner.startswith("Fast"):
            self._fill(adapter, _OF_ADAPTER, "Unsloth's default")
            self._whole_layers(adapter)
        kind = arguments.name if arguments is not None else ""
        if kind in ("TrainingArguments", "Seq2SeqTrainingArguments"):
            self._fill(arguments, _OF_ARGUMENTS, "transformers' default")
        elif is_unsloth and self.training.method != "base" and arguments is not None:
            self._fill(arguments, _OF_UNSLOTH, "Unsloth's default")
        elif arguments is not None and (
            is_preference(self.training.method) or has_rewards(self.training.method)
        ):
            is_scorer = is_reward_model(self.training.method)
            usual = _OF_REWARD_MODELS if is_scorer else _OF_PREFERENCES
            self._fill(arguments, usual, "TRL's default")

    def _whole_layers(self, adapter: Call) -> None:
        """Train embeddings that Unsloth is given as targets whole, as it does."""
        targets, more = adapter.get("target_modules"), adapter.get("modules_to_save") or []
        whole = [one for one in targets if one in _WHOLE] if isinstance(targets, list) else []
        if not whole or not isinstance(more, list):
            return
        why = "Unsloth trains these layers whole, without an adapter"
        line = adapter.lines.get("target_modules", adapter.line)
        rest = [one for one in targets if one not in whole]
        saved = list(dict.fromkeys([*more, *whole]))
        self.note(
            "LoraConfig.target_modules",
            "converted",
            "",
            line,
            targets,
            peft__target_modules=plain(rest),
        )
        self.note(
            "LoraConfig.modules_to_save",
            "converted",
            why,
            line,
            whole,
            peft__modules_to_save=plain(saved),
        )

    def _fill(self, call: Call | None, defaults: dict[str, tuple[str, Any]], whose: str) -> None:
        given = {*call.keywords, *call.changed} if call else set()
        if any(name.startswith("**") for name in given):
            return
        for name, (setting, value) in defaults.items():
            aliases = {name, *_INSTEAD.get(name, ())}
            if not given & aliases:
                changes = {setting.replace(".", "__"): value}
                self.note(name, "defaulted", whose, 0, value, **changes)

    # Rows

    def _rows(self) -> None:
        options: dict[str, Any] = {}
        for block in ("SFTConfig", "SFTTrainer"):
            if call := self.training.blocks.get(block):
                options |= call.keywords | call.changed
        reader = RowsReader(self.program, self.trainer, self.training.method, self._folder)
        self.notes += reader.read(self.given, options)


def _parts(value: Code) -> Iterator[Any]:
    if isinstance(value, Text):
        yield from value.pieces
    elif isinstance(value, Instance):
        yield from value.attributes.values()
    else:
        yield from value.parts
