"""Losses made of margins, logit[label] - logit[other]: of values at points, and of what is proved about whole sets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from properties.specification import other_classes


def margins_of(outputs: Tensor, label: Tensor) -> Tensor:  # [B, classes], [B] int64 -> [B, classes - 1]
    """Margins of outputs, over the other classes in increasing order."""
    return outputs.gather(1, label.unsqueeze(1)) - outputs.gather(1, other_classes(label, outputs.shape[1]))


def cross_entropy_of(margins: Tensor) -> Tensor:  # [B, classes - 1] -> [B]
    """Cross-entropy of each example, of the logits relative to the label's: 0, and minus the margins.

    At lower bounds of the margins it is an upper bound of the cross-entropy: that falls in every margin. Written as
    softplus of the others' logarithmic sum, which keeps its digits where the loss is tiny.
    """
    return F.softplus(torch.logsumexp(-margins, 1))


def error_of(margins: Tensor) -> Tensor:  # [B, classes - 1] -> []
    """Share of the examples whose margins are not all positive: wrong at the points, or not proved on the sets."""
    return (~(margins > 0).all(1)).to(margins).mean()
