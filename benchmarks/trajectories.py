"""Losses of eight kinds of runs, step by step, for comparing two versions of nbft.

`python -m benchmarks.trajectories record FILE` trains each kind for 20 steps and writes losses,
gradient norms and held-out losses; `compare FILE FILE` names every number that differs. Two files
are comparable if they were recorded on the same machine with the same libraries. It is no goal of
`make bench`: a refactoring should leave every number as it was, a change of the mathematics should
not.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STEPS = 20
_MEASURES = ("loss", "grad_norm", "eval_loss")

_DEFAULT_MODEL = {"model.model_name": "smollm2-135m", "data.max_length": 96}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"peft.method": "full", "training.learning_rate": 1e-4},
    "4-bit": {**_DEFAULT_MODEL, "quantization.load_in_4bit": True},
    "packed": {"data.packing": True},
    "streamed": {"data.train.stream": True},
    "resumed": {},
    "bf16": {**_DEFAULT_MODEL, "model.dtype": "bfloat16"},
    "base": {"training.method": "base"},
    "default": _DEFAULT_MODEL,
}


def record(path: Path) -> None:
    """Train each kind and write its numbers."""
    from nbft.data.tiny_model import make_tiny_model
    from nbft.models.load import quiet

    found = {}
    with tempfile.TemporaryDirectory() as name, quiet():
        model = make_tiny_model(Path(name) / "model")
        for kind, changes in KINDS.items():
            began = time.monotonic()
            found[kind] = _train(kind, changes, model, Path(name) / kind)
            print(
                f"{kind}: {len(found[kind])} numbers, {time.monotonic() - began:.0f} s", flush=True
            )
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _train(kind: str, changes: Mapping[str, Any], model: Path, folder: Path) -> list[Any]:
    """Return [step, measure, value] in the order of the events."""
    import nbft
    from nbft import events
    from nbft.data.samples import sample_path
    from nbft.launchers.kernel import join
    from nbft.launchers.launch import start

    lines = sample_path("grammar", "train").read_text(encoding="utf-8").splitlines()
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(lines[:120]), encoding="utf-8")
    config = nbft.Config(
        model={"model_name": str(model), "dtype": "float32"},
        data={
            "train": {
                "datasets": [
                    {
                        "path": str(rows),
                        "prompt_template": "Correct: {input}\n",
                        "completion_template": "{target}",
                    }
                ]
            },
            "max_length": 128,
        },
        training={
            "output_dir": str(folder / "runs"),
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 2e-3,
        },
        evaluation={"sample_count": 1, "sample_max_new_tokens": 4, "eval_steps": 10},
    ).apply(changes)
    run = start(config)
    if kind == "resumed":
        while run.step < 3 and run.status in ("queued", "running"):
            time.sleep(0.01)
        run.stop()
        join(run)
        run.resume()
        while run.status not in ("completed", "failed"):
            time.sleep(0.1)
    join(run)
    assert run.status == "completed", run.problems
    return [
        [event["step"], measure, event[measure]]
        for event in events.current(run.events())
        if event["event"] in ("log", "eval")
        for measure in _MEASURES
        if measure in event
    ]


def compare(first: Path, second: Path) -> int:
    """Print every number in which two recordings differ, and return how many do."""
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
    number = differing = 0
    for kind in KINDS:
        one, two = before.get(kind, []), after.get(kind, [])
        number += len(one)
        pairs = [(a, b) for a, b in zip(one, two, strict=False) if a != b]
        pairs += [(a, None) for a in one[len(two) :]] + [(None, b) for b in two[len(one) :]]
        differing += len(pairs)
        for a, b in pairs[:5]:
            print(f"{kind}: {a} became {b}")
        if len(pairs) > 5:
            print(f"{kind}: and {len(pairs) - 5} more")
    print(f"{number:,} numbers, {differing:,} differ")
    return differing


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record", file]:
            record(Path(file))
        case ["compare", first, second]:
            sys.exit(compare(Path(first), Path(second)) > 0)
        case _:
            sys.exit("usage: python -m benchmarks.trajectories record FILE | compare FILE FILE")
