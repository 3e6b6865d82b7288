"""A graph with one activation node, as matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.device import ask_memory
from verifier.forms import Dense
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine

#: rows of the first matrix that are pulled back at once
_CHUNK = 256


def is_two_layer(graph: Graph) -> bool:
    """Whether everything before and after the graph's one activation node is affine; a path beside it may be too."""
    if len(graph.activations) != 1 or graph.has_products:
        return False
    op = graph.nodes[graph.activations[0]].op
    assert isinstance(op, Activation)
    return all(math.isfinite(end) for end in op.slope_range)


def entries(graph: Graph) -> int:
    """Size of the matrix in front of the one activation."""
    return graph.nodes[graph.activations[0]].size * graph.nodes[0].size


@dataclass(frozen=True)
class TwoLayer:
    """outputs = V act(W x + b) + G x + d, with m neurons whose slopes lie in [low, high].

    V and G are asked for row by row: `rows`.
    """

    graph: Graph  #: on the CPU in float64
    weights: Tensor  # [m, n] float64: W
    low: float
    high: float

    @classmethod
    def of(cls, graph: Graph) -> TwoLayer:
        """The matrices of a graph that `is_two_layer`, on the CPU in float64.

        Raises:
            MemoryError: the machine has no room for the first one.
        """
        graph = graph.to("cpu", torch.float64)
        node = graph.nodes[graph.activations[0]]
        assert isinstance(node.op, Activation)
        low, high = node.op.slope_range
        ask_memory(8.0 * (2 * entries(graph) + _CHUNK * node.size))  # its parts, and put together
        parts = []
        with torch.no_grad():
            for start in range(0, node.size, _CHUNK):
                units = torch.zeros(min(_CHUNK, node.size - start), node.size, dtype=torch.float64)
                units[:, start:].fill_diagonal_(1.0)
                parts.append(pulled(graph, node.parents[0], units)[0])
        return cls(graph, torch.cat(parts), float(low), float(high))

    @property
    def middle(self) -> float:
        """Of the slopes."""
        return (self.low + self.high) / 2

    @property
    def half(self) -> float:
        """Half the width of the slopes' interval, rounded up."""
        if self.low == self.high:
            return 0.0
        return max(self.high - self.middle, self.middle - self.low) * (1 + 2.0**-51)

    @property
    def steepest(self) -> float:
        return max(abs(self.low), abs(self.high))

    def rows(self, functionals: Tensor) -> tuple[Tensor, Tensor]:  # [S, outputs] -> [S, m], [S, n]
        """Functionals of the outputs as v . act(W x + b) + g . x, their constants left out: (v, g)."""
        activation = self.graph.activations[0]
        with torch.no_grad():
            found = pulled(self.graph, self.graph.output, functionals.double().cpu())
        m, n = self.weights.shape
        nothing = self.weights.new_zeros(len(functionals), 1)  # on the CPU, wherever the functionals are
        return found.get(activation, nothing.expand(-1, m)), found.get(0, nothing.expand(-1, n))


def pulled(graph: Graph, node: int, functionals: Tensor) -> dict[int, Tensor]:
    """Functionals [S, size] of a node as functionals of activations and of the input: node -> [S, size].

    Sums of products in float64, one after another for each layer in between.
    """
    waiting, found = {node: functionals.reshape(len(functionals), *graph.nodes[node].shape)}, {}
    for i in range(node, -1, -1):
        if i not in waiting:
            continue
        coefficients, op = waiting.pop(i), graph.nodes[i].op
        if not isinstance(op, Affine):
            found[i] = coefficients.flatten(1)
            continue
        shapes = graph.parent_shapes(i)
        for k, parent in enumerate(graph.nodes[i].parents):
            part = op.adjoint(Dense(coefficients.unsqueeze(0)), shapes, k).dense()[0]
            waiting[parent] = waiting[parent] + part if parent in waiting else part
    return found
