"""New data files: what they hold, where they lie, and that the finding is gone with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nbft.config import Config
from nbft.data.doctor import doctor
from nbft.data.examples import load_examples
from nbft.errors import DataError


def silent(_text):
    pass


def look(config, **keywords):
    return doctor(config, say=silent, **keywords)


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def file_of(tmp_path):
    """Return a function that writes rows to a file and returns its path."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        text = "\n".join(json.dumps(row) for row in rows)
        path.write_text(json.dumps(rows) if name.endswith(".json") else text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def config(tiny_model):
    def make(path=None, **dataset):
        dataset = {"path": str(path), **dataset} if path else dataset
        return Config(
            model={"model_name": str(tiny_model)},
            data={"train": {"datasets": [dataset]}, "split_ratio": 1.0},
        )

    return make


def path_of(config):
    return config.data.train.datasets[0].path


def test_duplicates_are_left_out_of_a_file_beside_the_old(config, file_of, good_rows):
    old = file_of([*good_rows, good_rows[3]], "rows.json")
    before = old.read_bytes()
    report = look(config(old))
    mended = report.apply("duplicates")
    assert path_of(mended) == str(old.with_name("rows.without-duplicates.jsonl"))
    assert lines(path_of(mended)) == good_rows
    assert old.read_bytes() == before
    assert "duplicates" not in look(mended)
    assert not list(old.parent.glob("*.partial"))


def test_an_earlier_file_is_never_written_over(config, file_of, good_rows):
    old = file_of([*good_rows, good_rows[3]])
    report = look(config(old))
    names = [Path(path_of(report.apply("duplicates"))).name for _ in range(3)]
    assert names == [f"rows.without-duplicates{end}.jsonl" for end in ("", "-2", "-3")]


def test_a_path_stays_relative_to_the_config(config, file_of, good_rows):
    old = file_of([*good_rows, good_rows[3]])
    base = old.parents[1]
    mended = look(config("data/rows.jsonl"), folder=base).apply("duplicates")
    assert path_of(mended) == "data/rows.without-duplicates.jsonl"
    assert "duplicates" not in look(mended, folder=base)


def test_the_file_goes_where_it_is_told(config, file_of, good_rows, tmp_path):
    report = look(config(file_of([*good_rows, good_rows[3]])))
    mended = report.apply("duplicates", folder=tmp_path / "clean")
    assert path_of(mended) == str(tmp_path / "clean" / "rows.without-duplicates.jsonl")
    assert len(lines(path_of(mended))) == 40
    with pytest.raises(DataError, match=r"cannot be written: .*\. Name another folder\."):
        report.apply("duplicates", folder=file_of([{}], "taken"))


def test_a_folder_that_may_not_be_written_is_left(
    config, file_of, good_rows, tmp_path, monkeypatch
):
    report = look(config(file_of([*good_rows, good_rows[3]])))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    mended = report.apply("duplicates")
    assert path_of(mended) == str(tmp_path / "rows.without-duplicates.jsonl")


def test_texts_are_mended_wherever_they_stand(config, file_of, good_rows):
    rows = [
        {"messages": [{"role": "user", "content": row["prompt"]},
                      {"role": "assistant", "content": row["completion"]}], "n": n}
        for n, row in enumerate(good_rows)
    ]  # fmt: skip
    rows[5]["messages"][1]["content"] = "CafÃ© &amp; tea"
    report = look(config(file_of(rows)))
    mended = report.apply("mojibake")
    assert lines(path_of(mended))[5]["messages"][1]["content"] == "Café &amp; tea"
    mended = look(mended).apply("html_entities")
    assert path_of(mended).endswith("rows.without-mojibake.without-html-entities.jsonl")
    assert lines(path_of(mended))[5] == {
        "messages": [rows[5]["messages"][0], {"role": "assistant", "content": "Café & tea"}],
        "n": 5,
    }
    assert [*look(mended).findings] == []


def test_a_row_with_half_a_character_can_be_written(config, file_of, good_rows):
    rows = [*good_rows, good_rows[3]]
    rows[0] = {**rows[0], "note": "half \ud83d"}
    mended = look(config(file_of(rows))).apply("duplicates")
    assert lines(path_of(mended))[0] == rows[0]


def test_columns_keep_their_names_in_the_file(config, file_of, good_rows):
    rows = [{"q": row["prompt"], "a": row["completion"]} for row in [*good_rows, good_rows[3]]]
    names = {"prompt": "q", "completion": "a"}
    mended = look(config(file_of(rows), columns=names)).apply("duplicates")
    assert lines(path_of(mended)) == rows[:40]
    assert mended.data.train.datasets[0].columns == names


def test_rows_that_were_not_taken_stay_in_the_file(config, file_of, good_rows):
    rows = [good_rows[0], *good_rows]
    mended = look(config(file_of(rows), sample_count=10)).apply("duplicates")
    assert lines(path_of(mended)) == good_rows
    assert mended.data.train.datasets[0].sample_count == 10
    assert "duplicates" not in look(mended)


def test_shuffled_rows_are_known_by_their_place_in_the_file(config, file_of, good_rows):
    rows = [*good_rows, good_rows[3]]
    mended = look(config(file_of(rows), shuffle=True)).apply("duplicates")
    left = lines(path_of(mended))
    assert len(left) == 40
    assert {row["prompt"] for row in left} == {row["prompt"] for row in good_rows}


def test_rows_in_memory_stay_in_memory(config, good_rows):
    given = [*good_rows, good_rows[3]]
    mended = look(config(rows=given)).apply("duplicates")
    assert mended.data.train.datasets[0].rows == good_rows
    assert len(given) == 41


def test_a_ready_name_keeps_its_templates(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = config(dataset_name="alpaca")
    mended = look(before).apply("near_duplicates")
    assert path_of(mended) == str(tmp_path / "alpaca.without-near-duplicates.jsonl")
    kept, whole = (load_examples(one, "train")[0] for one in (mended, before))
    assert 0 < len(whole) - len(kept) < 10
    assert set(kept) < set(whole), "each prompt is as it was"


def test_turns_in_text_become_messages(config, file_of, good_rows):
    rows = [{"text": f"[INST] {row['prompt']} [/INST] {row['completion']}"} for row in good_rows]
    rows[7] = {"text": "No turns at all."}
    mended = look(config(file_of(rows), columns={})).apply("wrong_chat_template")
    left = lines(path_of(mended))
    assert left[0] == {
        "messages": [
            {"role": "user", "content": good_rows[0]["prompt"].strip()},
            {"role": "assistant", "content": good_rows[0]["completion"].strip()},
        ]
    }
    assert left[7] == {"messages": [{"role": "assistant", "content": "No turns at all."}]}
    assert "wrong_chat_template" not in look(mended)


def test_templates_go_when_rows_become_messages(config, file_of, good_rows):
    templates = {
        "prompt_template": "### Instruction:\n{q}\n\n### Response:\n",
        "completion_template": "{a}",
    }
    rows = [{"q": row["prompt"].strip(), "a": row["completion"]} for row in good_rows]
    mended = look(config(file_of(rows), **templates)).apply("wrong_chat_template")
    assert mended.data.train.datasets[0].prompt_template is None
    assert lines(path_of(mended))[3]["messages"][0]["content"] == rows[3]["q"]
    assert [one.name for one in look(mended).findings] == []


def test_a_leak_is_mended_in_the_training_file_only(tiny_model, file_of, good_rows):
    train = file_of(good_rows[:30], "train.jsonl")
    held_out = file_of([*good_rows[30:], good_rows[4]], "held-out.jsonl")
    config = Config(
        model={"model_name": str(tiny_model)},
        data={"train": {"path": str(train)}, "validation": {"path": str(held_out)}},
    )
    mended = look(config).apply("held_out_in_training")
    assert mended.data.validation.datasets[0].path == str(held_out)
    assert lines(path_of(mended)) == [*good_rows[:4], *good_rows[5:30]]
    assert look(mended).findings == []
