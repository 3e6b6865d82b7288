"""What bounds that have not paid for rounding are taken apart by: an estimate (verifier.rounding)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verifier.bounding.found import NodeBounds
from verifier.graph import Graph
from verifier.relaxation.ranges import Range
from verifier.rounding import bound_error, gamma, unit_roundoff


def estimated(graph: Graph, ranges: Mapping[int, Range], node: int, rows: Tensor | None) -> Tensor:
    """Estimated rounding error [B, S] of bounding a node's entries, or rows [B or 1, S, entries] on them.

    Args:
        ranges: bounds of the nodes up to `node` over the input sets.
    """
    unit = unit_roundoff(graph.dtype)
    error = bound_error(graph.until(node), {i: ranges[i] for i in range(node + 1)}, unit).flatten(1)
    low, high = (end.flatten(1) for end in ranges[node])
    size = torch.maximum(low.abs(), high.abs()) + error
    terms = 2
    if rows is not None:
        weights = rows.to(error).abs()
        error, size = ((weights @ t.unsqueeze(2)).squeeze(2) for t in (error, size))
        terms += rows.shape[2]
    return (error + 1.01 * gamma(terms, unit) * size).nan_to_num(nan=torch.inf, posinf=torch.inf)


def widened(found: NodeBounds, error: Tensor) -> NodeBounds:
    """Bounds, and the functions that give them, moved apart by an error, [B, S] or of the bounds' shape."""
    error = error.reshape(found.lower.shape)
    lines = found.lines
    if lines is not None:
        lines = lines.apart(error)
    return NodeBounds(found.lower - error, found.upper + error, lines)
