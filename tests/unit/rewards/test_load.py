"""The rewards of a config: found, called, and what is said of those that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nbft
from nbft import registry
from nbft.config.code import code_of, forbidden
from nbft.errors import ConfigError, DataError
from nbft.methods.grpo import reward_names
from nbft.rewards.load import LoadedReward, RewardError, load_rewards

MINE = "def mine(prompts, completions, **columns):\n    return [1.0] * len(completions)\n"


def config_of(*rewards: dict[str, Any], **sections: Any) -> nbft.Config:
    return nbft.Config(training={"method": "grpo"}, grpo={"rewards": list(rewards)}, **sections)


def reward_of(function: Any, **options: Any) -> LoadedReward:
    return LoadedReward("mine", 1.0, "grpo.rewards[0].function", "a.py:mine", function, options)


def said(reward: LoadedReward, completions: list[Any], **columns: Any) -> str:
    with pytest.raises(RewardError) as error:
        reward(["p"] * len(completions), completions, **columns)
    return str(error.value)


def test_a_function_is_given_what_it_takes_and_no_more() -> None:
    def few(completions: list[str], number: list[int]) -> list[float]:
        return [float(n) for n in number]

    assert reward_of(few)(["p"], ["c"], number=[3], other=["x"]) == [3.0]

    def every(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        assert columns == {"number": [3], "other": ["x"], "at_most": 5}
        return [1.0]

    assert reward_of(every, at_most=5)(["p"], ["c"], number=[3], other=["x"]) == [1.0]


def test_the_completion_that_a_function_fails_with_is_named() -> None:
    def mine(completions: list[str], **_: Any) -> list[float]:
        return [1 / len(completion) for completion in completions]

    text = said(reward_of(mine), ["good", "", "fine"])
    assert "failed with ZeroDivisionError: division by zero" in text
    assert "for the completion “” to the prompt “p”" in text
    assert text.startswith("grpo.rewards[0].function='a.py:mine': ")


def test_an_error_of_several_lines_is_said_in_one() -> None:
    def mine(completions: list[str], **_: Any) -> list[float]:
        raise ValueError("first line\n  second line")

    text = said(reward_of(mine), ["a"])
    assert "failed with ValueError: first line second line, for the completion “a”" in text


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "returned None instead of a list with a number for 2 completions"),
        (1.0, "returned float instead of a list"),
        ([1.0], "returned 1 number for 2 completions, among them the completion “first” to the"),
        ([1.0, None], "returned None, which is no number, for the completion “second”"),
        ([1.0, float("nan")], "returned nan, which is no number"),
        ([1.0, 10**400], "which is no number"),
        ([1.0, "x"], "returned 'x', which is no number"),
    ],
)
def test_what_is_no_list_of_numbers_is_said(returned: Any, words: str) -> None:
    assert words in said(reward_of(lambda **_: returned), ["first", "second"])


def test_the_completion_without_a_number_of_its_own_is_named() -> None:
    def skips(completions: list[str], **_: Any) -> list[float]:
        return [1.0 for completion in completions if completion != "second"]

    def forgets(completions: list[str], **_: Any) -> list[float] | None:
        return None if "second" in completions else [1.0]

    given = ["first", "second", "third"]
    wanted = "for 3 completions, among them the completion “second” to the prompt “p”."
    assert f"returned 2 numbers {wanted}" in said(reward_of(skips), given)
    assert f"returned None instead of a list with a number {wanted}" in said(
        reward_of(forgets), given
    )


def test_arrays_and_truth_values_are_numbers() -> None:
    import numpy as np

    assert reward_of(lambda **_: np.array([0.5, 1.0]))(["p"] * 2, ["a", "b"]) == [0.5, 1.0]
    assert reward_of(lambda **_: [True, False])(["p"] * 2, ["a", "b"]) == [1.0, 0.0]


def test_a_function_comes_from_a_file_through_the_gate(tmp_path: Path) -> None:
    file = tmp_path / "rewards.py"
    file.write_text(MINE)
    reward = {"function": f"{file}:mine", "weight": 0.5}
    (loaded,) = load_rewards(config_of(reward))
    assert loaded(["p"], ["c"]) == [1.0]
    assert (loaded.name, loaded.weight, loaded.__name__) == ("mine", 0.5, "mine")
    written = config_of(reward).save(tmp_path / "config.yaml")
    foreign = nbft.Config.load(written)
    assert [code.setting for code in code_of(foreign)] == ["grpo.rewards[0].function"]
    assert [code.name for code in forbidden(foreign)] == [f"{file}:mine"]
    with pytest.raises(DataError, match="you have not allowed"):
        load_rewards(foreign)


def test_a_function_of_a_cell_is_a_key() -> None:
    @registry.rewards.register("short")
    def short(completions: list[str], **_: Any) -> list[float]:
        return [float(len(one) < 3) for one in completions]

    try:
        (loaded,) = load_rewards(config_of({"function": "short"}))
        assert loaded(["p"] * 2, ["ab", "abcd"]) == [1.0, 0.0]
    finally:
        registry.rewards.unregister("short")


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"function": "exact_nmber"}, "is not one of exact_number"),
        ({"function": "format"}, "lacks pattern"),
        ({"function": "format", "options": {"patern": "a"}}, "has no option patern"),
        ({"function": "nothing.py:f"}, "there is no file"),
    ],
)
def test_a_reward_that_is_not_there_is_said(reward: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        load_rewards(config_of(reward))


def test_equal_names_are_numbered_and_a_name_can_be_given() -> None:
    rewards = [
        {"function": "length"},
        {"function": "length"},
        {"function": "contains", "name": "x"},
    ]
    assert reward_names(config_of(*rewards)) == ["length", "length 2", "x"]
