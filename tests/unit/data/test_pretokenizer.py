"""Texts cut by their words get the tokens that the tokenizer gives, whatever is in them."""

import copy
import json
import random

import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers

from nbft.data import pretokenizer, tokens
from nbft.data.examples import Example
from nbft.data.pretokenizer import splitter
from nbft.data.samples import sample_path

LETTERS = [
    *"ab sStTrReEvVlLmMdD'''0059!!.<|>_-   \n\n\t\r\x0b\x0c\x00\x1c\x1f\x7f",
    *("é", "ß", "語", "🙂", "\u0301", "\u00a0", "\u2028", "\u3000", "²", "٣", "\u200b", "’"),
    *("<|start|>", "<|end|>", "'s", "'ll", "'RE", " '", "  ", " a", "<|en"),
]

BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
SINGLE_DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL])


@pytest.fixture(scope="module", params=[BYTE_LEVEL, SINGLE_DIGITS], ids=["numbers", "digits"])
def backend(request, tiny_tokenizer):
    found = copy.deepcopy(tiny_tokenizer).backend_tokenizer
    found.pre_tokenizer = request.param
    return found


def by_the_tokenizer(backend, texts):
    return [one.ids for one in backend.encode_batch(texts, add_special_tokens=False)]


@pytest.mark.parametrize("seed", range(100))
def test_random_texts(seed, backend):
    draw = random.Random(seed)
    texts = [
        "".join(draw.choice(LETTERS) for _ in range(draw.randrange(30)))
        for _ in range(draw.randrange(1, 40))
    ]
    found = splitter(backend).cut(texts)
    for text, ids, expected in zip(texts, found, by_the_tokenizer(backend, texts), strict=True):
        assert ids == expected, repr(text)


@pytest.mark.parametrize("name", ["alpaca", "samsum", "gsm8k", "grammar"])
def test_real_texts(name, backend):
    lines = sample_path(name, "train").read_text(encoding="utf-8").splitlines()
    texts = [value for line in lines for value in json.loads(line).values()]
    texts = [text for text in texts if isinstance(text, str)]
    assert splitter(backend).cut(texts) == by_the_tokenizer(backend, texts)


@pytest.mark.parametrize("texts", [[], [""], ["", "", ""], ["", "a", ""], ["é"], ["\0", "\0\0"]])
def test_next_to_nothing(texts, backend):
    assert splitter(backend).cut(texts) == by_the_tokenizer(backend, texts)


def test_long_texts_are_looked_at_some_at_a_time(backend, monkeypatch):
    monkeypatch.setattr(pretokenizer, "_MOST_AT_ONCE", 20)
    texts = ["It's " * n for n in range(12)] + ["", "end"]
    assert splitter(backend).cut(texts) == by_the_tokenizer(backend, texts)


@pytest.mark.parametrize("added", [["'<|"], ["a<|st", "art|>b"]])
def test_added_tokens_that_could_run_into_the_mark_between_words(added, backend):
    backend = copy.deepcopy(backend)
    backend.add_tokens([AddedToken(token, normalized=False) for token in added])
    texts = ["It's a ' b 'a", "a b'<|start|>b a<|start|>b", "".join(added)]
    assert splitter(backend).cut(texts) == by_the_tokenizer(backend, texts)


def test_few_words_are_remembered(backend, monkeypatch):
    monkeypatch.setattr(pretokenizer, "_MOST_KNOWN", 3)
    for texts in (["one two three four"], ["five six"], ["one two"]):
        assert splitter(backend).cut(texts) == by_the_tokenizer(backend, texts)


def test_words_are_cut_again_when_a_token_is_added(backend):
    backend = copy.deepcopy(backend)
    texts = ["a <tool> b", "<tool>"]
    before = splitter(backend).cut(texts)
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    after = splitter(backend).cut(texts)
    assert before != after == by_the_tokenizer(backend, texts)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: setattr(b, "normalizer", normalizers.NFC()),
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda b: setattr(b.model, "dropout", 0.1),
        lambda b: setattr(b, "encode_special_tokens", True),
        lambda b: b.add_tokens([AddedToken("word", lstrip=True, normalized=False)]),
        lambda b: b.add_tokens([AddedToken("word", normalized=True)]),
    ],
)
def test_a_tokenizer_with_a_way_of_its_own_is_left_alone(change, backend):
    changed = copy.deepcopy(backend)
    change(changed)
    assert splitter(changed) is None


def test_many_rows_are_cut_as_by_the_tokenizer(tiny_tokenizer, monkeypatch):
    rows = [Example(f"Add {n} and '{n}'.\n", f"It's {n * 2} — 語") for n in range(300)]
    expected = [tokens.encode([row], tiny_tokenizer)[0] for row in rows]
    asked = []
    one = tokens._tokenizer_ids
    monkeypatch.setattr(
        tokens, "_tokenizer_ids", lambda t, *a, **k: asked.append(len(t)) or one(t, *a, **k)
    )
    assert tokens.encode(rows, tiny_tokenizer) == expected
    assert max(asked) <= 16, "only some are cut by the tokenizer, to compare"


def test_words_that_do_not_agree_with_the_tokenizer_are_not_taken(tiny_tokenizer, monkeypatch):
    rows = [Example(f"Add {n}.\n", str(n)) for n in range(100)]
    expected = [tokens.encode([row], tiny_tokenizer)[0] for row in rows]
    monkeypatch.setattr(tokens.Pretokenizer, "cut", lambda self, texts: [[1] for _ in texts])
    assert tokens.encode(rows, tiny_tokenizer) == expected
