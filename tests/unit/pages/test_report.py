"""The report names the rows of a run by what was read."""

from __future__ import annotations

from nbft.config import Config
from nbft.pages.report import _files


def test_rows_that_are_no_file_are_named_by_what_they_are(tmp_path):
    """A name beside a path, left from a preset, was not trained on."""
    file, gone = tmp_path / "mine.jsonl", tmp_path / "gone.jsonl"
    file.write_text('{"text": "a"}\n')
    datasets = [
        {"path": str(file), "dataset_name": "alpaca"},
        {"path": str(gone), "dataset_name": "alpaca"},
        {"path": str(tmp_path)},
        {"dataset_name": "someone/rows"},
        {"rows": [{"text": "a"}]},
    ]
    config = Config(data={"train": {"datasets": datasets}})
    (mine, *others) = _files(config)
    assert (mine[0], len(mine[1])) == ("mine.jsonl", 64)
    assert others == [
        ("gone.jsonl", "no longer there", ""),
        (tmp_path.name, "a folder", ""),
        ("someone/rows", "on the hub", ""),
        ("the rows in memory", "in memory", ""),
    ]
