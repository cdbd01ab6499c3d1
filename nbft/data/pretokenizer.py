"""Tokenise many texts at once, each distinct word only once.

A byte-level BPE tokenizer first splits a text into words with a regular expression, which takes most
of its time, and then turns each word into tokens. Here numpy splits all texts together, and each
distinct word is tokenised once. Text between two spaces that is not plain ASCII counts as one word,
which the tokenizer splits. The tokens are the same. Called by `tokens`.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

_LETTER, _DIGIT, _OTHER, _SPACE, _ADDED, _EDGE = range(6)

_MOST_AT_ONCE = 4 * 2**20
"""Characters processed together; they need about 20 times as many bytes."""

_WORDS_IN_A_TEXT = 500

_MOST_KNOWN = 200_000
"""Words kept in memory: about 50 MB."""


def _kinds() -> np.ndarray:
    """Return the kind of each byte. Source: the split of GPT-2, github.com/openai/gpt-2, encoder.py."""
    kinds = np.full(256, _OTHER, np.uint8)
    kinds[list(b" \t\n\v\f\r")] = _SPACE
    kinds[list(range(ord("0"), ord("9") + 1))] = _DIGIT
    for first, last in ("az", "AZ"):
        kinds[ord(first) : ord(last) + 1] = _LETTER
    return kinds


_KINDS = _kinds()


def splitter(backend: Any) -> Pretokenizer | None:
    """Return a pretokenizer that splits as a tokenizer does, or None if it splits in another way.

    Args:
        backend: A `tokenizers.Tokenizer`.
    """
    parts = (backend.pre_tokenizer, backend.normalizer)
    states = tuple(part and part.__getstate__() for part in parts)
    added = tuple(map(repr, backend.get_added_tokens_decoder().values()))
    more = (backend.encode_special_tokens, getattr(backend.model, "dropout", None))
    return _splitter(backend, (*states, *added, *more))


@functools.lru_cache(maxsize=1)
def _splitter(backend: Any, state: tuple[Any, ...]) -> Pretokenizer | None:
    """As `splitter`; the state holds everything that may change in a backend."""
    from tokenizers.models import BPE

    steps = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer else {}
    steps = steps.get("pretokenizers", [steps])
    digits = {"type": "Digits", "individual_digits": True}
    last = steps[-1]
    is_known = (
        isinstance(backend.model, BPE)
        and not backend.model.dropout
        and backend.normalizer is None
        and steps[:-1] in ([], [digits])
        and (last.get("type"), last.get("add_prefix_space"), last.get("use_regex"))
        == ("ByteLevel", False, True)
        and not backend.encode_special_tokens
        and not any(
            token.lstrip or token.rstrip or token.single_word or token.normalized
            for token in backend.get_added_tokens_decoder().values()
        )
    )
    return Pretokenizer(backend, single_digits=len(steps) > 1) if is_known else None


class Pretokenizer:
    """Turns texts into the token ids of a tokenizer, without the special tokens it adds.

    Args:
        backend: A `tokenizers.Tokenizer` that `splitter` knows.
        single_digits: Whether it splits numbers into digits.
    """

    def __init__(self, backend: Any, *, single_digits: bool) -> None:
        self._backend = backend
        self._single_digits = single_digits
        added = backend.get_added_tokens_decoder()
        self._own = {token.content: [number] for number, token in added.items()}
        self._known = self._own.copy()
        longest_first = sorted((name.encode() for name in self._own), key=len, reverse=True)
        self._added = re.compile(b"|".join(map(re.escape, longest_first)) or b"(?!)")

    def cut(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts.

        Raises:
            UnicodeEncodeError: A text contains half of a surrogate pair.
        """
        ids: list[list[int]] = []
        begin = size = 0
        for end, text in enumerate(texts, start=1):
            size += len(text)
            if size > _MOST_AT_ONCE or end == len(texts):
                ids += self._cut(texts[begin:end])
                begin, size = end, 0
        return ids

    def _cut(self, texts: Sequence[str]) -> list[list[int]]:
        import pyarrow

        # The texts are joined by a byte that belongs to none of them.
        data = "\0".join(texts).encode()
        if not data:
            return [[] for _ in texts]
        size = np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts))
        between = np.cumsum(size + 1)[:-1] - 1
        begins = np.flatnonzero(self._starts(data, between))
        offsets = np.append(begins, len(data)).astype(np.int32)
        words = pyarrow.StringArray.from_buffers(
            len(begins), pyarrow.py_buffer(offsets), pyarrow.py_buffer(data)
        ).dictionary_encode()
        each = self._tokens_of(words.dictionary.to_pylist())
        codes = words.indices.to_numpy()
        counts = np.fromiter(map(len, each), np.int64, len(each))
        flat = np.fromiter(itertools.chain.from_iterable(each), np.int64, counts.sum())
        size = counts[codes]
        dividers = np.searchsorted(begins, between)
        size[dividers] = 0
        ends = np.cumsum(size)
        first = np.cumsum(counts) - counts
        places = np.repeat(first[codes] - (ends - size), size) + np.arange(ends[-1])
        ids = flat[places].tolist()
        bounds = [0, *ends[dividers].tolist(), len(ids)]
        return [ids[begin:end] for begin, end in itertools.pairwise(bounds)]

    def _starts(self, data: bytes, between: np.ndarray) -> np.ndarray:
        """Return where words start, [n] for n bytes.

        Args:
            data: Texts in UTF-8.
            between: Positions that belong to no word.
        """
        byte = np.frombuffer(data, np.uint8)
        kind, is_odd = _KINDS[byte], byte > 127
        alone = np.zeros(len(byte) + 1, bool)  # a word starts here, whatever stands around it
        for begin, end in (match.span() for match in self._added.finditer(data)):
            kind[begin:end], is_odd[begin:end] = _ADDED, False
            alone[[begin, end]] = True
        single = [between, np.flatnonzero(kind == _DIGIT)] if self._single_digits else [between]
        for places in single:
            kind[places] = _EDGE
            alone[places] = alone[places + 1] = True
        alone = alone[:-1]
        starts = alone.copy()
        starts[0] = True
        starts[1:] |= kind[1:] != kind[:-1]
        # A space belongs to the word after it; other white space is split before its last character.
        is_word = kind < _SPACE
        is_last = (kind[:-1] == _SPACE) & is_word[1:]
        starts[:-1] |= is_last
        is_parted = is_last & (byte[:-1] == ord(" "))
        starts[1:] &= ~is_parted
        self._part_contractions(byte, kind, starts)
        # A single space between ASCII characters always starts a word.
        alone[1:-1] |= is_parted[1:] & is_word[:-2] & ~is_odd[:-2] & ~is_odd[2:]
        stretch = np.cumsum(alone, dtype=np.int32)
        has_odd = np.zeros(stretch[-1] + 1, bool)
        has_odd[stretch[is_odd]] = True
        starts[1:] &= alone[1:] | ~has_odd[stretch[1:]]
        return starts

    def _part_contractions(self, byte: np.ndarray, kind: np.ndarray, starts: np.ndarray) -> None:
        """Split 's, 't, 'm, 'd, 're, 've and 'll from what follows them."""
        marks = np.flatnonzero(starts & (byte == ord("'")) & (kind == _OTHER))
        for letters in ("s", "t", "m", "d", "re", "ve", "ll"):
            end = 1 + len(letters)
            places = marks[marks + end <= len(byte)]
            for n, letter in enumerate(letters, start=1):
                at = places + n
                places = places[(byte[at] == ord(letter)) & (kind[at] == _LETTER)]
            starts[places + 1] = False
            starts[places[places + end < len(byte)] + end] = True

    def _tokens_of(self, words: list[str]) -> list[list[int]]:
        """Return the tokens of words; only new words are tokenised."""
        if len(self._known) > _MOST_KNOWN:
            self._known = self._own.copy()
        known = self._known
        new = [word for word in words if word not in known]
        tokens = self._between_marks(new)
        if not tokens:
            encoded = self._backend.encode_batch_fast(new, add_special_tokens=False)
            tokens = [one.ids for one in encoded]
        known.update(zip(new, tokens, strict=True))
        return [known[word] for word in words]

    def _between_marks(self, words: list[str]) -> list[list[int]]:
        """Return the tokens of words joined into a few texts with an added token between them.

        This takes two thirds of the time of one by one; empty where it is not possible.
        """
        if not self._own:
            return []
        mark, (number,) = next(iter(self._own.items()))
        starts = range(0, len(words), _WORDS_IN_A_TEXT)
        texts = [mark.join(words[n : n + _WORDS_IN_A_TEXT]) for n in starts]
        tokens: list[list[int]] = []
        for text in self._backend.encode_batch_fast(texts, add_special_tokens=False):
            ids = text.ids
            bounds = [-1, *(n for n, one in enumerate(ids) if one == number), len(ids)]
            tokens += [ids[begin + 1 : end] for begin, end in itertools.pairwise(bounds)]
        return tokens if len(tokens) == len(words) else []
