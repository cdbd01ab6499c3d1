import pytest

from nbft import formatting


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (3599.7, "1 h"),
        (3661, "1 h 1 min"),
        (86_400, "1 d"),
    ],
)
def test_a_duration_carries_into_the_next_unit(seconds, said):
    assert formatting.duration(seconds) == said


def test_sizes_change_unit_at_1024():
    assert formatting.size(1023) == "1023 B"
    assert formatting.size(1024**2) == "1.0 MiB"
    assert formatting.size(15.2 * 2**30) == "15 GiB"
    assert formatting.size(3 * 2**50) == "3072 TiB"


def test_numbers_are_signed_and_never_show_an_exponent_with_zeros():
    assert formatting.number(-1.234) == "-1.23"
    assert formatting.number(-3e-7) == "-3e-7"
    assert formatting.number(999_999) == "999,999"
    assert formatting.number(float("inf")) == "infinite"


def test_one_of_a_thing_is_singular():
    assert formatting.count(1, "step") == "1 step"
    assert formatting.count(0, "step") == "0 steps"
