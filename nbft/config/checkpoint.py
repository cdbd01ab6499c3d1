"""Settings of what is saved on the way."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Checkpoint(Section):
    """What is saved on the way."""

    save_strategy: Literal["no", "steps", "epoch", "best"] = setting(
        "steps",
        help="When to save a checkpoint.",
        source="transformers TrainingArguments.save_strategy",
    )
    save_steps: int = setting(
        500,
        label="Save interval",
        help="Steps between checkpoints, with save_strategy steps.",
        unit="steps",
        ge=1,
        source="transformers TrainingArguments.save_steps",
    )
    save_total_limit: int | None = setting(
        2,
        label="Checkpoints to keep",
        help="Checkpoints kept; older ones are deleted. All are kept when empty.",
        ge=1,
        source="nbft: the last and the one before",
    )
    save_only_model: bool = setting(
        False,
        help="Leave the optimiser out of checkpoints: smaller, but no exact resuming.",
        source="transformers TrainingArguments.save_only_model",
        level="expert",
    )
    load_best_model_at_end: bool = setting(
        False,
        label="Load the best model at the end",
        help="End with the checkpoint that scored best instead of the last.",
        source="transformers TrainingArguments.load_best_model_at_end",
    )
    metric_for_best_model: str = setting(
        "eval_loss",
        label="Metric for the best model",
        help="Score that decides which checkpoint is best.",
        source="transformers TrainingArguments.metric_for_best_model",
    )
    greater_is_better: bool | None = setting(
        label="Higher metric is better",
        help="Whether a larger score is better; known by itself for losses.",
        source="transformers TrainingArguments.greater_is_better",
        level="expert",
    )
    save_on_epoch_end: bool = setting(
        False,
        label="Save at the end of each epoch",
        help="Save at the end of each epoch as well, with save_strategy steps.",
        source="Oumi training.save_epoch",
        level="expert",
    )
    save_final_model: bool = setting(
        True,
        help="Save the model when training is over; false leaves the checkpoints alone.",
        source="Oumi training.save_final_model",
        level="expert",
    )
    overwrite_output_dir: bool = setting(
        False,
        label="Overwrite the output folder",
        help="Has no effect: every run has a folder of its own, so nothing is ever overwritten.",
        source="QEfficient training.overwrite_output_dir",
        level="expert",
    )
    ignore_load_lr_and_optim: bool = setting(
        False,
        label="Ignore saved learning rate and optimizer",
        help="On resuming, take the weights alone and start the optimiser and its schedule anew.",
        source="ERNIEKit ignore_load_lr_and_optim",
        level="expert",
    )
    unified_checkpoint: bool = setting(
        False,
        help="Save the optimiser by the parameters' names in one safetensors file, so that it can "
        "be loaded whatever the order or the grouping of the parameters.",
        source="ERNIEKit unified_checkpoint",
        level="expert",
    )
    unified_checkpoint_config: list[Literal["ignore_merge_optimizer"]] = setting(
        help="ignore_merge_optimizer saves the optimiser in optim_shard_num files, not in one.",
        source="ERNIEKit unified_checkpoint_config",
        level="expert",
        default_factory=list,
    )
    optim_shard_num: int = setting(
        1,
        label="Optimizer shards",
        help="Files into which the optimiser is cut, so that saving holds one part at a time.",
        unit="files",
        ge=1,
        le=1000,
        source="ERNIEKit optim_shard_num",
        level="expert",
    )
    quantize_checkpoint: bool = setting(
        False,
        help="Save AdamW's moments in 8 bits: a quarter of the room, and resuming is not exact.",
        source="ERNIEKit disable_ckpt_quant, inverted",
        level="expert",
    )
    state_dict_type: Literal["FULL_STATE_DICT", "SHARDED_STATE_DICT"] = setting(
        "FULL_STATE_DICT",
        help="FULL saves whole tensors; SHARDED saves torch's distributed checkpoint beside them, "
        "which any number of processes can read.",
        source="Oumi fsdp.state_dict_type",
        level="expert",
    )
