"""A reader's prediction: right, off with a hint that gives nothing away, or not there yet."""

from __future__ import annotations

import pytest

import nbft


@pytest.mark.parametrize("blank", [..., None, "", "  "])
def test_an_unfilled_blank_says_so_and_is_no_mistake(blank: object) -> None:
    feedback = nbft.check_prediction(blank, 250, "Count the rows of both epochs.")
    assert feedback.is_right is None
    assert str(feedback).startswith("No prediction yet")
    assert "250" not in str(feedback)
    assert "rows" not in str(feedback)


@pytest.mark.parametrize(
    ("prediction", "right", "tolerance"),
    [
        (250, 250, 0),
        (250.0, 250, 0),
        (0.1 + 0.2, 0.3, 0),
        ("2,442,240", 2_442_240, 0),
        (0.44, 4 / 9, 0.01),
        (-3, -3, 0),
        (0, 0, 0),
        ("  The END token", "the end  token", 0),
        ("<| im_end |>", "<|im_end|>", 0),
        (True, True, 0),
    ],
)
def test_what_is_right(prediction: object, right: object, tolerance: float) -> None:
    feedback = nbft.check_prediction(prediction, right, "no hint", tolerance=tolerance)
    assert feedback.is_right is True
    assert str(feedback).startswith("Right")
    assert "no hint" not in str(feedback)


def test_a_prediction_within_the_tolerance_is_told_the_exact_number() -> None:
    assert str(nbft.check_prediction(40, 42, tolerance=3)) == "Right: it is 42."
    assert str(nbft.check_prediction(42, 42, tolerance=3)) == "Right."


@pytest.mark.parametrize(
    ("prediction", "right", "tolerance", "said"),
    [
        (125, 250, 0, "125 is too low"),
        (2000, 250, 0, "2,000 is too high"),
        (38, 42, 3, "38 is too low"),
        ("7", 8, 0, "7 is too low"),
        ("up", "down", 0, "'up' is not it"),
        (True, False, 0, "True is not it"),
    ],
)
def test_what_is_off_is_said_with_a_hint_and_without_the_solution(
    prediction: object, right: object, tolerance: float, said: str
) -> None:
    feedback = nbft.check_prediction(prediction, right, "Think again.", tolerance=tolerance)
    assert feedback.is_right is False
    assert str(feedback) == f"Not quite: {said}. Think again."
    assert repr(feedback) == str(feedback)


@pytest.mark.parametrize("prediction", [(2, 442, 240), "many", [250], True])
def test_what_is_no_number_is_said(prediction: object) -> None:
    feedback = nbft.check_prediction(prediction, 2_442_240)
    assert feedback.is_right is False
    assert str(feedback) == (
        f"{prediction!r} is not a number. Write digits only, such as 1200; "
        "a comma separates two values in Python."
    )


def test_a_choice_must_be_one_of_those_offered() -> None:
    choices = ("falls", "rises")
    assert nbft.check_prediction(" Falls", "falls", choices=choices).is_right
    assert nbft.check_prediction("rises", "falls", choices=choices).is_right is False
    feedback = nbft.check_prediction("drops", "falls", choices=choices)
    assert str(feedback) == "'drops' is not one of the choices: 'falls', 'rises'."
    with pytest.raises(ValueError, match="falls"):
        nbft.check_prediction(..., "falls", choices=("up", "down"))
