"""How far the conversion of a large file is, told to whoever waits."""

import bz2
import gzip
import json
import lzma
import re
import zipfile

import pytest

from nbft import progress
from nbft.config.data import Dataset
from nbft.data import lines
from nbft.data.sources import load_rows
from nbft.progress import telling

ROWS = [{"text": f"{n} " + f"{n * 7919 % 10007:x}" * 100} for n in range(5000)]


def _packed(path, text):
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("rows.jsonl", text)
    else:
        path.write_bytes(pack[path.suffix](text.encode()))


@pytest.fixture(autouse=True)
def every_read_is_told(monkeypatch, empty_cache):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN", 0)
    monkeypatch.setattr(progress, "_BUFFER_BYTES", 1024)
    monkeypatch.setattr(lines, "LARGE_BYTES", 0)


@pytest.mark.parametrize(
    "ending", ["json", "csv", "jsonl.gz", "jsonl.bz2", "jsonl.xz", "jsonl.zip"]
)
def test_the_share_that_is_read(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    if ending == "csv":
        path.write_text("text\n" + "".join(f"{row['text']}\n" for row in ROWS))
    elif ending == "json":
        path.write_text(json.dumps(ROWS))
    else:
        _packed(path, "".join(json.dumps(row) + "\n" for row in ROWS))
    told = []
    with telling(told.append):
        rows = load_rows(Dataset(path=str(path)), "train", "data.train.datasets[0]")
    assert len(rows) == 5000
    shares = [int(re.fullmatch(rf"Reading {path.name}: (\d+)%", text)[1]) for text in told]
    assert len({*shares}) > 1
    assert shares[-1] == 100
    told.clear()
    load_rows(Dataset(path=str(path)), "train", "data.train.datasets[0]")
    assert not told, "nobody listens any more"


def test_a_stop_ends_the_conversion_and_leaves_no_half_of_a_file(tmp_path, empty_cache):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))

    def stop(_):
        raise KeyboardInterrupt

    with telling(stop), pytest.raises(KeyboardInterrupt):
        load_rows(Dataset(path=str(path)), "train", "data.train.datasets[0]")
    assert not list(empty_cache.rglob("*.jsonl"))
