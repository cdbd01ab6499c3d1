"""The worker: trains one run, from its `config.yaml` to its adapter, and reports it in events.

It reads and writes only the run's folder, in a thread of the kernel or in its own process. Called
by `nbft.launchers`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft import events
from nbft.config import Config
from nbft.decisions import Decisions, decide
from nbft.hardware import available_devices, release_memory
from nbft.methods import method_of
from nbft.models.adapters import base_name
from nbft.models.find import FoundModel, find_model
from nbft.runs.checkpoints import last_whole, resume_point, step_of
from nbft.runs.processes import process_start_time
from nbft.training.environment import environment, run_log
from nbft.training.failure import LEAST_FREE_BYTES, failure, last_step
from nbft.training.libraries import import_libraries

if TYPE_CHECKING:
    from nbft.evaluate.scoring import Scorer
    from nbft.training.callbacks.reporting import ReportingCallback
    from nbft.training.callbacks.scoring import ScoringCallback
    from nbft.training.rows import TrainingRows

_POLL_SECONDS = 0.2
_VERSIONS_OF = ("nbft", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def work(run: Path, *, owns_process: bool = False) -> None:
    """Train a run. Never raises: the last event tells how it ended, and log.txt has the details.

    Args:
        run: The run's folder, with config.yaml.
        owns_process: Whether this process does nothing else.
    """
    began = time.monotonic()
    path = run / "events.jsonl"
    with run_log(run / "log.txt") as log:
        try:
            _wait_for_room(run, path)
            config = Config.load(run / "config.yaml")
            _report_start(path, config)
            ending = _train(_Job(run, config), owns_process=owns_process)
        except BaseException as error:
            log.error("%s", traceback.format_exc())
            ending = {"event": "failed", **failure(error, run)}
        finally:
            release_memory()
        step = last_step(path)
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
    """Pause while the disk is full, and reserve room for events."""

    def is_full() -> bool:
        return shutil.disk_usage(run).free < LEAST_FREE_BYTES

    if is_full():
        step = last_step(path)
        text = f"The disk with {run} is full. Free some space, and the run continues by itself."
        with contextlib.suppress(OSError):
            events.append(path, "paused", step=step, released=False, text=text)
        while is_full():
            time.sleep(_POLL_SECONDS)
        events.append(path, "continued", step=step)
    events.keep_reserve(run)


def _report_start(path: Path, config: Config) -> None:
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


@dataclass(frozen=True)
class _Job:
    """A run that is being trained."""

    run: Path
    config: Config

    @property
    def events_path(self) -> Path:
        return self.run / "events.jsonl"

    def say(self, text: str) -> None:
        """Report what is being done."""
        events.append(self.events_path, "stage", stage="preparing", text=text)
        logging.getLogger("nbft").info(text)

    def warn(self, text: str) -> None:
        """Report a warning."""
        events.append(self.events_path, "warning", text=text)


@dataclass(frozen=True)
class _Loaded:
    """What a run trains, and on what."""

    source: str
    decisions: Decisions
    tokenizer: Any
    rows: TrainingRows
    model: Any


def _train(job: _Job, *, owns_process: bool) -> dict[str, Any]:
    """Train and return the fields of the last event."""
    job.say("Loading the libraries …")
    import_libraries(owns_process=owns_process)
    from nbft.models.load import quiet
    from nbft.training.callbacks.watching import WatchingCallback
    from nbft.training.trainer import build_trainer

    config = job.config
    with quiet():
        found = find_model(base_name(config), config.model.model_revision, job.say)
        decisions = _decisions(job, found)
        with environment(config, decisions.device.value):
            loaded = _load(job, found, decisions)
            reporting, scoring = _callbacks(job, loaded)
            scoring.before(loaded.model, events.read(job.events_path))
            checkpoint = last_whole(job.run) or resume_point(config, job.run)
            trainer = build_trainer(
                config,
                decisions,
                loaded.model,
                loaded.tokenizer,
                loaded.rows,
                output_dir=job.run / "checkpoints",
                callbacks=[
                    reporting,
                    scoring,
                    WatchingCallback(job.run, stop_on_nan=config.training.stop_on_nan),
                ],
                resumed=checkpoint is not None,
            )
            _report_prepared(job, loaded, trainer.model, checkpoint)
            if config.training.do_train:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if reporting.ending in ("paused", "cancelled"):
                return {"event": reporting.ending, "released": True}
            if loaded.rows.held_out and reporting.last_eval_step != trainer.state.global_step:
                trainer.evaluate()
            saved = _save(job, trainer, loaded.tokenizer, scoring)
    return {"event": reporting.ending or "completed", **saved}


def _decisions(job: _Job, found: FoundModel) -> Decisions:
    """Return what the plan decided.

    Decide again if the plan was made without the model, or if its device is not on this machine.
    """
    with contextlib.suppress(OSError, ValueError):
        plan = json.loads((job.run / "plan.json").read_text(encoding="utf-8"))
        planned = Decisions.from_dict(plan)
        if planned and planned.is_final and planned.device.value in available_devices():
            return planned
    return decide(job.config, found.path)


def _load(job: _Job, found: FoundModel, decisions: Decisions) -> _Loaded:
    """Read the rows and load the model onto its device."""
    from transformers import set_seed

    from nbft.models.adapters import fetch_adapter, load_adapter
    from nbft.models.load import load_model, load_tokenizer, place
    from nbft.training.rows import read_rows

    config, device = job.config, decisions.device.value
    tokenizer = load_tokenizer(config, found.path)
    job.say("Reading and tokenising the rows …")
    rows = read_rows(config, tokenizer, job.say, job.warn, padding_free=decisions.padding_free)
    job.say(f"Loading {config.model.model_name} …")
    set_seed(config.training.seed)
    model = load_model(config, found.path, decisions.dtype.value, device)
    if adapter := fetch_adapter(config, job.say):
        job.say(f"Loading the adapter {adapter.path} …")
        model = load_adapter(model, adapter)
    return _Loaded(found.source, decisions, tokenizer, rows, place(model, device))


def _callbacks(job: _Job, loaded: _Loaded) -> tuple[ReportingCallback, ScoringCallback]:
    """Return the callbacks that report and score the training."""
    from nbft.evaluate.generate import generate, in_precision
    from nbft.training.callbacks.reporting import ReportingCallback
    from nbft.training.callbacks.scoring import ScoringCallback

    config, tokenizer = job.config, loaded.tokenizer
    prompts, texts = _sample_prompts(config, tokenizer, loaded.rows.held_out)

    def sample(model: Any) -> list[dict[str, str]]:
        longest = config.evaluation.sample_max_new_tokens
        with in_precision(model, loaded.decisions.mixed_precision.value):
            answers = generate(model, tokenizer, prompts, longest)
        return [{"prompt": p, "text": a} for p, a in zip(texts, answers, strict=True)]

    reporting = ReportingCallback(job.run, loaded.decisions.device.value, sample)
    return reporting, ScoringCallback(
        config, _scorers(job, loaded), sample if prompts else None, reporting
    )


def _scorers(job: _Job, loaded: _Loaded) -> list[Scorer]:
    """Return the scorers of the held-out rows and of the test rows, if any."""
    from nbft.data.examples import load_examples
    from nbft.evaluate.forecast import metrics_of
    from nbft.evaluate.scoring import Scorer

    config = job.config
    if not metrics_of(config) and config.evaluation.metric_function is None:
        return []
    context_tokens = getattr(loaded.model.config, "max_position_embeddings", None)
    scorers = []
    for split in ("validation", "test"):
        examples, remarks = load_examples(config, split)
        scorer = Scorer(
            config,
            loaded.tokenizer,
            examples,
            split,
            context_tokens=context_tokens,
            mixed_precision=loaded.decisions.mixed_precision.value,
        )
        scorers.append(scorer)
        for text in [*(remarks if split == "test" else ()), *scorer.remarks]:
            job.warn(text)
    return scorers


def _sample_prompts(
    config: Config, tokenizer: Any, held_out: Any
) -> tuple[list[list[int]], list[str]]:
    """Return the prompts to answer before and after, as token ids and as text."""
    if given := config.evaluation.sample_prompts:
        return tokenizer(given)["input_ids"], list(given)
    if held_out is None:
        return [], []
    ids = [p for p in held_out.prompt_ids if p][: config.evaluation.sample_count]
    return ids, [tokenizer.decode(p, skip_special_tokens=False) for p in ids]


def _report_prepared(job: _Job, loaded: _Loaded, model: Any, checkpoint: Path | None) -> None:
    """Report what will be trained."""
    from nbft.plan.schedule import total_steps, warmup_steps
    from nbft.training.throughput import summary

    config, rows, decisions = job.config, loaded.rows, loaded.decisions
    total = total_steps(config, rows.sequences)
    events.append(
        job.events_path,
        "prepared",
        device=decisions.device.value,
        device_reason=decisions.device.reason,
        dtype=decisions.dtype.value,
        dtype_reason=decisions.dtype.reason,
        mixed_precision=decisions.mixed_precision.value,
        model_source=loaded.source,
        rows=None if rows.is_stream else len(rows.known),
        eval_rows=len(rows.held_out) if rows.held_out else 0,
        tokens=rows.known.tokens,
        longest=rows.known.longest,
        trained_tokens=rows.known.trained_tokens,
        total_steps=total,
        warmup_steps=warmup_steps(config, total),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        total_parameters=sum(p.numel() for p in model.parameters()),
        measures=[asdict(measure) for measure in method_of(config).measures],
        **({"resumed_step": step_of(checkpoint)} if checkpoint else {}),
    )
    if checkpoint:
        job.say(f"Resuming from step {step_of(checkpoint):,} …")
    if config.logging.log_model_summary:
        (job.run / "model.txt").write_text(summary(model), encoding="utf-8")


def _save(job: _Job, trainer: Any, tokenizer: Any, scoring: ScoringCallback) -> dict[str, str]:
    """Save the result and score it; return {"adapter" or "model": its folder}."""
    config = job.config
    if not (config.checkpoint.save_final_model and config.training.do_train):
        return {}
    what = "adapter" if config.peft.trains_adapter else "model"
    target = job.run / what
    job.say("Saving …")
    trainer.save_model(str(target))
    tokenizer.save_pretrained(target)
    best, step = trainer.state.best_model_checkpoint, int(trainer.state.global_step)
    if config.checkpoint.load_best_model_at_end and best:
        step = step_of(Path(best))
    scoring.after(trainer.model, step)
    return {what: target.name}
