"""The sides of a comparison, each in a process of its own: `python -m nbft.bench.sides NAME TASK`.

Each trains a task as its system's documentation shows it, and prints what its clock counted. To add
a system, add a function and its line in `SIDES`. Called by `nbft.bench.compare`.
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
from nbft.bench.task import Task

_LEARNING_RATE = 2e-4


@dataclass(frozen=True)
class Side:
    """One side.

    Attributes:
        name: In words.
        train: Trains a task.
        packages: What it needs besides nbft's own dependencies, as `pip install` takes it.
        devices: Where it runs; everywhere when empty.
    """

    name: str
    train: Callable[[Task], None]
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    def hindrance(self, task: Task) -> str:
        """Say why it cannot train a task, and what to do; "" when it can."""
        if self.devices and task.device not in self.devices:
            return f"{self.name} does not train on {task.device}."
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if absent:
            return f"{self.name} is not installed. pip install {' '.join(absent)}"
        return ""


def train_nbft(task: Task) -> None:
    """Train with nbft, everything at its defaults."""
    from nbft import events
    from nbft.config import Config
    from nbft.runs import Run
    from nbft.training.worker import work

    config = Config(
        model={"model_name": task.model},
        quantization={"load_in_4bit": task.load_in_4bit},
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
        compute={"device": task.device},
        evaluation={"eval_strategy": "no", "sample_count": 0},
        checkpoint={"save_strategy": "no", "save_final_model": False},
        logging={"logging_steps": 1},
    )
    run = Run.create(config)
    work(run.path)
    ending = events.read(run.events_path)[-1]
    if ending["event"] != "completed":
        raise RuntimeError(" ".join(ending.get("problems", [ending["event"]])))


def train_trl(task: Task) -> None:
    """Train with TRL as its documentation shows it: a name, rows, a LoraConfig."""
    _sft(task, task.model, adapter=True)


def train_trl_tuned(task: Task) -> None:
    """Train with TRL's best settings: number types, no padding, no checkpointing, kernels."""
    model: dict[str, Any] = {"dtype": task.dtype}
    arguments: dict[str, Any] = {
        "padding_free": True,
        "max_length": None,
        "gradient_checkpointing": False,
        "bf16": task.mixed_precision == "bf16",
        "fp16": task.mixed_precision == "fp16",
    }
    if task.device == "cuda":
        if importlib.util.find_spec("flash_attn"):
            model["attn_implementation"] = "flash_attention_2"
        arguments["use_liger_kernel"] = importlib.util.find_spec("liger_kernel") is not None
    _sft(task, task.model, adapter=True, model_init_kwargs=model, **arguments)


def train_unsloth(task: Task) -> None:
    """Train with Unsloth as its documentation shows it."""
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]  # before all others

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


def _sft(
    task: Task, model: Any, tokenizer: Any = None, *, adapter: bool = False, **arguments: Any
) -> None:
    """Train with TRL's SFTTrainer, as it is or as another system has changed it.

    Args:
        task: What to train.
        model: The model, or its folder.
        tokenizer: Its tokenizer; the model's own when None.
        adapter: Whether the model still needs its adapter.
        **arguments: Of SFTConfig, in place of those of the task.
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
                "output_dir": str(Path(task.folder) / "sft"),
                "max_steps": task.steps,
                "per_device_train_batch_size": task.batch_rows,
                "learning_rate": _LEARNING_RATE,
                "seed": task.seed,
                "logging_steps": 1,
                "train_sampling_strategy": "sequential",
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                "use_cpu": task.device == "cpu",
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
    "unsloth": Side("Unsloth", train_unsloth, ("unsloth",), ("cuda", "xpu")),
}


def main(name: str, path: str) -> None:
    """Train a task and print what the clock counted, as JSON on the last line."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.disable(logging.WARNING)
    clock = Clock()
    if name == "unsloth":  # it changes transformers when it is imported, and must come first
        importlib.import_module("unsloth")
    clock.install()
    task = Task.load(Path(path))
    SIDES[name].train(task)
    sys.stdout.write(json.dumps(clock.said(task.device)) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the libraries' farewell takes seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
