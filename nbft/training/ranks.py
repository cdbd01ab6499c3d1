"""Several processes that train one run: which of them this is, and what they agree on.

The first of them decides: it alone hears the commands, writes the run's events and saves. The others
follow, with events and a log of their own in `ranks/<number>` of the run's folder. Started by
`nbft.launchers.ranks`, called by `nbft.training.worker` and its trainer.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nbft.config import Config
from nbft.hardware import device_of

_LONG = datetime.timedelta(days=365)
"""How long the others wait for the first, which may be paused; who has died is seen otherwise."""

LOST_SECONDS = 15.0
"""How long a machine may say nothing before it counts as lost."""

T = TypeVar("T")

_FLAGS = ("training_stop", "epoch_stop", "save", "evaluate", "log")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train a run.

    Attributes:
        number: Its number, from 0.
        count: How many there are.
        rendezvous: URL of the file or the address through which they find each other; "" where there
            is one only.
        nodes: How many machines they are on, as many on each.
    """

    number: int = 0
    count: int = 1
    rendezvous: str = ""
    nodes: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Return this process by the variables that `variables` has set for it."""
        where = os.environ["NBFT_RENDEZVOUS"]
        count = int(os.environ["WORLD_SIZE"])
        nodes = count // int(os.environ["LOCAL_WORLD_SIZE"])
        return cls(int(os.environ["RANK"]), count, where, nodes)

    def variables(self) -> dict[str, str]:
        """Return the environment variables of this process, those of torchrun among them."""
        url = urlsplit(self.rendezvous)
        host, port = url.hostname, url.port
        return {
            "RANK": str(self.number),
            "LOCAL_RANK": str(self.number % self.on_each_node),
            "WORLD_SIZE": str(self.count),
            "LOCAL_WORLD_SIZE": str(self.on_each_node),
            "NBFT_RENDEZVOUS": self.rendezvous,
            **({"MASTER_ADDR": host, "MASTER_PORT": str(port)} if host else {}),
        }

    @property
    def on_each_node(self) -> int:
        """How many of them are on each machine."""
        return self.count // self.nodes

    @property
    def node(self) -> int:
        """Number of this process's machine, from 0."""
        return self.number // self.on_each_node

    @property
    def is_first(self) -> bool:
        """Whether this process decides."""
        return self.number == 0

    def folder(self, run: Path) -> Path:
        """Return the folder of this process's events and log."""
        return run if self.is_first else run / "ranks" / str(self.number)

    def run_of(self, folder: Path) -> Path:
        """Return the run's folder, from this process's own."""
        return folder if self.is_first else folder.parents[1]

    def join(self, config: Config, device: str) -> None:
        """Wait for the other processes; from here on they compute together.

        Args:
            config: Its section `distributed` gives the backend and its longest wait.
            device: Device to train on.
        """
        if self.count == 1:
            return
        import torch
        from torch import distributed

        if device == "cuda":
            torch.cuda.set_device(self.number % self.on_each_node)
        asked = config.distributed
        distributed.init_process_group(
            asked.ddp_backend or device_of(device).backend,
            init_method=self.rendezvous,
            rank=self.number,
            world_size=self.count,
            timeout=datetime.timedelta(seconds=asked.ddp_timeout),
        )
        self.wait()

    def agree(self, number: int) -> int:
        """Return the number that the first process gives."""
        if self.count == 1:
            return number
        import torch
        from torch import distributed

        agreed = torch.tensor(number)
        distributed.broadcast(agreed, src=0, group=self._group)
        return int(agreed)

    def wait(self) -> None:
        """Wait until all are here."""
        if self.count > 1:
            from torch import distributed

            distributed.barrier(group=self._group)

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number over all processes."""
        if self.count == 1:
            return list(numbers)
        import torch
        from torch import distributed

        sums = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(sums, group=self._group)
        return list(sums.tolist())

    def every(self, of_this: T) -> list[T]:
        """Return what each process gives, in order."""
        if self.count == 1:
            return [of_this]
        from torch import distributed

        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, of_this, group=self._group)
        return found

    def tell(self, what: Any) -> Any:
        """Return what the first process gives, any object."""
        told: list[Any] = [what]
        if self.count > 1:
            from torch import distributed

            distributed.broadcast_object_list(told, src=0, group=self._group)
        return told[0]

    def share(self, tensors: Sequence[Any]) -> None:
        """Give tensors on the CPU the values that they have in the first process."""
        from torch import distributed

        for tensor in tensors:
            distributed.broadcast(tensor, src=0, group=self._group)

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run a block in the first process, and then, with what it has cached, in the others."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def agree_on(self, control: Any) -> None:
        """Let a trainer's control say what the first process's says."""
        if self.count == 1:
            return
        names = [f"should_{flag}" for flag in _FLAGS]
        bits = sum(getattr(control, name) << place for place, name in enumerate(names))
        agreed = self.agree(bits)
        for place, name in enumerate(names):
            setattr(control, name, bool(agreed >> place & 1))

    @property
    def group(self) -> Any:
        """The group in which they agree; None where there is one only."""
        return self._group if self.count > 1 else None

    @functools.cached_property
    def _group(self) -> Any:
        """The group in which they agree, on the CPU, so that no GPU is waited for; all make it at once."""
        from torch import distributed

        return distributed.new_group(backend="gloo", timeout=_LONG)


ALONE = Ranks()
