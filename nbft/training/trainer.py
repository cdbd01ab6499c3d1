"""From a config to a ready trainer: TRL's SFTTrainer or the plain transformers Trainer.

Called by `nbft.training.worker` only.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from peft.optimizers import create_loraplus_optimizer
from transformers import TrainerCallback
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from nbft import registry
from nbft.config import Config
from nbft.data.tokens import IGNORE_INDEX
from nbft.interop.huggingface import adapter_arguments, training_arguments
from nbft.models.freezing import freeze
from nbft.plan.hardware import Choice
from nbft.plan.speed import choose_parts, is_padding_free
from nbft.training.extended import asked_callbacks, extended, finish, unfit_for
from nbft.training.fast import attention
from nbft.training.fast.head import use_label_head
from nbft.training.fast.lora import FrozenLoraLinear, use_lean_adapters
from nbft.training.fast.norm import use_lean_norms
from nbft.training.grouping import group_by
from nbft.training.rows import TrainingRows
from nbft.training.sampling import use_batches
from nbft.training.seq2seq import Seq2SeqCollator

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
    watching = [*asked_callbacks(config), *callbacks]
    if (patience := config.callbacks.early_stopping_patience) is not None:
        watching.append(
            transformers.EarlyStoppingCallback(patience, config.callbacks.early_stopping_threshold)
        )
    lora = None
    if not isinstance(model, peft.PeftModel) and (adapter := adapter_arguments(config)):
        lora = getattr(peft, adapter[0])(**adapter[1])
    folder = Path(getattr(model, "name_or_path", ""))
    parts = choose_parts(config, device, mixed_precision.value, folder)
    uses = {name for name, choice in parts.items() if choice.value == "on"} - unfit_for(config)
    if config.memory.use_attn_mask_start_row_indices and is_padding_free(config):
        uses.add("row_attention")
    if lora and "fused_lora" in uses and not config.quantization.bits:
        lora._register_custom_module({torch.nn.Linear: FrozenLoraLinear})
    if "row_attention" in uses:
        attention.register()
        model.set_attn_implementation(attention.NAME)
    if "lean_norm" in uses:
        use_lean_norms(model)
    common = {
        "train_dataset": rows.train,
        "eval_dataset": _measured(rows, config),
        "processing_class": tokenizer,
        "callbacks": watching,
    }
    trainer: Any
    if config.training.method == "sft":
        trainer = extended(trl.SFTTrainer, config, device, mixed_precision.value)(
            model=model,
            args=trl.SFTConfig(output_dir=str(output_dir), **arguments),
            peft_config=lora,
            **common,
        )
        if "label_head" in uses:
            use_label_head(model.get_base_model() if isinstance(model, peft.PeftModel) else model)
    else:
        if config.memory.gradient_checkpointing and config.peft.method != "full":
            model.enable_input_require_grads()
        base = registry.trainers.get(config.training.method)
        trainer = extended(base, config, device, mixed_precision.value)(
            model=peft.get_peft_model(model, lora) if lora else model,
            args=transformers.TrainingArguments(output_dir=str(output_dir), **arguments),
            data_collator=_collator(config, tokenizer, model),
            **common,
        )
    if "fused_lora" in uses and config.quantization.load_in_4bit:
        use_lean_adapters(trainer.model)
    trainer.remove_callback(transformers.PrinterCallback)
    _finish(config, trainer)
    if rows.lengths is not None:
        group_by(trainer, rows.lengths)
    if rows.batches is not None:
        use_batches(trainer, rows.batches, config)
    finish(trainer, config, mixed_precision.value)
    return trainer


def _measured(rows: TrainingRows, config: Config) -> Any:
    """Return the held-out rows, at most as many as evaluation.max_eval_steps batches hold."""
    if rows.held_out is None:
        return None
    found = rows.held_out.dataset.select_columns(_COLUMNS)
    if (steps := config.evaluation.max_eval_steps) is None:
        return found
    most = steps * config.evaluation.per_device_eval_batch_size
    return found.select(range(min(len(found), most)))


def _finish(config: Config, trainer: Any) -> None:
    """Do to the model and its optimiser what the trainer has no argument for."""
    settings = config.model
    if config.data.collate_fn != "dynamic_padding":
        trainer.data_collator = registry.collators.get(config.data.collate_fn)(
            trainer.processing_class
        )
    freeze(trainer.model, settings.freeze_layers)
    _spare_walks(trainer.model)
    if config.peft.method == "lora" and config.peft.loraplus_lr_ratio != 1:
        trainer.optimizer = _loraplus_optimizer(trainer, config.peft.loraplus_lr_ratio)
    if settings.dropout_warmup_steps is not None:
        from nbft.models.dropout import DropoutWarmup

        shares = settings.attention_dropout, settings.hidden_dropout
        trainer.add_callback(DropoutWarmup(*shares, settings.dropout_warmup_steps))


def _spare_walks(model: Any) -> None:
    """Answer at once what the Trainer asks at each step: to train, and how many parameters there are.

    With 2,500 modules the answers take 8 ms otherwise.

    Args:
        model: What it trains, with all its layers; none is added later.
    """
    usual, layers = model.train, list(model.modules())

    def train(mode: bool = True) -> Any:
        return model if all(layer.training == mode for layer in layers) else usual(mode)

    model.train = train
    if hasattr(model, "num_parameters"):
        model.num_parameters = functools.cache(model.num_parameters)


def _loraplus_optimizer(trainer: Any, ratio: float) -> torch.optim.Optimizer:
    """Make the trainer's own optimiser, with a learning rate so many times as high for LoRA's B."""
    kind, arguments = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    return create_loraplus_optimizer(
        trainer.model,
        kind,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=trainer.args.weight_decay,
        **arguments,
    )


def _collator(config: Config, tokenizer: Any, model: Any) -> Any:
    """Return what makes a batch for the plain Trainer; SFTTrainer makes the same by itself."""
    if getattr(model.config, "is_encoder_decoder", False):
        return Seq2SeqCollator(tokenizer, model, config.data.pad_to_multiple_of)
    if is_padding_free(config):
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
