"""Events: the JSON lines a worker writes, and the only thing it says.

A run's `events.jsonl` holds one JSON object a line, each with `event` (its kind), `time` (seconds
since the epoch) and the fields of that kind, listed in `KINDS`. Commands to a worker travel the
same way, through `commands.jsonl`. Numbers that JSON lacks are written as the strings "NaN",
"Infinity" and "-Infinity" (as in the JSON mapping of protocol buffers) and read back as floats.

Called by `nbft.training` (writes), `nbft.runs` and `nbft.widgets` (read).
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Event = dict[str, Any]

KINDS = {
    "queued": "pid and process_start_time of the supervisor, device, commands_bytes: where the "
    "commands to this attempt begin",
    "started": "pid, process_start_time (seconds since the system started), versions, seed, model",
    "prepared": "device, dtype, mixed_precision, each with its reason; rows, eval_rows, tokens, "
    "longest (tokens of the longest row), trained_tokens, total_steps, warmup_steps, trainable_parameters, total_parameters; "
    "resumed_step after a checkpoint",
    "stage": "what the worker is doing: stage, text; pid and process_start_time of the worker, where "
    "its supervisor has just started it",
    "log": "step, epoch, tokens_per_second, memory_bytes, seconds_left, and every number that the "
    "trainer logs, by its name there: loss, learning_rate, grad_norm, ...",
    "eval": "step, epoch, and every number that the trainer measures on the held-out rows, by its "
    "name there: eval_loss, ...",
    "scores": "step, split, scores by name; values of each row by name; verdicts: better, worse or "
    "the same as step 0, by name; rows, max_new_tokens, seconds and what else was asked; step 0 is "
    "the base model",
    "sample": "step, samples: a list of {prompt, text}; step 0 is the base model",
    "checkpoint": "step, path (relative to the run)",
    "command": "command, step, text: the answer to a command",
    "note": "step, text, and the setting to try: something seen on the curve, with its evidence",
    "warning": "text: something that a person should know",
    "paused": "step; released: whether the process has ended and the device is free; text: why, "
    "where the run paused by itself",
    "continued": "step",
    "cancelled": "step, seconds",
    "completed": "step, seconds, adapter (path relative to the run)",
    "stopped": "step, seconds, adapter",
    "failed": "step, problems (sentences), error (name of the exception), out_of_memory",
}
"""Every kind of event and its fields. `step` counts optimiser steps; `*_bytes`, `seconds_*` are
what they say; `tokens_per_second` counts tokens that are not padding."""

FINAL_KINDS = frozenset({"completed", "stopped", "failed", "cancelled"})
"""After one of these a worker says nothing more."""

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def append(path: Path, event: str, /, **fields: Any) -> Event:
    """Append one event to a file and return it.

    The line goes out in one write to a descriptor opened for appending, so lines of two writers
    never mix. A torn line that a crash left behind is closed first. On a full disk the reserve of
    the folder, if there is one, is given up for the event.

    Args:
        path: The `events.jsonl` or `commands.jsonl`.
        event: The kind; a command's file uses the command's name.
        **fields: What the event says. Values are JSON, or numbers that are not finite.

    Raises:
        OSError: The file cannot be written, for example because the disk is full; it is as before.
    """
    record: Event = {"event": event, "time": time.time(), **fields}
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
    """Append a line whole, or leave the file as it was."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written < len(line):
            # A disk takes what still fits. Where another writer was quicker nothing is cut: the
            # torn line is closed by whoever writes next.
            if os.fstat(descriptor).st_size == size + written:
                os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def is_disk_full(error: OSError) -> bool:
    """Whether an error says that the disk, or a person's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def keep_reserve(folder: Path) -> bool:
    """Keep room for a run's words on a full disk: `append` gives it up for its event there.

    Returns:
        Whether there was room for it.
    """
    reserve = folder / _RESERVE
    if reserve.exists():
        return True
    try:
        # Random, because a disk that compresses would keep no room for zeros.
        reserve.write_bytes(os.urandom(_RESERVE_BYTES))
    except OSError:
        free_reserve(folder)
        return False
    return True


def free_reserve(folder: Path) -> None:
    """Give the reserve up."""
    with contextlib.suppress(OSError):
        (folder / _RESERVE).unlink()


_RESERVE = ".reserve"
_RESERVE_BYTES = 64 * 1024


class EventReader:
    """Reads a growing file of events, giving each event once.

    A line that is not finished yet is left for the next call; a line that holds no event, such as
    one that a crash tore, is skipped and counted in `torn_lines`. A file that does not exist yet
    holds no events.

    Args:
        path: The file.
        offset_bytes: Where to begin.
    """

    def __init__(self, path: Path, offset_bytes: int = 0) -> None:
        self.path = path
        self.torn_lines = 0
        self.offset_bytes = offset_bytes

    def read(self) -> list[Event]:
        """Return the events appended since the last call, oldest first."""
        events = []
        for line in self.read_lines():
            event = parse(line)
            if event is None:
                self.torn_lines += 1
            else:
                events.append(event)
        return events

    def read_lines(self) -> list[bytes]:
        """Return the finished lines appended since the last call, without the empty ones."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset_bytes)
                block = file.read()
        except FileNotFoundError:
            return []
        end = block.rfind(b"\n") + 1
        self.offset_bytes += end
        return [line for line in block[:end].splitlines() if line.strip()]


def parse(line: bytes) -> Event | None:
    """Return the event in a line; None if it holds none.

    Whatever the line says, the fields named in `KINDS` have their types in what is returned or are
    missing, and every text can be encoded: readers only have to expect that a field is absent.

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
        # Half of a pair is no character; nothing could write it out again.
        event = json.loads(json.dumps(event, ensure_ascii=False).encode("utf-8", "replace"))
    return checked(event)


def checked(event: Event) -> Event:
    """Return an event with its known fields in their types, without those that have another.

    Numbers that JSON lacks are read back as floats.
    """
    out = {}
    for name, value in event.items():
        read = _FIELDS.get(name)
        if read is not None:
            if read is not _number or type(value) is not float:  # as most fields of a log are
                value = read(value)
            if value is _ABSENT:
                continue
        elif isinstance(value, str):
            value = _NON_FINITE.get(value, value)
        out[name] = value
    return out


def number(value: Any) -> float | int | None:
    """Return a value if it is a number that fits a float; None otherwise.

    >>> number("NaN"), number(7), number(True), number("7"), number(10**400)
    (nan, 7, None, None, None)
    """
    kind = type(value)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return value if abs(value) < _LARGEST else None
    return _NON_FINITE.get(value) if kind is str else None


def read(path: Path) -> list[Event]:
    """Return every event in a file, oldest first."""
    return EventReader(path).read()


def current(found: list[Event]) -> list[Event]:
    """Return the events without what a resumed run did again.

    A run that goes on from a checkpoint repeats the steps after it; of those the later count.
    """
    kept: list[Event] = []
    for event in found:
        last = event.get("resumed_step")
        if event["event"] == "prepared" and last is not None:
            kept = [e for e in kept if e["event"] not in OF_A_STEP or (e.get("step") or 0) <= last]
        kept.append(event)
    return kept


OF_A_STEP = frozenset({"log", "eval", "scores", "sample", "checkpoint", "note"})
"""Kinds that a run which goes on from a checkpoint says again."""

_DEEPEST = 50  # levels of lists and objects in one another; serialisers refuse some hundreds
_LARGEST = 2**53  # whole numbers that every reader of JSON keeps exactly
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
    if value is None or (type(value) is int and 0 <= value < _LARGEST):
        return value
    if type(value) is float and value.is_integer() and 0 <= value < _LARGEST:
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


def _numbers(value: Any) -> Any:
    """Read {name: number}."""
    if not isinstance(value, dict):
        return _ABSENT
    pairs = ((name, number(item)) for name, item in value.items())
    return {name: item for name, item in pairs if item is not None}


def _rows(value: Any) -> Any:
    """Read {name: [number of each row]}; of a list that holds anything else nothing is kept."""
    if not isinstance(value, dict):
        return _ABSENT
    lists = {
        name: [number(item) for item in items]
        for name, items in value.items()
        if isinstance(items, list)
    }
    return {name: items for name, items in lists.items() if None not in items}


def _names(value: Any) -> Any:
    """Read {name: text}."""
    if not isinstance(value, dict):
        return _ABSENT
    return {name: item for name, item in value.items() if isinstance(item, str)}


def _answers(value: Any) -> Any:
    """Read [{prompt, text}]."""
    if not isinstance(value, list):
        return _ABSENT
    return [
        one
        for one in value
        if isinstance(one, dict)
        and isinstance(one.get("prompt"), str)
        and isinstance(one.get("text"), str)
    ]


_COUNTS = """step total_steps resumed_step warmup_steps rows eval_rows tokens longest trained_tokens
trainable_parameters total_parameters pid commands_bytes max_new_tokens"""
_NUMBERS = """time process_start_time seconds epoch loss eval_loss learning_rate grad_norm
tokens_per_second memory_bytes seconds_left"""
_TEXTS = """text stage device device_reason dtype dtype_reason model adapter path split command
error"""
_FIELDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_COUNTS.split(), _count),
    **dict.fromkeys(_NUMBERS.split(), _number),
    **dict.fromkeys(_TEXTS.split(), _text),
    "problems": _texts,
    "scores": _numbers,
    "values": _rows,
    "verdicts": _names,
    "versions": _names,
    "samples": _answers,
}
"""How a field is read, by its name; `_ABSENT` where it has another type."""


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value
