"""The rows of a run as tokens: at once where neither files nor settings have changed.

`tokens` keeps what it cut by the content of the examples, and to have that, files must be read and
understood. So beside the tokens lies a note of what they came from: with the same files, settings,
tokenizer and code, nothing is read again. Called by `nbft.training.rows`.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.config.data import Dataset
from nbft.data.examples import Examples, held_out, load_examples
from nbft.data.fingerprint import file_key, key_of, tokenizer_key
from nbft.data.formats import FORMATS
from nbft.data.ready import READY
from nbft.data.samples import sample_path
from nbft.data.sources import is_there, resolve
from nbft.data.tokens import Tokenised, kept_tokens, tokenise, tokens_folder
from nbft.methods import Method, method_of

_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Prepared:
    """A split as tokens.

    Attributes:
        rows: The tokens; None where the split holds no rows.
        recognised: Sentences about rows that were recognised without being told.
        said: Sentences about what a person should know.
        examples: What the tokens were cut from; None where a note was enough.
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
    """Read training and held-out rows and cut them into tokens.

    Args:
        config: The config.
        tokenizer: A transformers tokenizer.
        folder: Folder of the config file, for relative paths.

    Raises:
        DataError: The rows cannot be read or leave nothing to learn.
    """
    key = _source_key(config, tokenizer, folder)
    if key and (known := _noted(key, method_of(config))):
        return known
    train, said = load_examples(config, "train", folder=folder)
    found = {"train": _prepared(train, said, tokenizer, config, "train")}
    if config.data.validation is None:
        others, said = held_out(config, train), []
    else:
        others, said = load_examples(config, "validation", folder=folder)
    found["validation"] = _prepared(others, said, tokenizer, config, "validation")
    if key and key == _source_key(config, tokenizer, folder):  # no file has changed meanwhile
        _note(key, found)
    return found


def _prepared(
    examples: Examples, said: list[str], tokenizer: Any, config: Config, split: str
) -> Prepared:
    rows = tokenise(examples, tokenizer, config, split) if examples or split == "train" else None
    return Prepared(rows, examples.recognised, said, examples)


def _note(key: str, found: dict[str, Prepared]) -> None:
    """Write what the tokens came from beside those of the training rows; they go together."""
    note = {
        split: {
            "tokens": one.rows and one.rows.key,
            "recognised": one.recognised,
            "said": one.said,
        }
        for split, one in found.items()
    }
    assert found["train"].rows is not None
    path = tokens_folder() / found["train"].rows.key / f"{key}.json"
    partial = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):  # without it the next start reads the rows, no more
        partial.write_text(json.dumps(note), encoding="utf-8")
        partial.replace(path)


def _noted(key: str, method: Method) -> dict[str, Prepared] | None:
    path = next(tokens_folder().glob(f"*/{key}.json"), None)
    if path is None:
        return None
    found = {}
    for split, note in json.loads(path.read_text(encoding="utf-8")).items():
        rows = note["tokens"] and kept_tokens(note["tokens"], method)
        if note["tokens"] and not rows:  # let go to make room
            return None
        found[split] = Prepared(rows, note["recognised"], note["said"])
    return found


def _source_key(config: Config, tokenizer: Any, folder: Path | None) -> str | None:
    """Return a name for all that the tokens come from, or None where it cannot be known."""
    files = []
    for name, block in config.data.splits().items():
        for dataset in block.datasets if name in _SPLITS else ():
            path = _file_of(dataset, name, folder)
            if path is None or block.stream:
                return None
            files.append(file_key(path))
    here = Path(__file__).parent
    files_of_code = sorted([*here.glob("*.py"), *(here.parent / "methods").glob("*.py")])
    code = [(file.name, file.stat().st_mtime_ns) for file in files_of_code]
    formats = [known.name for known in FORMATS]
    data = config.to_dict(full=True)["data"]
    about = [config.training.seed, config.training.method, tokenizer_key(tokenizer)]
    return key_of([files, data, *about, formats, code])


def _file_of(dataset: Dataset, split: str, folder: Path | None) -> Path | None:
    """Return the file that alone says what the rows of a dataset are, or None."""
    is_own = registry.datasets.is_own(dataset.dataset_type)
    if is_own or dataset.prompt_func or dataset.completion_func:
        return None  # a function may do something else tomorrow
    if dataset.rows is not None:
        return None
    if dataset.path is not None:
        path = resolve(dataset.path, folder)
        return path if is_there(path) and path.is_file() else None
    if dataset.dataset_name in READY and not dataset.subset:
        return sample_path(
            dataset.dataset_name, "train" if (dataset.split or split) == "train" else "test"
        )
    return None
