"""The activations and products of a graph over the bounds of what they read."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from verifier.bound_map import Interval
from verifier.graph import Graph
from verifier.ops.base import Nonlinear, SlopeRule
from verifier.ops.product import Product
from verifier.relaxation.backward import Lowering, Relaxation
from verifier.relaxation.products import Planes


def activation_over(graph: Graph, bounds: Mapping[int, Interval], node: int) -> tuple[Nonlinear, Tensor, Tensor]:
    """The activation (or product) at a node, and the ends of its pre-activation's interval, [B, *shape] each."""
    op, interval = graph.nodes[node].op, bounds[graph.nodes[node].parents[0]]
    assert isinstance(op, Nonlinear)
    return op, interval.lower, interval.upper


def relaxations(graph: Graph, bounds: Mapping[int, Interval], rule: SlopeRule) -> dict[int, Lowering]:
    """The linear relaxation of every activation, its free lines by a rule."""
    return {i: relaxed(*activation_over(graph, bounds, i), rule) for i in graph.activations}


def relaxed(op: Nonlinear, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> Lowering:
    """What bounds an activation or a product over [lower, upper] ([B, *shape of the parent]) below a form."""
    lines = op.relax(lower, upper, slope)
    if isinstance(op, Product):
        return Planes(op, tuple(lower.shape[1:]), lines)
    return Relaxation.of(lines)
