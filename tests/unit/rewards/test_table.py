"""Answers with their rewards: what is seen in them, and how they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

import nbft
from nbft.errors import ConfigError
from nbft.pages import html, text
from nbft.rewards.table import Rewarded, RewardTable


def row(prompt: str, reward: float, **more: object) -> Rewarded:
    return Rewarded(prompt, f"answer {reward}", "wanted", {"right": reward}, reward, **more)


def test_groups_without_a_signal_are_counted() -> None:
    table = RewardTable([row("a", 1.0), row("a", 0.0), row("b", 1.0), row("b", 1.0)])
    assert table.without_signal == 1
    assert table.remarks == [
        (
            "No signal in 1 of 2 prompts: all answers to each of them have the same reward, so nothing "
            "would be learned from them."
        )
    ]
    assert table.means == {"right": 0.75}


def test_a_reward_that_never_differs_and_cut_answers_are_said() -> None:
    table = RewardTable([row("a", 1.0, is_cut=True), row("a", 1.0)])
    assert "right gives 1 to every answer." in table.remarks
    assert "1 of 2 answers are cut at grpo.max_completion_length." in table.remarks


def test_the_table_is_shown_as_html_and_as_text() -> None:
    table = RewardTable([row("a", 1.0, tokens=3, advantage=0.5), row("a", 0.0, tokens=2)])
    page = html(table)
    assert "<caption" in page
    assert page.count('scope="col"') == 5
    assert "+0.50" in page
    shown = text(table)
    assert shown.splitlines()[0] == "a"
    assert "wanted: wanted" in shown
    assert "2 answers; means: right 0.50." in shown
    assert text(RewardTable([])) == "No answers yet."


def test_own_answers_are_scored_without_a_model() -> None:
    config = nbft.Config(
        data={"dataset_name": "larger_number"},
        grpo={
            "rewards": [
                {"function": "exact_number", "options": {"pattern": "<answer>(.*?)</answer>"}},
                {"function": "length", "weight": 0.5, "options": {"at_most": 1}},
            ]
        },
    )
    table = nbft.try_rewards(config, 2, answers=["<answer>5</answer>", "two words"])
    assert len(table.groups) == 2
    assert [one.rewards["length"] for one in table] == [1.0, 0.0] * 2
    assert all(
        one.reward == one.rewards["exact_number"] + 0.5 * one.rewards["length"] for one in table
    )


def test_a_trial_without_rewards_or_with_a_wrong_number_is_refused() -> None:
    config = nbft.Config(data={"dataset_name": "larger_number"})
    with pytest.raises(ConfigError, match="names no reward"):
        nbft.try_rewards(config, 1, answers=["a"])
    with pytest.raises(ConfigError, match="prompts=0: is not at least 1"):
        nbft.try_rewards(config, 0)


def test_paths_of_a_config_file_are_relative_to_it(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "completion": "2"}\n' * 4)
    config = nbft.Config(
        model={"model_name": "model"},
        data={"path": "rows.jsonl"},
        training={"method": "grpo"},
        grpo={"rewards": [{"function": "length"}], "max_completion_length": 4},
    )
    table = nbft.try_rewards(config, 1, num_generations=2, folder=tmp_path)
    nbft.release_model()
    assert [row.prompt for row in table] == ["1 + 1 ="] * 2
