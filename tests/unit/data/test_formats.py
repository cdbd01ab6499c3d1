"""The shapes of rows: each is recognised by its columns, says so, and makes the right example."""

import dataclasses
import json
from pathlib import Path

import pytest

from nbft.config import Config
from nbft.data.examples import Example, load_examples
from nbft.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"
ASKED = {"role": "user", "content": "Why?"}
ANSWERED = {"role": "assistant", "content": "So."}
TURNS = Example(messages=(ASKED, ANSWERED))
FROM = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]


def load(rows):
    return load_examples(Config(data={"rows": rows, "split_ratio": 1}), "train")


def rejecting(*turns):
    """Return the conversation with a worse one beside it."""
    return dataclasses.replace(TURNS, rejected=turns)


@pytest.mark.parametrize(
    ("name", "row", "example"),
    [
        ("prompt and completion", {"prompt": "Why?", "completion": "So."}, Example("Why?", "So.")),
        (
            "prompt and completion in messages",
            {"prompt": [ASKED], "completion": [ANSWERED]},
            TURNS,
        ),
        ("messages", {"messages": [ASKED, ANSWERED]}, TURNS),
        ("ShareGPT conversations", {"conversations": FROM}, TURNS),
        (
            "ShareGPT conversations",
            {"conversations": FROM, "system": "Be brief."},
            Example(messages=({"role": "system", "content": "Be brief."}, ASKED, ANSWERED)),
        ),
        (
            "preference pairs",
            {
                "conversations": FROM[:1],
                "chosen": FROM[1],
                "rejected": {"from": "gpt", "value": "x"},
            },
            rejecting(ASKED, {"role": "assistant", "content": "x"}),
        ),
        (
            "preference pairs",
            {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
            Example("Why?", "So.", rejected="No."),
        ),
        (
            "preference pairs",
            {"prompt": "Why?", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED]},
            rejecting(ASKED, ANSWERED),
        ),
        (
            "preference pairs",
            {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED]},
            rejecting(ASKED, ANSWERED),
        ),
        (
            "feedback on messages",
            {"messages": [ASKED, ANSWERED], "label": True},
            dataclasses.replace(TURNS, label=True),
        ),
        (
            "instructions",
            {"instruction": "Add.", "input": "2, 3", "output": "5"},
            Example("### Instruction:\nAdd.\n\n### Input:\n2, 3\n\n### Response:\n", "5"),
        ),
        (
            "instructions",
            {"instruction": "Add.", "context": "2, 3", "response": "5"},
            Example("### Instruction:\nAdd.\n\n### Input:\n2, 3\n\n### Response:\n", "5"),
        ),
        (
            "questions and answers",
            {"query": "Why {so}?", "response": "So."},
            Example("Question: Why {so}?\n\nAnswer:\n", "So."),
        ),
        (
            "dialogues and summaries",
            {"dialogue": "A: Hi", "summary": "A greets."},
            Example("Summarise this conversation.\n\nA: Hi\n\nSummary:\n", "A greets."),
        ),
        (
            "texts and summaries",
            {"text": "Long.", "summary": "Short."},
            Example("Summarise.\n\nLong.\n\nSummary:\n", "Short."),
        ),
        (
            "inputs and outputs",
            {"input": "he go", "target": "He goes."},
            Example("he go\n", "He goes."),
        ),
        ("plain text", {"text": "Long."}, Example("", "Long.")),
    ],
)
def test_a_shape_is_recognised_and_said(name, row, example):
    examples, _ = load([row, row])
    assert examples.formats == [name]
    assert list(examples) == [example, example]
    (said,) = examples.recognised
    assert said.startswith(f"data.train.datasets[0]: recognised as {name} (2 rows); ")


def test_answers_labelled_as_bad_are_left_out_and_counted():
    rows = [{"messages": [ASKED, ANSWERED], "label": n != 1, "n": n} for n in range(3)]
    examples, said = load(rows)
    assert [examples.row(n)["n"] for n in range(len(examples))] == [0, 2]
    assert examples.origin(1) == (0, 3)
    assert said == [
        "data.train.datasets[0]: 1 of 3 rows are left out: they are labelled as bad answers."
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"conversations": [{"from": "dog", "value": "Wuff"}]},
            (
                "row 1: \"conversations\" has a turn from 'dog', which is not a known speaker. Use "
                "human, gpt, system or tool."
            ),
        ),
        (
            {"conversations": FROM[:1]},
            (
                'row 1: no message has the role "assistant", so there would be nothing to train '
                "on. Add the answer."
            ),
        ),
        (
            {"conversations": "Hi"},
            (
                'row 1: "conversations" is not a list of turns with role and content. Write [{"role": '
                '"user", "content": "…"}, {"role": "assistant", "content": "…"}].'
            ),
        ),
    ],
)
def test_the_words_of_a_row_that_has_not_its_shape(row, said):
    with pytest.raises(DataError) as caught:
        load([row])
    assert [str(p) for p in caught.value.problems] == [f"data.train.datasets[0]: {said}"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows are not at hand")
@pytest.mark.parametrize(
    ("file", "name", "rows"),
    [
        ("alpaca.json", "instructions", 999),
        ("gsm8k.jsonl", "questions and answers", 7473),
        ("dialogsum.jsonl", "dialogues and summaries", 500),
        ("preference_pairs.json", "preference pairs", 300),
        ("kto_feedback.json", "feedback on messages", 150),
    ],
)
def test_real_files_load_without_a_hint(file, name, rows):
    config = Config(data={"path": str(SHARED / file), "split_ratio": 1})
    examples, _ = load_examples(config, "train")
    assert examples.formats == [name]
    assert len(examples) == rows
    assert all(e.messages or e.completion for e in examples)
    raw = json.loads((SHARED / file).read_text()) if file.endswith(".json") else None
    if name == "preference pairs":
        assert examples[0].messages[-1]["content"] == raw[0]["chosen"]["value"]


@pytest.mark.parametrize("rejected", [None, "", ["x", "y"], {"text": "x"}, 3])
def test_a_rejected_answer_that_cannot_be_read_does_not_matter_to_methods_that_ignore_it(rejected):
    row = {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": rejected}
    examples, _ = load([row, row])
    assert examples[0].messages == (ASKED, ANSWERED)
    (said,) = examples.recognised
    assert said.endswith(
        "only the chosen answers are trained on; the others are for preference training."
    )


@pytest.mark.parametrize("answer", [0, 0.0, False, "0"])
def test_a_zero_is_an_answer(answer):
    examples, remarks = load([{"question": "What?", "answer": answer}] * 4)
    assert {one.completion for one in examples} == {str(answer)}
    assert remarks == []


@pytest.mark.parametrize("gap", [float("nan"), None, ""])
def test_a_gap_of_a_table_is_no_text(gap):
    rows = [{"instruction": "Double 1.", "input": "one", "output": "2"}]
    rows += [{"instruction": "Double 2.", "input": gap, "output": "4"}]
    examples, _ = load(rows)
    assert "### Input:\none" in examples[0].prompt
    assert "nan" not in examples[1].prompt
    assert "### Input" not in examples[1].prompt


def test_system_and_history_come_before_an_instruction():
    row = {"instruction": "And at night?", "input": "", "output": "Close it."}
    earlier = {"system": "You mind a greenhouse.", "history": [["By day?", "Open the roof."]]}
    examples, _ = load([{**row, **earlier}])
    assert examples[0].prompt == (
        "You mind a greenhouse.\n\n"
        "### Instruction:\nBy day?\n\n### Response:\nOpen the roof.\n\n"
        "### Instruction:\nAnd at night?\n\n### Response:\n"
    )
    with pytest.raises(DataError, match='row 1: "history" is no list of pairs'):
        load([{"instruction": "a", "output": "b", "history": ["x"]}])


def test_a_class_is_no_judgement_of_an_answer():
    rows = [{"messages": [ASKED, ANSWERED], "label": n % 2} for n in range(6)]
    examples, remarks = load(rows)
    assert len(examples) == 6
    assert examples.formats == ["messages"]
    assert 'the column "label" holds 0, not true or false' in remarks[0]


@pytest.mark.parametrize(("good", "bad"), [(True, False), ("true", "False")])
@pytest.mark.parametrize("kind", ["messages", "pair"])
def test_a_truth_is_a_judgement_of_an_answer(kind, good, bad):
    row = (
        {"messages": [ASKED, ANSWERED]}
        if kind == "messages"
        else {"prompt": "a", "completion": "b"}
    )
    examples, remarks = load(
        [{**row, "label": good}, {**row, "label": bad}, {**row, "label": good}]
    )
    assert [examples.origin(n)[1] for n in range(len(examples))] == [1, 3]
    assert "1 of 3 rows are left out" in remarks[0]
    with pytest.raises(DataError, match='row 2: "label" is 7, but true or false in other rows'):
        load([{**row, "label": good}, {**row, "label": 7}])


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "User", "content": "Why?"}, {"role": "Assistant", "content": "So."}],
        [{"role": "Human", "content": "Why?"}, {"role": " GPT ", "content": "So."}],
        [
            {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "S"}, "o."]},
        ],
    ],
)
def test_roles_and_contents_as_people_write_them(turns):
    examples, _ = load([{"messages": turns}])
    assert examples[0] == TURNS


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"role": "critic", "content": "a"}, "has a turn from 'critic', which is not a known"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "has a part of the type 'image_url'; only text can be trained on.",
        ),
        ({"role": "user", "content": {"a": 1}}, "has an object as content."),
        ({"role": "assistant", "content": None}, "(assistant) has no content."),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "a tool call without a name"),
    ],
)
def test_the_words_of_turns_that_are_no_text(turn, said):
    with pytest.raises(DataError) as caught:
        load([{"messages": [ASKED, turn, ANSWERED]}])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        json.dumps([ASKED, ANSWERED]),
        {"role": ["user", "assistant"], "content": ["Why?", "So."]},
        [{**ASKED, "tool_calls": None}, {"role": "Model", "content": ["So."]}],
    ],
)
def test_turns_as_tables_hold_them(given):
    examples, _ = load([{"messages": given}])
    assert examples[0] == TURNS


def test_an_answer_with_a_weight_of_zero_is_only_read():
    examples, _ = load([{"messages": [ASKED, {**ANSWERED, "weight": 0}, ASKED, ANSWERED]}])
    assert [turn.get("trained") for turn in examples[0].messages] == [None, False, None, None]


def test_half_a_character_is_said_by_its_row():
    rows = [{"prompt": "whole \U0001f600", "completion": "yes"}]
    rows.append({"prompt": "half", "completion": "half \ud83d here"})
    with pytest.raises(DataError, match=r"row 2: has half a character \(\\ud83d\) at place 6"):
        load(rows)


def test_numbers_are_those_of_the_file():
    rows = [{"messages": [ASKED, ANSWERED]} for _ in range(9)] + [{"messages": "no"}]
    datasets = [{"rows": rows, "shuffle": True, "seed": 1}]
    config = Config(data={"train": {"datasets": datasets}, "split_ratio": 1})
    with pytest.raises(DataError, match="row 10: "):
        load_examples(config, "train")


CALL = {"function": {"name": "f", "arguments": {"x": None}}}
CALLED = [ASKED, {"role": "assistant", "tool_calls": [CALL]}]


@pytest.mark.parametrize(
    ("row", "how", "said"),
    [
        ({"messages": [], "system": "s"}, {}, "no message has the role"),
        ({"conversations": [], "system": "s"}, {}, "no message has the role"),
        ({"prompt": [], "completion": [], "system": "s"}, {}, "no message has the role"),
        (
            {"messages": CALLED, "tools": [{"name": "f", "parameters": [1]}]},
            {},
            "the tool f, whose parameters are no object",
        ),
        (
            {"messages": [{"role": ["x"], "content": "a"}, ANSWERED]},
            {"roles": {"user": ["person"]}},
            "is not a list of turns",
        ),
        ({"segments": ["x"]}, {"dataset_type": "input_output"}, '"segments" is no list of objects'),
        ({"segments": "x"}, {"dataset_type": "input_output"}, '"segments" is no list of objects'),
        ({"src": ["a"], "tgt": [], "response": [["b"], ["c"]], "sort": [1]}, {}, "as many answers"),
        ({"src": ["a"], "tgt": [], "response": "bc"}, {}, "as many answers"),
    ],
)
def test_a_row_of_any_shape_is_a_sentence(row, how, said):
    config = Config(data={"train": {"datasets": [{"rows": [row], **how}]}, "split_ratio": 1})
    with pytest.raises(DataError, match=f"row 1: .*{said}"):
        load_examples(config, "train")


@pytest.mark.parametrize("parameters", [None, {}, {"properties": None}])
def test_a_tool_needs_no_parameters(parameters):
    (example,), _ = load([{"messages": CALLED, "tools": [{"name": "f", "parameters": parameters}]}])
    assert example.tools[0]["function"]["name"] == "f"
