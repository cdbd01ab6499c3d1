"""A second start reads nothing, and nothing that was kept is taken for something else."""

import copy
import json
import os

import pytest

from nbft import registry
from nbft.config import Config
from nbft.data import token_cache
from nbft.data.examples import load_examples
from nbft.data.fingerprint import tokenizer_key
from nbft.data.token_cache import prepare
from nbft.data.tokens import tokens_folder

ROWS = [{"question": f"Add {n} and 1.", "answer": str(n + 1)} for n in range(10)]


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return copy.deepcopy(tiny_tokenizer)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture
def reads(monkeypatch):
    """Each reading of a split."""
    found = []
    load = token_cache.load_examples
    monkeypatch.setattr(
        token_cache, "load_examples", lambda *a, **k: found.append(a[1]) or load(*a, **k)
    )
    return found


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config_of(path, **data):
    return Config(data={"path": str(path), **data})


def tokens_of(found):
    return {
        split: one.rows and (one.rows.input_ids[:], one.rows.labels[:])
        for split, one in found.items()
    }


def test_a_second_start_reads_nothing_and_gives_the_same(path, tokenizer, reads):
    config = config_of(path, sample_count=50)
    first = prepare(config, tokenizer)
    assert reads == ["train"]
    second = prepare(config, tokenizer)
    assert reads == ["train"]
    assert tokens_of(first) == tokens_of(second)
    assert first["train"].said == second["train"].said != []
    assert first["train"].recognised == second["train"].recognised != []
    assert second["train"].examples is None
    assert not second["train"].is_stream


def test_a_split_without_rows_is_remembered_too(path, tokenizer, reads):
    config = config_of(path, split_ratio=1)
    assert prepare(config, tokenizer)["validation"].rows is None
    assert prepare(config, tokenizer)["validation"].rows is None
    assert reads == ["train"]


def test_rows_that_are_held_out_are_those_that_are_scored(path, tokenizer):
    config = config_of(path)
    expected, _ = load_examples(config, "validation")
    assert list(prepare(config, tokenizer)["validation"].examples) == list(expected)
    assert len(expected) == 1


def test_both_files_are_read_and_both_are_noted(path, tmp_path, tokenizer, reads):
    other = write(tmp_path / "other.jsonl", [{**row, "answer": "?"} for row in ROWS[:3]])
    config = Config(
        data={
            split: {"datasets": [{"path": str(file)}]}
            for split, file in (("train", path), ("validation", other))
        }
    )
    first = prepare(config, tokenizer)
    assert reads == ["train", "validation"]
    assert (len(first["train"].rows), len(first["validation"].rows)) == (10, 3)
    assert tokens_of(prepare(config, tokenizer)) == tokens_of(first)
    assert reads == ["train", "validation"]
    write(other, ROWS[:2])
    assert len(prepare(config, tokenizer)["validation"].rows) == 2


def test_a_file_of_the_same_size_and_another_content_is_read(path, tokenizer):
    config = config_of(path)
    first = tokens_of(prepare(config, tokenizer))
    write(path, [{**row, "answer": row["answer"].replace("2", "3")} for row in ROWS])
    os.utime(path, ns=(1, 1))
    changed = tokens_of(prepare(config, tokenizer))
    assert changed != first
    write(path, ROWS)
    assert tokens_of(prepare(config, tokenizer)) == first


def test_a_file_that_was_only_touched_or_moved_is_not_read_again(path, tokenizer, reads):
    config = config_of("rows.jsonl")
    prepare(config, tokenizer, folder=path.parent)
    os.utime(path, ns=(1, 1))
    prepare(config, tokenizer, folder=path.parent)
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    prepare(config, tokenizer, folder=elsewhere)
    assert len(reads) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"data.max_length": 20},
        {"data.completion_only_loss": False},
        {"data.split_ratio": 0.5},
        {"training.seed": 7},
        {"data.train.datasets[0].columns": {"prompt": "answer", "completion": "question"}},
        {"data.train.datasets[0].shuffle": True},
    ],
)
def test_other_settings_give_other_rows(changes, path, tokenizer):
    config = config_of(path)
    kept = tokens_of(prepare(config, tokenizer))
    assert tokens_of(prepare(config.apply(changes), tokenizer)) != kept


def test_another_template_of_the_tokenizer_gives_other_rows(tmp_path, tokenizer):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    config = config_of(write(tmp_path / "chat.jsonl", [{"messages": turns}] * 3))
    kept = tokens_of(prepare(config, tokenizer))
    tokenizer.chat_template = "Chat: " + tokenizer.chat_template
    assert tokens_of(prepare(config, tokenizer)) != kept


def test_functions_rows_in_memory_and_streams_are_always_read(path, tmp_path, tokenizer, reads):
    (tmp_path / "own.py").write_text("def prompt(row):\n    return row['question']\n")
    function = f"{tmp_path / 'own'}:prompt"
    block = {"datasets": [{"path": str(path)}], "stream": True}

    @registry.datasets.register("own-way")
    def own_way(row):
        return row["question"], row["answer"]

    try:
        for config in (
            config_of(path, prompt_func=function, completion_template="{answer}"),
            config_of(path, dataset_type="own-way"),
            Config(data={"rows": ROWS}),
            Config(data={"train": block}),
        ):
            reads.clear()
            prepare(config, tokenizer)
            again = prepare(config, tokenizer)
            assert reads == ["train"] * 2
            assert again["train"].examples is not None
    finally:
        registry.datasets.unregister("own-way")


def test_tokens_that_were_let_go_are_cut_again(path, tokenizer, reads):
    config = config_of(path)
    first = prepare(config, tokenizer)
    for file in (tokens_folder() / first["validation"].rows.key).iterdir():
        file.unlink()
    (tokens_folder() / first["validation"].rows.key).rmdir()
    assert tokens_of(prepare(config, tokenizer)) == tokens_of(first)
    assert len(reads) == 2


def test_a_tokenizer_is_known_by_all_that_matters(tokenizer):
    from tokenizers.processors import TemplateProcessing

    plain = tokenizer_key(tokenizer)
    assert plain == tokenizer_key(copy.deepcopy(tokenizer))
    changed = []
    for change in (
        lambda t: setattr(t, "chat_template", "{{ messages }}"),
        lambda t: t.add_tokens(["anew"]),
        lambda t: setattr(t, "eos_token", "<|start|>"),
        lambda t: setattr(
            t._tokenizer,
            "post_processor",
            TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 0)]),
        ),
        lambda t: setattr(t, "name_or_path", ""),
    ):
        other = copy.deepcopy(tokenizer)
        change(other)
        changed.append(tokenizer_key(other))
    assert len({plain, *changed}) == 6
