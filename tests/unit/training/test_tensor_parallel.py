"""Layers split across two processes: what is not split stays the same in both."""

import subprocess
import sys

import pytest

TWO = """
import sys, torch, transformers
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from nbft.config.distributed import Distributed
from nbft.training.tensor_parallel import Split

rank, file, kept = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(0)
shape = transformers.LlamaConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, vocab_size=32,
)
model = transformers.LlamaForCausalLM(shape)
mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp_shard", "tp"))
split = Split(model, mesh, Distributed(tensor_parallel_size=2, tensor_parallel_config=kept))
norm, cut = model.model.norm.weight, model.model.layers[0].mlp.up_proj.weight
optimizer = torch.optim.AdamW([norm], lr=0.1)
ids = torch.arange(8)[None]
model(input_ids=ids, labels=ids).loss.backward()
norm.grad += rank  # as if a kernel had given something else
split.finish_gradients()
grad = norm.grad.clone()
norm.grad += rank
optimizer.step()
with torch.no_grad():
    norm += rank
split.finish_step(optimizer)
found = [None, None]
here = [grad, norm.detach(), optimizer.state[norm]["exp_avg"]]
distributed.all_gather_object(found, here)
assert cut.to_local().shape == (16, 16), cut.to_local().shape
if rank == 0:
    print(*(bool(torch.equal(*pair)) for pair in zip(*found)))
"""


FAMILIES = """
import copy, sys, torch, transformers
from torch import distributed
import nbft
from nbft.training.ranks import Ranks
from nbft.training.sharding import shard

rank, file = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
sizes = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, vocab_size=96, pad_token_id=0,
)
ids = torch.arange(34).view(2, 17)  # an odd number of positions
for family in ("Qwen3", "Gemma2", "Phi3"):
    for along_sequence in (False, True):
        torch.manual_seed(0)
        shape = getattr(transformers, f"{family}Config")(**sizes)
        alone = getattr(transformers, f"{family}ForCausalLM")(shape).train()
        model = copy.deepcopy(alone)
        alone(input_ids=ids, labels=ids).loss.backward()
        ours = {"num_processes": 2, "tensor_parallel_size": 2, "sequence_parallel": along_sequence}
        try:
            split = shard(model, nbft.Config(distributed=ours), Ranks(rank, 2), "cpu")
        except nbft.ConfigError as error:
            print(family, error) if rank == 0 else None
            continue
        model(input_ids=ids, labels=ids).loss.backward()
        split.finish_gradients()
        for (name, p), theirs in zip(model.named_parameters(), alone.parameters()):
            found = p.grad.full_tensor()
            assert (found - theirs.grad).abs().max() < 1e-6, (family, along_sequence, name)
"""


DROPOUT = """
import sys, peft, torch, transformers
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from nbft.config.distributed import Distributed
from nbft.training.tensor_parallel import Split

rank, file, is_begun = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "begun"
distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(0)
shape = transformers.LlamaConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, vocab_size=32,
)
adapter = peft.LoraConfig(target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False)
model = peft.get_peft_model(transformers.LlamaForCausalLM(shape), adapter).train()
mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp_shard", "tp"))
split = Split(model, mesh, Distributed(tensor_parallel_size=2))
torch.rand(5 * rank)  # as the first draws for a sample, and the other does not
ids = torch.arange(16).view(2, 8)
seen = []
(dropout,) = (m for m in model.modules() if isinstance(m, torch.nn.Dropout))
dropout.register_forward_hook(lambda _, __, kept: seen.append(kept.to_local().detach()))
for step in (0, 0, 1):
    if is_begun:
        split.begin_batch(42, step)
    model(input_ids=ids, labels=ids)
found = [None, None]
distributed.all_gather_object(found, seen)
if rank == 0:
    print(all(torch.allclose(*pair, atol=1e-7) for pair in zip(*found)))
    print(torch.allclose(seen[0], seen[1]), torch.allclose(seen[1], seen[2]))
"""


def two(code, folder, *more):
    """Run code in two processes, and return what the first one prints."""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(folder / "meeting"), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return said[0][0]


def test_gradients_are_those_of_one_process_whatever_the_model(tmp_path):
    said = two(FAMILIES, tmp_path).splitlines()
    assert [line.split()[0] for line in said] == [
        "Phi3",
        "Phi3",
    ]  # it joins queries, keys and values
    assert "distributed.tensor_parallel_size=2: does not know how to split" in said[0]


@pytest.mark.parametrize(("how", "is_alike"), [("begun", True), ("not", False)])
def test_both_drop_the_same_numbers_and_others_in_each_batch(tmp_path, how, is_alike):
    assert two(DROPOUT, tmp_path, how).split() == [str(is_alike), "False", "False"]


@pytest.mark.parametrize(
    ("kept", "same"),
    [
        ([], [False, False, False]),
        (["sync_grad"], [True, False, False]),
        (["sync_param", "sync_moment"], [False, True, True]),
    ],
)
def test_what_is_not_split_is_kept_the_same(tmp_path, kept, same):
    assert two(TWO, tmp_path, *kept).split() == [str(one) for one in same]
