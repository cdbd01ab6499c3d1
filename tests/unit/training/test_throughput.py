import pytest
import torch
from transformers import AutoModelForCausalLM

from nbft.config import Config
from nbft.training.throughput import Throughput, flops_per_token, summary


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
