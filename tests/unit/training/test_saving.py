"""Moments in 8 bits stay within their bound; names find their parameter; parts are whole."""

import json
import math

import pytest
import torch
import transformers

from nbft.training.optim import BfloatAdamW
from nbft.training.ranks import ALONE
from nbft.training.saving import (
    from_8_bits,
    load_by_name,
    quantised,
    restored,
    save_by_name,
    save_in_shards,
    to_8_bits,
)


@pytest.mark.parametrize("size", [1, 128, 1000])
def test_the_first_moment_within_its_bound(size):
    moment = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 1e-3
    parts = to_8_bits(moment, is_second=False)
    back = from_8_bits(parts, moment.shape)
    assert parts["codes"].dtype == torch.int8
    for begin in range(0, size, 128):
        block = slice(begin, begin + 128)
        bound = moment[block].abs().max() / 254
        assert (back[block] - moment[block]).abs().max() <= bound * (1 + 1e-5)


@pytest.mark.parametrize("size", [1, 128, 1000])
def test_the_second_moment_within_its_bound(size):
    """It spans 12 powers of ten here, and even steps would make most of it 0."""
    generator = torch.Generator().manual_seed(size)
    moment = 10 ** (-12 * torch.rand(size, generator=generator))
    moment[::7] = 0
    back = from_8_bits(to_8_bits(moment, is_second=True), moment.shape)
    assert torch.equal(back == 0, moment == 0)
    for begin in range(0, size, 128):
        one, two = moment[begin : begin + 128], back[begin : begin + 128]
        if not (one > 0).any():
            continue
        spread = (one[one > 0].max() / one[one > 0].min()).item()
        bound = spread ** (1 / 508) - 1
        error = ((two - one).abs()[one > 0] / one[one > 0]).max().item()
        assert error <= bound * 1.01 + 1e-5


def test_a_moment_of_zeros():
    for is_second in (False, True):
        zeros = torch.zeros(5, 3)
        assert torch.equal(from_8_bits(to_8_bits(zeros, is_second=is_second), zeros.shape), zeros)


def trained(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Linear(40, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 30)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_a_state_in_8_bits_takes_a_quarter_and_comes_back(tmp_path):
    _, optimizer = trained()
    state = optimizer.state_dict()
    torch.save(state, tmp_path / "whole")
    torch.save(quantised(state), tmp_path / "small")
    read = torch.load(tmp_path / "small", weights_only=True)
    back = restored(read)["state"]
    for number, of_one in state["state"].items():
        assert back[number]["step"] == of_one["step"]
        assert torch.allclose(
            back[number]["exp_avg"], of_one["exp_avg"], atol=of_one["exp_avg"].abs().max() / 253
        )
    moments = sum(s["exp_avg"].numel() * 2 for s in state["state"].values())
    codes = sum(
        s[name]["codes"].numel()
        for s in read["state"].values()
        for name in ("exp_avg", "exp_avg_sq")
    )
    assert codes == pytest.approx(moments, rel=0.3)  # a byte a number, and what fills a block


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("is_small", [False, True])
def test_names_find_their_parameters_in_another_order(tmp_path, files, is_small):
    model, optimizer = trained()
    names = [name for name, _ in model.named_parameters()]
    state = optimizer.state_dict()
    save_by_name(tmp_path, quantised(state) if is_small else state, names, files)
    found = sorted(path.name for path in tmp_path.glob("optimizer*.safetensors"))
    expected = [f"optimizer-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert found == (expected if files == 3 else ["optimizer.safetensors"])
    index = json.loads((tmp_path / "optimizer.index.json").read_text())
    assert set(index["weight_map"].values()) == set(found)

    turned = dict(reversed(list(model.named_parameters())))
    other = torch.optim.AdamW([{"params": [p]} for p in turned.values()], lr=0.5)
    other.load_state_dict(restored(load_by_name(tmp_path, other.state_dict(), turned)))
    assert [group["lr"] for group in other.param_groups] == [0.5] * 4  # its own groups
    for p in model.parameters():
        ours, theirs = other.state[p], optimizer.state[p]
        near = theirs["exp_avg"].abs().max() / 253 if is_small else 0.0
        assert torch.allclose(ours["exp_avg"], theirs["exp_avg"], atol=float(near), rtol=0)
        assert ours["step"] == theirs["step"] == 3


@pytest.mark.parametrize("is_small", [False, True])
def test_shards_of_one_process_are_read_by_it(tmp_path, is_small, recwarn):
    model, optimizer = trained()
    parameters = dict(model.named_parameters())
    state = optimizer.state_dict()
    save_in_shards(tmp_path, quantised(state) if is_small else state, list(parameters), ALONE)
    assert [p.suffix for p in (tmp_path / "distributed_checkpoint").iterdir()] == [".safetensors"]
    back = restored(load_by_name(tmp_path, state, parameters))
    for number, theirs in state["state"].items():
        ours = back["state"][number]
        near = theirs["exp_avg"].abs().max() / 253 if is_small else 0.0
        assert torch.allclose(ours["exp_avg"], theirs["exp_avg"], atol=float(near), rtol=0)
        assert ours["exp_avg"].dtype == theirs["exp_avg"].dtype
        assert ours["step"] == theirs["step"] == 3
    assert not recwarn.list


def test_parts_are_of_about_the_same_number_of_parameters(tmp_path):
    model, optimizer = trained()
    save_by_name(tmp_path, optimizer.state_dict(), [n for n, _ in model.named_parameters()], 2)
    index = json.loads((tmp_path / "optimizer.index.json").read_text())["weight_map"]
    parameters = {}
    for key, file in index.items():
        parameters.setdefault(file, set()).add(key.rpartition("/")[0])
    assert [len(names) for names in parameters.values()] == [2, 2]
    assert math.prod(len(names) for names in parameters.values()) == 4


def test_what_is_no_tensor_comes_back_as_it_was(tmp_path):
    """Adafactor counts its steps in a Python number."""
    p = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = transformers.Adafactor([p], lr=0.1, scale_parameter=False, relative_step=False)
    p.grad = torch.ones_like(p)
    optimizer.step()
    state = optimizer.state_dict()
    save_by_name(tmp_path, state, ["weight"], 1)
    back = load_by_name(tmp_path, state, {"weight": torch.zeros(0)})["state"][0]
    assert back.keys() == state["state"][0].keys()
    assert type(back["step"]) is int
    for name, value in state["state"][0].items():
        assert torch.equal(torch.as_tensor(back[name]), torch.as_tensor(value))


def test_moments_in_8_bits_come_back_in_their_type_with_the_rounding_by_name(tmp_path):
    p = torch.nn.Parameter(torch.ones(300))
    optimizer = BfloatAdamW([p], lr=0.1)
    p.grad = torch.linspace(-1, 1, 300)
    optimizer.step()
    state = optimizer.state_dict()
    save_by_name(tmp_path, quantised(state), ["weight"], 1)
    back = restored(load_by_name(tmp_path, state, {"weight": torch.zeros(0)}))
    assert back["state"][0]["exp_avg"].dtype == torch.bfloat16
    assert torch.equal(back["rounding"]["cpu"], state["rounding"]["cpu"])
