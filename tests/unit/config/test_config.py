import json
import random

import pytest

from nbft.config import Config, presets
from nbft.config import io as config_io
from nbft.config.data import Dataset
from nbft.errors import ConfigError

TEXTS = [
    "Question: {question}\n\nAnswer:\n",
    "  two spaces before\nand {'quoted'}\n\n\n",
    "\n{a}\n",
    "tab\tand\r\nCRLF {a}",
    "ünïcode 🎉 \u2028 \x85 end",
    "${x} $x #no comment: {{json}} - [1]",
    "trailing space \nline ",
    "null",
    "5e-5",
    "no",
    "'",
    "",
    " ",
    "x" * 5000 + " " + "y" * 5000,
    "# not a comment\n  indented\n",
    "a\n\n  b\n c\n",
    "%TAG\n---\n...\n",
]


def _with(text):
    return Config(data={"dataset_name": "alpaca", "prompt_template": text})


@pytest.mark.parametrize("comments", [False, True])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("text", TEXTS, ids=lambda t: repr(t[:20]))
def test_a_template_comes_back_from_yaml(text, full, comments):
    config = _with(text)
    assert Config.from_yaml(config.to_yaml(full=full, comments=comments)) == config


@pytest.mark.parametrize("seed", range(5))
def test_any_template_comes_back_from_yaml(seed):
    chance = random.Random(seed)
    alphabet = " \n\n\t\r#:-'\"{}|>%&*!?,[]ab0é🎉\x00\x1b\x7f\x85\xa0\u2028\ufeff\\"
    for _ in range(30):
        text = "".join(chance.choices(alphabet, k=chance.randrange(12)))
        dumped = config_io.dump_yaml({"a": {"b": text}}, {"a.b": "what it is"})
        assert config_io.parse_yaml(dumped, "here") == {"a": {"b": text}}, repr(text)


def test_a_full_config_with_comments_comes_back_and_shows_each_help():
    config = Config.preset("high-quality")
    text = config.to_yaml(full=True, comments=True)
    assert Config.from_yaml(text) == config
    assert "# Rank of the adapter" in text


def test_defaults_are_not_written():
    assert Config().to_yaml() == ""
    assert Config(training={"seed": 1}).to_yaml() == "training:\n  seed: 1\n"


@pytest.mark.parametrize(
    ("written", "value"),
    [("5e-5", 5e-5), ("1E-4", 1e-4), ("2e-4", 2e-4), ("0.001", 0.001), (".5", 0.5)],
)
def test_numbers_with_exponents_are_numbers(written, value):
    config = Config.from_yaml(f"training: {{learning_rate: {written}}}")
    assert config.training.learning_rate == value
    assert Config().override(f"training.learning_rate={written}").training.learning_rate == value


def test_no_is_a_word():
    config = Config.from_yaml("evaluation: {eval_strategy: no}\nprecision: {mixed_precision: no}")
    assert (config.evaluation.eval_strategy, config.precision.mixed_precision) == ("no", "no")


def test_a_section_with_everything_commented_out_is_the_default():
    assert Config.from_yaml("training:\n  # seed: 1\nmodel:\n") == Config()


def test_a_json_file_is_a_config_too(tmp_path):
    for indent in (None, 2, "\t"):
        tree = {"training": {"seed": 7, "learning_rate": 5e-5}}
        (tmp_path / "c.json").write_text(json.dumps(tree, indent=indent))
        assert Config.load(tmp_path / "c.json").training.learning_rate == 5e-5


def test_saving_and_loading(tmp_path):
    path = _with("a {b}\n").save(tmp_path / "new" / "c.yaml", comments=True)
    assert Config.load(path) == _with("a {b}\n")
    assert [f.name for f in path.parent.iterdir()] == ["c.yaml"]


def test_rows_in_memory_are_not_saved_silently(tmp_path):
    config = Config(
        data={
            "train": {"dataset_name": "alpaca"},
            "validation": {"datasets": [{"dataset_name": "alpaca"}, {"rows": [{"text": "a"}]}]},
        }
    )
    with pytest.raises(ConfigError) as caught:
        config.save(tmp_path / "c.yaml")
    assert str(caught.value) == (
        "data.validation.datasets[1].rows: rows in memory cannot be saved in a config file. "
        "Write them to a file and set path, or start the run, which saves them."
    )


def test_a_missing_file_says_the_nearest_one(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError) as caught:
        Config.load(tmp_path / "confg.yaml")
    assert str(caught.value) == f"{tmp_path}/confg.yaml: no such file. Did you mean config.yaml?"
    with pytest.raises(ConfigError) as caught:
        Config.load(tmp_path / "none" / "c.yaml")
    assert str(caught.value).endswith(f"no such file. Nor does its folder {tmp_path}/none exist.")


def test_what_is_no_config_file_says_so(tmp_path):
    (tmp_path / "big.yaml").write_bytes(b"#" * 2_000_000)
    (tmp_path / "utf16.yaml").write_bytes("training:".encode("utf-16"))
    for name, words in {
        "big.yaml": "2.0 MB is too large for a config. Is it data?",
        "utf16.yaml": "is not UTF-8 text (byte 0).",
        "": "is a folder. Name the file in it.",
        "a\0b": "is not a valid file name.",
    }.items():
        with pytest.raises(ConfigError) as caught:
            Config.load(tmp_path / name)
        assert str(caught.value).endswith(words)


def test_overrides_win_and_are_read_as_yaml(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("training: {seed: 1}\ndata: {train: {datasets: [{dataset_name: alpaca}]}}")
    config = Config.load(
        path,
        [
            "training.seed=7",
            "--training.learning_rate=5e-5",
            "peft.target_modules=[q_proj, v_proj]",
            "data.train.datasets[0].sample_count=200",
            "data.train.datasets[1].dataset_name=gsm8k",
            "data.validation.datasets[0].dataset_name=gsm8k",
            "model.model_revision=",
        ],
    )
    assert config.training.seed == 7
    assert config.training.learning_rate == 5e-5
    assert config.peft.target_modules == ["q_proj", "v_proj"]
    assert [d.dataset_name for d in config.data.train.datasets] == ["alpaca", "gsm8k"]
    assert config.data.train.datasets[0].sample_count == 200
    assert config.data.validation.datasets[0].dataset_name == "gsm8k"


@pytest.mark.parametrize(
    "short",
    [
        "data: {dataset_name: alpaca, prompt_template: '{output}'}",
        "data: {train: {dataset_name: alpaca, prompt_template: '{output}'}}",
    ],
)
def test_a_dataset_in_short_form_can_be_overridden_in_long_form(short, tmp_path):
    (tmp_path / "c.yaml").write_text(short)
    config = Config.load(
        tmp_path / "c.yaml",
        ["data.train.datasets[0].sample_count=200", "data.max_length=64"],
    )
    (dataset,) = config.data.train.datasets
    assert (dataset.dataset_name, dataset.sample_count) == ("alpaca", 200)
    assert dataset.prompt_template == "{output}"
    assert config.data.max_length == 64


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.seed", "training.seed: is not an override. Write training.max_steps=60."),
        ("=5", "=5: is not an override. Write training.max_steps=60."),
        ("training.sed=1", "training.sed=1: is not a setting. Did you mean seed?"),
        ("training.seed.x=1", "training.seed.x: x does not fit: its parent is the value 42."),
        ("training[0]=1", "training[0]: [0] does not fit: its parent is a block of keys."),
        (
            "data.train.datasets[2].path=x",
            "data.train.datasets[2].path: the list has 0 items, so the next is [0].",
        ),
        ("training.seed=[", "training.seed=[ line 1, column 9: is not valid YAML."),
    ],
)
def test_the_words_of_a_wrong_override(override, words, without_parsers_words):
    with pytest.raises(ConfigError) as caught:
        Config().override(override)
    assert without_parsers_words(str(caught.value)) == words


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("{q}", "{q}"),
        ("{q", "{q"),
        ("Question: {q}", "Question: {q}"),
        ("{q} # 1", "{q} # 1"),
        ("[{q}]", "[{q}]"),
        ("12", "12"),
        ("true", "true"),
        ("- {q}", "- {q}"),
        ('"{q}\\n"', "{q}\n"),
        ("'{q} '", "{q} "),
        ("", None),
        ("null", None),
    ],
)
def test_a_text_setting_takes_the_text_of_an_override_as_it_is(written, value, tmp_path):
    (tmp_path / "c.yaml").write_text("data: {path: rows.jsonl}")
    override = f"data.train.datasets[0].prompt_template={written}"
    config = Config.load(tmp_path / "c.yaml", [override])
    assert config.data.train.datasets[0].prompt_template == value
    assert Config(data={"path": "a"}).override(override).data.train.datasets[0] == Dataset(
        path="a", prompt_template=value
    )
    short = Config.load(tmp_path / "c.yaml", [f"data.prompt_template={written}"])
    assert short.data.train.datasets[0].prompt_template == value


def test_overrides_of_other_types_are_yaml():
    config = Config(data={"path": "a"}).override(
        "data.train.datasets[0].columns={prompt: q}", "memory.gradient_checkpointing=true"
    )
    assert config.data.train.datasets[0].columns == {"prompt": "q"}
    assert config.memory.gradient_checkpointing is True


@pytest.mark.parametrize(
    ("written", "value"), [("0,0003", 3e-4), ("3e-4,", 3e-4), (",5", 0.5), ("0.1", 0.1)]
)
def test_overrides_understand_decimal_commas(written, value):
    assert Config().override(f"training.learning_rate={written}").training.learning_rate == value


def test_thousands_are_separated_by_commas():
    assert Config().override("data.max_length=2,048").data.max_length == 2048
    with pytest.raises(ConfigError) as caught:
        Config().override("training.num_train_epochs=1.000,5")
    (problem,) = caught.value.problems
    assert str(problem) == (
        "training.num_train_epochs='1.000,5': has a point and a comma, so it could be two numbers. "
        "Use 1000.5."
    )
    assert problem.changes == {"training.num_train_epochs": 1000.5}


def test_all_wrong_overrides_are_said():
    with pytest.raises(ConfigError) as caught:
        Config().override("x", "y", "training.seed[0]=1")
    assert len(caught.value.problems) == 3


def test_override_and_apply_keep_rows_in_memory_and_leave_the_original():
    rows = [{"text": "a"}]
    config = Config(data={"rows": rows})
    for changed in (config.override("training.seed=1"), config.apply({"training.seed": 1})):
        assert changed.data.train.datasets[0].rows is rows
        assert changed.training.seed == 1
    assert config.training.seed == 42


def test_apply_replaces_rows_in_memory():
    old, new = [{"text": "a"}], [{"text": "b"}, {"text": "c"}]
    config = Config(data={"rows": old, "prompt_template": "{text}"})
    for changes in (
        {"data.train": {"rows": new}},
        {"data.train": {"datasets": [{"rows": new}]}},
        {"data.train.datasets": [{"rows": new}]},
        {"data.train.datasets[0].rows": new},
    ):
        assert config.apply(changes).data.train.datasets[0].rows is new
    for changes in (
        {"data.train": {"path": "b.jsonl"}},
        {"data.train.datasets": [{"path": "b.jsonl"}]},
        {"data.train.datasets[0].rows": None, "data.train.datasets[0].path": "b.jsonl"},
    ):
        (dataset,) = config.apply(changes).data.train.datasets
        assert (dataset.rows, dataset.path) == (None, "b.jsonl")


def test_apply_keeps_rows_with_their_own_dataset():
    a, b = [{"text": "a"}], [{"text": "b"}]
    config = Config(data={"rows": a, "validation": {"rows": b}})
    assert [d.rows for d in config.apply({"data.train.datasets": []})._datasets()] == [b]
    (train,) = config.apply({"data.validation": None})._datasets()
    assert train.rows is a
    second = {"data.train.datasets[1].dataset_name": "alpaca"}
    assert [d.rows for d in config.apply(second)._datasets()] == [a, None, b]


def test_the_difference():
    config = Config(
        data={"dataset_name": "alpaca", "validation": {"dataset_name": "gsm8k"}},
        scheduler={"lr_scheduler_kwargs": {"num_cycles": 2}},
        memory={"gradient_checkpointing_kwargs": {}},
    )
    assert config.diff() == {
        "data.train.datasets[0].dataset_name": (None, "alpaca"),
        "data.validation.datasets[0].dataset_name": (None, "gsm8k"),
        "scheduler.lr_scheduler_kwargs": ({}, {"num_cycles": 2}),
        "memory.gradient_checkpointing_kwargs": ({"use_reentrant": False}, {}),
    }
    assert config.diff(config) == {}
    assert Config().diff(config)["data.validation.datasets[0].dataset_name"] == ("gsm8k", None)


def test_a_dataset_may_stand_directly_under_data_or_train():
    long = Config(data={"train": {"datasets": [{"dataset_name": "alpaca", "sample_count": 5}]}})
    assert Config(data={"dataset_name": "alpaca", "sample_count": 5}) == long
    assert Config(data={"train": {"dataset_name": "alpaca", "sample_count": 5}}) == long


def test_two_configs_share_nothing():
    one, two = Config(), Config()
    one.peft.target_modules.append("q_proj")
    one.training.seed = 1
    assert two == Config()


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_changes_something(name):
    assert Config.preset(name).diff()


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="preset='x': is not one of two-minute-try, memory-op"):
        Config.preset("x")


def test_putting_and_taking_out():
    tree = {}
    config_io.put(tree, "a.b[0].c", 1)
    config_io.put(tree, "a.b[1].c", 2)
    assert tree == {"a": {"b": [{"c": 1}, {"c": 2}]}}
    assert config_io.without(tree, "a.b[0]") == {"a": {"b": [{"c": 2}]}}
    assert tree["a"]["b"][0] == {"c": 1}


def test_writing_into_a_folder_without_rights_is_a_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.raises(ConfigError) as caught:
        Config().save(tmp_path / "c.yaml")
    assert str(caught.value) == f"{tmp_path}/c.yaml: cannot be written: Permission denied."


def test_the_adapters_strength_and_biases_as_other_systems_write_them():
    assert Config(peft={"bias": None}).peft.bias == "none"
    assert Config(peft={"lora_alpha": -1, "r": 32}).peft.alpha == 64
    assert Config(peft={"lora_alpha": -1, "use_rslora": True}).peft.alpha == 4
    with pytest.raises(ConfigError, match="lora_alpha=0: would disable the adapter"):
        Config(peft={"lora_alpha": 0})


def test_an_override_of_no_section_is_no_setting():
    with pytest.raises(
        ConfigError, match=r"max_steps=1: is not a setting\. It is called training.max_steps"
    ):
        Config().override("max_steps=1")


def test_a_dataset_is_called_by_what_is_read():
    """A name beside a file, left from a preset, is not what is trained on."""
    called = [
        Config(data=data).data.train.datasets[0].called
        for data in (
            {"path": "my rows/own.jsonl", "dataset_name": "alpaca"},
            {"dataset_name": "alpaca"},
            {"rows": [{"prompt": "a", "completion": "b"}], "dataset_name": "alpaca"},
        )
    ]
    assert called == ["own.jsonl", "alpaca", "the rows in memory"]
