import random

import numpy as np
import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nbft.evaluate.generate import (
    generate,
    generate_ids,
    in_precision,
    own_random_numbers,
    token_losses,
    write,
)

TEXTS = [
    "Correct: he go",
    "Question: Anna has 3 apples and buys 4 more. How many apples has she then?\n\nAnswer:\n",
    "A",
    "Say hi to Karim in a short e-mail.",
    "Say hi.",
]


@pytest.fixture(scope="module")
def model(tiny_model):
    """Random weights, made larger so that no two tokens are nearly as likely."""
    found = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return found


@pytest.fixture
def prompts(tiny_tokenizer):
    return [tiny_tokenizer(text)["input_ids"] for text in TEXTS]


def tokens_one_by_one(model, tokenizer, ids, max_new_tokens):
    """Take the likeliest token again and again, without a cache, padding or a batch."""
    ids, answer = list(ids), []
    for _ in range(max_new_tokens):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
        answer.append(token)
    return answer


def one_by_one(model, tokenizer, ids, max_new_tokens):
    answer = tokens_one_by_one(model, tokenizer, ids, max_new_tokens)
    return tokenizer.decode(answer, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_answers_do_not_depend_on_the_batch(model, tiny_tokenizer, prompts, batch_size):
    answers = generate(model, tiny_tokenizer, prompts, 12, batch_size=batch_size)
    assert answers == [one_by_one(model, tiny_tokenizer, ids, 12) for ids in prompts]
    assert len(set(answers)) > 1


def test_an_answer_stops_at_an_end(model, tiny_tokenizer, prompts, monkeypatch):
    answers = [tokens_one_by_one(model, tiny_tokenizer, ids, 12) for ids in prompts]
    prompt, answer, place = next(
        (ids, answer, n)
        for ids, answer in zip(prompts, answers, strict=True)
        for n in range(2, len(answer))
        if answer[n] not in answer[:n]
    )
    monkeypatch.setattr(model.generation_config, "eos_token_id", [0, answer[place]])
    (short,) = generate(model, tiny_tokenizer, [prompt], 12)
    assert short == tiny_tokenizer.decode(answer[:place]).strip()


def test_the_longest_prompts_come_first_and_like_lengths_together(
    model, tiny_tokenizer, prompts, monkeypatch
):
    widths = []
    original = model.generate

    def seen(input_ids, **more):
        widths.append(input_ids.shape)
        return original(input_ids=input_ids, **more)

    monkeypatch.setattr(model, "generate", seen)
    generate(model, tiny_tokenizer, prompts, 2, batch_size=2)
    lengths = sorted(map(len, prompts), reverse=True)
    assert widths == [(2, lengths[0]), (2, lengths[2]), (1, lengths[4])]


def test_a_batch_that_does_not_fit_is_halved(model, tiny_tokenizer, prompts, monkeypatch):
    original = model.generate
    sizes = []

    def small_machine(input_ids, **more):
        sizes.append(len(input_ids))
        if len(input_ids) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(input_ids=input_ids, **more)

    expected = generate(model, tiny_tokenizer, prompts, 6)
    monkeypatch.setattr(model, "generate", small_machine)
    assert generate(model, tiny_tokenizer, prompts, 6, batch_size=4) == expected
    assert sizes == [4, 2, 1, 1, 1, 1, 1]


def test_what_does_not_fit_alone_and_other_errors_are_raised(
    model, tiny_tokenizer, prompts, monkeypatch
):
    for text in ("CUDA out of memory. Tried", "shapes do not match"):

        def fails(text=text, **_):
            raise RuntimeError(text)

        monkeypatch.setattr(model, "generate", fails)
        with pytest.raises(RuntimeError, match=text):
            generate(model, tiny_tokenizer, prompts, 6, batch_size=2)
        assert not model.training


def test_the_mode_of_the_model_is_left_alone(model, tiny_tokenizer, prompts):
    model.train()
    try:
        generate(model, tiny_tokenizer, prompts[:1], 2)
        token_losses(model, [(prompts[0], [True] * len(prompts[0]))])
        assert model.training
    finally:
        model.eval()


def test_the_models_own_penalties_do_not_count(model, tiny_tokenizer, prompts, monkeypatch):
    expected = generate(model, tiny_tokenizer, prompts, 12)
    for name, value in (("repetition_penalty", 5.0), ("do_sample", True), ("temperature", 9.0)):
        monkeypatch.setattr(model.generation_config, name, value)
    assert generate(model, tiny_tokenizer, prompts, 12) == expected


def test_drawn_answers_follow_the_seed(model, tiny_tokenizer, prompts):
    def drawn(seed, **more):
        with own_random_numbers(seed):
            return generate(model, tiny_tokenizer, prompts, 8, do_sample=True, **more)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1, top_p=1e-6) == generate(model, tiny_tokenizer, prompts, 8)
    assert drawn(1, temperature=1e-4) == generate(model, tiny_tokenizer, prompts, 8)


def test_random_numbers_go_on_as_if_nothing_had_been_drawn():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    with own_random_numbers(7):
        first = draw()
    with own_random_numbers(3):
        expected = draw()
        with own_random_numbers(7):
            assert draw() == first
        following = draw()
    with own_random_numbers(3):
        assert draw() == expected
        assert draw() == following


def test_losses_are_those_of_the_learnt_tokens(model, tiny_tokenizer, prompts):
    ids = prompts[1]
    learnt = [n >= 5 for n in range(len(ids))]
    (losses,) = token_losses(model, [(ids, learnt)])
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [-scores[n - 1, ids[n]].item() for n in range(5, len(ids))]
    assert losses == pytest.approx(expected, abs=1e-5)
    labels = torch.tensor([[i if on else -100 for i, on in zip(ids, learnt, strict=True)]])
    mean = model(torch.tensor([ids]), labels=labels).loss.item()
    assert sum(losses) / len(losses) == pytest.approx(mean, rel=1e-5)


def test_the_first_token_is_never_predicted(model, prompts):
    ids = prompts[0]
    (losses,) = token_losses(model, [(ids, [True] * len(ids))])
    assert len(losses) == len(ids) - 1


def test_a_model_with_an_encoder_is_asked_by_its_decoder(tiny_tokenizer, prompts):
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = T5Config(
        vocab_size=len(tiny_tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        pad_token_id=tiny_tokenizer.pad_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        decoder_start_token_id=tiny_tokenizer.pad_token_id,
    )
    model = T5ForConditionalGeneration(shape).eval()
    end = tiny_tokenizer.eos_token_id
    prompt, completion = prompts[1], [*prompts[0], end]
    learnt = [False] * len(prompt) + [True] * len(completion)
    (losses,) = token_losses(model, [(prompt + completion, learnt)])
    mean = model(input_ids=torch.tensor([[*prompt, end]]), labels=torch.tensor([completion])).loss
    assert len(losses) == len(completion)
    assert sum(losses) / len(losses) == pytest.approx(mean.item(), rel=1e-5)
    together = generate(model, tiny_tokenizer, prompts, 6)
    assert together == generate(model, tiny_tokenizer, prompts, 6, batch_size=1)


def test_mixed_precision_is_that_of_the_training(model):
    linear = model.lm_head
    with in_precision(model, "bf16"):
        assert linear(torch.ones(1, 64)).dtype == torch.bfloat16
    with in_precision(model, "no"):
        assert linear(torch.ones(1, 64)).dtype == torch.float32


def test_virtual_tokens_stand_in_front_of_each_prompt_once(tiny_model, tiny_tokenizer, prompts):
    """PEFT's own `generate` repeats them, and puts the padding of a batch behind them."""
    about = AutoConfig.from_pretrained(tiny_model, initializer_range=0.2)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(about)
    tuning = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(base, tuning).eval()
    wanted = [tokens_one_by_one(model, tiny_tokenizer, ids, 8) for ids in prompts]
    assert len(set(map(tuple, wanted))) == len(prompts)
    assert generate_ids(model, tiny_tokenizer, prompts, 8) == wanted
    seen: list[list[int]] = []
    take = lambda ids: not seen.append(ids)  # noqa: E731
    assert write(model, tiny_tokenizer, prompts[1], 8, take) == wanted[1]
    assert seen[0] == wanted[1][:1]
    with model.disable_adapter():
        without = generate_ids(model, tiny_tokenizer, prompts, 8)
    assert without == [tokens_one_by_one(base, tiny_tokenizer, ids, 8) for ids in prompts]
    assert without != wanted
