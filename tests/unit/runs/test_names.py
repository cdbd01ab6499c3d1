import re

from nbft.runs import names


def test_a_name_is_two_words_and_a_number(tmp_path):
    assert re.fullmatch(r"[a-z]+-[a-z]+-[1-9][0-9]?", names.new_name(tmp_path))


def test_a_name_that_is_there_is_not_given_again(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "_ADJECTIVES", ["kind"])
    monkeypatch.setattr(names, "_ANIMALS", ["otter"])
    for number in range(1, 100):
        if number != 14:
            (tmp_path / f"kind-otter-{number}").mkdir()
    assert names.new_name(tmp_path) == "kind-otter-14"


def test_a_seed_does_not_repeat_a_name(tmp_path):
    import random

    random.seed(0)
    one = [names.new_name(tmp_path) for _ in range(5)]
    random.seed(0)
    assert one != [names.new_name(tmp_path) for _ in range(5)]


def test_every_word_is_one_plain_word():
    words = [*names._ADJECTIVES, *names._ANIMALS]
    assert all(re.fullmatch("[a-z]+", word) for word in words)
    assert len(set(names._ADJECTIVES)) == len(names._ADJECTIVES) > 40
    assert len(set(names._ANIMALS)) == len(names._ANIMALS) > 40
