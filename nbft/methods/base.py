"""Supervised fine-tuning with the Trainer of transformers, without TRL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbft.methods.method import IGNORE_INDEX, Imitation

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.decisions import Decisions


class Base(Imitation):
    """The plain Trainer, which has no collator of its own and adds no adapter to the model."""

    title = "supervised fine-tuning, plain"
    trainer = "transformers:Trainer"
    arguments = "transformers:TrainingArguments"

    def trainer_arguments(self, config: Config, decisions: Decisions) -> dict[str, Any]:
        """Return the arguments of TrainingArguments."""
        return {"include_num_input_tokens_seen": "non_padding", "remove_unused_columns": False}

    def collator(self, config: Config, decisions: Decisions, tokenizer: Any, model: Any) -> Any:
        """Return a collator like the one built into SFTTrainer."""
        multiple = config.data.pad_to_multiple_of
        if getattr(model.config, "is_encoder_decoder", False):
            from nbft.models.seq2seq import Seq2SeqCollator

            return Seq2SeqCollator(tokenizer, model, multiple)
        if decisions.padding_free:
            from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

            return DataCollatorForLanguageModeling(
                tokenizer.pad_token_id, padding_free=True, pad_to_multiple_of=multiple
            )
        from transformers import DataCollatorForSeq2Seq

        return DataCollatorForSeq2Seq(
            tokenizer, label_pad_token_id=IGNORE_INDEX, pad_to_multiple_of=multiple
        )

    def collator_code(self, config: Config, decisions: Decisions) -> tuple[str, list[str]]:
        """Return the same collator as an expression."""
        multiple = config.data.pad_to_multiple_of
        if config.model.auto_class_name == "AutoModelForSeq2SeqLM":
            return f"Seq2SeqCollator(tokenizer, model, {multiple})", []
        if decisions.padding_free:
            code = "DataCollatorForLanguageModeling(\n        tokenizer.pad_token_id, "
            code += f"padding_free=True, pad_to_multiple_of={multiple}\n    )"
            return code, ["trl.trainer.sft_trainer:DataCollatorForLanguageModeling"]
        more = f", pad_to_multiple_of={multiple}" if multiple else ""
        code = f"DataCollatorForSeq2Seq(tokenizer, label_pad_token_id={IGNORE_INDEX}{more})"
        return code, ["transformers:DataCollatorForSeq2Seq"]


METHOD = Base()
