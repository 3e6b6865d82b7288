"""Activations that integer programs can hold exactly: those whose graph is a polyline."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from verifier.graph.cuts import CutLayer
from verifier.graph.ir import Graph
from verifier.ops.base import Activation


def is_polyline(graph: Graph, node: int) -> bool:
    """Whether an activation has an exact encoding."""
    op = graph.nodes[node].op
    if not isinstance(op, Activation):
        return False
    end = torch.ones(1, 1, dtype=torch.float64)
    return op.pieces(-end, end).exact


def all_polylines(graph: Graph, layers: Sequence[CutLayer]) -> bool:
    """Whether these layers have all of the graph's activations, and each has an exact encoding."""
    inside = {i for layer in layers for i in layer.activations}
    return all(i in inside and is_polyline(graph, i) for i in graph.activations)
