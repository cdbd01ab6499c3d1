"""What the steps of a checkpoint were trained on, and how a run goes on from it.

Each checkpoint has a provenance.json: fingerprints of the rows, functions, chat template, tokenizer
and base model, the settings, and the size of its steps. Whoever resumes compares: other contents
are refused without consent, other settings are said, and steps of another size are converted. Loads
no library but xxhash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nbft.config import Config, io
from nbft.config.code import code_of
from nbft.data.fingerprint import file_key, key_of
from nbft.data.ready import READY
from nbft.data.sources import bundled_file
from nbft.errors import ConfigError, NbftError, Problem
from nbft.formatting import count, number
from nbft.models.adapters import adapter_of, base_name
from nbft.models.find import find_local, find_tokenizer
from nbft.models.templates import chosen_template
from nbft.plan.schedule import learning_rate_at, rows_per_batch
from nbft.reading import read_bytes
from nbft.redaction import redact
from nbft.runs.checkpoints import CONSENT

_FILE = "provenance.json"
_LARGEST_BYTES = 10_000_000
_QUICK_BYTES = 2**30
"""Files are hashed at about 5 GB a second; larger ones are left to the worker."""


_WEIGHTS = ("*.safetensors", "*.bin", "*.py", "config.json")
_TOKENIZER = (
    *("tokenizer*", "*.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab*", "merges.txt"),
)
_TEMPLATE = ("chat_template*",)
_OPTIMISER = ("optimizer.pt", "optimizer.index.json")

_COMPARED = (
    *("model", "data", "peft", "quantization", "training", "optimizer", "scheduler"),
    *("precision", "preference"),
)
"""Sections whose settings decide what a step does."""

_NOT_COMPARED = frozenset(
    f"training.{name}"
    for name in """
        output_dir run_name share_with_group do_train resume_from_checkpoint resume_despite_changes
        max_steps num_train_epochs stop_on_nan per_device_train_batch_size
        gradient_accumulation_steps
    """.split()
) | {"model.model_name", "model.tokenizer_name", "model.chat_template", "model.chat_template_path"}
"""Settings that do not, or whose contents or numbers are compared instead."""

_NEW_PARAMETERS = ("peft.", "model.freeze_layers", "model.adapter_name_or_path")
"""Settings with which a checkpoint holds other parameters than the run trains."""


@dataclass(frozen=True)
class Provenance:
    """What the steps of a run are trained on.

    Attributes:
        rows_per_step: Rows that a step learns from: batch times accumulation.
        batch, accumulation: Its factors; a batch is that of all processes.
        steps_per_epoch: Steps of one pass over the rows; all steps, where rows are streamed.
        total_steps: Steps of the learning rate schedule.
        contents: Fingerprints of what lies in files, by the setting that names it.
        settings: The settings that decide what a step does, by dotted path.
        processes: How many train together.
        alike: How many of them read the same rows, since they split each layer.
    """

    rows_per_step: int
    batch: int
    accumulation: int
    steps_per_epoch: int
    total_steps: int
    contents: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    alike: int = 1

    @classmethod
    def of(
        cls, config: Config, steps_per_epoch: int, total_steps: int, contents: Mapping[str, str]
    ) -> Provenance:
        """Return what a run is trained on.

        Args:
            config: The config.
            steps_per_epoch: Steps of one pass over its rows.
            total_steps: Steps of the whole run.
            contents: What `contents_of` returned.
        """
        accumulation = config.training.gradient_accumulation_steps
        ours = config.distributed
        batch = rows_per_batch(config) * ours.data_parallel_size
        numbers = (batch * accumulation, batch, accumulation, steps_per_epoch, total_steps)
        return cls(*numbers, contents, _settings(config), ours.processes, ours.alike)

    @classmethod
    def read(cls, checkpoint: Path) -> Provenance | None:
        """Read that of a checkpoint; None where it is not known."""
        try:
            return cls(**json.loads(read_bytes(checkpoint / _FILE, _LARGEST_BYTES)))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def write(self, checkpoint: Path) -> None:
        """Write it into a checkpoint."""
        (checkpoint / _FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    def position(self, step: int, other: Provenance) -> tuple[int, int]:
        """Return the step of another run that comes after the same rows, and the rows before it.

        Args:
            step: A step of this run.
            other: The run whose steps are of another size.

        Returns:
            The step, rounded down, and how many rows it repeats.
        """
        if self.rows_per_step == other.rows_per_step:
            return step, 0
        epochs, rest = divmod(step, self.steps_per_epoch)
        steps, repeated = divmod(rest * self.rows_per_step, other.rows_per_step)
        return epochs * other.steps_per_epoch + steps, repeated


def _settings(config: Config) -> dict[str, Any]:
    tree = {name: config.to_dict(full=True)[name] for name in _COMPARED}
    for split in ("validation", "test"):
        tree["data"].pop(split, None)
    return {
        path: value
        for path, value in io.flatten(redact(tree)).items()
        if path not in _NOT_COMPARED
        and not path.endswith((".path", "_func"))
        and ".dataloader_" not in path
    }


def contents_of(config: Config, most_bytes: int | None = None) -> dict[str, str]:
    """Return a fingerprint of the contents of everything that a config names by a file.

    Args:
        config: The config of a run, whose paths are absolute.
        most_bytes: Leave out what has larger files; nothing if None.
    """
    found = {}
    for setting, files in _files(config):
        there = [path for path in files if path.is_file()]
        size_bytes = sum(path.stat().st_size for path in there)
        if there and (most_bytes is None or size_bytes <= most_bytes):
            found[setting] = key_of((path.name, _file_key(path)) for path in there)
    for code in code_of(config):
        if not code.setting.startswith(("evaluation.", "callbacks.", "tracking.")):
            found[code.setting] = code.digest
    model = find_local(base_name(config), config.model.model_revision)
    tokenizer = find_tokenizer(config.model, model.path if model else None)
    if tokenizer is not None:
        found["model.tokenizer_name"] = key_of(
            (path.name, _without_template(path)) for path in _matching(tokenizer, _TOKENIZER)
        )
    if (template := _template(config, tokenizer)) is not None:
        found["model.chat_template"] = key_of([template])
    return found


def _files(config: Config) -> Iterator[tuple[str, list[Path]]]:
    """Yield the files behind each setting that names rows, a model or an adapter."""
    for place, dataset in config.data.named_datasets():
        split = place.split(".")[1]
        if dataset.path is not None:
            path = Path(dataset.path).expanduser()
            yield f"{place}.path", sorted(path.rglob("*")) if path.is_dir() else [path]
        elif dataset.dataset_name in READY and not dataset.subset:
            yield f"{place}.dataset_name", [bundled_file(dataset, split)]
    model = find_local(base_name(config), config.model.model_revision)
    if model is not None and config.peft.trains_adapter:  # else the checkpoint has all weights
        kinds = _WEIGHTS if config.model.load_pretrained_weights else _WEIGHTS[2:]
        yield "model.model_name", _matching(model.path, kinds)
    if (adapter := adapter_of(config)) is not None:
        yield "model.adapter_name_or_path", [adapter.path / "adapter_config.json"]


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _file_key(path: Path) -> str:
    """Return a hash of a file; the hub's cache names its files by one."""
    blob = path.resolve()
    return blob.name if path.is_symlink() and blob.parent.name == "blobs" else file_key(path)


def _without_template(path: Path) -> str:
    """Return a hash of a tokenizer's file without the chat template that it may contain."""
    if path.name != "tokenizer_config.json":
        return _file_key(path)
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        about.pop("chat_template", None)
    except (OSError, ValueError, AttributeError):
        return _file_key(path)
    return key_of([json.dumps(about, sort_keys=True)])


def _template(config: Config, tokenizer: Path | None) -> str | None:
    """Return the text of the chat template that rows are written with, if there is one."""
    try:
        if (chosen := chosen_template(config.model, None)) is not None:
            return chosen
        if tokenizer is None:
            return None
        if files := _matching(tokenizer, _TEMPLATE):
            return "\n".join(path.read_text(encoding="utf-8") for path in files)
        text = (tokenizer / "tokenizer_config.json").read_text(encoding="utf-8")
        template = json.loads(text).get("chat_template")
    except (OSError, ValueError, AttributeError, NbftError):
        return None
    return None if template is None else json.dumps(template)


ROWS = "data.train"
"""The rows as tokens, whatever they come from."""

_NAMES = {
    "model.model_name": "the weights of the base model {value}",
    "model.adapter_name_or_path": "the adapter {value}",
    "model.tokenizer_name": "the tokenizer",
    "model.chat_template": "the chat template",
    "model.trust_remote_code": "the code of the model",
    ROWS: "the training rows",
}


_EXPLAIN_ROWS = (f"{ROWS}.", "model.tokenizer_name", "model.chat_template")


def changed_contents(
    before: Provenance, now: Mapping[str, str], config: Config, settings: Iterable[str] = ()
) -> list[str]:
    """Return what has changed since, each as a noun phrase.

    The rows as tokens are named only if no other content explains their change.

    Args:
        before: That of the checkpoint.
        now: What `contents_of` returns now; what only one of the two knows is not compared.
        config: The config, whose values are shown.
        settings: Paths of the settings that have changed.
    """
    changed = [setting for setting, key in before.contents.items() if now.get(setting, key) != key]
    if any(setting.startswith(_EXPLAIN_ROWS) for setting in changed):
        changed = [setting for setting in changed if setting != ROWS]
    tree = io.flatten(config.to_dict(full=True))
    phrases = []
    for setting in changed:
        value = redact(tree.get(setting), setting)
        if setting == ROWS:
            why = [path for path in settings if path.startswith(("data.", "model."))]
            phrases.append(_NAMES[ROWS] + (f" ({', '.join(why)})" if why else ""))
        elif setting in _NAMES:
            phrases.append(f"{_NAMES[setting].format(value=value)} ({setting})")
        else:
            phrases.append(f"{setting}={value!r}")
    return phrases


def refusal(changed: list[str], step: int) -> str:
    """Return the sentence that refuses to go on after such changes, and how to."""
    return (
        f"cannot go on from step {step:,}, because what its steps were trained on has changed: "
        f"{', '.join(changed)}. Start a new run, or set {CONSENT}=true to go on nevertheless."
    )


@dataclass(frozen=True)
class Resumption:
    """How a run goes on from a checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        step: Steps done, each as large as those of the run.
        remarks: What is to be said about it.
    """

    checkpoint: Path
    step: int
    remarks: list[str]


def plan_resumption(
    config: Config, checkpoint: Path, step: int, now: Provenance, *, is_own: bool
) -> Resumption:
    """Work out how a run goes on from a checkpoint.

    Args:
        config: The config of the run.
        checkpoint: Its own checkpoint, or that of another run.
        step: Steps of the checkpoint.
        now: What the run is trained on now.
        is_own: Whether the checkpoint is the run's own.

    Raises:
        ConfigError: What the earlier steps were trained on has changed, the checkpoint holds other
            parameters, or nothing is left to train.
    """
    before = Provenance.read(checkpoint)
    remarks = []
    is_anew = config.checkpoint.ignore_load_lr_and_optim
    if not is_anew and not any((checkpoint / name).is_file() for name in _OPTIMISER):
        remarks.append(
            f"{checkpoint.name} holds no optimiser state (checkpoint.save_only_model), so the "
            "optimiser starts anew and the losses are not those of an uninterrupted run."
        )
    if before is None:
        remarks.append(
            f"{checkpoint.name} does not say what it was trained on, so nothing is compared."
        )
        return _left(config, Resumption(checkpoint, step, remarks), now, is_own=is_own)
    others = _others(before, now)
    if changed := changed_contents(before, now.contents, config, others):
        if not config.training.resume_despite_changes:
            raise ConfigError(f"The run {refusal(changed, step)}")
        remarks.append(f"Changed after step {step:,}, as consented to: {', '.join(changed)}.")
    remarks += _changed_settings(config, others, step)
    done, repeated = before.position(step, now)
    if done != step:
        again = f", repeating {count(repeated, 'row')}" if repeated else ""
        remarks.append(
            f"The {count(step, 'step')} of the checkpoint had {count(before.rows_per_step, 'row')} "
            f"each ({before.batch} x {before.accumulation}), those of this run have "
            f"{now.rows_per_step:,} ({now.batch} x {now.accumulation}): it goes on after "
            f"{count(done, 'step')} of its own{again}."
        )
    elif (before.batch, before.accumulation) != (now.batch, now.accumulation):
        remarks.append(
            f"A step still learns from {count(now.rows_per_step, 'row')}: {now.batch} x "
            f"{now.accumulation} instead of {before.batch} x {before.accumulation}."
        )
    for name, then, here in (
        ("num_processes", before.processes, now.processes),
        ("tensor_parallel_size", before.alike, now.alike),
    ):
        if then != here:
            remarks.append(
                f"Trained with distributed.{name}={then} so far, and with {here} from here on: random "
                "numbers, such as those of dropout, differ."
            )
    if done < now.total_steps:
        remarks += _another_schedule(config, before.total_steps, step, now.total_steps, done)
    return _left(config, Resumption(checkpoint, done, remarks), now, is_own=is_own)


def _others(before: Provenance, now: Provenance) -> dict[str, tuple[Any, Any]]:
    """Return the settings that have changed: before and now."""
    return {
        path: (before.settings[path], value)
        for path, value in now.settings.items()
        if path in before.settings and before.settings[path] != value
    }


def _changed_settings(
    config: Config, changed: Mapping[str, tuple[Any, Any]], step: int
) -> Iterator[str]:
    """Yield which settings are others from here on.

    Raises:
        ConfigError: The checkpoint cannot be loaded with them.
    """
    problems = []
    for path, (old, new) in changed.items():
        is_moment = path in ("optimizer.optim", "optimizer.moment_dtype")
        if path.startswith(_NEW_PARAMETERS):
            fix = "Start a new run, or leave the setting as it was."
        elif is_moment and not config.checkpoint.ignore_load_lr_and_optim:
            fix = "Set checkpoint.ignore_load_lr_and_optim=true to start the optimiser anew."
        else:
            continue
        why = f"was {old!r} in the {count(step, 'step')} of the checkpoint."
        problems.append(Problem(path, new, why, fix))
    if problems:
        raise ConfigError(problems)
    if changed:
        words = ", ".join(f"{path} {old!r} to {new!r}" for path, (old, new) in changed.items())
        yield f"Changed after step {step:,}: {words}."


def _another_schedule(
    config: Config, old: int, old_step: int, new: int, step: int
) -> Iterator[str]:
    """Yield how the learning rate goes on where a schedule of another length changes it."""
    before, after = (learning_rate_at(config, total) for total in (old, new))
    if old != new and before(old_step) != after(step):
        ended = "had ended at" if old_step >= old else "is at"
        yield (
            f"The learning rate schedule spans {count(new, 'step')} instead of {old:,}: after step "
            f"{step:,} the rate goes on at {number(after(step))}, where the schedule of {old:,} "
            f"{ended} {number(before(old_step))}."
        )
    if step and after(step) == 0:
        yield f"The learning rate of step {step + 1:,} is 0 by the schedule."


def _left(config: Config, found: Resumption, now: Provenance, *, is_own: bool) -> Resumption:
    """Return how a run goes on, unless nothing is left to train.

    A run whose last save failed has nothing left to train, but to save.
    """
    if found.step < now.total_steps:
        return found
    text = f"All {count(now.total_steps, 'step')} are trained already"
    if is_own or config.training.resume_from_checkpoint == "auto":
        remark = f"{text} ({found.checkpoint.name}); what is left is to save the model."
        return Resumption(found.checkpoint, found.step, [*found.remarks, remark])
    raise ConfigError(nothing_left(config, found.step, now.total_steps))


def nothing_left(config: Config, step: int, total: int) -> Problem:
    """Return the problem of a run that has as many steps behind it as it has in all."""
    is_limited = config.training.max_steps > 0
    name = "max_steps" if is_limited else "num_train_epochs"
    value = getattr(config.training, name)
    means = "" if is_limited else f" is {count(total, 'step')}, and"
    why = f"{means} {count(step, 'step')} are trained already, so nothing is left to train."
    return Problem(f"training.{name}", value, why.strip(), "Use more.")


def check_start(config: Config, checkpoint: Path, step: int, of_epoch: int, total: int) -> None:
    """Check a new run that goes on from a checkpoint of another, without reading its rows.

    Args:
        config: The config, whose paths are absolute.
        checkpoint: The checkpoint.
        step: Steps of the checkpoint.
        of_epoch: Steps of one pass over the rows of the run.
        total: Steps of the run.

    Raises:
        ConfigError: As of `plan_resumption`.
    """
    now = Provenance.of(config, of_epoch, total, contents_of(config, _QUICK_BYTES))
    plan_resumption(config, checkpoint, step, now, is_own=False)


def check_resume(config: Config, checkpoint: Path, step: int, *, is_completed: bool) -> None:
    """Check a run that goes on from its own checkpoint, without reading its rows.

    Args:
        config: The config that the run would go on with.
        checkpoint: Its last checkpoint.
        step: Steps of the checkpoint.
        is_completed: Whether the run has done what it was to do.

    Raises:
        ConfigError: Nothing would be left to train, or what the steps were trained on has changed.
    """
    before = Provenance.read(checkpoint)
    if before is None:
        return
    training = config.training
    total = training.max_steps
    if total <= 0:
        total = math.ceil(training.num_train_epochs * before.steps_per_epoch)
    if total < step or (is_completed and total == step):
        raise ConfigError(nothing_left(config, step, total))
    changed = changed_contents(before, contents_of(config, _QUICK_BYTES), config)
    if changed and not training.resume_despite_changes:
        raise ConfigError(refusal(changed, step))
