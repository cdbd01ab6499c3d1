"""Tensors of several processes in files that each writes its own shards to, and reads them from.

PyTorch's distributed checkpoint: any number of processes, with other shards or none, reads what some
have written. Its own format is a pickle, which runs code when it is read; so the files are
safetensors. Called by `nbft.training.saving`.

Source: torch.distributed.checkpoint, HuggingFaceStorageWriter and HuggingFaceStorageReader.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from nbft.training.ranks import Ranks


def write_shards(folder: Path, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Write this process's part of each tensor; of one that all hold whole, one process writes it.

    Args:
        folder: A new folder, which all processes see.
        tensors: By their names; a DTensor is in shards.
        ranks: Which of several processes this is; all of them write at once.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    if ranks.is_first:
        folder.mkdir()
    ranks.wait()
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _quietly():
        state_dict_saver.save(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            storage_writer=writer,
            process_group=ranks.group,
            no_dist=ranks.group is None,
        )


def read_shards(
    folder: Path, parameters: Mapping[str, torch.Tensor], ranks: Ranks
) -> dict[str, torch.Tensor]:
    """Return the tensors `<parameter>/…` of a folder, in shards where their parameter is in shards.

    Args:
        folder: What `write_shards` has written.
        parameters: By their names; what belongs to others is not read.
        ranks: Which of several processes this is; all of them read at once.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(folder))
    found: dict[str, torch.Tensor] = {}
    for key, about in reader.read_metadata().state_dict_metadata.items():
        parameter = parameters.get(key.rpartition("/")[0])
        if parameter is None or not isinstance(about, TensorStorageMetadata):
            continue
        size, dtype = about.size, about.properties.dtype
        is_cut = isinstance(parameter, DTensor) and size == parameter.shape
        found[key] = (
            torch.zeros_like(parameter.detach(), dtype=dtype)
            if is_cut
            else torch.zeros(size, dtype=dtype)
        )
    with _quietly():
        state_dict_loader.load(
            found, storage_reader=reader, process_group=ranks.group, no_dist=ranks.group is None
        )
    return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hear nothing of a process that is alone, which is as it should be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield
