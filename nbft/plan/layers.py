"""The layers of a model and what an adapter adds to each, for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from nbft.config import Config
from nbft.models.adapters import adapter_of, base_name
from nbft.models.find import find_described
from nbft.models.peft_types import LayerParameters
from nbft.plan.memory import adapter_layers, shape_for


class LayerGroup(NamedTuple):
    """Layers of one name and shape to which an adapter adds the same.

    Attributes:
        name: Their name, with * for the number of the layer.
        number: How many there are.
        d_out, d_in: Shape of each one's weight.
        added: Trained parameters that the adapter adds to each; 0 where it adds none.
    """

    name: str
    number: int
    d_out: int
    d_in: int
    added: int


def layer_groups(config: Config) -> list[LayerGroup]:
    """Return the layers that an adapter could change, and what this one adds to each.

    Empty where that is not known: in full training, in a run that goes on with an adapter, and before
    the model is described on this machine.
    """
    if config.model.model_type != "hf" or adapter_of(config) is not None:
        return []
    folder = find_described(base_name(config), config.model.model_revision)
    shape = shape_for(config, folder)
    if shape is None or shape.is_assumed:
        return []
    return _grouped(adapter_layers(config, shape))


def _grouped(layers: Iterable[LayerParameters]) -> list[LayerGroup]:
    """Return groups of layers, in the order of the first of each.

    >>> layers = [LayerParameters(f"layers.{n}.q_proj", 8, 8, 32 * (n < 2)) for n in range(3)]
    >>> [(one.name, one.number, one.added) for one in _grouped(layers)]
    [('layers.*.q_proj', 2, 32), ('layers.*.q_proj', 1, 0)]
    """
    counts: dict[tuple[str, int, int, int], int] = {}
    for layer in layers:
        name = re.sub(r"\.\d+(?=\.|$)", ".*", layer.name)
        kind = (name, layer.d_out, layer.d_in, layer.added)
        counts[kind] = counts.get(kind, 0) + 1
    return [LayerGroup(name, n, *rest) for (name, *rest), n in counts.items()]
