"""The rewards that come with nbft, by examples worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from nbft.rewards.load import RewardError
from nbft.rewards.ready import contains, exact_number, json_schema, length, matches


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_texts_and_messages_are_scored_alike() -> None:
    assert exact_number(["It is 7.", turn("It is 7.")], ["7", "#### 7"]) == [1.0, 1.0]
    assert matches([turn(" <a>1</a>\n")], pattern="<a>.*</a>") == [1.0]


def test_a_number_is_read_inside_the_pattern_only() -> None:
    pattern = "<answer>(.*?)</answer>"
    texts = ["7", "<answer>7</answer>", "<answer>8</answer> 7", "<answer>none</answer>"]
    assert exact_number(texts, ["7"] * 4, pattern=pattern) == [0.0, 1.0, 0.0, 0.0]


def test_numbers_need_wanted_answers() -> None:
    with pytest.raises(RewardError, match="the rows have none"):
        exact_number(["7"], [""])


def test_contains_gives_the_share_of_the_texts() -> None:
    assert contains(["Red and blue", "red"], ["", ""], texts=["red", "blue"]) == [1.0, 0.5]
    assert contains(["RED"], [""], texts=["red"], ignore_case=False) == [0.0]
    assert contains(["It is Paris.", "Rome"], ["Paris", "Paris"]) == [1.0, 0.0]


def test_a_length_outside_falls_to_nothing() -> None:
    texts = ["", "a", "a b", "a b c", "a b c d", "a b c d e"]
    assert length(texts, at_least=2, at_most=2) == [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    assert length(["abc", "abcdef"], at_most=3, unit="characters") == [1.0, 0.0]
    assert length(["", "a " * 500]) == [1.0, 1.0]


def test_json_is_checked_by_its_schema() -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    texts: list[Any] = ['{"a": 1}', '```json\n{"a": 1}\n```', '{"b": 1}', "a: 1", ""]
    assert json_schema(texts, schema=schema) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert json_schema(["[1]", "x"]) == [1.0, 0.0]
    with pytest.raises(RewardError, match="has a schema that is none"):
        json_schema(["{}"], schema={"type": "thing"})


def test_a_pattern_that_is_none_is_said() -> None:
    with pytest.raises(RewardError, match="is no regular expression"):
        matches(["a"], pattern="(")
