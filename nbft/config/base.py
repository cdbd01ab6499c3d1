"""How settings are declared, and read back by everything that needs them.

`setting()` declares one; `Section` is a block of them; `Setting` describes one to the form, the
command line, the reference page and the importers.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from nbft.redaction import redact
from nbft.registry import Registry

Level = Literal["basic", "advanced", "expert"]


def setting(
    default: Any = None,
    *,
    help: str,  # noqa: A002 - the word that Field and argparse use
    source: str,
    label: str = "",
    unit: str = "",
    level: Level = "advanced",
    usual: tuple[float, float] | None = None,
    why: str = "",
    suggestions: tuple[str, ...] = (),
    **limits: Any,
) -> Any:
    """Declare one setting.

    Args:
        default: The value when none is given.
        help: What it does, in one line.
        source: Where the default comes from.
        label: Label in the form; made from the name when empty.
        unit: Unit of a number ("tokens", "steps").
        level: Who needs to see it.
        usual: Recommended range, inside the allowed range.
        why: More about it, shown on request.
        suggestions: Values to offer where any text is allowed.
        **limits: `default_factory`, `ge`, `gt`, `le`, `lt`, `pattern`, `exclude` as in pydantic's
            `Field`.
    """
    about: dict[str, Any] = {
        "unit": unit,
        "level": level,
        "source": source,
        "usual": usual,
        "why": why,
        "suggestions": suggestions,
    }
    if "default_factory" not in limits:
        limits["default"] = default
    return Field(title=label or None, description=help, json_schema_extra=about, **limits)


expert_setting = functools.partial(setting, level="expert")
"""Declare a setting that only experts need to see."""


def key_of(registry: Registry) -> Any:
    """Return the type of a setting whose values are the keys of a registry."""

    def check(key: str) -> str:
        if key not in registry:
            why, fix, nearest = registry.unknown(key)
            raise PydanticCustomError(
                "not_registered", "{why}", {"why": why, "fix": fix, "nearest": nearest}
            )
        return key

    return typing.Annotated[str, AfterValidator(check), registry]


class Section(BaseModel):
    """A block of settings. Unknown keys are errors, at any depth."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, protected_namespaces=(), allow_inf_nan=False
    )

    # Set in the __dict__ of an instance: copies keep it, and comparison and serialisation ignore it.
    _is_own: ClassVar[bool] = False

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_not_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool):
            kind = plain_type(cls.model_fields[str(info.field_name)].annotation)
            if kind in (int, float):
                raise PydanticCustomError("number_type", "is not a number.")
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Return what a notebook shows of it: no secrets."""
        return ((name, redact(value, name or "")) for name, value in super().__repr_args__())

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a setting, with the same validation as the constructor.

        Raises:
            ConfigError: The value is invalid, or there is no such setting.
        """
        from nbft.config.config import Config
        from nbft.config.problems import problems_of
        from nbft.errors import ConfigError

        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            for section, info in Config.model_fields.items():
                if info.annotation is type(self):
                    raise ConfigError(problems_of(error, Config, (section,))) from None
            raise ConfigError(problems_of(error, type(self))) from None


@dataclass(frozen=True)
class Setting:
    """Description of one setting.

    Attributes:
        path: Dotted name in the config; list items are written `[]`.
        section: First part of the path.
        name: Last part of the path.
        label: Label in the form.
        type: bool, int, float, str, list or dict.
        optional: Whether it may be null ("decide for me").
        or_text: Whether a list may also be a text.
        listed: All allowed values, if they are listed.
        keys: Registry whose keys are its values, or None.
        usual: Recommended range, or None.
        ge, gt, le, lt: Limits of a number, or None.
    """

    path: str
    section: str
    name: str
    label: str
    type: type
    optional: bool
    default: Any
    help: str
    listed: tuple[Any, ...]
    keys: Registry | None = None
    unit: str = ""
    level: Level = "advanced"
    source: str = ""
    why: str = ""
    suggestions: tuple[str, ...] = ()
    usual: tuple[float, float] | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    or_text: bool = False

    @property
    def choices(self) -> tuple[Any, ...]:
        """All allowed values, if they are listed; empty otherwise."""
        return self.keys.keys() if self.keys is not None else self.listed

    @property
    def range_text(self) -> str:
        """The allowed range: "1 to 4,096", "above 0, at most 1", or "" if there is none."""
        if self.ge is not None and self.le is not None:
            return f"{limit_text(self.ge)} to {limit_text(self.le)}"
        limits = {"at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        return ", ".join(f"{k} {limit_text(v)}" for k, v in limits.items() if v is not None)

    def takes(self, number: float) -> bool:
        """Whether a number is within the limits."""
        return (
            (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )


_SPELLING = {
    "lr": "learning rate",
    "min": "minimum",
    "max": "maximum",
    "num": "number of",
    "optim": "optimizer",
    "eval": "evaluation",
    "attn": "attention",
    "ref": "reference",
    "pref": "preference",
    "func": "function",
    "fn": "function",
    "cls": "class",
    "algo": "algorithm",
    "params": "parameters",
    "kwargs": "arguments",
    "args": "arguments",
    "dir": "folder",
    "dataloader": "data loader",
    "bnb": "",
    "4bit": "4-bit",
    "8bit": "8-bit",
    "quant": "quantization",
    "dtype": "number type",
    "grads": "gradients",
} | {
    word.lower(): word
    for word in (
        *("LoRA", "rsLoRA", "DoRA", "LoRA+", "TF32", "FP8", "FP16", "AMP", "Adam", "SGD", "NaN"),
        *("MB", "CPU", "DDP", "FSDP", "DeepSpeed", "MoE", "MFU", "TFLOPS", "USD", "SFT", "SimPO"),
        *("NEFTune", "Liger", "Hadamard"),
    )
}
"""Words of names as they appear in labels."""


def label_of(name: str) -> str:
    """Return the label of a setting with a certain name.

    >>> [label_of(name) for name in ("learning_rate", "lora_alpha", "max_prompt_length")]
    ['Learning rate', 'LoRA alpha', 'Maximum prompt length']
    """
    words = " ".join(filter(None, (_SPELLING.get(word, word) for word in name.split("_"))))
    return words[:1].upper() + words[1:] if words.split()[0].islower() else words


def limit_text(value: float) -> str:
    """Format a limit of a setting.

    >>> limit_text(65536), limit_text(1.0), limit_text(1e-8)
    ('65,536', '1', '1e-08')
    """
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,}" if value >= 1e-3 else f"{value:g}"


def plain_type(annotation: Any) -> Any:
    """Return the type of an annotation without None, list items and choices.

    >>> plain_type(float | None).__name__, plain_type(list[str]).__name__
    ('float', 'list')
    """
    origin = get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return plain_type(next(a for a in get_args(annotation) if a is not type(None)))
    if origin is Literal:
        return type(get_args(annotation)[0])
    if origin is typing.Annotated:
        return plain_type(get_args(annotation)[0])
    return origin or annotation


def _is_optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation) and get_origin(annotation) is not Literal


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """Return the choices of a setting, or of its list items."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    for part in get_args(annotation):
        if choices := choices_of(part):
            return choices
    return ()


def _limit(info: FieldInfo, name: str) -> float | None:
    return next((getattr(m, name) for m in info.metadata if hasattr(m, name)), None)


def section_type(annotation: Any) -> tuple[type[Section] | None, bool]:
    """Return the section of an annotation, and whether it is a list of sections."""
    plain = plain_type(annotation)
    if isinstance(plain, type) and issubclass(plain, Section):
        return plain, False
    if plain is list:
        for part in get_args(annotation) or ():
            inner = part if get_origin(annotation) is list else next(iter(get_args(part)), None)
            if isinstance(inner, type) and issubclass(inner, Section):
                return inner, True
    return None, False


def walk_settings(section: type[Section], prefix: str = "") -> Iterator[Setting]:
    """Yield every setting of a section, in order."""
    for name, info in section.model_fields.items():
        path = f"{prefix}{name}"
        inner, is_list = section_type(info.annotation)
        if inner is not None:
            yield from walk_settings(inner, f"{path}[]." if is_list else f"{path}.")
            continue
        about = typing.cast(dict[str, Any], info.json_schema_extra or {})
        yield Setting(
            path=path,
            section=path.split(".")[0],
            name=name,
            label=info.title or label_of(name),
            type=plain_type(info.annotation),
            optional=_is_optional(info.annotation),
            default=info.get_default(call_default_factory=True),
            help=info.description or "",
            **about,
            listed=choices_of(info.annotation),
            keys=next((m for m in info.metadata if isinstance(m, Registry)), None),
            ge=_limit(info, "ge"),
            gt=_limit(info, "gt"),
            le=_limit(info, "le"),
            lt=_limit(info, "lt"),
            or_text=plain_type(info.annotation) is list and str in get_args(info.annotation),
        )
