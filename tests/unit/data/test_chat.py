"""What is trained of a conversation: what the model will be asked to write, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nbft.config import Config
from nbft.data.chat import RefusedConversationError
from nbft.data.examples import Example, by_answer, load_examples
from nbft.data.rendering import PlainTemplate, TokenizerTemplate
from nbft.data.tokens import encode
from nbft.plan import make_plan

SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|end|>", "<|return|>", "<|call|>", "<|eom_id|>"),
    *("<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<|user|>"),
    *("<|assistant|>", "<|observation|>", "<|channel|>", "<|message|>", "<|start|>", "<turn|>"),
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city now.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "A city."}},
                "required": ["city"],
            },
        },
    }
]
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Rome"}},
}


def asks(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answers(text: str, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": text, **more}


ROWS = {
    "one answer": {"messages": [asks("Name a fruit."), answers("Quince.")]},
    "two answers": {
        "messages": [asks("Name a fruit."), answers("Quince."), asks("One more?"), answers("Fig.")]
    },
    "a system turn": {
        "messages": [
            {"role": "system", "content": "Be terse."},
            *(asks("Name a tree."), answers("Ash."), asks("And?"), answers("Oak.")),
        ]
    },
    "spaces": {"messages": [asks("  Indent. "), answers("  x = 1\n\n")]},
    "reasoning in the text": {
        "messages": [
            *(asks("1 + 1?"), answers("<think>\nOne and one.\n</think>\n\nTwo.")),
            *(asks("2 + 2?"), answers("<think>\nTwo and two.\n</think>\n\nFour.")),
        ]
    },
    "reasoning in a field": {
        "messages": [
            *(asks("1 + 1?"), answers("Two.", reasoning_content="One and one.")),
            *(asks("2 + 2?"), answers("Four.", reasoning_content="Two and two.")),
        ]
    },
    "tools": {
        "tools": TOOLS,
        "messages": [
            asks("Weather in Rome?"),
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call12345", "content": "18 C"},
            answers("It is 18 degrees in Rome."),
        ],
    },
}
FOLDER = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"  # type: ignore[union-attr,arg-type]
TEMPLATES = sorted(FOLDER.glob("*.jinja"))


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with the marks of many templates, on the disk."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, "bos_token": "<|start|>"})
    folder = tmp_path_factory.mktemp("marks")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(model: Path):
    return AutoTokenizer.from_pretrained(model)


def examples_of(rows, tokenizer):
    config = Config(data={"rows": rows, "split_ratio": 1.0})
    return by_answer(load_examples(config, "train")[0], tokenizer)[0]


def texts(encoded, tokenizer) -> tuple[str, str]:
    """Return all of a sequence, and what of it is trained on, as text."""

    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    trained = [i for i, on in zip(encoded.ids, encoded.loss_mask, strict=True) if on]
    return text(encoded.ids), text(trained)


WITHOUT_TOOLS = (
    *("cohere", "cohere2", "deepseek_r1_distill", "gemma", "gemma3", "idefics3", "lfm2", "llama3"),
    *("llava_next", "phi3", "phi3_5", "qwen2_5_vl", "smolvlm"),
)
"""Templates that cannot say tools, and their training forms."""

OTHER = {
    # It asks with <think> and writes answers without it.
    ("deepseek_r1_distill", "one answer"): ["Quince.<｜end▁of▁sentence｜>"],
    ("deepseek_r1_distill", "reasoning in the text"): [
        "One and one.\n</think>\n\nTwo.<｜end▁of▁sentence｜>",
        "Two and two.\n</think>\n\nFour.<｜end▁of▁sentence｜>",
    ],
    ("deepseek_r1_distill", "reasoning in a field"): [
        "One and one.\n</think>\n\nTwo.<｜end▁of▁sentence｜>",
        "Two and two.\n</think>\n\nFour.<｜end▁of▁sentence｜>",
    ],
    ("nemotron_3_nano", "one answer"): ["</think>Quince.<|im_end|>"],
    # It asks for no reasoning.
    ("qwen3_5_nothink", "reasoning in the text"): ["Two.<|im_end|>", "Four.<|im_end|>"],
    ("qwen3_5_nothink", "reasoning in a field"): ["Two.<|im_end|>", "Four.<|im_end|>"],
    # Its tags leave out what stands between the call and the answer.
    ("diffusion_gemma_training", "tools"): [
        (
            '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>}<tool_call|>It is 18 degrees in '
            "Rome.<turn|>"
        )
    ],
    # The system turn stands before the first question.
    ("gemma", "a system turn"): ["Ash.<end_of_turn>Oak.<end_of_turn>"],
}


def first_end(reply: str) -> str:
    """Return a reply up to its first mark of an end, the rest of which nobody asks the model for."""
    marks = r"(?:<\|[a-zA-Z_]+\|>|<turn\|>|<end_of_turn>)+"
    return re.sub(rf"({marks})(?:\s+(?:{marks})?)*$", r"\1", reply)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_trained_is_what_the_model_will_be_asked_to_write(tokenizer, template, kind):
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    row, name = ROWS[kind], template.stem
    if kind == "tools" and name.removesuffix("_training") in WITHOUT_TOOLS:
        with pytest.raises(RefusedConversationError, match="get_weather"):
            encode(examples_of([row], tokenizer), tokenizer)
        return
    examples = examples_of([row], tokenizer)
    every = encode(examples, tokenizer)
    found = [texts(one, tokenizer) for one in every]
    end = tokenizer.eos_token
    assert not any(text.endswith(end * 2) for text, _ in found)
    trained = "".join(trained for _, trained in found).replace(end, "")
    base = name.removesuffix("_training").replace("deepseekv3", "deepseek_r1_distill")
    if special := OTHER.get((base, kind)) or OTHER.get((name, kind)):
        assert trained == "".join(special)
        return
    expected, asked = "", ""
    template_of = TokenizerTemplate(tokenizer)
    for place, turn in enumerate(row["messages"]):
        if turn["role"] == "assistant":
            example = load(row)
            before = (example.messages[:place], example.tools)
            after = (example.messages[: place + 1], example.tools)
            (asked,), (said,) = template_of([before], asks=True), template_of([after], asks=False)
            opened = asked if said.startswith(asked) else asked.removesuffix("<think>\n")
            written = said[len(opened) :].removeprefix("<think>" if opened != asked else "")
            whole = written.rstrip() if written.rstrip()[-1:] == ">" else written
            expected += whole if turn.get("tool_calls") else first_end(written)
    assert found[-1][0].startswith(asked), "the model is asked as it will be"
    # A mark that is none of this tokenizer's special tokens keeps the space after it.
    trained, expected = (re.sub(r"</s>\s*", "</s>", text) for text in (trained, expected))
    assert trained.rstrip() == expected.replace(end, "").rstrip()


def load(row) -> Example:
    (example,) = load_examples(Config(data={"rows": [row], "split_ratio": 1.0}), "train")[0]
    return example


# What rows hold, and what becomes of it.


def test_a_greeting_is_read_where_the_template_cannot_ask_for_it(tokenizer):
    tokenizer.chat_template = (FOLDER / "qwen2_5.jinja").read_text()
    row = {"messages": [answers("Hello."), asks("Name a fruit."), answers("Quince.")]}
    (one,) = encode([load(row)], tokenizer)
    whole, trained = texts(one, tokenizer)
    assert "Hello." in whole
    assert trained == "Quince.<|im_end|><|end|>"


@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize("content", [{}, {"content": ""}, {"content": None}])
def test_calls_of_tools_are_learnt_as_the_template_writes_them(tokenizer, content, is_text):
    function = {"name": "get_weather", "arguments": {"city": "Rome"}}
    if is_text:  # as OpenAI writes them
        function |= {"arguments": json.dumps(function["arguments"])}
    call = {"type": "function", "function": function}
    row = {
        "tools": json.dumps(TOOLS) if is_text else TOOLS,
        "messages": [
            asks("Weather in Rome?"),
            {"role": "assistant", "tool_calls": [call], **content},
            {"role": "tool", "content": "18 C"},
            answers("It is 18 degrees in Rome."),
        ],
    }
    tokenizer.chat_template = (FOLDER / "qwen2_5.jinja").read_text()
    whole, trained = texts(encode([load(row)], tokenizer)[0], tokenizer)
    assert trained.startswith(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>'
    )
    assert "Weather of a city now." in whole
    assert "18 C" in whole


def test_sharegpt_calls_are_calls(tokenizer):
    row = {
        "tools": '[{"name": "get_weather", "parameters": {"type": "object", "properties": {}}}]',
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Weather in Rome?"},
            {"from": "function_call", "value": '{"name": "get_weather", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "18 C"},
            {"from": "gpt", "value": "18 degrees."},
        ],
    }
    example = load(row)
    assert [turn["role"] for turn in example.messages] == [
        *("system", "user", "assistant", "tool", "assistant"),
    ]
    (call,) = example.messages[2]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": {"a": 1}}
    assert example.messages[3]["name"] == "get_weather"
    assert example.tools[0]["function"]["name"] == "get_weather"


def test_a_null_argument_that_a_table_has_put_in_is_left_out():
    row = {"tools": TOOLS, "messages": [asks("?"), {"role": "assistant", "tool_calls": [CALL]}]}
    row["messages"][1]["tool_calls"] = [
        {"function": {"name": "get_weather", "arguments": {"city": None, "unit": None}}}
    ]
    (call,) = load(row).messages[1]["tool_calls"]
    assert call["function"]["arguments"] == {"city": None}, "city is declared, so null is meant"


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_the_plan_counts_what_the_training_counts(tokenizer, template, kind):
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    plain = PlainTemplate(tokenizer.chat_template, tokenizer.special_tokens_map, special)
    examples, _ = load_examples(Config(data={"rows": [ROWS[kind]], "split_ratio": 1.0}), "train")
    assert len(examples.by_answer(plain)) == len(by_answer(examples, tokenizer)[0])


DROPS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGGED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_drops_earlier_reasoning_is_said_by_the_plan(tiny_model, tmp_path):
    (tmp_path / "drops.jinja").write_text(DROPS)
    config = Config(
        model={
            "model_name": str(tiny_model),
            "chat_template_path": str(tmp_path / "drops.jinja"),
        },
        data={"rows": [ROWS["two answers"]] * 4, "split_ratio": 1.0},
        evaluation={"eval_strategy": "no"},
    )
    plan = make_plan(config)
    assert not plan.errors
    assert plan.train_rows == 8
    assert any("4 rows become 8 examples" in remark for remark in plan.remarks)


def test_tags_of_a_template_are_known_and_their_mask_is_used(tiny_model, tokenizer):
    config = Config(
        model={"model_name": str(tiny_model), "chat_template": TAGGED},
        data={"rows": [ROWS["two answers"]] * 4},
    )
    assert not make_plan(config).errors
    tokenizer.chat_template = TAGGED
    (one,) = encode([load(ROWS["one answer"])], tokenizer)
    assert texts(one, tokenizer)[1] == "Quince.<|end|>", "the mark is outside of the tags"
