"""Learning rates of registered shapes. Called by `nbft.training.trainer`."""

from __future__ import annotations

from typing import Any

import torch

from nbft import registry
from nbft.config import Config
from nbft.plan.schedule import shape_of, warmup_steps


class OwnScheduler:
    """Part of a trainer: a learning rate of a registered shape, where one is asked for."""

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
