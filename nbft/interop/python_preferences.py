"""Preference training as plain Python: TRL's trainers, where they have the loss of a config.

Called by `interop.python` and `interop.absent`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nbft.config import Config
from nbft.interop.preferences import is_preference, trl_name
from nbft.interop.table import UNSET
from nbft.methods import method_of
from nbft.methods.dpo import Dpo

ROWS = {"preference pairs", "feedback on completions", "feedback on messages"}
"""Formats of rows that the cell can read."""


@dataclass
class Plain:
    """What stands for a config in TRL.

    Attributes:
        name: Start of the names of its trainer and of its arguments.
        module: Module of both.
        arguments: Of the trainer's arguments, what is about preferences.
        lacks: Settings that it does not have, with the reason.
    """

    name: str
    module: str = "trl"
    arguments: dict[str, Any] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)


def plain(config: Config) -> Plain | None:
    """Return what stands for a config in TRL; None without preference training."""
    method = method_of(config)
    if not is_preference(config.training.method) or not isinstance(method, Dpo):
        return None
    ours, loss = config.preference, method.loss_type(config)
    name = config.training.method
    if method.scores_answers:
        return _reward(config)
    is_reference_free = name == "dpo" and not method.uses_reference(config)
    if name == "cpo" or (is_reference_free and loss in _OF_CPO):
        found = _cpo(config, method, loss)
    elif name == "orpo":
        found = Plain("ORPO", "trl.experimental.orpo")
        if method.sft_loss_weight(config) != 1:
            found.lacks["preference.sft_loss_ratio"] = "TRL's ORPO weighs the SFT loss with 1"
        if config.data.completion_only_loss:
            why = "TRL's ORPO imitates the prompts as well"
            found.lacks["data.completion_only_loss"] = why
    elif name == "kto":
        found = Plain("KTO", arguments={"loss_type": loss})
        found.arguments["desirable_weight"] = ours.desirable_weight
        found.arguments["undesirable_weight"] = ours.undesirable_weight
    else:
        found = _dpo(config, method, loss)
    if ours.pref_loss_ratio != 1 and "loss_weights" not in found.arguments:
        found.lacks["preference.pref_loss_ratio"] = f"TRL's {found.name} has no such weight"
    if ours.offset_alpha:
        found.lacks["preference.offset_alpha"] = "TRL knows no scores of answers"
    if ours.max_prompt_length is not None:
        found.lacks["preference.max_prompt_length"] = "TRL has no limit for prompts alone"
    found.arguments = {
        "beta": ours.beta,
        **found.arguments,
        "max_length": config.data.max_length,
        "disable_dropout": False,
    }
    return found


def _reward(config: Config) -> Plain:
    ours, found = config.preference, Plain("Reward")
    if ours.max_prompt_length is not None:
        found.lacks["preference.max_prompt_length"] = "TRL has no limit for prompts alone"
    found.arguments = {
        "center_rewards_coefficient": ours.center_rewards_coefficient or None,
        "max_length": config.data.max_length,
        "disable_dropout": False,
    }
    return found


_OF_CPO = ("sigmoid", "hinge", "ipo", "simpo")


def _cpo(config: Config, method: Dpo, loss: str) -> Plain:
    ours = config.preference
    arguments = {
        "loss_type": loss,
        "cpo_alpha": method.sft_loss_weight(config),
        "label_smoothing": ours.label_smoothing,
    }
    if loss == "simpo":
        arguments["simpo_gamma"] = ours.simpo_gamma
    return Plain("CPO", "trl.experimental.cpo", arguments)


def _dpo(config: Config, method: Dpo, loss: str) -> Plain:
    ours, found = config.preference, Plain("DPO")
    if trl_name(loss) is UNSET:
        found.lacks["preference.loss_type"] = f"TRL has no loss {loss}; sigmoid here"
        if loss == "dpop":
            found.lacks["preference.dpop_lambda"] = "it is for the loss dpop"
        loss = "sigmoid"
    found.arguments["loss_type"] = [loss]
    if (weight := method.sft_loss_weight(config)) or ours.pref_loss_ratio != 1:
        found.arguments["loss_type"] = [loss, "sft"]
        found.arguments["loss_weights"] = [ours.pref_loss_ratio, weight]
    if ours.label_smoothing and loss in ("robust", "exo_pair"):
        found.arguments["label_smoothing"] = ours.label_smoothing
    elif ours.label_smoothing:
        why = f"TRL ignores it with the loss {loss}"
        found.lacks["preference.label_smoothing"] = why
    if ours.reference_free:
        found.lacks["preference.reference_free"] = "TRL's DPO always has a reference model"
    steps = ours.ref_model_update_steps
    if steps > 0 and config.peft.trains_adapter:
        why = "TRL renews no reference of an adapter"
        found.lacks["preference.ref_model_update_steps"] = why
        steps = -1
    if steps > 0:
        found.arguments |= {"sync_ref_model": True, "ref_model_sync_steps": steps}
        found.arguments["ref_model_mixup_alpha"] = 1.0
    else:
        found.arguments["precompute_ref_log_probs"] = True
    return found


PAIR = '''
def pair(row):
    """Return the prompt of a row and its two answers: texts, or turns of a conversation."""
    given = row.get("prompt") or row.get("conversations") or row.get("messages") or []
    if isinstance(given, str) and isinstance(row["chosen"], str):
        return {"prompt": given, "chosen": row["chosen"], "rejected": row["rejected"]}
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    before = turns(given)
    answers = [turns(row[name]) for name in ("chosen", "rejected")]
    good, bad = (a if a[: len(before)] == before else before + a for a in answers)
    shared = next(n for n, (one, other) in enumerate(zip(good, bad)) if one != other)
    return {"prompt": good[:shared], "chosen": good[shared:], "rejected": bad[shared:]}
'''

SCORED = '''
def scored(row):
    """Return the prompt of a row, its two answers, and by how much the first should score higher."""
    return pair(row) | {"margin": float(row.get("margin") or 0)}
'''

JUDGED = '''
def judged(row):
    """Return a prompt, an answer, and whether it is a good one."""
    if "messages" in row:
        before, last = row["messages"][:-1], row["messages"][-1:]
        return {"prompt": before, "completion": last, "label": bool(row["label"])}
    return {name: row[name] for name in ("prompt", "completion")} | {"label": bool(row["label"])}
'''

WITHOUT_BEGIN = """if tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:
    tokenizer.bos_token = None  # TRL would begin each row with it"""
