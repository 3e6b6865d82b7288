"""The robust loss of Wong & Kolter (2018), Theorem 2: cross-entropy at the dual bounds of all margins."""

from __future__ import annotations

import torch
from torch import Tensor

from properties import InputSet, robustness
from verifier.attacks.losses import cross_entropy
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.graph import Graph
from verifier.query import Query
from verifier.stages.dual import DualStage


def robust_loss(graph: Graph, inputs: InputSet, label: Tensor, stage: DualStage | None = None) -> tuple[Tensor, Tensor]:
    """Upper bound of the mean cross-entropy over the input sets, and the proven margins.

    Args:
        graph: with live parameters (as imported), so that gradients reach the weights.
        inputs: B input sets; label: [B] int64.
        stage: the bound to differentiate; default the dual stage with fixed slopes.

    Returns:
        The loss (a scalar), and the margins [B, classes - 1]: all positive means certified.
    """
    query = Query.of(graph, inputs, robustness(label, torch.Size(graph.output_shape).numel()))
    report = (stage or DualStage()).plain(query, Bounds(), Budget())
    assert report.lower is not None
    return cross_entropy(report.lower).mean(), report.lower
