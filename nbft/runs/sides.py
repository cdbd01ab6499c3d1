"""The two sides of a chat: a base model, a run, or a checkpoint of one, and the weights they need.

Adapters on the same base model share one copy of its weights. A second copy is needed only where all
weights were trained, where two runs have different base models, or where an adapter cannot be
switched off or stand beside another. Loads no library before a model is loaded.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbft.config import Config
from nbft.devices import names_of
from nbft.errors import ConfigError, Problem, RunError
from nbft.formatting import listed, size
from nbft.hardware import free_memory_bytes
from nbft.models.peft_types.lora import changes_weights
from nbft.models.random_numbers import apart
from nbft.queue import holder
from nbft.runs.checkpoints import is_whole, step_of
from nbft.runs.folder import Run, attach, load_base, load_tuned

_ADAPTER = "adapter_config.json"
_CACHED_TOKENS = 2_048
"""Tokens of a conversation for whose keys and values there has to be room."""


class Side(NamedTuple):
    """One side of a chat.

    Attributes:
        title: What it is called; no two sides of a chat share one.
        run: Its run.
        folder: Folder of the adapter, or of all weights; None for the base model of the run.
    """

    title: str
    run: Run
    folder: Path | None

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter on its base model."""
        return self.folder is not None and (self.folder / _ADAPTER).is_file()


class Copy(NamedTuple):
    """One copy of a model's weights, and the adapters on it.

    Attributes:
        config: Says how the weights are loaded.
        folder: Folder of weights that a run has trained; None for the base model.
        adapters: Folders of the adapters, of which one at most is in use.
    """

    config: Config
    folder: Path | None
    adapters: tuple[Path, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What it is loaded from; an adapter that was trained further has another key."""
        folders = [*([self.folder] if self.folder else []), *self.adapters]
        files = (file for folder in folders for file in sorted(folder.iterdir()))
        return (*weights_key(self.config), *((file, file.stat().st_mtime_ns) for file in files))

    @apart()
    def load(self) -> tuple[Any, Any]:
        """Load the weights and the adapters, and return the model with its tokenizer.

        Raises:
            ModelError: The base model or its files cannot be loaded.
        """
        if self.folder is not None or self.adapters:
            first = self.folder or self.adapters[0]
            model, tokenizer = load_tuned(self.config, first)
            device = str(next(model.parameters()).device)
            for n, adapter in enumerate(self.adapters[1:], start=1):
                model.load_adapter(str(adapter), f"adapter_{n}", torch_device=device)
            return model.eval(), tokenizer
        from nbft.models.load import load_tokenizer

        model, folder = load_base(self.config)
        return model, load_tokenizer(self.config, folder)

    @contextlib.contextmanager
    def answering_as(self, side: Side, model: Any) -> Iterator[None]:
        """Let the model answer as one of the sides that it is for."""
        if side.folder is None and self.adapters:
            with model.disable_adapter():
                yield
        elif side.folder in self.adapters[1:]:
            model.set_adapter(f"adapter_{self.adapters.index(side.folder)}", inference_mode=True)
            try:
                yield
            finally:
                model.set_adapter("default", inference_mode=True)
        else:
            yield

    @property
    def wanted(self) -> Run | Config | Copy:
        """What `nbft.ask` calls the same model, so that it is loaded once for both."""
        folders = self.adapters or (self.folder,)
        if len(folders) > 1:
            return self
        (folder,) = folders
        if folder is None:
            return self.config
        run = folder.parent
        with contextlib.suppress(RunError):
            if Run(run).adapter == folder:
                return Run(run)
        return self


def weights_key(config: Config) -> tuple[str, ...]:
    """Return what decides how the base model of a config is loaded."""
    used = config.model, config.compute, config.precision, config.quantization
    return tuple(section.model_dump_json() for section in used)


def sides_of(run: Run) -> list[Side]:
    """Return what can be talked to of a run: its base model, its checkpoints, and its result."""
    whole = sorted(filter(is_whole, (run.path / "checkpoints").glob("checkpoint-*")), key=step_of)
    checkpoints = [Side(f"step {step_of(path):,}", run, path) for path in whole]
    # They belong to weights that were changed before the first step, and are not kept.
    checkpoints = [] if changes_weights(run.config.peft) else checkpoints
    result = [Side(run.id, run, run.adapter)] if run.adapter else []
    return [Side("base model", run, None), *checkpoints, *result]


def choose_sides(
    run: Run, checkpoint: int | None, against: Run | str | Path | int | None
) -> tuple[list[Side], Side, Side]:
    """Return everything that a chat may have on a side, and what is to be on the left and right.

    Args:
        run: The run.
        checkpoint: Step of the checkpoint on the right; the finished run if None.
        against: What is on the left: the base model if None, another run, or a step of this one.

    Raises:
        RunError: A run has no adapter yet, or writes no answers.
        ConfigError: There is no such checkpoint.
    """
    sides = sides_of(run)
    if checkpoint is not None:
        right = _step(run, sides, "checkpoint", checkpoint)
    else:
        right = _result(run, sides)
    if against is None:
        left = sides[0]
    elif isinstance(against, int) and not isinstance(against, bool):
        left = _step(run, sides, "against", against)
    elif isinstance(against, (Run, str, Path)):
        other = against if isinstance(against, Run) else attach(against, run.path.parent)
        left = _result(other, sides_of(other))
        if other.id == run.id and other.path != run.path:
            left = left._replace(title=str(other.path))
        sides = [*sides, left]
    else:
        why = f"is {type(against).__name__}, not a run or the step of a checkpoint."
        raise ConfigError(Problem("against", against, why))
    if left.folder == right.folder and left.run.path == right.run.path:
        raise ConfigError(Problem("against", None, f"both sides are {right.title}."))
    return sides, left, right


def _result(run: Run, sides: Sequence[Side]) -> Side:
    """Return the finished run as a side.

    Raises:
        RunError: It has no adapter yet, or writes no answers.
    """
    if run.adapter is None:
        steps = [step_of(side.folder) for side in sides if side.folder]
        hint = f" It has checkpoints: run.chat(checkpoint={steps[-1]})." if steps else ""
        raise RunError(f"{run.id}: has no adapter yet; it is {run.status}.{hint}")
    check_answers(sides[-1])
    return sides[-1]


def check_answers(side: Side) -> None:
    """Check that a side writes texts.

    Raises:
        RunError: It scores them.
    """
    if side.folder is None:
        return
    is_scoring = _about(side.folder / _ADAPTER).get("task_type") == "SEQ_CLS"
    made = _about(side.folder / "config.json").get("architectures")
    names = made if isinstance(made, list) else []
    if is_scoring or any(str(name).endswith("ForSequenceClassification") for name in names):
        raise RunError(
            f"{side.run.id}: is a model that scores texts and writes none, so there is nobody to "
            "chat with."
        )


def _step(run: Run, sides: Sequence[Side], field: str, step: Any) -> Side:
    """Return a checkpoint as a side.

    Raises:
        ConfigError: There is none with this step.
        RunError: It writes no answers.
    """
    found = {step_of(s.folder): s for s in sides if s.folder and s.folder != run.adapter}
    if not isinstance(step, int) or isinstance(step, bool) or step not in found:
        if changes_weights(run.config.peft):
            why = f"cannot be loaded: with init_lora_weights={run.config.peft.init_lora_weights} "
            why += "a checkpoint belongs to weights that are not kept."
            raise ConfigError(Problem(field, step, why, "Use the finished run."))
        known = listed([str(one) for one in found])
        why = f"is no whole checkpoint of {run.id}, which has {known or 'none'}."
        raise ConfigError(Problem(field, step, why, "Name the step of one." if known else ""))
    check_answers(found[step])
    return found[step]


def copies_for(sides: Sequence[Side]) -> list[Copy]:
    """Return the fewest copies of weights that can answer for some sides.

    Args:
        sides: The sides; each is answered by the first copy that `is_for` it.
    """
    copies: list[Copy] = []
    for side in sides:
        own = Copy(side.run.config, None, ())
        if side.is_adapter:
            assert side.folder is not None
            own = own._replace(adapters=(side.folder,))
        else:
            own = own._replace(folder=side.folder)
        for n, other in enumerate(copies):
            if (joined := _joined(other, own)) is not None:
                copies[n] = joined
                break
        else:
            copies.append(own)
    return copies


def is_for(copy: Copy, side: Side) -> bool:
    """Whether a copy of weights answers for a side."""
    if side.is_adapter:
        return side.folder in copy.adapters
    is_same = weights_key(copy.config) == weights_key(side.run.config)
    return is_same and copy.folder == side.folder and _can_be_off(copy.adapters)


def _joined(one: Copy, other: Copy) -> Copy | None:
    """Return one copy that answers for two; None where each needs its own."""
    if one.folder or other.folder or weights_key(one.config) != weights_key(other.config):
        return None
    adapters = tuple(dict.fromkeys((*one.adapters, *other.adapters)))
    about = [_about(folder / _ADAPTER) for folder in adapters]
    are_alike = all(
        each.get("peft_type") == "LORA" and not each.get("modules_to_save") for each in about
    )
    fits = _can_be_off(adapters) and (len(adapters) < 2 or are_alike)
    config = one.config if one.adapters else other.config
    return Copy(config, None, adapters) if fits else None


def _can_be_off(adapters: Sequence[Path]) -> bool:
    """Whether the base model answers while adapters are switched off: trained biases would stay."""
    return all(_about(folder / _ADAPTER).get("bias") in (None, "none") for folder in adapters)


def needed_bytes(copy: Copy) -> int | None:
    """Estimate the memory of a copy that answers; None where the shape of its model is not known."""
    from nbft.decisions import decide
    from nbft.models.adapters import base_name
    from nbft.models.find import find_described
    from nbft.plan.memory import MARGINS, model_shape, weight_bytes

    config = copy.config
    folder = find_described(base_name(config), config.model.model_revision)
    shape = model_shape(folder) if folder else None
    if shape is None:
        return None
    dtype = decide(config, folder).dtype.value
    weights = weight_bytes(config, shape, dtype) * (1 + MARGINS["weights"])
    width = {"float64": 8, "float32": 4}.get(dtype, 2)
    cache = 2 * shape.key_width * shape.num_layers * width * _CACHED_TOKENS
    files = (file for adapter in copy.adapters for file in adapter.glob("adapter_model.*"))
    return round(weights + cache + sum(file.stat().st_size for file in files))


def check_room(copies: Sequence[Copy], why_two: str = "") -> str:
    """Check that there is memory for copies that have to be loaded.

    Args:
        copies: The copies; at least one.
        why_two: Why two are needed; a sentence.

    Returns:
        A sentence on a run that trains on the same device; "" if none does.

    Raises:
        RunError: There is none, with the numbers.
    """
    from nbft.decisions import decide
    from nbft.plan.memory import LIBRARIES_BYTES

    device = decide(copies[0].config).device.value
    run, reserved = training_beside(device)
    said = f"Run “{run.id}” is training on the same device: both are slower." if run else ""
    parts = [needed_bytes(copy) for copy in copies]
    if None in parts:
        return said
    needed = sum(part or 0 for part in parts)
    if device == "cpu" and "transformers" not in sys.modules:
        needed += LIBRARIES_BYTES
    free = free_memory_bytes(device)
    if needed <= free - reserved:
        return said
    name = "this machine" if device == "cpu" else device
    sentence = f"The chat needs about {size(needed)}, and {name} has {size(free)} free"
    if run and reserved:
        sentence += f", of which run “{run.id}”, which is training, will need {size(reserved)}"
    sentence += f". {why_two}".rstrip()
    fix = " Wait until the run is over, or stop it." if run else " Close what else needs memory."
    raise RunError(sentence.removesuffix(".") + "." + fix)


def training_beside(device: str) -> tuple[Run | None, int]:
    """Return the run that trains on a device, and the bytes that it will need beyond what it has."""
    folder = holder(device, *names_of(device)[:1])
    try:
        run = Run(folder) if folder else None
    except RunError:
        run = None
    if run is None:
        return None, 0
    state = run.state
    has = state.log.get("memory_bytes") or 0
    forecast = state.forecast_bytes or run.plan.get("memory_bytes") or 0
    return run, max(0, round(forecast - has))


def _about(file: Path) -> dict[str, Any]:
    """Return what a JSON file says; {} without one."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
