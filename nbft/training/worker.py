"""The worker: trains one run, from its `config.yaml` to its adapter, and says so in events.

It runs in a thread of the kernel or in a process of its own; either way it only reads and writes
the run's folder. Called by `nbft.runs.launch`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft import events
from nbft.config import Config
from nbft.errors import NbftError
from nbft.formatting import size
from nbft.models.load import IMPORTING
from nbft.plan.hardware import (
    choose_device,
    choose_dtype,
    choose_mixed_precision,
    free_memory_bytes,
)
from nbft.runs.checkpoints import last_whole, resume_point, step_of
from nbft.runs.processes import process_start_time

if TYPE_CHECKING:
    from nbft.evaluate.scoring import Scorer

_LEAST_FREE_BYTES = 2**20
_POLL_SECONDS = 0.2

_LIBRARIES = (
    "nbft.training.trainer",
    "nbft.training.rows",
    "nbft.training.callbacks.scoring",
    "nbft.training.callbacks.watching",
    "nbft.evaluate.scoring",
    "nbft.pages.report",
)
"""They import torch, transformers, TRL and PEFT."""

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
            _wait_for_room(run, path)
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
            from nbft.pages.report import write_report

            write_report(run, ending)
        except Exception as error:  # the training itself is done and saved
            log.error("%s", traceback.format_exc())
            with contextlib.suppress(OSError):
                text = f"report.html could not be written ({error}). Call run.report() later."
                events.append(path, "warning", text=text)
        kind = ending.pop("event")
        events.append(path, kind, **ending)
        log.info("%s after step %s", kind, step)


def _wait_for_room(run: Path, path: Path) -> None:
    """Pause while the disk is full, as later in a run, and keep room for what is to be said."""

    def is_full() -> bool:
        return shutil.disk_usage(run).free < _LEAST_FREE_BYTES

    if is_full():
        step = _last_step(path)
        text = f"The disk with {run} is full. Free some room, and the run goes on by itself."
        with contextlib.suppress(OSError):
            events.append(path, "paused", step=step, released=False, text=text)
        while is_full():
            time.sleep(_POLL_SECONDS)
        events.append(path, "continued", step=step)
    events.keep_reserve(run)


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
        **({"tags": config.tracking.tags} if config.tracking.tags else {}),
        model=config.model.model_name,
        versions=versions,
    )


def _train(run: Path, config: Config, path: Path) -> dict[str, Any]:
    """Train and return the fields of the last event."""

    def say(text: str) -> None:
        events.append(path, "stage", stage="preparing", text=text)
        logging.getLogger("nbft").info(text)

    def warn(text: str) -> None:
        events.append(path, "warning", text=text)

    say("Loading the libraries …")
    import_libraries()
    from transformers import set_seed

    from nbft.evaluate.generate import generate, in_precision
    from nbft.models.adapters import base_name, fetch_adapter, load_adapter
    from nbft.models.find import find_model
    from nbft.models.load import load_model, load_tokenizer, place, quiet
    from nbft.training.callbacks.reporting import ReportingCallback
    from nbft.training.callbacks.scoring import ScoringCallback
    from nbft.training.callbacks.watching import WatchingCallback
    from nbft.training.environment import environment
    from nbft.training.rows import read_rows
    from nbft.training.throughput import summary
    from nbft.training.trainer import build_trainer

    device = choose_device(config)
    with quiet(), environment(config, device.value):
        dtype = choose_dtype(config, device.value)
        mixed_precision = choose_mixed_precision(config, device.value, dtype.value)
        found = find_model(base_name(config), config.model.model_revision, say)
        tokenizer = load_tokenizer(config, found.path)
        say("Reading the rows and cutting them into tokens …")
        rows = read_rows(config, tokenizer, say, warn)
        held_out = rows.held_out
        say(f"Loading {config.model.model_name} …")
        set_seed(config.training.seed)
        model = load_model(config, found.path, dtype.value)
        if adapter := fetch_adapter(config, say):
            say(f"Going on with the adapter {adapter.path} …")
            model = load_adapter(model, adapter)
        prompts, texts = _sample_prompts(config, tokenizer, held_out)

        def sample(model: Any) -> list[dict[str, str]]:
            longest = config.evaluation.sample_max_new_tokens
            with in_precision(model, mixed_precision.value):
                answers = generate(model, tokenizer, prompts, longest)
            return [{"prompt": p, "text": a} for p, a in zip(texts, answers, strict=True)]

        checkpoint = last_whole(run) or resume_point(config, run)
        reporting = ReportingCallback(run, device.value, sample)
        scoring = ScoringCallback(
            config,
            _scorers(config, tokenizer, model, mixed_precision.value, warn),
            sample if prompts else None,
            reporting,
            give_memory_back,
        )
        place(model, device.value)
        scoring.before(model, events.read(path))
        trainer = build_trainer(
            config,
            model,
            tokenizer,
            rows,
            output_dir=run / "checkpoints",
            device=device.value,
            mixed_precision=mixed_precision,
            callbacks=[
                reporting,
                scoring,
                WatchingCallback(run, stop_on_nan=config.training.stop_on_nan),
            ],
            resumed=checkpoint is not None,
        )
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        from nbft.plan.schedule import total_steps, warmup_steps

        total = total_steps(config, rows.sequences)
        events.append(
            path,
            "prepared",
            device=device.value,
            device_reason=device.reason,
            dtype=dtype.value,
            dtype_reason=dtype.reason,
            mixed_precision=mixed_precision.value,
            model_source=found.source,
            rows=None if rows.is_stream else len(rows.looked_at),
            eval_rows=len(held_out) if held_out else 0,
            tokens=rows.looked_at.tokens,
            longest=rows.looked_at.longest,
            trained_tokens=rows.looked_at.trained_tokens,
            total_steps=total,
            warmup_steps=warmup_steps(config, total),
            trainable_parameters=trained,
            total_parameters=sum(p.numel() for p in trainer.model.parameters()),
            **({"resumed_step": step_of(checkpoint)} if checkpoint else {}),
        )
        if checkpoint:
            say(f"Going on from step {step_of(checkpoint):,} …")
        if config.logging.log_model_summary:
            (run / "model.txt").write_text(summary(trainer.model), encoding="utf-8")
        if config.training.do_train:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if reporting.ending in ("paused", "cancelled"):
            return {"event": reporting.ending, "released": True}
        if held_out and reporting.last_eval_step != trainer.state.global_step:
            trainer.evaluate()
        if not (config.checkpoint.save_final_model and config.training.do_train):
            return {"event": reporting.ending or "completed"}
        lora = config.peft.method != "full"
        target = run / ("adapter" if lora else "model")
        say("Saving …")
        trainer.save_model(str(target))
        tokenizer.save_pretrained(target)
        scoring.after(trainer.model, _trained_to(config, trainer.state))
    return {"event": reporting.ending or "completed", ("adapter" if lora else "model"): target.name}


def _scorers(
    config: Config,
    tokenizer: Any,
    model: Any,
    mixed_precision: str,
    warn: Callable[[str], None],
) -> list[Scorer]:
    """Return what measures the held-out rows, and the test rows where some are named."""
    from nbft.data.examples import load_examples
    from nbft.evaluate.forecast import metrics_of
    from nbft.evaluate.scoring import Scorer

    if not metrics_of(config) and config.evaluation.metric_function is None:
        return []
    context_tokens = getattr(model.config, "max_position_embeddings", None)
    scorers = []
    for split in ("validation", "test"):
        examples, said = load_examples(config, split)
        scorer = Scorer(
            config,
            tokenizer,
            examples,
            split,
            context_tokens=context_tokens,
            mixed_precision=mixed_precision,
        )
        scorers.append(scorer)
        for text in [*(said if split == "test" else ()), *scorer.remarks]:
            warn(text)
    return scorers


def _trained_to(config: Config, state: Any) -> int:
    """Return the step of the model that is saved: the last, or that of the best checkpoint."""
    if config.checkpoint.load_best_model_at_end and state.best_model_checkpoint:
        return step_of(Path(state.best_model_checkpoint))
    return int(state.global_step)


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


def import_libraries() -> None:
    """Import what every run needs; seconds, the first time."""
    with IMPORTING, _uncollected():
        for name in _LIBRARIES:
            importlib.import_module(name)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Import without looking for garbage: half a million objects are made, and all of them stay.

    To look through them again and again takes a fifth of the time of the imports. In a process of
    its own they are never looked through again, which makes the first step quicker too; in a
    kernel somebody's garbage may be among them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if __name__ == "__main__":
            gc.freeze()
        if was_enabled:
            gc.enable()


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


def _spare() -> Path:
    """Import the libraries, wait for a run and return it; ends when none will come."""
    from nbft.runs.warm import log_to, wait_for_run

    import_libraries()
    run = wait_for_run()
    if run is None:
        os._exit(0)  # at once: a run that comes later must find the pipe closed
    log_to(run)
    return run


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    work(Path(sys.argv[1]) if sys.argv[1:] else _spare())
    logging.shutdown()
    os._exit(0)  # everything is written; the libraries' farewell would hold the device for seconds
