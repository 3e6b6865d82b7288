"""Interval arithmetic, also called interval bound propagation (IBP): the cheapest bounds, for every operator."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bound_map import BoundMethod, Bounds, Provenance
from verifier.forms import Dense, LinearForm
from verifier.graph import Graph
from verifier.ops.base import Affine, Nonlinear
from verifier.query import Query
from verifier.relaxation.ranges import Range, middle_and_radius
from verifier.relaxation.roundoff import Roundoffs, interval_cost
from verifier.verdict import Trust

SOURCE = Provenance("interval", Trust.FLOAT, BoundMethod.INTERVAL)


def step(graph: Graph, node: int, ranges: dict[int, Range]) -> Range:
    """Bounds of one node from those of its parents."""
    op, parents = graph.nodes[node].op, graph.nodes[node].parents
    if isinstance(op, Nonlinear):
        return op.range(*ranges[parents[0]])
    assert isinstance(op, Affine)
    middles, radii = [], []
    for parent in parents:
        middle, radius = middle_and_radius(*ranges[parent])
        middles.append(middle)
        radii.append(radius)
    middle, radius = op.apply(*middles), op.apply_abs(*radii)
    return _not_below_zero(op, [ranges[p][0] for p in parents], middle - radius), middle + radius


def _not_below_zero(op: Affine, parents: list[Tensor], lower: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
    """Lower ends, of sums of what is not negative at least 0: rounding would leave roots of large squares undefined.

    Args:
        parents: their lower ends, [B, *shape of the parent] each.
    """
    if not op.adds:
        return lower
    known = torch.stack([(p >= 0).unsqueeze(-1).flatten(1).all(1) for p in parents]).all(0)  # [B]
    least = op.apply(*(torch.zeros_like(p[:1]) for p in parents))
    better = known.view(-1, *[1] * (lower.dim() - 1)) & (least >= 0)
    return torch.where(better, torch.maximum(lower, least), lower)


def propagate(query: Query, known: Bounds) -> dict[int, Range]:
    """Bounds of every node, each intersected with what is known of it.

    Rounding is not paid for here: what is known holds where that leaves nothing in common.
    """
    ranges: dict[int, Range] = {0: query.inputs.box(query.graph.dtype)}
    for node in range(1, len(query.graph.nodes)):
        ranges[node] = step(query.graph, node, ranges)
        if node in known:
            tight = known[node]
            lower, upper = torch.fmax(ranges[node][0], tight.lower), torch.fmin(ranges[node][1], tight.upper)
            apart = lower > upper
            ranges[node] = torch.where(apart, tight.lower, lower), torch.where(apart, tight.upper, upper)
    return ranges


def resumed(query: Query, found: Bounds) -> dict[int, Range]:
    """Bounds of every node, those in `found` taken as they are: what `propagate` ended with when it found them."""
    ranges: dict[int, Range] = {0: query.inputs.box(query.graph.dtype)}
    for node in range(1, len(query.graph.nodes)):
        kept = found.get(node)
        ranges[node] = step(query.graph, node, ranges) if kept is None else (kept.lower, kept.upper)
    return ranges


def specification_bound(query: Query, ranges: dict[int, Range], roundoffs: Roundoffs | None = None) -> Tensor:
    """Lower bounds [B, S] of the rows: through the last affine layer as one linear form, then intervals.

    Args:
        roundoffs: what rounding may cost, taken off; they have seen all nodes.
    """
    graph, dtype = query.graph, query.graph.dtype
    rows: LinearForm = Dense(query.spec.rows.to(dtype).unflatten(2, graph.output_shape))
    form = rows
    constant = query.spec.offset.to(dtype)
    node, op = graph.output, graph.nodes[graph.output].op
    if isinstance(op, Affine) and len(graph.nodes[node].parents) == 1:
        shapes = graph.parent_shapes(node)
        bias = op.bias(shapes, query.spec.rows.to(dtype))
        if bias is not None:
            constant = constant + form.dot(bias)
        form = op.adjoint(form, shapes, 0)
        node = graph.nodes[node].parents[0]
    middle, radius = middle_and_radius(*ranges[node])
    lower = constant + form.dot(middle) - form.abs_dot(radius)
    return lower if roundoffs is None else lower - interval_cost(query, roundoffs, rows, form, middle.abs() + radius)
