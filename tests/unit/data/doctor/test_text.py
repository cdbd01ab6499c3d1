"""Odd characters, the marks of chat templates, and excerpts."""

from __future__ import annotations

import pytest

from nbft.data.doctor.text import (
    FAMILIES,
    ODDITIES,
    excerpt,
    family_in,
    odd_in,
    special_tokens,
    turns_in,
    unmangled,
)


@pytest.mark.parametrize(
    "meant",
    ["é", "don’t", "“Jim”", "São Paulo – 5 €", "Привет", "Ελληνικά", "😀", "… naïve", "\ufeffA"],
)
def test_what_was_mangled_comes_back(meant):
    mangled = "".join(
        bytes([byte]).decode("cp1252", "replace").replace("\ufffd", chr(byte))
        for byte in meant.encode()
    )
    assert mangled != meant
    assert "mojibake" in odd_in(mangled)
    assert unmangled(mangled) == meant


@pytest.mark.parametrize(
    "fine",
    [
        "„Viel Spaß“ am Fuß’",
        "CAFÉ” NÃO ÎLE Ångström 3×” à «b»",
        "Ð is a letter, and so is Â.",
        "می\u200cخواهم 👩\u200d🔬 é",
        "Tabs\tand\r\nlines & <b> a&b; AT&T",
    ],
)
def test_what_is_fine_is_left_alone(fine):
    assert odd_in(fine) == {}
    for oddity in ODDITIES.values():
        if oddity.clean:
            assert oddity.clean(fine) == fine


@pytest.mark.parametrize(
    ("kind", "text", "mended", "place"),
    [
        ("control_characters", "One\x00two\x85", "Onetwo", 3),
        ("control_characters", "Half: \x0crac{1}{2} of \x08eta", "Half: \\frac{1}{2} of \\beta", 6),
        ("invisible_characters", "soft\u00ad, wide\u200b, \u202eturned", "soft, wide, turned", 4),
        ("html_entities", "a &lt; b &#x27;c&#39; &eacute;", "a < b 'c' é", 2),
        ("replacement_characters", "Zo\ufffd", None, 2),
        ("replacement_characters", "half of one \ud83d", None, 12),
    ],
)
def test_each_kind_is_found_and_mended(kind, text, mended, place):
    assert odd_in(text) == {kind: place}
    clean = ODDITIES[kind].clean
    assert (clean(text) if clean else None) == mended
    if clean:
        assert odd_in(clean(text)) == {}


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
}


def test_every_family_is_tested():
    assert {*CHATS} == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", CHATS)
def test_the_marks_of_a_family_become_turns(name):
    text = CHATS[name].format(ASKED, ANSWERED)
    family, _ = family_in(text)
    assert family.name == name
    turns = turns_in(text, family)
    expected = [("user", ASKED), ("assistant", ANSWERED)]
    if "Be brief." in text:
        expected.insert(0, ("system", "Be brief."))
    assert [(turn["role"], turn["content"]) for turn in turns] == expected
    again = turns_in(text + "\n" + text.removeprefix("Below is a task.\n\n"), family)
    assert [turn["content"] for turn in again].count(ANSWERED) == 2, "of two turns too"


def test_what_is_no_chat_has_no_turns():
    assert family_in("[INST is no mark], nor is ## Instruction") is None
    assert turns_in("<|im_start|>user\nHello", FAMILIES[0]) == [], "nobody answers"


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
