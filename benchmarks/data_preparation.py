"""Rows read and cut into tokens, beside the constructor of TRL's SFTTrainer, in fresh processes.

4,000 conversations of real rows (`../shared/data`, else the bundled ones) with the default model's
tokenizer. TRL is told to learn the answers only, as nbft does, so that labels are the same; beside
that it does as it does by itself and learns all of a conversation, which is less work. Imports and the tokenizer are loaded before
the clock starts, on both sides; nbft also reads its file within it.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbft.data.samples import sample_path
from nbft.models.find import cache_folder

from .lens import write_rows
from .measurement import ROOT, Measurement, in_turn, median_ratio, run_python

REAL = ROOT.parent / "shared" / "data"
ROWS, MANY_ROWS = 4_000, 50_000
_THREADS = {"TOKENIZERS_PARALLELISM": "true"}  # as in a notebook

_MARKED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>\\n' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)
"""The default model's template with the answers marked, which TRL needs to tell them."""


def measure(quick: bool) -> list[Measurement]:
    """Prepare the same rows on all sides in turn, and see that they got the same tokens."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        is_real = write_conversations(folder / "chat.jsonl", ROWS)

        (folder / "cache").mkdir()
        (folder / "cache" / "models").symlink_to(cache_folder() / "models")

        def side(kind: str, rows: str = "chat.jsonl") -> Any:
            arguments = ("benchmarks.data_preparation", kind, str(folder), rows)
            cache = {"NBFT_CACHE": str(folder / "cache")}
            return run_python("-m", *arguments, environment=_THREADS | cache)

        kinds = ("trl", "trl-answers", "nbft", "again")
        rounds = 1 if quick else 3
        trl, answers, first, again = in_turn(
            [functools.partial(side, kind) for kind in kinds], rounds
        )
        _see_that_all_agree(folder)
        found = [
            Measurement(
                f"{ROWS:,} {'real' if is_real else 'bundled'} conversations, nbft",
                statistics.median(r["wall"] for r in first),
                "s",
            ),
            *_beside(first, answers, "SFTTrainer(…) for the answers", goal=0.2),
            *_beside(first, trl, "SFTTrainer(…) as it is"),
            Measurement(
                "second start, in a new process",
                statistics.median(r["wall"] for r in again),
                "s",
                0.1,
            ),
        ]
        if not quick:
            write_rows(folder / "many.jsonl", MANY_ROWS)
            many = [side(kind, "many.jsonl")["wall"] for kind in ("nbft", "again")]
            of = f"{MANY_ROWS:,} instructions"
            found += [
                Measurement(f"{of}, first start", many[0], "s"),
                Measurement(f"{of}, second start", many[1], "s", 1, True),
            ]
    return found


def _beside(
    ours: list[Any], theirs: list[Any], name: str, goal: float | None = None
) -> list[Measurement]:
    def ratio(clock: str) -> float:
        return median_ratio([r[clock] for r in ours], [r[clock] for r in theirs])

    return [
        Measurement(f"the same, {name}", statistics.median(r["wall"] for r in theirs), "s"),
        Measurement(f"seconds, nbft / {name}", ratio("wall"), goal=goal),
        Measurement(f"CPU seconds, nbft / {name}", ratio("cpu")),
    ]


def write_conversations(path: Path, count: int) -> bool:
    """Write so many conversations, and say whether they are real rows."""
    is_real = (REAL / "preference_pairs.json").is_file()
    rows = itertools.islice(_real() if is_real else _bundled(), count)
    lines = [json.dumps({"messages": turns}, ensure_ascii=False) for turns in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return is_real


def _real() -> Iterator[list[dict[str, str]]]:
    speakers = {"human": "user", "gpt": "assistant", "system": "system"}
    for row in json.loads((REAL / "kto_feedback.json").read_text(encoding="utf-8")):
        yield row["messages"]
    for row in json.loads((REAL / "preference_pairs.json").read_text(encoding="utf-8")):
        turns = [*row["conversations"], row["chosen"]]
        yield [{"role": speakers[t["from"]], "content": t["value"]} for t in turns]
    for row in _lines(REAL / "dialogsum.jsonl"):
        yield _pair(f"Summarise this conversation.\n\n{row['dialogue']}", row["summary"])
    for row in json.loads((REAL / "alpaca.json").read_text(encoding="utf-8")):
        yield _pair(f"{row['instruction']}\n\n{row['input']}".strip(), row["output"])
    for row in _lines(REAL / "gsm8k.jsonl"):
        yield _pair(row["question"], row["answer"])


def _bundled() -> Iterator[list[dict[str, str]]]:
    for turn in itertools.count():
        for row in _lines(sample_path("gsm8k", "train")):
            yield _pair(f"({turn}) {row['question']}", row["answer"])


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _pair(asked: str, answered: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _see_that_all_agree(folder: Path) -> None:
    """Refuse a speed of other tokens or labels.

    Raises:
        RuntimeError: They differ.
    """
    trl, answers, first, again = (
        json.loads((folder / f"{kind}.json").read_text())
        for kind in ("trl", "trl-answers", "nbft", "again")
    )
    # TRL keeps rows whose answer is cut away, as long as all of a row is learnt.
    kept = [trl["input_ids"][number] for number in first["example"]]
    if first["input_ids"] != kept or any(first[k] != answers[k] for k in ("input_ids", "labels")):
        raise RuntimeError("nbft and TRL cut the rows into different tokens or labels")
    if first != again:
        raise RuntimeError("the second start gave other tokens than the first")


def _prepare(kind: str, folder: Path, rows: str) -> None:
    """Prepare rows; writes the tokens to a file and prints the clocks as one line of JSON."""
    clock = _trl if kind.startswith("trl") else _nbft
    wall, cpu, found = clock(folder, rows, kind)
    (folder / f"{kind}.json").write_text(json.dumps(found))
    print(json.dumps({"wall": wall, "cpu": cpu}))


def _nbft(folder: Path, rows: str, kind: str) -> tuple[float, float, dict[str, Any]]:
    import gc
    import shutil

    import nbft
    from nbft.models.find import find_model
    from nbft.models.load import load_tokenizer
    from nbft.training.rows import read_rows

    if kind == "nbft":
        shutil.rmtree(cache_folder() / "tokens", ignore_errors=True)
    config = nbft.Config(data={"path": str(folder / rows), "split_ratio": 1.0, "shuffle": False})
    tokenizer = load_tokenizer(config, find_model(config.model.model_name).path)
    gc.freeze()  # as a worker does when its imports are done
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = read_rows(
        config, tokenizer, lambda _: None, lambda _: None, padding_free=True
    ).known.dataset
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    names = ("input_ids", "labels", "example")
    return wall, cpu, {name: tokens[name][:] for name in names}


def _trl(folder: Path, rows: str, kind: str) -> tuple[float, float, dict[str, Any]]:
    import datasets
    import transformers
    from trl import SFTConfig, SFTTrainer

    import nbft
    from nbft.models.find import find_model

    tokenizer = transformers.AutoTokenizer.from_pretrained(
        find_model(nbft.Config().model.model_name).path
    )
    if kind == "trl-answers":
        tokenizer.chat_template = _MARKED
    shape = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    model = transformers.LlamaForCausalLM(shape)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        dataset = datasets.load_dataset(
            "json", data_files=str(folder / rows), split="train", cache_dir=cache
        )
        settings = SFTConfig(
            output_dir=str(folder / "trl"),
            assistant_only_loss=kind == "trl-answers",
            shuffle_dataset=False,
            report_to=[],
            bf16=False,
            use_cpu=True,
        )
        wall, cpu = time.perf_counter(), time.process_time()
        trainer = SFTTrainer(
            model=model, args=settings, train_dataset=dataset, processing_class=tokenizer
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        prepared: Any = trainer.train_dataset
        found = {name: prepared[name][:] for name in ("input_ids", "labels")}
    return wall, cpu, found


if __name__ == "__main__":
    _prepare(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
