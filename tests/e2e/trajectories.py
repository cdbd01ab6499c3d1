"""Runs that are stopped in the middle, for `test_trajectories.py`.

`python -m tests.e2e.trajectories FOLDER NAME…` trains the first halves in one process, so that they
are resumed in another.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import transformers

import nbft
from nbft import events, registry
from nbft.data.samples import sample_path
from nbft.data.tiny_model import make_tiny_model
from nbft.launchers.kernel import join
from nbft.methods.method import Imitation
from nbft.models.peft_types import peft_types
from nbft.training import worker

STEPS = 10
HALF = 5
"""In the middle of the first of two passes: 36 rows are 9 steps of 4."""

_EPOCHS = {"training.per_device_train_batch_size": 8}
"""5 steps are a pass over the rows, so the second half begins with a new one."""
_IN_SECOND_EPOCH = {**_EPOCHS, "callbacks.callbacks": {"stops": {"step": 7}}}
_FULL = {"peft.method": "full"}
_O2 = {"precision.mixed_precision": "bf16", "precision.fp16_opt_level": "O2"}
_FOUR_BITS = {"quantization.load_in_4bit": True}
_BY_LENGTH = {"data.train_sampling_strategy": "group_by_length"}
_DROPOUT = {"peft.lora_dropout": 0.2}
_UNIFIED = {"checkpoint.unified_checkpoint": True}
_SCALES = {"precision.apply_online_actscale_step": 3}

OPTIMISERS: dict[str, dict[str, Any]] = {
    **{name: {"optimizer.optim": name} for name in registry.optimizers},
    "one of one's own": {"optimizer.optim": "their_adagrad"},
    "momentum": {"optimizer.optim": "sgd", "optimizer.sgd_momentum": 0.9},
    "arguments": {"optimizer.optim": "rmsprop", "optimizer.optim_args": "momentum=0.5"},
    "moments in bfloat16": {"optimizer.moment_dtype": "bfloat16"},
    "moments in bfloat16 by name": {"optimizer.moment_dtype": "bfloat16", **_UNIFIED},
    "rates by layer": {"optimizer.layerwise_lr_decay": 0.8},
    "LoRA+": {"peft.loraplus_lr_ratio": 8.0},
    **{f"{name} by name": {"optimizer.optim": name, **_UNIFIED} for name in ("adamw_8bit", "sgd")},
    "adafactor by name": {"optimizer.optim": "adafactor", **_UNIFIED},
    "sharded": {"checkpoint.state_dict_type": "SHARDED_STATE_DICT"},
    "no clipping": {"training.max_grad_norm": 0},
    **{
        f"schedule {name}": {"scheduler.lr_scheduler_type": name, "scheduler.warmup_steps": 3}
        for name in registry.schedulers
        if name != "cosine_with_min_lr"
    },
    "schedule cosine_with_min_lr": {
        "scheduler.lr_scheduler_type": "cosine_with_min_lr",
        "scheduler.lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    },
    "schedule of one's own": {"scheduler.lr_scheduler_type": "their_slope"},
}
NUMBER_TYPES: dict[str, dict[str, Any]] = {
    **{name: {"model.dtype": name} for name in ("auto", "bfloat16", "float32", "float64")},
    "mixed": {"precision.mixed_precision": "bf16"},
    "O2": _O2,
    "O2 by name": {**_O2, **_UNIFIED},
    "O2, float32 gradients": {**_O2, "precision.amp_master_grad": True},
    "O2, full": {**_O2, **_FULL},
    "float8": {"precision.fp8": True, "precision.apply_hadamard": False, **_SCALES},
    "float8 while its scales follow": {"precision.fp8": True},
    "float8, full": {"precision.fp8": True, **_FULL, **_SCALES},
    "full": _FULL,
    "full, bfloat16": {**_FULL, "model.dtype": "bfloat16"},
    "full, bfloat16, moments": {
        **_FULL,
        "model.dtype": "bfloat16",
        "optimizer.moment_dtype": "bfloat16",
    },
    **{
        f"full, bfloat16, {name}": {
            **_FULL,
            "model.dtype": "bfloat16",
            "optimizer.optim": name,
        }
        for name in ("adafactor", "lion_32bit", "adamw_8bit")
    },
    "nf4": _FOUR_BITS,
    "nf4 in bfloat16": {**_FOUR_BITS, "model.dtype": "bfloat16"},
    "nf4, measured meanwhile": {
        **_FOUR_BITS,
        "evaluation.eval_strategy": "steps",
        "evaluation.eval_steps": 2,
    },
    "fp4": {
        **_FOUR_BITS,
        "quantization.bnb_4bit_quant_type": "fp4",
        "quantization.bnb_4bit_use_double_quant": True,
    },
    "nf4, base": {**_FOUR_BITS, "training.method": "base"},
    "nf4, DoRA": {**_FOUR_BITS, "peft.use_dora": True},
    "8 bits": {"quantization.load_in_8bit": True},
    "8 bits in bfloat16": {"quantization.load_in_8bit": True, "model.dtype": "bfloat16"},
    **{
        name: {"quantization.weight_quantize_algo": name, **_SCALES}
        for name in ("weight_only_int8", "weight_only_mix", "fp8_linear")
    },
}
ROWS: dict[str, dict[str, Any]] = {
    **{
        f"method {name}": {"training.method": name}
        for name in registry.trainers
        if isinstance(registry.trainers.get(name), Imitation)  # others need other rows
    },
    "padded": {"data.padding_free": False},
    "base, padded": {"training.method": "base", "data.padding_free": False},
    **{
        f"packed {name}": {"data.packing": True, "data.packing_strategy": name}
        for name in ("bfd", "greedy", "wrapped")
    },
    "packed, second epoch": {"data.packing": True, **_IN_SECOND_EPOCH},
    "streamed": {"data.train.stream": True},
    "streamed twice": {"data.train.stream": True, **_IN_SECOND_EPOCH},
    "streamed and shuffled": {"data.train.stream": True, "data.train.shuffle_buffer_size": 10},
    "streamed and packed": {"data.train.stream": True, "data.packing": True},
    "by length": _BY_LENGTH,
    "by length, next epoch": {**_BY_LENGTH, **_EPOCHS},
    "by length, second epoch": {**_BY_LENGTH, **_IN_SECOND_EPOCH},
    "by length, dropout": {**_BY_LENGTH, **_DROPOUT},
    "by trained tokens": {**_BY_LENGTH, "data.length_column_name": "labels"},
    "in order": {"data.train_sampling_strategy": "sequential"},
    "not shuffled": {"data.shuffle": False},
    "batches by tokens": {"data.max_tokens_per_batch": 90},
    "short epochs": {"training.num_samples_each_epoch": 14},
    "a seed of their own": {"training.data_seed": 7},
    "without the last batch": {"data.dataloader_drop_last": True, **_EPOCHS},
    "accumulated": {"training.gradient_accumulation_steps": 2},
    "logged every 3 steps": {"logging.logging_steps": 3},
    "logged every 3 steps, base": {"logging.logging_steps": 3, "training.method": "base"},
    "dropout": _DROPOUT,
    "dropout, next epoch": {**_DROPOUT, **_EPOCHS},
    "dropout, measured every 2 steps": {
        **_DROPOUT,
        "evaluation.eval_strategy": "steps",
        "evaluation.eval_steps": 2,
    },
    "dropout, measured at the stop": {
        **_DROPOUT,
        "evaluation.eval_strategy": "steps",
        "evaluation.eval_steps": HALF,
    },
    "dropout, measured at the end of an epoch": {
        **_DROPOUT,
        **_EPOCHS,
        "evaluation.eval_strategy": "epoch",
    },
    "dropout of attention": {"model.attention_dropout": 0.1},
    "dropout of hidden states": {"model.hidden_dropout": 0.1},
    "dropout that warms up": {"model.hidden_dropout": 0.1, "model.dropout_warmup_steps": 8},
    "NEFTune": {"training.neftune_noise_alpha": 5.0},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    **{name: {"peft.method": name} for name in peft_types() if name != "lora"},
    "VeRA without its matrices": {"peft.method": "vera", "peft.save_projection": False},
    "AdaLoRA in its last steps": {
        "peft.method": "adalora",
        "peft.tinit": 1,
        "peft.tfinal": 6,
        "peft.deltaT": 2,
    },
    "AdaLoRA on 8 bits": {
        "peft.method": "adalora",
        "quantization.load_in_8bit": True,
        "model.dtype": "bfloat16",
    },
    "norms in bfloat16": {"peft.method": "ln_tuning", "model.dtype": "bfloat16"},
    "patterns": {"peft.rank_pattern": {"q_proj": 2}, "peft.alpha_pattern": {"up_proj": 5.0}},
    "numbered layers": {"peft.layers_to_transform": [1]},
    "DoRA": {"peft.use_dora": True},
    "biases": {"peft.bias": "all"},
    "embeddings": {"peft.modules_to_save": ["embed_tokens"]},
    "head": {"peft.modules_to_save": ["lm_head"]},
    **{
        f"start {name}": {"peft.init_lora_weights": name}
        for name in ("random", "gaussian", "pissa", "pissa_niter_4", "olora", "orthogonal", "eva")
    },
    "start loftq": {"peft.init_lora_weights": "loftq", **_FOUR_BITS},
    "start pissa in bfloat16": {"peft.init_lora_weights": "pissa", "model.dtype": "bfloat16"},
    "frozen layers": {"model.freeze_layers": ["layers.0"]},
    "frozen layers, full": {"model.freeze_layers": ["layers.0"], **_FULL},
    "recomputed": {"memory.gradient_checkpointing": True},
    "recomputed in part": {
        "memory.gradient_checkpointing": True,
        "memory.recompute_granularity": "full_attn",
    },
    "kept gradients": {"memory.release_grads": False},
    "sparse head": {"memory.use_sparse_head_and_loss_fn": True},
    "fused head": {"memory.use_fused_head_and_loss_fn": True},
    "deterministic": {"training.full_determinism": True},
}
_PAIRS = {"data.path": "pairs.jsonl"}
_GENERATED = {
    **_PAIRS,
    "grpo.rewards": [{"function": "contains", "options": {"texts": ["e"]}}],
    "grpo.num_generations": 2,
    "grpo.max_completion_length": 4,
}
PREFERENCES: dict[str, dict[str, Any]] = {
    **{f"method {name}": {"training.method": name, **_PAIRS} for name in ("dpo", "orpo", "cpo")},
    "method kto": {"training.method": "kto", "data.path": "labels.jsonl"},
    "dpo, second epoch": {"training.method": "dpo", **_PAIRS, **_IN_SECOND_EPOCH},
    "dpo, whole model": {"training.method": "dpo", **_PAIRS, **_FULL},
    "method reward": {"training.method": "reward", **_PAIRS},
    "reward, second epoch": {"training.method": "reward", **_PAIRS, **_IN_SECOND_EPOCH},
    "reward, whole model": {"training.method": "reward", **_PAIRS, **_FULL},
    "reward, padded": {"training.method": "reward", **_PAIRS, "data.padding_free": False},
    "dpo, padded": {"training.method": "dpo", **_PAIRS, "data.padding_free": False},
    **{f"method {name}": {"training.method": name, **_GENERATED} for name in ("grpo", "rloo")},
}
GROUPS = {
    "optimisers": OPTIMISERS,
    "number types": NUMBER_TYPES,
    "rows": ROWS,
    "adapters": ADAPTERS,
    "preferences": PREFERENCES,
}
TABLE = {name: changes for group in GROUPS.values() for name, changes in group.items()}
assert len(TABLE) == sum(map(len, GROUPS.values())), "two rows have the same name"


class Stops(transformers.TrainerCallback):
    """Asks its run to stop after a step, as a person does, unless it goes on to the end."""

    is_asking = False

    def __init__(self, step: int = HALF) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if self.is_asking and state.global_step == self._step:
            events.append(Path(args.output_dir).parent / "commands.jsonl", "stop")


def register() -> None:
    """Register what the table names."""
    import torch

    worker._write_report = lambda *_: None  # half of the time of such a run

    registry.callbacks.register("stops")(Stops)
    registry.schedulers.register("their_slope")(lambda step, warmup, total: 1 - step / (2 * total))

    @registry.optimizers.register("their_adagrad")
    def adagrad(groups: Any, config: nbft.Config) -> Any:
        return torch.optim.Adagrad(groups, lr=config.training.learning_rate)


def make_files(folder: Path) -> None:
    """Write the model and the rows that all runs use."""
    make_tiny_model(folder / "model")
    lines = sample_path("grammar", "train").read_text(encoding="utf-8").splitlines()[:40]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pairs, labels = [], []
    for n, row in enumerate(map(json.loads, lines)):
        prompt, chosen = f"Correct: {row['input']}\n", row["target"]
        rejected = " ".join(chosen.split()[: 2 + n % 7])
        pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        completion = rejected if n % 2 else chosen
        labels.append({"prompt": prompt, "completion": completion, "label": n % 2 == 0})
    for name, rows in (("pairs", pairs), ("labels", labels)):
        text = "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def make_run(folder: Path, name: str, kind: str) -> nbft.Run:
    """Make a run of the table, beside others of its kind."""
    templates = {"prompt_template": "Correct: {input}\n", "completion_template": "{target}"}
    changes = {**TABLE[name]}
    file = changes.pop("data.path", "")
    config = nbft.Config(
        model={"model_name": str(folder / "model"), "dtype": "float32"},
        data={
            "path": str(folder / (file or "rows.jsonl")),
            "max_length": 128,
            **({} if file else templates),
        },
        training={
            "output_dir": str(folder / kind),
            "run_name": f"row-{list(TABLE).index(name)}",
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "learning_rate": 2e-3,
        },
        evaluation={"eval_strategy": "no", "sample_count": 0},
        callbacks={"callbacks": {"stops": {}}},
        checkpoint={"save_strategy": "no", "save_final_model": False},
    )
    return nbft.Run.create(config.apply(changes))


def train(run: nbft.Run) -> nbft.Run:
    """Train in this process, or go on in it."""
    registry.launchers.get("kernel").start(run)
    join(run)
    return run


def numbers(run: nbft.Run) -> list[dict[str, Any]]:
    """Return all that was logged, step by step, but times and memory."""
    timed = ("time", "seconds", "memory", "peak_bytes", "runtime", "per_second")
    return [
        {name: value for name, value in event.items() if not any(word in name for word in timed)}
        for event in events.current(run.events())
        if event["event"] == "log"
    ]


def main(folder: Path, names: list[str]) -> None:
    """Train the first halves, saying the name of each when it has stopped."""
    from trl import SFTTrainer  # noqa: F401

    gc.collect()
    gc.freeze()
    register()
    Stops.is_asking = True
    for name in names:
        run = train(make_run(folder, name, "halves"))
        print(json.dumps([name, run.path.name, run.status, run.problems]), flush=True)


if __name__ == "__main__":
    assert "NBFT_QUEUE" in os.environ, "the runs of others must not be waited for"
    main(Path(sys.argv[1]), sys.argv[2:])
