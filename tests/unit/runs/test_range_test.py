"""What a curve of losses by learning rate suggests, and what the search for one refuses."""

from __future__ import annotations

import contextlib
import json
import math
import queue
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nbft
from nbft.config import Config
from nbft.errors import ConfigError, NbftError
from nbft.runs import rate_search
from nbft.runs.range_test import RangeTest, has_exploded, rising_rates

RATES = rising_rates(2e-6, 0.2, 100)
CONFIG = Config(training={"learning_rate": 5e-4})


def curve(rate: float, *, fall: float = 1.0, middle: float = 3e-4, blows: float = 2e-2) -> float:
    """The loss of an ideal model: level, then a fall around a rate, then an explosion."""
    return 2.5 - fall / (1 + (middle / rate) ** 1.5) + (rate / blows) ** 2


def measured(loss: Callable[[float], float], noise: float = 0.0, seed: int = 0) -> RangeTest:
    """Return the test of a model with such losses, which ends as a real one does."""
    draw = random.Random(seed)
    losses: list[float] = []
    for rate in RATES:
        losses.append(loss(rate) + draw.gauss(0, noise))
        if has_exploded(losses):
            break
    ending: Any = "exploded" if has_exploded(losses) else "done"
    return RangeTest(CONFIG, tuple(RATES[: len(losses)]), tuple(losses), 100, 8, ending, 12.0)


def test_the_suggestion_is_where_the_loss_falls_fastest_or_a_tenth_of_where_it_is_lowest() -> None:
    steep = measured(lambda rate: curve(rate, middle=3e-5, blows=0.1))
    assert 2e-5 <= (steep.suggested or 0) <= 6e-5, "the steepest point, which is the lower one"
    late = measured(lambda rate: curve(rate, middle=2e-3))
    lowest = late.learning_rates[late.reading.lowest]
    assert late.suggested == pytest.approx(lowest / 10, rel=0.4), "one digit, so up to a third off"
    assert late.suggested < late.learning_rates[late.reading.steepest]


@pytest.mark.parametrize("seed", range(8))
def test_noise_moves_it_by_little(seed: int) -> None:
    clear = measured(curve).suggested or 0
    assert clear / 3 <= (measured(curve, 0.15, seed).suggested or 0) <= 3 * clear


def test_noise_alone_suggests_nothing() -> None:
    found = [measured(lambda _: 2.5, 0.3, seed) for seed in range(100)]
    assert sum(one.suggested is not None for one in found) <= 3
    silent = next(one for one in found if one.suggested is None)
    assert "No learning rate is suggested" in silent.sentence


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda _: 2.5, "does not fall"),
        (lambda rate: 2.5 - 0.003 * math.log10(rate / 2e-6), "does not fall clearly"),
        (lambda rate: 2.5 + (rate / 1e-5) ** 0.5, "does not fall"),
    ],
)
def test_what_is_no_fall_suggests_nothing_and_says_why(
    loss: Callable[[float], float], why: str
) -> None:
    found = measured(loss)
    assert found.suggested is None
    assert why in found.sentence
    with pytest.raises(NbftError, match="No learning rate is suggested"):
        found.apply()


def test_it_ends_when_the_loss_explodes_or_is_no_number() -> None:
    exploded = measured(curve)
    assert exploded.ending == "exploded"
    assert len(exploded.losses) < 100
    assert "exploded near" in exploded.sentence
    broken = measured(lambda rate: curve(rate) if rate < 1e-2 else math.nan)
    assert broken.ending == "exploded"
    assert math.isnan(broken.losses[-1])
    assert math.isnan(broken.smoothed[-1])
    assert broken.suggested == pytest.approx(measured(curve).suggested or 0, rel=0.5)
    at_once = RangeTest(CONFIG, (2e-6,), (math.inf,), 100, 8, "exploded")
    assert at_once.suggested is None
    assert at_once.why == "The loss exploded after 1 step; it needs 20."


def test_losses_below_zero_explode_too() -> None:
    falling = [-1.0 + 0.01 * (n % 3) for n in range(15)]
    assert not has_exploded(falling)
    assert has_exploded([*falling, 3.0, 3.0, 3.0, 3.0, 3.0])


def test_ordinary_noise_is_no_explosion() -> None:
    draw = random.Random(1)
    noisy = [0.4 + abs(draw.gauss(0, 0.3)) for _ in range(200)]
    assert not any(has_exploded(noisy[:n]) for n in range(1, 200))


def test_smoothing_is_unbiased_and_lags_behind_on_neither_side() -> None:
    flat = RangeTest(CONFIG, tuple(RATES), (2.0,) * 100, 100)
    assert set(flat.smoothed) == {2.0}
    line = RangeTest(CONFIG, tuple(RATES), tuple(3 - n / 100 for n in range(100)), 100)
    middle = slice(30, 70)
    assert line.smoothed[middle] == pytest.approx(line.losses[middle], abs=2e-3)


def test_what_was_measured_until_it_was_stopped_is_a_result() -> None:
    whole = measured(curve)
    rates, losses = whole.learning_rates[:75], whole.losses[:75]
    stopped = RangeTest(CONFIG, rates, losses, 100, 8, "stopped")
    assert stopped.suggested is not None
    assert "75 of 100 steps of 8 rows (600 rows in all)" in stopped.caveat
    assert "stopped before the first step" in RangeTest(CONFIG, (), (), 100, 8, "stopped").why
    assert "needs 20" in RangeTest(CONFIG, rates[:5], losses[:5], 100, 8, "stopped").why


def test_the_suggestion_is_applied_to_a_copy() -> None:
    found = measured(curve)
    changed = found.apply()
    assert changed.training.learning_rate == found.suggested
    assert CONFIG.training.learning_rate == 5e-4
    assert "with 5e-4, which the config has now" in found.caveat


def test_an_unusual_suggestion_is_said() -> None:
    assert "unusual" not in measured(curve).sentence
    low = measured(lambda rate: curve(rate, middle=6e-6, blows=1e-3))
    assert "For LoRA this is unusual" in low.sentence


def test_the_pages_say_the_same_in_words_picture_and_numbers() -> None:
    found = measured(curve, 0.1)
    page, text = found._repr_html_(), str(found)
    for sentence in (found.sentence, found.caveat):
        assert sentence in page
        assert sentence in text
    assert 'role="img" aria-label="Smoothed loss: 2.' in page
    assert "<caption" in page
    assert text.splitlines()[0].split() == ["learning", "rate", "loss", "smoothed"]
    running = RangeTest(CONFIG, found.learning_rates, found.losses, 100, 8, "running")
    assert "<svg" in running._repr_html_()
    assert "suggest" not in running._repr_html_().lower(), "before its end nothing is suggested"
    for few in (0, 1, 2):
        start = RangeTest(CONFIG, RATES[:few], (2.0,) * few, 100, 8, "stopped")  # type: ignore[arg-type]
        assert start.why in start._repr_html_()
        assert start.why in str(start)
    broken = measured(lambda rate: curve(rate) if rate < 1e-2 else math.nan)
    assert json.loads(json.dumps(broken.to_dict(), allow_nan=False))["losses"][-1] is None
    assert "nan" not in broken._repr_html_()


# The search, without its process.


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path / "queue"))
    rows = [{"prompt": f"{n}?\n", "completion": f"{n}."} for n in range(20)]
    return Config(
        model={"model_name": str(tiny_model)},
        data={"rows": rows, "split_ratio": 1.0},
        evaluation={"eval_strategy": "no"},
        training={"output_dir": str(tmp_path / "runs")},
    )


def telling(monkeypatch: pytest.MonkeyPatch, *messages: dict[str, Any]) -> dict[str, Any]:
    """Let the process of the search say something, and return the task that it gets."""
    asked: dict[str, Any] = {}

    @contextlib.contextmanager
    def process(task: dict[str, Any], log: Path, _sees: Any = ()) -> Iterator[Any]:
        asked.update(task)
        said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for message in messages:
            said.put(message)
        yield said

    monkeypatch.setattr(rate_search, "_process", process)
    return asked


STEPS = [{"step": n, "learning_rate": r, "loss": curve(r)} for n, r in enumerate(RATES[:80])]


def test_the_range_suits_the_method(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = telling(monkeypatch, {"exploded": False})
    nbft.find_learning_rate(config)
    lora = asked["learning_rates"]
    assert (len(lora), lora[0], lora[-1]) == (100, pytest.approx(2e-6), pytest.approx(0.2))
    nbft.find_learning_rate(config.apply({"peft.method": "full"}), steps=40)
    full = asked["learning_rates"]
    assert (len(full), full[0], full[-1]) == (40, pytest.approx(1e-7), pytest.approx(1e-2))
    nbft.find_learning_rate(config.apply({"optimizer.optim": "sgd"}), lowest=1e-4)
    assert asked["learning_rates"][0] == 1e-4
    assert asked["learning_rates"][-1] == pytest.approx(1.0), "what a config may have at most"


def test_messages_become_the_result(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    telling(monkeypatch, {"say": "Training …"}, *STEPS, {"exploded": True})
    said: list[str] = []
    found = nbft.find_learning_rate(config, say=said.append)
    assert found.losses == tuple(step["loss"] for step in STEPS)
    assert found.learning_rates == tuple(RATES[:80])
    assert (found.ending, found.planned_steps) == ("exploded", 100)
    assert found.rows_per_step == 16
    assert found.apply().training.learning_rate == found.suggested
    assert said[:2] == ["Training …", "Step 1 of 100: loss 2.50 at 2e-6."]
    assert said[-1].startswith("Step 80 of 100: loss")
    assert not Path(config.training.output_dir).exists()


def test_an_interrupt_or_giving_up_leaves_what_was_measured(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling(monkeypatch, *STEPS)
    said: list[str] = []

    def interrupt(text: str) -> None:
        said.append(text)
        if len(said) == 30:
            raise KeyboardInterrupt

    found = nbft.find_learning_rate(config, say=interrupt)
    assert (len(found.losses), found.is_stopped) == (30, True)
    given_up = nbft.find_learning_rate(config, give_up=lambda: True)
    assert (given_up.losses, given_up.is_stopped) == ((), True)


def test_a_failure_is_a_sentence(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    telling(monkeypatch, {"problems": ["Memory ran out."]})
    with pytest.raises(NbftError, match=r"^Memory ran out\.$"):
        nbft.find_learning_rate(config)


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"training.method": "grpo"}, {}, "training.method='grpo': has no learning rate test"),
        ({"training.method": "rloo"}, {}, "training.method='rloo': has no learning rate test"),
        ({"training.do_train": False}, {}, "training.do_train=False: leaves nothing to test."),
        ({"training.resume_from_checkpoint": "auto"}, {}, "tested from its beginning"),
        ({"data.train.datasets[0].prompt_template": "{absent}"}, {}, "absent"),
        ({}, {"steps": 5}, "steps=5: is not a whole number from 20 to 1,000. Use 100."),
        ({}, {"lowest": 0.0}, "lowest=0.0: is no learning rate above 0 and up to 1."),
        ({}, {"highest": math.nan}, "highest=nan: is no learning rate"),
        ({}, {"lowest": 1e-3, "highest": 2e-3}, "highest=0.002: is less than ten times"),
    ],
)
def test_what_cannot_be_tested_is_refused_in_one_sentence(
    config: Config, changes: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        nbft.find_learning_rate(config.apply(changes), **options)
    assert sentence in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    task = {"config": {"nonsense": 1}, "learning_rates": [1e-6], "folder": str(tmp_path)}
    with rate_search._process(task, tmp_path / "log.txt") as messages:
        (problem,) = messages.get(timeout=60)["problems"]
    assert problem.startswith("nonsense")
