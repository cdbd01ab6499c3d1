"""Odds ratio preference optimization: SFT and preference training in one, without a reference model.

Source: arXiv:2403.07691.
"""

from __future__ import annotations

from nbft.methods.dpo import Dpo


class Orpo(Dpo):
    """The SFT loss of the chosen answers, and the odds of both."""

    title = "preference training (ORPO)"
    loss_types = ("orpo",)
    sft_weight = 1.0
    has_reference = False


METHOD = Orpo()
