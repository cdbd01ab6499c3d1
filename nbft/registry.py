"""Registries of models, optimisers, callbacks and more, whose keys are values of settings.

    @nbft.registry.callbacks.register("mine")
    class Mine(transformers.TrainerCallback): ...

A key is built in, registered with the decorator (in this process), or comes from the entry point
of an installed package (in any process). Nothing is imported before it is used, and what comes from
a package only after the person who runs it has agreed (`nbft.consent`).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nbft import consent
from nbft.consent import Code
from nbft.errors import ConfigError, Problem

T = TypeVar("T")

OF_THE_LIBRARY = ""
"""Marks a key that transformers handles itself, so there is nothing to import."""


class Registry:
    """Keys and the objects they refer to.

    Args:
        name: What it contains, one word in the plural.
        entry_point_group: Group of the entry points of installed packages.
        builtin: Key → "module:attribute", or OF_THE_LIBRARY.
        asks: Whether components of installed packages need consent; not if they are looked at
            whatever a config names.
    """

    def __init__(
        self,
        name: str,
        entry_point_group: str,
        builtin: Mapping[str, str] | None = None,
        *,
        asks: bool = True,
    ) -> None:
        self.name = name
        self.asks = asks
        self.entry_point_group = entry_point_group
        self._builtin = dict(builtin or {})
        self._registered: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Return the name and the keys."""
        return f"<nbft.registry.{self.name}: {', '.join(self.keys())}>"

    def register(self, key: str) -> Callable[[T], T]:
        """Return a decorator that registers a class or function under a key.

        Registering your own key again replaces it, as when a notebook cell is run twice.

        Raises:
            ConfigError: The key is not text, or built in.
        """
        if not isinstance(key, str) or not key.strip():
            raise self._error(key, "is not a valid key.", "Use a word.")
        if key in self._builtin:
            raise self._error(key, "is built in.", "Use another word.")

        def put(thing: T) -> T:
            self._registered[key] = thing
            return thing

        return put

    def _error(self, key: object, why: str, fix: str) -> ConfigError:
        return ConfigError(Problem(f"registry.{self.name}", key, why, fix))

    def unregister(self, key: str) -> None:
        """Remove a registered key, if there is one."""
        self._registered.pop(key, None)

    def keys(self) -> tuple[str, ...]:
        """Return every key: built-in ones, then those of packages, then registered ones."""
        return tuple(dict.fromkeys([*self._builtin, *self._entry_points, *self._registered]))

    def __iter__(self) -> Iterator[str]:
        """Yield every key."""
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        """Whether a key exists; reads the entry points only if it is not built in."""
        return key in self._builtin or key in self._registered or key in self._entry_points

    def is_own(self, key: str) -> bool:
        """Whether a key exists and is not built in."""
        return key not in self._builtin and key in self

    def get(self, key: str) -> Any:
        """Return the object of a key, or None for a key that transformers handles itself.

        Raises:
            ConfigError: There is no such key, its package cannot be imported, or nobody has
                consented to running it.
        """
        if key in self._registered:
            return self._registered[key]
        if place := self._builtin.get(key):
            module, _, attribute = place.partition(":")
            return getattr(importlib.import_module(module), attribute)
        if key in self._builtin:
            return None
        if key in self._entry_points:
            entry = self._entry_points[key]
            code = self.code(key, f"registry.{self.name}")
            if code is not None and not consent.is_allowed(code):
                raise ConfigError(code.problem)
            try:
                return entry.load()
            except Exception as error:
                why = f"comes from {entry.value}, which cannot be imported ({error})."
                raise self._error(key, why, "Fix or uninstall that package.") from error
        why, fix, _ = self.unknown(key)
        raise self._error(key, why, fix)

    def code(self, key: str, setting: str) -> Code | None:
        """Return the code that a key brings in from an installed package; None for other keys.

        Args:
            key: The key.
            setting: The setting that names it.
        """
        if not self.asks or key in self._builtin or key in self._registered:
            return None
        entry = self._entry_points.get(key)
        if entry is None:
            return None
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "a package"
        place = f"{package} ({entry.value})"
        return Code(setting, key, place, f"{self.name} {place}".encode())

    def unknown(self, key: str) -> tuple[str, str, str | None]:
        """Return why a key is unknown, what to do, and the closest key or None."""
        known = self.keys()
        close = difflib.get_close_matches(str(key).lower(), known, n=1, cutoff=0.5)
        why = (
            f"is not one of {', '.join(known)}."
            if known
            else "is not registered, and no other key is."
        )
        if close:
            return why, f"Use {close[0]}.", close[0]
        own = f"Register your own with nbft.registry.{self.name}.register."
        return why, own, None

    @functools.cached_property
    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        found = entry_points(self.entry_point_group)
        return {entry.name: entry for entry in found if entry.name not in self._builtin}


def entry_points(group: str) -> Any:
    """Return the entry points of a group, of all installed packages."""
    return _entry_points_of_packages().select(group=group)


@functools.cache
def _entry_points_of_packages() -> Any:
    """Read the entry points of every package, once: about 10 ms for 200 packages."""
    return importlib.metadata.entry_points()


def _of_the_library(keys: str) -> dict[str, str]:
    return dict.fromkeys(keys.split(), OF_THE_LIBRARY)


models = Registry("models", "nbft.models", {"hf": OF_THE_LIBRARY})
"""Key → class with `from_pretrained(folder, **arguments)`; model.model_type."""

datasets = Registry(
    "datasets",
    "nbft.datasets",
    {
        "auto": OF_THE_LIBRARY,
        "seq_completion": OF_THE_LIBRARY,
        "prompt_completion": "nbft.data.adapters:prompt_completion",
        "messages": "nbft.data.adapters:messages",
        "sharegpt": "nbft.data.adapters:sharegpt",
        "alpaca": "nbft.data.adapters:alpaca",
        "stanford_alpaca": "nbft.data.adapters:stanford_alpaca",
        "alpaca_chat": "nbft.data.adapters:alpaca_chat",
        "chat_completion": "nbft.data.adapters:chat_completion",
        "text_sft": "nbft.data.adapters:text_sft",
        "input_output": "nbft.data.adapters:input_output",
        "erniekit": "nbft.data.adapters:erniekit",
        "text": "nbft.data.adapters:text",
    },
)
"""Key → function from a row to a prompt and a completion; data.train.datasets[].dataset_type."""

METHOD_NAMES = sorted(
    path.stem
    for path in (Path(__file__).parent / "methods").glob("*.py")
    if path.stem not in ("__init__", "method")
)
"""The methods of this package, a file each."""

trainers = Registry(
    "trainers", "nbft.trainers", {name: f"nbft.methods.{name}:METHOD" for name in METHOD_NAMES}
)
"""Key → a `Method`, one for each file in nbft/methods, or a class like transformers' Trainer, used
with the method `base`; training.method."""

optimizers = Registry(
    "optimizers",
    "nbft.optimizers",
    {
        **_of_the_library(
            "adamw_torch adamw_torch_fused adamw_8bit paged_adamw_32bit paged_adamw_8bit adafactor "
            "sgd rmsprop lion_32bit"
        ),
        "adam": "nbft.training.optim:adam",
    },
)
"""Key → function from parameter groups, lr and optim_args to a torch optimiser; optimizer.optim."""

schedulers = Registry(
    "schedulers",
    "nbft.schedulers",
    _of_the_library(
        "linear cosine cosine_with_restarts cosine_with_min_lr polynomial constant "
        "constant_with_warmup inverse_sqrt"
    ),
)
"""Key → function(step, warmup_steps, total_steps, **kwargs) to the share of the learning rate, which
the plan can draw without torch; scheduler.lr_scheduler_type."""

collators = Registry("collators", "nbft.collators", {"dynamic_padding": OF_THE_LIBRARY})
"""Key → function from a tokenizer to a data collator; data.collate_fn."""

metrics = Registry("metrics", "nbft.metrics")
"""Key → function(answers, references, rows) to a number or a dict; evaluation.metric_function."""

rewards = Registry(
    "rewards",
    "nbft.rewards",
    {
        "exact_number": "nbft.rewards.ready:exact_number",
        "contains": "nbft.rewards.ready:contains",
        "format": "nbft.rewards.ready:matches",
        "length": "nbft.rewards.ready:length",
        "json_schema": "nbft.rewards.ready:json_schema",
        "reward_model": "nbft.rewards.reward_model:reward_model",
        "judge": "nbft.rewards.judge:judge",
    },
)
"""Key → function(prompts, completions, **columns) to a number for each completion;
grpo.rewards[].function."""

callbacks = Registry(
    "callbacks",
    "nbft.callbacks",
    {
        "early_stopping": "nbft.training.callbacks.stopping:EarlyStoppingCallback",
        "default_flow": "transformers:DefaultFlowCallback",
        "enhanced_progressbar": "nbft.training.callbacks.writing:ProgressBarCallback",
        "printer": "nbft.training.callbacks.writing:PrinterCallback",
        "json_logger": "nbft.training.callbacks.writing:JsonLoggerCallback",
        "tensorboard": "transformers.integrations:TensorBoardCallback",
        "profiler": "nbft.training.callbacks.profiling:ProfilerCallback",
        "op_by_op_verifier": "nbft.training.callbacks.verifying:OpByOpVerifierCallback",
    },
)
"""Key → class of transformers' TrainerCallback; callbacks.callbacks gives its arguments."""

devices = Registry(
    "devices",
    "nbft.devices",
    {
        "auto": OF_THE_LIBRARY,
        "cuda": "nbft.devices:Cuda",
        "xpu": "nbft.devices:Xpu",
        "mps": "nbft.devices:Mps",
        "cpu": "nbft.devices:Cpu",
        "qaic": "nbft.devices:Qaic",
    },
    asks=False,
)
"""Key → class like `nbft.devices.Device`; compute.device."""

launchers = Registry(
    "launchers",
    "nbft.launchers",
    {
        "kernel": "nbft.launchers.kernel:LAUNCHER",
        "process": "nbft.launchers.process:LAUNCHER",
        "slurm": "nbft.launchers.slurm:LAUNCHER",
    },
)
"""Key → a `Launcher`; compute.launcher."""

exports = Registry(
    "exports",
    "nbft.exports",
    {
        "adapter": "nbft.export.adapter:FORMAT",
        "merged": "nbft.export.merged:FORMAT",
        "gguf": "nbft.export.gguf:FORMAT",
        "ollama": "nbft.export.ollama:FORMAT",
        "mlx": "nbft.export.mlx:FORMAT",
        "vllm": "nbft.export.vllm:FORMAT",
        "openai-server": "nbft.export.openai_server:FORMAT",
        "hub": "nbft.export.hub:FORMAT",
    },
)
"""Key → a `Format`; the argument `to` of `Run.export`."""

checks = Registry("checks", "nbft.checks")
"""Key → function from an `Example` to a text that is wrong with it, or None; the doctor runs each."""

ALL = (
    *(models, datasets, trainers, optimizers, schedulers, collators, metrics, rewards, callbacks),
    devices,
    launchers,
    exports,
    checks,
)
