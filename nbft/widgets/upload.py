"""A data file from a person's own machine, brought into the form: chosen, or dropped on it.

`Incoming` is a file that arrives piece by piece, `Upload` asks the front end for the pieces, and
`FileField` is the form's field for the path of the file. Neither the kernel nor the page ever holds
a whole file in memory.

The protocol, all of it custom messages of the widget:

    front end → kernel   {"type": "named", "paths": ["…"]}   files of JupyterLab's list, to be used
                                                             where they lie
                         {"type": "begin", "upload": id, "files": n, "name": "…", "size": bytes}
                         {"type": "piece", "upload": id, "start": byte, "crc32": n} and one buffer
                         {"type": "unreadable", "upload": id} or {"type": "cancel"}
    kernel → front end   {"type": "next", "upload": id, "start": byte}
                         {"type": "stop", "upload": id}

The kernel asks for one piece at a time, so nothing piles up. It stops an upload that is complete,
refused, cancelled, or silent for a minute. The state shown is kept in traits.
"""

from __future__ import annotations

import functools
import re
import secrets
import shutil
import time
import unicodedata
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import anywidget
import traitlets

from nbft.config import Config
from nbft.data.sources import FORMATS
from nbft.errors import DataError, Problem
from nbft.formatting import duration, size
from nbft.widgets.choosing import from_here, named_by_jupyterlab
from nbft.widgets.columns import Columns
from nbft.widgets.fields import Field
from nbft.widgets.kernel import call_soon, is_main_thread, main_loop

_HERE = Path(__file__).parent

_TICK_SECONDS = 10.0
_SILENT_TICKS = 6  # counted, not timed: a busy cell delays the ticks as it does the pieces
_SHOW_SECONDS = 0.25
_STALE_SECONDS = 3600.0  # a part that was not written to for so long has lost its kernel
_NAME_BYTES = 200  # file systems take 255; the rest is for a number and the suffix


def kept_name(name: str) -> str:
    """Return the name under which a file is kept: without folders and unusual characters.

    Raises:
        DataError: The suffix is of no known format.

    >>> kept_name("../../My rows (2024)?.JSONL")
    'My rows (2024)_.JSONL'
    """
    plain = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    ending = Path(plain).suffix
    if ending.lower() not in FORMATS:
        has = f"has the ending {ending}" if ending else "has no ending"
        fix = " Save it as .xlsx." if ending.lower() == ".xls" else ""
        raise DataError(f"{plain or 'The file'}: {has}. Known are {', '.join(FORMATS)}.{fix}")
    stem = re.sub(r"[^\w.() -]+", "_", plain.removesuffix(ending)).strip(" .")
    return (stem.encode()[:_NAME_BYTES].decode(errors="ignore") or "rows") + ending


class Incoming:
    """A file that arrives piece by piece, under a hidden name until it is complete.

    A part that is not kept is removed: by `discard`, on garbage collection, or when the kernel
    ends.

    Args:
        folder: Folder of the file, created if missing.
        name: Its original name.
        size_bytes: Its original size.

    Attributes:
        name: Its name here.
        received_bytes: How much of it has arrived.

    Raises:
        DataError: From every method: a problem with the name, the size, the folder or the disk, in
            one sentence.
    """

    def __init__(self, folder: Path, name: str, size_bytes: int) -> None:
        self.name = kept_name(name)
        self.size_bytes, self.received_bytes = size_bytes, 0
        self._given, self._folder = folder, folder.expanduser().absolute()
        if size_bytes == 0:
            raise DataError(f"{self.name}: is empty (0 bytes). Choose a file with rows.")
        with self._one_sentence():
            self._folder.mkdir(parents=True, exist_ok=True)
            _remove_stale_parts(self._folder)
            free = shutil.disk_usage(self._folder).free
            if free < size_bytes:
                raise DataError(
                    f"{self.name}: needs {size(size_bytes)}, and {size(free)} are free for "
                    f"{folder}. Free some space, or choose another training.output_dir."
                )
            self._like: list[BinaryIO] = [
                path.open("rb") for path in self._taken() if path.stat().st_size == size_bytes
            ]
            self._part = (self._folder / f".nbft-{secrets.token_hex(4)}.part").open("xb")
            Path(self._part.name).chmod(0o600)  # these are somebody's rows
        self.discard = weakref.finalize(self, _discard, self._part, self._like)

    def append(self, piece: bytes | memoryview, start: int, crc32: int) -> None:
        """Add the next piece.

        Args:
            piece: Its bytes.
            start: Its position in the file, in bytes.
            crc32: Its checksum, as computed by the front end.
        """
        if start != self.received_bytes:
            raise DataError(
                f"{self.name}: a piece from byte {start:,} arrived where byte "
                f"{self.received_bytes:,} was next. Choose the file again."
            )
        if zlib.crc32(piece) != crc32:
            raise DataError(f"{self.name}: arrived damaged. Choose the file again.")
        received = start + len(piece)
        if not len(piece) or received > self.size_bytes:
            raise DataError(
                f"{self.name}: was {size(self.size_bytes)} when it was chosen, and is "
                f"{'smaller' if received < self.size_bytes else 'larger'} now. Choose it again."
            )
        with self._one_sentence():
            self._part.write(piece)
            for file in [*self._like]:
                if file.read(len(piece)) != piece:
                    self._like.remove(file)
                    file.close()
        self.received_bytes = received

    @property
    def is_whole(self) -> bool:
        """Whether all of it has arrived."""
        return self.received_bytes == self.size_bytes

    def keep(self) -> Path:
        """Rename the complete file, unless it exists already, and return its path.

        If another file has the name, this one gets a number.
        """
        with self._one_sentence():
            self._part.close()
            if self._like:
                path = Path(self._like[0].name)
            else:
                path = self._folder / _numbered(self.name, len(list(self._taken())) + 1)
                Path(self._part.name).rename(path)
        self.discard()
        return self._given / path.name

    def _taken(self) -> Iterator[Path]:
        """Yield the files that have this name already, or this name with a number."""
        number = 1
        while (path := self._folder / _numbered(self.name, number)).exists():
            yield path
            number += 1

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        """Describe an error of the system in one sentence."""
        try:
            yield
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            arrived = f"{size(self.received_bytes)} of {size(self.size_bytes)}"
            raise DataError(
                f"{self.name}: could not be written to {self._given} after {arrived}: {why}. "
                "Fix that, or choose another training.output_dir."
            ) from None


def _numbered(name: str, number: int) -> str:
    """Return the name of the n-th file with the same name.

    >>> [_numbered("rows.jsonl", n) for n in (1, 2)]
    ['rows.jsonl', 'rows-2.jsonl']
    """
    path = Path(name)
    return name if number == 1 else f"{path.stem}-{number}{path.suffix}"


def _discard(part: BinaryIO, like: list[BinaryIO]) -> None:
    """Close the files of an upload, and remove its part if it was not renamed."""
    for file in (part, *like):
        with suppress(OSError):  # a file that could not be written often cannot be closed either
            file.close()
    with suppress(OSError):
        Path(part.name).unlink(missing_ok=True)


def _remove_stale_parts(folder: Path) -> None:
    """Remove the parts that killed kernels left behind."""
    for path in folder.glob(".nbft-*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


class Upload(anywidget.AnyWidget):
    """The help under a field, with a control to upload a file.

    Args:
        folder: Returns the folder of uploaded files.
        on_kept: Called with the path of each uploaded file.
        on_named: Called with the path of a file that is here already.
        **traits: Initial traits.
    """

    _esm = _HERE / "upload.js"
    _css = _HERE / "upload.css"

    value = traitlets.Unicode(help="the help, as HTML").tag(sync=True)
    what = traitlets.Unicode(help="the split of a file's rows, such as train").tag(sync=True)
    endings: traitlets.List[Any] = traitlets.List([*FORMATS]).tag(sync=True)
    disabled = traitlets.Bool(help="whether uploads are refused").tag(sync=True)
    is_busy = traitlets.Bool(help="whether a file is arriving").tag(sync=True)
    share = traitlets.Float(help="how much of it has arrived, 0 to 1").tag(sync=True)
    progress = traitlets.Unicode(help="the same in words").tag(sync=True)
    said = traitlets.Unicode(help="the state or result of the last upload").tag(sync=True)
    is_wrong = traitlets.Bool(help="whether that is an error").tag(sync=True)

    def __init__(
        self,
        folder: Callable[[], Path],
        on_kept: Callable[[Path], None],
        on_named: Callable[[Path], None],
        **traits: Any,
    ) -> None:
        self._folder, self._on_kept, self._on_named = folder, on_kept, on_named
        self._incoming: Incoming | None = None
        self._upload = ""  # id of the current upload
        self._began = self._shown_at = 0.0  # clock
        self._silent_ticks = 0
        super().__init__(**traits)
        self.on_msg(self._hear)

    def close(self) -> None:
        """Cancel the current upload."""
        if self._incoming is not None:
            self._stop("")
        super().close()

    def say(self, sentence: str, *, is_wrong: bool = False) -> None:
        """Show the state or result of the upload."""
        with self.hold_sync():
            self.said, self.is_wrong = sentence, is_wrong

    def _hear(self, _widget: object, message: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        """Handle a message of the front end, on the main thread."""
        if not is_main_thread():
            call_soon(self._hear, _widget, message, buffers)
            return
        upload = str(message.get("upload"))
        try:
            if message.get("type") == "begin":
                self._stop("")  # an earlier upload: the person has chosen another file
                self._upload = upload
                self._begin(message)
            elif message.get("type") == "named":
                self._stop("")
                self._name([*map(str, message["paths"])])
            elif self._incoming is None:
                self.send({"type": "stop", "upload": upload})
            elif message.get("type") == "cancel":
                self._stop(f"{self._incoming.name}: cancelled; nothing of it was kept.")
            elif upload != self._upload:
                self.send({"type": "stop", "upload": upload})
            elif message.get("type") == "piece":
                self._take(self._incoming, message, buffers)
            else:
                raise DataError(f"{self._incoming.name}: the browser can no longer read it.")
        except DataError as error:
            self._stop(str(error), is_wrong=True)
        except Exception as error:  # most front ends do not show a handler's exception
            self._stop(f"This went wrong ({type(error).__name__}: {error}).", is_wrong=True)

    def _name(self, paths: Sequence[str]) -> None:
        self._require_one(paths[0], len(paths))
        self._on_named(named_by_jupyterlab(paths[0]))

    def _require_one(self, name: str, files: int) -> None:
        if self.disabled:
            raise DataError(f"{name}: no file is taken while a run is training.")
        if files != 1:
            raise DataError(f"{files} files at once: choose one.")

    def _begin(self, message: Mapping[str, Any]) -> None:
        self._require_one(message["name"], message["files"])
        self._incoming = Incoming(self._folder(), str(message["name"]), int(message["size"]))
        self._began = self._shown_at = time.monotonic()
        self.is_busy = True
        self.say(f"Uploading {self._incoming.name}.")
        self._ask(self._incoming)
        self._watch(self._incoming)

    def _ask(self, incoming: Incoming) -> None:
        """Ask for the next piece."""
        self.send({"type": "next", "upload": self._upload, "start": incoming.received_bytes})

    def _take(self, incoming: Incoming, message: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        self._silent_ticks = 0
        (piece,) = buffers
        incoming.append(piece, int(message["start"]), int(message["crc32"]))
        if not incoming.is_whole:
            self._ask(incoming)
            self._show_progress(incoming)
            return
        path = incoming.keep()
        self._stop(f"Reading the rows of {path.name}…")
        self._on_kept(path)

    def _show_progress(self, incoming: Incoming) -> None:
        now = time.monotonic()
        if now - self._shown_at < _SHOW_SECONDS:
            return
        self._shown_at = now
        speed = incoming.received_bytes / (now - self._began)
        left = (incoming.size_bytes - incoming.received_bytes) / speed
        with self.hold_sync():
            self.share = incoming.received_bytes / incoming.size_bytes
            self.progress = (
                f"{size(incoming.received_bytes)} of {size(incoming.size_bytes)}, "
                f"{size(speed)}/s, {duration(left)} left"
            )

    def _stop(self, sentence: str, *, is_wrong: bool = False) -> None:
        """End the upload, remove a file that was not kept, and show a sentence."""
        if self._incoming is not None:
            self._incoming.discard()
        self._incoming = None
        if self._upload:
            self.send({"type": "stop", "upload": self._upload})
        self._upload = ""
        with self.hold_sync():
            self.is_busy, self.share, self.progress = False, 0.0, ""
            self.say(sentence, is_wrong=is_wrong)

    def _watch(self, incoming: Incoming) -> None:
        """Give up when nothing arrives any more: the page was closed or its connection lost."""
        self._silent_ticks = -1

        def tick() -> None:
            if incoming is not self._incoming:
                return
            self._silent_ticks += 1
            if self._silent_ticks >= _SILENT_TICKS:
                silence = duration(_SILENT_TICKS * _TICK_SECONDS)
                self._stop(
                    f"{incoming.name}: nothing has arrived for {silence}, so the incomplete file "
                    "was removed. Choose the file again.",
                    is_wrong=True,
                )
            elif (loop := main_loop()) is not None:
                loop.call_later(_TICK_SECONDS, tick)

        tick()


class FileField(Field):
    """The field for the path of a data file, which an upload fills as if it were typed.

    Below it are the columns of the rows, also of rows that are in memory.

    Args:
        config: Returns the current config, which has the folder of the runs and the format of the
            rows.
        on_columns: Called with the settings that picked columns change.
        *field: Arguments of `Field`.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        on_columns: Callable[[dict[str, Any]], None],
        *field: Any,
    ) -> None:
        self._config = config
        self._kept = ""
        super().__init__(*field)
        on_sheet = functools.partial(self._on_fix, self.path)
        self.columns = Columns(self._kit, self.path.rpartition(".")[0], on_columns, on_sheet)
        self.control.observe(self._forget, "value")

    def _make_note(self, html: str) -> Any:
        self._split = self.path.split(".")[1]
        return self._kit(
            Upload,
            "nbft-note",
            folder=lambda: Path(self._config().training.output_dir) / "data",
            on_kept=self._take,
            on_named=self._name,
            value=html,
            what=self._split,
        )

    def follow(self) -> None:
        """Show the columns of the current rows."""
        self.columns.follow(self._config())
        if self.columns.is_shown or "widget" in vars(self.columns):
            self._show_extras(self.columns.widget, self.columns.is_shown)

    def show_problems(self, problems: Sequence[Problem]) -> None:
        """Show problems, without the one that the lists of columns ask about."""
        block = self.path.rpartition(".")[0]
        is_asked = [self.columns.is_asked and problem.field == block for problem in problems]
        super().show_problems([p for p, asked in zip(problems, is_asked, strict=True) if not asked])
        if any(is_asked):
            self._mark("nbft-wrong", True)

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock the value."""
        super().lock(is_locked)
        self.columns.lock(is_locked)
        self._note.disabled = is_locked

    def _take(self, path: Path) -> None:
        """Set the field to the path of an uploaded file."""
        self._kept = str(path)
        if not self.control.disabled:
            self.control.value = self._kept
        sentence = ""
        split = self._config().data.splits().get(self._split)
        if split and split.datasets and split.datasets[0].rows is not None:
            sentence = " It is not read: rows given in Python take precedence."
        elif self.control.disabled:
            sentence = " The fields are locked by a run: type this path when it is over."
        self._note.say(f"Kept as {path} ({size(path.expanduser().stat().st_size)}).{sentence}")

    def _name(self, path: Path) -> None:
        """Set the field to the path of a file that is on this machine."""
        self._on_fix(self.path, {self.path: from_here(path)})

    def _forget(self, change: Mapping[str, Any]) -> None:
        """Remove the message about a file that is no longer the value."""
        if change["new"] != self._kept:
            self._note.say("")
