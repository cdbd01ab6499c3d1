"""A second start reads nothing, and nothing that was kept is taken for something else."""

import copy
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbft import registry
from nbft.config import Config
from nbft.data import fingerprint, token_cache
from nbft.data.examples import load_examples
from nbft.data.fingerprint import tokenizer_key
from nbft.data.token_cache import prepare
from nbft.data.tokens import tokens_folder
from nbft.models.load import load_tokenizer

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


def add_special(tokenizer, **flags):
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken("anew", **flags)])


def lowered(tokenizer):
    from tokenizers.normalizers import Lowercase

    tokenizer.backend_tokenizer.normalizer = Lowercase()


def spaced(tokenizer):
    from tokenizers.pre_tokenizers import ByteLevel

    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)


CHANGES = {
    "special tokens are split": lambda t: setattr(t, "split_special_tokens", True),
    "special tokens are split, by the backend": lambda t: setattr(
        t.backend_tokenizer, "encode_special_tokens", True
    ),
    "another normaliser": lowered,
    "another pretokenizer": spaced,
    "an added token": add_special,
    "an added token that takes the space before it": lambda t: add_special(t, lstrip=True),
    "an added token of whole words": lambda t: add_special(t, single_word=True),
    "a start of its own": lambda t: setattr(t, "_add_bos_token", True),
    "dropout of merges": lambda t: setattr(t.backend_tokenizer.model, "dropout", 0.5),
    "an unknown token": lambda t: setattr(t.backend_tokenizer.model, "unk_token", "<|pad|>"),
    "bytes for what is unknown": lambda t: setattr(
        t.backend_tokenizer.model, "byte_fallback", True
    ),
    "several templates": lambda t: setattr(t, "chat_template", {"default": t.chat_template}),
    "an argument that nobody knows yet": lambda t: setattr(
        t, "argument_of_tomorrow", [1, {"a": 2}]
    ),
    "a function": lambda t: setattr(t, "clean", lambda text: text.strip()),
    "another function": lambda t: setattr(t, "clean", lambda text: text.lower()),
    "another class": lambda t: setattr(t, "__class__", type(type(t).__name__, (type(t),), {})),
}


def test_every_change_of_a_tokenizer_has_a_key_of_its_own(tokenizer):
    keys = {"": tokenizer_key(tokenizer)}
    for name, change in CHANGES.items():
        other = copy.deepcopy(tokenizer)
        change(other)
        keys[name] = tokenizer_key(other)
        if name != "special tokens are split, by the backend":  # which a copy forgets
            assert tokenizer_key(copy.deepcopy(other)) == keys[name], name
    assert len({*keys.values()}) == len(keys)


def test_what_changes_no_ids_changes_no_key(tokenizer):
    plain = tokenizer_key(tokenizer)
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.model_max_length = 3
    tokenizer(["a longer text", "b"], padding=True, truncation=True, max_length=2)
    assert tokenizer_key(tokenizer) == plain


def test_a_tokenizer_has_the_same_key_in_every_process(tiny_model):
    code = """
import sys
from transformers import AutoTokenizer, ByT5Tokenizer
from nbft.data.fingerprint import tokenizer_key
print(tokenizer_key(AutoTokenizer.from_pretrained(sys.argv[1])), tokenizer_key(ByT5Tokenizer()))
"""
    found = [
        subprocess.run(
            [sys.executable, "-c", code, str(tiny_model)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] != ""


def test_a_state_that_cannot_be_told_is_never_taken_for_another(tokenizer):
    tokenizer.lock = threading.Lock()
    assert tokenizer_key(tokenizer) != tokenizer_key(tokenizer)


def test_a_template_that_writes_the_date_is_rendered_anew_each_day(tokenizer, monkeypatch):
    day = SimpleNamespace(today=lambda: "2026-11-30")
    monkeypatch.setattr("nbft.data.fingerprint.datetime", SimpleNamespace(date=day))
    plain = tokenizer_key(tokenizer)
    tokenizer.chat_template += "{{ strftime_now('%d %b') }}"
    dated = tokenizer_key(tokenizer)
    day.today = lambda: "2026-12-01"
    assert tokenizer_key(tokenizer) != dated
    tokenizer.chat_template = tokenizer.chat_template.partition("{{ strftime")[0]
    assert tokenizer_key(tokenizer) == plain


@pytest.mark.parametrize(
    "arguments",
    [
        {"split_special_tokens": True},
        {"additional_special_tokens": ["Say"]},
        {"eos_token": "<|start|>"},
    ],
)
def test_an_argument_of_the_tokenizer_gives_other_tokens(path, tiny_model, arguments):
    rows = [{"question": f"Say<|end|> {n}", "answer": "Yes<|end|>"} for n in range(10)]
    config = config_of(write(path, rows), split_ratio=1)

    def tokens(**given):
        settings = {"model.model_name": str(tiny_model), "model.tokenizer_kwargs": given}
        asked = config.apply(settings)
        return prepare(asked, load_tokenizer(asked, tiny_model))["train"].rows.input_ids[:]

    before = tokens()
    other = tokens(**arguments)
    assert other != before
    assert tokens() == before
    assert tokens(**arguments) == other


def test_a_file_that_keeps_its_size_and_time_is_read_again(path, tokenizer):
    config = config_of(path)
    before, stat = tokens_of(prepare(config, tokenizer)), path.stat()
    write(path, [{**row, "answer": row["answer"].replace("2", "3")} for row in ROWS])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert tokens_of(prepare(config, tokenizer)) != before


def test_many_that_tokenise_the_same_at_once_all_get_it(path, tokenizer):
    """Also beside what a process of the same number left behind when it was killed."""
    config = config_of(path)
    expected = tokens_of(prepare(config, tokenizer))
    for entry in [*tokens_folder().iterdir()]:
        shutil.rmtree(entry)
        (tokens_folder() / f"{entry.name}.{os.getpid()}.part").mkdir()
    barrier = threading.Barrier(6)

    def work(_):
        barrier.wait()
        return tokens_of(prepare(config, copy.deepcopy(tokenizer)))

    with ThreadPoolExecutor(6) as pool:
        found = [*pool.map(work, range(6))]
    assert all(one == expected for one in found)
    assert not [*tokens_folder().glob("*.partial")]


@pytest.mark.parametrize("file", ["rows.arrow", "counts.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"torn"])
def test_tokens_that_are_torn_are_cut_again(path, tokenizer, file, content):
    config = config_of(path)
    first = prepare(config, tokenizer)
    torn = tokens_folder() / first["train"].rows.key / file
    expected = tokens_of(first)
    del first
    torn.unlink()
    if content is not None:
        torn.write_bytes(content)
    assert tokens_of(prepare(config, tokenizer)) == expected
    assert tokens_of(prepare(config, tokenizer)) == expected


def test_a_note_that_is_torn_is_written_again(path, tokenizer, reads):
    config = config_of(path)
    prepare(config, tokenizer)
    (note,) = (p for p in tokens_folder().glob("*/*.json") if p.name != "counts.json")
    note.write_text("{")
    prepare(config, tokenizer)
    prepare(config, tokenizer)
    assert len(reads) == 2


def test_room_is_made_without_what_is_being_written(path, tokenizer, monkeypatch):
    monkeypatch.setattr("nbft.data.tokens.CACHE_BYTES", 0)
    folder = tokens_folder()
    prepare(config_of(path, max_length=100), tokenizer)
    live = folder / f"{'a' * 32}.{'0' * 16}.partial"
    live.mkdir()
    (live / "rows.arrow").write_bytes(b"x")
    dead = folder / f"{'b' * 32}.{'1' * 16}.partial"
    dead.mkdir()
    os.utime(dead, (1, 1))
    before = {entry.name for entry in folder.iterdir()}
    prepare(config_of(path, max_length=50), tokenizer)
    left = {entry.name for entry in folder.iterdir()}
    assert left & before == {live.name}


def test_other_code_of_nbft_makes_its_own_tokens(path, tokenizer, monkeypatch, reads, tmp_path):
    """Whatever the times of its files are: an installed version may have any."""
    config = config_of(path)
    first = prepare(config, tokenizer)
    package = shutil.copytree(Path(fingerprint.__file__).parents[1] / "data", tmp_path / "data")
    monkeypatch.setattr(fingerprint, "__file__", str(package / "fingerprint.py"))
    changed = package / "tokens.py"
    before, stat = fingerprint.code_key(), changed.stat()
    changed.write_text(changed.read_text().replace("cut", "cat"))
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint.code_key() != before
    again = prepare(config, tokenizer)
    assert len(reads) == 2
    assert again["train"].rows.key != first["train"].rows.key
    assert tokens_of(again) == tokens_of(first)
