"""Every chat template tells answers from the rest, and says what is wrong with another text."""

import pytest

from nbft.config import Config
from nbft.data.chat import chat_segments
from nbft.models.load import load_tokenizer
from nbft.models.templates import TEMPLATES, template_problem

MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "Four."},
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_only_the_answers_are_learnt(tiny_model, name):
    config = Config(model={"model_name": str(tiny_model), "chat_template": name})
    tokenizer = load_tokenizer(config, tiny_model)
    segments = chat_segments(MESSAGES, tokenizer)
    learnt = [text for text, is_trained in segments if is_trained]
    rest = "".join(text for text, is_trained in segments if not is_trained)
    assert ["Two." in learnt[0], "Four." in learnt[1], len(learnt)] == [True, True, 2]
    assert all(m["content"] in rest for m in MESSAGES if m["role"] != "assistant")
    assert "Two." not in rest


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
    assert words in str(template_problem(given))


def test_a_text_is_taken_as_it_is():
    assert template_problem("{{ messages[0]['content'] }}") is None
