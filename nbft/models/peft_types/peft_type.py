"""What differs between the kinds of adapters, and how one is found by its name."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from nbft.config import Config
from nbft.config.peft import ALL_LINEAR, Peft
from nbft.errors import Problem
from nbft.models.freezing import frozen_pattern

_OF_LAYERS = {"target_modules", "layers_to_transform", "modules_to_save"}

LAYER_WORDS = ("layers", "h", "blocks", "block", "layer")
"""What stands before the number of a layer."""

_LAYER = rf"(?:.*\.)?(?:{'|'.join(LAYER_WORDS)})"


class LayerParameters(NamedTuple):
    """What an adapter adds to a layer.

    Attributes:
        name: Name of the layer.
        d_out, d_in: Shape of its weight; a norm has one output and `d_in` inputs.
        added: Trained parameters that the adapter adds; 0 where it gets none.
    """

    name: str
    d_out: int
    d_in: int
    added: int


class PeftType:
    """One kind of adapter; a subclass in its own file overrides what differs.

    Attributes:
        name: PEFT's peft_type in lower case; a value of peft.method.
        title: Name for people.
        config_class: Name of PEFT's config class.
        settings: Settings of the section peft that it uses, besides method and task_type.
        adapts: What all-linear means: linear layers or norms; "" if it changes no layer.
        adapts_embeddings: Whether an embedding can get an adapter.
        excludes_layers: Whether PEFT's config class has exclude_modules. PEFT's layers_to_transform
            is no substitute: it has no effect on layers that are named in full, as by all-linear.
        can_merge: Whether its change can be added to the weights of the model.
        changes_rows: Whether it puts virtual tokens in front of each row.
        is_float32: Whether it is trained in float32 on quantised weights, too, where TRL would make
            others bfloat16: near 1 its steps are too small for that, or PEFT's layers refuse it.
        is_file_exact: Whether PEFT can load its saved weights into the model that is trained.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_class: ClassVar[str]
    settings: ClassVar[frozenset[str]] = frozenset(_OF_LAYERS)
    adapts: ClassVar[Literal["linear", "norms", ""]] = "linear"
    adapts_embeddings: ClassVar[bool] = False
    excludes_layers: ClassVar[bool] = True
    can_merge: ClassVar[bool] = True
    changes_rows: ClassVar[bool] = False
    is_float32: ClassVar[bool] = False
    is_file_exact: ClassVar[bool] = True

    def title_of(self, config: Config) -> str:
        """Return its usual name with the settings of a config."""
        return f"Q{self.title}" if config.quantization.bits else self.title

    def arguments(self, config: Config, total_steps: int | None = None) -> dict[str, Any]:
        """Return the arguments of PEFT's config class.

        Args:
            config: The config.
            total_steps: Steps of the run, where they are known.
        """
        return {**self.layers(config), "task_type": config.peft.task_type}

    def layers(self, config: Config) -> dict[str, Any]:
        """Return which layers get an adapter or are trained fully.

        They are not always what PEFT knows; `targets.named_targets` names the layers of a model.
        """
        peft = config.peft
        targets = peft.target_modules
        found: dict[str, Any] = {
            "target_modules": ALL_LINEAR
            if targets == [ALL_LINEAR] and self.adapts == "linear"
            else targets,
            "modules_to_save": list(peft.modules_to_save) or None,
        }
        if self.excludes_layers and (pattern := excluded_pattern(config)):
            found["exclude_modules"] = pattern
        return found

    def bias(self, peft: Peft) -> str:
        """Return which bias terms are trained, in PEFT's words for this kind."""
        return peft.bias.replace("lora_only", f"{self.name}_only")

    def parameters(self, peft: Peft, name: str, d_out: int, d_in: int) -> int:
        """Count the parameters that a linear layer [d_out, d_in], or a norm [1, d_in], gains."""
        raise NotImplementedError

    def own_parameters(self, peft: Peft, width: int) -> int:
        """Count the trained parameters that belong to no layer, of a model of some width."""
        return 0

    def frozen_parameters(self, peft: Peft, layers: Sequence[tuple[int, int]]) -> int:
        """Count the parameters that it adds and does not train, for layers [d_out, d_in]."""
        return 0

    def step_problems(self, peft: Peft, total_steps: int) -> Iterator[Problem]:
        """Yield what is wrong with the settings of this kind in a run of so many steps."""
        yield from ()

    def problems(self, config: Config) -> Iterator[Problem]:
        """Yield what is wrong with the settings of this kind; each `Problem` names its value."""
        yield from ()

    def remarks(self, config: Config) -> Iterator[str]:
        """Yield what to know about the settings of this kind."""
        yield from ()

    # Training. These functions load torch.

    def peft_config(self, arguments: dict[str, Any]) -> Any:
        """Return PEFT's config with some arguments."""
        import peft

        return getattr(peft, self.config_class)(**arguments)

    def prepare(self, model: Any, config: Config, rows: Any, pad_token_id: int) -> None:
        """Give a new adapter the initial weights that PEFT's config class alone cannot.

        Args:
            model: PEFT's model.
            config: The config.
            rows: Training rows with input_ids and labels, [s] each.
            pad_token_id: The token that fills rows up.

        Raises:
            ConfigError: The rows are too few, or the weights are not there.
        """

    def prepares(self, config: Config) -> bool:
        """Whether `prepare` has anything to do."""
        return False

    def fit_types(self, model: Any) -> bool:
        """Make PEFT's layers compute with float32 adapters in a model of 16-bit numbers.

        Returns:
            Whether the weights of the adapter now have another number type than they had.
        """
        if self.is_float32:
            for layer in model.modules():
                if hasattr(layer, "base_layer"):
                    layer.register_forward_hook(as_narrow_as_input)
        return False

    def join(self, trainer: Any, config: Config) -> None:
        """Add to a trainer what the adapter needs during training."""

    def state(self, model: Any) -> dict[str, Any] | None:
        """Return what a checkpoint holds besides PEFT's files; None if nothing."""
        if self.is_file_exact:
            return None
        return {"weights": {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}}

    def load_state(self, model: Any, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        own = dict(model.named_parameters())
        for name, value in state["weights"].items():
            own[name].data.copy_(value)


def described(config: Config) -> str:
    """Return the kind of adapter with its rank, if it has one; "" in full training.

    >>> described(Config(peft={"r": 8})), described(Config(peft={"method": "ia3"}))
    ('LoRA r=8', 'IA3')
    """
    kind = peft_type_of(config)
    if kind is None:
        return ""
    return f"{kind.title} r={config.peft.r}" if "r" in kind.settings else kind.title


def merge_obstacle(config: Config) -> str:
    """Return why the adapter of a run cannot become part of its model's weights; "" if it can.

    Weights in 4 bits are no obstacle: they can be restored.

    >>> merge_obstacle(Config(peft={"method": "prompt_tuning"}))
    'prompt tuning changes no weights of the model'
    """
    kind = peft_type_of(config)
    if config.model.model_type != "hf":
        return f"model.model_type={config.model.model_type} is a model of your own"
    if kind is None:
        return ""
    if not kind.can_merge:
        return f"{kind.title} changes no weights of the model"
    if config.quantization.bits == 8:
        return "weights in 8 bits compute with rounded inputs, which no merged model does"
    return ""


def as_narrow_as_input(layer: Any, given: tuple[Any, ...], y: Any) -> Any:
    """Return the output of a layer in the number type of its input, if it has more bits."""
    x = given[0]
    return y.to(x.dtype) if y.dtype.itemsize > x.dtype.itemsize else y


def excluded_pattern(config: Config) -> str | None:
    r"""Return a regular expression for the layers that get no adapter; None if none is excluded.

    >>> pattern = excluded_pattern(Config(peft={"layers_to_transform": [0, 2]}))
    >>> [bool(re.fullmatch(pattern, f"model.layers.{n}.q_proj")) for n in (0, 1, 2, 20)]
    [False, True, False, True]
    """
    parts = []
    if numbers := config.peft.layers_to_transform:
        parts.append(rf"(?!{_LAYER}\.(?:{'|'.join(map(str, numbers))})\.).*")
    if config.model.freeze_layers:
        parts.append(frozen_pattern(config.model.freeze_layers))
    if len(parts) > 1:
        return "|".join(f"(?:{part})" for part in parts)
    return parts[0] if parts else None


def rank_of(peft: Peft, name: str) -> int:
    """Return the rank of a layer: that of the pattern that fits it, or r.

    Source: PEFT, utils/other.py, get_pattern_key.

    >>> rank_of(Peft(r=8, rank_pattern={"layers.0.*": 4, "q_proj": 2}), "layers.1.q_proj")
    2
    """
    for pattern, rank in peft.rank_pattern.items():
        if fits(pattern, name):
            return rank
    return peft.r


def fits(pattern: str, name: str) -> bool:
    """Whether a key of rank_pattern or alpha_pattern fits a layer; none does that is no pattern."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", name) is not None
    except re.error:
        return False


@functools.cache
def peft_types() -> dict[str, PeftType]:
    """Return every kind by its name."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    names = [file.stem for file in files if file.stem not in ("__init__", "peft_type")]
    found = [importlib.import_module(f"{__package__}.{name}").TYPE for name in names]
    return {one.name: one for one in found}


def peft_type_of(config: Config) -> PeftType | None:
    """Return the kind of adapter that a config asks for; None in full training."""
    return peft_types().get(config.peft.method)
