"""The report: words, JSON, HTML, the figure, and its fixes."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbft.config import Config
from nbft.data.doctor import Report, doctor
from nbft.data.doctor.finding import LEVELS
from nbft.errors import ConfigError, DataError, ModelError
from nbft.pages import histograms


@pytest.fixture
def bad_rows(good_rows):
    rows = [*good_rows, good_rows[3]]
    rows[2] = {**rows[2], "prompt": "<x> & Caf\u00c3\u00a9\x00: " + rows[2]["prompt"]}
    return rows


@pytest.fixture
def report(config_of, bad_rows) -> Report:
    return doctor(config_of(bad_rows, split_ratio=1.0), say=lambda _: None)


def test_the_report_says_it_all(report):
    text = str(report)
    assert text.splitlines()[0] == "41 rows (41 to train on): 2 warnings, 1 note."
    assert "prompt and completion" in text.splitlines()[1]
    assert [one.name for one in report.findings] == ["duplicates", "mojibake", "control_characters"]
    for finding in report.findings:
        assert re.search(rf"^{finding.level} +{finding.name}$", text, re.MULTILINE)
        assert f'report.apply("{finding.name}")' in text
    assert "Rows 41." not in text
    assert "Row 41." in text
    assert "“same as row 4: " in text
    assert text.splitlines()[-2].startswith("Lengths of 41 training rows: ")
    assert max(map(len, text.splitlines()[2:-2])) <= 100


def test_good_rows_say_so(config_of, good_rows):
    report = doctor(config_of(good_rows), say=lambda _: None)
    assert report.headline == "40 rows (36 to train on, 4 held out): no problems found."
    assert "<table" not in report._repr_html_()


def test_the_json_holds_what_the_text_says(report):
    found = json.loads(json.dumps(report.to_dict()))
    assert found["counts"] == {"error": 0, "warning": 2, "note": 1}
    assert found["rows"] == {"train": 41}
    assert not found["is_sample"]
    assert found["tokens"]["most"] == report.tokens.max()
    one = found["findings"][0]
    assert (one["name"], one["count"], one["total"]) == ("duplicates", 1, 41)
    assert one["share"] == pytest.approx(1 / 41, abs=1e-6)
    assert one["writes_file"]
    assert one["rows"][0]["row"] == 41
    assert one["rows"][0]["split"] == "train"


def test_the_html_can_be_read_by_everybody(report):
    html = report._repr_html_()
    tree = ET.fromstring(html.replace("<br>", "<br/>"))
    assert "<b>Caf" not in html, "what stands in a row is escaped"
    assert "\\x00" in html
    levels = [row[0].text for row in tree.iter("tr")][1:]
    assert levels == [one.level for one in report.findings], "said in words, not in colour alone"
    for drawing in tree.iter("svg"):
        assert drawing.get("role") == "img"
        assert drawing.get("aria-label") in [one.words for one in report.histograms]
    assert len(list(tree.iter("svg"))) == 2
    assert "<style" not in html, "viewers drop style sheets"
    colours = re.findall(r"#[0-9a-f]{6}", html)
    assert len(colours) == len(re.findall(r"var\(--jp-[a-z0-9-]+, #[0-9a-f]{6}\)", html))


def test_the_histograms_count_every_row(config_of, good_rows):
    rows = [*good_rows, {"prompt": "7 " * 300, "completion": "Yes."}]
    report = doctor(config_of(rows, split_ratio=1.0, max_length=64), say=lambda _: None)
    figure = report.figure()
    for axes in figure.axes:
        assert sum(bar.get_height() for bar in axes.patches) == 41
    assert [line.get_label() for line in figure.axes[0].lines] == ["data.max_length"]
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "max_length</text>" in str(histograms.html(report.histograms))
    assert "cuts 4" in report.histograms[0].words


def test_an_unknown_finding_names_the_nearest(report):
    with pytest.raises(
        DataError, match=r"duplicate: was not found in these rows\. Did you mean dup"
    ):
        report.apply("duplicate")
    with pytest.raises(DataError, match="Found: duplicates, mojibake, control_characters"):
        report.apply("zzz")
    assert "mojibake" in report
    assert "zzz" not in report


def test_what_only_a_person_can_mend_is_said(config_of, good_rows, write):
    report = doctor(config_of(None, path=write("a.jsonl", '{"x": [1]}')), say=lambda _: None)
    with pytest.raises(DataError, match=r"unreadable: only you can fix it\. Write prompt_template"):
        report.apply("unreadable")


def test_a_setting_is_changed(config_of, good_rows):
    config = config_of(good_rows, prompt_template="{promt}", completion_template="{completion}")
    report = doctor(config, say=lambda _: None)
    assert report.headline == "No rows could be read: 1 error."
    mended = report.apply("placeholder")
    assert mended.data.train.datasets[0].prompt_template == "{prompt}"
    assert mended.data.train.datasets[0].rows is config.data.train.datasets[0].rows
    assert doctor(mended, say=lambda _: None).findings == []


def test_a_sample_looks_at_all_rows_before_it_writes_any(config_of, good_rows):
    config = config_of([*good_rows, *[good_rows[0]] * 40], split_ratio=1.0)
    report = doctor(config, sample=20, say=lambda _: None)
    assert report.is_sample
    assert report.looked_at == 20
    assert "of which 20 were checked" in report.headline
    assert report["duplicates"].count == 10
    assert report.apply("duplicates").data.train.datasets[0].rows == good_rows


def test_a_sample_is_spread_over_all_splits(config_of, good_rows):
    report = doctor(config_of(good_rows * 10), sample=100, say=lambda _: None)
    assert report.rows == {"train": 360, "validation": 40}
    assert report.looked_at == 100
    assert len(report.tokens) == 90


def test_progress_is_said(config_of, good_rows, monkeypatch, capsys):
    from nbft.data.doctor import measure

    monkeypatch.setattr(measure, "_SECONDS_BETWEEN_WORDS", 0.0)
    monkeypatch.setattr(measure, "_CHUNK", 10)
    import ipykernel  # noqa: F401  a script may import it, too

    said = []
    doctor(config_of(good_rows), say=said.append)
    assert "Loading the tokenizer …" in said
    assert "Checked 10 of 40 rows" in said
    assert "Checked 40 of 40 rows" in said
    doctor(config_of(good_rows))
    assert capsys.readouterr().out == "", "nobody is there to see the line"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    doctor(config_of(good_rows))
    shown = capsys.readouterr().out
    assert "\rChecked 20 of 40 rows" in shown
    assert re.search(r"\rChecked 40 rows in .+ s\. *\n$", shown)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))
    doctor(config_of(good_rows))
    assert "\rChecked 40 rows in " in capsys.readouterr().out, "a notebook"


def test_mistakes_are_sentences(config_of, good_rows, tmp_path):
    with pytest.raises(TypeError, match=r"config is a str\. Give an nbft\.Config\."):
        doctor("alpaca")
    with pytest.raises(ConfigError, match=r"sample=0: is not at least 1\."):
        doctor(config_of(good_rows), sample=0)
    gone = config_of(good_rows).apply({"model.model_name": str(tmp_path / "gone")})
    with pytest.raises(ModelError, match="was not found"):
        doctor(gone, say=lambda _: None)


def test_it_is_public():
    import nbft

    assert nbft.doctor is doctor
    assert [*LEVELS] == ["error", "warning", "note"]


def test_a_row_longer_than_the_model_reads_is_said_by_the_report_alone(
    config_of, good_rows, tmp_path, tiny_model, caplog
):
    from transformers import AutoTokenizer
    from transformers.utils import logging

    short = shutil.copytree(tiny_model, tmp_path / "short")
    about = json.loads((short / "tokenizer_config.json").read_text())
    (short / "tokenizer_config.json").write_text(json.dumps(about | {"model_max_length": 20}))
    config = config_of(good_rows).apply({"model.model_name": str(short)})
    verbosity = logging.get_verbosity()
    logging.set_verbosity_warning()
    logging.enable_propagation()
    try:
        AutoTokenizer.from_pretrained(short)("one two three " * 20)
        assert caplog.records, "the library warns"
        caplog.clear()
        doctor(config, say=lambda _: None)
    finally:
        logging.disable_propagation()
        logging.set_verbosity(verbosity)
    assert not [record for record in caplog.records if record.name.startswith("transformers")]


REAL = {
    "alpaca.json": ("instructions", {"duplicates", "refusals"}),
    "gsm8k.jsonl": ("questions and answers", set()),
    "dialogsum.jsonl": ("dialogues and summaries", {"near_duplicates"}),
    "preference_pairs.json": ("preference pairs", {"mojibake", "control_characters", "dropped"}),
    "kto_feedback.json": ("feedback on messages", {"html_entities", "dropped"}),
}
SHARED = Path(__file__).parents[5] / "shared" / "data"


@pytest.mark.parametrize("name", REAL)
def test_real_rows_need_no_hint(name, tiny_model):
    if not SHARED.is_dir():
        pytest.skip("the real rows are not beside the repository")
    known_as, names = REAL[name]
    config = Config(model={"model_name": str(tiny_model)}, data={"path": str(SHARED / name)})
    report = doctor(config, sample=1000, say=lambda _: None)
    assert f"recognised as {known_as}" in report.remarks[0]
    assert not {"unreadable", "placeholder", "refused"} & {one.name for one in report.findings}
    assert names <= {one.name for one in report.findings}


def test_a_fix_shows_rows_before_and_after(report):
    (change,) = report.preview("mojibake")
    assert (change.field, change.row) == ("data.train.datasets[0]", 3)
    assert "CafÃ©" in change.before["prompt"]
    assert "Café" in change.after["prompt"]
    assert change.after["completion"] == change.before["completion"]
    (change,) = report.preview("duplicates")
    assert (change.row, change.after) == (41, None)


def test_what_is_a_judgement_is_chosen_row_by_row(config_of, good_rows):
    refused = [{**row, "completion": "I cannot help.\n#### 0"} for row in good_rows[:3]]
    report = doctor(config_of([*refused, *good_rows[3:]], split_ratio=1.0), say=lambda _: None)
    with pytest.raises(
        DataError, match=r"your judgement\. .* report\.apply\('refusals', rows=\[1, 2, 3"
    ):
        report.apply("refusals")
    with pytest.raises(DataError, match=r"row 9 is not among those found\. Choose of 1, 2, 3"):
        report.apply("refusals", rows=[1, 9])
    mended = report.apply("refusals", rows=[1, 3])
    assert mended.data.train.datasets[0].rows == [refused[1], *good_rows[3:]]
    assert report.config.data.train.datasets[0].rows == [*refused, *good_rows[3:]]


def test_the_most_harmful_comes_first(config_of, good_rows):
    rows = [{**row, "completion": "nan"} if n < 12 else row for n, row in enumerate(good_rows)]
    rows[20] = {**rows[20], "prompt": rows[20]["prompt"].replace(" ", "\u00a0", 1)}
    rows = [*rows, rows[20]]
    report = doctor(config_of(rows, split_ratio=1.0), say=lambda _: None)
    warnings = [one.name for one in report.of_level("warning")]
    assert warnings.index("placeholder_answers") < warnings.index("duplicates")
    harms = [one.harm for one in report.of_level("warning")]
    assert harms == sorted(harms, reverse=True)
