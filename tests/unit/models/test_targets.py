"""Each name of a layer is found as PEFT finds it, or refused with the nearest."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers

from nbft.config import Config
from nbft.data.tiny_model import make_tiny_model
from nbft.errors import Problem
from nbft.models.targets import layer_problems, layer_remarks, layers_of, trains_head
from nbft.plan.memory import layers_of_shape, model_shape


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def untied(folder):
    config = transformers.AutoConfig.from_pretrained(folder, tie_word_embeddings=False)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.fixture(params=["files", "model"])
def layers(request, folder, model):
    """What the plan knows and what the run knows must lead to the same."""
    if request.param == "model":
        return layers_of(model)
    return layers_of_shape(model_shape(folder))


def problems(layers, **changes) -> list[Problem]:
    config = Config().apply({name.replace("__", "."): value for name, value in changes.items()})
    return list(layer_problems(config, layers))


@pytest.mark.parametrize(
    ("changes", "words", "use"),
    [
        (
            {"peft__target_modules": ["q_proj", "q_prj"]},
            "peft.target_modules='q_prj': matches no layer of the model. Did you mean q_proj?",
            {"peft.target_modules": ["q_proj"]},
        ),
        (
            {"peft__target_modules": ["all-linear", "lm_hed"]},
            (
                "peft.target_modules='lm_hed': matches no layer of the model. Use all-linear, or some "
                "of down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
            ),
            {"peft.target_modules": ["all-linear"]},
        ),
        (
            {"peft__target_modules": ["self_atn.v_proj"]},
            (
                "peft.target_modules='self_atn.v_proj': matches no layer of the model. Did you mean "
                "self_attn.v_proj?"
            ),
            {"peft.target_modules": ["self_attn.v_proj"]},
        ),
        (
            {"peft__target_modules": ["layers.7.self_attn.q_proj"]},
            (
                "peft.target_modules='layers.7.self_attn.q_proj': matches no layer of the model. Did "
                "you mean layers."
            ),
            None,
        ),
        (
            {"peft__target_modules": ["proj"]},
            "peft.target_modules='proj': matches no layer of the model. Did you mean ",
            None,
        ),
        (
            {"peft__target_modules": ["mlp"]},
            (
                "peft.target_modules='mlp': is no layer with a matrix of weights, so it can get no "
                "adapter. Name the layers in it: down_proj, gate_proj, up_proj."
            ),
            {"peft.target_modules": ["down_proj", "gate_proj", "up_proj"]},
        ),
        (
            {"peft__target_modules": ["q_proj", "input_layernorm"]},
            "peft.target_modules='input_layernorm': is no layer with a matrix of weights",
            {"peft.target_modules": ["q_proj"]},
        ),
        (
            {"peft__target_modules": "q_proj"},
            (
                "peft.target_modules='q_proj': is a pattern for the whole name of a layer, and matches "
                "none. Write [q_proj]."
            ),
            {"peft.target_modules": ["q_proj"]},
        ),
        (
            {"peft__target_modules": r".*\.q_prj"},
            (
                r"peft.target_modules='.*\\.q_prj': is a pattern for the whole name of a layer, and "
                "matches none. A name is model.layers.0.mlp.down_proj."
            ),
            {},
        ),
        ({"peft__target_modules": r"(q_proj"}, "is no regular expression (missing )", {}),
        ({"peft__target_modules": r".*"}, "which can get no adapter. Write a narrower", {}),
        (
            {"peft__target_modules": ["q_proj", "v_proj"], "model__freeze_layers": ["v_proj"]},
            "peft.target_modules='v_proj': is frozen by model.freeze_layers",
            {"peft.target_modules": ["q_proj"]},
        ),
        (
            {"peft__target_modules": ["q_proj", "v_proj"], "peft__modules_to_save": ["v_proj"]},
            "peft.target_modules='v_proj': is in peft.modules_to_save too",
            {"peft.target_modules": ["q_proj"]},
        ),
        (
            {"peft__modules_to_save": ["lm_heads"]},
            "peft.modules_to_save='lm_heads': matches no layer of the model. Did you mean lm_head?",
            {"peft.modules_to_save": ["lm_head"]},
        ),
        (
            {"peft__modules_to_save": ["norm"]},
            (
                "peft.modules_to_save='norm': would train input_layernorm and "
                "post_attention_layernorm too, because PEFT takes every layer whose name ends so. Use "
                "model.norm."
            ),
            {"peft.modules_to_save": ["model.norm"]},
        ),
        (
            {"peft__modules_to_save": ["up_proj"], "quantization__load_in_4bit": True},
            "peft.modules_to_save='up_proj': is quantised, so it can only be frozen.",
            {"peft.modules_to_save": []},
        ),
        (
            {"peft__modules_to_save": ["lm_head"], "model__freeze_layers": ["lm_head"]},
            "peft.modules_to_save='lm_head': is frozen by model.freeze_layers",
            {"peft.modules_to_save": []},
        ),
        (
            {"model__freeze_layers": ["layer.0"], "peft__method": "full"},
            "model.freeze_layers='layer.0': matches no layer of the model. Did you mean layers.0?",
            {"model.freeze_layers": ["layers.0"]},
        ),
        (
            {"model__freeze_layers": ["*.encoder"], "peft__method": "full"},
            "model.freeze_layers='*.encoder': matches no layer of the model.",
            None,
        ),
        (
            {"peft__method": "ia3", "peft__feedforward_modules": ["downproj"]},
            (
                "peft.feedforward_modules='downproj': matches no layer of the model. Did you mean "
                "down_proj?"
            ),
            {"peft.feedforward_modules": ["down_proj"]},
        ),
        (
            {
                "peft__method": "ia3",
                "peft__target_modules": ["k_proj"],
                "peft__feedforward_modules": ["down_proj"],
            },
            (
                "peft.feedforward_modules='down_proj': gets no adapter, because peft.target_modules "
                "does not name it."
            ),
            {"peft.feedforward_modules": []},
        ),
        (
            {"peft__method": "ia3", "peft__target_modules": ["k_proj", "embed_tokens"]},
            "peft.target_modules='embed_tokens': is an embedding, to which IA3 adds no adapter.",
            {"peft.target_modules": ["k_proj"]},
        ),
    ],
    ids=str,
)
def test_a_name_that_means_nothing_is_refused(layers, changes, words, use):
    (problem,) = problems(layers, **changes)
    assert words in str(problem)
    if use is not None:
        assert problem.changes == use
    if problem.changes:
        fixed = {**{name.replace("__", "."): v for name, v in changes.items()}, **problem.changes}
        assert problems(layers, **{name.replace(".", "__"): v for name, v in fixed.items()}) == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"peft__target_modules": ["all-linear", "q_proj"]},
        {"peft__target_modules": ["layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"]},
        {"peft__target_modules": r"model\.layers\.[01]\.self_attn\.(q|v)_proj"},
        {"peft__target_modules": r".*(gate|up)_proj"},
        {"peft__modules_to_save": ["embed_tokens", "lm_head", "model.norm"]},
        {"peft__modules_to_save": ["mlp"]},
        {"peft__method": "ia3"},
        {"peft__method": "ia3", "peft__feedforward_modules": ["down_proj"]},
        {"peft__method": "ia3", "peft__feedforward_modules": []},
        {"model__freeze_layers": ["layers.0", "*.mlp", "lm_head"]},
        {"peft__method": "full", "peft__target_modules": ["anything"]},
    ],
    ids=str,
)
def test_names_that_mean_something(layers, changes):
    assert problems(layers, **changes) == []


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "model.embed_tokens"])
def test_an_adapter_on_tied_embeddings_is_refused_for_a_copy(layers, untied, name):
    (problem,) = problems(layers, peft__target_modules=["all-linear", name])
    end = name.rpartition(".")[2]
    other = "embed_tokens" if end == "lm_head" else "lm_head"
    assert str(problem) == (
        f"peft.target_modules={name!r}: would put an adapter on {end}, which shares its weights with "
        f"{other}, so the merged model would answer otherwise than the adapter. Use "
        "peft.modules_to_save for it, which trains a copy."
    )
    assert problem.changes == {
        "peft.target_modules": ["all-linear"],
        "peft.modules_to_save": [name],
    }
    assert problems(layers_of(untied), peft__target_modules=["all-linear", name]) == []


def test_a_pattern_that_matches_tied_embeddings_is_refused(layers, untied):
    for pattern in (r".*(q_proj|lm_head)", r"lm_head|.*up_proj", r".*embed_tokens"):
        (problem,) = problems(layers, peft__target_modules=pattern)
        assert "so the merged model would answer otherwise" in str(problem)
        assert problems(layers_of(untied), peft__target_modules=pattern) == []


def test_copies_of_tied_embeddings_are_said(layers, untied):
    def remarks(layers, *names):
        return layer_remarks(Config(peft={"modules_to_save": list(names)}), layers)

    assert remarks(layers, "lm_head") == [
        (
            "peft.modules_to_save trains a copy of lm_head, which shares its weights with embed_tokens "
            "in this model; the merged model has both."
        )
    ]
    assert remarks(layers, "embed_tokens", "lm_head") == [
        (
            "peft.modules_to_save trains a copy of embed_tokens and lm_head, which share their weights "
            "in this model; the merged model has both."
        )
    ]
    assert remarks(layers, "model.norm") == remarks(layers_of(untied), "lm_head") == []


@pytest.mark.parametrize(
    "asked",
    [["q_proj", "up_proj"], r".*\.1\..*_proj", ["layers.0.mlp.down_proj"], r".*(k|v)_proj"],
    ids=str,
)
def test_targets_are_those_that_peft_takes(layers, folder, asked):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=asked, r=2))
    expected = {
        name.removeprefix("base_model.model.")
        for name, module in adapted.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    assert layers.targets(Config(peft={"target_modules": asked})) == expected


def test_a_name_in_a_file_may_lack_the_prefix_of_the_model(folder, model, tmp_path):
    """A model without its head is saved so: layers.0 is model.layers.0 once it is loaded."""
    model.model.save_pretrained(tmp_path)
    found = model_shape(tmp_path)
    assert found is not None
    layers = layers_of_shape(found)
    assert "layers.0.mlp.up_proj" in layers.names
    for asked in (["model.layers.0.mlp.up_proj"], ["up_proj"], r"model\.layers\.\d\.mlp\.up_proj"):
        assert problems(layers, peft__target_modules=asked) == []
        assert problems(layers_of(model), peft__target_modules=asked) == []


def test_a_model_that_ties_by_default_says_nothing_of_it_in_its_config(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    about = json.loads(config.read_text())
    del about["tie_word_embeddings"]
    config.write_text(json.dumps(about))
    shape = model_shape(tmp_path / "model")
    assert shape is not None
    assert shape.is_tied
    assert layers_of_shape(shape).tied == {"lm_head", "model.embed_tokens"}


def test_whether_the_head_is_trained(tmp_path):
    def names(**peft):
        return trains_head(Config(peft=peft))

    assert names(target_modules=["model.lm_head"]) or names(target_modules=["lm_head"])
    assert names(modules_to_save=["lm_head"])
    assert names(target_modules=r".*(q_proj|lm_head)")
    assert not names(target_modules=r".*q_proj")
    assert not names(target_modules=["all-linear"])
    assert not names(method="full", modules_to_save=["lm_head"])


def test_a_model_without_embeddings_is_no_reason_to_fail():
    layers = layers_of(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    assert (layers.adaptable, layers.tied) == ({"0"}, frozenset())


def test_all_that_share_the_embeddings_of_an_encoder_and_a_decoder():
    shape = transformers.T5Config(
        vocab_size=32,
        d_model=8,
        d_kv=4,
        d_ff=8,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    tied = layers_of(transformers.T5ForConditionalGeneration(shape)).tied
    assert tied == {"shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"}
