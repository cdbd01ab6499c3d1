"""A server of a hub: its base URL, runs that may only be looked at, and who may do what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from jupyter_server.auth import Authorizer

from nbft import events
from nbft.config import Config
from nbft.processes import identity
from nbft.runs import Run

from .conftest import Server, serving
from .test_server import id_of, make_run, requests_to_every_route


class OnlyReading(Authorizer):
    """Permits looking and nothing else, and notes what it was asked."""

    asked: ClassVar[set[tuple[str, str]]] = set()

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        self.asked.add((action, resource))
        return action == "read"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as JupyterHub starts one, with the runs of a class."""
    home = tmp_path_factory.mktemp("hub")
    options = ("--NbftServer.shared_roots=class", f"--NbftServer.shared_roots={home / 'more'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
        with serving(home, *options, base_url="/user/ada/") as running:
            yield running


@pytest.fixture
def of_the_class(hub: Server, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """The id and the folder of a failed run of a class."""
    name = f"shared-{abs(hash(request.node.name))}"
    run = make_run(hub.root / "class", name, ended=None)
    events.append(run.events_path, "failed", step=1, problems=["No memory."], out_of_memory=True)
    return id_of(hub, name), run.path


def changes(run_id: str) -> list[tuple[str, str]]:
    """Return every request that changes a run."""
    return [pair for pair in requests_to_every_route(run_id) if pair[0] != "GET"]


def test_the_base_url_of_a_hub(hub: Server) -> None:
    make_run(hub.root / "runs", "own")
    own = id_of(hub, "own")
    assert hub.ask(f"runs/{own}").body["allowed"] == ["delete"]
    assert hub.ask(f"runs/{own}", "DELETE").status == 204


def test_runs_of_a_class_are_shown(hub: Server, of_the_class: tuple[str, Path]) -> None:
    run_id, path = of_the_class
    listed = hub.ask(f"runs?search={quote(path.name)}").body["runs"]
    assert [run["allowed"] for run in listed] == [[]]
    about = hub.ask(f"runs/{run_id}").body
    assert (about["status"], about["problems"], about["fixes"]) == ("failed", ["No memory."], [])
    for what in ("events", "state", "log"):
        assert hub.ask(f"runs/{run_id}/{what}").status == 200


def test_runs_of_a_class_take_no_command(hub: Server, of_the_class: tuple[str, Path]) -> None:
    run_id, path = of_the_class
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert changes(run_id)
    for method, route in changes(run_id):
        answer = hub.ask(route, method, {"command": "stop", "fix": 0})
        assert answer.status == 403
        assert answer.body["message"] == (
            f"{path.name}: is in a shared folder, whose runs can be looked at but not changed."
        )
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_a_shared_folder_that_is_missing_or_closed_breaks_nothing(hub: Server) -> None:
    assert not (hub.root.parent / "more").exists()
    assert hub.ask("runs").status == 200


@pytest.fixture(scope="module")
def for_looking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    name = f"{OnlyReading.__module__}.{OnlyReading.__name__}"
    home = tmp_path_factory.mktemp("looking")
    with serving(home, f"--ServerApp.authorizer_class={name}") as running:
        yield running


def test_an_authorizer_that_permits_looking_only(for_looking: Server) -> None:
    run = make_run(for_looking.root / "runs", "kept")
    kept = id_of(for_looking, "kept")
    OnlyReading.asked.clear()
    # Whichever method comes first must not decide for the others.
    for method, route in sorted(requests_to_every_route(kept)) * 2:
        answer = for_looking.ask(route, method, {"command": "stop", "fix": 0})
        if method == "GET":
            assert answer.status in (200, 400), route
        else:
            assert answer.status == 403
            assert "not authorized to write on resource: nbft" in answer.body["message"]
    assert OnlyReading.asked == {("read", "nbft"), ("write", "nbft")}
    assert run.path.is_dir()
    assert not (run.path / "commands.jsonl").exists()


def test_a_run_of_another_machine_is_listed_with_its_host(hub: Server) -> None:
    path = hub.root / "runs" / "far"
    path.mkdir(parents=True)
    Config(model={"model_name": "m"}, data={"path": "/a.jsonl"}).save(path / "config.yaml")
    elsewhere = {**identity(), "host": "gpu-7", "machine": "x", "boot": "x"}
    events.append(Run(path).events_path, "started", **elsewhere, model="m")
    far = id_of(hub, "far")
    about = hub.ask(f"runs/{far}").body
    assert (about["status"], about["host"]) == ("running", "gpu-7")
    answer = hub.ask(f"runs/{far}", "DELETE")
    assert (answer.status, answer.body["message"]) == (
        409,
        "far: is running on gpu-7. Stop it before you delete it.",
    )
