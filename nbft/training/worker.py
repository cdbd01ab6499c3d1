"""The worker: trains one run, from its `config.yaml` to its adapter, and says so in events.

It runs in a thread of the kernel or in a process of its own; either way it only reads and writes
the run's folder. Called by `nbft.runs.launch`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import logging
import os
import platform
import random
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbft import events
from nbft.config import Config
from nbft.data.examples import load_examples
from nbft.data.tokens import Tokenised, remarks, tokenise
from nbft.errors import NbftError
from nbft.plan.hardware import (
    choose_device,
    choose_dtype,
    choose_mixed_precision,
    free_memory_bytes,
)
from nbft.runs.checkpoints import last_whole, step_of
from nbft.runs.processes import process_start_time
from nbft.words import size

_LEAST_FREE_BYTES = 2**20

_VERSIONS_OF = ("nbft", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def work(run: Path) -> None:
    """Train a run. Never raises: how it ended is its last event, and the whole story in log.txt.

    Args:
        run: The run's folder, with config.yaml.
    """
    began = time.monotonic()
    path = run / "events.jsonl"
    with _log(run / "log.txt") as log:
        try:
            config = Config.load(run / "config.yaml")
            _say_started(path, config)
            ending = _train(run, config, path)
        except BaseException as error:
            log.error("%s", traceback.format_exc())
            ending = {"event": "failed", **_failure(error, run)}
        finally:
            give_memory_back()
        step = _last_step(path)
        ending = {"step": step, "seconds": round(time.monotonic() - began, 1), **ending}
        try:
            from nbft.runs.report import write_report

            write_report(run, ending)
        except Exception as error:  # the training itself is done and saved
            log.error("%s", traceback.format_exc())
            with contextlib.suppress(OSError):
                text = f"report.html could not be written ({error}). Call run.report() later."
                events.append(path, "warning", text=text)
        kind = ending.pop("event")
        events.append(path, kind, **ending)
        log.info("%s after step %s", kind, step)


def _say_started(path: Path, config: Config) -> None:
    pid = os.getpid()
    versions = {"python": platform.python_version()}
    for package in _VERSIONS_OF:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    events.append(
        path,
        "started",
        pid=pid,
        process_start_time=process_start_time(pid),
        seed=config.training.seed,
        model=config.model.model_name,
        versions=versions,
    )


def _train(run: Path, config: Config, path: Path) -> dict[str, Any]:
    """Train and return the fields of the last event."""

    def say(text: str) -> None:
        events.append(path, "stage", stage="preparing", text=text)
        logging.getLogger("nbft").info(text)

    say("Loading the libraries …")
    import torch
    from transformers import set_seed

    from nbft.evaluate.generate import generate
    from nbft.models.find import find_model
    from nbft.models.load import load_model, load_tokenizer, quiet
    from nbft.training.callbacks.reporting import ReportingCallback
    from nbft.training.callbacks.watching import WatchingCallback
    from nbft.training.trainer import build_trainer

    with quiet():
        device = choose_device(config)
        dtype = choose_dtype(config, device.value)
        mixed_precision = choose_mixed_precision(config, device.value, dtype.value)
        found = find_model(config.model.model_name, config.model.model_revision, say)
        tokenizer = load_tokenizer(config, found.path)
        say("Reading the rows and cutting them into tokens …")
        train, held_out = _rows(config, tokenizer, path)
        say(f"Loading {config.model.model_name} …")
        set_seed(config.training.seed)
        model = load_model(config, found.path, dtype.value)
        prompts, texts = _sample_prompts(config, tokenizer, held_out)

        def sample(model: Any) -> list[dict[str, str]]:
            answers = generate(model, tokenizer, prompts, config.evaluation.sample_max_new_tokens)
            return [{"prompt": p, "text": a} for p, a in zip(texts, answers, strict=True)]

        checkpoint = last_whole(run)
        if prompts and checkpoint is None:
            say("Asking the base model …")
            model.to(torch.device(device.value))
            events.append(path, "sample", step=0, samples=sample(model))
        reporting = ReportingCallback(run, device.value, sample)
        trainer = build_trainer(
            config,
            model,
            tokenizer,
            train,
            held_out,
            output_dir=run / "checkpoints",
            device=device.value,
            mixed_precision=mixed_precision,
            callbacks=[
                reporting,
                WatchingCallback(run, stop_on_nan=config.training.stop_on_nan),
            ],
            resumed=checkpoint is not None,
        )
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        from nbft.plan.schedule import total_steps, warmup_steps

        total = total_steps(config, len(train.input_ids))
        events.append(
            path,
            "prepared",
            device=device.value,
            device_reason=device.reason,
            dtype=dtype.value,
            dtype_reason=dtype.reason,
            mixed_precision=mixed_precision.value,
            model_source=found.source,
            rows=len(train.input_ids),
            eval_rows=len(held_out.input_ids) if held_out else 0,
            tokens=train.tokens,
            longest=max(map(len, train.input_ids)),
            trained_tokens=train.trained_tokens,
            total_steps=total,
            warmup_steps=warmup_steps(config, total),
            trainable_parameters=trained,
            total_parameters=sum(p.numel() for p in trainer.model.parameters()),
            **({"resumed_step": step_of(checkpoint)} if checkpoint else {}),
        )
        if checkpoint:
            say(f"Going on from step {step_of(checkpoint):,} …")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if reporting.ending in ("paused", "cancelled"):
            return {"event": reporting.ending, "released": True}
        if held_out and reporting.last_eval_step != trainer.state.global_step:
            trainer.evaluate()
        lora = config.peft.method == "lora"
        target = run / ("adapter" if lora else "model")
        say("Saving …")
        trainer.save_model(str(target))
        tokenizer.save_pretrained(target)
        if prompts:
            events.append(
                path, "sample", step=trainer.state.global_step, samples=sample(trainer.model)
            )
    return {"event": reporting.ending or "completed", ("adapter" if lora else "model"): target.name}


def _rows(config: Config, tokenizer: Any, path: Path) -> tuple[Any, Any]:
    """Return the tokenised training rows and held-out rows (None where there are none)."""
    tokenised: dict[str, Tokenised | None] = {}
    for split in ("train", "validation"):
        examples, said = load_examples(config, split)
        if not examples and split == "validation":
            tokenised[split] = None
            continue
        if split == "train" and config.data.shuffle:
            random.Random(config.training.seed).shuffle(examples)
        tokenised[split] = done = tokenise(examples, tokenizer, config, split)
        for text in [*said, *remarks(done, config, split)]:
            events.append(path, "warning", text=text)
    return tokenised["train"], tokenised["validation"]


def _sample_prompts(
    config: Config, tokenizer: Any, held_out: Any
) -> tuple[list[list[int]], list[str]]:
    """Return the prompts to answer before and after, as ids and as texts."""
    if given := config.evaluation.sample_prompts:
        return tokenizer(given)["input_ids"], list(given)
    if held_out is None:
        return [], []
    ids = [p for p in held_out.prompt_ids if p][: config.evaluation.sample_count]
    return ids, [tokenizer.decode(p, skip_special_tokens=False) for p in ids]


def _failure(error: BaseException, run: Path) -> dict[str, Any]:
    """Say in sentences why a run ended."""
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if isinstance(error, NbftError):
        said = [str(problem) for problem in error.problems]
    elif memory:
        said = [_out_of_memory(error, run)]
    elif _is_disk_full(error, run):
        said = [f"The disk with {run} is full. Free some room, then run it again."]
    elif isinstance(error, (KeyboardInterrupt, SystemExit)):
        said = ["The run was interrupted."]
    else:
        first = next(iter(str(error).splitlines()), "")
        said = [f"{type(error).__name__}: {first} The whole message is in {run / 'log.txt'}."]
    return {"problems": said, "error": type(error).__name__, "out_of_memory": memory}


def _is_disk_full(error: BaseException, run: Path) -> bool:
    """Whether a full disk ended the run; safetensors and torch have errors of their own for it."""
    if isinstance(error, OSError) and events.is_disk_full(error):
        return True
    return "No space left" in str(error) or shutil.disk_usage(run).free < _LEAST_FREE_BYTES


def _out_of_memory(error: BaseException, run: Path) -> str:
    """Say what was asked for, what is free, at which step, and how long the rows are."""
    found = events.read(run / "events.jsonl")
    prepared = next((e for e in reversed(found) if e["event"] == "prepared"), {})
    device = str(prepared.get("device", "cpu"))
    asked = next(iter(str(error).splitlines()), "") or "the system gave no more"
    rows = f"; the longest row has {prepared['longest']:,} tokens" if prepared else ""
    return (
        f"Memory ran out on {device} after step {_last_step(run / 'events.jsonl')} ({asked}); "
        f"{size(free_memory_bytes(device))} are free now{rows}. run.fixes lists changes that would "
        "fit, run.retry(0) starts the first."
    )


def _last_step(path: Path) -> int:
    return max((e.get("step", 0) for e in events.read(path)), default=0)


def give_memory_back() -> None:
    """Free what the training held: Python's garbage, the GPU's cache, the allocator's heap."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if platform.system() == "Linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def _log(path: Path) -> Iterator[logging.Logger]:
    """Send what nbft and the libraries log, and Python's warnings, to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    names = (
        "nbft",
        "bitsandbytes",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "py.warnings",
    )
    loggers = [logging.getLogger(name) for name in names]
    shown = warnings.showwarning
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
    logging.getLogger("nbft").setLevel(logging.INFO)
    propagated = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False
    try:
        yield logging.getLogger("nbft")
    finally:
        for logger, before in zip(loggers, propagated, strict=True):
            logger.removeHandler(handler)
            logger.propagate = before
        logging.captureWarnings(False)
        warnings.showwarning = shown
        handler.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    work(Path(sys.argv[1]))
    logging.shutdown()
    os._exit(0)  # everything is written; the libraries' farewell would hold the device for seconds
