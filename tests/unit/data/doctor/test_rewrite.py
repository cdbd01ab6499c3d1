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
    assert path_of(mended) == str(old.with_name("rows.fixed.jsonl"))
    assert lines(path_of(mended)) == good_rows
    assert old.read_bytes() == before
    assert "duplicates" not in look(mended)
    assert not list(old.parent.glob("*.partial"))


def test_an_earlier_file_is_never_written_over(config, file_of, good_rows):
    old = file_of([*good_rows, good_rows[3]])
    report = look(config(old))
    names = [Path(path_of(report.apply("duplicates"))).name for _ in range(3)]
    assert names == [f"rows.fixed{end}.jsonl" for end in ("", "-2", "-3")]


def test_a_path_stays_relative_to_the_config(config, file_of, good_rows):
    old = file_of([*good_rows, good_rows[3]])
    base = old.parents[1]
    mended = look(config("data/rows.jsonl"), folder=base).apply("duplicates")
    assert path_of(mended) == "data/rows.fixed.jsonl"
    assert "duplicates" not in look(mended, folder=base)


def test_the_file_goes_where_it_is_told(config, file_of, good_rows, tmp_path):
    report = look(config(file_of([*good_rows, good_rows[3]])))
    mended = report.apply("duplicates", folder=tmp_path / "clean")
    assert path_of(mended) == str(tmp_path / "clean" / "rows.fixed.jsonl")
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
    assert path_of(mended) == str(tmp_path / "rows.fixed.jsonl")


def test_texts_are_mended_wherever_they_stand(config, file_of, good_rows):
    rows = [
        {"messages": [{"role": "user", "content": row["prompt"]},
                      {"role": "assistant", "content": row["completion"]}], "n": n}
        for n, row in enumerate(good_rows)
    ]  # fmt: skip
    rows[5]["messages"][1]["content"] = "CafÃ© &amp; tea\n#### 5"
    report = look(config(file_of(rows)))
    mended = report.apply("mojibake")
    assert lines(path_of(mended))[5]["messages"][1]["content"] == "Café &amp; tea\n#### 5"
    mended = look(mended).apply("html_entities")
    assert path_of(mended).endswith("rows.fixed-2.jsonl"), "a name does not grow"
    assert lines(path_of(mended))[5] == {
        "messages": [
            rows[5]["messages"][0],
            {"role": "assistant", "content": "Café & tea\n#### 5"},
        ],
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
    found = look(before)["near_duplicates"]
    mended = look(before).apply("near_duplicates", rows=[place.row for place in found.places])
    assert path_of(mended) == str(tmp_path / "alpaca.fixed.jsonl")
    kept, whole = (load_examples(one, "train")[0] for one in (mended, before))
    assert len(whole) - len(kept) == found.count > 0
    assert set(kept) < set(whole), "each prompt is as it was"


def test_turns_in_text_become_messages_where_all_rows_are_such(config, file_of, good_rows):
    rows = [
        {"n": n, "text": f"[INST] {row['prompt']} [/INST] {row['completion']}"}
        for n, row in enumerate(good_rows)
    ]
    mended = look(config(file_of(rows), columns={})).apply("wrong_chat_template")
    left = lines(path_of(mended))
    assert left[3] == {
        "n": 3,
        "messages": [
            {"role": "user", "content": good_rows[3]["prompt"].strip()},
            {"role": "assistant", "content": good_rows[3]["completion"].strip()},
        ],
    }
    assert look(mended).findings == []
    rows[7] = {"n": 7, "text": "No turns at all."}
    found = look(config(file_of(rows), columns={}))["wrong_chat_template"]
    assert not found.has_fix, "one row would be lost"


def test_the_form_of_the_dataset_itself_is_no_finding(config, file_of, good_rows):
    templates = {
        "prompt_template": "### Instruction:\n{q}\n\n### Response:\n",
        "completion_template": "{a}",
    }
    rows = [{"q": row["prompt"].strip(), "a": row["completion"]} for row in good_rows]
    assert look(config(file_of(rows), **templates)).findings == []


def test_marks_of_two_rows_among_many_are_taken_away(config, file_of, good_rows):
    """The prompt is kept, and nothing else moves: no column, no other row, no space."""
    rows = [{**row, "n": n, "code": "    x = 1"} for n, row in enumerate(good_rows)]
    for n in (4, 9):
        rows[n]["prompt"] = f"<|im_start|>user\n{good_rows[n]['prompt']}<|im_end|>\n"
        rows[n]["completion"] = f"{good_rows[n]['completion']}<|im_end|>"
    old = file_of(rows)
    mended = look(config(old)).apply("wrong_chat_template")
    before, after = (Path(one).read_text().splitlines() for one in (old, path_of(mended)))
    assert [n for n in range(40) if before[n] != after[n]] == [4, 9]
    row = json.loads(after[4])
    assert row == {**rows[4], **good_rows[4], "prompt": good_rows[4]["prompt"].strip()}
    assert "wrong_chat_template" not in look(mended)


def test_one_round_is_enough_for_one_file(config, file_of, good_rows):
    """The split is drawn by content, so what is left out brings no new leak."""
    other = [{**row, "completion": row["completion"] + " Yes."} for row in good_rows[:15]]
    old = file_of([*good_rows, *other, *good_rows[20:30]])
    now = config(old).apply({"data.split_ratio": 0.6})
    seen = set()
    for name in ("duplicates", "held_out_in_training"):
        report = look(now)
        assert name in report
        now = report.apply(name)
        seen.add(name)
        assert not seen & {one.name for one in look(now).findings}


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


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("large", [False, True])
def test_blank_and_broken_lines_shift_no_row(config, tmp_path, good_rows, monkeypatch, end, large):
    texts = [json.dumps(row) for row in good_rows]
    texts[5] = json.dumps({**good_rows[5], "prompt": "In the cafÃ©: " + good_rows[5]["prompt"]})
    texts[8] = "}"
    texts[1:1] = ["   \t "]
    texts += ["", " ", texts[4]]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(end.join(texts).encode())
    if large:
        monkeypatch.setattr("nbft.data.lines.LARGE_BYTES", 10)
    report = look(config(path))
    assert report["refused"].count == 1
    now = report.apply("refused")
    assert Path(path_of(now)).read_bytes().count(b"\r") == (40 if end == "\r\n" else 0) - (
        end == "\r\n"
    ), "every other line is as it was"
    first = lines(path_of(now))
    assert first == [json.loads(text) for text in texts if text.strip() and text != "}"]
    now = look(now).apply("duplicates")
    assert lines(path_of(now)) == first[:-1]
    now = look(now).apply("mojibake")
    last = lines(path_of(now))
    assert last[5]["prompt"].startswith("In the café: ")
    assert [*last[:5], *last[6:]] == [*first[:5], *first[6:-1]]


def test_rows_are_chosen_in_their_own_dataset(tiny_model, file_of, good_rows):
    refusal = "I'm sorry, but I cannot help with that.\n#### 0"
    files = []
    for name, some in (("a", good_rows[:20]), ("b", good_rows[20:])):
        rows = [{**row, "completion": refusal} if n == 4 else row for n, row in enumerate(some)]
        files.append(file_of(rows, f"{name}.jsonl"))
    config = Config(
        model={"model_name": str(tiny_model)},
        data={"train": {"datasets": [{"path": str(f)} for f in files]}, "split_ratio": 1.0},
    )
    report = look(config)
    with pytest.raises(DataError, match=r"row 5 is in several datasets\. Choose of \('data\.train"):
        report.apply("refusals", rows=[5])
    mended = report.apply("refusals", rows=[("data.train.datasets[1]", 5)])
    first, second = mended.data.train.datasets
    assert first.path == str(files[0])
    assert len(lines(second.path)) == 19


def test_what_is_chosen_of_near_leaks_is_left_out_of_the_training(tiny_model, file_of, good_rows):
    near = {**good_rows[2], "prompt": "Now: " + good_rows[2]["prompt"]}
    train, held = file_of(good_rows[:30], "t.jsonl"), file_of([near, *good_rows[32:]], "v.jsonl")
    config = Config(
        model={"model_name": str(tiny_model)},
        data={"train": {"path": str(train)}, "validation": {"path": str(held)}},
    )
    report = look(config)
    found = report["nearly_held_out_in_training"]
    mended = report.apply(found.name, rows=[place.row for place in found.places])
    assert lines(path_of(mended)) == [*good_rows[:2], *good_rows[3:30]]
    assert found.name not in look(mended)


def test_a_mixture_that_repeats_rows_is_no_sample(tiny_model, good_rows):
    halves = [{"rows": good_rows[:31], "mixture_proportion": 0.9}]
    halves.append({"rows": [*good_rows[31:], good_rows[35]], "mixture_proportion": 0.1})
    data = {"train": {"datasets": halves, "mixture_strategy": "all_exhausted"}, "split_ratio": 1.0}
    report = look(Config(model={"model_name": str(tiny_model)}, data=data))
    assert not report.is_sample
    mended = report.apply("duplicates")
    assert len(mended.data.train.datasets[1].rows) == 9


@pytest.mark.parametrize("kind", ["csv", "json", "renamed"])
def test_a_broken_row_of_any_file_ends_nothing(config, tmp_path, good_rows, kind):
    path = tmp_path / f"rows.{kind.replace('renamed', 'jsonl')}"
    columns = {}
    if kind == "csv":
        cells = ["prompt,completion", *(f"Question {n}?,Answer {n}." for n in range(30))]
        cells[7] += ",one more"
        path.write_text("\n".join(cells))
    elif kind == "json":
        path.write_text(json.dumps([*good_rows[:6], "no row", *good_rows[6:]]))
    else:
        texts = [json.dumps({"q": r["prompt"], "a": r["completion"]}) for r in good_rows]
        path.write_text("\n".join([*texts[:6], "{", *texts[6:]]))
        columns = {"prompt": "q", "completion": "a"}
    report = look(config(path, columns=columns))
    row = 8 if kind == "csv" else 7  # as a spreadsheet program counts, with the names
    assert [place.row for place in report["refused"].places] == [row]
    mended = look(report.apply("refused"))
    assert "refused" not in mended
    assert mended.looked_at == report.looked_at - 1
