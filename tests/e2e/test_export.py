"""The exported cell, run without nbft, gives the losses of the run that it was exported from."""

from __future__ import annotations

import json
import multiprocessing
import runpy
from pathlib import Path

import pytest

import nbft

_KEEPS_THE_LOSSES = """
import json
with open("losses.json", "w") as file:
    json.dump([e["loss"] for e in trainer.state.log_history if "loss" in e], file)
"""
_RUNS_A_CELL = """
import contextlib, os, runpy, traceback
os.chdir({folder!r})
with open("said.txt", "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
    try:
        runpy.run_path("cell.py", run_name="__main__")
    except BaseException:
        traceback.print_exc()
        raise
"""

_MODELS = {
    "dropout": {
        "model.hidden_dropout": 0.1,
        "model.attention_dropout": 0.1,
        "model.dropout_warmup_steps": 2,
        "model.freeze_layers": ["layers.0.mlp"],
        "peft.loraplus_lr_ratio": 4.0,
    },
    "4 bits": {"quantization.load_in_4bit": True, "peft.init_lora_weights": "gaussian"},
    "more layers": {"peft.target_modules": ["all-linear", "o_proj"]},
    "a pattern": {"peft.target_modules": r".*\.(q|up)_proj"},
    "PiSSA": {"peft.init_lora_weights": "pissa", "peft.lora_dropout": 0.0},
    "EVA": {"peft.init_lora_weights": "eva"},
    "LoftQ": {"peft.init_lora_weights": "loftq", "quantization.load_in_4bit": True},
    "a whole pass": {
        "training.max_steps": -1,
        "training.num_train_epochs": 1,
        "training.per_device_train_batch_size": 7,
    },
    "bfloat16": {"model.dtype": "bfloat16"},
    "float8": {"quantization.weight_quantize_algo": "fp8_linear"},
}


@pytest.mark.parametrize(
    ("method", "peft", "more"),
    [
        ("sft", "lora", ""),
        ("base", "lora", ""),
        ("sft", "full", ""),
        ("sft", "ia3", ""),
        ("sft", "lora", "dropout"),
        ("base", "lora", "4 bits"),
        ("sft", "lora", "4 bits"),
        ("sft", "lora", "more layers"),
        ("sft", "lora", "a pattern"),
        ("sft", "lora", "float8"),
        ("sft", "lora", "PiSSA"),
        ("sft", "lora", "EVA"),
        ("sft", "lora", "LoftQ"),
        ("sft", "adalora", "a whole pass"),
        ("sft", "vera", ""),
        ("sft", "ln_tuning", "bfloat16"),
        ("base", "prompt_tuning", ""),
    ],
    ids=str,
)
def test_the_exported_cell_gives_the_same_losses(tmp_path, tiny_model, rows, method, peft, more):
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    config = nbft.Config(
        model={"model_name": str(tiny_model), "dtype": "float32"},
        data={
            "path": str(data),
            "prompt_template": "Correct: {'input'}\n",
            "completion_template": "{target}",
            "max_length": 48,
        },
        peft={"method": peft, "lora_dropout": 0.1 if peft == "lora" else 0.0},
        training={
            "method": method,
            "output_dir": str(tmp_path / "runs"),
            "max_steps": 3,
            "learning_rate": 2e-3,
            "gradient_accumulation_steps": 2,
        },
        evaluation={"sample_count": 1, "sample_max_new_tokens": 4},
        precision={"mixed_precision": "no"},
        compute={"device": "cpu"},
    ).apply(_MODELS.get(more, {}))
    ours, theirs = losses_of_both(config, tmp_path, tiny_model)
    # Either may round the other way: rows attend in groups here.
    rounds = more in ("float8", "bfloat16")
    assert theirs == pytest.approx(ours, abs=1e-3 if rounds else 1e-6)
    assert len(ours) == 3
    assert Path(tmp_path / ("model" if peft == "full" else "adapter")).is_dir()


def losses_of_both(config, tmp_path, tiny_model):
    """Return the losses of a run and those of its exported cell."""
    run = nbft.train(config, show=False)
    assert run.status == "completed", run.problems
    ours = [event["loss"] for event in run.events() if event["event"] == "log"]
    cell = tmp_path / "cell.py"
    cell.write_text(config.to_python() + _KEEPS_THE_LOSSES, encoding="utf-8")
    assert "nbft" not in config.to_python().replace(str(tmp_path), "").replace(str(tiny_model), "")
    run_alone(cell)
    return ours, json.loads((tmp_path / "losses.json").read_text())


def run_alone(cell):
    """Run a cell in a process that has imported the libraries, and nothing of nbft."""
    runner = cell.with_name("runner.py")
    runner.write_text(_RUNS_A_CELL.format(folder=str(cell.parent)), encoding="utf-8")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "trl", "peft", "datasets"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        process = context.Process(target=runpy.run_path, args=[str(runner)])
        process.start()
    process.join()
    assert process.exitcode == 0, (cell.parent / "said.txt").read_text()[-3000:]


_PACKED = {"packing": True, "max_length": 64}


@pytest.mark.parametrize(
    ("data", "is_mixture", "method"),
    [
        (_PACKED, False, "sft"),
        (_PACKED | {"packing_strategy": "greedy"}, False, "base"),
        (_PACKED | {"packing_strategy": "wrapped"}, True, "sft"),
        ({"train": {"mixture_strategy": "all_exhausted"}}, True, "sft"),
        ({"train": {"stream": True, "shuffle_buffer_size": 5}}, False, "sft"),
        (_PACKED | {"train": {"stream": True, "shuffle_buffer_size": 9}}, True, "sft"),
        ({"max_length": 24}, False, "sft"),  # rows fall out whose prompt fills it
    ],
    ids=str,
)
def test_the_exported_cell_takes_the_same_rows_in_the_same_order(
    tmp_path, tiny_model, rows, data, is_mixture, method
):
    train = {"datasets": [], **data.get("train", {})}
    for name, some in (("a", rows[:26]), ("b", rows[26:])):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in some), encoding="utf-8")
        train["datasets"].append(
            {
                "path": str(file),
                "prompt_template": "Correct: {input}\n",
                "completion_template": "{target}",
                **({"mixture_proportion": 0.5} if is_mixture else {}),
            }
        )
    config = nbft.Config(
        model={"model_name": str(tiny_model), "dtype": "float32"},
        data={"max_length": 48, **data, "train": train},
        training={
            "method": method,
            "output_dir": str(tmp_path / "runs"),
            "max_steps": 4,
            "learning_rate": 2e-3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
        },
        evaluation={"sample_count": 0},
        precision={"mixed_precision": "no"},
        compute={"device": "cpu"},
    )
    assert config.to_python().left_out == {"evaluation.sample_count": 0}
    ours, theirs = losses_of_both(config, tmp_path, tiny_model)
    assert theirs == pytest.approx(ours, abs=1e-6)
    assert len(ours) == 4


def test_the_exported_cell_knows_rows_with_and_without_input(tmp_path, tiny_model, rows):
    file = tmp_path / "rows.jsonl"
    some = [{**row, "more": row["input"] if n % 2 else ""} for n, row in enumerate(rows)]
    file.write_text("\n".join(map(json.dumps, some)), encoding="utf-8")
    config = nbft.Config(
        model={"model_name": str(tiny_model), "dtype": "float32"},
        data={
            "path": str(file),
            "columns": {"input": "more"},
            "prompt_template": "Correct: {input}\n",
            "no_input_template": "Write.\n",
            "completion_template": "{target}",
            "max_length": 48,
        },
        training={"output_dir": str(tmp_path / "runs"), "max_steps": 3, "learning_rate": 2e-3},
        evaluation={"sample_count": 0},
        precision={"mixed_precision": "no"},
        compute={"device": "cpu"},
    )
    assert config.to_python().left_out == {"evaluation.sample_count": 0}
    ours, theirs = losses_of_both(config, tmp_path, tiny_model)
    assert theirs == pytest.approx(ours, abs=1e-6)


def test_the_exported_cell_says_what_of_the_turns_it_ignores(tmp_path):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    answer = {"role": "assistant", "content": "Two.", "reasoning_content": "1 + 1"}
    row = {
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "2"},
            answer,
        ],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
    }
    plain = {
        "messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "!"}]
    }
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [plain, row])), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps(plain), encoding="utf-8")
    config = nbft.Config(data={"path": str(tmp_path / "a.jsonl")})
    text = config.to_python()
    key = "data.train.datasets[0] (rows)"
    what = "reasoning, system prompts in a column, tool calls, tools, untrained turns"
    assert text.left_out[key] == what
    (line,) = [
        line for line in text.splitlines() if line.startswith(f"# Ignored by this cell: {key}")
    ]
    assert line.endswith("; only the text of turns is written here.")
    config = nbft.Config(data={"path": str(tmp_path / "b.jsonl")})
    assert key not in config.to_python().left_out
