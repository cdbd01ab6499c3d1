"""Three of the faults that `make faults` draws by chance, always the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..faults.cases import Moment, Reference, Target, make_reference, survive  # noqa: TID252


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    ("target", "moment"),
    [
        ("worker", Moment("while it writes a checkpoint", "writing", 3, 0.01)),
        ("supervisor", Moment("after step 12", "log", 12)),
        ("kernel", Moment("while the worker loads the libraries", "stage", 1)),
    ],
    ids=["worker", "supervisor", "kernel"],
)
def test_a_run_survives(
    reference: Reference, tmp_path: Path, target: Target, moment: Moment
) -> None:
    outcome = survive(tmp_path / "case", reference, target, moment)
    assert not outcome.wrong, str(outcome)
