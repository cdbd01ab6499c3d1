"""The rows of a comparison: writing them, and making some of any length from other text.

Called by `nbft.bench.task`, `nbft.bench.scaling`, `nbft bench` and the repository's benchmarks.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nbft.errors import NbftError

ALPACA_LENGTHS: list[tuple[int, int]] = json.loads(
    Path(__file__).with_name("alpaca_lengths.json").read_text(encoding="utf-8")
)
"""Tokens of prompt and completion of the first 96 rows of Alpaca, the end token included.

Counted with the tokenizer of smollm2-135m and the template that nbft gives to instructions. In
batches of 8, about half of all tokens would be padding.
"""


def write_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write pairs of prompt and completion as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for prompt, completion in rows:
            file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")


def write_rows_of_lengths(
    path: Path, source: Path, model: str, lengths: Iterable[tuple[int, int]]
) -> None:
    """Write rows of given lengths, cut from the text of other rows.

    Args:
        path: Where to write.
        source: File of rows whose text is used, from its beginning again when it runs out.
        model: Folder of the tokenizer.
        lengths: Tokens of the prompt and of the completion of each row, the end token included.

    Raises:
        NbftError: The text is too short, or cannot be cut so that the tokens stay the same.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lines = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    ids = tokenizer("\n".join(f"{r['prompt']} {r['completion']}" for r in lines))["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    # A row begins where a word does, so that its parts alone give the same tokens again.
    starts = [index for index, token in enumerate(tokens) if token[:1] in ("Ġ", "▁")]
    position = itertools.cycle(starts)

    def cut(prompt_tokens: int, completion_tokens: int) -> Iterator[list[str]]:
        """Yield rows from the next start on, once around the text."""
        total = prompt_tokens + completion_tokens - 1  # the end token is added by every side
        for _ in range(len(starts)):
            start = next(position)
            middle, end = start + prompt_tokens, start + total
            if end < len(ids):
                parts = [str(tokenizer.decode(p)) for p in (ids[start:middle], ids[middle:end])]
                if [i for p in parts for i in tokenizer(p)["input_ids"]] == ids[start:end]:
                    yield parts

    made = []
    for length in lengths:
        row = next(cut(*length), None)
        if row is None:
            raise NbftError(
                f"{source}: no row of {sum(length):,} tokens can be made of its {len(ids):,} "
                "tokens. Use a file with more text."
            )
        made.append(row)
    write_rows(path, made)


def write_equal_rows(path: Path, source: Path, model: str, tokens: int, number: int) -> None:
    """Write `number` rows of `tokens` tokens, half of them completion; see `write_rows_of_lengths`."""
    halves = (tokens // 2, tokens - tokens // 2)
    write_rows_of_lengths(path, source, model, [halves] * number)
