"""Reward models: TRL's losses over whole runs, and a score that is the same wherever it is read."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import nbft
from nbft.errors import RunError
from nbft.launchers.kernel import join
from nbft.training.preference import sequence_of
from nbft.training.rows import read_rows

from .conftest import PREFERENCE_BATCH as BATCH
from .conftest import PREFERENCE_STEPS as STEPS


def with_rows(config, rows):
    return config.apply({"data.train.datasets[0].rows": rows})


def trained(config):
    run = nbft.train(config, show=False)
    join(run)
    assert run.status == "completed", [*run.events()][-1]
    return run


def logs(run):
    return [event for event in run.events() if event["event"] == "log"]


@pytest.fixture(scope="module")
def start(tiny_model, tmp_path_factory):
    """A reward model with random weights, from which both systems start."""
    folder = tmp_path_factory.mktemp("start")
    shape = AutoConfig.from_pretrained(tiny_model)
    shape.num_labels = 1
    torch.manual_seed(7)
    AutoModelForSequenceClassification.from_config(shape).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture
def reward(preference, start):
    """Return a function that makes a config which trains that model."""
    return lambda **changes: preference("reward", model__model_name=str(start), **changes)


@pytest.fixture(scope="session")
def with_margins(pairs):
    """Pairs of which every other one asks for a margin."""
    return [
        {**pair, "score_chosen": 9, "score_rejected": 2} | ({"margin": 0.1 * n} if n % 2 else {})
        for n, pair in enumerate(pairs)
    ]


def by_trl(config, folder, **more):
    """Train the same tokens with TRL's RewardTrainer, and return its log."""
    import datasets
    from trl import RewardConfig, RewardTrainer

    name = config.model.model_name
    tokenizer = AutoTokenizer.from_pretrained(name)
    known = read_rows(config, tokenizer, print, print, padding_free=False).known
    rows = [
        {f"{side}_ids": sequence_of(row, known.method, side).ids for side in known.method.sequences}
        | {"margin": row["margin"]}
        for row in known.dataset
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = RewardConfig(
            str(folder),
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            max_length=config.data.max_length,
            **more,
        )
        trainer = RewardTrainer(
            model=AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32),
            args=args,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
    return [log for log in trainer.state.log_history if "loss" in log]


LAYOUTS = {
    "joined, prompts shared": {},
    "joined": {"speed__shared_prompt": "off"},
    "padded": {"data__padding_free": False},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_losses_and_measures_are_those_of_trl(reward, with_margins, tmp_path, layout, weight):
    changes = LAYOUTS[layout]
    config = reward(preference__center_rewards_coefficient=weight, **changes)
    config = with_rows(config, with_margins)
    ours = logs(trained(config))
    theirs = by_trl(config, tmp_path, center_rewards_coefficient=weight or None)
    assert len(ours) == len(theirs) == STEPS
    names = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    for mine, name in names.items():
        assert [log[mine] for log in ours] == pytest.approx(
            [log[name] for log in theirs], rel=1e-5, abs=1e-5
        ), mine
    both = [(log["rewards/chosen"] + log["rewards/rejected"]) / 2 for log in ours]
    wanted = [log["mean_reward"] for log in theirs]
    assert both == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert ours[0]["loss"] != ours[-1]["loss"]


def test_a_margin_is_in_the_loss_and_scores_are_not(reward, with_margins):
    plain = logs(trained(reward()))
    scored = [{k: v for k, v in row.items() if k != "margin"} for row in with_margins]
    assert logs(trained(with_rows(reward(), scored)))[0]["loss"] == plain[0]["loss"]
    config = with_rows(reward(), with_margins)
    assert logs(trained(config))[0]["loss"] > plain[0]["loss"]
    remarks = " ".join(nbft.make_plan(config).remarks)
    assert "is in the loss: the chosen answer should score higher by as much" in remarks


def by_transformers(model, tokenizer, prompt, completions):
    """Return scores by transformers alone, one text at a time."""
    found = []
    for completion in completions:
        asked, answer = (tokenizer(part)["input_ids"] for part in (prompt, completion))
        ids = torch.tensor([[*asked, *answer, tokenizer.eos_token_id]])
        with torch.inference_mode():
            found.append(float(model(input_ids=ids).logits[0, 0]))
    return found


PROMPT, ANSWERS = "Correct:\nHe go home.\n", ["He goes home.", "He go.", "No"]


def test_a_trained_model_gives_the_same_scores_everywhere(preference):
    run = trained(preference("reward"))
    scores = run.rewards(PROMPT, ANSWERS)
    assert len({*scores}) == 3
    assert run.rewards(PROMPT, ANSWERS[1]) == pytest.approx(scores[1:2], abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(run.adapter)
    model = AutoModelForSequenceClassification.from_pretrained(run.adapter)
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert by_transformers(model, tokenizer, PROMPT, ANSWERS) == pytest.approx(scores, abs=1e-5)
    (example, *_) = nbft.examples(run.config)
    answers = [example.completion, example.rejected]
    assert run.rewards(example, answers) == run.rewards(example.prompt, answers)
    row = {"prompt": example.prompt}
    assert run.rewards(row, answers) == run.rewards(example, answers)


def test_an_adapter_holds_the_head(preference, tiny_model):
    config = preference(
        "reward", peft__method="lora", peft__r=4, training__max_steps=6, data__shuffle=True
    )
    plan = nbft.make_plan(config)
    assert not plan.errors
    assert any("modules_to_save: [score]" in remark for remark in plan.remarks)
    assert plan.decisions.parts["label_head"].reason == "a reward model has no logits"
    run = trained(config)
    (prepared,) = (event for event in run.events() if event["event"] == "prepared")
    assert prepared["trainable_parameters"] == plan.trainable_parameters
    assert 0.5 <= prepared["length_accuracy"] <= 1
    saved = load_file(run.adapter / "adapter_model.safetensors")
    (head,) = (value for name, value in saved.items() if "score" in name)
    assert head.shape == (1, 64)
    assert head.dtype == torch.float32
    about = json.loads((run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert about["task_type"] == "SEQ_CLS"
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    assert not torch.equal(base.score.weight, head)
    tokenizer = AutoTokenizer.from_pretrained(run.adapter)
    base.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(base, run.adapter).eval()
    scores = run.rewards(PROMPT, ANSWERS)
    assert by_transformers(model, tokenizer, PROMPT, ANSWERS) == pytest.approx(scores, abs=1e-5)
    held_out = [event for event in run.events() if event["event"] == "eval"]
    examples = nbft.examples(config, "validation")
    if held_out and len(examples):
        margins = [
            good - bad
            for one in examples
            for good, bad in [run.rewards(one, [one.completion, one.rejected])]
        ]
        last = held_out[-1]
        assert last["eval_rewards/margins"] == pytest.approx(
            sum(margins) / len(margins), rel=1e-4, abs=1e-5
        )


def test_in_bfloat16_the_head_is_trained_in_float32(preference):
    run = trained(
        preference("reward", peft__method="lora", model__dtype="bfloat16", training__max_steps=3)
    )
    saved = load_file(run.adapter / "adapter_model.safetensors")
    assert {value.dtype for name, value in saved.items() if "score" in name} == {torch.float32}
    assert len(run.rewards(PROMPT, ANSWERS)) == 3


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_on_quantised_weights_the_head_is_whole(preference, bits):
    pytest.importorskip("bitsandbytes")
    changes = {f"quantization__{bits}": True, "peft__method": "lora", "training__max_steps": 3}
    run = trained(preference("reward", **changes))
    saved = load_file(run.adapter / "adapter_model.safetensors")
    assert {value.dtype for name, value in saved.items() if "score" in name} == {torch.float32}
    losses = [log["loss"] for log in logs(run)]
    assert losses[0] != losses[-1]
    assert len({*run.rewards(PROMPT, ANSWERS)}) == 3


def test_it_learns_what_is_better(preference):
    words = "sun moon star tree lake wind rain snow leaf bird".split()
    rows = [
        {"prompt": f"Say {a} and {b}.\n", "chosen": f"{a} {b} yes", "rejected": f"{a} {b} no"}
        for a in words
        for b in words
    ]
    config = preference(
        "reward",
        data__shuffle=True,
        data__split_ratio=0.8,
        training__max_steps=40,
        training__per_device_train_batch_size=8,
    )
    run = trained(with_rows(config, rows))
    held_out = [e for e in run.events() if e["event"] == "eval"][-1]
    assert held_out["eval_rewards/accuracies"] == 1
    assert held_out["eval_rewards/margins"] > 0.5
    good, bad = run.rewards("Say sea and sand.\n", ["sea sand yes", "sea sand no"])
    assert good > bad


def test_it_writes_no_answers(preference):
    config = preference("reward", training__max_steps=2, evaluation__sample_count=3)
    plan = nbft.make_plan(config)
    assert any("writes no answers" in remark for remark in plan.remarks)
    assert "sampling" not in plan.stages
    run = trained(config)
    assert not [event for event in run.events() if event["event"] == "sample"]
    for refused in (
        lambda: run.generate("Hi."),
        lambda: run.compare(["Hi."]),
        run.evaluate,
        lambda: nbft.ask(run, "Hi."),
        lambda: run.export("merged"),
    ):
        with pytest.raises(
            RunError, match=r"is a reward model, which scores answers and writes none"
        ):
            refused()
    other = trained(preference("dpo", training__max_steps=1))
    with pytest.raises(RunError, match="was trained with dpo, so it scores no answers"):
        other.rewards("Hi.", "Ho.")


def test_it_is_a_reward_of_grpo(preference, tiny_model, pairs, tmp_path):
    scorer = trained(preference("reward", peft__method="lora", training__max_steps=3))
    config = nbft.Config(
        model={"model_name": str(tiny_model), "dtype": "float32"},
        data={
            "rows": [{"prompt": one["prompt"], "completion": one["chosen"]} for one in pairs[:8]],
            "max_length": 128,
        },
        training={
            "method": "grpo",
            "output_dir": str(tmp_path / "grpo"),
            "max_steps": 2,
            "gradient_accumulation_steps": 1,
        },
        grpo={
            "num_generations": 2,
            "max_completion_length": 6,
            "rewards": [{"function": "reward_model", "options": {"model": str(scorer.path)}}],
        },
        evaluation={"eval_strategy": "no", "sample_count": 0},
    )
    assert not nbft.make_plan(config).errors
    answers = ["He goes.", "No"]
    table = nbft.try_rewards(config, 1, answers=answers)
    prompt = table[0].prompt
    wanted = scorer.rewards(prompt, answers)
    assert [row.reward for row in table] == pytest.approx(wanted, abs=1e-4)
    run = trained(config)
    assert len(logs(run)) == 2
    assert all(abs(log["reward"]) > 0 for log in logs(run))


def test_in_the_background(preference):
    run = nbft.submit(preference("reward", peft__method="lora", training__max_steps=2)).wait()
    assert run.status == "completed", run.problems
    assert len(run.rewards(PROMPT, ANSWERS)) == 3
