import types

import peft
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from nbft.config import Config
from nbft.training.throughput import (
    StepClock,
    Throughput,
    flops_per_token,
    multiplied_parameters,
    parameter_counts,
    summary,
)


def test_the_summary_counts_each_parameter(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.layers[0].requires_grad_(False)
    text = summary(model)
    assert "model.layers.1.self_attn.q_proj (Linear)" in text
    assert "4,096            0  model.layers.0.self_attn.q_proj (Linear)" in text
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    last = text.splitlines()[-1].replace(",", "").split()
    assert last[:2] == [str(total), str(trained)]


def test_flops_of_a_token():
    """PaLM's formula where all is trained: 6 N + 12 L H T."""
    assert flops_per_token(1000, 1000, 2, 64, 10) == 6 * 1000 + 12 * 2 * 64 * 10
    assert flops_per_token(1000, 0, 0, 0, 0) == 4 * 1000


class Base:
    """Stands for a trainer: takes a fixed time for each step."""

    args = types.SimpleNamespace(device=torch.device("cpu"))

    def training_step(self, model, inputs, num_items_in_batch=None):
        return torch.tensor(1.0)

    def log(self, logs, start_time=None):
        self.logged = logs


@pytest.fixture
def trainer(tiny_model, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("nbft.training.throughput.time.monotonic", lambda: next(clock))

    class Ours(Throughput, Base):
        nbft_config = Config(logging={"include_performance_metrics": True, "include_mfu": True})
        nbft_peak_flops = 1e9
        model = AutoModelForCausalLM.from_pretrained(tiny_model)

    return Ours()


def test_tokens_rows_and_padding_of_the_steps_since_the_last_log(trainer):
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    labels = torch.tensor([[-100, -100, 5, 6], [-100, 7, -100, -100]])
    batch = {"input_ids": mask, "attention_mask": mask, "labels": labels}
    trainer.training_step(None, batch)
    trainer.training_step(None, batch)  # each takes one second of the clock
    trainer.log({"loss": 1.0})
    found = trainer.logged
    assert found["rows_per_second"] == 2
    assert found["compute_tokens_per_second"] == 6
    assert found["tokens_per_row"] == 3
    assert found["trained_share"] == 0.5
    assert found["padding_share"] == 0.25
    model = trainer.model
    n = sum(p.numel() for p in model.parameters())  # the embeddings are the head's matrix
    a_token = 6 * n + 12 * 2 * 64 * 3
    assert found["model_flops_per_second"] == pytest.approx(a_token * 6)
    assert found["mfu"] == pytest.approx(a_token * 6 / 1e9)


def test_rows_that_lie_end_to_end_are_counted(trainer):
    ids = torch.arange(7)[None]
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1]])
    trainer.training_step(None, {"input_ids": ids, "position_ids": positions, "labels": ids})
    trainer.log({"loss": 1.0})
    assert trainer.logged["rows_per_second"] == 3
    assert trainer.logged["padding_share"] == 0


def test_nothing_is_added_to_an_evaluation(trainer):
    trainer.log({"eval_loss": 1.0})
    assert trainer.logged == {"eval_loss": 1.0}


SMALL = {
    "vocab_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WIDE = {**SMALL, "hidden_size": 32, "intermediate_size": 48}
MODELS = {
    "tied": LlamaConfig(**WIDE, tie_word_embeddings=True),
    "a head of its own": LlamaConfig(**WIDE, tie_word_embeddings=False),
    "wide heads": Qwen3Config(**WIDE, head_dim=16, tie_word_embeddings=False),
    "embedded positions": GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "experts": MixtralConfig(**WIDE, num_local_experts=4, num_experts_per_tok=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_token_is_multiplied_with_what_torch_multiplies_it_with(name):
    """The head counts once, embeddings and idle experts not at all; torch counts no norms."""
    model = AutoModelForCausalLM.from_config(MODELS[name], attn_implementation="sdpa").eval()
    norms = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 1)
    total, trained = multiplied_parameters(model)
    assert total == trained
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(10)[None], use_cache=False)
    products = counter.get_flop_counts()["Global"]
    attention = sum(n for op, n in products.items() if "attention" in str(op) or "bmm" in str(op))
    found = sum(products.values()) - attention
    if name == "experts":
        assert total - norms < sum(p.numel() for p in model.parameters())
        every = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
        rest = sum(p.numel() for n, p in model.named_parameters() if ".experts." not in n)
        assert total == rest - 96 * 32 + every / 2
    else:
        assert 2 * 10 * (total - norms) == found


@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_copy_of_the_head_counts_once(tied):
    shape = LlamaConfig(**WIDE, tie_word_embeddings=tied)
    plain = AutoModelForCausalLM.from_config(shape)
    total, _ = multiplied_parameters(plain)
    adapter = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = peft.get_peft_model(plain, adapter)
    lora = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert multiplied_parameters(model) == (total + lora, 96 * 32 + lora)
    assert parameter_counts(model)[1] == 96 * 32 + lora


@pytest.mark.parametrize("shape", [MODELS["a head of its own"], MODELS["wide heads"]])
def test_mfu_of_a_model_with_a_head_of_its_own(trainer, shape):
    model = trainer.model = AutoModelForCausalLM.from_config(shape)
    n = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    ids = torch.ones(2, 5, dtype=torch.long)
    trainer.training_step(None, {"input_ids": ids, "attention_mask": ids, "labels": ids})
    trainer.log({"loss": 1.0})
    width = 64 if shape is MODELS["wide heads"] else 32
    a_token = 6 * n + 12 * 2 * width * 5
    assert trainer.logged["mfu"] == pytest.approx(a_token * 10 / 1e9)


def test_an_encoder_decoder_reads_prompts_and_answers(trainer):
    ids, labels = torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 2], [1, -100]])
    batch = {"input_ids": ids, "attention_mask": ids, "labels": labels, "decoder_input_ids": labels}
    shape = T5Config(**SMALL, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)
    trainer.model = T5ForConditionalGeneration(shape)
    trainer.training_step(None, batch)
    trainer.log({"loss": 1.0})
    assert trainer.logged["compute_tokens_per_second"] == 9
    assert trainer.logged["trained_share"] == 3 / 9


def test_the_padding_behind_joined_rows_is_none_of_their_tokens(trainer):
    trainer.nbft_config = trainer.nbft_config.apply({"data.pad_to_multiple_of": 8})
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0, 0]])
    ids = torch.arange(8)[None]
    trainer.training_step(None, {"input_ids": ids, "position_ids": positions, "labels": ids})
    trainer.log({"loss": 1.0})
    assert trainer.logged["rows_per_second"] == 2
    assert trainer.logged["compute_tokens_per_second"] == 5
    assert trainer.logged["padding_share"] == 3 / 8


def test_a_batch_that_is_no_text_has_no_speed(trainer):
    trainer.training_step(None, {"pixel_values": torch.ones(2, 3)})
    trainer.log({"loss": 1.0})
    assert trainer.logged == {"loss": 1.0}


def test_the_clock_of_the_steps_stands_still_between_them(monkeypatch):
    times = iter([0, 3, 10, 14, 20])
    monkeypatch.setattr("nbft.training.throughput.time.monotonic", lambda: next(times))
    clock = StepClock()
    assert clock.seconds == 0
    with clock.stopped():  # it did not run, and does not afterwards
        pass
    clock.start()
    clock.start()
    with clock.stopped(), clock.stopped():
        assert clock.seconds == 3
    clock.stop()
    assert clock.seconds == 7
    clock.stop()
    assert clock.seconds == 7
