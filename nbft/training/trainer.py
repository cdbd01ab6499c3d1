"""From a config to a ready trainer: TRL's SFTTrainer or the plain transformers Trainer.

Called by `nbft.training.worker` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import transformers
import trl
from transformers import TrainerCallback
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from nbft.config import Config
from nbft.data.tokens import IGNORE_INDEX
from nbft.interop.huggingface import lora_arguments, training_arguments
from nbft.plan.hardware import Choice
from nbft.training.rows import TrainingRows

_COLUMNS = ["input_ids", "labels"]


def build_trainer(
    config: Config,
    model: Any,
    tokenizer: Any,
    rows: TrainingRows,
    *,
    output_dir: Path,
    device: str,
    mixed_precision: Choice,
    callbacks: Sequence[TrainerCallback],
    resumed: bool = False,
) -> Any:
    """Build the trainer that a config asks for.

    Args:
        config: The config.
        model: The base model; gains an adapter unless all of it is trained.
        tokenizer: Its tokenizer.
        rows: What to train and to measure on.
        output_dir: Folder of the checkpoints.
        device: The device that was chosen.
        mixed_precision: bf16, fp16 or no.
        callbacks: Added to those that the config asks for.
        resumed: Whether it goes on from a checkpoint, so that the measurement before the first
            step is done already.
    """
    arguments = training_arguments(config, device, mixed_precision)
    if rows.held_out is None:
        arguments |= {"eval_strategy": "no", "eval_on_start": False}
    if resumed:
        arguments["eval_on_start"] = False
    watching = list(callbacks)
    if (patience := config.callbacks.early_stopping_patience) is not None:
        watching.append(
            transformers.EarlyStoppingCallback(patience, config.callbacks.early_stopping_threshold)
        )
    lora = None
    if config.peft.method == "lora":
        lora = peft.LoraConfig(**lora_arguments(config))
    common = {
        "train_dataset": rows.train,
        "eval_dataset": rows.held_out and rows.held_out.dataset.select_columns(_COLUMNS),
        "processing_class": tokenizer,
        "callbacks": watching,
    }
    trainer: Any
    if config.training.method == "sft":
        trainer = trl.SFTTrainer(
            model=model,
            args=trl.SFTConfig(output_dir=str(output_dir), **arguments),
            peft_config=lora,
            **common,
        )
    else:
        if config.memory.gradient_checkpointing and lora:
            model.enable_input_require_grads()
        trainer = transformers.Trainer(
            model=peft.get_peft_model(model, lora) if lora else model,
            args=transformers.TrainingArguments(output_dir=str(output_dir), **arguments),
            data_collator=_collator(config, tokenizer),
            **common,
        )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _collator(config: Config, tokenizer: Any) -> Any:
    """Return what makes a batch for the plain Trainer; SFTTrainer makes the same by itself."""
    if config.data.packing or config.data.padding_free:
        return DataCollatorForLanguageModeling(
            tokenizer.pad_token_id,
            padding_free=True,
            pad_to_multiple_of=config.data.pad_to_multiple_of,
        )
    return transformers.DataCollatorForSeq2Seq(
        tokenizer,
        label_pad_token_id=IGNORE_INDEX,
        pad_to_multiple_of=config.data.pad_to_multiple_of,
    )
