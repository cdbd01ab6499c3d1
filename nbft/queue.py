"""The queue of a kind of device: each run takes those that it needs, in order of submission.

A ticket is a small file: `KIND-0-…` holds devices, `KIND-1-…` waits. It names its process, so they
are free again when that process dies. Only processes that this machine can look up count. A run
takes all that it needs at once, and none takes a device that one before it waits for: so each gets
its turn.
The queue may be shared by the users of a machine: in a folder with the sticky bit (mode 1777) each
removes only tickets of their own, and of another's ticket nothing is used but its process, its owner
and its devices. Loads nothing heavy.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbft import events
from nbft.errors import RunError
from nbft.models.find import cache_folder
from nbft.processes import Process, identity

_POLL_SECONDS = 0.2
_BEAT_SECONDS = 20.0
_LOCK_SECONDS = 60.0  # a lock is held for milliseconds

_NAME = re.compile(r"(?P<device>.+)-(?P<state>[01])-(?P<number>\d{10})-(?P<key>[0-9a-f]{16})\.json")
_TRAINS = re.compile(r"nbft\.launchers\.(worker|supervisor) \S|^nbft: (training|supervising) ")
_LARGEST_NUMBER = 10**10 - 1
_LARGEST_TICKET_BYTES = 16_384
# Others may put links and pipes into a shared folder.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Ticket:
    """A place in the queue of a kind of device.

    Args:
        device: The kind, such as cpu or cuda.
        run: Folder of the run that waits.
        among: Returns the names of the devices that it may use, those to take first in front; ()
            where they have none, as the CPU. Such a run waits for all others of its kind, and they
            wait for it.
        needs: How many of them it takes; all if None.

    Attributes:
        uses: Names of those that it has taken; () where they have none.
        is_replaced: Whether somebody removed the ticket, so that the run took a new one.

    Raises:
        RunError: There are fewer devices than it needs, or the folder of the queue cannot be used.
    """

    def __init__(
        self,
        device: str,
        run: Path,
        among: Callable[[], Sequence[str]] = tuple,
        needs: int | None = 1,
    ) -> None:
        self._run = run
        self._device = _key_of(device)
        self._in_order = among
        self._among = tuple(among())
        self._needs = len(self._among) if needs is None else needs
        if self._among and self._needs > (number := len(self._among)):
            there = f"there {'is' if number == 1 else 'are'} {number} here"
            raise RunError(
                f"It needs {needs} GPUs, and {there}. Start a new run with fewer processes."
            )
        self.uses: tuple[str, ...] = ()
        self._folder = queue_folder()
        self._state = 1
        self._process = identity()
        self.is_replaced = False
        self._enter()

    def _enter(self) -> None:
        """Write a new ticket, at the end of the queue."""
        _make(self._folder)
        self._key = secrets.token_hex(8)
        with _locked(self._folder):
            taken = [name.number for name, _ in _tickets(self._folder, self._device)]
            number = min(max(taken, default=0) + 1, _LARGEST_NUMBER)
            name = f"{self._device}-{self._state}-{number:010}-{self._key}.json"
            self._write(self._folder / name)

    def _write(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        asks = {"among": self._among, "needs": self._needs, "uses": self.uses}
        about = {**self._process, "run": str(self._run), **asks}
        partial.write_text(json.dumps(about), encoding="utf-8")
        if _is_shared(self._folder):
            partial.chmod(0o644)
        partial.replace(path)

    def _own(self) -> Path | None:
        """Return the file of this ticket; None if somebody removed it."""
        found = (p for name, p in _tickets(self._folder, self._device) if name.key == self._key)
        return next(found, None)

    def take(self) -> str | None:
        """Take the devices if it is this ticket's turn; else return what it waits for, a sentence.

        A ticket that somebody removed is replaced by a new one, and `is_replaced` is set.
        """
        if self._own() is None:
            self._enter()
            self.is_replaced = True
        with _locked(self._folder):
            living = _living(self._folder, self._device)
            ours = next((path for path in living if _Name.of(path).key == self._key), None)
            if ours is None:
                return ""  # removed at this moment; the next call replaces it
            before = living[: living.index(ours)]
            holders = [path for path in before if _Name.of(path).state == 0]
            if (other := self._in_the_way(before)) is not None:
                return self._waits_for(other, holders)
            if self._among:
                free = self._free(before)
                order = dict.fromkeys([*self._in_order(), *self._among])  # of now, after the wait
                self.uses = tuple(name for name in order if name in free)[: self._needs]
                self._write(ours)
            ours.rename(ours.with_name(_renamed(ours, state=0)))
            self._state = 0
        return None

    def _free(self, before: list[Path]) -> list[str]:
        """Return which of its devices no ticket before it holds, or waits for."""
        free = list(self._among)
        for path in before:
            if _Name.of(path).state == 0:
                taken = _names(path, "uses") or free
            else:
                names = _names(path, "among")
                taken = [n for n in free if n in names][: _number(path)] if names else free
            free = [name for name in free if name not in taken]
        return free

    def _in_the_way(self, before: list[Path]) -> Path | None:
        """Return a ticket that this one waits for; None if it is its turn."""
        if not self._among:
            return before[0] if before else None
        if len(self._free(before)) >= self._needs:
            return None
        holders = [path for path in before if _Name.of(path).state == 0]
        if len(self._free(holders)) >= self._needs:
            return before[len(holders)]
        ours = {*self._among}
        return next(path for path in holders if {*(_names(path, "uses") or ours)} & ours)

    def _waits_for(self, other: Path, holders: list[Path]) -> str:
        """Say that the run waits for one that holds devices, or comes before it."""
        run = f"run “{_run_of(other)}”"
        if other not in holders:
            return f"Waiting for {run}, which comes before this one."
        if self._needs > 1:
            free, of = len(self._free(holders)), len(self._among)
            are = "is" if free == 1 else "are"
            used = len(_names(other, "uses")) or of
            return (
                f"Waiting for {self._needs} GPUs: {free} of {of} {are} free, and {run} uses {used}."
            )
        name = "the CPU" if self._device == "cpu" else self._device
        return f"Waiting for {run}, which is using {name}."

    def hand_to(self, pid: int) -> None:
        """Hand the place to another process; it is kept while that process lives."""
        self._process = identity(pid)
        with _locked(self._folder):
            if path := self._own():
                self._write(path)

    def keep(self) -> None:
        """Take the devices again if they were taken and somebody removed the ticket."""
        if self._state == 0 and self._own() is None:
            self._enter()

    def release(self) -> None:
        """Give back the devices, or the place in the queue."""
        with contextlib.suppress(OSError):
            if path := self._own():
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def turn(
    device: str,
    run: Path,
    say: Callable[[str], None],
    give_up: Callable[[], bool],
    *,
    among: Callable[[], Sequence[str]] = tuple,
    needs: int | None = 1,
) -> Iterator[Ticket | None]:
    """Wait for devices, hold them for the block, and give them back.

    Meanwhile the run's events get a new time of change every 20 seconds, so that other machines see
    that it lives.

    Args:
        device: Kind of the device.
        run: Folder of the run.
        say: Called with a sentence when the run ahead changes, or the ticket was removed.
        give_up: Called between checks; returns whether to leave the queue.
        among: As in `Ticket`,
        needs: and so is this.

    Yields:
        The ticket that holds the devices; None after giving up.

    Raises:
        RunError: The folder of the queue cannot be used.
    """
    ticket = Ticket(device, run, among, needs)
    reported = ""
    try:
        with beating(run / "events.jsonl", ticket):
            while True:
                waits_for = ticket.take()
                if ticket.is_replaced:
                    ticket.is_replaced, reported = False, ""
                    say("The ticket in the queue was removed, so the run took a new one.")
                if waits_for is None:
                    break
                if waits_for and waits_for != reported:
                    say(waits_for)
                    reported = waits_for
                if give_up():
                    yield None
                    return
                time.sleep(_POLL_SECONDS)
            yield ticket
    finally:
        ticket.release()


@contextlib.contextmanager
def beating(path: Path, ticket: Ticket | None = None) -> Iterator[None]:
    """Show regularly that this process lives, and keep its place in the queue.

    Args:
        path: The events of its run.
        ticket: Its place; None if it needs none.
    """
    has_ended = threading.Event()

    def beat() -> None:
        while not has_ended.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(path)
            if ticket is not None:
                with contextlib.suppress(OSError, RunError):
                    ticket.keep()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def say_queued(run: Path, device: str, begin: int | None = None) -> events.EventReader:
    """Record that this process supervises a run, and return the reader of its commands.

    Commands for an earlier attempt are skipped. Those written from now on are read, even while
    the worker is still loading.

    Args:
        run: The run's folder.
        device: Kind of the device.
        begin: Where its commands begin in their file, in bytes; at its end if None.
    """
    commands = run / "commands.jsonl"
    if begin is None:
        begin = commands.stat().st_size if commands.exists() else 0
    events.keep_reserve(run)
    about = {**identity(), "python": sys.executable, "device": device, "commands_bytes": begin}
    events.append(run / "events.jsonl", "queued", **about)
    return events.EventReader(commands, begin)


def move_up(run: Path) -> bool:
    """Move a waiting run up by one; return whether there was a place to move to.

    Only tickets of this user change places.
    """
    folder = queue_folder()
    if not folder.is_dir():
        return False
    with _locked(folder):
        devices = {name.device for name, _ in _tickets(folder)}
        for device in devices:
            living = _living(folder, device)
            waiting = [path for path in living if _Name.of(path).state == 1 and _is_ours(path)]
            for before, path in zip(waiting, waiting[1:], strict=False):
                if _about(path).get("run") == str(run):
                    number, earlier = _Name.of(path).number, _Name.of(before).number
                    before.rename(before.with_name(_renamed(before, number=number)))
                    path.rename(path.with_name(_renamed(path, number=earlier)))
                    return True
    return False


def holder(device: str, name: str = "") -> Path | None:
    """Return the folder of the run that uses a device now; None for none, or another user's.

    Args:
        device: Kind of the device.
        name: Which of that kind; any if "".
    """
    for state, path in _tickets(queue_folder(), _key_of(device)):
        uses = _names(path, "uses")
        if name and uses and name not in uses:
            continue
        if state.state == 0 and _is_ours(path) and _lives(path):
            return Path(str(_about(path).get("run", "")))
    return None


def in_use(device: str) -> set[str]:
    """Return the names of the devices of a kind that runs hold."""
    return {name for _, names in held(device) for name in names}


def held(device: str) -> list[tuple[str, list[str]]]:
    """Return the runs that hold devices of a kind: the name of each, and those of its devices.

    Of another user's run only whose it is; no names where the devices have none, as the CPU.
    """
    with contextlib.suppress(OSError):
        tickets = _tickets(queue_folder(), _key_of(device))
        mine = [path for name, path in tickets if name.state == 0 and _lives(path)]
        return [(_run_of(path), _names(path, "uses")) for path in mine]
    return []


def queue_folder() -> Path:
    """Return the folder of the queues: $NBFT_QUEUE, else queue in nbft's cache."""
    return Path(os.environ.get("NBFT_QUEUE") or cache_folder() / "queue")


def other_users() -> list[str]:
    """Return the names of other users who train with nbft on this machine.

    They are known by their tickets in a shared queue and by the processes of background runs.
    """
    import psutil

    names = set()
    with contextlib.suppress(OSError):
        tickets = _tickets(queue_folder())
        names = {_user(path) for _, path in tickets if not _is_ours(path) and _lives(path)}
    with contextlib.suppress(psutil.Error, KeyError):
        own = psutil.Process().username()
        for process in psutil.process_iter(["username", "cmdline"]):
            about = process.info
            if about["username"] != own and _TRAINS.search(" ".join(about["cmdline"] or ())):
                names.add(about["username"] or "another user")
    return sorted(names)


def _key_of(device: str) -> str:
    """Return the part of a ticket's name that stands for a kind of device."""
    return re.sub(r"[^\w.-]", "_", device)


class _Name(NamedTuple):
    """What the name of a ticket says."""

    device: str
    state: int
    number: int
    key: str

    @classmethod
    def of(cls, path: Path) -> _Name:
        match = _NAME.fullmatch(path.name)
        assert match is not None
        return cls(match["device"], int(match["state"]), int(match["number"]), match["key"])


def _renamed(path: Path, *, state: int | None = None, number: int | None = None) -> str:
    name = _Name.of(path)
    state = name.state if state is None else state
    number = name.number if number is None else number
    return f"{name.device}-{state}-{number:010}-{name.key}.json"


def _tickets(folder: Path, device: str | None = None) -> list[tuple[_Name, Path]]:
    """Return the tickets of a device, or of all, in the order of their turns."""
    try:
        paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    named = sorted((_Name.of(path), path) for path in paths)
    return [pair for pair in named if device in (None, pair[0].device)]


def _living(folder: Path, device: str) -> list[Path]:
    """Return the tickets whose process lives here, the holder first; remove our dead ones."""
    living = []
    for _, path in _tickets(folder, device):
        lives = _lives(path)
        if lives:
            living.append(path)
        elif lives is False and _is_ours(path):
            path.unlink(missing_ok=True)
    return living


def _lives(path: Path) -> bool | None:
    """Whether the process of a ticket lives; None if this machine cannot tell."""
    about = _about(path)
    process = Process.of(about)
    return process.lives() if process else False


def _is_ours(path: Path) -> bool:
    try:
        return not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()
    except OSError:
        return False


def _user(path: Path) -> str:
    """Return the name of a ticket's owner."""
    try:
        return path.owner()
    except (OSError, KeyError, NotImplementedError):
        return "another user"


def _run_of(path: Path) -> str:
    """Return the name of a ticket's run; of another user's only whose it is."""
    if _is_ours(path):
        return Path(str(_about(path).get("run", ""))).name
    return f"of {_user(path)}"


def _names(path: Path, field: str) -> list[str]:
    """Return the names of devices in a field of a ticket; [] if it does not say."""
    names = _about(path).get(field)
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _number(path: Path) -> int:
    """Return how many devices a ticket needs."""
    needs = _about(path).get("needs")
    return needs if isinstance(needs, int) and needs > 0 else 1


def _about(path: Path) -> dict[str, Any]:
    """Return what a ticket says; {} for anything else than a small regular file."""
    try:
        descriptor = os.open(path, _READ)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return {}
            about = json.loads(file.read(_LARGEST_TICKET_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _is_shared(folder: Path) -> bool:
    """Whether an administrator has made the folder for several users: it has the sticky bit."""
    return bool(folder.stat().st_mode & stat.S_ISVTX)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from None


def _unusable(folder: Path, error: OSError) -> RunError:
    reason = (error.strerror or str(error)).lower()
    return RunError(
        f"The queue in {folder} cannot be used: {reason}. Set NBFT_QUEUE to a folder on a local "
        "disk that you may write to."
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases when a process dies.

    Where the file system has no locks, the lock is a file that is created (filelock's soft lock).

    Raises:
        RunError: The folder cannot be used.
    """
    try:
        with _file_lock(folder / "lock"):
            yield
    except OSError as error:
        raise _unusable(folder, error) from None


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        from filelock import FileLock

        with FileLock(path, timeout=_LOCK_SECONDS):
            yield
        return
    descriptor = _opened_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # ENOLCK, EOPNOTSUPP, ENOSYS and others
            from filelock import SoftFileLock

            soft = path.with_suffix(".soft")
            with SoftFileLock(soft, timeout=_LOCK_SECONDS):
                yield
        else:
            yield
    finally:
        os.close(descriptor)


def _opened_lock(path: Path) -> int:
    """Open the lock, which in a shared folder may belong to another user."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if _is_shared(path.parent):
            os.fchmod(descriptor, 0o644)
        return descriptor
    with contextlib.suppress(PermissionError):  # NFS locks only what may be written
        return os.open(path, _READ | os.O_RDWR)
    return os.open(path, _READ)
