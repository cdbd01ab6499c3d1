import pytest

from nbft.errors import ConfigError, DataError, ModelError, NbftError, Problem, RunError


def test_a_problem_is_field_value_why_fix():
    problem = Problem("training.max_steps", -5, "must be at least -1.", "Use 60.")
    assert str(problem) == "training.max_steps=-5: must be at least -1. Use 60."
    assert problem.sentence == "must be at least -1. Use 60."
    assert problem.level == "error"


def test_a_problem_without_value_or_fix_has_no_loose_ends():
    assert str(Problem("data", None, "names no rows.")) == "data: names no rows."


def test_a_long_value_is_shown_in_part():
    shown = str(Problem("a", "x" * 500, "is long."))
    assert shown.endswith("…: is long.")
    assert len(shown) < 100


def test_of_a_long_path_the_name_is_shown():
    shown = str(Problem("a.path", "/folder" * 20 + "/rows.jsonl", "is empty."))
    assert shown.startswith("a.path='…")
    assert shown.endswith("/folder/rows.jsonl': is empty.")
    assert len(shown) < 100


@pytest.mark.parametrize("kind", [ConfigError, DataError, ModelError, RunError])
def test_an_error_is_its_sentences_without_a_traceback(kind):
    error = kind([Problem("a", 1, "is wrong."), "so is this."])
    assert isinstance(error, NbftError)
    assert str(error) == "a=1: is wrong.\nso is this."
    assert error._render_traceback_() == [f"{kind.__name__}: a=1: is wrong.\nso is this."]
    assert [str(p) for p in kind("one").problems] == ["one"]
