"""Fingerprints of files, tokenizers and values, which name what is in the cache.

Called by `tokens` and `token_cache`.
"""

from __future__ import annotations

import functools
import hashlib
import marshal
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def file_key(path: Path) -> str:
    """Return a hash of a file's content; it is read again only when its size or time changes."""
    stat = path.stat()
    return _file_key(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _file_key(path: Path, size_bytes: int, changed_at: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _hash).hexdigest()


def tokenizer_key(tokenizer: Any) -> str:
    """Return a hash of all that determines how a tokenizer splits texts and renders chats."""
    import tokenizers
    import transformers

    how: list[Any] = [
        type(tokenizer).__name__,
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        transformers.__version__,
        tokenizers.__version__,
    ]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    file = Path(tokenizer.name_or_path) / "tokenizer.json"
    if backend is None:
        how += sorted(tokenizer.get_vocab().items())
    elif not (tokenizer.name_or_path and file.is_file()):
        how += [backend.to_str()]
    else:  # serialising the vocabulary takes 30 times as long as reading the file it came from
        parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor)
        how += [
            file_key(file),
            *(part and part.__getstate__() for part in parts),
            backend.get_vocab_size(),
            backend.get_added_tokens_decoder(),
            getattr(backend.model, "dropout", None),
        ]
    return key_of(how)


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
