"""The losses of preference training, as functions of the log-probabilities of whole answers.

Of a pair, c and r are the log-ratios of the chosen and the rejected answer, log π(y|x) - log π_ref(y|x),
and d = c - r. Without a reference, log π_ref is 0. β is `preference.beta`. Each loss names the paper
that it comes from; `tests/unit/training/test_preference_loss.py` holds them to numbers computed by
hand, and to TRL's. Called by `nbft.training.preference`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid, relu

from nbft.config.preference import Preference


@dataclass(frozen=True)
class Answers:
    """Answers to the prompts of a batch, all chosen ones or all rejected ones.

    Attributes:
        logps: Log-probability of each, summed over its tokens, [b].
        reference: The same of the reference model; 0 without one, [b].
        tokens: Tokens of each that are trained on, [b].
    """

    logps: torch.Tensor
    reference: torch.Tensor
    tokens: torch.Tensor

    @property
    def ratios(self) -> torch.Tensor:
        """Log π(y|x) - log π_ref(y|x), [b]."""
        return self.logps - self.reference

    @property
    def mean_ratios(self) -> torch.Tensor:
        """The same per token, [b]."""
        return self.ratios / self.tokens


Loss = Callable[[Answers, Answers, Preference], torch.Tensor]
"""Chosen and rejected answers with the settings to the loss of each pair, [b]."""


def pair_loss(
    loss_type: str,
    chosen: Answers,
    rejected: Answers,
    settings: Preference,
    margins: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of each pair, [b].

    Args:
        loss_type: A key of `PAIR_LOSSES`.
        chosen: The better answers.
        rejected: The worse answers.
        settings: β and what else the loss asks for.
        margins: How much higher the chosen answer is scored, [b]; None where rows have no scores.
    """
    if margins is not None and settings.offset_alpha:
        # ODPO, arXiv:2402.10571, equation 6: the margin grows with the difference in scores.
        offset = settings.offset_alpha / settings.beta * torch.log(margins + 1e-6)
        chosen = Answers(chosen.logps - offset, chosen.reference, chosen.tokens)
    return PAIR_LOSSES[loss_type](chosen, rejected, settings)


def _smoothed(logits: torch.Tensor, share: float) -> torch.Tensor:
    """Return -log σ(logits), if a share of the pairs is the wrong way round.

    Source: conservative DPO, https://ericmitchell.ai/cdpo.pdf.
    """
    return -(1 - share) * logsigmoid(logits) - share * logsigmoid(-logits)


def _sigmoid(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """DPO, arXiv:2305.18290, equation 7."""
    return _smoothed(settings.beta * (chosen.ratios - rejected.ratios), settings.label_smoothing)


def _sigmoid_norm(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """DPO with log-ratios per token, as in Tulu 3, arXiv:2411.15124, section 5.1.2."""
    difference = chosen.mean_ratios - rejected.mean_ratios
    return _smoothed(settings.beta * difference, settings.label_smoothing)


def _hinge(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """SLiC, arXiv:2305.10425, with log-ratios as in RSO, arXiv:2309.06657."""
    return relu(1 - settings.beta * (chosen.ratios - rejected.ratios))


def _ipo(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """IPO, arXiv:2310.12036, equation 17; per token, as its authors computed it."""
    return (chosen.mean_ratios - rejected.mean_ratios - 1 / (2 * settings.beta)) ** 2


def _simpo(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """SimPO, arXiv:2405.14734, equation 6."""
    difference = settings.beta * (chosen.mean_ratios - rejected.mean_ratios)
    return _smoothed(difference - settings.simpo_gamma, settings.label_smoothing)


def _orpo(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """The odds ratio of ORPO, arXiv:2403.07691, equation 7; β is its λ."""
    return -settings.beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(answers: Answers) -> torch.Tensor:
    """Return log(p / (1 - p)), p being the geometric mean of the tokens' probabilities, [b]."""
    mean = answers.mean_ratios.clamp(max=-1e-7)  # p = 1 would have infinite odds
    # log(1 - p) is inexact by log1p for small p and by expm1 for large ones.
    rest = torch.where(mean > -0.693, torch.log(-torch.expm1(mean)), torch.log1p(-mean.exp()))
    return mean - rest


def _dpop(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """DPO-Positive, arXiv:2402.13228, equation 3: chosen answers may not become less likely."""
    penalty = settings.dpop_lambda * relu(-chosen.ratios)
    return -logsigmoid(settings.beta * (chosen.ratios - rejected.ratios - penalty))


def _kto_pair(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """KTO, arXiv:2402.01306, on pairs: each side's mean log-ratio stands for the other's KL."""
    of_chosen = chosen.ratios.mean().clamp(min=0).detach()
    of_rejected = rejected.ratios.mean().clamp(min=0).detach()
    gains = torch.sigmoid(settings.beta * (chosen.ratios - of_rejected))
    losses = torch.sigmoid(settings.beta * (of_chosen - rejected.ratios))
    return 1 - (gains + losses) / 2


def _sppo_hard(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """SPPO, arXiv:2405.00675, equation 4.7, where the chosen answer always wins."""
    goal = 0.5 / settings.beta
    return (chosen.ratios - goal) ** 2 + (rejected.ratios + goal) ** 2


def _nca_pair(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """NCA, arXiv:2402.05369, on pairs."""
    good, bad = settings.beta * chosen.ratios, settings.beta * rejected.ratios
    return -logsigmoid(good) - 0.5 * logsigmoid(-good) - 0.5 * logsigmoid(-bad)


def _robust(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """Robust DPO, arXiv:2403.00409, equation 14."""
    logits, share = settings.beta * (chosen.ratios - rejected.ratios), settings.label_smoothing
    return (-(1 - share) * logsigmoid(logits) + share * logsigmoid(-logits)) / (1 - 2 * share)


def _exo_pair(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """EXO, arXiv:2402.00856, equation 16."""
    logits, share = settings.beta * (chosen.ratios - rejected.ratios), settings.label_smoothing
    better, worse = torch.tensor(1 - share).log(), torch.tensor(share).log()
    return torch.sigmoid(logits) * (logsigmoid(logits) - better) + torch.sigmoid(-logits) * (
        logsigmoid(-logits) - worse
    )


def _bco_pair(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """BCO, arXiv:2404.04656, on pairs."""
    return -logsigmoid(settings.beta * chosen.ratios) - logsigmoid(-settings.beta * rejected.ratios)


def _apo_zero(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """APO-zero, arXiv:2408.06266, equation 7."""
    beta = settings.beta
    return 1 - torch.sigmoid(beta * chosen.ratios) + torch.sigmoid(beta * rejected.ratios)


def _apo_down(chosen: Answers, rejected: Answers, settings: Preference) -> torch.Tensor:
    """APO-down, arXiv:2408.06266, equation 8."""
    beta, difference = settings.beta, chosen.ratios - rejected.ratios
    return torch.sigmoid(beta * chosen.ratios) + 1 - torch.sigmoid(beta * difference)


PAIR_LOSSES: dict[str, Loss] = {
    "sigmoid": _sigmoid,
    "sigmoid_norm": _sigmoid_norm,
    "hinge": _hinge,
    "ipo": _ipo,
    "simpo": _simpo,
    "orpo": _orpo,
    "dpop": _dpop,
    "kto_pair": _kto_pair,
    "sppo_hard": _sppo_hard,
    "nca_pair": _nca_pair,
    "robust": _robust,
    "exo_pair": _exo_pair,
    "bco_pair": _bco_pair,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
}


def feedback_loss(
    loss_type: str,
    answers: Answers,
    is_good: torch.Tensor,
    kl: torch.Tensor,
    settings: Preference,
) -> torch.Tensor:
    """Return the loss of each labelled answer, [b].

    Args:
        loss_type: kto or apo_zero_unpaired.
        answers: The answers.
        is_good: Whether each is a good one, [b].
        kl: How far the model has moved from the reference model, at least 0, as a number.
        settings: β and the weights of good and bad answers.

    Source: KTO, arXiv:2402.01306, equation 8; APO-zero, arXiv:2408.06266, equation 7, without pairs.
    """
    moved = kl if loss_type == "kto" else 0.0
    sign = torch.where(is_good, 1.0, -1.0)
    losses = 1 - torch.sigmoid(settings.beta * sign * (answers.ratios - moved))
    weights = torch.where(is_good, settings.desirable_weight, settings.undesirable_weight)
    return weights * losses
