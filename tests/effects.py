"""Does each proof notice when its setting stops working?

`python -m tests.effects [NAME…]` (or `make proofs`) runs every test that `nbft/interop/proofs.yaml`
names: once as it is, where it must pass, then once for each setting that it proves with the effect
of this setting taken away, where it must fail. A proof that passes both times proves nothing.

What "taken away" means:

- A setting reads as its default wherever nbft reads it. The tests still see the value that they
  set, and files still hold it.
- A key of a free block, such as `callbacks.callbacks.printer`, is missing from the block.
- In the tests of `tests/unit/config`, which prove what is checked, any value is accepted too.
- A parameter of another system (`oumi:…`) is missing from the importer's table, a block with the
  keys in it, and our setting reads as its default.
- An option of the command line keeps its default.

Only `nbft.config`, the importer's tables, the command line and pytest are used, so no change to
training can outdate this script.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbft.cli import config_app
from nbft.config import Config
from nbft.config.base import Section, section_type
from nbft.interop import importer
from nbft.interop.proofs import proofs

ROOT = Path(__file__).parents[1]
TESTS = f"{Path(__file__).parent}{os.sep}"
CHECKING = "tests/unit/config/"
OPTIONS = {
    "oumi:cli: oumi config create train --model": "model",
    "oumi:cli: oumi config create train --training-type": "method",
    "oumi:cli: oumi config create train --output": "output",
}
"""Parameters that are options of `nbft config create`."""


def locate(path: str) -> tuple[type[Section], str, list[str]]:
    """Return the section that holds a setting, the setting's name, and the keys below it.

    >>> locate("data.train.datasets[].seed")[:2]
    (<class 'nbft.config.data.Dataset'>, 'seed')
    >>> locate("callbacks.callbacks.printer")[1:]
    ('callbacks', ['printer'])
    """
    section: type[Section] = Config
    *parts, last = path.replace("[]", "").replace("[0]", "").split(".")
    for number, part in enumerate(parts):
        inner, _ = section_type(section.model_fields[part].annotation)
        if inner is None:
            return section, part, [*parts[number + 1 :], last]
        section = inner
    return section, last, []


def missing(block: Any, keys: list[str]) -> Any:
    """Return a copy of a block of free keys without one of them."""
    if not isinstance(block, dict) or keys[0] not in block:
        return block
    if len(keys) == 1:
        return {key: value for key, value in block.items() if key != keys[0]}
    return {**block, keys[0]: missing(block[keys[0]], keys[1:])}


@contextlib.contextmanager
def unread(path: str) -> Iterator[None]:
    """Let a setting read as its default, except in the tests themselves."""
    section, name, keys = locate(path)
    default = section.model_fields[name]

    def read(self: Section, wanted: str) -> Any:
        value = object.__getattribute__(self, wanted)
        if wanted != name or sys._getframe(1).f_code.co_filename.startswith(TESTS):
            return value
        return missing(value, keys) if keys else default.get_default(call_default_factory=True)

    section.__getattribute__ = read  # type: ignore[method-assign]
    try:
        yield
    finally:
        del section.__getattribute__


@contextlib.contextmanager
def unchecked(path: str) -> Iterator[None]:
    """Let a setting accept any value."""
    section, name, _ = locate(path)
    info = section.model_fields[name]
    kept = info.annotation, info.metadata

    def accept(annotation: Any, metadata: list[Any]) -> None:
        info.annotation, info.metadata = annotation, metadata
        section.model_rebuild(force=True)
        Config.model_rebuild(force=True)

    accept(Any, [])
    try:
        yield
    finally:
        accept(*kept)


@contextlib.contextmanager
def unknown(system: str, parameter: str) -> Iterator[None]:
    """Let the importer not know a parameter of another system."""
    known = importer.system(system)
    table = known.table

    def is_known(entry: Any) -> bool:
        """Of a block, the keys in it are its effect."""
        names = (name.replace("[]", "") for name in (entry.name, entry.path))
        return not any(f"{name}.".startswith(f"{parameter}.") for name in names)

    rest = tuple(filter(is_known, table))
    object.__setattr__(known, "table", rest)
    importer._paths.cache_clear()
    try:
        yield
    finally:
        object.__setattr__(known, "table", table)
        importer._paths.cache_clear()


@contextlib.contextmanager
def unheard(option: str) -> Iterator[None]:
    """Let `nbft config create` take the default of an option, whatever is given."""
    command = next(c for c in config_app.registered_commands if c.name == "create")
    create = command.callback
    assert create is not None
    default = inspect.signature(create).parameters[option].default

    @functools.wraps(create)
    def deaf(**options: Any) -> Any:
        return create(**{**options, option: default})

    command.callback = deaf
    try:
        yield
    finally:
        command.callback = create


def without(name: str, test: str) -> contextlib.ExitStack:
    """Take away the effect of what a proof is named for, until the stack is closed."""
    stack = contextlib.ExitStack()
    path = name
    if name in OPTIONS:
        stack.enter_context(unheard(OPTIONS[name]))
        return stack
    if ":" in name:
        system, _, parameter = name.partition(":")
        table = importer.system(system).table
        entry = next((e for e in table if parameter in (e.name, e.path)), None)
        path = entry.setting.replace("<split>", "train") if entry else ""
        stack.enter_context(unknown(system, parameter))
    if path:
        stack.enter_context(unread(path))
        if test.startswith(CHECKING):
            stack.enter_context(unchecked(path))
    return stack


class Effects:
    """A pytest plugin: repeats each proof without what it proves, and notes how it ends.

    Attributes:
        names: Test → the names that it proves.
        ends: (test, name or None) → how its cases ended, each with the line that failed.
    """

    def __init__(self, names: dict[str, list[str]]) -> None:
        self.names = names
        self.ends: dict[tuple[str, str | None], list[tuple[str, str]]] = defaultdict(list)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Repeat a test: as it is, then without each."""
        names = self.names.get(metafunc.definition.nodeid, [])
        metafunc.parametrize("effect", [None, *names], indirect=True, ids=str)

    @pytest.fixture(autouse=True)
    def effect(
        self,
        request: pytest.FixtureRequest,
        own_cache: None,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Iterator[None]:
        """Take the effect away, and what earlier repetitions have left in the cache."""
        test = request.node.nodeid.partition("[")[0]
        if request.param and any(end == "failed" for end, _ in self.ends[test, request.param]):
            pytest.skip("another case has failed already")
        cache = tmp_path_factory.mktemp("cache")
        (cache / "models").symlink_to(Path(os.environ["NBFT_CACHE"]) / "models")
        monkeypatch.setenv("NBFT_CACHE", str(cache))
        monkeypatch.chdir(cache)  # the default of training.output_dir lies in here
        with without(request.param, test) if request.param else contextlib.nullcontext():
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> Any:
        """Note how a case ended."""
        report = yield
        if report.when == "call" or not report.passed:
            said = ""
            if report.failed and call.excinfo:
                said = call.excinfo.exconly().splitlines()[0]
            key = item.nodeid.partition("[")[0], item.callspec.params["effect"]
            self.ends[key].append((report.outcome, said))
        return report

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        """Show that it goes on, but count nothing: here a failure is what is hoped for."""
        return "", "." if report.when == "call" else "", ""

    def verdict(self, test: str, name: str) -> tuple[str, str]:
        """Say what taking an effect away did to its proof, and the first line of the failure."""
        usual = {end for end, _ in self.ends[test, None]}
        ends = self.ends[test, name]
        failure = next((said for end, said in ends if end == "failed"), None)
        if "failed" in usual or not self.ends[test, None]:
            return "is broken", next((s for end, s in self.ends[test, None] if end == "failed"), "")
        if usual == {"skipped"}:
            return "could not run", ""
        return ("failed", failure) if failure is not None else ("did not fail", "")


def main(wanted: Iterable[str]) -> int:
    """Print a table of the proofs; the names are settings, parameters, files or tests."""
    wanted = tuple(wanted)
    names: dict[str, list[str]] = defaultdict(list)
    for name, proof in proofs().items():
        if not wanted or name in wanted or any(word in proof.test for word in wanted):
            names[proof.test].append(name)
    if not names:
        sys.stderr.write(f"No proof is named {' or '.join(wanted)}.\n")
        return 2
    effects = Effects(names)
    options = "--import-mode=importlib -q --tb=no --no-header --no-summary -p no:cacheprovider"
    options += " -o addopts= -o timeout_method=signal"
    os.chdir(ROOT)
    pytest.main([*options.split(), *names], plugins=[effects])
    rows = [(n, t, *effects.verdict(t, n)) for t, some in names.items() for n in some]
    for name, test, verdict, said in sorted(rows, key=lambda row: row[2] == "failed"):
        sys.stdout.write(f"{verdict:<13} {name:<50} {test}  {said[:120]}\n")
    count = {v: sum(row[2] == v for row in rows) for v in dict.fromkeys(row[2] for row in rows)}
    said = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
    sys.stdout.write(f"{len(rows)} names, {len(names)} tests: {said}.\n")
    return int(any(verdict in ("did not fail", "is broken") for verdict in count))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
