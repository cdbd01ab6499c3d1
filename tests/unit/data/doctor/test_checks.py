"""Every finding: rows that show it, rows that do not, and that its fix mends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nbft.config import Config
from nbft.data.doctor import checks, measure
from nbft.data.doctor.checks import _TALK, CHECKS, findings
from nbft.data.doctor.rewrite import changes, rewritten
from nbft.data.tokens import encode_rows
from nbft.models.templates import chosen_template

MOJIBAKE = "Le cafÃ© de la gare est fermÃ© aujourdâ€™hui."
WORDS = "amber birch cedar delta ember fjord grove harbour inlet jetty knoll ledge".split()


def changed(rows, number, **columns):
    """Return rows of which one has other columns."""
    return [*rows[:number], {**rows[number], **columns}, *rows[number + 1 :]]


def with_completion(rows, text):
    return changed(rows, 3, completion=text)


def chat(rows):
    """Return rows as conversations."""
    return [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in rows
    ]


def text_in(template):
    return lambda rows: [
        {"text": template.format(**row)} if n < 5 else {"text": row["prompt"] + row["completion"]}
        for n, row in enumerate(rows)
    ]


# name of the finding: (rows that show it, rows that do not, its level, how many, settings)
CASES = {
    "placeholder": (
        lambda rows: rows,
        None,
        "error",
        1,
        {"prompt_template": "{promt}", "completion_template": "{completion}"},
    ),
    "unreadable": (lambda rows: [{"one": "a", "two": "b"}], None, "error", 1, {}),
    "masked": (
        lambda rows: [{**row, "prompt": "word " * 200} for row in rows],
        None,
        "error",
        38,
        {"max_length": 100},
    ),
    "cut": (
        lambda rows: with_completion(rows, " ".join(WORDS * 30)),
        lambda rows: with_completion(rows, " ".join(WORDS)),
        "warning",
        1,
        {"max_length": 512},
    ),
    "dropped": (
        lambda rows: changed(rows, 3, prompt=" ".join(WORDS * 100)),
        lambda rows: changed(rows, 3, prompt=" ".join(WORDS * 2)),
        "warning",
        1,
        {"max_length": 512},
    ),
    "empty_completions": (
        lambda rows: changed(rows, 3, completion=" "),
        lambda rows: changed(rows, 3, completion="7"),
        "warning",
        1,
        {},
    ),
    "empty_columns": (
        lambda rows: [{**row, "source": "  "} for row in rows],
        lambda rows: [{**row, "source": "" if n else "web"} for n, row in enumerate(rows)],
        "note",
        1,
        {},
    ),
    "constant_columns": (
        lambda rows: [{**row, "source": "web"} for row in rows],
        lambda rows: [{**row, "source": "web" if n else "book"} for n, row in enumerate(rows)],
        "note",
        1,
        {},
    ),
    "duplicates": (
        lambda rows: [*rows, rows[7], rows[7]],
        lambda rows: [*rows, {**rows[7], "completion": "I do not know."}],
        "warning",
        2,
        {"split_ratio": 1.0},
    ),
    "duplicates_in_other_spelling": (
        lambda rows: [*rows, {**rows[7], "prompt": rows[7]["prompt"].upper() + " "}],
        lambda rows: [*rows, {**rows[7], "prompt": "Now: " + rows[7]["prompt"]}],
        "warning",
        1,
        {"split_ratio": 1.0},
    ),
    "contradictions": (
        lambda rows: [*rows, {**rows[7], "completion": "I do not know."}],
        lambda rows: [*rows, {**rows[7], "completion": rows[7]["completion"].upper()}],
        "warning",
        2,
        {"split_ratio": 1.0},
    ),
    "near_duplicates": (
        lambda rows: [*rows, {**rows[7], "completion": rows[7]["completion"] + " Yes."}],
        lambda rows: [*rows, {"prompt": rows[7]["prompt"], "completion": " ".join(WORDS * 3)}],
        "note",
        1,
        {"split_ratio": 1.0},
    ),
    "wrong_chat_template": (
        text_in("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{completion}"),
        lambda rows: [{"text": row["prompt"] + row["completion"]} for row in rows],
        "warning",
        5,
        {},
    ),
    "special_tokens_in_text": (
        lambda rows: with_completion(rows, "First.<|end|>Second."),
        lambda rows: with_completion(rows, "First.<end>Second."),
        "warning",
        1,
        {},
    ),
    "padding": (
        lambda rows: [
            {**row, "completion": "7" if n % 2 else " ".join(WORDS * 9)}
            for n, row in enumerate(rows)
        ],
        lambda rows: rows,
        "note",
        None,
        {"padding_free": False},
    ),
}
OWN_TESTS = {  # those of what most rows do are in test_consistency.py
    *("missing_signs", "broken_json", "other_json_keys", "cut_answers", "other_scripts"),
    *("other_languages", "same_answers", "boilerplate", "unrelated_answers", "swapped_parts"),
    *("label_spelling", "label_imbalance", "empty_prompts", "short_answers", "shouted_answers"),
    *("padded_answers", "labelled_answers"),
    "refused",
    "pad_is_end",
    "end_not_trained",
    "boundary_merged",
    "glued",
    "held_out_in_training",
    "nearly_held_out_in_training",
    "templated_text",
    "unanswered_turns",
    "left_out_by_template",
    "folded_system_turns",
    # in test_preferences.py
    *("identical_answers", "tied_scores", "swapped_scores", "preferred_by_length"),
    *("chosen_cut", "answer_balance"),
    *_TALK,
}


def test_every_finding_is_tested():
    assert {*CASES} | OWN_TESTS == {*CHECKS}, "the catalogue has tests of its own"
    assert not {*CASES} & OWN_TESTS


def test_good_rows_show_nothing(found_in, good_rows):
    assert found_in(good_rows) == {}
    assert found_in(chat(good_rows)) == {}


@pytest.mark.parametrize("name", CASES)
def test_it_is_found(name, found_in, good_rows):
    shows, _, level, number, data = CASES[name]
    found = found_in(shows(good_rows), **data)[name]
    assert found.level == level
    if number is not None:
        assert found.count == number
    assert 0 < found.share <= 1
    for sentence in (found.what, found.why, found.fix):
        assert sentence.endswith((".", "?")), sentence


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[1]])
def test_it_is_not_found_where_it_is_not(name, found_in, good_rows):
    _, shows_not, _, _, data = CASES[name]
    assert name not in found_in(shows_not(good_rows), **data)


def test_a_placeholder_says_the_nearest_column_and_is_mended(found_in, good_rows):
    templates = {"prompt_template": "{promt}", "completion_template": "{completion}"}
    found = found_in(good_rows, **templates)["placeholder"]
    assert "{promt} is not a column." in found.what
    assert found.fix == "Did you mean {prompt}?"
    assert found.changes == {"data.train.datasets[0].prompt_template": "{prompt}"}


def test_what_cannot_be_read_says_why(found_in, write):
    found = found_in(None, path=write("rows.jsonl", '{"a": 1}\nnot json\n'))["unreadable"]
    assert "line 2, column 1: is not valid JSON" in found.what
    assert "nothing says which column is the prompt" in found.what, "and what else is wrong"


def test_broken_rows_end_nothing(found_in, good_rows, write):
    """All of them are named, and the others are checked."""
    lines = [json.dumps(row) for row in good_rows]
    lines[5] = '{"prompt": "a", "completion": '
    lines[9] = "not json"
    lines[20] = json.dumps({"prompt": "Who?"})
    lines[30] = json.dumps({"prompt": "Who?", "completion": 7})
    lines[33] = json.dumps({**good_rows[33], "prompt": "The cafÃ©: " + good_rows[33]["prompt"]})
    path = write("rows.jsonl", "\n".join(lines))
    found = found_in(None, path=path, split_ratio=1.0)
    assert {*found} == {"refused", "mojibake"}
    assert found["refused"].count == 4
    assert [place.row for place in found["refused"].places] == [6, 10, 21, 31]
    assert 'has no "completion"' in found["refused"].places[2].text
    assert (
        'has numbers in "completion", where most rows have texts' in found["refused"].places[3].text
    )
    config = Config(data={"path": path, "split_ratio": 1.0})
    mended = rewritten(config, found["refused"].rewrite)
    assert Path(mended.data.train.datasets[0].path).read_text().splitlines() == [
        line for n, line in enumerate(lines) if n not in (5, 9, 20, 30)
    ]
    assert [one.before for one in changes(config, found["refused"].rewrite)][1] == {
        "line": "not json"
    }


def test_next_to_nothing_is_trained(found_in, good_rows, monkeypatch):
    rows = [{"prompt": " ".join(WORDS * 8) + f" {n}\n", "completion": "7"} for n in range(30)]
    monkeypatch.setattr(checks, "TRAINED_SHARE", 0.05)  # the tiny model reads rows this long only
    found = found_in(rows)["masked"]
    assert found.level == "warning"
    assert found.unit == "token"
    assert found.count == 27 * 2, "the answer and the end, in the training rows"
    assert "masked" not in found_in(good_rows)


def test_a_longer_maximum_unmasks(found_in, good_rows):
    rows = [{**row, "prompt": "word " * 200} for row in good_rows]
    found = found_in(rows, max_length=100)["masked"]
    longer = found.changes["data.max_length"]
    assert "masked" not in found_in(rows, max_length=longer)


def test_turns_that_nobody_answers_are_noted(found_in):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And?"},
    ]
    rows = [{"messages": turns[: 2 + (n % 4 == 0)]} for n in range(8)]
    found = found_in(rows, split_ratio=1.0)["unanswered_turns"]
    assert (found.level, found.count, found.total) == ("note", 2, 8)
    assert [place.row for place in found.places] == [1, 5]
    assert "unanswered_turns" not in found_in(rows[1:4], split_ratio=1.0)


def test_the_lengths_that_keep_rows_whole_are_named(found_in, tokenizer):
    rows = [{"prompt": "a\n", "completion": "7" * n} for n in range(8, 108)]
    found = found_in(rows, max_length=50, split_ratio=1.0)["cut"]
    lengths = sorted(len(tokenizer("a\n" + row["completion"])["input_ids"]) + 1 for row in rows)
    most, nearly_all = lengths[94], lengths[98]  # of a hundred
    assert f"{most:,} keep 95% whole, {nearly_all:,} keep 99% whole" in found.what
    assert found.changes == {"data.max_length": nearly_all}
    assert found.count == sum(length > 50 for length in lengths)


def test_a_few_cut_rows_are_a_note_and_the_longest_is_named(found_in, good_rows):
    rows = [
        {"prompt": f"Row {n}: {WORDS[n % 12]}\n", "completion": WORDS[n % 7]} for n in range(300)
    ]
    rows[7]["completion"] = " ".join(WORDS * 20)
    found = found_in(rows, max_length=64)["cut"]
    assert found.level == "note"
    mended = found_in(rows, max_length=found.changes["data.max_length"])
    assert "cut" not in mended


def test_a_length_beyond_what_the_model_reads_is_not_proposed(config_of, tokenizer, good_rows):
    rows = with_completion(good_rows, " ".join(WORDS * 90))
    seen = measure.measure(config_of(rows, max_length=512), tokenizer)
    seen.context_tokens = 600
    found = {one.name: one for one in findings(seen)}["cut"]
    assert found.changes == {"data.max_length": 600}
    assert "the model reads 600 at most" in found.what
    seen.context_tokens = 512
    found = {one.name: one for one in findings(seen)}["cut"]
    assert not found.has_fix
    assert found.fix == "The model cannot read more: shorten the rows."


def test_bad_answers_that_are_left_out_are_said(found_in, good_rows):
    rows = [{**row, "label": n % 4 > 0} for n, row in enumerate(chat(good_rows))]
    found = found_in(rows)
    assert [*found] == ["dropped"], "a label that all kept rows share is no finding"
    assert found["dropped"].level == "note"
    assert found["dropped"].count == 10
    assert "10 because they are labelled as bad answers" in found["dropped"].what


def test_rows_that_the_template_refuses(found_in, good_rows, tokenizer):
    tokenizer.chat_template = (
        "{% if messages and messages[0]['role'] == 'assistant' %}{{ raise_exception('no greeting') }}{% endif %}"
        + tokenizer.chat_template
    )
    rows = chat(good_rows)
    rows[5]["messages"].insert(0, {"role": "assistant", "content": "Hello."})
    found = found_in(rows, tokenizer=tokenizer)["refused"]
    assert (found.level, found.count, found.places[0].row) == ("error", 1, 6)
    assert "no greeting" in found.what
    assert found.has_fix
    assert "refused" not in found_in(chat(good_rows), tokenizer=tokenizer)


def test_messages_for_a_model_without_a_template(found_in, good_rows, tokenizer):
    tokenizer.chat_template = None
    found = found_in(chat(good_rows), tokenizer=tokenizer)["refused"]
    assert found.count == len(good_rows)
    assert "the model has no chat template" in found.what
    assert not found.has_fix, "leaving every row out is no fix"


def _masking_padding(examples, tokenizer, *arguments, **keywords):
    """Encode as trainers do that mask the padding by its token."""
    pad = tokenizer.pad_token_id
    found = encode_rows(examples, tokenizer, *arguments, **keywords)
    return [
        {
            "completion": one._replace(
                loss_mask=[on and i != pad for i, on in zip(one.ids, one.loss_mask, strict=True)]
            )
        }
        for one in completions(found)
    ]


def completions(rows):
    """Return the one sequence of each row."""
    return [row["completion"] for row in rows]


def test_an_end_that_is_masked_with_the_padding(found_in, good_rows, tokenizer, monkeypatch):
    tokenizer.pad_token = tokenizer.eos_token
    assert "pad_is_end" not in found_in(good_rows, tokenizer=tokenizer), "only where it is masked"
    tokenizer.add_special_tokens({"unk_token": "<|start|>"})
    monkeypatch.setattr(measure, "encode_rows", _masking_padding)
    found = found_in(good_rows, tokenizer=tokenizer)
    assert "end_not_trained" not in found, "said once"
    found = found["pad_is_end"]
    assert (found.level, found.count) == ("error", 40)
    assert found.changes == {"model.pad_token": "<|start|>"}
    tokenizer.pad_token = "<|pad|>"
    assert "pad_is_end" not in found_in(good_rows, tokenizer=tokenizer)


def test_an_end_that_is_not_trained_on(found_in, good_rows, tokenizer, monkeypatch):
    def half_trained(examples, *arguments, **keywords):
        """Leave the last two tokens of the first rows out, as some template might."""
        found = encode_rows(examples, *arguments, **keywords)
        first = {row["prompt"] for row in good_rows[:5]}
        return [
            {"completion": one._replace(loss_mask=[*one.loss_mask[:-2], False, False])}
            if example.prompt in first
            else {"completion": one}
            for example, one in zip(examples, completions(found), strict=True)
        ]

    assert "end_not_trained" not in found_in(good_rows)
    monkeypatch.setattr(measure, "encode_rows", half_trained)
    found = found_in(good_rows)["end_not_trained"]
    assert (found.level, found.count) == ("warning", 5)
    assert {place.row for place in found.places} == {1, 2, 3, 4, 5}
    tokenizer.pad_token = tokenizer.eos_token
    assert "pad_is_end" not in found_in(good_rows, tokenizer=tokenizer), "padding is not the cause"


def _merging(tokenizer):
    """Return a prompt and a completion whose boundary a token crosses."""
    for word in (" the", " number", " answer", "Response", "Instruction"):
        for cut in range(1, len(word)):
            before = tokenizer("So" + word[:cut])["input_ids"]
            if tokenizer("So" + word)["input_ids"][: len(before)] != before:
                return "So" + word[:cut], word[cut:]
    raise AssertionError("the tiny tokenizer merges nothing")


SUMS = [
    (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.") for a in range(2, 12) for b in (20, 31)
]


def test_an_answer_that_is_glued_to_its_prompt_gets_a_line_break(found_in):
    rows = [{"q": asked, "a": answered} for asked, answered in SUMS]
    templates = {"prompt_template": "{q}", "completion_template": "{a}"}
    found = found_in(rows, **templates)["glued"]
    assert (found.level, found.count) == ("warning", len(rows))
    assert found.changes == {"data.train.datasets[0].prompt_template": "{q}\n"}
    plain = [{"prompt": asked, "completion": answered} for asked, answered in SUMS]
    assert found_in(plain)["glued"].changes == {
        "data.train.datasets[0].prompt_template": "{prompt}\n",
        "data.train.datasets[0].completion_template": "{completion}",
    }
    for prompt in ("{q}\n", "{q} ", "Q: {q}\nA:", "[INST] {q} [/INST]"):
        assert "glued" not in found_in(rows, **{**templates, "prompt_template": prompt}), prompt


@pytest.mark.parametrize(("end", "start"), [("\n\n", ""), ("", " "), (" ", "")])
def test_few_glued_rows_are_separated_like_the_others(found_in, end, start):
    rows = [
        {"prompt": asked + end, "completion": start + answered, "note": asked}
        for asked, answered in SUMS
    ]
    sick = [3, 11]
    for n in sick:
        rows[n] = {**rows[n], "prompt": SUMS[n][0], "completion": SUMS[n][1]}
    found = found_in(rows, split_ratio=1.0)["glued"]
    assert found.rewrite.rows["data.train.datasets[0]"].tolist() == [n + 1 for n in sick]
    for n in sick:
        assert found.rewrite.mend(rows[n]) == {**rows[0], "note": SUMS[n][0]} | {
            "prompt": SUMS[n][0] + end,
            "completion": start + SUMS[n][1],
        }


def test_a_merged_boundary_is_mended_by_a_line_break(found_in, good_rows, tokenizer):
    prompt, completion = _merging(tokenizer)
    rows = changed(good_rows, 3, prompt=prompt, completion=completion)
    found = found_in(rows)["boundary_merged"]
    assert (found.level, found.count) == ("warning", 1)
    field = "data.train.datasets[0]"
    assert found.changes == {
        f"{field}.prompt_template": "{prompt}\n",
        f"{field}.completion_template": "{completion}",
    }
    templates = {path.rpartition(".")[2]: value for path, value in found.changes.items()}
    assert "boundary_merged" not in found_in(rows, **templates)
    assert "boundary_merged" not in found_in(good_rows)


def test_a_space_moves_from_the_prompt_to_the_completion(found_in, tokenizer, good_rows):
    rows = [{"q": row["prompt"].strip(), "a": "the number"} for row in good_rows]
    templates = {"prompt_template": "{q} Answer: ", "completion_template": "{a}"}
    found = found_in(rows, **templates)["boundary_merged"]
    assert found.count == len(rows)
    field = "data.train.datasets[0]"
    assert found.changes == {
        f"{field}.prompt_template": "{q} Answer:",
        f"{field}.completion_template": " {a}",
    }
    mended = {path.rpartition(".")[2]: value for path, value in found.changes.items()}
    assert "boundary_merged" not in found_in(rows, **mended)


def test_the_boundary_of_a_function_is_left_to_its_author(found_in, good_rows, tokenizer, write):
    code = "def ask(row): return 'So t'\ndef answer(row): return 'he'\n"
    prompt, completion = _merging(tokenizer)
    code = f"def ask(row): return {prompt!r}\ndef answer(row): return {completion!r}\n"
    file = write("mine.py", code)
    found = found_in(good_rows, prompt_func=f"{file}:ask", completion_func=f"{file}:answer")
    assert not found["boundary_merged"].has_fix


def test_an_empty_column_is_taken_out_of_the_template(found_in, good_rows):
    rows = [{**row, "hint": ""} for row in good_rows]
    templates = {"prompt_template": "{prompt}{'hint'}\n", "completion_template": "{completion}"}
    found = found_in(rows, **templates)["empty_columns"]
    assert found.level == "warning"
    assert found.changes == {"data.train.datasets[0].prompt_template": "{prompt}\n"}


def test_one_answer_for_all_is_a_warning(found_in, good_rows):
    rows = [{**row, "completion": "yes"} for row in good_rows]
    templates = {"prompt_template": "{prompt}", "completion_template": "{completion}"}
    assert found_in(rows, **templates)["constant_columns"].level == "warning"
    few = rows[: checks.CONSTANT_ROWS - 1]
    assert "constant_columns" not in found_in(few, **templates), "by chance"


def splits(train, validation=None, test=None):
    data = {"train": {"datasets": [{"rows": train}]}}
    for name, rows in (("validation", validation), ("test", test)):
        if rows is not None:
            data[name] = {"datasets": [{"rows": rows}]}
    return data


def test_held_out_rows_in_the_training_rows(config_of, tokenizer, good_rows):
    def found(**data):
        config = Config(data=data)
        return {one.name: one for one in findings(measure.measure(config, tokenizer))}

    other = {**good_rows[2], "completion": "I do not know."}
    leak = found(
        **splits(good_rows[:30], [other, *good_rows[32:35]], [good_rows[4], *good_rows[36:]])
    )
    one = leak["held_out_in_training"]
    assert (one.level, one.count, one.total) == ("warning", 2, 9)
    assert "Rows of validation and test" in one.what
    assert {field: rows.tolist() for field, rows in one.rewrite.rows.items()} == {
        "data.train.datasets[0]": [3, 5]
    }
    assert [place.split for place in one.places] == ["validation", "test"]
    clean = found(**splits(good_rows[:30], good_rows[30:35], good_rows[35:]))
    assert clean == {}


def test_rows_held_out_of_one_file_leave_the_training_rows(found_in, good_rows):
    again = [{**good_rows[0], "completion": f"Answer {n}."} for n in range(12)]
    rows = [*good_rows, *again]
    found = found_in(rows, split_ratio=0.5)
    drops = found["held_out_in_training"].rewrite.rows["data.train.datasets[0]"]
    assert 0 < len(drops) < 12
    kept = [row for n, row in enumerate(rows, start=1) if n not in drops]
    assert "held_out_in_training" not in found_in(kept, split_ratio=0.5)


def test_equal_rows_are_held_out_together(found_in, good_rows):
    for seed in range(5):
        rows = [*good_rows, *[dict(good_rows[seed]) for _ in range(20)]]
        assert "held_out_in_training" not in found_in(rows, split_ratio=0.5)


def test_a_test_file_keeps_what_it_holds_twice(tokenizer, good_rows):
    data = splits(good_rows[:30], test=[good_rows[4], *good_rows[30:], good_rows[4]])
    found = {one.name: one for one in findings(measure.measure(Config(data=data), tokenizer))}
    assert found["held_out_in_training"].count == 2
    drops = found["held_out_in_training"].rewrite.rows
    assert {field: rows.tolist() for field, rows in drops.items()} == {
        "data.train.datasets[0]": [5]
    }


def test_a_prompt_that_most_rows_share_is_no_leak(tokenizer, good_rows):
    rows = [{"prompt": "Tell me something.\n", "completion": r["completion"]} for r in good_rows]

    def found_in(train, validation):
        seen = measure.measure(Config(data=splits(train, validation)), tokenizer)
        return {one.name: one for one in findings(seen)}

    assert "held_out_in_training" not in found_in(rows[:25], rows[25:])
    whole = found_in(rows[:30], rows[29:])
    assert whole["held_out_in_training"].count == 1, "then the whole row counts"


def test_held_out_rows_that_are_nearly_training_rows(tokenizer, good_rows):
    near = {**good_rows[2], "prompt": "Now: " + good_rows[2]["prompt"]}
    config = Config(data=splits(good_rows[:30], [near, *good_rows[32:]]))
    found = {one.name: one for one in findings(measure.measure(config, tokenizer))}
    assert "held_out_in_training" not in found
    one = found["nearly_held_out_in_training"]
    assert (one.count, one.total) == (1, 9)
    assert one.rewrite.rows["data.train.datasets[0]"].tolist() == [3]
    assert one.places[0].row == 3, "the rows to choose from"
    assert one.places[0].text.startswith("like validation row 1 (")
    config = Config(data=splits(good_rows[:30], good_rows[30:]))
    assert findings(measure.measure(config, tokenizer)) == []


def test_duplicates_name_the_row_that_they_repeat(found_in, good_rows):
    found = found_in([*good_rows, good_rows[7], good_rows[7]], split_ratio=1.0)["duplicates"]
    assert [place.row for place in found.places] == [41, 42]
    assert found.places[1].text.startswith("same as row 8: ")
    assert found.rewrite.rows["data.train.datasets[0]"].tolist() == [41, 42]


def test_a_mixture_that_repeats_rows_has_no_duplicates(found_in, good_rows, tokenizer):
    halves = [{"rows": good_rows[:5], "mixture_proportion": 0.5}]
    halves.append({"rows": good_rows[5:], "mixture_proportion": 0.5})
    data = {"train": {"datasets": halves, "mixture_strategy": "all_exhausted"}, "split_ratio": 1.0}
    seen = measure.measure(Config(data=data), tokenizer)
    assert sum(map(len, seen.examples.values())) > len(seen), "rows come again"
    assert findings(seen) == []


def test_mojibake_hides_no_control_character(found_in, good_rows):
    rows = changed(good_rows, 3, prompt="He said â€œyesâ€\x9d, and what now?\n")
    assert [*found_in(rows)] == ["mojibake"]


CHATML = "<|im_start|>{{ messages[0].role }}<|im_end|>"


def test_marks_of_the_models_own_family(found_in, good_rows, tokenizer):
    rows = text_in("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{completion}")
    tokenizer.chat_template = CHATML
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    found = found_in(rows(good_rows), tokenizer=tokenizer)
    assert "wrong_chat_template" not in found
    assert "special_tokens_in_text" not in found
    one = found["templated_text"]
    assert (one.level, one.count) == ("note", 5)
    row = good_rows[0]
    text = rows(good_rows)[0]["text"]
    assert one.rewrite is None, "the other rows are no such texts"
    (one,) = found_in(rows(good_rows[:5]), split_ratio=1.0, tokenizer=tokenizer).values()
    messages = [
        {"role": "user", "content": row["prompt"].strip()},
        {"role": "assistant", "content": row["completion"].strip()},
    ]
    assert one.rewrite.mend({"text": text, "n": 1}) == {"n": 1, "messages": messages}
    assert "templated_text" not in found_in(good_rows, tokenizer=tokenizer)


def test_special_tokens_in_a_conversation(found_in, good_rows, tokenizer):
    rows = chat(good_rows)
    rows[4]["messages"][0]["content"] += "<|end|>"
    found = found_in(rows)["special_tokens_in_text"]
    assert (found.count, found.places[0].row) == (1, 5)
    assert found.rewrite.is_choice, "what was meant is a judgement"


def test_plain_marks_are_a_note_where_few_rows_have_them(found_in, good_rows, tokenizer):
    rows = [{"instruction": row["prompt"], "output": row["completion"]} for row in good_rows]
    assert "wrong_chat_template" not in found_in(rows), "the form of the dataset itself"
    form = "### Instruction:\n{prompt}\n\n### Response:\n"
    rows = [
        {**row, "prompt": form.format(**row)} if n < 3 else row for n, row in enumerate(good_rows)
    ]
    found = found_in(rows)["wrong_chat_template"]
    assert (found.level, found.count) == ("note", 3)
    assert found.rewrite.mend(rows[0])["prompt"] == good_rows[0]["prompt"].strip()
    tokenizer.chat_template = None
    assert "wrong_chat_template" not in found_in(rows, tokenizer=tokenizer), "a base model"


def test_each_family_of_marks_is_counted(found_in, good_rows):
    rows = chat(good_rows)
    rows[4]["messages"][0]["content"] = "[INST] Add. [/INST]"
    rows[5]["messages"][0]["content"] = "<start_of_turn>user\nAdd.<end_of_turn>"
    rows[6]["messages"][0]["content"] = "<|im_start|>user\nAdd.<|im_end|> [INST] More. [/INST]"
    found = found_in(rows)["wrong_chat_template"]
    assert found.count == 3
    assert "2 of Llama 2 and Mistral, 1 of ChatML, 1 of Gemma" in found.what
    assert found.rewrite is None, "one of them is not certain"


def test_marks_in_a_conversation_are_taken_out(found_in, good_rows):
    rows = chat(good_rows)
    rows[4]["messages"][0]["content"] = "[INST] Add. [/INST]"
    found = found_in(rows)["wrong_chat_template"]
    mended = found.rewrite.mend(rows[4])
    assert mended["messages"][0]["content"] == "Add."
    assert mended["messages"][1] == rows[4]["messages"][1]


@pytest.mark.parametrize(
    ("data", "training", "changes"),
    [
        ({"padding_free": False}, {}, {"data.padding_free": True}),
        ({"pad_to_multiple_of": 8}, {}, {"data.train_sampling_strategy": "group_by_length"}),
        ({"packing": True}, {}, None),
        ({"padding_free": True}, {}, None),
        ({"padding_free": False}, {"per_device_train_batch_size": 1}, None),
    ],
)
def test_padding_is_saved_by_what_goes_together(data, training, changes, tokenizer, good_rows):
    rows = CASES["padding"][0](good_rows * 6)
    config = Config(data={"rows": rows, **data}, training=training)
    found = {one.name: one for one in findings(measure.measure(config, tokenizer))}
    if changes is None:
        assert "padding" not in found
        return
    assert found["padding"].changes == changes
    mended = {one.name for one in findings(measure.measure(config.apply(changes), tokenizer))}
    assert "padding" not in mended


def test_errors_come_first(found_in, good_rows):
    rows = [{**row, "prompt": "word " * 200} for row in good_rows]
    rows[2]["prompt"] += "\u200b"
    rows[3]["prompt"] += "\ufffd"
    levels = list(dict.fromkeys(one.level for one in found_in(rows, max_length=100).values()))
    assert levels == ["error", "warning", "note"]


def test_what_is_odd_in_turns_is_found(found_in, good_rows, tokenizer):
    tokenizer.chat_template = chosen_template(Config(model={"chat_template": "chatml"}).model, None)
    rows = chat(good_rows)
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}

    def calls(name, arguments):
        call = {"function": {"name": name, "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    rows[3] |= {"tools": [tool]}
    rows[3]["messages"] += [calls("add", {"a": 1}), calls("subtract", {"a": 1})]
    rows[5] |= {"tools": [tool]}
    rows[5]["messages"].append(calls("add", "a=1"))
    rows[7]["messages"][0]["role"] = "Human"
    rows[9] |= {"note": float("nan")}
    rows[11]["messages"][-1]["reasoning_content"] = "Because of this."
    found = found_in(rows, tokenizer=tokenizer)
    numbers = {name: [place.row for place in one.places] for name, one in found.items()}
    assert numbers["undeclared_calls"] == [4]
    assert numbers["argument_text"] == [6]
    assert numbers["renamed_roles"] == [8]
    assert numbers["not_a_number"] == [10]
    assert numbers["left_out_by_template"] == [12]
    assert "1 lose their reasoning" in found["left_out_by_template"].what
    assert not {*_TALK, "left_out_by_template"} & {*found_in(chat(good_rows), tokenizer=tokenizer)}


def test_a_call_that_the_template_cannot_say_is_found_by_its_row(found_in, good_rows):
    rows = chat(good_rows)
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    rows[3]["messages"].append({"role": "assistant", "content": "", "tool_calls": [call]})
    found = found_in(rows)["refused"]
    assert [place.row for place in found.places] == [4]
    assert "does not write the call of the tool add" in found.what


def test_system_turns_that_the_template_does_not_take(found_in, good_rows, tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + tokenizer.chat_template
    )
    rows = chat(good_rows)
    rows[5]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    found = found_in(rows, tokenizer=tokenizer)
    assert found["folded_system_turns"].count == 1
    assert found["folded_system_turns"].places[0].row == 6
