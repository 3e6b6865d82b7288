"""Functions that are linear between the points of a list, and jumps: the least of f(z) - s z is at the end of a piece.

A piece is closed: where f jumps, both limits count, whatever the value between them is. The jumps of floor and round
are alike: on the piece of the integer j the least is (1 - s) j plus a constant, which over the pieces that lie wholly
inside is least at the first or the last. All roundings are paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from verifier.checker.rounding import AMPLE, DOUBLE, SINGLE, TINY, TINY_SINGLE, down

Array = np.ndarray
Options = Mapping[str, Any]
JUMPS = ("floor", "round", "sign", "step")
PIECES = ("polyline", *JUMPS)
STEEPEST_JUMP = 64.0  #: slopes of lines across a jump; no jump goes down
_PART = 16 * DOUBLE


def malformed(o: Options) -> bool:
    """Whether a polyline's lists are other than as many points, in rising order, and finite floats."""
    x, y = o["x"], o["y"]
    if not isinstance(x, list) or not isinstance(y, list) or not 0 < len(x) == len(y):
        return True
    numbers = [*x, *y, o["left"], o["right"]]
    if not all(type(v) is float for v in numbers) or not np.isfinite(numbers).all():
        return True
    return not (np.diff(x) > 0).all() or not np.isfinite(_slopes(o)).all()


def _slopes(o: Options) -> Array:  # [len(x) + 1]
    with np.errstate(all="ignore"):
        return np.concatenate([[o["left"]], np.diff(o["y"]) / np.diff(o["x"]), [o["right"]]])


def enclosed(kind: str, z: Array, o: Options) -> tuple[Array, Array]:
    """Values, and what they are off by at most."""
    if kind == "polyline":
        piece = np.searchsorted(o["x"], z, side="right")
        start = np.maximum(piece - 1, 0)
        rise = _slopes(o)[piece] * (z - np.array(o["x"])[start])
        y = np.array(o["y"])[start]
        return y + rise, (np.abs(y) * (piece > 1) + np.abs(y) + np.abs(rise)) * _PART + TINY
    if kind == "step":
        return np.where((z > 0) | ((z == 0) & (o["closed"] > 0)), 1.0, 0.0), np.zeros_like(z)
    return {"floor": np.floor, "round": np.rint, "sign": np.sign}[kind](z), np.zeros_like(z)


def slope(kind: str, z: Array, o: Options) -> Array:
    return _slopes(o)[np.searchsorted(o["x"], z, side="right")] if kind == "polyline" else np.zeros_like(z)


def bends(kind: str, low: Array, high: Array, o: Options) -> Array:
    """Where the function is no line over the interval."""
    if kind == "polyline":
        return np.logical_or.reduce([(low < x) & (x < high) for x in o["x"]])
    return (enclosed(kind, low, o)[0] != enclosed(kind, high, o)[0]) | ~np.isfinite(high - low)


def slope_range(kind: str, low: Array, o: Options) -> tuple[Array, Array]:
    """Slopes that lines may have, over any interval."""
    least, most = (_slopes(o).min(), _slopes(o).max()) if kind == "polyline" else (0.0, STEEPEST_JUMP)
    return np.full_like(low, least), np.full_like(low, most)


def single(kind: str, most: Array, size: Array, o: Options) -> Array:
    """Jumps are exact in float32; of a polyline 16 units of all that it is made of, its rounded points among them."""
    if kind != "polyline":
        return np.full_like(most, TINY_SINGLE)
    far = np.maximum(size, np.abs(o["x"]).max())
    whole = most + np.abs(o["y"]).max() + np.abs(_slopes(o)).max() * far
    return 16 * 2 * SINGLE * whole * AMPLE + TINY_SINGLE


def intercepts(kind: str, low: Array, high: Array, s: Array, o: Options) -> tuple[Array, Array]:
    """Rigorous bounds, below the least and above the largest f(z) - s z over [low, high]."""
    low, high, s = np.broadcast_arrays(low, high, s)
    with np.errstate(all="ignore"):
        points = [(t, *enclosed(kind, t, o)) for t in (low, high)]  # where, the value or a limit, and its error
        if kind == "polyline":
            points += [(t, *enclosed(kind, t, o)) for t in (np.clip(x, low, high) for x in o["x"])]
        elif kind in ("sign", "step"):
            at_zero = o["closed"] if kind == "step" else 0.0
            for limit, there in ((0.0 if kind == "step" else -1.0, low < 0), (at_zero, low <= 0), (1.0, high > 0)):
                across = there & (low <= 0) & (high >= 0)
                points.append((np.where(across, 0.0, low), np.where(across, limit, points[0][1]), np.zeros_like(low)))
        else:
            (first, last), begin = (p[1] for p in points[:2]), 0.0 if kind == "floor" else -0.5
            for j in (first, np.minimum(first + 1, last), np.maximum(last - 1, first), last):
                points += [(np.clip(j + at, low, high), j, np.zeros_like(low)) for at in (begin, begin + 1)]
        both = []
        for sign in (1, -1):
            found = [sign * (v - s * t) - e - (np.abs(v) + np.abs(s * t)) * _PART for t, v, e in points]
            least = np.minimum.reduce(found) - TINY
            both.append(down(np.where(np.isfinite(low) & np.isfinite(high), least, -np.inf)))
    return both[0], -both[1]
