"""The semidefinite proof of networks with one activation layer: weights, and a norm that is proved here.

Let row . output = v . act(W z + b) + g . z + constant, act's slopes lie within middle - half and middle + half. Between
z and z + d every neuron has a slope middle + half tau_i, |tau_i| <= 1. So the row moves by (1, tau)^T B d with

    B = [g + middle W^T v,  half diag(v) W]     [1 + m, n],

and for |d_j| <= r_j and any weights a, c > 0 this is at most ||K|| |a| |c r|, K_ij = B_ij / (a_i c_j), in Euclidean
norms (Raghunathan et al. 2018, eq. 14-16, the weights in place of their dual variables). B is made of sums of products
along all ways through the network: it is off by gamma_N times the same sums of magnitudes, N the roundings on a way.

A norm of K: for any t and R, K K^T = t I - R R^T + E gives ||K||^2 <= t + ||E||, since R R^T is positive semidefinite.
Eigenvectors make E small. E is computed and its rounding added: nothing is taken on the word of an eigenvalue routine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from verifier.checker.backward import NodeRanges
from verifier.checker.functions import KINDS
from verifier.checker.lines import slope_range
from verifier.checker.network import ACTIVATIONS, PRODUCT, CanonicalNode
from verifier.checker.rounding import AMPLE, TINY, down, gamma, up

Array = np.ndarray
#: in sums of magnitudes at every node: gamma times it is more than what underflows there
FLOOR = 1e-270


def bounds(ranges: NodeRanges, record: Mapping[str, Array], rows: Array) -> Array:
    """Lower bounds [S] of rows [S, outputs] over a box: their values in its middle, less how far they move.

    Args:
        record: weights of every row, `left` [S, 1 + m] and `right` [S, n].

    Raises:
        ValueError: other than one activation, arrays that do not fit, or float32 semantics, which this does not prove.
    """
    nodes, low, high = ranges.network.nodes, ranges.low[0], ranges.high[0]
    layers = [k for k, node in enumerate(nodes) if node.kind in ACTIVATIONS]
    if len(layers) != 1 or ranges.float32 or any(node.kind in (PRODUCT, *KINDS) for node in nodes):
        raise ValueError(
            f"the semidefinite proof is about one layer of real-valued activations, not about {len(layers)}"
        )
    left, right = (np.abs(record[name].astype(np.float64)) for name in ("left", "right"))
    if left.shape != (len(rows), 1 + nodes[layers[0]].size) or right.shape != (len(rows), low.size):
        raise ValueError(f"weights of shapes {left.shape} and {right.shape} for {len(rows)} rows")
    middle = 0.5 * low + 0.5 * high
    at = NodeRanges(ranges.network, middle, middle, False)
    at.forward(1, len(nodes))
    least, most = at.low[-1][0], at.high[-1][0]
    value = np.maximum(rows, 0) @ least + np.minimum(rows, 0) @ most
    paid = gamma(2 * len(least) + 8) * AMPLE * (np.abs(rows) @ np.maximum(np.abs(least), np.abs(most))) + TINY
    return down(
        down(value - paid) - reach(nodes, layers[0], rows, left, right, up(np.maximum(high - middle, middle - low))[0])
    )


def reach(nodes: Sequence[CanonicalNode], layer: int, rows: Array, left: Array, right: Array, radius: Array) -> Array:
    """How far rows [S, outputs] may move while input j moves by at most radius_j [n]: [S]; NaN or infinite: unknown."""
    least, most = slope_range(nodes[layer])
    middle = 0.5 * least + 0.5 * most
    half = float(up(np.asarray(max(most - middle, middle - least)))) if least < most else 0.0
    sizes = [node.magnitude for node in nodes]
    w, w_size = _images(nodes, layer, 0.0), _images(sizes, layer, FLOOR)
    count = sum(sum(n.terms) + n.ulps + len(nodes) + 4 for n in nodes if n.arrays) + len(w) + 16
    found = []
    for row, a, c in zip(rows, left, right, strict=True):
        b = _coupling(_pulled(nodes, row, layer, 0.0), w, middle, half)
        off = _coupling(_pulled(sizes, np.abs(row), layer, FLOOR), w_size, abs(middle), half)
        # any weights will do: raised to a little beside the largest, they cost nothing and divide without harm
        a, c = (np.maximum(t, 1e-30 * t.max()) for t in (a, c))
        k = b / a[:, None] / c
        norm = _norm(k) + _length(gamma(count) * AMPLE**2 * (off / a[:, None] / c) + gamma(4) * np.abs(k))
        found.append(norm * _length(a) * _length(c * radius) * (1 + gamma(16)))
    return np.array(found)


def _coupling(pulled: tuple[Array, Array], w: Array, middle: float, half: float) -> Array:
    """B [1 + m, n] of v [m], g [n] and W [m, n]."""
    v, g = pulled
    return np.concatenate([(g + middle * (v @ w))[None], half * v[:, None] * w])


def _images(nodes: Sequence[CanonicalNode], layer: int, more: float) -> Array:
    """W [m, n] from the images of unit vectors, with so much more at every node."""
    found = [np.eye(nodes[0].size)]
    for node in nodes[1:layer]:
        found.append(node.forward(np.concatenate([found[p] for p in node.parents], 1)) + more)
    return found[nodes[layer].parents[0]].T


def _pulled(nodes: Sequence[CanonicalNode], row: Array, layer: int, more: float) -> tuple[Array, Array]:
    """v [m] and g [n] of a row of the output."""
    carried = [np.zeros((1, node.size)) for node in nodes]
    carried[-1] = row[None].astype(np.float64)
    for k in range(len(nodes) - 1, 0, -1):
        if k != layer:
            sizes = [nodes[p].size for p in nodes[k].parents]
            parts = np.split(nodes[k].adjoint(carried[k], sum(sizes)) + more, np.cumsum(sizes)[:-1], axis=1)
            for p, part in zip(nodes[k].parents, parts, strict=True):
                carried[p] = carried[p] + part
    return carried[layer][0], carried[0][0]


def _length(x: Array) -> float:
    """At least the Euclidean norm of all entries."""
    return float(np.sqrt(np.sum(x * x) + TINY)) * (1 + gamma(x.size + 8))


def _norm(k: Array) -> float:
    """At least the spectral norm."""
    k = k if len(k) <= k.shape[1] else k.T
    if not np.isfinite(k).all():
        return np.inf
    gram, one = k @ k.T, np.eye(len(k))
    values, vectors = np.linalg.eigh(gram)
    top = max(float(values.max()), 0.0)
    root = vectors * np.sqrt(np.maximum(top - values, 0))
    square = root @ root.T
    error = gamma(k.shape[1]) * _length(k) ** 2 + gamma(len(k)) * _length(root) ** 2 + TINY * k.size
    error += gamma(4) * (_length(gram) + _length(square) + top * len(k))
    return float(np.sqrt(top + _length(gram + square - top * one) + error * AMPLE)) * (1 + gamma(8))
