"""The worked examples of docs/registries.md, run as they stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbft
from nbft import registry
from nbft.launchers.kernel import join
from nbft.plan.schedule import learning_rate_at

DOCUMENT = Path(__file__).parents[2] / "docs" / "registries.md"


@pytest.fixture
def changes() -> Iterator[dict[str, Any]]:
    """Run the document's code and return the settings it ends with."""
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    before = {one.name: set(one.keys()) for one in registry.ALL}
    names: dict[str, Any] = {}
    exec("\n".join(code), names)
    try:
        new = {one.name: set(one.keys()) - before[one.name] for one in registry.ALL}
        assert {len(keys) for keys in new.values()} == {1}, "one example for each registry"
        yield names["changes"]
    finally:
        for one in registry.ALL:
            for key in set(one.keys()) - before[one.name]:
                one.unregister(key)


def test_the_examples_train_together(make_config, changes):
    plain = make_config()
    tree = plain.to_dict(full=True)
    rows = plain.data.train.datasets[0].rows
    tree["data"]["train"]["datasets"][0] |= {
        "prompt_template": None,
        "completion_template": None,
    }
    config = nbft.Config(**tree)
    config.data.train.datasets[0].rows = rows
    run = nbft.train(config.apply(changes), show=False)
    join(run)
    assert run.status == "completed", run.problems
    logs = [e for e in run.events() if e["event"] == "log"]
    rate = learning_rate_at(config.apply({k: v for k, v in changes.items() if "sched" in k}), 6)
    assert [e["learning_rate"] for e in logs] == pytest.approx([rate(step) for step in range(6)])
    steps = (run.path / "steps.txt").read_text().split()
    assert sorted(set(steps)) == ["0", "1", "2", "3", "4", "5", "6"]
    assert "length" in str([e for e in run.events() if "score" in e["event"]])
    run.close()


def test_a_device_that_is_not_there_says_so(make_config, changes):
    problems = nbft.make_plan(make_config(compute__device="abacus")).errors
    assert "Buy one, or use auto." in str(problems[0])
