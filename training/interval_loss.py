"""Losses made of margins, logit[label] - logit[other]: at points, and at the worst that intervals allow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from properties import InputSet, robustness
from properties.specification import other_classes
from verifier.bounds import Bounds
from verifier.graph import Graph
from verifier.query import Query
from verifier.stages.interval import propagate, specification_bound


def interval_margins(graph: Graph, inputs: InputSet, label: Tensor) -> Tensor:  # [B] int64 -> [B, classes - 1]
    """Lower bounds of all margins over the box of each input set, the last layer merged with the differences.

    Args:
        graph: with live parameters (as imported), so that gradients reach the weights.
    """
    query = Query.of(graph, inputs, robustness(label, torch.Size(graph.output_shape).numel()))
    return specification_bound(query, propagate(query, Bounds()))


def margins_of(outputs: Tensor, label: Tensor) -> Tensor:  # [B, classes], [B] int64 -> [B, classes - 1]
    """Margins of outputs, over the other classes in increasing order."""
    return outputs.gather(1, label.unsqueeze(1)) - outputs.gather(1, other_classes(label, outputs.shape[1]))


def cross_entropy_of(margins: Tensor) -> Tensor:  # [B, classes - 1] -> [B]
    """Cross-entropy of each example, of the logits relative to the label's: 0, and minus the margins.

    As softplus of the others' logarithmic sum, which keeps its digits where the loss is tiny.
    """
    return F.softplus(torch.logsumexp(-margins, 1))
