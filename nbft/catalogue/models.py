"""Base models to choose from: on this machine, used before, well known, or searched for on the hub.

Says of each whether it fits this machine with the method of a config. Called by the form.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from nbft.catalogue import hub
from nbft.catalogue.recent import EarlierRun, earlier_runs
from nbft.config import Config
from nbft.decisions import decide
from nbft.formatting import size
from nbft.methods import method_of
from nbft.models.find import ALIASES, cache_folder, find_local, hub_cache_folder, is_hub_name
from nbft.plan.advice import SETTINGS_OF, needed_bytes, parameters_of, this_machine
from nbft.plan.memory import memory_bytes, model_shape
from nbft.plan.problems import is_installed
from nbft.reading import cached_by_stamp, is_file, read_bytes

Source = Literal["machine", "run", "recent", "known", "hub"]

DEFAULT = "smollm2-135m"

_ROW_TOKENS = 256
"""Length of a row where the rows are not known yet: most rows of instruction datasets are shorter."""

_ENTRIES = 500
_ABOUT_BYTES = 1_000_000
_CLASSES = {
    "AutoModelForCausalLM": ("ForCausalLM", "LMHeadModel"),
    "AutoModelForImageTextToText": ("ForConditionalGeneration",),
    "AutoModelForSeq2SeqLM": ("ForConditionalGeneration",),
}


@dataclass(frozen=True)
class Fit:
    """Whether a model fits the free memory of the device.

    Attributes:
        verdict: "fits" as configured, "fits with LoRA" or "fits with 4-bit" after `changes`, "does
            not fit", or "unknown" where the size of the model is.
        needed_bytes: Memory that a run needs, with `changes`; an estimate.
        free_bytes: Free memory of the device.
        changes: Settings that make it fit, by dotted path.
    """

    verdict: Literal["fits", "fits with LoRA", "fits with 4-bit", "does not fit", "unknown"]
    needed_bytes: int | None = None
    free_bytes: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        """Whether nothing speaks against it."""
        return self.verdict != "does not fit"

    def __str__(self) -> str:
        """Return the verdict, with the numbers where it does not fit."""
        if self.is_usable or self.needed_bytes is None or self.free_bytes is None:
            return self.verdict
        return f"does not fit: needs {size(self.needed_bytes)} of {size(self.free_bytes)}"


@dataclass(frozen=True)
class ModelChoice:
    """A base model to choose.

    Attributes:
        name: Value of model.model_name: a name on the hub, or the path of a folder.
        title: Name to show.
        source: Why it is listed: on this machine, the result of a run, used by a run, well known, or
            found by a search of the hub.
        path: Its folder on this machine; None where it has to be downloaded.
        size_bytes: Size of its weights, on the disk or to download; None if unknown.
        parameters: Number of parameters; None if unknown.
        license: Its licence, as on the hub; None if unknown.
        is_gated: Whether its terms have to be accepted on the hub first; None if unknown.
        context_tokens: Longest text that it takes, in tokens; None if unknown.
        last_used: When a run was last started with it, in seconds since the epoch; None if never.
        downloads: Downloads in the last 30 days, for one that was searched for.
        fit: Whether it fits this machine.
    """

    name: str
    title: str
    source: Source
    path: Path | None = None
    size_bytes: int | None = None
    parameters: int | None = None
    license: str | None = None
    is_gated: bool | None = None
    context_tokens: int | None = None
    last_used: float | None = None
    downloads: int | None = None
    fit: Fit = Fit("unknown")

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return self.path is not None

    @property
    def where(self) -> str:
        """Where it is, with its size."""
        if self.is_local:
            return "on this machine" + (f", {size(self.size_bytes)}" if self.size_bytes else "")
        return f"download {size(self.size_bytes)}" if self.size_bytes else "to download"


def models(
    config: Config, lengths_tokens: Sequence[int] = (), *, folder: Path | None = None
) -> list[ModelChoice]:
    """Return the base models to choose from, usable ones first. Asks no network.

    Args:
        config: Its method, device and auto class decide which models fit.
        lengths_tokens: Lengths of some training rows; 256 tokens each when none are known.
        folder: Where to look for folders with a model; the working folder when None.
    """
    runs = earlier_runs(config.training.output_dir)
    judge = _Judge(config, lengths_tokens)
    facts = known_models()
    used: dict[str, float] = {}
    for run in reversed(runs):
        if run.model:
            used[_key(run.model)] = run.started
    choices: dict[str, ModelChoice] = {}

    def add(name: str, title: str, source: Source, path: Path | None = None) -> None:
        key = _key(name)
        if key not in choices:
            fact = facts.get(key, {})
            choices[key] = _choice(name, title, source, path, fact, judge, used.get(key))

    for name, title, path in _on_this_machine(folder or Path.cwd()):
        if _can_load(path, config):
            add(name, title, "machine", path)
    for name, title, path in _results(runs):
        add(name, title, "run", path)
    for name in used:
        path = Path(name)
        if path.is_absolute() and is_file(path / "config.json"):
            add(name, path.name, "recent", path)
        elif is_hub_name(name):
            add(name, name, "recent")
    add(DEFAULT, DEFAULT, "known")
    for name in facts:
        add(name, name, "known")
    return sorted(choices.values(), key=_order)


def search_models(
    text: str, config: Config | None = None, lengths_tokens: Sequence[int] = ()
) -> list[ModelChoice]:
    """Ask the hub for text generation models, the most downloaded first.

    Waits a few seconds at most: call it only when a person asked for it.

    Args:
        text: Words to search for.
        config: As in `models`; the default config when None.
        lengths_tokens: As in `models`.

    Raises:
        NbftError: The hub cannot be asked, with the reason.
    """
    judge = _Judge(config or Config(), lengths_tokens)
    choices = []
    for about in hub.search("models", text):
        here = find_local(about.name)
        stated = {
            "parameters": about.parameters,
            "license": about.license,
            "gated": about.is_gated,
            "downloads": about.downloads,
        }
        fact = dict(known_models().get(about.name, {}))
        fact |= {name: value for name, value in stated.items() if value is not None}
        path = here.path if here else None
        choices.append(_choice(about.name, about.name, "hub", path, fact, judge, None))
    return choices


@functools.cache
def known_models() -> dict[str, dict[str, Any]]:
    """Return facts about well-known open models by name: parameters, license and so on."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return {model["name"]: model for model in yaml.safe_load(text)}


def _choice(
    name: str,
    title: str,
    source: Source,
    path: Path | None,
    fact: Mapping[str, Any],
    judge: _Judge,
    last_used: float | None,
) -> ModelChoice:
    parameters, size_bytes = fact.get("parameters"), None
    about: Mapping[str, Any] = {}
    if path is not None:
        about, size_bytes = _about(path)
        if shape := model_shape(path):
            parameters = shape.parameters
    elif parameters is None:
        parameters = parameters_of(name)
    if path is None and parameters:
        size_bytes = 2 * parameters  # 16 bits each
    return ModelChoice(
        name=name,
        title=title,
        source=source,
        path=path,
        size_bytes=size_bytes,
        parameters=parameters,
        license=fact.get("license") or about.get("license"),
        is_gated=fact.get("gated"),
        context_tokens=about.get("max_position_embeddings") or fact.get("context_tokens"),
        last_used=last_used,
        downloads=fact.get("downloads"),
        fit=judge.fit(path, parameters),
    )


def _order(choice: ModelChoice) -> tuple[Any, ...]:
    """Order by: fits and is here, used before, needs no account, small."""
    return (
        not choice.fit.is_usable,
        not choice.is_local,
        -(choice.last_used or 0),
        choice.name != DEFAULT,
        bool(choice.is_gated) and not choice.is_local,
        choice.parameters or 0,
        choice.title,
    )


class _Judge:
    """Says whether models fit this machine, with a config's method or a smaller one."""

    def __init__(self, config: Config, lengths_tokens: Sequence[int]) -> None:
        self._machine = this_machine(config)
        device = self._machine.device.value
        self._lengths = lengths_tokens or [min(_ROW_TOKENS, config.data.max_length)]
        method = "lora" if config.peft.trains_adapter else "full"
        if config.quantization.bits == 4:
            method = "qlora"
        self._ways: list[tuple[Any, str, Config, dict[str, Any]]] = [("fits", method, config, {})]
        smaller = [("fits with LoRA", "lora", SETTINGS_OF["lora"])] if method == "full" else []
        if method != "qlora" and device in ("cpu", "cuda", "xpu") and is_installed("bitsandbytes"):
            changes = {**SETTINGS_OF["qlora"], "quantization.load_in_8bit": False}
            if method == "lora":
                del changes["peft.method"]
            smaller.append(("fits with 4-bit", "qlora", changes))
        for verdict, name, changes in smaller:
            self._ways.append((verdict, name, config.apply(changes), changes))

    def fit(self, path: Path | None, parameters: int | None) -> Fit:
        """Return whether a model fits, by its files or else by its number of parameters."""
        free, needed = self._machine.free_bytes, None
        for verdict, method, config, changes in self._ways:
            needed = self._needed(path, parameters, method, config)
            if needed is None:
                return Fit("unknown", None, free)
            if needed <= free:
                return Fit(verdict, needed, free, changes)
        return Fit("does not fit", needed, free)

    def _needed(
        self, path: Path | None, parameters: int | None, method: str, config: Config
    ) -> int | None:
        if path is not None and (shape := model_shape(path)):
            changes = {
                "model_name": str(path),
                "model_revision": None,
                "adapter_name_or_path": None,
            }
            model = config.model.model_copy(update=changes)
            there = config.model_copy(update={"model": model})
            return memory_bytes(there, shape, self._lengths, decide(there, path))
        if not parameters:
            return None
        return needed_bytes(method, parameters, has_16_bits=self._machine.has_16_bits)


def _key(name: str) -> str:
    """Return what two names of the same model have in common."""
    path = Path(name).expanduser()
    return str(path) if path.is_absolute() else ALIASES.get(name, name)


def _on_this_machine(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield name, title and folder of each model that is on this machine."""
    if found := find_local(DEFAULT):
        yield DEFAULT, DEFAULT, found.path
    for path in _folders(cache_folder() / "models"):
        if is_file(path / "config.json"):
            name = path.name.replace("--", "/")
            yield name, name, path
    for path in _folders(hub_cache_folder()):
        if path.name.startswith("models--"):
            name = path.name.removeprefix("models--").replace("--", "/")
            if found := find_local(name):
                yield name, name, found.path
    for near in (folder, *_folders(folder)):
        for path in _folders(near):
            if is_file(path / "config.json"):
                yield str(path.absolute()), str(path.relative_to(folder)), path.absolute()


def _results(runs: Iterable[EarlierRun]) -> Iterator[tuple[str, str, Path]]:
    """Yield path, title and folder of each model that a run saved."""
    for run in runs:
        for name in ("merged", "model"):
            path = run.path / name
            if is_file(path / "config.json"):
                yield str(path), f"{run.path.name}, {name}", path


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            some = itertools.islice(entries, _ENTRIES)
            return [Path(e.path) for e in some if e.is_dir() and not e.name.startswith(".")]
    except OSError:
        return []


def _can_load(path: Path, config: Config) -> bool:
    """Whether a folder holds weights of a class that the config's auto class loads."""
    about, size_bytes = _about(path)
    classes = about.get("architectures")
    endings = _CLASSES[config.model.auto_class_name]
    if method_of(config).scores_answers:
        endings = (*endings, "ForSequenceClassification")
    if not isinstance(classes, list) or not classes:
        return size_bytes > 0
    return size_bytes > 0 and any(str(name).endswith(endings) for name in classes)


@cached_by_stamp(maxsize=200)
def _about(path: Path) -> tuple[dict[str, Any], int]:
    """Return what a model's files say about it, and the bytes of its weights."""
    try:
        about = json.loads(read_bytes(path / "config.json", _ABOUT_BYTES))
        size_bytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    except (OSError, ValueError, RecursionError):
        return {}, 0
    if not isinstance(about, dict):
        return {}, 0
    with contextlib.suppress(OSError):
        card = read_bytes(path / "README.md", _ABOUT_BYTES).decode(errors="replace")
        if stated := re.search(r"\A---\n(?:.*\n)*?license: *(\S+)", card):
            about["license"] = stated[1]
    return about, size_bytes
