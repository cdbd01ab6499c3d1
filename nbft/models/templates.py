"""Chat templates by name, in Jinja, for base models that have none.

Each template writes a message once and never changes it afterwards, so that answers can be told
from the rest. Loads no library.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from nbft.config import io
from nbft.errors import ModelError, Problem
from nbft.syntax import invalid

if TYPE_CHECKING:
    import jinja2

    from nbft.config.model import Model

NAMES = ("chatml", "llama3", "zephyr", "alpaca", "mistral", "gemma")
"""Names of the templates."""

_FOLDER = Path(__file__).with_name("chat_templates")


def template_of(given: str) -> str:
    """Return the template of a name, or the text itself if it is Jinja."""
    if given not in NAMES:
        return given
    return (_FOLDER / f"{given}.jinja").read_text(encoding="utf-8").removesuffix("\n")


def chosen_template(model: Model, folder: Path | None) -> str | None:
    """Return the chat template that the settings choose; None for the model's own.

    Args:
        model: The section of the config.
        folder: Folder of the config file, for a relative path.

    Raises:
        ModelError: There is no such name or file, or it is not Jinja.
    """
    if given := model.chat_template_path:
        text = _read(given, io.resolve(given, folder))
        return _checked("model.chat_template_path", given, text)
    if given := model.chat_template:
        if given not in NAMES and "{" not in given:
            close = difflib.get_close_matches(given.lower(), NAMES, n=1, cutoff=0.5)
            raise ModelError(
                Problem(
                    "model.chat_template",
                    given,
                    f"is no Jinja text and not one of {', '.join(NAMES)}.",
                    f"Use {close[0]}." if close else "Leave it empty to use the model's own.",
                    {"model.chat_template": close[0] if close else None},
                )
            )
        return _checked("model.chat_template", given, template_of(given))
    return None


def _read(given: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 text (byte {error.start})."
    except OSError as error:
        why = f"cannot be read: {(error.strerror or str(error)).lower()}."
    except ValueError:
        why = "is not a valid file name."
    fix = "Name a file with a Jinja template."
    raise ModelError(Problem("model.chat_template_path", given, why, fix))


def model_template(folder: Path) -> str | None:
    """Return the chat template in a model's folder, or None."""
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        try:
            text = (folder / name).read_text(encoding="utf-8")
            found = text if name.endswith(".jinja") else json.loads(text).get("chat_template")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(found, list):  # several by name, of which one is the default
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
            found = named.get("default")
        if isinstance(found, str):
            return found
    return None


def special_tokens(folder: Path | None) -> dict[str, str]:
    """Return the texts of the special tokens in a model's folder by name, such as bos_token."""
    try:
        text = ((folder or Path()) / "tokenizer_config.json").read_text(encoding="utf-8")
        about = json.loads(text).items() if folder else ()
    except (OSError, ValueError, AttributeError):
        about = ()
    found = {"bos_token": "", "eos_token": ""}
    for name, token in about:
        if name.endswith("_token"):
            content = token.get("content") if isinstance(token, dict) else token
            found |= {name: content} if isinstance(content, str) else {}
    return found


@functools.lru_cache(maxsize=8)
def compiled(text: str) -> jinja2.Template:
    """Return a chat template that can be rendered without the libraries of a model.

    The environment is that of transformers, whose tags for the parts that a model writes are known
    and have no effect.

    Raises:
        jinja2.TemplateSyntaxError: It is not Jinja.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from nbft.models.generation_tags import GenerationTags

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTags]
    )
    environment.filters["tojson"] = lambda value, **how: json.dumps(
        value, **{"ensure_ascii": False, **how}
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: (
        datetime.datetime.now().astimezone().strftime(form)
    )
    return environment.from_string(text)


def _checked(field: str, given: str, text: str) -> str:
    import jinja2

    try:
        compiled(text)
    except jinja2.TemplateSyntaxError as error:
        why = f"line {error.lineno}: {invalid('Jinja', error.message)}"
        fix = f"Fix it, or set model.chat_template to one of {', '.join(NAMES)}."
        raise ModelError(Problem(field, given, why, fix)) from None
    return text
