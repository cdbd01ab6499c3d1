"""Training of a reward model: the score of each answer, and a loss that compares those of a pair.

What is common to methods that compare answers comes from `nbft.training.preference`, and the layout of
a batch with it: rows joined without padding, and a prompt computed once for both of its answers.
Losses equal those of TRL's RewardTrainer (`tests/e2e/test_reward.py`). Called by `nbft.methods.reward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from nbft.models.reward_head import last_place
from nbft.training.preference import AnswerCollator, PreferenceTrainer, PromptAndAnswer


class RewardCollator(AnswerCollator):
    """Makes batches of answers that are scored; arguments as `AnswerCollator`.

    A batch has the model's inputs; `places` [answers], where the score of each answer is read, all
    first answers of the rows before all second ones; and `values`, the margin of each row.
    """

    def answers(self, rows: Sequence[Sequence[PromptAndAnswer]]) -> dict[str, Any]:
        """Return the part of a batch that is about the answers of its rows."""
        inputs, places_of = self._laid_out(rows)
        places = [
            place_of[n][last_place(row[n].ids, self.pad_token_id)]
            for n in range(len(rows[0]))
            for row, place_of in zip(rows, places_of, strict=True)
        ]
        return {**inputs, "places": torch.tensor(places)}


class RewardTrainer(PreferenceTrainer):
    """Trains a model to score chosen answers higher; arguments as transformers' Trainer."""

    def _use_head(self, inner: Any) -> None:
        """Let the model, which has its head since it was loaded, know its padding token.

        Whoever loads the trained model finds the last token of a text by it.
        """
        inner.config.get_text_config().pad_token_id = self._collate.pad_token_id

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss of a batch, and note its measures."""
        given = {name: value for name, value in inputs.items() if name != "values"}
        chosen, rejected = model(**given).logits[:, 0].float().chunk(2)
        losses = reward_loss(chosen, rejected, inputs["values"]["margin"])
        if weight := self.nbft_config.preference.center_rewards_coefficient:
            # Equation 2 of arXiv:2312.09244: only differences are trained, so the level may drift.
            losses = losses + weight * (chosen + rejected) ** 2
        loss = losses.mean()
        margin = (chosen - rejected).detach()
        noted = {
            "loss": losses.detach(),
            "rewards/margins": margin,
            "rewards/accuracies": (margin > 0).float(),
            "rewards/chosen": chosen.detach(),
            "rewards/rejected": rejected.detach(),
        }
        own = self._own_rows(len(losses))
        self._note({name: values[:own] for name, values in noted.items()})
        return (loss, None) if return_outputs else loss


def reward_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, margins: torch.Tensor
) -> torch.Tensor:
    """Return -log σ(r_chosen - r_rejected - margin) of each pair, [b].

    Args:
        chosen: Scores of the better answers, [b].
        rejected: Scores of the worse answers, [b].
        margins: By how much the better one should be higher, [b]; 0 where nothing is asked.

    Source: InstructGPT, arXiv:2203.02155, equation 1; Llama 2, arXiv:2307.09288, equation 2.

    >>> zero, two = torch.zeros(1), torch.full((1,), 2.0)
    >>> [round(float(reward_loss(two, zero, margin)), 4) for margin in (zero, two)]
    [0.1269, 0.6931]
    """
    return -logsigmoid(chosen - rejected - margins)
