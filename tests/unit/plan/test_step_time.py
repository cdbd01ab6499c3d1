"""The time of the steps follows what they compute, and the rate that was measured."""

from __future__ import annotations

import json

import pytest

from nbft.config import Config
from nbft.hardware import planning_for
from nbft.matmul_rate import keep_rate, kept_rate, product_dtype
from nbft.plan.machines import MACHINES
from nbft.plan.memory import model_shape
from nbft.plan.step_time import training_seconds

from .conftest import on


def of(decisions):
    """Return the device and the number type of a run's products."""
    return decisions.device.value, product_dtype(decisions)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def seconds(config, shape, dtype="float32", **asked):
    about = {"tokens": 10**6, "steps": 1, "lengths": [100]} | asked
    return training_seconds(config, shape, on(config, dtype=dtype), **about)


def test_the_time_is_known_on_a_cpu_only(tiny_model):
    shape = model_shape(tiny_model)
    about = {"tokens": 10**6, "steps": 10, "lengths": [100]}
    assert training_seconds(Config(), shape, on(Config(), "cuda", "bfloat16"), **about) is None
    assert seconds(Config(), shape) > 0


def test_the_time_goes_by_the_measured_rate(tiny_model):
    shape, decisions = model_shape(tiny_model), on(Config(), dtype="float32")
    assert kept_rate(*of(decisions)) is None
    keep_rate(*of(decisions), 1e9)
    slow = seconds(Config(), shape)
    keep_rate(*of(decisions), 2e9)
    fast = seconds(Config(), shape)
    assert kept_rate(*of(decisions)) == 2e9
    layers = sum(d_out * d_in for _, d_out, d_in in shape.layers)
    adapter = sum(16 * (d_out + d_in) for _, d_out, d_in in shape.layers)
    products = 2e6 * (2 * (layers + 1024 * 64) + 3 * adapter)
    assert slow - fast == pytest.approx(1.2 * products / 2e9, rel=1e-3)


def test_a_rate_is_that_of_its_threads_type_and_machine(monkeypatch, tmp_path):
    decisions = on(Config(), dtype="float32")
    keep_rate(*of(decisions), 1e9)
    assert kept_rate(*of(on(Config(), dtype="bfloat16"))) is None
    with planning_for(MACHINES[-1]):
        assert kept_rate(*of(decisions)) is None
    monkeypatch.setattr("nbft.matmul_rate.usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert kept_rate(*of(decisions)) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert kept_rate(*of(decisions)) == 1e9
    (file,) = tmp_path.glob("matmul*.json")
    for damaged in ("", "[]", json.dumps(dict.fromkeys(json.loads(file.read_text()), "fast"))):
        file.write_text(damaged)
        assert kept_rate(*of(decisions)) is None


def test_a_mixed_precision_multiplies_in_its_own_type(tiny_model):
    config = Config().apply({"precision.mixed_precision": "bf16"})
    keep_rate(*of(on(config, dtype="float32")), 7e9)
    assert kept_rate(*of(on(Config(), dtype="bfloat16"))) == 7e9


def test_a_short_row_takes_the_time_of_its_layers(tiny_model):
    shape = model_shape(tiny_model)
    batches = Config().training.gradient_accumulation_steps
    one = seconds(Config(), shape, tokens=1, steps=1, lengths=[1])
    more = seconds(Config(), shape, tokens=101, steps=101, lengths=[1]) - one
    assert more == pytest.approx(100 * 2 * batches * 3.2e-3, rel=0.1)
    assert one == pytest.approx(0.6 + 2 * batches * 3.2e-3, rel=0.1)  # the first takes longer


def test_padding_takes_time(tiny_model):
    shape, padded = model_shape(tiny_model), Config(data={"padding_free": False})
    alike, unlike = [100] * 8, [20, 180] * 4
    assert seconds(padded, shape, lengths=unlike) > 1.4 * seconds(padded, shape, lengths=alike)


def test_a_library_head_and_trained_weights_take_longer(tiny_model):
    shape = model_shape(tiny_model)
    slow = Config().apply({"speed.label_head": "off"})
    assert seconds(slow, shape) > seconds(Config(), shape)
    full = Config(peft={"method": "full"}, precision={"mixed_precision": "no"})
    assert seconds(full, shape) > seconds(Config(), shape)


def test_the_time_to_compute_again_goes_by_what_is(tiny_model):
    shape = model_shape(tiny_model)

    def how(granularity):
        changes = {
            "memory.gradient_checkpointing": True,
            "memory.recompute_granularity": granularity,
        }
        return seconds(Config().apply(changes if granularity else {}), shape)

    usual, full, attention = how(None), how("full"), how("full_attn")
    assert usual == how("core_attn")
    assert usual < attention < full < 1.6 * usual
