"""The exported cell of preference training, run with TRL alone, has the losses of the run."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoTokenizer

import nbft

from .test_export import losses_of_both

RUNS = [
    ("dpo", "lora", {}),
    ("dpo", "full", {"loss_type": "ipo", "beta": 0.2}),
    ("dpo", "lora", {"sft_loss_ratio": 0.3, "pref_loss_ratio": 0.7}),
    ("dpo", "lora", {"loss_type": "robust", "label_smoothing": 0.1}),
    ("dpo", "full", {"ref_model_update_steps": 2}),
    ("dpo", "lora", {"loss_type": "simpo", "simpo_gamma": 0.9, "beta": 2.0}),
    ("dpo", "lora", {"reference_free": True, "label_smoothing": 0.1}),
    ("kto", "lora", {"undesirable_weight": 1.3}),
    ("orpo", "lora", {"beta": 0.3}),
    ("cpo", "full", {"loss_type": "hinge", "sft_loss_ratio": 0.4}),
    ("reward", "lora", {}),
    ("reward", "full", {"center_rewards_coefficient": 0.1}),
]


@pytest.mark.parametrize(("method", "peft", "preference"), RUNS, ids=str)
def test_the_exported_cell_gives_the_same_losses(
    tmp_path, tiny_model, pairs, method, peft, preference
):
    rows = pairs
    if method == "kto":
        rows = [
            {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
            for n, pair in enumerate(pairs)
            for name in [("chosen", "rejected")[n % 2]]
        ]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    config = nbft.Config(
        model={"model_name": str(tiny_model), "dtype": "float32"},
        data={"path": str(data), "max_length": 128, "completion_only_loss": method != "orpo"},
        peft={"method": peft},
        training={
            "method": method,
            "output_dir": str(tmp_path / "runs"),
            "max_steps": 5,
            "learning_rate": 2e-3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
        },
        preference=preference,
        evaluation={"sample_count": 0},
        precision={"mixed_precision": "no"},
        compute={"device": "cpu"},
    )
    assert config.to_python().left_out == {"evaluation.sample_count": 0}
    ours, theirs = losses_of_both(config, tmp_path, tiny_model)
    assert theirs == pytest.approx(ours, rel=1e-4)
    assert len(ours) == 5
    assert ours[0] != ours[-1]


def test_turns_reach_trl_as_turns(tmp_path, tiny_model, rows):
    model = tmp_path / "chat"
    shutil.copytree(tiny_model, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:\n{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    tokenizer.save_pretrained(model)
    data = tmp_path / "rows.jsonl"
    talks = [
        {
            "conversations": [{"from": "human", "value": row["input"]}],
            "chosen": {"from": "gpt", "value": row["target"]},
            "rejected": {"from": "gpt", "value": row["input"][:9]},
        }
        for row in rows
    ]
    data.write_text("\n".join(json.dumps(row) for row in talks), encoding="utf-8")
    config = nbft.Config(
        model={"model_name": str(model), "dtype": "float32"},
        data={"path": str(data), "max_length": 128},
        training={
            "method": "dpo",
            "output_dir": str(tmp_path / "runs"),
            "max_steps": 4,
            "learning_rate": 2e-3,
        },
        evaluation={"sample_count": 0},
        precision={"mixed_precision": "no"},
        compute={"device": "cpu"},
    )
    ours, theirs = losses_of_both(config, tmp_path, model)
    assert theirs == pytest.approx(ours, rel=1e-4)


@pytest.mark.parametrize(
    ("method", "preference", "why"),
    [
        ("dpo", {"loss_type": "dpop"}, "TRL has no loss dpop; sigmoid here"),
        ("dpo", {"loss_type": "kto_pair"}, "TRL has no loss kto_pair; sigmoid here"),
        ("dpo", {"label_smoothing": 0.1}, "TRL ignores it with the loss sigmoid"),
        ("dpo", {"offset_alpha": 0.1}, "TRL knows no scores of answers"),
        ("dpo", {"max_prompt_length": 9}, "TRL has no limit for prompts alone"),
        ("dpo", {"ref_model_update_steps": 9}, "TRL renews no reference of an adapter"),
        ("cpo", {"pref_loss_ratio": 0.5}, "TRL's CPO has no such weight"),
        ("orpo", {"sft_loss_ratio": 0.5}, "TRL's ORPO weighs the SFT loss with 1"),
        ("orpo", {}, "TRL's ORPO imitates the prompts as well"),
        ("reward", {"max_prompt_length": 9}, "TRL has no limit for prompts alone"),
    ],
)
def test_what_trl_cannot_do_is_said_at_the_top(method, preference, why):
    rows = [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}] * 4
    config = nbft.Config(data={"rows": rows}, training={"method": method}, preference=preference)
    cell = config.to_python()
    head = [line for line in cell.splitlines() if line.startswith("# Ignored by this cell")]
    assert any(why in line for line in head), head
    assert "PreferenceTrainer" not in cell
