"""No step waits for a GPU: nothing is read back from the device, and a log reads all at once.

A fake tensor has a shape and no numbers, so whatever reads one back fails: `.item()`, `.tolist()`, a
branch on a tensor, an index of booleans.
"""

from __future__ import annotations

import collections
import functools
import traceback

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AutoModelForCausalLM, AutoTokenizer

from nbft import events
from nbft.decisions import PARTS, decide
from nbft.evaluate.generate import in_precision
from nbft.models.float8 import hadamard
from nbft.runs import Run
from nbft.training import optim
from nbft.training.fast import attention
from nbft.training.optim import BfloatAdamW, OffloadedOptimizer
from nbft.training.rows import read_rows
from nbft.training.throughput import Throughput
from nbft.training.trainer import build_trainer
from nbft.training.worker import work

OFF = {f"speed__{part}": "off" for part in PARTS[1:]} | {"data__padding_free": False}
JOINED = OFF | {"data__padding_free": True}
STEPS = {
    "all parts": {},
    "none": OFF,
    "padding_free": JOINED,
    "row_attention": JOINED | {"speed__row_attention": "auto"},
    "label_head": OFF | {"speed__label_head": "on"},
    "fused_lora": OFF | {"speed__fused_lora": "on"},
    "lean_norm": OFF | {"speed__lean_norm": "on"},
    "all weights": {"peft__method": "full"},
    "16 bits": {"model__dtype": "bfloat16"},
    "autocast": {"precision__mixed_precision": "bf16"},
    "scaled float16": {"model__dtype": "float16", "precision__mixed_precision": "fp16"},
    "sparse head": {"memory__use_sparse_head_and_loss_fn": True},
    "fused head": {"memory__use_fused_head_and_loss_fn": True},
    "moments in 16 bits": {"optimizer__moment_dtype": "bfloat16"},
    "masters": {"precision__mixed_precision": "bf16", "precision__fp16_opt_level": "O2"},
    "float8": {"precision__fp8": True, "peft__method": "full"},
    "recomputed layers": {"memory__gradient_checkpointing": True},
    "recomputed attention": {
        "memory__gradient_checkpointing": True,
        "memory__recompute_granularity": "full_attn",
    },
    "recomputed core": {
        "memory__gradient_checkpointing": True,
        "memory__recompute_granularity": "core_attn",
    },
    "all measures": {
        "logging__include_mfu": True,
        "logging__include_performance_metrics": True,
        "compute__peak_tflops": 1.0,
    },
    "padded tokens": OFF | {"logging__include_num_input_tokens_seen": "non_padding"},
    "all tokens": OFF | {"logging__include_num_input_tokens_seen": "all"},
    "the library's Trainer": {"training__method": "base"},
}


@pytest.fixture(autouse=True)
def no_fake_numbers_are_kept():
    """Leave no fake mask behind for the next test."""
    caches = attention._whole_mask, attention._places, hadamard
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def take_step(make_config, tmp_path):
    """Return a function that takes one step of a config with fake tensors, as the Trainer does."""

    def take(before_the_end=lambda loss: None, **changes):
        config = make_config(**{"optimizer__optim": "adamw_torch_fused"} | changes)
        decisions = decide(config)
        dtype = getattr(torch, decisions.dtype.value)
        model = AutoModelForCausalLM.from_pretrained(config.model.model_name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)
        rows = read_rows(config, tokenizer, print, print, padding_free=decisions.padding_free)
        trainer = build_trainer(
            config, decisions, model, tokenizer, rows, output_dir=tmp_path / "checkpoints",
            callbacks=[],
        )  # fmt: skip
        trainer.current_gradient_accumulation_steps = 1
        batch = next(iter(trainer.get_train_dataloader()))
        mode = FakeTensorMode()
        fake = functools.cache(lambda tensor: _faked(mode, tensor))
        for module in trainer.model.modules():
            for tensors in (module._parameters, module._buffers):
                tensors.update({k: fake(v) for k, v in tensors.items() if v is not None})
        batch = tree_map_only(torch.Tensor, mode.from_tensor, batch)
        trainer.optimizer = None
        with mode:
            trainer.create_optimizer()
            for _ in range(2):
                number = trainer._get_num_items_in_batch([batch], trainer.args.device)
                with in_precision(trainer.model, decisions.mixed_precision.value):
                    loss = trainer.training_step(trainer.model, dict(batch), number)
                before_the_end(loss)
                trainer._track_num_input_tokens(batch)
                trainer._clip_grad_norm(trainer.model)
                trainer.optimizer.step()
                trainer.model.zero_grad()
        return trainer

    return take


def _faked(mode, tensor):
    made = mode.from_tensor(tensor.detach())
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made


@pytest.mark.parametrize("name", STEPS)
def test_a_step_reads_nothing_back(name, take_step):
    trainer = take_step(**STEPS[name])
    if name in PARTS:
        assert trainer.nbft_decisions.uses(name)
    if name == "all parts":
        assert all(trainer.nbft_decisions.uses(part) for part in PARTS)


@pytest.mark.parametrize(
    "read", [torch.Tensor.item, torch.Tensor.tolist, bool, lambda loss: loss[None][loss[None] > 0]]
)
def test_what_reads_back_is_found(read, take_step):
    with pytest.raises(
        Exception, match=r"_local_scalar_dense|nonzero|\.tolist\(\) is not supported"
    ):
        take_step(before_the_end=read)


class Fetched(TorchDispatchMode):
    """Notes of each copy to another device whether it waits."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cuda":
            self.waits.append(not kwargs.get("non_blocking"))
        return func(*args, **kwargs)


def test_offloading_waits_once_for_all_gradients(monkeypatch):
    """Fake tensors can be on a GPU that is not there, as long as nothing is computed on it."""
    waited, returned = [], []

    def copied(tensor, other, non_blocking=False):
        if tensor.device.type == "cuda":
            returned.append((other.device.type, non_blocking))

    monkeypatch.setattr(optim, "_wait_for", waited.append)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "copy_", copied)
    with FakeTensorMode(), torch.no_grad():
        parameters = [torch.nn.Parameter(torch.empty(4, 4, device="cuda")) for _ in range(3)]
        offloaded = OffloadedOptimizer(
            [{"params": parameters}], lambda groups: BfloatAdamW(groups, lr=0.1)
        )
        for p in parameters:
            p.grad = torch.empty(4, 4, device="cuda")
        with Fetched() as fetched:
            offloaded.step()
    assert fetched.waits == [False] * 3
    assert [device.type for device in waited] == ["cuda"]
    assert returned == [("cpu", True)] * 3


class Reads(TorchDispatchMode):
    """Notes the stack of each value that is read back, by what the trainer is doing."""

    def __init__(self):
        super().__init__()
        self.place = ""
        self.stacks = collections.defaultdict(list)

    def note(self):
        here = "".join(traceback.format_stack(limit=16))
        if self.place and "torch/utils/data" not in here:  # batches are made on the host
            self.stacks[self.place].append(here)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.note()
        return func(*args, **(kwargs or {}))


RUNS = {
    "all parts": {},
    "none": OFF,
    "two batches a step": {"training__gradient_accumulation_steps": 2},
    "all weights": {"peft__method": "full"},
    "padded tokens": OFF | {"logging__include_num_input_tokens_seen": "non_padding"},
    "all measures": {
        "logging__include_mfu": True,
        "logging__include_performance_metrics": True,
        "compute__peak_tflops": 1.0,
    },
    "a budget of tokens": {"training__max_tokens": 10**6},
    "the library's Trainer": {"training__method": "base"},
}

LIBRARY_MASKS = ("none", "padded tokens", "the library's Trainer")
"""Without attention within each row, the library reads whether a batch needs a mask."""


@pytest.fixture
def reads_of(make_config, monkeypatch):
    """Return a function that trains six steps through the worker, logging every other one, and
    returns the stacks of what was read in the steps and in each log."""

    def reads_of(between=lambda loss: None, **changes):
        config = make_config(
            logging__logging_steps=2,
            evaluation__eval_strategy="no",
            evaluation__sample_count=0,
            checkpoint__save_strategy="no",
            optimizer__optim="adamw_torch_fused",
            **changes,
        )
        reads = Reads()
        for name in (
            "tolist",
            "cpu",
            "numpy",
            "__array__",
        ):  # of a CPU tensor, these run no operator
            usual = getattr(torch.Tensor, name)

            def noted(tensor, *args, usual=usual, **kwargs):
                reads.note()
                place, reads.place = reads.place, ""
                try:
                    return usual(tensor, *args, **kwargs)
                finally:
                    reads.place = place

            monkeypatch.setattr(torch.Tensor, name, noted)
        trainer = transformers.Trainer
        usual_step, usual_log = trainer.training_step, Throughput._maybe_log_save_evaluate

        def training_step(self, *args, **kwargs):
            reads.place = "step"
            loss = usual_step(self, *args, **kwargs)
            between(loss)
            return loss

        def log(self, *args, **kwargs):
            step = self.state.global_step
            reads.place = f"log {step}" if self.control.should_log else "step"
            usual_log(self, *args, **kwargs)
            reads.place = "" if step == self.state.max_steps else "step"

        monkeypatch.setattr(trainer, "training_step", training_step)
        monkeypatch.setattr(Throughput, "_maybe_log_save_evaluate", log)
        run = Run.create(config)
        with reads:
            work(run.path)
        assert run.status == "completed", run.problems
        logged = [
            event["step"] for event in events.read(run.events_path) if event["event"] == "log"
        ]
        assert logged == [1, 2, 4, 6]
        return reads.stacks

    return reads_of


@pytest.mark.parametrize("name", RUNS)
def test_a_log_reads_once_and_nothing_is_read_between_logs(name, reads_of):
    stacks = reads_of(**RUNS[name])
    steps = stacks["step"]
    if name in LIBRARY_MASKS:
        steps = [stack for stack in steps if "masking_utils.py" not in stack]
    assert not steps, steps[0]
    for step in (1, 2, 4, 6):
        assert len(stacks[f"log {step}"]) == 1, "\n".join(stacks[f"log {step}"])


def test_scaled_float16_reads_no_more(reads_of, older_gpu):
    """A fused optimiser leaves out a step that overflowed without the host knowing of it."""
    stacks = reads_of(model__dtype="auto", speed__lean_norm="off")
    assert older_gpu["trainer"].accelerator.scaler is not None
    assert not stacks["step"], stacks["step"][0]
    assert [len(stacks[f"log {step}"]) for step in (1, 2, 4, 6)] == [1] * 4


def test_a_read_between_logs_is_found(reads_of):
    assert len(reads_of(between=lambda loss: loss.item())["step"]) >= 6
