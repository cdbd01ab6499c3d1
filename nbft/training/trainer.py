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
from datasets import Dataset
from transformers import TrainerCallback

from nbft.config import Config
from nbft.data.tokens import IGNORE_INDEX, Tokenised
from nbft.interop.huggingface import lora_arguments, training_arguments
from nbft.plan.hardware import Choice


def build_trainer(
    config: Config,
    model: Any,
    tokenizer: Any,
    train: Tokenised,
    held_out: Tokenised | None,
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
        train: Tokenised rows to train on.
        held_out: Tokenised rows to measure on, or None.
        output_dir: Folder of the checkpoints.
        device: The device that was chosen.
        mixed_precision: bf16, fp16 or no.
        callbacks: Added to those that the config asks for.
        resumed: Whether it goes on from a checkpoint, so that the measurement before the first
            step is done already.
    """
    arguments = training_arguments(config, device, mixed_precision)
    if held_out is None:
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
        "train_dataset": _dataset(train),
        "eval_dataset": _dataset(held_out) if held_out else None,
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
            data_collator=transformers.DataCollatorForSeq2Seq(
                tokenizer,
                label_pad_token_id=IGNORE_INDEX,
                pad_to_multiple_of=config.data.pad_to_multiple_of,
            ),
            **common,
        )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _dataset(rows: Tokenised) -> Dataset:
    return Dataset.from_dict({"input_ids": rows.input_ids, "labels": rows.labels})
