"""The routes below `/nbft/api`; `openapi.yaml` describes them.

Each refuses whoever has not logged in, and reads files in a thread, so that the server's other
answers do not wait. Errors become HTTP statuses in one place, `Handler.answer`.
"""

# ruff: noqa: D102 - get, post and delete do what the docstring of their class says

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http.client import responses
from importlib.metadata import version
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from pydantic_core import to_json
from tornado.web import HTTPError, authenticated

from nbft.errors import NbftError
from nbft.server import answers
from nbft.server.roots import Nbft, UnknownRunError

_RUN = r"runs/([^/]+)"


class Handler(APIHandler):
    """What every route does."""

    auth_resource = "nbft"

    def initialize(self, nbft: Nbft) -> None:
        self.nbft = nbft

    def write_error(self, status_code: int, **about: Any) -> None:
        """Answer with one sentence; what went wrong inside is in the server's log alone."""
        error = about.get("exc_info", (None, None))[1]
        said = error.log_message if isinstance(error, HTTPError) else None
        message = (said or responses.get(status_code, "Unknown error")).replace("%%", "%")
        self.set_header("Content-Type", "application/json")
        self.finish({"message": message})

    async def answer(
        self, work: Callable[..., Any], *arguments: Any, status_code: int = 200
    ) -> None:
        """Answer with what a function returns, called in a thread.

        Args:
            work: A function of `nbft.server.answers`.
            *arguments: After the first, which is where runs are.
            status_code: Of an answer; 204 has no body.
        """
        try:
            body = await asyncio.to_thread(work, self.nbft, *arguments)
        except UnknownRunError as error:
            raise HTTPError(404, str(error)) from None
        except FileNotFoundError:
            raise HTTPError(404, "The run was deleted meanwhile.") from None
        except answers.BadRequestError as error:
            raise HTTPError(400, str(error)) from None
        except NbftError as error:
            raise HTTPError(409, str(error)) from None
        except OSError as error:
            raise HTTPError(409, f"The disk refuses: {error.strerror}.") from None
        self.set_status(status_code)
        # Numbers that JSON lacks become the strings "NaN", "Infinity" and "-Infinity".
        self.finish(None if status_code == 204 else to_json(body, inf_nan_mode="strings"))

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number of the query.

        Raises:
            HTTPError: 400 when it is none, or out of its range.
        """
        text = self.get_query_argument(name, str(default))
        if not (text.isascii() and text.isdigit() and low <= int(text[:20]) <= high):
            raise HTTPError(400, f"{name}: is no whole number from {low:,} to {high:,}.")
        return int(text)


class VersionHandler(Handler):
    """Says which nbft this server runs."""

    @authenticated
    @authorized
    async def get(self) -> None:
        self.finish({"version": version("nbft")})


class RunsHandler(Handler):
    """Lists the runs."""

    @authenticated
    @authorized
    async def get(self) -> None:
        search = self.get_query_argument("search", "")
        await self.answer(answers.list_runs, search, self.number("limit", 200, 1, 1_000))


class RunHandler(Handler):
    """Describes or deletes one run."""

    @authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        await self.answer(answers.details, run_id)

    @authenticated
    @authorized
    async def delete(self, run_id: str) -> None:
        await self.answer(answers.delete, run_id, status_code=204)


class EventsHandler(Handler):
    """Gives the events of a run, piece by piece."""

    @authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        await self.answer(answers.events, run_id, self.number("after", 0, 0, 2**53))


class StateHandler(Handler):
    """Gives what there is to draw of a run, as far as it changed."""

    @authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        await self.answer(answers.state, run_id, self.get_query_argument("after", ""))


class LogHandler(Handler):
    """Gives the end of a run's log."""

    @authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        await self.answer(answers.log, run_id, self.number("lines", 200, 1, 2_000))


class CommandsHandler(Handler):
    """Asks a run to stop, pause, continue, save, sample, cancel or move up."""

    @authenticated
    @authorized
    async def post(self, run_id: str) -> None:
        body = self.get_json_body()
        name = body.get("command") if isinstance(body, dict) else None
        await self.answer(answers.command, run_id, name, status_code=202)


class ResumeHandler(Handler):
    """Lets a run go on from its last checkpoint."""

    @authenticated
    @authorized
    async def post(self, run_id: str) -> None:
        await self.answer(answers.resume, run_id, status_code=202)


class RetryHandler(Handler):
    """Starts a new run with one of a run's fixes."""

    @authenticated
    @authorized
    async def post(self, run_id: str) -> None:
        body = self.get_json_body()
        fix = body.get("fix") if isinstance(body, dict) else None
        await self.answer(answers.retry, run_id, fix, status_code=202)


class CompareHandler(Handler):
    """Sets runs side by side."""

    @authenticated
    @authorized
    async def get(self) -> None:
        ids = self.get_query_argument("ids", "")
        await self.answer(answers.compare, [one for one in ids.split(",") if one])


ROUTES: list[tuple[str, type[Handler]]] = [
    ("version", VersionHandler),
    ("runs", RunsHandler),
    (_RUN, RunHandler),
    (f"{_RUN}/events", EventsHandler),
    (f"{_RUN}/state", StateHandler),
    (f"{_RUN}/log", LogHandler),
    (f"{_RUN}/commands", CommandsHandler),
    (f"{_RUN}/resume", ResumeHandler),
    (f"{_RUN}/retry", RetryHandler),
    ("compare", CompareHandler),
]


def add_routes(web_app: Any, nbft: Nbft) -> None:
    """Add the routes to the web application of a Jupyter server."""
    api = url_path_join(web_app.settings["base_url"], "nbft", "api")
    given = {"nbft": nbft}
    handlers = [(url_path_join(api, path), handler, given) for path, handler in ROUTES]
    web_app.add_handlers(".*$", handlers)
