"""What the settings of the sections model, quantization and peft do to a run on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import peft
import pytest
import safetensors.torch
import torch
import transformers

import nbft
from nbft import registry
from nbft.decisions import decide
from nbft.errors import ModelError
from nbft.evaluate.generate import generate
from nbft.models import find
from nbft.models.adapters import base_name, fetch_adapter, load_adapter
from nbft.models.find import find_model
from nbft.models.load import load_model, load_tokenizer, place, quiet
from nbft.plan.memory import model_shape, trainable_parameters, weight_bytes
from nbft.training.rows import read_rows
from nbft.training.trainer import build_trainer

Make = Callable[..., nbft.Config]
Built = Callable[..., Any]


@pytest.fixture
def built(make_config: Make, tmp_path: Path) -> Built:
    """Return a function that builds the trainer of a config, as a run does."""

    def build(**changes: Any) -> Any:
        config = make_config(**{"evaluation__eval_strategy": "no", **changes})
        with quiet():
            folder = find_model(base_name(config), say=lambda _: None).path
            decisions = decide(config, folder)
            device, padding_free = decisions.device.value, decisions.padding_free
            tokenizer = load_tokenizer(config, folder)
            rows = read_rows(
                config, tokenizer, lambda _: None, lambda _: None, padding_free=padding_free
            )
            transformers.set_seed(config.training.seed)
            model = load_model(config, folder, decisions.dtype.value, device)
            if adapter := fetch_adapter(config, lambda _: None):
                model = load_adapter(model, adapter)
            trainer = build_trainer(
                config,
                decisions,
                place(model, device),
                tokenizer,
                rows,
                output_dir=tmp_path / "checkpoints",
                callbacks=[],
            )
        trainer.nbft_config = config
        return trainer

    return build


def losses(run: nbft.Run) -> list[float]:
    return [e["loss"] for e in run.events() if e["event"] == "log"]


def trained(trainer: Any) -> int:
    return sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)


def forecast(trainer: Any) -> int:
    config = trainer.nbft_config
    shape = model_shape(find_model(base_name(config), say=lambda _: None).path)
    assert shape is not None
    return trainable_parameters(config, shape)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def held_bytes(model: torch.nn.Module) -> int:
    """Count the bytes of the base model's weights and of the scales beside them."""
    total = 0
    seen = set()
    for name, p in model.named_parameters():
        if p.data_ptr() in seen or "lora_" in name:
            continue
        seen.add(p.data_ptr())
        total += p.numel() * p.element_size()
        if isinstance(quantised := getattr(p, "quant_state", None), object) and quantised:
            total += quantised.absmax.numel() * quantised.absmax.element_size()
            if quantised.nested:
                total += quantised.state2.absmax.numel() * 4
        if (rows := getattr(p, "SCB", None)) is not None:
            total += rows.numel() * rows.element_size()
    return total


# The base model in fewer bits


def test_the_description_of_the_default_model_is_that_of_the_model() -> None:
    """What is planned before the download is what is trained after it."""
    described = model_shape(find_model("smollm2-135m").path)
    ours = model_shape(Path(find.__file__).parent / "described" / "smollm2-135m")
    assert described is not None
    assert ours is not None
    assert ours.parameters == described.parameters
    assert sorted(ours.layers) == sorted(described.layers)
    assert ours.is_tied == described.is_tied


@pytest.mark.parametrize(
    ("settings", "layer", "storage"),
    [
        ({"load_in_4bit": True}, "Linear4bit", torch.uint8),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "Linear4bit", torch.uint8),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "Linear4bit", torch.uint8),
        ({"load_in_4bit": True, "bnb_4bit_quant_storage": "float32"}, "Linear4bit", torch.float32),
        ({"load_in_8bit": True}, "Linear8bitLt", torch.int8),
        ({"weight_quantize_algo": "weight_only_int8"}, "Linear8bitLt", torch.int8),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_quantised_weights(built, settings, layer, storage):
    trainer = built(**{f"quantization__{k}": v for k, v in settings.items()})
    linear = trainer.model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert type(linear).__name__ == layer
    assert linear.weight.dtype == storage
    if layer == "Linear4bit":
        how = linear.weight.quant_state
        assert how.quant_type == settings.get("bnb_4bit_quant_type", "nf4")
        assert how.nested == settings.get("bnb_4bit_use_double_quant", False)
    config = trainer.nbft_config
    shape = model_shape(Path(config.model.model_name))
    said = weight_bytes(config, shape, "float32")
    assert said == pytest.approx(held_bytes(trainer.model), rel=0.01)
    assert trained(trainer) == forecast(trainer)
    assert said < weight_bytes(nbft.Config(), shape, "float32") * 0.8


def test_the_compute_type_of_4_bits(built):
    trainer = built(
        quantization__load_in_4bit=True, quantization__bnb_4bit_compute_dtype="bfloat16"
    )
    linear = trainer.model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert linear.compute_dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["load_in_4bit", "load_in_8bit"])
def test_qlora_trains_to_its_end_and_answers(train, name):
    run = train(**{f"quantization.{name}": True, "training.max_steps": 12})
    assert run.status == "completed", run.problems
    found = losses(run)
    assert found[-1] < found[0]
    assert found[0] != losses(train(training__max_steps=1))[0]  # the weights are rounded
    assert isinstance(run.generate("Correct: he go\n", max_new_tokens=4), str)


def innermost(module: torch.nn.Module) -> torch.nn.Module:
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def tiny_mixture(tiny_model: Path, folder: Path) -> Path:
    """Make a mixture of experts with the tiny model's tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = transformers.MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformers.MixtralForCausalLM(shape).save_pretrained(folder)
    return folder


def test_weight_only_mix_has_experts_in_4_bits_and_the_rest_in_8(built, tiny_model, tmp_path):
    folder = tiny_mixture(tiny_model, tmp_path / "mixture")
    whole = built(model__model_name=str(folder))
    trainer = built(
        model__model_name=str(folder), quantization__weight_quantize_algo="weight_only_mix"
    )
    layer = trainer.model.base_model.model.model.layers[0]
    assert type(layer.self_attn.q_proj.base_layer).__name__ == "Linear8bitLt"
    experts = innermost(layer.mlp.experts)
    assert experts.parametrizations.gate_up_proj.original.dtype == torch.uint8
    exact = innermost(whole.model.base_model.model.model.layers[0].mlp.experts).gate_up_proj
    error = (experts.gate_up_proj - exact).abs().max() / exact.abs().max()
    assert 0 < error < 0.2
    assert trained(whole) == forecast(whole)  # with an adapter on the experts too
    assert 0 < trained(trainer) == forecast(trainer) < trained(whole)
    before = state(trainer.model)
    trainer.train()
    assert {name for name in changed(before, state(trainer.model)) if "lora_" not in name} == set()
    shape = model_shape(folder)
    said = weight_bytes(trainer.nbft_config, shape, "float32")
    expert_bytes = sum(
        p.numel() for n, p in trainer.model.named_parameters() if n.endswith(".original")
    )
    assert expert_bytes == sum(m * n for name, m, n in shape.mixture if "experts" in name) // 2
    assert said < 0.5 * weight_bytes(nbft.Config(), shape, "float32")


def test_fp8_linear_rounds_weights_and_inputs(built):
    trainer = built(quantization__weight_quantize_algo="fp8_linear")
    linear = trainer.model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert linear.rounded.dtype == torch.float8_e4m3fn
    assert trained(trainer) == forecast(trainer)
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    first = trainer.train().training_loss
    exact = built().train().training_loss
    assert first == pytest.approx(exact, rel=0.02)
    assert first != exact


# Which parameters are trained


@pytest.mark.parametrize(
    "settings",
    [
        {"peft__r": 3},
        {"peft__target_modules": ["q_proj", "v_proj"]},
        {"peft__use_dora": True},
        {"peft__target_modules": r".*\.layers\.1\..*(up|q)_proj"},
        {"peft__modules_to_save": ["embed_tokens"]},
        {"peft__modules_to_save": ["lm_head"]},
        {"peft__modules_to_save": ["mlp", "model.norm"]},
        {"peft__method": "ia3"},
        {"peft__method": "oft", "peft__oft_block_size": 4},
        {"peft__method": "oft", "peft__target_modules": ["q_proj"], "peft__oft_block_size": 8},
        {"peft__target_modules": r".*layers\.0\.self_attn\.(q|v)_proj"},
        {"model__unfrozen_parameters": [r"\.{-1}\.", "norm"], "peft__method": "full"},
        {"peft__method": "ia3", "peft__target_modules": ["k_proj", "down_proj"]},
        {"peft__method": "ia3", "peft__feedforward_modules": []},
        {"model__freeze_layers": ["layers.0"]},
        {"model__freeze_layers": ["*.mlp", "embed_tokens"], "peft__method": "full"},
        {"model__freeze_layers": ["lm_head"], "peft__method": "full"},
        {"model__freeze_layers": ["self_attn"], "peft__method": "ia3"},
        {"peft__method": "full"},
    ],
    ids=str,
)
def test_the_forecast_of_what_is_trained(built, settings):
    trainer = built(**settings)
    assert trained(trainer) == forecast(trainer) > 0
    assert trained(trainer) != trained(built())


@pytest.fixture
def untied(tiny_model, tmp_path) -> Path:
    """The same model with a head of its own."""
    config = transformers.AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=False)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "untied")
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "untied")
    return tmp_path / "untied"


@pytest.mark.parametrize(
    "settings",
    [
        {"peft__target_modules": ["all-linear", "lm_head"]},
        {"peft__target_modules": ["all-linear", "embed_tokens", "lm_head"]},
        {"peft__target_modules": ["all-linear", "lm_head"], "peft__use_dora": True},
        {"peft__target_modules": r".*q_proj|lm_head"},
        {"peft__target_modules": ["k_proj", "lm_head"], "peft__method": "ia3"},
    ],
    ids=str,
)
def test_what_stands_beside_all_linear_gets_an_adapter_too(built, untied, settings):
    trainer = built(model__model_name=str(untied), training__method="base", **settings)
    assert trained(trainer) == forecast(trainer)
    heads = [n for n, p in trainer.model.named_parameters() if "lm_head" in n and p.requires_grad]
    assert heads
    linear = [n for n, p in trainer.model.named_parameters() if p.requires_grad and "proj" in n]
    assert linear
    before = state(trainer.model)
    trainer.train()
    assert set(heads) & set(changed(before, state(trainer.model)))


def test_a_model_of_your_own_refuses_names_before_its_first_step(train):
    """The plan cannot know its layers; the run says what the plan would have said."""

    @registry.models.register("renamed-llama")
    class Renamed(nbft.models.BaseModel):
        @classmethod
        def from_pretrained(cls, folder: Path, **arguments: Any) -> Any:
            model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=arguments["dtype"])
            for layer in model.model.layers:
                layer.mlp.up_proj = torch.nn.Sequential(layer.mlp.up_proj)
            return model

    try:
        own = {"model__model_type": "renamed-llama", "training__max_steps": 1}
        run = train(peft__target_modules=["up_proj.0", "q_prj"], **own)
        assert run.status == "failed"
        assert run.problems == [
            "peft.target_modules='q_prj': matches no layer of the model. Did you mean q_proj?"
        ]
        assert losses(run) == []
        frozen = train(model__freeze_layers=["layer.0"], **own)
        assert frozen.problems == [
            "model.freeze_layers='layer.0': matches no layer of the model. Did you mean layers.0?"
        ]
        assert train(peft__target_modules=["up_proj.0"], **own).status == "completed"
    finally:
        registry.models.unregister("renamed-llama")


@pytest.mark.parametrize("saved", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_copy_of_tied_embeddings_is_the_same_merged(train, tiny_model, tmp_path, saved, method):
    """Merged by PEFT alone, saved and loaded again, it answers as the adapter does."""
    rate = {"training__learning_rate": 2e-2 if method == "ia3" else 5e-3}
    run = train(peft__method=method, peft__modules_to_save=saved, training__max_steps=4, **rate)
    assert run.status == "completed", run.problems
    remark = f"peft.modules_to_save trains a copy of {' and '.join(saved)}, which share"
    assert any(text.startswith(remark) for text in run.plan["remarks"])
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, str(run.adapter)).eval()
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)(ids).logits
        expected = adapted(ids).logits
        merged = adapted.merge_and_unload()
        at_once = merged(ids).logits
        merged.save_pretrained(tmp_path / "merged")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    assert (expected - plain).abs().max() > 0.01
    assert torch.allclose(at_once, expected, atol=1e-5)
    assert torch.allclose(again, expected, atol=1e-5)


@pytest.mark.parametrize(("bias", "grown"), [("none", False), ("all", True), ("lora_only", True)])
def test_biases(built, tiny_model, tmp_path, bias, grown):
    config = transformers.AutoConfig.from_pretrained(tiny_model, attention_bias=True)
    folder = tmp_path / "biased"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    targets = ["q_proj", "up_proj"]
    how = {"model__model_name": str(folder), "peft__target_modules": targets}
    trainer = built(**how, peft__bias=bias)
    names = {n for n, p in trainer.model.named_parameters() if p.requires_grad and "bias" in n}
    assert bool(names) == grown
    assert any("o_proj" in n for n in names) == (bias == "all")
    assert trained(trainer) == forecast(trainer)


def test_freeze_layers(built):
    trainer = built(model__freeze_layers=["layers.0", "embed_tokens"], peft__method="full")
    before = state(trainer.model)
    trainer.train()
    moved = changed(before, state(trainer.model))
    assert moved
    assert not any("layers.0." in name or "embed_tokens" in name for name in moved)
    with_adapter = built(model__freeze_layers=["layers.0"])
    names = [n for n, _ in with_adapter.model.named_parameters() if "lora_" in n]
    assert names
    assert not any("layers.0." in name for name in names)


@pytest.mark.parametrize(
    ("patterns", "moves"),
    [
        ([r"layers\.{-1}\."], lambda name: "layers.1." in name),
        (["^lm_head", "embed_tokens"], lambda name: "embed_tokens" in name or "lm_head" in name),
        ([r"layers\.0\.mlp", r"layers\.{-1}\.mlp"], lambda name: ".mlp." in name),
    ],
)
def test_unfrozen_parameters_alone_are_trained(built, patterns, moves):
    trainer = built(model__unfrozen_parameters=patterns, peft__method="full")
    before = state(trainer.model)
    trainer.train()
    moved = changed(before, state(trainer.model))
    assert moved
    assert moved == {name for name in before if moves(name)} & moved
    assert {n for n, p in trainer.model.named_parameters() if p.requires_grad} == {
        n for n, _ in trainer.model.named_parameters() if moves(n)
    }


def test_a_pattern_that_matches_no_parameter_is_an_error(built):
    with pytest.raises(ModelError, match="matches no parameter"):
        built(model__unfrozen_parameters=["layers.99"], peft__method="full")


def test_a_text_in_target_modules_is_a_pattern(built):
    trainer = built(peft__target_modules=r".*layers\.0\.self_attn\.(q|v)_proj")
    names = {n.partition(".lora_")[0] for n, _ in trainer.model.named_parameters() if "lora_" in n}
    assert {name.split("layers.")[1] for name in names} == {
        "0.self_attn.q_proj",
        "0.self_attn.v_proj",
    }


# Adapters


def test_lora_strength_and_scale(built):
    def scale(**peft_settings):
        trainer = built(**{f"peft__{k}": v for k, v in peft_settings.items()})
        return trainer.model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"]

    assert scale(r=8, lora_alpha=4) == 0.5
    assert scale(r=16, lora_alpha=8, use_rslora=True) == 2
    assert scale(r=8, lora_alpha=-1) == 2
    assert scale(r=16, lora_alpha=-1, use_rslora=True) == 1  # 4 / sqrt(16)


def test_lora_dropout(built):
    trainer = built(peft__lora_dropout=0.25)
    drops = [m for n, m in trainer.model.named_modules() if n.endswith("lora_dropout.default")]
    assert {m.p for m in drops} == {0.25}
    assert trainer.train().training_loss != built().train().training_loss


@pytest.mark.parametrize(
    "start", ["default", "random", "gaussian", "pissa", "pissa_niter_4", "olora", "orthogonal"]
)
def test_how_the_adapter_starts(built, tiny_model, start):
    trainer = built(peft__init_lora_weights=start, peft__r=8)
    layer = trainer.model.base_model.model.model.layers[0].mlp.up_proj
    b = layer.lora_B["default"].weight
    assert bool(b.abs().max() > 0) == (start not in ("default", "gaussian"))
    exact = safetensors.torch.load_file(tiny_model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    is_residual = not torch.allclose(layer.base_layer.weight, exact[name])
    assert is_residual == (start.startswith("pissa") or start == "olora")


@pytest.mark.parametrize("start", ["pissa", "olora", "orthogonal"])
def test_an_adapter_that_changed_the_base_model_answers_as_trained(
    built, make_config, train, start
):
    run = train(peft__init_lora_weights=start, evaluation__eval_strategy="steps")
    assert run.status == "completed", run.problems
    said = [e["samples"][0]["text"] for e in run.events() if e["event"] == "sample"][-1]
    asked = [e["samples"][0]["prompt"] for e in run.events() if e["event"] == "sample"][-1]
    model, tokenizer = run.load_model()
    assert generate(model, tokenizer, tokenizer([asked])["input_ids"], 8) == [said]


def test_ia3_and_dora_train_to_their_end(train):
    for changes, part in (
        ({"peft__method": "ia3"}, "ia3_l"),
        ({"peft__method": "oft", "peft__oft_block_size": 8}, "oft_R"),
        ({"peft__use_dora": True}, "magnitude"),
    ):
        # Every step sees all rows, so that the losses can be compared.
        run = train(
            **changes, training__learning_rate=3e-3, training__per_device_train_batch_size=36
        )
        assert run.status == "completed", run.problems
        tensors = safetensors.torch.load_file(run.path / "adapter" / "adapter_model.safetensors")
        assert any(part in name for name in tensors)
        assert losses(run)[-1] < losses(run)[0]


def test_loraplus_lets_b_learn_faster(built):
    trainer = built(peft__loraplus_lr_ratio=8.0, optimizer__weight_decay=0.1)
    rates = {}
    trainer.create_optimizer()
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    for group in trainer.optimizer.param_groups:
        for p in group["params"]:
            rates.setdefault("B" if "lora_B" in names[id(p)] else "A", set()).add(group["lr"])
            assert group["weight_decay"] == 0.1
    assert rates == {"A": {2e-3}, "B": {1.6e-2}}
    assert type(trainer.optimizer).__name__ == "AdamW"
    plain = built().train()
    faster = trainer.train()
    assert faster.training_loss < plain.training_loss


def test_rslora_plus_is_three_settings(built):
    trainer = built(peft__use_rslora=True, peft__loraplus_lr_ratio=4.0, peft__lora_alpha=4)
    layer = trainer.model.base_model.model.model.layers[0].mlp.up_proj
    assert layer.scaling["default"] == 1
    assert {g["lr"] for g in trainer.optimizer.param_groups if g["params"]} == {2e-3, 8e-3}


def test_a_run_goes_on_with_an_adapter(built, train, tmp_path):
    first = train(peft__r=4, training__max_steps=12)
    adapter = first.path / "adapter"
    begun = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    for how in (
        {"model__adapter_name_or_path": str(adapter)},
        {"model__model_name": str(adapter)},
    ):
        trainer = built(**how)
        held = peft.get_peft_model_state_dict(trainer.model)
        assert held.keys() == begun.keys()
        assert all(torch.equal(held[name], begun[name]) for name in begun)
        assert trained(trainer) == forecast(trainer)
    second = train(model__adapter_name_or_path=str(adapter), training__max_steps=3)
    assert second.status == "completed", second.problems
    assert losses(second)[0] < losses(first)[0]
    about = json.loads((second.path / "adapter" / "adapter_config.json").read_text())
    assert about["r"] == 4
    assert isinstance(second.generate("Correct: he go\n", max_new_tokens=4), str)


# How the model is loaded


def test_a_model_class_of_your_own(train, tiny_model):
    @registry.models.register("quiet-llama")
    class QuietLlama(nbft.models.BaseModel):
        asked: ClassVar[dict[str, Any]] = {}

        @classmethod
        def from_pretrained(cls, folder: Path, **arguments: Any) -> Any:
            cls.asked = {"folder": folder, **arguments}
            return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=arguments["dtype"])

    try:
        run = train(model__model_type="quiet-llama", training__max_steps=2)
        assert run.status == "completed", run.problems
        assert QuietLlama.asked["folder"] == tiny_model
        assert QuietLlama.asked["dtype"] == torch.float32
    finally:
        registry.models.unregister("quiet-llama")


def test_auto_class_and_task_type_of_an_encoder_with_a_decoder(train, tiny_model, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    shape = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    folder = tmp_path / "t5"
    transformers.T5ForConditionalGeneration(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = train(
        **{
            "model.model_name": str(folder),
            "model.auto_class_name": "AutoModelForSeq2SeqLM",
            "peft.task_type": "SEQ_2_SEQ_LM",
            "training.method": "base",
            "training.max_steps": 12,
        }
    )
    assert run.status == "completed", run.problems
    assert losses(run)[-1] < losses(run)[0]
    about = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert about["task_type"] == "SEQ_2_SEQ_LM"
    prepared = next(e for e in run.events() if e["event"] == "prepared")
    assert prepared["trainable_parameters"] == trainable_parameters(run.config, model_shape(folder))
    assert isinstance(run.generate("Correct: he go\n", max_new_tokens=4), str)
    texts = [e["samples"][0]["text"] for e in run.events() if e["event"] == "sample"]
    assert len(texts) >= 2


def test_use_cache(built):
    for wanted in (False, True):
        trainer = built(model__use_cache=wanted, training__method="base")
        given = next(iter(trainer.get_train_dataloader()))
        result = trainer.model(input_ids=given["input_ids"])
        assert (result.past_key_values is not None) == wanted
        assert trainer.model.config.use_cache == wanted


@pytest.mark.parametrize("method", ["lora", "full"])
def test_every_layer_trains_and_rests_with_its_model(built, method):
    model = built(peft__method=method).model
    for _ in range(2):
        assert model.train() is model
        assert all(layer.training for layer in model.modules())
        assert model.eval() is model
        assert not any(layer.training for layer in model.modules())
    model.train()
    next(reversed([*model.modules()])).eval()  # as a callback might, of a part
    assert all(layer.training for layer in model.train().modules())
    every = sum(weight.numel() for weight in model.parameters())
    assert model.num_parameters() == every > model.num_parameters(exclude_embeddings=True)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_attention_kernel(built, kernel):
    trainer = built(model__attn_implementation=kernel, speed__row_attention="off")
    assert trainer.model.config._attn_implementation == kernel
    given = next(iter(trainer.get_train_dataloader()))
    result = trainer.model(input_ids=given["input_ids"], output_attentions=kernel == "eager")
    assert bool(result.attentions) == (kernel == "eager")


def test_device_map_puts_what_does_not_fit_on_the_disk(make_config, tiny_model, tmp_path):
    limits = {"max_memory": {"cpu": 500_000}, "offload_folder": str(tmp_path / "offload")}
    config = make_config(
        model__device_map="auto", model__model_init_kwargs=limits, compute__device="cpu"
    )
    spread = place(load_model(config, tiny_model, "float32", "cpu"), "cpu")
    assert set(map(str, spread.hf_device_map.values())) == {"cpu", "disk"}
    whole = load_model(make_config(compute__device="cpu"), tiny_model, "float32", "cpu")
    given = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.allclose(spread(given).logits, whole(given).logits, atol=1e-6)


def test_random_weights_and_model_kwargs(built):
    usual, random = built(), built(model__load_pretrained_weights=False)
    name = "base_model.model.model.layers.0.mlp.up_proj.base_layer.weight"
    assert name in changed(state(usual.model), state(random.model))
    more = built(model__model_init_kwargs={"attention_dropout": 0.25})
    assert more.model.base_model.model.model.layers[0].self_attn.attention_dropout == 0.25


def test_float64(built):
    trainer = built(model__dtype="float64")
    linear = trainer.model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert linear.weight.dtype == torch.float64
    trainer.train()


def test_chat_template_and_tokenizer(make_config, tiny_model, tmp_path):
    config = make_config(model__chat_template="chatml")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    tokenizer = load_tokenizer(config, tiny_model)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    own = make_config(model__chat_template="{{ messages[0]['content'] }}!")
    assert load_tokenizer(own, tiny_model).apply_chat_template(messages, tokenize=False) == "Hi!"
    other = make_config(model__tokenizer_kwargs={"eos_token": "<|start|>"})
    assert load_tokenizer(other, tiny_model).eos_token == "<|start|>"
    padded = make_config(model__pad_token="<|start|>")
    assert load_tokenizer(padded, tiny_model).pad_token == "<|start|>"


def test_tokenizer_name(built, tiny_model, tmp_path):
    other = transformers.AutoTokenizer.from_pretrained(tiny_model)
    other.add_tokens(["Correct"])
    other.save_pretrained(tmp_path / "other")
    lengths = []
    for name in (None, str(tmp_path / "other")):
        trainer = built(model__tokenizer_name=name, model__load_pretrained_weights=True)
        lengths.append(sum(map(len, trainer.train_dataset["input_ids"])))
    assert lengths[1] < lengths[0]


_MODEL_WITH_CODE = """
from transformers import LlamaForCausalLM

from .configuration_with_code import Shape


class WithCode(LlamaForCausalLM):
    config_class = Shape
    came_with_code = True
"""


def test_trust_remote_code(make_config, tiny_model, tmp_path):
    import shutil

    folder = Path(shutil.copytree(tiny_model, tmp_path / "with_code"))
    (folder / "modeling_with_code.py").write_text(_MODEL_WITH_CODE)
    (folder / "configuration_with_code.py").write_text(
        "from transformers import LlamaConfig\n\n\nclass Shape(LlamaConfig):\n"
        '    model_type = "with_code"\n'
    )
    about = json.loads((folder / "config.json").read_text())
    about |= {
        "model_type": "with_code",
        "auto_map": {
            "AutoConfig": "configuration_with_code.Shape",
            "AutoModelForCausalLM": "modeling_with_code.WithCode",
        },
    }
    (folder / "config.json").write_text(json.dumps(about))
    trusted = load_model(make_config(model__trust_remote_code=True), folder, "float32", "cpu")
    assert trusted.came_with_code
    with pytest.raises(nbft.errors.ModelError, match="cannot be loaded"):
        load_model(make_config(), folder, "float32", "cpu")


def test_the_auto_class_is_that_of_transformers(make_config, tiny_model, monkeypatch):
    config = make_config(model__auto_class_name="AutoModelForImageTextToText")
    with pytest.raises(nbft.errors.ModelError, match="the model cannot be loaded"):
        load_model(config, tiny_model, "float32", "cpu")  # it has no pictures

    def refuse(*_, **__):
        raise ValueError("asked for pictures")

    auto_class = transformers.AutoModelForImageTextToText
    monkeypatch.setattr(auto_class, "from_pretrained", refuse)
    with pytest.raises(nbft.errors.ModelError, match=r"\(ValueError: asked for pictures\)"):
        load_model(config, tiny_model, "float32", "cpu")
    with pytest.raises(nbft.errors.ConfigError, match="AutoModelForCausalLM"):
        make_config(model__auto_class_name="AutoModelForPictures")


# Dropout


def test_dropout_is_in_the_losses_and_not_in_the_answers(built):
    plain = built().train().training_loss
    for name in ("attention_dropout", "hidden_dropout"):
        trainer = built(**{f"model__{name}": 0.3})
        assert trainer.train().training_loss != plain
        trainer.model.eval()
        given = torch.arange(3, 20)[None]
        with torch.no_grad():
            first, again = (trainer.model(input_ids=given).logits for _ in range(2))
        assert torch.equal(first, again)


def test_dropout_warms_up_step_by_step(built):
    seen = []

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            layers = model.base_model.model.model.layers
            seen.append([layer.self_attn.attention_dropout for layer in layers])

    trainer = built(
        model__attention_dropout=0.4,
        model__hidden_dropout=0.2,
        model__dropout_warmup_steps=4,
        model__freeze_layers=[],
    )
    trainer.add_callback(Look())
    trainer.train()
    assert [first for first, _ in seen] == [0] * 6  # layer 0 of 2
    assert [second for _, second in seen] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.2])
    assert trainer.model.base_model.model.model.layers[1].mlp.result_dropout == pytest.approx(0.1)


# What needs a GPU


def test_liger_kernels_are_asked_of_their_package(built, monkeypatch):
    import sys
    import types

    asked = []
    fake = types.ModuleType("liger_kernel.transformers")
    fake._apply_liger_kernel_to_instance = lambda model, **how: asked.append(model)
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", fake)
    for module in (transformers.trainer, transformers.integrations.liger):
        if hasattr(module, "is_liger_kernel_available"):
            monkeypatch.setattr(module, "is_liger_kernel_available", lambda: True)
    trainer = built(model__use_liger_kernel=True, training__method="base")
    trainer.train()
    assert asked
