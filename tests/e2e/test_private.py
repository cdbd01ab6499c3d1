"""A run is its owner's alone, or shared with a group, whatever the umask is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nbft

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")


@pytest.fixture(params=[0o000, 0o077], ids=["umask 000", "umask 077"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    assert os.umask(before) == request.param, "a run has changed the umask of its kernel"


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """Return the modes of a folder and the folders in it, and those of the files."""
    folders, files = {mode(folder)}, set()
    for parent, inner, names in os.walk(folder):
        folders |= {mode(Path(parent, name)) for name in inner}
        files |= {mode(Path(parent, name)) for name in names}
    return folders, files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_run_in_the_kernel_is_private(train: Callable[..., nbft.Run], umask: int) -> None:
    run = train(
        training__max_steps=2,
        checkpoint__save_steps=1,
        logging__log_model_summary=True,
        tracking__report_to=["tensorboard"],
    )
    assert run.status == "completed"
    assert {"data", "checkpoints", "adapter", "report.html", "model.txt"} <= {
        path.name for path in run.path.iterdir()
    }
    assert modes(run.path) == ({0o700}, {0o600})
    run.report()
    assert modes(run.path) == ({0o700}, {0o600})


def test_a_shared_run_in_the_kernel_is_readable_for_its_group(
    train: Callable[..., nbft.Run], umask: int
) -> None:
    run = train(training__max_steps=2, checkpoint__save_steps=1, training__share_with_group=True)
    run.report()
    assert modes(run.path) == ({0o2750}, {0o640})


@pytest.mark.parametrize(
    ("is_shared", "expected"), [(False, ({0o700}, {0o600})), (True, ({0o2750}, {0o640}))]
)
def test_a_run_in_the_background_is_so_too(
    make_config: Callable[..., nbft.Config],
    umask: int,
    is_shared: bool,
    expected: tuple[set[int], set[int]],
) -> None:
    config = make_config(
        training__max_steps=2, checkpoint__save_steps=1, training__share_with_group=is_shared
    )
    run = nbft.submit(config)
    run.wait()
    assert run.status == "completed", run.log_tail()
    assert modes(run.path) == expected
