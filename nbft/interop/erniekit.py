"""ERNIEKit's flat YAML or JSON: `erniekit/hparams/*`, read by `erniekit train`.

Its loader drops unknown keys without a word. Several sets of rows are written as texts with
commas, one for their paths, one for their types, one for their shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from nbft.config import Config
from nbft.config.distributed import PipelineSwitch, ShardingSwitch, TensorParallelSwitch
from nbft.config.precision import OPERATORS
from nbft.errors import Problem
from nbft.interop.importer import Work
from nbft.interop.qefficient import half_precision
from nbft.interop.table import (
    UNSET,
    Convert,
    Entry,
    Says,
    System,
    extra,
    negated,
    no_effect,
    on_gpu,
    optimizer,
    warmup_ratio,
    words,
    words_of,
)

_SET = "data.{}.datasets[{}]"


def _as_they_say(*, when: str) -> Convert:
    return lambda value, work: Says(kind="taken", note=when)


def _words(known: Any) -> Convert:
    """Return a conversion of switches written as one text; those that are not known are said."""
    allowed = get_args(known) if not isinstance(known, tuple) else known

    def convert(value: Any, work: Work) -> Says:
        given = words_of(value)
        kept = [word for word in given if word in allowed]
        gone = [word for word in given if word not in allowed]
        if gone and not kept:
            note = f"nbft has no {', '.join(gone)}; it knows {', '.join(allowed)}"
            return Says([], note, "impossible")
        note = f"nbft has no {', '.join(gone)}" if gone else ""
        return Says(kept, note, "deviates" if gone else None)

    return convert


def _joined(value: Any, config: Config) -> Any:
    return " ".join(value) if value else UNSET


_OPERATORS = {
    "lookup_table": "embedding",
    "lookup_table_v2": "embedding",
    "flash_attn": "scaled_dot_product_attention",
    "matmul_v2": "matmul",
    "fused_gemm_epilogue": "linear",
    "reduce_sum": "sum",
    "reduce_mean": "mean",
    "softmax_with_cross_entropy": "cross_entropy",
    "c_softmax_with_cross_entropy": "cross_entropy",
    "elementwise_div": "div",
    "elementwise_add": "add",
    "elementwise_mul": "mul",
    "elementwise_pow": "pow",
}
"""Names of Paddle's operators as PyTorch calls them."""


def _operators(value: Any, work: Work) -> Says:
    given = words_of(value)
    names = dict.fromkeys(_OPERATORS.get(name, name) for name in given)
    kept = [name for name in names if name in OPERATORS]
    gone = [name for name in names if name not in OPERATORS]
    notes = ["Paddle's operators as PyTorch calls them"] if [*names] != given else []
    if gone:
        notes.append(f"{', '.join(gone)} computes as PyTorch decides: no model here has it")
    return Says(kept, "; ".join(notes), "deviates" if gone else None)


def _flash(value: Any, work: Work) -> Says:
    name = "sdpa" if value else "eager"
    return Says(name, "PyTorch's sdpa takes the flash kernel where there is one" if value else "")


def _in_training(shapes: tuple[str, ...]) -> Convert:
    """Return a conversion of what counts for some shapes of the learning rate only."""

    def convert(value: Any, work: Work) -> Says:
        shape = work.document.tree.get("lr_scheduler_type", "linear")
        if shape not in shapes:
            return Says(kind="taken", note=f"counts with {' or '.join(shapes)} only")
        return Says(value)

    return convert


def _of_dpo(value: Any, work: Work) -> Says:
    if str(work.document.tree.get("stage", "SFT")).upper() != "DPO":
        return Says(kind="taken", note="counts with stage DPO only")
    return Says(value)


def _stage(value: Any, work: Work) -> Says:
    name = str(value).upper()
    if name == "SFT":
        return Says("sft")
    if name == "PT":
        return Says(
            "sft", "all of the text is learnt", "converted", {"data.completion_only_loss": False}
        )
    if name == "DPO":
        return Says(more={"preference.method": "dpo"}, note="planned", kind="converted")
    return Says(kind="impossible", note=f"{name} is for pictures; nbft trains on text")


def _fine_tuning(value: Any, work: Work) -> Says:
    return Says("full" if str(value).lower() == "full" else "lora")


def _lora(value: Any, work: Work) -> Says:
    if "fine_tuning" in work.document.tree:
        return Says(kind="converted", note="fine_tuning is given too and overwrites it, as there")
    return Says("lora" if value else "full")


def _alpha(value: Any, work: Work) -> Says:
    if value != -1:
        return Says(round(value))
    tree = work.document.tree
    if tree.get("rslora") or tree.get("rslora_plus"):
        return Says(4, "-1 stands for 4 with rslora", "converted")
    rank = tree.get("lora_rank", 8)
    rank = int(rank) if str(rank).isdigit() else 8
    return Says(2 * rank, "-1 stands for twice the rank; PEFT would scale by -1/r", "converted")


def _rslora_plus(value: Any, work: Work) -> Says:
    if not value:
        return Says(kind="taken", note="off, as here")
    more = {"peft.use_rslora": True, "peft.loraplus_lr_ratio": 4.0, "peft.lora_alpha": 4}
    return Says(note="stands for rslora, lora_plus_scale 4 and lora_alpha 4", more=more)


def _compute(value: Any, work: Work) -> Says:
    name = str(value).lower()
    if name in ("bf16", "fp16"):
        return half_precision(name)
    half = "bf16"
    more: dict[str, dict[str, Any]] = {
        "fp8": {"precision.fp8": True},
        "wint8": {"quantization.weight_quantize_algo": "weight_only_int8"},
        "wint4/8": {"quantization.weight_quantize_algo": "weight_only_mix"},
        "nf4": {"quantization.load_in_4bit": True, "quantization.bnb_4bit_quant_type": "nf4"},
    }
    return Says(half, f"bf16, and {next(iter(more[name]))}", "converted", more[name])


def _bf16(value: Any, work: Work) -> Says:
    if "compute_type" in work.document.tree:
        return Says(kind="converted", note="compute_type is given too and overwrites it, as there")
    return Says("bf16" if value else "no")


def _strategy(value: Any, work: Work) -> Says:
    return Says(value)


def _do_eval(value: Any, work: Work) -> Says:
    if value:
        return Says(kind="taken", note="what evaluation_strategy says")
    return Says(more={"evaluation.eval_strategy": "no"})


def _do_train(value: Any, work: Work) -> Says:
    if value:
        return Says(True)
    note = "false, as by default, only loads there; an import is to train"
    return Says(True, note, "deviates")


def _batch(setting: str) -> Convert:
    def convert(value: Any, work: Work) -> Says:
        if "batch_size" in work.document.tree:
            return Says(
                kind="converted", note="batch_size is given too and overwrites it, as there"
            )
        return Says(value)

    return convert


def _max_eval_steps(value: Any, work: Work) -> Says:
    return Says(value if value > 0 else None)


def _quantised(value: Any, work: Work) -> Says:
    return Says(None if str(value).lower() in ("none", "") else value)


def _moments(value: Any, config: Config) -> Any:
    return value == "bfloat16"


TABLE = (
    Entry("model_name_or_path", "model.model_name"),
    Entry("hidden_dropout_prob", "model.hidden_dropout", low=0, high=1, type=float),
    Entry("attention_probs_dropout_prob", "model.attention_dropout", low=0, high=1, type=float),
    Entry(
        "dropout_warmup_steps",
        "model.dropout_warmup_steps",
        lambda value, _: Says(
            value,
            "the document says that 0 turns dropout off and that it ends after the warm-up; its "
            "code lets it rise and stay, and so does nbft",
            "deviates",
        ),
        lambda value, _: value,
        type=int,
        low=0,
    ),
    Entry(
        "weight_quantize_algo",
        "quantization.weight_quantize_algo",
        _quantised,
        lambda value, _: value,
        type=str,
        choices=("weight_only_mix", "weight_only_int8", "fp8_linear", "none"),
    ),
    Entry("output_dir", "training.output_dir"),
    Entry("logging_steps", "logging.logging_steps", low=1),
    Entry("logging_dir", "logging.logging_dir"),
    Entry("do_eval", "evaluation.eval_strategy", _do_eval, lambda *_: UNSET, type=bool),
    Entry("do_train", "training.do_train", _do_train, lambda value, _: value, type=bool),
    Entry("disable_tqdm", "logging.disable_tqdm"),
    Entry("continue_training", "model.load_pretrained_weights"),
    Entry(
        "per_device_eval_batch_size",
        "evaluation.per_device_eval_batch_size",
        _batch("eval"),
        lambda value, _: value,
        type=int,
        low=1,
    ),
    Entry("eval_dataset_path", _SET.format("validation", 0) + ".path", type=str),
    Entry(
        "eval_dataset_prob",
        _SET.format("validation", 0) + ".mixture_proportion",
        convert=_as_they_say(when=""),
    ),
    Entry(
        "eval_dataset_type",
        _SET.format("validation", 0) + ".dataset_type",
        convert=_as_they_say(when=""),
    ),
    Entry(
        "eval_steps",
        "evaluation.eval_steps",
        back=lambda value, config: value or config.logging.logging_steps,
        low=1,
    ),
    Entry(
        "evaluation_strategy",
        "evaluation.eval_strategy",
        choices=("no", "steps", "epoch"),
        also=("eval_strategy",),
    ),
    Entry(
        "max_evaluate_steps",
        "evaluation.max_eval_steps",
        _max_eval_steps,
        lambda value, _: value or -1,
        type=int,
        default=1,
    ),
    Entry("train_dataset_path", _SET.format("train", 0) + ".path", type=str),
    Entry(
        "train_dataset_prob",
        _SET.format("train", 0) + ".mixture_proportion",
        convert=_as_they_say(when=""),
    ),
    Entry(
        "train_dataset_type",
        _SET.format("train", 0) + ".dataset_type",
        convert=_as_they_say(when=""),
    ),
    Entry("max_steps", "training.max_steps", low=-1),
    Entry("num_train_epochs", "training.num_train_epochs", low=0, beyond_low=True),
    Entry(
        "per_device_train_batch_size",
        "training.per_device_train_batch_size",
        _batch("train"),
        lambda value, _: value,
        type=int,
        low=1,
    ),
    Entry("gradient_accumulation_steps", "training.gradient_accumulation_steps", low=1, default=1),
    Entry("weight_decay", "optimizer.weight_decay", low=0, default=0.0),
    Entry("seed", "training.seed", default=42),
    Entry("max_seq_len", "data.max_length", low=1, default=4096),
    Entry("learning_rate", "training.learning_rate", low=0, beyond_low=True),
    Entry("warmup_steps", "scheduler.warmup_steps", low=0, type=int),
    Entry(
        "lr_scheduler_type",
        "scheduler.lr_scheduler_type",
        default="linear",
        choices=("linear", "cosine", "polynomial", "constant", "constant_with_warmup"),
    ),
    Entry(
        "min_lr", "scheduler.min_lr", _in_training(("cosine",)), lambda v, _: v, type=float, low=0
    ),
    Entry(
        "layerwise_lr_decay_bound",
        "optimizer.layerwise_lr_decay",
        low=0,
        high=1,
        beyond_low=True,
    ),
    Entry("random_shuffle", "data.shuffle"),
    Entry(
        "num_cycles", "scheduler.num_cycles", _in_training(("cosine",)), lambda v, _: v, type=float
    ),
    Entry("lr_end", "scheduler.lr_end", _in_training(("polynomial",)), lambda v, _: v, type=float),
    Entry("power", "scheduler.power", _in_training(("polynomial",)), lambda v, _: v, type=float),
    Entry("adam_beta1", "optimizer.adam_beta1", default=0.9, low=0),
    Entry("adam_beta2", "optimizer.adam_beta2", default=0.999, low=0),
    Entry("adam_epsilon", "optimizer.adam_epsilon", default=1e-8, low=0),
    Entry(
        "tensor_parallel_degree",
        "distributed.tensor_parallel_size",
        words({-1: 1}),
        lambda v, _: v,
        type=int,
    ),
    Entry(
        "tensor_parallel_config",
        "distributed.tensor_parallel_config",
        _words(TensorParallelSwitch),
        _joined,
    ),
    Entry("tensor_parallel_output", "distributed.tensor_parallel_output"),
    Entry(
        "pipeline_parallel_degree",
        "distributed.pipeline_parallel_size",
        words({-1: 1}),
        lambda v, _: v,
        type=int,
    ),
    Entry(
        "pipeline_parallel_config",
        "distributed.pipeline_parallel_config",
        _words(PipelineSwitch),
        _joined,
    ),
    Entry("pp_seg_method", "distributed.pipeline_segmentation"),
    Entry("virtual_pp_degree", "distributed.virtual_pipeline_stages", low=1),
    Entry(
        "add_tail_layers",
        "distributed.add_tail_layers",
        words({False: 0, True: 1}),
        lambda v, _: v,
        low=0,
    ),
    Entry(
        "sharding_parallel_degree",
        "distributed.sharding_parallel_size",
        words({-1: 1}),
        lambda v, _: v,
        type=int,
    ),
    Entry(
        "sharding_parallel_config",
        "distributed.sharding_parallel_config",
        _words(ShardingSwitch),
        _joined,
    ),
    Entry("sharding", "distributed.sharding", choices=("stage1", "stage2", "stage3")),
    Entry("sequence_parallel", "distributed.sequence_parallel"),
    Entry("moe_group", "distributed.moe_group", choices=("mp", "dummy")),
    Entry("release_grads", "memory.release_grads"),
    Entry("use_sparse_head_and_loss_fn", "memory.use_sparse_head_and_loss_fn"),
    Entry("use_fused_head_and_loss_fn", "memory.use_fused_head_and_loss_fn"),
    Entry("use_attn_mask_start_row_indices", "memory.use_attn_mask_start_row_indices"),
    Entry(
        "recompute_use_reentrant", "memory.gradient_checkpointing_kwargs.use_reentrant", type=bool
    ),
    Entry("recompute", "memory.gradient_checkpointing"),
    Entry(
        "recompute_granularity",
        "memory.recompute_granularity",
        choices=("full", "full_attn", "core_attn"),
    ),
    Entry(
        "offload_optim",
        "memory.offload_optimizer",
        on_gpu("on a CPU the optimiser lies in the computer's memory already"),
        lambda v, _: v,
        type=bool,
    ),
    Entry("save_steps", "checkpoint.save_steps", low=1),
    Entry(
        "save_strategy", "checkpoint.save_strategy", default="no", choices=("no", "steps", "epoch")
    ),
    Entry("unified_checkpoint", "checkpoint.unified_checkpoint"),
    Entry(
        "unified_checkpoint_config",
        "checkpoint.unified_checkpoint_config",
        _words(("ignore_merge_optimizer",)),
        _joined,
    ),
    Entry("disable_ckpt_quant", "checkpoint.quantize_checkpoint", negated, negated, type=bool),
    Entry("ignore_save_lr_and_optim", "checkpoint.save_only_model"),
    Entry("ignore_load_lr_and_optim", "checkpoint.ignore_load_lr_and_optim"),
    Entry("save_total_limit", "checkpoint.save_total_limit", low=1),
    Entry(
        "use_flash_attention",
        "model.attn_implementation",
        _flash,
        lambda v, _: v != "eager",
        type=bool,
    ),
    Entry(
        "use_sparse_flash_attn",
        "memory.use_attn_mask_start_row_indices",
        back=lambda *_: UNSET,
        type=bool,
    ),
    Entry(
        "fuse_rope",
        "model.use_liger_kernel",
        on_gpu("the numbers are the same without"),
        lambda v, _: v,
        type=bool,
    ),
    Entry(
        "fuse_linear",
        "",
        no_effect("PyTorch's linear layer multiplies and adds the bias in one kernel already"),
        type=bool,
        status="refused",
        reason="PyTorch's linear layer multiplies and adds the bias in one kernel (addmm) already, so "
        "there is nothing to switch. compute.torch_compile fuses more.",
    ),
    Entry(
        "greedy_intokens",
        "data.packing_strategy",
        lambda value, work: Says(
            "greedy" if value else "bfd",
            "rows are taken in order, as there" if value else "",
            None,
            {} if "packing" in work.document.tree else {"data.packing": True},
        ),
        lambda value, config: value == "greedy" if config.data.packing else UNSET,
        type=bool,
        default=True,
    ),
    Entry("dataloader_num_workers", "data.dataloader_num_workers", default=1, low=0),
    Entry(
        "distributed_dataloader",
        "distributed.dispatch_batches",
        lambda value, _: bool(value) or None,
        lambda value, _: int(bool(value)),
    ),
    Entry("moe_multimodal_dispatch_use_allgather", "distributed.moe_dispatch"),
    Entry(
        "bf16",
        "precision.mixed_precision",
        _bf16,
        lambda v, _: {"bf16": True, "no": False}.get(v, UNSET),
        type=bool,
    ),
    Entry("fp16_opt_level", "precision.fp16_opt_level", choices=("O1", "O2")),
    Entry("scale_loss", "precision.loss_scale", type=float, low=0, beyond_low=True),
    Entry("amp_custom_white_list", "precision.amp_custom_white_list", _operators, _joined),
    Entry("amp_custom_black_list", "precision.amp_custom_black_list", _operators, _joined),
    Entry("amp_master_grad", "precision.amp_master_grad"),
    Entry("num_samples_each_epoch", "training.num_samples_each_epoch", low=1),
    Entry("lora_rank", "peft.r", default=8, low=1),
    Entry("lora_alpha", "peft.lora_alpha", _alpha, lambda v, _: v, type=float, default=-1, low=-1),
    Entry("rslora", "peft.use_rslora"),
    Entry("lora_plus_scale", "peft.loraplus_lr_ratio", low=0, beyond_low=True),
    Entry("rslora_plus", "peft.use_rslora", _rslora_plus, lambda *_: UNSET, type=bool),
    Entry("lora", "peft.method", _lora, lambda *_: UNSET, type=bool),
    *(
        Entry(theirs, f"preference.{ours}", _of_dpo, lambda v, _: v, **more)
        for theirs, ours, more in (
            ("beta", "beta", {"type": float, "low": 0, "beyond_low": True}),
            ("simpo_gamma", "simpo_gamma", {"type": float, "low": 0}),
            ("offset_alpha", "offset_alpha", {"type": float, "low": 0}),
            ("max_prompt_len", "max_prompt_length", {"type": int, "low": 1}),
            (
                "loss_type",
                "loss_type",
                {
                    "type": str,
                    "choices": (
                        *("sigmoid", "ipo", "kto_pair", "hinge", "simpo", "dpop", "orpo"),
                        "sppo_hard",
                    ),
                },
            ),
            ("pref_loss_ratio", "pref_loss_ratio", {"type": float, "low": 0}),
            ("sft_loss_ratio", "sft_loss_ratio", {"type": float, "low": 0}),
            ("label_smoothing", "label_smoothing", {"type": float, "low": 0, "high": 0.5}),
            ("reference_free", "reference_free", {"type": bool}),
            ("ref_model_update_steps", "ref_model_update_steps", {"type": int, "low": -1}),
        )
    ),
    Entry("apply_hadamard", "precision.apply_hadamard"),
    Entry(
        "use_lowprecision_moment",
        "optimizer.moment_dtype",
        words({True: "bfloat16", False: "float32"}),
        _moments,
        type=bool,
    ),
    Entry(
        "tensorwise_offload_optimizer",
        "memory.offload_optimizer",
        on_gpu("on a CPU the optimiser lies in the computer's memory already"),
        lambda v, _: v,
        type=bool,
    ),
    Entry(
        "apply_online_actscale_step",
        "precision.apply_online_actscale_step",
        words({True: 200, False: 0}),
        lambda v, _: v,
    ),
    Entry("optim_shard_num", "checkpoint.optim_shard_num", low=1),
    # What its code has and its document does not
    extra(
        "stage",
        "training.method",
        _stage,
        lambda v, _: {"sft": "SFT"}.get(v, UNSET),
        type=str,
        choices=("SFT", "DPO", "VL-SFT", "PT", "OCR-VL-SFT"),
    ),
    extra(
        "fine_tuning",
        "peft.method",
        _fine_tuning,
        lambda v, _: "Full" if v == "full" else "LoRA",
        type=str,
        choices=("LoRA", "Full"),
        default="LoRA",
    ),
    extra(
        "compute_type",
        "precision.mixed_precision",
        _compute,
        lambda *_: UNSET,
        type=str,
        choices=("bf16", "fp16", "fp8", "wint8", "wint4/8", "nf4"),
        default="bf16",
    ),
    extra(
        "batch_size",
        "training.per_device_train_batch_size",
        lambda value, _: Says(value, more={"evaluation.per_device_eval_batch_size": value}),
        lambda *_: UNSET,
        type=int,
        default=1,
        low=1,
    ),
    extra("packing", "data.packing", type=bool),
    extra(
        "mix_strategy",
        "data.train.mixture_strategy",
        words(
            {
                "random": "all_exhausted",
                "concat": "first_exhausted",
                "interleave_under": "first_exhausted",
                "interleave_over": "all_exhausted",
            },
            "as transformers mixes sets",
        ),
        lambda *_: UNSET,
        type=str,
        choices=("random", "concat", "interleave_under", "interleave_over"),
    ),
    extra("optim", "optimizer.optim", optimizer, lambda v, _: v, type=str),
    extra("adapter_name_or_path", "model.adapter_name_or_path"),
    extra("lora_path", "model.adapter_name_or_path"),
    extra(
        "warmup_ratio",
        "scheduler.warmup_steps",
        warmup_ratio,
        lambda *_: UNSET,
        type=float,
        low=0,
        high=1,
    ),
    extra("max_grad_norm", "training.max_grad_norm"),
    extra("use_sp_callback", "", no_effect("counts with tensor_parallel_degree above 1")),
    extra("resume_from_checkpoint", "training.resume_from_checkpoint"),
    extra("logging_strategy", "logging.logging_strategy"),
    extra(
        "report_to",
        "tracking.report_to",
        lambda v, _: Says([w for w in words_of(v) if w not in ("none", "visualdl")]),
        lambda v, _: v or UNSET,
    ),
    extra("template", "", no_effect("the tokenizer's own chat template is used")),
    extra("use_fp8", "precision.fp8"),
    extra("hadamard_block_size", "", no_effect("32, as there")),
    extra("save_to_hf", "", no_effect("checkpoints have Hugging Face's form always")),
    extra("from_hf_hub", "", no_effect("the hub is Hugging Face's")),
    extra("download_hub", "", no_effect("the hub is Hugging Face's")),
)


def rules(work: Work) -> Iterator[Problem]:
    """ERNIEKit's own rules over several keys."""
    given = work.given
    if given.get("mix_strategy") == "random" and (given.get("max_steps") or -1) <= 0:
        yield Problem(
            "mix_strategy",
            "random",
            "ERNIEKit: random needs max_steps above 0.",
            "Add max_steps, or write concat.",
        )
    for split in ("train", "eval"):
        paths = _listed(given.get(f"{split}_dataset_path"))
        for name in ("type", "prob"):
            listed = _listed(given.get(f"{split}_dataset_{name}"))
            if paths and len(listed) > 1 and len(listed) != len(paths):
                yield Problem(
                    f"{split}_dataset_{name}",
                    given[f"{split}_dataset_{name}"],
                    f"ERNIEKit: {len(listed)} for {len(paths)} paths.",
                    "Write one for each, with commas.",
                )
    if given.get("use_sparse_flash_attn") and given.get("use_attn_mask_start_row_indices") is False:
        yield Problem(
            "use_sparse_flash_attn",
            True,
            "ERNIEKit: needs use_attn_mask_start_row_indices.",
            "Write true for both, or false.",
        )
    quantised = given.get("weight_quantize_algo") not in (None, "none") or str(
        given.get("compute_type")
    ) in ("wint8", "wint4/8")
    plus = (
        given.get("rslora") or given.get("rslora_plus") or (given.get("lora_plus_scale") or 1) != 1
    )
    if quantised and plus:
        yield Problem(
            "weight_quantize_algo",
            given.get("weight_quantize_algo") or given.get("compute_type"),
            "ERNIEKit: weight quantisation does not go with LoRA+ or rsLoRA.",
            "Take one of the two away.",
        )


def _listed(value: Any) -> list[str]:
    if isinstance(value, (int, float)):
        return [str(value)]
    return [part.strip() for part in str(value or "").split(",") if part.strip()]


def settle(work: Work) -> None:
    """Put the sets of rows together, and what depends on several keys."""
    for theirs, ours in (("train", "train"), ("eval", "validation")):
        _datasets(work, theirs, ours)
    tree = work.document.tree
    chosen = work.settings.get("evaluation.eval_strategy")
    if tree.get("do_eval") is False:
        work.settings["evaluation.eval_strategy"] = "no"
    elif chosen is None:
        value = "steps" if tree.get("do_eval") else "no"
        note = "what do_eval says" if "do_eval" in tree else "theirs; ours is epoch"
        work.put(
            "do_eval" if "do_eval" in tree else "evaluation_strategy",
            "converted" if "do_eval" in tree else "defaulted",
            note,
            evaluation__eval_strategy=value,
        )
    if work.settings.get("evaluation.eval_strategy") == "no":
        line = work.lines.get("max_evaluate_steps")
        if line is not None and line.kind == "defaulted":
            del work.lines["max_evaluate_steps"]
            work.settings.pop("evaluation.max_eval_steps", None)
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        line = work.lines.get("batch_size")
        if name in tree and line is not None and line.kind == "defaulted":
            del work.lines["batch_size"]
    offloads = [work.lines.get(k) for k in ("offload_optim", "tensorwise_offload_optimizer")]
    if any(line and line.became for line in offloads):
        work.settings["memory.offload_optimizer"] = True
    if tree.get("rslora_plus") in (True, "true", "True"):
        work.settings |= {
            "peft.use_rslora": True,
            "peft.loraplus_lr_ratio": 4.0,
            "peft.lora_alpha": 4,
        }
        for name in ("lora_alpha", "lora_plus_scale", "rslora"):
            if name in work.lines:
                work.say(name, "converted", "rslora_plus sets it")
    if work.settings.get("peft.method") == "full":
        for name in ("lora_alpha", "lora_rank"):
            if name in work.lines and work.lines[name].kind == "defaulted":
                work.settings.pop(work.lines.pop(name).setting, None)
    for name, setting in (("train", "training"), ("eval", "evaluation")):
        key = f"per_device_{name}_batch_size"
        size = work.given.get(key)
        if size is not None and "batch_size" not in tree:
            work.settings[f"{setting}.{key}"] = size


def _datasets(work: Work, theirs: str, ours: str) -> None:
    work.settings = {
        setting: value
        for setting, value in work.settings.items()
        if not setting.startswith(f"data.{ours}.datasets")
    }
    paths = _listed(work.given.get(f"{theirs}_dataset_path"))
    kinds = _listed(work.given.get(f"{theirs}_dataset_type")) or ["erniekit"]
    shares = _listed(work.given.get(f"{theirs}_dataset_prob"))
    if work.problems:
        return
    for number, path in enumerate(paths):
        place = _SET.format(ours, number)
        work.settings[f"{place}.path"] = path
        kind = kinds[number] if number < len(kinds) else kinds[0]
        work.settings[f"{place}.dataset_type"] = kind
    numbers = []
    try:
        numbers = [float(share) for share in shares]
    except ValueError:
        work.wrong(f"{theirs}_dataset_prob", ", ".join(shares), "ERNIEKit: holds no numbers.")
    if len(paths) > 1 and len(numbers) == len(paths) and sum(numbers) > 0:
        for number, share in enumerate(numbers):
            work.settings[f"{_SET.format(ours, number)}.mixture_proportion"] = share / sum(numbers)
    for name, key in (("path", "path"), ("type", "dataset_type"), ("prob", "mixture_proportion")):
        line = work.lines.get(f"{theirs}_dataset_{name}")
        setting = f"{_SET.format(ours, 0)}.{key}"
        if line is None:
            continue
        if setting in work.settings:
            line.setting, line.became = setting, work.settings[setting]
            line.kind = "converted" if len(paths) > 1 else "renamed"
            line.note = f"{len(paths)} sets, one after the other" if len(paths) > 1 else ""
        else:
            line.setting, line.note = "", "one set needs no share" if name == "prob" else "no path"


def write(config: Config, tree: dict[str, Any]) -> None:
    """Write the sets of rows as texts with commas, and -1 where nothing bounds the steps."""
    for ours, theirs in (("train", "train"), ("validation", "eval")):
        split = config.data.splits().get(ours)
        sets = [one for one in split.datasets if one.path] if split else []
        for name in ("path", "type", "prob"):
            tree.pop(f"{theirs}_dataset_{name}", None)
        if not sets:
            continue
        shares = [one.mixture_proportion or 1.0 for one in sets]
        tree[f"{theirs}_dataset_path"] = ",".join(str(one.path) for one in sets)
        tree[f"{theirs}_dataset_type"] = ",".join(
            "erniekit" if one.dataset_type == "auto" else one.dataset_type for one in sets
        )
        tree[f"{theirs}_dataset_prob"] = ",".join(str(share) for share in shares)
    if config.evaluation.eval_strategy != "no":
        tree |= {"do_eval": True, "evaluation_strategy": config.evaluation.eval_strategy}
    tree["do_train"] = True
    tree.setdefault("stage", "SFT")


SYSTEM = System(
    "erniekit",
    "ERNIEKit",
    TABLE,
    marks=frozenset(
        {
            *("train_dataset_path", "fine_tuning", "compute_type", "max_seq_len", "recompute"),
            *(
                "unified_checkpoint",
                "train_dataset_type",
                "tensor_parallel_degree",
                "greedy_intokens",
            ),
        }
    ),
    rules=rules,
    settle=settle,
    write=write,
)
