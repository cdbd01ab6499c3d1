"""What a run reads, and how often."""

import json
from itertools import chain

import pytest

from nbft.config import Config
from nbft.data import sources
from nbft.data.examples import load_examples
from nbft.training.rows import read_rows


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": f"Add {n}.\n", "completion": f"{n} is " * (n % 3 + 1)} for n in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Config(data={"path": str(path)}, evaluation={"metrics": ["exact_match"]})


@pytest.fixture
def parsed(monkeypatch):
    found = []
    read = sources._read
    monkeypatch.setattr(sources, "_read", lambda path, *a: found.append(path) or read(path, *a))
    return found


def said(config, tokenizer):
    told, warned = [], []
    return read_rows(config, tokenizer, told.append, warned.append, padding_free=True), told, warned


def test_a_file_is_parsed_once_for_both_splits_and_the_scores(config, parsed, tiny_tokenizer):
    rows, *_ = said(config, tiny_tokenizer)
    scored, _ = load_examples(config, "validation")
    assert list(scored) == list(rows.scored)
    assert len(parsed) == 1


def test_rows_that_are_not_scored_are_let_go(config, parsed, tiny_tokenizer):
    config = config.apply({"evaluation.metrics": []})
    assert said(config, tiny_tokenizer)[0].scored is None


def test_a_second_start_says_the_same(config, parsed, tiny_tokenizer):
    config = config.apply({"data.train.datasets[0].sample_count": 50, "data.max_length": 10})
    first, told, warned = said(config, tiny_tokenizer)
    second, told_again, warned_again = said(config, tiny_tokenizer)
    assert len(parsed) == 1
    assert told == told_again != []
    assert warned == warned_again
    assert any("sample_count=50" in text for text in warned)
    assert any("max_length=10" in text for text in warned)
    assert first.train["input_ids"][:] == second.train["input_ids"][:]


def test_the_strategy_decides_which_rows_share_a_sequence(config, tiny_tokenizer):
    """By best fit the longest rows come first, greedily the first ones; wrapped rows are cut."""

    def sequences(**data):
        changes = {"data.shuffle": False, "data.max_length": 48, "data.split_ratio": 1.0}
        changes |= {f"data.{name}": value for name, value in data.items()}
        return said(config.apply(changes), tiny_tokenizer)[0].train["input_ids"][:]

    rows = sequences()
    longest = max(rows, key=len)
    assert rows[0] != longest
    best, greedy, wrapped = (
        sequences(packing=True, packing_strategy=name) for name in ("bfd", "greedy", "wrapped")
    )
    assert best[0][: len(longest)] == longest
    assert greedy[0][: len(rows[0])] == rows[0]
    assert {len(sequence) for sequence in wrapped[:-1]} == {48}
    assert list(chain(*wrapped)) == list(chain(*rows))
    assert len(best) <= len(greedy) < len(rows)
    assert wrapped != greedy


def test_lengths_of_a_column_are_read_on_a_second_start_too(config, tiny_tokenizer):
    grouped = {
        "data.train_sampling_strategy": "group_by_length",
        "data.length_column_name": "completion",
    }
    config = config.apply(grouped)
    first, second = (said(config, tiny_tokenizer)[0].lengths for _ in range(2))
    assert first == second
    assert sorted(set(first)) == sorted({len(f"{n} is " * (n % 3 + 1)) for n in range(20)})
