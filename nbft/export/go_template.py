"""Chat templates in Go's language, which Ollama reads: written from Jinja by trying, and read back.

Go cannot express Jinja. What a template writes around each turn is found by rendering marked turns;
whether that is all it does is checked by the proof, which renders conversations with both.
Loads no library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Turn = dict[str, str]
Render = Callable[[Sequence[Turn], bool], str]
"""A function from a conversation, and whether a generation prompt follows, to text."""

_MARK = {"system": "nbft-marks-a-system-turn", "user": "nbft-marks-a-question"}
_ANSWER, _SECOND = "nbft-marks-an-answer", "nbft-marks-a-second-question"


@dataclass(frozen=True)
class Turns:
    """What a chat template writes around turns.

    Attributes:
        around: The text before and after the content of each role.
        asks: The text before an answer, as a generation prompt.
        without_system: The text at the beginning where there is no system turn.
        system: The system turn that the template adds by itself; "" if it adds none.
    """

    around: dict[str, tuple[str, str]]
    asks: str
    without_system: str = ""
    system: str = ""


def turns_of(render: Render) -> Turns | None:
    """Find out what a chat template writes around turns; None if it does something else as well.

    Args:
        render: Renders a conversation, without the token that begins every text.

    >>> def chatml(turns, asks):
    ...     text = "".join(f"<{t['role']}>{t['content']}</s>" for t in turns)
    ...     return text + "<assistant>" * asks
    >>> turns_of(chatml).around["user"], turns_of(chatml).asks
    (('<user>', '</s>'), '<assistant>')
    """
    user, answer = {"role": "user", "content": _MARK["user"]}, {"role": "assistant"}
    answer["content"] = _ANSWER
    asked, answered = render([user], False), render([user, answer], False)
    both = render([user, answer, {"role": "user", "content": _SECOND}], False)
    with_prompt = render([user], True)
    if not with_prompt.startswith(asked) or both.count(_ANSWER) != 1:
        return None
    asks = with_prompt.removeprefix(asked)
    head, _, after_user = asked.partition(_MARK["user"])
    between_user_and_answer = answered.partition(_MARK["user"])[2].partition(_ANSWER)[0]
    after_answer = answered.partition(_ANSWER)[2]
    next_question = both.partition(_ANSWER)[2].partition(_SECOND)[0]
    if not between_user_and_answer.startswith(after_user):
        return None
    if not next_question.startswith(after_answer):
        return None
    before_user = next_question.removeprefix(after_answer)
    around = {
        "user": (before_user, after_user),
        "assistant": (between_user_and_answer.removeprefix(after_user), after_answer),
    }
    if not head.endswith(before_user):
        return None
    without, default = head[: len(head) - len(before_user)], ""
    system = {"role": "system", "content": _MARK["system"]}
    try:
        said = render([system, user], False)
    except Exception:  # the template takes no system turn
        said = ""
    if said.count(_MARK["system"]) == 1 and said.endswith(before_user + asked[len(head) :]):
        begin, _, rest = said.partition(_MARK["system"])
        after = rest[: len(rest) - len(before_user + asked[len(head) :])]
        around["system"] = (begin, after)
        if without.startswith(begin) and without.endswith(after) and begin + after:
            default, without = without[len(begin) : len(without) - len(after)], ""
    return Turns(around, asks, without, default)


def go_template(turns: Turns) -> str | None:
    """Return the template for Ollama; None where a text of it would be read as Go.

    No space of it may be added or trimmed: it is one line but for the texts themselves.
    """
    texts = [turns.asks, turns.without_system, *(t for pair in turns.around.values() for t in pair)]
    if any("{{" in text or '"""' in text for text in texts):
        return None
    branches: list[str] = []
    for role, (before, after) in sorted(turns.around.items(), reverse=True):
        word = "else if" if branches else "if"
        branches.append(f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
    begin = ""
    if turns.without_system:
        begin = f"{{{{ if not .System }}}}{turns.without_system}{{{{ end }}}}"
    each = f"{{{{ range .Messages }}}}{''.join(branches)}{{{{ end }}}}{{{{ end }}}}"
    return begin + each + turns.asks


def modelfile(template: str, system: str, stops: Sequence[str], file: str) -> str:
    """Return the text of a Modelfile."""
    lines = [f"FROM ./{file}", f'TEMPLATE """{template}"""']
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"


_COMMAND = re.compile(
    r'^(FROM|TEMPLATE|SYSTEM|PARAMETER)[ \t]+(?:"""(.*?)"""|([^\n]*))$', re.MULTILINE | re.DOTALL
)


def read_modelfile(text: str) -> dict[str, list[str]]:
    r"""Return the values of each command of a Modelfile.

    >>> read_modelfile('FROM ./a.gguf\nTEMPLATE \"\"\"one\ntwo\"\"\"\nPARAMETER stop "x"\n')
    {'FROM': ['./a.gguf'], 'TEMPLATE': ['one\ntwo'], 'PARAMETER': ['stop "x"']}
    """
    found: dict[str, list[str]] = {}
    for match in _COMMAND.finditer(text):
        value = match[2] if match[2] is not None else match[3]
        found.setdefault(match[1], []).append(value)
    return found


_ACTION = re.compile(r"{{(-?)\s*(.*?)\s*(-?)}}", re.DOTALL)
_EQUALS = re.compile(r'(else )?if eq \.Role "(\w+)"')


def as_jinja(template: str, system: str = "", begin: str = "") -> str:
    """Return a chat template in Jinja that renders what Ollama renders from one in Go.

    Args:
        template: As `go_template` writes it; spaces beside a dash in an action are trimmed.
        system: The Modelfile's system turn, where a conversation has none.
        begin: The token that llama.cpp puts before the text.

    Raises:
        ValueError: It has an action of another kind.
    """
    parts, ends, place, trims = [], [], 0, False

    def literal(text: str) -> str:
        return "{{ " + json.dumps(text) + " }}" if text else ""

    for match in _ACTION.finditer(template):
        text = template[place : match.start()]
        text = text.lstrip() if trims else text
        parts.append(literal(text.rstrip() if match[1] else text))
        place, trims, action = match.end(), bool(match[3]), match[2]
        if action == "range .Messages":
            parts.append("{% for message in said %}")
            ends.append("{% endfor %}")
        elif action == "if not .System":
            parts.append("{% if said[0].role != 'system' %}")
            ends.append("{% endif %}")
        elif equals := _EQUALS.fullmatch(action):
            parts.append(f"{{% {'elif' if equals[1] else 'if'} message.role == '{equals[2]}' %}}")
            if not equals[1]:
                ends.append("{% endif %}")
        elif action == ".Content":
            parts.append("{{ message.content }}")
        elif action == "end" and ends:
            parts.append(ends.pop())
        else:
            raise ValueError(f"{{{{ {action} }}}} is not read here")
    rest = template[place:]
    parts.append(literal(rest.lstrip() if trims else rest))
    added = json.dumps([{"role": "system", "content": system}]) if system else "[]"
    said = "{% set said = messages %}{% if messages[0].role != 'system' %}"
    said += f"{{% set said = {added} + messages %}}{{% endif %}}"
    return said + literal(begin) + "".join(parts)
