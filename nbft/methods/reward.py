"""Reward models: a score for an answer, learned from pairs of a better and a worse one.

The loss is -log σ(r_chosen - r_rejected - margin), by the model of Bradley and Terry. Source: InstructGPT,
arXiv:2203.02155, equation 1; the margin from Llama 2, arXiv:2307.09288, equation 2. TRL's RewardTrainer
has the same loss.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nbft.config.preference import Preference
from nbft.errors import Problem
from nbft.formatting import count
from nbft.methods.dpo import REWARDS, Dpo, without_effect
from nbft.methods.method import PARTS_OF_ANY_TRAINER, Measure
from nbft.models.adapters import adapter_of, base_name
from nbft.models.classifiers import HEAD, scoring_obstacle
from nbft.models.find import find_described, find_local, find_tokenizer
from nbft.models.templates import special_tokens

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.data.formats import Example
    from nbft.plan.memory import Shape

_USED = frozenset({"max_prompt_length", "center_rewards_coefficient"})
_UNUSED = frozenset(Preference.model_fields) - _USED
_WRITTEN: dict[str, Any] = {
    "sample_prompts": [],
    "metrics": None,
    "metric_function": None,
    "score_every_n_steps": None,
    "format_pattern": None,
    "do_sample": False,
}
"""Settings of the evaluation about answers that the model writes, with what turns each off."""

_ROWS_CHECKED = 10_000


class Reward(Dpo):
    """A model for sequence classification with one label, with the trainer in `nbft.training.reward`."""

    title = "training of a reward model"
    unused_settings = _UNUSED
    trainer = "nbft.training.reward:RewardTrainer"
    fast_parts = PARTS_OF_ANY_TRAINER | {"shared_prompt"}
    answer_collator = "nbft.training.reward:RewardCollator"
    scores_answers = True
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("rewards/margins", "margin", "Reward margin", "higher"),
        Measure("rewards/accuracies", "accuracy", "Chosen preferred", "higher"),
        Measure("rewards/chosen", "chosen", REWARDS),
        Measure("rewards/rejected", "rejected", REWARDS),
    )
    held_out_measures = tuple(measure.name for measure in measures)
    loss_types = ("sigmoid",)
    has_reference = False

    # Rows

    def trained_on(self, format_name: str) -> str:
        """Return what is learned from the rows."""
        return "the chosen answers get higher scores than the rejected ones"

    def values(self, example: Example) -> Mapping[str, float]:
        """Return by how much the chosen answer should be scored higher; 0 where the row does not say."""
        return {"margin": example.asked_margin or 0.0}

    def remarks_of_rows(self, config: Config, examples: Sequence[Example]) -> Iterable[str]:
        """Say that margins of the rows are in the loss."""
        some = examples[:_ROWS_CHECKED]
        asked = [one.asked_margin for one in some if one.asked_margin is not None]
        if asked:
            yield (
                f"The column margin of {len(asked):,} of {count(len(some), 'row')} is in the loss: the "
                f"chosen answer should score higher by as much, {sum(asked) / len(asked):.3g} on "
                "average."
            )

    # The plan

    def problems(self, config: Config) -> Iterable[Problem]:
        """Reject what a reward model cannot do, and settings that would have no effect."""
        ours, usual = config.preference, Preference()
        for name in Preference.model_fields:
            default = getattr(usual, name)
            if name in _UNUSED and getattr(ours, name) != default:
                why = "a reward model has one loss, and no reference model"
                yield without_effect(name, getattr(ours, name), default, why)
        if not config.data.completion_only_loss:
            yield Problem(
                "data.completion_only_loss",
                False,
                "has no effect: a reward model scores a prompt with its answer as a whole.",
                "Leave it out.",
                {"data.completion_only_loss": True},
            )
        for name, off in _WRITTEN.items():
            if value := getattr(config.evaluation, name):
                field = f"evaluation.{name}"
                why = "is about answers that a model writes; a reward model writes none."
                yield Problem(field, value, why, "Leave it out.", {field: off})
        for name in ("use_sparse_head_and_loss_fn", "use_fused_head_and_loss_fn"):
            if getattr(config.memory, name):
                field = f"memory.{name}"
                why = "is about a head of logits, and a reward model gives one score."
                yield Problem(field, True, why, "Turn it off.", {field: False})
        yield from self._problems_of_model(config)
        yield from self.problems_of_batches(config)

    def _problems_of_model(self, config: Config) -> Iterable[Problem]:
        model, about = config.model, _about_model(config)
        if model.model_type != "hf":
            field = "model.model_type"
            why = (
                "loads a class of your own; a reward model needs transformers' class for its type."
            )
            yield Problem(field, model.model_type, why, "Use hf.", {field: "hf"})
        elif model.auto_class_name == "AutoModelForImageTextToText":
            field = "model.auto_class_name"
            why = "loads a vision-language model, which gives no score to a text."
            yield Problem(field, model.auto_class_name, why, "Use another model.")
        elif (kind := about.get("model_type")) and (obstacle := scoring_obstacle(str(kind))):
            why = f"cannot become a reward model: {obstacle}."
            yield Problem("model.model_name", model.model_name, why, "Use another model.")
        elif (labels := _labels(about)) not in (None, 1):
            why = f"sorts texts into {labels} classes; a reward model gives one number."
            yield Problem("model.model_name", model.model_name, why, "Use another model.")
        adapter = adapter_of(config)
        if adapter is not None and adapter.about.get("task_type") != "SEQ_CLS":
            field = adapter.field
            why = "is an adapter for writing answers, without the head of a reward model."
            fix = "Merge it into its model, and begin with the merged model."
            yield Problem(field, getattr(model, field.partition(".")[2]), why, fix)

    def problems_of_rows(self, config: Config, examples: Sequence[Example]) -> Iterable[Problem]:
        """Return nothing: scores of the rows are not asked for."""
        return ()

    def remarks(self, config: Config) -> Iterable[str]:
        """Say what is trained beside an adapter, what is not written, and where the score is read."""
        start = "new and random" if _labels(_about_model(config)) is None else "that of the model"
        beside = ""
        if config.peft.trains_adapter and adapter_of(config) is None:
            beside = (
                " It is trained in full beside the adapter and saved with it, as by "
                f"peft.modules_to_save: [{HEAD}]; the adapter's task type is SEQ_CLS."
            )
        if adapter_of(config) is None:
            yield f"The head of the reward model ({HEAD}) is {start}.{beside}"
        yield "A reward model writes no answers, so no sample prompts are answered and none are scored."
        found = find_local(base_name(config), config.model.model_revision)
        folder = find_tokenizer(config.model, found.path if found else None)
        special = special_tokens(folder) if folder else {}
        end = special.get("eos_token")
        if end and (config.model.pad_token or special.get("pad_token") or end) == end:
            yield (
                f"The padding token {end} also ends each answer, so the score is read at the token "
                "before it, as transformers and TRL do."
            )

    def with_head(self, shape: Shape) -> Shape:
        """Return the shape with a head of one score in place of that of logits."""
        sizes = dict(shape.modules)
        heads = {name for name, *_ in shape.tables if name.endswith(("lm_head", "embed_out"))}
        modules = {name: size for name, size in sizes.items() if name not in {*heads, HEAD}}
        return dataclasses.replace(
            shape,
            parameters=shape.parameters
            - sum(sizes.get(name, 0) for name in {*heads, HEAD})
            + shape.hidden_size,
            modules=(*modules.items(), (HEAD, shape.hidden_size)),
            layers=tuple(layer for layer in shape.layers if layer[0] != HEAD),
            tables=tuple(table for table in shape.tables if table[0] not in heads),
            is_tied=False,
        )

    def modules_to_save(self, config: Config) -> list[str]:
        """Return those of the settings and the head."""
        return list(dict.fromkeys([*config.peft.modules_to_save, HEAD]))

    # Training

    def adapter_arguments(self, config: Config) -> dict[str, Any]:
        """Return the task type, and that the head is trained."""
        return {"task_type": "SEQ_CLS", "modules_to_save": self.modules_to_save(config)}


def _about_model(config: Config) -> dict[str, Any]:
    """Return the config.json of the base model; {} where it is not on this machine."""
    folder = find_described(base_name(config), config.model.model_revision)
    if folder is None:
        return {}
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _labels(about: Mapping[str, Any]) -> int | None:
    """Return how many labels a classifier has, by its config.json; None for other models."""
    classes = about.get("architectures")
    if not isinstance(classes, list) or not str(*classes[:1]).endswith("ForSequenceClassification"):
        return None
    labels = about.get("id2label")
    return len(labels) if isinstance(labels, dict) else int(about.get("num_labels") or 2)


METHOD = Reward()
