"""Training with rewards: whole runs on the tiny model, and what is said when a reward fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nbft
from nbft import events
from nbft.config.code import allow_code
from nbft.launchers.kernel import join
from nbft.methods import method_of
from nbft.methods.grpo import prompts_per_round
from nbft.models.find import find_model
from nbft.models.load import load_tokenizer

LETTERS = "abcdefgh"


@pytest.fixture
def prompts() -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {"prompt": " ".join(rng.choices(LETTERS, k=4)) + "\n", "answer": letter, "number": n}
        for n, letter in enumerate(LETTERS * 2)
    ]


@pytest.fixture
def reward_file(tmp_path: Path) -> Path:
    return tmp_path / "mine.py"


@pytest.fixture
def config(
    make_config: Callable[..., nbft.Config], prompts: list[dict[str, Any]]
) -> Callable[..., nbft.Config]:
    def make(**changes: Any) -> nbft.Config:
        rewards = [{"function": "contains", "options": {"texts": ["e"]}}]
        usual = {
            "training__method": "grpo",
            "training__per_device_train_batch_size": 8,
            "data__train": {"datasets": [{"rows": prompts}]},
            "data__split_ratio": 1.0,
            "evaluation__eval_strategy": "no",
            "evaluation__sample_count": 0,
            "evaluation__metrics": [],
            "grpo__num_generations": 4,
            "grpo__max_completion_length": 6,
            "grpo__rewards": rewards,
            "logging__logging_steps": 1,
        }
        return make_config(**{**usual, **changes})

    return make


def trained(config: nbft.Config) -> nbft.Run:
    run = nbft.train(config, show=False)
    join(run)
    return run


def logs(run: nbft.Run) -> list[events.Event]:
    return [event for event in run.events() if event["event"] == "log"]


def completions(run: nbft.Run) -> list[list[dict[str, Any]]]:
    return [e["completions"] for e in run.events() if e["event"] == "completions"]


def test_a_reward_that_can_be_learned_is_learned(config, reward_file):
    reward_file.write_text(
        "def vowels(completions, **_):\n"
        "    return [sum(c in 'aeiou' for c in one) / max(1, len(one)) for one in completions]\n"
    )
    changes = {
        "peft__method": "full",
        "training__learning_rate": 1e-2,
        "training__per_device_train_batch_size": 16,
    }
    rewards = [{"function": f"{reward_file}:vowels"}]
    run = trained(
        config(grpo__rewards=rewards, training__max_steps=30, grpo__beta=0.001, **changes).own()
    )
    assert run.status == "completed", run.events()[-1]
    reward = [log["reward"] for log in logs(run)]
    assert sum(reward[-5:]) > 1.3 * sum(reward[:5]), reward
    last = logs(run)[-1]
    assert {"rewards/vowels/mean", "rewards/vowels/std", "kl", "entropy"} <= last.keys()
    assert last["tokens_per_second"] > 0
    assert {"completions/mean_length", "completions/clipped_ratio"} <= last.keys()
    (prepared,) = [event for event in run.events() if event["event"] == "prepared"]
    declared = {measure["name"] for measure in prepared["measures"]}
    assert {"reward", "rewards/vowels/mean", "kl"} <= declared


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_both_methods_train_and_save_an_adapter(config, method):
    run = trained(config(training__method=method, training__max_steps=2))
    assert run.status == "completed", run.events()[-1]
    assert run.adapter is not None
    assert len(nbft.ask(run, "a b c d\n", max_new_tokens=2)) == 1


def test_the_answers_of_a_step_have_rewards_and_advantages_that_follow_from_them(config):
    run = trained(config(training__max_steps=2))
    (first, *_) = completions(run)
    assert len(first) == 8
    for group in (first[:4], first[4:]):
        assert len({one["prompt"] for one in group}) == 1
        rewards = torch.tensor([one["reward"] for one in group])
        wanted = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        assert torch.allclose(torch.tensor([o["advantage"] for o in group]), wanted, atol=1e-3)
    for one in first:
        assert one["rewards"] == {"contains": float("e" in one["completion"])}
        assert one["is_cut"] == (one["tokens"] >= 6)


def test_the_prompt_is_tokenised_as_the_lens_shows_it(config, prompts, monkeypatch):
    from nbft.training.answers import OwnAnswers

    seen: list[list[int]] = []
    usual = OwnAnswers._tokenize_prompts

    def spy(self: Any, given: Any) -> Any:
        found = usual(self, given)
        seen.extend(found[0])
        return found

    monkeypatch.setattr(OwnAnswers, "_tokenize_prompts", spy)
    asked = config(training__max_steps=1)
    trained(asked)
    tokenizer = load_tokenizer(asked, find_model(asked.model.model_name).path)
    texts = {tokenizer.decode(ids) for ids in seen}
    assert len(seen) == 8
    assert len(texts) == prompts_per_round(asked) == 2
    assert texts <= {row["prompt"] for row in prompts}


def test_own_functions_get_the_columns_of_the_rows(config, reward_file):
    reward_file.write_text(
        "def even(prompts, completions, number, answer, **rest):\n"
        "    assert len(prompts) == len(completions) == len(number) == 8\n"
        "    assert set(rest) >= {'references'}, rest\n"
        "    return [float(n % 2 == 0) for n in number]\n"
    )
    asked = config(
        grpo__rewards=[{"function": f"{reward_file}:even", "weight": 2.0}], training__max_steps=1
    ).own()
    run = trained(asked)
    assert run.status == "completed", run.events()[-1]
    (table,) = completions(run)
    assert all(one["reward"] == 2 * one["rewards"]["even"] for one in table)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('x')", ["failed with KeyError", "for the completion “"]),
        ("return None", ["returned None instead of a list"]),
        ("return [1.0]", ["returned 1 number for 8 completions"]),
        ("return [None] * len(completions)", ["returned None, which is no number"]),
        ("return [float('nan')] * len(completions)", ["returned nan, which is no number"]),
    ],
)
def test_a_reward_that_fails_ends_the_run_with_the_completion(config, reward_file, body, words):
    reward_file.write_text(f"def mine(prompts, completions, **_):\n    {body}\n")
    asked = config(grpo__rewards=[{"function": f"{reward_file}:mine"}]).own()
    run = trained(asked)
    assert run.status == "failed"
    (problem,) = run.events()[-1]["problems"]
    assert problem.startswith("grpo.rewards[0].function=")
    assert all(word in problem for word in words), problem


def test_a_failing_reward_saves_first_and_the_run_goes_on_when_it_is_mended(config, reward_file):
    good = (
        "def mine(prompts, completions, **_):\n    return [float('e' in c) for c in completions]\n"
    )
    reward_file.write_text(good)
    rewards = [{"function": f"{reward_file}:mine"}]
    whole = trained(config(grpo__rewards=rewards, training__max_steps=4).own())
    bad = good.replace(
        "    return", "    if trainer_state.global_step == 2: raise OSError('off')\n    return"
    )
    reward_file.write_text(bad.replace("**_", "trainer_state, **_"))
    run = trained(config(grpo__rewards=rewards, training__max_steps=4).own())
    assert run.status == "failed"
    assert [path.name for path in (run.path / "checkpoints").glob("*-*")] == ["checkpoint-2"]
    reward_file.write_text(good)
    allow_code(nbft.Config.load(run.path / "config.yaml"))
    run.resume({"training.resume_despite_changes": True})
    run.wait()
    assert run.status == "completed", run.events()[-1]
    assert completions(run)[-1] == completions(whole)[-1]
    assert [log["reward"] for log in logs(run)][-2:] == [log["reward"] for log in logs(whole)][-2:]


def test_a_resumed_run_is_the_uninterrupted_one_over_epochs(config):
    """16 rows, 2 prompts a step: an epoch is 8 steps, and the order of each is its own."""
    saving = {"checkpoint__save_steps": 5, "checkpoint__save_total_limit": None}
    whole = trained(config(training__max_steps=12))
    orders = [[one["prompt"] for one in table] for table in completions(whole)]
    assert orders[:4] != orders[8:]
    part = trained(config(training__max_steps=12, **saving))
    for step in (5, 10):
        again = trained(
            config(
                training__max_steps=12,
                training__resume_from_checkpoint=str(
                    part.path / "checkpoints" / f"checkpoint-{step}"
                ),
            )
        )
        assert again.status == "completed", again.events()[-1]
        assert completions(again) == completions(whole)[step:]


def test_conversations_reach_the_rewards_as_messages(config, reward_file):
    reward_file.write_text(
        "def mine(prompts, completions, **_):\n"
        "    assert all(p[-1]['role'] == 'user' for p in prompts), prompts\n"
        "    return [float(len(c[0]['content'])) for c in completions]\n"
    )
    rows = [
        {"prompt": [{"role": "user", "content": f"Say {letter}."}], "answer": letter}
        for letter in LETTERS
    ]
    asked = config(
        data__train={"datasets": [{"rows": rows}]},
        grpo__rewards=[{"function": f"{reward_file}:mine"}],
        training__max_steps=2,
    ).own()
    run = trained(asked)
    assert run.status == "completed", run.events()[-1]


def test_held_out_prompts_are_answered_and_rewarded(config):
    asked = config(
        data__split_ratio=0.75,
        training__max_steps=2,
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=2,
        evaluation__per_device_eval_batch_size=4,
    )
    run = trained(asked)
    assert run.status == "completed", run.events()[-1]
    evaluated = [event for event in run.events() if event["event"] == "eval"]
    assert "eval_reward" in evaluated[-1]


def test_a_long_prompt_is_left_out_and_said(config, prompts):
    rows = [*prompts, {"prompt": "a " * 300, "answer": "a", "number": 99}]
    run = trained(config(data__train={"datasets": [{"rows": rows}]}, training__max_steps=1))
    warnings = [event["text"] for event in run.events() if event["event"] == "warning"]
    assert any("1 of 17 rows are left out: their prompt alone fills" in text for text in warnings)


def test_the_base_model_is_tried_before_anything_is_trained(config):
    asked = config()
    table = nbft.try_rewards(asked, 3, num_generations=2)
    assert len(table) == 6
    assert len(table.groups) == 3
    for row in table:
        assert row.rewards == {"contains": float("e" in row.completion)}
    assert nbft.try_rewards(asked, 3, num_generations=2).rows == table.rows  # by the seed
    nothing = nbft.try_rewards(asked.apply({"grpo.rewards": [{"function": "length"}]}), 2)
    assert nothing.without_signal == 2
    assert any("No signal in 2 of 2 prompts" in remark for remark in nothing.remarks)
    nbft.release_model()


def test_a_run_in_the_background_does_the_same(config):
    asked = config(training__max_steps=2)
    here = trained(asked)
    there = nbft.submit(asked)
    there.wait()
    assert there.status == "completed"
    assert completions(there) == completions(here)


def test_the_plan_counts_the_steps_that_the_trainer_makes(config):
    asked = config(training__max_steps=-1, training__num_train_epochs=1.0)
    assert method_of(asked).generates
    run = trained(asked)
    assert run.status == "completed", run.events()[-1]
    assert logs(run)[-1]["step"] == nbft.make_plan(asked).total_steps == 8


def test_two_iterations_make_twice_the_steps(config):
    asked = config(training__max_steps=-1, training__num_train_epochs=1.0, grpo__num_iterations=2)
    run = trained(asked)
    assert logs(run)[-1]["step"] == nbft.make_plan(asked).total_steps == 16
