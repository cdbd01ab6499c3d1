"""What every test has: a cache of its own for what nbft derives, and this machine's models."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from nbft.models.find import cache_folder


def pytest_configure() -> None:
    """Hear interrupts: a shell starts with them ignored what it puts in the background, and the
    processes that tests interrupt would inherit it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class OneFileInOneProcess(LoadScopeScheduling):
    """Keeps the tests of a file in one process, and those of the one JupyterLab in one as well."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "browser" if file.startswith("tests/browser/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneFileInOneProcess:
    """Return what decides which process runs a test."""
    return OneFileInOneProcess(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokens that another version of the code has cut must not be taken for ours."""
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    own = tmp_path_factory.mktemp("cache")
    (own / "models").symlink_to(models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBFT_CACHE", str(own))
        patch.setenv("NBFT_CONSENT", str(own / "allowed"))
        patch.setenv("NBFT_SPARE_WORKER", "off")  # its imports would slow other tests down
        yield
