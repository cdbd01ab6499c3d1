"""The machine's matmul rate is measured shortly, kept if higher, and leaves the training as it is."""

from __future__ import annotations

import time

import pytest
import torch

from nbft import hardware
from nbft.config import Config
from nbft.decisions import decide
from nbft.matmul_rate import keep_rate, kept_rate, product_dtype
from nbft.training import matmul_rate


def of(decisions):
    """Return the device and the number type of a run's products."""
    return decisions.device.value, product_dtype(decisions)


def test_the_highest_is_kept_and_no_random_numbers_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path))
    decisions = decide(Config().apply({"compute.device": "cpu", "model.dtype": "float32"}))
    monkeypatch.setattr(matmul_rate, "other_use", lambda _: "the processor is in use")
    matmul_rate.measure_rates(decisions)
    assert kept_rate(*of(decisions)) is None  # it would be too low
    monkeypatch.setattr(matmul_rate, "other_use", lambda _: "")
    before, began = torch.get_rng_state(), time.process_time()
    matmul_rate.measure_rates(decisions)
    assert time.process_time() - began < 2
    assert torch.equal(torch.get_rng_state(), before)
    rate = kept_rate(*of(decisions))
    assert 1e8 < rate < 1e14
    monkeypatch.setattr(matmul_rate, "measure", lambda *_: 1.0)
    matmul_rate.measure_rates(decisions)
    assert kept_rate(*of(decisions)) == rate
    monkeypatch.setattr(matmul_rate, "measure", lambda *_: 2.0 * rate)
    matmul_rate.measure_rates(decisions)
    assert kept_rate(*of(decisions)) == 2 * rate


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(matmul_rate, "other_use", lambda _: "")
    decisions = decide(Config().apply({"compute.device": "cpu", "model.dtype": "float32"}))
    matmul_rate.measure_rates(decisions)
    assert kept_rate(*of(decisions)) is None


@pytest.mark.parametrize(
    ("gain", "flags", "dtype", "reason"),
    [
        (3.1, "", "bfloat16", "measured 3.1 times as fast as float32"),
        (0.4, "avx512_bf16", "float32", "this processor has it, avx512_bf16; measured 0.4 times"),
    ],
)
def test_the_number_type_is_what_was_measured_to_be_fast(
    gain, flags, dtype, reason, tmp_path, monkeypatch
):
    """Whatever the processor says of itself, as one that emulates an instruction does."""
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path))
    monkeypatch.setattr(hardware, "_bfloat16_instruction", lambda: flags)
    config = Config().apply({"compute.device": "cpu"})
    before = decide(config).dtype.value
    assert before == ("bfloat16" if flags else "float32")
    keep_rate("cpu", "float32", 1e11)
    assert decide(config).dtype.value == before  # one number says nothing
    keep_rate("cpu", "bfloat16", gain * 1e11)
    found = decide(config).dtype
    assert found.value == dtype
    assert reason in found.reason


def test_a_run_on_a_cpu_measures_both_number_types(tmp_path, monkeypatch):
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path))
    monkeypatch.setattr(matmul_rate, "other_use", lambda _: "")
    matmul_rate.measure_rates(decide(Config().apply({"compute.device": "cpu"})))
    assert kept_rate("cpu", "float32")
    assert kept_rate("cpu", "bfloat16")
