"""What a reference model says of answers, kept by content: computed once, whoever asks again.

Called by `nbft.training.preference`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from nbft.access import private_folder
from nbft.atomic import replacing
from nbft.data.fingerprint import key_of
from nbft.decisions import Decisions
from nbft.models.find import cache_folder
from nbft.training.sharding import whole

_MOST_FILES = 50
"""Models whose numbers are kept, the last used ones; 24 bytes for each answer."""


class KeptNumbers(dict[bytes, float]):
    """A number for each key of 16 bytes, from a file of nbft's cache.

    Args:
        key: Name of the file.
    """

    def __init__(self, key: str) -> None:
        self._path = cache_folder() / "reference" / f"{key}.npz"
        super().__init__(_read(self._path))
        self._kept = len(self)

    def save(self) -> None:
        """Keep what has been added; without room it is computed again next time."""
        if len(self) == self._kept:
            return
        keys = np.frombuffer(b"".join(self), dtype="S16") if self else np.empty(0, "S16")
        try:
            folder = private_folder(self._path.parent)
            with replacing(self._path) as partial, partial.open("wb") as file:
                np.savez(file, keys=keys.view(np.uint8), numbers=np.array([*self.values()]))
            files = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
            for path in files[:-_MOST_FILES]:
                path.unlink(missing_ok=True)
        except OSError as error:
            logging.getLogger("nbft").warning("The reference's numbers were not kept: %s", error)


def _read(path: Path) -> dict[bytes, float]:
    try:
        with np.load(path, allow_pickle=False) as file:
            keys, numbers = file["keys"].tobytes(), file["numbers"].tolist()
    except (OSError, ValueError, KeyError):
        return {}
    return {keys[n * 16 : n * 16 + 16]: number for n, number in enumerate(numbers)}


def key_of_tokens(ids: Sequence[int], labels: Sequence[int], begin: int) -> bytes:
    """Return a hash of an answer after its prompt, 16 bytes."""
    digest = xxhash.xxh3_128(np.asarray(ids, np.int32).tobytes())
    digest.update(np.asarray(labels, np.int32).tobytes())
    digest.update(str(begin).encode())
    return digest.digest()


def key_of_model(model: Any, decisions: Decisions) -> str:
    """Return a hash of all weights of a model, and of how it computes.

    An adapter that changes nothing yet does not count, so that another rank or seed has the same.
    """
    parameters = dict(model.named_parameters())
    is_new = all(not whole(p).any() for name, p in parameters.items() if ".lora_B." in name)
    digest = xxhash.xxh3_128()
    for name, p in parameters.items():
        if is_new and ".lora_" in name:
            continue
        digest.update(_bytes(p))
    for _, value in sorted(model.named_buffers()):
        digest.update(_bytes(value))
    device, precision = decisions.device.value, decisions.mixed_precision.value
    return key_of([digest.hexdigest(), device, precision])


def _bytes(tensor: torch.Tensor) -> Any:
    return whole(tensor).detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
