"""The queue of a device: tickets with any name, removed, of others, and without the system's locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nbft import queue
from nbft.errors import RunError
from nbft.processes import identity
from nbft.queue import Ticket, move_up, turn

NOBODY = 65_534


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path / "queue"))
    return tmp_path / "queue"


def tickets(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def using(name: str, device: str = "the CPU") -> str:
    return f"Waiting for run “{name}”, which is using {device}."


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    "name",
    ["a[1]", "[!a]*?", "$HOME", "line\nbreak", "-1-0000000001-x.json", "%s", "ü" * 120, "x" * 255],
)
def test_any_name_of_a_run_holds_and_frees_the_device(folder: Path, name: str) -> None:
    first, second = Ticket("cpu", Path("/runs") / name), Ticket("cpu", Path("/runs/second"))
    assert first.take() is None
    assert second.take() == using(name)
    first.hand_to(os.getpid())
    first.release()
    assert second.take() is None
    second.release()
    assert tickets(folder) == []


def test_the_name_of_a_device_stays_in_the_folder(folder: Path) -> None:
    ticket = Ticket("../../cuda:0", Path("/runs/a"))
    assert [path.parent for path in folder.parent.rglob("*.json")] == [folder]
    assert ticket.take() is None
    ticket.release()


def test_devices_do_not_wait_for_each_other() -> None:
    first, second = Ticket("cuda", Path("/runs/a")), Ticket("cuda-1", Path("/runs/b"))
    assert (first.take(), second.take()) == (None, None)


def after(name: str) -> str:
    return f"Waiting for run “{name}”, which comes before this one."


FOUR = ("GPU-a", "GPU-b", "GPU-c", "GPU-d")


def of_four(name: str, needs: int, among: Sequence[str] = FOUR) -> Ticket:
    return Ticket("cuda", Path("/runs") / name, lambda: among, needs)


def test_each_run_takes_the_gpus_that_it_needs() -> None:
    first, second, third = of_four("first", 1), of_four("second", 2), of_four("third", 1)
    assert (first.take(), second.take(), third.take()) == (None, None, None)
    assert (first.uses, second.uses, third.uses) == (FOUR[:1], FOUR[1:3], FOUR[3:])
    assert queue.in_use("cuda") == set(FOUR)
    fourth = of_four("fourth", 1)
    assert fourth.take() == using("first", "cuda")
    third.release()
    assert fourth.take() is None
    assert fourth.uses == FOUR[3:]


def test_a_run_that_needs_several_is_not_overtaken() -> None:
    first, second, third = of_four("first", 3), of_four("second", 2), of_four("third", 1)
    assert first.take() is None
    assert second.take() == ("Waiting for 2 GPUs: 1 of 4 is free, and run “first” uses 3.")
    assert third.take() == after("second")
    assert second.uses == ()
    first.release()
    assert (second.take(), third.take()) == (None, None)
    assert (second.uses, third.uses) == (FOUR[:2], FOUR[2:3])


def test_a_kernel_waits_for_the_gpu_that_it_computes_on() -> None:
    background = of_four("background", 1)
    assert background.take() is None
    kernel = of_four("kernel", 1, FOUR[:1])
    assert kernel.take() == using("background", "cuda")
    background.release()
    assert kernel.take() is None
    assert kernel.uses == FOUR[:1]


def test_a_kernel_that_waits_for_its_gpu_holds_up_nobody_else() -> None:
    assert of_four("background", 1, FOUR[:1]).take() is None
    kernel = of_four("kernel", 1, FOUR[:1])
    assert kernel.take() == using("background", "cuda")
    other = of_four("other", 3)
    assert other.take() is None
    assert other.uses == FOUR[1:]


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(RunError, match=r"^It needs 9 GPUs, and there are 4 here\."):
        of_four("big", 9)


def test_a_run_of_an_older_version_takes_all() -> None:
    ticket = Ticket("cuda", Path("/runs/old"), lambda: FOUR, None)
    assert ticket.take() is None
    assert ticket.uses == FOUR


def test_the_preferred_ones_are_taken_first() -> None:
    found = iter([FOUR, ("GPU-c", "GPU-gone", "GPU-a")])
    ticket = Ticket("cuda", Path("/runs/a"), lambda: next(found), 3)
    assert ticket.take() is None
    assert ticket.uses == ("GPU-c", "GPU-a", "GPU-b")


def test_runs_without_names_and_runs_with_them_take_turns() -> None:
    """As when the driver does not answer for once."""
    named, unnamed = of_four("named", 1), Ticket("cuda", Path("/runs/unnamed"))
    assert named.take() is None
    assert unnamed.take() == using("named", "cuda")
    named.release()
    assert unnamed.take() is None
    assert unnamed.uses == ()
    assert of_four("third", 1).take() == using("unnamed", "cuda")


def test_gpus_stay_taken_when_the_ticket_is_handed_over_or_removed(folder: Path) -> None:
    ticket = of_four("first", 3)
    assert ticket.take() is None
    ticket.hand_to(os.getpid())
    assert queue.in_use("cuda") == set(FOUR[:3])
    tickets(folder)[0].unlink()
    ticket.keep()
    assert queue.in_use("cuda") == set(FOUR[:3])


@pytest.mark.parametrize("uses", [None, "GPU-a", [], [1], {}])
def test_a_ticket_that_does_not_say_what_it_uses_holds_all(folder: Path, uses: Any) -> None:
    assert of_four("first", 1).take() is None
    (path,) = tickets(folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), "uses": uses}))
    assert of_four("second", 1).take() == using("first", "cuda")


def test_several_threads_take_different_gpus() -> None:
    waiting = [of_four(f"run-{n}", 1) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            list(pool.map(Ticket.take, waiting))
    taken = [ticket.uses for ticket in waiting if ticket.uses]
    assert sorted(taken) == [(name,) for name in FOUR]


def test_a_run_moves_up() -> None:
    made = [Ticket("cpu", Path(f"/runs/[{name}]")) for name in "abc"]
    assert made[0].take() is None
    assert move_up(Path("/runs/[c]"))
    assert made[2].take() == using("[a]")
    made[0].release()
    assert made[1].take() == after("[c]")
    assert made[2].take() is None
    assert not move_up(Path("/runs/[b]"))


@pytest.mark.parametrize("what", ["ticket", "folder"])
def test_a_removed_ticket_is_noticed_and_replaced(folder: Path, what: str) -> None:
    holder = Ticket("cpu", Path("/runs/first"))
    assert holder.take() is None
    said: list[str] = []
    leave = threading.Event()
    took = threading.Event()

    def wait() -> None:
        with turn("cpu", Path("/runs/second"), said.append, leave.is_set) as ticket:
            if ticket is not None:
                took.set()

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: len(said) == 1)
    for path in tickets(folder)[1 if what == "ticket" else 0 :]:
        path.unlink()
    if what == "folder":
        (folder / "lock").unlink()
        folder.rmdir()
        assert took.wait(10)
    else:
        until(lambda: len(said) == 3)
        holder.release()
        assert took.wait(10)
    thread.join(10)
    assert said[0] == "Waiting for run “first”, which is using the CPU."
    assert said[1] == "The ticket in the queue was removed, so the run took a new one."
    assert said[2:] == said[:1] * (what == "ticket")
    assert tickets(folder) == []


def test_whoever_holds_the_device_keeps_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_BEAT_SECONDS", 0.02)
    with turn("cpu", Path("/runs/first"), print, lambda: False):
        (path,) = tickets(folder)
        path.unlink()
        until(lambda: tickets(folder))
        assert Ticket("cpu", Path("/runs/second")).take() == using("first")
    assert [json.loads(p.read_text())["run"] for p in tickets(folder)] == ["/runs/second"]


def test_a_run_shows_that_it_lives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_BEAT_SECONDS", 0.02)
    run = folder.parent / "run"
    run.mkdir()
    path = run / "events.jsonl"
    path.touch()
    with turn("cpu", run, print, lambda: False):
        os.utime(path, (1.0, 1.0))
        until(lambda: path.stat().st_mtime > 1.0)
    path.unlink()
    assert not path.exists()  # and nothing makes it again


def put(folder: Path, key: str, about: dict[str, Any], state: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"cpu-{state}-0000000001-{key * 16}.json"
    path.write_text(json.dumps(about))
    return path


@pytest.mark.parametrize("place", [{"host": "gpu-7", "boot": "other"}, {"namespace": 1}])
def test_a_ticket_of_another_machine_neither_counts_nor_is_removed(
    folder: Path, place: dict[str, Any]
) -> None:
    other = put(folder, "a", {**identity(), **place, "run": "/runs/other"})
    ticket = Ticket("cpu", Path("/runs/here"))
    assert ticket.take() is None
    assert other.exists()


@pytest.mark.parametrize(
    "change", [{"process_start_time": 1.0}, {"boot": "the boot before"}, {"pid": "me"}]
)
def test_a_ticket_of_a_dead_process_is_removed(folder: Path, change: dict[str, Any]) -> None:
    dead = put(folder, "a", {**identity(), **change, "run": "/runs/dead"})
    assert Ticket("cpu", Path("/runs/here")).take() is None
    assert not dead.exists()


ERRORS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL]


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = Ticket("cpu", Path("/runs/first")), Ticket("cpu", Path("/runs/second"))
    assert second.take() == after("first")
    assert first.take() is None
    first.release()
    assert second.take() is None


CRASH = """
import fcntl, os, sys
def refuse(*_):
    raise OSError(37, "No locks available")
fcntl.flock = refuse
from pathlib import Path
from nbft import queue
with queue._locked(Path(sys.argv[1])):
    os._exit(0)
"""


def test_a_crash_leaves_no_lock_where_the_system_has_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    subprocess.run([sys.executable, "-c", CRASH, str(folder)], check=True)
    assert (folder / "lock.soft").exists()
    test_a_file_system_without_locks(monkeypatch, errno.ENOLCK)


COUNT = """
import fcntl, sys, time
from pathlib import Path
from nbft import queue
if sys.argv[2] == "soft":
    def refuse(*_):
        raise OSError(37, "No locks available")
    fcntl.flock = refuse
counter = Path(sys.argv[1]) / "counter"
for _ in range(50):
    with queue._locked(Path(sys.argv[1])):
        number = int(counter.read_text())
        time.sleep(0.0005)
        counter.write_text(str(number + 1))
"""


@pytest.mark.parametrize("kind", ["native", "soft"])
def test_one_at_a_time_holds_the_lock(folder: Path, kind: str) -> None:
    folder.mkdir()
    (folder / "counter").write_text("0")
    code = [sys.executable, "-c", COUNT, str(folder), kind]
    processes = [subprocess.Popen(code) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (folder / "counter").read_text() == "150"


def test_a_queue_that_cannot_be_used_is_said(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(RunError, match=r"The queue in .*queue cannot be used: .*NBFT_QUEUE"):
        Ticket("cpu", Path("/runs/a"))


# A queue that an administrator shares among the users of a machine.

is_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root")


@pytest.fixture
def shared(folder: Path) -> Path:
    folder.mkdir()
    folder.chmod(0o1777)
    for parent in folder.parents[:4]:  # pytest's folders are its user's, xdist's one more
        parent.chmod(parent.stat().st_mode | 0o011)
    return folder


def test_tickets_of_a_shared_queue_can_be_read_by_all(shared: Path) -> None:
    before = os.umask(0o077)
    try:
        ticket = Ticket("cpu", Path("/runs/a"))
        assert ticket.take() is None
        ticket.hand_to(os.getpid())
    finally:
        os.umask(before)
    modes = {path.name.partition("-")[0]: path.stat().st_mode & 0o777 for path in shared.iterdir()}
    assert modes == {"cpu": 0o644, "lock": 0o644}


@is_root
def test_a_ticket_of_another_user_counts_while_its_process_lives(shared: Path) -> None:
    other = put(shared, "a", {**identity(), "run": "/home/other/runs/<b>\n[secret]"})
    os.chown(other, NOBODY, NOBODY)
    ticket = Ticket("cpu", Path("/runs/here"))
    assert ticket.take() == using("of nobody")
    assert queue.other_users() == ["nobody"]
    other.write_text(json.dumps({**identity(), "process_start_time": 1.0}))
    assert ticket.take() is None
    assert other.exists()  # it is not ours to remove


@is_root
@pytest.mark.parametrize("kind", ["fifo", "link", "zero", "garbage", "huge", "folder", "deep"])
def test_what_others_put_into_a_shared_queue_breaks_nothing(shared: Path, kind: str) -> None:
    path = shared / f"cpu-0-9999999999-{'a' * 16}.json"
    target = shared.parent / "target.json"
    target.write_text(json.dumps(identity()))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(target)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        text = {"garbage": b"\xff{", "huge": b" " * 10**7, "deep": b"[" * 9_000}[kind]
        path.write_bytes(text)
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    for name in ("a", "b"):
        ticket = Ticket("cpu", Path("/runs") / name)
        assert ticket.take() is None
        ticket.release()
    assert path.is_symlink() or path.exists()


OTHER_WORKER = """
import os, sys, time
os.setgid(65534); os.setuid(65534)
sys.stdout.write("ready\\n"); sys.stdout.flush()
time.sleep(60)
"""


@is_root
@pytest.mark.parametrize(
    ("arguments", "trains"), [(["/home/nobody/runs/a"], True), ([], False)], ids=["run", "spare"]
)
def test_a_background_run_of_another_user_is_seen_without_a_shared_queue(
    folder: Path, arguments: list[str], trains: bool
) -> None:
    command = [sys.executable, "-c", OTHER_WORKER, "-m", "nbft.launchers.worker", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert queue.other_users() == (["nobody"] if trains else [])
        worker.kill()


OTHER_USER = """
import fcntl, os, pwd, sys
import nbft.queue  # nobody may not read the files of this Python
os.setgid(65534); os.setuid(65534)
from pathlib import Path
from nbft.queue import Ticket, _living
ticket = Ticket("cpu", Path("/home/nobody/runs/theirs"))
print(ticket.take(), flush=True)
for line in sys.stdin:
    print(ticket.take(), flush=True)
"""


@is_root
def test_two_users_take_turns(shared: Path) -> None:
    mine = Ticket("cpu", Path("/runs/mine"))
    assert mine.take() is None
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_USER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == f"{using('of root')}\n"
        mine.release()
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "None\n"
        again = Ticket("cpu", Path("/runs/again"))
        assert again.take() == using("of nobody")
        other.stdin.close()
        other.wait(10)
        assert again.take() is None
    assert len(tickets(shared)) == 2  # their dead one stays: only they remove it
