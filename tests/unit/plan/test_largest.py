from dataclasses import replace

import pytest

from nbft.config import Config
from nbft.plan import make_plan
from nbft.plan.largest import in_words
from nbft.plan.plan import _size_problems


@pytest.fixture(scope="module")
def plan(tiny_model):
    rows = [{"prompt": "What?", "completion": "That. " * 20}] * 8
    data = {"train": {"rows": rows}, "split_ratio": 1.0}
    usual = {"training.per_device_train_batch_size": 8, "model.dtype": "float32"}
    return make_plan(Config(model={"model_name": str(tiny_model)}, data=data).apply(usual))


def test_the_largest_is_the_last_that_fits(plan):
    small = replace(plan, free_memory_bytes=2 * 2**30)
    for name in ("batch", "length"):
        found = small.largest[name]
        assert found.memory_bytes <= small.free_memory_bytes
        ((path, value),) = found.changes.items()
        more = plan.config.apply({path: round(value * 1.1)})
        longer = (round(value * 1.1),) if name == "length" else plan.lengths_tokens
        needed = replace(small, lengths_tokens=longer).needed_bytes(more)
        assert needed > small.free_memory_bytes
    assert small.largest["model"].words == "a model of about 135 million parameters"
    assert in_words(small.largest).startswith("Largest that fits, each by itself: a batch of ")


def test_more_memory_fits_larger_models(plan):
    names = [
        replace(plan, free_memory_bytes=gib * 2**30).largest["model"].words for gib in (8, 64, 512)
    ]
    assert len(set(names)) == 3


def test_nothing_fits_where_there_is_no_room(plan):
    assert replace(plan, free_memory_bytes=1).largest == {}
    assert replace(plan, free_memory_bytes=0).largest == {}
    assert in_words({}) == ""


def test_what_certainly_does_not_fit_is_refused_with_what_does(plan, monkeypatch):
    def by_rows(_, config):
        return 2**29 * config.training.per_device_train_batch_size

    monkeypatch.setattr(type(plan), "needed_bytes", by_rows)
    lowest = int(3.5 * 2**30)
    plan = replace(plan, memory_bytes=4 * 2**30, ranges={"memory_bytes": (lowest, 5 * 2**30)})
    (refused,) = _size_problems(replace(plan, free_memory_bytes=lowest - 1))
    assert refused.level == "error"
    first, *others = refused.fix.split("; or ")
    assert first == "Use 4 with gradient_accumulation_steps=8 (same effective batch), about 2.0 GiB"
    assert [other[-14:] for other in others] == [" about 1.0 GiB", "about 512 MiB."]
    assert refused.changes["training.per_device_train_batch_size"] == 4
    (doubtful,) = _size_problems(replace(plan, free_memory_bytes=lowest + 1))
    assert doubtful.level == "warning"
    (hopeless,) = _size_problems(replace(plan, free_memory_bytes=2**20))
    assert hopeless.fix == "Choose a smaller model, or a device with more memory."
    assert _size_problems(replace(plan, free_memory_bytes=2**40)) == []
