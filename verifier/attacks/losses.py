"""What an attack descends on: functions of the clauses' values, lower where the specification is nearer to broken.

For a robustness specification the clauses are the margins logit[label] - logit[other], so that the logits relative to
the label's are 0 and minus the clauses. Written this way, every loss works for any specification.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.attacks.problem import pick
from verifier.registry import Registry

#: losses by the name that users give them
LOSSES: Registry[type[AttackLoss]] = Registry("loss", "verifier.attacks", "verifier.attack_losses")
register = LOSSES.register


def cross_entropy(margins: Tensor, target: Tensor | None = None) -> Tensor:
    """Cross-entropy [B] of the logits relative to the label's: 0 for the label, and minus the margins for the others.

    At lower bounds of the margins it is an upper bound of the cross-entropy of the label, which falls in every margin:
    the robust loss of Wong & Kolter (2018), Theorem 2. Written as softplus of the others' logarithmic sum, which keeps
    its digits where the loss is tiny.

    Args:
        margins: [B, classes - 1], of the label over each other class, at points or over whole sets.
        target: [B] int64, the column of the class whose cross-entropy it is to be in place of the label's.
    """
    loss = F.softplus(torch.logsumexp(-margins, 1))
    return loss if target is None else loss + pick(margins, target)


class AttackLoss(ABC):
    """A number per example that an attack makes small."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, clauses: Tensor, target: Tensor | None = None) -> Tensor:  # [B, clauses], [B] -> [B]
        """The loss at clause values, of breaking clause `target` where one is given and any clause otherwise."""


@register
class MarginLoss(AttackLoss):
    """The lowest clause, or the target's (Carlini & Wagner 2017, without the cut at zero)."""

    name = "margin"

    def __call__(self, clauses: Tensor, target: Tensor | None = None) -> Tensor:  # [B, clauses], [B] -> [B]
        return clauses.amin(1) if target is None else pick(clauses, target)


@register
class CrossEntropy(AttackLoss):
    """Minus the cross-entropy of the label; with a target, the cross-entropy of the target's class."""

    name = "cross-entropy"

    def __call__(self, clauses: Tensor, target: Tensor | None = None) -> Tensor:  # [B, clauses], [B] -> [B]
        return -cross_entropy(clauses) if target is None else cross_entropy(clauses, target)


@register
class LogitRatio(AttackLoss):
    """The margin over the distance of the largest logit from the third (DLR of Croce & Hein 2020, section 3.2).

    Invariant to the scale of the logits. Needs two clauses; one alone is its own margin.
    """

    name = "logit-ratio"

    def __call__(self, clauses: Tensor, target: Tensor | None = None) -> Tensor:  # [B, clauses], [B] -> [B]
        margin = MarginLoss()(clauses, target)
        if clauses.shape[1] < 2:
            return margin
        top = F.pad(-clauses, (1, 0)).topk(3, 1).values
        spread = top[:, 0] - top[:, 2]
        return margin / torch.where(spread > 0, spread, 1.0)
