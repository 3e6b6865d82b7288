"""The worst margins that intervals allow."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from properties import InputSet, robustness
from verifier.bound_map import Bounds
from verifier.graph import Graph
from verifier.query import Query
from verifier.relaxation.interval import propagate, specification_bound
from verifier.relaxation.ranges import Range


class IntervalPass(NamedTuple):
    """One pass of intervals through a network: the worst margins [B, classes - 1], and every node's range."""

    margins: Tensor
    ranges: dict[int, Range]


def interval_pass(graph: Graph, inputs: InputSet, label: Tensor) -> IntervalPass:  # [B] int64
    """Ranges over the box of each input set, and lower bounds of all margins: the last layer merged with differences.

    Args:
        graph: with live parameters (as imported), so that gradients reach the weights.
    """
    query = Query.of(graph, inputs, robustness(label, torch.Size(graph.output_shape).numel()))
    ranges = propagate(query, Bounds())
    return IntervalPass(specification_bound(query, ranges), ranges)


def interval_margins(graph: Graph, inputs: InputSet, label: Tensor) -> Tensor:  # [B] int64 -> [B, classes - 1]
    """The margins of `interval_pass` alone."""
    return interval_pass(graph, inputs, label).margins
