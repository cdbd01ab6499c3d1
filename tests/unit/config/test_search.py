"""Settings are found by name, by what others call them and by their help."""

from nbft.config import settings
from nbft.config.search import find_settings


def paths(text, **more):
    return [setting.path for setting in find_settings(text, **more)]


def test_a_name_that_others_use_comes_first():
    assert paths("lora_r")[0] == "peft.r"
    assert paths("lr")[0] == "training.learning_rate"
    assert paths("micro_batch", called={"training.seed": "micro_batch"})[0] == "training.seed"


def test_a_hyphen_or_an_index_makes_no_difference():
    assert paths("warm-up") == paths("warmup")
    assert paths("data.train.datasets[0].path")[0] == "data.train.datasets[].path"


def test_every_word_counts_and_rare_settings_come_last_among_equals():
    assert paths("zebra") == paths("learning zebra") == []
    found = [s for s in find_settings("decay") if "decay" in s.path]
    ranks = [s.level == "expert" for s in found]
    assert ranks == sorted(ranks)


def test_only_the_given_settings_are_looked_through():
    some = [s for s in settings() if s.section == "peft"]
    assert {s.section for s in find_settings("lora", some)} == {"peft"}
