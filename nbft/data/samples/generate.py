"""Write the bundled samples: `python -m nbft.data.samples.generate`.

Every run writes the same bytes, from a fixed seed. All text was written for nbft; nothing was
copied from another data set.

| sample | written by hand, in `written/` | composed or computed, in `families/` |
|---|---|---|
| alpaca | `alpaca.txt`: more than a third of the rows | tasks whose answer code can compute |
| samsum | `samsum.txt`: the scenarios, with their endings and summaries | people, places, times |
| gsm8k | | all: a function a family, which also works out the answer |
| grammar | `grammar.txt`: all sentences, with their mistakes marked | people and alternatives |
| larger_number | | drawn here: two numbers |

No prompt is in both splits. Half of the composed test rows of alpaca, samsum and gsm8k come from
families that give no training row, and no line of `grammar.txt` gives rows to both splits; so a
test score does not only measure what was learnt by heart.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from random import Random

from nbft.data.samples import SAMPLES, sample_path
from nbft.data.samples.families import Family, Row, alpaca, grammar, gsm8k, samsum

SEED = 20240517
TRAIN_ROWS = 1000
TEST_ROWS = 144
_ALPACA_TEST_ROWS_BY_HAND = 72
_DRAWS_PER_ROW = 200

Splits = dict[str, list[Row]]


def prompt_of(row: Row) -> str:
    """Return everything but the last field, which is the answer."""
    *prompt, _ = row.values()
    return "\n".join(prompt)


@dataclass(frozen=True)
class Draw:
    """Draws rows that are all different.

    Attributes:
        rng: Where the chance comes from.
        identity: What must differ between two rows.
        seen: The identities of the rows so far.
        most_shared: Largest share of words that two rows of a family may have in common.
        words: The words of each family's rows so far.
    """

    rng: Random
    identity: Callable[[Row], str]
    seen: set[str]
    most_shared: float
    words: dict[Family, list[set[str]]] = field(default_factory=dict)

    def rows(self, families: Sequence[Family], count: int) -> list[Row]:
        """Draw from the families in turn, without those that have no new row left.

        Raises:
            RuntimeError: No family has a new row.
        """
        in_turn, rows = deque(self.rng.sample(families, len(families))), list[Row]()
        while len(rows) < count:
            if not in_turn:
                raise RuntimeError(f"no new row after {len(rows)} of {count}: add families.")
            family = in_turn.popleft()
            if row := self._new_row(family):
                rows.append(row)
                in_turn.append(family)
        return rows

    def _new_row(self, family: Family) -> Row | None:
        """Draw one row that was not seen before; None if the family has too little variety."""
        for _ in range(_DRAWS_PER_ROW):
            row = family(self.rng)
            if self.identity(row) not in self.seen and not self._is_near_copy(row, family):
                self.seen.add(self.identity(row))
                self.words.setdefault(family, []).append(_words(row))
                return row
        return None

    def _is_near_copy(self, row: Row, family: Family) -> bool:
        words = _words(row)
        return any(
            len(words & other) > self.most_shared * len(words | other)
            for other in self.words.get(family, ())
        )


def _words(row: Row) -> set[str]:
    return set(" ".join(row.values()).split())


def make_alpaca(rng: Random) -> Splits:
    """Mix the rows written by hand with composed ones."""
    written = alpaca.handwritten_rows()
    rng.shuffle(written)
    test, train = written[:_ALPACA_TEST_ROWS_BY_HAND], written[_ALPACA_TEST_ROWS_BY_HAND:]
    return _compose(
        alpaca.FAMILIES, alpaca.HELD_OUT_FAMILIES, rng, train=train, test=test, most_shared=0.7
    )


def make_samsum(rng: Random) -> Splits:
    """Compose chats."""
    scenarios = samsum.read_scenarios()
    familiar = [scenario for scenario in scenarios if not scenario.held_out]
    held_out = [scenario for scenario in scenarios if scenario.held_out]
    return _compose(familiar, held_out, rng)


def make_gsm8k(rng: Random) -> Splits:
    """Compose sums, none with the numbers of another."""
    families, held_out = gsm8k.FAMILIES, gsm8k.HELD_OUT_FAMILIES
    return _compose(families, held_out, rng, identity=gsm8k.calculations)


def make_grammar(rng: Random) -> Splits:
    """Deal the lines of the source to the splits, each to one of them.

    A line gives one test row, so that the test rows are independent, or all its training rows.
    """
    lines = grammar.rows_by_line(rng)
    rng.shuffle(lines)
    test = [rows[0] for rows in lines[:TEST_ROWS]]
    train = list(chain.from_iterable(lines[TEST_ROWS:]))
    rng.shuffle(train)
    return {"train": train[:TRAIN_ROWS], "test": test}


def make_larger_number(rng: Random) -> Splits:
    """Draw pairs of numbers from 10 to 99; no two numbers come together twice."""
    pairs = list(combinations(range(10, 100), 2))
    rows = []
    for smaller, larger in rng.sample(pairs, TRAIN_ROWS + TEST_ROWS):
        first, second = rng.sample((smaller, larger), 2)
        rows.append({"numbers": f"{first} or {second}", "larger": str(larger)})
    return {"train": rows[:TRAIN_ROWS], "test": rows[TRAIN_ROWS:]}


MAKERS: dict[str, Callable[[Random], Splits]] = {
    "alpaca": make_alpaca,
    "samsum": make_samsum,
    "gsm8k": make_gsm8k,
    "grammar": make_grammar,
    "larger_number": make_larger_number,
}


def make_splits(name: str) -> Splits:
    """Make the rows of a sample, the same ones each time."""
    rng = Random(f"{SEED} {name}")
    return MAKERS[name](rng)


def _compose(
    familiar: Sequence[Family],
    held_out: Sequence[Family],
    rng: Random,
    *,
    train: Sequence[Row] = (),
    test: Sequence[Row] = (),
    identity: Callable[[Row], str] = prompt_of,
    most_shared: float = 1,
) -> Splits:
    """Fill both splits up with composed rows, no two of which have the same identity.

    Half of what the test split lacks is drawn from the held-out families.
    """
    draw = Draw(
        rng, identity, seen={identity(row) for row in chain(train, test)}, most_shared=most_shared
    )
    unfamiliar = (TEST_ROWS - len(test)) // 2
    test = [*test, *draw.rows(held_out, unfamiliar)]
    test += draw.rows(familiar, TEST_ROWS - len(test))
    train = [*train, *draw.rows(familiar, TRAIN_ROWS - len(train))]
    rng.shuffle(train)
    rng.shuffle(test)
    return {"train": train, "test": test}


def as_json_lines(rows: Sequence[Row]) -> str:
    """Write rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    """Rewrite all files."""
    for name in SAMPLES:
        for split, rows in make_splits(name).items():
            write(sample_path(name, split), rows)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write one file and say so."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(as_json_lines(rows), encoding="utf-8", newline="\n")
    size = path.stat().st_size
    print(f"{path.parent.name}/{path.name}: {len(rows)} rows, {size:,} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
