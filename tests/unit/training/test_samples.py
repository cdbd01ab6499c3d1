"""The prompts that a run answers before and after, and their wanted answers."""

from __future__ import annotations

import pytest

from nbft.config import Config
from nbft.data.examples import load_examples
from nbft.data.tokens import tokenise
from nbft.training.worker import _sample_prompts

PAIRS = [
    {"prompt": f"What is {n} plus one? ", "completion": f"It is {n + 1} now."} for n in range(6)
]
CHAT = [
    {
        "messages": [
            {"role": "user", "content": f"Say {n}."},
            {"role": "assistant", "content": f"I say {n}."},
            {"role": "user", "content": "And again?"},
            {"role": "assistant", "content": f"Still {n}."},
        ]
    }
    for n in range(6)
]


def asked(tiny_model, tokenizer, rows, **settings):
    config = Config(
        model={"model_name": str(tiny_model)},
        data={
            "train": {"datasets": [{"rows": rows}]},
            "validation": {"datasets": [{"rows": rows}]},
        },
        **settings,
    )
    examples, _ = load_examples(config, "validation")
    held_out = tokenise(examples, tokenizer, config, "validation")
    return _sample_prompts(config, tokenizer, held_out)


@pytest.mark.parametrize("only_completion", [True, False])
def test_the_first_held_out_rows_are_asked_and_their_answers_are_wanted(
    tiny_model, tiny_tokenizer, only_completion
):
    data = {"completion_only_loss": only_completion}
    config = Config(
        model={"model_name": str(tiny_model)}, data={"rows": PAIRS, **data, "split_ratio": 0.5}
    )
    examples, _ = load_examples(config, "validation")
    held_out = tokenise(examples, tiny_tokenizer, config, "validation")
    prompts = _sample_prompts(config, tiny_tokenizer, held_out)
    first = examples[: config.evaluation.sample_count]
    assert [(one.text, one.wanted) for one in prompts] == [(e.prompt, e.completion) for e in first]


def test_of_a_conversation_the_first_answer_is_wanted(tiny_model, tiny_tokenizer):
    tiny_tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}"
        "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    (first, *_) = asked(tiny_model, tiny_tokenizer, CHAT)
    assert first.text.endswith("Say 0.<assistant>")
    assert first.wanted == "I say 0."


def test_of_given_prompts_no_answer_is_wanted(tiny_model, tiny_tokenizer):
    prompts = asked(
        tiny_model, tiny_tokenizer, PAIRS, evaluation={"sample_prompts": ["Hi.", "Who are you?"]}
    )
    assert [(one.text, one.wanted) for one in prompts] == [("Hi.", ""), ("Who are you?", "")]
