"""Every check: its words, a config that it lets pass, and that its fix removes it."""

import shutil

import pytest

from nbft import devices
from nbft.config import Config
from nbft.hardware import Hardware, planning_for
from nbft.plan import checks
from nbft.plan.checks import check

from .conftest import on

GOOD = Config(data={"dataset_name": "alpaca"})
GPU = devices.Gpu("Tesla T4", 15 * 2**30, (7, 5))


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with a GPU without bfloat16, whatever runs the test; no package is missing."""
    monkeypatch.setattr(checks, "is_installed", lambda _: True)
    monkeypatch.setattr(checks, "version_of", lambda _: "1")
    with planning_for(Hardware("a T4", 12 * 2**30, "cuda", (GPU,))):
        yield


BEST = {
    "evaluation.eval_strategy": "epoch",
    "checkpoint.save_strategy": "epoch",
    "checkpoint.load_best_model_at_end": True,
}
CASES = {
    "rows beside a file": (
        "cpu",
        {"data.train": {"rows": [{"prompt": "a", "completion": "b"}], "path": "b.jsonl"}},
        (
            "data.train.datasets[0].path='b.jsonl': is not read, because rows are given in Python. "
            "Leave it empty, or leave rows out."
        ),
    ),
    "best by what the trainer does not measure": (
        "cpu",
        {
            **BEST,
            "training.method": "base",
            "checkpoint.metric_for_best_model": "eval_mean_token_accuracy",
        },
        (
            "checkpoint.metric_for_best_model='eval_mean_token_accuracy': is not measured by Trainer. "
            "Use eval_loss."
        ),
    ),
    "best by what the head does not compute": (
        "cpu",
        {
            **BEST,
            "memory.use_fused_head_and_loss_fn": True,
            "checkpoint.metric_for_best_model": "eval_entropy",
        },
        (
            "checkpoint.metric_for_best_model='eval_entropy': is not computed by "
            "memory.use_fused_head_and_loss_fn. Use eval_loss."
        ),
    ),
    "model": (
        "cpu",
        {"model.model_name": "smolm2-135m"},
        (
            "model.model_name='smolm2-135m': is neither a folder with a model nor a name on the hub "
            "(owner/name). Did you mean smollm2-135m?"
        ),
    ),
    "model far off": (
        "cpu",
        {"model.model_name": "zzz"},
        (
            "model.model_name='zzz': is neither a folder with a model nor a name on the hub "
            "(owner/name). Use smollm2-135m, which needs no hub access."
        ),
    ),
    "device": (
        "mps",
        {"compute.device": "mps"},
        "compute.device='mps': was not found; this machine has cpu, cuda. Use auto.",
    ),
    "held-out rows of another kind": (
        "cpu",
        {
            "data.train.datasets[0].path": "rows.jsonl",
            "data.validation": {"datasets": [{"dataset_name": "alpaca"}]},
        },
        (
            "data.validation.datasets[0].dataset_name='alpaca': is a different kind of data than the "
            "training data. Hold out some of the training rows instead."
        ),
    ),
    "group by length of packed rows": (
        "cpu",
        {"data.packing": True, "data.train_sampling_strategy": "group_by_length"},
        (
            "data.train_sampling_strategy='group_by_length': cannot sort rows that are packed to the "
            "same length. Use random."
        ),
    ),
    "a part of the fast path that cannot be used": (
        "cpu",
        {"speed.fused_lora": "on", "peft.lora_dropout": 0.1},
        ("speed.fused_lora='on': cannot be used: peft.lora_dropout=0.1. Use auto."),
    ),
    "fp16 on a cpu": (
        "cpu",
        {"precision.mixed_precision": "fp16"},
        (
            "precision.mixed_precision='fp16': needs a GPU: on a CPU transformers would silently use "
            "float32. Use auto."
        ),
    ),
    "float16 on a cpu": (
        "cpu",
        {"model.dtype": "float16"},
        "model.dtype='float16': is very slow on a CPU. Use auto (float32 here).",
    ),
    "bfloat16 weights": (
        "cuda",
        {"model.dtype": "bfloat16"},
        "model.dtype='bfloat16': this GPU lacks bfloat16, compute capability 7.5. Use auto.",
    ),
    "bf16": (
        "cuda",
        {"precision.mixed_precision": "bf16"},
        "precision.mixed_precision='bf16': this GPU lacks bfloat16, compute capability 7.5. Use auto.",
    ),
    "both": (
        "cuda",
        {"precision.mixed_precision": "bf16", "model.dtype": "bfloat16"},
        "model.dtype='bfloat16': this GPU lacks bfloat16, compute capability 7.5. Use auto.",
    ),
    "tf32": (
        "cuda",
        {"precision.tf32": True},
        (
            "precision.tf32=True: needs an NVIDIA GPU with compute capability 8.0 (Ampere) or newer. "
            "Leave it empty."
        ),
    ),
    "fp16 beside 16 bits": (
        "cuda",
        {
            "precision.mixed_precision": "fp16",
            "model.dtype": "float16",
            "peft.method": "full",
            "training.learning_rate": 2e-5,
        },
        (
            "precision.mixed_precision='fp16': needs float32 weights, and model.dtype is float16. Use "
            "float32 for model.dtype."
        ),
    ),
    "rate above": (
        "cpu",
        {"training.learning_rate": 0.1},
        (
            "training.learning_rate=0.1: is above the usual range for LoRA (1e-4 to 5e-4; Unsloth: "
            "5e-5 to 1e-4, PEFT Studio: up to 5e-4). Use 0.0002."
        ),
    ),
    "rate below": (
        "cpu",
        {"training.learning_rate": 1e-8, "peft.method": "full"},
        (
            "training.learning_rate=1e-08: is below the usual range for full training (1e-5 to 5e-5; "
            "Oumi: 2e-5, ERNIEKit: 3e-5, QEfficient: 5e-5). Use 2e-05."
        ),
    ),
    "best": (
        "cpu",
        {"checkpoint.load_best_model_at_end": True},
        (
            "checkpoint.load_best_model_at_end=True: needs an evaluation at every checkpoint, but "
            "evaluation.eval_strategy is epoch and checkpoint.save_strategy is steps. Use epoch for "
            "both."
        ),
    ),
    "best of nothing": (
        "cpu",
        {
            "checkpoint.load_best_model_at_end": True,
            "checkpoint.save_strategy": "no",
            "evaluation.eval_strategy": "no",
        },
        (
            "checkpoint.load_best_model_at_end=True: needs an evaluation at every checkpoint, but "
            "evaluation.eval_strategy is no and checkpoint.save_strategy is no. Use epoch for both."
        ),
    ),
    "save the best": (
        "cpu",
        {"checkpoint.save_strategy": "best", "evaluation.eval_strategy": "no"},
        (
            "checkpoint.save_strategy='best': needs evaluations, and evaluation.eval_strategy is no. "
            "Use epoch for it."
        ),
    ),
    "best between": (
        "cpu",
        {
            "checkpoint.load_best_model_at_end": True,
            "evaluation.eval_strategy": "steps",
            "evaluation.eval_steps": 30,
            "checkpoint.save_steps": 50,
        },
        (
            "checkpoint.save_steps=50: is not a multiple of the evaluation interval of 30 steps, so "
            "the best checkpoint could not be determined. Use 60."
        ),
    ),
    "early": (
        "cpu",
        {"callbacks.early_stopping_patience": 2, "evaluation.eval_strategy": "no"},
        (
            "callbacks.early_stopping_patience=2: needs evaluations, and evaluation.eval_strategy is "
            "no. Use epoch for it."
        ),
    ),
    "split": (
        "cpu",
        {"data.split_ratio": 1.0},
        (
            "data.split_ratio=1.0: leaves no rows for evaluation. Use 0.9, or set "
            "evaluation.eval_strategy=no."
        ),
    ),
    "prefetch": (
        "cpu",
        {"data.dataloader_prefetch_factor": 2},
        (
            "data.dataloader_prefetch_factor=2: needs at least 1 data loader worker, and "
            "dataloader_num_workers is 0. Use 1 worker, or leave this out."
        ),
    ),
    "persistent": (
        "cpu",
        {"data.dataloader_persistent_workers": True},
        (
            "data.dataloader_persistent_workers=True: needs at least 1 data loader worker, and "
            "dataloader_num_workers is 0. Use 1 worker, or leave this out."
        ),
    ),
    "padding": (
        "cpu",
        {"data.padding_free": True, "data.pad_to_multiple_of": 8},
        (
            "data.pad_to_multiple_of=8: has no effect, because nothing is padded while "
            "data.padding_free is on. Leave it empty."
        ),
    ),
    "minimum rate": (
        "cpu",
        {"scheduler.lr_scheduler_type": "cosine_with_min_lr"},
        (
            "scheduler.lr_scheduler_kwargs: cosine_with_min_lr needs either min_lr or min_lr_rate. "
            "Use {min_lr_rate: 0.1}."
        ),
    ),
    "arguments": (
        "cpu",
        {"scheduler.lr_scheduler_kwargs": {"powr": 2}},
        (
            "scheduler.lr_scheduler_kwargs={'powr': 2}: powr is not an argument of cosine, which "
            "takes num_cycles. Leave it out."
        ),
    ),
    "arguments of none": (
        "cpu",
        {
            "scheduler.lr_scheduler_type": "linear",
            "scheduler.lr_scheduler_kwargs": {"power": 2},
        },
        (
            "scheduler.lr_scheduler_kwargs={'power': 2}: power is not an argument of linear, which "
            "takes none. Leave it out."
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_words_of_a_check_and_that_its_fix_removes_it(name, empty_cache):
    device, changes, said = CASES[name]
    config = GOOD.apply(changes)
    found = check(config, on(config, device))
    matching = [problem for problem in found if str(problem) == said]
    assert matching, [str(problem) for problem in found]
    (problem,) = matching
    assert problem.changes, "every check proposes something"
    mended = config.apply(problem.changes)
    device = "cpu" if "compute.device" in problem.changes else device
    assert [p for p in check(mended, on(mended, device)) if p.field == problem.field] == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_defaults_pass_every_check(device):
    assert check(GOOD, on(GOOD, device)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"model.model_name": "owner/name"},
        {"checkpoint.load_best_model_at_end": True, "checkpoint.save_strategy": "best"},
        {"checkpoint.load_best_model_at_end": True, "checkpoint.save_strategy": "epoch"},
        {"callbacks.early_stopping_patience": 2},
        {"data.split_ratio": 1.0, "evaluation.eval_strategy": "no"},
        {"data.split_ratio": 1.0, "data.validation.datasets[0].dataset_name": "alpaca"},
        {"data.dataloader_prefetch_factor": 2, "data.dataloader_num_workers": 1},
        {"data.padding_free": True},
        {"data.pad_to_multiple_of": 8},
        {
            "scheduler.lr_scheduler_type": "cosine_with_min_lr",
            "scheduler.lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        },
        {"scheduler.lr_scheduler_kwargs": {"num_cycles": 2}},
        {"training.learning_rate": 1e-6, "peft.method": "full"},
        {"optimizer.optim": "lion_32bit", "tracking.report_to": ["wandb"]},
    ],
    ids=str,
)
def test_what_is_right_passes(changes):
    assert check(GOOD.apply(changes), on(GOOD.apply(changes), "cpu")) == []


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_32bit", "lion_32bit"])
def test_bitsandbytes_has_to_be_there(monkeypatch, optim):
    monkeypatch.setattr(checks, "is_installed", lambda _: False)
    config = GOOD.apply({"optimizer.optim": optim})
    (problem,) = check(config, on(config, "cpu"))
    assert str(problem) == (
        f"optimizer.optim='{optim}': needs the package bitsandbytes, which is not installed. pip "
        "install bitsandbytes, or use adamw_torch_fused."
    )
    assert check(config.apply(problem.changes), on(config.apply(problem.changes), "cpu")) == []
    assert (
        check(
            GOOD.apply({"optimizer.optim": "rmsprop"}),
            on(GOOD.apply({"optimizer.optim": "rmsprop"}), "cpu"),
        )
        == []
    )


def test_trackers_have_to_be_there(monkeypatch):
    monkeypatch.setattr(checks, "version_of", lambda name: "2" if name == "tensorboard" else None)
    config = GOOD.apply({"tracking.report_to": ["wandb", "tensorboard", "mlflow"]})
    (problem,) = check(config, on(config, "cpu"))
    assert problem.sentence == (
        "not installed: wandb, mlflow. pip install wandb mlflow, or remove what is not installed."
    )
    assert config.apply(problem.changes).tracking.report_to == ["tensorboard"]
    assert check(config.apply(problem.changes), on(config.apply(problem.changes), "cpu")) == []


def test_transformers_refuses_what_the_checks_refuse():
    """The reason of three checks: without them the run would fail after it has started."""
    from transformers import TrainingArguments

    for arguments in (
        {"tf32": True, "use_cpu": True},
        {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "steps"},
        {"dataloader_prefetch_factor": 2},
    ):
        with pytest.raises((ValueError, ImportError)):
            TrainingArguments("x", **arguments)


def output_dir_problem(folder):
    found = check(
        GOOD.apply({"training.output_dir": str(folder)}),
        on(GOOD.apply({"training.output_dir": str(folder)}), "cpu"),
    )
    return [problem.sentence for problem in found if problem.field == "training.output_dir"]


def test_a_folder_that_can_be_made_passes(tmp_path):
    assert output_dir_problem(tmp_path / "new" / "runs") == []


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "runs").write_text("")
    assert output_dir_problem(tmp_path / "runs") == [
        f"{tmp_path}/runs is a file. Name another folder."
    ]


def test_a_folder_without_rights(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert output_dir_problem(tmp_path / "runs") == [
        f"{tmp_path} is not writable. Choose a folder that you can write to."
    ]


def test_no_room_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 2**20))
    assert output_dir_problem(tmp_path) == [
        (
            "the disk has 1 MiB free; a run needs about 300 MiB. Free some space, or choose a folder on "
            "another disk."
        )
    ]


def test_the_folder_that_is_checked_is_the_one_that_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("")
    assert output_dir_problem("runs") == [f"{tmp_path}/runs is a file. Name another folder."]


def test_float16_weights_below_an_adapter_may_be_scaled():
    asked = {"precision.mixed_precision": "fp16", "model.dtype": "float16"}
    config = GOOD.apply({**asked, "compute.device": "cuda"})
    assert [p for p in check(config, on(config, "cuda")) if p.field.startswith("precision")] == []
    assert on(GOOD.apply({"model.dtype": "float16"}), "cuda").mixed_precision.value == "fp16"
    full = GOOD.apply({"model.dtype": "float16", "peft.method": "full"})
    assert on(full, "cuda").mixed_precision.value == "no"
