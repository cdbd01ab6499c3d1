"""What Ollama leaves out of a conversation is said."""

from __future__ import annotations

from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import jinja2

from nbft.export.ollama import FORMAT

TURN = "<{{ m.role }}>{{ m.content }}</s>"
WITH_SYSTEM = "{% for m in messages %}" + TURN + "{% endfor %}{% if asks %}<assistant>{% endif %}"
WITHOUT = WITH_SYSTEM.replace(TURN, "{% if m.role != 'system' %}" + TURN + "{% endif %}")


class Tokenizer:
    bos_token = "<s>"
    bos_token_id = 0

    def __init__(self, template: str | None) -> None:
        self.chat_template = template

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [5]}

    def apply_chat_template(
        self, messages: Any, *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        template = jinja2.Environment(autoescape=True).from_string(self.chat_template or "")
        return template.render(messages=messages, asks=add_generation_prompt)


def usage(template: str | None) -> str:
    trained: Any = SimpleNamespace(tokenizer=Tokenizer(template), run=SimpleNamespace(id="Otter"))
    return FORMAT.usage(PurePath("out"), trained)


def test_a_template_without_a_system_turn_is_said_to_drop_one() -> None:
    assert "so Ollama leaves out any system prompt" in usage(WITHOUT)
    for template in (WITH_SYSTEM, None):
        assert usage(template).endswith("ollama run otter\n```")
