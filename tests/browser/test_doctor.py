"""The doctor as a person meets it: under Check in the form, and as a report in a cell."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Locator, expect

from .conftest import Notebook

ROWS = """
import json, pathlib
import nbft
from nbft.data.tiny_model import make_tiny_model
from nbft.data.samples import sample_path
make_tiny_model(pathlib.Path("tiny"))
rows = [json.loads(line) for line in sample_path("gsm8k", "train").read_text("utf-8").splitlines()]
rows = [{"prompt": row["question"] + "\\n", "completion": row["answer"]} for row in rows[:150]]
rows[5]["prompt"] = "In the cafÃ© <x>: " + rows[5]["prompt"]
rows += [rows[7], rows[9]]
for left in pathlib.Path().glob("rows.*.jsonl"):
    left.unlink()
pathlib.Path("rows.jsonl").write_text("\\n".join(map(json.dumps, rows)), encoding="utf-8")
config = nbft.Config(
    model={"model_name": "tiny"},
    data={"path": "rows.jsonl", "max_length": 150, "split_ratio": 1.0},
    evaluation={"eval_strategy": "no"},
)
"""
FORM = "form = nbft.Form(config)\nform"
REPORT = "report = nbft.doctor(config)\nreport"


def test_findings_are_listed_under_check_and_mended_by_a_click(
    notebook: Notebook, looks: Callable[[str, Locator], None]
) -> None:
    notebook.open([ROWS, FORM])
    notebook.run_cell(0)
    notebook.run_cell(1)
    form = notebook.output(1).locator(".nbft-form")
    form.get_by_role("button", name="Check", exact=True).click()
    findings = form.locator(".nbft-doctor")
    headline = findings.get_by_role("status")
    expect(headline).to_contain_text("152 rows (152 to train on)", timeout=60_000)
    expect(findings.locator(".nbft-finding")).to_have_count(3)
    expect(findings.get_by_role("img", name=re.compile("^Lengths of 152"))).to_be_visible()
    findings.get_by_text("Row 6", exact=True).click()  # unfolds the row
    expect(findings.get_by_text("In the cafÃ© <x>: ")).to_be_visible()
    looks("doctor", form)

    cut = findings.locator(".nbft-finding", has_text="warning: cut")
    cut.get_by_role("button", name="Show the rows").click()
    lens = cut.locator(".nbft-lens").first
    expect(lens).to_be_visible()
    notebook.screenshot("doctor-rows", cut)

    cut.get_by_role("button", name="Use ").click()
    expect(form.locator(".nbft-state")).to_contain_text("cut: fixed.")
    expect(headline).to_contain_text("152 rows", timeout=60_000)
    expect(findings.locator(".nbft-finding", has_text="warning: cut")).to_have_count(0)
    assert notebook.kernel_eval("form.config.data.max_length") > 150
    repeated = findings.locator(".nbft-finding", has_text="warning: duplicates")
    repeated.get_by_role("button", name="Show the fix").click()
    expect(repeated.get_by_role("table").first).to_contain_text("Row 151, left out")
    repeated.get_by_role("button", name="Leave out 2 rows in a new file").click()
    expect(headline).to_contain_text("150 rows", timeout=60_000)
    notebook.expect_value("form.config.data.train.datasets[0].path", "rows.fixed.jsonl")
    shown = form.get_by_role("textbox", name="Data file").first
    expect(shown).to_have_value("rows.fixed.jsonl")

    mangled = findings.locator(".nbft-finding", has_text="warning: mojibake")
    mangled.get_by_role("button", name="Show the fix").click()
    expect(mangled.get_by_role("table").first).to_contain_text("In the café <x>: ")
    looks("doctor-fix", form)
    findings.get_by_role("button", name="Undo duplicates").click()
    expect(headline).to_contain_text("152 rows", timeout=60_000)
    expect(shown).to_have_value("rows.jsonl")


def test_the_report_is_readable_in_a_cell(
    notebook: Notebook, looks: Callable[[str, Locator], None]
) -> None:
    notebook.open([ROWS, REPORT])
    notebook.run_cell(0)
    notebook.run_cell(1)
    output = notebook.output(1)
    expect(output.filter(has_text="Checked 152 rows in").first).to_be_visible()
    table = output.get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(4)
    expect(table).to_contain_text('report.apply("duplicates")')
    table.get_by_text("Rows 151, 152").click()
    expect(table.get_by_text("same as row 8")).to_be_visible()
    looks("doctor-report", output.last)
