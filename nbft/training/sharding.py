"""A model cut into shards, one for each process, with torch's `fully_shard` (FSDP2).

Parameters are gathered unit by unit for the forward and the backward pass, gradients are averaged
into shards, and each process updates its own. Files hold whole tensors, so any number of processes
goes on from them. It works on GPUs and, through gloo, on CPUs; transformers would train on a CPU
with DistributedDataParallel instead, without a word.

Source: PyTorch FSDP, arXiv:2304.11277. Called by `nbft.training.trainer` and the worker.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication
from torch.utils._pytree import tree_map

from nbft.config import Config
from nbft.config.distributed import Distributed
from nbft.errors import ConfigError, Problem
from nbft.training.ranks import Ranks
from nbft.training.tensor_parallel import Split

_CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict)


def is_sharded(model: Any) -> bool:
    """Whether a model is cut into shards, so that all processes have to compute with it together."""
    return isinstance(model, FSDPModule)


def shard(model: Any, config: Config, ranks: Ranks, device: str) -> Split | None:
    """Cut a model into shards, in place, and move this process's to its device.

    Returns how its layers are split across processes before that, if they are.

    Args:
        model: The model, adapter included; its optimiser is made later.
        config: Its section `distributed` says what is cut, and into what units.
        ranks: Which of several processes this is.
        device: Device to train on.

    Raises:
        ConfigError: A layer class that is to be a unit is not in the model, or its trained weights
            have several number types.
    """
    asked = config.distributed
    types = sorted(
        {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    )
    if len(types) > 1:
        field = f"distributed.{asked.sharder}"
        why = f"needs trained weights of one number type, and these are {' and '.join(types)}."
        fix = "Set model.dtype to float32."
        raise ConfigError(Problem(field, asked.shards, why, fix, {"model.dtype": "float32"}))
    if asked.fsdp_sync_module_states:
        ranks.share([p.data for p in model.parameters() if p.requires_grad])
    split, mesh = None, _mesh(asked, ranks.count, device)
    if asked.tensor_parallel_size > 1:
        split = Split(model, mesh, asked)
        mesh = mesh[tuple(name for name in mesh.mesh_dim_names if name != "tp")]
    offload = OffloadPolicy()
    if asked.offloads:
        offload = CPUOffloadPolicy(pin_memory=device == "cuda")
    cut: Any = functools.partial(
        fully_shard,
        mesh=mesh,
        reshard_after_forward=None if asked.shards == "weights" else False,
        offload_policy=offload,
    )
    units = [unit for unit in _units(model, asked) if unit is not model]
    for unit in sorted(units, key=lambda unit: len(list(unit.modules()))):  # inner ones first
        cut(unit)
    cut(model)
    _prefetch(units, asked)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")
    return split


def _mesh(asked: Distributed, processes: int, device: str) -> Any:
    """Return the processes, by the copies of the model, the shards of each and parts of a layer."""
    size, parts = asked.sharding_parallel_size, asked.tensor_parallel_size
    groups = processes // parts
    sizes = {"dp_shard": groups}  # the names that Accelerate gives them
    if size not in (1, groups):
        sizes = {"dp_replicate": groups // size, "dp_shard": size}
    if parts > 1:
        sizes["tp"] = parts
    return init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def _units(model: Any, asked: Distributed) -> list[Any]:
    """Return the modules that are gathered at once, inner ones first.

    Embeddings, the head, whose weights the loss reads itself, and weights that several modules share
    stay with the rest of the model.
    """
    if asked.fsdp_auto_wrap_policy == "TRANSFORMER_BASED_WRAP":
        return _layers(model, asked.fsdp_transformer_layer_cls_to_wrap)
    if asked.fsdp_auto_wrap_policy == "NO_WRAP":
        return []
    found: list[Any] = []
    kept = {id(p) for p in _read_elsewhere(model)}

    def left_over(module: Any) -> int:
        """Add a module's units; return the number of its parameters that are in none."""
        is_adapted = hasattr(module, "base_layer")  # it reads the weights of what it wraps
        own = module.parameters(recurse=is_adapted)
        size = int(sum(p.numel() for p in own if id(p) not in kept))
        if not is_adapted:
            size += sum(left_over(child) for child in module.children())
        is_whole = not kept & {id(p) for p in module.parameters()}
        is_unit = is_whole and not isinstance(module, _CONTAINERS)
        if not is_unit or size < asked.fsdp_min_num_params:
            return size
        found.append(module)
        return 0

    left_over(model)
    return found


def _layers(model: Any, named: str | None) -> list[Any]:
    """Return the layers of the classes that are named, or that the model says not to split."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = {name.strip() for name in (named or "").split(",") if name.strip()}
    wanted = names or set(getattr(inner, "_no_split_modules", None) or ())
    layers = [m for m in inner.modules() if type(m).__name__ in wanted]
    missing = sorted(names - {type(m).__name__ for m in layers})
    if not layers and not missing:
        why = "does not know the layers of this model, which names none."
        field, fix = "distributed.fsdp_auto_wrap_policy", "Use SIZE_BASED_WRAP."
        change = {field: "SIZE_BASED_WRAP"}
        raise ConfigError(Problem(field, "TRANSFORMER_BASED_WRAP", why, fix, change))
    if missing:
        there = sorted({type(m).__name__ for m in inner.modules() if list(m.children())})
        why = f"is no layer of this model; it has {', '.join(there)}."
        field = "distributed.fsdp_transformer_layer_cls_to_wrap"
        fix = "Leave it empty for the model's own layers."
        raise ConfigError(Problem(field, ", ".join(missing), why, fix, {field: None}))
    return layers


def _read_elsewhere(model: Any) -> Iterator[torch.nn.Parameter]:
    """Yield weights that are read outside the forward pass of their module."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for module in (inner.get_input_embeddings(), inner.get_output_embeddings()):
        if module is not None:
            yield from module.parameters()
    seen: set[int] = set()
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if id(p) in seen:
                yield p
            seen.add(id(p))


def _prefetch(units: list[Any], asked: Distributed) -> None:
    """Say which units are gathered while another one computes; torch prefetches backwards by itself."""
    if asked.fsdp_forward_prefetch:
        for unit, following in itertools.pairwise(units):
            unit.set_modules_to_forward_prefetch([following])
    if asked.fsdp_backward_prefetch == "no_prefetch":
        for unit in units:
            unit.set_modules_to_backward_prefetch([unit])  # which is there already


def settle(model: Any) -> None:
    """Let go of what a forward pass without a backward pass has gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tree: Any, *, is_kept: bool = True) -> Any:
    """Return nested lists and dicts with whole tensors in place of shards.

    Args:
        tree: All processes gather what it holds together.
        is_kept: Whether this process needs them; they are None otherwise.
    """
    found: dict[int, Any] = {}  # a tensor that two names share stays one

    def gathered(leaf: Any) -> Any:
        if not isinstance(leaf, DTensor):
            return leaf
        if id(leaf) not in found:
            every: Any = leaf.full_tensor().detach()
            found[id(leaf)] = every.cpu() if is_kept else None
        return found[id(leaf)]

    return tree_map(gathered, tree)


def cut_state(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """Return an optimiser's state dict with this process's shards of what belongs to sharded weights."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of_each = {
        number: {name: _cut_like(value, parameters[number]) for name, value in own.items()}
        for number, own in state["state"].items()
    }
    return {**state, "state": of_each}


def _cut_like(value: Any, like: Any) -> Any:
    is_alike = isinstance(like, DTensor) and getattr(value, "shape", None) == like.shape
    if not is_alike or isinstance(value, DTensor):
        return value
    there = value.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def taking_whole(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Let whole tensors be copied into the shards of a model in a block."""
    if not is_sharded(model):
        return contextlib.nullcontext()
    settle(model)
    return implicit_replication()


@contextlib.contextmanager
def computing_together(model: Any, ranks: Ranks) -> Iterator[None]:
    """Let the others compute what the first process computes with a sharded model in a block.

    The first tells them the arguments of each call of the model and of its `generate`, and its
    random numbers. What the others do in the block, they do before.
    """
    if not is_sharded(model):
        yield
        return
    if ranks.is_first:
        with _telling(model, ranks):
            yield
        ranks.tell(None)
    else:
        yield
        while (call := ranks.tell(None)) is not None:
            _follow(model, *call)
    settle(model)


@contextlib.contextmanager
def _telling(model: Any, ranks: Ranks) -> Iterator[None]:
    is_told = False  # a model that generates calls itself

    def tell(name: str, args: Any, kwargs: Any) -> None:
        if not is_told:
            how = model.training, torch.is_grad_enabled(), _autocast(device), _random(device)
            ranks.tell((name, *_on((args, kwargs), "cpu"), how))

    def generate(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_told
        tell("generate", args, kwargs)
        is_told = True
        try:
            return usual(*args, **kwargs)
        finally:
            is_told = False

    device = next(model.parameters()).device.type
    usual: Any = getattr(model, "generate", None)  # a reward model writes nothing
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: tell("__call__", args, kwargs), prepend=True, with_kwargs=True
    )
    if usual is not None:
        model.generate = generate
    try:
        yield
    finally:
        hook.remove()
        if usual is not None:
            model.generate = usual


def _on(tree: Any, device: Any) -> Any:
    """Return nested lists and dicts with their tensors on a device."""
    return tree_map(lambda one: one.to(device) if isinstance(one, torch.Tensor) else one, tree)


def _autocast(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _random(device: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if device == "cuda" else None


def _follow(model: Any, name: str, args: Any, kwargs: Any, how: Any) -> None:
    """Compute a call as the first process does."""
    is_training, has_gradients, low, (cpu, gpu) = how
    device = next(model.parameters()).device
    args, kwargs = _on((args, kwargs), device)
    was_training = model.training
    model.train(is_training)
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.set_grad_enabled(has_gradients),
        torch.autocast(device.type, low, enabled=low is not None),
    ):
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)
        getattr(model, name)(*args, **kwargs)
    model.train(was_training)
