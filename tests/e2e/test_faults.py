"""Some of the faults that `make faults` draws by chance, always the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..faults.cases import Moment, Reference, make_reference, survive  # noqa: TID252


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        ("worker", Moment("while it writes a checkpoint", "writing", 3, 0.01)),
        ("supervisor", Moment("after step 12", "log", 12)),
        ("kernel", Moment("while the worker loads the libraries", "stage", 1)),
        ("slow disk", Moment("while it writes a checkpoint", "writing", 3, 0.2)),
        ("two resumes", Moment("after step 12", "log", 12)),
    ],
    ids=["worker", "supervisor", "kernel", "slow-disk", "two-resumes"],
)
def test_a_run_survives(reference: Reference, tmp_path: Path, kind: str, moment: Moment) -> None:
    outcome = survive(tmp_path / "case", reference, kind, moment)
    assert not outcome.wrong, str(outcome)
