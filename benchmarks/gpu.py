"""One command where a GPU is: correctness first, then speed and memory beside others, then the plan.

`python -m benchmarks gpu [--minutes 10] [--json FILE] [--rehearse]`. The most valuable answers come
first, the file is written after each, and what no time is left for is named. `--rehearse` runs one of
each kind on the CPU with the tiny model, so that the first real run is no debugging.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nbft
from nbft.atomic import replacing
from nbft.bench.compare import Trained, about_machine, losses_agree, train_side
from nbft.bench.rows import write_equal_rows
from nbft.bench.sides import SIDES, nbft_config
from nbft.bench.task import Task, make_task
from nbft.data.tiny_model import make_tiny_model
from nbft.devices import peak_flops
from nbft.errors import NbftError
from nbft.formatting import size
from nbft.hardware import available_devices, free_memory_bytes, release_memory
from nbft.models.find import find_local
from nbft.models.load import quiet

from .measurement import ROOT
from .training import SHARED

PEERS = ("trl-tuned", "trl", "unsloth")
STEPS = 8

LLAMA_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "tie_word_embeddings": False,
}
"""Llama 3 8B's config.json. Its weights are random: speed and memory do not depend on them."""

_MINIATURE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
_MINIATURE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024}
"""What differs from it in a rehearsal."""

_SMALL = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
_SMALL |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152}
_SMALL |= {"tie_word_embeddings": True}
"""What differs from it in SmolLM2-135M, which is the default model."""

_LEAST_BYTES, _WHOLE_BYTES, _DISK_BYTES = 40 * 2**30, 120 * 2**30, 20 * 2**30
"""Free memory that its LoRA on 2 × 4,096 tokens is tried with, that it is tried with without
recomputing activations, and what its weights take on the disk."""


@dataclass(frozen=True)
class Bar:
    """A published speed to be held against.

    Attributes:
        tokens_per_second: The speed.
        machine: What it was measured on.
        source: Who published it.
        target: What nbft is to reach on one H200.
    """

    tokens_per_second: float
    machine: str
    source: str
    target: float


BARS = {
    "Llama 3 8B, 2 rows of 4,096 tokens": Bar(12_473, "one H100", "NeMo Automodel", 15_000),
    "Llama 3 8B, 8 rows of at most 128 tokens": Bar(2_645, "one H100", "Soup", 3 * 2_645),
}


@dataclass(frozen=True)
class Item:
    """Something to measure.

    Attributes:
        kind: preparation, correctness, speed or forecast.
        name: What is measured, unique in its kind.
        seconds: Time that it is expected to take.
        measure: Returns what was found, and gets the time that is left, in seconds.
        why_not: Why it cannot be measured here; "" if it can.
    """

    kind: str
    name: str
    seconds: float
    measure: Callable[[float], dict[str, Any]]
    why_not: str = ""


class Record:
    """The file of results, written whole after each.

    Args:
        path: The file.
        about: What the results are about.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.content = path, {**about, "results": [], "left_out": []}
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **result: Any) -> None:
        """Add a result."""
        self.content["results"].append(result)
        self.write()

    def leave_out(self, item: Item, why: str) -> None:
        """Note that something was not measured, and why."""
        self.content["left_out"].append({"kind": item.kind, "name": item.name, "why": why})
        self.write()

    def write(self) -> None:
        """Write the file."""
        with replacing(self.path) as partial:
            partial.write_text(json.dumps(self.content, indent=2), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Measure what the time allows and return the exit status: 1 if something is not right."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for everything")
    parser.add_argument(
        "--json", type=Path, default=ROOT / ".artifacts" / "benchmarks" / "gpu.json"
    )
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with the tiny model")
    parser.add_argument(
        "--python", action="append", default=[], metavar="SIDE=PYTHON",
        help="Python of the environment of another system, such as unsloth=~/unsloth/bin/python",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    end = time.monotonic() + given.minutes * 60
    devices = available_devices()
    if "cuda" not in devices and not given.rehearse:
        parser.error("no NVIDIA GPU was found. Use --rehearse to try the command on the CPU.")
    device = "cpu" if given.rehearse else "cuda"
    about = {
        "began": time.time(),
        "minutes": given.minutes,
        "rehearsal": given.rehearse,
        "machine": about_machine(device),
        "bars": {name: asdict(bar) for name, bar in BARS.items()},
    }
    record = Record(given.json, about)
    pythons = dict(one.partition("=")[::2] for one in given.python)
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder), device, pythons, is_rehearsal=given.rehearse)
        measure(bench.items(), record, end)
    record.content["ended"] = time.time()
    record.write()
    print(f"The results are in {given.json}.", flush=True)
    return 1 if any(map(_is_wrong, record.content["results"])) else 0


def _is_wrong(result: Mapping[str, Any]) -> bool:
    """Whether nbft failed or is not right; another system may run out of memory."""
    is_ours = result["kind"] != "speed" or result["name"].endswith(", nbft")
    return result.get("held") is False or (is_ours and "error" in result)


def measure(items: Iterator[Item], record: Record, end: float) -> None:
    """Measure one after the other, and leave out what the time does not suffice for.

    Args:
        items: What to measure, the most valuable first.
        record: Gets the results.
        end: When to be done, by the monotonic clock.
    """
    iterator = iter(items)
    while (item := _next(iterator, record)) is not None:
        left = end - time.monotonic()
        why_not = item.why_not
        if not why_not and item.seconds > left:
            why_not = f"It takes about {item.seconds:.0f} s, and {max(left, 0):.0f} s are left."
        if why_not:
            record.leave_out(item, why_not)
            print(f"  left out  {item.kind}: {item.name}: {why_not}", flush=True)
            continue
        began = time.monotonic()
        try:
            found = item.measure(left)
        except Exception as error:  # the others are measured all the same
            found = {"error": str(error) or repr(error)}
        seconds = round(time.monotonic() - began, 1)
        record.add(kind=item.kind, name=item.name, **found, seconds=seconds)
        print(f"{seconds:>6.1f} s  {item.kind}: {item.name}: {_in_words(found)}", flush=True)


def _next(items: Iterator[Item], record: Record) -> Item | None:
    """Return the next item; None after the last, or if the rows of one cannot be made."""
    try:
        return next(items, None)
    except Exception as error:
        record.add(kind="preparation", name="what comes next", error=str(error) or repr(error))
        return None


def _in_words(found: Mapping[str, Any]) -> str:
    if "error" in found:
        return f"failed: {found['error']}"
    shown = {name: value for name, value in found.items() if isinstance(value, int | float | str)}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in shown.items()
    )


class _Bench:
    """What is measured, in order."""

    def __init__(
        self, folder: Path, device: str, pythons: dict[str, str], *, is_rehearsal: bool
    ) -> None:
        self.folder, self.device, self.pythons = folder, device, pythons
        self.is_rehearsal = is_rehearsal
        self.steps = 3 if is_rehearsal else STEPS
        self.large: dict[str, Task] = {}
        self.ours: dict[str, Trained] = {}
        self.peak = peak_flops(device, None, available_devices().get(device, ""))

    def items(self) -> Iterator[Item]:
        """Yield what to measure, the most valuable first."""
        small = self._small()
        short = self._real_rows(small, 512)
        kinds = self._kinds(short)
        if self.is_rehearsal:
            yield from self._correctness("every method", kinds, each_part=False)
        else:
            for name, task in kinds:
                yield from self._correctness(name, [(name, task)], each_part=True)
        yield Item(
            "preparation",
            f"random weights in the shape of {'a miniature' if self.is_rehearsal else 'Llama 3 8B'}",
            5 if self.is_rehearsal else 60,
            lambda _: self._make_large(short),
            self._why_not_large(),
        )
        for name, task in self.large.items():
            yield from self._speed(name, task, ())
        for name, task in self.large.items():
            yield from self._peers(name, task, PEERS[::2] if self.is_rehearsal else PEERS)
        if self.is_rehearsal:
            return
        yield from self._speed("short rows", short, PEERS)
        for tokens in (2048, 512, 8192, 1024, 4096):
            rows = self.folder / f"{tokens}.jsonl"
            batch = max(1, 8192 // tokens)
            source = Path(short.rows)
            write_equal_rows(rows, source, short.model, tokens, batch * self.steps)
            task = replace(short, rows=str(rows), batch_rows=batch)
            yield from self._speed(f"rows of {tokens:,} tokens", task, PEERS[:1])
        for name, task in kinds[1:]:
            yield from self._speed(f"short rows, {name}", task, PEERS[:1])

    def _small(self) -> str:
        """Return the default model, or one of its shape where it is not on this machine."""
        found = find_local(nbft.Config().model.model_name, None)
        if found and not self.is_rehearsal:
            return str(found.path)
        with quiet():
            tiny = make_tiny_model(self.folder / "tiny")
        if self.is_rehearsal:
            return str(tiny)
        _write_random_llama(self.folder / "small", tiny, self.device, _SMALL)
        return str(self.folder / "small")

    def _real_rows(self, model: str, max_length: int) -> Task:
        """Return LoRA on real rows: those of Alpaca, the bundled sample where that is not at hand."""
        alpaca = SHARED / "alpaca.json"
        data = {"path": str(alpaca)} if alpaca.is_file() else {"dataset_name": "alpaca"}
        config = nbft.Config(
            model={"model_name": model},
            data={**data, "max_length": max_length, "split_ratio": 1.0},
            training={"per_device_train_batch_size": 8},
            peft={"method": "lora", "r": 16},
            compute={"device": self.device},
        )
        folder = self.folder / f"rows-{max_length}"
        folder.mkdir()
        task = make_task(config, folder, steps=self.steps)
        return replace(task, dtype="bfloat16", mixed_precision="no")

    def _kinds(self, lora: Task) -> list[tuple[str, Task]]:
        """Return each method and number type that is checked."""
        kinds = [
            ("LoRA, bf16", lora),
            ("LoRA, fp16", replace(lora, dtype="float16", mixed_precision="fp16")),
            ("all weights", replace(lora, method="full", dtype="float32", mixed_precision="bf16")),
        ]
        if importlib.util.find_spec("bitsandbytes"):
            kinds.insert(1, ("4-bit LoRA", replace(lora, load_in_4bit=True)))
        return kinds

    def _why_not_large(self) -> str:
        if self.is_rehearsal:
            return ""
        free, disk = free_memory_bytes(self.device), shutil.disk_usage(self.folder).free
        if free < _LEAST_BYTES:
            return f"The GPU has {size(free)} free; it needs {size(_LEAST_BYTES)}."
        if disk < _DISK_BYTES:
            return f"The disk has {size(disk)} free; it needs {size(_DISK_BYTES)}."
        return ""

    def _make_large(self, short: Task) -> dict[str, Any]:
        """Make the tasks of the published speeds, in miniature in a rehearsal."""
        model, longest = self.folder / "llama-3-8b", self.folder / "long.jsonl"
        _write_random_llama(
            model, Path(short.model), self.device, _MINIATURE if self.is_rehearsal else {}
        )
        tokens = 64 if self.is_rehearsal else 4096
        write_equal_rows(longest, Path(short.rows), short.model, tokens, 2 * self.steps)
        recomputes = not self.is_rehearsal and free_memory_bytes(self.device) < _WHOLE_BYTES
        task = replace(short, model=str(model), gradient_checkpointing=recomputes)
        long_rows = replace(task, rows=str(longest), batch_rows=2)
        if self.is_rehearsal:
            self.large = {f"a miniature, 2 rows of {tokens} tokens": long_rows}
        else:
            brief = self._real_rows(short.model, 128)
            of_each = long_rows, replace(task, rows=brief.rows, r=8)
            self.large = dict(zip(BARS, of_each, strict=True))
        return {"recomputes_activations": recomputes}

    def _correctness(
        self, name: str, kinds: list[tuple[str, Task]], *, each_part: bool
    ) -> Iterator[Item]:
        given = {"tasks": [asdict(task) for _, task in kinds], "each_part": each_part}

        def check(left: float) -> dict[str, Any]:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.correctness", json.dumps(given)],
                capture_output=True, text=True, cwd=ROOT, timeout=left, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError((done.stderr.strip().splitlines() or ["it ended"])[-1])
            parts = json.loads(done.stdout.splitlines()[-1])
            worst = max(one["gradient_error"] for one in parts)
            held = all(one["held"] for one in parts)
            return {"held": held, "gradient_error": worst, "parts": parts}

        yield Item("correctness", name, 10 if self.is_rehearsal else 30, check)

    def _speed(self, name: str, task: Task, peers: tuple[str, ...]) -> Iterator[Item]:
        yield self._trained("nbft", name, task)
        yield Item("forecast", name, 0, lambda _: self._forecast(name, task))
        yield from self._peers(name, task, peers)

    def _peers(self, name: str, task: Task, peers: tuple[str, ...]) -> Iterator[Item]:
        for peer in peers:
            why_not = SIDES[peer].why_unavailable(task, elsewhere=peer in self.pythons)
            yield replace(self._trained(peer, name, task), why_not=why_not)

    def _trained(self, side: str, name: str, task: Task) -> Item:
        seconds = 8.0 if self.is_rehearsal else 75.0 if "8B" in name else 30.0

        def train(left: float) -> dict[str, Any]:
            found = train_side(side, task, self.pythons.get(side), timeout_seconds=left)
            result: dict[str, Any] = {
                "side": side,
                "tokens_per_second": found.tokens_per_second,
                "mfu": self._mfu(task, found),
                "peak_bytes": found.peak_bytes,
                "first_loss": found.losses[0],
            }
            if side == "nbft":
                self.ours[name] = found
                if bar := BARS.get(name):
                    result["of_the_bar"] = found.tokens_per_second / bar.tokens_per_second
                    result["of_the_target"] = found.tokens_per_second / bar.target
            elif ours := self.ours.get(name):
                result["losses_agree"] = losses_agree(ours, found)
                if result["losses_agree"]:
                    result["nbft_is_faster_by"] = ours.tokens_per_second / found.tokens_per_second
                result["memory_of_nbft"] = ours.peak_bytes / found.peak_bytes
            return result

        return Item("speed", f"{name}, {SIDES[side].name}", seconds, train)

    def _mfu(self, task: Task, found: Trained) -> float | None:
        """Return the share of the device's peak; None where that is not known."""
        if not self.peak:
            return None
        from nbft.plan.memory import model_shape, trainable_parameters
        from nbft.training.throughput import flops_per_token

        shape = model_shape(Path(task.model))
        if shape is None:
            return None
        trained = trainable_parameters(nbft_config(task), shape)
        looked_up = 0 if shape.is_tied else shape.vocab_size * shape.hidden_size
        total = shape.parameters - looked_up + (trained if task.method == "lora" else 0)
        rows = task.batch_rows * len(found.tokens)
        a_token = flops_per_token(
            total, trained, shape.num_layers, shape.hidden_size, sum(found.tokens) / rows
        )
        return a_token * found.tokens_per_second / self.peak

    def _forecast(self, name: str, task: Task) -> dict[str, Any]:
        """Hold the plan against what nbft's training took."""
        if name not in self.ours:
            raise NbftError("there is nothing to hold the plan against")
        ours, plan = self.ours[name], nbft.make_plan(nbft_config(task))
        if plan.errors or plan.memory_bytes is None:
            raise NbftError(" ".join(map(str, plan.errors)) or "the plan has no number")
        seconds = sum(ours.tokens) / ours.tokens_per_second
        return {
            "memory_planned_of_measured": plan.memory_bytes / ours.peak_bytes,
            "seconds_planned_of_measured": plan.stages["training"] / seconds,
        }


def _write_random_llama(
    folder: Path, tokenizer: Path, device: str, changes: Mapping[str, Any]
) -> None:
    """Write a model of Llama 3 8B's shape, but for some changes, with random weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    with quiet(), torch.device(device):
        shape = LlamaConfig(**{**LLAMA_8B, **changes})
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    del model
    release_memory()
