"""ERNIEKit's flat YAML or JSON: `erniekit/hparams/*`, read by `erniekit train`.

Its loader silently drops unknown keys. Several datasets are written as comma-separated lists: one of
their paths, one of their types, one of their shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from nbft.config import Config
from nbft.config.distributed import PipelineSwitch, ShardingSwitch, TensorParallelSwitch
from nbft.config.precision import OPERATORS
from nbft.errors import Problem
from nbft.interop import preferences
from nbft.interop.conversions import OFF, half_precision, same, train_method, words, words_of
from nbft.interop.importer import Work
from nbft.interop.load import load_system
from nbft.interop.table import UNSET, Convert, Converted
from nbft.methods.cpo import METHOD as CPO

_SET = "data.{}.datasets[{}]"


def _switches(*allowed: str) -> Convert:
    """Return a conversion of switches separated by spaces; unknown ones are reported."""

    def convert(value: Any, work: Work) -> Converted:
        given = words_of(value)
        kept = [word for word in given if word in allowed]
        gone = [word for word in given if word not in allowed]
        note = f"nbft has no {', '.join(gone)}; the results are the same without" if gone else ""
        return Converted(kept, note, "ignored" if gone else None)

    return convert


_tensor_parallel_config = _switches(*get_args(TensorParallelSwitch))
_pipeline_parallel_config = _switches(*get_args(PipelineSwitch))
_sharding_parallel_config = _switches(*get_args(ShardingSwitch))
_unified_checkpoint_config = _switches("ignore_merge_optimizer")


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


def _operators(value: Any, work: Work) -> Converted:
    given = words_of(value)
    names = dict.fromkeys(_OPERATORS.get(name, name) for name in given)
    kept = [name for name in names if name in OPERATORS]
    gone = [name for name in names if name not in OPERATORS]
    notes = ["Paddle's operators as PyTorch calls them"] if [*names] != given else []
    if gone:
        notes.append(f"{', '.join(gone)} is left to PyTorch: no supported model has it")
    return Converted(kept, "; ".join(notes), "deviates" if gone else None)


def _stage(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    if name == "pt":
        return Converted(
            "sft", "trained on whole texts", "converted", {"data.completion_only_loss": False}
        )
    return train_method(value, work, name)


def _segmentation(value: Any, work: Work) -> Any:
    """Take how layers are divided into stages: by their class, or as the first layer of each stage."""
    if isinstance(value, list):
        note = "the first layer of each stage; nbft has no stages"
        return Converted(kind="ignored", note=note)
    return None if value is None else str(value)


def _layer_decay(value: Any, work: Work) -> Converted:
    plus = work.document.tree.get("lora_plus_scale", 1)
    is_lora = str(work.document.tree.get("fine_tuning", "LoRA")).lower() == "lora"
    if value != 1 and is_lora and (plus != 1 or work.document.tree.get("rslora_plus")):
        note = "cannot go with lora_plus_scale here: each groups the parameters; every layer has the rate"
        return Converted(1.0, note, "impossible")
    return Converted(value)


def _flash(value: Any, work: Work) -> Converted:
    name = "sdpa" if value else "eager"
    return Converted(name, "sdpa uses the flash kernel where available" if value else "")


def _counts_with(only: str) -> Convert:
    """Return a conversion of a key that is used with one learning rate scheduler only."""

    def convert(value: Any, work: Work) -> Converted:
        shape = work.document.tree.get("lr_scheduler_type", "linear")
        if shape != only:
            return Converted(kind="taken", note=f"used with {only} only")
        return Converted(value)

    return convert


def _loss(value: Any, work: Work) -> Converted:
    name = str(value).lower()
    return Converted("orpo" if name == "or" else name)


def _loss_back(value: Any, config: Config) -> Any:
    return "or" if config.training.method == "orpo" or value == "orpo" else value or UNSET


def _is_odds_ratio(work: Work) -> bool:
    return str(work.given.get("loss_type")).lower() in ("or", "orpo")


def _beta(value: Any, work: Work) -> Converted:
    if _is_odds_ratio(work) and _is_of_pairs(work):
        note = "used with other losses only: pref_loss_ratio weighs the odds ratio"
        return Converted(kind="taken", note=note)
    return Converted(value)


def _is_of_pairs(work: Work) -> bool:
    return str(work.given.get("stage")).upper() == "DPO"


def _beta_back(value: Any, config: Config) -> Any:
    return UNSET if config.training.method == "orpo" else value


def _pref_loss_ratio(value: Any, work: Work) -> Converted:
    if _is_odds_ratio(work) and value:
        note = "weighs the odds ratio, as preference.beta does here"
        return Converted(more={"preference.beta": value}, kind="converted", note=note)
    return Converted(value)


def _pref_loss_ratio_back(value: Any, config: Config) -> Any:
    return value if config.training.method != "orpo" else UNSET


def _sft_loss_ratio_back(value: Any, config: Config) -> Any:
    return UNSET if value is None else value


def _reference_free_back(value: Any, config: Config) -> Any:
    return value or UNSET


def _prompt_length(value: Any, work: Work) -> Converted:
    longest = work.given.get("max_seq_len")
    longest = 4096 if longest is None else longest
    if isinstance(longest, int) and value >= longest:
        return Converted(kind="taken", note=f"no prompt is longer: max_seq_len is {longest}")
    return Converted(value, "of longer prompts the end is kept")


def _prompt_length_back(value: Any, config: Config) -> int:
    return value or config.data.max_length


def _update_steps(value: Any, work: Work) -> Converted:
    is_full = str(work.given.get("fine_tuning") or "LoRA").lower() == "full"
    if value > 0 and not is_full:
        note = (
            "ERNIEKit turns it off with LoRA, so it is left out; set "
            "preference.ref_model_update_steps to have it"
        )
        return Converted(kind="ignored", note=note)
    return Converted(value)


def _alpha(value: Any, work: Work) -> Converted:
    if value != -1:
        return Converted(round(value))
    tree = work.document.tree
    if tree.get("rslora") or tree.get("rslora_plus"):
        return Converted(4, "-1 means 4 with rslora", "converted")
    rank = tree.get("lora_rank", 8)
    rank = int(rank) if str(rank).isdigit() else 8
    return Converted(2 * rank, "-1 means twice the rank; PEFT would scale by -1/r", "converted")


def _rslora_plus(value: Any, work: Work) -> Converted:
    if not value:
        return OFF
    more = {"peft.use_rslora": True, "peft.loraplus_lr_ratio": 4.0, "peft.lora_alpha": 4}
    return Converted(note="means rslora, lora_plus_scale 4 and lora_alpha 4", more=more)


def _compute(value: Any, work: Work) -> Converted:
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
    return Converted(half, f"bf16, and {next(iter(more[name]))}", "converted", more[name])


def _do_eval(value: Any, work: Work) -> Converted:
    if value:
        return Converted(kind="taken", note="decided by evaluation_strategy")
    return Converted(more={"evaluation.eval_strategy": "no"})


def _do_train(value: Any, work: Work) -> Converted:
    if value:
        return Converted(True)
    note = "false (the default) only loads there; imported files are for training"
    return Converted(True, note, "deviates")


def _max_eval_steps(value: Any, work: Work) -> Converted:
    return Converted(value if value > 0 else None)


def _quantised(value: Any, work: Work) -> Converted:
    return Converted(None if str(value).lower() in ("none", "") else value)


def _unless(other: str, convert: Convert = same) -> Convert:
    """Return a conversion of a key that another one overwrites."""

    def convert_alone(value: Any, work: Work) -> Any:
        if other in work.document.tree:
            return Converted(
                kind="converted", note=f"{other} is given too and overwrites it, as there"
            )
        return convert(value, work)

    return convert_alone


_lora = _unless("fine_tuning", words({True: "lora", False: "full", None: "full"}))
_bf16 = _unless("compute_type", words({True: "bf16", False: "no", None: "no"}))


def _batch_size(value: Any, work: Work) -> Converted:
    return Converted(value, more={"evaluation.per_device_eval_batch_size": value})


def _max_eval_steps_back(value: Any, config: Config) -> int:
    return value or -1


def _distributed_dataloader(value: Any, work: Work) -> bool | None:
    return bool(value) or None


def _greedy_intokens(value: Any, work: Work) -> Converted:
    packing = {} if "packing" in work.document.tree else {"data.packing": True}
    if value:
        return Converted("greedy", "rows are taken in order, as there", more=packing)
    return Converted("bfd", more=packing)


def _greedy_intokens_back(value: Any, config: Config) -> Any:
    return value == "greedy" if config.data.packing else UNSET


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
                    "Write one for each, separated by commas.",
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
            "Remove one of the two.",
        )


def _listed(value: Any) -> list[str]:
    if isinstance(value, (int, float)):
        return [str(value)]
    return [part.strip() for part in str(value or "").split(",") if part.strip()]


def settle(work: Work) -> None:
    """Combine the datasets, and settle what depends on several keys."""
    for theirs, ours in (("train", "train"), ("eval", "validation")):
        _datasets(work, theirs, ours)
    tree = work.document.tree
    if _is_odds_ratio(work):
        _odds_ratio(work)
    _contrast(work)
    chosen = work.settings.get("evaluation.eval_strategy")
    if tree.get("do_eval") is False:
        work.settings["evaluation.eval_strategy"] = "no"
    elif chosen is None:
        value = "steps" if tree.get("do_eval") else "no"
        note = "decided by do_eval" if "do_eval" in tree else "theirs; ours is epoch"
        work.put(
            "do_eval" if "do_eval" in tree else "evaluation_strategy",
            "converted" if "do_eval" in tree else "defaulted",
            note,
            evaluation__eval_strategy=value,
        )
    if work.settings.get("evaluation.eval_strategy") == "no":
        work.drop_default("max_evaluate_steps")
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
                work.report(name, "converted", "rslora_plus sets it")
    if work.settings.get("peft.method") == "full":
        for name in ("lora_alpha", "lora_rank"):
            work.drop_default(name)
    for name, setting in (("train", "training"), ("eval", "evaluation")):
        key = f"per_device_{name}_batch_size"
        size = work.given.get(key)
        if size is not None and "batch_size" not in tree:
            work.settings[f"{setting}.{key}"] = size


def _odds_ratio(work: Work) -> None:
    """Take the loss `or` as ORPO, whose β weighs the odds ratio and whose SFT loss is on by itself."""
    if not preferences.is_preference(work.settings.get("training.method")):
        return
    work.leave_out("preference.loss_type", "converted", "")
    work.put("loss_type", "converted", "the odds ratio of ORPO", training__method="orpo")
    given = work.given
    if not given.get("pref_loss_ratio"):
        why = "theirs: the odds ratio counts in full, whatever beta is"
        work.put("pref_loss_ratio", "defaulted", why, preference__beta=1.0)
    if given.get("sft_loss_ratio") is None:
        why = "theirs: no SFT loss is added"
        work.put("sft_loss_ratio", "defaulted", why, preference__sft_loss_ratio=0.0)
    elif given["sft_loss_ratio"] == 1:
        note = "as in ORPO by itself"
        work.leave_out("preference.sft_loss_ratio", "taken", note)


def _contrast(work: Work) -> None:
    """Take DPO without a reference model and with the whole SFT loss as CPO, which it is."""
    given, loss = work.given, work.settings.get("preference.loss_type", "sigmoid")
    is_cpo = given.get("reference_free") is True and given.get("sft_loss_ratio") == 1
    if not is_cpo or not _is_of_pairs(work) or loss not in CPO.loss_types:
        return
    for name in ("reference_free", "sft_loss_ratio"):
        work.leave_out(f"preference.{name}", "converted", "part of CPO")
    note = "without a reference model and with the SFT loss: CPO"
    work.put("stage", "converted", note, training__method="cpo")


def _datasets(work: Work, theirs: str, ours: str) -> None:
    work.settings = {
        setting: value
        for setting, value in work.settings.items()
        if not setting.startswith(f"data.{ours}.datasets")
    }
    paths = _listed(work.given.get(f"{theirs}_dataset_path"))
    kinds = _listed(work.given.get(f"{theirs}_dataset_type")) or ["erniekit"]
    shares = _listed(work.given.get(f"{theirs}_dataset_prob"))
    for number, path in enumerate(paths):
        place = _SET.format(ours, number)
        work.settings[f"{place}.path"] = path
        kind = kinds[number] if number < len(kinds) else kinds[0]
        settings = _reader(work, theirs, kind)
        work.settings |= {f"{place}.{name}": value for name, value in settings.items()}
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
        if line is None or work.is_wrong(line.key):
            continue
        if setting in work.settings:
            line.setting, line.became = setting, work.settings[setting]
            line.kind = "converted" if len(paths) > 1 else "renamed"
            line.note = f"{len(paths)} datasets, comma-separated" if len(paths) > 1 else ""
        else:
            line.setting, line.note = (
                "",
                "a single dataset needs no share" if name == "prob" else "no path",
            )


_READERS: dict[str, dict[str, str]] = {
    "erniekit": {"dataset_type": "erniekit"},
    "alpaca": {
        "dataset_type": "chat_completion",
        "prompt_template": "{instruction}{input}",
        "no_input_template": "{instruction}",
        "completion_template": "{output}",
        "system_template": "{system}",
    },
    "chatml": {"dataset_type": "messages"},
}
"""How rows of each type become turns. Source: ERNIEKit, ernie/dataset/hf/hf_parser.py, finetuning.py."""


def _reader(work: Work, split: str, kind: str) -> dict[str, str]:
    """Return our settings for rows of one of their types."""
    if str(work.document.tree.get("stage")).upper() == "PT":
        return {"dataset_type": "text"}
    if kind not in _READERS:
        why = f"ERNIEKit: {kind} is not one of {', '.join(_READERS)}; the columns decide."
        work.wrong(f"{split}_dataset_type", kind, why)
    return _READERS.get(kind, {"dataset_type": "auto"})


def write(config: Config, tree: dict[str, Any]) -> None:
    """Write the datasets as comma-separated lists."""
    for ours, theirs in (("train", "train"), ("validation", "eval")):
        split = config.data.splits().get(ours)
        datasets = [dataset for dataset in split.datasets if dataset.path] if split else []
        for name in ("path", "type", "prob"):
            tree.pop(f"{theirs}_dataset_{name}", None)
        if not datasets:
            continue
        shares = [dataset.mixture_proportion or 1.0 for dataset in datasets]
        tree[f"{theirs}_dataset_path"] = ",".join(str(dataset.path) for dataset in datasets)
        tree[f"{theirs}_dataset_type"] = ",".join(
            next(
                (n for n, r in _READERS.items() if r["dataset_type"] == dataset.dataset_type),
                "erniekit",
            )
            for dataset in datasets
        )
        tree[f"{theirs}_dataset_prob"] = ",".join(str(share) for share in shares)
    if config.evaluation.eval_strategy != "no":
        tree |= {"do_eval": True, "evaluation_strategy": config.evaluation.eval_strategy}
    tree["do_train"] = True
    _write_preferences(config, tree)
    kinds = {dataset.dataset_type for dataset in config.data.train.datasets}
    tree.setdefault("stage", "PT" if kinds == {"text"} else "SFT")


def _write_preferences(config: Config, tree: dict[str, Any]) -> None:
    """Write what the methods of nbft mean by themselves, and ERNIEKit's only stage does not."""
    ours, method = config.preference, config.training.method
    if method == "orpo":
        tree |= {"loss_type": "or", "pref_loss_ratio": ours.beta * ours.pref_loss_ratio}
    elif method == "cpo":
        tree["reference_free"] = True
    if method in ("orpo", "cpo") and ours.sft_loss_ratio is None:
        tree["sft_loss_ratio"] = 1.0


SYSTEM = load_system("erniekit", globals(), rules=rules, settle=settle, write=write)
