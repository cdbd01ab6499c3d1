"""The exported cell: it compiles, and its data part makes the examples that a run would make."""

import ast
import itertools
import json

import pytest

from nbft import registry
from nbft.config import Config, presets, settings
from nbft.config.preference import Preference
from nbft.data.examples import load_examples, stream_examples
from nbft.devices import Gpu
from nbft.hardware import Hardware, planning_for
from nbft.interop.absent import OF_NO_CONSEQUENCE, REASONS
from nbft.interop.python import to_python

ROWS = [{"q": f"Is {n}, {{so}}?", "a": None if n == 3 else n, "prompt": "p"} for n in range(12)]
PAIR = {"prompt_template": "Q: {'q'} {{1}}\n", "completion_template": "{a}!"}


def examples_of(config):
    """Run the cell's lines about data, and return its two lists of examples."""
    cell = data_of(config)
    return cell["train"], cell["held_out"]


def data_of(config):
    """Run the cell's lines about data, and return what they define."""
    text = config.to_python()
    lines, cell = text.splitlines(), {}
    wanted = [
        node
        for node in ast.parse(text).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and all(
            name.name
            in (
                *("csv", "itertools", "json", "numpy", "pandas", "re", "runpy", "xxhash"),
                "alpaca_prompt",
            )
            or getattr(node, "module", "") in ("collections.abc", "typing")
            or "tests" in str(getattr(node, "module", ""))
            for name in node.names
        )
    ]
    own = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
        and node.name in ("content_key", "is_held_out", "_text")
    ]
    loaded = next(n for n, line in enumerate(lines) if line.startswith("tokenizer = "))
    start = next(n for n, line in enumerate(lines) if n > loaded and line.startswith("def "))
    stop = next(n for n, line in enumerate(lines) if line.startswith("ADDS_AN_END"))
    seed = next(line for line in lines if line.startswith("SEED"))
    if any("Dataset" in line or "load_dataset" in line for line in lines[start:stop]):
        import datasets

        names = next(line for line in lines if line.startswith("from datasets import"))
        for name in names.removeprefix("from datasets import ").split(", "):
            cell[name] = getattr(datasets, name)
    source = "\n".join([*map(ast.unparse, [*wanted, *own]), seed, *lines[start:stop]])
    exec(compile(source, "cell", "exec"), cell)
    return cell


def expected(config):
    found = []
    for split in ("train", "validation"):
        examples = load_examples(config, split)[0]
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


def test_a_table_that_is_not_as_its_ending_promises(tmp_path):
    cells = "".join(f"{row['q']};{row['a']};;\n;;;\n" for row in ROWS).replace("?", "ü?")
    path = tmp_path / "rows.csv"
    path.write_bytes(f"sep=;\nq;a ;;\n{cells}".encode("cp1252"))
    config = Config(data={"path": str(path), **PAIR, "split_ratio": 0.7})
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
        {**PAIR, "dataset_type": "chat_completion"},
        {**PAIR, "dataset_type": "chat_completion", "system_template": "Be {prompt}."},
        {"prompt_template": "", "completion_template": "Q: {q} {a}"},
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
    assert "rows = []  # insert your rows here" in config.to_python()


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


def two_sets(tmp_path, proportions=(0.7, 0.3), **split):
    files = []
    for name, begin, rows in (("a", 0, 9), ("b", 100, 7)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(
            "\n".join(json.dumps({"q": n, "a": -n}) for n in range(begin, begin + rows))
        )
        files.append({"path": str(path), "prompt_template": "{q}", "completion_template": "{a}"})
    if proportions:
        for file, share in zip(files, proportions, strict=True):
            file["mixture_proportion"] = share
    return {"datasets": files, **split}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"mixture_strategy": "all_exhausted"},
        {"seed": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("ratio", [1.0, 0.8])
def test_mixtures(tmp_path, more, ratio):
    config = Config(data={"train": two_sets(tmp_path, **more), "split_ratio": ratio})
    assert examples_of(config) == expected(config)


@pytest.mark.parametrize("proportions", [None, (0.5, 0.5)], ids=str)
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("more", [{"shuffle_buffer_size": 3}, {"seed": 5}], ids=str)
def test_streams(tmp_path, proportions, shuffle, more):
    split = two_sets(tmp_path, proportions, stream=True, **more)
    split["datasets"][0]["sample_count"] = 6
    config = Config(data={"train": split, "shuffle": shuffle}, training={"max_steps": 2})
    ours = [(e.prompt, e.completion) for e in itertools.islice(stream_examples(config), 40)]
    cell, theirs = data_of(config), []
    for epoch in range(4):
        cell["stream"].set_epoch(epoch)
        theirs += [tuple(item["example"]) for item in cell["stream"]]
    assert theirs[:40] == ours
    assert cell["held_out"] == []


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_files_of_a_stream(tmp_path, ending):
    split = {"path": write_rows(tmp_path, ending), **PAIR, "stream": True}
    config = Config(data={"train": split}, training={"max_steps": 2})
    ours = [(e.prompt, e.completion) for e in itertools.islice(stream_examples(config), len(ROWS))]
    assert [tuple(item["example"]) for item in data_of(config)["stream"]] == ours


def test_a_stream_of_the_hub_is_not_read_first():
    config = Config(data={"dataset_name": "a/b", "train": {}}).apply(
        {"data.train.stream": True, "training.max_steps": 3, "data.train.datasets[0].split": "x"}
    )
    text = config.to_python()
    assert "    rows = load_dataset('a/b', split='x', streaming=True)\n" in text
    assert "eval_dataset=None" in text


def test_packing_brings_its_own_text_along():
    config = Config(data={"dataset_name": "alpaca", "packing": True, "packing_strategy": "greedy"})
    text = config.to_python()
    ast.parse(text)
    assert "train_rows = packed_dataset(train_rows, MAX_LENGTH, 'greedy')\n" in text
    assert text.startswith("from __future__ import annotations\n")
    assert "def bins(" not in Config(data={"dataset_name": "alpaca"}).to_python()


# Where any other value would be no value, and settings that act only beside others.
OTHER = {
    "callbacks.callbacks": {"printer": {}},
    "checkpoint.unified_checkpoint_config": ["ignore_merge_optimizer"],
    "compute.device": "cpu",
    "data.collate_fn": "own",
    **dict.fromkeys([f"data.{s}.datasets[].dataset_type" for s in ("train", "validation")], "text"),
    "data.train.datasets[].mixture_proportion": 1.0,
    "evaluation.metric_function": "nbft.evaluate.metrics:exact_match",
    "model.adapter_name_or_path": "somewhere",
    "model.chat_template": "chatml",
    "model.model_type": "own",
    "model.pad_token": "<pad>",
    "peft.loraplus_lr_ratio": 4.0,
    "precision.amp_custom_black_list": ["sum"],
    "precision.amp_custom_white_list": ["softmax"],
    "quantization.bnb_4bit_compute_dtype": "float16",
    "optimizer.optim": "sgd",
    "preference.loss_type": "hinge",
    "training.method": "base",
}
STREAM = {"data.train.stream": True, "training.max_steps": 3}
_TEMPLATES = {"prompt_template": "{x}", "completion_template": "{y}"}
BESIDE = {
    "data.padding_free": {"model.model_name": "a/b"},  # of a known one it is on by itself
    **{
        f"data.{split}.datasets[].no_input_template": {
            f"data.{split}.datasets[0].{name}": value for name, value in _TEMPLATES.items()
        }
        for split in ("train", "validation")
    },
    "data.length_column_name": {"data.train_sampling_strategy": "group_by_length"},
    "data.packing_strategy": {"data.packing": True},
    "model.dtype": {"peft.method": "full"},
    "data.train.datasets[].seed": {"data.train.datasets[0].shuffle": True},
    "data.train.datasets[].system_template": {
        "data.train.datasets[0].dataset_type": "chat_completion"
    },
    "data.train.datasets[].target_column": {"data.train.datasets[0].input_columns": ["x"]},
    "data.train.mixture_strategy": {"data.train.datasets[0].mixture_proportion": 1.0},
    "data.train.seed": {"data.train.datasets[0].mixture_proportion": 1.0},
    "data.train.shuffle_buffer_size": STREAM,
    "data.train.stream": {"training.max_steps": 3},
    "data.validation.datasets[].seed": {"data.validation.datasets[0].shuffle": True},
    "data.validation.datasets[].system_template": {
        "data.validation.datasets[0].dataset_type": "chat_completion"
    },
    "data.validation.datasets[].target_column": {
        "data.validation.datasets[0].input_columns": ["x"]
    },
    "data.split_ratio": {"data.validation": None},
    "memory.gradient_checkpointing_kwargs": {"memory.gradient_checkpointing": True},
    "model.dropout_warmup_steps": {"model.hidden_dropout": 0.1},
    "optimizer.sgd_momentum": {"optimizer.optim": "sgd"},
    **{f"preference.{name}": {"training.method": "dpo"} for name in Preference.model_fields},
    **{
        f"preference.{name}": {"training.method": "dpo", "preference.loss_type": loss}
        for name, loss in (("simpo_gamma", "simpo"), ("dpop_lambda", "dpop"))
    },
    **{f"preference.{name}desirable_weight": {"training.method": "kto"} for name in ("", "un")},
    "preference.center_rewards_coefficient": {"training.method": "reward"},
    "peft.feedforward_modules": {"peft.method": "ia3"},
    "peft.oft_block_size": {"peft.method": "oft"},
    "peft.eva_rho": {"peft.init_lora_weights": "eva"},
    **{
        f"peft.{name}": {"peft.method": "adalora"}
        for name in ("init_r", "tinit", "tfinal", "deltaT", "orth_reg_weight")
    },
    **{f"peft.{name}": {"peft.method": "vera"} for name in ("d_initial", "save_projection")},
    **{
        f"peft.{name}": {"peft.method": "prompt_tuning", "peft.prompt_tuning_init": "TEXT"}
        for name in ("num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text")
    },
    "scheduler.lr_end": {"scheduler.lr_scheduler_type": "polynomial"},
    "scheduler.power": {"scheduler.lr_scheduler_type": "polynomial"},
    "callbacks.early_stopping_threshold": {"callbacks.early_stopping_patience": 2},
    **{
        f"checkpoint.{name}": {
            "checkpoint.load_best_model_at_end": True,
            "checkpoint.save_strategy": "epoch",
        }
        for name in ("metric_for_best_model", "greater_is_better")
    },
    **{
        f"quantization.bnb_4bit_{name}": {"quantization.load_in_4bit": True}
        for name in ("quant_type", "use_double_quant", "quant_storage", "compute_dtype")
    },
}


def other_value(setting):
    if setting.path in OTHER:
        return OTHER[setting.path]
    if setting.choices:
        one = next(choice for choice in setting.choices if choice != setting.default)
        return [one] if setting.type is list else one
    numbers = (0.5, 0.25, 1.0) if setting.type is float else (3, 1, 16)
    tried = {
        bool: (not setting.default,),
        int: numbers,
        float: numbers,
        list: ([1] if setting.name == "layers_to_transform" else ["x"],),
        dict: ({"x": 1},) if setting.name.endswith("_pattern") else ({"x": "1"},),
        str: ("x",),
    }
    return next(
        value
        for value in tried[setting.type]
        if value != setting.default and (setting.type not in (int, float) or within(value, setting))
    )


def within(value, setting):
    return (
        (setting.ge is None or value >= setting.ge)
        and (setting.gt is None or value > setting.gt)
        and (setting.le is None or value <= setting.le)
        and (setting.lt is None or value < setting.lt)
    )


PATHS = [
    setting
    for setting in settings()
    # rows in memory have a test above
    if not setting.path.startswith(OF_NO_CONSEQUENCE) and setting.name != "rows"
]


@pytest.mark.parametrize("setting", PATHS, ids=lambda setting: setting.path)
def test_no_setting_is_left_out_of_the_cell_without_a_word(setting, empty_cache):
    gpu = Hardware("a GPU", 2**34, "cuda", (Gpu("NVIDIA L4", 2**34, (8, 9)),))
    registry.collators.register("own")(lambda tokenizer: list)
    registry.models.register("own")(type)
    try:
        one = {"datasets": [{"dataset_name": "a/b"}]}
        before = Config(data={"train": one, "validation": one})
        before = before.apply(BESIDE.get(setting.path, {}))
        path = setting.path.replace("[]", "[0]")
        value = other_value(setting)
        with planning_for(gpu):
            cell, usual = to_python(before.apply({path: value})), to_python(before)
    finally:
        registry.collators.unregister("own")
        registry.models.unregister("own")
    assert cell != usual
    if setting.path in REASONS or setting.section in REASONS:
        assert cell.left_out[path] == value


def test_what_is_left_out_is_listed_as_for_other_systems():
    config = Config(optimizer={"moment_dtype": "bfloat16"}, data={"dataset_name": "a/b"})
    cell = config.export("python")
    assert cell.left_out == {"optimizer.moment_dtype": "bfloat16"}
    assert cell.system == "python"
    assert cell.startswith(
        "# Ignored by this cell: optimizer.moment_dtype=bfloat16; a mechanism of"
    )
    assert Config(data={"dataset_name": "a/b"}).export("python").left_out == {}


def test_every_name_in_the_tables_of_what_is_left_out_is_a_setting():
    known = {s.path for s in settings()}
    blocks = {path.rpartition(".")[0] for path in known} | set(Config.model_fields)
    blocks |= {"data.test"}
    assert [n for n in (*REASONS, *OF_NO_CONSEQUENCE) if n not in known | blocks] == []


def test_what_of_the_data_the_cell_cannot_say(tmp_path):
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
    head = [line for line in cell.splitlines() if line.startswith("# Ignored by this cell")]
    assert [line.split(": ")[1].split("=")[0].split(";")[0] for line in head] == [
        "data.train.datasets[0].dataset_type",
        "data.collate_fn",
        "data.length_column_name",
    ]


def test_a_trainer_of_ones_own_is_transformers_trainer_in_the_cell():
    @registry.trainers.register("mine")
    class Mine:
        pass

    try:
        config = Config(training={"method": "mine"}, data={"dataset_name": "a/b"})
        cell = to_python(config)
    finally:
        registry.trainers.unregister("mine")
    assert "trainer = Trainer(" in cell
    assert "Mine" not in cell
    compile(cell, "cell", "exec")
    assert cell.left_out == {"training.method": "mine"}
