"""Every number that a run logs, worked out again from what was trained."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import nbft
from nbft import registry
from nbft.decisions import decide
from nbft.launchers.kernel import join
from nbft.methods import IGNORE_INDEX
from nbft.plan.disk import disk_use
from nbft.plan.memory import model_shape
from nbft.runs.files import read_plan
from nbft.training import stages, throughput
from nbft.training.rows import read_rows

STEP, SAVE, EVALUATION, SCORES = 2.0, 1000.0, 100.0, 10_000.0
"""Seconds of each, on the clock of these tests."""


class Recorder:
    """A clock that only what is named here moves on, and the micro-batches of all steps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.batches: list[dict[str, Any]] = []

    def tokens(self) -> list[int]:
        masks = [batch.get("attention_mask") for batch in self.batches]
        sizes = [batch["input_ids"].numel() for batch in self.batches]
        return [
            n if mask is None else int(mask.sum()) for n, mask in zip(sizes, masks, strict=True)
        ]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    clock = types.SimpleNamespace(monotonic=lambda: found.now)
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(stages, "time", clock)

    def taking(seconds: float, name: str) -> None:
        usual = getattr(transformers.Trainer, name)

        def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
            found.now += seconds
            return usual(self, *args, **kwargs)

        monkeypatch.setattr(transformers.Trainer, name, slow)

    usual = transformers.Trainer.training_step

    def step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        found.now += STEP
        found.batches.append(copy.deepcopy(dict(inputs)))
        return usual(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "training_step", step)
    taking(SAVE, "_save_checkpoint")
    taking(EVALUATION, "evaluate")
    return found


def logs_of(run: nbft.Run) -> list[dict[str, Any]]:
    assert run.status in ("completed", "stopped"), run.problems
    return [e for e in run.events() if e["event"] == "log"]


def assert_speeds(logs: list[dict[str, Any]], tokens: list[int], accumulated: int, first: int = 0):
    """Compare each log with the tokens of its steps by the seconds of its steps."""
    assert logs
    before = first
    for log in logs:
        batches = tokens[(before - first) * accumulated : (log["step"] - first) * accumulated]
        assert log["tokens_per_second"] == pytest.approx(sum(batches) / (STEP * len(batches)))
        before = log["step"]


INTERRUPTED = {
    "evaluation__eval_strategy": "steps",
    "evaluation__eval_steps": 2,
    "checkpoint__save_steps": 3,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training__gradient_accumulation_steps": 3},
        {"logging__logging_steps": 4},
        {"logging__logging_steps": 5, "logging__logging_first_step": False},
        {"data__padding_free": False},
        {"training__method": "base"},
        {"training__method": "base", "data__padding_free": False},
        {"training__method": "base", "logging__include_num_input_tokens_seen": "no"},
        {"logging__include_num_input_tokens_seen": "all", "data__padding_free": False},
    ],
    ids=str,
)
def test_tokens_per_second_are_those_of_the_steps_by_their_time(train, recorder, changes):
    run = train(**INTERRUPTED, **changes)
    accumulated = changes.get("training__gradient_accumulation_steps", 1)
    assert_speeds(logs_of(run), recorder.tokens(), accumulated)


def test_tokens_per_second_of_epochs(train, recorder):
    run = train(
        training__max_steps=-1,
        training__num_train_epochs=2,
        logging__logging_strategy="epoch",
        logging__logging_first_step=False,
        evaluation__eval_strategy="epoch",
        checkpoint__save_strategy="epoch",
    )
    assert [log["step"] for log in logs_of(run)] == [9, 18]
    assert_speeds(logs_of(run), recorder.tokens(), 1)


@pytest.mark.parametrize("method", ["sft", "base"])
def test_tokens_and_their_speed_after_a_resume(make_config, recorder, method):
    changes = {"training__method": method, "scheduler__lr_scheduler_type": "constant"}
    whole = nbft.train(make_config(**changes, checkpoint__save_steps=3), show=False)
    name = "num_tokens" if method == "sft" else "num_input_tokens_seen"
    totals = {log["step"]: log[name] for log in logs_of(whole)}
    tokens = recorder.tokens()
    assert [*totals.values()] == [sum(tokens[: n + 1]) for n in range(6)]
    recorder.batches.clear()
    cut = nbft.train(make_config(**changes, training__max_steps=3), show=False)
    recorder.batches.clear()
    rest = make_config(**changes, training__resume_from_checkpoint=str(cut.path))
    again = logs_of(nbft.train(rest, show=False))
    assert {log["step"]: log[name] for log in again} == {n: totals[n] for n in (4, 5, 6)}
    assert_speeds(again, recorder.tokens(), 1, first=3)


def test_waiting_and_answering_are_no_part_of_a_step(make_config, recorder, monkeypatch):
    """Scores take long, and so does a pause."""
    from nbft.evaluate.scoring import Scorer
    from nbft.training.callbacks.reporting import ReportingCallback

    def slow(kind: type, name: str) -> None:
        usual = getattr(kind, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            recorder.now += SCORES
            return usual(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, call)

    slow(Scorer, "score")
    slow(ReportingCallback, "_wait_for_room")
    run = nbft.train(
        make_config(evaluation__metrics=["perplexity"], evaluation__score_every_n_steps=2),
        show=False,
    )
    join(run)
    assert_speeds(logs_of(run), recorder.tokens(), 1)
    planned = read_plan(run.path)["stages"]
    once = EVALUATION + planned["checkpoint"] + planned["saving"]
    scored = (3, 2, 2, 1, 1, 0)  # times that are to come at each log
    left = [log["seconds_left"] for log in logs_of(run)]
    assert left == pytest.approx(
        [STEP * (6 - step) + SCORES * scored[step - 1] + once for step in range(1, 7)], abs=0.1
    )


def plain(path: Path, batches: list[dict[str, Any]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the logits and targets of the trained tokens, [n, v] and [n], of each batch."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    found = []
    for batch in batches:
        given = {k: batch[k] for k in ("input_ids", "attention_mask", "position_ids") if k in batch}
        with torch.no_grad():
            logits = model(**given, use_cache=False).logits[:, :-1]
        targets = batch["labels"][:, 1:]
        trained = targets != IGNORE_INDEX
        found.append((logits[trained].float(), targets[trained]))
    return found


@pytest.fixture(scope="session")
def able_model(tiny_model: Path, rows: list[dict[str, Any]], tmp_path_factory: Any) -> Path:
    """A tiny model that predicts some tokens right: random ones predict none."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    texts = [f"Correct: {row['input']}\n{row['target']}" for row in rows]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE_INDEX)
    for _ in range(15):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("able")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("head", ["auto", "off"])
@pytest.mark.parametrize("padding_free", [True, False])
def test_loss_accuracy_and_entropy_are_means_over_the_tokens_of_a_step(
    train, recorder, able_model, head, padding_free
):
    run = train(
        model__model_name=str(able_model),
        training__max_steps=1,
        training__per_device_train_batch_size=3,
        training__gradient_accumulation_steps=4,
        data__padding_free=padding_free,
        speed__label_head=head,
    )
    batches = plain(able_model, recorder.batches)
    assert len(batches) == 4
    assert len({len(targets) for _, targets in batches}) > 1
    logits, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    (log,) = logs_of(run)
    likely = logits.log_softmax(-1)
    loss = -likely.gather(1, targets[:, None]).mean().item()
    assert log["loss"] == pytest.approx(loss, rel=1e-5)
    right = (logits.argmax(-1) == targets).float().mean().item()
    assert 0.05 < right < 0.95
    assert log["mean_token_accuracy"] == pytest.approx(right, rel=1e-6)
    if head == "off":
        entropy = -(likely.exp() * likely).sum(-1).mean().item()
        assert log["entropy"] == pytest.approx(entropy, rel=1e-5)
    else:
        assert "entropy" not in log


def test_accuracy_on_held_out_rows_is_that_of_all_their_tokens(train, make_config, able_model):
    changes = {"model__model_name": str(able_model), "evaluation__per_device_eval_batch_size": 3}
    run = train(**changes, training__max_steps=1)
    config = make_config(**changes)
    tokenizer = AutoTokenizer.from_pretrained(able_model)
    held_out = read_rows(config, tokenizer, print, print, padding_free=True).held_out
    batches = [
        {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])}
        for ids, labels in zip(held_out.input_ids, held_out.labels, strict=True)
    ]
    pairs = plain(able_model, batches)
    right = sum(int((logits.argmax(-1) == targets).sum()) for logits, targets in pairs)
    assert right > 0
    before = next(e for e in run.events() if e["event"] == "eval")
    assert before["eval_mean_token_accuracy"] == pytest.approx(
        right / sum(len(targets) for _, targets in pairs)
    )


@pytest.fixture
def watching() -> Any:
    """Look at the trained model at a moment of each step."""
    names = []

    def register(moment: str, look: Callable[[Any], None]) -> str:
        class Look(transformers.TrainerCallback):
            pass

        setattr(Look, moment, lambda self, *a, model=None, **k: look(model) and None)
        name = f"look-{len(names)}"
        registry.callbacks.register(name)(Look)
        names.append(name)
        return name

    yield register
    for name in names:
        registry.callbacks.unregister(name)


@pytest.mark.parametrize("clip", [1e9, 0.0, 0.01])
def test_the_gradient_norm_is_that_before_clipping(train, watching, clip):
    norms: list[float] = []

    def look(model: Any) -> None:
        squares = (p.grad.square().sum() for p in model.parameters() if p.grad is not None)
        norms.append(float(torch.stack(list(squares)).sum().sqrt()))

    name = watching("on_pre_optimizer_step", look)
    run = train(
        training__max_grad_norm=clip,
        training__max_steps=3,
        training__gradient_accumulation_steps=2,
        callbacks__callbacks={name: {}},
    )
    logged = [log["grad_norm"] for log in logs_of(run)]
    if clip == 0.01:
        assert norms == pytest.approx([0.01] * 3, rel=1e-3)
        assert min(logged) > 0.1
    else:
        assert logged == pytest.approx(norms, rel=1e-5)


def test_numbers_of_parameters_count_weights_and_not_bytes(train):
    usual = next(e for e in train().events() if e["event"] == "prepared")
    for quantized in ({"load_in_4bit": True}, {"weight_quantize_algo": "fp8_linear"}):
        named = {f"quantization__{name}": value for name, value in quantized.items()}
        run = train(**named, training__max_steps=1)
        assert run.problems == []
        prepared = next(e for e in run.events() if e["event"] == "prepared")
        for name in ("total_parameters", "trainable_parameters"):
            assert prepared[name] == usual[name], quantized
    whole = model_shape(Path(run.config.model.model_name))
    assert usual["total_parameters"] == whole.parameters + usual["trainable_parameters"]


def test_an_entropy_that_decides_is_computed(train):
    run = train(
        checkpoint__load_best_model_at_end=True,
        checkpoint__metric_for_best_model="eval_entropy",
        checkpoint__save_steps=3,
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=3,
    )
    assert run.status == "completed", run.problems
    entropies = [e["eval_entropy"] for e in run.events() if e["event"] == "eval"]
    assert min(entropies) > 1


@pytest.mark.parametrize("method", ["sft", "base"])
def test_no_evaluation_means_none_before_within_or_after_the_training(train, recorder, method):
    changes = {"training__method": method, "checkpoint__save_strategy": "no"}
    run = train(evaluation__eval_strategy="no", **changes)
    assert run.status == "completed", run.problems
    assert [e for e in run.events() if e["event"] == "eval"] == []
    assert recorder.now == 6 * STEP
    assert run.report().is_file()
    assert str(run)
    plan = nbft.make_plan(run.config)
    sentence = "No loss of the 4 held-out rows is measured: evaluation.eval_strategy is no."
    assert sentence in plan.remarks
    assert (
        sentence
        not in nbft.make_plan(run.config.apply({"evaluation.eval_strategy": "epoch"})).remarks
    )


def test_a_run_that_only_evaluates_does(train):
    run = train(evaluation__eval_strategy="no", training__do_train=False)
    assert run.status == "completed", run.problems
    assert len([e for e in run.events() if e["event"] == "eval"]) == 1


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_writes_what_its_plan_says(train, method):
    run = train(
        peft__method=method,
        checkpoint__save_steps=2,
        checkpoint__save_total_limit=None,
        evaluation__eval_strategy="no",
    )
    config, folder = run.config, Path(run.config.model.model_name)

    def written(path: Path) -> int:
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())

    checkpoints = sorted((run.path / "checkpoints").glob("checkpoint-*"))
    shape = model_shape(folder)
    use = disk_use(config, shape, decide(config), folder, total_steps=6, steps_per_epoch=9)
    assert len(checkpoints) == use.checkpoints == 3
    assert use.checkpoint_bytes == pytest.approx(written(checkpoints[0]), rel=0.15)
    result = run.path / ("model" if method == "full" else "adapter")
    assert use.result_bytes == pytest.approx(written(result), rel=0.15)
    assert written(run.path) <= use.total_bytes == nbft.make_plan(config).disk_bytes
