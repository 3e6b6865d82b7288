"""Activations that integer programs can hold exactly: those whose graph is a polyline."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from verifier.graph.cuts import CutLayer
from verifier.graph.ir import Graph
from verifier.ops.base import Activation


def is_polyline(graph: Graph, node: int) -> bool:
    """Whether an activation has an encoding by integers: jumps are vertical parts of a polyline."""
    op = graph.nodes[node].op
    end = torch.ones(1, 1, dtype=torch.float64)
    return isinstance(op, Activation) and op.polyline(-end, end) is not None


def all_polylines(graph: Graph, layers: Sequence[CutLayer]) -> bool:
    """Whether these layers have all of the graph's activations, and each has an exact encoding: none of them jumps.

    (At a jump the encoding leaves open which value it is, and a little beside it.)
    """
    inside = {i for layer in layers for i in layer.activations}
    return all(i in inside and is_polyline(graph, i) and not _jumps(graph, i) for i in graph.activations)


def _jumps(graph: Graph, node: int) -> bool:
    op = graph.nodes[node].op
    return isinstance(op, Activation) and bool(op.facts.jumps)
