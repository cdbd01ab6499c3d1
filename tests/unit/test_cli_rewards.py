"""`nbft try-rewards`: what it prints and how it exits, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import nbft
from nbft import consent
from nbft.cli import app
from nbft.rewards.table import RewardTable

CONFIG = """
data:
  dataset_name: larger_number
training: {method: grpo}
grpo:
  rewards:
    - function: exact_number
      options: {pattern: "<answer>(.*?)</answer>"}
    - function: length
      weight: 0.5
      options: {at_most: 1}
"""
OWN = """
data:
  train:
    datasets:
      - path: rows.jsonl
grpo:
  rewards:
    - function: mine.py:score
"""
ANSWERS = ("--answer", "<answer>96</answer>", "--answer", "two words")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBFT_CONSENT", str(tmp_path / "consents"))
    monkeypatch.setattr(consent, "_this_session", set())
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def write_own(folder: Path, body: str) -> None:
    """Write a config in a folder below, whose reward leaves a trace when its file runs."""
    (folder / "sub").mkdir()
    (folder / "sub" / "config.yaml").write_text(OWN)
    rows = [{"prompt": f"{n} + 1 =\n", "completion": str(n + 1)} for n in range(20)]
    (folder / "sub" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "sub" / "mine.py").write_text(
        "from pathlib import Path\nPath('it-ran').touch()\n"
        f"def score(completions, references, **_):\n    {body}\n"
    )


def look(*arguments: str, name: str = "config.yaml") -> Result:
    return CliRunner().invoke(app, ["try-rewards", name, *arguments])


def test_own_answers_are_scored_and_shown_as_a_table() -> None:
    done = look("--rows", "2", *ANSWERS)
    assert done.exit_code == 0, done.output
    blocks = done.stdout.strip().split("\n\n")
    shown = nbft.Config(**json.loads(json.dumps(nbft.Config.load("config.yaml").to_dict())))
    assert done.stdout.strip() == str(nbft.try_rewards(shown, 2, answers=ANSWERS[1::2]))
    assert [line.split() for line in blocks[0].splitlines()[-2:]] == [
        ["0.00", "1.00", "0.50", "<answer>96</answer>"],
        ["0.00", "0.00", "0.00", "two", "words"],
    ]
    assert "4 answers; means: exact_number 0.00, length 0.50." in blocks
    assert "exact_number gives 0 to every answer." in done.stdout


def test_json_holds_the_same() -> None:
    done = look("--rows", "2", "--json", *ANSWERS)
    assert done.exit_code == 0, done.output
    given = json.loads(done.stdout)
    assert (given["prompts"], given["prompts_without_signal"]) == (2, 0)
    assert given["means"] == {"exact_number": 0.0, "length": 0.5}
    assert given["remarks"] == ["exact_number gives 0 to every answer."]
    (first, second, *others) = given["answers"]
    assert len(others) == 2
    assert first["rewards"] == {"exact_number": 0.0, "length": 1.0}
    assert (first["reward"], second["reward"]) == (0.5, 0.0)
    assert first["completion"] == "<answer>96</answer>"
    assert first["prompt"] == others[0]["prompt"] or first["wanted"] != others[0]["wanted"]


def test_settings_after_the_file_win() -> None:
    done = look("--json", "--answer", "5", 'grpo.rewards=[{"function": "length"}]')
    assert json.loads(done.stdout)["means"] == {"length": 1.0}
    assert len(json.loads(done.stdout)["answers"]) == 4, "four rows unless said otherwise"


def test_the_model_answers_where_no_answer_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def trial(config, prompts, *, answers, folder, say):  # type: ignore[no-untyped-def]
        asked.append((config.grpo.num_generations, prompts, answers))
        say("Writing …")
        return RewardTable([])

    monkeypatch.setattr("nbft.runs.trying.try_rewards", trial)
    done = look("--rows", "3", "grpo.num_generations=4")
    assert (done.exit_code, done.stdout) == (0, "No answers yet.\n"), done.output
    assert asked == [(4, 3, None)]


def test_a_file_runs_only_after_consent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own(folder, "return [float(c == r) for c, r in zip(completions, references)]")
    given = ("--rows", "2", "--answer", "5", "--answer", "x")
    done = look(*given, name="sub/config.yaml")
    assert done.exit_code == 2
    assert "which you have not allowed" in " ".join(done.stderr.split())
    assert not (folder / "it-ran").exists()
    monkeypatch.setattr("nbft.cli._is_terminal", lambda: True)
    asked = ["try-rewards", "sub/config.yaml", *given]
    done = CliRunner().invoke(app, asked, input="n\n")
    assert "def score" in done.output, "the source is shown"
    assert (done.exit_code, (folder / "it-ran").exists()) == (2, False)
    done = look(*given, "--allow-code", name="sub/config.yaml")
    assert done.exit_code == 0, done.output
    assert (folder / "it-ran").exists()
    assert "4 answers; means: score " in done.stdout


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1.0 / len(c.strip('x')) for c in completions]", "failed with ZeroDivisionError"),
        ("[1.0 for _ in completions]", "returned None instead of a list with a number for"),
        ("return [1.0 for c in completions if c != 'x']", "returned 2 numbers for 4 completions"),
        ("return [len(c) if c != 'x' else None for c in completions]", "returned None, which is"),
    ],
)
def test_a_reward_that_fails_is_one_sentence_with_the_completion(
    folder: Path, body: str, said: str
) -> None:
    write_own(folder, body)
    given = ("--rows", "2", "--answer", "5", "--answer", "x", "--allow-code")
    done = look(*given, name="sub/config.yaml")
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("grpo.rewards[0].function=")
    assert said in line
    assert ("“5”" if said.startswith("returned None instead") else "“x”") in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.yaml"], "none.yaml"),
        (["config.yaml", "grpo.rewards=[]"], "names no reward"),
        (["config.yaml", "grpo.reward=1"], "is not a setting. Did you mean rewards?"),
        (["config.yaml", "--rows", "0"], "--rows"),
    ],
)
def test_a_mistake_exits_with_2(arguments: list[str], said: str) -> None:
    done = look(*arguments[1:], name=arguments[0])
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output
