"""Scaled float16, as a GPU without bfloat16 trains: its mathematics, on a CPU in place of one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import nbft
from nbft.training import trainer as trainers

from .conftest import losses

STEPS = {
    "model__dtype": "auto",
    "speed__lean_norm": "off",  # as on a GPU
    "evaluation__sample_count": 0,
    "evaluation__eval_strategy": "no",
    "logging__logging_steps": 1,
}


def norms(run: nbft.Run) -> list[float]:
    return [e["grad_norm"] for e in run.events() if e["event"] == "log"]


def faults(run: nbft.Run) -> list[str]:
    return [str(e) for e in run.events() if e["event"] in ("note", "warning", "failed")]


@pytest.mark.parametrize("quantised", [False, True])
def test_fifty_steps_are_those_of_float32(train, older_gpu, monkeypatch, quantised):
    four_bits = {"quantization__load_in_4bit": True} if quantised else {}
    asked = {**STEPS, **four_bits, "training__max_steps": 50, "precision__loss_scale": 1024.0}
    half = train(**asked)
    trainer = older_gpu["trainer"]
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    assert torch.float16 in {p.dtype for p in trainer.model.parameters()}
    moments = [v for s in trainer.optimizer.state.values() for k, v in s.items() if k != "step"]
    assert {moment.dtype for moment in moments} == {torch.float32}
    monkeypatch.undo()
    whole = train(**{**asked, "model__dtype": "float32", "precision__loss_scale": 65536.0})
    assert losses(half) == pytest.approx(losses(whole), rel=2e-4)  # measured: 5e-5
    assert losses(half)[-1] < losses(half)[0] - 0.02
    assert faults(half) == []


def test_an_overflow_is_skipped_and_is_no_fault(train, older_gpu):
    run = train(**STEPS, training__max_steps=30, precision__loss_scale=2.0**32)
    skipped = [math.isinf(norm) or math.isnan(norm) for norm in norms(run)]
    assert skipped[0]
    assert not any(skipped[20:])
    assert run.status == "completed"
    assert faults(run) == []
    first, *_, last = losses(run)
    assert last < first


def test_a_loss_that_is_no_number_is_reported(train, older_gpu, monkeypatch):
    build = trainers.build_trainer

    def poisoned(*args: Any, **keys: Any) -> Any:
        trainer = build(*args, **keys)
        trainer.model.get_input_embeddings().weight.data[:] = math.nan
        return trainer

    monkeypatch.setattr(trainers, "build_trainer", poisoned)
    run = train(**STEPS, training__max_steps=5)
    assert run.status == "failed"
    said = " ".join(faults(run))
    assert "The loss is nan at step 1" in said
    assert "Try model.dtype=float32. Expect finite numbers" in said


def test_whole_layers_beside_the_adapter_are_trained_in_float32(train, older_gpu):
    """torch unscales no float16 gradients."""
    run = train(**STEPS, training__max_steps=2, peft__modules_to_save=["input_layernorm"])
    assert run.status == "completed"
    parameters = older_gpu["trainer"].model.named_parameters()
    trained = {p.dtype for n, p in parameters if "input_layernorm.modules_to_save" in n}
    assert trained == {torch.float32}


def test_a_resumed_run_has_the_losses_of_one_that_was_not_interrupted(train, older_gpu):
    """The loss scale and how often it held are part of a checkpoint."""
    asked = {**STEPS, "training__max_steps": 12, "precision__loss_scale": 2.0**24}
    whole = train(**asked, checkpoint__save_steps=6)
    scale = older_gpu["trainer"].accelerator.scaler.get_scale()
    checkpoint = str(whole.path / "checkpoints" / "checkpoint-6")
    again = train(**asked, training__resume_from_checkpoint=checkpoint)
    assert older_gpu["trainer"].accelerator.scaler.get_scale() == scale < 2.0**24
    assert losses(again) == losses(whole)[6:]


def test_held_out_losses_and_samples_are_computed_as_in_training(train, older_gpu, monkeypatch):
    asked = {**STEPS, "training__max_steps": 2, "evaluation__sample_count": 2}
    asked |= {"evaluation__eval_strategy": "epoch", "precision__loss_scale": 1024.0}
    half = train(**asked)
    assert half.status == "completed"
    assert faults(half) == []
    monkeypatch.undo()
    whole = train(**{**asked, "model__dtype": "float32", "precision__loss_scale": 65536.0})

    def measured(run: nbft.Run) -> list[float]:
        return [e["eval_loss"] for e in run.events() if e["event"] == "eval"]

    assert measured(half) == pytest.approx(measured(whole), rel=1e-4)
    assert len(measured(half)) > 1
    assert any(e["event"] == "sample" for e in half.events())


def test_the_tuned_model_answers_as_during_training(train, older_gpu):
    run = train(**{**STEPS, "evaluation__sample_count": 2}, training__max_steps=2)
    samples = [e for e in run.events() if e["event"] == "sample"][-1]["samples"]
    assert len(samples) == 2
    for sample in samples:
        assert run.generate(sample["prompt"], max_new_tokens=8) == sample["text"]
    run.close()
