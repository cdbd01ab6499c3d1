import json

from nbft.catalogue.datasets import datasets, look
from nbft.config import Config


def test_files_come_before_samples(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"q": "Why?", "a": "So."}\n')
    config = Config(training={"output_dir": str(tmp_path / "runs")})
    choices = datasets(config, folder=tmp_path)
    assert [choice.title for choice in choices[:3]] == ["mine.jsonl", "alpaca", "samsum"]
    assert look(choices[0]).rows == ({"q": "Why?", "a": "So."},)
    assert look(choices[0]).total_rows == 1
    assert choices[1].columns == ("instruction", "input", "output")
    assert choices[1].rows == 360
    json.dumps(choices[1].settings)
