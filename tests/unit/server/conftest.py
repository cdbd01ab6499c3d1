"""A real Jupyter server with nbft in a thread of this process, and requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jupyter_server.serverapp import ServerApp
from ruamel.yaml import YAML

TOKEN = "a-token-of-the-tests"
API = YAML(typ="safe").load(files("nbft.server").joinpath("openapi.yaml").read_text())


@dataclass
class Answer:
    status: int
    body: Any


@dataclass
class Server:
    """A Jupyter server with nbft, and requests to it that are checked against openapi.yaml."""

    port: int
    root: Path
    base_url: str = "/"

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        text = body if isinstance(body, str) else None if body is None else json.dumps(body)
        if headers is None:
            headers = {"Authorization": f"token {TOKEN}"}
        connection.request(method, f"{self.base_url}nbft/api/{path}", text, headers)
        reply = connection.getresponse()
        found = reply.read()
        body = json.loads(found, parse_constant=pytest.fail) if found else None
        answer = Answer(reply.status, body)
        connection.close()
        self.check(path.partition("?")[0], method, answer)
        return answer

    def check(self, path: str, method: str, answer: Answer) -> None:
        parts = path.split("/")
        if parts[0] == "runs" and len(parts) > 1:
            parts[1] = "{id}"
        route = "/" + "/".join(parts)
        replies = API["paths"][route][method.lower()]["responses"]
        assert str(answer.status) in replies, f"{method} {route} answers {answer.status}"
        reply = replies[str(answer.status)]
        if "$ref" not in reply:
            assert answer.body is None
            return
        reply = API["components"]["responses"][reply["$ref"].rpartition("/")[2]]
        schema = reply["content"]["application/json"]["schema"]
        jsonschema.validate(
            answer.body,
            {**schema, "components": API["components"]},
            cls=jsonschema.Draft202012Validator,
        )


@contextlib.contextmanager
def serving(home: Path, *arguments: str, base_url: str = "/") -> Iterator[Server]:
    """Run a Jupyter server with nbft in a thread of this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("config", "data", "runtime"):
            patch.setenv(f"JUPYTER_{name.upper()}_DIR", str(home / name))
        root = home / "root"
        root.mkdir()
        loop = asyncio.new_event_loop()
        ready = threading.Event()

        def serve() -> None:
            asyncio.set_event_loop(loop)
            app = ServerApp(allow_root=True)
            app.init_signal = lambda: None  # signals belong to the main thread
            app.initialize(
                argv=[
                    f"--ServerApp.root_dir={root}",
                    f"--ServerApp.port={port}",
                    f"--ServerApp.base_url={base_url}",
                    "--ServerApp.port_retries=0",
                    "--ServerApp.open_browser=False",
                    "--ServerApp.allow_unauthenticated_access=False",
                    "--ServerApp.jpserver_extensions=nbft.server=True",
                    f"--IdentityProvider.token={TOKEN}",
                    *arguments,
                ],
                find_extensions=False,
            )
            ready.set()
            loop.run_forever()
            app.http_server.stop()
            loop.run_until_complete(app._cleanup())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert ready.wait(30)
        wait_until_it_listens(port)
        yield Server(port, root, base_url)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("server")
    (home / "elsewhere").mkdir()
    with serving(home, f"--Nbft.roots={home / 'elsewhere'}") as running:
        yield running


def wait_until_it_listens(port: int, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.01)
