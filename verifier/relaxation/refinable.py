"""Which neurons' bounds are worth the work of tightening them: those of refinable nodes that cost the rows most."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.query import Query
from verifier.relaxation.influence import influences


def refinable(query: Query) -> list[int]:
    """Pre-activations whose bounds a linear program may tighten: not those that intervals bound exactly."""
    graph = query.graph
    if query.inputs.is_box:
        return [i for i in graph.pre_activations if not graph.exact_by_interval[i]]
    # before the first activation the dual bound is the set's own support function
    return [i for i in graph.pre_activations if not graph.ancestors[i].isdisjoint(graph.activations)]


def most_influential(query: Query, bounds: Bounds, neurons: int) -> dict[int, Tensor]:
    """Per refinable pre-activation: which neurons [B, size] are among the `neurons` that cost the open rows most."""
    graph, nodes = query.graph, refinable(query)
    lower, scores = influences(query, bounds)
    lost = (query.open & ~(lower > 0)).double()  # rows that the bounds so far do not prove
    parts = {node: lower.new_zeros(query.batch, graph.nodes[node].size) for node in nodes}
    for i, score in scores.items():
        parent = graph.nodes[i].parents[0]
        if parent in parts:
            parts[parent] += (score.flatten(2).nan_to_num(nan=0.0, posinf=0.0) * lost.unsqueeze(2)).sum(1)
    total = torch.cat([lower.new_zeros(query.batch, 0), *parts.values()], 1)
    count = min(neurons, total.shape[1])
    mask = torch.zeros_like(total, dtype=torch.bool)
    if count:
        mask = mask.scatter(1, total.topk(count, 1).indices, True) & (total > 0)
    sizes = [part.shape[1] for part in parts.values()]
    return dict(zip(nodes, mask.split(sizes, 1) if sizes else (), strict=True))
