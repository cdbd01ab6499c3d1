"""Rows read by name, by columns, or by somebody's own function."""

import json

import pytest

import nbft
from nbft import registry
from nbft.data.adapters import erniekit
from nbft.data.examples import load_examples
from nbft.data.tokens import tokenise
from nbft.errors import ConfigError, DataError


def examples(rows, **settings):
    config = nbft.Config(data={"rows": rows, "split_ratio": 1.0, **settings})
    return load_examples(config, "train")[0]


ROWS = [{"instruction": "Add.", "input": "2 and 3", "output": "5", "text": "five", "more": "0"}] * 2


def test_dataset_type_reads_a_row_in_another_way():
    assert "### Instruction" in examples(ROWS)[0].prompt
    assert examples(ROWS, dataset_type="text")[0].completion == "five"


def test_dataset_type_alpaca_needs_its_columns():
    with pytest.raises(DataError, match='has no "instruction", which dataset_type alpaca needs'):
        examples([{"text": "five"}], dataset_type="alpaca")


def test_an_unknown_dataset_type_lists_the_known():
    with pytest.raises(ConfigError, match=r"is not one of auto, seq_completion, .*Use alpaca"):
        nbft.Config(data={"dataset_name": "grammar", "dataset_type": "alpacca"})


def test_a_function_of_ones_own():
    @registry.datasets.register("mine")
    def mine(row):
        return f"Q: {row['input']}\n", row["output"]

    try:
        one = examples(ROWS, dataset_type="mine")[0]
    finally:
        registry.datasets.unregister("mine")
    assert (one.prompt, one.completion) == ("Q: 2 and 3\n", "5")


def test_a_function_that_returns_no_pair():
    registry.datasets.register("wrong")(lambda row: 5)
    try:
        with pytest.raises(DataError, match=r"returned int\. Return \(prompt, completion\)"):
            examples(ROWS, dataset_type="wrong")
    finally:
        registry.datasets.unregister("wrong")


def test_input_columns_are_joined_and_learnt():
    one = examples(ROWS, input_columns=["text", "more"])[0]
    assert (one.prompt, one.completion) == ("", "five\n0")


def test_target_column_is_what_is_trained():
    one = examples(ROWS, input_columns=["instruction", "input"], target_column="output")[0]
    assert (one.prompt, one.completion) == ("Add.\n2 and 3\n", "5")


def test_a_target_of_zero_is_trained_and_null_is_nothing():
    rows = [{"q": "a", "n": 0}, {"q": "b", "n": None}]
    found = examples(rows, input_columns=["q"], target_column="n")
    assert [one.completion for one in found] == ["0", ""]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"input_columns": ["texts"]}, "texts is not a column; found instruction"),
        ({"input_columns": ["text"], "target_column": "label"}, "label is not a column"),
        ({"target_column": "output"}, "is set without input_columns"),
    ],
)
def test_columns_that_are_not_there(settings, words):
    with pytest.raises(DataError, match=words):
        examples(ROWS, **settings)


def test_erniekit_turns_and_labels(tiny_tokenizer):
    row = {
        "system": "Be brief.",
        "src": ["Who are you?", "And now?"],
        "tgt": ["A model.", "The same."],
        "label": [0, 1],
    }
    config = nbft.Config(data={"rows": [row, row], "split_ratio": 1.0, "max_length": 512})
    found, _ = load_examples(config, "train")
    assert found.formats == ["ERNIEKit conversations"]
    assert [turn["role"] for turn in found[0].messages][:2] == ["system", "user"]
    done = tokenise(found, tiny_tokenizer, config).dataset[0]
    learnt = [
        i for i, label in zip(done["input_ids"], done["labels"], strict=True) if label != -100
    ]
    text = tiny_tokenizer.decode(learnt)
    assert "The same." in text
    assert "A model." not in text


def test_erniekit_takes_the_better_of_two_answers():
    row = {"src": ["Hi"], "tgt": [], "response": [["worse"], ["better"]], "sort": [0, 1]}
    assert erniekit(row).messages[-1]["content"] == "better"


def test_erniekit_questions_without_answers():
    with pytest.raises(DataError, match="src has 2 turns and tgt 1"):
        examples([{"src": ["a", "b"], "tgt": ["c"]}])


# Conversations of rows without turns


def turns(rows, **settings):
    return [
        [(turn["role"], turn["content"]) for turn in one.messages]
        for one in examples(rows, **settings)
    ]


def test_an_instruction_becomes_a_conversation():
    assert turns(ROWS, dataset_type="chat_completion")[0] == [
        ("user", "Add.\n2 and 3"),
        ("assistant", "5"),
    ]
    assert turns(ROWS, dataset_type="text_sft")[0][0] == ("user", "Add.\n\n2 and 3")
    system, user, _ = turns(ROWS, dataset_type="alpaca_chat")[0]
    assert system[1].startswith("Below is an instruction that describes a task, paired with")
    assert user == ("user", "Add.\n\n### Input:\n2 and 3")
    pairs = [{"prompt": "Why?", "completion": "So."}] * 2
    assert turns(pairs, dataset_type="chat_completion")[0][0] == ("user", "Why?")


def test_templates_fill_the_turns_of_a_conversation():
    rows = [
        {"rule": "Be brief.", "q": "Why?", "input": "Rain.", "a": "So."},
        {"rule": "", "q": "How?", "input": "", "a": "Thus."},
    ]
    made = turns(
        rows,
        dataset_type="chat_completion",
        system_template="{rule}",
        prompt_template="{q} ({input})",
        no_input_template="{q}",
        completion_template="{a}",
    )
    assert made == [
        [("system", "Be brief."), ("user", "Why? (Rain.)"), ("assistant", "So.")],
        [("user", "How?"), ("assistant", "Thus.")],
    ]
    usual = turns(
        rows,
        dataset_type="chat_completion",
        system_template="{rule}",
        system_prompt="Be kind.",
        prompt_template="{q}",
        completion_template="{a}",
    )
    assert [row[0] for row in usual] == [("system", "Be brief."), ("system", "Be kind.")]


def test_earlier_turns_stand_before_the_question():
    rows = [
        {"instruction": "And now?", "output": "Later.", "past": [["Hi", "Hello"]]},
        {"instruction": "Why?", "output": "So.", "past": []},
    ]
    made = turns(
        rows, dataset_type="chat_completion", history_column="past", system_prompt="Be kind."
    )
    assert [content for _, content in made[0]] == ["Be kind.", "Hi", "Hello", "And now?", "Later."]
    assert len(made[1]) == 3
    rows = [{"instruction": "a", "output": "b", "past": "Hi"}]
    with pytest.raises(DataError, match='"past" is no list of pairs'):
        examples(rows, dataset_type="chat_completion", history_column="past")


def test_only_the_last_answer_is_trained_where_that_is_asked(tiny_tokenizer):
    talk = [
        {"who": "guest", "said": "Hi"},
        {"who": "host", "said": "Hello"},
        {"who": "guest", "said": "Bye"},
        {"who": "host", "said": "So long"},
    ]
    settings = {
        "message_property_mappings": {"role": "who", "content": "said"},
        "roles": {"user": "guest", "assistant": ["host"]},
    }
    (one,) = examples([{"messages": talk}], **settings)
    assert [turn["role"] for turn in one.messages] == ["user", "assistant"] * 2
    assert all("trained" not in turn for turn in one.messages)
    (one,) = examples([{"messages": talk}], train_target="final_assistant_turn", **settings)
    assert [turn.get("trained") for turn in one.messages] == [None, False, None, None]


def test_the_text_of_stanford_alpaca():
    one = examples(ROWS, dataset_type="stanford_alpaca")[0]
    assert one.prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n2 and 3\n\n### Response:\n"
    )
    assert one.completion == "5"
    assert examples(ROWS, dataset_type="alpaca")[0].prompt.startswith("### Instruction:")


def test_labelled_segments():
    parts = [{"label": False, "text": "<q>Why?"}, {"label": True, "text": "</q>So."}]
    one = examples([{"segments": parts}], dataset_type="input_output")[0]
    assert (one.prompt, one.completion) == ("<q>Why?", "</q>So.")
    with pytest.raises(DataError, match="not trained on after text that is"):
        examples([{"segments": parts[::-1]}], dataset_type="input_output")


@pytest.mark.parametrize("name", ["chat_completion", "text_sft", "alpaca_chat", "stanford_alpaca"])
def test_a_row_without_an_answer_is_said(name):
    with pytest.raises(DataError, match=f'has no "output", which dataset_type {name} needs'):
        examples([{"instruction": "Add."}], dataset_type=name)


def test_dataset_kwargs_name_files_for_datasets(tmp_path):
    file = tmp_path / "rows.txt"
    file.write_text("q;a\none;two\n", encoding="utf-8")
    found = load_examples(
        nbft.Config(
            data={
                "dataset_name": "csv",
                "dataset_kwargs": {"data_files": str(file), "sep": ";"},
                "prompt_template": "{q}\n",
                "completion_template": "{a}",
                "split_ratio": 1.0,
            }
        ),
        "train",
    )[0]
    assert (found[0].prompt, found[0].completion) == ("one\n", "two")


def test_code_of_a_dataset_is_refused():
    with pytest.raises(ConfigError, match="datasets 4 and later run no code"):
        nbft.Config(data={"dataset_name": "a/b", "trust_remote_code": True})


def test_a_split_has_a_seed_of_its_own():
    def order(seed):
        split = {
            "seed": seed,
            "datasets": [
                {"rows": [{"text": f"{n}{k}"} for k in range(20)], "mixture_proportion": 0.5}
                for n in "ab"
            ],
        }
        config = nbft.Config(data={"train": split, "split_ratio": 1.0})
        return [one.completion for one in load_examples(config, "train")[0]]

    assert order(1) == order(1) != order(2)
    assert order(None) == order(nbft.Config().training.seed)


def test_rows_of_ernie_from_a_file(tmp_path):
    file = tmp_path / "sft-train.jsonl"
    file.write_text(json.dumps({"src": ["Hi"], "tgt": ["Hello"]}) + "\n", encoding="utf-8")
    config = nbft.Config(data={"path": str(file), "dataset_type": "erniekit", "split_ratio": 1.0})
    assert load_examples(config, "train")[0][0].messages[-1]["content"] == "Hello"


def test_tools_of_a_row_reach_its_conversation():
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    row = {"instruction": "Add.", "output": "5", "has": json.dumps(tools)}
    (one,) = examples([row], dataset_type="chat_completion", columns={"tools": "has"})
    assert [tool["function"]["name"] for tool in one.tools] == ["add"]
