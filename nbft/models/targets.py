"""Layers that settings name: which there are, what a name means, and what is wrong with one.

A text in peft.target_modules is a regular expression for a layer's whole name, a list holds names or
their ends, both as in PEFT. The plan knows the layers from the headers of the model's files, a run
from the model itself. Loads no library.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nbft.config import Config
from nbft.config.peft import ALL_LINEAR
from nbft.errors import Problem
from nbft.models.adapters import adapter_of
from nbft.models.classifiers import HEAD
from nbft.models.freezing import frozen_pattern
from nbft.models.peft_types import PeftType, excluded_pattern, peft_type_of
from nbft.models.peft_types.peft_type import LAYER_WORDS, fits

_HEAD = "lm_head"
_LINEAR = ("Linear", "Conv1D")
_MATRICES = (*_LINEAR, "Embedding")
_MATRIX = "layer with a matrix of weights"
_NUMBER = re.compile(rf"(?:^|\.)(?:{'|'.join(LAYER_WORDS)})\.(\d+)(?:\.|$)")
_PREFIXES = ("", "model.", "transformer.", "model.language_model.", "gpt_neox.", "base_model.")
"""What may stand before the names in a file once the model is loaded."""


@dataclass(frozen=True)
class Layers:
    """The layers of a model.

    Attributes:
        names: Every module, also those that only hold others.
        adaptable: Those with a matrix of weights, which can get an adapter.
        linear: Those that all-linear means.
        embeddings: Those that look up a row.
        norms: Those with one weight for each of their inputs.
        tied: Those that share one matrix: embeddings and head.
        is_exact: Whether the names are those of the loaded model; in its files they may lack a
            prefix.
    """

    names: frozenset[str]
    adaptable: frozenset[str]
    linear: frozenset[str]
    embeddings: frozenset[str]
    tied: frozenset[str]
    norms: frozenset[str] = frozenset()
    is_exact: bool = False

    def named(self, name: str) -> set[str]:
        """Return the modules that a name, whole or its end, means."""
        found = {known for known in self.names if ends(known, name)}
        if not found and not self.is_exact:
            found = {known for known in self.names if ends(name, known)}
        return found

    def matching(self, pattern: str) -> set[str]:
        """Return the modules whose whole name a regular expression matches."""
        fits = re.compile(pattern).fullmatch
        prefixes = ("",) if self.is_exact else _PREFIXES
        return {name for name in self.names if any(fits(prefix + name) for prefix in prefixes)}

    def inside(self, modules: set[str]) -> set[str]:
        """Return modules and all those inside them."""
        begins = tuple(f"{module}." for module in modules)
        return modules | {name for name in self.names if begins and name.startswith(begins)}

    def targets(self, config: Config) -> set[str]:
        """Return the modules that get an adapter."""
        return self.meant(config.peft.target_modules)

    def meant(self, targets: list[str] | str) -> set[str]:
        """Return the modules that names or a pattern mean; none where it is no pattern."""
        if isinstance(targets, str):
            try:
                return self.matching(targets)
            except re.error:
                return set()
        found = {module for name in targets for module in self.named(name)}
        return found | self.linear if ALL_LINEAR in targets else found


def ends(name: str, end: str) -> bool:
    """Whether a module is meant by its name or the end of it.

    >>> [ends("layers.0.q_proj", end) for end in ("q_proj", "0.q_proj", "proj")]
    [True, True, False]
    """
    return name == end or name.endswith(f".{end}")


def adaptable_layers(config: Config, layers: Layers) -> Layers:
    """Return layers with those as adaptable and linear that the kind of adapter can change."""
    kind = peft_type_of(config)
    if kind is None or kind.adapts == "linear":
        return layers
    able = layers.norms if kind.adapts == "norms" else frozenset()
    return dataclasses.replace(layers, adaptable=able, linear=able)


def named_targets(config: Config, kind: PeftType, model: Any) -> dict[str, list[str]]:
    """Return target_modules by the names of the layers of a model where PEFT needs them, else {}.

    It does for all-linear beside other names, for norms, and where layers are excluded and its config
    class cannot say so.
    """
    asked = config.peft.target_modules
    is_list = isinstance(asked, list) and ALL_LINEAR in asked
    beside = is_list and (asked != [ALL_LINEAR] or kind.adapts != "linear")
    pattern = None if kind.excludes_layers else excluded_pattern(config)
    if not kind.adapts or not (beside or pattern):
        return {}
    layers = adaptable_layers(config, layers_of(model))
    if pattern:
        excluded = re.compile(pattern).fullmatch
        return {"target_modules": sorted(n for n in layers.targets(config) if not excluded(n))}
    return {"target_modules": sorted({*asked, *layers.linear} - {ALL_LINEAR})}


def adapts_head(config: Config) -> bool:
    """Whether the head gets an adapter."""
    asked, _ = _asked(config)
    if not isinstance(asked, str):
        return any(ends(name, _HEAD) for name in asked)
    try:
        return any(re.fullmatch(asked, prefix + _HEAD) for prefix in _PREFIXES)
    except re.error:
        return False


def trains_head(config: Config) -> bool:
    """Whether the head gets an adapter, or is trained in full beside one."""
    return adapts_head(config) or any(ends(name, _HEAD) for name in _asked(config)[1])


def _asked(config: Config) -> tuple[list[str] | str, list[str]]:
    """Return the targets and the modules to save of a run's adapter; none in full training."""
    if not config.peft.trains_adapter:
        return [], []
    if (adapter := adapter_of(config)) is not None:
        return adapter.targets, adapter.modules_to_save
    kind = peft_type_of(config)
    if kind is None or kind.adapts != "linear":
        return [], config.peft.modules_to_save
    return config.peft.target_modules, config.peft.modules_to_save


def layers_of(model: Any) -> Layers:
    """Return the layers of a loaded torch model."""
    named = dict(model.named_modules(remove_duplicate=False))
    weights = {name: m._parameters.get("weight") for name, m in named.items()}
    embeddings, head = (_embeddings(model, side) for side in ("input", "output"))
    shared = getattr(embeddings, "weight", None)
    is_tied = shared is not None and getattr(head, "weight", None) is shared
    if head is None:
        head = getattr(model, HEAD, None)  # of a reward model
    return Layers(
        frozenset(filter(None, named)),
        frozenset(
            name
            for name, m in named.items()
            if _is_a(m, *_MATRICES) or (weights[name] is not None and weights[name].dim() >= 2)
        ),
        frozenset(name for name, m in named.items() if _is_a(m, *_LINEAR) and m is not head),
        frozenset(name for name, m in named.items() if _is_a(m, "Embedding")),
        frozenset(name for name in named if is_tied and weights[name] is shared),
        frozenset(
            name
            for name, m in named.items()
            if weights[name] is not None and weights[name].dim() == 1 and not _is_a(m, *_MATRICES)
        ),
        is_exact=True,
    )


def _embeddings(model: Any, side: str) -> Any:
    """Return the embeddings of a side of a model, or None if it has or tells none."""
    try:
        return getattr(model, f"get_{side}_embeddings")()
    except (AttributeError, NotImplementedError):
        return None


def _is_a(module: Any, *classes: str) -> bool:
    return any(base.__name__ in classes for base in type(module).__mro__)


def layer_problems(config: Config, layers: Layers) -> Iterator[Problem]:
    """Yield what is wrong with the names of layers in a config.

    Args:
        config: Its sections peft and model name layers.
        layers: Those of the model.
    """
    yield from _unmatched("model.freeze_layers", config.model.freeze_layers, layers, _frozen_by)
    if not config.peft.trains_adapter:
        return
    if (adapter := adapter_of(config)) is not None:
        if shared := layers.meant(adapter.targets) & layers.tied:
            why = _tied(shared, layers)
            fix = "Train a new adapter, with it in peft.modules_to_save."
            yield Problem(adapter.field, str(adapter.path), why, fix)
        return
    able = adaptable_layers(config, layers)
    if able.adaptable:
        yield from _targets(config, able)
    yield from _numbered(config, layers)
    yield from _patterns(config, able)
    yield from _saved(config, layers)
    yield from _feedforward(config, layers)


def layer_remarks(config: Config, layers: Layers) -> list[str]:
    """Return what to know about layers that are trained apart from those they share weights with."""
    if not config.peft.trains_adapter or adapter_of(config) is not None:
        return []
    saved = _all_named(config.peft.modules_to_save, layers) & layers.tied
    if not saved:
        return []
    return [
        (
            f"peft.modules_to_save trains a copy of {_sharing(saved, layers)} in this model; the merged "
            "model has both."
        )
    ]


def _sharing(modules: set[str], layers: Layers) -> str:
    """Return modules and those that they share weights with."""
    if others := layers.tied - modules:
        return f"{_short(modules)}, which shares its weights with {_short(others)}"
    return f"{_short(modules)}, which share their weights"


def _tied(modules: set[str], layers: Layers) -> str:
    return (
        f"would put an adapter on {_sharing(modules, layers)}, so the merged model would answer "
        "otherwise than the adapter."
    )


def _all_named(names: Iterable[str], layers: Layers) -> set[str]:
    return {module for name in names for module in layers.named(name)}


def _frozen_by(layers: Layers, name: str) -> set[str]:
    fits = re.compile(frozen_pattern([name])).fullmatch
    found = {module for module in layers.names if fits(module)}
    return found or layers.named(name)


def _unmatched(
    field: str,
    names: Sequence[str],
    layers: Layers,
    find: Callable[[Layers, str], set[str]],
    known: Iterable[str] = (),
) -> Iterator[Problem]:
    """Yield a problem for each name that matches no layer, with the nearest.

    Args:
        field: The setting.
        names: Its names.
        layers: Those of the model.
        find: Returns the modules of a name.
        known: Modules of which one may be meant; every one if empty.
    """
    for name in names:
        if find(layers, name):
            continue
        nearest, words = _nearest(name, set(known) or layers.names)
        others = [nearest if other == name else other for other in names]
        use = list(dict.fromkeys(other for other in others if other))
        fix = f"Did you mean {nearest}?" if nearest else f"Layer names end in {', '.join(words)}."
        if field == "peft.target_modules":
            use = use or [ALL_LINEAR]
            fix = fix if nearest else f"Use all-linear, or some of {', '.join(words)}."
        elif field == "model.freeze_layers" and not nearest:
            fix = f"{fix[:-1]}; layers.0 is the whole first layer."
        yield Problem(field, name, "matches no layer of the model.", fix, {field: use})


def _nearest(name: str, known: Iterable[str]) -> tuple[str, list[str]]:
    """Return the nearest name of as many parts, "" if none is near, and the ends of all."""
    parts = name.count(".") + 1
    ends_ = {".".join(module.split(".")[-parts:]) for module in known}
    close = difflib.get_close_matches(name, sorted(ends_), n=1, cutoff=0.6)
    words = sorted({module.rpartition(".")[2] for module in known})
    return (close[0] if close else ""), [word for word in words if not word.isdigit()]


def _targets(config: Config, layers: Layers) -> Iterator[Problem]:
    field, asked = "peft.target_modules", config.peft.target_modules
    if isinstance(asked, str):
        yield from _pattern(field, asked, config, layers)
        return
    names = [name for name in asked if name != ALL_LINEAR]
    yield from _unmatched(field, asked, layers, _target, layers.adaptable - layers.tied)
    for name in names:
        if modules := layers.named(name):
            others = [other for other in asked if other != name]
            yield from _no_adapter(field, name, modules, others, config, layers)


def _target(layers: Layers, name: str) -> set[str]:
    return set(layers.linear) if name == ALL_LINEAR else layers.named(name)


def _no_adapter(
    field: str, name: str, modules: set[str], others: list[str], config: Config, layers: Layers
) -> Iterator[Problem]:
    """Yield why the modules of a name get no adapter."""
    peft = config.peft
    if not modules <= layers.adaptable:
        inside = {known for known in layers.adaptable for m in modules if known.startswith(f"{m}.")}
        parts = sorted({module.rpartition(".")[2] for module in inside})
        fix = f"Name the layers in it: {', '.join(parts)}." if parts else "Leave it out."
        changes = {field: list(dict.fromkeys([*others, *parts]))}
        what = "norm" if (kind := peft_type_of(config)) and kind.adapts == "norms" else _MATRIX
        why = f"is no {what}, so it can get no adapter."
        yield Problem(field, name, why, fix, changes)
    elif (no := _refuses_embeddings(config)) and modules & layers.embeddings:
        why, fix = f"is an embedding, to which {no} adds no adapter.", "Leave it out."
        yield Problem(field, name, why, fix, {field: others or [ALL_LINEAR]})
    elif shared := modules & layers.tied:
        saved = list(dict.fromkeys([*peft.modules_to_save, name]))
        changes = {field: others or [ALL_LINEAR], "peft.modules_to_save": saved}
        fix = "Use peft.modules_to_save for it, which trains a copy."
        yield Problem(field, name, _tied(shared, layers), fix, changes)
    elif config.model.freeze_layers and all(map(_is_frozen(config), modules)):
        why = "is frozen by model.freeze_layers, so it would get no adapter."
        yield Problem(field, name, why, "Name it in one of them.", {field: others or [ALL_LINEAR]})
    elif modules <= layers.inside(_all_named(peft.modules_to_save, layers)):
        why = "is in peft.modules_to_save too, which trains all of it, so it gets no adapter."
        yield Problem(field, name, why, "Name it in one of them.", {field: others or [ALL_LINEAR]})


def _refuses_embeddings(config: Config) -> str:
    """Return the name of a kind of adapter that embeddings cannot get; "" if they can."""
    kind = peft_type_of(config)
    return "" if kind is None or kind.adapts_embeddings else kind.title


def _numbered(config: Config, layers: Layers) -> Iterator[Problem]:
    """Check the numbers of the layers that get an adapter."""
    field, numbers = "peft.layers_to_transform", config.peft.layers_to_transform
    if not numbers:
        return
    if isinstance(config.peft.target_modules, str):
        why = "cannot stand beside a pattern in peft.target_modules."
        yield Problem(field, numbers, why, "Write the numbers in the pattern.", {field: []})
        return
    known = {int(found[1]) for name in layers.names if (found := _NUMBER.search(name))}
    if wrong := [number for number in numbers if number not in known]:
        right = [number for number in numbers if number in known]
        has = f"has {len(known)} layers, from 0 to {max(known)}" if known else "numbers no layers"
        why = f"names {', '.join(map(str, wrong))}, but the model {has}."
        yield Problem(field, numbers, why, "Leave it out.", {field: right})


def _patterns(config: Config, layers: Layers) -> Iterator[Problem]:
    """Check that each layer with a rank or an alpha of its own gets an adapter."""
    if config.peft.method != "lora":
        return
    targets = layers.targets(config)
    for name in ("rank_pattern", "alpha_pattern"):
        field, given = f"peft.{name}", getattr(config.peft, name)
        for pattern in given:
            if any(fits(pattern, module) for module in targets):
                continue
            others = {key: value for key, value in given.items() if key != pattern}
            try:
                re.compile(pattern)
            except re.error as error:
                why = f"holds {pattern}, which is no regular expression ({error})."
                yield Problem(field, given, why, "Correct it.", {field: others})
                continue
            nearest, words = _nearest(pattern, targets or layers.adaptable)
            why = f"holds {pattern}, which matches no layer with an adapter."
            fix = (
                f"Did you mean {nearest}?" if nearest else f"Layer names end in {', '.join(words)}."
            )
            use = {nearest or key if key == pattern else key: v for key, v in given.items()}
            yield Problem(field, given, why, fix, {field: use if nearest else others})
        for module in sorted(targets):
            found = [pattern for pattern in given if fits(pattern, module)]
            if len({given[pattern] for pattern in found}) > 1:
                why = f"has {' and '.join(found)}, which both fit {module}."
                fix = "Write patterns of which one fits each layer: PEFT does not keep their order."
                yield Problem(field, given, why, fix)
                break


def _pattern(field: str, pattern: str, config: Config, layers: Layers) -> Iterator[Problem]:
    try:
        modules = layers.matching(pattern)
    except re.error as error:
        why = f"is no regular expression ({error})."
        yield Problem(field, pattern, why, "Write a list of names, or all-linear.")
        return
    if not modules:
        is_name = bool(layers.named(pattern))
        why = "is a pattern for the whole name of a layer, and matches none."
        fix = f"Write [{pattern}]." if is_name else f"A name is {_example(layers)}."
        yield Problem(field, pattern, why, fix, {field: [pattern]} if is_name else {})
    elif bare := modules - layers.adaptable:
        why = f"matches {_short(bare)} too, which can get no adapter."
        yield Problem(field, pattern, why, "Write a narrower pattern, or a list of names.")
    elif shared := modules & layers.tied:
        fix = "Leave it out of the pattern, and use peft.modules_to_save for it."
        yield Problem(field, pattern, _tied(shared, layers), fix)
    elif config.model.freeze_layers and all(map(_is_frozen(config), modules)):
        why = "matches only layers that model.freeze_layers freezes."
        yield Problem(field, pattern, why, "Name them in one of the two.")


def _saved(config: Config, layers: Layers) -> Iterator[Problem]:
    field, names = "peft.modules_to_save", config.peft.modules_to_save
    yield from _unmatched(field, names, layers, Layers.named)
    for name in names:
        modules = layers.named(name)
        loose = {m for m in layers.names if m.endswith(name)} - modules
        others = [other for other in names if other != name]
        if modules and loose:
            whole = sorted(modules, key=len)[0]
            yield Problem(
                field,
                name,
                f"would train {_short(loose)} too, because PEFT takes every layer whose name ends so.",
                f"Use {whole}.",
                {field: [*others, whole]},
            )
        elif modules & layers.linear and config.quantization.bits:
            why = "is quantised, so it can only be frozen."
            yield Problem(field, name, why, "Leave it out.", {field: others})
        elif modules and config.model.freeze_layers and all(map(_is_frozen(config), modules)):
            why = "is frozen by model.freeze_layers, so it would not be trained."
            yield Problem(field, name, why, "Name it in one of them.", {field: others})


def _feedforward(config: Config, layers: Layers) -> Iterator[Problem]:
    """Check names that are not those of the default, which are there for several kinds of models."""
    field, names = "peft.feedforward_modules", config.peft.feedforward_modules
    if config.peft.method != "ia3":
        return
    usual = set(type(config.peft)().feedforward_modules)
    if set(names) == usual:
        return
    yield from _unmatched(field, names, layers, Layers.named, layers.adaptable)
    targets = layers.targets(config)
    for name in names:
        if (modules := layers.named(name)) and not modules & targets:
            why = "gets no adapter, because peft.target_modules does not name it."
            others = [other for other in names if other != name]
            yield Problem(field, name, why, "Name it there too, or leave it out.", {field: others})


def _is_frozen(config: Config) -> Callable[[str], object]:
    return re.compile(frozen_pattern(config.model.freeze_layers)).fullmatch


def _example(layers: Layers) -> str:
    return min(layers.linear or layers.adaptable or layers.names, default="model.layers.0")


def _short(modules: Iterable[str]) -> str:
    """Return the ends of names, each once."""
    names = sorted({module.rpartition(".")[2] or module for module in modules})
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
