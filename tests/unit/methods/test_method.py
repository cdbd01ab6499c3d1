"""A method is one file: what every record says, and that nobody else asks which method it is."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import nbft
from nbft import registry
from nbft.config import Config
from nbft.data.examples import load_examples
from nbft.data.formats import Example
from nbft.data.tokens import encode_rows, tokenise
from nbft.decisions import PARTS
from nbft.errors import DataError
from nbft.methods import Method, method_of
from nbft.methods.method import Kind

ROOT = Path(nbft.__file__).parent
NAMES = ("base", "cpo", "dpo", "grpo", "kto", "orpo", "reward", "rloo", "sft")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_a_method_and_says_what_it_needs(name):
    method = registry.trainers.get(name)
    assert isinstance(method, Method)
    assert method.title
    assert method.accepts <= {*get_args(Kind)}
    assert method.fast_parts <= {*PARTS, "shared_prompt"}
    assert method.section is None or method.section in Config.model_fields
    assert issubclass(method.arguments_class(), object)
    assert method.trainer_class().__name__ == method.trainer_name
    assert all(measure.name and measure.label and measure.chart for measure in method.measures)


def test_the_files_are_the_methods():
    files = {file.stem for file in (ROOT / "methods").glob("*.py")} - {"__init__", "method"}
    assert files == {*NAMES} == {*registry.trainers.keys()}


def test_the_records_load_no_heavy_library():
    code = (
        "import sys; from nbft import registry\n"
        "for name in registry.trainers: registry.trainers.get(name)\n"
        "print([m for m in ('torch', 'transformers', 'trl', 'peft', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ASKS = re.compile(
    r"""training\.method\b(?!`)\s*(==|!=|\bin\b|not in)|method\s*[=!]=\s*["'](sft|base|cpo|dpo|grpo|kto|orpo|reward|rloo)"""
)


def test_nobody_else_asks_which_method_it_is():
    """Only the tables of other systems translate the names of methods."""
    asking = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in ROOT.rglob("*.py")
        if "interop" not in file.relative_to(ROOT).parts
        for line in file.read_text(encoding="utf-8").splitlines()
        if ASKS.search(line)
    ]
    assert asking == []


class Pairs(Method):
    """Stands for a method that learns from two answers."""

    title = "two answers"
    accepts = frozenset({"preference"})
    sequences = ("chosen", "rejected")
    trainer = "transformers:Trainer"

    def texts(self, examples):
        return {
            "chosen": examples,
            "rejected": [Example(one.prompt, one.rejected) for one in examples],
        }


@pytest.fixture
def pairs(monkeypatch):
    method = Pairs()
    get = registry.trainers.get
    monkeypatch.setattr(registry.trainers, "get", lambda key: method if key == "sft" else get(key))
    return method


ROWS = [
    {"prompt": "Why?\n", "chosen": "Because it is so.", "rejected": "No."},
    {"prompt": "How?\n", "chosen": "Like this.", "rejected": "In no way that anybody knows of."},
]


def test_each_named_sequence_has_ids_and_a_loss_mask(pairs, tiny_tokenizer):
    config = Config(data={"rows": ROWS, "split_ratio": 1.0})
    examples, _ = load_examples(config, "train")
    rows = encode_rows(examples, tiny_tokenizer, pairs)
    assert [[*row] for row in rows] == [["chosen", "rejected"]] * 2
    for row, source in zip(rows, ROWS, strict=True):
        for name, one in row.items():
            answer = [i for i, on in zip(one.ids, one.loss_mask, strict=True) if on]
            assert tiny_tokenizer.decode(answer) == f"{source[name]}<|end|>"
            assert tiny_tokenizer.decode(one.ids[: one.prompt_tokens]) == source["prompt"]
    done = tokenise(examples, tiny_tokenizer, config)
    assert done.method.columns == [
        "chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels",
    ]  # fmt: skip
    assert {*pairs.columns} < {*done.dataset.column_names}
    assert done.tokens == sum(len(one.ids) for row in rows for one in row.values())
    assert done.trained_tokens == sum(sum(one.loss_mask) for row in rows for one in row.values())
    assert done.longest == max(len(one.ids) for row in rows for one in row.values())


def test_a_row_is_left_out_where_one_of_its_sequences_has_nothing_to_train_on(
    pairs, tiny_tokenizer
):
    rows = [*ROWS, {"prompt": "word " * 40, "chosen": "So.", "rejected": "No."}]
    config = Config(data={"rows": rows, "split_ratio": 1.0, "max_length": 16})
    done = tokenise(load_examples(config, "train")[0], tiny_tokenizer, config)
    assert (len(done), done.left_out) == (2, 1)


def test_the_plan_counts_every_sequence(pairs, tiny_model):
    base = {"model": {"model_name": str(tiny_model)}, "training": {"num_train_epochs": 1}}
    config = Config(**base, data={"rows": ROWS * 20, "split_ratio": 1.0})
    both = nbft.make_plan(config).tokens
    one = sum(len(row["prompt"] + row["chosen"]) for row in ROWS)
    two = one + sum(len(row["prompt"] + row["rejected"]) for row in ROWS)
    pairs.sequences = ("chosen",)
    pairs.texts = lambda examples: {"chosen": examples}
    alone = nbft.make_plan(config).tokens
    assert both / alone == pytest.approx(two / one, rel=0.25)


def test_rows_that_a_method_does_not_accept_are_refused_in_a_sentence(pairs):
    config = Config(data={"rows": [{"prompt": "a", "completion": "b"}] * 3})
    with pytest.raises(DataError) as caught:
        load_examples(config, "train")
    assert str(caught.value) == (
        "data.train.datasets[0]: the rows hold a prompt and a completion; two answers needs a "
        "chosen and a rejected answer. Use such rows, or another training.method such as sft."
    )
    assert caught.value.problems[0].changes == {"training.method": "sft"}


def test_bad_answers_are_left_out_unless_the_method_learns_from_them(monkeypatch):
    answer = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": answer, "label": n % 2 == 0} for n in range(4)]
    config = Config(data={"rows": rows, "split_ratio": 1.0})
    assert len(load_examples(config, "train")[0]) == 2
    monkeypatch.setattr(type(method_of(config)), "uses_labels", True)
    examples, said = load_examples(config, "train")
    assert [one.label for one in examples] == [True, False, True, False]
    assert said == []
