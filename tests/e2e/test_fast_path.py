"""The fast path: each part gives the losses and gradients of TRL without it, on small models."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import nbft
from nbft.data.samples import sample_path
from nbft.decisions import PARTS, decide
from nbft.devices import Gpu
from nbft.hardware import Choice, Hardware, planning_for
from nbft.training.fast.attention import NAME
from nbft.training.fast.norm import use_lean_norms
from nbft.training.rows import read_rows
from nbft.training.trainer import build_trainer

from .conftest import losses

_SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "gemma": ("GemmaConfig", {"tie_word_embeddings": True}),
    "phi3": ("Phi3Config", {"bos_token_id": 1, "eos_token_id": 2}),
}
OTHERS = {
    "gemma2": ("Gemma2Config", {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gpt_oss": ("GptOssConfig", {"sliding_window": 8, "num_local_experts": 4}),
    "gemma3_text": ("Gemma3TextConfig", {"sliding_window": 8, "query_pre_attn_scalar": 8}),
}
OFF = {f"speed.{part}": "off" for part in PARTS[1:]} | {"data.padding_free": False}


@pytest.fixture(scope="session")
def family_model(tiny_model, tmp_path_factory):
    """Return a function that makes a small random model of a family, with the tiny tokenizer."""

    def make(family: str) -> Path:
        name, more = (FAMILIES | OTHERS)[family]
        torch.manual_seed(1)
        shape = getattr(transformers, name)(**{**_SIZE, **more})
        folder = tmp_path_factory.mktemp(family)
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
        with torch.no_grad():  # large enough that a wrong mask is seen in the loss
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
        return folder

    return make


def trainer_of(config, folder):
    model = AutoModelForCausalLM.from_pretrained(config.model.model_name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)
    decisions = decide(config)
    return build_trainer(
        config,
        decisions,
        model,
        tokenizer,
        read_rows(config, tokenizer, print, print, padding_free=decisions.padding_free),
        output_dir=folder,
        callbacks=[],
    )


def loss_and_gradients(config, folder):
    """Return the loss of the first batch, and the gradients by name; B is made not zero."""
    trainer = trainer_of(config, folder)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return float(loss), found


def assert_alike(fast, plain):
    assert fast[0] == pytest.approx(plain[0], rel=1e-5)
    assert fast[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            fast[1][name], gradient, rtol=1e-4, atol=max(1e-5 * scale, 1e-8), msg=name
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("peft", ["lora", "full"])
def test_a_batch_has_the_loss_and_gradients_of_trl(
    family, peft, family_model, make_config, tmp_path
):
    config = make_config(
        model__model_name=str(family_model(family)),
        peft__method=peft,
        training__per_device_train_batch_size=6,
    )
    decisions = decide(config)
    on = {name for name in PARTS if decisions.uses(name)}
    assert on == {*PARTS} - ({"fused_lora"} if peft == "full" else set())
    plain = loss_and_gradients(config.apply(OFF), tmp_path / "plain")
    assert_alike(loss_and_gradients(config, tmp_path / "fast"), plain)


@pytest.mark.parametrize("family", OTHERS)
def test_row_attention_that_is_asked_for_gives_the_loss_of_the_librarys(
    family, family_model, make_config, tmp_path
):
    """Soft-capped scores and sinks are the library's alone; a window on some layers is not."""
    config = make_config(
        model__model_name=str(family_model(family)),
        data__padding_free=True,
        training__per_device_train_batch_size=6,
        peft__target_modules=["q_proj", "v_proj"],
    )
    asked = config.apply({"memory.use_attn_mask_start_row_indices": True})
    assert decide(asked).uses("row_attention") == (family == "gemma3_text")
    plain = loss_and_gradients(config.apply(OFF | {"data.padding_free": True}), tmp_path / "plain")
    assert_alike(loss_and_gradients(asked, tmp_path / "asked"), plain)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone(part, make_config, tmp_path):
    alone = OFF | {f"speed.{part}": "on"} if part != "padding_free" else OFF
    if part in ("padding_free", "row_attention"):
        alone = alone | {"data.padding_free": True}
    plain = loss_and_gradients(make_config().apply(OFF), tmp_path / "plain")
    assert_alike(loss_and_gradients(make_config().apply(alone), tmp_path / "alone"), plain)


def test_rows_that_are_learnt_whole(make_config, tmp_path):
    config = make_config(data__completion_only_loss=False)
    plain = loss_and_gradients(config.apply(OFF), tmp_path / "plain")
    assert_alike(loss_and_gradients(config, tmp_path / "fast"), plain)


def test_fifty_steps_with_accumulation(train):
    changes = {
        "training__max_steps": 50,
        "training__gradient_accumulation_steps": 2,
        "training__learning_rate": 5e-3,
    }
    fast = train(**changes)
    plain = train(**changes, **{name.replace(".", "__"): value for name, value in OFF.items()})
    losses = [[e["loss"] for e in run.events() if e["event"] == "log"] for run in (fast, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    scores = [[e for e in run.events() if e["event"] == "eval"][-1] for run in (fast, plain)]
    for name in ("eval_loss", "eval_mean_token_accuracy"):
        assert scores[0][name] == pytest.approx(scores[1][name], rel=1e-4)


def test_in_16_bits_it_is_no_further_off_than_16_bits_are(train):
    """By three seeds: plain in bfloat16 differs from float32; the fast path from it by no more."""

    def losses(**changes):
        return torch.tensor(
            [
                [e["loss"] for e in train(training__seed=seed, **changes).events() if "loss" in e]
                for seed in (1, 2, 3)
            ]
        )

    off = {name.replace(".", "__"): value for name, value in OFF.items()}
    exact = losses(**off)
    plain = losses(model__dtype="bfloat16", **off)
    fast = losses(model__dtype="bfloat16")
    noise = (plain - exact).square().mean().sqrt()
    assert 0 < (fast - plain).square().mean().sqrt() < 2 * noise


def test_all_weights_under_autocast(train):
    changes = {
        "peft__method": "full",
        "precision__mixed_precision": "bf16",
        "training__learning_rate": 1e-4,
    }
    fast = train(**changes)
    plain = train(**changes, **{name.replace(".", "__"): value for name, value in OFF.items()})
    assert decide(fast.config).uses("label_head")
    losses = [[e["loss"] for e in run.events() if e["event"] == "log"] for run in (fast, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=3e-3)


def test_adapters_on_4_bits(train):
    fast = train(quantization__load_in_4bit=True)
    assert decide(fast.config).uses("fused_lora")
    plain = train(quantization__load_in_4bit=True, speed__fused_lora="off")
    assert losses(fast) == pytest.approx(losses(plain), rel=1e-5)
    assert losses(fast) != losses(train())


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_replaced_where_they_compute_the_same(family, family_model):
    model = AutoModelForCausalLM.from_pretrained(family_model(family), dtype=torch.float32)
    norms = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
    assert use_lean_norms(model) == (0 if family == "gemma" else len(norms))


def test_answers_are_those_of_torchs_attention(make_config, tmp_path):
    """Padded batches, with and without a cache, go where they went before."""
    trainer = trainer_of(make_config(), tmp_path)
    model, tokenizer = trainer.model, trainer.processing_class
    assert model.config._attn_implementation == NAME
    tokenizer.padding_side = "left"
    asked = tokenizer(["Correct: he go\n", "Correct: they was at home\n"], padding=True)
    inputs = {name: torch.tensor(asked[name]) for name in ("input_ids", "attention_mask")}
    one = {name: torch.tensor(tokenizer(["Correct: a\n"])[name]) for name in inputs}
    model.eval()
    found = [model.generate(**i, max_new_tokens=12, do_sample=False) for i in (inputs, one)]
    model.set_attn_implementation("sdpa")
    wanted = [model.generate(**i, max_new_tokens=12, do_sample=False) for i in (inputs, one)]
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 60])
def test_one_row_alone_is_read_as_the_library_reads_it(family_model, make_config, tmp_path, tokens):
    """No mask marks a single row; its attention still ends where the window does."""
    trainer = trainer_of(make_config(model__model_name=str(family_model("mistral"))), tmp_path)
    model = trainer.model.eval()
    assert model.config._attn_implementation == NAME
    ids = torch.arange(2, 2 + tokens)[None]
    with torch.no_grad():
        ours = [model(input_ids=ids).logits, model(ids, attention_mask=torch.ones_like(ids)).logits]
        answers = model.generate(ids, max_new_tokens=12, do_sample=False)
        model.set_attn_implementation("sdpa")
        library = model(input_ids=ids).logits
        assert all(torch.equal(found, library) for found in ours)
        assert torch.equal(answers, model.generate(ids, max_new_tokens=12, do_sample=False))


def test_rows_that_are_joined_by_their_positions_alone_stay_apart(make_config, tmp_path):
    """As a collator of one's own joins them, which names no beginnings of rows."""
    model = trainer_of(make_config(), tmp_path).model.eval()
    ids = torch.arange(2, 22)[None]
    joined = {"input_ids": ids, "position_ids": torch.tensor([[*range(8), *range(12)]])}
    with torch.no_grad():
        ours = model(**joined).logits
        model.set_attn_implementation("sdpa")
        assert torch.equal(ours, model(**joined).logits)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_equal_weights_have_equal_perplexity(family, family_model, train):
    """A rate of almost nothing leaves the weights as they are, so base and tuned score alike."""
    run = train(
        model__model_name=str(family_model(family)),
        training__learning_rate=1e-30,
        optimizer__weight_decay=0.0,
        training__max_steps=2,
        evaluation__metrics=["perplexity"],
    )
    before, after = (e["scores"]["perplexity"] for e in run.events() if e["event"] == "scores")
    assert before == after


@pytest.mark.parametrize("peft", ["lora", "full"])
def test_parameters_are_those_of_a_walk_over_the_modules(peft, make_config, tmp_path):
    model = trainer_of(make_config(peft__method=peft), tmp_path).model
    for one in (model, copy.deepcopy(model)):
        walked, named = list(one.parameters()), [p for _, p in one.named_parameters()]
        assert all(a is b for a, b in zip(walked, named, strict=True))
        assert list(one.parameters(recurse=False)) == []
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.grad = torch.ones_like(parameter)
    model.zero_grad()
    assert all(p.grad is None for _, p in model.named_parameters())


def test_long_rows_take_torchs_attention_and_give_the_same(monkeypatch, make_config, tmp_path):
    from nbft.training.fast import attention

    short = loss_and_gradients(make_config(), tmp_path / "short")
    monkeypatch.setattr(attention, "SHORT_ROW_TOKENS", 4)
    assert_alike(loss_and_gradients(make_config(), tmp_path / "long"), short)


@pytest.mark.parametrize(
    ("changes", "part", "reason"),
    [
        ({"peft.use_dora": True}, "fused_lora", "DoRA is computed differently"),
        ({"peft.lora_dropout": 0.1}, "fused_lora", "peft.lora_dropout=0.1"),
        ({"data.padding_free": False}, "row_attention", "rows are padded"),
        ({"training.method": "base"}, "label_head", "Trainer computes the loss itself"),
        ({"speed.label_head": "off"}, "label_head", "set in the config"),
    ],
)
def test_a_part_that_does_not_apply_says_why(changes, part, reason, make_config):
    config = make_config().apply(changes)
    assert decide(config).parts[part] == Choice("off", reason)


@pytest.mark.parametrize(
    ("capability", "choice"),
    [
        ((9, 0), Choice("on", "skips attention between different rows")),
        (
            (7, 5),
            Choice(
                "on",
                "skips attention between different rows, one row at a time: FlashAttention needs a "
                "newer GPU",
            ),
        ),
    ],
)
def test_on_a_gpu_rows_attend_within_themselves_at_once_where_it_has_the_kernel(
    capability, choice, make_config
):
    machine = Hardware("a GPU", 2**34, "cuda", (Gpu("a GPU", 2**34, capability),))
    config = make_config(compute__device="cuda")
    with planning_for(machine):
        assert decide(config).parts["row_attention"] == choice


def test_batches_by_tokens_train_every_row_once_and_go_on_where_they_were(make_config):
    asked = {
        "data__max_tokens_per_batch": 90,
        "scheduler__lr_scheduler_type": "constant",
        "training__max_steps": -1,
        "training__num_train_epochs": 2,
        "data__split_ratio": 1.0,
        "evaluation__eval_strategy": "no",
        "checkpoint__save_steps": 3,
    }
    lines = sample_path("grammar", "train").read_text(encoding="utf-8").splitlines()[:40]
    first = {"data.train.datasets[0].rows": [json.loads(line) for line in lines]}
    config = make_config(**asked).apply(first)
    whole = nbft.train(config, show=False)
    prepared = next(e for e in whole.events() if e["event"] == "prepared")
    # The plan counts words, not tokens: for these rows it meets the number of steps exactly.
    assert whole.step == prepared["total_steps"] == nbft.make_plan(config).total_steps
    rows = read_rows(
        config,
        AutoTokenizer.from_pretrained(config.model.model_name),
        print,
        print,
        padding_free=True,
    )
    assert prepared["total_steps"] == 2 * len(rows.batches)
    tokens = [sum(len(rows.train[n]["input_ids"]) for n in batch) for batch in rows.batches]
    assert max(tokens) <= 90
    assert sum(tokens) == rows.known.tokens
    cut = nbft.train(config.apply({"training.max_steps": 3}), show=False)
    cut.resume({"training.max_steps": -1}).wait()
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-5)


def test_a_run_warns_when_flash_attention_is_refused(train, monkeypatch):
    seen = []

    def refuse(model, mixed_precision):
        seen.append((model.device.type, mixed_precision))
        return "FlashAttention is not used on this GPU: it is too old."

    monkeypatch.setattr("nbft.training.fast.attention.flash_refusal", refuse)
    run = train(training__max_steps=1, evaluation__sample_count=0)
    warnings = [event["text"] for event in run.events() if event["event"] == "warning"]
    assert "FlashAttention is not used on this GPU: it is too old." in warnings
    assert seen == [("cpu", "no")]
    train(speed__row_attention="off", training__max_steps=1, evaluation__sample_count=0)
    assert len(seen) == 1
