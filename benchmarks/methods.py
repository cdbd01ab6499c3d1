"""Every method and adapter on the default model and the same rows: scores, time, memory, parameters.

The rows are the bundled sentences with a mistake. Supervised training sees the corrections, preference
training also the sentence with its mistake as the worse answer, and rewards only compare what the model
writes with the correction. Each run has a process of its own; times are CPU seconds on one thread.
The Markdown table of `docs/methods.md` is written to `.artifacts/benchmarks/methods.md`.

`NBFT_METHODS=lora` takes only the runs with that in their name.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nbft.data.samples import sample_path

from .measurement import ROOT, Measurement, run_python

TABLE = ROOT / ".artifacts" / "benchmarks" / "methods.md"
STEPS, BATCH, SCORED_ROWS = 40, 8, 64
_PROMPT = "Correct the sentence.\n{input}\n"

_PREFERENCE: dict[str, Any] = {"rows": "pairs", "training.learning_rate": 5e-5}
_GENERATED: dict[str, Any] = {
    "rows": "prompts",
    "training.learning_rate": 1e-4,
    "grpo.num_generations": 4,
    "grpo.max_completion_length": 24,
    "grpo.rewards": [{"function": "benchmarks.methods:closeness"}],
}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"rows": "answers"},
    "dpo": {"training.method": "dpo", **_PREFERENCE},
    "orpo": {"training.method": "orpo", **_PREFERENCE, "training.learning_rate": 3e-4},
    "cpo": {"training.method": "cpo", **_PREFERENCE},
    "kto": {"training.method": "kto", **_PREFERENCE, "rows": "labels"},
    "grpo": {"training.method": "grpo", **_GENERATED},
    "rloo": {"training.method": "rloo", **_GENERATED},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "all weights": {"peft.method": "full", "training.learning_rate": 5e-5},
    "lora": {},
    "lora, 4 bits": {"quantization.load_in_4bit": True},
    "lora, DoRA": {"peft.use_dora": True},
    "lora, rsLoRA": {"peft.use_rslora": True},
    "lora, LoRA+": {"peft.loraplus_lr_ratio": 16.0, "training.learning_rate": 1e-4},
    **{
        f"lora, {label}": {"peft.init_lora_weights": name, "training.learning_rate": 1e-4}
        for label, name in (("PiSSA", "pissa_niter_4"), ("OLoRA", "olora"), ("EVA", "eva"))
    },
    "lora, LoftQ in 4 bits": {
        "peft.init_lora_weights": "loftq",
        "quantization.load_in_4bit": True,
    },
    "adalora": {"peft.method": "adalora", "training.learning_rate": 2e-3},
    "vera": {"peft.method": "vera", "peft.r": 256, "training.learning_rate": 1e-2},
    "oft": {"peft.method": "oft", "training.learning_rate": 1e-3},
    "ia3": {"peft.method": "ia3", "training.learning_rate": 1e-2},
    "ln_tuning": {"peft.method": "ln_tuning", "training.learning_rate": 3e-3},
    "prompt_tuning": {"peft.method": "prompt_tuning", "training.learning_rate": 3e-2},
}


def closeness(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Reward completions by how alike they are to the corrections, from 0 to 1."""
    from difflib import SequenceMatcher

    pairs = zip(completions, answer, strict=True)
    return [SequenceMatcher(None, text.strip(), wanted).ratio() for text, wanted in pairs]


def measure(quick: bool) -> list[Measurement]:
    """Train each in its own process, and write the table."""
    wanted = os.environ.get("NBFT_METHODS", "")
    runs = {**METHODS, **{f"sft, {name}": changes for name, changes in ADAPTERS.items()}}
    found, lines = [], []
    with tempfile.TemporaryDirectory() as folder:
        _write_rows(Path(folder))
        own = {"NBFT_QUEUE": f"{folder}/queue"}
        for name, changes in runs.items():
            if wanted not in name or name == "sft, lora":  # the default, which `sft` is
                continue
            asked = json.dumps({**changes, "training.max_steps": 2 if quick else STEPS})
            done = run_python("-m", "benchmarks.methods", folder, asked, environment=own)
            lines.append(_line(name, done))
            found += [
                Measurement(
                    f"{name}: exact answers after", done["after"]["exact_match"] * 100, "%"
                ),
                Measurement("  perplexity of the corrections after", done["after"]["perplexity"]),
                Measurement("  a step", done["seconds_a_step"], "CPU-s"),
                Measurement("  peak memory", done["peak_bytes"] / 2**20, "MiB"),
                Measurement("  trained parameters", done["trainable_parameters"] / 1e6, "M"),
            ]
            TABLE.parent.mkdir(parents=True, exist_ok=True)
            TABLE.write_text("\n".join([_HEADER, *lines, ""]), encoding="utf-8")
    return found


_HEADER = (
    "| run | learning rate | exact answers | perplexity | CPU seconds a step | peak memory | "
    "trained parameters |\n|---|---|---|---|---|---|---|"
)


def _line(name: str, done: dict[str, Any]) -> str:
    before, after = done["before"], done["after"]
    cells = [
        name,
        f"{done['learning_rate']:g}",
        f"{before['exact_match']:.0%} → {after['exact_match']:.0%}",
        f"{before['perplexity']:.1f} → {after['perplexity']:.2f}",
        f"{done['seconds_a_step']:.2f}",
        f"{done['peak_bytes'] / 2**20:,.0f} MiB",
        f"{done['trainable_parameters'] / 1e6:.3g} M",
    ]
    return f"| {' | '.join(cells)} |"


def _write_rows(folder: Path) -> None:
    """Write the same sentences as answers, pairs, labelled answers and prompts."""
    for split in ("train", "test"):
        lines = sample_path("grammar", split).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines[: STEPS * BATCH]]
        made: dict[str, list[dict[str, Any]]] = {"answers": [], "pairs": [], "labels": []}
        for n, row in enumerate(rows):
            prompt, good, bad = _PROMPT.format(**row), row["target"], row["input"]
            made["answers"].append({"prompt": prompt, "completion": good})
            made["pairs"].append({"prompt": prompt, "chosen": good, "rejected": bad})
            label = n % 2 == 0
            answer = good if label or split == "test" else bad
            made["labels"].append(
                {"prompt": prompt, "completion": answer, "label": label or split == "test"}
            )
        made["prompts"] = [{**row, "answer": row["completion"]} for row in made["answers"]]
        for name, found in made.items():
            text = "\n".join(map(json.dumps, found))
            (folder / f"{name}-{split}.jsonl").write_text(text, encoding="utf-8")


class _Clock:
    """CPU seconds of the training steps, answers that they write included."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def callback(self) -> Any:
        """Return a callback that reads the clock."""
        from transformers import TrainerCallback

        clock = self

        class Callback(TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                clock.seconds -= time.process_time()

            def on_train_end(self, *_: Any, **__: Any) -> None:
                clock.seconds += time.process_time()

        return Callback()


def _train(folder: str, changes: dict[str, Any]) -> None:
    """Train, and print what was measured."""
    import nbft
    from nbft import registry
    from nbft.hardware import peak_memory_bytes

    rows = changes.pop("rows", "answers")
    clock = _Clock()
    registry.callbacks.register("clock")(clock.callback)
    config = nbft.Config(
        model={"model_name": "smollm2-135m"},
        data={
            "train": {"path": f"{folder}/{rows}-train.jsonl"},
            "validation": {"path": f"{folder}/{rows}-test.jsonl"},
            "max_length": 128,
        },
        training={
            "learning_rate": 3e-4,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "output_dir": tempfile.mkdtemp(),
        },
        peft={"r": 8, "lora_alpha": 16},
        evaluation={
            "eval_strategy": "no",
            "sample_count": 0,
            "metrics": ["exact_match", "perplexity"],
            "score_rows": SCORED_ROWS,
            "score_max_new_tokens": 32,
        },
        checkpoint={"save_strategy": "no"},
        callbacks={"callbacks": {"clock": {}}},
    ).apply(changes)
    run = nbft.train(config, show=False, allow_code=True)
    run.wait()
    if run.status != "completed":
        raise RuntimeError(str([*run.events()][-1]))
    scores = [event["scores"] for event in run.events() if event["event"] == "scores"]
    report = {
        "before": scores[0],
        "after": scores[-1],
        "seconds_a_step": clock.seconds / run.step,
        "peak_bytes": peak_memory_bytes("cpu"),
        "trainable_parameters": run.state.prepared["trainable_parameters"],
        "learning_rate": config.training.learning_rate,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    _train(sys.argv[1], json.loads(sys.argv[2]))
