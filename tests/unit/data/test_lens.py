"""Rows as tokens: kinds, parts, texts and numbers, checked by hand on a tiny tokenizer."""

import copy

import datasets
import numpy as np
import pytest

from nbft.config import Config
from nbft.data.examples import Example, load_examples
from nbft.data.lens import (
    KINDS,
    ORDERS,
    Measure,
    as_text,
    as_tokens,
    measure,
    seen,
    sequences,
    worst_first,
)
from nbft.data.tokens import IGNORE_INDEX, encode, encode_rows, tokenise
from nbft.methods import method_of
from nbft.training.rows import _prepared


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return copy.deepcopy(tiny_tokenizer)


def look(example, tokenizer, max_length=1024, *, completion_only=True):
    (encoded,) = encode([example], tokenizer, completion_only=completion_only)
    texts, sequences = {"completion": example}, {"completion": encoded}
    row = as_tokens(texts, sequences, tokenizer, max_length, completion_only=completion_only)
    assert [i for token in row.tokens for i in token.ids] == encoded.ids
    assert "".join(token.text for token in row.tokens) == tokenizer.decode(encoded.ids)
    return row


def text_of(tokens, kind):
    return "".join(token.text for token in tokens if token.kind == kind)


def test_a_row_says_what_is_read_learnt_and_special(tokenizer):
    row = look(Example("Add 1 and 2.\n", "3 it is"), tokenizer)
    prompt, completion = row.parts
    assert (prompt.name, prompt.is_trained, prompt.text) == ("prompt", False, "Add 1 and 2.\n")
    assert (completion.name, completion.is_trained) == ("completion", True)
    assert text_of(prompt.tokens, "prompt") == "Add 1 and 2.\n"
    assert text_of(completion.tokens, "trained") == "3 it is"
    end = completion.tokens[-1]
    assert end == ((tokenizer.eos_token_id,), "<|end|>", "special", tokenizer.eos_token_id)
    assert {token.label for token in prompt.tokens} == {IGNORE_INDEX}
    assert all(token.label == token.ids[-1] for token in completion.tokens)
    learnt = len(completion.tokens)
    total = learnt + len(prompt.tokens)
    assert row.measure == Measure(total, total, learnt)
    assert row.facts == [
        (f"{total} tokens", ""),
        (f"{learnt} trained ({learnt / total:.0%})", ""),
        ("end of sequence trained", "good"),
        ("nothing cut", ""),
    ]


@pytest.mark.parametrize("max_length", [9, 12, 1000])
def test_kinds_and_labels_are_those_of_the_training(tokenizer, max_length):
    """What the lens shows is what `tokenise` gives to the trainer."""
    examples = [Example("Add 1 and 2.\n", "3 it is"), Example("", "plain text to learn")]
    config = Config(data={"dataset_name": "alpaca", "max_length": max_length})
    done = tokenise(examples, tokenizer, config)
    for ids, labels, number in zip(
        done.input_ids, done.labels, done.dataset["example"], strict=True
    ):
        row = look(examples[number], tokenizer, max_length)
        kept = [token for token in row.tokens if token.kind != "cut"]
        assert [token.ids[0] for token in kept] == ids
        assert [token.label for token in kept] == labels
        assert row.measure.trained == sum(label != IGNORE_INDEX for label in labels[1:])
        assert row.measure.kept == len(ids)


def test_what_is_cut_off_is_said(tokenizer):
    whole = look(Example("Add.\n", "the answer is three"), tokenizer)
    limit = whole.measure.length - 2
    row = look(Example("Add.\n", "the answer is three"), tokenizer, limit)
    assert [token.kind for token in row.tokens[limit:]] == ["cut", "cut"]
    assert {token.label for token in row.tokens[limit:]} == {IGNORE_INDEX}
    assert row.end == "cut off"
    assert row.facts[2:] == [
        ("end of sequence cut off", "bad"),
        (f"2 cut off after {limit}", "bad"),
    ]
    prompt_tokens = len(whole.parts[0].tokens)
    left_out = look(Example("Add.\n", "the answer is three"), tokenizer, prompt_tokens)
    assert left_out.facts[1] == (
        "left out of the training: its prompt fills data.max_length",
        "bad",
    )


def test_a_row_without_anything_to_learn_is_left_out(tokenizer):
    row = look(Example("", ""), tokenizer)
    assert row.facts[1] == ("left out of the training: there is nothing to train on", "bad")


def test_the_prompt_may_be_learnt_too_and_its_first_token_never_is(tokenizer):
    row = look(Example("Add 1.\n", "2"), tokenizer, completion_only=False)
    assert [part.is_trained for part in row.parts] == [True, True]
    first, *others = row.tokens
    assert (first.kind, first.label) == ("prompt", first.ids[0])
    assert {token.kind for token in others} == {"trained", "special"}
    assert row.measure.trained == row.measure.length - 1


def test_the_tokens_of_one_character_stay_together(tokenizer):
    text = "Né 日本 👩‍👩‍👧 مرحبا"
    row = look(Example("", text), tokenizer)
    (part,) = row.parts
    assert (part.name, part.text) == ("text", text)
    assert all("\ufffd" not in token.text for token in row.tokens)
    assert any(len(token.ids) > 1 for token in row.tokens)
    nihon = next(token for token in row.tokens if "日" in token.text)
    assert tokenizer.decode(list(nihon.ids)) == nihon.text


def test_a_text_that_holds_a_broken_character_is_shown_as_it_is(tokenizer):
    row = look(Example("caf\ufffd", "\ufffd"), tokenizer)
    assert "".join(token.text for token in row.tokens) == "caf\ufffd\ufffd<|end|>"
    assert row.tokens[-1].text == "<|end|>"


def test_a_merged_token_is_noticed(tokenizer):
    for word in (" the", "Response", "Instruction", " number"):
        for cut in range(1, len(word)):
            row = look(Example("So" + word[:cut], word[cut:]), tokenizer)
            if row.is_merged:
                assert text_of(row.parts[0].tokens, "prompt") == "So" + word[:cut]
                return
    raise AssertionError("the tiny tokenizer merges nothing")


CHAT = Example(
    messages=(
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "See you."},
    )
)


def test_messages_keep_their_roles_and_what_the_template_writes_is_special(tokenizer):
    row = look(CHAT, tokenizer)
    assert [(part.name, part.is_trained) for part in row.parts] == [
        ("system", False),
        ("user", False),
        ("assistant", True),
        ("user", False),
        ("assistant", True),
    ]
    for part, message in zip(row.parts, CHAT.messages, strict=True):
        written = "".join(token.text for token in part.tokens)
        assert written == f"<|start|>{message['role']}\n{message['content']}<|end|>\n"
        own = "trained" if part.is_trained else "prompt"
        assert text_of(part.tokens, own) == message["content"]
    answer = row.parts[2].tokens
    assert next(token for token in answer if token.text == "<|end|>").label >= 0
    assert next(token for token in answer if token.text == "<|start|>").label == IGNORE_INDEX


def test_a_template_that_refuses_the_beginning_of_a_conversation_still_gives_parts(tokenizer):
    tokenizer.chat_template = (
        "{% if messages[-1]['role'] != 'assistant' and not add_generation_prompt %}"
        "{{ raise_exception('incomplete') }}{% endif %}" + tokenizer.chat_template
    )
    row = look(CHAT, tokenizer)
    assert [part.name for part in row.parts] == [message["role"] for message in CHAT.messages]
    for part, message in zip(row.parts, CHAT.messages, strict=True):
        assert message["content"] in "".join(token.text for token in part.tokens)


def test_messages_that_the_template_changes_are_shown_without_guessing(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'] | upper"
    )
    row = look(CHAT, tokenizer)
    assert len(row.parts) == 1
    assert "HELLO!" in text_of(row.tokens, "trained")


def test_without_a_tokenizer_there_is_text():
    assert [part[:3] for part in as_text({"completion": Example("a", "b")}).parts] == [
        ("prompt", False, "a"),
        ("completion", True, "b"),
    ]
    assert [
        part.is_trained
        for part in as_text({"completion": Example("a", "b")}, completion_only=False).parts
    ] == [
        True,
        True,
    ]
    row = as_text({"completion": CHAT})
    assert [(part.name, part.text) for part in row.parts] == [
        (message["role"], message["content"]) for message in CHAT.messages
    ]
    assert row.facts == [("26 characters", "")]


def test_every_order_puts_the_worst_first(tokenizer):
    examples = [
        Example("p\n", "word " * 30),
        Example("prompt " * 30, "a"),
        Example("p\n", "a"),
    ]
    found = encode(examples, tokenizer)
    limit = min(len(found[0].ids), len(found[1].ids)) - 1
    measures = [measure({"completion": one}, limit) for one in found]
    assert {order: worst_first(measures, order)[0] for order in ORDERS} == {
        "share": 1,
        "length": max((0, 1), key=lambda n: len(found[n].ids)),
        "cut": max((0, 1), key=lambda n: len(found[n].ids)),
    }
    assert worst_first([*measures, None], "length")[0] == 3
    same = [Measure(5, 5, 2)] * 3
    assert worst_first(same, "length") == [0, 1, 2]


@pytest.mark.parametrize("strategy", ["bfd", "greedy", "wrapped"])
def test_packed_sequences_are_those_of_the_training(tokenizer, strategy):
    words = ["word " * (1 + 7 * n % 19) for n in range(40)]
    examples = [Example(f"{n}\n", text) for n, text in enumerate(words)]
    config = Config(
        data={
            "dataset_name": "alpaca",
            "max_length": 32,
            "packing": True,
            "packing_strategy": strategy,
        }
    )
    done = tokenise(examples, tokenizer, config)
    packed, _ = _prepared(done, config, None)
    order = np.random.default_rng(config.training.seed).permutation(len(done))
    rows = [done.input_ids[int(n)] for n in order]
    mine = sequences([len(ids) for ids in rows], 32, strategy)
    assert isinstance(packed, datasets.Dataset)
    assert [
        [i for piece in pieces for i in rows[piece.row][piece.begin : piece.end]] for pieces in mine
    ] == list(packed["input_ids"])
    assert [[p.end - p.begin for p in pieces] for pieces in mine] == list(packed["seq_lengths"])


def test_every_kind_has_words():
    assert set(KINDS) == {"prompt", "trained", "special", "cut"}


def test_turns_without_an_answer_are_said(tokenizer):
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "And?"), ("user", "Bye")]
    messages = tuple({"role": role, "content": text} for role, text in turns)
    row = look(Example(messages=messages), tokenizer)
    assert ("2 turns without an answer left out", "bad") in row.facts
    assert "Bye" not in "".join(token.text for token in row.tokens)
    answered = look(Example(messages=messages[:2]), tokenizer)
    assert not any("answer" in text for text, _ in answered.facts)


def test_two_answers_stand_beside_each_other_below_their_prompt(tokenizer):
    texts = {"chosen": Example("Why?\n", "So."), "rejected": Example("Why?\n", "No idea.")}
    encoded = dict(zip(texts, encode(list(texts.values()), tokenizer), strict=True))
    row = as_tokens(texts, encoded, tokenizer, 1024)
    parts = [(part.side, part.title, part.text) for part in row.parts]
    assert parts == [
        ("", "prompt", "Why?\n"),
        ("chosen", "chosen: completion", "So."),
        ("rejected", "rejected: completion", "No idea."),
    ]
    assert [part[2] for part in as_text(texts).parts] == ["Why?\n", "So.", "No idea."]
    both = encoded.values()
    assert row.measure == Measure(
        sum(len(one.ids) for one in both),
        sum(len(one.ids) for one in both),
        sum(sum(one.loss_mask) for one in both),
    )
    of_sides = [
        (f"{name} {len(one.ids)} tokens, {sum(one.loss_mask)} trained", "")
        for name, one in encoded.items()
    ]
    assert row.facts == [*of_sides, ("end of sequence trained", "good"), ("nothing cut", "")]
    limit = len(encoded["chosen"].ids)
    cut = as_tokens(texts, encoded, tokenizer, limit)
    assert cut.end == "cut off"
    over = len(encoded["rejected"].ids) - limit
    assert (f"{over} of rejected cut off", "bad") in cut.facts
    assert (
        sum(len(token.ids) for token in cut.kept_tokens)
        == 2 * limit - encoded["chosen"].prompt_tokens
    )


def test_turns_that_differ_belong_to_their_side(tokenizer):
    def answered(*turns):
        return [{"role": role, "content": text} for role, text in turns]

    asked = [("user", "Why?"), ("assistant", "How so?"), ("user", "Just why?")]
    row = {
        "chosen": answered(*asked, ("assistant", "So.")),
        "rejected": answered(*asked, ("assistant", "No idea.")),
    }
    config = Config(data={"rows": [row]}, training={"method": "dpo"})
    examples, _ = load_examples(config, "train")
    shown, problems = seen(examples, 0, config, tokenizer)
    assert problems == []
    titles = ["user", "assistant", "user", "chosen: assistant", "rejected: assistant"]
    assert [part.title for part in shown.parts] == titles
    assert [part.is_trained for part in shown.parts] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("method", "row", "fact"),
    [
        ("dpo", {"chosen": "b", "rejected": "c", "margin": 2.5}, ("chosen scored 2.5 higher", "")),
        ("dpo", {"chosen": "b", "rejected": "c", "margin": -1}, ("chosen scored 1 lower", "bad")),
        ("reward", {"chosen": "b", "rejected": "c", "margin": 2.5}, ("margin 2.5 in the loss", "")),
        ("orpo", {"chosen": "b", "rejected": "c", "margin": 0}, ("both scored alike", "bad")),
        ("dpo", {"chosen": "b", "rejected": "b"}, ("both answers are the same", "bad")),
        ("kto", {"completion": "b", "label": True}, ("labelled good", "")),
        ("kto", {"completion": "b", "label": False}, ("labelled bad", "")),
    ],
)
def test_what_a_row_says_of_its_answers_is_shown(tokenizer, method, row, fact):
    config = Config(data={"rows": [{"prompt": "a\n", **row}]}, training={"method": method})
    examples, _ = load_examples(config, "train")
    for known in (tokenizer, None):
        shown, _ = seen(examples, 0, config, known)
        assert shown.facts[-1] == fact
    assert "the same" not in str(shown.facts) or row["chosen"] == row["rejected"]
    sft = config.apply({"training.method": "sft"})
    if row.get("label") is not False:  # which SFT leaves out
        shown, _ = seen(load_examples(sft, "train")[0], 0, sft, tokenizer)
        assert fact not in shown.facts


def test_of_a_very_long_text_only_the_beginning_is_tokenised(tokenizer, monkeypatch):
    calls = []
    cut = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer),
        "__call__",
        lambda self, texts, **how: calls.append(texts) or cut(self, texts, **how),
    )
    example = Example("Say it.\n", "word " * 200_000)
    (row,) = encode_rows([example], tokenizer, method_of(Config()), max_length=16)
    assert max(len(text) for texts in calls for text in texts) < 50_000
    row_seen = as_tokens({"completion": example}, row, tokenizer, 16)
    assert row_seen.facts[0][0].startswith("about 200,")
    assert row_seen.end == "cut off"
    (whole,) = encode_rows([example], tokenizer, method_of(Config()))
    assert whole["completion"].ids[:16] == row["completion"].ids[:16]
    length = row["completion"].length
    assert abs(length - whole["completion"].length) < length / 100
