"""The words of each wrong setting."""

import time
from datetime import date

import pytest
from pydantic import ValidationError

from nbft.config import Config, settings
from nbft.config.base import Section
from nbft.config.problems import problems_of
from nbft.errors import ConfigError

ALL = {
    "training: {max_step: 3}": "training.max_step=3: is not a setting. Did you mean max_steps?",
    "training: {max_length: 3}": "training.max_length=3: is not a setting. It is called "
    "data.max_length.",
    "learning_rate: 1": "learning_rate=1: is not a setting. It is called training.learning_rate.",
    "training: {warmup_ratio: 0.1}": "training.warmup_ratio=0.1: is not a setting. Set "
    "scheduler.warmup_steps to a value below 1, which is a share of all steps.",
    "data: {prompt_templte: x}": "data.prompt_templte='x': is not a setting. Did you mean "
    "data.train.datasets[0].prompt_template?",
    "data: {train: {dataset_name: alpaca, sample_cuont: 3}}": "data.train.datasets[0].sample_cuont"
    "=3: is not a setting. Did you mean sample_count?",
    "trainig: {seed: 1}": "trainig: is not a setting. Did you mean training?",
    "compute: {zzz: 1}": "compute.zzz=1: is not a setting. Known: device, launcher, "
    "peak_tflops, price_usd_per_hour, provider, slurm, torch_compile.",
    "training: {zzz: 1}": "training.zzz=1: is not a setting. Remove it, or list the settings with: "
    "nbft config show --all.",
    "self: 1": "self=1: is not a setting. Remove it, or list the settings with: nbft config show "
    "--all.",
    "training: {learning_rate: fast}": "training.learning_rate='fast': is not a number. The default "
    "is 0.0002.",
    "training: {learning_rate: '0,0003'}": "training.learning_rate='0,0003': is not a number. Use "
    "0.0003.",
    "training: {learning_rate: '1.000,5'}": "training.learning_rate='1.000,5': has a point and a "
    "comma, so it could be two numbers. The default is 0.0002.",
    "data: {max_length: '100,000'}": "data.max_length='100,000': is not a whole number. Use 100000.",
    "training: {learning_rate: true}": "training.learning_rate=True: is not a number. The default "
    "is 0.0002.",
    "training: {learning_rate: .nan}": "training.learning_rate=nan: is not a number. The default is "
    "0.0002.",
    "training: {learning_rate: 2}": "training.learning_rate=2: must be at most 1. The range is "
    "above 0, at most 1. Use 0.0002.",
    "training: {learning_rate: 0}": "training.learning_rate=0: must be above 0. The range is above "
    "0, at most 1. Use 0.0002.",
    "training: {per_device_train_batch_size: 2.6}": "training.per_device_train_batch_size=2.6: is "
    "not a whole number. Use 3.",
    "training: {per_device_train_batch_size: 0.3}": "training.per_device_train_batch_size=0.3: is "
    "not a whole number. Use 1.",
    "training: {seed: 5000000000}": "training.seed=5000000000: must be at most 4,294,967,295. The "
    "range is 0 to 4,294,967,295. Use 4294967295.",
    "training: {max_steps: many}": "training.max_steps='many': is not a whole number. The default "
    "is -1.",
    "training: {max_steps: 1.0e+308}": "training.max_steps=1e+308: is not a whole number of a usable "
    "size. The default is -1.",
    "data: {pad_to_multiple_of: all}": "data.pad_to_multiple_of='all': is not a whole number. Leave it "
    "empty to let nbft decide, or write a number.",
    "data: {max_length: 3}": "data.max_length=3: must be at least 8. Use 8.",
    "optimizer: {weight_decay: 3}": "optimizer.weight_decay=3: must be at most 1. The range is 0 to "
    "1. Use 0.0.",
    "optimizer: {optim: adamw_torch_fussed}": "optimizer.optim='adamw_torch_fussed': is not one of "
    "adamw_torch, adamw_torch_fused, adamw_8bit, paged_adamw_32bit, paged_adamw_8bit, adafactor, "
    "sgd, rmsprop, lion_32bit, adam. Use adamw_torch_fused.",
    "evaluation: {eval_on_start: maybe}": "evaluation.eval_on_start='maybe': is neither true nor "
    "false. Write true or false.",
    "model: {model_name: 5}": "model.model_name=5: is not text. Write it in quotes.",
    "peft: {modules_to_save: head}": "peft.modules_to_save='head': is not a list. Write [a, b].",
    "peft: {target_modules: 7}": "peft.target_modules=7: is not a list. Write [a, b].",
    "peft: {target_modules: [q_proj, 7]}": "peft.target_modules: is not text. Write it in quotes.",
    "scheduler: {lr_scheduler_kwargs: 3}": "scheduler.lr_scheduler_kwargs=3: is not a block of "
    "keys. Write {key: value}.",
    "training: 5": "training=5: is not a block of settings. Indent its settings under it.",
    "training: {1: 2}": "training: the key 1 is not text. Write it in quotes.",
    "data: {columns: {5: x}}": "data.train.datasets[0].columns: the key 5 is not text. Write it in "
    "quotes.",
    "1: 2": "the text: the section 1 is not text. Write it in quotes.",
    "data: {dataset_name: a, train: {dataset_name: b}}": "data: a dataset is set both directly "
    "under data (dataset_name) and under data.train. Keep one of them.",
    "training: [": "the text line 1, column 12: is not valid YAML.",
    "training: 2024-13-45": "the text line 1, column 11: is not valid YAML.",
    "training:\n  seed: \a": "the text line 2, column 9: YAML allows no character U+0007. Remove it.",
    "[" * 5_000: "the text: is nested too deeply.",
    "training:\n  seed: 1\n  seed: 2": "the text line 3, column 3: seed appears twice. Keep one.",
    "'a b': 1\n'a b': 2": "the text line 2, column 1: a b appears twice. Keep one.",
    "training: {seed: 1, seed: 2}": "the text line 1, column 21: seed appears twice. Keep one.",
    "- 1": "the text: holds no sections. Begin with, for example, 'model:'.",
}


@pytest.mark.parametrize("yaml", ALL, ids=lambda yaml: yaml[:80])
def test_the_words(yaml, without_parsers_words):
    with pytest.raises(ConfigError) as caught:
        Config.from_yaml(yaml)
    assert without_parsers_words(str(caught.value)) == ALL[yaml]


def test_a_kind_of_error_without_a_sentence_gets_a_general_one():
    class Dated(Section):
        day: date = date(2026, 1, 1)

    with pytest.raises(ValidationError) as caught:
        Dated.model_validate({"day": "soon"})
    (problem,) = problems_of(caught.value, Dated)
    assert (problem.field, problem.value) == ("day", "soon")
    assert problem.why.startswith("is not valid (")


@pytest.mark.parametrize("yaml", ALL, ids=lambda yaml: yaml[:80])
def test_what_is_proposed_mends_it(yaml):
    with pytest.raises(ConfigError) as caught:
        Config.from_yaml(yaml)
    for problem in caught.value.problems:
        Config().apply(getattr(problem, "changes", {}))
        assert not str(problem).endswith(" ")


@pytest.mark.parametrize(
    "setting", [s for s in settings() if s.ge is not None], ids=lambda s: s.path
)
def test_every_lower_limit_is_said_and_its_proposal_is_right(setting):
    path = setting.path.replace("[]", "[0]")
    with pytest.raises(ConfigError) as caught:
        Config().apply({path: setting.ge - 1})
    (problem,) = caught.value.problems
    assert problem.field == path
    assert "must be at least" in problem.why
    if problem.changes:
        Config().apply(problem.changes)


def test_several_mistakes_are_said_together():
    with pytest.raises(ConfigError) as caught:
        Config(training={"max_step": 1, "learning_rate": 9}, peft={"r": "x"}, modl={})
    fields = [problem.field for problem in caught.value.problems]
    assert sorted(fields) == ["modl", "peft.r", "training.learning_rate", "training.max_step"]


def test_assigning_is_checked_and_names_the_whole_path():
    config = Config(data={"dataset_name": "alpaca"})
    with pytest.raises(ConfigError) as caught:
        config.training.learning_rate = 5
    assert str(caught.value).startswith("training.learning_rate=5: must be at most 1.")
    assert config.training.learning_rate == 2e-4
    with pytest.raises(ConfigError, match=r"training.max_step=5: .* Did you mean max_steps\?"):
        config.training.max_step = 5
    with pytest.raises(ConfigError, match=r"^sample_count=0: must be at least 1"):
        config.data.train.datasets[0].sample_count = 0
    with pytest.raises(ConfigError, match=r"^trainig=5: is not a setting. Did you mean training\?"):
        config.trainig = 5


def test_parse_keeps_what_is_right_and_says_the_rest_once():
    tree = {
        "training": {"seed": 7, "learning_rate": 9, "lr": 1},
        "evaluation": {"sample_prompts": [1, 2, "good"]},
        "data": {"dataset_name": "alpaca", "sample_count": 0, "max_length": 64},
        "peft": 3,
    }
    config, problems = Config.parse(tree)
    assert config.diff() == {
        "data.train.datasets[0].dataset_name": (None, "alpaca"),
        "data.max_length": (1024, 64),
        "training.seed": (42, 7),
        "evaluation.sample_prompts": ([], ["good"]),
    }
    assert sorted(problem.field for problem in problems) == [
        "data.train.datasets[0].sample_count",
        "evaluation.sample_prompts[0]",
        "evaluation.sample_prompts[1]",
        "peft",
        "training.learning_rate",
        "training.lr",
    ]
    assert tree["training"]["lr"] == 1, "the tree that was given is left alone"


def test_what_cannot_be_taken_out_of_a_tree_is_reported_once():
    _, problems = Config.parse({"data.train.datasets[7].seed": 1, "training": {"max_steps": "x"}})
    assert [problem.field for problem in problems] == [
        "training.max_steps",
        "data.train.datasets[7].seed",
    ]


def test_half_of_a_character_gets_our_words():
    _, (problem,) = Config.parse({"data": {"shuffle": "\ud800"}})
    assert (problem.why, problem.fix) == ("contains an incomplete character.", "Write it again.")


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "a: &a {b: *a}"])
def test_aliases_cannot_grow_without_end(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"^the text: its aliases"):
        Config.from_yaml(text)
    assert time.monotonic() - began < 20  # it would take hours


def test_aliases_may_be_used() -> None:
    text = "training: {seed: &seed 7, data_seed: *seed}"
    assert Config.from_yaml(text).training.data_seed == 7
