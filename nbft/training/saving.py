"""Saving and loading the optimiser: by name in one or several files, in 8 bits, or not at all.

Unified: tensors are stored as `<parameter>/<state>` in optimizer.safetensors, independently of order
and grouping; in shards each process stores its own, see `nbft.training.shard_files`. In 8 bits a moment is cut into blocks of 128: the first is stored as
round(127 m / max|m|), an error of at most max|m| / 254; the second, which is never negative and
spans many powers of ten, on 254 even steps of log v, a relative error of at most
(max v / min v)^(1/508) - 1, and 0 stays 0.

Source: 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861, section 2. Called by
`nbft.training.trainer`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.nn import functional

from nbft.config import Config
from nbft.models.initial_weights import to_plain_lora
from nbft.runs.checkpoints import keeping, mark_whole, remove_older, step_of
from nbft.training.optim import load_exactly
from nbft.training.ranks import ALONE, Ranks
from nbft.training.room import EVENTS_BYTES, Room
from nbft.training.shard_files import read_shards, write_shards
from nbft.training.sharding import cut_state, is_sharded, settle, whole

_BLOCK = 128
_MOMENTS = ("exp_avg", "exp_avg_sq")
_INDEX = "optimizer.index.json"
_SHARDED = "distributed_checkpoint"

_CHECKPOINT_BYTES_A_PARAMETER = 16
"""Each trained parameter and AdamW's two moments, 4 bytes each; the adapter saved at the end has
each parameter once more."""

_OTHER_BYTES = 16 * 1024 * 1024
"""Tokenizer and trainer state; 4 MiB per checkpoint for SmolLM2."""


def to_8_bits(moment: torch.Tensor, *, is_second: bool) -> dict[str, torch.Tensor]:
    """Return a moment as codes [blocks, 128] and two numbers per block.

    Args:
        moment: Any shape.
        is_second: Whether it is a mean of squares.
    """
    flat = moment.detach().float().flatten()
    blocks = functional.pad(flat, (0, -len(flat) % _BLOCK)).view(-1, _BLOCK)
    if not is_second:
        largest = blocks.abs().amax(1, keepdim=True)
        codes = (blocks * 127 / largest.clamp(min=1e-38)).round().to(torch.int8)
        return {"codes": codes, "high": largest, "low": torch.zeros_like(largest)}
    logs = blocks.clamp(min=1e-45).log()
    is_zero = blocks <= 0
    low = logs.masked_fill(is_zero, float("inf")).amin(1, keepdim=True)
    high = logs.masked_fill(is_zero, float("-inf")).amax(1, keepdim=True)
    low, high = (torch.where(low <= high, end, torch.zeros_like(end)) for end in (low, high))
    steps = ((logs - low) * 254 / (high - low).clamp(min=1e-6)).round().clamp(0, 254)
    codes = (steps + 1).masked_fill(is_zero, 0).to(torch.uint8)
    return {"codes": codes, "high": high, "low": low}


def from_8_bits(parts: dict[str, torch.Tensor], shape: torch.Size | list[int]) -> torch.Tensor:
    """Return the moment that `to_8_bits` stored, in float32."""
    codes, high, low = parts["codes"], parts["high"], parts["low"]
    if codes.dtype == torch.int8:
        blocks = codes.float() * high / 127
    else:
        blocks = ((codes.float() - 1) * (high - low) / 254 + low).exp()
        blocks = blocks.masked_fill(codes == 0, 0.0)
    return blocks.flatten()[: torch.Size(shape).numel()].view(shape)


def quantised(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimiser's state dict with its moments in 8 bits."""
    return {**state, "state": {n: _each(one, quantise=True) for n, one in state["state"].items()}}


def restored(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state dict that `quantised` took, within its error."""
    return {**state, "state": {n: _each(one, quantise=False) for n, one in state["state"].items()}}


def _each(state: dict[str, Any], *, quantise: bool) -> dict[str, Any]:
    converted = dict(state)
    for name in _MOMENTS:
        value = state.get(name)
        if quantise and isinstance(value, torch.Tensor):
            codes = to_8_bits(value, is_second=name == "exp_avg_sq")
            shape, like = torch.tensor(list(value.shape)), torch.empty(0, dtype=value.dtype)
            converted[name] = codes | {"shape": shape, "like": like}
        elif not quantise and isinstance(value, dict):
            moment = from_8_bits(value, value["shape"].tolist())
            converted[name] = moment.to(value["like"].dtype) if "like" in value else moment
    return converted


def save_by_name(folder: Path, state: dict[str, Any], names: list[str], files: int) -> None:
    """Save an optimiser's state dict by its parameters' names.

    Args:
        folder: The checkpoint.
        state: The state dict.
        names: Names of the parameters in the order of the groups.
        files: Number of files; only one part is built at a time.
    """
    file_of: dict[str, str] = {}
    plain: dict[str, Any] = {}
    for number in range(files):
        part, others = _by_name(state, names, list(state["state"])[number::files])
        file = "optimizer.safetensors"
        if files > 1:
            file = f"optimizer-{number + 1:05}-of-{files:05}.safetensors"
        save_file({key: value.contiguous() for key, value in part.items()}, folder / file)
        file_of |= dict.fromkeys(part, file)
        plain |= others
    _save_index(folder, state, names, {"weight_map": file_of, "plain": plain})


def save_in_shards(folder: Path, state: dict[str, Any], names: list[str], ranks: Ranks) -> None:
    """Save an optimiser's state dict by its parameters' names, each process its own shards.

    Args:
        folder: The checkpoint, which all processes see.
        state: The state dict of this process.
        names: Names of the parameters in the order of the groups.
        ranks: Which of several processes this is; all of them save at once.
    """
    tensors, plain = _by_name(state, names, list(state["state"]))
    write_shards(folder / _SHARDED, tensors, ranks)
    if ranks.is_first:
        _save_index(folder, state, names, {"shards": _SHARDED, "plain": plain})


def _by_name(
    state: dict[str, Any], names: list[str], numbers: list[int]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the state of some parameters by their names: the tensors, and what else there is."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for n in numbers:
        for key, value in _flat(state["state"][n]):
            kind = tensors if isinstance(value, torch.Tensor) else plain
            kind[f"{names[n]}/{key}"] = value
    return tensors, plain


def _save_index(
    folder: Path, state: dict[str, Any], names: list[str], index: dict[str, Any]
) -> None:
    """Save where the tensors are, the groups, and what belongs to no parameter."""
    groups, begin = [], 0
    for group in state["param_groups"]:
        end = begin + len(group["params"])
        groups.append({**group, "params": names[begin:end]})
        begin = end
    text = json.dumps({**index, "param_groups": groups}, default=float)
    (folder / _INDEX).write_text(text, encoding="utf-8")
    if "masters" in state:
        masters = dict(zip(names, state["masters"], strict=True))
        save_file({k: v.contiguous() for k, v in masters.items()}, folder / "masters.safetensors")
    if state.get("rounding"):
        save_file(state["rounding"], folder / "rounding.safetensors")


def _flat(state: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in state.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def load_by_name(
    folder: Path,
    now: dict[str, Any],
    parameters: Mapping[str, torch.Tensor],
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Return what was saved by name as a state dict for the current optimiser.

    Args:
        folder: The checkpoint.
        now: State dict of the current optimiser, whose groups are kept.
        parameters: Its parameters by their names, in the order of its groups.
        ranks: Which of several processes this is; all of them load at once.
    """
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    state: dict[int, dict[str, Any]] = {}
    names = list(parameters)
    number_of = {name: n for n, name in enumerate(names)}
    if "shards" in index:
        every: Iterator[Mapping[str, Any]] = iter(
            [read_shards(folder / _SHARDED, parameters, ranks)]
        )
    else:
        every = (load_file(folder / file) for file in sorted(set(index["weight_map"].values())))
    for values in (*every, index.get("plain", {})):
        for key, value in values.items():
            name, _, kind = key.rpartition("/")
            if name not in number_of:
                continue
            of_parameter = state.setdefault(number_of[name], {})
            first, _, second = kind.partition(".")
            if second:
                of_parameter.setdefault(first, {})[second] = value
            else:
                of_parameter[kind] = value
    loaded = {**now, "state": state}
    if (folder / "masters.safetensors").is_file():
        masters = load_file(folder / "masters.safetensors")
        loaded["masters"] = [masters[name] for name in names]
    if (folder / "rounding.safetensors").is_file():
        loaded["rounding"] = load_file(folder / "rounding.safetensors")
    return loaded


def _go_on(scheduler: Any, saved: dict[str, Any], skipped: int) -> None:
    """Put a schedule where it was, in the schedule that the config has now.

    Args:
        scheduler: The schedule.
        saved: Its state in the checkpoint.
        skipped: Steps that the run counts fewer than the checkpoint, as its own are larger.
    """
    if not hasattr(scheduler, "lr_lambdas"):  # of a trainer of somebody's own
        scheduler.load_state_dict({**scheduler.state_dict(), **saved})
        return
    scheduler.last_epoch = saved["last_epoch"] - skipped
    scheduler._step_count = saved["_step_count"] - skipped
    shares = (shape(scheduler.last_epoch) for shape in scheduler.lr_lambdas)
    scheduler._last_lr = [
        rate * share for rate, share in zip(scheduler.base_lrs, shares, strict=True)
    ]
    groups = scheduler.optimizer.param_groups
    for group, rate in zip(groups, scheduler._last_lr, strict=True):
        group["lr"] = rate


def saved_bytes(model: Any) -> int:
    """Return the room that a saved adapter needs, or a saved model where all of it is trained."""
    adapted = hasattr(model, "peft_config")
    parameters = [p for p in model.parameters() if p.requires_grad or not adapted]
    return _OTHER_BYTES + int(sum(p.numel() * p.element_size() for p in parameters))


def checkpoint_bytes(model: Any) -> int:
    """Return the room that a checkpoint needs."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return _OTHER_BYTES + _CHECKPOINT_BYTES_A_PARAMETER * int(trained)


class OwnSaving:
    """Part of a trainer: saves and loads the optimiser according to the checkpoint settings."""

    nbft_config: Config
    nbft_room: Room | None
    nbft_ranks: Ranks
    nbft_initial: Mapping[str, torch.Tensor] | None
    _weights: dict[str, Any] | None = None

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Hold the whole weights of a sharded model in a block; all processes enter it together.

        Of an adapter, those that are saved with it.
        """
        model: Any = self.model  # type: ignore[attr-defined]
        if not is_sharded(model) or self._weights is not None:
            yield
            return
        settle(model)
        weights = model.state_dict(keep_vars=True)
        if hasattr(model, "peft_config"):
            saved = set(map(id, get_peft_model_state_dict(model, weights).values()))
            weights = {name: weight for name, weight in weights.items() if id(weight) in saved}
        self._weights = whole(weights, is_kept=self.nbft_ranks.is_first)
        try:
            yield
        finally:
            self._weights = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; outside of a checkpoint as an adapter that fits the unchanged base model."""
        trainer: Any = self
        with self.gathered():
            if self._weights is None:
                super().save_model(output_dir, _internal_call)  # type: ignore[misc]
            elif trainer.args.should_save:
                trainer._save(output_dir, state_dict=self._weights)
        initial = self.nbft_initial
        if initial is not None and output_dir is not None and not _internal_call:
            to_plain_lora(Path(output_dir), initial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a whole checkpoint; only then are older ones removed.

        While the disk is full it is removed, and saved again when there is room.
        """
        trainer: Any = self
        folder = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        usual = super()._save_checkpoint  # type: ignore[misc]
        ranks = self.nbft_ranks
        if not ranks.is_first:  # what it adds are its random numbers
            ranks.wait()
            with self._removing_nothing():
                usual(model, trial)
            ranks.wait()
            trainer.save_rest(folder)
            ranks.wait()
            return

        def save() -> None:
            with keeping(folder):
                folder.mkdir(parents=True)
                ranks.wait()
                usual(model, trial)
                ranks.wait()
                trainer.save_rest(folder)
                mark_whole(folder)
            ranks.wait()

        with self._removing_nothing():
            if self.nbft_room is None or ranks.count > 1:  # several cannot do it again
                save()
            else:
                step = int(trainer.state.global_step)
                self.nbft_room.write(save, step, EVENTS_BYTES + checkpoint_bytes(trainer.model))
        best = trainer.state.best_model_checkpoint
        limit = trainer.args.save_total_limit
        remove_older(folder.parent, limit, Path(best) if best else None)

    @contextlib.contextmanager
    def _removing_nothing(self) -> Iterator[None]:
        """Keep the library from removing checkpoints."""
        arguments: Any = self.args  # type: ignore[attr-defined]
        limit, arguments.save_total_limit = arguments.save_total_limit, None
        try:
            yield
        finally:
            arguments.save_total_limit = limit

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """End the training without removing the last checkpoint, which a longer run goes on from."""
        with self._removing_nothing():
            return super()._finalize_training(*args, **kwargs)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        ours, folder = self.nbft_config.checkpoint, Path(output_dir)
        trainer: Any = self
        state = trainer.optimizer.state_dict()
        is_in_shards = ours.state_dict_type == "SHARDED_STATE_DICT"
        if not is_in_shards:
            state = whole(state, is_kept=self.nbft_ranks.is_first)
        if ours.quantize_checkpoint and (is_in_shards or trainer.args.should_save):
            state = quantised(state)
        if is_in_shards:
            save_in_shards(folder, state, list(self._named()), self.nbft_ranks)
        if not trainer.args.should_save:
            return
        torch.save(trainer.lr_scheduler.state_dict(), folder / "scheduler.pt")
        if is_in_shards:
            return
        if ours.unified_checkpoint:
            split = "ignore_merge_optimizer" in ours.unified_checkpoint_config
            files = ours.optim_shard_num if split else 1
            save_by_name(folder, state, list(self._named()), files)
        else:
            torch.save(state, folder / "optimizer.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.nbft_config.checkpoint.ignore_load_lr_and_optim:
            return
        folder = Path(checkpoint)
        trainer: Any = self
        state = None
        if (folder / _INDEX).is_file():
            now = trainer.optimizer.state_dict()
            state = load_by_name(folder, now, self._named(), self.nbft_ranks)
        elif (folder / "optimizer.pt").is_file():
            state = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        if state is not None:
            load_exactly(trainer.optimizer, cut_state(restored(state), trainer.optimizer))
        done = step_of(folder)
        schedule = {"last_epoch": done, "_step_count": done + 1}  # of a checkpoint of weights alone
        if (folder / "scheduler.pt").is_file():
            schedule = torch.load(folder / "scheduler.pt", weights_only=True)
        _go_on(trainer.lr_scheduler, schedule, skipped=done - trainer._own_step(done))

    def _named(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters by name, in the order of the optimiser's groups."""
        trainer: Any = self
        name_of = {id(p): name for name, p in trainer.model.named_parameters()}
        return {
            name_of[id(p)]: p for group in trainer.optimizer.param_groups for p in group["params"]
        }
