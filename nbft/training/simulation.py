"""A training step with tensors that have a shape and no contents: its memory, without the memory.

Runs the trainer that a run would get, on a model of one and of two layers, and adds up the storages
that live at the same time; the layers in between grow in a straight line. No weights are read and no
GPU is needed: the step runs on fake CPU tensors with the number types and the attention of the
device that is planned for. Whole numbers stay real, since the length of rows and what is trained
depends on them. Runs in a process of its own, started by `nbft.plan.rehearsal`.

Source: torch's FakeTensorMode; tracking storages as in torch.distributed._tools.mem_tracker, which
fails on frozen parameters.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import torch
import transformers
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nbft.config import Config
from nbft.decisions import Decisions, decide
from nbft.hardware import Choice
from nbft.methods import IGNORE_INDEX, method_of
from nbft.models.find import find_described
from nbft.models.load import quiet
from nbft.models.reward_head import use_reward_head
from nbft.training.beginning import NOTHING_BUT_STEPS
from nbft.training.fast import attention
from nbft.training.rows import TrainingRows
from nbft.training.trainer import build_trainer

_aten = torch.ops.aten

_STEPS = 2
"""The optimizer has its state from the first step on, and a gradient before its second."""


class ShapesOnly(TorchDispatchMode):
    """Inside a FakeTensorMode: keeps whole numbers real, and counts the bytes of all storages.

    Attributes:
        stage: What goes on, set from outside.
        live_bytes: All storages that exist now.
        peak_bytes: The most of them in each stage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage = ""
        self.live_bytes = 0
        self.peak_bytes: defaultdict[str, int] = defaultdict(int)
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator and count what it returns."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            if func is _aten._local_scalar_dense.default:
                return _read(args[0])
            if func in (_aten.allclose.default, _aten.equal.default):
                return True  # a part that tries itself works
            found = func(*_with_numbers(func, args), **kwargs)
        elif tensors or _is_whole(func, args, kwargs):
            with unset_fake_temporarily():
                found = func(*args, **kwargs)
        else:
            found = func(*args, **kwargs)
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        return found

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live_bytes += size
        self.peak_bytes[self.stage] = max(self.peak_bytes[self.stage], self.live_bytes)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live_bytes -= size


def _read(tensor: torch.Tensor) -> float | bool:
    """Return the value of a tensor without contents: 1 for a measure, never a length."""
    if tensor.is_floating_point():
        return 1.0
    if tensor.dtype in (torch.bool, torch.uint8):  # a byte of a number that is logged
        return True
    raise NotImplementedError("a size of this model's step depends on the contents of a tensor")


def _with_numbers(func: Any, args: Any) -> Any:
    """Return the arguments with numbers of places instead of a mask: their count is known."""
    if "index" not in func._schema.name or len(args) < 2 or not isinstance(args[1], (list, tuple)):
        return args
    places: list[Any] = []
    for part in args[1]:
        is_mask = isinstance(part, torch.Tensor) and part.dtype is torch.bool
        if is_mask and not isinstance(part, FakeTensor):
            with unset_fake_temporarily():
                places += part.nonzero(as_tuple=True)
        else:
            places.append(part)
    return (args[0], places, *args[2:])


_WHOLE_BY_DEFAULT = ("aten::arange", "aten::full", "aten::randperm", "aten::randint")


def _is_whole(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a new tensor has whole numbers, or is one number such as a count of steps."""
    dtype, name = kwargs.get("dtype"), func._schema.name
    if dtype is None and name in _WHOLE_BY_DEFAULT:
        numbers = args[1:] if name == "aten::full" else args
        return not any(isinstance(number, float) for number in numbers)
    if dtype is not None and not dtype.is_floating_point:
        return True
    is_sized = bool(args) and isinstance(args[0], (list, tuple))
    return name == "aten::scalar_tensor" or (is_sized and torch.Size(args[0]).numel() <= 1)


def _replace_parameters(
    module: torch.nn.Module, function: Any, recurse: bool = True
) -> torch.nn.Module:
    """Stand in for Module._apply, which exchanges fake parameters in a way that fails."""
    for child in module.children():
        child._apply(function)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                found = function(parameter)
            if found is not parameter:
                made = torch.nn.Parameter(found, requires_grad=parameter.requires_grad)
                module._parameters[name] = made
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


@contextlib.contextmanager
def _as_on(device: str) -> Iterator[None]:
    """Let a step on the CPU keep what it would keep on a device.

    There FlashAttention keeps no weights, and TRL's head computes its shares in place.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.nn.Module, "_apply", _replace_parameters))
        for name in ("_whole_mask", "_places", "_apart"):  # none without contents stay
            fresh = functools.lru_cache(getattr(attention, name).__wrapped__)
            stack.enter_context(mock.patch.object(attention, name, fresh))
        if device != "cpu":
            stack.enter_context(mock.patch.object(attention, "SHORT_ROW_TOKENS", 0))
            for name in ("_forward_tile", "_backward_tile"):
                place = f"trl.kernels.chunked_logprob.{name}"
                stack.enter_context(mock.patch(place))
        yield


def simulate(config: Config, lengths: Sequence[int]) -> dict[str, Any]:
    """Return the memory of a training step as JSON values.

    Args:
        config: The config; its model needs a config.json on this machine and no weights.
        lengths: Tokens of the rows of the fullest batch.

    Returns:
        `peak_bytes` of all tensors at the fullest moment; `parts`, the bytes of weights, adapter
        and optimizer; `layers`, how many were run; `total_layers`.

    Raises:
        FileNotFoundError: There is no config.json.
    """
    decisions = decide(config)
    folder = find_described(config.model.model_name, config.model.model_revision)
    if folder is None:
        raise FileNotFoundError(f"there is no config.json of {config.model.model_name}")
    trust = config.model.trust_remote_code
    shape = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    total = int(_text(shape).num_hidden_layers)
    period = _period(getattr(_text(shape), "layer_types", None) or [""])
    layers = [min(period, total), min(2 * period, total)]
    runs = []
    for number in layers:
        _set_layers(shape, number)
        runs.append(_step(config, decisions, shape, lengths))
    few, more = runs

    def whole(one: int, two: int) -> int:
        if layers[0] == layers[1]:
            return one
        return one + round((two - one) * (total - layers[0]) / (layers[1] - layers[0]))

    peaks, parts = (
        {name: whole(few[kind][name], more[kind][name]) for name in few[kind]}
        for kind in ("peaks", "parts")
    )
    return {
        "peak_bytes": max(peaks.values()),
        "parts": parts,
        "layers": layers,
        "total_layers": total,
    }


def _text(shape: Any) -> Any:
    return shape.get_text_config()


def _period(kinds: Sequence[str]) -> int:
    """Return after how many layers their kinds repeat.

    >>> _period(["sliding", "full"] * 3), _period(["full"] * 4)
    (2, 1)
    """
    for period in range(1, len(kinds)):
        if all(kind == kinds[n % period] for n, kind in enumerate(kinds)):
            return period
    return len(kinds)


def _set_layers(shape: Any, number: int) -> None:
    """Change the number of layers of a transformers config, also of a decoder beside an encoder."""
    text = _text(shape)
    for name in ("num_hidden_layers", "num_decoder_layers"):
        if getattr(text, name, None) is not None:
            setattr(text, name, number)
    if kinds := getattr(text, "layer_types", None):
        with contextlib.suppress(AttributeError):  # some classes work it out themselves
            text.layer_types = [kinds[n % len(kinds)] for n in range(number)]


def _step(
    config: Config, decisions: Decisions, shape: Any, lengths: Sequence[int]
) -> dict[str, dict[str, int]]:
    """Train two steps and return the peak of each stage, and the bytes of what stays."""
    tracker = ShapesOnly()
    dtype = getattr(torch, decisions.dtype.value)
    on_cpu = replace(decisions, device=Choice("cpu", "simulated"))
    scores_answers = method_of(config).scores_answers
    kind = getattr(transformers, config.model.auto_class_name)
    if scores_answers:
        kind, shape.num_labels = transformers.AutoModelForSequenceClassification, 1
    arguments = dict(config.model.model_init_kwargs)
    if config.model.attn_implementation:
        arguments["attn_implementation"] = config.model.attn_implementation
    with (
        quiet(),
        tempfile.TemporaryDirectory() as folder,
        _as_on(decisions.device.value),
        FakeTensorMode(allow_non_fake_inputs=True),
        tracker,
    ):
        tracker.stage = "building"
        short = shortened(config, len(lengths), steps=_STEPS).apply({"quantization": {}})
        again = _STEPS * short.training.gradient_accumulation_steps
        model = kind.from_config(shape, dtype=dtype, **arguments)
        if scores_answers:
            use_reward_head(model)
        trainer = build_trainer(
            short,
            on_cpu,
            model,
            _tokenizer(),
            rows_of(config, [lengths] * again),
            output_dir=Path(folder),
            callbacks=[],
        )
        _note_stages(trainer, tracker)
        trainer.train()
        parts = _parts(trainer, config)
    peaks = {stage: tracker.peak_bytes[stage] for stage in ("loss", "backward", "update")}
    return {"peaks": peaks, "parts": parts}


def shortened(config: Config, rows: int, *, steps: int) -> Config:
    """Return a config of a few steps on batches of some rows, without all that is not a step."""
    return config.apply(
        {
            "training.max_steps": steps,
            "training.per_device_train_batch_size": rows,
            "training.gradient_accumulation_steps": min(
                2, config.training.gradient_accumulation_steps
            ),
            "data.max_tokens_per_batch": None,
            "data.packing": False,
            "data.padding_free": None if not config.data.packing else True,
            "data.dataloader_num_workers": 0,
            "data.dataloader_prefetch_factor": None,
            "data.dataloader_persistent_workers": False,
            "data.train_sampling_strategy": "random",
            **NOTHING_BUT_STEPS,
            "logging.logging_strategy": "no",
            "compute.torch_compile": False,
            # What a step takes does not depend on the initial weights, which may need real rows.
            "peft.init_lora_weights": "default",
            "peft.tinit": None,
            "peft.tfinal": None,
        }
    )


def rows_of(config: Config, batches: Sequence[Sequence[int]]) -> TrainingRows:
    """Return rows of some lengths, batch by batch; a token's number is of no consequence."""
    lengths = [length for batch in batches for length in batch]
    values: dict[str, list[Any]] = {
        "input_ids": [[1] * length for length in lengths],
        "labels": [[IGNORE_INDEX] + [1] * (length - 1) for length in lengths],
    }
    method = method_of(config)
    values["prompt_tokens"] = [length // 2 for length in lengths]
    columns: dict[str, Any] = {name: [0.0] * len(lengths) for name in method.value_names}
    columns |= {
        column: values[part]
        for name in method.sequences
        for part in values
        if (column := method.column(name, part)) in method.columns
    }
    known: Any = None  # what reports the rows reads them, and nothing does so here
    return TrainingRows(datasets.Dataset.from_dict(columns), known, None, is_stream=False)


@functools.cache
def _tokenizer() -> Any:
    """Return a tokenizer of two words, since nothing is tokenised."""
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<end>": 0, "<pad>": 1}, unk_token="<pad>"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", pad_token="<pad>"
    )


def _note_stages(trainer: Any, tracker: ShapesOnly) -> None:
    """Let a tracker know whether the loss, its gradients or the update is being computed."""
    step, backward = trainer.training_step, trainer.accelerator.backward

    def noted_step(*args: Any, **kwargs: Any) -> Any:
        tracker.stage = "loss"
        return step(*args, **kwargs)

    def noted_backward(*args: Any, **kwargs: Any) -> None:
        tracker.stage = "backward"
        backward(*args, **kwargs)
        tracker.stage = "update"

    trainer.training_step, trainer.accelerator.backward = noted_step, noted_backward


def _parts(trainer: Any, config: Config) -> dict[str, int]:
    parameters = list(trainer.model.parameters())
    frozen = [p for p in parameters if not (p.requires_grad and config.peft.trains_adapter)]
    trained = [p for p in parameters if p.requires_grad and config.peft.trains_adapter]
    state = (value for values in trainer.optimizer.state.values() for value in values.values())
    tensors = [value for value in state if isinstance(value, torch.Tensor)]
    groups = {"weights": frozen, "adapter": trained, "optimizer": tensors}
    return {name: _bytes(group) for name, group in groups.items()}


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the storages of some tensors, shared ones once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    config = Config(**asked["config"]).own()  # its code was checked by the plan
    sys.stdout.write(json.dumps(simulate(config, asked["lengths"])))
