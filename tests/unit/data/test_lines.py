"""Large files: rows by number and as a stream, the same as of a small file, and never all at once."""

import csv
import json
import pickle
import resource

import pytest

from nbft.config import Config
from nbft.data import lines
from nbft.data.examples import load_examples
from nbft.data.sources import load_rows
from nbft.errors import DataError

ROWS = [{"prompt": f"Q{n} ü\n", "completion": f"A{n}"} for n in range(50)]


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch):
    monkeypatch.setattr(lines, "LARGE_BYTES", 0)


def write_rows(tmp_path, ending, rows=ROWS):
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(path)
    elif ending == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif ending == "json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def rows_of(path):
    config = Config(data={"path": str(path)})
    return load_rows(config.data.train.datasets[0], "train", "data.train.datasets[0]")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_rows_are_those_of_the_file(tmp_path, ending):
    path = write_rows(tmp_path, ending)
    rows = rows_of(path)
    assert isinstance(rows, lines.LineRows)
    assert list(rows) == ROWS
    assert rows[49] == ROWS[49]
    assert list(lines.stream(path)) == ROWS


def test_blank_lines_a_mark_at_the_start_and_other_line_ends(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n\n{"text": "b"}\r\n{"text": "c"}\n\n')
    assert [row["text"] for row in rows_of(path)] == ["a", "b", "c"]


def test_a_converted_file_is_converted_once_and_anew_when_it_changed(tmp_path):
    path = write_rows(tmp_path, "json")
    first = lines.as_lines(path)
    stamp = first.stat().st_mtime_ns
    assert lines.as_lines(path) == first
    assert first.stat().st_mtime_ns == stamp
    write_rows(tmp_path, "json", ROWS[:7])
    assert lines.as_lines(path) != first
    assert len(rows_of(path)) == 7


def test_rows_reach_another_process(tmp_path):
    rows = pickle.loads(pickle.dumps(rows_of(write_rows(tmp_path, "jsonl"))))
    assert list(rows) == ROWS


@pytest.mark.parametrize(
    ("ending", "text", "said"),
    [
        (
            "jsonl",
            '{"text": "a"}\n{"text": \n',
            r"row 2, column 9: is not valid JSON \(.*\)\. Fix or",
        ),
        ("jsonl", '{"text": "a"}\n' + "[" * 100_000, "row 2: is nested too deeply. Fix or"),
        ("jsonl", '{"text": "a"}\n["a", "b"]\n', "row 2: is list, not an object with columns."),
        ("json", '[{"text": "a"}, {"text": "b"', "is truncated, or is not valid JSON"),
    ],
)
def test_the_words_of_a_broken_file(tmp_path, ending, text, said):
    path = tmp_path / f"rows.{ending}"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        load_examples(Config(data={"path": str(path)}), "train")


def test_a_large_file_stays_on_the_disk(tmp_path):
    path = tmp_path / "rows.jsonl"
    line = json.dumps({"text": "word " * 2000}) + "\n"
    with path.open("w") as file:
        for _ in range(20_000):
            file.write(line)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    examples, _ = load_examples(Config(data={"path": str(path), "split_ratio": 1}), "train")
    assert len(examples) == 20_000
    assert examples[19_999].completion.startswith("word word")
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib * 1024 < path.stat().st_size / 2


def test_the_first_rows_are_parsed_once_to_learn_their_columns_and_once_as_examples(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(lines, "LARGE_BYTES", 100)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "{n}"}}\n' for n in range(50)))
    parsed = []
    one = lines.LineRows.__getitem__
    monkeypatch.setattr(
        lines.LineRows, "__getitem__", lambda self, n: parsed.append(n) or one(self, n)
    )
    examples, _ = load_examples(Config(data={"path": str(path), "split_ratio": 1}), "train")
    assert len(examples) == 50
    assert all(parsed.count(n) == 2 for n in range(1, 50))
