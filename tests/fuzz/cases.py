"""The cases: what is made wrong, what reads it, and what must be true of the answer."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from nbft.cli import app
from nbft.config import Config, io, settings
from nbft.errors import NbftError, Problem

MOST_SECONDS = 10
MOST_GROWTH_BYTES = 2**30

_TEXTS = (
    *(
        "",
        " ",
        "\0",
        "a" * 5000,
        "{",
        "{{",
        "{a",
        "{0}",
        "%s",
        "$x$",
        "<b>",
        "日本語",
        "\u202e",
        "🦦",
    ),
    *(
        "null",
        "~",
        "nan",
        "inf",
        "-1",
        "1e999",
        "0x10",
        "1_000",
        "yes",
        "../../etc/passwd",
        "/dev/zero",
    ),
    *(
        "-",
        "--",
        "a:b",
        "a/b",
        "\ud800",
        "\r\n",
        "\x1b[31m",
        "[a](b)",
        "!!python/object:os.system",
        "*x",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 10**30, -(10**30), 0.0, -0.5, 1e308, 5e-324),
    *([], {}, [None], [[]], {"": 1}, {"a": {"b": []}}, [1, "a", None], [{"path": 3}]),
    *_TEXTS,
)
_ROWS = (
    {"prompt": "Add 1.", "completion": "2"},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"text": "Some text."},
    {"instruction": "Do it.", "input": "", "output": "Done."},
    {"question": "Why?", "answer": "Because."},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
)
_COMMANDS = (
    *("train", "submit", "attach", "runs", "compare", "evaluate", "doctor", "import", "export"),
    *("stop", "pause", "continue", "save", "sample", "cancel", "resume", "config", "compatibility"),
    *("try-rewards", "find-learning-rate", "race", "trackers", "bench", "export-model", "nonsense"),
    "",
)


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        what: The case in words.
        said: The answer.
        wrong: What is wrong with the answer; empty if nothing is.
    """

    what: str
    said: str = ""
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the case, what is wrong, and the answer."""
        return f"{self.what}: {'; '.join(self.wrong) or 'good'}\n       {self.said[:600]!r}"


def run_case(folder: Path, seed: int, number: int) -> Outcome:
    """Run one case in a folder of its own, in this process."""
    chance = random.Random(f"{seed}/{number}")
    kind = list(KINDS)[number % len(KINDS)]
    own = folder / f"case-{number}"
    own.mkdir()
    outcome = Outcome(kind)
    before, began, place = _resident_bytes(), time.monotonic(), Path.cwd()
    os.chdir(own)
    former = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(MOST_SECONDS)
    try:
        KINDS[kind](chance, own, outcome)
    except NbftError as error:
        outcome.said = str(error)
        outcome.wrong += _lacks(error)
    except TimeoutError:
        outcome.wrong.append(f"took more than {MOST_SECONDS} s")
    except Exception as error:
        outcome.said = "".join(traceback.format_exception(error)[-6:])
        outcome.wrong.append(f"{type(error).__name__}, a traceback")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
        os.chdir(place)
        shutil.rmtree(own, ignore_errors=True)
    if (growth := _resident_bytes() - before) > MOST_GROWTH_BYTES:
        outcome.wrong.append(f"grew by {growth / 2**20:.0f} MiB")
    if (seconds := time.monotonic() - began) > MOST_SECONDS:
        outcome.wrong.append(f"took {seconds:.0f} s")
    return outcome


def warm_up(folder: Path) -> None:
    """Import what the commands need, which takes seconds only once."""
    file = folder / "warm.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    CliRunner().invoke(app, ["doctor", str(file)])


def _too_long(*_: object) -> None:
    raise TimeoutError


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _lacks(error: NbftError) -> list[str]:
    """Return what the messages of an error lack: field, reason, remedy, one line each."""
    wrong = []
    if not error.problems:
        wrong.append("says nothing")
    for problem in error.problems:
        text = str(problem)
        if isinstance(problem, Problem):
            if not problem.field:
                wrong.append(f"names no field: {text[:200]!r}")
            if not problem.fix and not re.search(r"\. \w|; |: .*, |one of ", problem.why):
                wrong.append(f"names no remedy: {text[:200]!r}")
        if not re.search(r"[.?!)…]$", text.strip()):
            wrong.append(f"is no sentence: {text[:200]!r}")
        if "Traceback" in text or re.search(r"<class '|object at 0x", text):
            wrong.append(f"speaks Python: {text[:200]!r}")
    return wrong


# What is made wrong


def _tree(chance: random.Random, rows: str = "rows.jsonl") -> dict[str, Any]:
    """Return the tree of a config with a few wrong settings."""
    tree: dict[str, Any] = {"data": {"path": rows}, "training": {"max_steps": 2}}
    for _ in range(chance.randint(1, 4)):
        path = chance.choice(settings()).path.replace("[]", f"[{chance.choice((0, 0, 1, 7))}]")
        if chance.random() < 0.2:  # a slip of the finger
            at = chance.randrange(len(path))
            path = path[:at] + chance.choice("abc._[") + path[at + 1 :]
        try:
            io.put(tree, path, chance.choice(_VALUES))
        except (NbftError, TypeError):
            tree[path] = chance.choice(_VALUES)
    return tree


def _write_rows(chance: random.Random, path: Path) -> None:
    """Write a file of rows, some of them wrong."""
    rows: list[Any] = []
    shape = chance.choice(_ROWS)
    for _ in range(chance.choice((0, 1, 3, 20))):
        row = json.loads(json.dumps(shape))
        if chance.random() < 0.3:
            row[chance.choice([*row, "other"])] = chance.choice(_VALUES)
        if chance.random() < 0.1:
            row.pop(chance.choice(list(row)))
        rows.append(row if chance.random() < 0.9 else chance.choice(_VALUES))
    text = "".join(f"{json.dumps(row, ensure_ascii=True)}\n" for row in rows)
    if path.suffix == ".json":
        text = json.dumps(rows)
    elif path.suffix == ".csv":
        text = ",".join(shape) + "\n" + "".join(f"{row}\n" for row in rows)
    path.write_bytes(_damaged(chance, text.encode("utf-8", "surrogatepass")))


def _damaged(chance: random.Random, content: bytes) -> bytes:
    """Return bytes with, sometimes, a part cut, repeated or replaced."""
    if not content or chance.random() < 0.5:
        return content
    at = chance.randrange(len(content))
    return chance.choice(
        (
            content[:at],
            content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
            content[:at] + b"\0" + content[at:],
            b"\xef\xbb\xbf" + content,
            content.decode("utf-8", "replace").encode("utf-16"),
            content * 2,
            content.replace(b"\n", b"\r"),
            content[:at] + b"{" * 2000 + content[at:],
        )
    )


# What reads it


def _config(chance: random.Random, folder: Path, outcome: Outcome) -> None:
    """A config from Python, its plan and its YAML."""
    _write_rows(chance, folder / "rows.jsonl")
    tree = _tree(chance)
    outcome.what = f"Config(**{tree!r})"[:300]
    _, problems = Config.parse(tree)
    if problems:
        raise NbftError(problems)
    from nbft.plan import make_plan

    config = Config(**tree)
    Config.from_yaml(config.to_yaml(full=True))
    errors = make_plan(config).errors
    if errors:
        raise NbftError(errors)


def _yaml(chance: random.Random, folder: Path, outcome: Outcome) -> None:
    """A config file, damaged, given to a command."""
    _write_rows(chance, folder / "rows.jsonl")
    file = folder / chance.choice(("config.yaml", "config.json", "x.yml"))
    try:
        text = json.dumps(_tree(chance)) if file.suffix == ".json" else io.dump_yaml(_tree(chance))
    except Exception:  # what cannot be written cannot be read
        text = "a: [" * chance.randint(1, 400)
    file.write_bytes(_damaged(chance, text.encode("utf-8", "surrogatepass")))
    command = chance.choice((["config", "check"], ["config", "show"], ["import"], ["doctor"]))
    _invoke([*command, file.name], outcome)


def _data(chance: random.Random, folder: Path, outcome: Outcome) -> None:
    """A file of rows, looked at by the doctor, the importer and the plan."""
    file = folder / f"rows{chance.choice(('.jsonl', '.json', '.csv', '.parquet', '.txt', ''))}"
    _write_rows(chance, file)
    command = chance.choice((["doctor"], ["import"], ["config", "check"]))
    _invoke([*command, file.name], outcome)


def _command_line(chance: random.Random, folder: Path, outcome: Outcome) -> None:
    """Commands, options and overrides that make no sense."""
    _write_rows(chance, folder / "rows.jsonl")
    (folder / "config.yaml").write_text("data: {path: rows.jsonl}\n")
    words = [chance.choice(_COMMANDS)]
    if words[0] in ("train", "submit", "bench", "find-learning-rate"):
        words.append(chance.choice(("none.yaml", ".", "rows.jsonl/x", "\0")))
    if words == ["config"]:
        words.append(chance.choice(("show", "check", "new", "presets", "x", "")))
    for _ in range(chance.randint(0, 4)):
        words.append(
            chance.choice(
                (
                    chance.choice([text for text in _TEXTS if "\ud800" not in text]),
                    f"{chance.choice(settings()).path}={chance.choice(_VALUES)}".replace(
                        "\ud800", ""
                    ),
                    f"--{chance.choice(('json', 'folder', 'sample', 'steps', 'from', 'x', 'help'))}",
                    chance.choice(("config.yaml", "rows.jsonl", "none", ".", "/", "runs")),
                )
            )
        )
    _invoke(words, outcome)


def _invoke(words: list[str], outcome: Outcome) -> None:
    """Run the command line, and check what it says."""
    outcome.what = f"nbft {' '.join(map(repr, words))}"
    result = CliRunner().invoke(app, words)
    outcome.said = result.output
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        if isinstance(error, TimeoutError):
            raise error
        outcome.said = "".join(traceback.format_exception(error)[-6:])
        outcome.wrong.append(f"{type(error).__name__}, a traceback")
    elif "Traceback (most recent" in result.output:
        outcome.wrong.append("a traceback")
    # An import from which something was dropped that may change the training exits with 3.
    elif result.exit_code not in (0, 1, 2, 3) or (result.exit_code == 3 and words[0] != "import"):
        outcome.wrong.append(f"exit code {result.exit_code}")
    elif result.exit_code and not result.output.strip():
        outcome.wrong.append("says nothing")


KINDS: dict[str, Callable[[random.Random, Path, Outcome], None]] = {
    "config": _config,
    "yaml": _yaml,
    "data": _data,
    "command line": _command_line,
}
