"""The machine's matmul rate is measured once, shortly, and leaves the training as it is."""

from __future__ import annotations

import time

import torch

from nbft.config import Config
from nbft.decisions import decide
from nbft.plan.matmul_rate import kept_rate
from nbft.training import matmul_rate


def test_it_is_measured_once_and_draws_no_random_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path))
    decisions = decide(Config().apply({"compute.device": "cpu", "model.dtype": "float32"}))
    monkeypatch.setattr(matmul_rate, "other_use", lambda _: "the processor is in use")
    matmul_rate.measure_once(decisions)
    assert kept_rate(decisions) is None  # it would be too low, for ever
    monkeypatch.setattr(matmul_rate, "other_use", lambda _: "")
    before, began = torch.get_rng_state(), time.process_time()
    matmul_rate.measure_once(decisions)
    assert time.process_time() - began < 2
    assert torch.equal(torch.get_rng_state(), before)
    rate = kept_rate(decisions)
    assert 1e8 < rate < 1e14
    monkeypatch.setattr(matmul_rate, "measure", lambda *_: 1.0)
    matmul_rate.measure_once(decisions)
    assert kept_rate(decisions) == rate


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(matmul_rate, "other_use", lambda _: "")
    decisions = decide(Config().apply({"compute.device": "cpu", "model.dtype": "float32"}))
    matmul_rate.measure_once(decisions)
    assert kept_rate(decisions) is None
