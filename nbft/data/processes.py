"""Work in several processes, none of them forked from this one.

A process that is forked while a thread holds a lock, of a kernel or a library, may wait for it for
ever. These are new interpreters; they read their work from a pipe and end with it. Called by `tokens`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_AHEAD = 2
"""Items given to each process before the first result is asked for."""


def imap(function: Callable[[Any], Any], items: Iterable[Any], processes: int) -> Iterator[Any]:
    """Yield the results of a function for each item, in order, computed by several processes.

    What a process cannot take, or leaves behind when it ends early, is computed here.

    Args:
        function: Its results, and it itself, can be pickled.
        items: What it is called with.
        processes: How many processes to start; each imports what the function needs.
    """
    try:
        written = pickle.dumps(function)
    except Exception:  # it holds something of this process, such as a class of a notebook
        yield from map(function, items)
        return
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    def work(item: Any) -> Any:
        process = idle.get()
        try:
            return process.ask(item)
        except _EndedError:
            return function(item)
        finally:
            idle.put(process)

    threads = ThreadPoolExecutor(processes, "tokens")
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            idle.put(stack.enter_context(_Process(written)))
        stack.callback(threads.shutdown, cancel_futures=True)
        waiting: deque[Future[Any]] = deque()
        for item in items:
            waiting.append(threads.submit(work, item))
            if len(waiting) > _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _EndedError(Exception):
    """The process has ended."""


class _Process:
    def __init__(self, function: bytes) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )
        with contextlib.suppress(_EndedError):
            self._send(pickle.dumps(sys.path) + function)

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.kill()
        self._process.wait()

    def _send(self, message: bytes) -> None:
        try:
            self._process.stdin.write(message)  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except OSError:
            raise _EndedError from None

    def ask(self, item: Any) -> Any:
        self._send(pickle.dumps(item))
        try:
            is_result, answer = pickle.load(self._process.stdout)  # type: ignore[arg-type]  # noqa: S301 our own process
        except Exception:
            raise _EndedError from None
        if is_result:
            return answer
        raise answer


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    given = sys.stdin.buffer
    sys.path[:] = pickle.load(given)  # noqa: S301 our own process
    function = pickle.load(given)  # noqa: S301
    with contextlib.suppress(EOFError):
        while True:
            item = pickle.load(given)  # noqa: S301
            try:
                answer = pickle.dumps((True, function(item)))
            except Exception as error:
                answer = pickle.dumps((False, error))
            answers.write(answer)
            answers.flush()


if __name__ == "__main__":
    _main()
