"""A series of tasks that grow along one dimension: model, row length, batch size, or rows.

Models have random weights and the shape of Llama, so any size is available offline. Called by
`nbft bench --scale`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nbft.bench.rows import write_equal_rows
from nbft.bench.task import Task
from nbft.errors import NbftError
from nbft.hardware import free_memory_bytes

# Millions of parameters (49,152 tokens, tied embeddings): hidden size, layers.
_SHAPES = {16: (256, 4), 49: (512, 8), 135: (576, 30), 367: (960, 32), 1010: (1536, 36)}
_LENGTHS_TOKENS = (64, 256, 1024, 4096)
_BATCHES_ROWS = (1, 4, 16)
_ROWS = (100, 1000, 10_000)

DIMENSIONS = ("model", "length", "batch", "rows")


def points(task: Task, dimension: str) -> Iterator[tuple[str, Task]]:
    """Yield each task of a series with its label.

    Args:
        task: The task that is varied.
        dimension: One of `DIMENSIONS`.

    Raises:
        NbftError: There is no such dimension.
    """
    if dimension not in DIMENSIONS:
        raise NbftError(f"scale={dimension}: choose one of {', '.join(DIMENSIONS)}.")
    folder = Path(task.folder)
    if dimension == "model":
        for millions, (hidden, layers) in _SHAPES.items():
            if millions * 10**6 * 16 < free_memory_bytes(task.device):
                model = random_model(folder / f"model-{millions}", task.model, hidden, layers)
                yield f"{millions} million parameters", replace(task, model=str(model))
    elif dimension == "length":
        for tokens in _LENGTHS_TOKENS:
            rows = folder / f"length-{tokens}.jsonl"
            write_equal_rows(rows, Path(task.rows), task.model, tokens, task.steps * 2)
            yield f"2 rows of {tokens:,} tokens", replace(task, rows=str(rows), batch_rows=2)
    elif dimension == "batch":
        for batch_rows in _BATCHES_ROWS:
            yield f"{batch_rows} rows per step", replace(task, batch_rows=batch_rows)
    else:
        given = Path(task.rows).read_text(encoding="utf-8").splitlines()
        for number in _ROWS:
            path = folder / f"rows-{number}.jsonl"
            lines = itertools.islice(itertools.cycle(given), number)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            yield f"{number:,} rows in total", replace(task, rows=str(path))


def random_model(folder: Path, tokenizer: str, hidden: int, layers: int) -> Path:
    """Make a model with random weights and the tokenizer of another model."""
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
