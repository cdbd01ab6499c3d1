"""Other programs that write or read an export: run beside nbft, said and ended like any stage."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from nbft.export.format import Say

_POLL_SECONDS = 0.1
_SAYING_SECONDS = 1.0
"""How often a long stage is said again, which is when it can be stopped."""

_LEAVING_SECONDS = 10.0
_LOG_BYTES = 20_000


def run_program(
    command: Sequence[str],
    doing: Callable[[bytes], str],
    say: Say,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end; return why it failed, "" if it did not.

    Args:
        command: The program and its arguments.
        doing: What to say of it, from the end of what it has printed.
        say: Called at least once a second; what it raises ends the program.
        environment: Its environment; that of this process when None.
    """
    with tempfile.TemporaryDirectory() as folder:
        log, say_again = Path(folder) / "log", each_second(say)
        with running(command, subprocess.DEVNULL, log, environment) as process:
            while process.poll() is None:
                say_again(lambda: doing(end_of(log)))
                time.sleep(_POLL_SECONDS)
        if process.returncode == 0:
            return ""
        if process.returncode < 0:
            return f"it was ended by signal {signal.Signals(-process.returncode).name}"
        return reason(log) or "it said nothing"


def each_second(say: Say) -> Callable[[Callable[[], str]], None]:
    """Return a function that asks for a sentence and says it, but again only after a while."""
    said = float("-inf")

    def say_again(sentence: Callable[[], str]) -> None:
        nonlocal said
        if time.monotonic() - said >= _SAYING_SECONDS:
            said = time.monotonic()
            say(sentence())

    return say_again


@contextlib.contextmanager
def running(
    command: Sequence[str], stdin: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program whose output goes to a file; it is ended when the block is left.

    Args:
        command: The program and its arguments.
        stdin: Its standard input; a pipe is closed to end it, which otherwise is killed.
        log: File for what it prints.
        environment: Its environment; that of this process when None.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=stdin, stdout=output, stderr=output, env=environment
        )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        else:
            process.kill()
        try:
            process.wait(_LEAVING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_of(log: Path) -> bytes:
    """Return the end of what a program has written."""
    return log.read_bytes()[-_LOG_BYTES:]


def reason(log: Path) -> str:
    """Return the line in which a program says what went wrong; its last line if none does.

    A program in Python says it last.
    """
    lines = [line.strip() for line in end_of(log).decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    if any(line.startswith("Traceback ") for line in lines):
        return lines[-1][:300]
    said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
    return said[said.lower().find("error") :][:300] if "error" in said.lower() else said[:300]
