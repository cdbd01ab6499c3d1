"""The page of the 376 parameters is whole, its tests exist, and few are refused."""

import ast
from functools import cache
from pathlib import Path

import pytest

from nbft.config import settings
from nbft.interop import compatibility
from nbft.interop.compatibility import counts, page, rows
from nbft.interop.importer import DOCUMENTED, _setting
from nbft.interop.proofs import proofs

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT.parent / "shared" / "reference" / "parameters.yaml"
ROWS = rows()


@cache
def names_in(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@cache
def reference():
    if not REFERENCE.is_file():
        pytest.skip("parameters.yaml is not at hand")
    import yaml

    return yaml.load(REFERENCE.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["systems"]


def test_no_row_is_missing_and_none_is_too_many():
    wanted = {(s, p["path"]) for s, block in reference().items() for p in block["parameters"]}
    assert {(row.system, row.parameter) for row in ROWS} == wanted
    assert len(ROWS) == len(wanted) == 376


def test_their_choices_are_known():
    """A value that a document lists is never called wrong by its own system's rules."""
    from nbft.interop.importer import system

    for name in DOCUMENTED:
        entries = {e.name or e.path: e for e in system(name).table if e.is_documented}
        for parameter in reference()[name]["parameters"]:
            entry = entries[parameter["path"]]
            for choice in parameter.get("choices") or ():
                if not entry.choices or not isinstance(choice, str) or choice.startswith("<"):
                    continue
                known = {str(one).lower() for one in entry.choices}
                assert choice.lower() in known, (name, entry.path, choice)


def test_at_most_15_are_refused_each_with_a_reason():
    refused = [row for row in ROWS if row.status == "refused"]
    assert len(refused) <= 15
    assert all(len(row.reason) > 40 for row in refused)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.system}-{row.parameter}")
def test_every_row_has_a_test_that_exists(row):
    file, _, name = row.test.partition("::")
    assert (ROOT / file).is_file(), row.test
    assert name in names_in(file), row.test


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.system}-{row.parameter}")
def test_every_row_names_a_setting_that_exists(row):
    assert not row.setting or _setting(row.setting)
    if row.status == "hardware":
        assert row.reason


def test_no_proof_is_left_over():
    used = {f"{row.system}:{row.parameter}" for row in ROWS}
    known = used | {setting.path for setting in settings()}
    assert {name for name in proofs() if name not in known and not _setting(name)} == set()


def test_the_page_is_the_one_that_the_tables_give():
    """Write it anew with: python -m nbft.interop.compatibility > docs/compatibility.md."""
    assert (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8") == page()


def test_the_sum_of_the_counts():
    assert sum(counts(ROWS).values()) == len(ROWS)
    assert compatibility.summary(ROWS).startswith("376 parameters: ")
    assert [len(rows(name)) for name in DOCUMENTED] == [99, 123, 106, 36, 12]
