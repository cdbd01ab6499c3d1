"""When each stage of a run happens, and how long all of them take."""

from __future__ import annotations

import json

import pytest

from nbft.config import Config
from nbft.formatting import duration
from nbft.pages.plan import summary
from nbft.plan import make_plan
from nbft.plan.stages import STAGES, in_words, moments


def config(**given):
    return Config(data={"dataset_name": "samsum"}, **given)


def steps(name, total=60, epoch=20, has_held_out=True, **given):
    return moments(config(**given), total, epoch, has_held_out=has_held_out).get(name, [])


@pytest.mark.parametrize(
    ("evaluation", "evaluated"),
    [
        ({}, [0, 20, 40, 60]),
        ({"eval_on_start": False}, [20, 40, 60]),
        ({"eval_strategy": "no"}, []),
        ({"eval_strategy": "steps", "eval_steps": 25}, [0, 25, 50, 60]),
    ],
)
def test_when_the_held_out_loss_is_measured(evaluation, evaluated):
    assert steps("evaluating", evaluation=evaluation) == evaluated
    assert steps("evaluating", evaluation=evaluation, has_held_out=False) == []


def test_scores_and_samples_go_together():
    assert steps("scoring") == steps("sampling") == [0, 20, 40, 60]
    assert steps("sampling", evaluation={"metrics": []}) == [0, 60]
    every = {"metrics": [], "score_every_n_steps": 30}
    assert steps("scoring", evaluation=every) == []
    assert steps("sampling", evaluation=every) == [0, 30, 60]
    assert steps("sampling", has_held_out=False) == []
    own = {"metrics": [], "sample_prompts": ["Hi."]}
    assert steps("sampling", has_held_out=False, evaluation=own) == [0, 60]


def test_when_a_checkpoint_is_saved():
    assert steps("checkpoint") == [60]
    assert steps("checkpoint", checkpoint={"save_steps": 25}) == [25, 50, 60]
    assert steps("checkpoint", checkpoint={"save_strategy": "epoch"}) == [20, 40, 60]
    assert steps("checkpoint", checkpoint={"save_strategy": "no"}) == []
    best = {"save_strategy": "best", "load_best_model_at_end": True}
    assert steps("checkpoint", checkpoint=best) == [20, 40, 60]
    both = {"save_steps": 25, "save_on_epoch_end": True}
    assert steps("checkpoint", checkpoint=both) == [20, 25, 40, 50, 60]
    assert steps("saving", checkpoint={"save_final_model": False}) == []


def test_a_run_that_only_measures():
    only = moments(config(training={"do_train": False}), 60, 20, has_held_out=True)
    assert only["evaluating"] == only["scoring"] == only["sampling"] == [0]
    assert "checkpoint" not in only
    assert "saving" not in only


def test_the_plan_counts_every_stage():
    plan = make_plan(Config.preset("two-minute-try").apply({"compute.device": "cpu"}))
    assert plan.stages.keys() == STAGES.keys() - {"reference"}  # it is no preference training
    assert all(seconds > 0 for seconds in plan.stages.values())
    assert plan.seconds == pytest.approx(sum(plan.stages.values()), abs=1)
    assert f"training {duration(plan.stages['training'])}" in plan.time
    assert "held-out loss" in plan.time
    assert plan.time in summary(plan).replace("\N{NO-BREAK SPACE}", " ")
    assert json.loads(json.dumps(plan.to_dict()))["stages"] == plan.stages


def test_more_work_takes_longer():
    def stages(**changes):
        given = {path.replace("__", "."): value for path, value in changes.items()}
        usual = {"compute.device": "cpu", "data.max_length": 256}
        return make_plan(Config.preset("two-minute-try").apply(usual | given)).stages

    usual = stages()
    often = stages(evaluation__eval_strategy="steps", evaluation__eval_steps=10)
    for stage in ("evaluating", "scoring", "sampling"):
        assert often[stage] > usual[stage]
    assert often["training"] == usual["training"]
    assert stages(checkpoint__save_steps=2)["checkpoint"] > 5 * usual["checkpoint"]
    assert stages(evaluation__max_eval_steps=1)["evaluating"] < usual["evaluating"] / 4


def test_the_time_is_not_known_without_the_model_or_on_a_gpu(monkeypatch):
    plan = make_plan(Config(model={"model_name": "someone/else"}, data={"dataset_name": "alpaca"}))
    assert (plan.seconds, plan.stages, plan.time) == (None, {}, "")


def test_the_longest_stages_come_first():
    assert in_words({"training": 90.4, "evaluating": 12, "saving": 0.4}) == (
        "1 min 43 s: training 1 min 30 s, held-out loss 12 s"
    )
    assert in_words({"training": 40}) == "40 s"


def test_a_shared_prompt_is_counted_once_and_the_reference_has_its_time():
    rows = [
        {"prompt": f"{n} " + "word " * 300, "chosen": "yes " * 20, "rejected": "no " * 20}
        for n in range(40)
    ]
    usual = {
        "data": {"rows": rows},
        "compute": {"device": "cpu"},
        "training": {"method": "dpo", "num_train_epochs": 1},
    }
    shared = make_plan(Config(**usual))
    apart = make_plan(Config(**usual, speed={"shared_prompt": "off"}))
    assert shared.tokens < 0.65 * apart.tokens
    assert shared.memory_bytes < apart.memory_bytes
    assert shared.stages["reference"] > 0
    free = make_plan(Config(**usual, preference={"reference_free": True}))
    assert "reference" not in free.stages
    renewed = make_plan(Config(**usual, preference={"ref_model_update_steps": 5}))
    assert "reference" not in renewed.stages
    assert "reference" in renewed.memory_parts
