"""VeRA: two random matrices that all layers share, and trained scales of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nbft.config import Config
from nbft.config.peft import Peft
from nbft.models.peft_types.peft_type import PeftType


class Vera(PeftType):
    """y = x W' + b (d (x A') B'), with A [r, d_in] and B [d_out, r] random, b and d trained."""

    name = "vera"
    title = "VeRA"
    config_class = "VeraConfig"
    settings = PeftType.settings | {"r", "lora_dropout", "bias", "d_initial", "save_projection"}
    excludes_layers = False

    def arguments(self, config: Config, total_steps: int | None = None) -> dict[str, Any]:
        """Return the arguments of PEFT's VeraConfig."""
        peft = config.peft
        return {
            "r": peft.r,
            "vera_dropout": peft.lora_dropout,
            **self.layers(config),
            "bias": self.bias(peft),
            "d_initial": peft.d_initial,
            "save_projection": peft.save_projection,
            "projection_prng_key": config.training.seed,
            "task_type": peft.task_type,
        }

    def parameters(self, peft: Peft, name: str, d_out: int, d_in: int) -> int:
        """Count the scales of the rank and of the outputs.

        Source: VeRA, arXiv:2310.11454, section 3.2.
        """
        return peft.r + d_out

    def frozen_parameters(self, peft: Peft, layers: Sequence[tuple[int, int]]) -> int:
        """Count the shared matrices: wide enough for the widest layer."""
        widest = max((d_out for d_out, _ in layers), default=0)
        return peft.r * (widest + max((d_in for _, d_in in layers), default=0))

    def remarks(self, config: Config) -> Iterator[str]:
        """Say that the usual rank is higher than LoRA's."""
        if config.peft.r < 64:
            yield (
                f"peft.r={config.peft.r} is a low rank for VeRA, which shares its matrices: 256 is "
                "usual, and adds few parameters."
            )


TYPE = Vera()
