"""Preference training in the files of other systems: TRL's losses, and what has no effect.

Most of them pass their keys to TRL's trainers, so what these do without a word is said here once.
Called by the systems and by `importer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbft import registry
from nbft.interop.table import UNSET, Convert, Converted
from nbft.methods import method_of

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.interop.importer import Work

_NONE_OF_SUPERVISED = (None, "nll")
_SMOOTHED_BY_TRL = ("robust", "exo_pair")
_NOT_OF_TRL = ("simpo", "orpo", "dpop", "kto_pair")
"""Losses of dpo that TRL's DPOTrainer does not have."""


def is_preference(method: Any) -> bool:
    """Whether a method of this name compares answers."""
    return getattr(_method(method), "section", None) == "preference"


def is_reward_model(method: Any) -> bool:
    """Whether a method of this name trains a reward model."""
    return bool(getattr(_method(method), "scores_answers", False))


def has_rewards(method: Any) -> bool:
    """Whether a method of this name learns from rewards."""
    return bool(getattr(_method(method), "generates", False))


def _method(name: Any) -> Any:
    return registry.trainers.get(name) if name in registry.trainers else None


# From TRL's arguments to ours


def trl_loss(prefix: str) -> Convert:
    """Return a conversion of TRL's loss_type: a name, or a list that loss_weights weighs.

    Args:
        prefix: What stands before the names of TRL's arguments in the file.
    """

    def convert(value: Any, work: Work) -> Converted:
        if value in _NONE_OF_SUPERVISED:
            return Converted(kind="taken", note="as here")
        names = [value] if isinstance(value, str) else list(value)
        weights = work.given.get(f"{prefix}loss_weights") or [1.0] * len(names)
        parts = dict(zip(map(str, names), map(float, weights), strict=False))
        imitated = parts.pop("sft", None)
        more = {"preference.sft_loss_ratio": imitated} if imitated else {}
        if not parts:
            more["preference.pref_loss_ratio"] = 0.0
            return Converted(more=more, kind="converted", note="the SFT loss alone")
        name, weight = next(iter(parts.items()))
        if weight != 1:
            more["preference.pref_loss_ratio"] = weight
        if len(parts) > 1:
            others = ", ".join([*parts][1:])
            note = f"nbft has one such loss at a time: {others} is left out"
            return Converted(name, note, "impossible", more)
        return Converted(name, "weighed by loss_weights" if more else "", more=more)

    return convert


def trl_smoothing(prefix: str) -> Convert:
    """Return a conversion of TRL's label_smoothing, which some of its losses ignore.

    Args:
        prefix: What stands before the names of TRL's arguments in the file.
    """

    def convert(value: Any, work: Work) -> Converted:
        names = work.given.get(f"{prefix}loss_type") or "sigmoid"
        names = [names] if isinstance(names, str) else names
        if not value or {*_SMOOTHED_BY_TRL} & {*names} or method_in(work) == "cpo":
            return Converted(value)
        note = (
            f"TRL ignores it with the loss {names[0]}, so it is left out; set "
            "preference.label_smoothing to have it"
        )
        return Converted(kind="ignored", note=note)

    return convert


def trl_renewal(prefix: str) -> Convert:
    """Return a conversion of TRL's sync_ref_model, with the keys that go with it.

    Args:
        prefix: What stands before the names of TRL's arguments in the file.
    """

    def convert(value: Any, work: Work) -> Converted:
        if not value:
            return Converted(kind="taken", note="off, as here")
        steps = int(work.given.get(f"{prefix}ref_model_sync_steps") or 512)
        share = work.given.get(f"{prefix}ref_model_mixup_alpha")
        share = 0.6 if share is None else float(share)
        note = "" if share == 1 else f"the model becomes the reference; there {share:g} of it does"
        return Converted(steps, note, "converted" if share == 1 else "deviates")

    return convert


def reference_model(value: Any, work: Work) -> Converted:
    """Take that the reference is the model before training; another one is not to be had."""
    if value in (None, ""):
        return Converted(kind="taken", note="the model before training, as here")
    same = value == work.settings.get("model.model_name")
    if same:
        return Converted(kind="taken", note="the model before training, which is the reference")
    note = "the reference model is the model before training, and no other"
    return Converted(kind="impossible", note=note)


def off_for_preferences(value: Any, _: Any) -> Converted:
    """Take a part of TRL's losses that nbft has only off."""
    if value in (None, False, 0, "reverse_kl"):
        return Converted(kind="taken", note="off, as here")
    return Converted(kind="impossible", note="nbft's losses have nothing like it")


def centering(value: Any, _: Any) -> Converted:
    """Take how strongly the rewards of a reward model are kept around 0."""
    return Converted(float(value)) if value else Converted(kind="taken", note="off, as here")


def labels(value: Any, work: Work) -> Converted:
    """Take the one label of a reward model."""
    if value == 1 and (is_reward_model(method_in(work)) or work.given.get("reward_model")):
        return Converted(kind="taken", note="a reward model has one, as here")
    return Converted(kind="impossible", note="nbft trains no classifiers but reward models")


def task_type(value: Any, work: Work) -> Any:
    """Take the task of an adapter; that of a reward model follows from the training method."""
    if str(value).rpartition(".")[2] == "SEQ_CLS" and is_reward_model(method_in(work)):
        return Converted(kind="taken", note="of a reward model, as here")
    return value


def cut_side(value: Any, _: Any) -> Converted:
    """Take which end of a row that is too long is cut."""
    if value in (None, "keep_start"):
        return Converted(kind="taken", note="as here")
    note = "a row loses its end; preference.max_prompt_length keeps the end of a prompt"
    return Converted(kind="impossible", note=note)


def dropout(value: Any, work: Work) -> Converted:
    """Take TRL's disable_dropout, which counts for adapters, too."""
    if value is False:
        return Converted(kind="taken", note="peft.lora_dropout counts")
    return Converted(kind="taken", note="no dropout", more={"peft.lora_dropout": 0.0})


def answer_length(value: Any, work: Work) -> Converted:
    """Take the longest answer that a model writes; say that one of a row has no limit of its own."""
    if value is None:
        return Converted(kind="taken", note="not set")
    if has_rewards(method_in(work)):
        return Converted(kind="converted", more={"grpo.max_completion_length": value})
    note = "an answer is cut with its prompt, at data.max_length"
    return Converted(kind="impossible", note=note)


def method_in(work: Work) -> str:
    """Return the method that is known so far: by a script's trainer, or by the keys read."""
    training = work.document.training
    return str(training.method if training else work.settings.get("training.method", ""))


# From ours to TRL's


def trl_name(loss: Any) -> Any:
    """Write a loss that TRL's trainers have."""
    return UNSET if loss in (None, *_NOT_OF_TRL) else loss


def trl_loss_back(value: Any, config: Config) -> Any:
    """Write a loss that TRL's trainers have, with the SFT loss if there is one."""
    name = trl_name(value or "sigmoid")
    if name is not UNSET and config.training.method == "dpo" and has_weights(config):
        return [name, "sft"]
    return name if value else UNSET


def has_weights(config: Config) -> bool:
    """Whether losses are weighed, in TRL with loss_weights."""
    ours = config.preference
    return bool(ours.sft_loss_ratio) or ours.pref_loss_ratio != 1


# What several keys say together


def settle(work: Work) -> None:
    """Leave out what is of other methods, and what no pair of answers needs."""
    method = work.settings.get("training.method", "sft")
    if not is_preference(method):
        for setting in [name for name in work.settings if name.startswith("preference.")]:
            work.leave_out(setting, "taken", "used in preference training only")
        return
    if work.settings.get("data.packing"):
        note = "pairs are joined without padding anyway, and a pair is never taken apart"
        work.leave_out("data.packing", "ignored", note)
    if work.settings.get("data.completion_only_loss") is False:
        work.leave_out("data.completion_only_loss", "taken", "only answers are compared")
    if method == "orpo" and work.system.name in _TRAINED_BY_TRL:
        why = "TRL's ORPO imitates the prompts as well"
        work.put("orpo", "defaulted", why, data__completion_only_loss=False)
    if method == "kto" and work.system.name in ("unsloth", "oumi"):
        why = "TRL's KTO keeps the rows in order"
        work.put("kto", "defaulted", why, data__shuffle=False)
    keeps_dropout = is_reward_model(method) and work.system.name == "llama_factory"
    if (
        work.system.name in _WITHOUT_DROPOUT
        and not keeps_dropout
        and work.given.get("disable_dropout") is not False
        and work.settings.get("peft.lora_dropout")
    ):
        work.leave_out("peft.lora_dropout", "converted", "turned off in preference training there")


_TRAINED_BY_TRL = ("unsloth", "axolotl", "oumi")
_WITHOUT_DROPOUT = (*_TRAINED_BY_TRL, "llama_factory")
"""Systems that turn dropout off in preference training, that of adapters included."""


def effective(work: Work, config: Config) -> Config:
    """Return a config without settings that its loss does not read, each reported."""
    if not is_preference(config.training.method):
        return config
    for problem in list(method_of(config).problems(config)):
        if not problem.field.startswith("preference."):
            continue
        if problem.why.startswith("has no effect"):
            work.leave_out(problem.field, "ignored", f"it {problem.why.rstrip('.')}")
        else:
            work.invalid(problem)
        config = config.apply(problem.changes)
    return config
