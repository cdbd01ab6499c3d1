"""A task made larger along one line: the model, the rows' length, the batch or their number.

Models are of random weights in the shape of Llama, so that any size can be had offline. Called by
`nbft bench --scale`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nbft.bench.task import Task, write_rows
from nbft.errors import NbftError
from nbft.hardware import free_memory_bytes

# Hidden size, layers; with 49,152 tokens and tied embeddings: millions of parameters.
_SHAPES = {16: (256, 4), 49: (512, 8), 135: (576, 30), 367: (960, 32), 1010: (1536, 36)}
_LENGTHS_TOKENS = (64, 256, 1024, 4096)
_BATCHES_ROWS = (1, 4, 16)
_ROWS = (100, 1000, 10_000)

LINES = ("model", "length", "batch", "rows")


def points(task: Task, line: str) -> Iterator[tuple[str, Task]]:
    """Yield each point of a line: what it is, and the task.

    Args:
        task: The task in the middle.
        line: One of `LINES`.

    Raises:
        NbftError: There is no such line.
    """
    if line not in LINES:
        raise NbftError(f"scale={line}: known are {', '.join(LINES)}.")
    folder = Path(task.folder)
    if line == "model":
        for millions, (hidden, layers) in _SHAPES.items():
            if millions * 10**6 * 16 < free_memory_bytes(task.device):
                model = random_model(folder / f"model-{millions}", task.model, hidden, layers)
                yield f"{millions} million parameters", replace(task, model=str(model))
    elif line == "length":
        for tokens in _LENGTHS_TOKENS:
            rows = folder / f"length-{tokens}.jsonl"
            write_equal_rows(rows, Path(task.rows), task.model, tokens, task.steps * 2)
            yield f"2 rows of {tokens:,} tokens", replace(task, rows=str(rows), batch_rows=2)
    elif line == "batch":
        for rows_a_step in _BATCHES_ROWS:
            yield f"{rows_a_step} rows a step", replace(task, batch_rows=rows_a_step)
    else:
        given = Path(task.rows).read_text(encoding="utf-8").splitlines()
        for number in _ROWS:
            path = folder / f"rows-{number}.jsonl"
            path.write_text(
                "".join(f"{r}\n" for r in itertools.islice(itertools.cycle(given), number)),
                encoding="utf-8",
            )
            yield f"{number:,} rows in all", replace(task, rows=str(path))


def write_equal_rows(path: Path, rows: Path, model: str, tokens: int, number: int) -> None:
    """Write rows that all have as many tokens, half of them learnt, from the text of other rows.

    Args:
        path: Where to.
        rows: Where the text comes from.
        model: Folder of the tokenizer.
        tokens: Of each row, its end token included.
        number: How many.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    ids = tokenizer("\n".join(f"{r['prompt']} {r['completion']}" for r in lines))["input_ids"]
    words = tokenizer.convert_ids_to_tokens(ids)
    # Cut where a word begins, so that both parts are cut into the same tokens again.
    begins = [n for n, word in enumerate(words) if word[:1] == "Ġ"]
    made: list[list[str]] = []
    for begin in itertools.cycle(begins):
        if len(made) == number:
            break
        half, end = begin + tokens // 2, begin + tokens - 1
        if end >= len(ids):
            raise NbftError(f"{rows}: has {len(ids):,} tokens; rows of {tokens:,} need more text.")
        parts = [str(tokenizer.decode(part)) for part in (ids[begin:half], ids[half:end])]
        if [i for part in parts for i in tokenizer(part)["input_ids"]] == ids[begin:end]:
            made.append(parts)
    write_rows(path, made)


def random_model(folder: Path, tokenizer: str, hidden: int, layers: int) -> Path:
    """Make a model of random weights, with a tokenizer of another."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    tokens = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 192),
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
