"""Arguments that an optimiser or a schedule does not take, or that do not parse, are refused."""

import pytest

from nbft import registry
from nbft.config import Config
from nbft.plan.argument_checks import (
    OPTIMISER_ARGUMENTS,
    optimiser_argument_problems,
    schedule_argument_problems,
)


@pytest.mark.parametrize(
    ("optim", "text", "words", "use"),
    [
        (
            "sgd",
            "momentun=0.9",
            (
                "momentun is not an argument of sgd, which takes dampening, momentum, nesterov. Did you "
                "mean momentum?"
            ),
            "momentum=0.9",
        ),
        (
            "adamw_torch_fused",
            "beta1=0.8",
            (
                "beta1 is not an argument of adamw_torch_fused, which takes none. Set "
                "optimizer.adam_beta1 instead."
            ),
            None,
        ),
        ("adamw_8bit", "eps = 1e-6", "Set optimizer.adam_epsilon instead.", None),
        ("lion_32bit", "percentile=5", "which takes none. Leave it out.", None),
        ("adam", "amsgrad=true", "which takes none. Leave it out.", None),
        (
            "sgd",
            "weight_decay=0.1,momentum=0.9",
            "Set optimizer.weight_decay instead.",
            "momentum=0.9",
        ),
        ("sgd", "momentum", "'momentum' is not written name=value. Write momentum=0.9.", None),
        ("sgd", "momentum=0.9,", "has a comma too many.", "momentum=0.9"),
        ("sgd", "momentum=0.9=1", "is not written name=value.", None),
        ("sgd", "momentum=fast", "momentum is not a number (fast).", None),
        ("sgd", "momentum=nan", "momentum is not a number (nan).", None),
        ("sgd", "momentum=-1", "momentum must be at least 0, and is -1.", None),
        (
            "sgd",
            "momentum=0.9, nesterov=maybe",
            "nesterov is neither true nor false",
            "momentum=0.9",
        ),
        ("sgd", "nesterov=true", "nesterov needs a momentum, and no dampening.", None),
        ("rmsprop", "alpha=0.9,alpha=0.8", "has alpha twice.", "alpha=0.9"),
        ("rmsprop", "centred=true", "Did you mean centered?", "centered=true"),
    ],
)
def test_what_an_optimiser_does_not_take(optim, text, words, use):
    config = Config(optimizer={"optim": optim, "optim_args": text})
    (problem,) = optimiser_argument_problems(config)
    assert str(problem).startswith("optimizer.optim_args")
    assert words in str(problem)
    assert problem.changes == {"optimizer.optim_args": use}
    assert list(optimiser_argument_problems(config.apply(problem.changes))) == []


def test_what_it_takes():
    for optim, text in (
        ("sgd", "momentum=0.9, dampening=0, nesterov=True"),
        ("rmsprop", "momentum=0.5,alpha=0.9,eps=1e-6,centered=1"),
        ("adamw_torch", ""),
    ):
        config = Config(optimizer={"optim": optim, "optim_args": text})
        assert list(optimiser_argument_problems(config)) == []


def test_momentum_in_two_places():
    ours = {"optim": "sgd", "sgd_momentum": 0.9, "optim_args": "momentum=0.5"}
    (problem,) = optimiser_argument_problems(Config(optimizer=ours))
    assert "sets momentum too, which is 0.9 in optimizer.sgd_momentum." in str(problem)


def test_moments_in_bfloat16_take_none():
    ours = {"moment_dtype": "bfloat16", "optim_args": "fused=true"}
    (problem,) = optimiser_argument_problems(Config(optimizer=ours))
    assert "which takes none" in str(problem)


def test_an_optimiser_of_ones_own_reads_them_itself():
    registry.optimizers.register("mine")(lambda groups, config: None)
    try:
        ours = {"optim": "mine", "optim_args": "anything goes"}
        assert list(optimiser_argument_problems(Config(optimizer=ours))) == []
    finally:
        registry.optimizers.unregister("mine")


def test_the_table_is_what_the_library_takes():
    """Each argument reaches torch's optimiser; one that the table lacks does not."""
    import transformers
    from transformers.trainer_optimizer import OptimizerContext, _parse_optim_args

    handlers = transformers.trainer._OPTIMIZER_HANDLERS
    arguments = transformers.TrainingArguments(output_dir="x", use_cpu=True)
    tried = "momentum=0.5,dampening=0.1,alpha=0.5,eps=0.1,centered=true,nesterov=true,lr_decay=0.5"
    for optim in registry.optimizers:
        if registry.optimizers.get(optim) is not None:
            continue  # our own
        arguments.optim = transformers.training_args.OptimizerNames(optim)

        def made(text, arguments=arguments):
            context = OptimizerContext(arguments, None, {"lr": 1.0}, {}, _parse_optim_args(text))
            return handlers[arguments.optim](context)[1]

        usual, changed = made(""), made(tried)
        taken = {name for name, value in changed.items() if usual.get(name, ...) != value}
        assert taken == set(OPTIMISER_ARGUMENTS.get(optim, {})), optim


@pytest.mark.parametrize(
    ("kind", "given", "words", "use"),
    [
        (
            "cosine",
            {"num_cycle": 2},
            "num_cycle is not an argument of cosine, which takes num_cycles. Did you mean num_cycles?",
            {"num_cycles": 2},
        ),
        ("linear", {"power": 2}, "power is not an argument of linear, which takes none.", {}),
        ("polynomial", {"power": "two"}, "power is not a number ('two').", {}),
        ("inverse_sqrt", {"timescale": True}, "timescale is not a number (True).", {}),
    ],
)
def test_what_a_schedule_does_not_take(kind, given, words, use):
    config = Config(scheduler={"lr_scheduler_type": kind, "lr_scheduler_kwargs": given})
    (problem,) = schedule_argument_problems(config)
    assert problem.field == "scheduler.lr_scheduler_kwargs"
    assert words in str(problem)
    assert problem.changes == {"scheduler.lr_scheduler_kwargs": use}
    assert list(schedule_argument_problems(config.apply(problem.changes))) == []
