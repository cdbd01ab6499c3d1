"""Random numbers of a thread's own, for work beside a run that trains in the same process."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Let this thread draw torch's random numbers from a generator of its own.

    Libraries fill new weights with random numbers before they load what is saved. The generator that
    they draw from belongs to the whole process, so a run in another thread would drop out other
    numbers than it does alone, and its losses would differ.

    Source: torch.overrides.TorchFunctionMode, which holds for the calling thread.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    generators: dict[str, torch.Generator] = {}

    def generator(device: torch.device) -> torch.Generator | None:
        if device.type == "meta":
            return None  # has no numbers
        if device.type not in generators:
            generators[device.type] = torch.Generator(device)
        return generators[device.type]

    fillers = ("bernoulli_", "exponential_", "normal_", "random_", "uniform_")
    initial = [f for f in vars(torch.nn.init).values() if inspect.isfunction(f)]
    of_tensors = {
        *(getattr(torch.Tensor, name) for name in fillers),
        *(torch.bernoulli, torch.multinomial, torch.normal),
        *(f for f in initial if "generator" in inspect.signature(f).parameters),
    }
    of_shapes = {torch.rand, torch.randn, torch.randint, torch.randperm}

    class Apart(TorchFunctionMode):
        def __torch_function__(
            self,
            function: Callable[..., Any],
            types: Sequence[type],
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
        ) -> Any:
            given = dict(kwargs or {})
            if given.get("generator") is None:
                if function in of_tensors:
                    tensor = next(filter(torch.is_tensor, (*args, *given.values())))
                    given["generator"] = generator(tensor.device)
                elif function in of_shapes:
                    device = torch.device(given.get("device") or torch.get_default_device())
                    given["generator"] = generator(device)
            return function(*args, **given)

    with Apart():
        yield
