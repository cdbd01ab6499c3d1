"""The marks of chat templates, special tokens and excerpts."""

from __future__ import annotations

import pytest

from nbft.data.doctor.text import (
    FAMILIES,
    excerpt,
    families_in,
    special_tokens,
    turns_in,
    whole_turns,
    without_marks,
)

ASKED, ANSWERED = "What is 2 + 2?", "It is 4.\nTruly."
CHATS = {
    "ChatML": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{0}<|im_end|>\n"
    "<|im_start|>assistant\n{1}<|im_end|>",
    "Llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{0}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{1}<|eot_id|>",
    "Llama 2 and Mistral": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{0} [/INST] {1} </s>",
    "Gemma": "<bos><start_of_turn>user\n{0}<end_of_turn>\n<start_of_turn>model\n{1}<end_of_turn>",
    "Zephyr and Phi-3": "<|system|>\nBe brief.</s>\n<|user|>\n{0}</s>\n<|assistant|>\n{1}</s>",
    "DeepSeek": "<｜begin▁of▁sentence｜><｜User｜>{0}<｜Assistant｜>{1}<｜end▁of▁sentence｜>",
    "Alpaca": "Below is a task.\n\n### Instruction:\n{0}\n\n### Response:\n{1}",
    "Guanaco": "### Human: {0}\n### Assistant: {1}",
    "Anthropic's older models": "\n\nHuman: {0}\n\nAssistant: {1}",
    "Vicuna": "USER: {0} ASSISTANT: {1}</s>",
}


def test_every_family_is_tested():
    assert {*CHATS} == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", CHATS)
def test_the_marks_of_a_family_become_turns(name):
    text = CHATS[name].format(ASKED, ANSWERED)
    family = next(one for one in FAMILIES if one.name == name)
    assert [*families_in(text)] == [name]
    turns = turns_in(text, family)
    expected = [("user", ASKED), ("assistant", ANSWERED)]
    if "Be brief." in text:
        expected.insert(0, ("system", "Be brief."))
    assert [(turn["role"], turn["content"]) for turn in turns] == expected
    again = turns_in(text + "\n" + text.removeprefix("Below is a task.\n\n"), family)
    assert [turn["content"] for turn in again].count(ANSWERED) == 2, "of two turns too"


def test_what_is_no_chat_has_no_turns():
    assert families_in("[INST is no mark], nor is ## Instruction") == {}
    assert turns_in("<|im_start|>user\nHello", FAMILIES[0]) == [], "nobody answers"


@pytest.mark.parametrize("name", CHATS)
def test_a_text_is_turned_only_where_nothing_is_lost(name):
    family = next(one for one in FAMILIES if one.name == name)
    text = CHATS[name].format(ASKED, ANSWERED)
    for begin in (
        "Below is a task.\n\n",
        "<s>",
        "<bos>",
        "<|begin_of_text|>",
        "<｜begin▁of▁sentence｜>",
    ):
        text = text.removeprefix(begin)
    assert [turn["content"] for turn in whole_turns(text, family)][-2:] == [ASKED, ANSWERED]
    assert whole_turns("A note before. " + text, family) == []


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("<|im_start|>user\nAdd 1.<|im_end|>\n<|im_start|>assistant\n", "Add 1."),
        ("<|im_start|>user\nAdd 1.<|im_end|>", "Add 1."),
        ("Two.<|im_end|>", "Two."),
        ("  indented\n    code<|im_end|>", "  indented\n    code"),
        ("The mark <|im_end|> ends a turn.", None),
        ("<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\nTwo<|im_end|>", None),
        ("See: <|im_start|>user\nAdd 1.<|im_end|>", None),
    ],
)
def test_marks_are_taken_away_where_that_is_certain(text, meant):
    assert without_marks(text, FAMILIES[0]) == meant


def test_special_tokens_are_found_the_longest_first():
    pattern = special_tokens(["<s>", "<s><s>", " ", ""])
    assert pattern.findall("a<s><s>b<s>") == ["<s><s>", "<s>"]
    assert special_tokens([""]) is None


def test_an_excerpt_shows_what_nobody_sees():
    assert excerpt("a\x0cb\u200b \n c") == r"a\x0cb\u200b c"
    long = "x" * 200 + "HERE" + "y" * 200
    shown = excerpt(long, 200)
    assert "HERE" in shown
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert len(shown) == 92
