"""The lens without a browser: its traits are set as a front end would set them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nbft
from nbft.config import Config
from nbft.errors import DataError, ModelError
from nbft.models.find import FoundModel
from nbft.pages import lens as picture
from nbft.widgets import lens as lens_module
from nbft.widgets.lens import SAMPLE_ROWS, Lens, runs

CHAT = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ]
}


def pairs(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"Name {n}\n", "completion": "word " * (n % 7 + 1)} for n in range(count)]


@pytest.fixture
def make(tiny_model: Path) -> Callable[..., Config]:
    def make_config(rows: Any = None, **data: Any) -> Config:
        data = {"rows": pairs(20) if rows is None else rows, "split_ratio": 1.0, **data}
        return Config(model={"model_name": str(tiny_model)}, data=data)

    return make_config


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were tokenised, call by call."""
    sizes: list[int] = []
    encode_rows = lens_module.encode_rows

    def count_rows(examples: Any, *args: Any, **keys: Any) -> Any:
        sizes.append(len(examples))
        return encode_rows(examples, *args, **keys)

    monkeypatch.setattr(lens_module, "encode_rows", count_rows)
    return sizes


def words(lens: Lens) -> str:
    return " · ".join(fact for fact, _ in lens.row["facts"])


def test_a_row_is_shown_as_tokens(make: Callable[..., Config]) -> None:
    lens = nbft.inspect(make())
    assert lens.row["title"] == "row 1 of 20"
    prompt, completion = lens.row["parts"]
    assert (prompt["name"], prompt["isTrained"]) == ("prompt", False)
    assert "".join(token[0] for token in prompt["tokens"]) == "Name 0\n"
    assert {token[2] for token in prompt["tokens"]} == {"prompt"}
    *answer, end = completion["tokens"]
    assert "".join(token[0] for token in answer) == "word "
    assert (end[0], end[2], end[3]) == ("<|end|>", "special", True)
    assert "end of sequence trained · nothing cut" in words(lens)
    assert lens.row["columns"] == [["prompt", "Name 0\n"], ["completion", "word "]]
    assert lens.row["origin"] == "Row 1 of the rows in memory, read as prompt and completion."
    assert lens.shown is not None
    assert [token.text for token in lens.shown.tokens] == [
        token[0] for part in lens.row["parts"] for token in part["tokens"]
    ]


def test_rows_are_gone_through_and_jumped_to(make: Callable[..., Config]) -> None:
    lens = Lens(make(), row=5)
    assert lens.row["title"] == "row 5 of 20"
    lens.position += 1  # the button "Next"
    assert (lens.number, lens.row["title"]) == (6, "row 6 of 20")
    lens.number = 20
    assert (lens.position, lens.row["title"]) == (20, "row 20 of 20")
    lens.position += 1
    assert lens.number == lens.position == 20
    lens.go_to(-3)
    assert lens.number == 1


def test_only_rows_on_screen_are_tokenised_and_a_sample_for_the_worst(
    make: Callable[..., Config], encoded: list[int]
) -> None:
    rows = pairs(5 * SAMPLE_ROWS)
    rows[10]["completion"] = "word " * 300  # row 11 is one of the sample, and row 12 is none
    rows[11]["completion"] = "word " * 400
    lens = Lens(make(rows))
    lens.go_to(9_999)
    assert sum(encoded) == 2
    encoded.clear()
    lens.order = "length"
    assert sum(encoded) == SAMPLE_ROWS + 1
    assert lens.says == "Longest first, of 2,000 rows spread evenly over 10,000."
    assert (lens.number, lens.position, lens.ranked) == (11, 1, SAMPLE_ROWS)
    encoded.clear()
    lens.position = 2
    lens.order = "share"  # the same sample: nothing is measured again
    assert sum(encoded) == 2
    lens.number = 12
    assert (lens.row["title"], lens.position) == ("row 12 of 10,000", 0)
    lens.order = "file"
    assert (lens.number, lens.position, lens.ranked, lens.says) == (12, 12, 10_000, "")


def test_worst_first_has_the_words_of_each_order(make: Callable[..., Config]) -> None:
    rows = pairs(20)
    rows[7]["prompt"] = "Name " * 60
    lens = Lens(make(rows, max_length=64))
    lens.order = "share"
    assert (lens.number, lens.says) == (8, "Least trained first, of all 20 rows.")
    assert "left out of the training: its prompt fills data.max_length" in words(lens)
    lens.order = "cut"
    assert (lens.number, lens.says) == (8, "Most cut first, of all 20 rows.")
    lens = Lens(make(max_length=512))
    lens.order = "cut"
    assert lens.says == "Most cut first, of all 20 rows. Nothing is cut in them."


def test_the_splits_that_there_are_can_be_chosen(make: Callable[..., Config]) -> None:
    config = make(split_ratio=0.75)
    lens = Lens(config)
    assert [name for name, _ in lens.splits] == ["train", "validation"]
    assert lens.row["title"] == "row 1 of 15"
    lens.order = "length"
    lens.split = "validation"
    assert (lens.row["title"], lens.order, lens.ranked) == ("row 1 of 5", "file", 5)
    assert [name for name, _ in Lens(make()).splits] == ["train"]
    assert Lens(config, 3, "validation").row["title"] == "row 3 of 5"
    lens.go_to(2, "train")
    assert (lens.split, lens.row["title"]) == ("train", "row 2 of 15")


def test_text_comes_first_and_the_tokens_when_a_thread_has_loaded_them(
    make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    load = Lens._load

    def noted(self: Lens) -> Any:
        threads.append(threading.current_thread())
        return load(self)

    monkeypatch.setattr(Lens, "_load", noted)
    painted: list[threading.Thread] = []
    paint = Lens._paint
    monkeypatch.setattr(
        Lens, "_paint", lambda self: (painted.append(threading.current_thread()), paint(self))
    )

    async def cell() -> None:
        lens = Lens(make())
        assert lens.model["state"] == "loading"
        assert lens.says == "Reading the rows…"
        assert lens.shown is not None
        assert lens.says == ""
        assert "until then rows are shown as text" in lens.model["text"]
        assert [part["text"] for part in lens.row["parts"]] == ["Name 0\n", "word "]
        assert lens.row["facts"] == [("12 characters", "")]
        lens.order = "length"
        assert lens.says == "The order waits for the tokenizer."
        await until(lambda: lens.model["state"] == "ready")
        await until(lambda: lens.number == 7)
        assert lens.says == "Longest first, of all 20 rows."
        assert lens.row["hasTokens"]

    asyncio.run(cell())
    main = threading.main_thread()
    assert threads
    assert main not in threads
    assert set(painted) == {main}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def test_what_goes_wrong_on_a_thread_is_said(
    make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: Lens) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(Lens, "_load", crash)

    async def cell() -> None:
        lens = Lens(make())
        await until(lambda: lens.model["state"] == "failed")
        assert lens.model["text"] == (
            "Rows cannot be tokens (ZeroDivisionError: division by zero)."
        )

    asyncio.run(cell())


def test_a_change_on_another_thread_is_handed_to_the_main_one(
    make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    lens = Lens(make())
    asked: list[Any] = []
    monkeypatch.setattr(lens_module, "call_soon", lambda *call: asked.append(call))
    thread = threading.Thread(target=lambda: setattr(lens, "position", 2))
    thread.start()
    thread.join()
    assert len(asked) == 1
    assert lens.row["title"] == "row 1 of 20"
    function, *arguments = asked[0]
    function(*arguments)
    assert lens.row["title"] == "row 2 of 20"


def test_a_model_that_is_not_here_is_fetched_at_the_press_of_a_button(
    empty_cache: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lens = Lens(Config(data={"rows": pairs(3), "split_ratio": 1.0, "packing": True}))
    assert lens.model == {
        "state": "absent",
        "text": "The model smollm2-135m is not on this machine yet, so rows are shown as text only.",
    }
    assert [part["text"] for part in lens.row["parts"]] == ["Name 0\n", "word "]
    lens.view = "packed"
    assert lens.sequence == {"says": "The sequence waits for the tokenizer."}

    def nowhere(name: str, revision: str | None, say: Any) -> FoundModel:
        raise ModelError("model.model_name='smollm2-135m': was not found.")

    monkeypatch.setattr(lens_module, "find_model", nowhere)
    lens.wanted_models += 1
    assert lens.model == {
        "state": "failed",
        "text": "model.model_name='smollm2-135m': was not found.",
    }

    def found(name: str, revision: str | None, say: Any) -> FoundModel:
        say(f"Downloading {name} …")
        return FoundModel(tiny_model, "folder")

    monkeypatch.setattr(lens_module, "find_model", found)
    monkeypatch.setattr(lens_module, "find_local", lambda *_: FoundModel(tiny_model, "folder"))
    lens.wanted_models += 1
    assert lens.model == {"state": "ready", "text": ""}
    assert lens.row["hasTokens"]
    assert lens.sequence["pieces"]


def test_looking_at_text_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import nbft, sys; lens = nbft.inspect(nbft.Config(data={'dataset_name': 'alpaca'}))\n"
        "assert lens.row['parts'] and lens._picture()\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow') if m in sys.modules])"
    )
    import os

    environment = os.environ | {
        "NBFT_CACHE": str(tmp_path),
        "HF_HOME": str(tmp_path),
        "HF_HUB_CACHE": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_what_is_wrong_with_the_data_is_a_sentence(
    make: Callable[..., Config], tmp_path: Path
) -> None:
    missing = Config(data={"path": str(tmp_path / "none.jsonl")})
    lens = Lens(missing)
    assert lens.row["title"] == "no rows"
    assert len(lens.row["problems"]) == 1
    assert "does not exist" in lens.row["problems"][0]
    assert lens.shown is None
    lens.order = "share"
    lens.position = 3
    assert "does not exist" in str(lens)
    assert "does not exist" in lens._picture()["text/html"]


def test_a_broken_row_of_a_large_file_is_named_and_comes_first(
    make: Callable[..., Config], write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbft.data.lines.LARGE_BYTES", 0)
    monkeypatch.setattr("nbft.data.examples.ROWS_CHECKED", 2)
    monkeypatch.setattr("nbft.data.sources._ROWS_LOOKED_AT", 1)
    lines = [json.dumps(row) for row in pairs(9)]
    lines[5] = "{broken"
    path = write("rows.jsonl", "\n".join(lines))
    config = make()
    config = Config(model=config.model.model_dump(), data={"path": path, "split_ratio": 1.0})
    lens = Lens(config, 5)
    assert lens.row["problems"] == []
    lens.position += 1
    assert lens.row["title"] == "row 6 of 9"
    assert "row 6, column 2: is not valid JSON" in lens.row["problems"][0]
    assert lens.shown is None
    lens.position += 1
    assert lens.row["problems"] == []
    lens.order = "length"
    assert (lens.number, lens.position) == (6, 1)


def test_a_tokenizer_without_a_chat_template_is_said_and_the_text_shown(
    make: Callable[..., Config],
) -> None:
    lens = Lens(make([CHAT] * 3))
    assert [part["name"] for part in lens.row["parts"]] == ["user", "assistant"]
    lens._tokenizer.chat_template = None
    lens.go_to(2)
    assert "the model has no chat template" in lens.row["problems"][0]
    assert [part["text"] for part in lens.row["parts"]] == ["Hi", "Hello!"]


def test_a_packed_sequence_shows_its_rows(make: Callable[..., Config], encoded: list[int]) -> None:
    lens = Lens(make(max_length=64, packing=True))
    assert "packed" in dict(lens.views)
    encoded.clear()
    lens.view = "packed"
    shown = lens.sequence
    assert shown["says"].startswith("Sequence ")
    assert shown["says"].endswith("packed by bfd.")
    (here,) = [piece for piece in shown["pieces"] if piece["isHere"]]
    assert here["number"] == 1
    assert shown["used"] == sum(piece["end"] - piece["begin"] for piece in shown["pieces"]) <= 64
    assert "".join(text for *_, text in here["runs"]) == "Name 0\nword <|end|>"
    other = next(piece["number"] for piece in shown["pieces"] if not piece["isHere"])
    lens.number = other  # its button
    assert {piece["number"] for piece in lens.sequence["pieces"]} == {
        piece["number"] for piece in shown["pieces"]
    }


def test_a_wrapped_row_shows_the_part_that_is_here(make: Callable[..., Config]) -> None:
    config = make(max_length=16, packing=True, packing_strategy="wrapped", shuffle=False)
    lens = Lens(config)
    lens.view = "packed"
    first, last = lens.sequence["pieces"][0], lens.sequence["pieces"][-1]
    assert lens.sequence["used"] == 16
    assert (first["number"], first["begin"]) == (1, 0)
    assert last["end"] < last["of"]
    whole = "Name 1\nword word <|end|>"
    (text,) = ["".join(run[2] for run in last["runs"])]
    assert whole.startswith(text)
    assert text != whole


def test_a_batch_without_padding_lies_end_to_end(make: Callable[..., Config]) -> None:
    rows = pairs(9)
    rows[1]["prompt"] = "word " * 200  # is left out
    config = make(rows, padding_free=True, max_length=32)
    config.training.per_device_train_batch_size = 3
    lens = Lens(config)
    lens.view = "packed"
    assert [piece["number"] for piece in lens.sequence["pieces"]] == [1, 3, 4]
    assert lens.sequence["used"] == lens.sequence["size"]
    assert "Every epoch shuffles the rows" in lens.sequence["says"]
    assert "packed" not in dict(Lens(make(padding_free=False)).views)


def test_a_row_that_is_left_out_and_a_held_out_row_are_in_no_sequence(
    make: Callable[..., Config],
) -> None:
    rows = pairs(10)
    rows[0]["prompt"] = "word " * 200
    lens = Lens(make(rows, packing=True, max_length=32, validation={"rows": pairs(3)}))
    lens.view = "packed"
    assert lens.sequence["says"] == "This row is left out of the training: it is in no sequence."
    lens.split = "validation"
    assert lens.sequence["says"] == "Only training rows are packed into a sequence."


def test_the_end_of_a_very_long_row_is_sent_when_it_is_wanted(
    make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lens_module, "_SENT_TOKENS", 10)
    rows = [{"prompt": "p\n", "completion": "word " * 50}, *pairs(2)]
    lens = Lens(make(rows))
    total = lens.shown.measure.length  # type: ignore[union-attr]
    sent = sum(len(part["tokens"]) for part in lens.row["parts"])
    assert (sent, lens.row["hidden"]) == (10, total - 10)
    lens.is_whole = True
    assert sum(len(part["tokens"]) for part in lens.row["parts"]) == total
    assert lens.row["hidden"] == 0
    lens.position += 1
    assert not lens.is_whole


def test_neighbours_that_look_the_same_are_one_run(make: Callable[..., Config]) -> None:
    lens = Lens(make())
    assert runs(lens.shown.tokens) == [  # type: ignore[union-attr]
        ["prompt", False, "Name 0\n"],
        ["trained", True, "word "],
        ["special", True, "<|end|>"],
    ]


def test_a_config_file_is_read_from_its_folder(
    make: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in pairs(4)))
    model = make().model.model_name
    path = tmp_path / "config.yaml"
    path.write_text(f"model: {{model_name: {model}}}\ndata: {{path: rows.jsonl}}\n")
    monkeypatch.chdir("/")
    lens = nbft.inspect(str(path), row=2)
    assert lens.row["title"] == "row 2 of 3"
    assert "of rows.jsonl" in lens.row["origin"]


def test_a_misspelt_keyword_is_named(make: Callable[..., Config]) -> None:
    with pytest.raises(TypeError, match="Did you mean split"):
        nbft.inspect(make(), splt="train")
    with pytest.raises(DataError, match=r"split='tst': is no split. Use one of train, validation"):
        nbft.inspect(make(), split="tst")
    with pytest.raises(TypeError, match=r"nbft\.Config or a path"):
        nbft.inspect(3)  # type: ignore[arg-type]


def test_in_a_terminal_it_is_text(make: Callable[..., Config]) -> None:
    lens = nbft.inspect(make(), row=2)
    first, *lines = str(lens).splitlines()
    assert first.startswith("row 2 of 20 · ")
    assert first.endswith("· end of sequence trained ✓ · nothing cut")
    assert lines == [
        "── prompt (not trained)",
        "Name 1",
        "",
        "── completion (trained)",
        "⟦word word [<|end|>]⟧",
        lens.about[0],
    ]


def test_a_saved_notebook_keeps_a_picture_without_widgets(
    make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pairs(5)
    rows[0]["completion"] = "<script>alert(1)</script> & more"
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    lens = Lens(make(rows, max_length=64))
    lens._ipython_display_()
    widget, still = shown
    assert widget["application/vnd.jupyter.widget-view+json"]["model_id"] == lens.model_id
    assert set(still) == {"text/html", "text/plain"}
    html = still["text/html"]
    assert f'id="nbft-{lens.still}"' in html
    for number in (1, 2, 3):
        assert f"row {number} of 5 · " in html
    assert "row 4" not in html
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html.replace("</ins>", "")
    assert "prompt (not trained)" in html
    assert still["text/plain"] == str(lens)
    cut = picture.html([("row", *Lens(make(rows, max_length=12))._seen(1))], [], "x")
    assert "<del" in cut


def test_the_next_cell_waits_for_the_tokens_and_puts_them_into_the_picture(
    make: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that imports transformers while a thread does would fail."""
    events: dict[str, Any] = {}
    shell = SimpleNamespace(
        events=SimpleNamespace(
            register=events.__setitem__, unregister=lambda name, _: events.pop(name)
        )
    )
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)
    pictures: list[str] = []
    handle = SimpleNamespace(update=lambda data, raw: pictures.append(data["text/html"]))

    def display(data: Any, **_: Any) -> Any:
        pictures.append(data.get("text/html", ""))
        return handle

    monkeypatch.setattr("IPython.display.display", display)

    async def cells() -> None:
        lens = Lens(make())
        lens._ipython_display_()
        assert lens.model["state"] == "loading"
        assert len(pictures) == 2
        assert "&lt;|end|&gt;" not in pictures[-1]
        events["pre_run_cell"]()
        assert lens.model["state"] == "ready"
        assert "&lt;|end|&gt;" in pictures[-1]
        assert events == {}
        shown = len(pictures)
        await asyncio.sleep(0.1)
        assert len(pictures) == shown  # what the thread has left for the loop is done already

    asyncio.run(cells())


def test_two_tokenizers_are_loaded_at_once(tmp_path: Path, make: Callable[..., Config]) -> None:
    """In a new process: threads that import transformers together disturb each other."""
    name = make().model.model_name
    code = f"""
import asyncio, threading, nbft
from nbft.widgets.lens import Lens
async def cell():
    config = nbft.Config(model={{"model_name": {name!r}}}, data={{"dataset_name": "grammar"}})
    lenses = [Lens(config) for _ in range(3)]
    while any(lens.model["state"] == "loading" for lens in lenses):
        await asyncio.sleep(0.05)
    print(*{{lens.model["state"] for lens in lenses}})
asyncio.run(cell())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("ready", 0), done.stderr


def test_a_closed_lens_lets_go_of_the_rows(make: Callable[..., Config]) -> None:
    lens = Lens(make())
    lens.close()
    assert len(lens._examples) == 0


def test_a_pair_is_sent_and_drawn_with_its_prompt_once(make: Callable[..., Config]) -> None:
    pair = {"prompt": "Why?\n", "chosen": "So it is.", "rejected": "No idea.", "margin": 2}
    lens = nbft.inspect(make([pair] * 3).apply({"training.method": "dpo"}))
    sent = [(part["side"], part["name"], part["isTrained"]) for part in lens.row["parts"]]
    assert sent == [
        ("", "prompt", False),
        ("chosen", "chosen: completion", True),
        ("rejected", "rejected: completion", True),
    ]
    assert "or not to" in dict(lens.kinds)["trained"]
    picture = lens._picture()
    html = picture["text/html"]
    assert html.count("Why?") == 3, "once a row, of three rows"
    assert html.count("flex: 1 1 18em") == 6
    assert "chosen scored 2 higher" in picture["text/plain"]
    assert picture["text/plain"].count("Why?") == 1
    lens.view = "packed"
    piece = lens.sequence["pieces"][0]
    shown = "".join(text for _, _, text in piece["runs"])
    assert shown.count("Why?") == 1, "computed once for both answers"
    lengths = [one.kept for one in lens.shown.sides.values()]
    assert piece["end"] == sum(lengths) - len(lens.shown.parts[0].tokens)
    assert piece["last"] == max(lengths) - 1
