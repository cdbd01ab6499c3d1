"""Contrastive preference optimization: DPO without a reference model, with an SFT loss.

Source: arXiv:2401.08417; SimPO, arXiv:2405.14734, is its loss_type simpo.
"""

from __future__ import annotations

from nbft.methods.dpo import Dpo


class Cpo(Dpo):
    """Pairs are compared with each other only."""

    title = "preference training (CPO)"
    loss_types = ("sigmoid", "hinge", "ipo", "simpo")
    sft_weight = 1.0
    has_reference = False


METHOD = Cpo()
