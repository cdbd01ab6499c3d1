"""AdaLoRA: LoRA in the form of a singular value decomposition, whose ranks move between layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nbft.config import Config
from nbft.config.peft import Peft
from nbft.errors import Problem
from nbft.models.peft_types.peft_type import PeftType

_MEASURED = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What PEFT's allocator knows of the importance of each singular value."""


def initial_rank(peft: Peft) -> int:
    """Return the rank of every layer at the start.

    Source: AdaLoRA, arXiv:2303.10512, appendix C: 1.5 times the rank at the end.

    >>> initial_rank(Peft(r=8))
    12
    """
    return peft.init_r if peft.init_r is not None else max(peft.r, round(1.5 * peft.r))


def phases(peft: Peft, total_steps: int) -> tuple[int, int]:
    """Return the steps before the ranks are reduced, and those after they have been decided.

    >>> phases(Peft(), 100), phases(Peft(tinit=0), 2)
    ((10, 33), (0, 0))
    """
    first = peft.tinit if peft.tinit is not None else total_steps // 10
    last = peft.tfinal if peft.tfinal is not None else total_steps // 3
    return first, last


class AdaLora(PeftType):
    """Delta W = B diag(e) A, whose smallest e become 0 during training."""

    name = "adalora"
    title = "AdaLoRA"
    config_class = "AdaLoraConfig"
    settings = PeftType.settings | {
        *("r", "lora_alpha", "lora_dropout", "bias"),
        *("init_r", "tinit", "tfinal", "deltaT", "orth_reg_weight"),
    }
    is_float32 = True
    is_file_exact = False  # PEFT saves the singular values that are left, not those that may return

    def arguments(self, config: Config, total_steps: int | None = None) -> dict[str, Any]:
        """Return the arguments of PEFT's AdaLoraConfig."""
        peft = config.peft
        total = total_steps or max(1, config.training.max_steps)
        first, last = phases(peft, total)
        return {
            "init_r": initial_rank(peft),
            "target_r": peft.r,
            "lora_alpha": peft.alpha,
            "lora_dropout": peft.lora_dropout,
            **self.layers(config),
            "bias": peft.bias,
            "tinit": first,
            "tfinal": last,
            "deltaT": peft.deltaT,
            "orth_reg_weight": peft.orth_reg_weight,
            "total_step": total,
            "task_type": peft.task_type,
        }

    def parameters(self, peft: Peft, name: str, d_out: int, d_in: int) -> int:
        """Count A, B and e at the start."""
        return initial_rank(peft) * (d_out + d_in + 1)

    def problems(self, config: Config) -> Iterator[Problem]:
        """Check the ranks, and that there are steps in which they can change."""
        peft, total = config.peft, config.training.max_steps
        if peft.init_r is not None and peft.init_r < peft.r:
            yield Problem(
                "peft.init_r",
                peft.init_r,
                f"is below the average rank at the end, peft.r={peft.r}.",
                "Use more, or leave it empty.",
                {"peft.init_r": None},
            )
        if total > 0:
            yield from self.step_problems(peft, total)

    def step_problems(self, peft: Peft, total_steps: int) -> Iterator[Problem]:
        """Yield a problem if a run of so many steps leaves none to change the ranks in."""
        first, last = phases(peft, total_steps)
        if first < total_steps - last:
            return
        field = "tinit" if peft.tinit is not None else "tfinal"
        why = (
            f"leaves no step in which ranks change: {first} before, {last} after, "
            f"{total_steps} in all."
        )
        changes = {"peft.tinit": None, "peft.tfinal": None}
        yield Problem(f"peft.{field}", getattr(peft, field), why, "Leave both empty.", changes)

    def remarks(self, config: Config) -> Iterator[str]:
        """Say what the loss includes, and what ranks there are."""
        peft = config.peft
        yield (
            f"AdaLoRA starts with rank {initial_rank(peft)} in every layer and ends with {peft.r} on "
            "average."
        )
        if peft.orth_reg_weight:
            yield (
                "The training loss includes AdaLoRA's orthogonality term, so it is higher than that of "
                "other methods; peft.orth_reg_weight=0 leaves it out. The held-out loss is without it."
            )

    def join(self, trainer: Any, config: Config) -> None:
        """Add the callback that moves the ranks, and the term of the loss."""
        from nbft.models.rank_allocation import RankAllocation, keep_orthogonal

        trainer.add_callback(RankAllocation(trainer.model))
        keep_orthogonal(trainer, config.peft.orth_reg_weight)

    def state(self, model: Any) -> dict[str, Any]:
        """Return all matrices, and the importance of their rows."""
        state = super().state(model) or {}
        allocator = getattr(model.base_model, "rankallocator", None)
        if allocator is None:  # a finished adapter is trained further, and its ranks stay
            return state
        pattern = model.peft_config[allocator.adapter_name].rank_pattern
        return {**state, "rank_pattern": pattern} | {
            name: getattr(allocator, name) for name in _MEASURED
        }

    def load_state(self, model: Any, state: Mapping[str, Any]) -> None:
        """Put both back."""
        super().load_state(model, state)
        allocator = getattr(model.base_model, "rankallocator", None)
        if allocator is None or "rank_pattern" not in state:
            return
        model.peft_config[allocator.adapter_name].rank_pattern = state["rank_pattern"]
        device = next(model.parameters()).device
        for name in _MEASURED:
            setattr(allocator, name, {key: one.to(device) for key, one in state[name].items()})


TYPE = AdaLora()
