"""The Jupyter server extension: what a front end may ask without a kernel.

Importing it costs nothing; tornado and jupyter_server come in when a server loads it. Every
route is below `/nbft/api` and refuses whoever has not logged in. `c.NbftServer.roots` in the server's
config names more folders of runs; see `roots.NbftServer` for where runs are looked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Tell the Jupyter server which module to load."""
    return [{"module": "nbft.server"}]


def _load_jupyter_server_extension(server_app: ServerApp) -> None:
    """Add the routes to a Jupyter server."""
    from nbft.server.handlers import add_routes
    from nbft.server.roots import Nbft

    add_routes(server_app.web_app, Nbft(parent=server_app, root_dir=server_app.root_dir))
