from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from nbft.data.processes import imap


def test_results_keep_their_order_and_come_from_other_processes():
    assert list(imap(abs, range(-20, 0), 2)) == list(range(20, 0, -1))
    assert os.getpid() not in set(imap(_pid, range(6), 2))


def _pid(_: int) -> int:
    return os.getpid()


def test_an_error_is_that_of_the_function():
    with pytest.raises(ValueError, match="invalid literal"):
        list(imap(int, ["1", "x", "3"], 2))


def test_what_an_ended_process_leaves_is_computed_here():
    assert list(imap(_ends_elsewhere, [os.getpid()] * 4, 2)) == ["here"] * 4


def _ends_elsewhere(pid: int) -> str:
    if os.getpid() != pid:
        os._exit(1)
    return "here"


def test_what_cannot_be_sent_is_computed_here():
    lock = threading.Lock()  # cannot be pickled
    assert list(imap(lambda n: (lock.locked(), n), range(3), 2)) == [(False, n) for n in range(3)]


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        print("begins")
        from nbft.data.processes import imap
        print(list(imap(abs, [-1, -2, -3], 2)))
        """)
    )
    done = subprocess.run(
        [sys.executable, script], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split("\n") == ["begins", "[1, 2, 3]", ""], done.stderr
