"""The sides of a comparison, each in its own process: `python -m nbft.bench.sides NAME TASK`.

Each side trains the task as the documentation of its system shows, with the same learning rate and
schedule, and prints what its clock recorded. To add a system, add a function and its entry in
`SIDES`. Called by `nbft.bench.compare`. A side may run in an environment that has the other system
but not nbft's dependencies, so this module imports nothing beyond pydantic.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.bench.clock import Clock
from nbft.bench.rows import write_rows
from nbft.bench.task import Task

_LEARNING_RATE = 2e-4


@dataclass(frozen=True)
class Side:
    """One system in a comparison.

    Attributes:
        name: Name to show.
        train: Trains a task.
        packages: Packages needed besides nbft's own dependencies, as `pip install` takes them.
        devices: Devices it runs on; any device when empty.
        is_apart: Whether it needs other versions of the libraries than nbft does, and therefore
            its own environment.
    """

    name: str
    train: Callable[[Task], None]
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    is_apart: bool = False

    def why_unavailable(self, task: Task, *, elsewhere: bool = False) -> str:
        """Explain why it cannot train a task and what to do about it; "" when it can.

        Args:
            task: The task to train.
            elsewhere: Whether it would train in another environment.
        """
        if self.devices and task.device not in self.devices:
            return f"{self.name} does not train on {task.device}."
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if absent and not elsewhere:
            command = f"pip install {' '.join(absent)}"
            if self.is_apart:
                return (
                    f"{self.name} is not installed. Run {command} in a separate environment, and "
                    "pass its Python with --python."
                )
            return f"{self.name} is not installed. Run {command}."
        return ""


def nbft_config(task: Task) -> Any:
    """Return nbft's config of a task; settings that the task does not name keep their defaults."""
    from nbft.config import Config

    return Config(
        model={"model_name": task.model, "dtype": task.dtype},
        precision={"mixed_precision": task.mixed_precision},
        memory={"gradient_checkpointing": task.gradient_checkpointing},
        quantization={"load_in_4bit": task.load_in_4bit},
        speed=task.speed,
        data={"path": task.rows, "split_ratio": 1.0, "max_length": 1 << 20, "shuffle": False},
        peft={"method": task.method, "r": task.r, "lora_alpha": 2 * task.r},
        training={
            "output_dir": str(Path(task.folder) / "runs"),
            "max_steps": task.steps,
            "per_device_train_batch_size": task.batch_rows,
            "gradient_accumulation_steps": 1,
            "learning_rate": _LEARNING_RATE,
            "seed": task.seed,
        },
        scheduler={"lr_scheduler_type": "linear", "warmup_steps": 0},
        compute={"device": task.device},
        evaluation={"eval_strategy": "no", "sample_count": 0},
        checkpoint={"save_strategy": "no", "save_final_model": False},
        logging={"logging_steps": 1},
    )


def train_nbft(task: Task) -> None:
    """Train with nbft."""
    from nbft import events
    from nbft.runs import Run
    from nbft.training.worker import work

    if task.counts_operators:
        from nbft.bench.operators import stand_in_for_gpu_kernels

        stand_in_for_gpu_kernels()
    run = Run.create(nbft_config(task))
    work(run.path)
    ending = events.read(run.events_path)[-1]
    if ending["event"] != "completed":
        raise RuntimeError(" ".join(ending.get("problems", [ending["event"]])))


def train_trl(task: Task) -> None:
    """Train with TRL as its documentation shows: a model name, rows and a LoraConfig."""
    _sft(task, task.model, adapter=True, model_init_kwargs=_quantization(task))


def train_trl_tuned(task: Task) -> None:
    """Train with TRL's fastest settings: data types, padding-free, no checkpointing, kernels."""
    model: dict[str, Any] = {"dtype": task.dtype, **_quantization(task)}
    arguments: dict[str, Any] = {
        "padding_free": True,
        "max_length": None,
        "gradient_checkpointing": task.gradient_checkpointing,
        "bf16": task.mixed_precision == "bf16",
        "fp16": task.mixed_precision == "fp16",
    }
    if task.device == "cuda":
        if importlib.util.find_spec("flash_attn"):
            model["attn_implementation"] = "flash_attention_2"
        arguments["use_liger_kernel"] = importlib.util.find_spec("liger_kernel") is not None
    _sft(task, task.model, adapter=True, model_init_kwargs=model, **arguments)


def _quantization(task: Task) -> dict[str, Any]:
    if not task.load_in_4bit:
        return {}
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    compute = {"bnb_4bit_compute_dtype": task.dtype}
    return {"quantization_config": {"quant_method": "bitsandbytes", **four_bit, **compute}}


def train_unsloth(task: Task) -> None:
    """Train with Unsloth as its documentation shows."""
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]  # must be imported first

    model, tokenizer = FastLanguageModel.from_pretrained(
        task.model, max_seq_length=4096, load_in_4bit=task.load_in_4bit, full_finetuning=False
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=task.r,
        lora_alpha=2 * task.r,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=task.seed,
    )
    _sft(task, model, tokenizer)


def train_llamafactory(task: Task) -> None:
    """Train with LLaMA-Factory as its documentation shows."""
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found]
    from transformers import AutoTokenizer

    folder = Path(task.folder) / "llamafactory"
    folder.mkdir(exist_ok=True)
    end = AutoTokenizer.from_pretrained(task.model).eos_token
    with Path(task.rows).open(encoding="utf-8") as given:  # its empty template adds no end token
        pairs = [(row["prompt"], row["completion"] + end) for row in map(json.loads, given)]
    write_rows(folder / "rows.jsonl", pairs)
    columns = {"prompt": "prompt", "response": "completion"}
    about = {"file_name": "rows.jsonl", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": about}), encoding="utf-8")
    run_exp(
        {
            "model_name_or_path": task.model,
            "stage": "sft",
            "do_train": True,
            "finetuning_type": task.method,
            "lora_rank": task.r,
            "lora_alpha": 2 * task.r,
            "lora_target": "all",
            "dataset": "rows",
            "dataset_dir": str(folder),
            "template": "empty",
            "cutoff_len": 1 << 20,
            "disable_shuffling": True,
            "bf16": task.mixed_precision == "bf16" or task.dtype == "bfloat16",
            "fp16": task.mixed_precision == "fp16",
            **({"quantization_bit": 4} if task.load_in_4bit else {}),
            **_common(task, folder / "out"),
            "overwrite_output_dir": True,
        }
    )


def _common(task: Task, folder: Path) -> dict[str, Any]:
    """Return what all who take transformers' TrainingArguments are given."""
    return {
        "output_dir": str(folder),
        "max_steps": task.steps,
        "per_device_train_batch_size": task.batch_rows,
        "gradient_accumulation_steps": 1,
        "learning_rate": _LEARNING_RATE,
        "lr_scheduler_type": "linear",
        "seed": task.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": task.device == "cpu",
    }


def _sft(
    task: Task, model: Any, tokenizer: Any = None, *, adapter: bool = False, **arguments: Any
) -> None:
    """Train with TRL's SFTTrainer, as it is or as patched by another system.

    Args:
        task: The task to train.
        model: The model, or its folder.
        tokenizer: Its tokenizer; None loads the model's own.
        adapter: Whether to add the adapter to the model.
        **arguments: Arguments of SFTConfig that replace those of the task.
    """
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    lora = LoraConfig(r=task.r, lora_alpha=2 * task.r, target_modules="all-linear")
    SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=datasets.load_dataset("json", data_files=task.rows, split="train"),
        args=SFTConfig(
            **{
                **_common(task, Path(task.folder) / "sft"),
                "train_sampling_strategy": "sequential",
                "max_length": 1 << 20,
                **arguments,
            }
        ),
        peft_config=lora if adapter and task.method == "lora" else None,
    ).train()


SIDES = {
    "nbft": Side("nbft", train_nbft),
    "trl": Side("TRL, its defaults", train_trl, ("trl",)),
    "trl-tuned": Side("TRL, tuned", train_trl_tuned, ("trl",)),
    "unsloth": Side("Unsloth", train_unsloth, ("unsloth",), ("cuda", "xpu"), is_apart=True),
    "llamafactory": Side("LLaMA-Factory", train_llamafactory, ("llamafactory",), is_apart=True),
}


def main(name: str, path: str) -> None:
    """Train a task and print what the clock recorded, as JSON on the last line."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.disable(logging.WARNING)
    task = Task.load(Path(path))
    clock = Clock(counts_operators=task.counts_operators)
    if name == "unsloth":  # it patches transformers when imported, so it must come first
        importlib.import_module("unsloth")
    clock.install()
    SIDES[name].train(task)
    sys.stdout.write(json.dumps(clock.record(task.device)) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a regular exit of the libraries takes seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
