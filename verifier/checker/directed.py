"""Intervals whose every operation is rounded on its own, and only where it rounds: bounds that are met stay met.

The other bounds pay for roundings by what they may cost at most, so that a row whose least value is 0 comes out a
little below it. That is no matter where a row must be > 0. A row that `touching` says holds at 0 needs its least value
itself. Here each product and each sum is followed by its own error, which is a floating-point number:

- a + b = s + e for s = fl(a + b) and e by Knuth's six operations (TwoSum), without overflow;
- a b = p + e for p = fl(a b) and e by Dekker's (TwoProduct), without overflow, and for |p| large enough that nothing
  in it underflows.

(Handbook of Floating-Point Arithmetic, sections 4.3 and 4.4.) Where e is 0 nothing was rounded. Elsewhere, and where
these conditions do not hold, the next number below is taken: rounding to nearest is off by less than that. Numbers of
a magnitude below SMALL are moved outward to it or to 0, so that nothing underflows, flushed to zero or not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from verifier.checker.backward import NodeRanges
from verifier.checker.network import AFFINE, CanonicalNode
from verifier.checker.rounding import down

#: numbers other than 0 are kept at least as large
SMALL = 1e-250
_SPLIT = 2.0**27 + 1
_AT_ONCE = 1 << 20  #: entries of a matrix


def row_bounds(ranges: NodeRanges, rows: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Lower bounds [R] of rows . y + offset over one set, for rows [R, outputs] and offset [R].

    Args:
        ranges: of one set, sound intervals of every node; those of nodes that this cannot follow are taken from it.
    """
    low, high = outputs(ranges)
    picked = _summed(_times(rows, np.where(rows > 0, low, high)))
    return _sum(picked, offset)


def outputs(ranges: NodeRanges) -> tuple[np.ndarray, np.ndarray]:
    """The interval [size], [size] of the network's value over one set."""
    low, high = [ranges.low[0][0]], [ranges.high[0][0]]
    for k, node in enumerate(ranges.network.nodes[1:], 1):
        below, above = ranges.low[k][0], ranges.high[k][0]
        if not ranges.float32:  # whose values are not those of the real function
            ends = (np.concatenate([side[p] for p in node.parents]) for side in (low, high))
            found = _node(node, next(ends), next(ends), ranges)
            if found is not None:
                below, above = np.fmax(below, found[0]), np.fmin(above, found[1])
        low.append(below)
        high.append(above)
    return low[-1], high[-1]


def _node(
    node: CanonicalNode, low: np.ndarray, high: np.ndarray, ranges: NodeRanges
) -> tuple[np.ndarray, np.ndarray] | None:
    """A node's interval from its parents'; None for nodes that are not followed here."""
    if node.kind == "leaky" and node.options["slope"] >= 0:
        slope = np.array(node.options["slope"])
        return np.where(low > 0, low, _times(slope, low)), np.where(high > 0, high, -_times(slope, -high))
    if node.kind == "clip":
        least, most = node.options["low"], node.options["high"]
        return np.clip(low, least, most), np.clip(high, least, most)
    if node.kind == "abs":
        return np.maximum(np.maximum(low, -high), 0.0), np.maximum(-low, high)
    if node.kind not in AFFINE or node.ulps or "bias_size" in node.arrays:  # parameters that are not known exactly
        return None
    below, above = [], []
    for part in _matrix(node, len(low)):
        if time.monotonic() > ranges.deadline:
            raise TimeoutError("the time is up")
        below.append(_summed(_times(part, np.where(part > 0, low, high))))
        above.append(_summed(_times(-part, np.where(part > 0, high, low))))
    return _sum(np.concatenate(below), node.bias), -_sum(np.concatenate(above), -node.bias)


def _matrix(node: CanonicalNode, width: int) -> Iterator[np.ndarray]:
    """The rows of an affine node's matrix, a few at a time: each entry is one parameter, or 0."""
    step = max(1, _AT_ONCE // width)
    for first in range(0, node.size, step):
        units = np.zeros((min(step, node.size - first), node.size))
        units[np.arange(len(units)), first + np.arange(len(units))] = 1.0
        yield node.adjoint(units, width)


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Lower bounds of products."""
    p = a * b
    (ah, al), (bh, bl) = _halves(a), _halves(b)
    error = al * bl - (((p - ah * bh) - al * bh) - ah * bl)
    nothing = (a == 0) | (b == 0)
    tiny = ~nothing & (np.abs(p) < SMALL)
    found = np.where(error == 0, p, down(p))  # where something overflowed the error is no number
    return np.where(nothing, 0.0, np.where(tiny, np.where((a > 0) == (b > 0), 0.0, -2 * SMALL), found))


def _halves(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Veltkamp's splitting."""
    scaled = _SPLIT * a
    high = scaled - (scaled - a)
    return high, a - high


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Lower bounds of sums."""
    a, b = _clear(a), _clear(b)
    s = a + b
    other = s - a
    error = (a - (s - other)) + (b - other)
    return _clear(np.where(error == 0, s, down(s)))


def _clear(a: np.ndarray) -> np.ndarray:
    """Numbers not above these, and none other than 0 that is very small."""
    return np.where(np.abs(a) >= SMALL, a, np.where(a < 0, -SMALL, np.where(np.isnan(a), -np.inf, 0.0)))


def _summed(terms: np.ndarray) -> np.ndarray:
    """Lower bounds [R] of the sums of terms [R, n], by pairs."""
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        rest = terms[:, 2 * half :]
        terms = np.concatenate([_sum(terms[:, :half], terms[:, half : 2 * half]), rest], 1)
    return terms[:, 0] if terms.shape[1] else np.zeros(len(terms))
