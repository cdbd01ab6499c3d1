"""The worker: trains one run, from its `config.yaml` to its adapter, and reports it in events.

It reads and writes only the run's folder, in a thread of the kernel or in its own process. Called
by `nbft.launchers`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft import events
from nbft.access import inherit_all
from nbft.atomic import replacing
from nbft.config import Config
from nbft.decisions import Decisions, choose_trackers, decide, read_about, sees_all_gpus
from nbft.devices import see_one_gpu
from nbft.hardware import (
    Choice,
    available_devices,
    begin_peak,
    peak_memory_bytes,
    release_memory,
    used_memory_bytes,
)
from nbft.methods import method_of
from nbft.models.adapters import base_name
from nbft.models.find import FoundModel, find_described, find_model
from nbft.plan.several import OF_TORCH
from nbft.plan.stages import moments
from nbft.processes import identity
from nbft.progress import telling
from nbft.runs.checkpoints import last_whole, resume_point, step_of
from nbft.runs.files import read_plan
from nbft.runs.provenance import ROWS, Provenance, Resumption, contents_of, plan_resumption
from nbft.runs.requests import (
    Requests,
    StopNow,
    StopRequested,
    Unfinished,
    because,
    stopped_at_once,
)
from nbft.tracking import TRACKERS
from nbft.training.environment import environment, run_log
from nbft.training.failure import LEAST_FREE_BYTES, failure, last_step
from nbft.training.libraries import import_libraries
from nbft.training.ranks import ALONE, LOST_SECONDS, Ranks
from nbft.training.room import EVENTS_BYTES, Room
from nbft.training.stages import StageClock, report_stage

if TYPE_CHECKING:
    from nbft.data.tokens import Tokenised
    from nbft.evaluate.prompts import Asked
    from nbft.evaluate.scoring import Scorer
    from nbft.training.callbacks.reporting import ReportingCallback
    from nbft.training.callbacks.scoring import ScoringCallback
    from nbft.training.rows import TrainingRows
    from nbft.training.turns import Turn

_VERSIONS_OF = ("nbft", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


_BLAME_SECONDS = 2.0
"""How long one of several processes waits before it reports an error, which may come from the end of
another; then it is killed meanwhile. The others wait twice as long as the first."""


def work(
    run: Path, *, owns_process: bool = False, turn: Turn | None = None, ranks: Ranks = ALONE
) -> None:
    """Train a run. Never raises: the last event tells how it ended, and log.txt has the details.

    Args:
        run: The run's folder, with config.yaml; that of this process, if several train it.
        owns_process: Whether this process does nothing else.
        turn: Its turn among other runs of this process; None if it trains alone.
        ranks: Which of several processes this is.
    """
    began, stages = time.monotonic(), StageClock()
    path = run / "events.jsonl"
    requests = Requests(run)
    room = Room(run, requests)
    is_at_once = False
    if turn is not None:
        turn.requests, turn.stages = requests, stages
    with run_log(run / "log.txt") as log:
        try:
            with requests.interruptible():
                if request := room.wait(last_step(path), LEAST_FREE_BYTES):
                    raise StopRequested(request)
                config = Config.load(run / "config.yaml")
                _report_start(path, config, ranks)
                job = _Job(run, config, room, stages, turn, ranks)
                ending = _train(job, owns_process=owns_process)
        except StopRequested as stop:
            ending = _ended_early(stop.request, last_step(path))
        except StopNow:
            ending, is_at_once = stopped_at_once(run), True
        except BaseException as error:
            log.error("%s", traceback.format_exc())
            if ranks.count > 1:
                blamed = _BLAME_SECONDS + (LOST_SECONDS if ranks.nodes > 1 else 0)
                time.sleep(blamed if ranks.is_first else 2 * blamed)
            ending = {"event": "failed", **failure(error, run, is_of_several=ranks.count > 1)}
        finally:
            release_memory()
        step = last_step(path)
        seconds = time.monotonic() - began - stages.taken.get("waiting", 0.0)
        ending = {"step": step, "seconds": round(seconds, 1), **ending}
        if not is_at_once and ranks.is_first:
            stages.begin("saving")
            report_stage(room, stages, step, "Writing the report …")
            _write_report(run, ending, log)
        ending |= {"stages": stages.seconds()}
        inherit_all(run)  # what libraries have written
        kind = ending.pop("event")
        room.say(kind, **ending, **_worker(ranks))
        log.info("%s after step %s", kind, step)


def _write_report(run: Path, ending: events.Event, log: logging.Logger) -> None:
    """Write report.html; the training is done and saved, so nothing that fails here ends it."""
    try:
        from nbft.pages.report import write_report

        write_report(run, ending)
    except Exception as error:
        log.error("%s", traceback.format_exc())
        with contextlib.suppress(OSError):
            text = f"report.html could not be written ({error}). Call run.report() later."
            events.append(run / "events.jsonl", "warning", text=text)


def _ended_early(request: events.Event, step: int) -> dict[str, Any]:
    """Return the last event of a run that was asked to end before a step."""
    if request["event"] == "cancel":
        return {"event": "cancelled"}
    when = f"before step {step + 1:,}{because(request)}."
    if request["event"] == "pause":
        return {"event": "paused", "released": True, "text": f"Paused {when}"}
    return {"event": "stopped", "text": f"Stopped {when}"}


def _worker(ranks: Ranks) -> dict[str, Any]:
    """Return the identity of the process that stands for the run: it has started several."""
    return identity(os.getppid() if ranks.count > 1 else None)


def _report_start(path: Path, config: Config, ranks: Ranks) -> None:
    versions = {"python": platform.python_version()}
    for package in _VERSIONS_OF:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    events.append(
        path,
        "started",
        **_worker(ranks),
        **({"processes": ranks.count} if ranks.count > 1 else {}),
        seed=config.training.seed,
        **({"tags": config.tracking.tags} if config.tracking.tags else {}),
        model=config.model.model_name,
        versions=versions,
    )


@dataclass(frozen=True)
class _Job:
    """A run that is being trained.

    Attributes:
        run: Folder of the events and the log.
        ranks: Which of several processes this is.
    """

    run: Path
    config: Config
    room: Room
    stages: StageClock
    turn: Turn | None = None
    ranks: Ranks = ALONE

    @property
    def home(self) -> Path:
        """The run's folder, with its checkpoints."""
        return self.ranks.run_of(self.run)

    @property
    def events_path(self) -> Path:
        return self.run / "events.jsonl"

    def say(self, text: str) -> None:
        """Report what is being done next.

        Raises:
            StopRequested: The run is to end before its first step.
        """
        self.room.requests.check()
        report_stage(self.room, self.stages, 0, text)

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
    _expect_planned(job)
    ranks = job.ranks
    if owns_process and not sees_all_gpus(job.config):
        see_one_gpu()
    job.say("Loading the libraries …")
    import_libraries(owns_process=owns_process, is_quantised=_may_be_quantised(job.config))
    begin_peak()
    from nbft.models.load import quiet
    from nbft.training.callbacks.reporting import memory_of
    from nbft.training.callbacks.stopping import BudgetCallback, reason_of_end
    from nbft.training.callbacks.watching import WatchingCallback
    from nbft.training.fast.attention import flash_refusal
    from nbft.training.matmul_rate import measure_rates
    from nbft.training.trackers import Trackers
    from nbft.training.trainer import build_trainer

    config = job.config
    with quiet():
        found = find_model(base_name(config), config.model.model_revision, job.say)
        decisions = _decisions(job, found)
        device = decisions.device.value
        with (
            environment(config, device, decisions.trackers),
            Trackers(job.say, job.warn) as trackers,
        ):
            ranks.join(config, device)
            if ranks.count == 1:  # the others would slow it down
                measure_rates(decisions)
            planned = _planned_memory(job, decisions)
            loaded = _load(job, found, decisions)
            job.stages.end(0)
            provenance = _provenance(config, loaded.rows)
            resumption = _resumption(job, provenance)
            _expect(job, loaded.rows, provenance, resumption)
            reporting, scoring = _callbacks(job, loaded)
            shards = config.distributed.shards
            if not shards:
                scoring.before(loaded.model, events.read(job.events_path))
            budget = BudgetCallback(config, device, job.stages.seconds_at_work)
            trainer = build_trainer(
                config,
                decisions,
                loaded.model,
                loaded.tokenizer,
                loaded.rows,
                output_dir=job.home / "checkpoints",
                ranks=ranks,
                callbacks=[
                    reporting,
                    scoring,
                    WatchingCallback(job.run, config),
                    budget,
                ],
                resumption=resumption,
                provenance=provenance,
                room=job.room,
                clock=reporting.clock,
                begin=reporting.begin,
                say=reporting.say,
                after_step=None if job.turn is None else reporting.after_step,
            )
            if shards:  # it may fit on a device in shards only; a new adapter changes nothing
                scoring.before(trainer.model, events.read(job.events_path))
            reporting.tell_to(trackers.take(trainer))
            method_of(config).prepare(trainer)
            if decisions.uses("row_attention") and (
                why := flash_refusal(trainer.model, decisions.mixed_precision.value)
            ):
                job.warn(why)
            _report_prepared(job, loaded, trainer.model, resumption, planned)
            job.room.requests.check()
            if config.training.do_train:
                _train_on(trainer, provenance, resumption)
            is_released = reporting.ending in ("paused", "cancelled")
            if ranks.agree(is_released):
                ending = reporting.ending or "followed"
                return {"event": ending, "released": True, **reporting.reason}
            is_wanted = config.evaluation.eval_strategy != "no" or not config.training.do_train
            has_measured = reporting.last_eval_step == trainer.state.global_step
            is_due = is_wanted and loaded.rows.held_out and not has_measured
            if ranks.agree(bool(is_due) and not reporting.is_urgent):
                with contextlib.suppress(Unfinished):
                    trainer.evaluate()
            of_others = (memory_of(device, ranks)[1] or 0) - (peak_memory_bytes(device) or 0)
            saved = _save(job, trainer, loaded.tokenizer, reporting)
            if ranks.agree(bool(saved) and not reporting.is_urgent):
                with contextlib.suppress(Unfinished):
                    scoring.after(trainer.model, _saved_step(config, trainer))
            if not ranks.is_first:
                return {"event": "followed"}
    peak = peak_memory_bytes(device)
    took = {
        "tokens": int(trainer.state.num_input_tokens_seen),
        "peak_bytes": None if peak is None else peak + of_others,
    }
    if reporting.ending is None and budget.reason:
        return {"event": "stopped", "text": budget.reason, **took, **saved}
    if reporting.ending is None:
        text = reason_of_end(trainer)
        return {"event": "completed", **({"text": text} if text else {}), **took, **saved}
    if reporting.ending == "paused" and saved:  # it was asked in what follows the last step
        text = "Trained to the end. What follows was left, because the system ends the process."
        return {"event": "completed", "text": text, **took, **saved}
    released = {"released": True} if reporting.ending == "paused" else {}
    return {"event": reporting.ending, **released, **reporting.reason, **took, **saved}


def _may_be_quantised(config: Config) -> bool:
    """Whether a run may have weights, or an optimiser, in 4 or 8 bits; true where that is unknown."""
    folder = find_described(base_name(config), config.model.model_revision)
    if folder is None or config.quantization.bits is not None:
        return True
    about = read_about(folder) | config.model.model_init_kwargs
    asked = about.keys() & {"quantization_config", "load_in_4bit", "load_in_8bit"}
    return bool(asked) or config.optimizer.optim not in ("adam", *OF_TORCH)


def _expect_planned(job: _Job) -> None:
    """Take in what the plan expects of the run, if it knew its rows."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        planned = read_plan(job.run)
        total, of_epoch = planned["total_steps"], planned["steps_per_epoch"]
        has_held_out = planned["eval_rows"] > 0
        times = moments(job.config, total, of_epoch, has_held_out=has_held_out)
        job.stages.expect(times, total, planned["stages"])


def _planned_memory(job: _Job, decisions: Decisions) -> dict[str, int]:
    """Return the peak that the plan expects, and the highest, for what this process holds already.

    On a CPU a kernel may hold more than the libraries; on a GPU torch counts none of them.
    """
    device = decisions.device.value
    if job.turn is not None:  # what is measured is the memory of all runs of the process
        return {}
    with contextlib.suppress(KeyError, TypeError, ValueError):
        plan = read_plan(job.run)
        if plan["device"]["value"] == device:
            libraries, used = plan["memory_parts"]["libraries"], used_memory_bytes(device)
            held = max(used, libraries) if device == "cpu" else used
            most = plan["ranges"]["memory_bytes"][1]
            ends = {"planned_bytes": plan["memory_bytes"], "planned_most_bytes": most}
            return {name: round(end - libraries + held) for name, end in ends.items()}
    return {}


def _decisions(job: _Job, found: FoundModel) -> Decisions:
    """Return what the plan decided.

    Decide again if the plan was made without the model, or if its device is not on this machine,
    which is said.
    """
    planned = None
    with contextlib.suppress(OSError, ValueError):
        planned = Decisions.from_dict(read_plan(job.run))
    trackers = _trackers(job, planned.trackers if planned else {})
    if planned and planned.device.value in available_devices():
        decisions = planned if planned.is_final else decide(job.config, found.path)
        return replace(decisions, trackers=trackers)
    decisions = replace(decide(job.config, found.path), trackers=trackers)
    if planned and planned.device.value != decisions.device.value:
        job.warn(
            f"The plan chose {planned.device}, which PyTorch does not find. The run uses "
            f"{decisions.device} with {decisions.dtype.value} weights instead."
        )
    elif planned is None and job.config.compute.launcher == "slurm":  # its plan leaves them out
        job.warn(
            f"Decided on this node: {decisions.device}, {decisions.dtype.value} weights, "
            f"mixed precision {decisions.mixed_precision.value}."
        )
    return decisions


def _trackers(job: _Job, planned: Mapping[str, Choice]) -> dict[str, Choice]:
    """Return how the trackers are used, and say where it is not as planned.

    A login may have come or gone, and a resumed run may have other trackers.
    """
    chosen = choose_trackers(job.config)
    for name, use in chosen.items():
        before = planned.get(name)
        if before is not None and before.value != use.value:
            title = TRACKERS[name].title
            job.warn(f"{title} was planned as {before.value}. It is {use.value}: {use.reason}.")
    return chosen


def _load(job: _Job, found: FoundModel, decisions: Decisions) -> _Loaded:
    """Read the rows and load the model onto its device."""
    from nbft.models.load import load_tokenizer
    from nbft.training.beginning import load_untrained
    from nbft.training.rows import read_rows

    config = job.config
    tokenizer = load_tokenizer(config, found.path)
    job.stages.begin("tokenizing")
    job.say("Reading and tokenising the rows …")
    with job.ranks.first_alone(), telling(job.say):
        rows = read_rows(config, tokenizer, job.say, job.warn, padding_free=decisions.padding_free)
    job.stages.end(0)
    share = None if job.turn is None else job.turn.share
    model = load_untrained(config, decisions, found.path, job.say, share)
    return _Loaded(found.source, decisions, tokenizer, rows, model)


def _provenance(config: Config, rows: TrainingRows) -> Provenance:
    """Return what the run is trained on."""
    from nbft.plan.schedule import steps_per_epoch, total_steps
    from nbft.training.rows import rows_key

    contents = {**contents_of(config), ROWS: rows_key(rows.known)}
    total = total_steps(config, rows.sequences)
    of_epoch = total if rows.is_stream else steps_per_epoch(config, rows.sequences)
    return Provenance.of(config, of_epoch, total, contents)


def _expect(
    job: _Job, rows: TrainingRows, provenance: Provenance, resumption: Resumption | None
) -> None:
    """Take in what the run will do, now that its rows are known."""
    total, of_epoch = provenance.total_steps, provenance.steps_per_epoch
    times = moments(job.config, total, of_epoch, has_held_out=bool(rows.held_out))
    job.stages.expect(times, total)
    if resumption is not None:
        job.stages.resume_from(resumption.step)


def _resumption(job: _Job, provenance: Provenance) -> Resumption | None:
    """Return how the run goes on from a checkpoint, and say so; None if it begins.

    Raises:
        ConfigError: It cannot go on.
    """
    own = last_whole(job.home)
    checkpoint = own or resume_point(job.config, job.home)
    if checkpoint is None:
        return None
    step = step_of(checkpoint)
    found = plan_resumption(job.config, checkpoint, step, provenance, is_own=own is not None)
    for text in found.remarks:
        job.warn(text)
    return found


def _train_on(trainer: Any, provenance: Provenance, resumption: Resumption | None) -> None:
    """Train to the end, or take the weights of a checkpoint that is the end."""
    if resumption is None:
        trainer.train()
    elif resumption.step < provenance.total_steps:
        trainer.train(resume_from_checkpoint=str(resumption.checkpoint))
    else:
        trainer.load_result(resumption.checkpoint)


def _callbacks(job: _Job, loaded: _Loaded) -> tuple[ReportingCallback, ScoringCallback]:
    """Return the callbacks that report and score the training."""
    from nbft.evaluate.generate import generate, in_precision
    from nbft.training.callbacks.reporting import ReportingCallback
    from nbft.training.callbacks.scoring import ScoringCallback

    config, tokenizer = job.config, loaded.tokenizer
    asked: list[Asked] = []
    if job.ranks.is_first:
        asked = _sample_prompts(config, tokenizer, loaded.rows.held_out)

    def sample(model: Any) -> list[dict[str, str]]:
        if not asked:
            return []
        longest = config.evaluation.sample_max_new_tokens
        with in_precision(model, loaded.decisions.mixed_precision.value):
            answers = generate(model, tokenizer, [one.ids for one in asked], longest)
        return [
            {"prompt": one.text, "text": answer} | ({"wanted": one.wanted} if one.wanted else {})
            for one, answer in zip(asked, answers, strict=True)
        ]

    reporting = ReportingCallback(
        job.run,
        loaded.decisions.device.value,
        sample,
        job.room,
        job.stages,
        job.turn,
        ranks=job.ranks,
    )
    return reporting, ScoringCallback(
        config,
        _scorers(job, loaded) if job.ranks.is_first else [],
        sample if asked else None,
        reporting,
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
        examples, remarks = load_examples(config, split, tokenizer=loaded.tokenizer)
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


def _sample_prompts(config: Config, tokenizer: Any, held_out: Tokenised | None) -> list[Asked]:
    """Return the given prompts, or those of the first held-out rows with their wanted answers."""
    from nbft.evaluate.forecast import sampled_prompts
    from nbft.evaluate.prompts import Asked

    if not sampled_prompts(config, has_held_out=held_out is not None):
        return []
    if given := config.evaluation.sample_prompts:
        return list(map(Asked, tokenizer(given)["input_ids"], given))
    if held_out is None:
        return []
    with_prompt = [(n, ids) for n, ids in enumerate(held_out.prompt_ids) if ids]
    return [
        Asked(
            ids,
            tokenizer.decode(ids, skip_special_tokens=False),
            tokenizer.decode(held_out.answer_ids(number), skip_special_tokens=True).strip(),
        )
        for number, ids in with_prompt[: config.evaluation.sample_count]
    ]


def _report_prepared(
    job: _Job,
    loaded: _Loaded,
    model: Any,
    resumption: Resumption | None,
    planned: dict[str, int],
) -> None:
    """Report what will be trained."""
    from nbft.plan.schedule import total_steps, warmup_steps
    from nbft.training.throughput import parameter_counts, summary

    config, rows, decisions = job.config, loaded.rows, loaded.decisions
    method = method_of(config)
    total = total_steps(config, rows.sequences)
    parameters, trained = parameter_counts(model)
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
        trainable_parameters=trained,
        total_parameters=parameters,
        measures=[asdict(measure) for measure in method.measures_of(config)],
        **method.known_of_rows(rows.known, rows.held_out),
        **({"resumed_step": resumption.step} if resumption else {}),
        **planned,
    )
    if resumption:
        job.say(f"Resuming from step {resumption.step:,} …")
    if config.logging.log_model_summary:
        with replacing(job.run / "model.txt") as path:
            path.write_text(summary(model), encoding="utf-8")


def _save(job: _Job, trainer: Any, tokenizer: Any, reporting: ReportingCallback) -> dict[str, str]:
    """Save the result; return {"adapter" or "model": its folder}.

    Where the system ends the process soon, a model is left to the checkpoint. Of several processes
    the first saves, and the others help it to gather a sharded model.
    """
    from nbft.training.saving import saved_bytes

    config = job.config
    if not (config.checkpoint.save_final_model and config.training.do_train):
        return {}
    what = "adapter" if config.peft.trains_adapter else "model"
    needed = EVENTS_BYTES + saved_bytes(trainer.model)
    is_left = reporting.is_urgent and (what == "model" or not job.room.has(needed))
    if job.ranks.agree(is_left):
        return {}
    target = job.run / what
    step = int(trainer.state.global_step)
    reporting.begin("saving", step, f"Saving the {what} …")

    def save() -> None:
        with replacing(target, is_alone=True) as partial:
            trainer.save_model(str(partial))
            tokenizer.save_pretrained(partial)

    with trainer.gathered():
        if job.ranks.is_first:
            job.room.write(save, step, needed)
    job.stages.end(step)
    return {what: target.name}


def _saved_step(config: Config, trainer: Any) -> int:
    """Return the step of the saved model; earlier than the last for the best checkpoint."""
    best = trainer.state.best_model_checkpoint
    if config.checkpoint.load_best_model_at_end and best:
        return step_of(Path(best))
    return int(trainer.state.global_step)
