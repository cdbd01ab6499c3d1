"""A chat template that changes earlier turns: every reader of rows has one example for each answer."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from nbft.config import Config
from nbft.data.examples import load_examples
from nbft.data.token_cache import prepare
from nbft.evaluate.scoring import Scorer
from nbft.training.rows import lengths_of, read_rows

DROPS = (
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
WORDS = "One Two Three Four".split()


@pytest.fixture
def tokenizer(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = DROPS
    return tokenizer


@pytest.fixture
def config(tiny_model, tmp_path):
    rows = tmp_path / "rows.jsonl"
    lines = (
        '{"messages": [{"role": "user", "content": "First?"}, '
        f'{{"role": "assistant", "content": "{word} a"}}, {{"role": "user", "content": "Then?"}}, '
        f'{{"role": "assistant", "content": "{word} b"}}], "size": {number}}}'
        for number, word in enumerate(WORDS)
    )
    rows.write_text("\n".join(lines))
    return Config(
        model={"model_name": str(tiny_model)},
        data={
            "train": {"datasets": [{"path": str(rows)}]},
            "validation": {"datasets": [{"path": str(rows)}]},
            "train_sampling_strategy": "group_by_length",
            "length_column_name": "size",
        },
        evaluation={"metrics": ["exact_match"], "score_rows": 8},
    )


def test_lengths_of_a_column_are_those_of_each_answer(config, tokenizer):
    found = [
        read_rows(config, tokenizer, lambda _: None, lambda _: None, padding_free=False).lengths
        for _ in range(2)  # the second time the tokens come from the cache
    ]
    assert sorted(found[0]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found[0] == found[1]
    prepared = prepare(config, tokenizer)["train"]
    assert prepared.examples is None, "the rows are not read again"
    examples, _ = load_examples(config, "train", tokenizer=tokenizer)
    assert lengths_of(config, prepared.rows, examples) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_each_answer_is_scored_by_its_own_reference(config, tokenizer):
    examples, _ = load_examples(config, "validation", tokenizer=tokenizer)
    asked = Scorer(config, tokenizer, examples)._asked
    assert sorted(one.reference for one in asked) == sorted(f"{w} {x}" for w in WORDS for x in "ab")
    for one in asked:
        text = tokenizer.decode(one.prompt)
        assert text.count("?") == (1 if one.reference.endswith("a") else 2), text
