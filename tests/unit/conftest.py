"""A tiny model, and a cache of our own, so that no test sees what this machine happens to hold."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nbft.data.tiny_model import make_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def without_parsers_words() -> Callable[[str], str]:
    """Return a function that leaves a parser's message, which its next version may change, out."""
    return lambda message: re.sub(r"(is not valid \w+) \(.*?\)\.", r"\1.", message)


@pytest.fixture(scope="session")
def cpu_seconds() -> Callable[[Callable[[], object]], float]:
    """Return a function that measures another, to be compared with a second one of the same test.

    An absolute time would only measure how busy the machine is; `benchmarks/` has those.
    """

    def measure(look: Callable[[], object]) -> float:
        began = time.process_time()
        look()
        return time.process_time() - began

    return measure


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No model is on this machine."""
    for name in ("NBFT_CACHE", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Return a function that writes a file and returns its path."""

    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file
