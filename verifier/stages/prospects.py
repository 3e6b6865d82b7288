"""Which examples a stage may decide although branch and bound on neurons, with all of their time, does not.

Counted in unstable neurons, over the bounds that are known. Where these are many, what relaxes every neuron over its
whole interval is no better than the root of a tree of branch and bound, and integer programs take hours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.query import Query
from verifier.relaxation.activations import activation_over

#: unstable neurons up to which programs decide an example in the time that branch and bound takes. Those of wk17a_mnist
#: have 150 and take half a second each; of CNN-A at eps 0.3, with 1,500, none was decided in fifteen
FEW = 300
#: layers whose bounds are not exact, from which on what relaxations lose adds up, so that tightening neurons decides
#: what splitting them for the rows alone does not
DEEP = 3


def few_unstable(query: Query, bounds: Bounds) -> Tensor:
    """[B] bool: the unstable neurons of the whole network are few, or not known."""
    counts = _counts(query, bounds)
    return _all(query) if counts is None else counts.sum(0) <= FEW


def deep(query: Query, bounds: Bounds) -> Tensor:
    """[B] bool: many layers after the first have unstable neurons, or it is not known."""
    counts = _counts(query, bounds)
    return _all(query) if counts is None else (counts[1:] > 0).sum(0) >= DEEP


def _counts(query: Query, bounds: Bounds) -> Tensor | None:
    """Unstable neurons of every activation, [A, B]; None where bounds are missing."""
    graph, found = query.graph, []
    if not set(graph.pre_activations) <= set(bounds):
        return None
    for i in graph.activations:
        op, lower, upper = activation_over(graph, bounds, i)
        found.append(op.unstable(lower, upper).flatten(1).sum(1).cpu())
    return torch.stack([torch.zeros(query.batch, dtype=torch.int64), *found])[1:]


def _all(query: Query) -> Tensor:
    return torch.ones(query.batch, dtype=torch.bool)
