"""What the settings of preference training do to a run of a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import nbft
from nbft.launchers.kernel import join
from nbft.launchers.launch import submit
from nbft.methods import method_of
from nbft.training import reference
from nbft.training.preference import PreferenceTrainer, sequence_of
from nbft.training.rows import read_rows

from .conftest import losses
from .test_fast_path import FAMILIES, assert_alike, family_model, trainer_of

__all__ = ["family_model"]

QUICK = {"training__max_steps": 4, "training__per_device_train_batch_size": 1}


@pytest.fixture(autouse=True)
def own_numbers(monkeypatch, tmp_path):
    """Keep no numbers of a reference model from one test to the next."""
    monkeypatch.setattr(reference, "cache_folder", lambda: tmp_path / "cache")


def done(config):
    run = nbft.train(config, show=False)
    join(run)
    assert run.status == "completed", run.problems
    return run


def logs(run):
    return [event for event in run.events() if event["event"] == "log"]


@pytest.fixture
def logged(preference):
    """Return a function that trains for a few steps, one row a step, and returns the logs."""

    def train(method="dpo", **changes):
        return logs(done(preference(method, **{**QUICK, **changes})))

    return train


def with_rows(config, rows):
    return config.apply({"data.train.datasets[0].rows": rows})


def log_sigmoid(value):
    return -math.log1p(math.exp(-value))


def test_beta_scales_the_rewards(logged):
    for log in logged(preference__reference_free=True, preference__beta=0.4):
        for side in ("chosen", "rejected"):
            assert log[f"rewards/{side}"] == pytest.approx(0.4 * log[f"logps/{side}"], rel=1e-4)


def test_loss_type_is_the_loss(logged):
    """Before the first step the model is its own reference, so that each loss has a known value."""
    for name, value in (("hinge", 1.0), ("ipo", (1 / 0.2) ** 2), ("apo_zero", 1.0)):
        assert logged(preference__loss_type=name)[0]["loss"] == pytest.approx(value, rel=1e-4)


def test_simpo_gamma_is_the_margin(logged):
    changes = {"preference__loss_type": "simpo", "preference__simpo_gamma": 0.9}
    for log in logged(**changes, preference__beta=2.0):
        expected = -log_sigmoid(log["rewards/margins"] - 0.9)
        assert log["loss"] == pytest.approx(expected, rel=1e-4)


def test_dpop_lambda_weighs_chosen_answers_that_get_unlikely(logged):
    changes = {"preference__loss_type": "dpop", "preference__dpop_lambda": 7.0}
    found = logged(**changes, training__max_steps=12, training__learning_rate=5e-3)
    for log in found:
        expected = -log_sigmoid(log["rewards/margins"] - 7 * max(0.0, -log["rewards/chosen"]))
        assert log["loss"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert any(log["rewards/chosen"] < -1e-3 for log in found)


def test_offset_alpha_asks_for_a_wider_margin_where_scores_differ_more(preference, pairs):
    scored = [{**pair, "score_chosen": 9.0, "score_rejected": 4.0} for pair in pairs]
    config = with_rows(preference("dpo", preference__offset_alpha=0.6, **QUICK), scored)
    log = logs(done(config))[0]
    assert log["loss"] == pytest.approx(-log_sigmoid(-0.6 * math.log(5 + 1e-6)), rel=1e-4)


def test_max_prompt_length_keeps_the_end_of_a_prompt(preference):
    def known(**changes):
        config = preference("dpo", **changes)
        tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)
        said = []
        rows = read_rows(config, tokenizer, print, said.append, padding_free=False)
        return rows.known, said

    whole, _ = known()
    short, said = known(preference__max_prompt_length=4)
    pairs = zip(whole.dataset, short.dataset, strict=True)
    for long, cut in pairs:
        for name in ("chosen", "rejected"):
            before, after = (sequence_of(row, whole.method, name) for row in (long, cut))
            begin = max(0, before.begin - 4)
            assert after.ids == before.ids[begin:]
            assert after.begin == before.begin - begin <= 4
    assert any("preference.max_prompt_length=4" in text for text in said), said


def test_the_end_of_a_very_long_prompt_is_kept(preference, pairs):
    """Otherwise only the beginning of so long a text would be tokenised."""
    filler = "word " * 60_000
    long = [{**pairs[0], "prompt": f"{filler}The end:\n"}, *pairs[1:]]
    config = with_rows(preference("dpo", preference__max_prompt_length=8), long)
    tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)
    known = read_rows(config, tokenizer, print, print, padding_free=False).known
    row = sequence_of(known.dataset[0], known.method, "chosen")
    assert tokenizer.decode(row.ids[: row.begin]).endswith("The end:\n")


def test_pref_loss_ratio_weighs_the_comparison(logged):
    assert logged(preference__pref_loss_ratio=0.4)[0]["loss"] == pytest.approx(0.4 * math.log(2))


def test_sft_loss_ratio_adds_the_loss_of_the_better_answer(preference):
    config = preference("dpo", preference__sft_loss_ratio=0.3, **QUICK)
    tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)
    row = read_rows(config, tokenizer, print, print, padding_free=False).known.dataset[0]
    tokens = len(row["chosen_input_ids"]) - row["chosen_prompt_tokens"]
    log = logs(done(config))[0]
    expected = math.log(2) - 0.3 * log["logps/chosen"] / tokens
    assert log["loss"] == pytest.approx(expected, rel=1e-4)


def test_label_smoothing_is_a_share_of_pairs_the_wrong_way_round(logged):
    found = logged(preference__label_smoothing=0.2, preference__beta=0.5)
    for log in found:
        margin = log["rewards/margins"]
        expected = -0.8 * log_sigmoid(margin) - 0.2 * log_sigmoid(-margin)
        assert log["loss"] == pytest.approx(expected, rel=1e-3)
    assert any(abs(log["rewards/margins"]) > 1e-2 for log in found)


def test_reference_free_compares_the_answers_themselves(logged):
    log = logged(preference__reference_free=True)[0]
    margin = 0.1 * (log["logps/chosen"] - log["logps/rejected"])
    assert log["rewards/margins"] == pytest.approx(margin, rel=1e-4)
    assert log["loss"] == pytest.approx(-log_sigmoid(margin), rel=1e-4)


@pytest.mark.parametrize("peft", ["lora", "full"])
def test_ref_model_update_steps_begin_at_a_margin_of_zero(preference, peft):
    changes = {"preference__ref_model_update_steps": 3, "peft__method": peft}
    config = preference("dpo", **changes, training__max_steps=7)
    margins = [log["rewards/margins"] for log in logs(done(config))]
    for number, margin in enumerate(margins):
        assert (abs(margin) < 1e-5) == (number % 3 == 0), margins


@pytest.mark.parametrize("name", ["desirable_weight", "undesirable_weight"])
def test_weights_of_good_and_bad_answers(preference, name):
    """Before the first step each answer has the loss 1/2."""
    changes = {f"preference__{name}": 1.6, "training__per_device_train_batch_size": 2}
    first = logs(done(preference("kto", training__max_steps=1, **changes)))[0]
    assert first["loss"] == pytest.approx(0.5 * (1.6 + 1) / 2, rel=1e-4)


# Layouts


LAYOUTS = {
    "padded": {"data.padding_free": False},
    "joined": {"speed.shared_prompt": "off"},
    "shared": {},
}


def batch_of(config, folder):
    """Return the tokens of the first batch, its loss and gradients, with an adapter of some effect."""
    trainer = trainer_of(config, folder)
    method_of(config).prepare(trainer)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in trainer.model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return batch["input_ids"].numel(), (float(loss.detach()), found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("peft", ["lora", "full"])
def test_shared_prompt_computes_fewer_tokens_to_the_same_loss_and_gradients(
    family, peft, family_model, preference, tmp_path
):
    config = preference(
        "dpo",
        model__model_name=str(family_model(family)),
        peft__method=peft,
        preference__sft_loss_ratio=0.5,
        preference__loss_type="ipo",
    )
    found = {
        name: batch_of(config.apply(changes), tmp_path / name) for name, changes in LAYOUTS.items()
    }
    tokens = {name: of_batch[0] for name, of_batch in found.items()}
    assert tokens["shared"] < tokens["joined"] < tokens["padded"]
    for name in ("joined", "shared"):
        assert_alike(found[name][1], found["padded"][1])


# Whole runs

MEASURED = ("loss", "rewards/chosen", "logps/chosen")


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("dpo", {}),
        ("dpo", {"preference__ref_model_update_steps": 3}),
        ("dpo", {"preference__ref_model_update_steps": 3, "peft__method": "lora"}),
        ("kto", {}),
        ("kto", {"data__shuffle": True}),
        ("orpo", {"data__shuffle": True}),
    ],
    ids=str,
)
def test_a_resumed_run_equals_the_uninterrupted_one(preference, method, changes):
    """It resumes at step 4, between two updates of the reference model."""
    config = preference(
        method,
        **changes,
        training__max_steps=8,
        checkpoint__save_strategy="steps",
        checkpoint__save_steps=4,
        logging__logging_steps=3,  # a log that the interruption cuts in two
    )
    whole = done(config)
    folder = whole.path / "checkpoints" / "checkpoint-4"
    again = done(config.apply({"training.resume_from_checkpoint": str(folder)}))
    expected = {log["step"]: log for log in logs(whole) if log["step"] > 4}
    assert {log["step"] for log in logs(again)} == {*expected}
    for log in logs(again):
        for name in MEASURED:
            assert log[name] == pytest.approx(expected[log["step"]][name], rel=1e-6), name


@pytest.fixture
def passes(monkeypatch):
    """Count the forward passes of the reference model."""
    counted = []
    compute = PreferenceTrainer._answer_logps

    def count(self, inputs):
        counted.append(len(inputs["answer_tokens"]))
        return compute(self, inputs)

    monkeypatch.setattr(PreferenceTrainer, "_answer_logps", count)
    return counted


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_the_reference_is_computed_once_for_a_model_and_its_rows(
    preference, passes, method, tiny_model, tmp_path
):
    config = preference(method, training__max_steps=2)
    first = done(config)
    assert passes
    passes.clear()
    again = done(config)
    assert not passes
    assert losses(again) == pytest.approx(losses(first), rel=1e-6)
    other = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        next(other.parameters())[5, 0] += 1e-3
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "other")
    done(config.apply({"model.model_name": str(tmp_path / "other")}))
    assert passes


def test_an_adapter_that_is_new_has_the_reference_of_its_base_model(preference, passes):
    done(preference("dpo", training__max_steps=1))
    passes.clear()
    done(preference("dpo", training__max_steps=1, peft__method="lora"))
    done(preference("dpo", training__max_steps=1, peft__method="lora", peft__r=4))
    assert not passes


def test_a_run_that_is_stopped_keeps_what_it_has_computed_of_the_reference(
    preference, passes, monkeypatch
):
    count = PreferenceTrainer._answer_logps

    def stopped(self, inputs):
        found = count(self, inputs)
        if len(passes) == 2:
            nbft.attach(Path(self.args.output_dir).parent).stop()
        return found

    config = preference("dpo", evaluation__per_device_eval_batch_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(PreferenceTrainer, "_answer_logps", stopped)
        run = nbft.train(config, show=False)
        join(run)
    assert run.status == "stopped"
    assert not logs(run)
    assert passes == [4, 4]  # two rows, two answers each
    passes.clear()
    done(config)
    assert sum(passes) == 2 * len(config.data.train.datasets[0].rows) - 8


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_held_out_rows_weigh_the_same_whatever_the_batch(preference, batch, pairs):
    config = preference(
        "dpo",
        data__split_ratio=0.8,
        training__max_steps=4,
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=4,
        evaluation__per_device_eval_batch_size=batch,
        preference__beta=1.0,
    )
    run = done(config)
    (found,) = [e for e in run.events() if e["event"] == "eval" and e["step"] == 4]
    other = done(config.apply({"evaluation.per_device_eval_batch_size": 2}))
    (alone,) = [e for e in other.events() if e["event"] == "eval" and e["step"] == 4]
    for name in ("eval_loss", "eval_rewards/margins", "eval_logps/chosen"):
        assert found[name] == pytest.approx(alone[name], rel=1e-4), name
    assert found["eval_rewards/accuracies"] == pytest.approx(alone["eval_rewards/accuracies"])


def test_the_best_checkpoint_by_a_measure_of_preferences(preference):
    config = preference(
        "dpo",
        data__split_ratio=0.8,
        training__max_steps=6,
        training__learning_rate=5e-3,
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=2,
        checkpoint__save_strategy="steps",
        checkpoint__save_steps=2,
        checkpoint__load_best_model_at_end=True,
        checkpoint__metric_for_best_model="rewards/accuracies",
    )
    run = done(config)
    scores = {e["step"]: e["eval_rewards/accuracies"] for e in run.events() if e["event"] == "eval"}
    assert {2, 4, 6} <= {*scores}
    state = json.loads(
        (run.path / "checkpoints" / "checkpoint-6" / "trainer_state.json").read_text()
    )
    assert state["best_metric"] == pytest.approx(max(scores[n] for n in (2, 4, 6)))


def test_a_background_run_equals_one_in_the_kernel(preference):
    config = preference("dpo", training__max_steps=4)
    run = submit(config)
    assert run.wait().status == "completed", run.problems
    assert losses(run) == pytest.approx(losses(done(config)), rel=1e-6)
