"""What surrounds a training: how its libraries are imported."""

from __future__ import annotations

import gc

from nbft.training.libraries import uncollected


def test_garbage_is_collected_again_after_the_imports() -> None:
    frozen = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen  # a kernel's own garbage can still be found


def test_who_collects_nothing_is_left_so() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
