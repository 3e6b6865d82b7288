"""Rows that hold at 0 as well, where interval arithmetic ends just below it: their bounds without rounding errors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from verifier.checker.backward import NodeRanges
from verifier.checker.directed import row_bounds
from verifier.errors import UnsupportedError
from verifier.graph import Graph
from verifier.graph.canonical import canonical
from verifier.query import Query
from verifier.relaxation.ranges import Range

#: rows that are further below zero than this share of their terms are not worth it
_WORTH = 1e-9
#: what may have been taken off of terms that are all 0
_UNDERFLOW = 1e-250
#: entries of all matrices: a second or so
_MOST = 1 << 24


def touched(query: Query, lower: Tensor, output: Range) -> Tensor:  # [B, S], [B, *output] twice -> [B, S]
    """The lower bounds, of touching rows that are 0 but for rounding those of `verifier.checker.directed`.

    Only in float64: a graph in another precision may be of rounded weights.

    Args:
        lower: bounds of the rows. output: bounds of the outputs.
    """
    spec = query.spec
    if spec.touching is None or query.graph.dtype is not torch.float64:
        return lower
    size = torch.maximum(output[0].abs(), output[1].abs()).flatten(1)
    size = torch.einsum("bso,bo->bs", spec.rows.to(size).abs(), size) + spec.offset.to(size).abs()
    asked = query.open & spec.touching & (lower <= 0) & (lower >= -_WORTH * size - _UNDERFLOW)
    if not asked.any() or _work(query.graph) > _MOST:
        return lower
    try:
        network = canonical(query.graph).network
    except UnsupportedError:
        return lower
    found = lower.clone()
    box = [end.flatten(1).cpu().numpy() for end in query.inputs.box(torch.float64)]
    for b in asked.any(1).nonzero().squeeze(1).tolist():
        mine = asked[b].cpu()
        with np.errstate(all="ignore"):
            ranges = NodeRanges(network, box[0][b : b + 1], box[1][b : b + 1], query.semantics.value == "float32")
            ranges.forward(1, len(network.nodes))
            rows, offset = (t[b].cpu()[mine].double().numpy() for t in (spec.rows, spec.offset))
            better = torch.from_numpy(row_bounds(ranges, rows, offset)).to(lower)
        found[b, asked[b]] = torch.maximum(found[b, asked[b]], better)
    return found


def _work(graph: Graph) -> int:
    return sum(node.size * sum(graph.nodes[p].size for p in node.parents) for node in graph.nodes)
