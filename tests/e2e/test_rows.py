"""Packed and streamed rows, trained: what they may not change, and what they must."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

import nbft
from nbft.decisions import decide
from nbft.training.rows import read_rows
from nbft.training.trainer import build_trainer


def losses(run):
    assert run.status == "completed", run.problems
    return [event["loss"] for event in run.events() if event["event"] == "log"]


def batch_and_trainer(config, folder, tiny_model):
    """Return the trainer of a config and its first batch with every row."""
    set_seed(0)  # the adapter's first weights are drawn
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    decisions = decide(config)
    rows = read_rows(config, tokenizer, print, print, padding_free=decisions.padding_free)
    trainer = build_trainer(
        config,
        decisions,
        model,
        tokenizer,
        rows,
        output_dir=folder,
        callbacks=[],
    )
    return trainer, next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize("method", ["sft", "base"])
@pytest.mark.parametrize("strategy", ["bfd", "greedy"])
def test_packed_rows_have_the_loss_and_gradients_of_rows_apart(
    make_config, tmp_path, tiny_model, method, strategy
):
    """The same rows, all in one batch, packed and padded: rows cannot have seen each other."""
    found = {}
    for packing in (False, True):
        config = make_config(
            data__packing=packing,
            data__padding_free=packing,
            data__packing_strategy=strategy,
            training__per_device_train_batch_size=64,
            training__method=method,
        )
        trainer, batch = batch_and_trainer(config, tmp_path / str(packing), tiny_model)
        trainer.model.eval()
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
        loss.backward()
        gradients = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
        found[packing] = (float(loss), gradients, batch, len(trainer.train_dataset))
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    for packed, padded in zip(found[True][1], found[False][1], strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-3, atol=1e-6)
    padded, packed = (found[k][2]["input_ids"] for k in (False, True))
    assert packed.numel() < padded.numel()
    assert found[True][3] < found[False][3]  # sequences of several rows


@pytest.mark.parametrize("strategy", ["bfd", "greedy", "wrapped"])
def test_a_packed_run_trains_and_its_plan_knew_the_steps(train, make_config, strategy):
    changes = {
        "data__packing": True,
        "data__packing_strategy": strategy,
        "training__max_steps": -1,
        "training__num_train_epochs": 1,
        "training__per_device_train_batch_size": 1,
    }
    run = train(**changes)
    planned = nbft.make_plan(make_config(**changes)).total_steps
    assert len(losses(run)) == pytest.approx(planned, abs=1)
    assert len(losses(run)) < 36


def stream_config(make_config, tmp_path, rows, **changes):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    dataset = {
        "path": str(path),
        "prompt_template": "Correct: {input}\n",
        "completion_template": "{target}",
    }
    tree = make_config(**changes).to_dict(full=True)
    tree["data"] |= {
        "train": {"datasets": [dataset], "stream": True},
        "validation": {"datasets": [{**dataset, "sample_count": 4}]},
    }
    return nbft.Config(**tree)


@pytest.mark.parametrize("packing", [False, True])
def test_a_stream_is_trained_and_resumed_with_the_same_losses(make_config, tmp_path, rows, packing):
    changes = {
        "data__packing": packing,
        "checkpoint__save_strategy": "steps",
        "checkpoint__save_steps": 3,
        "scheduler__lr_scheduler_type": "constant",
    }
    config = stream_config(make_config, tmp_path, rows, **changes)
    whole = nbft.train(config, show=False)
    assert len(losses(whole)) == 6
    prepared = next(e for e in whole.events() if e["event"] == "prepared")
    assert prepared["rows"] is None
    assert prepared["eval_rows"] == 4
    half = nbft.train(config.apply({"training.max_steps": 3}), show=False)
    again = half.resume({"training.max_steps": 6})
    again.wait()
    assert losses(again) == pytest.approx(losses(whole), rel=1e-6)
