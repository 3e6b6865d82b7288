"""Lines below and above activations over intervals.

Whatever the slope s, act(z) >= s z + b on [low, high] for b = min of act(z) - s z there: any slope is valid. Where act
is piecewise linear the minimum is at an end or a kink. Sigmoid and tanh are convex below 0 and concave above. On the
concave stretch the minimum is at an end; on the convex one act(z) >= act(t) + act'(t) (z - t) for any t, and t near the
stationary point, found by no matter what arithmetic, loses little. They are odd about (0, act(0)), which turns a
maximum into a minimum. What is computed here is off by roundings, which `Ranges.roundoff` pays for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from verifier.checker import functions
from verifier.checker.network import CanonicalNode
from verifier.checker.rounding import sigmoid, tanh

RULES = ("fixed", "adaptive", "interval")
#: slope and intercept of the lower line, then of the upper one; [B, 1 or R, n] each
Lines = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def kinks(node: CanonicalNode) -> list[float]:
    """Where a piecewise linear activation bends."""
    return [node.options["low"], node.options["high"]] if node.kind == "clip" else [0.0]


def smooth(node: CanonicalNode) -> bool:
    return node.kind in ("sigmoid", "tanh")


def value(node: CanonicalNode, z: np.ndarray) -> np.ndarray:
    if node.kind in functions.KINDS:
        return functions.value(node.kind, z, node.options)
    if node.kind == "leaky":
        return np.where(z > 0, z, node.options["slope"] * z)
    if node.kind == "clip":
        return np.clip(z, node.options["low"], node.options["high"])
    return np.abs(z) if node.kind == "abs" else (sigmoid if node.kind == "sigmoid" else tanh)(z)


def slope_range(node: CanonicalNode, *ends: np.ndarray) -> tuple[Any, Any]:
    """The smallest and the largest slope anywhere; of what functions.py has over intervals with these ends."""
    if node.kind in functions.KINDS:
        low, high = ends
        return functions.slope_range(node.kind, low, high, node.options)
    a = node.options.get("slope", 0.0)
    ranges = {"clip": (0.0, 1.0), "abs": (-1.0, 1.0), "sigmoid": (0.0, 0.25), "tanh": (0.0, 1.0)}
    return (min(a, 1.0), max(a, 1.0)) if node.kind == "leaky" else ranges[node.kind]


def steepest(node: CanonicalNode, *ends: np.ndarray) -> Any:
    least, most = slope_range(node, *ends)
    return np.maximum(np.abs(least), np.abs(most)) if node.kind in functions.KINDS else max(abs(least), abs(most))


def derivative(node: CanonicalNode, z: np.ndarray) -> np.ndarray:
    if node.kind in functions.KINDS:
        return functions.slope(node.kind, z, node.options)
    y = value(node, z)
    return y * (1 - y) if node.kind == "sigmoid" else 1 - y * y


def intercepts(node: CanonicalNode, low: np.ndarray, high: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """min and max over [low, high] of act(z) - s z."""
    if node.kind in functions.KINDS:
        return functions.intercepts(node.kind, low, high, s, node.options)
    if smooth(node):
        whole = 1.0 if node.kind == "sigmoid" else 0.0  # act(z) = whole - act(-z)
        return _least(node, low, high, s), whole - _least(node, -high, -low, s)
    values = [value(node, z) - s * z for z in (low, high, *(np.clip(k, low, high) for k in kinks(node)))]
    return np.minimum.reduce(values), np.maximum.reduce(values)


def _least(node: CanonicalNode, low: np.ndarray, high: np.ndarray, s: np.ndarray) -> np.ndarray:
    middle = np.clip(0.0, low, high)  # convex on [low, middle], concave on [middle, high]
    with np.errstate(all="ignore"):
        if node.kind == "sigmoid":
            part = 2 * s / (1 + np.sqrt(1 - 4 * s))
            t = np.log(part) - np.log1p(-part)
        else:
            t = 0.5 * np.log(s) - np.log1p(np.sqrt(1 - s))
    t = np.fmin(np.fmax(t, low), middle)  # these ignore NaN
    d = derivative(node, t) - s
    tangent = value(node, t) - s * t + np.minimum(d * (low - t), d * (middle - t))
    return np.minimum.reduce([tangent, value(node, middle) - s * middle, value(node, high) - s * high])


def unstable(node: CanonicalNode, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where the activation is no line over the interval."""
    if node.kind in functions.KINDS:
        return functions.bends(node.kind, low, high, node.options)
    if smooth(node):
        return low < high
    return np.logical_or.reduce([(low < k) & (high > k) for k in kinks(node)])


def slopes(node: CanonicalNode, low: np.ndarray, high: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of the lower and the upper lines by a rule: fixed, adaptive or interval."""
    if rule == "interval":
        return np.zeros_like(low), np.zeros_like(low)
    crossing = unstable(node, low, high)
    with np.errstate(all="ignore"):
        chord = (value(node, high) - value(node, low)) / (high - low)
        chord = _limited(node, np.where(crossing, chord, _exact(node, low, high)), low, high)
        if rule == "fixed":
            return chord, chord
        if node.kind in functions.KINDS:
            below, above = functions.slopes(node.kind, low, high, chord, node.options)
        elif node.kind == "clip":
            first, last = kinks(node)
            p, q = np.maximum(low, first), np.minimum(high, last)
            below = np.where((low >= first) | (high - first > first - low), (q - p) / (high - p), 0.0)
            above = np.where((high <= last) | (last - low > high - last), (q - p) / (q - low), 0.0)
        elif smooth(node):
            below, above = _tangent(node, low, high, chord), _tangent(node, -high, -low, chord)
        else:
            left, right = (-1.0 if node.kind == "abs" else node.options["slope"]), 1.0
            end = np.where(high > -low, right, left)
            below, above = (end, chord) if left <= right else (chord, end)
    below, above = (_limited(node, np.where(crossing, s, chord), low, high) for s in (below, above))
    return below, above


def _limited(node: CanonicalNode, s: np.ndarray, *ends: np.ndarray) -> np.ndarray:
    """Slopes that are numbers, at most as steep as the activation: `Ranges.roundoff` counts on that."""
    most = steepest(node, *ends)
    return np.clip(np.nan_to_num(s), -most, most)


def _exact(node: CanonicalNode, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The slope of the piece that holds the interval."""
    if smooth(node) or node.kind in functions.KINDS:
        return derivative(node, low)
    if node.kind == "clip":
        first, last = kinks(node)
        return np.where((low >= first) & (high <= last), 1.0, 0.0)
    return np.where(low >= 0, 1.0, -1.0 if node.kind == "abs" else node.options["slope"])


def _tangent(node: CanonicalNode, low: np.ndarray, high: np.ndarray, chord: np.ndarray) -> np.ndarray:
    """Slope of a good lower line: the chord, or that of a line from the upper end that touches the convex stretch."""
    first, last = low, np.minimum(high, 0.0)
    for _ in range(20):
        t = 0.5 * (first + last)
        above = value(node, t) + derivative(node, t) * (high - t) > value(node, high)
        first, last = np.where(above, first, t), np.where(above, t, last)
    touching = np.where(derivative(node, low) >= chord, chord, derivative(node, first))
    return np.where(high <= 0, derivative(node, 0.5 * (low + high)), touching)


def through(node: CanonicalNode, low: np.ndarray, high: np.ndarray, below: np.ndarray, above: np.ndarray) -> Lines:
    """The lines with these slopes [B, R, n] over the intervals [B, 1, n]."""
    b = intercepts(node, low, high, below)[0]
    return below, b, above, intercepts(node, low, high, above)[1]


def own(node: CanonicalNode, low: np.ndarray, high: np.ndarray, given: Mapping[str, np.ndarray]) -> Lines:
    """Lines over intervals [B, n] with slopes that a certificate gives to some neurons, [B, R, u].

    Bytes are positions in the range of slopes, for the side that an activation curves towards (what functions.py has
    takes none); anything else is the slope itself, of both sides, or of the lower one where `upper` gives that of the
    other.
    """
    places, codes = given["neurons"], given["slopes"]
    ends = low[:, None, places], high[:, None, places]
    least, most = slope_range(node, *ends)
    both = [codes, given.get("upper", codes)]
    if not all(np.isfinite(c).all() for c in both) or both[1].shape != codes.shape:
        raise ValueError("slopes that are not numbers, or of no matching shape")
    as_bytes = codes.dtype == np.uint8
    if as_bytes and node.kind in functions.KINDS:
        raise ValueError(f"slopes of {node.kind} are no bytes: what a position means would hang on the interval")
    both = [least + (most - least) * c / 255.0 if as_bytes else c.astype(np.float64) for c in both]
    both = [_limited(node, s, *ends) for s in both]
    shape = (*codes.shape[:2], low.shape[1])
    sides = [np.broadcast_to(s[:, None], shape).copy() for s in slopes(node, low, high, "adaptive")]
    crossing = unstable(node, *ends)
    for side, (rule, mine) in enumerate(zip(sides, both, strict=True)):
        curved = node.kind in ("leaky", "abs") and (side == 0) == (node.options.get("slope", 0.0) > 1)
        if not (as_bytes and curved and "upper" not in given):
            rule[:, :, places] = np.where(crossing, mine, rule[:, :, places])
    return through(node, low[:, None], high[:, None], *sides)
