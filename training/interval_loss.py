"""The worst margins that intervals allow."""

from __future__ import annotations

import torch
from torch import Tensor

from properties import InputSet, robustness
from verifier.bound_map import Bounds
from verifier.graph import Graph
from verifier.query import Query
from verifier.relaxation.interval import propagate, specification_bound


def interval_margins(graph: Graph, inputs: InputSet, label: Tensor) -> Tensor:  # [B] int64 -> [B, classes - 1]
    """Lower bounds of all margins over the box of each input set, the last layer merged with the differences.

    Args:
        graph: with live parameters (as imported), so that gradients reach the weights.
    """
    query = Query.of(graph, inputs, robustness(label, torch.Size(graph.output_shape).numel()))
    return specification_bound(query, propagate(query, Bounds()))
