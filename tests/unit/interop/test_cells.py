"""Notebooks and scripts as Python: commands of IPython, and cells that cannot be read."""

import ast
import json
from pathlib import Path

import pytest

from nbft.errors import ConfigError
from nbft.interop.scripts.cells import Place, read_notebook, read_script, without_commands


def notebook(*cells, **more):
    made = [
        cell
        if isinstance(cell, dict)
        else {"cell_type": "code", "source": cell.splitlines(keepends=True)}
        for cell in cells
    ]
    return json.dumps({"nbformat": 4, "cells": made, **more})


def read(*cells, **more):
    return read_notebook(Path("a.ipynb"), notebook(*cells, **more), 1_000_000)


def code(statements):
    return "\n".join(map(ast.unparse, statements.body))


COMMANDS = {
    "at the start": ("!pip install x\na = 1", "pass\na = 1"),
    "indented": ("if x:\n    !pip install x\na = 1", "if x:\n    pass\na = 1"),
    "in both branches": (
        "if x:\n  !pip install a\nelse:\n  %pip install b",
        "if x:\n    pass\nelse:\n    pass",
    ),
    "continued": ("!pip install a \\\n    b \\\n    c\na = 1", "pass\na = 1"),
    "with a quote that is not closed": ("!echo it's\na = 1", "pass\na = 1"),
    "with an open bracket": ("!echo (\na = 1", "pass\na = 1"),
    "assigned": ("a = !ls\nb, c = !ls -l\nd = %pwd", None),
    "help": ("model?\nmodel.generate??\n?model\na = 1", "pass\npass\npass\na = 1"),
    "help on a magic": ("%timeit?\na = 1", "pass\na = 1"),
    "timed": ("%time a = f()", "a = f()"),
    "assigned and timed": ("b = %time f()", "b = f()"),
    "in a text": ('a = """\n!x\n%d\nwhy?\n"""', "a = '\\n!x\\n%d\\nwhy?\\n'"),
    "in a text in single quotes": ("a = '''\n%%x\n!y'''\n!z", "a = '\\n%%x\\n!y'\npass"),
    "in a continued text": ("a = 'b\\\n!c'", "a = 'b!c'"),
    "a remainder on its own line": ("a = (b\n     % c)", "a = b % c"),
    "a remainder after a backslash": ("a = b \\\n  % c", "a = b % c"),
    "in a comment": ("# why?\n# !no\na = 1", "a = 1"),
    "in brackets after a comment": ("f(1, # ( !\n  2)\n!x", "f(1, 2)\npass"),
    "not equal": ("assert a != b\nc = a != b", "assert a != b\nc = a != b"),
    "an await at the top": ("a = await f()", "a = await f()"),
    "a docstring that asks": ('"""Why?\n\n!x\n"""\na = 1', None),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_become_statements_and_the_rest_stays(name):
    text, expected = COMMANDS[name]
    kept = without_commands(text)
    assert kept.count("\n") == text.count("\n"), "lines keep their numbers"
    tree = ast.parse(kept)
    if expected is not None:
        assert ast.unparse(tree) == ast.unparse(ast.parse(expected))


def test_magics_of_cells():
    found = read(
        "%%capture\nimport os\nif x:\n    !pip install y\n",
        "%%bash\necho 'hello\n",
        "# @title Install\n%%capture out\na = 1",
        "%%time\nb = 2",
        "%%writefile notes.txt\nthis is (no code",
        "%%writefile -a train.py\nc = 3\n",
        "%%html\n<b>",
        "d = 4",
    )
    assert code(found) == "import os\nif x:\n    pass\na = 1\nb = 2\nd = 4"
    assert found.written == {"train.py": "c = 3\n"}
    assert found.remarks == []


def test_a_cell_that_cannot_be_read_is_named_and_passed_over():
    found = read(
        "a = 1", {"cell_type": "markdown", "source": "text ("}, "b = 2\nprint 'old'\n", "c = 3"
    )
    assert code(found) == "a = 1\nc = 3"
    (remark,) = found.remarks
    assert remark.startswith("Cell 3, line 2: the cell is passed over; it is not valid Python (")


def test_an_unknown_magic_is_said():
    found = read("%%wonder\na = 1", "%%other\nthis is no code", "b = 1")
    assert code(found) == "a = 1\nb = 1"
    assert found.remarks[0] == "Cell 1: %%wonder is not known here; the cell is read as Python."
    assert found.remarks[1].startswith("Cell 2, line 2: the cell is passed over")


def test_lines_belong_to_cells():
    found = read("%%time\n\na = 1", {"cell_type": "markdown", "source": ["x"]}, "\nb = 2\nc = 3")
    places = [found.place(node.lineno) for node in found.body]
    assert places == [Place(3, 1), Place(2, 3), Place(3, 3)]
    assert str(places[1]) == "cell 3, line 2"
    assert str(read_script(Path("a.py"), "a = 1").place(1)) == "line 1"


def test_older_notebooks_and_sources_in_one_text():
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["a = 1\n", "b = 2"]}]}]}
    assert code(read_notebook(Path("a.ipynb"), json.dumps(old), 1000)) == "a = 1\nb = 2"
    assert code(read({"cell_type": "code", "source": "a = 1\nb = 2"})) == "a = 1\nb = 2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", r"a\.ipynb: is not a notebook: it is not valid JSON\.$"),
        ("[1]", r"a\.ipynb: is not a notebook: it has no cells\.$"),
        ('{"cells": 3}', r"a\.ipynb: is not a notebook: it has no cells\.$"),
        ("{}", r"a\.ipynb: is not a notebook: it has no cells\.$"),
        (notebook({"cell_type": "markdown", "source": "x"}), "has no code cells, so there is no"),
        (notebook("  \n"), "has no code cells, so there is no"),
        (notebook("%%bash\nls"), "has no Python code that can be read. All cells hold commands"),
        (notebook("print 'a'"), "has no Python code that can be read. Cell 1, line 1: the cell"),
        (notebook("a = 1\n" * 2000), "has more than 10,000 characters of code"),
    ],
)
def test_what_is_no_notebook_gets_one_sentence(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_notebook(Path("a.ipynb"), text, 10_000)
    assert len(caught.value.problems) == 1


def test_a_script_exported_with_its_commands():
    assert code(read_script(Path("a.py"), "!pip install x\na = 1\n%pip y\n")) == "pass\na = 1\npass"
    with pytest.raises(ConfigError, match=r"^a\.py line 2, column 5: is not valid Python"):
        read_script(Path("a.py"), "!pip install x\na = = 1\n")
