from __future__ import annotations

import gzip
import json
import os

import pytest

from nbft.catalogue import datasets as catalogue
from nbft.catalogue.datasets import DatasetChoice, datasets, look, search_datasets
from nbft.config.data import Dataset
from nbft.data.formats import recognise
from nbft.data.samples import SAMPLES
from nbft.errors import DataError, NbftError


def of(path):
    return DatasetChoice(str(path), path.name, "file", path)


def words(choice):
    with pytest.raises(DataError) as error:
        look(choice)
    return str(error.value)


def test_a_persons_own_files_come_first_the_newest_at_the_top(config, tmp_path):
    uploads = tmp_path / "runs" / "data"
    uploads.mkdir(parents=True)
    (tmp_path / "sub").mkdir()
    for number, path in enumerate(
        [tmp_path / "old.jsonl", uploads / "mine.csv", tmp_path / "sub" / "new.jsonl"]
    ):
        path.write_text('{"q": "Why?", "a": "So."}\n')
        os.utime(path, (1000 + number, 1000 + number))
    choices = datasets(config, folder=tmp_path)
    assert [(choice.title, choice.source) for choice in choices[:4]] == [
        (os.fspath(tmp_path.joinpath("sub", "new.jsonl").relative_to(tmp_path)), "file"),
        ("mine.csv", "upload"),
        ("old.jsonl", "file"),
        ("alpaca", "sample"),
    ]
    assert choices[2].settings == {"path": str(tmp_path / "old.jsonl")}
    assert (choices[2].size_bytes, choices[2].modified) == (26, 1000)


def test_bundled_samples_say_what_a_row_is(config, tmp_path):
    samples = {c.name: c for c in datasets(config, folder=tmp_path) if c.source == "sample"}
    assert tuple(samples) == SAMPLES
    alpaca = samples["alpaca"]
    assert (alpaca.rows, alpaca.about) == (1000, "follow an instruction")
    assert alpaca.columns == ("instruction", "input", "output")
    assert alpaca.settings == {"dataset_name": "alpaca"}
    seen = look(alpaca)
    assert (seen.columns, len(seen.rows), seen.total_rows) == (alpaca.columns, 3, 1000)


def test_well_known_datasets_have_their_facts(config, tmp_path):
    known = [c for c in datasets(config, folder=tmp_path) if c.source == "known"]
    assert len(known) == 9
    for choice in known:
        assert choice.name.count("/") == 1
        assert choice.license
        assert choice.columns
        assert choice.about
        Dataset.model_validate(choice.settings)
    assert known[0].settings == {"dataset_name": "openai/gsm8k", "subset": "main"}


TURNS = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def test_well_known_datasets_train_without_a_template(config, tmp_path):
    """Their columns are recognised, and none that an answer depends on is left out."""
    of_no_use = {"id", "prompt_id", "category", "source", "text", "prompt"}
    for choice in datasets(config, folder=tmp_path):
        if choice.source == "known":
            row = {name: TURNS if name == "messages" else name.upper() for name in choice.columns}
            example = recognise(choice.columns, row).make(row)
            if not example.messages:
                read = example.prompt + example.completion
                assert all(name.upper() in read for name in {*choice.columns} - of_no_use)


def test_what_runs_used_is_offered_while_it_is_there(config, tmp_path, make_run):
    far = tmp_path / "far" / "away" / "rows: a.jsonl"
    far.parent.mkdir(parents=True)
    far.write_text('{"text": "a"}\n')
    make_run("files", data={"train": {"datasets": [{"path": str(far)}, {"path": "/gone.csv"}]}})
    older = make_run(
        "hub", data={"dataset_name": "someone/rows", "subset": "a", "split": "train[:9]"}
    )
    os.utime(older / "config.yaml", (1000, 1000))
    make_run("sample", data={"dataset_name": "gsm8k"})
    choices = datasets(config, folder=tmp_path / "elsewhere")
    recent = [choice for choice in choices if choice.source == "recent"]
    assert [choice.title for choice in recent] == ["rows: a.jsonl", "someone/rows"]
    assert recent[0].path == far
    assert recent[1].settings == {
        "dataset_name": "someone/rows",
        "subset": "a",
        "split": "train[:9]",
    }
    assert recent[1].last_used == 1000
    gsm8k = next(choice for choice in choices if choice.name == "gsm8k")
    assert (gsm8k.source, gsm8k.last_used is None) == ("sample", False)


def test_a_file_that_is_near_and_was_used_is_listed_once(config, tmp_path, make_run):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    make_run("one", data={"path": str(path)})
    (choice,) = [c for c in datasets(config, folder=tmp_path) if c.path == path]
    assert (choice.source, choice.last_used is None) == ("file", False)


def test_a_small_file_is_counted(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("q,a\n" + "Why?,So.\n" * 5)
    seen = look(of(path), rows=2)
    assert (seen.columns, seen.total_rows) == (("q", "a"), 5)
    assert seen.rows == ({"q": "Why?", "a": "So."},) * 2


def test_a_damaged_row_further_down_does_not_hide_the_first_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a": \n')
    assert look(of(path)).rows == ({"a": 1}, {"a": 2}, {"a": 3})


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".json", ".parquet", ".jsonl.gz"])
def test_of_a_large_file_only_the_start_is_read(tmp_path, monkeypatch, ending, empty_cache):
    monkeypatch.setattr(catalogue, "_READ_BYTES", 10)
    path = tmp_path / f"rows{ending}"
    rows = [{"q": "Why?", "a": str(number)} for number in range(10_001)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if ending == ".csv":
        path.write_text("q,a\n" + "".join(f"Why?,{row['a']}\n" for row in rows) + '"')
    elif ending == ".json":
        path.write_text(json.dumps(rows)[:-1] + ", cut off")
    elif ending == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending == ".jsonl":
        path.write_text(lines + "not JSON")
    else:
        path.write_bytes(gzip.compress(lines.encode()))
    seen = look(of(path))
    assert (seen.columns, seen.total_rows) == (("q", "a"), None)
    assert [row["a"] for row in seen.rows] == ["0", "1", "2"]


def test_what_cannot_be_shown_is_a_sentence(tmp_path, monkeypatch):
    assert "data.train.path='" in words(of(tmp_path / "gone.csv"))
    assert "does not exist" in words(of(tmp_path / "gone.csv"))
    (tmp_path / "notes.txt").write_text("a")
    assert "has the ending .txt" in words(of(tmp_path / "notes.txt"))
    (tmp_path / "bytes.csv").write_bytes(b"a\n\xff\xff")
    assert "is not UTF-8 text, and its encoding cannot be told. Save it as UTF-8;" in words(
        of(tmp_path / "bytes.csv")
    )
    hub = DatasetChoice("owner/name", "owner/name", "known")
    assert words(hub) == (
        "data.train='owner/name': is on the hub: its rows can be shown once it has been downloaded. "
        "See https://huggingface.co/datasets/owner/name."
    )
    monkeypatch.setattr(catalogue, "_READ_BYTES", 0)
    for content, why in {"[1]\n": "is no object", "{\n": "line 1", "\xff": "line 1"}.items():
        (tmp_path / "odd.jsonl").write_text(content)
        assert why in words(of(tmp_path / "odd.jsonl"))
    (tmp_path / "bytes.csv").write_bytes(b"a\n\xff\xff")
    assert "is not UTF-8 text" in words(of(tmp_path / "bytes.csv"))
    monkeypatch.setattr(catalogue, "_LINE_BYTES", 8)
    (tmp_path / "odd.jsonl").write_text('{"text": "a long line"}\n')
    assert "has a first line of more than 8 B" in words(of(tmp_path / "odd.jsonl"))
    monkeypatch.setattr(catalogue, "LARGE_BYTES", 10)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    assert "is packed and large" in words(of(tmp_path / "packed.jsonl.gz"))


def test_a_search_for_datasets_asks_the_hub_once(hub):
    hub.answer = [
        {"id": "openai/gsm8k", "downloads": 9, "gated": False, "tags": ["license:mit"]},
        {"id": "owner/secret", "gated": "auto", "tags": ["language:en"]},
    ]
    known, new = search_datasets("maths")
    ((path, query),) = hub.asked
    assert (path, query["search"], query["sort"]) == ("/api/datasets", ["maths"], ["downloads"])
    assert (known.source, known.subset, known.rows, known.downloads) == ("hub", "main", 7473, 9)
    assert (new.name, new.license, new.is_gated, new.path) == ("owner/secret", None, True, None)
    hub.answer = 429
    with pytest.raises(NbftError, match="for datasets failed: it answered with status 429"):
        search_datasets("maths")
