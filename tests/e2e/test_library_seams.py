"""The five places where nbft replaces something inside a library, as docs/architecture.md lists them.

Each test fails when the library changes underneath.
"""

from __future__ import annotations

import copy
import inspect
import types

import pytest
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

import nbft
from nbft.decisions import decide
from nbft.training.rows import read_rows
from nbft.training.trainer import build_trainer


def calls(function: object) -> str:
    return inspect.getsource(function)  # type: ignore[arg-type]


def test_the_trainer_asks_its_own_method_for_the_sampler():
    trainer = transformers.Trainer
    assert [*inspect.signature(trainer._get_train_sampler).parameters] == ["self", "train_dataset"]
    assert "self._get_train_sampler" in calls(trainer.get_train_dataloader)
    assert "_get_train_sampler" not in vars(trl.SFTTrainer)


def test_the_trainer_asks_its_own_method_for_the_arguments_of_the_accelerator():
    trainer = transformers.Trainer
    assert "self._build_accelerator_args(" in calls(trainer.create_accelerator_and_postprocess)
    assert '"kwargs_handlers"' in calls(trainer._build_accelerator_args)


def test_the_trainer_saves_and_loads_the_optimizer_by_its_own_methods():
    trainer = transformers.Trainer
    save, load = trainer._save_optimizer_and_scheduler, trainer._load_optimizer_and_scheduler
    assert [*inspect.signature(save).parameters] == ["self", "output_dir"]
    assert [*inspect.signature(load).parameters] == ["self", "checkpoint"]
    assert "self._save_optimizer_and_scheduler(" in calls(trainer._save_checkpoint)
    assert '"optimizer.pt"' in calls(inspect.getmodule(trainer)) or "OPTIMIZER_NAME" in calls(save)


def test_the_trainer_evaluates_then_saves_then_removes_older_checkpoints():
    trainer = transformers.Trainer
    step = calls(trainer._maybe_log_save_evaluate)
    assert step.index("self._evaluate(") < step.index("self._save_checkpoint(model, trial)")
    assert "self.control.should_evaluate" in step
    save = calls(trainer._save_checkpoint)
    assert save.count("save_total_limit") == save.count("rotate_checkpoints(") * 2 == 2
    assert save.index("save_to_json") < save.index("rotate_checkpoints(")


def test_the_trainer_logs_after_a_step_and_counts_tokens_by_its_own_methods():
    trainer = transformers.Trainer
    names = [*inspect.signature(trainer._maybe_log_save_evaluate).parameters]
    assert names[:2] == ["self", "tr_loss"]
    assert "self._maybe_log_save_evaluate(" in calls(trainer._run_epoch)
    assert "self._track_num_input_tokens(inputs)" in calls(trainer._run_epoch)
    assert "self._inner_training_loop" in calls(trainer.train)
    counted = calls(trl.SFTTrainer.compute_loss)
    assert "self._total_train_tokens +=" in counted
    for name in ("mean_token_accuracy", "entropy"):
        assert f'self._metrics[mode]["{name}"].append(' in counted


@pytest.fixture
def trainer(make_config, tmp_path):
    config = make_config(peft__method="full", training__learning_rate=1e-4)
    model = AutoModelForCausalLM.from_pretrained(config.model.model_name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)
    decisions = decide(config)
    rows = read_rows(config, tokenizer, print, print, padding_free=decisions.padding_free)
    folder = tmp_path / "checkpoints"
    return build_trainer(config, decisions, model, tokenizer, rows, output_dir=folder, callbacks=[])


def test_sft_trainer_puts_its_head_on_the_instance_where_ours_takes_its_place(trainer):
    """TRL's forward is on the instance; ours is the class's, and the instance has none."""
    assert "forward" not in vars(trainer.model)
    assert type(trainer.model).__name__ == "LlamaForCausalLM"
    model = AutoModelForCausalLM.from_config(trainer.model.config)
    trl.trainer.utils.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    assert isinstance(vars(model)["forward"], types.MethodType)
    assert "add_fused_lm_head(" in calls(trl.SFTTrainer.__init__)
    assert "fused_lm_head=True" in calls(trl.SFTTrainer)


@pytest.mark.parametrize("head", ["auto", "off"])
def test_an_entropy_that_nobody_computed_is_not_logged(make_config, head):
    """SFTTrainer logs what it measured; an entropy of 0 would be false."""
    run = nbft.train(make_config(speed__label_head=head, training__max_steps=2), show=False)
    assert run.problems == []
    numbers = [e for e in run.events() if e["event"] in ("log", "eval")]
    assert all("mean_token_accuracy" in e or "eval_mean_token_accuracy" in e for e in numbers)
    said = [e[name] for e in numbers for name in ("entropy", "eval_entropy") if name in e]
    assert len(said) == (len(numbers) if head == "off" else 0)
    assert all(value > 1 for value in said)  # of random weights


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_copy_of_the_model_behaves_as_its_own_model(make_config, tmp_path, method):
    config = make_config(peft__method=method, memory__release_grads=False)
    model = AutoModelForCausalLM.from_pretrained(config.model.model_name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)
    decisions = decide(config)
    used = {"row_attention", "label_head", "lean_norm"} | (
        {"fused_lora"} if method == "lora" else set()
    )
    assert all(decisions.uses(part) for part in used)
    rows = read_rows(config, tokenizer, print, print, padding_free=decisions.padding_free)
    folder = tmp_path / "checkpoints"
    trainer = build_trainer(
        config, decisions, model, tokenizer, rows, output_dir=folder, callbacks=[]
    )
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    whole = trainer.model.train()

    def outputs(one):
        found = one(**batch, fused_lm_head=True).log_probs
        with torch.no_grad():
            return found.detach(), one(input_ids=batch["input_ids"]).logits

    before = outputs(whole)
    other = copy.deepcopy(whole)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.25).add_(0.01)
    for one, two in zip(outputs(whole), before, strict=True):
        assert torch.equal(one, two), "the copy's weights are not the model's"
    for one, two in zip(outputs(other), before, strict=True):
        assert not torch.allclose(one, two), "the copy computes with its own weights"
    other.eval()
    assert whole.training
    assert all(layer.training for layer in whole.modules())
    assert not any(layer.training for layer in other.modules())
    (other(**batch, fused_lm_head=True).log_probs.sum()).backward()
    assert all(p.grad is None for p in whole.parameters())
