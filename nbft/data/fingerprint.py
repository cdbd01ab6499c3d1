"""Fingerprints of files, tokenizers and values, which name what is in the cache.

Called by `tokens` and `token_cache`.
"""

from __future__ import annotations

import datetime
import hashlib
import marshal
import secrets
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbft.reading import cached_by_stamp

_SAME_IDS = frozenset(
    "padding_side truncation_side model_max_length pad_to_multiple_of verbose deprecation_warnings "
    "_tokenizer _in_target_context_manager".split()
)
"""State of a tokenizer that changes no token ids here: nothing is padded or cut by it, warnings are
noted while it works, and the backend has a text of its own."""


@cached_by_stamp(maxsize=16)
def file_key(path: Path) -> str:
    """Return a hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _hash).hexdigest()


def code_key() -> str:
    """Return a hash of nbft's code that makes tokens of rows, so that another version reads no others."""
    package = Path(__file__).parents[1]
    return key_of([_modules_key(package / name) for name in ("data", "methods", "models")])


@cached_by_stamp(maxsize=3)
def _modules_key(folder: Path) -> str:
    return key_of([[file.name, file.read_bytes()] for file in sorted(folder.glob("*.py"))])


def tokenizer_key(tokenizer: Any) -> str:
    """Return a hash of all that determines how a tokenizer splits texts and renders chats.

    That is its whole state and the code of its class, except for what is known not to matter, so
    that an argument of tomorrow counts as well.
    """
    import tokenizers
    import transformers

    kind = type(tokenizer)
    how: list[Any] = [
        transformers.__version__,
        tokenizers.__version__,
        [_code(one) for one in kind.__mro__],
        _plain(vars(tokenizer)),
    ]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        how += [_plain(tokenizer.get_vocab())]
    else:
        # What is before the added tokens says how the last call padded and cut.
        text = backend.to_str()
        how += [text[text.find('"added_tokens"') :], backend.encode_special_tokens]
    if "strftime_now" in str(tokenizer.chat_template):
        how += [str(datetime.date.today())]  # noqa: DTZ011  # the template writes it as here
    return key_of(how)


def _plain(value: Any, within: tuple[int, ...] = ()) -> Any:
    """Return a value as one that has the same hash in every process, from what pickle would keep.

    What pickle cannot keep becomes a random value: a key that says too little would be taken for
    another's.

    Args:
        value: The value.
        within: Ids of the objects that it is part of.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if id(value) in within:
        return "itself"
    within = (*within, id(value))
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if k not in _SAME_IDS}
        return [[name, _plain(kept[name], within)] for name in sorted(kept)]
    if isinstance(value, (list, tuple)):
        return [_plain(one, within) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_plain(one, within)) for one in value)
    if isinstance(value, type | types.FunctionType):
        return _code(value)
    if hasattr(value, "serialized_model_proto"):  # of SentencePiece
        return value.serialized_model_proto()
    try:
        parts = value.__reduce_ex__(4)
    except Exception:
        return secrets.token_bytes(16)
    if isinstance(parts, str):
        return parts
    return [_plain([*one] if isinstance(one, Iterator) else one, within) for one in parts]


def _code(value: Any) -> Any:
    """Return the name of a function or class, and its code unless a library's version tells it."""
    name = [value.__module__, value.__qualname__]
    if value.__module__.partition(".")[0] in ("builtins", "transformers", "tokenizers"):
        return name
    members = [value] if isinstance(value, types.FunctionType) else vars(value).values()
    functions = (getattr(m, "__func__", getattr(m, "fget", m)) for m in members)
    codes = [f.__code__ for f in functions if isinstance(f, types.FunctionType)]
    return [name, [marshal.dumps(code) for code in codes]]


def key_of(values: Iterable[Any]) -> str:
    """Return a hash of values: plain ones by their bytes, others by their repr."""
    digest = _hash()
    for value in values:
        try:
            # Version 0 does not depend on object identity; it takes a fifth of repr's time.
            written = marshal.dumps(value, 0)
        except ValueError:
            written = repr(value).encode()
        digest.update(written + b"\0")
    return str(digest.hexdigest())


def _hash() -> Any:
    import xxhash  # a dependency of `datasets`; ten times as fast as hashlib

    return xxhash.xxh3_128()
