"""Chat templates of other systems by their names there, as Jinja.

`chat_formats.yaml` says how each writes a conversation; this module makes the template of it. Used
for `model.chat_template`, so that rows become the same text as in that system.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import yaml

from nbft.models.templates import NAMES, template_of


def chat_template(system: str, name: str, **changes: Any) -> str | None:
    """Return a system's chat template as Jinja, or the name of ours that is the same text.

    Args:
        system: llama_factory, oumi or axolotl.
        name: Name of the template there.
        **changes: Fields that differ, such as default_system.

    Returns:
        A value of model.chat_template; None for a template that nbft does not know.
    """
    known = _tables()[system].get(name)
    if known is None:
        return None
    text = jinja(**{**known, **changes})
    return next((ours for ours in NAMES if _of_ours(ours) == text), text)


def untrained_end(system: str, name: str) -> str:
    """Say whether a template writes text after an answer's end; "" if not.

    nbft trains on what the model is asked to write, which ends there.
    """
    known = _tables()[system].get(name, {})
    end = known.get("end", "") + known.get("between", "")
    has_more = end != end.rstrip()
    return "the line break after an answer is not trained on here" if has_more else ""


def name_of(system: str, given: str) -> str | None:
    """Return the name that a system has for a value of model.chat_template, or None."""
    return next((n for n in _tables()[system] if chat_template(system, n) == given), None)


def jinja(
    user: str,
    answer: str,
    end: str,
    *,
    system: str = "",
    start: str = "",
    default_system: str = "",
    system_in_user: bool = False,
    thought: str = "",
    has_thought: bool = False,
    begin: str = "",
    between: str = "",
    trim: bool = False,
) -> str:
    """Return a chat template as Jinja.

    {content} stands for the text of a turn, {bos} and {eos} for the tokens of that name.

    Args:
        user: A turn of the user.
        answer: What stands before an answer.
        end: What stands after one.
        system: A system turn.
        start: The start of the conversation.
        default_system: System prompt of conversations that have none.
        system_in_user: Whether the system prompt is part of the first turn of the user.
        thought: Written before an answer that holds no thought, as part of the answer.
        has_thought: Whether `thought` is written before every answer instead, as part of the
            prompt, and thoughts in answers are removed.
        begin: Written before the text of an answer, as part of it.
        between: Written after an answer that is not the last turn.
        trim: Whether spaces around a turn's text are removed.
    """
    content = "message['content'] | trim" if trim else "message['content']"
    if thought and has_thought:
        answer, content = answer + thought, f"({content}).split('</think>')[-1].lstrip('\\n')"
    elif thought:
        own = "('' if '<think>' in content or '</think>' in content else " + f"{_text(thought)})"
    parts = [_written(start)]
    if system_in_user:
        parts.append(f"{{% set first = namespace(text={_text(default_system)}) %}}")
    elif default_system:
        usual = _written(system.replace("{content}", default_system))
        parts.append(f"{{% if messages[0]['role'] != 'system' %}}{usual}{{% endif %}}")
    parts.append(f"{{% for message in messages %}}{{% set content = {content} %}}")
    if system_in_user:
        parts.append("{% if message['role'] == 'system' %}{% set first.text = content %}")
    else:
        parts.append("{% if message['role'] == 'system' %}" + _written(system))
    opening = own if thought and not has_thought else _text(begin)
    written = f"{{{{ {_text(answer)} + {opening} + content }}}}{_written(end)}"
    if between:
        written += f"{{% if not loop.last %}}{_written(between)}{{% endif %}}"
    parts.append("{% elif message['role'] == 'assistant' %}" + written + "{% else %}")
    if system_in_user:
        filled = _expression(system.replace("{content}", "{first}"))
        parts.append(
            f"{{% if first.text %}}{{% set content = {filled} + content %}}"
            "{% set first.text = '' %}{% endif %}"
        )
    parts.append(_written(user) + "{% endif %}{% endfor %}")
    parts.append(f"{{% if add_generation_prompt %}}{_written(answer)}{{% endif %}}" * bool(answer))
    return "".join(parts)


_MARK = re.compile(r"\{(content|bos|eos|first)\}")
_VARIABLES = {"content": "content", "bos": "bos_token", "eos": "eos_token", "first": "first.text"}


def _text(text: str) -> str:
    r"""Write a text as a string of Jinja.

    >>> _text('a"b')
    '"a\\"b"'
    """
    return json.dumps(text, ensure_ascii=False)


def _expression(text: str) -> str:
    pieces = _MARK.split(text)
    terms = [_VARIABLES[p] if n % 2 else _text(p) for n, p in enumerate(pieces) if p]
    return " + ".join(terms) or '""'


def _written(text: str) -> str:
    return f"{{{{ {_expression(text)} }}}}" if text else ""


@functools.cache
def _tables() -> dict[str, dict[str, dict[str, Any]]]:
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    tables: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(text)
    return tables


def _of_ours(name: str) -> str:
    """Return a template of ours; chatml as this module would write it, since it is the same text."""
    return jinja(**_tables()["formats"]["chatml"]) if name == "chatml" else template_of(name)
