"""Every check: its words, a config that it lets pass, and that its fix removes it."""

import pytest

from nbft.config import Config
from nbft.plan import make_plan
from nbft.plan.checks import check
from nbft.plan.training_checks import cost_usd, training_problems

from .conftest import on

GOOD = Config(data={"dataset_name": "alpaca"})

CASES = {
    "moments": (
        {"optimizer.optim": "sgd", "optimizer.moment_dtype": "bfloat16"},
        (
            "optimizer.moment_dtype='bfloat16': is for AdamW, and optimizer.optim is sgd. Use "
            "adamw_torch_fused."
        ),
    ),
    "momentum": (
        {"optimizer.sgd_momentum": 0.9},
        (
            "optimizer.sgd_momentum=0.9: has no effect, because optimizer.optim is adamw_torch_fused. "
            "Use sgd, or leave it at 0."
        ),
    ),
    "two groupings": (
        {"peft.loraplus_lr_ratio": 16.0, "optimizer.layerwise_lr_decay": 0.9},
        (
            "optimizer.layerwise_lr_decay=0.9: cannot be combined with peft.loraplus_lr_ratio=16: "
            "each groups the parameters differently. Use 1."
        ),
    ),
    "power of cosine": (
        {"scheduler.power": 2.0},
        "scheduler.power=2.0: has no effect with cosine; it is for polynomial. Leave it empty.",
    ),
    "floor of linear": (
        {"scheduler.lr_scheduler_type": "linear", "scheduler.min_lr": 1e-5},
        (
            "scheduler.min_lr=1e-05: has no effect with linear; it is for cosine_with_min_lr. Leave it "
            "empty."
        ),
    ),
    "floor above the peak": (
        {"scheduler.min_lr": 0.1},
        "scheduler.min_lr=0.1: is above training.learning_rate, 0.0002. Use 2e-05.",
    ),
    "overwriting": (
        {"checkpoint.overwrite_output_dir": True},
        (
            "checkpoint.overwrite_output_dir=True: has no effect: every run has its own folder, so "
            "nothing is overwritten. Leave it at false, and delete old runs with nbft."
        ),
    ),
    "not unified": (
        {"checkpoint.unified_checkpoint_config": ["ignore_merge_optimizer"]},
        (
            "checkpoint.unified_checkpoint_config=['ignore_merge_optimizer']: requires "
            "checkpoint.unified_checkpoint. Turn that on."
        ),
    ),
    "shards of one file": (
        {"checkpoint.optim_shard_num": 3},
        (
            "checkpoint.optim_shard_num=3: requires ignore_merge_optimizer in "
            "checkpoint.unified_checkpoint_config. Add it."
        ),
    ),
    "8 bits of sgd": (
        {"checkpoint.quantize_checkpoint": True, "optimizer.optim": "sgd"},
        (
            "checkpoint.quantize_checkpoint=True: is for the two moments of Adam, and optimizer.optim is "
            "sgd. Turn it off."
        ),
    ),
    "no checkpoint": (
        {"training.resume_from_checkpoint": "/no/such"},
        (
            "training.resume_from_checkpoint='/no/such': is not a folder. Name a checkpoint or a run, "
            "write auto, or leave it empty."
        ),
    ),
    "epochs twice": (
        {"checkpoint.save_strategy": "epoch", "checkpoint.save_on_epoch_end": True},
        (
            "checkpoint.save_on_epoch_end=True: is for save_strategy steps, and "
            "checkpoint.save_strategy is epoch. Turn it off: epoch already does this."
        ),
    ),
    "early stopping": (
        {"callbacks.callbacks": {"early_stopping": {}}, "evaluation.eval_strategy": "no"},
        (
            "callbacks.callbacks.early_stopping: needs evaluations, and evaluation.eval_strategy is "
            "no. Use epoch for it."
        ),
    ),
    "virtual epochs by length": (
        {
            "training.num_samples_each_epoch": 10,
            "data.train_sampling_strategy": "group_by_length",
        },
        (
            "training.num_samples_each_epoch=10: uses rows in turn, so they cannot be grouped by "
            "length. Use random for data.train_sampling_strategy."
        ),
    ),
    "fused head with adapter": (
        {"memory.use_fused_head_and_loss_fn": True, "peft.modules_to_save": ["lm_head"]},
        (
            "memory.use_fused_head_and_loss_fn=True: needs a head without an adapter, but peft names "
            "lm_head. Use use_sparse_head_and_loss_fn."
        ),
    ),
    "row starts of padded rows": (
        {"memory.use_attn_mask_start_row_indices": True, "data.padding_free": False},
        (
            "memory.use_attn_mask_start_row_indices=True: has no effect on padded rows, which have a "
            "mask of their own. Turn data.padding_free on."
        ),
    ),
    "O2 of nothing": (
        {"precision.fp16_opt_level": "O2", "precision.mixed_precision": "no"},
        (
            "precision.fp16_opt_level='O2': requires mixed precision, and precision.mixed_precision "
            "is no here. Use bf16, with float32 for model.dtype."
        ),
    ),
    "master gradients of O1": (
        {
            "precision.amp_master_grad": True,
            "precision.mixed_precision": "bf16",
            "model.dtype": "float32",
        },
        (
            "precision.amp_master_grad=True: has no effect under O1, where weights and gradients are "
            "float32 already. Leave it at false."
        ),
    ),
    "offload from a cpu": (
        {"memory.offload_optimizer": True},
        (
            "memory.offload_optimizer=True: needs a GPU: on a CPU the optimiser state is in CPU "
            "memory already. Turn it off."
        ),
    ),
    "granularity of nothing": (
        {"memory.recompute_granularity": "core_attn"},
        (
            "memory.recompute_granularity='core_attn': requires memory.gradient_checkpointing. Turn "
            "that on."
        ),
    ),
    "peak": (
        {"logging.include_mfu": True},
        (
            "logging.include_mfu=True: needs the peak throughput of this device (cpu), which nbft "
            "does not know. Set compute.peak_tflops."
        ),
    ),
    "provider": (
        {"compute.provider": "runpod"},
        (
            "compute.provider='runpod': nbft cannot start a machine at RunPod (0.39 to 2.89 USD an "
            "hour); the plan estimates what it would cost. Compare its GPUs with: nbft cloud offers "
            "CONFIG. Rent one there, install nbft on it and run this config with local."
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_words_of_a_check_and_that_its_fix_removes_it(name):
    changes, sentence = CASES[name]
    config = GOOD.apply(changes)
    found = {str(problem): problem for problem in check(config, on(config, "cpu"))}
    assert sentence in found, list(found)
    changed = config.apply(found[sentence].changes)
    assert sentence not in map(str, check(changed, on(changed, "cpu")))


FP16_O2 = {
    "precision.mixed_precision": "fp16",
    "precision.fp16_opt_level": "O2",
    "model.dtype": "float32",
}


@pytest.mark.parametrize(
    ("torch", "changes", "sentence", "fix"),
    [
        (
            "2.13.0+cu130",
            {},
            (
                "precision.fp16_opt_level='O2': keeps gradients in float16, from which the loss scale of "
                "fp16 cannot be removed. Turn precision.amp_master_grad on."
            ),
            {"precision.amp_master_grad": True},
        ),
        (
            "2.9.1",
            {},
            (
                "precision.fp16_opt_level='O2': keeps gradients in float16, from which the loss scale of "
                "fp16 cannot be removed. Use O1."
            ),
            {"precision.fp16_opt_level": "O1"},
        ),
        (
            "2.9.1",
            {"precision.amp_master_grad": True},
            (
                "precision.amp_master_grad=True: needs torch 2.10, and this is 2.9.1. Turn it off, or "
                "upgrade torch."
            ),
            {"precision.amp_master_grad": False},
        ),
        ("2.10.0", {"precision.amp_master_grad": True}, None, None),
        ("2.10.0", {"precision.mixed_precision": "bf16"}, None, None),
    ],
)
def test_16_bit_gradients_that_cannot_be_unscaled(torch, changes, sentence, fix, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: torch)
    config = GOOD.apply({**FP16_O2, **changes})
    found = [p for p in training_problems(config, on(config, "cuda")) if p.level == "error"]
    assert [str(p) for p in found] == ([sentence] if sentence else [])
    assert [p.changes for p in found] == ([fix] if sentence else [])


def test_shards_need_a_torch_that_writes_them_as_safetensors(monkeypatch):
    asked = Config(checkpoint={"state_dict_type": "SHARDED_STATE_DICT"})
    field = "checkpoint.state_dict_type"
    for torch, is_refused in (("2.8.0", True), ("2.9.1", False), ("2.13.0+cpu", False)):
        monkeypatch.setattr("importlib.metadata.version", lambda package, torch=torch: torch)
        found = [p for p in make_plan(asked).errors if p.field == field]
        assert bool(found) == is_refused, torch
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.8.0")
    (problem,) = (p for p in make_plan(asked).errors if p.field == field)
    assert (
        problem.sentence == "needs torch 2.9, and this is 2.8.0. Save it whole, or upgrade torch."
    )
    assert not [p for p in make_plan(asked.apply(problem.changes)).errors if p.field == field]


def test_shards_are_by_name_in_any_case():
    shards = {"state_dict_type": "SHARDED_STATE_DICT", "unified_checkpoint": True}
    made = make_plan(Config(checkpoint=shards))
    (problem,) = (p for p in made.warnings if p.field == "checkpoint.unified_checkpoint")
    assert problem.changes == {"checkpoint.unified_checkpoint": False}


def test_a_usual_config_has_no_problem():
    assert list(training_problems(GOOD, on(GOOD, "cpu"))) == []


def test_tensorboard_that_is_absent(monkeypatch):
    monkeypatch.setattr("nbft.plan.training_checks.is_installed", lambda module: False)
    config = GOOD.apply({"callbacks.callbacks": {"tensorboard": {}, "printer": {}}})
    (problem,) = training_problems(config, on(config, "cpu"))
    assert "needs the package tensorboard" in str(problem)
    assert problem.changes == {"callbacks.callbacks": {"printer": {}}}


def test_phoenix_that_is_absent():
    config = GOOD.apply({"tracking.report_to": ["phoenix"]})
    (problem,) = [p for p in check(config, on(config, "cpu")) if p.field == "tracking.report_to"]
    assert "pip install arize-phoenix-otel" in str(problem)


def test_a_gpu_may_offload():
    config = GOOD.apply({"memory.offload_optimizer": True})
    assert list(training_problems(config, on(config, "cuda"))) == []


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("local", (0.0, 0.0)),
        ("runpod", (0.39, 2.89)),
        ("lambda_labs", (1.10, 2.49)),
        ("vast_ai", (0.20, 1.50)),
    ],
)
def test_an_hour_at_each_provider(provider, expected):
    assert cost_usd(Config(compute={"provider": provider}), 3600) == expected


def test_a_price_of_ones_own_wins():
    assert cost_usd(Config(compute={"price_usd_per_hour": 2.0}), 1800) == (1.0, 1.0)
    assert cost_usd(Config(), None) is None


def test_the_plan_says_what_it_costs(tiny_model):
    config = Config.preset("two-minute-try").apply({"model.model_name": str(tiny_model)})
    assert make_plan(config).cost_usd == (0.0, 0.0)
    rented = make_plan(config.apply({"compute.provider": "vast_ai"}))
    low, high = rented.cost_usd
    assert 0 < low < high
    assert any(remark.startswith("Vast.ai: about") for remark in rented.remarks)
    assert [p.field for p in rented.errors] == ["compute.provider"]
