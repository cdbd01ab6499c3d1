"""The disk that a run needs follows from what it writes."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from nbft import make_plan
from nbft.config import Config
from nbft.plan.checklist import checklist
from nbft.plan.disk import disk_use
from nbft.plan.memory import model_shape, trainable_parameters

from .conftest import on

ROWS = [{"prompt": f"Add {n}.\n", "completion": str(n)} for n in range(400)]
GB, MB = 10**9, 10**6


@pytest.fixture
def model(tmp_path):
    """A model of 134 million parameters, as far as its header tells."""
    folder = tmp_path / "model"
    folder.mkdir()
    width, layers, words = 576, 30, 49152
    about = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": layers}
    about |= {"intermediate_size": 1536, "vocab_size": words, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(about))
    shapes = {"model.embed_tokens.weight": [words, width]}
    for n in range(layers):
        layer = f"model.layers.{n}"
        for name, out in (("q_proj", 576), ("k_proj", 192), ("v_proj", 192), ("o_proj", 576)):
            shapes[f"{layer}.self_attn.{name}.weight"] = [out, width]
        for name in ("gate_proj", "up_proj"):
            shapes[f"{layer}.mlp.{name}.weight"] = [1536, width]
        shapes[f"{layer}.mlp.down_proj.weight"] = [width, 1536]
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in shapes.items()
    }
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    (folder / "tokenizer.json").write_bytes(b"{}" + b" " * (2 * MB))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def free(monkeypatch):
    """Return a function that says how much is free on every disk."""

    def say(free_bytes):
        usage = shutil._ntuple_diskusage(10**15, 0, free_bytes)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    return say


@pytest.fixture
def config(model, tmp_path):
    return Config(
        model={"model_name": str(model)},
        data={"rows": ROWS, "split_ratio": 1},
        evaluation={"eval_strategy": "no"},
        training={"output_dir": str(tmp_path / "runs"), "max_steps": 100, "learning_rate": 2e-5},
        checkpoint={"save_steps": 10, "save_total_limit": 5},
        peft={"method": "full"},
    )


def use_of(config, steps=100, per_epoch=25):
    folder = Path(config.model.model_name)
    decisions = on(config, "cpu")
    return disk_use(
        config,
        model_shape(folder),
        decisions,
        folder,
        total_steps=steps,
        steps_per_epoch=per_epoch,
    )


def problem_of(config):
    return [p for p in make_plan(config).errors if p.field == "training.output_dir"]


def test_a_checkpoint_of_full_training_is_the_weights_and_two_moments(config):
    use = use_of(config)
    parameters = model_shape(Path(config.model.model_name)).parameters
    assert parameters == pytest.approx(134.5 * MB, rel=1e-3)
    assert use.checkpoint_bytes == pytest.approx(12 * parameters + 2 * MB, rel=1e-3)
    assert use.result_bytes == pytest.approx(4 * parameters + 2 * MB, rel=1e-3)
    assert use.checkpoints == 6  # five are kept while another is written


def test_an_adapter_needs_its_own_size_and_not_the_models(config):
    lora = config.apply({"peft.method": "lora", "training.learning_rate": 2e-4})
    trained = trainable_parameters(lora, model_shape(Path(config.model.model_name)))
    use = use_of(lora)
    assert use.checkpoint_bytes == pytest.approx(12 * trained + 2 * MB, rel=0.01)
    assert use.result_bytes == pytest.approx(4 * trained + 2 * MB, rel=0.01)
    with_head = use_of(lora.apply({"peft.target_modules": ["all-linear", "embed_tokens"]}))
    embeddings = 49152 * 576 * 2  # in bfloat16 or more
    assert with_head.result_bytes >= use.result_bytes + embeddings


@pytest.mark.parametrize(
    ("changes", "bytes_a_parameter"),
    [
        ({"checkpoint.save_only_model": True}, 4),
        ({"checkpoint.quantize_checkpoint": True}, 6.125),
        ({"checkpoint.state_dict_type": "SHARDED_STATE_DICT"}, 12),
        ({"optimizer.moment_dtype": "bfloat16"}, 8),
        ({"optimizer.optim": "sgd"}, 4),
        ({"optimizer.optim": "adafactor"}, 5),
        ({"precision.mixed_precision": "bf16", "precision.fp16_opt_level": "O2"}, 14),
    ],
    ids=str,
)
def test_what_is_in_a_checkpoint(config, changes, bytes_a_parameter):
    parameters = model_shape(Path(config.model.model_name)).parameters
    use = use_of(config.apply(changes))
    assert use.checkpoint_bytes == pytest.approx(bytes_a_parameter * parameters + 2 * MB, rel=2e-3)


@pytest.mark.parametrize(
    ("changes", "checkpoints"),
    [
        ({}, 6),
        ({"checkpoint.save_total_limit": 1}, 2),
        ({"checkpoint.save_total_limit": None}, 10),
        ({"checkpoint.save_steps": 500}, 1),
        ({"checkpoint.save_steps": 40}, 3),
        ({"checkpoint.save_strategy": "no"}, 0),
        ({"checkpoint.save_strategy": "epoch"}, 4),
        ({"checkpoint.save_on_epoch_end": True, "checkpoint.save_total_limit": None}, 14),
        ({"training.do_train": False}, 0),
        (
            {
                "checkpoint.save_strategy": "best",
                "checkpoint.save_total_limit": None,
                "evaluation.eval_strategy": "steps",
                "evaluation.eval_steps": 20,
            },
            5,
        ),
        ({"checkpoint.load_best_model_at_end": True, "checkpoint.save_total_limit": 1}, 3),
    ],
    ids=str,
)
def test_how_many_checkpoints_are_there_at_once(config, changes, checkpoints):
    assert use_of(config.apply(changes)).checkpoints == checkpoints


def test_five_checkpoints_of_a_gigabyte_do_not_fit_into_400_mb(config, free):
    free(400 * MB)
    (problem,) = problem_of(config)
    assert str(problem) == (
        f"training.output_dir='{config.training.output_dir}': the run writes about 9.5 GiB at once "
        "(6 checkpoints of 1.5 GiB and the model of 515 MiB), and 381 MiB are free. Free some space, "
        "or choose a folder on another disk."
    )
    items = {item.title: item for item in checklist(make_plan(config))}
    assert items["Output folder"].state == "to fix"


def test_fewer_checkpoints_are_proposed_where_they_fit(config, free):
    free(6 * GB)
    (problem,) = problem_of(config)
    assert problem.changes == {"checkpoint.save_total_limit": 2}
    assert problem_of(config.apply(problem.changes)) == []
    items = {item.title: item for item in checklist(make_plan(config.apply(problem.changes)))}
    assert items["Output folder"].state == "passed"


def test_a_small_run_fits_onto_a_small_disk(tiny_model, config, free):
    free(60 * MB)
    small = config.apply({"model.model_name": str(tiny_model), "peft.method": "lora"})
    assert problem_of(small) == []
    assert make_plan(small).disk_bytes < 20 * MB
    free(1 * MB)
    assert len(problem_of(small)) == 1
