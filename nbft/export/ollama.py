"""Ollama: a GGUF file and the Modelfile that says how conversations are written."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from nbft.errors import RunError
from nbft.export.format import Options, Say
from nbft.export.gguf import Gguf, adds_bos
from nbft.export.go_template import (
    Turns,
    as_jinja,
    go_template,
    modelfile,
    read_modelfile,
    turns_of,
)
from nbft.export.llama_cpp import reread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbft.export.proof import Case, Observed, Reread
    from nbft.export.trained import Trained

_OF_PROMPT = "{{ .Prompt }}"
"""The template of a model without one: it reads what it is given."""

_SYSTEM_TURN = 'eq .Role "system"'

_NO_SYSTEM = (
    "The chat template of this model has no system turn, so Ollama leaves out any system prompt. "
    "Write it at the beginning of the question."
)


class Ollama(Gguf):
    """A folder for `ollama create`."""

    title = "GGUF file with a Modelfile for Ollama"
    name = "Ollama model"
    about = (
        "A folder for `ollama create`: the GGUF file and a Modelfile with template and stop tokens."
    )

    def model_obstacle(self, trained: Trained) -> str:
        """Return why Ollama could not run the model."""
        if why := super().model_obstacle(trained):
            return why
        if trained.tokenizer.chat_template and _template(trained.tokenizer) is None:
            return (
                "Its chat template does more than write texts around turns, which a template of "
                'Ollama cannot say. Use to="gguf", whose file has the template itself.'
            )
        return ""

    def write(self, trained: Trained, folder: Path, dtype: str, options: Options, say: Say) -> None:
        """Write the file and the Modelfile."""
        tokenizer = trained.tokenizer
        template, system = _OF_PROMPT, ""
        if tokenizer.chat_template:
            found = _template(tokenizer)
            if found is None:
                raise RunError("The chat template cannot be written for Ollama.")
            template, system = found
        stops = [tokenizer.decode([token]) for token in trained.ends]
        super().write(trained, folder, dtype, options, say)
        text = modelfile(template, system, stops, self.file)
        if not _takes_system(tokenizer):
            text = f"# {_NO_SYSTEM}\n{text}"
        (folder / "Modelfile").write_text(text, encoding="utf-8")

    def read(self, folder: Path, trained: Trained) -> tuple[Any, Any]:
        """Load the file, and render conversations with the template of the Modelfile."""
        model, tokenizer = super().read(folder, trained)
        said = read_modelfile((folder / "Modelfile").read_text(encoding="utf-8"))
        (template,) = said["TEMPLATE"]
        if template != _OF_PROMPT:
            begin = tokenizer.bos_token if adds_bos(tokenizer) else ""
            (system,) = said.get("SYSTEM", [""])
            tokenizer.chat_template = as_jinja(template, system, begin)
        return model, tokenizer

    def reread(
        self, folder: Path, cases: Sequence[Case], trained: Observed, tokenizer: Any, say: Say
    ) -> Reread:
        """Ask llama.cpp, which is in Ollama, with conversations by the template of the Modelfile."""
        return reread(folder / self.file, cases, trained, tokenizer, say, has_template=False)

    def usage(self, folder: PurePath, trained: Trained) -> str:
        """Return the lines that load it, and what Ollama leaves out."""
        model = trained.run.id.lower()
        lines = f"cd {folder}\nollama create {model} -f Modelfile\nollama run {model}"
        return f"```bash\n{lines}\n```" + (
            "" if _takes_system(trained.tokenizer) else f"\n\n{_NO_SYSTEM}"
        )


def _takes_system(tokenizer: Any) -> bool:
    """Whether a system prompt reaches the model; one without a template is given texts, not turns."""
    found = _template(tokenizer) if tokenizer.chat_template else None
    return found is None or _SYSTEM_TURN in found[0]


def _template(tokenizer: Any) -> tuple[str, str] | None:
    """Return the template in Go and the system turn that it adds; None if Go cannot say it."""
    begin = tokenizer.bos_token if adds_bos(tokenizer) else ""

    def render(turns: Sequence[dict[str, str]], asks: bool) -> str:
        text = tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=asks
        )
        return str(text).removeprefix(begin)

    try:
        turns: Turns | None = turns_of(render)
    except Exception:  # the template refuses a simple conversation, in words of its own
        return None
    text = go_template(turns) if turns else None
    return None if turns is None or text is None else (text, turns.system)


FORMAT = Ollama()
