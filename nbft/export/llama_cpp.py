"""llama.cpp, where it is installed: a reader of GGUF files that is not ours, and its quantiser.

The reader is `llama-server`, or the same server in the package xllamacpp. It runs in a process below
this module's own `main`, which ends it when whoever asked is gone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from nbft.errors import RunError
from nbft.export.format import Say
from nbft.export.programs import each_second, end_of, reason, run_program, running
from nbft.export.proof import ANSWER_TOKENS, Case, Observed, Reread

SERVER, QUANTIZER, PACKAGE = "llama-server", "llama-quantize", "xllamacpp"

INSTALL = "brew install llama.cpp, winget install llama.cpp, or its release page on GitHub"

_STARTING_SECONDS, _ANSWERING_SECONDS = 600.0, 600.0
_POLL_SECONDS = 0.1

_PLACE = re.compile(rb"\[ *(\d+)/ *(\d+)\]")
"""How the quantiser begins a line about a tensor."""


def quantizer() -> str | None:
    """Return the program that writes the k-types; None if it is not on the PATH."""
    return shutil.which(QUANTIZER)


def quantize(source: Path, target: Path, dtype: str, say: Say) -> None:
    """Write a GGUF file in another number type with llama.cpp's quantiser.

    Args:
        source: A file in bfloat16.
        target: The file to write.
        dtype: llama.cpp's name of the type, such as q4_k_m.
        say: Called at least once a second; what it raises ends the quantiser.

    Raises:
        RunError: It is gone, or it failed.
    """
    program = quantizer()
    if program is None:
        raise RunError(f"{QUANTIZER} is no longer on the PATH.")
    command = [program, str(source), str(target), dtype.upper()]

    def doing(said: bytes) -> str:
        places = _PLACE.findall(said)
        done = f", {int(places[-1][0])} of {int(places[-1][1])}" if places else ""
        return f"Quantising to {dtype} with {QUANTIZER}{done} …"

    why = run_program(command, doing, say)
    if why or not target.is_file():
        raise RunError(f"{QUANTIZER} could not write {dtype} ({why or 'no file'}).")


def is_readable() -> bool:
    """Whether there is a llama.cpp that can read a file back."""
    return shutil.which(SERVER) is not None or find_spec(PACKAGE) is not None


def reread(
    file: Path,
    cases: Sequence[Case],
    trained: Observed,
    tokenizer: Any,
    say: Say,
    *,
    has_template: bool,
) -> Reread:
    """Ask llama.cpp what the trained model was asked.

    It is asked for one token at each place of the trained model's answers, which says the same as a
    greedy answer, and goes on after a place where two tokens are equally likely.

    Args:
        file: The GGUF file.
        cases: What to ask.
        trained: What the trained model made of it.
        tokenizer: The tokenizer of the export, as transformers reads it.
        say: Called before each case; what it raises ends the reader.
        has_template: Whether the template is the one in the file; otherwise the tokenizer renders.
    """
    if not is_readable():
        return Reread(absent=f"neither {SERVER} nor the package {PACKAGE} is installed here")
    longest = max(len(row) for row in trained.rows) + ANSWER_TOKENS
    with tempfile.TemporaryDirectory() as folder:
        try:
            context_tokens = 256 * (longest // 256 + 1)
            with _serving(file, context_tokens, Path(folder) / "log", say) as server:
                return _asked(server, cases, trained, tokenizer, say, has_template)
        except _RefusedError as error:
            return Reread(refused=str(error))
        except (OSError, http.client.HTTPException, LookupError, ValueError) as error:
            why = f"{type(error).__name__}: {error}" if not str(error) else str(error)
            return Reread(absent=f"it could not be asked: {why.splitlines()[0]}")


class _RefusedError(Exception):
    """llama.cpp does not take the file, or its template."""


class _Server(NamedTuple):
    """A server of llama.cpp that has loaded a file."""

    port: int

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer to a request, as JSON.

        Raises:
            OSError, http.client.HTTPException: There is none.
        """
        status, data = _request(self.port, path, body, _ANSWERING_SECONDS)
        if status != HTTPStatus.OK:
            raise OSError(f"{path} was answered with HTTP {status}")
        return json.loads(data)

    def ids(self, text: str, adds_special: bool) -> list[int]:
        """Return the token ids of a text."""
        asked = {"content": text, "add_special": adds_special, "parse_special": True}
        return [int(token) for token in self.ask("/tokenize", asked)["tokens"]]

    def rendered(self, messages: list[dict[str, str]]) -> str:
        """Return a conversation by the template in the file.

        Raises:
            _RefusedError: llama.cpp cannot render it.
        """
        asked = {"messages": messages}
        status, data = _request(self.port, "/apply-template", asked, _ANSWERING_SECONDS)
        if status != HTTPStatus.OK:
            said = data.decode(errors="replace")[:300]
            raise _RefusedError(f"does not render its chat template ({said})")
        return str(json.loads(data)["prompt"])

    def next(self, ids: list[int]) -> tuple[int, bool]:
        """Return the token that it writes after others, and whether it ends the answer with it."""
        asked = {"prompt": ids, "n_predict": 1, "temperature": 0, "return_tokens": True}
        answer = self.ask("/completion", asked | {"cache_prompt": True, "repeat_penalty": 1.0})
        return int(answer["tokens"][0]), answer["stop_type"] == "eos"


def _asked(
    server: _Server,
    cases: Sequence[Case],
    trained: Observed,
    tokenizer: Any,
    say: Say,
    has_template: bool,
) -> Reread:
    build = server.ask("/props").get("build_info", "")
    is_package = shutil.which(SERVER) is None
    read_by = f"llama.cpp ({PACKAGE} {version(PACKAGE)})" if is_package else f"llama.cpp {build}"
    prompts, choices, is_ended = [], [], []
    for n, case in enumerate(cases):
        say(f"Asking llama.cpp, {n + 1} of {len(cases)} …")
        if case.messages is not None and has_template:
            text, adds = server.rendered(case.messages), True
        else:
            text, adds = case.given(tokenizer)
        prompts.append(server.ids(text, adds))
        answer, places = trained.answers[n], []
        for k in range(min(len(answer) + 1, ANSWER_TOKENS)):
            token, ends = server.next(trained.prompts[n] + answer[:k])
            places.append(token)
        choices.append(places)
        is_ended.append(ends)
    return Reread(read_by.strip(), prompts, choices, is_ended)


@contextlib.contextmanager
def _serving(file: Path, context_tokens: int, log: Path, say: Say) -> Iterator[_Server]:
    """Start a server, wait until it has loaded a file, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = _Server(port)
    command = [sys.executable, "-m", __name__, str(file), str(port), str(context_tokens)]
    with running(command, stdin=subprocess.PIPE, log=log) as process:
        until, say_again = time.monotonic() + _STARTING_SECONDS, each_second(say)
        say_again(lambda: "Reading it back with llama.cpp …")
        while not _is_healthy(server):
            if process.poll() is not None:
                said = end_of(log)
                if b"failed to load model" in said or b"error loading model" in said:
                    raise _RefusedError(f"does not load it ({reason(log)})")
                raise OSError(reason(log))
            if time.monotonic() > until:
                raise TimeoutError("it has not started in ten minutes")
            say_again(lambda: "Reading it back with llama.cpp …")
            time.sleep(_POLL_SECONDS)
        yield server


def _is_healthy(server: _Server) -> bool:
    try:
        return _request(server.port, "/health", None, 1.0)[0] == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def _request(
    port: int, path: str, body: dict[str, Any] | None, timeout_seconds: float
) -> tuple[int, bytes]:
    """Return the status and the content of an answer of a server on this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_seconds)
    with contextlib.closing(connection):
        given = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, given, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def main(file: str, port: str, context_tokens: str) -> None:
    """Serve a GGUF file until the standard input ends, as it does when nbft is gone.

    Args:
        file: The file.
        port: A port of this machine alone.
        context_tokens: Longest prompt with its answer.
    """
    if program := shutil.which(SERVER):
        command = [program, "--model", file, "--host", "127.0.0.1", "--port", port]
        command += ["--ctx-size", context_tokens, "--parallel", "1", "--jinja"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

        def end() -> None:
            sys.stdin.read()
            process.kill()

        threading.Thread(target=end, daemon=True).start()
        sys.exit(process.wait())
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.hostnames, parameters.port = ["127.0.0.1"], int(port)
    parameters.n_ctx, parameters.n_parallel = int(context_tokens), 1
    server = xllamacpp.Server(parameters)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main(*sys.argv[1:])
