"""An imported file makes of a row the text and the loss mask that its own system makes of it.

The expected texts are written out by the rules of the other systems: what they train on stands in
square brackets.
"""

import copy
import json

import pytest

from nbft.data.examples import load_examples
from nbft.data.tokens import encode
from nbft.errors import DataError
from nbft.interop.importer import import_file
from nbft.models.templates import chosen_template


@pytest.fixture
def trained_on(tmp_path, tiny_tokenizer):
    """Return a function that imports a file and returns its first rows, the trained text in []."""

    def read(name, text, rows, ending="yaml", eos="<|end|>", more=()):
        (tmp_path / "rows.jsonl").write_text(
            "\n".join(json.dumps(row) for row in rows), encoding="utf-8"
        )
        for file, content in dict(more).items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(
                content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
            )
        path = tmp_path / f"config.{ending}"
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        config, report = import_file(path, name)
        for dataset in config.data.train.datasets:
            if dataset.path is None:
                dataset.path, dataset.dataset_name = str(tmp_path / "rows.jsonl"), None
        config.data.split_ratio = 1.0
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.add_special_tokens({"eos_token": eos})
        if template := chosen_template(config.model, tmp_path):
            tokenizer.chat_template = template
        examples, _ = load_examples(config, "train", folder=tmp_path)
        encoded = encode(examples, tokenizer, completion_only=config.data.completion_only_loss)
        read.report, read.config = report, config
        return [_marked(one, tokenizer) for one in encoded]

    return read


def _marked(encoded, tokenizer):
    """Write tokens as text, with [ ] around those that add to the loss."""
    text, on, ids = "", False, []
    for token, trained in [*zip(encoded.ids, encoded.loss_mask, strict=True), (None, None)]:
        if trained != on:
            part = tokenizer.decode(ids)
            text += f"[{part}]" if on else part
            ids, on = [], bool(trained)
        ids.append(token)
    return text


STANFORD = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nName a colour.\n\n### Response:\n"
)
STANFORD_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd.\n\n### Input:\n2 and 3\n\n### Response:\n"
)
ALPACA = [
    {"instruction": "Name a colour.", "input": "", "output": "Green."},
    {"instruction": "Add.", "input": "2 and 3", "output": "5"},
]
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "So long"},
]
SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
    for turn in TURNS
]
IM = "<|im_end|>"


def axolotl(kind, more=""):
    return f"base_model: a/b\n{more}datasets:\n  - path: rows.jsonl\n    type: {kind}\n"


# QEfficient


def test_the_prompt_function_of_qefficients_document(trained_on):
    """Source: docs/source/config.md, Prompt Function Example."""
    text = (
        "dataset: {json_file_path: rows.jsonl, completion_template: '{output}', "
        "prompt_func: 'QEfficient.finetune.experimental.preprocessing.alpaca_func:"
        "create_alpaca_prompt'}"
    )
    assert trained_on("qefficient", text, ALPACA) == [
        STANFORD + "[Green.<|end|>]",
        STANFORD_WITH_INPUT + "[5<|end|>]",
    ]
    assert trained_on.config.data.train.datasets[0].prompt_func == (
        "nbft.data.ready:create_alpaca_prompt"
    )


# Axolotl


def test_alpaca_of_axolotl(trained_on):
    assert trained_on("axolotl", axolotl("alpaca"), ALPACA) == [
        STANFORD + "[Green.<|end|>]",
        STANFORD_WITH_INPUT + "[5<|end|>]",
    ]
    assert trained_on("axolotl", axolotl("alpaca", "train_on_inputs: true\n"), ALPACA)[0] == (
        f"[{STANFORD}Green.<|end|>]"
    )
    without = [{"instruction": "Name a colour.", "output": "Green."}]
    assert trained_on("axolotl", axolotl("alpaca"), without) == [STANFORD + "[Green.<|end|>]"]


STANFORD_SENTENCE = STANFORD.partition("\n")[0]


@pytest.mark.parametrize(
    ("kind", "prompts"),
    [
        (
            "alpaca:chat",
            (
                f"SYSTEM: {STANFORD_SENTENCE}\nUSER: Name a colour.\nASSISTANT:",
                (
                    f"SYSTEM: {STANFORD_WITH_INPUT.partition(chr(10))[0]}\nUSER: Add.\n2 and 3\n"
                    "ASSISTANT:"
                ),
            ),
        ),
        (
            "alpaca_instruct.load_no_prompt",
            (
                "### Instruction:\nName a colour.\n\n### Response:\n",
                "### Instruction:\nAdd.\n\n### Input:\n2 and 3\n\n### Response:\n",
            ),
        ),
        (
            "alpaca_chat.load_no_prompt",
            ("USER: Name a colour.\nASSISTANT:", "USER: Add.\n2 and 3\nASSISTANT:"),
        ),
        (
            "alpaca:phi",
            (
                (
                    f"<|system|>\n{STANFORD_SENTENCE}<|end|>\n<|user|>\nName a colour.<|end|>\n"
                    "<|assistant|>\n"
                ),
                (
                    f"<|system|>\n{STANFORD_WITH_INPUT.partition(chr(10))[0]}<|end|>\n<|user|>\nAdd."
                    "<|end|>2 and 3<|assistant|>"
                ),
            ),
        ),
    ],
)
def test_the_styles_of_axolotl(trained_on, kind, prompts):
    found = trained_on("axolotl", axolotl(kind), ALPACA)
    assert found == [f"{prompts[0]}[Green.<|end|>]", f"{prompts[1]}[5<|end|>]"]


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        (
            "alpaca_w_system.load_instruct",
            {"instruction": "Add.", "output": "5", "system": "Count."},
            "Count.\n\n### Instruction:\nAdd.\n\n### Response:\n[5<|end|>]",
        ),
        (
            "alpaca_w_system.load_chat",
            {"instruction": "Add.", "input": "x", "output": "5", "system": ""},
            "USER: Add.\nx\nASSISTANT:[5<|end|>]",
        ),
        (
            "alpaca_w_system.load_open_orca",
            {"question": "Why?", "response": "So.", "system_prompt": "Be short."},
            "### System:\nBe short.\n### Human:\nWhy?\n### Assistant:\n[So.<|end|>]",
        ),
        (
            "alpaca_chat.load_qa",
            {"question": "Why?", "answer": "So."},
            (
                "SYSTEM: Below is an instruction from a USER that describes a task. The ASSISTANT writes "
                "a response that appropriately and concisely completes the request.\n\n\n"
                "USER: Why?\nASSISTANT:[So.<|end|>]"
            ),
        ),
        (
            "jeopardy",
            {"question": "It is round", "category": "Shapes", "answer": "a ball"},
            STANFORD_WITH_INPUT.replace("Add.", "It is round").replace("2 and 3", "Shapes")
            + "[what is a ball<|end|>]",
        ),
        (
            "gpteacher",
            {"instruction": "Name a colour.", "input": "", "response": "Green."},
            STANFORD + "[Green.<|end|>]",
        ),
        (
            "oasst",
            {"INSTRUCTION": "Name a colour.", "RESPONSE": "Green."},
            STANFORD + "[Green.<|end|>]",
        ),
        (
            "summarizetldr",
            {"article": "Long.", "summary": "Short."},
            "USER: Summarize the following article as a TL;DR.\nLong.\nASSISTANT:[Short.<|end|>]",
        ),
        (
            "input_output",
            {"segments": [{"label": False, "text": "Q: x\n"}, {"label": True, "text": "A: y"}]},
            "Q: x\n[A: y<|end|>]",
        ),
    ],
    ids=str,
)
def test_other_prompts_of_axolotl(trained_on, kind, row, expected):
    assert trained_on("axolotl", axolotl(kind), [row]) == [expected]


def test_segments_that_alternate_are_refused_with_a_way_out(trained_on):
    segments = [{"label": n % 2 == 1, "text": "x"} for n in range(4)]
    with pytest.raises(DataError, match="text that is not trained on after text that is"):
        trained_on("axolotl", axolotl("input_output"), [{"segments": segments}])


BLOCK = """base_model: a/b
datasets:
  - path: rows.jsonl
    type:
      system_prompt: Be kind.
      field_instruction: ask
      field_input: given
      field_output: reply
      field_system: sys
      system_format: "<<{system}>> "
      format: "[ASK] {instruction} ({input}) [REPLY]"
      no_input_format: "[ASK] {instruction} [REPLY]"
"""


def test_a_prompt_of_axolotl_that_is_written_out(trained_on):
    rows = [
        {"ask": "Why?", "given": "rain", "reply": "So.", "sys": ""},
        {"ask": "Why?", "given": "", "reply": "So.", "sys": "Be wet."},
    ]
    assert trained_on("axolotl", BLOCK, rows) == [
        "<<Be kind.>> [ASK] Why? (rain) [REPLY][So.<|end|>]",
        "<<Be wet.>> [ASK] Why? [REPLY][So.<|end|>]",
    ]


def test_a_format_of_axolotl_that_names_no_input(trained_on):
    text = axolotl("").rstrip() + '\n      format: "[ASK] {instruction} [REPLY]"\n'
    rows = [{"instruction": "Why?", "output": "So."}]
    assert trained_on("axolotl", text, rows) == ["[ASK] Why? [REPLY][So.<|end|>]"]
    (line,) = [one for one in trained_on.report if one.key == "datasets[0].type"]
    assert line.kind == "deviates"
    assert "'{instruction} '" in line.note  # what Axolotl itself would write
    text = axolotl("").rstrip() + '\n      format: "{instruction}/{input}="\n'
    rows = [*rows, {"instruction": "Why?", "input": "rain", "output": "So."}]
    assert trained_on("axolotl", text, rows) == ["Why? [So.<|end|>]", "Why?/rain=[So.<|end|>]"]


CHATML = (
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]\n"
    "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[So long<|im_end|>]\n"
)


@pytest.mark.parametrize(
    ("more", "row"),
    [
        ("", {"messages": TURNS}),
        ("    field_messages: talk\n", {"talk": TURNS}),
        (
            (
                "    field_messages: conversations\n    message_property_mappings: {role: from, "
                "content: value}\n"
            ),
            {"conversations": SHAREGPT},
        ),
        (
            (
                "    field_messages: talk\n    message_property_mappings: {role: who, content: says}\n"
                "    roles: {user: [person], assistant: [helper]}\n"
            ),
            {
                "talk": [
                    {"who": {"user": "person"}.get(t["role"], "helper"), "says": t["content"]}
                    for t in TURNS
                ]
            },
        ),
    ],
)
@pytest.mark.parametrize("kind", ["chat_template", "chat_template.default"])
def test_chats_of_axolotl(trained_on, kind, more, row):
    text = axolotl(kind, "chat_template: chatml\n") + more
    assert trained_on("axolotl", text, [row], eos=IM) == [CHATML]
    row = {**row, "system": "Be kind."}
    system = "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert trained_on("axolotl", text, [row], eos=IM) == [system + CHATML]


def test_the_roles_that_axolotl_trains_on(trained_on):
    text = axolotl("chat_template", "chat_template: chatml\n")
    rows = [{"messages": TURNS}]
    assert trained_on("axolotl", text + "    roles_to_train: [assistant]\n", rows, eos=IM) == [
        CHATML
    ]
    everyone = text + "    roles_to_train: [user, assistant]\n"
    whole = CHATML.replace("[", "").replace("]", "")
    assert trained_on("axolotl", everyone, rows, eos=IM) == [f"[{whole}]"]
    (line,) = [one for one in trained_on.report if one.key.endswith("roles_to_train")]
    assert line.kind == "deviates"
    trained_on("axolotl", text + "    roles_to_train: [user]\n", rows, eos=IM)
    assert [one.key for one in trained_on.report.dropped] == ["datasets[0].roles_to_train"]
    trained_on("axolotl", text + "    train_on_eos: all\n", rows, eos=IM)
    assert any(one.key.endswith("train_on_eos") for one in trained_on.report.of_kind("deviates"))


def test_plain_text_of_axolotl(trained_on):
    rows = [{"body": "It rains."}]
    assert trained_on("axolotl", axolotl("completion") + "    field: body\n", rows) == [
        "[It rains.<|end|>]"
    ]
    assert trained_on.config.data.packing_strategy == "wrapped"
    text = (
        "base_model: a/b\nmax_steps: 5\npretraining_dataset:\n  - path: rows.jsonl\n"
        "    type: pretrain\n    text_column: body\n"
    )
    assert trained_on("axolotl", text, rows) == ["[It rains.<|end|>]"]
    config = trained_on.config
    assert (config.data.packing, config.data.train.stream, config.training.method) == (
        *(True, True),
        "sft",
    )


# LLaMA-Factory

LF = "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\ndataset: {}\ntemplate: {}\n"


GARDEN = {
    "ask": "And in winter?",
    "more": "",
    "reply": "Straw.",
    "sys": "You garden.",
    "old": [["In summer?", "Water."]],
}
COLUMNS = {"prompt": "ask", "query": "more", "response": "reply", "system": "sys", "history": "old"}


def test_instructions_of_llama_factory_are_turns(trained_on):
    about = {"file_name": "rows.json", "columns": COLUMNS}
    rows = [GARDEN, {**GARDEN, "more": "In snow?", "sys": "", "old": []}]
    files = {"data/dataset_info.json": {"mine": about}, "data/rows.json": rows}
    text = LF.format("mine", "qwen3_nothink")
    assert trained_on("llama_factory", text, rows, eos=IM, more=files) == [
        (
            "<|im_start|>system\nYou garden.<|im_end|>\n"
            "<|im_start|>user\nIn summer?<|im_end|>\n<|im_start|>assistant\n[Water.<|im_end|>]\n"
            "<|im_start|>user\nAnd in winter?<|im_end|>\n<|im_start|>assistant\n[Straw.<|im_end|>]\n"
        ),
        (
            "<|im_start|>user\nAnd in winter?\nIn snow?<|im_end|>\n"
            "<|im_start|>assistant\n[Straw.<|im_end|>]\n"
        ),
    ]
    masked = trained_on("llama_factory", text + "mask_history: true\n", rows, eos=IM, more=files)
    assert "assistant\nWater.<|im_end|>" in masked[0]
    assert masked[0].endswith("[Straw.<|im_end|>]\n")
    whole = trained_on("llama_factory", text + "train_on_prompt: true\n", rows, eos=IM, more=files)
    assert whole[0].startswith("[<|im_start|>system\nYou garden.")
    assert whole[0].count("[") == 1


def test_columns_of_llama_factory_that_it_is_not_told_of(trained_on):
    """Only the columns that dataset_info.json names are read, or the three usual ones."""
    rows = [{"q": "Why?", "a": "So.", "input": "unread", "system": "unread", "history": []}]
    about = {"file_name": "rows.json", "columns": {"prompt": "q", "response": "a"}}
    files = {"data/dataset_info.json": {"mine": about}, "data/rows.json": rows}
    expected = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n[So.<|im_end|>]\n"
    text = LF.format("mine", "chatml")
    assert trained_on("llama_factory", text, rows, eos=IM, more=files) == [expected]
    rows = [{"instruction": "Why?", "input": "rain", "output": "So.", "system": "unread"}]
    files = {"data/dataset_info.json": {"mine": {"file_name": "rows.json"}}, "data/rows.json": rows}
    assert trained_on("llama_factory", text, rows, eos=IM, more=files) == [
        expected.replace("Why?", "Why?\nrain")
    ]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("chatml", "{user}<|im_start|>assistant\n[So.<|im_end|>]\n"),
        (
            "qwen",
            (
                "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
                "<|im_end|>\n{user}<|im_start|>assistant\n[So.<|im_end|>]\n"
            ),
        ),
        (
            "qwen3",
            "{user}<|im_start|>assistant\n[<think>\n\n</think>\n\nSo.<|im_end|>]\n",
        ),
        (
            "qwen3\nenable_thinking: false",
            "{user}<|im_start|>assistant\n<think>\n\n</think>\n\n[So.<|im_end|>]\n",
        ),
        (
            "chatml\ndefault_system: Be kind.",
            "<|im_start|>system\nBe kind.<|im_end|>\n{user}<|im_start|>assistant\n[So.<|im_end|>]\n",
        ),
        (
            "alpaca",
            (
                "Below is an instruction that describes a task. Write a response that appropriately "
                "completes the request.\n\n### Instruction:\nWhy?\n\n### Response:\n"
                "[So.<|im_end|>]\n\n"
            ),
        ),
        (
            "vicuna",
            (
                "A chat between a curious user and an artificial intelligence assistant. The assistant "
                "gives helpful, detailed, and polite answers to the user's questions."
                "USER: Why? ASSISTANT:[So.<|im_end|>]"
            ),
        ),
        ("mistral", "[INST] Why?[/INST][ So.<|im_end|>]"),
    ],
)
def test_templates_of_llama_factory(trained_on, template, expected):
    rows = [{"instruction": "Why?", "input": "", "output": "So."}]
    files = {"data/dataset_info.json": {"mine": {"file_name": "rows.json"}}, "data/rows.json": rows}
    found = trained_on("llama_factory", LF.format("mine", template), rows, eos=IM, more=files)
    assert found == [expected.format(user="<|im_start|>user\nWhy?<|im_end|>\n")]


def test_conversations_of_llama_factory(trained_on):
    rows = [{"talk": [{"who": "person", "says": "Hi"}, {"who": "helper", "says": "Hello"}]}]
    about = {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk"},
        "tags": {
            "role_tag": "who",
            "content_tag": "says",
            "user_tag": "person",
            "assistant_tag": "helper",
        },
    }
    files = {"data/dataset_info.json": {"mine": about}, "data/rows.json": rows}
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]\n"
    text = LF.format("mine", "chatml")
    assert trained_on("llama_factory", text, rows, eos=IM, more=files) == [expected]
    rows = [{"conversations": SHAREGPT, "system": "Be kind."}]
    about = {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system"},
    }
    files = {"data/dataset_info.json": {"mine": about}, "data/rows.json": rows}
    assert trained_on("llama_factory", text, rows, eos=IM, more=files) == [
        "<|im_start|>system\nBe kind.<|im_end|>\n" + CHATML
    ]


def test_plain_text_of_llama_factory(trained_on):
    rows = [{"text": "It rains."}]
    about = {"file_name": "rows.json", "columns": {"prompt": "text"}}
    files = {"data/dataset_info.json": {"mine": about}, "data/rows.json": rows}
    text = "model_name_or_path: a/b\nstage: pt\ndataset: mine\n"
    assert trained_on("llama_factory", text, rows, more=files) == ["[It rains.<|end|>]"]
    assert trained_on.config.data.packing_strategy == "wrapped"
    assert trained_on.config.data.packing
    trained_on("llama_factory", text + "packing: false\n", rows, more=files)
    assert not trained_on.config.data.packing


# Oumi

OUMI = "model: {{model_name: a/b, chat_template: chat_ml}}\ndata: {{train: {{{}}}}}\n"


def test_alpaca_of_oumi_is_a_conversation(trained_on):
    sets = "datasets: [{dataset_name: yahma/alpaca-cleaned}]"
    first, second = trained_on("oumi", OUMI.format(sets), ALPACA, eos=IM)
    assert first == (
        f"[<|im_start|>system\n{STANFORD_SENTENCE}<|im_end|>\n"
        "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\nGreen.<|im_end|>\n]"
    )
    assert "<|im_start|>user\nAdd.\n\n### Input:\n2 and 3<|im_end|>\n" in second
    assert "paired with an input" in second
    only = sets + ", collator_name: text_completions_only_with_padding"
    assert trained_on("oumi", OUMI.format(only), ALPACA, eos=IM)[0].endswith(
        "<|im_start|>assistant\n[Green.<|im_end|>]\n"
    )
    without = sets.replace("cleaned}", "cleaned, dataset_kwargs: {include_system_prompt: false}}")
    assert trained_on("oumi", OUMI.format(without), ALPACA, eos=IM) == [
        "[<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\nGreen.<|im_end|>\n]",
        (
            "[<|im_start|>user\nAdd.\n\n### Input:\n2 and 3<|im_end|>\n"
            "<|im_start|>assistant\n5<|im_end|>\n]"
        ),
    ]


@pytest.mark.parametrize(
    ("dataset", "row", "expected"),
    [
        (
            "{dataset_name: text_sft, dataset_path: rows.jsonl}",
            ALPACA[1],
            "user\nAdd.\n\n2 and 3|assistant\n5",
        ),
        (
            "{dataset_name: text_sft_jsonl, dataset_path: rows.jsonl}",
            {"messages": TURNS[:2]},
            "user\nHi|assistant\nHello",
        ),
        (
            (
                "{dataset_name: PromptResponseDataset, dataset_kwargs: {hf_dataset_path: c/d, "
                "prompt_column: q, response_column: a}}"
            ),
            {"q": "Why?", "a": "So."},
            "user\nWhy?|assistant\nSo.",
        ),
        (
            (
                "{dataset_name: HuggingFaceDataset, dataset_kwargs: {hf_dataset_path: c/d, "
                "messages_column: talk}}"
            ),
            {"talk": TURNS[:2]},
            "user\nHi|assistant\nHello",
        ),
        (
            "{dataset_name: CohereForAI/aya_dataset}",
            {"inputs": "Why?", "targets": "So."},
            "user\nWhy?|assistant\nSo.",
        ),
        (
            "{dataset_name: allenai/WildChat-1M}",
            {"conversation": TURNS[:2]},
            "user\nHi|assistant\nHello",
        ),
    ],
    ids=str,
)
def test_readers_of_oumi(trained_on, dataset, row, expected):
    turns = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in expected.split("|"))
    text = OUMI.format(f"datasets: [{dataset}]")
    assert trained_on("oumi", text, [row], eos=IM) == [f"[{turns}]"]
    assert not trained_on.report.dropped


def test_which_answers_of_oumi_are_trained_on(trained_on):
    sets = (
        "datasets: [{dataset_name: HuggingFaceH4/ultrachat_200k}], "
        "collator_name: text_completions_only_with_padding"
    )
    rows = [{"messages": TURNS}]
    assert trained_on("oumi", OUMI.format(sets), rows, eos=IM) == [CHATML]
    final = sets + ", train_target: final_assistant_turn"
    (text,) = trained_on("oumi", OUMI.format(final), rows, eos=IM)
    assert text.count("[") == 1
    assert text.endswith("[So long<|im_end|>]\n")


def test_plain_text_of_oumi(trained_on):
    text = (
        "data: {train: {datasets: [{dataset_name: HuggingFaceFW/fineweb-edu, "
        "dataset_kwargs: {seq_length: 128}}], stream: true}}\n"
        "training: {trainer_type: OUMI, max_steps: 3}\n"
    )
    assert trained_on("oumi", text, [{"text": "It rains."}]) == ["[It rains.<|end|>]"]
    data = trained_on.config.data
    assert (data.packing, data.packing_strategy, data.max_length) == (True, "wrapped", 128)


# ERNIEKit


def test_rows_of_erniekit(trained_on):
    text = (
        "model_name_or_path: a/b\ntrain_dataset_path: rows.jsonl\ntrain_dataset_type: {}\n"
        "fine_tuning: LoRA\n"
    )
    turn = "<|start|>{}\n{}<|end|>\n"
    asked, said = turn.format("user", "Add.2 and 3"), "<|start|>assistant\n[5<|end|>]\n"
    rows = [{**ALPACA[1], "system": "Count."}]
    assert trained_on("erniekit", text.format("alpaca"), rows) == [
        turn.format("system", "Count.") + asked + said
    ]
    rows = [{"messages": TURNS[:2]}]
    assert trained_on("erniekit", text.format("chatml"), rows) == [
        turn.format("user", "Hi") + "<|start|>assistant\n[Hello<|end|>]\n"
    ]
    rows = [{"src": ["Hi", "Bye"], "tgt": ["Hello", "So long"], "label": [0, 1]}]
    assert trained_on("erniekit", text.format("erniekit"), rows) == [
        turn.format("user", "Hi")
        + turn.format("assistant", "Hello")
        + turn.format("user", "Bye")
        + "<|start|>assistant\n[So long<|end|>]\n"
    ]
    rows = [{"text": ["It rains. ", "It pours."]}]
    assert trained_on("erniekit", text.format("erniekit") + "stage: PT\n", rows) == [
        "[It rains. It pours.<|end|>]"
    ]
