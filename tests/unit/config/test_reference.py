"""The page of the settings is whole and as the code has it."""

import subprocess
import sys
from pathlib import Path

from nbft.config import settings
from nbft.config.reference import default_words, range_words

PAGE = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_page_is_as_the_code_makes_it():
    """In a process of its own: other tests register keys, which are choices."""
    command = [sys.executable, "-m", "nbft.config.reference"]
    made = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    assert PAGE.read_text(encoding="utf-8") == made, "make docs writes it anew"


def test_every_setting_has_an_entry():
    text = PAGE.read_text(encoding="utf-8")
    assert [s.path for s in settings() if f"### `{s.path}`" not in text] == []


def test_ranges_and_defaults_in_words():
    by_path = {setting.path: setting for setting in settings()}
    method = range_words(by_path["peft.method"])
    assert method == "One of lora, adalora, vera, oft, ia3, ln_tuning, prompt_tuning, full."
    assert range_words(by_path["training.run_name"]) == "Text; may be empty."
    assert "any of tensorboard" in range_words(by_path["tracking.report_to"]).lower()
    assert default_words(by_path["training.run_name"]) == "empty"
    assert default_words(by_path["peft.target_modules"]) == "[all-linear]"
    assert default_words(by_path["tracking.report_to"]) == "[]"
