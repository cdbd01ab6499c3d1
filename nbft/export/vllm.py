"""vLLM: the merged model, with the command that serves it."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING

from nbft.export.merged import Merged

if TYPE_CHECKING:
    from nbft.export.trained import Trained


class Vllm(Merged):
    """A folder for `vllm serve`."""

    title = "merged model for vLLM"
    name = "merged model for vLLM"
    about = "The merged model, with the command that serves it on a GPU."

    def usage(self, folder: PurePath, trained: Trained) -> str:
        """Return the commands that serve it and ask it."""
        name = trained.run.id
        command = f"vllm serve {shlex.quote(str(folder))} --served-model-name {name}"
        return f"```bash\n{command}\n{asking(name)}\n```"


def asking(name: str) -> str:
    """Return a command that asks a server with OpenAI's interface."""
    turn = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello."}}]}}'
    return (
        "curl http://localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"  -d '{turn}'"
    )


FORMAT = Vllm()
