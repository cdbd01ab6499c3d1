import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from nbft import registry
from nbft.config import Config
from nbft.data.examples import load_examples
from nbft.errors import ConfigError, DataError
from nbft.evaluate import scoring
from nbft.evaluate.generate import token_losses
from nbft.evaluate.scoring import Scorer


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


ROWS = [
    {"prompt": f"Add {n} and {n}.\n", "completion": f"{n}+{n}\n#### {2 * n}"} for n in range(40)
]


@pytest.fixture
def make(tiny_tokenizer):
    def scorer(rows=ROWS, split="validation", context_tokens=None, max_length=256, **evaluation):
        evaluation = {"score_rows": 4, "score_max_new_tokens": 5, **evaluation}
        data = {"train": {"rows": rows}, "validation": {"rows": rows}, "max_length": max_length}
        config = Config(data=data, evaluation=evaluation)
        examples, _ = load_examples(config, split)
        return Scorer(config, tiny_tokenizer, examples, split, context_tokens=context_tokens)

    return scorer


def test_every_score_that_was_asked_for(make, model):
    scorer = make(metrics=["rouge", "exact_match", "format", "perplexity"])
    found = scorer.score(model)
    assert set(found["scores"]) == {
        "rouge1",
        "rouge2",
        "rougeL",
        "exact_match",
        "format",
        "perplexity",
    }
    assert found["rows"] == len(scorer) == 4
    assert found["form"] == "ends in #### and a number"
    assert all(len(values) == 4 for values in found["values"].values())
    for name in ("rouge1", "exact_match"):
        assert found["scores"][name] == pytest.approx(sum(found["values"][name]) / 4, abs=1e-3)


def test_scores_are_those_of_the_answers(make, model, monkeypatch):
    scorer = make(metrics=["exact_match", "format"])
    right = [one.reference for one in scorer._asked]
    monkeypatch.setattr(scoring, "generate", lambda *_, **__: [right[0], "#### 1", "no", right[3]])
    found = scorer.score(model)
    assert found["values"] == {"exact_match": [1, 0, 0, 1], "format": [1, 1, 0, 1]}
    assert found["scores"] == {"exact_match": 0.5, "format": 0.75}


def test_the_answers_can_be_had_with_what_each_scores(make, model, monkeypatch):
    scorer = make(metrics=["exact_match", "perplexity"])
    assert scorer.answered() == []
    wanted = [one.reference for one in scorer._asked]
    monkeypatch.setattr(scoring, "generate", lambda *_, **__: ["no", wanted[1], "no", "no"])
    scorer.score(model)
    answered = scorer.answered()
    assert [one.answer for one in answered] == ["no", wanted[1], "no", "no"]
    assert [one.wanted for one in answered] == wanted
    assert [one.scores for one in answered] == [{"exact_match": float(n == 1)} for n in range(4)]
    prompts = {row["prompt"] for row in ROWS}
    assert all(one.prompt in prompts for one in answered)
    only_losses = make(metrics=["perplexity"])
    only_losses.score(model)
    assert only_losses.answered() == []


def test_perplexity_is_exp_of_the_mean_loss_of_a_completion_token(make, model, tiny_tokenizer):
    scorer = make(metrics=["perplexity"])
    total = tokens = 0
    for one in scorer._asked:
        assert tiny_tokenizer.decode(
            [i for i, on in zip(one.ids, one.loss_mask, strict=True) if on]
        )
        (losses,) = token_losses(model, [(one.ids, one.loss_mask)])
        assert len(losses) == len(one.ids) - len(one.prompt)
        total, tokens = total + sum(losses), tokens + len(losses)
    assert scorer.score(model)["scores"] == {"perplexity": pytest.approx(math.exp(total / tokens))}


def test_the_rows_are_drawn_by_the_seed_and_stay(make):
    def drawn(seed):
        scorer = make(metrics=["rouge"])
        scorer.config.training.seed = seed
        return [
            one.row["prompt"]
            for one in scorer._draw(load_examples(scorer.config, "train")[0], None)
        ]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    numbers = [int(prompt.split()[1]) for prompt in drawn(1)]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 4


def test_there_may_be_fewer_rows_than_asked(make, model):
    assert len(make(ROWS[:3], metrics=["rouge"])) == 3


def test_the_answer_may_be_as_long_as_the_longest_reference(make, tiny_tokenizer):
    scorer = make(score_rows=40, metrics=["rouge"], score_max_new_tokens=None)
    references = [row["completion"] for row in ROWS]
    longest = max(len(tiny_tokenizer(text)["input_ids"]) + 1 for text in references)
    assert scorer.max_new_tokens == longest
    long_rows = [{"prompt": "p", "completion": "word " * 400}]
    scorer = make(long_rows, metrics=["rouge"], score_max_new_tokens=None, max_length=1024)
    assert scorer.max_new_tokens == 256


def test_rows_without_room_for_an_answer_are_passed_by_and_counted(make):
    rows = [*ROWS[:3], {"prompt": "word " * 300, "completion": "#### 1"}]
    scorer = make(rows, metrics=["rouge"])
    assert len(scorer) == 3
    (remark,) = scorer.remarks
    assert remark == (
        "scores: 1 held-out row skipped: a prompt of 256 tokens or more leaves no room for the "
        "answer."
    )
    assert len(make(rows, metrics=["rouge"], max_length=1024)) == 4
    assert len(make(rows, metrics=["rouge"], max_length=1024, context_tokens=200)) == 3
    # The model reads the row, and writes nothing.
    assert len(make(rows, metrics=["perplexity"], max_length=1024, context_tokens=200)) == 4


def test_plain_text_has_perplexity_only(make, model):
    rows = [{"text": f"This is text number {n}."} for n in range(4)]
    assert set(make(rows, metrics=["perplexity"]).score(model)["scores"]) == {"perplexity"}
    scorer = make(rows, metrics=["rouge"])
    assert len(scorer) == 0
    assert scorer.remarks == ["scores: 4 held-out rows skipped: there is no prompt to answer."]


def test_a_conversation_is_asked_for_its_first_answer(make, model, tiny_tokenizer):
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Goodbye.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    scorer = make([{"messages": messages}], metrics=["rouge", "perplexity"])
    (asked,) = scorer._asked
    assert asked.reference == "Hello."
    assert tiny_tokenizer.decode(asked.prompt).endswith("<|start|>assistant\n")
    assert "Hello" not in tiny_tokenizer.decode(asked.prompt)
    assert scorer.score(model)["scores"]["perplexity"] > 1


def test_references_without_a_form_leave_the_format_out(make, model):
    rows = [{"prompt": "p", "completion": c} for c in ("a", "b\nc")]
    scorer = make(rows, metrics=["rouge", "format"])
    assert "format" not in scorer.score(model)["scores"]
    (remark,) = scorer.remarks
    assert remark.startswith("scores: the references share no form, so format is not measured.")
    scorer = make(rows, metrics=["format"], format_pattern="a|b.c")
    assert scorer.score(model)["form"] == "matches a|b.c"


@pytest.fixture
def own(tmp_path, make):
    def scorer(body, **more):
        file = tmp_path / "mine.py"
        file.write_text(f"def score(answers, references, rows):\n    {body}\n")
        return make(metric_function=f"{file}:score", **more)

    return scorer


def test_a_function_of_ones_own_gets_answers_references_and_rows(own, model):
    scorer = own("return {'n': len(answers), 'r': float(references[0] == rows[0]['completion'])}")
    found = scorer.score(model)
    assert found["scores"] == {"n": 4.0, "r": 1.0}
    assert found["values"] == {}


def test_a_function_that_fails_is_a_sentence(own, model):
    with pytest.raises(ConfigError, match=r"score': failed with KeyError: 'mine'\."):
        own("raise KeyError('mine')").score(model)
    with pytest.raises(ConfigError, match="failed with ValueError: returned str for score"):
        own("return 'good'").score(model)


def test_a_function_that_is_not_there(make):
    with pytest.raises(DataError, match="there is no file"):
        make(metric_function="nowhere/mine.py:score")


def test_a_registered_function(make, model):
    registry.metrics.register("two_words")(lambda answers, references, rows: {"words": 2})
    try:
        assert make(metric_function="two_words").score(model)["scores"] == {"words": 2.0}
    finally:
        registry.metrics.unregister("two_words")
    with pytest.raises(DataError, match="names no function"):
        make(metric_function="two_words")


def test_nothing_is_drawn_where_nothing_is_measured(make):
    assert len(make(metrics=[])) == 0


def test_random_numbers_and_mode_are_left_alone(own, model):
    scorer = own("import random; return random.random()", metrics=["rouge"], do_sample=True)
    model.train()
    try:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        first = scorer.score(model)
        assert torch.equal(torch.rand(3), expected)
        assert model.training
    finally:
        model.eval()
    assert scorer.score(model)["scores"] == first["scores"]


def test_values_are_kept_of_few_rows_only(make, model, monkeypatch):
    monkeypatch.setattr(scoring, "_ROWS_KEPT", 3)
    found = make(metrics=["perplexity"]).score(model)
    assert found["values"] == {}
    assert found["scores"]
