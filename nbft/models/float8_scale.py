"""What keeps float8 accurate: a Hadamard transform against outliers, and the scale of activations.

With H a Hadamard matrix of orthonormal columns, x w' = (x H) (w H)': the product is the same, and an
outlier in x is spread over a block, so that under its scale fewer of the others fall below float8's
least step. Smaller outliers do no harm that it could mend: float8 is a floating type. Source: QuaRot,
arXiv:2404.00456. Called by `nbft.models.float8` and `nbft.training.fp8`.
"""

from __future__ import annotations

import functools

import torch

_BLOCK = 32
"""ERNIEKit's hadamard_block_size."""


@functools.cache
def hadamard(size: int) -> torch.Tensor:
    """Return the Hadamard matrix with H H' = 1, [size, size]; size is a power of two.

    >>> h = hadamard(4)
    >>> bool(torch.allclose(h @ h.T, torch.eye(4)))
    True
    """
    h: torch.Tensor = torch.ones(1, 1)
    while len(h) < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h.div(size**0.5)


def transform(x: torch.Tensor) -> torch.Tensor:
    """Multiply each block of 32 numbers of the last dimension by the Hadamard matrix.

    Its own inverse. A last block that is shorter is left as it is; x [..., d].
    """
    whole = x.shape[-1] // _BLOCK * _BLOCK
    if whole == 0:
        return x
    blocks = x[..., :whole].unflatten(-1, (-1, _BLOCK))
    turned = (blocks @ hadamard(_BLOCK).to(x.device, x.dtype)).flatten(-2)
    return torch.cat([turned, x[..., whole:]], -1)


class ActivationScale:
    """The largest number of a layer's input: of each batch at first, then the largest seen.

    Args:
        online_steps: Training steps over which it follows each batch.
    """

    def __init__(self, online_steps: int) -> None:
        self.online_steps = online_steps
        self.step = 0
        self.largest: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, *, is_training: bool) -> torch.Tensor:
        """Return what to take for the largest number of x."""
        now = x.detach().abs().amax()
        if self.largest is not None and self.step >= self.online_steps:
            return self.largest
        if is_training or self.largest is None:
            self.largest = now if self.largest is None else torch.maximum(self.largest, now)
        return now
