"""Files that arrive piece by piece, without a browser: a front end is played by hand."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import shutil
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nbft.config import Config
from nbft.data.sources import FORMATS
from nbft.errors import DataError
from nbft.widgets import upload as uploads
from nbft.widgets.form import Form
from nbft.widgets.upload import FileField, Incoming, Upload, kept_name

PATH = "data.train.datasets[0].path"
ROWS = "".join(
    json.dumps({"prompt": f"Name {i}:", "completion": f"number {i}"}) + "\n" for i in range(300)
).encode()


class FrontEnd:
    """Plays the part of upload.js: sends a piece whenever it is asked for one."""

    def __init__(self, widget: Upload, piece_bytes: int = 1000) -> None:
        self.widget, self.piece_bytes = widget, piece_bytes
        self.asked: list[int] = []
        self.stopped: list[str] = []
        self.share: list[float] = []
        widget.observe(lambda change: self.share.append(change["new"]), "share")
        widget.send = self._receive

    def _receive(self, message: dict[str, Any], buffers: Any = None) -> None:
        if message["type"] == "next":
            self.asked.append(message["start"])
        else:
            self.stopped.append(message["upload"])

    def say(self, kind: str, *buffers: bytes, upload: str = "u", **more: Any) -> None:
        self.widget._handle_custom_msg({"type": kind, "upload": upload, **more}, [*buffers])

    def begin(self, name: str, content: bytes, upload: str = "u", **more: Any) -> None:
        about = {"files": 1, "name": name, "size": len(content)} | more
        self.say("begin", upload=upload, **about)

    def piece(self, content: bytes, start: int, upload: str = "u", **more: Any) -> None:
        piece = content[start : start + self.piece_bytes]
        about = {"start": start, "crc32": zlib.crc32(piece)} | more
        self.say("piece", memoryview(piece), upload=upload, **about)  # type: ignore[arg-type]

    def send(self, name: str, content: bytes, pieces: int | None = None) -> None:
        self.asked.clear()
        self.begin(name, content)
        for n, start in enumerate(self.asked):  # which grows as pieces are asked for
            if n == pieces:
                return
            self.piece(content, start)


@pytest.fixture
def kept() -> list[Path]:
    return []


@pytest.fixture
def widget(tmp_path: Path, kept: list[Path]) -> Upload:
    return Upload(folder=lambda: tmp_path / "data", on_kept=kept.append, on_named=kept.append)


def test_a_file_of_jupyterlabs_list_is_used_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lesson").mkdir()
    Path("lesson/rows.jsonl").write_bytes(ROWS)
    form = Form()
    field = form._fields.make(PATH)
    player = FrontEnd(field._note)
    player.say("named", paths=[f"{tmp_path}/lesson/rows.jsonl"])
    assert form.config.data.train.datasets[0].path == str(Path("lesson", "rows.jsonl"))
    assert field.control.value == str(Path("lesson", "rows.jsonl"))
    assert not Path("runs/data").exists(), "nothing is copied"
    for paths, why in (
        ([f"{tmp_path}/elsewhere.jsonl"], "is not on the machine of the kernel"),
        (["a.csv", "b.csv"], "2 files at once: choose one."),
    ):
        player.say("named", paths=paths)
        assert why in field._note.said
        assert field._note.is_wrong
    field.lock(True)
    player.say("named", paths=[f"{tmp_path}/lesson/rows.jsonl"])
    assert "no file is taken while a run is training" in field._note.said


@pytest.fixture
def front_end(widget: Upload) -> FrontEnd:
    return FrontEnd(widget)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_asked_for_piece_by_piece_and_kept_whole(
    widget: Upload, front_end: FrontEnd, kept: list[Path], tmp_path: Path
) -> None:
    front_end.begin("rows.jsonl", ROWS)
    assert front_end.asked == [0]  # the next only when this one is there
    assert widget.is_busy
    assert [path.suffix for path in (tmp_path / "data").iterdir()] == [".part"]
    front_end.send("rows.jsonl", ROWS)
    assert front_end.asked == list(range(0, len(ROWS), 1000))
    assert kept == [tmp_path / "data" / "rows.jsonl"]
    assert kept[0].read_bytes() == ROWS
    assert names(tmp_path / "data") == ["rows.jsonl"]
    assert front_end.stopped == ["u", "u"]  # the one that was begun anew, and the whole one
    assert not widget.is_busy


def test_progress_is_said_in_words(
    widget: Upload, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_SHOW_SECONDS", 0.0)
    front_end.send("rows.jsonl", ROWS, pieces=5)
    assert front_end.share == pytest.approx([n * 1000 / len(ROWS) for n in range(1, 6)])
    assert widget.progress.startswith("4.9 KiB of ")
    assert widget.progress.endswith(" left")
    assert widget.said == "Uploading rows.jsonl."


def test_a_piece_out_of_order_damaged_or_too_long_ends_the_upload(
    widget: Upload, front_end: FrontEnd, kept: list[Path], tmp_path: Path
) -> None:
    def fails(sentence: str) -> None:
        assert sentence in widget.said
        assert widget.is_wrong
        assert not widget.is_busy
        assert names(tmp_path / "data") == []

    front_end.begin("rows.jsonl", ROWS)
    front_end.piece(ROWS, 1000)
    fails("a piece from byte 1,000 arrived where byte 0 was next.")
    front_end.begin("rows.jsonl", ROWS)
    front_end.piece(ROWS, 0, crc32=1)
    fails("arrived damaged. Choose the file again.")
    front_end.begin("rows.jsonl", ROWS[:500])
    front_end.piece(ROWS, 0)
    fails("was 500 B when it was chosen, and is larger now.")
    front_end.send("rows.jsonl", ROWS, pieces=2)
    front_end.say("piece", b"", start=2000, crc32=0)
    fails("and is smaller now.")
    front_end.send("rows.jsonl", ROWS, pieces=2)
    front_end.say("unreadable")
    fails("the browser can no longer read it.")
    assert kept == []


def test_cancel_and_a_new_file_remove_what_had_arrived(
    widget: Upload, front_end: FrontEnd, kept: list[Path], tmp_path: Path
) -> None:
    front_end.send("rows.jsonl", ROWS, pieces=3)
    front_end.say("cancel", upload="from another view")
    assert "cancelled; nothing of it was kept." in widget.said
    assert not widget.is_wrong
    assert names(tmp_path / "data") == []
    front_end.piece(ROWS, 3000)  # it was under way when the person cancelled
    assert names(tmp_path / "data") == []
    front_end.send("old.jsonl", ROWS, pieces=3)
    front_end.begin("new.jsonl", ROWS, upload="v")
    assert len(names(tmp_path / "data")) == 1
    front_end.piece(ROWS, 3000)
    front_end.piece(ROWS, 0, upload="v")
    assert front_end.asked[-1] == 1000
    assert kept == []


def test_an_upload_that_nothing_is_heard_of_is_given_up(
    widget: Upload, front_end: FrontEnd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[Any] = []
    loop = SimpleNamespace(call_later=lambda seconds, tick: ticks.append(tick))
    monkeypatch.setattr(uploads, "main_loop", lambda: loop)
    front_end.send("rows.jsonl", ROWS, pieces=2)
    for _ in range(5):
        ticks.pop()()
    front_end.piece(ROWS, 2000)
    for _ in range(5):
        ticks.pop()()
    assert widget.is_busy
    ticks.pop()()
    assert "nothing has arrived for 1 min, so the incomplete file was removed." in widget.said
    assert widget.is_wrong
    assert names(tmp_path / "data") == []
    assert not ticks


def test_an_equal_name_gets_a_number_unless_the_content_is_equal_too(
    front_end: FrontEnd, kept: list[Path], tmp_path: Path
) -> None:
    other = ROWS[:-5] + b"####\n"
    contents = [ROWS, other, ROWS, other, ROWS[:-1], b"{}"]
    for content in contents:
        front_end.send("rows.jsonl", content)
    assert [path.name for path in kept] == [
        *("rows.jsonl", "rows-2.jsonl", "rows.jsonl"),
        *("rows-2.jsonl", "rows-3.jsonl", "rows-4.jsonl"),
    ]
    assert [path.read_bytes() for path in kept] == contents
    assert len(names(tmp_path / "data")) == 4


@pytest.mark.parametrize(
    ("name", "kept_as"),
    [
        ("rows.jsonl", "rows.jsonl"),
        ("../../etc/rows.csv", "rows.csv"),
        ("C:\\Users\\me\\rows.tsv", "rows.tsv"),
        ("/etc/passwd.json", "passwd.json"),
        ("..json", "rows.json"),
        ("...hidden.jsonl", "hidden.jsonl"),
        ("a\nb\x00c?.JSONL", "a_b_c_.JSONL"),
        ("größe 2 (neu).parquet", "größe 2 (neu).parquet"),
        ("𝕣" * 300 + ".ndjson", "𝕣" * 50 + ".ndjson"),
    ],
)
def test_names_lose_folders_and_odd_characters(name: str, kept_as: str) -> None:
    assert kept_name(name) == kept_as
    assert len(kept_as.encode()) <= 255


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("notes.docx", "notes.docx: has the ending .docx. Known are .json, "),
        ("rows", "rows: has no ending. Known are "),
        (".jsonl", ".jsonl: has no ending."),
        ("", "The file: has no ending."),
        ("rows.jsonl/", "The file: has no ending."),
        ("rows.jsonl.gz", "has the ending .gz."),
    ],
)
def test_other_endings_are_refused_before_anything_is_sent(
    widget: Upload, front_end: FrontEnd, tmp_path: Path, name: str, why: str
) -> None:
    front_end.begin(name, ROWS)
    assert why in widget.said
    assert widget.is_wrong
    assert all(ending in widget.said for ending in FORMATS)
    assert (front_end.asked, front_end.stopped) == ([], ["u"])
    assert not (tmp_path / "data").exists()


def test_what_is_no_single_file_with_rows_is_refused(widget: Upload, front_end: FrontEnd) -> None:
    front_end.begin("rows.jsonl", b"")
    assert widget.said == "rows.jsonl: is empty (0 bytes). Choose a file with rows."
    front_end.begin("rows.jsonl", ROWS, files=3)
    assert widget.said == "3 files at once: choose one."
    widget.disabled = True
    front_end.begin("rows.jsonl", ROWS)
    assert "no file is taken while a run is training." in widget.said
    assert front_end.asked == []


def test_a_full_disk_is_one_sentence(
    widget: Upload, front_end: FrontEnd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
        front_end.begin("rows.jsonl", b"", size=3 * 2**30)
        assert "rows.jsonl: needs 3.0 GiB, and 1.0 MiB are free for " in widget.said
        assert front_end.asked == []

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file
            self.name = file.name

        def write(self, piece: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            self._file.close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    front_end.send("rows.jsonl", ROWS, pieces=2)
    widget._incoming._part = Full(widget._incoming._part)
    front_end.piece(ROWS, 2000)
    assert "no space left on device. Fix that, or choose another training" in widget.said
    assert "after 2.0 KiB of " in widget.said
    assert widget.said.count(". ") == 1
    assert names(tmp_path / "data") == []


def test_a_folder_that_is_a_file_is_one_sentence(
    widget: Upload, front_end: FrontEnd, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("")
    front_end.begin("rows.jsonl", ROWS)
    assert "could not be written to " in widget.said
    assert "file exists" in widget.said


def test_parts_that_nobody_holds_any_more_are_removed(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path, "rows.jsonl", 10)
    assert len(names(tmp_path)) == 1
    del incoming
    gc.collect()
    assert names(tmp_path) == []
    stale, fresh = tmp_path / ".nbft-1.part", tmp_path / ".nbft-2.part"
    stale.write_text("left by a kernel that was killed")
    fresh.write_text("of another kernel")
    long_ago = time.time() - 2 * uploads._STALE_SECONDS
    os.utime(stale, (long_ago, long_ago))
    Incoming(tmp_path, "rows.jsonl", 10)
    assert not stale.exists()
    assert fresh.exists()


def test_a_message_on_another_thread_is_handed_to_the_main_one(
    widget: Upload, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(uploads, "call_soon", lambda *call: asked.append(call))
    thread = threading.Thread(target=front_end.begin, args=("rows.jsonl", ROWS))
    thread.start()
    thread.join()
    assert not widget.is_busy
    ((function, *given),) = asked
    function(*given)
    assert widget.is_busy


def test_what_nobody_expected_is_said(front_end: FrontEnd, widget: Upload) -> None:
    front_end.send("rows.jsonl", ROWS, pieces=1)
    front_end.say("piece", start=1000, crc32=0)  # without its bytes
    assert "This went wrong (ValueError: not enough values" in widget.said
    assert not widget.is_busy


def test_random_content_arrives_as_it_is(front_end: FrontEnd, kept: list[Path]) -> None:
    content = random.Random(0).randbytes(2_000_001)
    front_end.piece_bytes = 2**18
    front_end.send("rows.parquet", content)
    assert kept[0].read_bytes() == content


# In the form


@pytest.fixture
def form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Form:
    monkeypatch.chdir(tmp_path)
    return Form(Config(training={"output_dir": "my runs"}))


def upload_of(form: Form, path: str = PATH) -> FrontEnd:
    field = form._fields.make(path)
    assert isinstance(field, FileField)
    return FrontEnd(field._note, 2**16)


def test_a_kept_file_is_the_value_of_the_field_as_if_typed(form: Form, tmp_path: Path) -> None:
    front_end = upload_of(form)
    front_end.send("rows.jsonl", ROWS)
    assert form.config.data.train.datasets[0].path == "my runs/data/rows.jsonl"
    assert form._fields.make(PATH).control.value == "my runs/data/rows.jsonl"
    assert PATH in form._tree.left
    assert form.plan.train_rows == 267
    kept = f"Kept as my runs/data/rows.jsonl ({len(ROWS) // 1024} KiB)."
    assert front_end.widget.said == kept
    form._fields.make(PATH).control.value = "other.jsonl"
    assert front_end.widget.said == ""


def test_each_split_takes_its_own_file(form: Form) -> None:
    upload_of(form, "data.validation.datasets[0].path").send("held out.jsonl", ROWS)
    data = form.config.data
    assert data.train.datasets == []
    assert data.validation is not None
    assert data.validation.datasets[0].path == "my runs/data/held out.jsonl"


def test_a_file_that_cannot_be_read_is_kept_and_the_field_says_why(form: Form) -> None:
    front_end = upload_of(form)
    front_end.send("rows.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt"\n')
    assert front_end.widget.said == "Kept as my runs/data/rows.jsonl (45 B)."
    assert "line 2, column 10: is not valid JSON" in form._fields.make(PATH)._problem.value


def test_a_wrong_field_elsewhere_does_not_stop_an_upload(form: Form) -> None:
    form._fields.make("training.learning_rate").control.value = "fast"
    front_end = upload_of(form)
    front_end.send("rows.jsonl", ROWS)
    assert (Path("my runs") / "data" / "rows.jsonl").is_file()
    assert form._fields.make(PATH).control.value == "my runs/data/rows.jsonl"


def test_locked_fields_keep_their_value(form: Form) -> None:
    front_end = upload_of(form)
    front_end.send("rows.jsonl", ROWS, pieces=0)
    form._launching.lock(True)
    front_end.piece(ROWS, 0)
    assert form._fields.make(PATH).control.value == ""
    assert "The fields are locked by a run" in front_end.widget.said
    assert front_end.widget.disabled
    form._launching.lock(False)
    assert not front_end.widget.disabled


def test_rows_in_memory_still_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    form = Form(Config(data={"rows": [{"prompt": "a", "completion": "b"}] * 4}))
    front_end = upload_of(form)
    front_end.send("rows.jsonl", ROWS)
    assert "rows given in Python take precedence" in front_end.widget.said


def test_every_mistake_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        Incoming(tmp_path, "rows.docx", 5)
