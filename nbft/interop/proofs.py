"""Which test proves that a setting does what it says, for the compatibility page.

A name is a setting of ours (items of lists written []), or system:parameter where the setting alone
does not tell. A test of tests/unit/interop sees that each of the tests exists.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from nbft.interop.table import Status


@dataclass(frozen=True)
class Proof:
    """A test, and how far it goes.

    Attributes:
        test: As pytest takes it.
        status: effect, hardware, refused or planned.
        reason: What it needs, or why not.
    """

    test: str
    status: Status = "effect"
    reason: str = ""


@functools.cache
def proofs() -> dict[str, Proof]:
    """Return the proof of every name."""
    return {
        name: Proof(f"{file}::{test}", *_NOTES.get(name, ("effect", "")))
        for file, tests in _TESTS.items()
        for test, names in tests.items()
        for name in names
    }


_NOTES: dict[str, tuple[Status, str]] = {
    "model.use_cache": (
        "effect",
        "Answers always use the keys and values; the setting is for the training's forward pass and the saved config.",
    ),
    "model.attn_implementation": (
        "effect",
        "Flash_attention_2 needs a GPU and the package flash-attn; refused with a sentence without.",
    ),
    "peft.method": ("effect", "False is peft.method=full."),
    "peft.bias": ("effect", "Null is none."),
    "peft.task_type": (
        "effect",
        "SEQ_2_SEQ_LM needs model.auto_class_name=AutoModelForSeq2SeqLM and training.method=base.",
    ),
    "data.dataloader_pin_memory": (
        "hardware",
        "Pinned memory serves the copy to a GPU; without one it is left off.",
    ),
    "training.output_dir": ("effect", "A new folder for every run lies in it."),
    "checkpoint.overwrite_output_dir": (
        "refused",
        "Every run has a folder of its own, so nothing is overwritten; true is warned of and has no effect.",
    ),
    "precision.mixed_precision": (
        "effect",
        "Bf16 everywhere; fp16 needs a GPU or qaic: on a CPU transformers would train in float32 without a word.",
    ),
    "compute.device": (
        "hardware",
        "Qaic needs torch_qaic and its driver, cuda an NVIDIA GPU; cpu trains everywhere.",
    ),
    "logging.log_on_each_node": (
        "hardware",
        "Acts with several machines; checked with the numbers of a second machine's process.",
    ),
    "logging.disable_tqdm": ("effect", "The bar is a line in the run's progress.txt."),
    "optimizer.optim": (
        "effect",
        "Adamw is adamw_torch, paged_adamw is paged_adamw_32bit, adam is torch's Adam.",
    ),
    "callbacks.callbacks.enhanced_progressbar": ("effect", "Key enhanced_progressbar."),
    "callbacks.callbacks.default_flow": (
        "effect",
        "Key default_flow; the trainer has one already.",
    ),
    "callbacks.callbacks.printer": ("effect", "Key printer; writes printer.txt."),
    "callbacks.callbacks.json_logger": ("effect", "Key json_logger; writes metrics.jsonl."),
    "callbacks.callbacks.profiler": (
        "effect",
        "Key profiler; torch.profiler on cpu and cuda, torch_qaic.profile on qaic.",
    ),
    "callbacks.callbacks.op_by_op_verifier": (
        "effect",
        "Key op_by_op_verifier; any device against a reference.",
    ),
    "tracking.report_to": ("effect", "Key tensorboard."),
    "model.use_liger_kernel": (
        "hardware",
        "Needs a GPU and the package liger-kernel; refused with a sentence without.",
    ),
    "memory.torch_empty_cache_steps": ("effect", "A CPU has no cache to empty."),
    "peft.init_lora_weights": (
        "effect",
        "Eva, corda and loftq look at rows or quantise by themselves: use pissa or olora.",
    ),
    "checkpoint.state_dict_type": (
        "effect",
        "LOCAL_STATE_DICT was given up by torch: use SHARDED_STATE_DICT.",
    ),
    "quantization.weight_quantize_algo": (
        "effect",
        "Fp8_linear has the numbers of float8 on any device, its speed on a GPU of compute capability 8.9.",
    ),
    "memory.offload_optimizer": (
        "hardware",
        "Needs a GPU: on a CPU the optimiser lies in the computer's memory already.",
    ),
    "checkpoint.quantize_checkpoint": ("effect", "Inverted."),
    "precision.loss_scale": ("hardware", "Float16 needs a GPU; the scaler gets the value."),
    "precision.apply_hadamard": (
        "effect",
        "FP8's numbers are emulated, its speed needs a GPU from Hopper on.",
    ),
    "precision.apply_online_actscale_step": (
        "effect",
        "FP8's numbers are emulated, its speed needs a GPU from Hopper on.",
    ),
    "compute.price_usd_per_hour": ("effect", "The documented range is used when empty."),
    "qefficient:model.peft_config": ("effect", "A block: its keys have rows of their own."),
    "qefficient:training.do_eval": (
        "effect",
        "False is eval_strategy no; the held-out loss is measured once at the end in any case.",
    ),
    "qefficient:training.dtype": (
        "hardware",
        "Fp16 needs a GPU or qaic: on a CPU transformers would train in float32 without a word.",
    ),
    "qefficient:training.ddp_config": ("planned", "A block: its keys have rows of their own."),
    "qefficient:training.use_cpu": ("effect", "True is cpu."),
    "oumi:model.compile": (
        "effect",
        "Oumi itself refuses model.compile in training; there is one switch here.",
    ),
    "oumi:training.warmup_ratio": ("effect", "A value below 1 is a share of the steps."),
    "oumi:training.try_resume_from_last_checkpoint": ("effect", "True is auto."),
    "oumi:training.fp16": (
        "hardware",
        "Fp16 needs a GPU or qaic: on a CPU transformers would train in float32 without a word.",
    ),
    "oumi:peft.q_lora_bits": ("effect", "4 is load_in_4bit, 8 is load_in_8bit."),
    "oumi:cli: oumi config create train --model": (
        "effect",
        "`nbft config create --model`; a script with the command is read too.",
    ),
    "oumi:cli: oumi config create train --training-type": (
        "effect",
        "`nbft config create --method`, auto too; a script with the command is read too.",
    ),
    "oumi:cli: oumi config create train --output": (
        "effect",
        "`nbft config create --output` writes the file.",
    ),
    "oumi:cli: oumi train -c": ("effect", "Nbft train FILE; a script with the command is read."),
    "oumi:cli: oumi train --<section>.<key>": (
        "effect",
        "Nbft train FILE section.key=value; a script with the command is read.",
    ),
    "erniekit:do_eval": (
        "effect",
        "False is eval_strategy no; the held-out loss is measured once at the end in any case.",
    ),
    "erniekit:use_flash_attention": (
        "hardware",
        "Flash_attention_2 needs a GPU; sdpa is torch's own everywhere.",
    ),
    "erniekit:fuse_rope": ("hardware", "Liger's kernels need a GPU with Triton."),
    "erniekit:lora_alpha": (
        "effect",
        "-1 is twice the rank, or 4 with rslora, as in ERNIEKit's code.",
    ),
    "erniekit:rslora_plus": (
        "effect",
        "True is use_rslora=true, loraplus_lr_ratio=4 and lora_alpha=4, as in ERNIEKit's code.",
    ),
    "peft_studio:algorithm": (
        "effect",
        "Qlora is lora on quantization.load_in_4bit; dora, pissa and rslora are use_dora, init_lora_weights=pissa and use_rslora.",
    ),
    "peft_studio:quantization": (
        "effect",
        "Nf4 is 4 bits with bnb_4bit_quant_type=nf4, int4 the same with fp4, int8 is load_in_8bit.",
    ),
    "peft_studio:experiment_tracker": (
        "effect",
        "Wandb, comet_ml and phoenix, each where its package is installed.",
    ),
    "peft_studio:warmup_ratio": ("effect", "A value below 1 is a share of the steps."),
    "unsloth:warmup_ratio": ("effect", "A value below 1 is a share of the steps."),
}
"""What is more than an effect, or needs a word."""

_TESTS: dict[str, dict[str, tuple[str, ...]]] = {
    "tests/e2e/test_rows.py": {
        "test_packed_rows_have_the_loss_and_gradients_of_rows_apart": ("data.packing",),
        "test_a_stream_is_trained_and_resumed_with_the_same_losses": ("data.train.stream",),
    },
    "tests/e2e/test_scores.py": {
        "test_a_score_decides_which_checkpoint_is_kept": ("evaluation.metric_function",),
    },
    "tests/e2e/test_settings_data.py": {
        "test_the_longest_row_is_what_max_length_says": ("data.max_length",),
        "test_a_collator_of_ones_own_makes_the_batches": ("data.collate_fn",),
        "test_rows_of_like_length_come_together": ("data.train_sampling_strategy",),
        "test_another_column_can_be_their_length": ("data.length_column_name",),
        "test_batches_are_prepared_by_other_processes": (
            "data.dataloader_num_workers",
            "data.dataloader_prefetch_factor",
            "data.dataloader_persistent_workers",
        ),
        "test_the_last_batch_can_be_left_out": ("data.dataloader_drop_last",),
        "test_the_batch_and_the_held_out_batch_have_their_sizes": (
            "qefficient:dataset.train_batch_size",
            "qefficient:dataset.eval_batch_size",
        ),
    },
    "tests/e2e/test_settings_model.py": {
        "test_a_model_class_of_your_own": ("model.model_type",),
        "test_auto_class_and_task_type_of_an_encoder_with_a_decoder": (
            "model.auto_class_name",
            "peft.task_type",
        ),
        "test_qlora_trains_to_its_end_and_answers": ("quantization.load_in_4bit",),
        "test_use_cache": ("model.use_cache",),
        "test_attention_kernel": (
            "model.attn_implementation",
            "erniekit:use_flash_attention",
        ),
        "test_device_map_puts_what_does_not_fit_on_the_disk": ("model.device_map",),
        "test_the_forecast_of_what_is_trained": (
            "peft.method",
            "peft.r",
            "peft.target_modules",
            "peft.modules_to_save",
        ),
        "test_lora_strength_and_scale": (
            "peft.lora_alpha",
            "peft.use_rslora",
            "erniekit:lora_alpha",
        ),
        "test_lora_dropout": ("peft.lora_dropout",),
        "test_biases": ("peft.bias",),
        "test_tokenizer_name": ("model.tokenizer_name",),
        "test_a_run_goes_on_with_an_adapter": ("model.adapter_name_or_path",),
        "test_chat_template_and_tokenizer": (
            "model.pad_token",
            "model.tokenizer_kwargs",
            "model.chat_template",
        ),
        "test_random_weights_and_model_kwargs": (
            "model.load_pretrained_weights",
            "model.model_init_kwargs",
        ),
        "test_trust_remote_code": ("model.trust_remote_code",),
        "test_float64": ("model.dtype",),
        "test_liger_kernels_are_asked_of_their_package": (
            "model.use_liger_kernel",
            "erniekit:fuse_rope",
        ),
        "test_freeze_layers": ("model.freeze_layers",),
        "test_how_the_adapter_starts": ("peft.init_lora_weights",),
        "test_quantised_weights": (
            "quantization.bnb_4bit_quant_type",
            "quantization.bnb_4bit_use_double_quant",
            "quantization.bnb_4bit_quant_storage",
            "peft_studio:quantization",
        ),
        "test_the_compute_type_of_4_bits": ("quantization.bnb_4bit_compute_dtype",),
        "test_dropout_is_in_the_losses_and_not_in_the_answers": (
            "model.attention_dropout",
            "model.hidden_dropout",
        ),
        "test_dropout_warms_up_step_by_step": ("model.dropout_warmup_steps",),
        "test_weight_only_mix_has_experts_in_4_bits_and_the_rest_in_8": (
            "quantization.weight_quantize_algo",
        ),
        "test_loraplus_lets_b_learn_faster": ("peft.loraplus_lr_ratio",),
        "test_ia3_and_dora_train_to_their_end": (
            "qefficient:model.peft_config.peft_type",
            "oumi:peft.peft_method",
            "peft_studio:algorithm",
        ),
        "test_rslora_plus_is_three_settings": ("erniekit:rslora_plus",),
    },
    "tests/e2e/test_settings_training.py": {
        "test_the_length_of_a_run": (
            "training.per_device_train_batch_size",
            "training.num_train_epochs",
            "training.max_steps",
            "training.num_samples_each_epoch",
        ),
        "test_evaluation_strategy_steps_and_batch": (
            "evaluation.per_device_eval_batch_size",
            "evaluation.eval_strategy",
            "evaluation.eval_steps",
            "qefficient:training.do_eval",
            "erniekit:do_eval",
        ),
        "test_a_trainer_of_ones_own": ("training.method",),
        "test_mixed_precision": (
            "precision.mixed_precision",
            "oumi:training.bf16",
            "erniekit:bf16",
        ),
        "test_levels_reach_the_log": (
            "logging.log_level",
            "logging.dep_log_level",
        ),
        "test_log_on_each_node": ("logging.log_on_each_node",),
        "test_when_numbers_are_logged": (
            "logging.logging_strategy",
            "logging.logging_steps",
            "logging.logging_first_step",
        ),
        "test_when_checkpoints_are_saved": (
            "checkpoint.save_strategy",
            "checkpoint.save_steps",
            "checkpoint.save_total_limit",
        ),
        "test_metric_for_best_model": ("checkpoint.metric_for_best_model",),
        "test_include_num_input_tokens_seen": ("logging.include_num_input_tokens_seen",),
        "test_restore_callback_states_from_checkpoint": (
            "callbacks.restore_callback_states_from_checkpoint",
        ),
        "test_gradient_checkpointing": ("memory.gradient_checkpointing",),
        "test_recompute_granularity": ("memory.recompute_granularity",),
        "test_preserve_rng_state": ("memory.gradient_checkpointing_kwargs.preserve_rng_state",),
        "test_use_reentrant": ("memory.gradient_checkpointing_kwargs.use_reentrant",),
        "test_torch_compile": (
            "compute.torch_compile",
            "oumi:model.compile",
        ),
        "test_resume_from_checkpoint": (
            "training.resume_from_checkpoint",
            "oumi:training.try_resume_from_last_checkpoint",
        ),
        "test_files_of_a_run": (
            "logging.disable_tqdm",
            "callbacks.callbacks.printer",
            "callbacks.callbacks.json_logger",
            "training.run_name",
            "logging.include_performance_metrics",
            "logging.include_mfu",
            "logging.log_model_summary",
        ),
        "test_optimisers": ("optimizer.optim",),
        "test_two_steps_are_those_of_adamw_by_hand": (
            "training.learning_rate",
            "optimizer.weight_decay",
            "training.max_grad_norm",
            "optimizer.adam_beta1",
            "optimizer.adam_beta2",
            "optimizer.adam_epsilon",
        ),
        "test_the_rates_of_a_run_are_those_of_its_plan": (
            "scheduler.lr_scheduler_type",
            "scheduler.warmup_steps",
            "oumi:training.warmup_ratio",
            "peft_studio:warmup_ratio",
            "unsloth:warmup_ratio",
        ),
        "test_early_stopping": (
            "callbacks.early_stopping_patience",
            "callbacks.early_stopping_threshold",
        ),
        "test_default_flow": ("callbacks.callbacks.default_flow",),
        "test_the_progress_bar_by_its_key": ("callbacks.callbacks.enhanced_progressbar",),
        "test_the_profiler_sees_the_steps_of_its_range": ("callbacks.callbacks.profiler",),
        "test_the_verifier_finds_an_injected_fault": ("callbacks.callbacks.op_by_op_verifier",),
        "test_tensorboard": (
            "tracking.report_to",
            "logging.logging_dir",
            "oumi:training.enable_tensorboard",
        ),
        "test_deterministic": ("training.full_determinism",),
        "test_sgd_momentum": ("optimizer.sgd_momentum",),
        "test_save_on_epoch_end_adds_to_the_steps": ("checkpoint.save_on_epoch_end",),
        "test_save_final_model_and_do_train": (
            "checkpoint.save_final_model",
            "training.do_train",
        ),
        "test_torch_empty_cache_steps": ("memory.torch_empty_cache_steps",),
        "test_state_dict_type": ("checkpoint.state_dict_type",),
        "test_max_eval_steps": ("evaluation.max_eval_steps",),
        "test_layerwise_lr_decay": ("optimizer.layerwise_lr_decay",),
        "test_release_grads": ("memory.release_grads",),
        "test_sparse_and_fused_head": (
            "memory.use_sparse_head_and_loss_fn",
            "memory.use_fused_head_and_loss_fn",
        ),
        "test_use_attn_mask_start_row_indices": ("memory.use_attn_mask_start_row_indices",),
        "test_offload_optimizer": ("memory.offload_optimizer",),
        "test_unified_checkpoint": (
            "checkpoint.unified_checkpoint",
            "checkpoint.unified_checkpoint_config",
            "checkpoint.optim_shard_num",
        ),
        "test_quantize_checkpoint": ("checkpoint.quantize_checkpoint",),
        "test_save_only_model": ("checkpoint.save_only_model",),
        "test_ignore_load_lr_and_optim": ("checkpoint.ignore_load_lr_and_optim",),
        "test_o2": (
            "precision.fp16_opt_level",
            "precision.amp_master_grad",
        ),
        "test_operator_lists": (
            "precision.amp_custom_white_list",
            "precision.amp_custom_black_list",
        ),
        "test_fp8": ("precision.apply_hadamard",),
        "test_moments_in_bfloat16": ("optimizer.moment_dtype",),
        "test_fp8_activation_scales_stay_after_so_many_steps": (
            "precision.apply_online_actscale_step",
        ),
        "test_trackers_get_name_project_and_tags": (
            "tracking.project",
            "tracking.tags",
            "oumi:training.enable_wandb",
        ),
        "test_phoenix": ("peft_studio:experiment_tracker",),
    },
    "tests/e2e/test_training.py": {
        "test_a_run_from_start_to_answer": ("training.output_dir",),
        "test_batch_times_accumulation_is_what_counts": ("training.gradient_accumulation_steps",),
        "test_the_same_seed_repeats_the_losses": ("training.seed",),
    },
    "tests/unit/config/test_planned.py": {
        "test_wrong_values_are_refused": (
            "distributed.average_tokens_across_devices",
            "distributed.fsdp_config",
            "distributed.accelerator_config",
            "distributed.ddp_backend",
            "distributed.ddp_find_unused_parameters",
            "distributed.ddp_bucket_cap_mb",
            "distributed.ddp_broadcast_buffers",
            "distributed.ddp_timeout",
            "distributed.dispatch_batches",
            "distributed.fsdp",
            "distributed.fsdp_backward_prefetch",
            "distributed.fsdp_forward_prefetch",
            "distributed.fsdp_use_orig_params",
            "distributed.fsdp_auto_wrap_policy",
            "distributed.fsdp_min_num_params",
            "distributed.fsdp_transformer_layer_cls_to_wrap",
            "distributed.fsdp_sync_module_states",
            "distributed.tensor_parallel_config",
            "distributed.tensor_parallel_output",
            "distributed.pipeline_parallel_config",
            "distributed.pipeline_segmentation",
            "distributed.virtual_pipeline_stages",
            "distributed.add_tail_layers",
            "distributed.sharding_parallel_config",
            "distributed.sharding",
            "distributed.sequence_parallel",
            "distributed.moe_group",
            "distributed.moe_dispatch",
        ),
        "test_what_needs_several_processes_is_refused_and_mended": (
            "distributed.deepspeed",
            "distributed.fsdp_cpu_offload",
            "distributed.tensor_parallel_size",
            "distributed.pipeline_parallel_size",
            "distributed.sharding_parallel_size",
            "distributed.num_processes",
        ),
        "test_what_needs_preference_training_is_refused_and_mended": (
            "preference.beta",
            "preference.simpo_gamma",
            "preference.offset_alpha",
            "preference.max_prompt_length",
            "preference.loss_type",
            "preference.pref_loss_ratio",
            "preference.sft_loss_ratio",
            "preference.label_smoothing",
            "preference.reference_free",
            "preference.ref_model_update_steps",
        ),
    },
    "tests/unit/data/test_adapters.py": {
        "test_input_columns_are_joined_and_learnt": ("data.train.datasets[].input_columns",),
        "test_target_column_is_what_is_trained": ("data.train.datasets[].target_column",),
        "test_dataset_kwargs_name_files_for_datasets": ("data.train.datasets[].dataset_kwargs",),
        "test_a_split_has_a_seed_of_its_own": ("data.train.seed",),
        "test_dataset_type_reads_a_row_in_another_way": (
            "data.train.datasets[].dataset_type",
            "qefficient:dataset.dataset_type",
        ),
    },
    "tests/unit/data/test_examples.py": {
        "test_the_share_is_the_one_that_was_asked_for": ("data.split_ratio",),
        "test_functions_from_a_file_beside_the_config_and_from_a_package": (
            "data.train.datasets[].prompt_func",
            "data.train.datasets[].completion_func",
        ),
        "test_templates": (
            "data.train.datasets[].prompt_template",
            "data.train.datasets[].completion_template",
        ),
    },
    "tests/unit/data/test_mixtures.py": {
        "test_a_mixture_ends_with_the_first_set_and_has_its_proportions": (
            "data.train.datasets[].mixture_proportion",
        ),
        "test_a_buffer_of_one_keeps_the_order": ("data.train.shuffle_buffer_size",),
        "test_a_mixture_until_all_are_exhausted_repeats_the_smaller_set": (
            "data.train.mixture_strategy",
        ),
    },
    "tests/unit/data/test_sources.py": {
        "test_a_split_of_the_hub_is_taken_by_name": (
            "data.train.datasets[].dataset_name",
            "data.train.datasets[].split",
            "data.train.datasets[].subset",
        ),
        "test_every_text_format_gives_the_same_rows": ("data.train.datasets[].path",),
        "test_a_number_of_rows_is_taken_shuffled_by_seed": (
            "data.train.datasets[].sample_count",
            "data.train.datasets[].shuffle",
            "data.train.datasets[].seed",
        ),
    },
    "tests/unit/data/test_tokens.py": {
        "test_several_processes_cut_the_same_tokens": ("data.dataset_num_proc",),
        "test_rows_are_cut_left_out_and_counted": ("oumi:model.model_max_length",),
    },
    "tests/unit/interop/test_huggingface.py": {
        "test_pinned_memory_is_for_a_gpu": ("data.dataloader_pin_memory",),
        "test_rows_stay_in_their_order_when_no_shuffle_is_asked_for": ("data.shuffle",),
    },
    "tests/unit/interop/test_importer.py": {
        "test_a_split_of_the_hub_for_evaluation": ("qefficient:dataset.test_split",),
        "test_a_block_may_be_empty_or_hold_keys": (
            "qefficient:model.peft_config",
            "qefficient:training.ddp_config",
            "qefficient:training.gradient_checkpointing_kwargs",
            "oumi:data.<split>",
            "oumi:data.<split>.datasets",
        ),
        "test_the_bits_of_oumis_qlora": ("oumi:peft.q_lora_bits",),
        "test_use_cpu_of_qefficient_wins_over_a_gpu": ("qefficient:training.use_cpu",),
        "test_oumis_collators_say_what_is_trained": ("oumi:data.<split>.collator_name",),
        "test_what_of_oumis_data_is_refused_is_said": (
            "oumi:data.<split>.use_torchdata",
            "oumi:data.<split>.datasets[].trust_remote_code",
        ),
        "test_oumis_target_column_is_the_text": ("oumi:data.<split>.target_col",),
        "test_the_command_of_oumi_with_its_file": (
            "oumi:cli: oumi train -c",
            "oumi:cli: oumi train --<section>.<key>",
        ),
        "test_ernies_lists_of_sets": (
            "erniekit:train_dataset_path",
            "erniekit:train_dataset_prob",
            "erniekit:eval_dataset_path",
        ),
        "test_what_of_ernies_kernels_is_refused_is_said": ("erniekit:fuse_linear",),
        "test_the_dataset_format_of_peft_studio_needs_no_key": ("peft_studio:dataset format",),
    },
    "tests/unit/models/test_find.py": {
        "test_the_model_of_a_config_is_the_one_that_it_names": ("model.model_name",),
    },
    "tests/unit/plan/test_checks.py": {
        "test_the_words_of_a_check_and_that_its_fix_removes_it": (
            "qefficient:training.dtype",
            "oumi:training.fp16",
        ),
    },
    "tests/unit/test_devices.py": {
        "test_qaic_is_used_where_its_plugin_is": ("compute.device",),
    },
    "tests/unit/plan/test_schedule.py": {
        "test_the_settings_of_a_shape": (
            "scheduler.min_lr",
            "scheduler.num_cycles",
            "scheduler.lr_end",
            "scheduler.power",
        ),
    },
    "tests/unit/plan/test_training_checks.py": {
        "test_the_words_of_a_check_and_that_its_fix_removes_it": (
            "checkpoint.overwrite_output_dir",
        ),
        "test_the_plan_says_what_it_costs": ("compute.provider",),
        "test_a_price_of_ones_own_wins": ("compute.price_usd_per_hour",),
    },
    "tests/unit/test_wizard.py": {
        "test_the_model_of_the_wizard": ("oumi:cli: oumi config create train --model",),
        "test_the_training_type_of_the_wizard": (
            "oumi:cli: oumi config create train --training-type",
        ),
        "test_the_output_of_the_wizard": ("oumi:cli: oumi config create train --output",),
    },
    "tests/unit/training/test_precision.py": {
        "test_the_first_loss_scale_reaches_the_scaler": ("precision.loss_scale",),
    },
    "tests/unit/training/test_rows.py": {
        "test_the_strategy_decides_which_rows_share_a_sequence": ("data.packing_strategy",),
    },
}
"""File → test → what it proves."""
