"""Layers split across processes: tensor and sequence parallelism with torch's DTensor.

Column-wise layers (queries, keys, values, the way up) keep rows of their matrix, so each process
computes some heads or neurons; row-wise ones (the way out) keep columns, and their products are added
up. Adapters are cut along with what they adapt. Processes that split a layer read the same rows.

With sequence parallelism each also keeps only its part of a row's positions between the layers,
during training.

Source: Megatron-LM, arXiv:1909.08053, section 3, and arXiv:2205.05198, section 4.2. Called by
`nbft.training.sharding`, which cuts what is left into shards.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.utils._pytree import tree_map
from transformers import TrainerCallback

from nbft.config.distributed import Distributed
from nbft.errors import ConfigError, Problem

_SIZE = "distributed.tensor_parallel_size"
_COLUMNS, _ROWS, _OF_HEADS = "colwise", "rowwise", "replicated_with_grad_allreduce"
_KEPT_WHOLE = ("embedding_rowwise", "colwise_gather_output")
"""Embeddings and head, which the loss reads itself."""
_SEQUENCE = 1
"""The dimension of positions in hidden states, [rows, positions, width]."""


class Split:
    """A model whose layers are split across processes, which compute the same rows."""

    def __init__(self, model: Any, mesh: Any, asked: Distributed) -> None:
        """Split the layers that a model's own plan names, in place.

        Args:
            model: The model, adapter included.
            mesh: All processes; those that split a layer are its dimension "tp".
            asked: Says whether hidden states are split too, and what is kept the same.

        Raises:
            ConfigError: The model has no such plan, or one with other ways.
        """
        self._model, self._mesh, self._kept = model, mesh, asked.tensor_parallel_config
        mesh = mesh["tp"]
        self._group = mesh.get_group()
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        ways = _ways(inner, asked.tensor_parallel_size)
        self._step, self._batch = -1, 0
        self._sequence = _Sequence(inner, mesh) if asked.sequence_parallel else None
        self._partial = list(self._sequence.between if self._sequence else ())
        for name, module in list(inner.named_modules()):
            way = next((ways[p] for p in ways if fnmatch.fnmatchcase(name, p)), None)
            if way == _OF_HEADS:  # computes some heads with weights that all have
                self._partial.append(f"{name}.")
            elif way is not None:
                _split_layer(module, way, mesh, self._sequence)
            if way == _COLUMNS and self._sequence is not None:
                self._sequence.gather_for(inner.get_submodule(name.rpartition(".")[0]))

    def join(self, trainer: Any) -> None:
        """Let a trainer read the same rows in the processes of a group, and count them once."""
        accelerator, size = trainer.accelerator, self._group.size()
        accelerator.state.device_mesh = self._mesh
        trainer.add_callback(_FinishesSteps(self))
        gather, of_metrics = accelerator.gather, accelerator.gather_for_metrics

        @functools.wraps(of_metrics)
        def gather_once(*args: Any, **kwargs: Any) -> Any:
            accelerator.gather = lambda tensors: tree_map(
                lambda one: _once(one, size), gather(tensors)
            )
            try:
                return of_metrics(*args, **kwargs)
            finally:
                accelerator.gather = gather

        accelerator.gather_for_metrics = gather_once
        trainer.gather_function = functools.partial(
            gather_once, use_gather_object=trainer.args.eval_use_gather_object
        )

    def begin_batch(self, seed: int, step: int) -> None:
        """Let the processes of a group draw the same random numbers for a batch, such as dropout's.

        They would drift apart as soon as one draws a number of its own, for a sample for example.

        Args:
            seed: The run's.
            step: Optimiser steps done before the batch.
        """
        self._batch = self._batch + 1 if step == self._step else 0
        self._step = step
        group = distributed.get_rank() // self._group.size()
        numbers = seed, step, self._batch, group
        torch.manual_seed(int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8]))

    def finish_gradients(self) -> None:
        """Add up, or average, gradients of weights that are not split, before they are clipped."""
        for name, p in self._whole_weights():
            if p.grad is None:
                continue
            if any(place in name for place in self._partial):
                distributed.all_reduce(_local(p.grad), group=self._group)
            elif "sync_grad" in self._kept:
                distributed.all_reduce(_local(p.grad), group=self._group)
                p.grad /= self._group.size()

    def finish_step(self, optimizer: Any) -> None:
        """Give weights that are not split, and their moments, the values of the first process."""
        for _, p in self._whole_weights():
            tensors = [p.detach()] if "sync_param" in self._kept else []
            if "sync_moment" in self._kept:
                state = optimizer.state.get(p, {}).values()
                tensors += [one for one in state if getattr(one, "shape", None) == p.shape]
            for one in tensors:
                distributed.broadcast(_local(one), group=self._group, group_src=0)

    def _whole_weights(self) -> Iterator[tuple[str, Any]]:
        """Yield trained weights that every process of the group holds alike, by name."""
        for name, p in self._model.named_parameters():
            names = p.device_mesh.mesh_dim_names if isinstance(p, DTensor) else ()
            if p.requires_grad and "tp" not in (names or ()):
                yield name, p


class _FinishesSteps(TrainerCallback):
    def __init__(self, split: Split) -> None:
        self._split = split

    def on_optimizer_step(self, *_: Any, **about: Any) -> None:
        self._split.finish_step(about["optimizer"])


def _once(gathered: Any, size: int) -> Any:
    """Return what was gathered from all processes, once for each group of them that is alike."""
    of_each = gathered.unflatten(0, (distributed.get_world_size(), -1))
    return of_each[::size].flatten(0, 1)


def _local(tensor: Any) -> Any:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _ways(inner: Any, size: int) -> dict[str, str]:
    """Return how each layer inside the model is split, by the pattern of its name."""
    plan = dict(getattr(inner.base_model, "_tp_plan", None) or {})
    prefix = inner.base_model_prefix
    named = {
        pattern if pattern.startswith(f"{prefix}.") else f"{prefix}.{pattern}": way
        for pattern, way in plan.items()
    }
    named = {pattern: way for pattern, way in named.items() if way not in _KEPT_WHOLE}
    others = sorted(set(named.values()) - {_COLUMNS, _ROWS, _OF_HEADS})
    if not named or others:
        why = "does not know how to split the layers of this model"
        why = (
            f"{why}: its plan has {', '.join(others)}." if others else f"{why}, which has no plan."
        )
        fix = "Use 1, and distributed.fsdp=full_shard."
        raise ConfigError(Problem(_SIZE, size, why, fix, {_SIZE: 1}))
    return named


def _split_layer(module: Any, way: str, mesh: Any, between: _Sequence | None) -> None:
    """Cut the weights of a layer and its adapter, and let it compute with this process's part."""
    for name, part in module.named_modules():
        for leaf, p in list(part.named_parameters(recurse=False)):
            cut = distribute_tensor(p.data, mesh, [_placement(way, name, leaf)], src_data_rank=None)
            part.register_parameter(leaf, torch.nn.Parameter(cut, requires_grad=p.requires_grad))

    def enter(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args
        if way == _ROWS:
            return DTensor.from_local(hidden, mesh, [Shard(-1)], run_check=False), *rest
        return DTensor.from_local(hidden, mesh, [Replicate()], run_check=False), *rest

    def leave(_: Any, __: Any, output: DTensor) -> torch.Tensor:
        if way == _COLUMNS:
            wanted: Any = Shard(-1)
        else:
            is_split = between is not None and between.is_split
            wanted = Shard(_SEQUENCE) if is_split else Replicate()
        return output.redistribute(placements=[wanted]).to_local()

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


def _placement(way: str, name: str, leaf: str) -> Any:
    """Return where a process keeps which part of a weight, [out, in], of a layer or its adapter."""
    is_first, is_second = "lora_A" in name, "lora_B" in name
    if way == _COLUMNS:
        return Replicate() if is_first else Shard(0)
    return Replicate() if is_second or leaf == "bias" else Shard(1)


class _Sequence:
    """Hidden states between the layers, of which each process keeps some positions in training.

    Attributes:
        is_split: Whether those that are computed now are.
        between: What the names of weights contain that see some positions only.
    """

    is_split = False

    def __init__(self, inner: Any, mesh: Any) -> None:
        """Split before the first layer, and gather after the last norm, which follows the layers."""
        self._inner, self._mesh = inner, mesh
        self._blocks: set[Any] = set()
        layers, norm = _ends(inner)
        self.between = [f"{_name(inner, layers)}.", f"{_name(inner, norm)}."]
        layers[0].register_forward_pre_hook(self._scatter)
        norm.register_forward_hook(self._gather)

    def gather_for(self, block: Any) -> None:
        """Give a block, attention or MLP, all positions of its hidden states."""
        if block not in self._blocks:
            self._blocks.add(block)
            block.register_forward_pre_hook(self._enter, with_kwargs=True)

    def _enter(self, _: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if not self.is_split:
            return None
        if args:
            return (self._whole(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._whole(kwargs["hidden_states"])}

    def _whole(self, hidden: torch.Tensor) -> Any:
        """Return all positions of hidden states."""
        shape = self._shape
        stride = (shape[1] * shape[2], shape[2], 1)
        part = DTensor.from_local(
            hidden, self._mesh, [Shard(_SEQUENCE)], run_check=False, shape=shape, stride=stride
        )
        return part.redistribute(placements=[Replicate()]).to_local()

    def _scatter(self, _: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.is_split = self._inner.training
        if not self.is_split:
            return args
        hidden, *rest = args
        self._shape = hidden.shape
        whole = DTensor.from_local(hidden, self._mesh, [Replicate()], run_check=False)
        return whole.redistribute(placements=[Shard(_SEQUENCE)]).to_local(), *rest

    def _gather(self, _: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return self._whole(output) if self.is_split else output


def _ends(inner: Any) -> tuple[Any, Any]:
    """Return the layers of a model and the norm after them.

    Raises:
        ConfigError: They are not where decoders have them.
    """
    layers, norm = (getattr(inner.base_model, name, None) for name in ("layers", "norm"))
    if layers is None or norm is None:
        path = "distributed.sequence_parallel"
        why = "does not know where the layers of this model begin and end."
        raise ConfigError(Problem(path, True, why, "Leave it out.", {path: False}))
    return layers, norm


def _name(inner: Any, wanted: Any) -> Any:
    return next(name for name, module in inner.named_modules() if module is wanted)
