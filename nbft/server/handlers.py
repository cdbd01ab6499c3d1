"""The routes below `/nbft/api`; `openapi.yaml` describes them.

Each refuses unauthenticated requests. Looking needs the action "read" on the resource "nbft" of the
server's authorizer, and whatever changes a run needs "write". Files are read in a thread, so that
the server's other answers do not wait. Errors become HTTP statuses in one place, `Handler.answer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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
from nbft.server.roots import NbftServer, UnknownRunError

_RUN = r"runs/([^/]+)"


class Handler(APIHandler):
    """Handles every route."""

    auth_resource = "nbft"

    def initialize(self, nbft: NbftServer, actions: dict[str, Action]) -> None:
        """Take the folders of runs, and what the route does by HTTP method."""
        self.nbft, self.actions = nbft, actions

    def write_error(self, status_code: int, **about: Any) -> None:
        """Answer with one sentence; internal errors are described in the server's log only."""
        error = about.get("exc_info", (None, None))[1]
        reason = error.log_message if isinstance(error, HTTPError) else None
        message = (reason or responses.get(status_code, "Unknown error")).replace("%%", "%")
        self.set_header("Content-Type", "application/json")
        self.finish({"message": message})

    async def answer(
        self, work: Callable[..., Any], *arguments: Any, status_code: int = 200
    ) -> None:
        """Answer with what a function returns, called in a thread.

        Args:
            work: A function of `nbft.server.answers`.
            *arguments: Its arguments after the first, the folders of runs.
            status_code: HTTP status of the answer; 204 if the function returns None.
        """
        try:
            body = await asyncio.to_thread(work, self.nbft, *arguments)
        except UnknownRunError as error:
            raise HTTPError(404, str(error)) from None
        except answers.SharedRunError as error:
            raise HTTPError(403, str(error)) from None
        except FileNotFoundError:
            raise HTTPError(404, "The run was deleted meanwhile.") from None
        except answers.BadRequestError as error:
            raise HTTPError(400, str(error)) from None
        except NbftError as error:
            raise HTTPError(409, str(error)) from None
        except OSError as error:
            raise HTTPError(409, f"The disk refuses: {error.strerror}.") from None
        self.set_status(204 if body is None else status_code)
        # Numbers that JSON lacks become the strings "NaN", "Infinity" and "-Infinity".
        self.finish(None if body is None else to_json(body, inf_nan_mode="strings"))

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return an integer of the query.

        Raises:
            HTTPError: 400 when it is no integer, or out of range.
        """
        text = self.get_query_argument(name, str(default))
        if not (text.isascii() and text.isdigit() and low <= int(text[:20]) <= high):
            raise HTTPError(400, f"{name}: is no whole number from {low:,} to {high:,}.")
        return int(text)

    def field(self, name: str) -> Any:
        """Return a field of the JSON body; None where there is none."""
        body = self.get_json_body()
        return body.get(name) if isinstance(body, dict) else None

    async def _handle(self, *run_id: str) -> None:
        if self.request.method not in self.actions:
            raise HTTPError(405)
        await self.actions[self.request.method](self, *run_id)

    # One decorated function for all would keep the action of its first request.
    get = authenticated(authorized("read")(_handle))
    post = authenticated(authorized("write")(_handle))
    delete = authenticated(authorized("write")(_handle))


Action = Callable[..., Awaitable[None]]
"""Called with the handler and, where the route has one, the id of a run."""


def _list(handler: Handler) -> Awaitable[None]:
    search, limit = handler.get_query_argument("search", ""), handler.number("limit", 200, 1, 1_000)
    return handler.answer(answers.list_runs, search, limit)


def _compare(handler: Handler) -> Awaitable[None]:
    ids = handler.get_query_argument("ids", "").split(",")
    return handler.answer(answers.compare, list(filter(None, ids)))


ROUTES: dict[str, dict[str, Action]] = {
    "version": {"GET": lambda h: h.answer(lambda _: {"version": version("nbft")})},
    "runs": {"GET": _list},
    _RUN: {
        "GET": lambda h, run: h.answer(answers.details, run),
        "DELETE": lambda h, run: h.answer(answers.delete, run),
    },
    f"{_RUN}/events": {
        "GET": lambda h, run: h.answer(answers.events, run, h.number("after", 0, 0, 2**53))
    },
    f"{_RUN}/state": {
        "GET": lambda h, run: h.answer(answers.state, run, h.get_query_argument("after", ""))
    },
    f"{_RUN}/log": {
        "GET": lambda h, run: h.answer(answers.log, run, h.number("lines", 200, 1, 2_000))
    },
    f"{_RUN}/commands": {
        "POST": lambda h, run: h.answer(answers.command, run, h.field("command"), status_code=202)
    },
    f"{_RUN}/resume": {"POST": lambda h, run: h.answer(answers.resume, run, status_code=202)},
    f"{_RUN}/retry": {
        "POST": lambda h, run: h.answer(answers.retry, run, h.field("fix"), status_code=202)
    },
    f"{_RUN}/exports": {
        "GET": lambda h, run: h.answer(answers.exports, run),
        "POST": lambda h, run: h.answer(answers.export, run, h.get_json_body(), status_code=202),
        "DELETE": lambda h, run: h.answer(answers.stop_exporting, run, status_code=202),
    },
    "compare": {"GET": _compare},
}
"""What each route does, by HTTP method."""


def add_routes(web_app: Any, nbft: NbftServer) -> None:
    """Add the routes to the web application of a Jupyter server."""
    api = url_path_join(web_app.settings["base_url"], "nbft", "api")
    handlers = [
        (url_path_join(api, path), Handler, {"nbft": nbft, "actions": actions})
        for path, actions in ROUTES.items()
    ]
    web_app.add_handlers(".*$", handlers)
