"""What the run would refuse about a tokenizer, the plan refuses first, by the setting that names it."""

import json
import shutil

import pytest

from nbft import make_plan
from nbft.config import Config
from nbft.errors import ModelError
from nbft.models.load import load_tokenizer

ROWS = [{"prompt": f"Add {n}.\n", "completion": str(n)} for n in range(20)]


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy of the tiny model, whose files may be spoiled."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def config_of(folder, **model):
    return Config(model={"model_name": str(folder), **model}, data={"rows": ROWS})


def refused(config):
    """Return the sentences of the plan about the tokenizer; the run refuses the same settings."""
    problems = [p for p in make_plan(config).errors if p.field.startswith("model.")]
    if not problems:
        load_tokenizer(config, config.model.model_name)
        return []
    with pytest.raises(ModelError) as raised:
        load_tokenizer(config, config.model.model_name)
    assert {p.field for p in raised.value.problems} == {p.field for p in problems}
    return [str(p) for p in problems]


def edit(folder, **changes):
    path = folder / "tokenizer_config.json"
    about = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in about.items() if v is not ...}))


def test_the_models_own_tokenizer_is_no_problem(folder):
    assert refused(config_of(folder)) == []


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_tokenizer_that_is_nowhere(folder, name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert refused(config_of(folder, tokenizer_name=name)) == [
        (
            f"model.tokenizer_name='{name}': is neither a folder with a tokenizer nor a name on the hub "
            "(owner/name). Leave it empty to use the model's own."
        )
    ]


def test_a_name_on_the_hub_may_be_there(folder):
    config = config_of(folder, tokenizer_name="owner/name")
    assert make_plan(config).errors == []
    with pytest.raises(ModelError, match=r"model.tokenizer_name='owner/name': was not found"):
        load_tokenizer(config, folder)


@pytest.mark.parametrize("names_it", [True, False])
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer.json", "{", "has a tokenizer.json that cannot be read"),
        ("tokenizer.json", "{}", "has a tokenizer.json that cannot be read"),
        ("tokenizer_config.json", "{", "has a tokenizer_config.json that cannot be read"),
        ("tokenizer_config.json", "[]", "has a tokenizer_config.json that cannot be read"),
    ],
)
def test_files_that_do_not_parse(folder, tiny_model, tmp_path, file, content, words, names_it):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / file).write_text(content)
    config = config_of(tiny_model, tokenizer_name=str(other)) if names_it else config_of(other)
    (sentence,) = refused(config)
    field = f"model.{'tokenizer' if names_it else 'model'}_name"
    assert sentence.startswith(f"{field}='{other}': {words}")


def test_a_folder_without_a_tokenizer(folder, tiny_model, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (sentence,) = refused(config_of(tiny_model, tokenizer_name=str(empty)))
    assert "holds no tokenizer" in sentence
    for file in folder.glob("*token*"):
        file.unlink()
    (sentence,) = refused(config_of(folder))
    assert sentence.startswith(f"model.model_name='{folder}': holds no tokenizer")


def test_a_padding_token_that_is_none(folder):
    assert refused(config_of(folder, pad_token="<|pad|>")) == []
    assert refused(config_of(folder, pad_token="[PAD]")) == [
        "model.pad_token='[PAD]': is not a token of this model. Leave it empty to use <|pad|>."
    ]


def test_a_tokenizer_without_an_end(folder):
    edit(folder, eos_token=...)
    (sentence,) = refused(config_of(folder))
    assert "without an end-of-sequence token" in sentence
    assert refused(config_of(folder, tokenizer_kwargs={"eos_token": "<|end|>"})) == []


def test_tokens_are_counted_with_the_tokenizer_that_is_used(folder, tmp_path):
    from nbft.data.tiny_model import make_tiny_model

    small = make_tiny_model(tmp_path / "small", vocab_size=300)
    own, other = (
        make_plan(config_of(folder, **settings)).tokens
        for settings in ({}, {"tokenizer_name": str(small)})
    )
    assert other > own
