"""`make_plan`: what a config will lead to, before anything is trained."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.config import Config, settings
from nbft.config.code import forbidden
from nbft.config.io import resolve, without_indices
from nbft.consent import Code
from nbft.data.budget import token_batches
from nbft.data.chat import answers
from nbft.data.examples import Example, Examples, in_words_by_answer, load_examples
from nbft.data.lengths import KEPT_SHARES, column_lengths, enough_for, enough_in_words
from nbft.data.packing import bins, wrapped_count
from nbft.data.rendering import PlainTemplate
from nbft.data.roles import Roles, changes_of, guess, unused
from nbft.data.sources import columns_of, spread
from nbft.data.turns import text_of
from nbft.decisions import Decisions, decide, devices_needed, fast_path
from nbft.errors import ConfigError, DataError, NbftError, Problem
from nbft.evaluate.forecast import (
    answer_tokens,
    scored_steps,
    scoring_problems,
    scoring_remark,
    writing_seconds,
)
from nbft.formatting import count, size
from nbft.hardware import (
    Choice,
    available_devices,
    free_memory_bytes,
    other_use,
)
from nbft.hardware import assumptions as assumptions_of_device
from nbft.methods import SUITS, Method, method_of
from nbft.models.adapters import base_name
from nbft.models.find import find_described, find_local, find_tokenizer
from nbft.models.peft_types import peft_type_of
from nbft.models.templates import chosen_template, model_template, special_tokens
from nbft.plan import schedule
from nbft.plan.checks import check
from nbft.plan.cluster import planning_for_node
from nbft.plan.disk import DiskUse, disk_use
from nbft.plan.guidance import guidance
from nbft.plan.largest import Largest, largest
from nbft.plan.memory import (
    Shape,
    fullest_batch,
    memory_bytes,
    memory_parts,
    shape_for,
    trainable_parameters,
    weight_bytes,
)
from nbft.plan.model_checks import QUANTISING, adapter_remarks, model_remarks
from nbft.plan.problems import error, is_installed, warning, with_values, without_contradictions
from nbft.plan.ranges import (
    PROBED_MEMORY,
    PROBED_TIME,
    TIME_MARGIN,
    Range,
    assumptions,
    budget_remarks,
    costs_in_words,
    energy_kwh,
    gpu_seconds,
    memory_range,
    power_watts,
)
from nbft.plan.rates import with_its_rate
from nbft.plan.rehearsal import probe as probe_step
from nbft.plan.rehearsal import probed_parts, simulate, simulated_parts
from nbft.plan.reward_checks import reward_problems
from nbft.plan.several import can_shard, is_several, settled, several_remarks
from nbft.plan.stages import in_words, stage_seconds
from nbft.plan.step_time import training_seconds
from nbft.plan.tokenizer import read_tokenizer
from nbft.plan.training_checks import cost_remark, cost_usd, rented_seconds
from nbft.reading import stamp
from nbft.redaction import redact_text

_LENGTH_MARGIN = 0.05
"""How far the tokens may be off: the rows that are counted stand for all."""

_CHARACTER_MARGIN = 0.35
"""The same without a tokenizer, where four characters count as a token."""

_ROWS_MEASURED = 200
"""Rows whose tokens are counted for an estimate."""

_LENGTHS_CHECKED = 5000
"""Rows whose length in a column is looked at."""

_ROWS_PACKED = 5000
"""Rows that are packed for an estimate."""

_ROWS_GLANCED_AT = 20
"""Rows by which a template is judged."""


@dataclass(frozen=True)
class Plan:
    """What a run will be. Numbers that are not known yet are None.

    Attributes:
        problems: Errors and warnings, in the order of the settings.
        decisions: Device, number types and parts of the fast path, each with its reason.
        effective_batch_size: Rows a step learns from.
        train_rows, eval_rows: Rows of the two splits.
        steps_per_epoch, total_steps, warmup_steps: Optimiser steps.
        tokens: Tokens in all steps together; an estimate.
        trainable_parameters, total_parameters: Counts.
        memory_bytes: Most memory held at once; an estimate.
        memory_parts: What it consists of, by the names in `nbft.plan.memory.MARGINS`.
        memory_source: Where it is from: formula, simulation or probe.
        ranges: Lowest and highest value expected of memory_bytes, tokens, seconds and energy_kwh.
        assumptions: What the numbers assume, in sentences.
        free_memory_bytes: Memory free on the device now.
        disk_bytes: Most that is on the run's disk at once; an estimate.
        seconds: Time of the whole run; an estimate.
        stages: Seconds of each stage, by its name in `nbft.plan.stages`; an estimate.
        energy_kwh: Energy of the whole run, the mean of its range; an estimate.
        cost_usd: Lowest and highest cost, by the provider's prices; an estimate.
        devices: How many devices of its kind the run takes.
        device_use: What else uses the device now, in words; "" if nothing is known.
        config: The config.
        lengths_tokens: Lengths of some training sequences.
    """

    problems: list[Problem]
    decisions: Decisions
    effective_batch_size: int
    free_memory_bytes: int
    train_rows: int | None = None
    eval_rows: int | None = None
    steps_per_epoch: int | None = None
    total_steps: int | None = None
    warmup_steps: int | None = None
    tokens: int | None = None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    memory_bytes: int | None = None
    memory_parts: dict[str, int] = field(default_factory=dict)
    memory_source: str = "formula"
    disk_bytes: int | None = None
    seconds: int | None = None
    stages: dict[str, float] = field(default_factory=dict)
    energy_kwh: float | None = None
    cost_usd: tuple[float, float] | None = None
    ranges: dict[str, Range] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    devices: int = 1
    device_use: str = field(default="", compare=False)
    config: Config = field(default_factory=Config, repr=False)
    lengths_tokens: tuple[int, ...] = field(default=(), repr=False, compare=False)

    @property
    def device(self) -> Choice:
        """Where it trains."""
        return self.decisions.device

    @property
    def dtype(self) -> Choice:
        """Number type of the weights."""
        return self.decisions.dtype

    @property
    def mixed_precision(self) -> Choice:
        """Number type of the computation."""
        return self.decisions.mixed_precision

    @property
    def fast_path(self) -> Choice:
        """Whether parts of the fast path apply: on, in part or off, and why not all."""
        return fast_path(self.decisions.parts)

    @property
    def time(self) -> str:
        """How long it takes, by stage, in words; "" if that is not known."""
        return f"about {in_words(self.stages)}" if self.stages else ""

    @property
    def largest(self) -> dict[str, Largest]:
        """The largest batch, row and model that fit here with the other settings as they are."""
        return largest(self)

    @property
    def costs(self) -> list[str]:
        """What the run takes, a sentence each: memory with its parts, tokens, time and energy."""
        return list(costs_in_words(self))

    @property
    def errors(self) -> list[Problem]:
        """The problems that stop a run."""
        return [p for p in self.problems if p.level == "error"]

    @property
    def cautions(self) -> str:
        """What the time leaves out: a download, and other work on the device. Sentences, or ""."""
        found = find_local(base_name(self.config), self.config.model.model_revision)
        model = "" if found else f" {self.config.model.model_name} is downloaded first."
        use = self.device_use[:1].upper() + self.device_use[1:]
        return model + (f" {use}, so the run may take several times as long." if use else "")

    @property
    def warnings(self) -> list[Problem]:
        """The problems that do not stop a run."""
        return [p for p in self.problems if p.level == "warning"]

    def needed_bytes(self, config: Config) -> int | None:
        """Estimate the memory of a changed config on the same rows; None if it is not known.

        What a simulation or a probe found for this config counts for the changed one as well.
        """
        folder = find_described(base_name(config), config.model.model_revision)
        shape = shape_for(config, folder)
        if shape is None or not self.memory_bytes:
            return None
        decisions = decide(config)
        needed = memory_bytes(config, shape, self.lengths_tokens, decisions)
        needed *= _sharing_memory(config, decisions)
        if self.memory_source == "formula":
            return needed
        own = memory_bytes(self.config, shape, self.lengths_tokens, self.decisions)
        return round(needed * self.memory_bytes / own)

    def simulate(self) -> Plan:
        """Return this plan with the memory of a simulated training step, in about 15 seconds.

        Nothing is loaded or trained: the tensors of the step have shapes and no contents.

        Raises:
            ConfigError: The config names code that its user has not allowed.
            NbftError: The step cannot be simulated; says why.
        """
        self._check_rehearsal("simulated")
        rows = fullest_batch(self.config, self.lengths_tokens, self.decisions)
        found = simulate(self.config, rows)
        parts = simulated_parts(self.memory_parts, found, is_quantised=self._is_quantised)
        return self._with_memory(parts, "simulation", found.assumption)

    def probe(self) -> Plan:
        """Return this plan with the memory and time of real steps, which keep nothing.

        Two steps each on the fullest and on a typical batch, in a process of their own.

        Raises:
            ConfigError: The config names code that its user has not allowed.
            NbftError: The steps fail; says why.
        """
        self._check_rehearsal("probed")
        fullest = fullest_batch(self.config, self.lengths_tokens, self.decisions)
        lengths = sorted(self.lengths_tokens)
        typical = [lengths[int(n)] for n in spread(len(lengths), len(fullest))]
        typical += lengths[-1:] * (len(fullest) - len(typical))
        found = probe_step(self.config, fullest, typical)
        parts = probed_parts(self.memory_parts, found)
        plan = self._with_memory(parts, "probe", "")
        plan.assumptions[:] = ["Memory and time are those of a few real steps."]
        low, high = (found.peak_bytes * (1 + part) for part in (-PROBED_MEMORY, PROBED_MEMORY))
        plan.ranges["memory_bytes"] = low, high
        if not self.total_steps:
            return plan
        a_step = found.step_seconds(self.config.training.gradient_accumulation_steps)
        stages = self.stages | {"training": round(a_step * self.total_steps, 2)}
        others = sum(stages.values()) - stages["training"]
        low, high = (
            stages["training"] * (1 + part * PROBED_TIME) + others * (1 + part * TIME_MARGIN)
            for part in (-1, 1)
        )
        plan.ranges["seconds"] = low, high
        device, total = self.device.value, sum(stages.values())
        if watts := power_watts(device, available_devices().get(device, "")):
            plan.ranges["energy_kwh"] = energy_kwh((low, high), watts)
        cost = cost_usd(self.config, total)
        return replace(
            plan,
            stages=stages,
            seconds=round(total),
            energy_kwh=sum(plan.ranges.get("energy_kwh", ())) / 2 or None,
            cost_usd=cost,
        )

    def _check_rehearsal(self, done: str) -> None:
        """Refuse what cannot be run in a process of its own, or may not be."""
        if is_several(self.config):
            raise NbftError(f"A step of several processes cannot be {done} yet.")
        if blocked := forbidden(self.config):
            raise ConfigError([code.problem for code in blocked])
        if not self.lengths_tokens:
            raise NbftError(f"Nothing can be {done} without training rows.")

    @property
    def _is_quantised(self) -> bool:
        return self.config.quantization.bits is not None

    def _with_memory(self, parts: dict[str, int], source: str, assumption: str) -> Plan:
        plan = replace(
            self,
            memory_parts=parts,
            memory_bytes=sum(parts.values()),
            memory_source=source,
            ranges=self.ranges | {"memory_bytes": memory_range(parts)},
            assumptions=[*self.assumptions, assumption],
            problems=[problem for problem in self.problems if not is_about_size(problem)],
        )
        plan.problems.extend(_size_problems(plan))
        plan.problems.sort(key=_position)
        return plan

    def learning_rates(self, points: int = 200) -> list[tuple[int, float]]:
        """Return (step, learning rate) at up to `points` steps, including the first and last."""
        has_shape = all(p.field != "scheduler.lr_scheduler_kwargs" for p in self.errors)
        if not (self.total_steps and has_shape):
            return []
        rate = schedule.learning_rate_at(self.config, self.total_steps)
        last = self.total_steps
        steps = sorted({round(n * last / max(1, points - 1)) for n in range(points)})
        return [(step, rate(step)) for step in steps]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values, for plan.json."""
        left_out = ("config", "problems", "decisions", "lengths_tokens")
        names = [f.name for f in fields(self) if f.name not in left_out]
        kept = {name: getattr(self, name) for name in names}
        listed = {name: list(value) for name, value in kept.items() if isinstance(value, tuple)}
        return {
            **kept,
            **listed,
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            **self.decisions.to_dict(),
            "fast_path": asdict(self.fast_path),
            "warnings": [str(problem) for problem in self.warnings],
        }


def make_plan(config: Config, *, folder: Path | None = None) -> Plan:
    """Work out what a config will lead to.

    Reads the rows and the model's header and loads no model. Uses the network only for rows on the
    hub. Mistakes in the config become `Problem`s in the result, never exceptions.

    Args:
        config: The config.
        folder: Folder of the config file, for relative paths.
    """
    with planning_for_node(config) as remarks:
        plan = _make_plan(config, folder)
    plan.remarks[:0] = remarks
    return plan


def _make_plan(config: Config, folder: Path | None) -> Plan:
    blocked = forbidden(config, folder)
    given, settled_remarks = settled(config)
    config = _without_components(given, blocked)
    found = find_local(base_name(config), config.model.model_revision)
    tokenizer = find_tokenizer(config.model, found.path if found else None)
    model = find_described(base_name(config), config.model.model_revision)
    method, decisions = method_of(config), decide(config, model)
    device = decisions.device
    problems = [code.problem for code in blocked]
    remarks = [*assumptions_of_device(device.value), *settled_remarks, *model_remarks(config)]
    remarks += [*adapter_remarks(config, decisions), *method.remarks(config)]
    if model and not found:
        name = config.model.model_name
        remarks.append(f"{name} is downloaded first, once; the time does not include that.")
    examples: dict[str, Examples] = {}
    for split in ("train", "validation"):
        try:
            examples[split], notes = read_examples(config, split, folder)
            remarks += [*examples[split].recognised, *notes]
        except DataError as error:
            problems += [
                p if isinstance(p, Problem) else Problem("data", None, p) for p in error.problems
            ]
    if "train" in examples:
        problems += _length_column(config, examples["train"])
        problems += _glued(config, examples["train"])
        problems += method.problems_of_rows(config, examples["train"])
        remarks += method.remarks_of_rows(config, examples["train"])
        problems += _unused(config, examples["train"])
        problems += _only_good_answers(config, examples["train"])
    problems += scoring_problems(config, examples.get("validation"), folder=folder)
    if method.generates:
        problems += reward_problems(config, examples.get("train"), model, folder)
        most = count(config.grpo.max_completion_length, "token")
        remarks.append(f"Time and memory are for answers of {most} each; shorter ones take less.")
    shape = shape_for(config, model)
    kept: list[int] = []
    numbers: dict[str, Any] = {}
    ranges: dict[str, Range] = {}
    own_problems: list[Problem] = []
    if "train" in examples:
        examples["train"], rows, notes = _by_answer(examples["train"], config, tokenizer, folder)
        remarks += notes
        shares = decisions.uses("shared_prompt")
        lengths = token_lengths(examples["train"], method, tokenizer, shares_prompt=shares)
        limit = config.data.max_length
        cut = sum(length > limit for length in lengths)
        kept = method.trained_lengths(config, [min(length, limit) for length in lengths])
        sequences = _sequences(config, kept, rows, decisions)
        numbers |= _numbers_of_rows(config, examples, rows, sequences, own_problems)
        a_row = sum(kept) / len(kept) * len(method.sequences)
        a_sequence = a_row * rows / sequences
        total = numbers["total_steps"]
        batch = schedule.rows_per_batch(config)
        seen = total * batch * config.training.gradient_accumulation_steps
        seen *= config.distributed.data_parallel_size
        if not examples["train"].is_stream and not method.generates:
            seen = min(seen, total * sequences)
            if config.training.max_steps <= 0:
                seen = min(seen, round(sequences * config.training.num_train_epochs))
        numbers["tokens"] = round(seen * a_sequence)
        margin = _LENGTH_MARGIN if tokenizer else _CHARACTER_MARGIN
        ranges["tokens"] = tuple(numbers["tokens"] * (1 + part) for part in (-margin, margin))
        if config.data.packing:
            kept = [limit]
        if cut > 0.05 * len(lengths):
            own_problems.append(_truncated(lengths, cut))
        if shape:
            parts = memory_parts(config, shape, kept, decisions)
            each = _sharing_memory(config, decisions)
            parts = {name: part * each for name, part in parts.items()}
            numbers |= {"memory_parts": parts, "memory_bytes": sum(parts.values())}
            ranges["memory_bytes"] = memory_range(parts)
    if shape:
        numbers["trainable_parameters"] = trainable_parameters(config, shape)
        numbers["total_parameters"] = shape.parameters
    use = None
    if shape and "total_steps" in numbers:
        use = disk_use(
            config,
            shape,
            decisions,
            tokenizer,
            total_steps=numbers["total_steps"],
            steps_per_epoch=numbers["steps_per_epoch"],
        )
        numbers["disk_bytes"] = use.total_bytes
        numbers |= _times(config, shape, decisions, use, examples, numbers, a_row, kept)
        watts = power_watts(device.value, available_devices().get(device.value, ""))
        if (seconds := numbers.pop("seconds_range", None)) is not None:
            ranges["seconds"] = seconds
            if watts is not None:
                ranges["energy_kwh"] = energy = energy_kwh(seconds, watts)
                numbers["energy_kwh"] = sum(energy) / 2
        about = numbers["seconds"], numbers["tokens"], numbers["total_steps"]
        remarks += budget_remarks(config, *about, watts)
        is_here = config.compute.provider == "local"
        rented = rented_seconds(shape.parameters, numbers["tokens"])
        numbers["cost_usd"] = cost_usd(config, numbers["seconds"] if is_here else rented)
        remarks += cost_remark(config, numbers["cost_usd"])
    problems += check(config, decisions, folder, use)
    if "total_steps" in numbers and (kind := peft_type_of(config)) is not None:
        problems += kind.step_problems(config.peft, numbers["total_steps"])
    is_known = shape is not None and not shape.is_assumed
    if is_known and numbers["trainable_parameters"] == 0 and config.model.model_type == "hf":
        named = ("peft.target_modules", "model.freeze_layers")
        if not any(problem.field in named for problem in problems):
            assert shape is not None
            own_problems.append(_nothing_to_train(config, [name for name, *_ in shape.layers]))
    if "train" in examples:
        steps = scored_steps(config, numbers["total_steps"], numbers["steps_per_epoch"])
        held_out: Sequence[Example] = examples.get("validation", ())
        remarks += scoring_remark(config, held_out, steps)
        remarks += several_remarks(config, decisions, numbers)
        if held_out and config.evaluation.eval_strategy == "no":
            held = count(len(held_out), "held-out row")
            remarks.append(f"No loss of the {held} is measured: evaluation.eval_strategy is no.")
    devices = devices_needed(config, device.value)
    free = free_memory_bytes(device.value, devices)
    plan = Plan(
        problems=list(
            {str(p): p for p in [*problems, *with_values(own_problems, config)]}.values()
        ),
        decisions=decisions,
        effective_batch_size=_rows_per_step(config, numbers),
        free_memory_bytes=max(0, free),
        ranges=ranges,
        assumptions=list(assumptions(config, shape, decisions, free)),
        devices=devices,
        device_use=other_use(device.value),
        lengths_tokens=tuple(kept),
        remarks=list(dict.fromkeys(map(redact_text, remarks))),
        config=given,
        **numbers,
    )

    plan.problems.extend(_size_problems(plan))
    for advice in guidance(plan):
        if all(problem.field != advice.field for problem in plan.problems):
            plan.problems.append(advice)
    plan.problems[:] = sorted(without_contradictions(plan.problems), key=_position)
    return plan


def probe(config: Config, *, folder: Path | None = None) -> Plan:
    """Train two steps each on the fullest and on a typical batch, and plan the run by them.

    Args:
        config: The config.
        folder: Folder of the config file, for relative paths.

    Raises:
        ConfigError: The config cannot run.
        NbftError: The steps fail; says why.
    """
    plan = make_plan(config, folder=folder)
    if plan.errors:
        raise ConfigError(plan.errors)
    return plan.probe()


def _position(problem: Problem) -> int:
    """Return the position of a problem's setting among all settings."""
    path = without_indices(problem.field)
    paths = (n for n, s in enumerate(settings()) if f"{s.path}.".startswith(f"{path}."))
    return next(paths, len(settings()))


def _by_answer(
    examples: Examples, config: Config, model: Path | None, folder: Path | None
) -> tuple[Examples, int, list[str]]:
    """Return examples, how many there are, and a sentence where each answer becomes one.

    Of many, some are looked at.
    """
    try:
        text = chosen_template(config.model, folder) or (model and model_template(model))
        some = examples.take(spread(len(examples), _CONVERSATIONS))
        template = PlainTemplate(text or "", special_tokens(model), _special(model))
        split = some.by_answer(template)
    except NbftError:  # said by the check of the model
        return examples, len(examples), []
    if split is some:
        return examples, len(examples), []
    rows = round(len(split) * len(examples) / len(some))
    about = "about " if len(some) < len(examples) else ""
    return split, rows, [in_words_by_answer(len(examples), rows, about)]


_CONVERSATIONS = 5_000


def _numbers_of_rows(
    config: Config,
    examples: dict[str, Examples],
    rows: int,
    sequences: int,
    problems: list[Problem],
) -> dict[str, Any]:
    total = schedule.total_steps(config, sequences)
    warmup = schedule.warmup_steps(config, total)
    if config.data.dataloader_drop_last and sequences < schedule.rows_per_batch(config):
        batch = config.training.per_device_train_batch_size
        why = f"drops the only batch: there are {sequences:,} rows, and a batch has {batch:,}."
        problems.append(error("data.dataloader_drop_last", why, use=False))
    if config.scheduler.lr_scheduler_type != "constant" and warmup >= total:
        usual = 0.05 if schedule.warmup_steps(config, total, 0.05) < total else 0.0
        problems.append(
            warning(
                "scheduler.warmup_steps",
                f"warms up for {count(warmup, 'step')}, but the run has {count(total, 'step')}, so "
                "the learning rate never reaches its full value.",
                "Use 0.05, which is 5% of the steps." if usual else "Use 0.",
                use=usual,
            )
        )
    return {
        "train_rows": None if examples["train"].is_stream else rows,
        "eval_rows": len(examples.get("validation", [])),
        "steps_per_epoch": schedule.steps_per_epoch(config, sequences),
        "total_steps": total,
        "warmup_steps": warmup,
    }


def _times(
    config: Config,
    shape: Shape,
    decisions: Decisions,
    use: DiskUse,
    examples: dict[str, Examples],
    numbers: dict[str, Any],
    row_tokens: float,
    lengths: Sequence[int],
) -> dict[str, Any]:
    """Estimate how long the run and its stages take; on a GPU only its training steps."""
    training = training_seconds(
        config,
        shape,
        decisions,
        tokens=numbers["tokens"],
        steps=numbers["total_steps"],
        lengths=lengths,
    )
    if training is not None:
        weights = weight_bytes(config, shape, decisions.dtype.value)
        training += writing_seconds(config, weights, numbers["total_steps"])
    if training is None:
        if (found := gpu_seconds(config, shape, numbers["tokens"], decisions)) is None:
            return {"seconds": None}
        seconds, seconds_range = found
        return {
            "seconds": round(seconds),
            "stages": {"training": round(seconds, 1)},
            "seconds_range": seconds_range,
        }
    stages = stage_seconds(
        config,
        training_seconds=training,
        tokens=numbers["tokens"],
        row_tokens=row_tokens,
        rows=numbers["train_rows"] or 0,
        eval_rows=numbers["eval_rows"],
        answer_tokens=answer_tokens(config, examples.get("validation", ())),
        weight_bytes=weight_bytes(config, shape, decisions.dtype.value),
        use=use,
        total_steps=numbers["total_steps"],
        steps_per_epoch=numbers["steps_per_epoch"],
    )
    total = sum(stages.values())
    seconds_range = (total / (1 + TIME_MARGIN), total * (1 + TIME_MARGIN))
    return {"seconds": round(total), "stages": stages, "seconds_range": seconds_range}


def _sharing_memory(config: Config, decisions: Decisions) -> int:
    """Return how many processes share the memory of the device: on a CPU all of a run."""
    return config.distributed.processes if decisions.device.value == "cpu" else 1


def _rows_per_step(config: Config, numbers: dict[str, Any]) -> int:
    """Return the rows of a step; a mean where batches are made by their tokens."""
    groups = config.distributed.data_parallel_size
    accumulated = config.training.gradient_accumulation_steps * groups
    if config.data.max_tokens_per_batch is None or "steps_per_epoch" not in numbers:
        return config.training.per_device_train_batch_size * accumulated
    return max(1, round(int(numbers["train_rows"]) / int(numbers["steps_per_epoch"])))


def _sequences(config: Config, lengths: Sequence[int], rows: int, decisions: Decisions) -> int:
    """Estimate the sequences of an epoch: the rows, or what they are packed or batched into.

    Args:
        config: Its data section describes the packing.
        lengths: Tokens of some rows, at least one.
        rows: Number of rows.
        decisions: Whether batches are padded.
    """
    if not config.data.packing and config.data.max_tokens_per_batch is None:
        return rows
    limit, strategy = config.data.max_length, config.data.packing_strategy
    some = [lengths[n % len(lengths)] for n in range(min(rows, _ROWS_PACKED))]
    if (budget := config.data.max_tokens_per_batch) is not None:
        batches = token_batches(some, budget, is_padded=not decisions.padding_free)
        return max(1, round(len(batches) * rows / len(some)))
    packed = (
        wrapped_count(some, limit) if strategy == "wrapped" else len(bins(some, limit, strategy))
    )
    return max(1, round(packed * rows / len(some)))


def _without_components(config: Config, blocked: Sequence[Code]) -> Config:
    """Return a config with the usual components in place of those that may not be imported."""
    usual = {setting.path: setting.default for setting in settings() if setting.keys is not None}
    paths = [code.setting for code in blocked if without_indices(code.setting) in usual]
    return config.apply({path: usual[without_indices(path)] for path in paths}) if paths else config


def read_examples(config: Config, split: str, folder: Path | None) -> tuple[Examples, list[str]]:
    """Read a split, or return it from a cache when neither settings nor files have changed."""
    datasets = [dataset for _, dataset in config.data.named_datasets()]
    if any(
        d.rows is not None
        or d.prompt_func
        or d.completion_func
        or registry.datasets.is_own(d.dataset_type)
        for d in datasets
    ):
        return load_examples(config, split, folder=folder)
    paths = [resolve(dataset.path, folder) for dataset in datasets if dataset.path]
    stamps: list[Any] = []
    for path in paths:
        try:
            stamps.append((path, stamp(path)))
        except (OSError, ValueError):  # reading it says why
            return load_examples(config, split, folder=folder)
    data = json.dumps(config.to_dict(full=True)["data"])
    training = config.training.method, config.training.seed
    return _cached_examples(data, training, split, folder, tuple(stamps))


@functools.lru_cache(maxsize=4)
def _cached_examples(
    data: str, training: tuple[str, int], split: str, folder: Path | None, stamps: tuple[Any, ...]
) -> tuple[Examples, list[str]]:
    about = dict(zip(("method", "seed"), training, strict=True))
    config = Config(data=json.loads(data), training=about)
    return load_examples(config, split, folder=folder)


def token_lengths(
    examples: Examples, method: Method, folder: Path | None, *, shares_prompt: bool = False
) -> list[int]:
    """Return the lengths in tokens of the sequences of some examples, spread over all of them.

    Args:
        examples: The examples, at least one.
        method: Decides which sequences an example gives.
        folder: Folder of the tokenizer; four characters count as a token without one.
        shares_prompt: Whether all sequences but the first are computed without their prompt.
    """
    sample = [examples[int(number)] for number in spread(len(examples), _ROWS_MEASURED)]
    if method.generates:  # answers are not read
        sample = [
            replace(one, completion="", messages=one.messages[: (answers(one.messages) or [0])[-1]])
            for one in sample
        ]
    texts = [
        _computed(text, without_prompt=shares_prompt and n > 0)
        for n, sequence in enumerate(method.texts(sample).values())
        for text in sequence
    ]
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        return [len(text) // 4 + 1 for text in texts]
    begun = [text[:_MEASURED_CHARACTERS] for text in texts]  # the rest has as many for its length
    every = zip(texts, begun, tokenizer.encode_batch(begun), strict=True)
    return [round(len(e.ids) * len(text) / max(1, len(part))) + 1 for text, part, e in every]


def _computed(example: Example, *, without_prompt: bool) -> str:
    """Return the text of an example that is computed; without its prompt only what is trained on."""
    turns = example.messages
    if without_prompt:
        turns = tuple(turn for turn in turns if turn.get("trained") is not False)
    prompt = "" if without_prompt else example.prompt
    return prompt + example.completion + "\n".join(map(text_of, turns))


_MEASURED_CHARACTERS = 20_000


def _special(folder: Path | None) -> list[str]:
    """Return the texts of the special tokens of a model's tokenizer."""
    tokenizer = read_tokenizer(folder)
    added = tokenizer.get_added_tokens_decoder().values() if tokenizer else ()
    return [token.content for token in added if token.special]


def _glued(config: Config, examples: Examples) -> Iterator[Problem]:
    """Warn of prompt templates after which the answer follows without a space or line break."""
    for part, dataset in zip(examples.parts, config.data.train.datasets, strict=True):
        first = [part.example(n) for n in range(min(len(part.numbers), _ROWS_GLANCED_AT))]
        if dataset.prompt_template and first and all(example.is_glued for example in first):
            field = f"{part.field}.prompt_template"
            yield warning(
                field,
                "ends without a space or line break, so prompt and answer become one word: "
                f"“…{first[0].prompt[-20:]}{first[0].completion[:20]}…”.",
                "End it with a line break.",
                {field: f"{dataset.prompt_template}\n"},
                value=dataset.prompt_template,
            )


def _unused(config: Config, examples: Examples) -> Iterator[Problem]:
    """Warn where all of a text is trained on, and a column beside it may be the answer to it."""
    for part, dataset in zip(examples.parts, config.data.train.datasets, strict=True):
        columns = columns_of(part.rows)
        few = [part.rows[n] for n in range(min(len(part.rows), _ROWS_GLANCED_AT))]
        roles, _ = guess(columns, few) if part.format == "plain text" else (Roles(), False)
        if (column := unused(part.format, roles)) and not dataset.columns:
            changes = changes_of(roles, dataset, columns)
            yield warning(
                part.field,
                f"all of {roles.prompt} is trained on as plain text; the column {column} is not used.",
                f"If {roles}, use its columns as such.",
                {f"{part.field}.{name}": value for name, value in changes.items()},
            )


def _only_good_answers(config: Config, examples: Examples) -> Iterator[Problem]:
    """Warn where rows hold bad answers too, and the method learns from the good ones only.

    Not where a config asks for the method: to train on the good answers first is usual.
    """
    if method_of(config).uses_labels or "method" in config.training.model_fields_set:
        return
    for part in examples.parts:
        if (suits := SUITS[part.kind]) == "sft":
            continue
        what = {"dpo": "a worse answer beside each", "kto": "answers that are labelled bad"}
        changes = with_its_rate(config, {"training.method": suits})
        rate = changes.get("training.learning_rate")
        at = f", at a learning rate of {rate:g}" if rate else ""
        yield warning(
            "training.method",
            f"trains on the good answers only; the rows hold {what[suits]}, too.",
            f"Use {suits}{at} to learn from both.",
            changes,
            value=config.training.method,
        )
        return


def _length_column(config: Config, examples: Examples) -> Sequence[Problem]:
    """Check that the rows have the lengths by which they are grouped."""
    data = config.data
    is_column = data.length_column_name not in ("input_ids", "labels")
    by_length = data.train_sampling_strategy == "group_by_length"
    if not (is_column and by_length) or data.packing or examples.is_stream:
        return ()
    numbers = map(int, spread(len(examples), _LENGTHS_CHECKED))
    try:
        column_lengths(examples, numbers, data.length_column_name)
    except DataError as error:
        return [problem for problem in error.problems if isinstance(problem, Problem)]
    return ()


def _truncated(lengths: list[int], cut: int) -> Problem:
    enough = enough_for(lengths, KEPT_SHARES[-1])
    return warning(
        "data.max_length",
        f"truncates about {cut / len(lengths):.0%} of the rows; "
        f"{enough_in_words(lengths, about='about ')}",
        f"Use {enough}; memory and time grow with it.",
        use=enough,
    )


def _nothing_to_train(config: Config, layers: list[str]) -> Problem:
    if config.model.freeze_layers:
        return error(
            "model.freeze_layers", "leaves nothing to train.", "Name fewer layers.", use=[]
        )
    known = sorted({name.rsplit(".", 1)[-1] for name in layers})
    return error(
        "peft.target_modules",
        "matches no layer of the model, so nothing would be trained.",
        f"Use all-linear, or some of {', '.join(known)}.",
        use=["all-linear"],
    )


def _size_problems(plan: Plan) -> list[Problem]:
    if not plan.memory_bytes or not plan.memory_bytes > plan.free_memory_bytes > 0:
        return []
    return list(with_values([_too_large(plan)], plan.config))


_TOO_LARGE = re.compile(r"needs about .* free\.")


def is_about_size(problem: Problem) -> bool:
    """Whether a problem is that the run needs more memory than the device has free."""
    return _TOO_LARGE.match(problem.why) is not None


def _too_large(plan: Plan) -> Problem:
    """Propose the largest batch that fits, or else other ways to use less memory."""
    assert plan.memory_bytes is not None
    config = plan.config
    rows = plan.effective_batch_size // config.distributed.data_parallel_size

    def batches_of(batch: int) -> dict[str, Any]:
        return {
            "training.per_device_train_batch_size": batch,
            "training.gradient_accumulation_steps": rows // batch,
        }

    ways: list[tuple[str, dict[str, Any]]] = [
        (
            f"Use {batch} with gradient_accumulation_steps={rows // batch} (same effective batch)",
            batches_of(batch),
        )
        for batch in range(config.training.per_device_train_batch_size - 1, 0, -1)
        if rows % batch == 0
    ]
    checkpointing = {"memory.gradient_checkpointing": True}
    single = checkpointing | batches_of(1)
    ways += [
        ("Turn memory.gradient_checkpointing on (PEFT Studio)", checkpointing),
        (
            f"Use 1 with gradient_accumulation_steps={rows} and checkpointing (PEFT Studio)",
            single,
        ),
    ]
    is_copied = is_several(config) and not config.distributed.shards
    if is_copied and can_shard(config, plan.decisions):
        sharded = {"distributed.fsdp": "full_shard"}
        ways.insert(0, ("Shard the model with distributed.fsdp=full_shard", sharded))
    if is_installed("bitsandbytes") and plan.device.value in QUANTISING:
        in_4_bits = with_its_rate(
            config, {"peft.method": "lora", "quantization.load_in_4bit": True}
        )
        ways.append(("Use QLoRA with batch 1 and checkpointing (PEFT Studio)", single | in_4_bits))
    fitting = [
        (f"{words}, about {size(needed)}", changes)
        for words, changes in ways
        if (needed := _needed(plan, changes)) <= plan.free_memory_bytes
    ][:_WAYS_OFFERED]
    if not fitting:
        fitting = [("Choose a smaller model, or a device with more memory", {})]
    (first, changes), *others = fitting
    fix = "; or ".join([first, *(f"{words[0].lower()}{words[1:]}" for words, _ in others)])
    # Within the uncertainty of the estimate it may fit after all.
    is_certain = plan.ranges["memory_bytes"][0] > plan.free_memory_bytes
    return error(
        "training.per_device_train_batch_size",
        f"needs about {size(plan.memory_bytes)}, but {plan.device.value} has "
        f"{size(plan.free_memory_bytes)} free.",
        f"{fix}.",
        changes,
        level="error" if is_certain else "warning",
    )


_WAYS_OFFERED = 3


def _needed(plan: Plan, changes: dict[str, Any]) -> float:
    needed = plan.needed_bytes(plan.config.apply(changes))
    return math.inf if needed is None else needed
