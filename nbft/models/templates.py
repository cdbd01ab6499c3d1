"""Chat templates by name: how a conversation is written as text, in Jinja.

For base models, which bring none. Each writes a message as soon as it is there and never changes it
afterwards, so that the answers can be told from the rest. Loads no library.
"""

from __future__ import annotations

from nbft.errors import Problem
from nbft.syntax import invalid


def _marked(begin: str, after_role: str, end: str) -> str:
    """Return a template that writes every message between marks that name its role."""
    return (
        "{% for message in messages %}"
        f"{begin}{{{{ message['role'] }}}}{after_role}{{{{ message['content'] }}}}{end}"
        "{% endfor %}{% if add_generation_prompt %}"
        f"{begin}assistant{after_role}"
        "{% endif %}"
    )


_ALPACA = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}"
    "{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)

_MISTRAL = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}"
    "{% endfor %}"
)

_GEMMA = (
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else 'user' %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

TEMPLATES = {
    "chatml": _marked("<|im_start|>", "\n", "<|im_end|>\n"),
    "llama3": _marked("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
    "zephyr": _marked("<|", "|>\n", "{{ eos_token }}\n"),
    "alpaca": _ALPACA,
    "mistral": _MISTRAL,
    "gemma": _GEMMA,
}
"""Name → template."""


def template_of(given: str) -> str:
    """Return the template of a name, or the text itself where it is Jinja."""
    return TEMPLATES.get(given, given)


def template_problem(given: str) -> Problem | None:
    """Return what is wrong with a name or text, or None."""
    import difflib

    if given in TEMPLATES:
        return None
    names = ", ".join(TEMPLATES)
    if "{" not in given:
        close = difflib.get_close_matches(given.lower(), TEMPLATES, n=1, cutoff=0.5)
        return Problem(
            "model.chat_template",
            given,
            f"is no Jinja text and not one of {names}.",
            f"Use {close[0]}." if close else "Leave it empty to use the model's own.",
            {"model.chat_template": close[0] if close else None},
        )
    import jinja2

    try:
        jinja2.Environment(autoescape=True).parse(given)
    except jinja2.TemplateSyntaxError as error:
        return Problem(
            "model.chat_template",
            given,
            f"line {error.lineno}: {invalid('Jinja', error.message)}",
            f"Fix it, or use one of {names}.",
        )
    return None
