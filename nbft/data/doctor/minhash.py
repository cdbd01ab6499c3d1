"""Rows that are almost the same, found without comparing each with each.

A row is the set of its shingles: runs of three tokens. Their minimum under each of 64 hash
functions is a signature; the share of equal places of two signatures estimates the share of
shingles that two rows have in common (the Jaccard index), with a standard error of 0.05 at 0.8.
Only rows that agree in four consecutive places are compared: of pairs with 0.8 in common, 9,998 in
10,000 are. A signature takes 128 bytes, so a million rows take 128 MB.

Source: Broder, On the resemblance and containment of documents, 1997; Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

SIMILARITY = 0.8
"""Share of shingles in common from which rows count as nearly the same. Published pipelines take 0.7
to 0.85; at 0.7 short exercises count that differ in their numbers only, and so in their answers."""

FEWEST_SHINGLES = 12
"""Rows with fewer are not compared: in so short a text one other word is another meaning."""

COMMON_SHARE = 0.1
"""Shingles of more than this share of the rows belong to the template and are not counted."""

_SHINGLE_TOKENS = 3
_HASHES, _BAND = 64, 4
_MOST_SHINGLES_AT_ONCE = 1 << 16  # of a chunk: fits the processor's cache

_random = np.random.default_rng(1997)
_MULTIPLIERS = _random.integers(0, 2**32, _HASHES, dtype=np.uint32) | np.uint32(1)
_MASKS = _random.integers(0, 2**32, _HASHES, dtype=np.uint32)


def shingles(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashed shingles of all rows, concatenated, and how many each row has.

    Args:
        rows: Token ids of each row.

    Returns:
        Hashes as uint32, [all shingles], and their number by row, [b].
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    counts = np.maximum(lengths - _SHINGLE_TOKENS + 1, 0)
    if not counts.sum():
        return np.zeros(0, np.uint32), counts
    ids = np.fromiter(itertools.chain.from_iterable(rows), np.uint64, count=int(lengths.sum()))
    mixed = ids[: len(ids) - _SHINGLE_TOKENS + 1].copy()
    for place in range(1, _SHINGLE_TOKENS):
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= ids[place : len(ids) - _SHINGLE_TOKENS + 1 + place]
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0x94D049BB133111EB)
    inside = np.ones(len(mixed), dtype=bool)  # a shingle stays within its row
    ends = np.cumsum(lengths)
    for back in range(1, _SHINGLE_TOKENS):
        crossing = (ends - back)[lengths >= back]
        inside[crossing[crossing < len(mixed)]] = False
    return (mixed[inside] >> np.uint64(32)).astype(np.uint32), counts


def common_shingles(hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the shingles of so many rows that they must come from a template, sorted.

    Args:
        hashes: Shingles of a sample of the rows, as from `shingles`.
        counts: Shingles of each row.
    """
    row = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
    once = np.unique((row << np.uint64(32)) | hashes)  # each shingle once a row
    values, rows = np.unique(once.astype(np.uint32), return_counts=True)
    least = max(2, COMMON_SHARE * len(counts))
    return values[rows > least]


def signatures(hashes: np.ndarray, counts: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Return the signature of each row [b, 64]; zeros for rows that are too short to compare.

    Args:
        hashes: Shingles of the rows, concatenated.
        counts: Shingles of each row.
        common: Sorted shingles that are not counted.
    """
    out = np.zeros((len(counts), _HASHES), dtype=np.uint16)
    if len(common):
        place = np.minimum(np.searchsorted(common, hashes), len(common) - 1)
        kept = common[place] != hashes
        row = np.repeat(np.arange(len(counts)), counts)
        hashes, counts = hashes[kept], np.bincount(row[kept], minlength=len(counts))
    begins = np.cumsum([0, *counts])
    long = np.flatnonzero(counts >= FEWEST_SHINGLES)
    # The shingles of a few rows at a time, so that the work stays in the processor's cache.
    start = 0
    while start < len(long):
        taken = np.cumsum(counts[long[start:]])
        end = start + max(1, int(np.searchsorted(taken, _MOST_SHINGLES_AT_ONCE)))
        rows = long[start:end]
        first, last = begins[rows[0]], begins[rows[-1] + 1]
        edges = np.stack([begins[rows], begins[rows + 1]], axis=1).ravel() - first
        edges = edges[edges < last - first]
        out[rows] = _minima(hashes[first:last], edges)
        start = end
    return out


def _minima(hashes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the minimum of each hash function over each second piece between edges."""
    minima = np.empty((_HASHES, (len(edges) + 1) // 2), dtype=np.uint32)
    work = np.empty_like(hashes)
    for n, (mask, multiplier) in enumerate(zip(_MASKS, _MULTIPLIERS, strict=True)):
        np.bitwise_xor(hashes, mask, out=work)
        np.multiply(work, multiplier, out=work)
        minima[n] = np.minimum.reduceat(work, edges)[::2]
    minima *= np.uint32(0x9E3779B1)  # a minimum is small: its upper bits carry little
    return (minima >> np.uint32(16)).T.astype(np.uint16) | np.uint16(1)


def similar_pairs(signed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of rows that are nearly the same.

    Args:
        signed: Signatures [b, 64].

    Returns:
        The earlier row, the later row and the estimated similarity of each pair, each pair once.
    """
    long = np.flatnonzero(signed[:, 0])
    signed = signed[long]
    codes: list[np.ndarray] = []
    for band in range(0, _HASHES, _BAND):
        keys = np.ascontiguousarray(signed[:, band : band + _BAND]).view(np.uint64).ravel()
        order = np.argsort(keys, kind="stable")
        same = keys[order[1:]] == keys[order[:-1]]
        if not same.any():
            continue
        # Of rows that share a key, each is compared with the one before and with the first.
        begins = np.flatnonzero(np.concatenate([[True], ~same]))
        heads = order[np.repeat(begins, np.diff([*begins, len(order)]))]
        later = order[1:][same]
        for earlier in (order[:-1][same], heads[1:][same]):
            codes.append(_alike(signed, earlier, later))
    pairs = np.unique(np.concatenate(codes)) if codes else np.zeros(0, np.uint64)
    first = (pairs >> np.uint64(32)).astype(np.int64)
    second = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
    likeness = (signed[first] == signed[second]).mean(axis=1)
    return long[first], long[second], likeness


def _alike(signed: np.ndarray, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Return those pairs that are similar enough, each as one number."""
    pairs = np.unique(
        (np.minimum(earlier, later).astype(np.uint64) << np.uint64(32))
        | np.maximum(earlier, later).astype(np.uint64)
    )
    kept = []
    for some in np.array_split(pairs, 1 + len(pairs) // 100_000):  # bounded memory
        first = (some >> np.uint64(32)).astype(np.int64)
        second = (some & np.uint64(0xFFFFFFFF)).astype(np.int64)
        kept.append(some[(signed[first] == signed[second]).mean(axis=1) >= SIMILARITY])
    return np.concatenate(kept)
