"""Events: the JSON lines that a worker writes, its only output.

A run's `events.jsonl` has one JSON object per line, each with `event` (its kind), `time` (seconds
since the epoch) and the fields of that kind, listed in `KINDS`. Commands to a worker are written the
same way to `commands.jsonl`. Numbers that JSON lacks are written as the strings "NaN", "Infinity" and
"-Infinity" (as in the JSON mapping of protocol buffers) and read back as floats.

Called by `nbft.training` (writes), `nbft.runs` and `nbft.widgets` (read).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from nbft.access import file_mode
from nbft.reading import open_file
from nbft.redaction import is_secret_name, redact, redact_tokens

Event = dict[str, Any]

KINDS = {
    "queued": "process of the supervisor; python that runs it; device; commands_bytes: where the "
    "commands to this attempt begin",
    "started": "process of the worker, versions, seed, model; a process is given by pid, "
    "process_start_time (seconds since the system started), host, machine (hashed id), boot (id), "
    "namespace (of its pids) and user (id)",
    "prepared": "device, dtype, mixed_precision, each with its reason; rows, eval_rows, tokens, "
    "longest (tokens of the longest row), trained_tokens, total_steps, warmup_steps, trainable_parameters, total_parameters; "
    "measures: name, label, chart and better of what the method logs besides losses; "
    "length_accuracy: of pairs, how often a rule by the length of the answers alone is right; "
    "resumed_step after a checkpoint",
    "stage": "what the worker is doing: stage, step, text, seconds_left; process of the worker, where its supervisor has "
    "just started it",
    "log": "step, epoch, tokens_per_second, memory_bytes, seconds_left (until the run is over; older "
    "runs counted the steps only), and every number that the trainer logs, by its name there: loss, "
    "learning_rate, grad_norm, ...",
    "eval": "step, epoch, and every number that the trainer measures on the held-out rows, by its "
    "name there: eval_loss, ...",
    "scores": "step, split, scores by name; values of each row by name; verdicts: better, worse or "
    "the same as step 0, by name; rows, max_new_tokens, seconds and what else was asked; step 0 is "
    "the base model",
    "sample": "step, samples: a list of {prompt, text}; step 0 is the base model",
    "completions": "step, completions: some of the answers that the model was last trained on: prompt, "
    "completion, wanted, rewards by name, reward (all, weighted), advantage, tokens, is_cut",
    "checkpoint": "step, path (relative to the run)",
    "command": "command, step, text: the answer to a command",
    "note": "step, kind, text: something seen on the curve, with its evidence; changes: the setting "
    "to try, by its path",
    "answered": "step, kind: the note of this kind is no longer true",
    "warning": "text: something that a person should know",
    "paused": "step; released: whether the process has ended and the device is free; text: why, "
    "where the run paused by itself",
    "continued": "step",
    "cancelled": "step, seconds, stages",
    "completed": "step, seconds, tokens (trained on), peak_bytes (most memory on the device), adapter "
    "(path relative to the run); stages: seconds of each stage by its name in nbft.plan.stages",
    "stopped": "step, seconds, tokens, peak_bytes, stages, adapter; text: why, where no person asked for it, and what is saved",
    "failed": "step, seconds, stages, problems (sentences), error (name of the exception), out_of_memory; fixes: words, "
    "changes and memory_bytes of what would need less memory",
}
"""Every kind of event and its fields. `step` counts optimiser steps; `tokens_per_second` does not
count padding."""

FINAL_KINDS = frozenset({"completed", "stopped", "failed", "cancelled"})
"""After one of these a worker writes no more events."""

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def append(path: Path, event: str, /, **fields: Any) -> Event:
    """Append one event to a file and return it.

    The line is written at once to a descriptor opened for appending, so lines of two writers never
    mix. An incomplete line left by a crash is ended first. On a full disk the folder's reserve, if
    there is one, is used for the event. Secrets are not written.

    Args:
        path: The `events.jsonl` or `commands.jsonl`.
        event: The kind, or the name of a command.
        **fields: Values are JSON, or numbers that are not finite.

    Raises:
        OSError: The file cannot be written, for example because the disk is full; it is unchanged.
    """
    record: Event = {"event": event, "time": time.time(), **_without_secrets(fields)}
    line = (json.dumps(_encode(record), ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        _write(path, line)
    except OSError as error:
        reserve = Path(path).with_name(_RESERVE)
        if not is_disk_full(error) or not reserve.exists():
            raise
        reserve.unlink(missing_ok=True)
        _write(path, line)
    if event in FINAL_KINDS:
        free_reserve(Path(path).parent)
    return record


def _write(path: Path, line: bytes) -> None:
    """Append a complete line, or leave the file unchanged."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _NONBLOCK | _BINARY, 0o600)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        size = about.st_size
        if not size and os.name == "posix":  # the umask may have taken the group's share
            os.fchmod(descriptor, file_mode(Path(path).parent))
        os.lseek(descriptor, max(0, size - 1), os.SEEK_SET)  # writing appends all the same
        if os.read(descriptor, 1) not in (b"\n", b""):
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written < len(line):
            # The disk took what still fitted. If another writer has appended since, nothing is
            # truncated: the next writer ends the incomplete line.
            if os.fstat(descriptor).st_size == size + written:
                os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def is_disk_full(error: OSError) -> bool:
    """Whether an error means that the disk, or the user's quota, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def keep_reserve(folder: Path) -> bool:
    """Reserve disk space for a run's events, and return whether there is any."""
    reserve = folder / _RESERVE
    if reserve.exists():
        return True
    try:
        # Random, because a compressing file system would reserve nothing for zeros.
        reserve.touch(0o600)
        reserve.write_bytes(os.urandom(_RESERVE_BYTES))
    except OSError:
        free_reserve(folder)
        return False
    return True


def free_reserve(folder: Path) -> None:
    """Release the reserved disk space."""
    with contextlib.suppress(OSError):
        (folder / _RESERVE).unlink()


_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a named pipe without a reader is an error, no wait
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write "\n" as two bytes
_RESERVE = ".reserve"
_RESERVE_BYTES = 64 * 1024
_LAST_BYTES = 256  # more than most events, whose times differ


class EventReader:
    """Reads a growing file of events, returning each event once.

    An unfinished line is left for the next call; a line without an event, such as one cut off by a
    crash, is skipped and counted in `torn_lines`, as is one longer than 16 MiB. A missing file has
    no events. The file is read in blocks, so its size may exceed the memory.

    Args:
        path: The file.
        offset_bytes: Where to begin.

    Attributes:
        is_behind: Whether the last call left something unread.
    """

    def __init__(self, path: Path, offset_bytes: int = 0) -> None:
        self.path = path
        self.torn_lines = 0
        self.offset_bytes = offset_bytes
        self.is_behind = False
        self._is_skipping = False  # the rest of a line that is too long
        self._last = b"\n" if offset_bytes else b""  # what the file has before offset_bytes

    def continues(self) -> bool:
        """Whether the file still has what was read; False for another one at its place.

        Neither its inode nor its size tells: file systems give an inode that is free to the next
        file, and that one may be larger.

        Raises:
            OSError: As `read`.
        """
        try:
            with open_file(self.path) as file:
                file.seek(self.offset_bytes - len(self._last))
                is_whole = os.fstat(file.fileno()).st_size >= self.offset_bytes
                return is_whole and file.read(len(self._last)) == self._last
        except FileNotFoundError:
            return not self.offset_bytes

    def read(self, most_bytes: int | None = None) -> list[Event]:
        """Return the events appended since the last call, oldest first.

        Args:
            most_bytes: Read about so much at most; all if None.

        Raises:
            OSError: The file cannot be read, or is none.
        """
        events = []
        for line in itertools.chain.from_iterable(self.blocks(most_bytes)):
            event = parse(line)
            if event is None:
                self.torn_lines += 1
            else:
                events.append(event)
        return events

    def blocks(self, most_bytes: int | None = None) -> Iterator[list[bytes]]:
        """Yield the finished, non-empty lines appended since the last call, block by block.

        Whoever stops early gets the rest with the next call.

        Raises:
            OSError: As `read`.
        """
        self.is_behind = False
        try:
            file = open_file(self.path)
        except FileNotFoundError:
            return
        with file:
            size, done, begun = os.fstat(file.fileno()).st_size, 0, b""
            file.seek(self.offset_bytes)
            while block := file.read(min(_BLOCK_BYTES, most_bytes or _BLOCK_BYTES)):
                done += len(block)
                if self._is_skipping:
                    end = block.find(b"\n") + 1
                    self._is_skipping = not end
                    self.offset_bytes += end or len(block)
                    block = block[end:] if end else b""
                end = block.rfind(b"\n") + 1
                lines = (begun + block[:end]).splitlines() if end else []
                if end:
                    self.offset_bytes += len(begun) + end
                    self._last = block[max(0, end - _LAST_BYTES) : end]
                begun = block[end:] if end else begun + block
                if len(begun) > _LONGEST_LINE_BYTES:
                    self.offset_bytes += len(begun)
                    begun, self._last, self._is_skipping = b"", b"", True
                    self.torn_lines += 1
                if self._is_skipping:
                    self.offset_bytes = _next_data(file, self.offset_bytes, size)
                self.is_behind = self.offset_bytes + len(begun) < size
                if lines := [line for line in lines if line.strip()]:
                    yield lines
                is_progress = bool(end) or self._is_skipping
                if most_bytes is not None and done >= most_bytes and is_progress:
                    return


def _next_data(file: BinaryIO, offset: int, size: int) -> int:
    """Move to the next byte that is not in a hole of a sparse file, and return its position."""
    try:
        return os.lseek(file.fileno(), offset, os.SEEK_DATA)
    except AttributeError:  # not on Windows
        return offset
    except OSError as error:  # nothing but a hole follows, or the file system knows none
        return file.seek(size) if error.errno == errno.ENXIO else offset


def parse(line: bytes) -> Event | None:
    """Return the event in a line, or None.

    Whatever the line contains, the fields named in `KINDS` have their types or are missing,
    every text can be encoded, and no text holds a secret: readers only have to expect missing
    fields.

    >>> parse(b'{"event": "log", "step": "7", "loss": "NaN", "problems": "Why?"}')
    {'event': 'log', 'loss': nan, 'problems': ['Why?']}
    >>> parse(b'{"event": 5}'), parse(b"[]"), parse(b'{"event": "lo')
    (None, None, None)
    """
    try:
        event = json.loads(line.decode())
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            return None
        if line.count(b"{") + line.count(b"[") > _DEEPEST and not _is_flat(event):
            return None
    except (ValueError, RecursionError):
        return None
    if _SURROGATE.search(line):
        # Half of a surrogate pair cannot be encoded again.
        event = json.loads(json.dumps(event, ensure_ascii=False).encode("utf-8", "replace"))
    return checked(event)


def checked(event: Event) -> Event:
    """Return an event without those known fields that have the wrong type.

    Numbers that JSON lacks are read back as floats.
    """
    out = {}
    for name, value in event.items():
        read = _FIELDS.get(name)
        if read is not None:
            if read is not _number or type(value) is not float:  # most fields of a log are floats
                value = read(value)
            if value is _ABSENT:
                continue
        elif isinstance(value, str):
            value = _NON_FINITE.get(value, value)
        if not isinstance(value, (int, float)):
            value = _redacted(name, value)
        out[name] = value
    return out


def _without_secrets(fields: Event) -> Event:
    return {name: _redacted(name, value) for name, value in fields.items()}


def _redacted(name: str, value: Any) -> Any:
    """Return a field without secrets; of answers to rows, which are data, only tokens are hidden."""
    if isinstance(value, str):
        return redact(value, name) if len(value) > _SHORT or is_secret_name(name) else value
    if name in ("samples", "completions") and isinstance(value, list):
        return [
            {key: redact_tokens(text) if isinstance(text, str) else text for key, text in a.items()}
            if isinstance(a, dict)
            else a
            for a in value
        ]
    return redact(value, name) if isinstance(value, (list, tuple, dict)) else value


def are_plain(name: str, values: Sequence[Any]) -> bool:
    """Whether `checked` leaves the values of a field of some events as they are, all of them numbers."""
    kinds = set(map(type, values))
    if not kinds <= {int, float}:
        return False
    if _FIELDS.get(name) is _count:
        return kinds == {int} and min(values) >= 0 and max(values) < LARGEST
    return int not in kinds or (max(values) < LARGEST and min(values) > -LARGEST)


def number(value: Any) -> float | int | None:
    """Return a value if it is a number that fits a float; None otherwise.

    >>> number("NaN"), number(7), number(True), number("7"), number(10**400)
    (nan, 7, None, None, None)
    """
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return value if abs(value) < LARGEST else None
    return _NON_FINITE.get(value) if kind is str else None


def read(path: Path) -> list[Event]:
    """Return every event in a file, oldest first."""
    return EventReader(path).read()


def current(found: list[Event]) -> list[Event]:
    """Return the events without those of steps that a resumed run repeated later."""
    kept: list[Event] = []
    for event in found:
        last = event.get("resumed_step")
        if event["event"] == "prepared" and last is not None:
            kept = [e for e in kept if e["event"] not in OF_A_STEP or (e.get("step") or 0) <= last]
        kept.append(event)
    return kept


OF_A_STEP = frozenset(
    {"log", "eval", "scores", "sample", "completions", "checkpoint", "note", "answered"}
)
"""Kinds that a run repeats when it resumes from a checkpoint."""

_BLOCK_BYTES = 2**18  # larger blocks take a third longer: their events leave the cache of a core
_LONGEST_LINE_BYTES = 2**24
_SHORT = 7  # characters of a text that has no room for a secret and its name
_DEEPEST = 50  # levels of nested lists and objects; serialisers refuse some hundreds
LARGEST = 2**53
"""Integers below it are exact in every JSON reader."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ABSENT = object()


def _is_flat(event: Event) -> bool:
    """Whether lists and objects are nested less than `_DEEPEST` levels."""
    level: list[Any] = [event]
    for _ in range(_DEEPEST):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return True
    return False


def _count(value: Any) -> Any:
    if value is None or (type(value) is int and 0 <= value < LARGEST):
        return value
    if type(value) is float and value.is_integer() and 0 <= value < LARGEST:
        return int(value)
    return _ABSENT


def _number(value: Any) -> Any:
    known = number(value)
    return known if known is not None or value is None else _ABSENT


def _text(value: Any) -> Any:
    return value if isinstance(value, str) or value is None else _ABSENT


def _texts(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str)]


def _named(read_item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a reader of {name: item} that leaves out items of another type."""

    def read_items(value: Any) -> Any:
        if not isinstance(value, dict):
            return _ABSENT
        items = ((name, read_item(item)) for name, item in value.items())
        return {name: item for name, item in items if item is not None and item is not _ABSENT}

    return read_items


def _values(value: Any) -> Any:
    """Read a list of numbers; None if it has anything else."""
    numbers = [number(item) for item in value] if isinstance(value, list) else [None]
    return None if None in numbers else numbers


def _answers(value: Any) -> Any:
    """Read [{prompt, text, wanted}]; the last may be missing."""
    if not isinstance(value, list):
        return _ABSENT
    answers = [item for item in value if isinstance(item, dict)]
    return [
        a
        for a in answers
        if all(isinstance(a.get(name, ""), str) for name in ("prompt", "text", "wanted"))
        and "prompt" in a
        and "text" in a
    ]


def _completions(value: Any) -> Any:
    """Read [{prompt, completion, wanted, rewards, reward, advantage, tokens, is_cut}]."""
    if not isinstance(value, list):
        return _ABSENT
    texts, numbers = ("prompt", "completion", "wanted"), ("reward", "advantage")
    return [
        {
            **{name: one[name] for name in texts},
            **{name: float(one[name]) for name in numbers},
            "rewards": _named(number)(one["rewards"]),
            "tokens": one["tokens"] if type(one.get("tokens")) is int else 0,
            "is_cut": one.get("is_cut") is True,
        }
        for one in value
        if isinstance(one, dict)
        and all(isinstance(one.get(name), str) for name in texts)
        and all(number(one.get(name)) is not None for name in numbers)
        and isinstance(one.get("rewards"), dict)
    ]


def _fixes(value: Any) -> Any:
    """Read [{words, changes, memory_bytes}]."""
    if not isinstance(value, list):
        return _ABSENT
    return [
        {"words": fix["words"], "changes": fix["changes"], "memory_bytes": fix["memory_bytes"]}
        for fix in value
        if isinstance(fix, dict)
        and isinstance(fix.get("words"), str)
        and isinstance(fix.get("changes"), dict)
        and isinstance(_count(fix.get("memory_bytes")), int)
    ]


def _changes(value: Any) -> Any:
    return value if isinstance(value, dict) else _ABSENT


_COUNTS = """step total_steps resumed_step warmup_steps rows eval_rows tokens longest trained_tokens
trainable_parameters total_parameters pid namespace user commands_bytes max_new_tokens"""
_NUMBERS = """time process_start_time seconds epoch loss eval_loss learning_rate grad_norm
tokens_per_second memory_bytes peak_bytes seconds_left"""
_TEXTS = """text kind stage device device_reason dtype dtype_reason model adapter path split command
error host machine boot python"""
_FIELDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_COUNTS.split(), _count),
    **dict.fromkeys(_NUMBERS.split(), _number),
    **dict.fromkeys(_TEXTS.split(), _text),
    "problems": _texts,
    "scores": _named(number),
    "values": _named(_values),
    "verdicts": _named(_text),
    "stages": _named(number),
    "versions": _named(_text),
    "samples": _answers,
    "completions": _completions,
    "fixes": _fixes,
    "changes": _changes,
}
"""Reader of each field; it returns `_ABSENT` for values of another type."""


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value
