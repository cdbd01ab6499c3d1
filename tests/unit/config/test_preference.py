"""Settings of preference training: wrong values, other names, and what would have no effect."""

import pytest

import nbft
from nbft.config.preference import Preference
from nbft.decisions import decide
from nbft.errors import ConfigError
from nbft.interop.huggingface import training_arguments

WRONG = {
    "beta": 0,
    "loss_type": "best",
    "simpo_gamma": -1,
    "dpop_lambda": -1,
    "offset_alpha": -1,
    "max_prompt_length": 0,
    "pref_loss_ratio": -1,
    "sft_loss_ratio": -1,
    "label_smoothing": 0.5,
    "reference_free": "maybe",
    "ref_model_update_steps": -2,
    "desirable_weight": -1,
    "undesirable_weight": -1,
    "center_rewards_coefficient": -0.1,
}
ROWS = [{"prompt": f"Why {n}?\n", "chosen": "So.", "rejected": "No."} for n in range(20)]


def problems(method, rows=ROWS, training=None, **preference):
    """Return the errors of a plan, by field."""
    config = nbft.Config(
        data={"rows": rows},
        training={"method": method, **(training or {})},
        preference=preference,
    )
    return {problem.field: problem for problem in nbft.make_plan(config).errors}


@pytest.mark.parametrize(("name", "value"), WRONG.items())
def test_wrong_values_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"preference.{name}"):
        nbft.Config(preference={name: value})


def test_every_setting_has_a_wrong_value():
    assert WRONG.keys() == Preference.model_fields.keys()


def test_the_former_preference_method_is_the_training_method():
    assert nbft.Config(preference={"method": "dpo"}).training.method == "dpo"
    given = nbft.Config(preference={"method": "dpo", "beta": 0.2}, training={"max_steps": 3})
    assert (given.training.method, given.preference.beta) == ("dpo", 0.2)
    assert nbft.Config(preference={"method": None}).training.method == "sft"
    assert nbft.Config().override("preference.method=kto").training.method == "kto"
    with pytest.raises(ConfigError, match=r"training\.method='magic'"):
        nbft.Config(preference={"method": "magic"})


@pytest.mark.parametrize("method", ["dpo", "orpo", "cpo", "reward"])
def test_pairs_can_be_trained_on(method):
    assert problems(method) == {}


@pytest.mark.parametrize(
    ("method", "changes", "field", "why"),
    [
        ("sft", {"beta": 0.2}, "beta", "has no effect with training.method=sft"),
        ("orpo", {"loss_type": "ipo"}, "loss_type", "is no loss of orpo, which has orpo"),
        ("dpo", {"loss_type": "kto"}, "loss_type", "is no loss of dpo"),
        ("dpo", {"loss_type": "ipo", "label_smoothing": 0.1}, "label_smoothing", "no smoothing"),
        ("dpo", {"loss_type": "exo_pair"}, "label_smoothing", "needs a share above 0"),
        ("dpo", {"loss_type": "hinge", "offset_alpha": 0.1}, "offset_alpha", "only sigmoid"),
        ("dpo", {"offset_alpha": 0.1}, "offset_alpha", "rows have no scores"),
        (
            "dpo",
            {"center_rewards_coefficient": 0.1},
            "center_rewards_coefficient",
            "only training.method=reward",
        ),
        ("reward", {"beta": 0.2}, "beta", "a reward model has one loss"),
        ("reward", {"loss_type": "ipo"}, "loss_type", "a reward model has one loss"),
        ("reward", {"reference_free": True}, "reference_free", "no reference model"),
        ("cpo", {"ref_model_update_steps": 5}, "ref_model_update_steps", "no reference model"),
        ("cpo", {"reference_free": True}, "reference_free", "no reference model"),
        ("dpo", {"pref_loss_ratio": 0.0}, "pref_loss_ratio", "leave nothing to train on"),
    ],
)
def test_what_has_no_effect_is_said(method, changes, field, why):
    problem = problems(method, **changes)[f"preference.{field}"]
    assert why in problem.why
    config = nbft.Config(
        data={"rows": ROWS}, training={"method": method}, preference=changes
    ).apply(problem.changes)
    assert f"preference.{field}" not in {p.field for p in nbft.make_plan(config).errors}


@pytest.mark.parametrize(
    ("peft_method", "why"),
    [("prompt_tuning", "virtual tokens"), ("adalora", "adds to the loss")],
)
def test_adapters_that_change_the_rows_or_the_loss_are_refused(peft_method, why):
    config = nbft.Config(
        data={"rows": ROWS},
        training={"method": "dpo", "max_steps": 60},
        peft={"method": peft_method},
    )
    problem = {p.field: p for p in nbft.make_plan(config).errors}["peft.method"]
    assert why in problem.why
    mended = config.apply(problem.changes)
    assert "peft.method" not in {p.field for p in nbft.make_plan(mended).errors}


def test_ties_cannot_widen_the_margin():
    rows = [
        {**row, "score_chosen": 4, "score_rejected": 4 if n else 1} for n, row in enumerate(ROWS)
    ]
    problem = problems("dpo", rows, offset_alpha=0.5)["preference.offset_alpha"]
    assert "rows score both answers alike" in problem.why


@pytest.mark.parametrize(
    ("method", "row", "why"),
    [
        ("dpo", {"prompt": "Why?", "completion": "So."}, "needs a chosen and a rejected answer"),
        ("kto", ROWS[0], "needs an answer with a label"),
        ("reward", {"prompt": "Why?", "completion": "So."}, "needs a chosen and a rejected answer"),
        ("reward", {"text": "Why? So."}, "needs a chosen and a rejected answer"),
    ],
)
def test_the_wrong_kind_of_rows_is_refused(method, row, why):
    (problem,) = problems(method, [row] * 20).values()
    assert why in problem.why


def test_a_row_without_its_rejected_answer_is_named():
    rows = [*ROWS[:4], {**ROWS[0], "rejected": None}, *ROWS]
    (problem,) = problems("dpo", rows).values()
    assert "row 5: holds" in problem.why


def test_kto_needs_another_answer_in_its_batch():
    row = {"prompt": "Why?", "completion": "So.", "label": True}
    found = problems("kto", [row] * 20, training={"per_device_train_batch_size": 1})
    assert "training.per_device_train_batch_size" in found
    assert not problems("kto", [row] * 20)


def test_kto_keeps_the_order_in_which_its_rows_were_paired():
    rows = [{"prompt": "Why?\n", "completion": "So.", "label": n % 2 == 0} for n in range(20)]
    config = nbft.Config(
        data={"rows": rows, "train_sampling_strategy": "group_by_length"},
        training={"method": "kto"},
    )
    (problem,) = nbft.make_plan(config).errors
    assert problem.field == "data.train_sampling_strategy"
    mended = config.apply(problem.changes)
    assert not nbft.make_plan(mended).errors
    for changes, order in (
        ({}, "sequential"),
        ({"preference.loss_type": "apo_zero_unpaired"}, "random"),
    ):
        given = mended.apply(changes)
        found = training_arguments(given, decide(given))
        assert found["train_sampling_strategy"] == order
