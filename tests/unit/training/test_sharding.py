"""How a model is cut into shards, in a group of one process; `tests/e2e/test_shards.py` has several."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

import nbft
from nbft.config.distributed import Distributed
from nbft.errors import ConfigError
from nbft.training import sharding
from nbft.training.ranks import Ranks
from nbft.training.saving import OwnSaving

IDS = torch.arange(6)[None]


@pytest.fixture(autouse=True)
def alone(tmp_path) -> Iterator[None]:
    where = f"file://{tmp_path / 'rendezvous'}"
    distributed.init_process_group("gloo", init_method=where, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def a_model(*, is_tied: bool = False, r: int = 0):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    about = LlamaConfig(vocab_size=40, num_hidden_layers=3, tie_word_embeddings=is_tied, **shape)
    model = LlamaForCausalLM(about)
    if not r:
        return model
    return peft.get_peft_model(model, peft.LoraConfig(r=r, target_modules=["q_proj", "up_proj"]))


def cut(model, **asked):
    ours = {"num_processes": 2, "fsdp": "full_shard", "fsdp_sync_module_states": False, **asked}
    sharding.shard(model, nbft.Config(distributed=ours), Ranks(0, 1), "cpu")
    return {name: m for name, m in model.named_modules() if isinstance(m, FSDPModule)}


LAYERS = [f"model.layers.{n}" for n in range(3)]
NESTED = [*LAYERS, *(f"{layer}.mlp" for layer in LAYERS)]
BLOCKS = [f"{layer}.{part}" for layer in LAYERS for part in ("mlp", "self_attn")]


@pytest.mark.parametrize(
    ("asked", "units"),
    [
        ({}, LAYERS),
        ({"fsdp_auto_wrap_policy": "NO_WRAP"}, []),
        ({"fsdp_transformer_layer_cls_to_wrap": "LlamaMLP, LlamaAttention"}, BLOCKS),
        ({"fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer, LlamaMLP"}, NESTED),
        ({"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP", "fsdp_min_num_params": 1500}, ["mlp"]),
        ({"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP", "fsdp_min_num_params": 2000}, ["layers"]),
        ({"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP", "fsdp_min_num_params": 10**9}, []),
    ],
)
@pytest.mark.parametrize("is_tied", [False, True])
def test_what_is_gathered_at_once(asked, units, is_tied):
    model = a_model(is_tied=is_tied)
    expected = model(input_ids=IDS).logits
    found = cut(model, **asked)
    found.pop("")
    if units in (["mlp"], ["layers"]):
        endings = {name.rpartition(".")[2] for name in found}
        assert ("mlp" in endings) == (units == ["mlp"])
        assert ("0" in endings) == (units == ["layers"])
    else:
        assert sorted(found) == sorted(units)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    assert torch.equal(model(input_ids=IDS).logits, expected)


def test_the_adapter_and_what_it_wraps_are_one_unit():
    model = a_model(r=2)
    expected = model(input_ids=IDS).logits
    found = cut(model, fsdp_auto_wrap_policy="SIZE_BASED_WRAP", fsdp_min_num_params=1)
    assert not [name for name in found if "base_layer" in name or "lora_" in name]
    assert [name for name in found if name.endswith("q_proj")]
    assert torch.equal(model(input_ids=IDS).logits, expected)


def test_a_class_that_is_no_layer_is_said():
    with pytest.raises(ConfigError) as raised:
        cut(a_model(), fsdp_transformer_layer_cls_to_wrap="GPT2Block")
    (problem,) = raised.value.problems
    assert problem.field == "distributed.fsdp_transformer_layer_cls_to_wrap"
    assert "GPT2Block" in str(problem)
    assert "LlamaDecoderLayer" in problem.why


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("backward", ["backward_pre", "no_prefetch"])
def test_which_unit_is_fetched_while_another_computes(is_ahead, backward):
    found = cut(a_model(), fsdp_forward_prefetch=is_ahead, fsdp_backward_prefetch=backward)
    states = [found[name]._get_fsdp_state() for name in LAYERS]
    ahead = [state._states_to_forward_prefetch for state in states]
    assert ahead == ([[states[1]], [states[2]], []] if is_ahead else [[], [], []])
    behind = [state._states_to_backward_prefetch for state in states]
    assert behind == ([[state] for state in states] if backward == "no_prefetch" else [[], [], []])


@pytest.mark.parametrize("is_moved", [False, True])
def test_shards_in_main_memory(is_moved):
    found = cut(a_model(), fsdp_cpu_offload=is_moved)
    for module in found.values():
        (group,) = module._get_fsdp_state()._fsdp_param_groups
        assert isinstance(group.offload_policy, CPUOffloadPolicy) == is_moved


@pytest.mark.parametrize("is_shared", [False, True])
def test_all_begin_with_the_weights_of_the_first(is_shared, monkeypatch):
    told = []
    monkeypatch.setattr(Ranks, "share", lambda self, tensors: told.extend(tensors))
    model = a_model(r=2)
    cut(model, fsdp_sync_module_states=is_shared)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(told) == (len(trained) if is_shared else 0)


def test_whole_tensors_and_shards_of_an_optimiser():
    model = a_model(is_tied=True)
    cut(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    saved = sharding.whole(optimizer.state_dict())
    assert not any(isinstance(v, DTensor) for own in saved["state"].values() for v in own.values())
    other = torch.optim.AdamW(model.parameters(), lr=0.1)
    other.load_state_dict(sharding.cut_state(saved, other))
    for p in model.parameters():
        for name in ("exp_avg", "exp_avg_sq"):
            assert isinstance(other.state[p][name], DTensor)
            assert torch.equal(
                other.state[p][name].full_tensor(), optimizer.state[p][name].full_tensor()
            )
    weights = sharding.whole(model.state_dict(keep_vars=True))
    assert weights["lm_head.weight"] is weights["model.embed_tokens.weight"]
    none = sharding.whole(model.state_dict(keep_vars=True), is_kept=False)
    assert set(none.values()) == {None}


def test_keys_of_fsdp_config_are_the_settings():
    given = {
        "fsdp_min_num_params": 7,
        "transformer_layer_cls_to_wrap": ["A", "B"],
        "backward_prefetch": "NO_PREFETCH",
        "offload_params": True,
        "limit_all_gathers": True,
    }
    found = Distributed(fsdp="full_shard", fsdp_config=given)
    assert found.fsdp_min_num_params == 7
    assert found.fsdp_transformer_layer_cls_to_wrap == "A, B"
    assert found.fsdp_backward_prefetch == "no_prefetch"
    assert found.fsdp_cpu_offload
    assert found.fsdp_config == {"limit_all_gathers": True}
    with pytest.raises(ConfigError, match="Keep one of them"):
        nbft.Config(distributed={"fsdp_min_num_params": 5, "fsdp_config": {"min_num_params": 7}})


@pytest.mark.parametrize(
    "more",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "use_dora": True, "bias": "all"},
    ],
    ids=str,
)
def test_an_adapter_is_saved_as_it_is_without_shards(more, tmp_path):
    class Trainer(OwnSaving):
        nbft_initial = None
        nbft_ranks = Ranks(0, 1)
        args = SimpleNamespace(should_save=True)

        def __init__(self, model):
            self.model = model

        def _save(self, folder, state_dict):
            self.model.save_pretrained(folder, state_dict=state_dict)

    model = peft.get_peft_model(a_model(), peft.LoraConfig(r=2, **more))
    model.save_pretrained(tmp_path / "whole")
    cut(model)
    Trainer(model).save_model(str(tmp_path / "shards"))
    expected, found = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "shards")
    )
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_what_cannot_be_cut_is_said():
    model = a_model()
    model._no_split_modules = None
    with pytest.raises(ConfigError, match="does not know the layers of this model"):
        cut(model)
    mixed = a_model(r=2)
    mixed.get_base_model().model.norm.to(torch.bfloat16).requires_grad_()
    with pytest.raises(ConfigError, match="these are bfloat16 and float32"):
        cut(mixed)
