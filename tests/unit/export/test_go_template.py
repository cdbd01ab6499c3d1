"""Templates for Ollama: what Go renders is what Jinja renders."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from nbft.export.go_template import (
    Turn,
    as_jinja,
    go_template,
    modelfile,
    read_modelfile,
    turns_of,
)
from nbft.models.templates import NAMES, compiled, template_of

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OWN = {
    "smollm2": SMOLLM2,
    "a line before": "Begin.\n{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
}
REFUSED = {
    "numbered": "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}",
    "said twice": "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
    "Go inside": "{% for m in messages %}{{ '{{' }}{{ m.role }}{{ m.content }}|{% endfor %}",
}
USER, ANSWER = {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Four."}
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = {
    "one question": [USER],
    "two questions": [USER, ANSWER, {"role": "user", "content": 'A "quoted"\nline'}],
    "a system turn": [SYSTEM, USER, ANSWER, USER],
}


def renderer(template: str):
    def render(turns: Sequence[Turn], asks: bool) -> str:
        names = {"bos_token": "", "eos_token": "</s>"}
        return compiled(template).render(messages=turns, add_generation_prompt=asks, **names)

    return render


def in_go(template: str, system: str, turns: Sequence[Turn]) -> str:
    """Render what `go_template` writes as Go's text/template does, by hand."""
    turns = list(turns)
    if system and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    begin, before, rest = "", "{{ range .Messages }}", template
    if rest.startswith("{{ if not .System }}"):
        begin, _, rest = rest.removeprefix("{{ if not .System }}").partition("{{ end }}")
        begin = "" if turns[0]["role"] == "system" else begin
    assert rest.startswith(before)
    body, _, asks = rest.removeprefix(before).rpartition("{{ end }}{{ end }}")
    text = begin
    for turn in turns:
        for branch in body.split("{{ else if ") if "{{ if " in body else []:
            head, _, said = branch.removeprefix("{{ if ").partition(" }}")
            if head == f'eq .Role "{turn["role"]}"':
                text += said.replace("{{ .Content }}", turn["content"])
    return text + asks


def test_the_reader_of_this_test_reads_go():
    template = '{{ range .Messages }}{{ if eq .Role "user" }}<{{ .Content }}>{{ end }}{{ end }}!'
    assert in_go(template, "", [USER, ANSWER, USER]) == "<Two?><Two?>!"


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", [*NAMES, *OWN])
def test_go_says_what_jinja_says(name: str, conversation: str):
    render = renderer(OWN.get(name) or template_of(name))
    turns = turns_of(render)
    assert turns is not None
    written = modelfile(go_template(turns), turns.system, ["</s>"], "model.gguf")
    said = read_modelfile(written)
    assert said["FROM"] == ["./model.gguf"]
    assert said["PARAMETER"] == ['stop "</s>"']
    template, system = said["TEMPLATE"][0], said.get("SYSTEM", [""])[0]
    messages = CONVERSATIONS[conversation]
    wanted = render(messages, True)
    assert in_go(template, system, messages) == wanted
    read = compiled(as_jinja(template, system)).render(messages=messages)
    assert read == wanted


def test_a_system_turn_that_the_template_adds_is_the_modelfiles():
    turns = turns_of(renderer(SMOLLM2))
    assert turns is not None
    assert turns.system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert turns.without_system == ""


@pytest.mark.parametrize("name", REFUSED)
def test_what_go_cannot_say_is_refused(name: str):
    turns = turns_of(renderer(REFUSED[name]))
    assert turns is None or go_template(turns) is None


def test_another_template_is_read_as_go_reads_it():
    spaced = '{{- range .Messages }}\n {{- if eq .Role "user" }}U: {{ .Content }}\n{{ end -}}  \n{{ end }}'
    assert compiled(as_jinja(spaced)).render(messages=[USER, USER]) == "U: Two?\nU: Two?\n"
    with pytest.raises(ValueError, match="printf"):
        as_jinja("{{ printf 1 }}")


def test_stops_are_quoted():
    assert json.loads(modelfile("", "", ['<"x">'], "m").split("stop ")[1]) == '<"x">'
