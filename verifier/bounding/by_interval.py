"""Bounds by interval arithmetic: of all nodes in one pass; as functions of the input they are constants."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bound_map import Bounds, Interval
from verifier.bounding.asked import Asked, query_about
from verifier.bounding.errors import estimated, widened
from verifier.bounding.found import Lines, NodeBounds
from verifier.budget import Budget, OutOfTime, checkpoint
from verifier.query import Query
from verifier.relaxation.interval import SOURCE, specification_bound, step
from verifier.relaxation.ranges import Range
from verifier.relaxation.roundoff import Roundoffs, rigorous, roundoffs_for
from verifier.verdict import Trust


def by_interval(
    query: Query, asked: Asked, differentiable: bool, budget: Budget
) -> tuple[dict[int, NodeBounds], Trust, bool]:
    """Bounds of what is asked, their trust, and whether time ran out; arguments as of `verifier.bounding.by_rule`."""
    roundoffs = None if differentiable else roundoffs_for(query)
    with budget.enforced(finish=True):
        ranges = intervals(query, Bounds(), roundoffs)
    found = {}
    for node, rows in asked.nodes.items():
        one = over_intervals(query, node, rows, ranges, roundoffs)
        if node in ranges and not differentiable and roundoffs is None:
            one = widened(one, estimated(query.graph, ranges, node, rows))
        found[node] = NodeBounds(one.lower, one.upper, constant(one, query) if asked.lines else None)
    trust = Trust.CHECKED if rigorous(query) and not differentiable else Trust.FLOAT
    return found, trust, len(ranges) < len(query.graph.nodes)


def intervals(query: Query, known: Bounds, roundoffs: Roundoffs | None) -> dict[int, Range]:
    """Bounds of every node, each intersected with what is known of it; of the first ones, where the time is over.

    Args:
        roundoffs: new ones, to be filled in here: bounds are rounded outward; None: as floating point computes them.
    """
    graph = query.graph
    ranges: dict[int, Range] = {0: query.inputs.box(graph.dtype)}
    try:
        for node in range(1, len(graph.nodes)):
            checkpoint()
            ranges[node] = step(graph, node, ranges) if roundoffs is None else roundoffs.step(node, ranges)
            if node in known:
                tight = Interval.of(*ranges[node], SOURCE).intersect(known[node])
                ranges[node] = (tight.lower, tight.upper)
    except OutOfTime:
        pass  # what is not there is unbounded
    return ranges


def over_intervals(
    query: Query, node: int, rows: Tensor | None, ranges: dict[int, Range], roundoffs: Roundoffs | None
) -> NodeBounds:  # rows [B or 1, S, outputs]
    """Bounds of a node, or of rows on the outputs; infinite ones of a node that is not in `ranges`."""
    shape = query.graph.nodes[node].shape if rows is None else (rows.shape[1],)
    if node not in ranges:
        infinite = ranges[0][0].new_full((query.batch, *shape), torch.inf)
        return NodeBounds(-infinite, infinite)
    return NodeBounds(*ranges[node]) if rows is None else _rows(query, rows, ranges, roundoffs)


def constant(found: NodeBounds, query: Query) -> Lines:
    """Bounds as functions of the input."""
    flat = found.lower.new_zeros(*found.lower.shape, *query.inputs.shape)
    return Lines(flat, found.lower, flat, found.upper)


def _rows(query: Query, rows: Tensor, ranges: dict[int, Range], roundoffs: Roundoffs | None) -> NodeBounds:
    """Bounds of rows [B or 1, S, outputs], the last layer merged with them."""
    both = query_about(query.graph, query.inputs, torch.cat([rows, -rows], 1))
    lower, upper = specification_bound(both, ranges, roundoffs).chunk(2, 1)
    return NodeBounds(lower, -upper)
