"""Each preference loss against its paper's formula, on numbers computed by hand with floats."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from nbft.config.preference import Preference
from nbft.training.preference_loss import PAIR_LOSSES, Answers, feedback_loss, pair_loss

# log π and log π_ref of two pairs, and the tokens of the answers.
CHOSEN, CHOSEN_REF, CHOSEN_TOKENS = (-12.0, -30.0), (-13.0, -28.5), (6, 10)
REJECTED, REJECTED_REF, REJECTED_TOKENS = (-20.0, -9.0), (-18.0, -9.5), (8, 3)
BETA, SHARE, GAMMA, LAMBDA = 0.4, 0.1, 0.7, 5.0


def logsigmoid(x):
    return -log(1 + exp(-x))


def sigmoid(x):
    return 1 / (1 + exp(-x))


def relu(x):
    return max(0.0, x)


def log_odds(mean):
    return mean - log(1 - exp(mean))


def by_hand(loss_type, n):
    """Return the loss of pair n, written as in the papers."""
    c, r = CHOSEN[n] - CHOSEN_REF[n], REJECTED[n] - REJECTED_REF[n]
    mean_c, mean_r = c / CHOSEN_TOKENS[n], r / REJECTED_TOKENS[n]
    own_c, own_r = CHOSEN[n] / CHOSEN_TOKENS[n], REJECTED[n] / REJECTED_TOKENS[n]
    d, b = c - r, BETA
    smoothed = lambda x: -(1 - SHARE) * logsigmoid(x) - SHARE * logsigmoid(-x)  # noqa: E731
    z_c = max(0.0, sum(a - f for a, f in zip(CHOSEN, CHOSEN_REF, strict=True)) / 2)
    z_r = max(0.0, sum(a - f for a, f in zip(REJECTED, REJECTED_REF, strict=True)) / 2)
    return {
        "sigmoid": lambda: smoothed(b * d),
        "sigmoid_norm": lambda: smoothed(b * (mean_c - mean_r)),
        "hinge": lambda: relu(1 - b * d),
        "ipo": lambda: (mean_c - mean_r - 1 / (2 * b)) ** 2,
        "simpo": lambda: smoothed(b * own_c - b * own_r - GAMMA),
        "orpo": lambda: -b * logsigmoid(log_odds(own_c) - log_odds(own_r)),
        "dpop": lambda: -logsigmoid(b * (d - LAMBDA * relu(CHOSEN_REF[n] - CHOSEN[n]))),
        "kto_pair": lambda: (1 - sigmoid(b * (c - z_r)) + 1 - sigmoid(b * (z_c - r))) / 2,
        "sppo_hard": lambda: (c - 1 / (2 * b)) ** 2 + (r + 1 / (2 * b)) ** 2,
        "nca_pair": lambda: -logsigmoid(b * c) - 0.5 * (logsigmoid(-b * c) + logsigmoid(-b * r)),
        "robust": lambda: (
            ((1 - SHARE) * -logsigmoid(b * d) - SHARE * -logsigmoid(-b * d)) / (1 - 2 * SHARE)
        ),
        "exo_pair": lambda: (
            sigmoid(b * d) * (logsigmoid(b * d) - log(1 - SHARE))
            + sigmoid(-b * d) * (logsigmoid(-b * d) - log(SHARE))
        ),
        "bco_pair": lambda: -logsigmoid(b * c) - logsigmoid(-b * r),
        "apo_zero": lambda: 1 - sigmoid(b * c) + sigmoid(b * r),
        "apo_down": lambda: sigmoid(b * c) + 1 - sigmoid(b * d),
    }[loss_type]()


def sides(loss_type):
    """Return both answers; those of losses without a reference have none."""
    is_free = loss_type in ("simpo", "orpo")
    for logps, reference, tokens in (
        (CHOSEN, CHOSEN_REF, CHOSEN_TOKENS),
        (REJECTED, REJECTED_REF, REJECTED_TOKENS),
    ):
        reference = (0.0, 0.0) if is_free else reference
        yield Answers(*(torch.tensor(v, dtype=torch.float64) for v in (logps, reference, tokens)))


_LOGPS = [*zip(CHOSEN, CHOSEN_REF, REJECTED, REJECTED_REF, strict=True)]

SETTINGS = Preference(beta=BETA, label_smoothing=SHARE, simpo_gamma=GAMMA, dpop_lambda=LAMBDA)


@pytest.mark.parametrize("loss_type", PAIR_LOSSES)
def test_a_pair_has_the_loss_of_the_paper(loss_type):
    losses = pair_loss(loss_type, *sides(loss_type), SETTINGS)
    assert losses.tolist() == pytest.approx([by_hand(loss_type, n) for n in (0, 1)], rel=1e-6)


def test_scores_widen_the_margin():
    """ODPO: -log σ(β d - α log(difference))."""
    plain = Preference(beta=BETA, offset_alpha=0.5)
    margins = torch.tensor([3.0, 0.25], dtype=torch.float64)
    losses = pair_loss("sigmoid", *sides("sigmoid"), plain, margins)
    d = [c - cr - r + rr for c, cr, r, rr in _LOGPS]
    wanted = [
        -logsigmoid(BETA * x - 0.5 * log(m + 1e-6)) for x, m in zip(d, (3.0, 0.25), strict=True)
    ]
    assert losses.tolist() == pytest.approx(wanted, rel=1e-6)


def test_without_alpha_scores_change_nothing():
    margins = torch.tensor([3.0, float("nan")])
    with_them = pair_loss("sigmoid", *sides("sigmoid"), SETTINGS, margins)
    assert with_them.tolist() == pair_loss("sigmoid", *sides("sigmoid"), SETTINGS).tolist()


def test_certain_answers_have_finite_odds_and_gradients():
    logps = torch.tensor([0.0, -1e-9], requires_grad=True)
    answers = Answers(logps, torch.zeros(2), torch.ones(2))
    worse = Answers(torch.tensor([-4.0, -200.0]), torch.zeros(2), torch.ones(2))
    pair_loss("orpo", answers, worse, SETTINGS).sum().backward()
    assert torch.isfinite(logps.grad).all()


@pytest.mark.parametrize(("loss_type", "moved"), [("kto", 0.3), ("apo_zero_unpaired", 0.0)])
def test_labelled_answers_have_the_loss_of_the_paper(loss_type, moved):
    settings = Preference(beta=BETA, desirable_weight=1.2, undesirable_weight=0.7)
    chosen, _ = sides("sigmoid")
    losses = feedback_loss(
        loss_type, chosen, torch.tensor([True, False]), torch.tensor(0.3), settings
    )
    good, bad = (CHOSEN[n] - CHOSEN_REF[n] for n in (0, 1))
    wanted = [
        1.2 * (1 - sigmoid(BETA * (good - moved))),
        0.7 * (1 - sigmoid(BETA * (moved - bad))),
    ]
    assert losses.tolist() == pytest.approx(wanted, rel=1e-6)
