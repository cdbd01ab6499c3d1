"""What every test has: a cache of its own for what nbft derives, and this machine's models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nbft.models.find import cache_folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, and those of the one JupyterLab in one as well."""
    for item in items:
        group = "browser" if "browser" in item.path.parts else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokens that another version of the code has cut must not be taken for ours."""
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    own = tmp_path_factory.mktemp("cache")
    (own / "models").symlink_to(models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBFT_CACHE", str(own))
        patch.setenv("NBFT_SPARE_WORKER", "off")  # its imports would slow other tests down
        yield
