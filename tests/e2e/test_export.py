"""The exported cell, run without nbft, gives the losses of the run that it was exported from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nbft

_PRINTS_THE_LOSSES = """
import json
print("LOSSES", json.dumps([e["loss"] for e in trainer.state.log_history if "loss" in e]))
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
        ("sft", "lora", "float8"),
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
    run = nbft.train(config, show=False)
    assert run.status == "completed", run.problems
    ours = [event["loss"] for event in run.events() if event["event"] == "log"]
    cell = tmp_path / "cell.py"
    cell.write_text(config.to_python() + _PRINTS_THE_LOSSES, encoding="utf-8")
    assert "nbft" not in config.to_python().replace(str(tmp_path), "").replace(str(tiny_model), "")
    done = subprocess.run(
        [sys.executable, str(cell)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOSSES")]
    assert json.loads(line.removeprefix("LOSSES")) == pytest.approx(
        ours,
        abs=1e-3 if more == "float8" else 1e-6,  # a rounding to 8 bits may fall the other way
    )
    assert len(ours) == 3
    assert Path(tmp_path / ("model" if peft == "full" else "adapter")).is_dir()
