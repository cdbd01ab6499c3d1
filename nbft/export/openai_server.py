"""A server with OpenAI's interface that comes with transformers: the merged model and its command."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING

from nbft.export.merged import Merged
from nbft.export.vllm import asking

if TYPE_CHECKING:
    from nbft.export.trained import Trained


class OpenaiServer(Merged):
    """A folder for `transformers serve`."""

    title = "merged model for a server with OpenAI's interface"
    name = "merged model for a server"
    about = "The merged model, with the command of the server that comes with transformers."

    def usage(self, folder: PurePath, trained: Trained) -> str:
        """Return the commands that serve it and ask it."""
        return (
            f'```bash\npip install "transformers[serving]"\n'
            f"transformers serve {shlex.quote(str(folder))}\n{asking(str(folder))}\n```"
        )


FORMAT = OpenaiServer()
