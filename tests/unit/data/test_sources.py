"""Rows from every kind of file, and the words of what is wrong with them."""

import bz2
import gc
import gzip
import json
import lzma
import os
import zipfile

import datasets
import pytest

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.config.io import resolve
from nbft.data import sources
from nbft.data.examples import load_examples
from nbft.data.sources import columns_of, load_rows
from nbft.errors import DataError, Problem

ROWS = [{"q": "one\u2028?", "a": "1"}, {"q": 'two, "2"\n?', "a": "2"}, {"q": "drei ü?", "a": "3"}]


def load(**dataset):
    return list(load_rows(Dataset(**dataset), "train", "data.train.datasets[0]"))


def words(**dataset):
    with pytest.raises(DataError) as caught:
        load(**dataset)
    return [str(problem) for problem in caught.value.problems]


def _jsonl(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("lines.json", _jsonl(ROWS)),
        ("a.jsonl", _jsonl(ROWS) + "\n\n"),
        ("a.ndjson", "\n" + _jsonl(ROWS).replace("\n", "\r\n")),
        ("bom.jsonl", "\ufeff" + _jsonl(ROWS)),
        ("A.JSONL", _jsonl(ROWS)),
        ("a.csv", 'q,a\none\u2028?,1\n"two, ""2""\n?",2\ndrei ü?,3\n'),
        ("a.tsv", 'q\ta\none\u2028?\t1\n"two, ""2""\n?"\t2\ndrei ü?\t3\n'),
    ],
)
def test_every_text_format_gives_the_same_rows(write, name, content):
    assert load(path=write(name, content)) == ROWS


def test_parquet(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    assert load(path=str(tmp_path / "a.parquet")) == ROWS


def test_rows_in_memory():
    import datasets

    assert load(rows=ROWS) == ROWS
    assert load(rows=datasets.Dataset.from_list(ROWS)) == ROWS
    assert load(rows=tuple(ROWS)) == ROWS


def test_columns_in_memory_that_are_numbers_become_text():
    rows = [{0: "one", 1: "1"}, {"0": "two", 1: "2"}]
    assert load(rows=rows) == [{"0": "one", "1": "1"}, {"0": "two", "1": "2"}]
    assert 0 in rows[0]
    templates = {"prompt_template": "Q {0}", "completion_template": "{1}"}
    config = Config(data={"train": {"datasets": [{"rows": rows, **templates}]}, "split_ratio": 1})
    examples, _ = load_examples(config, "train")
    assert [(one.prompt, one.completion) for one in examples] == [("Q one", "1"), ("Q two", "2")]


def test_a_csv_written_by_pandas_with_its_index_is_read(write):
    path = write("a.csv", ",q,a\n0,one,1\n")
    assert load(path=path) == [{"column_1": "0", "q": "one", "a": "1"}]


def test_bundled_samples_need_no_network_and_have_two_splits():
    train, test = load(dataset_name="grammar"), load(dataset_name="grammar", split="test")
    assert train != test
    assert columns_of(train) == ["input", "target"]
    validation = load_rows(Dataset(dataset_name="grammar"), "validation", "data.validation")
    assert list(validation) == test


def test_columns_are_renamed_and_the_new_name_wins():
    rows = [{"prompt": "old", "question": "new", "answer": "x"}]
    columns = {"prompt": "question", "completion": "answer"}
    assert load(rows=rows, columns=columns) == [{"prompt": "new", "completion": "x"}]
    twice = load(rows=rows, columns={"p": "question", "q": "question"})
    assert twice == [{"p": "new", "q": "new", "prompt": "old", "answer": "x"}]
    swapped = load(rows=rows, columns={"prompt": "answer", "answer": "prompt"})
    assert swapped == [{"prompt": "x", "answer": "old", "question": "new"}]


def test_a_number_of_rows_is_taken_shuffled_by_seed():
    rows = [{"n": n} for n in range(50)]
    assert load(rows=rows, sample_count=3) == rows[:3]
    assert load(rows=rows, sample_count=90) == rows
    one = load(rows=rows, shuffle=True, seed=1)
    assert one == load(rows=rows, shuffle=True, seed=1)
    assert one != load(rows=rows, shuffle=True, seed=2)
    assert sorted(one, key=lambda row: row["n"]) == rows
    assert load(rows=rows, shuffle=True, seed=1, sample_count=5) == one[:5]
    by_default = load_rows(Dataset(rows=rows, shuffle=True), "train", "x", seed=1)
    assert list(by_default) == one


def test_a_path_leads_from_the_configs_folder_else_from_here(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "a.jsonl").write_text("")
    assert resolve("a.jsonl", tmp_path / "config") == tmp_path / "here" / "a.jsonl"
    (tmp_path / "config" / "a.jsonl").write_text("")
    assert resolve("a.jsonl", tmp_path / "config") == tmp_path / "config" / "a.jsonl"
    assert resolve("a.jsonl", None) == tmp_path / "here" / "a.jsonl"
    assert resolve("none.jsonl", tmp_path / "config") == tmp_path / "config" / "none.jsonl"
    absolute = str(tmp_path / "config" / "a.jsonl")
    assert resolve(absolute, tmp_path / "here") == tmp_path / "config" / "a.jsonl"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", "", "is empty (0 bytes). Name a file with rows."),
        ("a.jsonl", "\n\n", "holds no rows. Name another."),
        ("a.json", "[]", "holds no rows. Name another."),
        ("a.csv", "q,a\n", "has column names (q, a), but no rows below them. Add some."),
        (
            "a.jsonl",
            '{"a": 1}\n\n{"a": \n',
            "line 3, column 6: is not valid JSON. Fix or remove the line.",
        ),
        (
            "a.jsonl",
            '{"a": 1}\n\n[1]\n',
            'line 3: is a list, not an object with columns. Write {"column": "text"}.',
        ),
        (
            "a.jsonl",
            'null\n{"a": 1}',
            ('line 1: is null, not an object with columns. Write {"column": "text"}.'),
        ),
        (
            "a.jsonl",
            '"text"',
            ('line 1: is text, not an object with columns. Write {"column": "text"}.'),
        ),
        (
            "a.json",
            "[1]",
            ('item 1: is a number, not an object with columns. Write {"column": "text"}.'),
        ),
        ("a.json", '{"data": []}', "holds an object, not an array of rows. Write [{…}, {…}]."),
        (
            "a.json",
            "[\n{]",
            "line 2, column 2: is not valid JSON. Fix that line.",
        ),
        (
            "a.json",
            '{"a": 1}\n{"a"',
            "line 2, column 5: is not valid JSON. Fix or remove the line.",
        ),
        (
            "a.txt",
            "x",
            (
                "has the ending .txt. If it is a table, rename it to .csv. Use one of .json, .jsonl, "
                ".ndjson, .csv, .tsv, .xlsx, .ods, .parquet, or such a file packed as .gz or .zip."
            ),
        ),
        (
            "a.csv",
            "q,a\n1,2\n1,2,3\n",
            (
                "row 3: has 3 cells, but row 1 names 2 columns; a cell with the separator in it "
                "needs quotes. Fix or remove the row."
            ),
        ),
        (
            "a.csv",
            "q,a\n1\n",
            (
                "row 2: has 1 cell, but row 1 names 2 columns; one is missing, or a cell with a line "
                "break in it needs quotes. Fix or remove the row."
            ),
        ),
        ("a.jsonl", "ü".encode("latin-1"), "is not UTF-8 text. Save it as UTF-8."),
    ],
)
def test_the_words_of_a_broken_file(write, name, content, said, without_parsers_words):
    path = write(name, content)
    found = [without_parsers_words(problem) for problem in words(path=path)]
    assert found == [str(Problem("data.train.datasets[0].path", path, said))]


def test_a_file_that_is_no_parquet_says_so(write):
    (said,) = words(path=write("a.parquet", "x" * 100))
    assert "is not valid Parquet (" in said
    assert said.endswith("Write it again.")


def test_every_broken_line_is_said_up_to_five(write):
    path = write("a.jsonl", "{\n" * 8)
    said = words(path=path)
    assert [f"line {n}, column 2: is not valid JSON" in said[n - 1] for n in range(1, 6)] == [
        True
    ] * 5
    assert said[5:] == ["… and 3 more like these."]


def test_a_missing_file_says_the_nearest_one_in_the_configs_folder(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    dataset = Dataset(path="trian.jsonl")
    with pytest.raises(DataError) as caught:
        load_rows(dataset, "train", "data.train.datasets[0]", folder=tmp_path)
    assert str(caught.value) == (
        "data.train.datasets[0].path='trian.jsonl': does not exist. Did you mean train.jsonl?"
    )
    gone = str(tmp_path / "gone" / "a.jsonl")
    assert words(path=gone) == [
        str(
            Problem(
                "data.train.datasets[0].path",
                gone,
                f"does not exist, nor does its folder. Looked in {tmp_path}/gone.",
            )
        )
    ]
    (folder_said,) = words(path=str(tmp_path))
    assert "is a folder without a saved dataset. Name a file in it (train.jsonl)" in folder_said


def test_a_name_that_is_too_long_is_a_sentence():
    (said,) = words(path="a" * 300)
    assert said.endswith("…: cannot be read: File name too long.")


def test_a_file_that_may_not_be_read_says_so(write, monkeypatch):
    path = write("a.jsonl", '{"a": 1}')

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert words(path=path) == [
        str(
            Problem(
                "data.train.datasets[0].path",
                path,
                "may not be read by you. Change its permissions, or those of its folder.",
            )
        )
    ]


def test_a_folder_without_rights_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    (said,) = words(path=str(tmp_path / "a.jsonl"))
    assert said.endswith("may not be read by you. Change its permissions, or those of its folder.")
    monkeypatch.undo()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.exists", refuse)
    (said,) = words(path="secret/a.jsonl")
    assert said.endswith("may not be read by you. Change its permissions, or those of its folder.")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            {"train": 1, "test": 2},
            (
                "data.train.datasets[0].rows: is a mapping with the keys train, "
                "test. Give a list of dicts or one split of it."
            ),
        ),
        (
            "text",
            (
                "data.train.datasets[0].rows: is of the type str, not a list of rows. Give a list "
                "of dicts or a datasets.Dataset."
            ),
        ),
        (
            [1],
            (
                "data.train.datasets[0].rows: item 1: is a number, not an object with columns. Write "
                '{"column": "text"}.'
            ),
        ),
        (
            [{"a": 1}, None],
            (
                "data.train.datasets[0].rows: item 2: is null, not an object with "
                'columns. Write {"column": "text"}.'
            ),
        ),
        (
            [{"0": "a"}, {0: "b", "0": "c"}],
            (
                "data.train.datasets[0].rows: item 2: has two columns with the name 0, one of "
                "them not as text. Rename one."
            ),
        ),
        ([], "data.train.datasets[0].rows: holds no rows. Name another."),
    ],
)
def test_the_words_of_wrong_rows_in_memory(rows, said):
    assert words(rows=rows) == [said]


def test_a_column_that_is_not_there_is_said():
    assert words(rows=[{"q": 1, "a": 2}], columns={"prompt": "question"}) == [
        (
            "data.train.datasets[0].columns={'prompt': 'question'}: no column question; found q, a. "
            "Write {new name: name in the file}."
        )
    ]


def test_no_rows_at_all():
    assert words() == [
        "data.train.datasets[0]: names no rows. Give path, dataset_name, or rows from Python."
    ]


def _hub(monkeypatch, splits, info=None):
    import datasets
    import huggingface_hub

    def ask(*_, **__):
        if info is not None:
            raise info

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", ask)
    monkeypatch.setattr(datasets, "get_dataset_split_names", splits)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: [{"args": a, **k}])


def test_a_split_of_the_hub_is_taken_by_name(monkeypatch):
    _hub(monkeypatch, lambda *_: ["train", "validation", "test"])
    assert load(dataset_name="a/b", subset="main") == [{"args": ("a/b", "main"), "split": "train"}]
    assert load(dataset_name="a/b", split="train[:10%]")[0]["split"] == "train[:10%]"
    (held_out,) = load_rows(Dataset(dataset_name="a/b"), "validation", "data.validation")
    assert held_out["split"] == "validation"


def test_a_split_that_the_hub_lacks_is_said(monkeypatch):
    _hub(monkeypatch, lambda *_: ["all"])
    assert words(dataset_name="a/b") == [
        (
            "data.train.datasets[0].dataset_name='a/b': has no split train; it has all. Write split: "
            "all."
        )
    ]


def test_without_a_network_only_the_cache_is_asked(monkeypatch):
    from huggingface_hub import constants

    seen = []

    def splits(*_):
        seen.append(constants.HF_HUB_OFFLINE)
        raise ConnectionError("Couldn't reach the hub\nmore")

    _hub(monkeypatch, splits, info=ConnectionError("no route"))
    before = constants.HF_HUB_OFFLINE
    assert words(dataset_name="a/b") == [
        (
            "data.train.datasets[0].dataset_name='a/b': could not be read from the hub (Couldn't reach "
            "the hub). Name a file in path, or a bundled sample: alpaca, samsum, gsm8k, grammar, "
            "larger_number."
        )
    ]
    assert seen == [True]
    assert before == constants.HF_HUB_OFFLINE


def test_formats_are_those_that_the_setting_names():
    text = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
    assert (*text, ".xlsx", ".ods", ".parquet") == sources.FORMATS


def test_a_file_is_read_once_as_long_as_its_rows_are_held(write, monkeypatch):
    reads = []
    read = sources._read
    monkeypatch.setattr(sources, "_read", lambda *a: reads.append(a) or read(*a))
    path = write("a.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    config = Config(data={"path": path})
    train, _ = load_examples(config, "train")
    held_out, _ = load_examples(config, "validation")
    assert len(reads) == 1
    assert {train[0].completion, held_out[0].completion} == {"one", "two"}
    write("a.jsonl", '{"text": "three"}\n{"text": "four"}\n')
    changed, _ = load_examples(config, "train")
    assert len(reads) == 2, "the file has changed"
    assert changed[0].completion in ("three", "four")
    del train, held_out, changed
    gc.collect()
    held = [key for key in sources._IN_USE if str(key[0]) == path]
    assert not held, "rows that nobody uses are let go"


def test_a_function_that_changes_its_row_changes_nobody_elses(write):
    path = write("a.jsonl", '{"q": "one", "a": "1"}\n{"q": "two", "a": "2"}\n')
    function = write("own.py", "def pop(row):\n    return row.pop('q')\n")
    dataset = {"path": path, "completion_template": "{a}{q}"}
    config = Config(data={**dataset, "prompt_func": f"{function}:pop", "split_ratio": 1})
    first, again = (load_examples(config, "train")[0] for _ in range(2))
    assert [e.completion for e in first] == [e.completion for e in again] == ["1one", "2two"]
    assert first.row(0) == {"q": "one", "a": "1"}


def _zipped(path, text, *more):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("rows.jsonl", *more):
            archive.writestr(name, text)


PACKED = {
    "a.jsonl.gz": lambda path, text: path.write_bytes(gzip.compress(text.encode())),
    "a.jsonl.bz2": lambda path, text: path.write_bytes(bz2.compress(text.encode())),
    "a.jsonl.xz": lambda path, text: path.write_bytes(lzma.compress(text.encode())),
    "a.zip": _zipped,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", PACKED)
def test_packed_files_are_read(tmp_path, name, stream):
    PACKED[name](tmp_path / name, _jsonl(ROWS))
    dataset = Dataset(path=str(tmp_path / name))
    read = sources.stream_rows if stream else load_rows
    assert list(read(dataset, "train", "data.train.datasets[0]")) == ROWS


@pytest.mark.parametrize("read", [sources.stream_rows, load_rows])
def test_rows_in_memory_come_before_a_file(read):
    dataset = Dataset(rows=ROWS, path="missing.jsonl", dataset_name="alpaca")
    assert list(read(dataset, "train", "data.train.datasets[0]")) == ROWS


def test_what_is_not_packed_well_is_a_sentence(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(_jsonl(ROWS).encode())[:-9])
    (said,) = words(path=str(tmp_path / "a.jsonl.gz"))
    assert "cannot be unpacked (" in said
    (tmp_path / "b.zip").write_bytes(b"no zip")
    assert "cannot be unpacked (" in words(path=str(tmp_path / "b.zip"))[0]
    _zipped(tmp_path / "c.zip", "{}", "more.jsonl")
    assert "holds 2 files, not one." in words(path=str(tmp_path / "c.zip"))[0]
    (tmp_path / "d.tar.gz").write_bytes(gzip.compress(b"x"))
    assert "has the ending .gz" in words(path=str(tmp_path / "d.tar.gz"))[0]


def test_a_folder_of_save_to_disk_is_read(tmp_path):
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one")
    assert load(path=str(tmp_path / "one")) == ROWS
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(tmp_path / "two")
    assert load(path=str(tmp_path / "two")) == ROWS
    assert load(path=str(tmp_path / "two"), split="test") == ROWS[:1]
    (said,) = words(path=str(tmp_path / "two"), split="dev")
    assert "has no split dev; it has train, test." in said


@pytest.mark.parametrize("levels", [100, 5_000, 200_000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_that_is_nested_too_deeply_is_a_sentence(write, name, levels):
    deep = "[" * levels + "]" * levels
    text = f'{{"a": "x"}}\n{{"a": {deep}}}' if name == "a.jsonl" else f'[{{"a": {deep}}}]'
    (said,) = words(path=str(write(name, text)))
    assert "nested too deeply" in said


def test_a_deep_row_of_a_large_file_is_a_sentence(write, monkeypatch):
    monkeypatch.setattr(sources.lines, "LARGE_BYTES", 10)
    path = write("a.jsonl", '{"a": "x"}\n{"a": ' + "[" * 100 + "]" * 100 + "}")
    with pytest.raises(DataError, match="row 2: is nested too deeply"):
        load(path=str(path))
