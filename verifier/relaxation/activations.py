"""The activations of a graph over the bounds of their pre-activations."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from verifier.bounds import Interval
from verifier.graph import Graph
from verifier.ops.base import Activation, SlopeRule
from verifier.relaxation.backward import Relaxation


def activation_over(graph: Graph, bounds: Mapping[int, Interval], node: int) -> tuple[Activation, Tensor, Tensor]:
    """The activation at a node, and the ends of its pre-activation's interval, [B, *shape] each."""
    op, interval = graph.nodes[node].op, bounds[graph.nodes[node].parents[0]]
    assert isinstance(op, Activation)
    return op, interval.lower, interval.upper


def relaxations(graph: Graph, bounds: Mapping[int, Interval], rule: SlopeRule) -> dict[int, Relaxation]:
    """The linear relaxation of every activation, its free lines by a rule."""
    found = {}
    for i in graph.activations:
        op, lower, upper = activation_over(graph, bounds, i)
        found[i] = Relaxation.of(op.relax(lower, upper, rule))
    return found
