"""Who may read what nbft writes: its owner only, or also the group that a run is shared with.

The folder of a run says it: 0700, or 2750 where it is shared. Whatever is written in it gets the
access of its folder, whatever the umask is. A process of nbft's own sets its umask; in a kernel that
would change every file of the person's, so there modes are set after writing. Where modes mean
nothing (Windows), everything here does nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_SHARED = stat.S_ISGID | stat.S_IRGRP | stat.S_IXGRP


def make_folder(path: Path, *, is_shared: bool = False) -> None:
    """Make a private folder, or one that its group may read; its parents are as usual.

    Raises:
        FileExistsError: There is one already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700)
    _set(path, 0o2750 if is_shared else 0o700)


def private_folder(path: Path) -> Path:
    """Return a folder of nbft's cache; it and its missing parents are made private."""
    if not path.is_dir():
        if not path.parent.is_dir():
            private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    if os.name == "posix" and path.stat().st_uid == os.getuid():
        _set(path, 0o700)
    return path


def inherit(path: Path) -> None:
    """Give a file or a folder the access of the run's folder that it is in.

    Outside of such a folder it keeps its own.
    """
    with contextlib.suppress(OSError):
        mode = path.parent.stat().st_mode
        if _is_of_a_run(mode):
            _inherit(path, is_shared=is_shared(path.parent))


def inherit_all(folder: Path) -> None:
    """Give everything in a folder of a run its access; links are not followed."""
    shared = is_shared(folder)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):  # another user's, or deleted meanwhile
                _inherit(Path(parent, name), is_shared=shared)


def is_shared(folder: Path) -> bool:
    """Whether the folder of a run is shared with its group."""
    try:
        return folder.stat().st_mode & _SHARED == _SHARED
    except OSError:
        return False


def file_mode(folder: Path) -> int:
    """Return the mode of a file in the folder of a run."""
    return 0o640 if is_shared(folder) else 0o600


def own_process(folder: Path | None = None) -> None:
    """Set the umask of a process that does nothing else than a run.

    Args:
        folder: The folder of the run; None while it is not known.
    """
    os.umask(0o027 if folder is not None and is_shared(folder) else 0o077)


def _is_of_a_run(mode: int) -> bool:
    return mode & _SHARED == _SHARED or not mode & 0o077


def _inherit(path: Path, *, is_shared: bool) -> None:
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        _set(path, 0o2750 if is_shared else 0o700)
    elif stat.S_ISREG(mode):
        runs = mode & stat.S_IXUSR  # a program stays one
        _set(path, (0o640 | (runs and 0o110)) if is_shared else 0o600 | runs)


def _set(path: Path, mode: int) -> None:
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
