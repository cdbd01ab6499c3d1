"""`nbft bench` on the tiny model: every side that can be had here really trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

import nbft
from nbft.bench.compare import compare
from nbft.bench.rows import ALPACA_LENGTHS, write_rows_of_lengths
from nbft.bench.scaling import points
from nbft.bench.sides import train_nbft
from nbft.bench.task import make_task
from nbft.cli import _config_or_rows, app
from nbft.errors import NbftError
from nbft.hardware import peak_memory_bytes


@pytest.fixture
def task(make_config, tmp_path):
    return make_task(make_config(training__per_device_train_batch_size=4), tmp_path, steps=4)


def rows_of(task):
    return [json.loads(line) for line in Path(task.rows).read_text().splitlines()]


def test_the_losses_of_all_sides_agree_and_are_printed_as_json(tiny_model, tmp_path):
    picture = tmp_path / "speed.png"
    arguments = ["bench", f"model.model_name={tiny_model}", "model.dtype=float32", "--rounds", "1"]
    arguments += ["--steps", "4", "--json", "--picture", str(picture), "--against", "unsloth"]
    done = CliRunner().invoke(app, [*arguments, "--against", "trl", "--against", "trl-tuned"])
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["peer"] for one in found] == ["TRL, its defaults", "TRL, tuned"]
    tuned = found[1]
    assert tuned["losses_agree"]
    assert tuned["ratio"] > 0
    assert tuned["ours"]["tokens"] == tuned["theirs"]["tokens"]
    assert tuned["machine"]["device"] == "cpu"
    assert tuned["ours"]["is_float32"]
    assert tuned["theirs"]["is_float32"]
    assert not found[0]["theirs"]["is_float32"]  # its default is autocast
    assert picture.stat().st_size > 5000
    assert tuned["rows"] == "bundled text in rows as long as the first 96 of Alpaca"
    lengths = [sum(pair) for pair in ALPACA_LENGTHS]
    assert tuned["ours"]["tokens"] == [sum(lengths[i : i + 8]) for i in range(0, 32, 8)]
    progress = [line for line in done.stderr.splitlines() if " of 3, " in line]
    assert [line.split(":")[0] for line in progress] == [
        "1 of 3, nbft",
        "2 of 3, TRL, its defaults",
        "3 of 3, TRL, tuned",
    ]
    assert "left." in progress[0]
    assert "nbft is" in progress[1]


@pytest.mark.parametrize("changes", [{"method": "full"}, {"load_in_4bit": True}])
def test_the_losses_of_each_method_agree_at_every_step(changes, make_config, tmp_path):
    config = make_config(
        training__per_device_train_batch_size=4,
        peft__method=changes.get("method", "lora"),
        quantization__load_in_4bit=changes.get("load_in_4bit", False),
    )
    task = make_task(config, tmp_path, steps=4)
    (found,) = compare(task, ["trl-tuned"], rounds=1).pairs
    assert found.losses_agree
    assert found.theirs.losses == pytest.approx(found.ours.losses, rel=1e-2)


def test_a_config_trains_as_it_says(make_config, tmp_path):
    config = make_config(
        model__dtype="bfloat16", speed__label_head="off", training__per_device_train_batch_size=2
    )
    train_nbft(make_task(config, tmp_path, steps=3))
    (run,) = nbft.list_runs(tmp_path / "runs")
    trained = run.config
    assert (trained.model.dtype, trained.speed.label_head) == ("bfloat16", "off")
    assert trained.training.per_device_train_batch_size == 2
    assert trained.peft.r == config.peft.r


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--python", "unsloth"], "python=unsloth: give a side and its Python"),
        (["--python", "axolotl=/x"], "python=axolotl=/x: choose a side from nbft, trl"),
        (["--against", "axolotl"], "against=axolotl: choose from nbft, trl"),
        (["--picture", "speed.txt"], "picture=speed.txt: must end in .png, .svg or .pdf."),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, said, tiny_model):
    done = CliRunner().invoke(app, ["bench", f"model.model_name={tiny_model}", *arguments])
    assert done.exit_code == 2
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_rows_are_compared_with_a_batch_of_8_and_doctored_with_the_default(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    assert _config_or_rows(rows)[0] == {"data": {"path": str(rows)}}


def test_rows_named_on_the_line_stay_as_they_are(tiny_model):
    arguments = [f"model.model_name={tiny_model}", "data.dataset_name=grammar", "--rounds", "1"]
    done = CliRunner().invoke(app, ["bench", *arguments, "--steps", "3", "--against", "trl"])
    assert done.exit_code == 0, done.output
    assert "Rows: data.dataset_name=grammar." in done.stdout
    assert "TRL, its defaults" in done.stdout


def test_rows_of_given_lengths_give_those_tokens(task, tmp_path):
    lengths = [(3, 9), (20, 2), (7, 60), (20, 2)]
    path = tmp_path / "lengths.jsonl"
    write_rows_of_lengths(path, Path(task.rows), task.model, lengths)
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    counted = [[len(tokenizer(row[part]).input_ids) for part in row] for row in rows]
    assert counted == [[prompt, completion - 1] for prompt, completion in lengths]
    assert rows[1] != rows[3]


def test_too_little_text_for_a_length_is_one_sentence(task, tmp_path):
    with pytest.raises(NbftError, match=r"no row of 100,010 tokens can be made of its [\d,]+ tok"):
        write_rows_of_lengths(tmp_path / "x", Path(task.rows), task.model, [(10, 100_000)])


def test_rows_keep_their_tokens_and_long_ones_are_left_out(task, make_config, tmp_path):
    lines = rows_of(task)
    assert {*lines[0]} == {"prompt", "completion"}
    assert lines[0]["prompt"].startswith("Correct: ")
    with pytest.raises(
        NbftError, match=r"0 of 36 rows fit within data\.max_length=8; a comparison needs 8"
    ):
        make_task(
            make_config(data__max_length=8, training__per_device_train_batch_size=4), tmp_path
        )


@pytest.mark.parametrize("line", ["length", "batch", "rows", "model"])
def test_each_line_has_points_that_grow(line, task):
    found = [point for point, _ in zip(points(task, line), range(2), strict=False)]
    assert len(found) == 2
    if line == "length":
        tokenizer = AutoTokenizer.from_pretrained(task.model)
        for _, one in found:
            texts = [row["prompt"] + row["completion"] for row in rows_of(one)]
            lengths = {len(tokenizer(text)["input_ids"]) for text in texts}
            assert len(lengths) == 1
    if line == "batch":
        assert [one.batch_rows for _, one in found] == [1, 4]


def test_an_unknown_line_lists_the_known(task):
    with pytest.raises(NbftError, match="scale=width: choose one of model, length, batch, rows"):
        list(points(task, "width"))


def test_memory_is_counted_in_bytes():
    assert 2**24 < peak_memory_bytes("cpu") < 2**40


def test_the_memory_of_a_process_is_its_own_and_not_what_its_parent_held():
    much = bytearray(2**30)
    code = "from nbft.hardware import peak_memory_bytes; print(peak_memory_bytes('cpu'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(said.stdout) < len(much) / 2


def test_the_command_for_a_gpu_is_rehearsed_on_the_cpu(tmp_path):
    path = tmp_path / "gpu.json"
    arguments = ["-m", "benchmarks", "gpu", "--rehearse", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False,
        cwd=Path(nbft.__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert found["rehearsal"]
    correctness, preparation, ours, forecast, theirs = found["results"]
    assert preparation["recomputes_activations"] is False
    names = {one["name"] for one in correctness["parts"]}
    assert correctness["held"]
    assert names >= {f"lora, {kind}: all parts" for kind in ("bfloat16", "fp16")}
    assert "full, bf16: all parts" in names
    assert ours["side"] == "nbft"
    assert 0.3 < forecast["memory_planned_of_measured"] < 3
    assert theirs["losses_agree"]
    assert theirs["nbft_is_faster_by"] > 0
    assert [one["name"] for one in found["left_out"]] == [
        "a miniature, 2 rows of 64 tokens, Unsloth"
    ]
