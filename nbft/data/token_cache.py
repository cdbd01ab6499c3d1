"""The rows of a run as tokens, without reading files that have not changed.

`tokens` caches by the content of the examples, which must be read to be known. So a note beside the
tokens says which files, settings, tokenizer and code they came from; where these are the same, nothing
is read again. Called by `nbft.training.rows`.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.atomic import replacing
from nbft.config import Config
from nbft.config.data import Dataset
from nbft.config.io import is_there, resolve
from nbft.data.examples import Examples, by_answer, held_out, load_examples
from nbft.data.fingerprint import code_key, file_key, key_of, tokenizer_key
from nbft.data.formats import FORMATS
from nbft.data.ready import READY
from nbft.data.sources import bundled_file
from nbft.data.tokens import Tokenised, cached_tokens, tokenise, tokens_folder
from nbft.methods import Method, method_of


@dataclass(frozen=True)
class Prepared:
    """A split as tokens.

    Attributes:
        rows: The tokens; None where the split holds no rows.
        recognised: Sentences on how rows were recognised.
        said: Sentences on what a person should know.
        examples: The examples behind the tokens; None where a note was enough.
    """

    rows: Tokenised | None
    recognised: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    examples: Examples | None = None

    @property
    def is_stream(self) -> bool:
        """Whether these are only the first rows of a stream."""
        return self.examples is not None and self.examples.is_stream


def prepare(config: Config, tokenizer: Any, *, folder: Path | None = None) -> dict[str, Prepared]:
    """Read and tokenise training and held-out rows.

    Args:
        config: The config.
        tokenizer: A transformers tokenizer.
        folder: Folder of the config file, for relative paths.

    Raises:
        DataError: The rows cannot be read or hold nothing to train on.
    """
    key = _source_key(config, tokenizer, folder)
    if key and (noted := _noted(key, method_of(config))):
        return noted
    read, said = load_examples(config, "train", folder=folder)
    train, split_up = by_answer(read, tokenizer)
    rows = tokenise(train, tokenizer, config, "train")
    splits = {"train": Prepared(rows, train.recognised, [*said, *split_up], train)}
    if config.data.validation is None:
        others, said = held_out(config, read), []
    else:
        others, said = load_examples(config, "validation", folder=folder)
    others, _ = by_answer(others, tokenizer)
    held = tokenise(others, tokenizer, config, "validation") if others else None
    splits["validation"] = Prepared(held, others.recognised, said, others)
    if key and key == _source_key(config, tokenizer, folder):  # no file has changed meanwhile
        _note(key, rows, splits)
    return splits


def _note(key: str, train: Tokenised, splits: dict[str, Prepared]) -> None:
    """Write what the tokens came from beside those of the training rows: both are deleted together."""
    note = {
        name: {
            "tokens": split.rows and split.rows.key,
            "recognised": split.recognised,
            "said": split.said,
        }
        for name, split in splits.items()
    }
    path = tokens_folder() / train.key / f"{key}.json"
    # Without it the next start reads the rows, no more.
    with contextlib.suppress(OSError), replacing(path) as partial:
        partial.write_text(json.dumps(note), encoding="utf-8")


def _noted(key: str, method: Method) -> dict[str, Prepared] | None:
    path = next(tokens_folder().glob(f"*/{key}.json"), None)
    if path is None:
        return None
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # deleted to make room at this moment
        return None
    splits = {}
    for split, note in notes.items():
        rows = note["tokens"] and cached_tokens(note["tokens"], method)
        if note["tokens"] and not rows:  # deleted to make room
            return None
        splits[split] = Prepared(rows, note["recognised"], note["said"])
    return splits


def _source_key(config: Config, tokenizer: Any, folder: Path | None) -> str | None:
    """Return a hash of everything the tokens come from, or None where it cannot be known."""
    if registry.trainers.is_own(config.training.method):
        return None  # its code may do something else tomorrow
    files = []
    for name, split in config.data.splits().items():
        for dataset in split.datasets if name in ("train", "validation") else ():
            path = _file_of(dataset, name, folder)
            if path is None or split.stream:
                return None
            files.append(file_key(path))
    formats = [known.name for known in FORMATS]
    data = config.to_dict(full=True)["data"]
    most_prompt_tokens = method_of(config).most_prompt_tokens(config)
    about = [config.training.seed, config.training.method, most_prompt_tokens]
    about += [tokenizer_key(tokenizer)]
    return key_of([files, data, *about, formats, code_key()])


def _file_of(dataset: Dataset, split: str, folder: Path | None) -> Path | None:
    """Return the file that alone determines the rows of a dataset, or None."""
    is_own = registry.datasets.is_own(dataset.dataset_type)
    if is_own or dataset.prompt_func or dataset.completion_func or dataset.rows is not None:
        return None  # a function may do something else tomorrow
    if dataset.path is not None:
        path = resolve(dataset.path, folder)
        return path if is_there(path) and path.is_file() else None
    if dataset.dataset_name in READY and not dataset.subset:
        return bundled_file(dataset, split)
    return None
