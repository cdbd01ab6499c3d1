"""The code that a config names: functions, code of a model, and components of installed packages.

Finding it imports nothing. `nbft.consent` remembers what a person has agreed to run.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from nbft import consent, registry
from nbft.config import io
from nbft.consent import Code

if TYPE_CHECKING:
    from nbft.config import Config

_OURS = ("nbft.data.ready",)
"""Modules of nbft with functions for rows."""

_LONGEST_SOURCE_CHARS = 20_000
MODEL_CODE = "model.trust_remote_code"
"""The setting that runs code which comes with a model."""


def code_of(config: Config, folder: Path | None = None) -> list[Code]:
    """Return all code that a config would run and that is not nbft's own.

    Args:
        config: The config.
        folder: Folder of the config file, for relative paths.
    """
    functions = _functions(config, folder)
    return [*functions, *_of_models(config), *_of_packages(config), *_of_jobs(config)]


def allow_code(config: Config, folder: Path | None = None) -> list[Code]:
    """Consent to all code that a config names, and return it; what may never run is left out."""
    found = [code for code in code_of(config, folder) if not code.refusal]
    for code in found:
        consent.allow(code)
    return found


def allow_packages(config: Config) -> None:
    """Consent, for this process, to the components of packages that a config names."""
    for code in _of_packages(config):
        consent.allow_here(code)


def is_forbidden(code: Code, *, is_own: bool) -> bool:
    """Whether code may not run: nobody has consented to it, and the config is not one's own."""
    return not consent.is_allowed(code) and (bool(code.refusal) or not is_own)


def forbidden(config: Config, folder: Path | None = None) -> list[Code]:
    """Return the code of a config that nobody has consented to; none if it was made here."""
    return [c for c in code_of(config, folder) if is_forbidden(c, is_own=config.is_own)]


def function_code(
    written: str, setting: str, folder: Path | None, *, is_own: bool = False
) -> Code | None:
    """Return the code of a function; None if it is nbft's, or not a name of a function or file.

    A module that cannot be found without importing it may be named by one's own config only.

    Args:
        written: path/to/file:function or package.module:function.
        setting: The setting that names it.
        folder: Folder of the config file, for relative paths.
        is_own: Whether the config was made in this session, so any package may be named.
    """
    where, _, name = written.rpartition(":")
    if not where or not name or where in _OURS:
        return None
    file = io.resolve(where if where.endswith(".py") else f"{where}.py", folder)
    if file.is_file():
        return _of_file(setting, written, name, file)
    if "/" in where or where.endswith(".py"):
        return None
    if where.partition(".")[0] in sys.stdlib_module_names:
        why = f"{where} is part of Python, not a function for rows or answers."
        return Code(setting, written, where, b"", refusal=why)
    found = _module_file(where, folder)
    if found is None:
        why = f"there is no module {where}."
        return None if is_own else Code(setting, written, where, b"", refusal=why)
    is_beside = found.is_relative_to((folder or Path()).absolute())
    if is_own or is_beside or written in _offered():
        return _of_file(setting, written, name, found)
    why = f"{where} belongs to an installed package that does not offer it in the group nbft.functions."
    return Code(setting, written, str(found), b"", refusal=why)


def _of_file(setting: str, written: str, name: str, file: Path) -> Code:
    try:
        content = file.read_bytes()
    except OSError as error:
        content = str(error).encode()
    return Code(setting, written, f"{file}:{name}", content, _source(content, name))


def _source(content: bytes, name: str) -> str:
    """Return the text of a function, or of the whole file if it is made in another way."""
    text = content.decode("utf-8", "replace")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return text[:_LONGEST_SOURCE_CHARS]
    is_all = all(
        isinstance(node, (ast.FunctionDef, ast.Import, ast.ImportFrom)) for node in tree.body
    )
    nodes = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    found = ast.get_source_segment(text, nodes[-1]) if nodes and is_all else None
    return (found or text)[:_LONGEST_SOURCE_CHARS]


def _module_file(name: str, folder: Path | None) -> Path | None:
    """Return the file of a module, without importing it or the packages that it is in."""
    first, *rest = name.split(".")
    places = [str((folder or Path()).absolute()), *sys.path]
    try:
        # Packages installed in place are known to finders of their own.
        spec = PathFinder.find_spec(first, places) or importlib.util.find_spec(first)
        for part in rest:
            if spec is None:
                return None
            full = f"{spec.name}.{part}"
            spec = PathFinder.find_spec(full, list(spec.submodule_search_locations or []))
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _offered() -> set[str]:
    """Return the functions that installed packages offer to configs."""
    return {entry.value for entry in registry.entry_points("nbft.functions")}


def _functions(config: Config, folder: Path | None) -> Iterator[Code]:
    named = [
        (f"{field}.{part}_func", getattr(dataset, f"{part}_func"))
        for field, dataset in config.data.named_datasets()
        for part in ("prompt", "completion")
    ]
    metric = config.evaluation.metric_function
    if metric and metric not in registry.metrics:
        named.append(("evaluation.metric_function", metric))
    named += [
        (f"grpo.rewards[{n}].function", reward.function)
        for n, reward in enumerate(config.grpo.rewards)
        if reward.function not in registry.rewards
    ]
    for setting, written in named:
        code = function_code(written, setting, folder, is_own=config.is_own) if written else None
        if code is not None:
            yield code


def _of_models(config: Config) -> Iterator[Code]:
    """Yield the code that comes with the model, where the config trusts it."""
    model, trusted = config.model, []
    if model.trust_remote_code or model.tokenizer_kwargs.get("trust_remote_code"):
        trusted.append(model.tokenizer_name or model.model_name)
    if model.trust_remote_code or model.model_init_kwargs.get("trust_remote_code"):
        trusted.append(model.model_name)
    for given in dict.fromkeys(trusted):
        folder = Path(given).expanduser()
        files = sorted(folder.glob("*.py")) if folder.is_dir() else []
        source = "\n".join(file.read_text("utf-8", "replace") for file in files)
        place = f"{given}, revision {model.model_revision or 'main'}"
        yield Code(MODEL_CODE, given, place, source.encode(), source[:_LONGEST_SOURCE_CHARS])


def _of_jobs(config: Config) -> Iterator[Code]:
    """Yield the options of the job of a cluster that can run something besides nbft."""
    for name in ("setup", "teardown", "srun_args", "additional_parameters"):
        if given := config.compute.slurm.get(name):
            source = json.dumps(given, indent=2, default=str)
            yield Code("compute.slurm", name, f"compute.slurm.{name}", source.encode(), source)


def _of_packages(config: Config) -> Iterator[Code]:
    """Yield the components that installed packages add to the registries."""
    from nbft.config.config import settings

    tree = io.flatten(config.to_dict(full=True), {})
    keys = {setting.path: setting.keys for setting in settings() if setting.keys is not None}
    for path, value in tree.items():
        known = keys.get(io.without_indices(path))
        if known is not None and isinstance(value, str) and (code := known.code(value, path)):
            yield code
    for key in config.callbacks.callbacks:
        if code := registry.callbacks.code(key, "callbacks.callbacks"):
            yield code
    metric = config.evaluation.metric_function
    if metric and (code := registry.metrics.code(metric, "evaluation.metric_function")):
        yield code
    for n, reward in enumerate(config.grpo.rewards):
        if code := registry.rewards.code(reward.function, f"grpo.rewards[{n}].function"):
            yield code
