"""OFT: rotations of the inputs of each layer, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbft.config import Config
from nbft.config.peft import Peft
from nbft.models.peft_types.peft_type import PeftType


class Oft(PeftType):
    """y = (x R) W', with R orthogonal: the Cayley transform of a skew-symmetric matrix per block."""

    name = "oft"
    title = "OFT"
    config_class = "OFTConfig"
    settings = PeftType.settings | {"oft_block_size", "lora_dropout", "bias"}

    def arguments(self, config: Config, total_steps: int | None = None) -> dict[str, Any]:
        """Return the arguments of PEFT's OFTConfig."""
        return {
            "r": 0,  # the block size counts instead
            "oft_block_size": config.peft.oft_block_size,
            "module_dropout": config.peft.lora_dropout,
            **self.layers(config),
            "bias": self.bias(config.peft),
            "task_type": config.peft.task_type,
        }

    def parameters(self, peft: Peft, name: str, d_out: int, d_in: int) -> int:
        """Count the numbers above the diagonal of each block.

        Source: OFT, arXiv:2306.07280, section 3.3.
        """
        block = block_size(peft.oft_block_size, d_in)
        return d_in // block * (block * (block - 1) // 2)

    def remarks(self, config: Config) -> Iterator[str]:
        """Say what happens where the blocks do not fit."""
        yield (
            f"A layer whose inputs are no multiple of oft_block_size={config.peft.oft_block_size} gets "
            "blocks of the nearest size that fits."
        )


def block_size(wanted: int, d_in: int) -> int:
    """Return the divisor of a layer's inputs that is nearest to a block size, the smaller of two.

    Source: PEFT, OFTLayer.adjust_oft_parameters.

    >>> [block_size(32, d_in) for d_in in (64, 576, 100, 16)]
    [32, 32, 25, 16]
    """
    if wanted >= d_in:
        return d_in
    divisors = [n for n in range(2, d_in + 1) if d_in % n == 0]
    return min(divisors, key=lambda n: (abs(n - wanted), n))


TYPE = Oft()
