"""Every kind of adapter: trained from end to end, measured meanwhile, saved, reloaded and merged.

That a resumed run is the uninterrupted one is tested in `test_trajectories.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import nbft
from nbft.evaluate.generate import token_losses
from nbft.models.peft_types import merge_obstacle, peft_types

from .conftest import losses

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rsLoRA": {"peft__use_rslora": True},
    "DoRA": {"peft__use_dora": True},
    "PiSSA": {"peft__init_lora_weights": "pissa"},
    "PiSSA, bfloat16": {"peft__init_lora_weights": "pissa", "model__dtype": "bfloat16"},
    "OLoRA": {"peft__init_lora_weights": "olora"},
    "EVA": {"peft__init_lora_weights": "eva", "model__dtype": "bfloat16"},
    "LoftQ": {"peft__init_lora_weights": "loftq", "quantization__load_in_4bit": True},
    "LoRA+": {"peft__loraplus_lr_ratio": 4.0},
    "patterns": {
        "peft__rank_pattern": {"q_proj": 2, "layers.1.mlp.*": 6},
        "peft__alpha_pattern": {"up_proj": 64.0},
    },
    "PiSSA with patterns": {
        "peft__init_lora_weights": "pissa",
        "peft__use_rslora": True,
        "peft__rank_pattern": {"q_proj": 2},
        "peft__alpha_pattern": {"up_proj": 64.0},
    },
    "numbered layers": {"peft__layers_to_transform": [1]},
    "adalora": {"peft__method": "adalora"},
    "adalora, 8 bits": {
        "peft__method": "adalora",
        "model__dtype": "bfloat16",
        "quantization__load_in_8bit": True,
    },
    "vera": {"peft__method": "vera", "peft__r": 64},
    "vera without its matrices": {"peft__method": "vera", "peft__save_projection": False},
    "oft": {"peft__method": "oft", "peft__oft_block_size": 8},
    "ia3": {"peft__method": "ia3"},
    "ia3, 4 bits": {
        "peft__method": "ia3",
        "model__dtype": "bfloat16",
        "quantization__load_in_4bit": True,
    },
    "ln_tuning": {"peft__method": "ln_tuning"},
    "ln_tuning, bfloat16": {"peft__method": "ln_tuning", "model__dtype": "bfloat16"},
    "prompt_tuning": {"peft__method": "prompt_tuning", "peft__num_virtual_tokens": 6},
    "prompt_tuning from text": {
        "peft__method": "prompt_tuning",
        "peft__num_virtual_tokens": 6,
        "peft__prompt_tuning_init": "TEXT",
        "peft__prompt_tuning_init_text": "Correct the grammar.",
    },
}


def test_there_is_a_run_of_every_kind() -> None:
    assert {changes.get("peft__method", "lora") for changes in KINDS.values()} == set(peft_types())


@pytest.mark.parametrize("name", KINDS)
def test_trained_saved_reloaded_and_merged(train: Callable[..., nbft.Run], name: str) -> None:
    run = train(
        training__learning_rate=1e-2,
        training__per_device_train_batch_size=36,  # every step sees all rows
        evaluation__metrics=["perplexity"],
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=3,
        **{"peft__r": 8, **KINDS[name]},
    )
    assert run.status == "completed", run.problems
    assert losses(run)[-1] < losses(run)[0]
    assert run.state.prepared["trainable_parameters"] > 0
    if KINDS[name].get("peft__init_lora_weights") != "eva":
        assert run.plan["trainable_parameters"] == run.state.prepared["trainable_parameters"]

    # What is reloaded scores as the run did before the first and after the last step.
    before, after = (score for score in _perplexities(run))
    numbers = torch.get_rng_state()
    model, tokenizer = run.load_model()
    # Another run may be training in this process, and draw from the same random numbers.
    assert torch.equal(torch.get_rng_state(), numbers)
    scored = run.evaluate(metrics=["perplexity"]).compared
    (measured,) = [one for one in scored if one.score == "perplexity"]
    # In 4 bits answers have a kernel of their own. What is left of the model's weights is rounded
    # to bfloat16 while PiSSA trains.
    is_rounded = name == "PiSSA, bfloat16" or run.config.quantization.load_in_4bit
    margin = 1e-3 if is_rounded else 1e-5
    assert measured.base == pytest.approx(before, rel=margin)
    assert measured.last == pytest.approx(after, rel=margin)

    # Its sampled answers are those of the reloaded model.
    sample = [e["samples"] for e in run.events() if e["event"] == "sample"][-1][0]
    assert run.generate(sample["prompt"], max_new_tokens=8) == sample["text"]

    obstacle = merge_obstacle(run.config)
    is_8_bit = run.config.quantization.bits == 8
    assert bool(obstacle) == (run.config.peft.method == "prompt_tuning" or is_8_bit)
    if obstacle or run.config.quantization.bits is not None:  # merged in test_export_model.py
        return
    ids = tokenizer("Correct: he go home\nHe goes home.")["input_ids"]
    row = [(ids, [True] * len(ids))]
    whole = token_losses(model, row)[0]
    merged = model.merge_and_unload()
    is_exact = run.config.model.dtype == "float32"
    torch.testing.assert_close(
        token_losses(merged, row)[0], whole, rtol=0, atol=1e-4 if is_exact else 0.05
    )
    folder = run.path / "merged"
    merged.save_pretrained(folder)
    alone = type(merged).from_pretrained(folder, dtype=merged.dtype)
    torch.testing.assert_close(
        token_losses(alone, row)[0], whole, rtol=0, atol=1e-4 if is_exact else 0.05
    )


def test_adaloras_loss_has_its_term_whatever_the_trainer(train: Callable[..., nbft.Run]) -> None:
    """TRL computes a loss of its own, to which PEFT cannot add one."""
    many = {"peft__method": "adalora", "training__per_device_train_batch_size": 36}
    sft, base, without = (
        losses(train(**many, **more))
        for more in (
            {"training__gradient_accumulation_steps": 1},
            {"training__method": "base"},
            {"peft__orth_reg_weight": 0.0},
        )
    )
    assert sft == pytest.approx(base, rel=1e-3)
    assert sft[0] > without[0] + 1
    assert sft[-1] - without[-1] < sft[0] - without[0]  # it makes A and B more orthogonal


@pytest.mark.parametrize("name", ["PiSSA", "adalora", "ln_tuning", "prompt_tuning"])
def test_a_saved_adapter_is_trained_further(train: Callable[..., nbft.Run], name: str) -> None:
    many: dict[str, Any] = {"training__per_device_train_batch_size": 36}
    many |= {"peft__orth_reg_weight": 0.0} if name == "adalora" else {}
    first = train(**many, **KINDS[name])
    method = first.config.peft.method
    adapter = str(first.path / "adapter")
    more = train(**many, peft__method=method, model__adapter_name_or_path=adapter)
    assert more.status == "completed", more.problems
    assert losses(more)[0] < losses(first)[0]
    assert losses(more)[-1] < losses(more)[0]


def _perplexities(run: nbft.Run) -> tuple[float, float]:
    found = [
        e["scores"]["perplexity"]
        for e in run.events()
        if e["event"] == "scores" and e["split"] == "validation"
    ]
    return found[0], found[-1]


def test_the_base_model_answers_without_the_biases_that_were_trained(
    train: Callable[..., nbft.Run], tiny_model: Path, tmp_path: Path
) -> None:
    """PEFT trains them in the model itself, so they stay when the adapter is switched off."""
    about = transformers.AutoConfig.from_pretrained(tiny_model, attention_bias=True)
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(about).eval()
    base.save_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path / "model")
    run = train(
        model__model_name=str(tmp_path / "model"),
        model__dtype="float32",
        peft__bias="all",
        training__learning_rate=0.3,
        evaluation__metrics=["perplexity"],
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=3,
    )
    assert run.status == "completed", run.problems
    prompt = "Correct: he go home"
    ((_, answered, *_),) = run.compare([prompt], max_new_tokens=8)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    written = base.generate(ids, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :]
    assert answered == tokenizer.decode(written, skip_special_tokens=True).strip()
    before, after = _perplexities(run)
    (measured,) = run.evaluate(metrics=["perplexity"]).compared
    assert measured.base == pytest.approx(before, rel=1e-5)
    assert measured.last == pytest.approx(after, rel=1e-5)
    assert after != pytest.approx(before, rel=0.1)
