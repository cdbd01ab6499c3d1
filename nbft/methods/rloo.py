"""Learning from rewards with TRL's RLOOTrainer: an answer is compared with the others of its group.

It shares the settings of `grpo`; the loss is REINFORCE with the mean of the other answers as the
baseline, arXiv:2402.14740.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nbft.config.grpo import Grpo as Settings
from nbft.errors import Problem
from nbft.methods.grpo import Grpo

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.decisions import Decisions

_UNUSED = ("loss_type", "scale_rewards")


class Rloo(Grpo):
    """TRL's RLOOTrainer."""

    title = "training with rewards (RLOO)"
    trainer = "trl:RLOOTrainer"
    arguments = "trl:RLOOConfig"

    def problems(self, config: Config) -> Iterable[Problem]:
        """Reject settings that only the loss of GRPO has."""
        yield from super().problems(config)
        for name in _UNUSED:
            usual = Settings.model_fields[name].default
            if (value := getattr(config.grpo, name)) != usual:
                field = f"grpo.{name}"
                yield Problem(field, value, "is not used by rloo.", f"Use {usual}.", {field: usual})

    def trainer_arguments(self, config: Config, decisions: Decisions) -> dict[str, Any]:
        """Return the arguments of RLOOConfig."""
        arguments = super().trainer_arguments(config, decisions)
        return {name: value for name, value in arguments.items() if name not in _UNUSED}


METHOD = Rloo()
