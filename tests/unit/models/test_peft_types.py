"""Each kind of adapter by its definition, its count, and what it refuses."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from nbft.config import Config
from nbft.config.peft import Peft
from nbft.data.tiny_model import make_tiny_model
from nbft.interop.huggingface import adapter_arguments
from nbft.models.eva import use_eva
from nbft.models.initial_weights import adapter_matrices, take_out, to_plain_lora
from nbft.models.load import load_model
from nbft.models.loftq import use_loftq
from nbft.models.peft_types import excluded_pattern, peft_type_of, peft_types
from nbft.models.rank_allocation import RankAllocation
from nbft.models.targets import layer_problems, named_targets
from nbft.plan.memory import layers_of_shape, model_shape, trainable_parameters
from nbft.plan.model_checks import model_problems
from nbft.plan.plan import make_plan
from nbft.plan.rates import RATES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def adapted(folder: Path) -> Callable[..., Any]:
    """Return a function that puts a new adapter on the tiny model; arguments are settings of peft."""

    def make(more: dict[str, Any] | None = None, **settings: Any) -> Any:
        config = Config(model={"model_name": str(folder), "dtype": "float32"}, peft=settings)
        config = config.apply(more or {})
        kind = peft_type_of(config)
        asked = adapter_arguments(config, 30)
        assert kind is not None
        assert asked is not None
        arguments = asked[1]
        model = load_model(config, folder, config.model.dtype)
        arguments |= named_targets(config, kind, model)
        torch.manual_seed(0)
        model = peft.get_peft_model(model, kind.peft_config(arguments))
        if kind.prepares(config) and config.peft.init_lora_weights != "eva":
            kind.prepare(model, config, None, 0)
        return model

    return make


def first(model: Any, part: str = "self_attn.q_proj") -> Any:
    return model.get_base_model().get_submodule(f"model.layers.0.{part}")


def weights(folder: Path, part: str = "self_attn.q_proj") -> torch.Tensor:
    return load_file(folder / "model.safetensors")[f"model.layers.0.{part}.weight"].float()


def delta(layer: Any) -> torch.Tensor:
    """Return s B A."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return (layer.scaling["default"] * b @ a).detach()


# What each is


def test_the_names_are_those_of_the_setting_and_each_has_rates() -> None:
    (names,) = [get_args(Peft.model_fields["method"].annotation)]
    assert set(names) == {*peft_types(), "full"}
    assert set(names) <= set(RATES)
    for kind in peft_types().values():
        assert getattr(peft.PeftType, kind.name.upper()).value == kind.name.upper()
        assert kind.settings <= set(Peft.model_fields)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_left_and_the_adapter_reconstruct_the_weight(
    adapted: Any, folder: Path, start: str, dtype: str
) -> None:
    whole = weights(folder).to(getattr(torch, dtype)).float()
    layer = first(adapted({"model.dtype": dtype}, r=4, init_lora_weights=start))
    rest = layer.base_layer.weight.float()
    margin = 1e-6 if dtype == "float32" else 2**-8 * rest.abs().max()
    torch.testing.assert_close(rest + delta(layer), whole, rtol=0, atol=float(margin))
    assert layer.lora_A["default"].weight.dtype == torch.float32
    if start == "pissa":  # the largest singular values are in the adapter
        _, values, _ = torch.linalg.svd(whole)
        norm = float(torch.linalg.matrix_norm(delta(layer), "nuc"))
        assert norm == pytest.approx(float(values[:4].sum()), rel=1e-3)
        left = float(torch.linalg.matrix_norm(rest, 2))
        assert left == pytest.approx(float(values[4]), rel=1e-2)


def test_what_was_taken_out_is_taken_out_again_to_the_last_digit(adapted: Any) -> None:
    model = adapted({"model.dtype": "bfloat16"}, r=4, init_lora_weights="pissa")
    plain = adapted({"model.dtype": "bfloat16"}, r=4)
    take_out(plain, adapter_matrices(model))
    assert torch.equal(first(model).base_layer.weight, first(plain).base_layer.weight)


def test_a_converted_adapter_is_plain_lora_of_twice_the_rank(
    adapted: Any, folder: Path, tmp_path: Path
) -> None:
    pattern = {"q_proj": 2}
    model = adapted(
        r=4,
        use_rslora=True,
        rank_pattern=pattern,
        alpha_pattern={"k_proj": 5.0},
        init_lora_weights="pissa",
    )
    initial = adapter_matrices(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_" in name:
                p += 0.1 * torch.randn_like(p)
    ids = torch.arange(3, 20)[None]
    wanted = model(input_ids=ids).logits
    model.save_pretrained(tmp_path)
    to_plain_lora(tmp_path, initial)
    base = load_model(Config(model={"model_name": str(folder)}), folder, "float32")
    again = peft.PeftModel.from_pretrained(base, str(tmp_path))
    torch.testing.assert_close(again(input_ids=ids).logits, wanted, rtol=0, atol=1e-5)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (about["r"], about["rank_pattern"], about["init_lora_weights"]) == (
        8,
        {"q_proj": 4},
        True,
    )
    with again.disable_adapter():
        untouched = again(input_ids=ids).logits
    plain = load_model(Config(model={"model_name": str(folder)}), folder, "float32")
    torch.testing.assert_close(untouched, plain(input_ids=ids).logits)


def test_dora_is_magnitude_times_direction(adapted: Any, folder: Path) -> None:
    layer = first(adapted(r=4, use_dora=True))
    magnitude = layer.lora_magnitude_vector["default"].weight
    whole = weights(folder)
    torch.testing.assert_close(magnitude.detach(), whole.norm(dim=1))
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        magnitude.mul_(1.5)
    x = torch.randn(3, whole.shape[1])
    direction = whole + delta(layer)
    wanted = x @ (magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("is_rs", "scale"), [(False, 32 / 16), (True, 32 / 16**0.5)])
def test_rslora_divides_by_the_root_of_the_rank(adapted: Any, is_rs: bool, scale: float) -> None:
    assert first(adapted(r=16, lora_alpha=32, use_rslora=is_rs)).scaling["default"] == scale


def test_loftq_is_nearer_to_the_weight_than_four_bits(folder: Path, adapted: Any) -> None:
    from peft.utils.integrations import dequantize_module_weight

    four = {"quantization.load_in_4bit": True}
    layer = first(adapted(four, r=8, lora_alpha=32, init_lora_weights="loftq"))
    rounded = dequantize_module_weight(layer.base_layer).float()
    lost = weights(folder) - rounded
    left = lost - delta(layer)
    _, values, _ = torch.linalg.svd(lost)
    assert float(left.norm()) == pytest.approx(
        float(values[8:].norm()), rel=1e-4
    )  # the best of that rank
    assert left.norm() < 0.8 * lost.norm()
    with pytest.raises(Exception, match="not there as safetensors"):
        use_loftq(None, folder / "nothing")


def test_eva_starts_from_the_directions_of_the_inputs(adapted: Any) -> None:
    torch.manual_seed(0)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(3, 400, (60, 40)).tolist()]
    model = adapted(r=4, init_lora_weights="eva", eva_rho=1.0)
    seen = []
    layer = first(model)
    handle = layer.register_forward_hook(lambda _, given, __: seen.append(given[0].flatten(0, 1)))
    with torch.no_grad():
        model(input_ids=torch.tensor([row["input_ids"] for row in rows]))
    handle.remove()
    use_eva(model, rows, 0)
    a = first(model).lora_A["default"].weight
    torch.testing.assert_close(a @ a.T, torch.eye(4), rtol=0, atol=1e-4)
    inputs = seen[0] - seen[0].mean(0)
    _, _, v = torch.linalg.svd(inputs, full_matrices=False)
    caught = (inputs @ a.T).square().sum() / (inputs @ v[:4].T).square().sum()
    assert caught > 0.9  # of the variance that any four directions can catch
    assert first(model).lora_B["default"].weight.abs().max() == 0

    redistributed = adapted(r=4, init_lora_weights="eva", eva_rho=2.0)
    use_eva(redistributed, rows, 0)
    ranks = [m.r["default"] for m in redistributed.modules() if hasattr(m, "lora_A")]
    assert max(ranks) <= 8
    assert len(set(ranks)) > 1
    with pytest.raises(Exception, match="needs 8 trained tokens, and the rows have 3"):
        use_eva(
            adapted(r=4, init_lora_weights="eva"), [{"input_ids": [5] * 3, "labels": [5] * 3}], 0
        )


def test_oft_rotates(adapted: Any, folder: Path) -> None:
    layer = first(adapted(method="oft", oft_block_size=16))
    with torch.no_grad():
        layer.oft_R["default"].weight.normal_(std=0.02)
    rotation = layer.get_delta_weight("default")
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(64), rtol=0, atol=1e-3)
    assert not torch.allclose(rotation, torch.eye(64), atol=0.03)
    x = torch.randn(5, 64)
    torch.testing.assert_close((x @ rotation).norm(dim=1), x.norm(dim=1), rtol=1e-3, atol=0)


def test_ia3_scales_outputs_and_the_inputs_of_a_feed_forward(adapted: Any, folder: Path) -> None:
    model = adapted(method="ia3")
    x = torch.randn(3, 64)
    layer = first(model)
    with torch.no_grad():
        layer.ia3_l["default"].normal_()
        scale = layer.ia3_l["default"].flatten()
        torch.testing.assert_close(layer(x), scale * (x @ weights(folder).T))
        down = first(model, "mlp.down_proj")
        down.ia3_l["default"].normal_()
        wide = torch.randn(3, 128)
        scaled = wide * down.ia3_l["default"].flatten()
        torch.testing.assert_close(down(wide), scaled @ weights(folder, "mlp.down_proj").T)


def test_vera_shares_its_matrices(adapted: Any, folder: Path) -> None:
    model = adapted(method="vera", r=32)
    layer, other = first(model), first(model, "mlp.up_proj")
    assert layer.vera_A["default"].data_ptr() == other.vera_A["default"].data_ptr()
    assert not any("vera_A" in name for name, p in model.named_parameters() if p.requires_grad)
    with torch.no_grad():
        layer.vera_lambda_b["default"].normal_()
        a, b = layer.vera_A["default"][:, :64], layer.vera_B["default"][:64]
        d, scale = layer.vera_lambda_d["default"], layer.vera_lambda_b["default"]
        x = torch.randn(3, 64)
        wanted = x @ weights(folder).T + scale * ((d * (x @ a.T)) @ b.T)
        torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)


def test_adalora_ends_with_the_ranks_asked_for(adapted: Any) -> None:
    model = adapted(method="adalora", r=2, tinit=2, tfinal=5)
    callback = RankAllocation(model)
    ids = torch.randint(3, 400, (4, 20))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    ranks = []
    for step in range(30):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        callback.on_optimizer_step(None, SimpleNamespace(global_step=step), None)
        optimizer.zero_grad()
        values = [p for name, p in model.named_parameters() if "lora_E" in name]
        ranks.append(sum(int((p != 0).sum()) for p in values))
    layers = 14
    assert ranks[1] == 3 * layers  # 1.5 times the rank in every layer
    assert ranks[-1] == 2 * layers
    assert ranks == sorted(ranks, reverse=True)
    kept = [int((p != 0).sum()) for name, p in model.named_parameters() if "lora_E" in name]
    assert len(set(kept)) > 1  # some layers have more than others


def test_norms_and_virtual_tokens_are_all_that_is_trained(adapted: Any) -> None:
    norms = adapted(method="ln_tuning")
    trained = {name for name, p in norms.named_parameters() if p.requires_grad}
    assert len(trained) == 5
    assert all("norm" in name for name in trained)
    prompt = adapted(method="prompt_tuning", num_virtual_tokens=7)
    assert {tuple(p.shape) for p in prompt.parameters() if p.requires_grad} == {(7, 64)}
    text = adapted(
        method="prompt_tuning", prompt_tuning_init="TEXT", prompt_tuning_init_text="Correct it."
    )
    table = text.get_base_model().get_input_embeddings().weight
    prompts = text.prompt_encoder["default"].embedding.weight
    assert torch.isclose(prompts[:1], table, atol=1e-6).all(1).any()


# How many parameters


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.*": 6}},
        {"layers_to_transform": [1]},
        {"method": "adalora", "bias": "all"},
        {"method": "adalora", "init_r": 20},
        {"method": "vera", "target_modules": ["q_proj", "down_proj"]},
        {"method": "vera", "layers_to_transform": [0]},
        {"method": "vera", "layers_to_transform": [0], "target_modules": ["q_proj"]},
        {"method": "oft", "oft_block_size": 24},
        {"method": "oft", "oft_block_size": 500, "layers_to_transform": [1]},
        {"method": "ia3", "layers_to_transform": [1]},
        {"method": "ln_tuning"},
        {"method": "ln_tuning", "target_modules": ["input_layernorm"]},
        {"method": "ln_tuning", "layers_to_transform": [0]},
        {"method": "prompt_tuning", "num_virtual_tokens": 9},
    ],
    ids=str,
)
def test_the_plan_counts_what_is_trained(
    adapted: Any, folder: Path, settings: dict[str, Any]
) -> None:
    shape = model_shape(folder)
    assert shape is not None
    counted = trainable_parameters(Config(model={"model_name": str(folder)}, peft=settings), shape)
    model = adapted(**settings)
    assert counted == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_layers_by_number_and_by_name(adapted: Any) -> None:
    both = {"model.freeze_layers": ["mlp"]}
    model = adapted(both, layers_to_transform=[1])
    names = {name for name, m in model.named_modules() if hasattr(m, "lora_A")}
    assert names == {f"base_model.model.model.layers.1.self_attn.{part}_proj" for part in "qkvo"}
    assert excluded_pattern(Config()) is None


# What is refused


def problems(folder: Path, **settings: Any) -> list[str]:
    more = {name: settings.pop(name) for name in list(settings) if "." in name}
    config = Config(model={"model_name": str(folder)}, peft=settings).apply(more)
    from nbft.decisions import decide

    shape = model_shape(folder)
    assert shape is not None
    found = list(layer_problems(config, layers_of_shape(shape)))
    found += list(model_problems(config, decide(config, folder)))
    return list(dict.fromkeys(map(str, found)))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"method": "ln_tuning", "target_modules": ["q_proj"]},
            "peft.target_modules='q_proj': is no norm, so it can get no adapter.",
        ),
        (
            {"method": "ln_tuning", "target_modules": ["input_norm"]},
            (
                "peft.target_modules='input_norm': matches no layer of the model. Did you mean "
                "input_layernorm?"
            ),
        ),
        (
            {"method": "vera", "target_modules": ["embed_tokens"]},
            "peft.target_modules='embed_tokens': is an embedding, to which VeRA adds no adapter.",
        ),
        (
            {"rank_pattern": {"q_prj": 4}},
            (
                "peft.rank_pattern={'q_prj': 4}: holds q_prj, which matches no layer with an adapter. "
                "Did you mean q_proj?"
            ),
        ),
        (
            {"alpha_pattern": {"(": 4.0}},
            "peft.alpha_pattern={'(': 4.0}: holds (, which is no regular expression",
        ),
        (
            {"rank_pattern": {"q_proj": 4, "layers.1.*": 6}},
            (
                "has q_proj and layers.1.*, which both fit model.layers.1.self_attn.q_proj. Write "
                "patterns of which one fits each layer"
            ),
        ),
        (
            {"rank_pattern": {"q_proj": 0}},
            "has the rank 0 for q_proj, but a layer needs at least 1.",
        ),
        (
            {"alpha_pattern": {"q_proj": 0.0}},
            "has 0 for q_proj, which would disable its adapter. Use more than 0.",
        ),
        (
            {"layers_to_transform": [1, 7]},
            "peft.layers_to_transform=[1, 7]: names 7, but the model has 2 layers, from 0 to 1.",
        ),
        (
            {"layers_to_transform": [1], "target_modules": ".*q_proj"},
            "cannot stand beside a pattern in peft.target_modules. Write the numbers in the pattern.",
        ),
        (
            {"init_lora_weights": "loftq"},
            (
                "peft.init_lora_weights='loftq': makes up for the rounding of 4-bit weights, but "
                "quantization.load_in_4bit is off. Turn it on, or use default."
            ),
        ),
        (
            {
                "init_lora_weights": "loftq",
                "quantization.load_in_4bit": True,
                "quantization.bnb_4bit_quant_type": "fp4",
            },
            "quantization.bnb_4bit_quant_type='fp4': does not go with peft.init_lora_weights=loftq",
        ),
        (
            {"init_lora_weights": "pissa", "quantization.load_in_4bit": True},
            "changes the weights of the base model, but they are quantised.",
        ),
        ({"init_lora_weights": "eva", "use_dora": True}, "conflicts with init_lora_weights=eva"),
        (
            {"init_lora_weights": "orthogonal", "rank_pattern": {"q_proj": 3}},
            "has the odd rank 3 for q_proj, but init_lora_weights=orthogonal needs an even rank.",
        ),
        (
            {"method": "vera", "use_dora": True},
            "peft.use_dora=True: is a variant of LoRA, not of VeRA.",
        ),
        (
            {"method": "ia3", "rank_pattern": {"q_proj": 3}},
            "has no effect: IA3 does not use it.",
        ),
        (
            {"method": "adalora", "init_r": 4, "r": 8},
            "peft.init_r=4: is below the average rank at the end, peft.r=8.",
        ),
        (
            {"method": "adalora", "tinit": 20, "training.max_steps": 30, "tfinal": 15},
            "peft.tinit=20: leaves no step in which ranks change: 20 before, 15 after, 30 in all.",
        ),
        (
            {"method": "prompt_tuning", "data.packing": True},
            (
                "data.packing=True: joins rows, but peft.method=prompt_tuning puts virtual tokens in "
                "front of each. Turn it off."
            ),
        ),
        (
            {"method": "prompt_tuning", "modules_to_save": ["lm_head"]},
            "peft.modules_to_save=['lm_head']: has no effect with peft.method=prompt_tuning, which changes no layer.",
        ),
        (
            {"method": "prompt_tuning", "prompt_tuning_init": "TEXT"},
            "is empty, but prompt_tuning_init=TEXT starts from it.",
        ),
        (
            {"method": "prompt_tuning", "prompt_tuning_init_text": "Hi"},
            "has no effect with prompt_tuning_init=SAMPLE_VOCAB. Use TEXT, or leave it empty.",
        ),
    ],
)
def test_one_sentence_before_any_model_is_loaded(
    folder: Path, settings: dict[str, Any], wanted: str
) -> None:
    found = problems(folder, **settings)
    assert any(wanted in problem for problem in found), found
    assert len(found) == 1, found


@pytest.mark.parametrize("method", peft_types())
def test_the_defaults_of_each_kind_have_no_problem(folder: Path, method: str) -> None:
    assert (
        problems(folder, method=method, **{"training.learning_rate": RATES[method].proposed}) == []
    )


def test_the_plan_refuses_a_run_too_short_for_adalora(folder: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}] * 8
    config = Config(
        model={"model_name": str(folder)},
        data={"rows": rows, "split_ratio": 1.0},
        peft={"method": "adalora", "tfinal": 50},
    )
    (found,) = [p for p in make_plan(config).errors if p.field == "peft.tfinal"]
    assert "leaves no step in which ranks change" in str(found)


def test_peft_takes_every_argument() -> None:
    for method in peft_types():
        asked = adapter_arguments(Config(peft={"method": method}), 30)
        assert asked is not None
        known = inspect.signature(getattr(peft, asked[0])).parameters
        assert set(asked[1]) <= set(known)
    assert transformers.__version__
