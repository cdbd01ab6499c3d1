"""Models made of headers alone, runs made of configs alone, and a hub on this machine."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from huggingface_hub import constants

from nbft.config import Config
from nbft.runs.mark import mark

_LAYERS, _WIDTH, _WORDS = 4, 1024, 32_000


@pytest.fixture
def make_model() -> Callable[..., Path]:
    """Return a function that writes a Llama without its weights: 83 million parameters."""

    def make(folder: Path, architecture: str = "LlamaForCausalLM") -> Path:
        folder.mkdir(parents=True)
        about = {
            "architectures": [architecture],
            "model_type": "llama",
            "hidden_size": _WIDTH,
            "intermediate_size": 4 * _WIDTH,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": 16,
            "vocab_size": _WORDS,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        }
        (folder / "config.json").write_text(json.dumps(about))
        shapes = {"model.embed_tokens.weight": [_WORDS, _WIDTH]}
        for layer in range(_LAYERS):
            for name in "qkvo":
                shapes[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = [_WIDTH, _WIDTH]
            for name in ("gate", "up"):
                shapes[f"model.layers.{layer}.mlp.{name}_proj.weight"] = [4 * _WIDTH, _WIDTH]
            shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = [_WIDTH, 4 * _WIDTH]
        header = json.dumps({name: {"shape": shape} for name, shape in shapes.items()}).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(2**27)  # a hole, which takes no room
        return folder

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a run with some settings."""

    def make(name: str, **sections: Any) -> Path:
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        mark(run)
        Config(**sections).save(run / "config.yaml", full=True)
        return run

    return make


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A config whose runs and files are the test's own."""
    return Config(training={"output_dir": str(tmp_path / "runs")}, compute={"device": "cpu"})


class Hub:
    """A hub that gives the same answer to every question.

    Attributes:
        answer: The answer; a number is the status of an error.
        asked: Paths and queries of the questions.
    """

    def __init__(self) -> None:
        self.answer: Any = []
        self.asked: list[tuple[str, dict[str, list[str]]]] = []


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a hub on this machine, and let huggingface_hub ask it."""
    fake = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            fake.asked.append((url.path, parse_qs(url.query)))
            is_error = isinstance(fake.answer, int)
            self.send_response(fake.answer if is_error else 200)
            self.end_headers()
            self.wfile.write(b"" if is_error else json.dumps(fake.answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield fake
    server.shutdown()
    server.server_close()
