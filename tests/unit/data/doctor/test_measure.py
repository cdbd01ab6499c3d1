"""The pass over the rows: bounded, in pieces, and the same in any pieces."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from nbft.data.doctor import measure as module
from nbft.data.doctor.checks import findings
from nbft.data.doctor.kinds import Said
from nbft.data.doctor.measure import measure


def test_the_numbers_of_a_row(config_of, tokenizer):
    rows = [
        {"prompt": "Add 1 and 2.\n", "completion": "3 it is"},
        {"prompt": "Wait.\n", "completion": ""},
    ]
    seen = measure(config_of(rows, split_ratio=1.0), tokenizer)
    asked, answered = (len(tokenizer(text)["input_ids"]) for text in rows[0].values())
    assert seen.tokens[0] == asked + answered + 1, "and the end"
    assert seen.trained[0] == answered + 1
    assert seen.trained[1] == 1
    assert seen.answer_is_empty.tolist() == [False, True]
    assert seen.end_is_trained.all()
    assert not seen.end_is_masked.any()
    place = seen.place(1)
    assert (place.split, place.number, place.row) == ("train", 1, 2)
    assert place.field == "data.train.datasets[0]"
    learns_all = measure(config_of(rows, completion_only_loss=False), tokenizer)
    whole = learns_all.trained[learns_all.row == 1]
    assert whole == asked + answered, "nothing predicts the first token"
    short = measure(config_of([rows[0]] * 3, max_length=8, split_ratio=1.0), tokenizer)
    assert short.trained[0] == max(0, 8 - asked)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_pieces_change_nothing(config_of, tokenizer, good_rows, monkeypatch, chunk):
    rows = [*good_rows, {**good_rows[2], "completion": "One\x00"}]
    whole = measure(config_of(rows), tokenizer)
    monkeypatch.setattr(module, "_CHUNK", chunk)
    seen = measure(config_of(rows), tokenizer)
    for name in ("split", "number", "row", "tokens", "trained", "text_hash", "prompt_hash"):
        assert (getattr(seen, name) == getattr(whole, name)).all()
    assert seen.odd["control_characters"].rows == whole.odd["control_characters"].rows
    assert sorted(zip(seen.split, seen.row, strict=True)) == sorted(
        zip(whole.split, whole.row, strict=True)
    )


@pytest.mark.parametrize("stop", [KeyboardInterrupt, module.StoppedError("enough")])
def test_a_stopped_check_reports_the_rows_until_then(
    config_of, tokenizer, good_rows, monkeypatch, stop
):
    rows = [{**row, "completion": row["completion"] + "\x00"} for row in good_rows]
    rows[3] = {"prompt": "", "completion": None}  # refused
    monkeypatch.setattr(module, "_CHUNK", 7)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_WORDS", 0.0)
    whole = measure(config_of(rows), tokenizer)
    said = []

    def say(text):
        said.append(text)
        if text.startswith("Checked 21"):
            raise stop

    seen = measure(config_of(rows), tokenizer, say=say)
    assert said[-1].startswith("Checked 21 of 40 rows; so far control_characters 2")
    assert (len(seen), seen.is_stopped, seen.is_sample) == (21, True, True)
    assert (whole.is_stopped, whole.is_sample) == (False, False)
    among = np.isin(whole.row, seen.row)
    for name in ("split", "number", "row", "tokens", "trained", "text_hash", "signature"):
        assert (getattr(seen, name) == getattr(whole, name)[among]).all(), name
    assert (seen.habits.chars == whole.habits.chars[among]).all()

    def places(hits, of):
        return [int(of.row[row]) for row in hits.rows]

    mine, every = seen.odd["control_characters"], whole.odd["control_characters"]
    assert sorted(places(mine, seen)) == [n for n in sorted(places(every, whole)) if n in seen.row]
    for sign, having in seen.habits.signs.items():
        known = {int(whole.row[row]) for row in whole.habits.signs[sign]}
        assert {int(seen.row[row]) for row in having} == known & {*seen.row.tolist()}
    refused = {int(whole.row[row]) for row in whole.refused} & {*seen.row.tolist()}
    assert {int(seen.row[row]) for row in seen.refused} == refused
    assert {one.name for one in findings(seen)} >= {"control_characters"}


def test_an_interrupt_amid_a_piece_drops_the_piece(config_of, tokenizer, good_rows, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 10)
    rows = [{**row, "completion": row["completion"] + "\x00"} for row in good_rows]
    looked = []

    def said(example):
        looked.append(example)
        if len(looked) == 25:
            raise KeyboardInterrupt
        return Said(example)

    monkeypatch.setattr(module, "Said", said)
    seen = measure(config_of(rows), tokenizer)
    assert len(seen) == len(seen.odd["control_characters"].rows) == 20
    assert seen.is_tokenised.all()
    looked[:] = [None] * 24
    with pytest.raises(KeyboardInterrupt):  # nothing was checked
        measure(config_of(rows), tokenizer)


def test_every_row_of_every_split_is_seen_once(config_of, tokenizer, good_rows):
    seen = measure(config_of(good_rows), tokenizer)
    assert seen.names == ["train", "validation"]
    assert sorted(seen.row.tolist()) == [*range(1, 41)]
    assert seen.of("train").sum() == 36
    assert seen.of("validation").sum() == 4
    assert not seen.of("test").any()
    assert (seen.tokens > 0).all()


def test_memory_grows_by_few_bytes_a_row(config_of, tokenizer, good_rows):
    """The texts are forgotten: a row leaves its numbers only."""

    class Lazy:
        """Rows of a kilobyte that are made when they are asked for."""

        column_names = ("prompt", "completion")

        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return self.rows

        def __getitem__(self, number):
            return {"prompt": f"{number}\n", "completion": f"{number} " + "7" * 1000}

        def __iter__(self):
            return (self[number] for number in range(len(self)))

        def select(self):
            raise NotImplementedError

    def left_by(rows):
        tracemalloc.start()
        seen = measure(config_of(Lazy(rows), split_ratio=1.0), tokenizer)
        seen.examples.clear()  # a few thousand examples are kept there
        gc.collect()
        left = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(seen) == rows
        return left

    left_by(20)
    few, many = left_by(50), left_by(550)
    assert (many - few) / 500 < 430, "bytes; the texts have a thousand"


def test_what_a_tokenizer_refuses_is_found_among_the_others(config_of, tokenizer, good_rows):
    rows = [*good_rows, {"prompt": "half \ud83d\n", "completion": "Yes."}]
    seen = measure(config_of(rows, split_ratio=1.0), tokenizer)
    assert seen.refused == {
        40: "row 41: has half a character (\\ud83d) at place 6 of a text. Write the whole character, "
        "or remove the half; it is often an emoji cut in two."
    }
    assert (seen.tokens[:40] > 0).all()


def test_columns_are_counted(config_of, tokenizer, good_rows):
    rows = [{**row, "tag": "x", "note": None if n else "first"} for n, row in enumerate(good_rows)]
    columns = measure(config_of(rows), tokenizer).columns["data.train.datasets[0]"]
    assert (columns["tag"].filled, columns["tag"].is_constant) == (40, True)
    assert (columns["note"].filled, columns["note"].is_constant) == (1, False)
    assert not columns["prompt"].is_constant


def test_signatures_need_no_more_than_they_say(config_of, tokenizer, good_rows):
    seen = measure(config_of(good_rows), tokenizer)
    arrays = [value for value in vars(seen).values() if isinstance(value, np.ndarray)]
    assert sum(a.nbytes for a in arrays) / len(seen) < 200
