"""The estimate of similarity against the real one, and what is found by it."""

from __future__ import annotations

import numpy as np
import pytest

from nbft.data.doctor import minhash

NONE = np.zeros(0, np.uint32)


def jaccard(one, other):
    first, second = ({tuple(row[n : n + 3]) for n in range(len(row) - 2)} for row in (one, other))
    return len(first & second) / len(first | second)


@pytest.fixture(scope="module")
def pairs():
    """Rows and copies of them with some tokens changed, and how similar they are."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(300):
        row = random.integers(0, 50_000, random.integers(30, 300))
        copy = row.copy()
        places = random.choice(len(row), int(len(row) * random.uniform(0, 0.12)), replace=False)
        copy[places] = random.integers(0, 50_000, len(places))
        found.append((row.tolist(), copy.tolist()))
    return found, np.array([jaccard(*pair) for pair in found])


def signed(rows, common=NONE):
    return minhash.signatures(*minhash.shingles(rows), common)


def test_shingles_stay_within_their_row():
    together, counts = minhash.shingles([[1, 2, 3, 4], [5], [], [1, 2, 3], [9, 1, 2, 3]])
    apart = [minhash.shingles([row])[0] for row in ([1, 2, 3, 4], [1, 2, 3], [9, 1, 2, 3])]
    assert counts.tolist() == [2, 0, 0, 1, 2]
    assert together.tolist() == np.concatenate(apart).tolist()
    assert apart[0][0] == apart[1][0] == apart[2][1]
    assert len({*together.tolist()}) == 3
    assert minhash.shingles([[1, 2], []])[1].tolist() == [0, 0]
    assert minhash.shingles([[3, 2, 1]])[0] != minhash.shingles([[1, 2, 3]])[0]


def test_the_estimate_is_right(pairs):
    rows, similar = pairs
    first, second = (signed([pair[side] for pair in rows]) for side in (0, 1))
    off = (first == second).mean(axis=1) - similar
    assert abs(off.mean()) < 0.01
    assert off.std() < 0.06, "0.05 at 0.8"


def test_similar_rows_are_found_and_no_others(pairs):
    rows, similar = pairs
    signatures = signed([row for pair in rows for row in pair])
    first, second, likeness = minhash.similar_pairs(signatures)
    found = {(int(a), int(b)) for a, b in zip(first, second, strict=True)}
    assert len(found) == len(first), "each pair once"
    assert all(b == a + 1 and a % 2 == 0 for a, b in found), "no row is like another's copy"
    assert (likeness >= minhash.SIMILARITY).all()
    places = np.arange(len(rows)) * 2
    surely = {(n, n + 1) for n in places[similar > 0.93].tolist()}
    hardly = {(n, n + 1) for n in places[similar < 0.65].tolist()}
    assert surely
    assert hardly
    assert surely <= found
    assert not hardly & found
    estimated = (signatures[::2] == signatures[1::2]).mean(axis=1)
    assert {(n, n + 1) for n in places[estimated >= minhash.SIMILARITY].tolist()} == found


def test_a_row_is_found_in_a_large_group():
    """Ten copies of one row, each a little different, beside ninety others."""
    random = np.random.default_rng(1)
    rows = [random.integers(0, 50_000, 200).tolist() for _ in range(91)]
    rows += [[*rows[90][:-1], n] for n in range(9)]
    first, second, _ = minhash.similar_pairs(signed(rows))
    assert {*second.tolist()} == {*range(91, 100)}
    assert {*first.tolist()} <= {*range(90, 99)}


def test_what_all_rows_have_in_common_does_not_count():
    random = np.random.default_rng(2)
    template = random.integers(0, 50_000, 200).tolist()
    rows = [template + random.integers(0, 50_000, 30).tolist() for _ in range(50)]
    assert len(minhash.similar_pairs(signed(rows))[0]), "the template makes them alike"
    common = minhash.common_shingles(*minhash.shingles(rows))
    assert len(common) == 198
    assert not len(minhash.similar_pairs(signed(rows, common))[0])
    rows[9] = rows[4]
    first, second, _ = minhash.similar_pairs(signed(rows, common))
    assert (first.tolist(), second.tolist()) == ([4], [9])


def test_short_rows_are_not_compared():
    short = list(range(minhash.FEWEST_SHINGLES + 1))  # one shingle too few
    assert not len(minhash.similar_pairs(signed([short, short]))[0])
    enough = [*short, 99]
    assert len(minhash.similar_pairs(signed([enough, enough]))[0]) == 1


def test_many_rows_at_once_give_the_same(monkeypatch):
    random = np.random.default_rng(3)
    rows = [random.integers(0, 50_000, 40).tolist() for _ in range(50)]
    whole = signed(rows)
    monkeypatch.setattr(minhash, "_MOST_SHINGLES_AT_ONCE", 100)
    assert (signed(rows) == whole).all()
    assert (np.concatenate([signed([row]) for row in rows]) == whole).all()
