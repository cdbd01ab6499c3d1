"""Several datasets: one after the other, mixed by their proportions, and as streams."""

import itertools
import json

import numpy as np
import pytest

from nbft.config import Config
from nbft.data.examples import load_examples, stream_examples
from nbft.errors import ConfigError, DataError
from nbft.plan import make_plan


def rows(name, number):
    return [{"prompt": f"{name}{n}", "completion": "x"} for n in range(number)]


def config_of(*sets, ratio=1.0, strategy="first_exhausted", seed=42, **data):
    datasets = [
        {"rows": rows(name, number), **({"mixture_proportion": share} if share else {})}
        for name, number, share in sets
    ]
    train = {"datasets": datasets, "mixture_strategy": strategy}
    return Config(data={"train": train, "split_ratio": ratio, **data}, training={"seed": seed})


def prompts(config, split="train"):
    return [example.prompt for example in load_examples(config, split)[0]]


def test_without_proportions_every_row_of_every_set_is_taken_once():
    assert prompts(config_of(("a", 3, None), ("b", 2, None))) == ["a0", "a1", "a2", "b0", "b1"]


def test_a_mixture_ends_with_the_first_set_and_has_its_proportions():
    found = prompts(config_of(("a", 300, 0.75), ("b", 4000, 0.25)))
    assert found.count("a0") == found.count("a299") == 1, "the first set is used up"
    of_a = sum(name.startswith("a") for name in found)
    assert len(found) == pytest.approx(400, rel=0.1)
    assert of_a / len(found) == pytest.approx(0.75, abs=0.03)
    assert [n for n in found if n[0] == "b"] == [f"b{n}" for n in range(len(found) - of_a)]


def test_a_mixture_until_all_are_exhausted_repeats_the_smaller_set():
    found = prompts(config_of(("a", 10, 0.5), ("b", 200, 0.5), strategy="all_exhausted"))
    assert {f"b{n}" for n in range(200)} <= set(found)
    assert found.count("a0") > 10


def test_the_mixture_is_the_one_of_datasets():
    import datasets

    sets = [datasets.Dataset.from_list(rows("a", 30)), datasets.Dataset.from_list(rows("b", 90))]
    theirs = datasets.interleave_datasets(sets, probabilities=[0.3, 0.7], seed=7)
    assert prompts(config_of(("a", 30, 0.3), ("b", 90, 0.7), seed=7)) == list(theirs["prompt"])


def test_what_is_held_out_of_a_mixture_is_never_trained_on():
    config = config_of(("a", 20, 0.5), ("b", 100, 0.5), ratio=0.8, strategy="all_exhausted")
    train, held_out = prompts(config), prompts(config, "validation")
    assert not {*train} & {*held_out}
    assert {*train} | {*held_out} == {f"a{n}" for n in range(20)} | {f"b{n}" for n in range(100)}
    assert len(held_out) == 32


def test_an_example_knows_its_row_and_set():
    examples, _ = load_examples(config_of(("a", 20, 0.5), ("b", 100, 0.5)), "train")
    for n in range(len(examples)):
        dataset, row = examples.origin(n)
        assert examples[n].prompt == f"{'ab'[dataset]}{row - 1}" == examples.row(n)["prompt"]
        assert examples.parts[dataset].field == f"data.train.datasets[{dataset}]"


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (
            (0.5, None),
            "data.train: 1 of 2 datasets have a mixture_proportion. Set it for all of them, or for none.",
        ),
        (
            (0.5, 0.7),
            "data.train: the mixture_proportion values add up to 1.2, not 1. Use 0.4167, 0.5833.",
        ),
    ],
)
def test_the_words_of_proportions_that_do_not_add_up(shares, said):
    with pytest.raises(ConfigError) as caught:
        config_of(*[(name, 3, share) for name, share in zip("ab", shares, strict=True)])
    assert str(caught.value) == said


def test_three_splits_have_their_own_rows():
    blocks = {name: {"rows": rows(name, 3)} for name in ("train", "validation", "test")}
    for name in blocks:
        assert prompts(Config(data=blocks), name) == [f"{name}{n}" for n in range(3)]
    assert prompts(Config(data={"train": blocks["train"]}), "test") == []


@pytest.fixture
def stream(tmp_path):
    def make(number=100, **train):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows("a", number)))
        return Config(
            data={"train": {"datasets": [{"path": str(path)}], "stream": True, **train}},
            training={"max_steps": 10},
        )

    return make


def test_a_stream_goes_round_and_holds_every_row(stream):
    found = [e.prompt for e in itertools.islice(stream_examples(stream()), 200)]
    whole = {f"a{n}" for n in range(100)}
    assert {*found[:100]} == whole == {*found[100:]}
    assert found[:100] != sorted(found[:100], key=lambda n: int(n[1:])), "it is shuffled"
    assert found[:100] != found[100:], "and anew in every round"
    again = [e.prompt for e in itertools.islice(stream_examples(stream()), 200)]
    assert found == again


def test_a_buffer_of_one_keeps_the_order(stream):
    found = itertools.islice(stream_examples(stream(shuffle_buffer_size=1)), 100)
    assert [e.prompt for e in found] == [f"a{n}" for n in range(100)]


def test_bad_answers_are_no_part_of_a_stream(tmp_path, stream):
    path = tmp_path / "feedback.jsonl"
    turns = [
        [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "ok"}]
        for n in range(6)
    ]
    feedback = [{"messages": turn, "label": n % 2 == 0} for n, turn in enumerate(turns)]
    path.write_text("\n".join(map(json.dumps, feedback)))
    config = stream(datasets=[{"path": str(path)}], shuffle_buffer_size=1)
    found = itertools.islice(stream_examples(config), 6)
    assert [e.messages[0]["content"] for e in found] == ["0", "2", "4", "0", "2", "4"]


def test_streams_are_mixed(tmp_path, stream):
    config = stream(1000)
    other = tmp_path / "b.jsonl"
    other.write_text("\n".join(json.dumps(row) for row in rows("b", 1000)))
    first = {"path": config.data.train.datasets[0].path, "mixture_proportion": 0.8}
    config = stream(1000, datasets=[first, {"path": str(other), "mixture_proportion": 0.2}])
    found = [e.prompt[0] for e in itertools.islice(stream_examples(config), 1000)]
    assert found.count("a") / len(found) == pytest.approx(0.8, abs=0.04)


def test_of_a_stream_the_first_rows_are_looked_at_and_none_is_held_out(stream, monkeypatch):
    monkeypatch.setattr("nbft.data.examples.STREAM_ROWS", 7)
    examples, _ = load_examples(stream(), "train")
    assert examples.is_stream
    assert len(examples) == 7
    assert len(load_examples(stream(), "validation")[0]) == 0
    plan = make_plan(stream())
    assert plan.train_rows is None
    assert plan.total_steps == 10


def test_a_stream_without_an_end_is_a_problem(stream):
    config = stream().apply({"training.max_steps": -1})
    (said,) = [p for p in make_plan(config).problems if p.field == "data.train.stream"]
    assert str(said) == (
        "data.train.stream=True: leaves the number of rows unknown, so an epoch never ends. Set "
        "training.max_steps, or turn streaming off."
    )


def test_a_stream_of_a_missing_or_empty_file_is_said(tmp_path):
    for name, said in (("gone.jsonl", "does not exist"), ("empty.jsonl", "is empty")):
        (tmp_path / "empty.jsonl").write_text("")
        config = Config(
            data={"train": {"datasets": [{"path": str(tmp_path / name)}], "stream": True}}
        )
        with pytest.raises(DataError, match=said):
            load_examples(config, "train")


def test_a_shuffled_sample_is_drawn_from_all_rows():
    some = {"rows": rows("a", 1000), "sample_count": 50, "shuffle": True}
    config = Config(data={"train": some, "split_ratio": 1})
    found = [int(name[1:]) for name in prompts(config)]
    assert len({*found}) == 50
    assert np.mean(found) == pytest.approx(500, abs=150)
