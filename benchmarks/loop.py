"""The training loop under a live view beside a bare torch loop: the same model, batches and losses.

Both sides are built by nbft; on the bare side the Trainer's loop is replaced by a few lines of
torch, without callbacks, events or a monitor. So the ratio is what the loop and the view cost.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nbft.bench.clock import Clock
from nbft.bench.compare import DROPPED_STEPS

from .measurement import Measurement, in_turn, median_ratio, run_python
from .overhead import make_config

ROUNDS = 5
_UPDATE_SECONDS = 0.2
_HIDDEN, _LAYERS = 256, 4


def measure(quick: bool) -> list[Measurement]:
    """Train in fresh processes, in turn."""
    from nbft.bench.scaling import random_model
    from nbft.models.load import quiet

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_config(folder, tiny=False, steps=12 if quick else 60)
        tokenizer = _tokenizer(config.model.model_name)
        with quiet():
            model = random_model(folder / "small", tokenizer, _HIDDEN, _LAYERS)
        config = config.apply(
            {
                "model.model_name": str(model),
                "training.per_device_train_batch_size": 8,
                "evaluation.sample_count": 0,
                "checkpoint.save_strategy": "no",
            }
        )
        path = folder / "config.yaml"
        config.save(path)
        sides = [
            lambda s=side: run_python("-m", "benchmarks.loop", s, str(path)) for side in _SIDES
        ]
        watched, bare = in_turn(sides, 1 if quick else ROUNDS)
    off = max(
        abs(a - b)
        for left, right in zip(watched, bare, strict=True)
        for a, b in zip(left["losses"], right["losses"], strict=True)
    )
    return [
        Measurement("step of the bare loop", statistics.median(r["step"] for r in bare), "s"),
        Measurement(
            "seconds a step, live view / bare loop",
            median_ratio([r["step"] for r in watched], [r["step"] for r in bare]),
            goal=1.05,
        ),
        Measurement("largest difference of a loss", off, goal=1e-4),
        Measurement(  # half a hundredth of a step of 100 ms, a little more than one takes here
            "callbacks and events, of a step",
            _median(watched, "callbacks_ms"),
            "ms",
            0.5,
            below=True,
        ),
        Measurement("CPU of the monitor, of a step", _median(watched, "monitor_ms"), "ms"),
    ]


def _tokenizer(name: str) -> str:
    """Return the folder of the tokenizer: a model's own, where it is on this machine."""
    from nbft.models.find import find_local

    found = find_local(name, None)
    return str(found.path) if found else name


def _median(results: list[Any], name: str) -> float:
    return statistics.median(r[name] for r in results)


def _watched(path: str) -> dict[str, float]:
    """Train in a kernel's thread while a Monitor shows it; returns what that cost a step."""
    from .live_chart import replace_comms, shown

    replace_comms()
    from nbft.launchers.launch import start

    spent = _time_own_callbacks()
    run = start(path)
    monitor, monitor_seconds = shown(run), 0.0
    while not run.is_over:
        before = time.thread_time()
        monitor.update()
        monitor_seconds += time.thread_time() - before
        time.sleep(_UPDATE_SECONDS)
    assert run.status == "completed", run.problems
    steps = len(spent)
    callbacks = sum(spent[DROPPED_STEPS:]) / (steps - DROPPED_STEPS)
    return {"callbacks_ms": 1000 * callbacks, "monitor_ms": 1000 * monitor_seconds / steps}


def _time_own_callbacks() -> list[float]:
    """Let nbft's callbacks be timed; the list gets the seconds of each step."""
    import transformers

    spent: list[float] = []
    call = transformers.trainer_callback.CallbackHandler.call_event
    own: Any = {"on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_step_end", "on_log"}

    def call_event(handler: Any, event: str, *args: Any, **keys: Any) -> Any:
        if event == "on_step_begin":
            spent.append(0.0)
        if event not in own:
            return call(handler, event, *args, **keys)
        everyone = handler.callbacks
        try:
            handler.callbacks = [c for c in everyone if not _is_own(c)]
            call(handler, event, *args, **keys)
            handler.callbacks = [c for c in everyone if _is_own(c)]
            began = time.perf_counter()
            control = call(handler, event, *args, **keys)
            spent[-1] += time.perf_counter() - began
        finally:
            handler.callbacks = everyone
        return control

    transformers.trainer_callback.CallbackHandler.call_event = call_event
    return spent


def _is_own(callback: Any) -> bool:
    return type(callback).__module__.startswith("nbft.")


def _bare(path: str) -> dict[str, float]:
    """Train with torch alone on the model and the batches that nbft has prepared."""
    import torch
    import transformers

    import nbft
    from nbft.runs import Run
    from nbft.training.worker import work

    def train(trainer: Any, *_: Any, **__: Any) -> None:
        model, settings = trainer.model, trainer.args
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        scheduler = transformers.get_scheduler(
            settings.lr_scheduler_type,
            optimizer,
            settings.get_warmup_steps(settings.max_steps),
            settings.max_steps,
        )
        loader = trainer.get_train_dataloader()
        model.train()
        for epoch in itertools.count():
            loader.set_epoch(epoch)
            for batch in loader:
                clock.began.append((time.perf_counter(), time.process_time()))
                found = model(**batch, use_cache=False, fused_lm_head=True)
                loss = -found.log_probs.sum() / found.label_mask.sum()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                clock.losses.append(loss.item())
                if len(clock.losses) == settings.max_steps:
                    clock.began.append((time.perf_counter(), time.process_time()))
                    raise SystemExit  # the run's own end is not measured

    transformers.Trainer.train = train  # type: ignore[method-assign, assignment]
    with contextlib.suppress(SystemExit):
        work(Run.create(nbft.Config.load(path)).path)
    return {}


_SIDES = {"watched": _watched, "bare": _bare}
clock = Clock()


def _train(side: str, path: str) -> None:
    if side == "watched":
        clock.install()
    more = _SIDES[side](path)
    said = clock.record("cpu")
    steps = said["seconds"][DROPPED_STEPS:]
    print(json.dumps({"step": sum(steps) / len(steps), "losses": said["losses"], **more}))


if __name__ == "__main__":
    _train(sys.argv[1], sys.argv[2])
