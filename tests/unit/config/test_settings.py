import jsonschema
import pytest

from nbft.config import Config, settings
from nbft.config.base import limit_text


def test_every_setting_says_what_it_does_where_it_is_from_and_for_whom():
    for setting in settings():
        assert setting.help.strip(), setting.path
        assert setting.source.strip(), setting.path
        assert setting.level in ("basic", "advanced", "expert"), setting.path


def test_paths_are_unique():
    paths = [setting.path for setting in settings()]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("setting", settings(), ids=lambda s: s.path)
def test_every_default_is_a_right_value(setting):
    path = setting.path.replace("[]", "[0]")
    Config().apply({path: setting.default})


@pytest.mark.parametrize("setting", [s for s in settings() if s.usual], ids=lambda s: s.path)
def test_the_usual_range_lies_in_the_range_and_may_be_chosen(setting):
    path = setting.path.replace("[]", "[0]")
    for value in setting.usual:
        Config().apply({path: setting.type(value)})
    assert setting.usual[0] <= setting.usual[1]


@pytest.mark.parametrize("path", ["peft.r", "training.learning_rate", "data.split_ratio"])
def test_the_range_in_words(path):
    words = {"peft.r": "1 to 1,024", "training.learning_rate": "above 0, at most 1"}
    words["data.split_ratio"] = "above 0, at most 1"
    (setting,) = [s for s in settings() if s.path == path]
    assert setting.range_text == words[path]


def test_a_limit_in_words():
    assert [limit_text(v) for v in (8, 2**32 - 1, 0.5, 1e-8, 0.0)] == [
        "8",
        "4,294,967,295",
        "0.5",
        "1e-08",
        "0",
    ]


def test_the_json_schema_takes_the_full_config_and_refuses_a_typo():
    schema = Config.json_schema()
    tree = Config(data={"dataset_name": "alpaca"}).to_dict(full=True)
    jsonschema.validate(tree, schema)
    tree["training"]["max_step"] = 3
    with pytest.raises(jsonschema.ValidationError) as caught:
        jsonschema.validate(tree, schema)
    assert (caught.value.json_path, caught.value.validator) == (
        "$.training",
        "additionalProperties",
    )


@pytest.mark.parametrize(
    ("path", "sources"),
    [
        ("training.learning_rate", ("Unsloth", "Oumi", "PEFT Studio", "ERNIEKit", "disagree")),
        ("scheduler.warmup_steps", ("Unsloth", "PEFT Studio")),
        ("memory.gradient_checkpointing", ("PEFT Studio",)),
        ("peft.use_rslora", ("PEFT Studio", "ERNIEKit", "disagree")),
    ],
)
def test_the_hints_name_whose_advice_it_is(path, sources):
    why = next(setting.why for setting in settings() if setting.path == path)
    assert [source for source in sources if source not in why] == []
