"""Settings of checkpoints."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, expert_setting, setting


class Checkpoint(Section):
    """What is saved during and after training."""

    save_strategy: Literal["no", "steps", "epoch", "best"] = setting(
        "steps",
        help="When to save a checkpoint.",
        source="transformers TrainingArguments.save_strategy",
    )
    save_steps: int = setting(
        500,
        label="Save interval",
        help="Number of steps between checkpoints when save_strategy is steps.",
        unit="steps",
        ge=1,
        source="transformers TrainingArguments.save_steps",
    )
    save_total_limit: int | None = setting(
        2,
        label="Checkpoints to keep",
        help="Number of checkpoints to keep; older ones are deleted, but never the newest or the "
        "best. Keeps all when empty.",
        ge=1,
        source="nbft: the last and the one before",
    )
    save_only_model: bool = expert_setting(
        False,
        help="Save checkpoints without the optimiser state: smaller, but resuming is not exact.",
        source="transformers TrainingArguments.save_only_model",
    )
    load_best_model_at_end: bool = setting(
        False,
        label="Load the best model at the end",
        help="Finish with the best checkpoint instead of the last one.",
        source="transformers TrainingArguments.load_best_model_at_end",
    )
    metric_for_best_model: str = setting(
        "eval_loss",
        label="Metric for the best model",
        help="Metric that decides which checkpoint is best.",
        source="transformers TrainingArguments.metric_for_best_model",
    )
    greater_is_better: bool | None = expert_setting(
        label="Higher metric is better",
        help="Whether a higher metric is better; detected automatically for losses.",
        source="transformers TrainingArguments.greater_is_better",
    )
    save_on_epoch_end: bool = expert_setting(
        False,
        label="Save at the end of each epoch",
        help="Also save at the end of each epoch when save_strategy is steps.",
        source="Oumi training.save_epoch",
    )
    save_final_model: bool = expert_setting(
        True,
        help="Save the model after training; false keeps only the checkpoints.",
        source="Oumi training.save_final_model",
    )
    overwrite_output_dir: bool = expert_setting(
        False,
        label="Overwrite the output folder",
        help="No effect: every run has its own folder, so nothing is ever overwritten.",
        source="QEfficient training.overwrite_output_dir",
    )
    ignore_load_lr_and_optim: bool = expert_setting(
        False,
        label="Ignore saved learning rate and optimizer",
        help="When resuming, load only the weights; restart optimiser and learning rate schedule.",
        source="ERNIEKit ignore_load_lr_and_optim",
    )
    unified_checkpoint: bool = expert_setting(
        False,
        help="Save the optimiser state by parameter name in one safetensors file, so it can be "
        "loaded even if parameters are reordered or regrouped.",
        source="ERNIEKit unified_checkpoint",
    )
    unified_checkpoint_config: list[Literal["ignore_merge_optimizer"]] = expert_setting(
        help="ignore_merge_optimizer splits the optimiser state into optim_shard_num files.",
        source="ERNIEKit unified_checkpoint_config",
        default_factory=list,
    )
    optim_shard_num: int = expert_setting(
        1,
        label="Optimizer shards",
        help="Number of files for the optimiser state; saving holds one part in memory at a time.",
        unit="files",
        ge=1,
        le=1000,
        source="ERNIEKit optim_shard_num",
    )
    quantize_checkpoint: bool = expert_setting(
        False,
        help="Save AdamW's moments in 8 bits: a quarter of the size, but resuming is not exact.",
        source="ERNIEKit disable_ckpt_quant, inverted",
    )
    state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] = expert_setting(
        "FULL_STATE_DICT",
        help="How the optimiser is saved: whole, or in shards (torch's distributed checkpoint, in "
        "safetensors), which no process gathers and any number of processes reads.",
        source="Oumi fsdp.state_dict_type",
    )
