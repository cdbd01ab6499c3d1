"""Losses and gradients of each part of the fast path beside TRL's, on the same rows.

In 16 bits two right answers differ, so both are held against the same step in float32: nbft may be
twice as far from it as TRL is. Run by `benchmarks.gpu` in a process of its own, so that a kernel that
fails ends nothing else: `python -m benchmarks.correctness TASK`, with a list of tasks as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbft.bench.sides import nbft_config
from nbft.bench.task import Task
from nbft.config import Config
from nbft.decisions import PARTS, Decisions, decide

OFF = {f"speed.{part}": "off" for part in PARTS[1:]} | {"data.padding_free": False}

_MORE, _FLOOR = 2.0, 1e-3
_FP16_SCALE = 2.0**10
"""Keeps small gradients above the least number of float16, as a gradient scaler does."""


@dataclass(frozen=True)
class Checked:
    """One part of the fast path in one number type.

    Attributes:
        name: Method, number type and part.
        loss_error: Difference to the loss in float32, over that loss.
        gradient_error: Length of the difference to the gradients in float32, over their length.
        trl_loss_error: The same of TRL.
        trl_gradient_error: The same of TRL.
    """

    name: str
    loss_error: float
    gradient_error: float
    trl_loss_error: float
    trl_gradient_error: float

    @property
    def is_held(self) -> bool:
        """Whether both errors are at most about twice TRL's."""
        return (
            self.loss_error <= _MORE * self.trl_loss_error + _FLOOR
            and self.gradient_error <= _MORE * self.trl_gradient_error + _FLOOR
        )


def check(task: Task, *, each_part: bool = True) -> list[Checked]:
    """Check a task's first batch with all parts together, and with each part alone."""
    config = nbft_config(task)
    exact = config.apply(
        OFF | {"model.dtype": "float32", "precision.mixed_precision": "no"}
        | ({"quantization.bnb_4bit_compute_dtype": "float32"} if task.load_in_4bit else {})
    )  # fmt: skip
    reference, trl = _step(exact), _step(config.apply(OFF))
    parts = [part for part in PARTS if decide(config).uses(part)]
    configs = {"all parts": config}
    for part in parts if each_part and len(parts) > 1 else ():
        alone = OFF | ({} if part == "padding_free" else {f"speed.{part}": "on"})
        joined = part in ("padding_free", "row_attention")
        configs[part] = config.apply(alone | {"data.padding_free": joined})
    theirs = _errors(trl, reference)
    return [
        Checked(f"{_name(task)}: {name}", *_errors(_step(one), reference), *theirs)
        for name, one in configs.items()
    ]


def _name(task: Task) -> str:
    four_bit = "4-bit " if task.load_in_4bit else ""
    numbers = task.dtype if task.mixed_precision == "no" else task.mixed_precision
    return f"{four_bit}{task.method}, {numbers}"


def _step(config: Config) -> tuple[float, dict[str, Any]]:
    """Return the loss of the first batch and its gradients in float32, by name, on the CPU."""
    import torch

    from nbft.evaluate.generate import in_precision

    decisions = decide(config)
    scale = _FP16_SCALE if "16" in decisions.mixed_precision.value else 1.0
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(config, decisions, Path(folder))
        generator = torch.Generator().manual_seed(2)
        for name, p in trainer.model.named_parameters():
            if "lora_B" in name:  # zero at first, which would leave A without gradients
                p.data.copy_(torch.randn(p.shape, generator=generator) * 0.02)
        trainer.model.train()
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        with in_precision(trainer.model, decisions.mixed_precision.value):
            loss = trainer.compute_loss(trainer.model, batch)
        (loss * scale).backward()
        named = trainer.model.named_parameters()
        gradients = {n: p.grad.float().cpu() / scale for n, p in named if p.grad is not None}
        value = float(loss.detach())
    del trainer, batch, loss
    gc.collect()
    return value, gradients


def _trainer(config: Config, decisions: Decisions, folder: Path) -> Any:
    from transformers import set_seed

    from nbft.models.find import find_model
    from nbft.models.load import load_model, load_tokenizer, place, quiet
    from nbft.training.rows import read_rows
    from nbft.training.trainer import build_trainer

    with quiet():
        path = find_model(config.model.model_name, None, lambda text: None).path
        tokenizer = load_tokenizer(config, path)
        device = decisions.device.value
        rows = read_rows(
            config, tokenizer, lambda _: None, lambda _: None, padding_free=decisions.padding_free
        )
        set_seed(config.training.seed)  # the same adapters on both sides
        model = place(load_model(config, path, decisions.dtype.value, device), device)
        return build_trainer(
            config, decisions, model, tokenizer, rows, output_dir=folder, callbacks=[]
        )


def _errors(step: tuple[float, dict[str, Any]], exact: tuple[float, dict[str, Any]]) -> list[float]:
    """Return the errors of a loss and of gradients.

    Raises:
        RuntimeError: Other weights are trained.
    """
    (loss, gradients), (exact_loss, exact_gradients) = step, exact
    if gradients.keys() != exact_gradients.keys():
        odd = sorted(gradients.keys() ^ exact_gradients.keys())
        raise RuntimeError(f"{len(odd)} weights have gradients on one side only, such as {odd[0]}")
    pairs = [(g, exact_gradients[name]) for name, g in gradients.items()]
    difference = sum(float((g - other).square().sum()) for g, other in pairs) ** 0.5
    length = sum(float(other.square().sum()) for _, other in pairs) ** 0.5
    return [abs(loss - exact_loss) / abs(exact_loss), difference / length]


def main(given: str) -> None:
    """Check tasks and print what was found as JSON on the last line."""
    asked = json.loads(given)
    found = []
    for about in asked["tasks"]:
        for one in check(Task(**about), each_part=asked["each_part"] or not found):
            found.append(asdict(one) | {"held": one.is_held})
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
