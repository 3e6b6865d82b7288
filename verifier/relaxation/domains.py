"""Where bounds reach beyond the domain of a function: log and sqrt of what may be negative, 1 / x of what may be 0."""

from __future__ import annotations

import torch

from verifier.bound_map import Bounds
from verifier.ops.curves import Smooth
from verifier.query import Query
from verifier.relaxation.interval import propagate
from verifier.relaxation.ranges import Range
from verifier.verdict import Outside


def outside(query: Query, known: Bounds) -> list[Outside | None]:
    """Per example the first node, in the order of the graph, whose input may be outside of its function's domain.

    Args:
        known: what was found of the nodes; what was not is bounded by intervals.
    """
    found: list[Outside | None] = [None] * query.batch
    nodes = [node for node in query.graph.nodes if isinstance(node.op, Smooth) and node.op.forbidden]
    ranges = propagate(query, known) if nodes else {}
    for node in nodes:
        op = node.op
        assert isinstance(op, Smooth)
        low, high = ranges[node.parents[0]]
        wrong = ~op.defined(low, high) & ~low.isnan() & ~high.isnan()  # NaN comes from a node before it
        for b in wrong.flatten(1).any(1).nonzero().squeeze(1).tolist():
            found[b] = found[b] or _described(str(node), op, (low[b][wrong[b]], high[b][wrong[b]]))
    return found


def _described(node: str, op: Smooth, ends: Range) -> Outside:
    """Of the entries that may be outside, [k] each, the one with the widest bounds."""
    worst = int(torch.argmax(ends[1] - ends[0]))
    advice = f"take a smaller set (eps), or {op.remedy} in the model"
    return Outside(node, op.formula, float(ends[0][worst]), float(ends[1][worst]), op.forbidden, advice)
