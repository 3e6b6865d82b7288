"""Bounds by interval arithmetic: of all nodes in one pass; as functions of the input they are constants."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.bounding.asked import Asked, query_about
from verifier.bounding.errors import estimated, widened
from verifier.bounding.found import Lines, NodeBounds
from verifier.query import Query
from verifier.relaxation.interval import propagate, specification_bound
from verifier.relaxation.ranges import Range
from verifier.relaxation.roundoff import Roundoffs, rigorous, rounded_outward, roundoffs_for
from verifier.verdict import Trust


def by_interval(query: Query, asked: Asked, differentiable: bool) -> tuple[dict[int, NodeBounds], Trust]:
    """Bounds of what is asked, and their trust; arguments as of `verifier.bounding.by_rule`."""
    roundoffs = None if differentiable else roundoffs_for(query)
    ranges = propagate(query, Bounds()) if roundoffs is None else rounded_outward(query, Bounds(), roundoffs)
    found = {}
    for node, rows in asked.nodes.items():
        one = NodeBounds(*ranges[node]) if rows is None else _rows(query, rows, ranges, roundoffs)
        one = widened(one, estimated(query.graph, ranges, node, rows)) if not (differentiable or roundoffs) else one
        found[node] = NodeBounds(one.lower, one.upper, _constant(one, query) if asked.lines else None)
    return found, Trust.CHECKED if rigorous(query) and not differentiable else Trust.FLOAT


def _rows(query: Query, rows: Tensor, ranges: dict[int, Range], roundoffs: Roundoffs | None) -> NodeBounds:
    """Bounds of rows [B or 1, S, outputs], the last layer merged with them."""
    both = query_about(query.graph, query.inputs, torch.cat([rows, -rows], 1))
    lower, upper = specification_bound(both, ranges, roundoffs).chunk(2, 1)
    return NodeBounds(lower, -upper)


def _constant(found: NodeBounds, query: Query) -> Lines:
    flat = found.lower.new_zeros(*found.lower.shape, *query.inputs.shape)
    return Lines(flat, found.lower, flat, found.upper)
