"""`make_plan`: what a config will lead to, before anything is trained."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nbft.config import Config, settings
from nbft.config.io import without_indices
from nbft.data.budget import token_batches
from nbft.data.examples import Example, Examples, load_examples
from nbft.data.lengths import KEPT_SHARES, enough_for, enough_in_words
from nbft.data.packing import bins, wrapped_count
from nbft.data.sources import is_there, resolve, spread
from nbft.decisions import Decisions, decide, fast_path
from nbft.errors import DataError, Problem
from nbft.evaluate.forecast import scored_steps, scoring_problems, scoring_remark
from nbft.formatting import count, size
from nbft.hardware import Choice, free_memory_bytes
from nbft.limits import usable_cores
from nbft.methods import Method, method_of
from nbft.models.adapters import base_name
from nbft.models.find import find_local
from nbft.plan import schedule
from nbft.plan.checks import check
from nbft.plan.guidance import guidance
from nbft.plan.memory import memory_bytes, model_shape, trainable_parameters, training_seconds
from nbft.plan.model_checks import model_remarks
from nbft.plan.training_checks import cost_remark, cost_usd, rented_seconds

_ROWS_MEASURED = 200
"""Rows whose tokens are counted for an estimate."""

_ROWS_PACKED = 5000
"""Rows that are packed for an estimate."""


@dataclass(frozen=True)
class Plan:
    """What will happen. Numbers that cannot be known yet are None.

    Attributes:
        problems: Everything found, errors and warnings, in the order of the settings.
        decisions: Device, number types and parts of the fast path, each with its reason.
        effective_batch_size: Rows a step learns from.
        train_rows, eval_rows: Rows of the two splits.
        steps_per_epoch, total_steps, warmup_steps: Optimiser steps.
        tokens: Tokens that all steps see together; an estimate.
        trainable_parameters, total_parameters: Counts.
        memory_bytes: Most memory held at once; an estimate.
        free_memory_bytes: Memory free on the device now.
        seconds: Time of the training steps; an estimate.
        cost_usd: Least and most that they cost, by the provider's prices; an estimate.
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
    seconds: int | None = None
    cost_usd: tuple[float, float] | None = None
    remarks: list[str] = field(default_factory=list)
    config: Config = field(default_factory=Config, repr=False)

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
        """Number type of the computation beside them."""
        return self.decisions.mixed_precision

    @property
    def fast_path(self) -> Choice:
        """Whether parts of the fast path apply: on, in part or off, and why not all."""
        return fast_path(self.decisions.parts)

    @property
    def errors(self) -> list[Problem]:
        """The problems that stop a run."""
        return [p for p in self.problems if p.level == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """The problems that do not."""
        return [p for p in self.problems if p.level == "warning"]

    def learning_rates(self, points: int = 200) -> list[tuple[int, float]]:
        """Return (step, learning rate) at up to so many steps, the first and the last included."""
        if not self.total_steps:
            return []
        rate = schedule.learning_rate_at(self.config, self.total_steps)
        last = self.total_steps
        steps = sorted({round(n * last / max(1, points - 1)) for n in range(points)})
        return [(step, rate(step)) for step in steps]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values, for plan.json."""
        names = [f.name for f in fields(self) if f.name not in ("config", "problems", "decisions")]
        kept = {name: getattr(self, name) for name in names}
        listed = {name: list(value) for name, value in kept.items() if isinstance(value, tuple)}
        return {
            **kept,
            **listed,
            **self.decisions.to_dict(),
            "fast_path": asdict(self.fast_path),
            "warnings": [str(problem) for problem in self.warnings],
        }


def make_plan(config: Config, *, folder: Path | None = None) -> Plan:
    """Work out what a config will lead to.

    Reads the rows and the model's header and loads no model. Asks the network only for rows that
    are on the hub. A person's mistake is a `Problem` in the result, never an exception.

    Args:
        config: The config.
        folder: Folder of the config file, for relative paths.
    """
    found = find_local(base_name(config), config.model.model_revision)
    method, decisions = method_of(config), decide(config, found.path if found else None)
    device, dtype = decisions.device, decisions.dtype
    problems = check(config, decisions)
    remarks = model_remarks(config)
    examples: dict[str, Examples] = {}
    for split in ("train", "validation"):
        try:
            examples[split], said = _examples(config, split, folder)
            remarks += [*examples[split].recognised, *said]
        except DataError as error:
            problems += [
                p if isinstance(p, Problem) else Problem("data", None, p) for p in error.problems
            ]
    problems += scoring_problems(config, examples.get("validation"), folder=folder)
    problems = list({str(p): p for p in problems}.values())
    shape = model_shape(found.path) if found else None
    numbers: dict[str, Any] = {}
    if "train" in examples:
        lengths = token_lengths(examples["train"], method, found.path if found else None)
        limit = config.data.max_length
        kept = [min(length, limit) for length in lengths]
        sequences = _sequences(config, kept, len(examples["train"]), decisions)
        numbers |= _numbers_of_rows(config, examples, sequences, problems)
        a_row = sum(kept) / len(kept) * len(method.sequences)
        a_sequence = a_row * len(examples["train"]) / sequences
        total = numbers["total_steps"]
        batch = schedule.rows_per_batch(config)
        seen = total * batch * config.training.gradient_accumulation_steps
        if not examples["train"].is_stream:
            seen = min(seen, total * sequences)
            if config.training.max_steps <= 0:
                seen = min(seen, round(sequences * config.training.num_train_epochs))
        numbers["tokens"] = round(seen * a_sequence)
        if config.data.packing:
            kept = [limit]
        cut = sum(length > limit for length in lengths)
        if cut > 0.05 * len(lengths):
            problems.append(_cut(lengths, limit, cut))
        if shape:
            numbers["memory_bytes"] = memory_bytes(config, shape, kept, decisions)
            numbers["seconds"] = training_seconds(
                config, shape, numbers["tokens"], decisions, cores=usable_cores()
            )
            is_here = config.compute.provider == "local"
            rented = rented_seconds(shape.parameters, numbers["tokens"])
            numbers["cost_usd"] = cost_usd(config, numbers["seconds"] if is_here else rented)
            remarks += cost_remark(config, numbers["cost_usd"])
    if shape:
        numbers["trainable_parameters"] = trainable_parameters(config, shape)
        numbers["total_parameters"] = shape.parameters
        if numbers["trainable_parameters"] == 0:
            problems.append(_no_target(config, [name for name, *_ in shape.layers]))
    if "train" in examples:
        steps = scored_steps(config, numbers["total_steps"], numbers["steps_per_epoch"])
        parameters = shape.parameters if shape else None
        held_out: Sequence[Example] = examples.get("validation", ())
        chosen = (device.value, dtype.value)
        remarks += scoring_remark(config, held_out, steps, parameters, *chosen)
    plan = Plan(
        problems=sorted(problems, key=_place),
        decisions=decisions,
        effective_batch_size=_rows_per_step(config, numbers),
        free_memory_bytes=free_memory_bytes(device.value),
        remarks=list(dict.fromkeys(remarks)),
        config=config,
        **numbers,
    )

    def needed(changed: Config) -> int:
        assert shape is not None
        return memory_bytes(changed, shape, kept, decide(changed, found.path if found else None))

    if plan.memory_bytes and plan.memory_bytes > plan.free_memory_bytes:
        plan.problems.append(_too_large(config, plan, needed))
    doubted = {problem.field for problem in plan.problems}
    plan.problems.extend(hint for hint in guidance(plan, needed) if hint.field not in doubted)
    plan.problems.sort(key=_place)
    return plan


def _place(problem: Problem) -> int:
    """Return where the setting of a problem stands among all settings."""
    path = without_indices(problem.field)
    paths = (n for n, s in enumerate(settings()) if f"{s.path}.".startswith(f"{path}."))
    return next(paths, len(settings()))


def _numbers_of_rows(
    config: Config, examples: dict[str, Examples], sequences: int, problems: list[Problem]
) -> dict[str, Any]:
    rows = sequences
    total = schedule.total_steps(config, rows)
    warmup = schedule.warmup_steps(config, total)
    if config.data.dataloader_drop_last and rows < schedule.rows_per_batch(config):
        problems.append(
            Problem(
                "data.dataloader_drop_last",
                True,
                f"leaves out the only batch: there are {rows:,} rows, and a batch has "
                f"{config.training.per_device_train_batch_size:,}.",
                "Use false.",
                {"data.dataloader_drop_last": False},
            )
        )
    if config.scheduler.lr_scheduler_type != "constant" and warmup >= total:
        usual = 0.05 if schedule.warmup_steps(config, total, 0.05) < total else 0.0
        fix = "Use 0.05, which is 5% of the steps." if usual else "Use 0."
        problems.append(
            Problem(
                "scheduler.warmup_steps",
                config.scheduler.warmup_steps,
                f"warms up for {count(warmup, 'step')} and the run has {count(total, 'step')}, so "
                "the learning rate never reaches its value.",
                fix,
                {"scheduler.warmup_steps": usual},
                level="warning",
            )
        )
    return {
        "train_rows": None if examples["train"].is_stream else len(examples["train"]),
        "eval_rows": len(examples.get("validation", [])),
        "steps_per_epoch": schedule.steps_per_epoch(config, rows),
        "total_steps": total,
        "warmup_steps": warmup,
    }


def _rows_per_step(config: Config, numbers: dict[str, Any]) -> int:
    """Return the rows that a step learns from; a mean where batches are made by their tokens."""
    accumulated = config.training.gradient_accumulation_steps
    if config.data.max_tokens_per_batch is None or "steps_per_epoch" not in numbers:
        return config.training.per_device_train_batch_size * accumulated
    return max(1, round(int(numbers["train_rows"]) / int(numbers["steps_per_epoch"])))


def _sequences(config: Config, lengths: Sequence[int], rows: int, decisions: Decisions) -> int:
    """Estimate how many sequences an epoch has: the rows, or what they are packed or batched into.

    Args:
        config: Its data section says how they are packed.
        lengths: Tokens of some rows, at least one.
        rows: How many rows there are.
        decisions: Say whether batches are padded.
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


def _examples(config: Config, split: str, folder: Path | None) -> tuple[Examples, list[str]]:
    """Read a split, or take it from the last time when neither settings nor files changed."""
    datasets = [dataset for _, dataset in config.data.named_datasets()]
    if any(d.rows is not None or d.prompt_func or d.completion_func for d in datasets):
        return load_examples(config, split, folder=folder)
    stamps = []
    for dataset in datasets:
        if dataset.path:
            path = resolve(dataset.path, folder)
            stat = path.stat() if is_there(path) else None
            stamps.append((str(path), stat and stat.st_mtime_ns, stat and stat.st_size))
    key = json.dumps([config.to_dict(full=True)["data"], stamps])
    return _examples_by(key, config.training.seed, split, _Unhashed((config, folder)))


class _Unhashed(tuple):
    """Arguments that do not count for the cache: its key says the same."""

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed)


@functools.lru_cache(maxsize=4)
def _examples_by(
    key: str, seed: int, split: str, arguments: _Unhashed
) -> tuple[Examples, list[str]]:
    config, folder = arguments
    return load_examples(config, split, folder=folder)


def token_lengths(examples: Examples, method: Method, folder: Path | None) -> list[int]:
    """Return the lengths in tokens of the sequences of some examples, spread over all of them.

    Args:
        examples: The examples, at least one.
        method: Says which sequences an example gives.
        folder: Folder with tokenizer.json; four characters count as a token without one.
    """
    some = [examples[int(number)] for number in spread(len(examples), _ROWS_MEASURED)]
    texts = [
        one.prompt + one.completion + "\n".join(m["content"] for m in one.messages)
        for sequence in method.texts(some).values()
        for one in sequence
    ]
    tokenizer = _tokenizer(folder / "tokenizer.json") if folder else None
    if tokenizer is None:
        return [len(text) // 4 + 1 for text in texts]
    return [len(encoding.ids) + 1 for encoding in tokenizer.encode_batch(texts)]


@functools.lru_cache(maxsize=4)
def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path)) if path.is_file() else None


def _cut(lengths: list[int], limit: int, cut: int) -> Problem:
    enough = enough_for(lengths, KEPT_SHARES[-1])
    return Problem(
        "data.max_length",
        limit,
        f"cuts about {cut / len(lengths):.0%} of the rows; "
        f"{enough_in_words(lengths, about='about ')}",
        f"Use {enough}; memory and time grow with it.",
        {"data.max_length": enough},
        level="warning",
    )


def _no_target(config: Config, layers: list[str]) -> Problem:
    if config.model.freeze_layers:
        return Problem(
            "model.freeze_layers",
            config.model.freeze_layers,
            "leaves nothing to train.",
            "Name fewer layers.",
            {"model.freeze_layers": []},
        )
    known = sorted({name.rsplit(".", 1)[-1] for name in layers})
    return Problem(
        "peft.target_modules",
        config.peft.target_modules,
        "matches no layer of the model, so nothing would be trained.",
        f"Use all-linear, or some of {', '.join(known)}.",
        {"peft.target_modules": ["all-linear"]},
    )


def _too_large(config: Config, plan: Plan, needed: Callable[[Config], int]) -> Problem:
    """Propose the largest batch that fits, else less memory in other ways.

    Args:
        config: The config.
        plan: Its plan.
        needed: Estimates the bytes that a changed config needs.
    """
    assert plan.memory_bytes is not None
    training = config.training
    batch, rows = training.per_device_train_batch_size, plan.effective_batch_size
    why = (
        f"needs about {size(plan.memory_bytes)}, {plan.device.value} has "
        f"{size(plan.free_memory_bytes)} free."
    )
    changes: dict[str, Any] = {}
    fix = "Choose a smaller model, or a device with more memory."
    for smaller in (n for n in range(batch - 1, 0, -1) if rows % n == 0):
        tried = {
            "training.per_device_train_batch_size": smaller,
            "training.gradient_accumulation_steps": rows // smaller,
        }
        if needed(config.apply(tried)) <= plan.free_memory_bytes:
            changes = tried
            fix = (
                f"Use {smaller} with gradient_accumulation_steps={rows // smaller} (same effective "
                "batch)."
            )
            break
    else:
        again: dict[str, Any] = {"memory.gradient_checkpointing": True}
        single = {
            "training.per_device_train_batch_size": 1,
            "training.gradient_accumulation_steps": rows,
        }
        ways = [
            ("Turn memory.gradient_checkpointing on", again),
            (f"Use 1 with gradient_accumulation_steps={rows} and checkpointing", again | single),
        ]
        if importlib.util.find_spec("bitsandbytes"):
            in_4_bits = {"peft.method": "lora", "quantization.load_in_4bit": True}
            ways += [("Use QLoRA with batch 1 and checkpointing", again | single | in_4_bits)]
        for words, tried in ways:
            if needed(config.apply(tried)) <= plan.free_memory_bytes:
                changes, fix = tried, f"{words} (PEFT Studio)."
                break
    return Problem(
        "training.per_device_train_batch_size", batch, why, fix, changes, level="warning"
    )
