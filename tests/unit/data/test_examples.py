"""From rows to prompts and completions, and the words of templates that do not fit."""

import json

import datasets
import pytest

from nbft.config import Config
from nbft.data import lines as lines_of_files
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
                    f"{F}.prompt_template='{{question': has a brace that is not closed, or not opened. Did you "
                    "mean '{question}'?"
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
                    f'{F}: nothing says which column is the prompt, and which the answer; found "ask", '
                    '"reply". If ask is the prompt, reply the answer, use prompt_template='
                    "'{ask}\\n' and completion_template='{reply}'."
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
                'row 1: turn 1 of "messages" (user) has no content. Write its text, or leave the '
                "turn out."
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
    rows = [{"question": f"Q{n}", "answer": f"A{n}"} for n in range(4000)]
    for ratio in (0.8, 0.99):
        trained = len(examples_of(rows, split_ratio=ratio, **PAIR))
        assert abs(trained - 4000 * ratio) < 4 * (4000 * ratio * (1 - ratio)) ** 0.5
    assert examples_of(split_ratio=1.0, split="validation", **PAIR) == []


def held_out(rows, **data):
    return {e.prompt for e in examples_of(rows, split="validation", split_ratio=0.7, **data)}


MANY = [{"prompt": f"Q{n}", "completion": f"A{n}"} for n in range(200)]


def test_a_row_stays_on_its_side_when_others_change():
    before = held_out(MANY)
    assert held_out(MANY[::-1]) == before
    assert held_out(MANY[50:]) == {one for one in before if int(one[1:]) >= 50}
    changed = [{**row, "completion": "!"} if n % 3 else row for n, row in enumerate(MANY)]
    untouched = {row["prompt"] for row in MANY[::3]}
    assert held_out(changed) & untouched == before & untouched
    more = [{"prompt": f"R{n}", "completion": ""} for n in range(200)]
    assert {one for one in held_out([*more, *MANY]) if one[0] == "Q"} == before


def test_equal_rows_are_on_one_side():
    rows = [*MANY, *MANY[::2], *MANY[::5]]
    train = {e.prompt for e in examples_of(rows, split_ratio=0.7)}
    assert not train & held_out(rows)
    assert len(examples_of([MANY[0]] * 10, split_ratio=0.7)) == 7, "but not where all are equal"


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "large"])
def test_a_row_stays_on_its_side_in_another_file(tmp_path, monkeypatch, ending):
    path = tmp_path / f"rows.{ending.replace('large', 'jsonl')}"
    if ending in ("jsonl", "large"):
        path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in MANY), "utf-8")
    elif ending == "json":
        path.write_text(json.dumps(MANY, indent=1))
    elif ending == "csv":
        lines = [f"{row['prompt']},{row['completion']}" for row in MANY]
        path.write_text("\n".join(["prompt,completion", *lines]))
    else:
        datasets.Dataset.from_list(MANY).to_parquet(path)
    if ending == "large":
        monkeypatch.setattr(lines_of_files, "LARGE_BYTES", 10)
    assert held_out(None, path=str(path)) == held_out(MANY)
    renamed = {"columns": {"prompt": "prompt", "completion": "completion"}}
    assert held_out(None, path=str(path), **renamed) == held_out(MANY)
    assert held_out(datasets.Dataset.from_list(MANY)) == held_out(MANY)
    some = held_out(None, path=str(path), sample_count=50)
    assert some == {one for one in held_out(MANY) if int(one[1:]) < 50}


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


def test_templates_can_make_a_conversation():
    chat = {"dataset_type": "chat_completion", **PAIR}
    (example, *_), _ = load_examples(config_of(split_ratio=1.0, **chat), "train")
    assert example.messages == (
        {"role": "user", "content": "Q0"},
        {"role": "assistant", "content": "A0"},
    )
    (example, *_), _ = load_examples(
        config_of(split_ratio=1.0, system_template="Answer {question}.", **chat), "train"
    )
    assert example.messages[0] == {"role": "system", "content": "Answer Q0."}
    rows = [{"q": "a", "s": ""}, {"q": "b", "s": "Be kind."}]
    kinds = {
        "dataset_type": "chat_completion",
        "prompt_template": "{q}",
        "completion_template": "{q}",
    }
    found = examples_of(rows, split_ratio=1.0, system_template="{s}", **kinds)
    assert [[turn["role"] for turn in example.messages] for example in found] == [
        ["user", "assistant"],
        ["system", "user", "assistant"],
    ]


def test_a_conversation_can_be_made_of_columns():
    rows = [{"prompt": "a", "completion": "b"}]
    assert (
        examples_of(rows, dataset_type="chat_completion", split_ratio=1.0)[0].messages[1]["content"]
        == "b"
    )
    assert examples_of(system_template="Be kind.", **PAIR)[0].prompt.startswith("Be kind.")


def test_an_empty_prompt_template_makes_text():
    dataset = {"prompt_template": "", "completion_template": "Q: {question} A: {answer}"}
    example = examples_of(split_ratio=1.0, **dataset)[0]
    assert (example.prompt, example.completion) == ("", "Q: Q0 A: A0")
    with pytest.raises(DataError, match="names no column"):
        examples_of(prompt_template="same", completion_template="{answer}")


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


ROWS = {
    "pair": [{"prompt": "a", "completion": "b", "x": "y"}],
    "text": [{"text": "a", "x": "y"}],
    "turns": [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    ],
}
CHAT = {"dataset_type": "chat_completion", "prompt_template": "{x}", "completion_template": "{x}"}


@pytest.mark.parametrize(
    ("kind", "more", "unused"),
    [
        ("pair", {"no_input_template": "{x}"}, True),
        ("text", {"no_input_template": "{x}"}, True),
        ("pair", {"system_template": "{x}"}, True),
        ("turns", {"system_template": "Be kind."}, True),
        ("pair", {"system_prompt": "Be kind."}, True),
        ("turns", {"system_prompt": "Be kind."}, False),
        ("pair", CHAT | {"system_prompt": "Be kind."}, False),
        ("pair", CHAT | {"system_template": "{x}"}, False),
        ("pair", CHAT | {"no_input_template": "-"}, False),
        ("text", {"roles": {"user": ["x"]}}, True),
        ("turns", {"roles": {"user": ["x"]}}, False),
        ("pair", {"message_property_mappings": {"role": "x"}}, True),
        ("pair", {"history_column": "x"}, True),
        ("pair", {"train_target": "final_assistant_turn"}, True),
        ("turns", {"train_target": "final_assistant_turn"}, False),
    ],
)
def test_a_setting_that_says_nothing_about_such_rows_is_said(kind, more, unused):
    _, remarks = load_examples(config_of(ROWS[kind], **more), "train")
    *_, name = more
    begin = f"data.train.datasets[0].{name}={more[name]!r}: is not used, since "
    assert [r.startswith(begin) for r in remarks if name in r] == [True] * unused


def test_the_prompt_of_rows_without_input_may_be_the_same_for_all():
    rows = [{"input": "a", "y": "1"}, {"input": "", "y": "2"}]
    made = examples_of(
        rows,
        prompt_template="Q: {input}",
        no_input_template="Write.",
        completion_template="{y}",
    )
    assert [example.prompt for example in made] == ["Q: a", "Write."]
