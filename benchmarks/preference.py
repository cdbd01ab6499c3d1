"""DPO on real pairs beside TRL: pairs per CPU second, memory, and equal losses.

TRL at its best: 16-bit weights, no checkpointing, and the reference's log-probabilities computed once
(or at each step, whichever is faster). Two epochs: the first one includes the reference, which nbft
computes before it, and the second one does not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nbft.hardware import peak_memory_bytes

from .measurement import ROOT, Measurement, run_python

PAIRS_FILE = ROOT.parent / "shared" / "data" / "preference_pairs.json"
PAIRS, BATCH, EPOCHS = 16, 4, 2
_LONGEST_CHARACTERS = 4000
_LEARNING_RATE = 1e-5


def measure(quick: bool) -> list[Measurement]:
    """Train the same pairs with nbft and TRL, each in its own process."""
    with tempfile.TemporaryDirectory() as name:
        rows = Path(name) / "pairs.json"
        number = 4 if quick else PAIRS
        rows.write_text(json.dumps(_pairs(number)), encoding="utf-8")
        cache = {"NBFT_CACHE": _own_cache(Path(name))}  # no reference is known yet
        ours = run_python("-m", "benchmarks.preference", "nbft", str(rows), environment=cache)
        again = run_python("-m", "benchmarks.preference", "nbft", str(rows), environment=cache)
        theirs = [
            run_python("-m", "benchmarks.preference", side, str(rows))
            for side in ("trl-precomputed", "trl")
        ]
    first = min(side["epochs"][0] for side in theirs)
    second = min(side["epochs"][1] for side in theirs)
    furthest = max(abs(a - b) for a, b in zip(ours["losses"], theirs[0]["losses"], strict=True))
    goals = (None,) * 3 if quick else (1 / 3.0, 1 / 4.0, 0.7)
    return [
        Measurement("pairs/CPU-s, first epoch", number / ours["epochs"][0]),
        Measurement("time, nbft / TRL, first epoch", ours["epochs"][0] / first, goal=goals[0]),
        Measurement("time, nbft / TRL, second epoch", ours["epochs"][1] / second, goal=goals[1]),
        Measurement("the same, reference kept, first epoch", again["epochs"][0] / first),
        Measurement(
            "memory, nbft / TRL", ours["peak"] / min(side["peak"] for side in theirs), goal=goals[2]
        ),
        Measurement("largest difference of the losses", furthest, goal=None if quick else 0.02),
    ]


def _pairs(number: int) -> list[dict[str, Any]]:
    """Return real pairs that fit into 1,024 tokens, as texts that every system reads alike."""
    found = []
    for row in json.loads(PAIRS_FILE.read_text(encoding="utf-8")):
        prompt = "\n\n".join(turn["value"] for turn in row["conversations"]) + "\n\n"
        pair = {"prompt": prompt, **{n: row[n]["value"] for n in ("chosen", "rejected")}}
        if all(len(prompt + pair[name]) < _LONGEST_CHARACTERS for name in ("chosen", "rejected")):
            found.append(pair)
    return found[:number]


def _own_cache(folder: Path) -> str:
    """Return a cache with the default model alone."""
    from nbft.models.find import cache_folder

    own = folder / "cache"
    own.mkdir()
    (own / "models").symlink_to(cache_folder() / "models")
    return str(own)


class _Clock:
    """CPU seconds since the process was ready to train, at the end of each epoch."""

    def __init__(self) -> None:
        self.began = time.process_time()
        self.epochs: list[float] = []
        self.losses: list[float] = []

    def callback(self) -> Any:
        """Return a callback that reads the clock."""
        from transformers import TrainerCallback

        clock = self

        class Callback(TrainerCallback):
            def on_epoch_end(self, *_: Any, **__: Any) -> None:
                clock.epochs.append(time.process_time() - clock.began)
                clock.began = time.process_time()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
                if "loss" in logs:
                    clock.losses.append(logs["loss"])

        return Callback()

    def report(self) -> None:
        """Print what was measured."""
        peak = peak_memory_bytes("cpu")
        print(json.dumps({"epochs": self.epochs, "losses": self.losses, "peak": peak}))


def _train_nbft(rows: str) -> None:
    import nbft
    from nbft import registry

    clock = _Clock()
    registry.callbacks.register("clock")(clock.callback)
    config = nbft.Config(
        model={"model_name": "smollm2-135m", "dtype": "bfloat16"},
        data={"path": rows, "shuffle": False, "split_ratio": 1.0, "max_length": 1024},
        training={
            "method": "dpo",
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "learning_rate": _LEARNING_RATE,
            "output_dir": tempfile.mkdtemp(),
        },
        scheduler={"lr_scheduler_type": "constant", "warmup_steps": 0},
        peft={"r": 16, "lora_alpha": 32},
        evaluation={"eval_strategy": "no", "sample_count": 0},
        checkpoint={"save_strategy": "no", "save_final_model": False},
        logging={"logging_steps": 1},
        callbacks={"callbacks": {"clock": {}}},
    )
    from nbft.training import preference

    usual = preference.PreferenceTrainer.compute_reference

    def timed(trainer: Any) -> None:  # everything is loaded, and nothing is computed yet
        clock.began = time.process_time()
        usual(trainer)

    preference.PreferenceTrainer.compute_reference = timed  # type: ignore[method-assign]
    run = nbft.train(config, show=False)
    run.wait()
    if run.status != "completed":
        raise RuntimeError(str([*run.events()][-1]))
    clock.report()


def _train_trl(rows: str, *, precomputed: bool) -> None:
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from nbft.models.find import find_model

    torch.set_num_threads(1)
    folder = find_model("smollm2-135m", None, lambda _: None).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    clock = _Clock()
    trainer_class = type(
        "Timed",
        (DPOTrainer,),
        {
            "_precompute_ref_logps": lambda self, *a, **k: (
                setattr(clock, "began", time.process_time()),
                DPOTrainer._precompute_ref_logps(self, *a, **k),
            )[1]
        },
    )
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16),
        args=DPOConfig(
            tempfile.mkdtemp(),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            learning_rate=_LEARNING_RATE,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            max_length=1024,
            precompute_ref_log_probs=precomputed,
            precompute_ref_batch_size=BATCH,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(json.loads(Path(rows).read_text("utf-8"))),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        callbacks=[clock.callback()],
    )
    if not precomputed:
        clock.began = time.process_time()
    trainer.train()
    clock.report()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    side, path = sys.argv[1:]
    if side == "nbft":
        _train_nbft(path)
    else:
        _train_trl(path, precomputed=side == "trl-precomputed")
