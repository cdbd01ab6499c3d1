"""Optimisers and schedulers that transformers lacks.

Adam, bfloat16 moments, offloading, layer-wise learning rates, and registered schedules.

Layer-wise decay: with n layers, layer i (from 0) has the rate · decay^(n - i), the embeddings
rate · decay^(n + 1), and everything above the layers the rate itself.
Source: ELECTRA, arXiv:2003.10555, appendix A. Called by `nbft.training.trainer`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from torch.optim import Optimizer

from nbft import registry
from nbft.config import Config
from nbft.decisions import Decisions
from nbft.plan.schedule import shape_of, warmup_steps

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")
_BELOW_THE_LAYERS = re.compile(r"(?:^|\.)(?:embed\w*|wte|wpe|word_embeddings\w*)(?:\.|$)")


def adam(groups: list[dict[str, Any]], config: Config) -> Optimizer:
    """Return the original Adam: weight decay is added to the gradient.

    Source: Adam, arXiv:1412.6980, algorithm 1.
    """
    return torch.optim.Adam(groups, **_of_adam(config))


def _of_adam(config: Config) -> dict[str, Any]:
    ours = config.optimizer
    betas = (ours.adam_beta1, ours.adam_beta2)
    return {"lr": config.training.learning_rate, "betas": betas, "eps": ours.adam_epsilon}


class BfloatAdamW(Optimizer):
    """AdamW with both moments stored in bfloat16 and computed in float32.

    m ← β₁ m + (1 - β₁) g,  v ← β₂ v + (1 - β₂) g²,
    w ← w (1 - lr λ) - lr (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)

    Rounding is stochastic: rounding to nearest would drop the small additions to v, since 1 - β₂ is
    below half of bfloat16's step of 2⁻⁸. It has its own generator, so that the training's random
    numbers stay the same.

    Source: Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2; stochastic
    rounding, arXiv:2010.06192, section 3.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )
        self._generators: dict[torch.device, torch.Generator] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = closure() if closure else None
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            for p in trained:
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(p, dtype=torch.bfloat16)
                    state["exp_avg_sq"] = torch.zeros_like(p, dtype=torch.bfloat16)
                state["step"] = int(state["step"]) + 1  # earlier versions saved a tensor
            for _, alike in itertools.groupby(trained, self._kind):
                for together in _in_batches(list(alike)):
                    self._update(together, group)
        return loss

    def _kind(self, p: torch.Tensor) -> tuple[Any, ...]:
        assert p.grad is not None
        return p.device, p.dtype, p.grad.dtype, self.state[p]["step"]

    def _update(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Update parameters together: joined, their numbers take as many kernels as those of one."""
        states = [self.state[p] for p in parameters]
        firsts, seconds = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq"))
        step, (beta1, beta2) = states[0]["step"], group["betas"]
        gradient = _joined([p.grad for p in parameters])
        first = _joined(firsts).lerp_(gradient, 1 - beta1)
        second = _joined(seconds).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        torch._foreach_copy_(firsts, _split(self._rounded(first), parameters))
        torch._foreach_copy_(seconds, _split(self._rounded(second), parameters))
        size = second.div_(1 - beta2**step).sqrt_().add_(group["eps"])
        change = first.div_(1 - beta1**step).div_(size).to(parameters[0].dtype)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, _split(change, parameters), alpha=-group["lr"])

    def _rounded(self, value: torch.Tensor) -> torch.Tensor:
        """Round float32 to bfloat16 stochastically."""
        if value.device not in self._generators:
            self._generators[value.device] = torch.Generator(value.device).manual_seed(0)
        noise = torch.randint(
            0, 2**16, value.shape, dtype=torch.int32, device=value.device,
            generator=self._generators[value.device],
        )  # fmt: skip
        bits = (value.view(torch.int32) + noise) & -(2**16)
        return bits.view(torch.float32).to(torch.bfloat16)

    def state_dict(self) -> dict[str, Any]:
        """Return the moments, and the state of the random numbers of the rounding by device."""
        states = {str(device): g.get_state() for device, g in self._generators.items()}
        return {**super().state_dict(), "rounding": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        super().load_state_dict(state_dict)
        for name, state in state_dict.get("rounding", {}).items():
            generator = self._generators[torch.device(name)] = torch.Generator(name)
            generator.set_state(state.cpu())


_TOGETHER_NUMBERS = 2**24
"""Numbers that are updated together: what they need in float32 stays below 1 GiB."""


def _in_batches(parameters: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield parameters, so many at a time that their numbers are not too many."""
    together: list[torch.Tensor] = []
    numbers = 0
    for p in parameters:
        if together and numbers + p.numel() > _TOGETHER_NUMBERS:
            yield together
            together, numbers = [], 0
        together.append(p)
        numbers += p.numel()
    if together:
        yield together


def _joined(tensors: Sequence[Any]) -> torch.Tensor:
    """Return a copy of all numbers in float32, [n]."""
    return torch.cat([tensor.flatten() for tensor in tensors]).float()


def _split(numbers: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return parts of numbers [n] in the shapes of other tensors."""
    parts = numbers.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


class OffloadedOptimizer(Optimizer):
    """An optimiser whose state and copies of the weights are in main memory.

    Gradients are copied there, the step is computed there, and the new weights are copied back. The
    copies of all gradients are waited for once, and those of the weights not at all.
    Source: ZeRO-Offload, arXiv:2101.06840, section 4.

    Args:
        groups: Parameter groups, on the device.
        build: Builds the optimiser of groups of copies.
        dtype: Number type of the copies; that of each parameter when None. float32 copies of
            16-bit weights are the master copy of mixed precision (O2).
        device: Device of the copies; that of each parameter when None.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        build: Callable[[list[dict[str, Any]]], Optimizer],
        *,
        dtype: torch.dtype | None = None,
        device: str | None = "cpu",
    ) -> None:
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        copies = []
        for group in groups:
            mine = []
            for p in group["params"]:
                copy = p.detach().clone().to(device=device or p.device, dtype=dtype or p.dtype)
                if copy.device.type == "cpu" and p.device.type == "cuda":
                    copy = copy.pin_memory()  # so that copying back waits for nothing
                mine.append(torch.nn.Parameter(copy))
                self._pairs.append((p, mine[-1]))
            copies.append({**group, "params": mine})
        self.inner = build(copies)
        super().__init__(groups, self.inner.defaults)
        self._copy_settings(self.inner, self)

    @staticmethod
    def _copy_settings(source: Optimizer, target: Optimizer) -> None:
        """Copy learning rates and the like from group to group."""
        for old, new in zip(source.param_groups, target.param_groups, strict=True):
            new.update({key: value for key, value in old.items() if key != "params"})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step on the copies and copy the weights back."""
        loss = closure() if closure else None
        self._copy_settings(self, self.inner)
        for p, copy in self._pairs:
            if p.grad is not None:
                copy.grad = p.grad.to(copy.device, copy.dtype, non_blocking=True)
        for device in {p.device for p, copy in self._pairs if p.device != copy.device}:
            _wait_for(device)
        self.inner.step()
        for p, copy in self._pairs:
            p.copy_(copy, non_blocking=True)
            copy.grad = None
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimiser's state, and the copies if they are more precise."""
        state = self.inner.state_dict()
        if any(p.dtype != copy.dtype for p, copy in self._pairs):
            state["masters"] = [copy.detach() for _, copy in self._pairs]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; without copies in it, they are made from the weights."""
        rest = {key: value for key, value in state_dict.items() if key != "masters"}
        load_exactly(self.inner, rest)
        masters = state_dict.get("masters") or [p for p, _ in self._pairs]
        with torch.no_grad():
            for (_, copy), master in zip(self._pairs, masters, strict=True):
                copy.copy_(master)
        self._copy_settings(self.inner, self)


def _wait_for(device: torch.device) -> None:
    """Wait for everything that was launched on a device."""
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


def load_exactly(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load the state of an optimiser in the number types in which it was saved.

    torch casts what it loads to the type of the parameter. That is the type of the state of its own
    optimisers, but neither of moments in bfloat16 nor of float32 sums over bfloat16 weights.
    Learning rate, betas and the like stay those of the optimiser, which has them from the config.
    """
    options = [
        {name: group[name] for name in optimizer.defaults if name in group}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(saved)
    for group, asked in zip(optimizer.param_groups, options, strict=True):
        group.update(asked)
    kind = type(getattr(optimizer, "optimizer", optimizer))  # accelerate wraps it
    if kind.__module__.startswith("torch.optim."):
        return
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, p in zip(numbers, parameters, strict=True):
        state = optimizer.state.get(p, {})
        for name, value in saved["state"].get(number, {}).items():
            loaded = state.get(name)
            if isinstance(loaded, torch.Tensor) and isinstance(value, torch.Tensor):
                state[name] = loaded if loaded.dtype == value.dtype else value.to(loaded.device)


def layer_of(name: str, layers: int) -> int:
    """Return a parameter's depth: 0 above all layers, layers + 1 below them.

    >>> [layer_of(n, 2) for n in ("lm_head.weight", "model.layers.1.mlp.w", "model.layers.0.q.w")]
    [0, 1, 2]
    >>> layer_of("model.embed_tokens.weight", 2)
    3
    """
    if found := _LAYER.search(name):
        return layers - int(found[1])
    return layers + 1 if _BELOW_THE_LAYERS.search(name) else 0


def parameter_groups(model: Any, decayed: Iterable[str], config: Config) -> list[dict[str, Any]]:
    """Return groups of the trained parameters, each with its rate and weight decay.

    Args:
        model: The model.
        decayed: Names of the parameters that weight decay applies to.
        config: Its learning rate, layer-wise decay and weight decay apply.
    """
    decayed = set(decayed)
    rate, factor = config.training.learning_rate, config.optimizer.layerwise_lr_decay
    names = [name for name, _ in model.named_parameters()]
    layers = 1 + max((int(found[1]) for n in names if (found := _LAYER.search(n))), default=-1)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        depth = layer_of(name, layers) if factor != 1 else 0
        has_decay = name in decayed
        empty = {
            "params": [],
            "lr": rate * factor**depth,
            "weight_decay": config.optimizer.weight_decay if has_decay else 0.0,
        }
        groups.setdefault((depth, not has_decay), empty)["params"].append(p)
    return [groups[key] for key in sorted(groups)]  # the log shows the rate of the first


def _one_by_one(optimizer: Optimizer) -> None:
    """Let an optimiser of torch go through its weights one by one: a kernel for many takes one mesh."""
    for group in optimizer.param_groups:
        group |= {name: False for name in ("foreach", "fused") if name in group}


def is_loraplus(config: Config) -> bool:
    """Whether LoRA's two matrices have rates of their own."""
    return config.peft.method == "lora" and config.peft.loraplus_lr_ratio != 1


class OwnOptimizer:
    """Part of a trainer: builds the optimiser from the config instead of from its arguments."""

    nbft_config: Config
    nbft_decisions: Decisions

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """Build the optimiser once."""
        trainer: Any = self
        if not self._builds_its_own():
            given = () if model is None else (model,)  # a trainer of one's own may take none
            is_new = trainer.optimizer is None
            optimizer = super().create_optimizer(*given)  # type: ignore[misc]
            if is_new and trainer.nbft_split is not None:
                self._over_meshes(optimizer, trainer.model if model is None else model)
            return optimizer  # type: ignore[no-any-return]
        if trainer.optimizer is None:
            model = trainer.model if model is None else model
            if is_loraplus(self.nbft_config):
                trainer.optimizer = self._loraplus(model)
            else:
                decayed = trainer.get_decay_parameter_names(model)
                groups = parameter_groups(model, decayed, self.nbft_config)
                trainer.optimizer = self._wrapped(groups, lambda own: self._built(own, model))
            if trainer.nbft_split is not None:
                _one_by_one(trainer.optimizer)
        return trainer.optimizer  # type: ignore[no-any-return]

    def _over_meshes(self, optimizer: Optimizer, model: Any) -> None:
        """Put weights of several device meshes into the two groups of a run in one process.

        The library makes a group for each mesh, and checkpoints go by the order in the groups.
        """
        trainer: Any = self
        decayed = set(trainer.get_decay_parameter_names(model))
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        optimizer.param_groups[:] = [
            {
                **optimizer.param_groups[0],
                "params": [p for name, p in trained if (name in decayed) is has_decay],
                "weight_decay": trainer.args.weight_decay if has_decay else 0.0,
            }
            for has_decay in (True, False)
        ]
        _one_by_one(optimizer)

    def _builds_its_own(self) -> bool:
        ours = self.nbft_config.optimizer
        return (
            is_loraplus(self.nbft_config)
            or registry.optimizers.get(ours.optim) is not None
            or ours.layerwise_lr_decay != 1
            or ours.moment_dtype != "float32"
            or self._is_offloaded()
            or self._is_o2()
        )

    def _is_offloaded(self) -> bool:
        on_cpu = self.nbft_decisions.device.value == "cpu"
        return self.nbft_config.memory.offload_optimizer and not on_cpu

    def _is_o2(self) -> bool:
        is_mixed = self.nbft_decisions.mixed_precision.value != "no"
        return is_mixed and self.nbft_config.precision.fp16_opt_level == "O2"

    def _loraplus(self, model: Any) -> Optimizer:
        """Build the library's optimiser, with the learning rate of LoRA's B times the ratio."""
        kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, model)  # type: ignore[attr-defined]

        @functools.wraps(kind, updated=())  # PEFT asks for the name
        def build(groups: list[dict[str, Any]], **more: Any) -> Optimizer:
            return self._wrapped(groups, lambda own: kind(own, **more))

        optimizer: Optimizer = create_loraplus_optimizer(
            model,
            build,  # type: ignore[arg-type]
            loraplus_lr_ratio=self.nbft_config.peft.loraplus_lr_ratio,
            loraplus_weight_decay=self.args.weight_decay,  # type: ignore[attr-defined]
            **arguments,
        )
        return optimizer

    def _wrapped(
        self, groups: list[dict[str, Any]], build: Callable[[list[dict[str, Any]]], Optimizer]
    ) -> Optimizer:
        """Build an optimiser of the groups, or of copies of them where O2 or offloading needs some."""
        is_o2, offload = self._is_o2(), self._is_offloaded()
        if not is_o2 and not offload:
            return build(groups)
        return OffloadedOptimizer(
            groups,
            build,
            dtype=torch.float32 if is_o2 else None,
            device="cpu" if offload else None,
        )

    def _built(self, groups: list[dict[str, Any]], model: Any) -> Optimizer:
        config = self.nbft_config
        if own := registry.optimizers.get(config.optimizer.optim):
            return own(groups, config)  # type: ignore[no-any-return]
        if config.optimizer.moment_dtype == "bfloat16":
            return BfloatAdamW(groups, **_of_adam(config))
        kind, more = self.get_optimizer_cls_and_kwargs(self.args, model)  # type: ignore[attr-defined]
        return kind(groups, **more)  # type: ignore[no-any-return]


class OwnScheduler:
    """Part of a trainer: the learning rate follows a registered shape, if scheduler names one."""

    nbft_config: Config

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the scheduler once."""
        trainer: Any = self
        kind, more = shape_of(self.nbft_config)
        if not registry.schedulers.is_own(kind):
            return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]
        if trainer.lr_scheduler is None:
            share = registry.schedulers.get(kind)
            warmup = warmup_steps(self.nbft_config, num_training_steps)
            trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or trainer.optimizer,
                lambda step: float(share(step, warmup, num_training_steps, **more)),
            )
            trainer._created_lr_scheduler = True
        return trainer.lr_scheduler
