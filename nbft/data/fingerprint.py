"""Names for files and tokenizers, the same only if all that matters is; for what is kept in the cache.

Called by `tokens` and `prepared`.
"""

from __future__ import annotations

import functools
import marshal
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def file_key(path: Path) -> str:
    """Return a hash of what a file holds; it is read once as long as its size and time stay."""
    stat = path.stat()
    return _file_key(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _file_key(path: Path, size_bytes: int, changed_at: int) -> str:
    digest = _hash()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return str(digest.hexdigest())


def tokenizer_key(tokenizer: Any) -> str:
    """Return a hash of all that says how a tokenizer cuts texts and writes conversations."""
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
    else:  # to write the vocabulary out takes 30 times as long as to read the file it came from
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
    """Return a hash of values: plain ones by their bytes, others by their texts in Python."""
    digest = _hash()
    for value in values:
        try:
            # As 0 writes it, it is the same whichever objects hold it; a fifth of repr's time.
            written = marshal.dumps(value, 0)
        except ValueError:
            written = repr(value).encode()
        digest.update(written + b"\0")
    return str(digest.hexdigest())


def _hash() -> Any:
    import xxhash  # as `datasets` has it; ten times as fast as those of hashlib

    return xxhash.xxh3_128()
