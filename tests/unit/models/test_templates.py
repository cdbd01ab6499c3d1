"""Every chat template tells answers from the rest, and says what is wrong with another text."""

import re

import pytest

from nbft.config import Config
from nbft.data.chat import as_conversations
from nbft.data.examples import Example
from nbft.data.rendering import TokenizerTemplate
from nbft.errors import ModelError
from nbft.models.load import load_tokenizer
from nbft.models.templates import NAMES, chosen_template

MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "Four."},
]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_answers_are_learnt(tiny_model, name):
    config = Config(model={"model_name": str(tiny_model), "chat_template": name})
    tokenizer = load_tokenizer(config, tiny_model)
    example = Example(messages=tuple(MESSAGES))
    (conversation,) = as_conversations([example], TokenizerTemplate(tokenizer), [0], "train")
    segments = conversation.segments
    learnt = [text for text, is_trained in segments if is_trained]
    rest = "".join(text for text, is_trained in segments if not is_trained)
    assert ["Two." in learnt[0], "Four." in learnt[1], len(learnt)] == [True, True, 2]
    assert all(m["content"] in rest for m in MESSAGES if m["role"] != "assistant")
    assert "Two." not in rest


def test_chatml_says_tools_and_is_otherwise_the_same(tiny_model):
    config = Config(model={"model_name": str(tiny_model), "chat_template": "chatml"})
    tokenizer = load_tokenizer(config, tiny_model)

    def text(messages, **how):
        return tokenizer.apply_chat_template(messages, tokenize=False, **how)

    plain = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in MESSAGES)
    assert text(MESSAGES) == plain
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": "é", "b": 2}}}
    asked = [MESSAGES[0], {"role": "user", "content": "2 and 2?"}]
    called = {"role": "assistant", "content": "", "tool_calls": [call, call]}
    answered = text([*asked, called, {"role": "tool", "content": "4"}], tools=[tool])
    assert answered.startswith("<|im_start|>system\nBe short.\n\nTo call a tool, write <tool_call>")
    assert '{"type": "function", "function": {"name": "add"' in answered
    assert answered.count("<|im_start|>system") == 1
    one = '<tool_call>\n{"name": "add", "arguments": {"a": "é", "b": 2}}\n</tool_call>'
    assert answered.endswith(
        f"<|im_start|>assistant\n{one}\n{one}<|im_end|>\n<|im_start|>tool\n4<|im_end|>\n"
    )


def test_zephyr_is_as_published(tiny_model):
    config = Config(model={"model_name": str(tiny_model), "chat_template": "zephyr"})
    text = load_tokenizer(config, tiny_model).apply_chat_template(MESSAGES[1:3], tokenize=False)
    assert text == "<|user|>\nOne?<|end|>\n<|assistant|>\nTwo.<|end|>\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("chatlm", "is no Jinja text and not one of chatml, llama3"),
        ("{% for %}", "line 1: is not valid Jinja ("),
    ],
)
def test_what_is_no_template(given, words):
    with pytest.raises(ModelError, match=re.escape(words)):
        chosen_template(Config(model={"chat_template": given}).model, None)


def test_a_text_is_taken_as_it_is():
    text = "{{ messages[0]['content'] }}"
    assert chosen_template(Config(model={"chat_template": text}).model, None) == text


def test_a_file_beside_the_config_or_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "a.jinja").write_text("{{ beside }}")
    (tmp_path / "a.jinja").write_text("{{ here }}")
    (tmp_path / "b.jinja").write_text("{{ here }}")
    monkeypatch.chdir(tmp_path)

    def chosen(name):
        model = Config(model={"chat_template_path": name}).model
        return chosen_template(model, tmp_path / "beside")

    assert [chosen("a.jinja"), chosen("b.jinja")] == ["{{ beside }}", "{{ here }}"]
