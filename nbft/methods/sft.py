"""Supervised fine-tuning with TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nbft.errors import Problem
from nbft.methods.method import PARTS_OF_ANY_TRAINER, Imitation
from nbft.models.adapters import adapter_of
from nbft.models.targets import adapts_head

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.decisions import Decisions


class Sft(Imitation):
    """TRL's SFTTrainer."""

    title = "supervised fine-tuning"
    trainer = "trl:SFTTrainer"
    arguments = "trl:SFTConfig"
    takes_peft_config = True
    fast_parts = PARTS_OF_ANY_TRAINER | {"label_head"}
    held_out_measures = ("mean_token_accuracy", "entropy")

    def problems(self, config: Config) -> Iterable[Problem]:
        """Reject encoder-decoder models and an adapter on the head."""
        model = config.model
        if model.model_type == "hf" and model.auto_class_name == "AutoModelForSeq2SeqLM":
            yield Problem(
                "training.method",
                "sft",
                "trains models that continue a text, not encoder-decoder models.",
                "Use base.",
                {"training.method": "base"},
            )
        if adapts_head(config):
            adapter = adapter_of(config)
            peft = config.peft
            yield Problem(
                adapter.field if adapter else "peft.target_modules",
                str(adapter.path) if adapter else peft.target_modules,
                "puts an adapter on the head, whose weights TRL's SFTTrainer reads without it.",
                "Use training.method=base, or train a copy of the head in peft.modules_to_save.",
                {"training.method": "base"},
            )

    def trainer_arguments(self, config: Config, decisions: Decisions) -> dict[str, Any]:
        """Return the arguments of SFTConfig; rows are already tokenized and masked."""
        return {
            "max_length": None,  # SFTConfig would truncate at 1,024
            "padding_free": decisions.padding_free,
            "pad_to_multiple_of": config.data.pad_to_multiple_of,
            "completion_only_loss": config.data.completion_only_loss,
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }


METHOD = Sft()
