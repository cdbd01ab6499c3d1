"""`nbft.ask` on a tiny random model: what it takes, what it returns, and which model it keeps."""

from __future__ import annotations

import json
import os

import pytest

import nbft
from nbft.evaluate.compare import Answers
from nbft.runs import ask as asking

ROWS = [
    {"question": "two plus two", "answer": "four"},
    {"question": "one plus one", "answer": "two"},
]


@pytest.fixture(autouse=True)
def nothing_is_kept():
    yield
    nbft.release_model()


@pytest.fixture
def config(tiny_model, tmp_path):
    return nbft.Config(
        model={"model_name": str(tiny_model)},
        data={
            "rows": ROWS * 4,
            "prompt_template": "Q: {question}\nA: ",
            "completion_template": "{answer}",
        },
        training={"output_dir": str(tmp_path / "runs"), "run_name": "old-otter-1"},
    )


@pytest.fixture
def run(config, tiny_model):
    """Return a run that has an adapter, without any training."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = nbft.Run.create(config)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    lora = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(base, lora).save_pretrained(run.path / "adapter")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(run.path / "adapter")
    return run


@pytest.fixture
def loads(monkeypatch):
    """Return the list of what is loaded, in order."""
    loaded = []
    real = asking._model_of

    def model_of(found):
        loaded.append(found)
        return real(found)

    monkeypatch.setattr(asking, "_model_of", model_of)
    return loaded


def test_one_prompt_or_several_give_a_list_of_texts(config):
    one = nbft.ask(config, "Say hi.", max_new_tokens=3)
    assert isinstance(one, Answers)
    assert len(one) == 1
    both = nbft.ask(config, ["Say hi.", "Say no."], max_new_tokens=3)
    assert both[0] == one[0], "greedy, so it can be repeated"
    assert [row.prompt for row in both.rows] == ["Say hi.", "Say no."]
    assert str(config.model.model_name).endswith(both.model)
    assert nbft.ask(config, []) == []


def test_a_run_answers_by_itself_by_its_name_and_by_its_folder(run, tmp_path):
    answers = [
        nbft.ask(run, "Say hi.", max_new_tokens=3),
        nbft.ask("old-otter-1", "Say hi.", max_new_tokens=3, folder=tmp_path / "runs"),
        nbft.ask(run.path, "Say hi.", max_new_tokens=3),
    ]
    assert answers[0] == answers[1] == answers[2]
    assert {one.model for one in answers} == {"old-otter-1"}
    assert answers[0][0] == run.generate("Say hi.", max_new_tokens=3)


def test_the_name_of_a_base_model_is_asked_directly(tiny_model, config):
    assert nbft.ask(str(tiny_model), "Hi.", max_new_tokens=3) == nbft.ask(
        config, "Hi.", max_new_tokens=3
    )


def test_rows_are_rendered_by_the_templates_and_bring_the_wanted_answer(config, run):
    for model in (config, run):
        (answer,) = nbft.ask(model, ROWS[0], max_new_tokens=2).rows
        assert answer.prompt == "Q: two plus two\nA: "
        assert answer.wanted == "four"
    assert "wanted" in str(nbft.ask(config, ROWS, max_new_tokens=2))


def test_a_row_without_an_answer_is_a_new_question(config):
    (answer,) = nbft.ask(config, {"question": "three plus three"}, max_new_tokens=2).rows
    assert (answer.prompt, answer.wanted) == ("Q: three plus three\nA: ", "")


def test_examples_of_a_config_can_be_asked(config):
    examples = nbft.examples(config)
    (answer,) = nbft.ask(config, examples[:1], max_new_tokens=2).rows
    assert (answer.prompt, answer.wanted) == (examples[0].prompt, examples[0].completion)
    texts = nbft.ask(config, [examples[0].prompt], max_new_tokens=2)
    assert texts == [answer.text], "the same tokens, as text and as an example"


def test_the_model_stays_until_another_one_is_asked_or_it_is_released(config, run, loads):
    nbft.ask(config, "a", max_new_tokens=1)
    nbft.ask(config.apply({"training.learning_rate": 1.0}), "b", max_new_tokens=1)
    assert len(loads) == 1, "the same base model"
    nbft.ask(run, "a", max_new_tokens=1)
    nbft.ask(nbft.Run(run.path), "b", max_new_tokens=1)
    assert len(loads) == 2
    nbft.ask(config, "a", max_new_tokens=1)
    assert len(loads) == 3
    nbft.release_model()
    assert asking._kept is None
    nbft.ask(config, "a", max_new_tokens=1)
    assert len(loads) == 4


def test_the_old_model_is_gone_before_the_next_one_is_loaded(config, run, monkeypatch):
    nbft.ask(config, "a", max_new_tokens=1)
    real = asking._model_of
    kept = []

    def model_of(found):
        kept.append(asking._kept)
        return real(found)

    monkeypatch.setattr(asking, "_model_of", model_of)
    nbft.ask(run, "a", max_new_tokens=1)
    assert kept == [None]


def test_a_run_that_was_trained_further_is_loaded_again(run, loads):
    nbft.ask(run, "a", max_new_tokens=1)
    weights = run.path / "adapter" / "adapter_model.safetensors"
    os.utime(weights, (1, 1))
    nbft.ask(run, "a", max_new_tokens=1)
    assert len(loads) == 2


def test_a_model_that_the_run_itself_has_loaded_is_left_alone(config, run):
    model, _ = run.load_model()
    nbft.ask(run, "a", max_new_tokens=1)
    nbft.ask(config, "a", max_new_tokens=1)
    assert run.load_model()[0] is model


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [
        ("", {}, "prompts[0]: is empty. Write what the model should answer."),
        (["a", " "], {}, "prompts[1]: is empty. Write what the model should answer."),
        ([3], {}, "prompts[0]=3: is int, not a text, a row or an example."),
        (
            {"q": "x"},
            {},
            (
                "prompts[0]={'q': 'x'}: has none of the columns of data.train.datasets[0]: "
                "question, answer. Name them as there."
            ),
        ),
        ("a", {"max_new_tokens": 0}, "max_new_tokens=0: is not at least 1. Use 64."),
        (
            "a",
            {"temperature": 0.5},
            (
                "temperature=0.5: applies only when tokens are drawn, and do_sample is false. Add "
                "do_sample=True, or leave it out."
            ),
        ),
        (
            "a",
            {"do_sample": True, "top_p": 1.5},
            "top_p=1.5: is not above 0 and at most 1.",
        ),
        (
            "a",
            {"do_sample": True, "temperature": "0.7"},
            "temperature='0.7': is str, not a number.",
        ),
        ("a", {"do_sample": True, "top_p": True}, "top_p=True: is bool, not a number."),
    ],
)
def test_a_mistake_is_one_sentence(config, prompts, options, sentence):
    with pytest.raises(nbft.NbftError) as caught:
        nbft.ask(config, prompts, **options)
    assert str(caught.value) == sentence


def test_a_prompt_without_room_for_an_answer_is_refused(config, tiny_model):
    context = json.loads((tiny_model / "config.json").read_text())["max_position_embeddings"]
    with pytest.raises(
        nbft.DataError, match=r"^prompts\[0\]: has [\d,]+ tokens; the model has room"
    ):
        nbft.ask(config, "word " * context, max_new_tokens=8)


def test_a_misspelt_run_is_named(run, tmp_path):
    with pytest.raises(nbft.RunError, match=r"Did you mean old-otter-1\?"):
        nbft.ask("old-oter-1", "a", folder=tmp_path / "runs")


def test_a_run_without_an_adapter_says_so(config):
    with pytest.raises(nbft.RunError, match="has no adapter yet; it is created"):
        nbft.ask(nbft.Run.create(config), "a")


def test_something_that_is_no_model_is_refused():
    with pytest.raises(nbft.ConfigError, match="model=3: is int, not a run, a config or a name"):
        nbft.ask(3, "a")


def test_a_run_compares_rows_with_what_was_wanted(run):
    (row,) = run.compare(ROWS[:1], max_new_tokens=2)
    assert (row.prompt, row.wanted) == ("Q: two plus two\nA: ", "four")
    (row,) = run.compare("Say hi.", max_new_tokens=2)
    assert (row.prompt, row.wanted) == ("Say hi.", "")


def test_the_tokens_of_an_example_tell_what_is_trained_on(config):
    example = nbft.examples(config)[0]
    row = nbft.tokens(config, example)
    assert "".join(token.text for token in row.tokens if token.label < 0) == example.prompt
    assert row.measure.trained == sum(token.label >= 0 for token in row.tokens)


def test_answers_are_scored_against_what_was_wanted():
    answers = Answers([("p", "4", "4"), ("q", "5", "6")])
    assert nbft.score(answers) == {"exact_match": 0.5}
    assert nbft.score(["4"], ["#### 4"]) == {"exact_match": 1.0}
    with pytest.raises(nbft.ConfigError, match="wanted: has 0 texts for 1 answers"):
        nbft.score(["4"])
    with pytest.raises(nbft.ConfigError, match="metric='rogue': is not one of rouge, exact_match"):
        nbft.score("a", "b", "rogue")


def test_a_text_without_the_words_around_it_is_asked_and_said(run):
    bare = nbft.ask(run, "two plus two", max_new_tokens=2)
    assert "learned to answer after “A:”. Ask with a row, such as {'question': '…'}" in str(bare)
    assert "learned to answer after" in bare._repr_html_()
    for whole in ("Q: two plus two\nA: ", {"question": "two plus two"}):
        assert nbft.ask(run, whole, max_new_tokens=2).remark == ""
    assert nbft.ask(run.config, "two plus two", max_new_tokens=2).remark == "", "a base model"
