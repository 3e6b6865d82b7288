"""Margins, logit[label] - logit[other], of outputs at points, and the share of examples that they leave wrong."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from properties.specification import other_classes


def margins_of(outputs: Tensor, label: Tensor) -> Tensor:  # [B, classes], [B] int64 -> [B, classes - 1]
    """Margins of outputs, over the other classes in increasing order."""
    return outputs.gather(1, label.unsqueeze(1)) - outputs.gather(1, other_classes(label, outputs.shape[1]))


def hinge_loss(outputs: Tensor, label: Tensor) -> Tensor:  # [B, classes], [B] int64 -> [B]
    """The multiclass hinge loss: by how much the smallest margin is below 1."""
    return F.relu(1 - margins_of(outputs, label).amin(1))


def error_at(outputs: Tensor, label: Tensor) -> Tensor:  # [B, classes], [B] int64 -> []
    """Share of the examples whose largest output is not the label's; no gradient."""
    return (outputs.detach().argmax(1) != label).to(outputs.dtype).mean()


def error_of(margins: Tensor) -> Tensor:  # [B, classes - 1] -> []
    """Share of the examples whose margins are not all positive: wrong at the points, or not proved on the sets."""
    return (~(margins > 0).all(1)).to(margins).mean()
