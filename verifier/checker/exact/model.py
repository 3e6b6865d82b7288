"""A network in rational numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from verifier.checker.errors import ExactError
from verifier.checker.network import ACTIVATIONS, CanonicalNetwork, CanonicalNode

#: entries of all matrices
ENTRIES = 4_000_000
Number = Any  # flint.fmpq
Matrix = Any  # flint.fmpq_mat
Vector = list[Number]


class ExactModel:
    """A network in rational numbers: a matrix for each parent of every affine node."""

    def __init__(self, network: CanonicalNetwork, work: int) -> None:
        try:
            import flint
        except ImportError:
            raise ExactError("rational arithmetic needs python-flint: pip install 'rampart-verifier[exact]'") from None
        self.flint, self.network, self.work = flint, network, work
        rational = ("leaky", "clip", "abs")
        other = [n.kind for n in network.nodes if n.kind in ACTIVATIONS and n.kind not in rational]
        if other:
            raise ExactError(f"{other[0]} has no form in rational numbers: check this certificate without them")
        sizes = [node.size for node in network.nodes]
        entries = sum(n.size * sum(sizes[p] for p in n.parents) for n in network.nodes if n.kind not in ACTIVATIONS)
        if entries > ENTRIES:
            raise ExactError(
                f"the network's matrices have {entries} entries, rational arithmetic takes {ENTRIES} at most"
            )
        self.parts: dict[int, list[tuple[Matrix, Matrix]]] = {}  # of each parent: A [size, parent's] and |A|
        self.bias: dict[int, Vector] = {}
        for k, node in enumerate(network.nodes):
            if k and node.kind not in ACTIVATIONS:
                whole, ends = (
                    written(node, sum(sizes[p] for p in node.parents)),
                    np.cumsum([sizes[p] for p in node.parents]),
                )
                split = np.split(whole, ends[:-1], axis=1)
                self.parts[k] = [(self.matrix(part), self.matrix(np.abs(part))) for part in split]
                bias = node.arrays.get("bias", np.zeros(1))
                self.bias[k] = self.vector(np.repeat(bias, node.size // len(bias)))

    def number(self, x: float) -> Number:
        return self.flint.fmpq(*(x if isinstance(x, int) else float(x)).as_integer_ratio())

    def vector(self, x: np.ndarray) -> Vector:  # [n]
        return [self.number(value) for value in x.tolist()]

    def matrix(self, x: np.ndarray) -> Matrix:  # [m, n]
        return self.flint.fmpq_mat(x.shape[0], x.shape[1], [value for row in x for value in self.vector(row)])

    def rows(self, x: Sequence[Vector], width: int) -> Matrix:
        return self.flint.fmpq_mat(len(x), width, [value for row in x for value in row])

    def times(self, a: Matrix, b: Matrix) -> Matrix:
        self.work -= a.nrows() * a.ncols() * b.ncols()
        if self.work < 0:
            raise ExactError(
                "this certificate takes more multiplications than allowed: give a larger `work`, or check it without "
                "rational arithmetic"
            )
        return a * b

    def uncertain(self, k: int, most: list[Vector]) -> Vector:
        """How far node k's values may be off by its parameters, where they are not known exactly; |z| <= most."""
        node, size = self.network.nodes[k], self.network.nodes[k].size
        if node.ulps >= 2**32:
            raise ValueError(f"parameters of node {k} that are off by {node.ulps} units in the last place")
        if not node.ulps:
            return [self.number(0.0)] * size
        # at least gamma_ulps = ulps / (2^53 - ulps), with a denominator that does not make all others grow
        share = self.flint.fmpq(node.ulps * (2**20 + 1), 2**73)
        given = np.maximum(np.abs(node.arrays.get("bias", np.zeros(1))), node.arrays.get("bias_size", np.zeros(1)))
        total = self.vector(np.repeat(given, size // len(given)))
        for (_, absolute), values in zip(self.parts[k], most, strict=True):
            moved = self.times(absolute, self.rows([[v] for v in values], 1)).entries()
            total = [a + b for a, b in zip(total, moved, strict=True)]
        return [share * value for value in total]


def written(node: CanonicalNode, width: int) -> np.ndarray:
    """The matrix of an affine node, [size, all parents' sizes]."""
    a, arrays, options = np.zeros((node.size, width)), node.arrays, node.options
    if node.kind == "sparse":
        a[arrays["row"], arrays["column"]] = arrays["value"]
        return a
    w = arrays["weight"]
    if node.kind == "matrix":
        for i in range(node.size // len(w)):
            a[i * w.shape[0] : (i + 1) * w.shape[0], i * w.shape[1] : (i + 1) * w.shape[1]] = w
        return a
    (o, high, wide), (c, height, width_) = options["output"], options["input"]
    out = np.zeros((o, high, wide, c, height, width_))
    per, each = c // options["groups"], o // options["groups"]
    for f, i, j, y, x in np.ndindex(w.shape[0], *w.shape[2:], high, wide):
        row = y * options["stride"][0] - options["padding"][0] + i * options["dilation"][0]
        column = x * options["stride"][1] - options["padding"][2] + j * options["dilation"][1]
        if 0 <= row < height and 0 <= column < width_:
            group = f // each
            out[f, y, x, group * per : (group + 1) * per, row, column] = w[f, :, i, j]
    found = out.reshape(o * high * wide, c * height * width_)
    return found.T if node.kind == "conv_transpose" else found
