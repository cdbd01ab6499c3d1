"""Columns as roles: what is guessed, which settings it becomes, and what is read back."""

from __future__ import annotations

from typing import Any

import pytest

from nbft.config import Config
from nbft.data import load_examples, roles
from nbft.data.roles import WORDINGS, Roles, guess, roles_of, settings_of
from nbft.errors import DataError

TURNS = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


def examples(rows: list[dict[str, Any]], picked: Roles) -> list[tuple[str, str]]:
    dataset = {"rows": rows, **settings_of(picked, list(rows[0]))}
    config = Config(data={"train": {"datasets": [dataset]}, "split_ratio": 1.0})
    return [
        (one.prompt, one.completion)
        if not one.messages
        else ("\n".join(str(t["content"]) for t in one.messages[:-1]), one.messages[-1]["content"])
        for one in load_examples(config, "train")[0]
    ]


@pytest.mark.parametrize(
    ("row", "expected", "is_sure"),
    [
        ({"q": "1+1?", "a": "2"}, Roles("q", completion="a", wording="question"), True),
        ({"id": 7, "Q": "1+1?", "A": "2"}, Roles("Q", completion="A", wording="question"), True),
        (
            {"german word": "Hund", "hint": "animal", "english_meaning": "dog"},
            Roles("german word", "hint", "english_meaning"),
            False,
        ),
        (
            {"review": "Good.", "label": 1},
            Roles("review", completion="label", wording="label"),
            False,
        ),
        (
            {"text": "Good.", "label": "pos"},
            Roles("text", completion="label", wording="label"),
            True,
        ),
        (
            {"dialogue": "A: hi", "summary": "A greets."},
            Roles("dialogue", completion="summary", wording="summary"),
            True,
        ),
        (
            {
                "System Prompt": "Be kind.",
                "question": "Why?",
                "context": "It rains.",
                "answer": "So.",
            },
            Roles("question", "context", "answer", "System Prompt", wording="question"),
            True,
        ),
        ({"story": "Once."}, Roles(completion="story"), False),
        ({"text": "Once."}, Roles(completion="text"), True),
        ({"chat": TURNS}, Roles(messages="chat"), True),
        ({"data": TURNS, "n": 1}, Roles(messages="data"), False),
        ({"id": 1, "url": "http://a"}, Roles(), False),
        ({"left": "Hund", "right": "dog"}, Roles("left", completion="right"), False),
    ],
)
def test_names_and_cells_tell_the_roles(
    row: dict[str, Any], expected: Roles, is_sure: bool
) -> None:
    assert guess(list(row), [row]) == (expected, is_sure)


def test_an_empty_column_has_no_role() -> None:
    rows = [{"question": None, "text": "Why?", "answer": "So."}] * 3
    assert guess(["question", "text", "answer"], rows)[0].prompt == "text"


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("context", ["", "hint"])
@pytest.mark.parametrize("system", ["", "who"])
def test_roles_become_settings_and_are_read_back(wording: str, context: str, system: str) -> None:
    columns = ["german word", "hint", "who", "meaning"]
    picked = Roles("german word", context, "meaning", system, wording=wording)
    dataset = Config(
        data={"train": {"datasets": [{"path": "a.csv", **settings_of(picked, columns)}]}}
    ).data.train.datasets[0]
    assert roles_of(dataset, columns) == picked


@pytest.mark.parametrize(
    "name", ["a:b", "a!r", "{a}", " a ", "'a'", "a.b", "a[0]", "two words", "größe", "a\nb"]
)
def test_any_name_of_a_column_can_be_picked(name: str) -> None:
    rows = [{name: "1+1?", "meaning": "2"}]
    assert examples(rows, Roles(name, completion="meaning")) == [("1+1?\n", "2")]
    assert examples(rows, Roles("meaning", completion=name)) == [("2\n", "1+1?")]


def test_rows_without_the_further_text_have_no_empty_line() -> None:
    rows = [{"q": "Hund", "hint": "animal", "a": "dog"}, {"q": "Baum", "hint": "", "a": "tree"}]
    picked = Roles("q", "hint", "a", wording="instruction")
    assert [prompt for prompt, _ in examples(rows, picked)] == [
        "### Instruction:\nHund\n\n### Input:\nanimal\n\n### Response:\n",
        "### Instruction:\nBaum\n\n### Response:\n",
    ]


def test_a_column_called_input_that_is_the_prompt_stays_one() -> None:
    rows = [{"input": "Hund", "hint": "animal", "a": "dog"}]
    assert examples(rows, Roles("input", "hint", "a")) == [("Hund\nanimal\n", "dog")]


def test_an_answer_alone_is_plain_text_and_a_conversation_stays_one() -> None:
    assert examples([{"story": "Once."}], Roles(completion="story")) == [("", "Once.")]
    rows = [{"log": TURNS, "who": "Be kind."}]
    assert examples(rows, Roles(messages="log", system="who")) == [("Be kind.\nHi.", "Hello.")]


def test_settings_that_said_otherwise_are_replaced() -> None:
    rows = [{"q": "1+1?", "a": "2"}]
    dataset = {"rows": rows, "prompt_template": "{a}", "columns": {"a": "q"}, "target_column": "a"}
    changes = settings_of(Roles("q", completion="a"), ["q", "a"])
    config = Config(data={"train": {"datasets": [{**dataset, **changes}]}, "split_ratio": 1.0})
    assert [e.completion for e in load_examples(config, "train")[0]] == ["2"]


def test_a_template_of_ones_own_keeps_its_columns_and_has_no_ready_wording() -> None:
    dataset = Config(
        data={
            "train": {
                "datasets": [
                    {"path": "a", "prompt_template": "Say {q}: ", "completion_template": "{a}"}
                ]
            }
        }
    ).data.train.datasets[0]
    assert roles_of(dataset, ["q", "a"]) == Roles("q", completion="a", wording="")
    assert roles_of(roles.Dataset(path="a"), ["q", "a"]) is None


def test_rows_that_are_not_recognised_are_mended_by_the_guess() -> None:
    rows = [{"q": "1+1?", "a": "2"}]
    config = Config(data={"train": {"datasets": [{"rows": rows}]}, "split_ratio": 1.0})
    with pytest.raises(DataError) as raised:
        load_examples(config, "train")
    (problem,) = raised.value.problems
    assert "q is the prompt, a the answer" in str(problem)
    mended = config.apply(dict(problem.changes))
    assert load_examples(mended, "train")[0][0].completion == "2"


@pytest.mark.parametrize(
    ("template", "fixed"),
    [
        ("{question}", "{q}"),
        ("Ask: {instruction} ", "Ask: {q} "),
        ("{q", "{q}"),
        ("q}", "{q}"),
        ("{q: say {a}", "{q}: say {a}"),
        ("{x: say {a}", None),
        ("{colour}", None),
        ("{{q}", None),
    ],
)
def test_a_template_that_does_not_fit_has_a_fix(template: str, fixed: str | None) -> None:
    dataset = {
        "rows": [{"q": "1+1?", "a": "2"}],
        "prompt_template": template,
        "completion_template": "{a}",
    }
    config = Config(data={"train": {"datasets": [dataset]}, "split_ratio": 1.0})
    with pytest.raises(DataError) as raised:
        load_examples(config, "train")
    (problem,) = raised.value.problems
    assert list(problem.changes.values()) == ([fixed] if fixed else [])
    if fixed:
        assert load_examples(config.apply(dict(problem.changes)), "train")


def test_a_word_inside_a_name_is_no_certainty() -> None:
    columns = ["question_type", "body", "answer"]
    row = {"question_type": "howto", "body": "How?", "answer": "So."}
    assert guess(columns, [row]) == (Roles("body", completion="answer"), False)
    row = {"context": "It rains.", "question": "Why?", "answer_start": 7, "answer_text": "Rain."}
    picked, is_sure = guess(list(row), [row])
    assert (picked.context, picked.prompt, picked.completion) == (
        "context",
        "question",
        "answer_text",
    )
    assert not is_sure


def test_a_renamed_column_never_takes_the_name_of_another() -> None:
    rows = [{"{q}": "1+1?", "prompt": "2", "completion": "no"}]
    assert examples(rows, Roles("{q}", completion="prompt")) == [("1+1?\n", "2")]


@pytest.mark.parametrize("names", [("input", "hint"), ("context", "prompt"), ("hint", "input")])
def test_further_text_and_prompt_of_any_names_keep_their_places(names: tuple[str, str]) -> None:
    prompt, context = names
    rows = [
        {prompt: "Hund", context: "animal", "input2": "x", "a": "dog"},
        {prompt: "Baum", context: "", "input2": "x", "a": "tree"},
    ]
    picked = Roles(prompt, context, "a", wording="question")
    assert examples(rows, picked) == [
        ("animal\n\nQuestion: Hund\n\nAnswer:\n", "dog"),
        ("Question: Baum\n\nAnswer:\n", "tree"),
    ]
    columns = list(rows[0])
    dataset = roles.Dataset(path="a.csv", **settings_of(picked, columns))
    assert roles_of(dataset, columns) == picked


def test_other_rows_with_the_same_columns_are_read_alike() -> None:
    picked = Roles("q", completion="a", wording="chat")
    dataset = roles.Dataset(path="a.csv", **settings_of(picked, ["q", "a"]))
    assert roles.same_shape(dataset, ["q", "a", "id"])["dataset_type"] == "chat_completion"
    assert roles.same_shape(dataset, ["q", "b"]) == {}
    assert roles.same_shape(roles.Dataset(path="a.csv"), ["q", "a"]) == {}


def test_a_written_template_with_any_name_of_a_column_is_read_back() -> None:
    dataset = roles.Dataset(
        path="a.csv", prompt_template="Say {Question:} ", completion_template="{'Answer!'}"
    )
    columns = ["Question:", "Answer!"]
    assert roles_of(dataset, columns) == Roles("Question:", completion="Answer!", wording="")
