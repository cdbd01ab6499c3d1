"""Other systems' files as plain data: what their loaders read, and what no config holds."""

import json
import time

import pytest

from nbft.errors import ConfigError
from nbft.interop.read import Code, read_document


@pytest.fixture
def read(tmp_path):
    def reading(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read_document(path)

    return reading


def test_yaml_is_read_as_version_1_1(read):
    tree = read("a.yaml", "lr: 5e-5\nother: 5.0e-5\nsave: no\nfirst: yes\nnone: null\n").tree
    assert tree == {"lr": "5e-5", "other": 5e-5, "save": False, "first": True, "none": None}


def test_every_key_has_its_line(read):
    found = read("a.yaml", "a:\n  b: 1\n  c: [{d: 2},\n      {d: 3}]\n")
    assert found.lines["a.b"] == 2
    assert found.lines["a.c[1].d"] == 4


def test_a_key_that_stands_twice_is_said_and_the_last_counts(read):
    found = read("a.yaml", "a: 1\nb: 2\na: 3\n")
    assert found.tree == {"a": 3, "b": 2}
    assert found.remarks == [
        "a appears twice (lines 1 and 3); the last one counts, as in their loader."
    ]


def test_merged_blocks_and_aliases(read):
    assert read("a.yaml", "a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\n").tree["b"] == {"y": 2, "x": 1}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)
REFUSED = {
    "bomb.yaml": (BOMB, "expands to more than 20,000 values"),
    "object.yaml": (
        "a: !!python/object/apply:os.system [ls]",
        "the tag !!python/object/apply:os.s",
    ),
    "own.yaml": ("a: !mine 1", "the tag !mine constructs objects"),
    "itself.yaml": ("a: &a [*a]", r"\*a contains itself"),
    "mapping.yaml": ("a: &a {b: *a}", r"\*a contains itself"),
    "deep.yaml": ("[" * 100_000, "nested deeper than 40 levels"),
    "deeper.yaml": ("- " * 100_000, "nested deeper than 40 levels"),
    "deep.json": ("[" * 100_000, "nested too deeply"),
    "bell.yaml": ("a: 1\nb: \a", r"line 2, column 4: YAML allows no character U\+0007"),
    "quote.sh": ("oumi train -c 'a.yaml", "line 1: has an unclosed quotation mark"),
    "half.json": ('{"a": ' * 50 + "1" + "}" * 50, "nested deeper than 40 levels"),
    "large.yaml": ("a: 1\n" * 10_000_000, r"50\.0 MB is too large for a config"),
    "twice.yaml": ("a: 1\n---\nb: 2\n", "several documents"),
    "no.yaml": ("a: [1", r"line 1, column 6: is not valid YAML \("),
    "tab.yaml": ("a:\n\tb: 1", r"line 2, column 1: is not valid YAML \("),
    "list.yaml": ("- 1\n- 2", "has no keys"),
    "empty.yaml": ("", "is empty"),
    "no.json": ('{"a": }', r"line 1, column 7: is not valid JSON \("),
    "no.py": ("x = = 1", r"line 1, column 5: is not valid Python \("),
    "no.ipynb": ("{}", "is not a notebook"),
    "int.yaml": ("a: !!int x", r"line 1, column 4: 'x' is not a valid int\.$"),
    "digits.yaml": ("a: " + "9" * 5000, r"is not a valid int\.$"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_quickly(read, tmp_path, name):
    text, words = REFUSED[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(ConfigError, match=words):
        read_document(tmp_path / name)
    assert time.monotonic() - began < 20  # it would take minutes


def test_files_that_cannot_be_read(tmp_path):
    for name, words in (("missing.yaml", "no such file"), (".", "is a folder")):
        with pytest.raises(ConfigError, match=words):
            read_document(tmp_path / name)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_document(tmp_path / "latin.yaml")


def test_python_is_parsed_and_never_run(read, tmp_path):
    found = read(
        "a.py",
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "length = 1024 * 2\n"
        "args = SFTConfig(max_length=length, learning_rate=2e-4, bf16=is_it(), dtype=torch.float16,\n"
        "    names=['a', 'b'], kwargs={'use_reentrant': False})\n",
    )
    assert not (tmp_path / "ran").exists()
    block = found.tree["SFTConfig"]
    assert block["max_length"] == 2048
    assert block["dtype"] == "float16"
    assert block["kwargs"] == {"use_reentrant": False}
    assert block["bf16"] == Code("is_it()")
    assert found.lines["learning_rate"] == 3


def test_a_notebook_with_commands_of_ipython(read):
    cells = [
        {"cell_type": "markdown", "source": ["text ("]},
        {"cell_type": "code", "source": ["!pip install unsloth\n", "%time\n", "r = 16\n"]},
        {"cell_type": "code", "source": ["config = LoraConfig(r=r)"]},
    ]
    assert read("a.ipynb", json.dumps({"cells": cells})).tree["LoraConfig"] == {"r": 16}


def test_a_shell_script(read):
    found = read("a.sh", 'oumi train -c x.yaml \\\n  --training.seed 1 "--a.b[0].c=2" # why\n')
    assert found.tree == {"oumi train": {"c": "x.yaml", "training.seed": "1", "a.b[0].c": "2"}}


def test_json_keys_have_lines_and_doubles_are_said(read):
    found = read("a.json", '{\n "a": 1,\n "b": 2,\n "a": 3}')
    assert (found.tree["a"], found.lines["b"]) == (3, 3)
    assert found.remarks == ["a appears twice; the last one counts, as in their loader."]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "lines.json"])
def test_rows_are_no_config(read, name):
    row = '{"text": "a"}'
    text = f"[{row}, {row}]" if name == "rows.json" else f"{row}\n{row}\n"
    assert read(name, text).language == "rows"
