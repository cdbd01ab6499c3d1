"""The notes of a run: what can go wrong with a training, how to see it, and what to try.

A note is one function below: it gets the state of a run and its config, and returns what it found,
with numbers, and what to try, or None. To add one, write the function under `_note` and a test with a
sick and a healthy run in `tests/unit/runs/test_notes.py`. The order is that of importance: of one
topic, a note is not added while an earlier one holds.

Called by `nbft.training.callbacks.watching` during the training. The advice is that of PEFT Studio's
troubleshooting, if it has any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from nbft.config import Config, io
from nbft.decisions import best_measure, decide
from nbft.errors import ConfigError
from nbft.events import number as as_number
from nbft.formatting import count, size
from nbft.methods import method_of
from nbft.methods.dpo import Dpo
from nbft.methods.grpo import reward_names
from nbft.plan.checks import check
from nbft.plan.rates import rates_of
from nbft.runs.state import RunState
from nbft.runs.trends import Series, mean, noise, trend

Changes = Mapping[str, Any]
Find = Callable[[RunState, Config], "Found | None"]

_STUCK_LOGS = 5
"""Consecutive logs before a loss of exactly 0 or a learning rate of 0 counts as a mistake."""

_JUDGED_LOGS = 20
"""Logs from which a trend can be told from noise."""

_SURE, _SURE_OF_FEW = 5.0, 7.0
"""Standard errors that a rise must exceed, and one between two short windows among many: a run is
looked at many times."""

_RISEN = 1.02
"""A held-out loss this many times its lowest has risen. It is always of the same rows."""

_LEAST_RISE = 0.01
"""A smaller rise of the held-out loss is none: near zero, half as much again means nothing."""

_MOVED = 0.005
"""The held-out loss of a run that learns changes by more than this share until its end."""

_RISE, _LEAST_RISE = 0.05, 0.02
"""Share, and difference, by which a loss must have risen; near 0 a large share means nothing."""

_FALL = 0.03
"""Share by which the loss of a run that learns falls."""


_OTHER_BYTES = 256 * 2**20
"""What libraries that are imported later, and a kernel, may hold beyond the plan: 0.15 GB was seen."""

_OF_PAIRS = (
    *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
    *("logps/chosen", "logps/rejected"),
)
MEASURES = (
    *("loss", "eval_loss", "learning_rate", "grad_norm"),
    *(f"{split}{name}" for split in ("", "eval_") for name in _OF_PAIRS),
)
"""What the notes look at."""

_LESS_LIKELY = 0.1
"""Share by which the log-probability of answers must have fallen, and as much in nats besides."""

_LEAST_NATS = 2.0

_LESS_ACCURATE = 0.05
"""Fall of the held-out accuracy, if there are enough rows to tell it from chance."""

_LENGTH_ACCURACY, _NEAR = 0.65, 0.03
"""Accuracy of a rule by length that says something, and how near another one is the same."""


class Try(NamedTuple):
    """A change of settings.

    Attributes:
        changes: The settings, by path.
        expect: What to expect from it; a phrase after "Expect".
    """

    changes: Changes
    expect: str


class Found(NamedTuple):
    """What a note says.

    Attributes:
        evidence: What was seen, with numbers; sentences.
        tries: What may help, best first.
        otherwise: What to do where nothing of it can be changed; sentences.
    """

    evidence: str
    tries: Iterable[Try]
    otherwise: str = ""


class Advice(NamedTuple):
    """A note with the one change that is proposed.

    Attributes:
        text: Evidence, what to try and what to expect; sentences.
        changes: The settings to try, by path; {} if there are none.
    """

    text: str
    changes: dict[str, Any]


class NoteKind(NamedTuple):
    """A kind of note.

    Attributes:
        name: Name of its function.
        topic: Notes of one topic explain the same observation.
        find: Returns what was found, or None.
        lasts: Whether it is about one step, so that nothing later answers it.
    """

    name: str
    topic: str
    find: Find
    lasts: bool = False


NOTES: dict[str, NoteKind] = {}
"""Every kind of note by its name, the most important first."""


def _note(topic: str, *, lasts: bool = False) -> Callable[[Find], Find]:
    def register(find: Find) -> Find:
        NOTES[find.__name__] = NoteKind(find.__name__, topic, find, lasts)
        return find

    return register


def notes_of(run: RunState, config: Config) -> dict[str, Found]:
    """Return what holds for a run now, by the name of the note.

    Args:
        run: The state of the run, with all its curves.
        config: The config of the run.
    """
    found: dict[str, Found] = {}
    # The loss of a method with rewards is no measure of how well it does: it stays near 0.
    topics = {"loss", "spike"} if _has_rewards(config) else {"rewards"}
    for kind in NOTES.values():
        if kind.topic not in topics and (what := kind.find(run, config)) is not None:
            found[kind.name] = what
            topics.add(kind.topic)
    return found


def advise(found: Found, config: Config) -> Advice:
    """Return a note with the first change that is not made already and that Check accepts."""
    set_already = io.flatten(config.to_dict(full=True))
    for attempt in found.tries:
        changes = {p: v for p, v in attempt.changes.items() if set_already.get(p, ...) != v}
        if changes and _is_accepted(changes, config):
            changed = ", ".join(f"{path}={_written(value)}" for path, value in changes.items())
            text = f"{found.evidence} Try {changed}. Expect {attempt.expect}."
            return Advice(text, changes)
    return Advice(f"{found.evidence} {found.otherwise}".strip(), {})


def _written(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_accepted(changes: Changes, config: Config) -> bool:
    """Whether Check has nothing against a change."""
    try:
        changed = config.apply(dict(changes))
    except ConfigError:
        return False
    known = {(p.field, p.why) for p in check(config, decide(config))}
    return not any(
        problem.field in changes
        or (problem.level == "error" and (problem.field, problem.why) not in known)
        for problem in check(changed, decide(changed))
    )


# What to try, with the values that fit a config.


def _lower_rate(config: Config, expect: str) -> Iterator[Try]:
    """Propose a tenth of the learning rate, or as much less as is usual."""
    rate, usual = config.training.learning_rate, rates_of(config)
    lower = (usual.proposed,) if rate > usual.highest else (rate / 10, rate / 3, usual.lowest)
    for value in lower:
        if usual.lowest <= value < 0.9 * rate:
            yield Try({"training.learning_rate": _rounded(value)}, expect)
    if not config.training.max_grad_norm:
        yield Try({"training.max_grad_norm": 1.0}, "single steps that cannot ruin the weights")
    if config.scheduler.warmup_steps < 0.1 and config.scheduler.lr_scheduler_type != "constant":
        yield Try({"scheduler.warmup_steps": 0.1}, "smaller first steps")


def _higher_rate(config: Config) -> Iterator[Try]:
    rate, usual = config.training.learning_rate, rates_of(config)
    for value in (usual.proposed, 3 * rate, usual.highest):
        if 1.1 * rate < value <= usual.highest:
            yield Try(
                {"training.learning_rate": _rounded(value)},
                f"the loss to fall within the first {_JUDGED_LOGS} steps after the warm-up",
            )


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _keep_best(config: Config, lowest: float) -> Iterator[Try]:
    """Propose to keep the checkpoint with the lowest held-out loss; one is needed at each."""
    strategy = config.evaluation.eval_strategy
    if strategy == "no":
        return
    changes: dict[str, Any] = {
        "checkpoint.load_best_model_at_end": True,
        "checkpoint.save_strategy": strategy,
    }
    if strategy == "steps":
        every = config.evaluation.eval_steps or config.logging.logging_steps
        changes["checkpoint.save_steps"] = every
    if not config.checkpoint.load_best_model_at_end:
        yield Try(changes, f"a held-out loss of about {lowest:.3g} at the end")


def _fewer_steps(run: RunState, config: Config, step: int, expect: str) -> Iterator[Try]:
    """Propose a run that ends at a step."""
    total = run.total_steps or run.step
    if not 0 < step < total:
        return
    if config.training.max_steps > 0:
        yield Try({"training.max_steps": step}, expect)
    else:
        epochs = _rounded(config.training.num_train_epochs * step / total)
        yield Try({"training.num_train_epochs": epochs}, expect)


def _no_16_bit(run: RunState, config: Config) -> Iterator[Try]:
    expect = "finite numbers, if they overflowed in 16 bits"
    if config.precision.mixed_precision == "fp16":
        yield Try({"precision.mixed_precision": "bf16"}, expect)
        yield Try({"precision.mixed_precision": "no"}, expect)
    if config.model.dtype in ("float16", "bfloat16") or run.prepared.get("dtype") == "float16":
        yield Try({"model.dtype": "float32"}, expect)


# What the notes look at.


def _has_rewards(config: Config) -> bool:
    return method_of(config).generates


def _change(run: RunState, name: str) -> tuple[float, float, float] | None:
    """Return a measure's mean at the start and at the end, and the standard error of its change."""
    series = Series.of(run.curve(name))
    if len(series.values) < _JUDGED_LOGS:
        return None
    size = series.window
    first, last = mean(series.values[:size]), mean(series.values[-size:])
    return first, last, noise(series.values) * math.sqrt(2 / size)


def _losses(run: RunState) -> Series:
    return Series.of(run.curve("loss"))


def _held_out(run: RunState) -> Series:
    """Return the held-out losses, if the latest is recent enough to tell what goes on."""
    held = Series.of(run.curve("eval_loss"))
    return held if len(held.steps) > 1 and held.steps[-1] >= run.step / 2 else Series([], [])


def _lowest(series: Series) -> tuple[int, float]:
    """Return step and value of the lowest value of a series."""
    return min(zip(series.steps, series.values, strict=True), key=lambda point: point[1])


def _is_overflow(run: RunState, config: Config) -> bool:
    """Whether the gradients overflow that fp16 scales: the scaler's business, for a while.

    Each overflow halves the scale; it may have doubled a few times before.
    """
    if "fp16" not in (run.prepared.get("mixed_precision"), config.precision.mixed_precision):
        return False
    norms = run.curve("grad_norm")
    begin = len(norms)
    while begin and not math.isfinite(norms.values[begin - 1]):
        begin -= 1
    most = math.log2(config.precision.loss_scale) + 8
    return begin < len(norms) and norms.steps[-1] - norms.steps[begin] < most


def _risen(run: RunState) -> tuple[int, float, float] | None:
    """Return step and value of the lowest held-out loss, and the last; None if it has not risen.

    Twice in a row above the lowest, or once at the end of a run. Before the end of the warm-up
    nothing is said.
    """
    held, warmup = _held_out(run), run.prepared.get("warmup_steps") or 0
    if not held.steps or held.steps[-1] < min(warmup, run.total_steps or math.inf):
        return None
    step, lowest = _lowest(held)
    after = held.since(step).values[1:]
    is_over = run.total_steps is not None and held.steps[-1] >= run.total_steps
    if len(after) < (1 if is_over and step == held.steps[0] else 2):
        return None
    if min(after[-2:]) <= max(_RISEN * lowest, lowest + _LEAST_RISE):
        return None
    return step, lowest, held.values[-1]


def _rise(run: RunState) -> tuple[int, float, float] | None:
    """Return step and value of the lowest level of the loss, and the last; None if it has not risen.

    The rise must stand out from the noise and must not be on its way back. Logarithms, because the
    noise of a batch grows with the loss.
    """
    logs = _losses(run).logarithms()
    if len(logs.values) < _JUDGED_LOGS:
        return None
    levels = logs.smoothed()
    step, lowest = _lowest(levels)
    last, peak = levels.values[-1], max(levels.since(step).values)
    error = noise(logs.values) * math.sqrt(2 / logs.window)
    stands_out = last - lowest > max(_SURE * error, _RISE) and last - lowest > 0.7 * (peak - lowest)
    line = trend(logs.values)
    if not stands_out and line.change > max(4 * line.error, _RISE):
        step, lowest, stands_out = levels.steps[0], levels.values[0], last > levels.values[0]
    first, level = math.exp(lowest), math.exp(last)
    return (step, first, level) if stands_out and level - first > _LEAST_RISE else None


def _is_due(run: RunState, step: int) -> bool:
    """Whether the run had the time to learn something by a step: a third of it, and its warm-up."""
    total = run.total_steps
    if step < _JUDGED_LOGS or total is None:
        return False
    warmup = run.prepared.get("warmup_steps") or 0
    return step >= min(max(total / 3, warmup + total / 10), total / 2)


def _is_flat(run: RunState, *, has_cause: bool) -> str:
    """Return that the loss does not fall, in a sentence with numbers; "" if it may be falling.

    By the held-out loss, which is always of the same rows; otherwise by the trend of the loss.

    Args:
        run: The run.
        has_cause: Whether the settings explain it. If they don't, any fall worth having must be
            ruled out; if they do, it is enough that none stands out from the noise.
    """
    if _rise(run):
        return ""
    held = _held_out(run)
    if held.steps and held.steps[0] <= run.step / 4:
        first, last = held.values[0], held.values[-1]
        done = held.steps[-1] / max(held.steps[-1], run.total_steps or 0)
        moved = max(held.values) - min(held.values)
        least = _MOVED * (1 if has_cause else 0.4 * done)
        if not _is_due(run, held.steps[-1]) or moved > least * abs(first):
            return ""
        return (
            f"The held-out loss has hardly changed: {first:.4g} at step {count(held.steps[0])}, "
            f"{last:.4g} at step {count(held.steps[-1])}."
        )
    logs = _losses(run).logarithms().values
    is_half_done = has_cause or run.step >= (run.total_steps or 0) / 2
    if not (_is_due(run, run.step) and is_half_done) or len(logs) < _JUDGED_LOGS:
        return ""
    change, error = trend(logs)
    if not -error <= change <= 2 * error:
        return ""
    if not has_cause and min(change, 0) - 2 * error < -_FALL:
        return ""
    return (
        f"The loss has not fallen: over {count(len(logs), 'log')} it has changed by {change:+.1%}, "
        f"with a standard error of {error:.1%}."
    )


def _answers_moved(run: RunState, config: Config, side: str) -> tuple[float, float] | None:
    """Return the mean log-probability of the chosen or rejected answers, at first and now.

    That of the held-out rows, which are always the same; otherwise that of the last batches and, by
    their distance from the reference model, what it was at first. None if it cannot be told.
    """
    held = Series.of(run.curve(f"eval_logps/{side}"))
    if len(held.steps) > 1 and held.steps[-1] >= run.step / 2:
        return held.values[0], held.values[-1]
    moved = Series.of(run.curve(f"rewards/{side}")).values
    now = Series.of(run.curve(f"logps/{side}")).values
    if len(moved) < _JUDGED_LOGS or not _has_reference(config):
        return None
    size = max(5, len(moved) // 10)
    level, error = mean(moved[-size:]), noise(moved) / math.sqrt(size)
    if abs(level) < _SURE * error:
        return None
    last = mean(now[-size:])
    return last - level / config.preference.beta, last


def _has_reference(config: Config) -> bool:
    """Whether the rewards of a run are distances from a reference model."""
    method = method_of(config)
    return isinstance(method, Dpo) and method.uses_reference(config)


# The notes, the most important first.


@_note("nan")
def nan(run: RunState, config: Config) -> Found | None:
    """The loss is not a number."""
    loss = run.log.get("loss")
    return None if loss is None or math.isfinite(loss) else _not_a_number(run, config, "loss", loss)


@_note("nan")
def nan_gradient(run: RunState, config: Config) -> Found | None:
    """The gradient is not a number, and that is no overflow of the loss scale of fp16."""
    norm = run.log.get("grad_norm")
    if norm is None or math.isfinite(norm) or _is_overflow(run, config):
        return None
    return _not_a_number(run, config, "gradient", norm)


def _not_a_number(run: RunState, config: Config, name: str, value: float) -> Found:
    step = run.log.get("step", run.step)
    rows = "Check the rows with nbft.doctor, and whether the base model itself answers sensibly."
    what = f"The {name} is {value} at step {count(step)}"
    if step <= 1:
        why = "before the first update, so the cause is in the rows or in the model"
        return Found(f"{what}, {why}.", _no_16_bit(run, config), rows)
    tries = [*_lower_rate(config, "the loss to stay finite"), *_no_16_bit(run, config)]
    return Found(f"{what}.", tries, rows)


@_note("held out")
def held_out_nan(run: RunState, config: Config) -> Found | None:
    """Only the held-out loss is not a number."""
    value, loss = run.eval_loss, run.log.get("loss")
    if value is None or math.isfinite(value) or loss is None or not math.isfinite(loss):
        return None
    return Found(
        f"The held-out loss is {value}, although the loss is {loss:.3g}.",
        _no_16_bit(run, config),
        "Check the held-out rows with nbft.doctor: one may have no token to train on.",
    )


@_note("loss")
def zero(run: RunState, config: Config) -> Found | None:
    """The loss is exactly 0, because every label is masked."""
    values = run.curve("loss").values[-_STUCK_LOGS:]
    if len(values) < _STUCK_LOGS or any(values):
        return None
    longer = 2 * config.data.max_length
    is_cut = (run.prepared.get("longest") or 0) >= config.data.max_length
    return Found(
        f"The loss has been exactly 0.0 for {_STUCK_LOGS} logs: no token is trained on.",
        [Try({"data.max_length": longer}, "answers that are not cut off")] if is_cut else [],
        "Check the data: every label may be masked. Raise data.max_length or fix the completion "
        "template.",
    )


@_note("loss")
def row_order(run: RunState, config: Config) -> Found | None:
    """The loss rises because the rows are sorted, as from easy to hard: the held-out loss falls."""
    held = _held_out(run)
    if not held.steps or held.values[-1] >= held.values[0] or not (order := _row_order(config)):
        return None
    risen = _rise(run)
    if risen is None or _risen(run):
        return None
    _, first, last = risen
    return Found(
        f"The loss rose from {first:.3g} to {last:.3g}, while the held-out loss went from "
        f"{held.values[0]:.3g} to {held.values[-1]:.3g}. The rows are trained on {order}: later "
        "ones may be harder.",
        [
            Try({"data.shuffle": True}, "a loss that falls on average"),
            Try({"data.train_sampling_strategy": "random"}, "a loss that falls on average"),
        ],
    )


def _row_order(config: Config) -> str:
    """Return the order of the rows, as part of a sentence; "" if it is random."""
    if config.data.train_sampling_strategy == "group_by_length":
        return "in the order of their length"
    return "" if config.data.shuffle else "in their own order"


@_note("loss")
def exploded(run: RunState, config: Config) -> Found | None:
    """The loss is far above its lowest level and does not come back."""
    values = run.curve("loss").values[-1000:]  # of the last, as it happens within a few logs
    if len(values) < 2 * _STUCK_LOGS or not all(0 < value < math.inf for value in values):
        return None
    size, logs = _STUCK_LOGS, [math.log(max(value, 0.1)) for value in values]
    levels = [mean(logs[at : at + size]) for at in range(len(logs) - size + 1)]
    lowest, level, error = (
        min(levels[:-size]),
        levels[-1],
        noise(logs[:-size]) * math.sqrt(2 / size),
    )
    if level - lowest < max(math.log(3), _SURE_OF_FEW * error) or level < max(levels) - 0.2:
        return None
    return Found(
        f"The loss is about {math.exp(level):.3g} over {size} logs, {math.exp(level - lowest):.2g} "
        f"times its lowest level ({math.exp(lowest):.3g}), and does not come back.",
        _lower_rate(config, "the loss to fall from the start on"),
        "Check the rows with nbft.doctor.",
    )


@_note("loss")
def base_best(run: RunState, config: Config) -> Found | None:
    """No checkpoint is better than the model that the run began with."""
    risen = _risen(run)
    if risen is None or risen[0] > 0:
        return None
    _, lowest, last = risen
    return Found(
        f"The base model was best: the held-out loss was {lowest:.3g} before training and is "
        f"{last:.3g} after {count(run.step, 'step')}.",
        _lower_rate(config, f"a held-out loss below {lowest:.3g}"),
        "Check whether the training rows are of the same kind as the held-out rows.",
    )


@_note("loss")
def diverged(run: RunState, config: Config) -> Found | None:
    """The loss rises, slowly or not: the learning rate is too high."""
    risen, held = _rise(run), _held_out(run)
    if risen is None or (held.steps and held.values[-1] <= min(held.values)):
        return None
    step, lowest, last = risen
    order = _row_order(config)
    also = f" The rows are trained on {order}, so later ones may also be harder." if order else ""
    return Found(
        f"The loss rises: {lowest:.3g} around step {count(step)}, {last:.3g} around step "
        f"{count(run.step)}.{also}",
        _lower_rate(config, "the loss to keep falling"),
        "Check the rows with nbft.doctor.",
    )


@_note("loss")
def stopped_early(run: RunState, config: Config) -> Found | None:
    """Early stopping has ended the run."""
    total, calls = run.total_steps, config.callbacks
    patience, threshold = calls.early_stopping_patience, calls.early_stopping_threshold
    if patience is None and calls.stops_early:
        given = calls.callbacks["early_stopping"]
        patience = given.get("early_stopping_patience", 1)  # as in transformers
        threshold = given.get("early_stopping_threshold", 0.0)
    if total is None or run.step >= total or patience is None or best_measure(config) != "loss":
        return None
    held = Series.of(run.curve("eval_loss"))
    best, since = math.inf, 0
    for value in held.values:
        since = 0 if value < best - threshold else since + 1
        best = min(best, value)
    if since < patience:
        return None
    step, lowest = _lowest(held)
    shorter = "a schedule that ends there, and so a slightly lower held-out loss"
    return Found(
        f"Early stopping ends the run after step {count(run.step)} of {count(total)}: the held-out "
        f"loss was lowest at step {count(step)} ({lowest:.3g}) and is {held.values[-1]:.3g}.",
        [*_keep_best(config, lowest), *_fewer_steps(run, config, step, shorter)],
    )


@_note("loss")
def overfit(run: RunState, config: Config) -> Found | None:
    """The model learns its rows by heart: the held-out loss rises, the training loss falls."""
    risen = _risen(run)
    if risen is None or _passes(run) <= 1 or not _falls_since(run, risen[0]):
        return None
    step, lowest, last = risen
    calls = config.callbacks
    tries = [*_keep_best(config, lowest)]
    if calls.early_stopping_patience is None and len(run.curve("eval_loss")) > 4:
        patience = {"callbacks.early_stopping_patience": 2}
        tries.append(Try(patience, f"the run to end soon after step {count(step)}"))
    tries += _fewer_steps(run, config, step, f"a held-out loss of about {lowest:.3g} at the end")
    if calls.early_stopping_patience is not None and not calls.early_stopping_threshold:
        least = {"callbacks.early_stopping_threshold": 0.01}  # PEFT Studio
        tries.append(Try(least, "early stopping to pass over tiny improvements"))
    if config.optimizer.weight_decay < 0.01:
        decay = {"optimizer.weight_decay": 0.01}  # Unsloth
        tries.append(Try(decay, "a held-out loss that rises more slowly"))
    kept = " The best checkpoint is kept." if config.checkpoint.load_best_model_at_end else ""
    return Found(
        f"The model is overfitting: after {_passes(run):.3g} passes over the rows the training loss "
        f"still falls, but the held-out loss was lowest at step {count(step)} ({lowest:.3g}) and is "
        f"{last:.3g}.{kept}",
        tries,
        "Use more rows.",
    )


@_note("loss")
def high_rate(run: RunState, config: Config) -> Found | None:
    """The held-out loss rises, but not because rows were seen too often."""
    risen = _risen(run)
    if risen is None or (_passes(run) > 1 and _falls_since(run, risen[0])):
        return None
    step, lowest, last = risen
    seen = "although no row was seen twice"
    if _passes(run) > 1:
        seen = "and the training loss does not fall either"
    return Found(
        f"The held-out loss was lowest at step {count(step)} ({lowest:.3g}) and is {last:.3g}, "
        f"{seen}: the learning rate is too high.",
        _lower_rate(config, f"a held-out loss below {lowest:.3g}"),
        "Check whether the training rows are of the same kind as the held-out rows.",
    )


def _passes(run: RunState) -> float:
    """Return how often the rows were seen; streamed rows count as seen once."""
    is_stream = "rows" in run.prepared and run.prepared["rows"] is None
    return 0.0 if is_stream else float(run.log.get("epoch") or 0.0)


def _falls_since(run: RunState, step: int) -> bool:
    losses = _losses(run)
    after, size = losses.since(step).values, max(1, losses.window // 2)
    before = losses.values[: len(losses.values) - len(after)][-size:] or after[:size]
    return bool(after) and mean(after[-size:]) < mean([*before, *after[:1]])


@_note("loss")
def clipped(run: RunState, config: Config) -> Found | None:
    """Every gradient is far above its limit, so that the limit sets the size of the steps."""
    limit = config.training.max_grad_norm
    norms = run.curve("grad_norm").values[-_JUDGED_LOGS:]
    if not limit or len(norms) < _JUDGED_LOGS or not min(norms) > 10 * limit:
        return None
    tries = [*_lower_rate(config, "gradients closer to their limit")]
    if limit < 1:
        tries = [
            Try({"training.max_grad_norm": 1.0}, "steps whose size follows the gradient"),
            *tries,
        ]
    return Found(
        f"The gradient norm was at least {min(norms):.3g} in the last {_JUDGED_LOGS} logs, more than "
        f"10 times its limit of {limit:g}: every step is cut to the same length.",
        tries,
        "Check the rows with nbft.doctor.",
    )


@_note("loss")
def no_rate(run: RunState, config: Config) -> Found | None:
    """The learning rate is 0 from the start on."""
    rates = run.curve("learning_rate").values
    if len(rates) < _STUCK_LOGS or any(rates) or run.step >= (run.total_steps or math.inf):
        return None
    return Found(
        f"The learning rate has been 0 for {count(len(rates), 'log')}: nothing changes.",
        [
            Try({"scheduler.warmup_steps": 0.05}, "the learning rate to rise from step 2 on"),
            Try({"scheduler.lr_scheduler_type": "cosine"}, "a learning rate above 0"),
        ],
        "Check scheduler.warmup_steps and scheduler.lr_scheduler_type.",
    )


@_note("loss")
def schedule_over(run: RunState, config: Config) -> Found | None:
    """The learning rate is practically 0 long before the end."""
    curve, total = run.curve("learning_rate"), run.total_steps
    peak = max(curve.values, default=0.0)
    if not peak or total is None:
        return None
    begin = len(curve)
    while begin and curve.values[begin - 1] < 1e-3 * peak:
        begin -= 1
    if len(curve) - begin < _STUCK_LOGS:
        return None
    step = curve.steps[begin]
    if step > 0.9 * total or run.step - step < 0.05 * total or run.step < step:
        return None
    expect = "a learning rate that reaches 0 only at the end"
    own = config.scheduler
    return Found(
        f"The learning rate is practically 0 since step {count(step)} of {count(total)}: the rest of "
        "the run changes nothing.",
        [
            *(Try({f"scheduler.{n}": None}, expect) for n in ("power", "num_cycles", "lr_end")),
            Try({"scheduler.lr_scheduler_kwargs": {}}, expect),
            *(
                Try({"scheduler.lr_scheduler_type": name}, expect)
                for name in ("cosine", "linear")
                if own.lr_scheduler_type != name
            ),
            *_fewer_steps(run, config, step, "the same result in less time"),
        ],
    )


@_note("loss")
def endless_warmup(run: RunState, config: Config) -> Found | None:
    """The learning rate is still rising in the middle of the run, and nothing is learnt."""
    warmup, total = run.prepared.get("warmup_steps") or 0, run.total_steps or 0
    if warmup <= max(run.step, total / 2) or not (flat := _is_flat(run, has_cause=True)):
        return None
    return Found(
        f"{flat} The warm-up takes {count(warmup, 'step')} of a run of {count(total)}, so the "
        f"learning rate is only {run.log.get('learning_rate') or 0:.2g}.",
        [Try({"scheduler.warmup_steps": 0.05}, "the loss to fall after a twentieth of the steps")],
    )


@_note("loss")
def tiny_rate(run: RunState, config: Config) -> Found | None:
    """The learning rate is below what the method needs, and nothing is learnt."""
    usual, rate = rates_of(config), config.training.learning_rate
    if rate >= usual.lowest or not (flat := _is_flat(run, has_cause=True)):
        return None
    return Found(
        f"{flat} The learning rate of {rate:g} is low for {usual.name} ({usual.usual}).",
        _higher_rate(config),
    )


@_note("loss")
def flat(run: RunState, config: Config) -> Found | None:
    """The loss does not fall, for no reason that the settings tell."""
    found = _is_flat(run, has_cause=False)
    if not found:
        return None
    return Found(
        found,
        _higher_rate(config),
        "Check the rows with nbft.doctor, or try another method.",
    )


@_note("margin")
def margin_without_accuracy(run: RunState, config: Config) -> Found | None:
    """The margin grows on the training rows, but fewer held-out pairs are in the right order."""
    held = Series.of(run.curve("eval_rewards/accuracies"))
    margins = Series.of(run.curve("rewards/margins"))
    if len(held.steps) < 3 or held.steps[-1] < run.step / 2 or not margins.steps:
        return None
    step, best = max(zip(held.steps, held.values, strict=True), key=lambda point: point[1])
    after = held.since(step).values[1:]
    rows = run.prepared.get("eval_rows") or 0
    chance = 2 * math.sqrt(max(best * (1 - best), 0.1) / rows) if rows else 1.0
    if len(after) < 2 or best - max(after[-2:]) < max(_LESS_ACCURATE, chance):
        return None
    since = margins.since(step).values
    size = max(1, len(since) // 4)
    first, last = mean(since[:size]), mean(since[-size:])
    if last <= first:
        return None
    tries = [
        *_fewer_steps(run, config, step, f"a held-out accuracy of about {best:.2f} at the end")
    ]
    if (beta := 2 * config.preference.beta) <= 1 and _has_reference(config):
        tries.append(Try({"preference.beta": beta}, "a model that stays closer to the reference"))
    tries += _lower_rate(config, "a held-out accuracy that falls later")
    return Found(
        f"The model is overfitting: the reward margin grew from {first:.3g} to {last:.3g} on the "
        f"training pairs, but of the held-out pairs {held.values[-1]:.0%} are in the right order, "
        f"after {best:.0%} at step {count(step)}.",
        tries,
        "Use more pairs.",
    )


@_note("length")
def length_alone(run: RunState, config: Config) -> Found | None:
    """The accuracy is that of a rule that looks at nothing but the length of the answers."""
    known, total = run.prepared.get("length_accuracy"), run.total_steps
    if known is None or known < _LENGTH_ACCURACY or not total or run.step < total / 2:
        return None
    held = Series.of(run.curve("eval_rewards/accuracies")).values
    rows = run.prepared.get("eval_rows") or 0
    if len(held) > 1:
        last, near, whose = held[-2:], max(_NEAR, 0.5 / max(rows, 1)), "held-out"
    else:
        logs = Series.of(run.curve("rewards/accuracies")).values
        if len(logs) < 2 * _JUDGED_LOGS:
            return None
        parts = logs[-_JUDGED_LOGS:], logs[-2 * _JUDGED_LOGS : -_JUDGED_LOGS]
        last, near, whose = [mean(part) for part in parts], _NEAR, "training"
    if any(abs(value - known) > near for value in last):
        return None
    look = "Compare the length of its answers with those of the base model, and add"
    if method_of(config).scores_answers:
        look = "Add"
    return Found(
        f"The model orders {last[-1]:.0%} of the {whose} pairs rightly; a rule that looks at nothing "
        f"but the length of the answers orders {known:.0%} rightly. It may have learned no more than "
        "that.",
        [],
        f"{look} pairs that length does not tell: nbft.doctor counts them.",
    )


@_note("likelihood")
def both_less_likely(run: RunState, config: Config) -> Found | None:
    """Not only the rejected answers have become less likely, but the chosen ones too."""
    chosen, rejected = (_answers_moved(run, config, side) for side in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        return None
    falls = [
        (first - last, max(_LEAST_NATS, _LESS_LIKELY * abs(first)))
        for first, last in (chosen, rejected)
    ]
    if any(fall < least for fall, least in falls):
        return None
    method, tries = method_of(config), list[Try]()
    expect = "chosen answers that stay as likely as they were"
    if isinstance(method, Dpo) and not method.sft_loss_weight(config):
        tries.append(Try({"preference.sft_loss_ratio": 0.2}, expect))
        tries.append(Try({"preference.loss_type": "dpop"}, expect))
    tries += _lower_rate(config, "a smaller fall")
    return Found(
        "Both answers have become less likely: the log-probability of the chosen ones went from "
        f"{chosen[0]:.3g} to {chosen[1]:.3g}, that of the rejected ones from {rejected[0]:.3g} to "
        f"{rejected[1]:.3g}. The model moves towards answers that are neither.",
        tries,
        "Read some of its answers.",
    )


@_note("spike", lasts=True)
def spike(run: RunState, config: Config) -> Found | None:
    """The loss jumped at one step and came back."""
    points = run.curve("loss")
    pairs = [(s, v) for s, v in zip(points.steps, points.values, strict=True) if 0 < v < math.inf]
    is_explained = any(note.kind in ("exploded", "diverged", "base_best") for note in run.notes)
    if len(pairs) < _JUDGED_LOGS or is_explained:
        return None
    logs = [math.log(value) for _, value in pairs]
    jumps = sorted(abs(b - a) for a, b in zip(logs, logs[1:], strict=False))
    # A tenth of the differences may be jumps; the others tell the noise: 1.645 is the quantile.
    sigma = max(jumps[int(0.9 * (len(jumps) - 1))] / (1.645 * math.sqrt(2)), 0.02)
    least = max(8 * sigma, math.log(2.5))
    at = max(range(5, len(logs)), key=lambda i: logs[i] - _median(logs[i - 5 : i]))
    before = _median(logs[at - 5 : at])
    later = logs[at + 1 :]
    if logs[at] - before < least or len(later) < 3 or min(later) > before + least / 2:
        return None
    step, value = pairs[at]
    tries: list[Try] = []
    if not config.training.max_grad_norm:
        tries.append(Try({"training.max_grad_norm": 1.0}, "smaller jumps"))
    if step <= 0.2 * (run.total_steps or run.step) and config.scheduler.warmup_steps < 0.1:
        tries.append(Try({"scheduler.warmup_steps": 0.1}, "smaller first steps"))
    tries += _lower_rate(config, "smaller jumps")
    return Found(
        f"The loss jumped from about {math.exp(before):.3g} to {value:.3g} at step {count(step)} "
        "and came back. One batch may have odd rows; check them with nbft.doctor.",
        tries,
    )


@_note("memory", lasts=True)
def more_memory(run: RunState, config: Config) -> Found | None:
    """The run takes more memory than the plan thought possible."""
    peak, planned = run.peak_bytes, as_number(run.prepared.get("planned_bytes"))
    most = as_number(run.prepared.get("planned_most_bytes"))
    if peak is None or planned is None or most is None or peak <= most + _OTHER_BYTES:
        return None
    return Found(
        f"The run takes {size(peak)} of memory; the plan expected {size(planned)}, and {size(most)} "
        f"at most. The forecast of this run is now {size(peak)}.",
        (),
        "Before the next run, nbft.probe(config) measures a few steps.",
    )


@_note("rewards")
def no_spread(run: RunState, config: Config) -> Found | None:
    """All answers to most prompts have the same reward."""
    equal = Series.of(run.curve("frac_reward_zero_std"))
    if len(equal.values) < _SPREAD_LOGS:
        return None
    share = mean(equal.values[-_SPREAD_LOGS:])
    if share < _NO_SPREAD:
        return None
    several, temperature = config.grpo.num_generations, config.grpo.temperature
    warmer = [1.0, 1.3] if temperature < 1 else [1.3]
    expect = "answers that differ, so that some are better than others"
    tries = [
        *(Try({"grpo.temperature": one}, expect) for one in warmer if one > temperature),
        Try({"grpo.num_generations": 2 * several}, expect),
    ]
    return Found(
        f"In the last {_SPREAD_LOGS} logs all answers to {share:.0%} of the prompts had the same "
        "reward, so nothing was learned from them: the rewards tell no difference, or the task is "
        "learned.",
        tries,
        "Look at the answers with nbft.try_rewards, and give part of the reward for part of the task.",
    )


@_note("rewards")
def longer_only(run: RunState, config: Config) -> Found | None:
    """The reward rises because the answers get longer."""
    reward, length = _change(run, "reward"), _change(run, "completions/mean_length")
    shares = Series.of(run.curve("reward_length_correlation"))
    if reward is None or length is None or len(shares.values) < _JUDGED_LOGS:
        return None
    correlation = mean(shares.values[-shares.window :])
    is_longer = length[1] > _LONGER * length[0] and length[1] - length[0] > _SURE * length[2]
    is_better = reward[1] - reward[0] > _SURE * reward[2]
    if not (is_longer and is_better and correlation > _BY_LENGTH):
        return None
    limit = max(1, round(length[0]))
    rewards = [reward.model_dump(mode="json") for reward in config.grpo.rewards]
    against = {"function": "length", "options": {"at_most": limit}}
    return Found(
        f"The reward rises ({reward[0]:.2g} to {reward[1]:.2g}) as the answers get longer "
        f"({length[0]:.0f} to {length[1]:.0f} tokens), and among the answers to a prompt the longer "
        f"one has the higher reward (correlation {correlation:.2f}): the length may be all that is "
        "learned.",
        [Try({"grpo.rewards": [*rewards, against]}, "answers as long as before")],
    )


@_note("rewards")
def form_only(run: RunState, config: Config) -> Found | None:
    """The form of the answers is learned, and what they say is not."""
    forms: list[tuple[str, tuple[float, float, float]]] = []
    tasks = forms[:]
    for reward, name in zip(config.grpo.rewards, reward_names(config), strict=True):
        if (change := _change(run, f"rewards/{name}/mean")) is not None:
            (forms if reward.function in _OF_FORM else tasks).append((name, change))
    learned = [(name, last) for name, (first, last, _) in forms if last > _LEARNED > first]
    still = [
        (name, first, last)
        for name, (first, last, error) in tasks
        if last - first < min(_RISEN, _SURE * error) and last < _LEARNED
    ]
    if not learned or not still or len(still) < len(tasks):
        return None
    (form, reached), (task, first, last) = learned[0], still[0]
    return Found(
        f"{form} is learned ({reached:.2f}), and {task} is not ({first:.2f} at the start, "
        f"{last:.2f} now): the answers have the form and are no better.",
        [],
        f"Give {task} more weight, begin with easier rows, or train on some wanted answers first "
        "(training.method=sft).",
    )


_SPREAD_LOGS = 10
"""Logs over which groups without a spread are counted."""

_NO_SPREAD = 0.8
"""Share of such groups from which little is left to learn from."""

_LONGER, _BY_LENGTH = 1.25, 0.7
"""Growth of the answers, and correlation of reward and length within groups, that explain a reward."""

_LEARNED = 0.9
"""A reward from 0 to 1 that is this high is learned."""

_RISEN = 0.1
"""One that rises by this much may be learned, however much it varies."""

_OF_FORM = ("format", "length", "json_schema")
"""Rewards of how an answer looks, not of what it says."""


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
