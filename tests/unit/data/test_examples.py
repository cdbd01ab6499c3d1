"""From rows to prompts and completions, and the words of templates that do not fit."""

import pytest

from nbft.config import Config
from nbft.data.examples import Example, load_examples, preview, template_renderer
from nbft.errors import DataError

QA = [{"question": f"Q{n}", "answer": f"A{n}"} for n in range(10)]
PAIR = {"prompt_template": "{question}", "completion_template": "{answer}"}


def config_of(rows=QA, *, split_ratio=1.0, seed=42, **dataset):
    return Config(
        data={"rows": rows, "split_ratio": split_ratio, **dataset}, training={"seed": seed}
    )


def examples_of(*args, folder=None, split="train", **dataset):
    return load_examples(config_of(*args, **dataset), split, folder=folder)[0]


def words(*args, folder=None, **dataset):
    with pytest.raises(DataError) as caught:
        examples_of(*args, folder=folder, **dataset)
    return [str(problem) for problem in caught.value.problems]


def problem(**dataset):
    with pytest.raises(DataError) as caught:
        examples_of(**dataset)
    (one,) = caught.value.problems
    return one


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("Q: {question}\n", "Q: Q0\n"),
        ("{'question'}", "Q0"),
        ('{"question"} { answer }', "Q0 A0"),
        ("{{{question}}} {{}}", "{Q0} {}"),
        ("  {question}{question}", "  Q0Q0"),
        ("${question}", "$Q0"),
    ],
)
def test_templates(template, filled):
    (first, *_) = examples_of(prompt_template=template, completion_template="{answer}")
    assert first == Example(prompt=filled, completion="A0")


def test_values_are_texts_and_nothing_is_empty():
    rows = [{"a": 1.5, "b": None, "c": ["x"]}]
    render, used = template_renderer("{a}|{b}|{c}", ["a", "b", "c"], "field")
    assert render(rows[0]) == "1.5||['x']"
    assert used == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"prompt": "p", "completion": "c", "text": "t"}], Example("p", "c")),
        ([{"text": "t"}], Example("", "t")),
        ([{"prompt": "p", "text": "t"}], Example("", "t")),
    ],
)
def test_known_columns_need_no_template(rows, expected):
    assert examples_of(rows) == [expected]


def test_messages_are_kept_as_turns():
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "x": 1}]
    (example,) = examples_of([{"messages": turns}])
    assert [dict(turn) for turn in example.messages] == [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]


def test_mapped_columns_can_be_used():
    columns = {"prompt": "question", "completion": "answer"}
    assert examples_of(columns=columns)[0] == Example("Q0", "A0")


F = "data.train.datasets[0]"


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (
            {"prompt_template": "{qestion}", "completion_template": "{answer}"},
            [
                (
                    f"{F}.prompt_template='{{qestion}}': {{qestion}} is not a column. Did you mean "
                    "{question}?"
                )
            ],
        ),
        (
            {"prompt_template": "{zzz}", "completion_template": "{answer}"},
            [
                (
                    f"{F}.prompt_template='{{zzz}}': {{zzz}} is not a column. The columns are question, "
                    "answer."
                )
            ],
        ),
        (
            {"prompt_template": "{question:>10}", "completion_template": "{answer!r}"},
            [
                (
                    f"{F}.prompt_template='{{question:>10}}': {{question:>10}} is not a column. Write "
                    "{question} alone, or {{ and }} for literal braces."
                ),
                (
                    f"{F}.completion_template='{{answer!r}}': {{answer!r}} is not a column. Write {{answer}} "
                    "alone, or {{ and }} for literal braces."
                ),
            ],
        ),
        (
            {"prompt_template": "def f() { return }", "completion_template": "{answer}"},
            [
                (
                    f"{F}.prompt_template='def f() {{ return }}': {{return}} is not a column. The columns "
                    "are question, answer."
                )
            ],
        ),
        (
            {"prompt_template": "{question", "completion_template": "{answer}"},
            [
                (
                    f"{F}.prompt_template='{{question': has a brace that is not closed, or not opened. Write {{{{ and "
                    "}} for literal braces."
                )
            ],
        ),
        (
            {"prompt_template": "no column", "completion_template": "{answer}"},
            [
                (
                    f"{F}.prompt_template='no column': names no column, so every row would be the same. "
                    "Put a column in braces: {question}, {answer}."
                )
            ],
        ),
        (
            {"prompt_template": "{question}"},
            [
                (
                    f"{F}.completion_template: is missing, while prompt_template or prompt_func is given. "
                    "Write one; the columns are question, answer."
                )
            ],
        ),
        (
            {"prompt_template": "{question}", "prompt_func": "a:b", "completion_template": "{x}"},
            [
                (
                    f"{F}.prompt_template='{{question}}': is set beside prompt_func='a:b'. Keep one of "
                    "the two."
                ),
                (
                    f"{F}.completion_template='{{x}}': {{x}} is not a column. The columns are question, "
                    "answer."
                ),
            ],
        ),
        (
            {"columns": {"ask": "question", "reply": "answer"}},
            [
                (
                    f'{F}: no "prompt" and "completion", no "messages" and no "text"; found "ask", '
                    '"reply". Write prompt_template and completion_template, or map columns: columns='
                    '{"prompt": "ask", "completion": "reply"}.'
                )
            ],
        ),
    ],
)
def test_the_words_of_a_template_that_does_not_fit(dataset, said):
    assert words(**dataset) == said


@pytest.mark.parametrize("written", ["{qestion} {answer}", "{'qestion'} {answer}"])
def test_a_misspelt_column_is_mended_by_what_is_proposed(written):
    dataset = {"prompt_template": written, "completion_template": "{answer}"}
    found = problem(**dataset)
    assert found.changes == {f"{F}.prompt_template": "{question} {answer}"}
    examples, _ = load_examples(config_of(**dataset).apply(found.changes), "train")
    assert examples[0].prompt == "Q0 A0"


def test_template_beside_function_is_mended_by_what_is_proposed():
    dataset = {**PAIR, "prompt_func": "no:where"}
    examples, _ = load_examples(config_of(**dataset).apply(problem(**dataset).changes), "train")
    assert examples[0] == Example("Q0", "A0")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"question": "q", "answer": "a"}, {"question": 5, "answer": "a"}],
            [
                (
                    f'{F}: column "question" mixes 1 texts (first in row 1) and 1 numbers (first in row '
                    "2). Make it one type in all rows."
                )
            ],
        ),
        (
            [{"question": "q", "answer": "a"}, {"question": "q"}],
            [
                (
                    f'{F}: 1 of 2 rows have no "answer" (the first is row 2). Add it, or leave those rows '
                    "out."
                )
            ],
        ),
        (
            [{"question": "q", "answer": ""}, {"question": "q", "answer": None}],
            [
                (
                    f"{F}.completion_template='{{answer}}': gives nothing to train on in any of the 2 rows. "
                    "Name the column that holds the answer."
                )
            ],
        ),
    ],
)
def test_the_words_of_rows_that_do_not_fit(rows, said):
    assert words(rows, **PAIR) == said


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            "hello",
            (
                'row 1: "messages" is not a list of turns with role and content. Write [{"role": '
                '"user", "content": "…"}, {"role": "assistant", "content": "…"}].'
            ),
        ),
        (
            [{"role": "user"}],
            (
                'row 1: "messages" is not a list of turns with role and content. Write '
                '[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].'
            ),
        ),
        (
            [{"role": "user", "content": "u"}],
            (
                'row 1: no message has the role "assistant", so there would be nothing'
                " to train on. Add the answer."
            ),
        ),
    ],
)
def test_the_words_of_wrong_messages(messages, said):
    assert words([{"messages": messages}]) == [f"{F}: {said}"]


def test_problems_of_several_datasets_and_files_come_together(write):
    broken = write("a.jsonl", "{\n{")
    config = Config(
        data={
            "train": {
                "datasets": [{"path": broken}, {"path": "gone.jsonl"}, {"rows": [{"ask": "Why?"}]}]
            }
        }
    )
    with pytest.raises(DataError) as caught:
        load_examples(config, "train")
    fields = [problem.field for problem in caught.value.problems]
    assert fields == [
        "data.train.datasets[0].path",
        "data.train.datasets[0].path",
        "data.train.datasets[1].path",
        "data.train.datasets[2]",
    ]


def test_no_dataset_at_all_is_said_for_its_split():
    config = Config(data={"train": {"rows": QA, **PAIR}, "validation": {"datasets": []}})
    with pytest.raises(DataError) as caught:
        load_examples(config, "validation")
    assert str(caught.value) == (
        "data.validation.datasets: names no rows. Give a path or a dataset_name, for example "
        "data.validation.datasets[0].dataset_name=alpaca."
    )


@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.01, 0.999])
def test_the_two_splits_share_no_row_and_lose_none(ratio):
    config = config_of(split_ratio=ratio, **PAIR)
    train, held_out = (load_examples(config, split)[0] for split in ("train", "validation"))
    assert train
    assert held_out
    assert [e.prompt for e in train] == sorted(e.prompt for e in train), "the order of the file"
    everything = sorted(example.prompt for example in [*train, *held_out])
    assert everything == sorted(row["question"] for row in QA)
    assert load_examples(config, "train")[0] == train
    other = config_of(split_ratio=ratio, seed=7, **PAIR)
    if ratio == 0.5:
        assert {e.prompt for e in load_examples(other, "train")[0]} != {e.prompt for e in train}


def test_the_share_is_the_one_that_was_asked_for():
    assert len(examples_of(split_ratio=0.8, **PAIR)) == 8
    assert examples_of(split_ratio=1.0, split="validation", **PAIR) == []


def test_validation_rows_that_are_named_are_taken_and_nothing_is_cut_off():
    config = Config(data={"train": {"rows": QA, **PAIR}, "validation": {"rows": QA[:2], **PAIR}})
    assert len(load_examples(config, "train")[0]) == 10
    assert len(load_examples(config, "validation")[0]) == 2


def test_functions_from_a_file_beside_the_config_and_from_a_package(tmp_path):
    (tmp_path / "mine.py").write_text("def prompt(row):\n    return row['question'] * 2\n")
    for written in ("mine:prompt", "mine.py:prompt", "./mine.py:prompt"):
        dataset = {"prompt_func": written, "completion_template": "{answer}"}
        assert examples_of(folder=tmp_path, **dataset)[0].prompt == "Q0Q0"
    dataset = {
        "prompt_func": "nbft.data.ready:alpaca_prompt",
        "completion_template": "{answer}",
    }
    rows = [{"instruction": "Add.", "input": "", "answer": "3"}]
    assert examples_of(rows, **dataset)[0].prompt == "### Instruction:\nAdd.\n\n### Response:\n"
    (tmp_path / "mine.py").write_text("def answer(row):\n    return row['answer'] + '!'\n")
    dataset = {"prompt_template": "{instruction}", "completion_func": "mine:answer"}
    assert examples_of(rows, folder=tmp_path, **dataset)[0].completion == "3!"


def test_a_changed_function_is_read_again(tmp_path):
    dataset = {"prompt_func": "mine:prompt", "completion_template": "{answer}"}
    for word in ("one", "other"):
        (tmp_path / "mine.py").write_text(f"def prompt(row):\n    return '{word}'\n")
        assert examples_of(folder=tmp_path, **dataset)[0].prompt == word


@pytest.mark.parametrize(
    ("written", "content", "said"),
    [
        ("prompt", "", "names no function. Write path/to/file:function."),
        ("mine:", "", "names no function. Write path/to/file:function."),
        ("gone.py:f", "", "there is no file {folder}/gone.py. Name it from the config's folder."),
        (
            "gone_package:f",
            "",
            (
                "gone_package could not be imported (ModuleNotFoundError: No module "
                "named 'gone_package'). Write path/to/file:function or package.module:function."
            ),
        ),
        (
            "mine:promt",
            "def prompt(row): ...\n",
            "mine has no function promt. Did you mean prompt?",
        ),
        ("mine:f", "f = 1\n", "mine has no function f. It has none."),
        (
            "mine:f",
            "1/0\n",
            (
                "mine could not be imported (ZeroDivisionError: division by zero). "
                "Write path/to/file:function or package.module:function."
            ),
        ),
        (
            "mine:f",
            "raise SystemExit(3)\n",
            (
                "mine could not be imported (SystemExit: 3). Write "
                "path/to/file:function or package.module:function."
            ),
        ),
    ],
)
def test_the_words_of_a_function_that_is_not_there(tmp_path, written, content, said):
    (tmp_path / "mine.py").write_text(content)
    dataset = {"prompt_func": written, "completion_template": "{answer}"}
    said = said.replace("{folder}", str(tmp_path))
    assert words(folder=tmp_path, **dataset) == [f"{F}.prompt_func={written!r}: {said}"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "row['x']",
            (
                "row 1: the prompt or completion function failed with KeyError: 'x'. The row "
                "has the columns question, answer."
            ),
        ),
        ("5", "row 1: the prompt or completion function returned int, not text. Return a string."),
    ],
)
def test_the_words_of_a_function_that_fails(tmp_path, body, said):
    (tmp_path / "mine.py").write_text(f"def f(row):\n    return {body}\n")
    dataset = {"prompt_func": "mine:f", "completion_template": "{answer}"}
    assert words(folder=tmp_path, **dataset) == [f"{F}: {said}"]


def test_what_a_person_should_know_is_said():
    rows = [*QA, {"question": "q", "answer": " "}]
    _, remarks = load_examples(config_of(rows, sample_count=99, **PAIR), "train")
    assert remarks == [
        f"{F}.sample_count=99: there are only 11 rows; all are taken.",
        f"{F}: 1 of 11 rows have an empty completion; they teach the model to say nothing.",
    ]


def test_a_preview_of_pairs_and_of_turns():
    assert preview(config_of(**PAIR), rows=1) == [{"prompt": "Q0", "completion": "A0"}]
    turns = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    assert preview(config_of([{"messages": turns}])) == [
        {"prompt": "user: u", "completion": "assistant: a"}
    ]
