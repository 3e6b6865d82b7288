"""The dual of the semidefinite bound as something to descend on: Raghunathan et al. (2018), eqs. 14-16."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.errors import ModelError
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine
from verifier.sdp import SdpBounds, TwoLayer, is_two_layer
from verifier.sdp.ascent import ascend
from verifier.sdp.coupling import Coupling
from verifier.sdp.two_layer import pulled


@dataclass(frozen=True)
class PairMatrices:
    """M of eq. 8 for S rows v . act(W x + b) + g . x of a network's outputs, on live weights and never written out.

    With slopes of the activation in [middle - half, middle + half] (eq. 7 has 1/2 and 1/2) and

        B = [g + middle W^T v, half diag(v) W]   [1 + m, n],   M = 2 [[0, B], [B^T, 0]],

    between inputs at most eps apart in every entry a row moves by at most eps / 4 max y^T M y over y in
    [-1, 1]^(1 + m + n). A row and its negative have M and -M, and the same maximum: turning the signs of the last n
    entries of y turns that of y^T M y. So one matrix per unordered pair of classes serves both directions.

    Vectors are ordered as [one, slopes, inputs]: 1 + m + n entries.
    """

    graph: Graph
    v: Tensor  # [S, m]
    g: Tensor  # [S, n]
    middle: float
    half: float

    @classmethod
    def of(cls, graph: Graph, rows: Tensor) -> PairMatrices:  # [S, outputs]
        """The matrices of rows; gradients reach the graph's weights.

        Raises:
            ModelError: the graph has not exactly one activation.
        """
        middle, half = slopes(graph)
        found = pulled(graph, graph.output, rows)
        activation = graph.activations[0]
        return cls(
            graph,
            found.get(activation, rows.new_zeros(len(rows), graph.nodes[activation].size)),
            found.get(0, rows.new_zeros(len(rows), graph.nodes[0].size)),
            middle,
            half,
        )

    def times(self, y: Tensor) -> Tensor:  # [S, 1 + m + n] -> [S, 1 + m + n]
        """M y, a vector per matrix: one product with W and one with its transpose."""
        one, slope, inputs = self._split(y)
        hidden = self._forward(inputs)
        top = (self.g * inputs).sum(1, keepdim=True) + self.middle * (self.v * hidden).sum(1, keepdim=True)
        below = self._backward(one, slope)
        return 2 * torch.cat([top, self.half * self.v * hidden, below], 1)

    def form(self, y: Tensor) -> Tensor:  # [S, 1 + m + n] -> [S]
        """y^T M y."""
        one, slope, inputs = self._split(y)
        return 4 * (self._backward(one, slope) * inputs).sum(1)

    def _split(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [S, 1 + m + n] -> [S, 1], [S, m], [S, n]
        m, n = self.v.shape[1], self.g.shape[1]
        one, slope, inputs = y.split([1, m, n], 1)
        return one, slope, inputs

    def _backward(self, one: Tensor, slope: Tensor) -> Tensor:  # [S, 1], [S, m] -> [S, n]
        """B^T [one, slope]."""
        before = self.graph.nodes[self.graph.activations[0]].parents[0]
        coefficients = self.v * (self.middle * one + self.half * slope)
        through = pulled(self.graph, before, coefficients).get(0)
        return one * self.g if through is None else one * self.g + through

    def _forward(self, x: Tensor) -> Tensor:  # [S, n] -> [S, m]
        """W x: the network before its activation, without biases."""
        graph = self.graph
        before = graph.nodes[graph.activations[0]].parents[0]
        values = {0: x.reshape(len(x), *graph.input_shape)}
        for i in sorted(graph.ancestors[before]):
            node = graph.nodes[i]
            if i > 0:
                assert isinstance(node.op, Affine)
                values[i] = node.op.linear(*(values[p] for p in node.parents))
        return values[before].flatten(1)


def slopes(graph: Graph) -> tuple[float, float]:
    """Middle and half width of the interval of the one activation's slopes.

    Raises:
        ModelError: the graph has not exactly one activation.
    """
    if not is_two_layer(graph):
        raise ModelError(
            f"the semidefinite bound is about networks with one activation layer, this one has "
            f"{len(graph.activations)}, or one without bounds of its slope; use another training method"
        )
    op = graph.nodes[graph.activations[0]].op
    assert isinstance(op, Activation)
    low, high = (float(end) for end in op.slope_range)
    return (low + high) / 2, (high - low) / 2


def dual_value(matrices: PairMatrices, c: Tensor, y: Tensor) -> Tensor:  # [S, N], [S, N] -> [S]
    """The dual objective of eq. 14, D lambda_max^+(M - diag c) + 1^T max(c, 0), at top eigenvectors y of M - diag c.

    Any c gives an upper bound of max <M, P> if y is exact. The gradient is that of y^T (M - diag c) y with y held
    fixed, by the envelope theorem (where the eigenvalue is multiple, a subgradient).
    """
    top = matrices.form(y) - (c * y.square()).sum(1)
    return c.shape[1] * F.relu(top) + c.clamp(min=0).sum(1)


def starting_duals(
    graph: Graph, rows: Tensor, generator: torch.Generator, columns: int = 16, sweeps: int = 30
) -> Tensor:  # [S, outputs] -> [S, 1 + m + n] float64 on the CPU
    """Dual variables that are good for the present weights: what a short ascent of the relaxation leaves behind.

    For 784-500-10 they are within about one per cent of the best ones, in 0.1 s for each row.
    """
    coupling = Coupling.of(TwoLayer.of(graph), rows)
    neurons = len(coupling.network.weights)
    vectors = torch.randn(neurons + 1, len(rows), columns, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        found = ascend(coupling, F.normalize(vectors, dim=2), sweeps=sweeps)
    return 2 * torch.cat([found.left, found.right], 1)


def certificates_from_duals(graph: Graph, rows: Tensor, c: Tensor) -> SdpBounds:
    """Certificates of S rows [S, outputs] from dual variables [S, 1 + m + n], in rigorous arithmetic.

    With t = lambda_max^+(M - diag c), the vector c + t is feasible and not negative, and its sum at most the right side
    of eq. 16. The certificate has the weights sqrt(c + t) (verifier.sdp.certificate): up to rounding it proves no more
    than eps / 4 sum(c + t), and it takes nobody's word for t: its norm is computed by itself.
    """
    bounds = SdpBounds(graph)
    coupling, m = Coupling.of(bounds.network, rows), len(bounds.network.weights)
    shifted = []
    for s, row in enumerate(c.detach().double().cpu()):
        matrix = torch.diag(-row)
        matrix[: m + 1, m + 1 :] += 2 * coupling.matrix(s)
        matrix[m + 1 :, : m + 1] += 2 * coupling.matrix(s).T
        top = torch.linalg.eigvalsh(matrix)[-1].clamp(min=0)
        # a hair more, so that no rounding error is divided by an entry that is next to nothing
        shifted.append((row + top + 1e-6 * (row.abs().mean() + top)).clamp(min=0))
    bounds.adopt(rows, *torch.stack(shifted).split([m + 1, len(row) - m - 1], 1))
    return bounds
