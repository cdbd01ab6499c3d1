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


@pytest.mark.parametrize(
    ("kept", "same"),
    [
        ([], [False, False, False]),
        (["sync_grad"], [True, False, False]),
        (["sync_param", "sync_moment"], [False, True, True]),
    ],
)
def test_what_is_not_split_is_kept_the_same(tmp_path, kept, same):
    command = [sys.executable, "-c", TWO]
    both = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting"), *kept],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0].split() == [str(one) for one in same]
