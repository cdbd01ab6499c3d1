"""The exported cell: it compiles, and its data part makes the examples that a run would make."""

import ast
import json

import numpy as np
import pytest

from nbft.config import Config, presets
from nbft.data.examples import load_examples
from nbft.interop.python import to_python

ROWS = [{"q": f"Is {n}, {{so}}?", "a": None if n == 3 else n, "prompt": "p"} for n in range(12)]
PAIR = {"prompt_template": "Q: {'q'} {{1}}\n", "completion_template": "{a}!"}


def examples_of(config):
    """Run the cell's lines about data, and return its two lists of examples."""
    text = config.to_python()
    lines, cell = text.splitlines(), {}
    wanted = [
        node
        for node in ast.parse(text).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and all(
            name.name in ("csv", "json", "numpy", "runpy", "alpaca_prompt")
            or "tests" in str(getattr(node, "module", ""))
            for name in node.names
        )
    ]
    start = next(n for n, line in enumerate(lines) if line.startswith("def ") and "(" in line)
    stop = next(n for n, line in enumerate(lines) if line.startswith("ADDS_AN_END"))
    seed = next(line for line in lines if line.startswith("SEED"))
    if any("load_dataset(" in line and not line.startswith("#") for line in lines[start:stop]):
        from datasets import load_dataset

        cell["load_dataset"] = load_dataset
    source = "\n".join([*map(ast.unparse, wanted), seed, *lines[start:stop]])
    exec(compile(source, "cell", "exec"), cell)
    return cell["train"], cell["held_out"]


def expected(config):
    found = []
    for split in ("train", "validation"):
        examples = load_examples(config, split)[0]
        if split == "train" and config.data.shuffle:
            order = np.random.default_rng(config.training.seed).permutation(len(examples))
            examples = [examples[n] for n in order]
        found.append(
            [
                [dict(m) for m in e.messages] if e.messages else (e.prompt, e.completion)
                for e in examples
            ]
        )
    return tuple(found)


@pytest.mark.parametrize("name", presets())
@pytest.mark.parametrize("method", ["sft", "base"])
@pytest.mark.parametrize("peft", ["lora", "full"])
def test_every_preset_compiles(name, method, peft):
    config = Config.preset(name).apply({"training.method": method, "peft.method": peft})
    ast.parse(to_python(config))


@pytest.mark.parametrize("name", ["alpaca", "samsum", "gsm8k", "grammar"])
def test_the_bundled_samples(name):
    config = Config(data={"dataset_name": name, "sample_count": 20, "shuffle": True})
    assert examples_of(config) == expected(config)


def write_rows(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        import datasets

        datasets.Dataset.from_list(ROWS).to_parquet(path)
    elif ending == "json":
        path.write_text(json.dumps(ROWS))
    elif ending in ("csv", "tsv"):
        mark = "," if ending == "csv" else "\t"
        rows = [[f'"{row["q"]}"', f"0{row['a']}", "2020-01-01"] for row in ROWS]
        path.write_text("\n".join(mark.join(row) for row in [["q", "a", "prompt"], *rows]))
    else:
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return str(path)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_files(tmp_path, ending):
    config = Config(data={"path": write_rows(tmp_path, ending), **PAIR, "split_ratio": 0.7})
    assert examples_of(config) == expected(config)


def test_lines_under_the_ending_of_an_array(tmp_path):
    (tmp_path / "rows.json").write_text("\n".join(json.dumps(row) for row in ROWS))
    config = Config(data={"path": str(tmp_path / "rows.json"), **PAIR})
    assert examples_of(config) == expected(config)


@pytest.mark.parametrize(
    "dataset",
    [
        {"columns": {"prompt": "q", "completion": "a"}},
        {**PAIR, "sample_count": 5, "shuffle": True, "seed": 3},
        {"columns": {"text": "q"}},
    ],
    ids=str,
)
def test_columns_counts_and_shuffles(tmp_path, dataset):
    config = Config(data={"train": {"path": write_rows(tmp_path, "jsonl"), **dataset}})
    assert examples_of(config) == expected(config)


def test_rows_in_the_order_of_the_file_and_rows_for_validation(tmp_path):
    path = write_rows(tmp_path, "jsonl")
    config = Config(
        data={
            "train": {"path": path, **PAIR},
            "validation": {"path": path, **PAIR, "sample_count": 2},
            "shuffle": False,
        }
    )
    assert examples_of(config) == expected(config)


def test_functions(tmp_path):
    (tmp_path / "mine.py").write_text("def twice(row):\n    return str(row['q']) * 2\n")
    for written in (f"{tmp_path}/mine.py:twice", f"{tmp_path}/mine:twice"):
        config = Config(
            data={
                "path": write_rows(tmp_path, "jsonl"),
                "prompt_func": written,
                "completion_template": "{a}",
            }
        )
        assert examples_of(config) == expected(config)
    config = config.apply({"data.train.datasets[0].prompt_func": "package.module:f"})
    assert "\nfrom package.module import f\n" in config.to_python()


def test_messages(tmp_path):
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps({"messages": turns})] * 3))
    config = Config(data={"path": str(tmp_path / "a.jsonl"), "split_ratio": 0.5})
    assert examples_of(config) == expected(config)
    assert "def of_messages(" in config.to_python()


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
        {
            "conversations": [{"from": "human", "value": "u"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {"prompt": "u", "chosen": "a", "rejected": "b"},
        {
            "prompt": "u",
            "chosen": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
            "rejected": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "b"}],
        },
        {
            "messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
            "label": True,
        },
        {
            "prompt": [{"role": "user", "content": "u"}],
            "completion": [{"role": "assistant", "content": "a"}],
        },
        {"instruction": "i", "context": "c", "response": "r"},
        {"instruction": "i", "input": "c", "output": "r"},
        {"query": "q", "response": "r"},
        {"article": "t", "highlights": "h"},
        {"input": "q", "target": "r"},
    ],
    ids="-".join,
)
def test_formats_that_are_recognised(tmp_path, row):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for _ in range(4)))
    config = Config(data={"path": str(tmp_path / "a.jsonl"), "split_ratio": 0.5})
    assert examples_of(config) == expected(config)


def test_rows_in_memory_have_to_be_put_there():
    config = Config(data={"rows": ROWS, **PAIR})
    assert "rows = []  # put your rows here" in config.to_python()


def test_settings_of_the_model_reach_the_cell(tiny_model):
    config = Config(
        model={
            "model_name": "owner/name",
            "model_revision": "v1",
            "trust_remote_code": True,
            "attn_implementation": "eager",
            "tokenizer_name": "owner/other",
            "pad_token": "<pad>",
            "dtype": "float32",
            "model_init_kwargs": {"use_cache": False},
        },
        data={"dataset_name": "alpaca", "split_ratio": 1, "pad_to_multiple_of": 8},
        training={"method": "base"},
        callbacks={"early_stopping_patience": 2},
    )
    text = config.to_python()
    for words in (
        "AutoTokenizer.from_pretrained('owner/other', trust_remote_code=True)",
        (
            "AutoModelForCausalLM.from_pretrained(MODEL, revision='v1', trust_remote_code=True, "
            "dtype=torch.float32, use_cache=False, attn_implementation='eager')"
        ),
        "tokenizer.pad_token = '<pad>'",
        "EarlyStoppingCallback(2, 0.0)",
        "pad_to_multiple_of=8",
        "eval_strategy='no'",
        "model = get_peft_model(model, adapter)",
    ):
        assert words in text
    ast.parse(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"input_columns": ["q", "a"]},
        {"input_columns": ["q"], "target_column": "a"},
        {"dataset_type": "prompt_completion", "columns": {"prompt": "q", "completion": "a"}},
        {"dataset_type": "text", "columns": {"text": "q"}},
    ],
    ids=str,
)
def test_rows_that_are_read_by_name_or_by_columns(tmp_path, settings):
    config = Config(data={"path": write_rows(tmp_path, "jsonl"), **settings})
    assert examples_of(config) == expected(config)


def test_what_of_the_data_the_cell_cannot_say(tmp_path):
    from nbft import registry

    registry.collators.register("own")(lambda tokenizer: list)
    try:
        data = {
            "path": write_rows(tmp_path, "jsonl"),
            "dataset_type": "erniekit",
            "collate_fn": "own",
            "length_column_name": "labels",
        }
        cell = to_python(Config(data=data))
    finally:
        registry.collators.unregister("own")
    head = [line for line in cell.splitlines() if line.startswith("# Not in this cell")]
    assert [line.split(": ")[1].split("=")[0].split(";")[0] for line in head] == [
        "data.train.datasets[0].dataset_type",
        "data.collate_fn",
        "data.length_column_name",
    ]
