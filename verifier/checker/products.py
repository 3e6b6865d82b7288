"""Products y_m = z[left_m] z[right_m] of entries of one node: their ranges, and planes below and above them.

A bilinear function less a plane has its extremes over a box at the corners. So whatever the slopes (a, b),

    x y >= a x + b y + c  with  c = the least of x y - a x - b y at the four corners,

and the same with the greatest above. Slopes between the other factor's ends keep |a x| + |b y| within twice the largest
|x| |y|: roundings of c, of products with it and of sums are a share of three times that, which `NodeRanges` pays.
Lines of products have slopes [B, R, 2, M], the left factors' first, and intercepts [B, R, M].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from verifier.checker.network import CanonicalNode
from verifier.checker.rounding import down, up

Planes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def factors(node: CanonicalNode, z: np.ndarray) -> np.ndarray:  # [..., n] -> [..., 2, M]
    return np.stack([z[..., node.arrays["left"]], z[..., node.arrays["right"]]], -2)


def _corners(low: np.ndarray, high: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:  # [..., 2, M] each
    x, y = ((low[..., k, :], high[..., k, :]) for k in (0, 1))
    return [(p, q) for p in x for q in y]


def span(node: CanonicalNode, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends of the products over boxes [B, n], rounded outward, and the largest |x| |y|; [B, M] each."""
    corners = _corners(factors(node, low), factors(node, high))
    with np.errstate(all="ignore"):
        values = np.stack([x * y for x, y in corners])
        largest = up(np.abs(values).max(0))
    known = ~np.isnan(values).any(0)  # an infinite end times zero tells nothing
    least, most = down(values.min(0)), up(values.max(0))
    return np.where(known, least, -np.inf), np.where(known, most, np.inf), np.where(known, largest, np.inf)


def unstable(node: CanonicalNode, low: np.ndarray, high: np.ndarray) -> np.ndarray:  # [B, n] each -> [B, n]
    """Entries that vary and are multiplied with some that vary."""
    wide = (factors(node, low) < factors(node, high)).all(-2)
    found = np.zeros(low.shape, bool)
    for index in (node.arrays["left"], node.arrays["right"]):
        found |= (onto(index, wide.astype(np.float64), low.shape[-1])) > 0
    return found


def planes(node: CanonicalNode, low: np.ndarray, high: np.ndarray, t: np.ndarray | float) -> Planes:
    """McCormick's planes at t in [0, 1] ([B, R, M] or a number) over boxes [B, n]."""
    low, high = (factors(node, z)[:, None] for z in (low, high))  # [B, 1, 2, M]
    first, second = low[:, :, ::-1], high[:, :, ::-1]  # ends of the other factor
    with np.errstate(all="ignore"):
        share = np.asarray(np.clip(np.nan_to_num(t), 0.0, 1.0))
        share = share[:, :, None] if share.ndim else share
        upper_start = np.stack([second[:, :, 0], first[:, :, 1]], 2)
        upper_end = np.stack([first[:, :, 0], second[:, :, 1]], 2)
        below, above = (p + share * (q - p) for p, q in ((first, second), (upper_start, upper_end)))
        # rounding may not take a slope beyond the other factor's ends; where these are infinite there is none
        below, above = (np.nan_to_num(np.clip(s, first, second), posinf=0.0, neginf=0.0) for s in (below, above))
        rests = [[x * y - s[:, :, 0] * x - s[:, :, 1] * y for x, y in _corners(low, high)] for s in (below, above)]
    c, d = np.minimum.reduce(rests[0]), np.maximum.reduce(rests[1])  # these keep NaN
    return below, np.where(np.isnan(c), -np.inf, c), above, np.where(np.isnan(d), np.inf, d)


def own(node: CanonicalNode, low: np.ndarray, high: np.ndarray, given: Mapping[str, np.ndarray]) -> Planes:
    """Planes over boxes [B, n] with the t that a certificate gives to some products, [B, R, u]; 1/2 for others."""
    codes = given["slopes"]
    if not np.isfinite(codes).all() or "upper" in given:
        raise ValueError("positions of planes that are not numbers, or of two sides")
    t = np.full((*codes.shape[:2], node.size), 0.5)
    t[:, :, given["neurons"]] = codes / 255.0 if codes.dtype == np.uint8 else codes.astype(np.float64)
    return planes(node, low, high, t)


def pulled(node: CanonicalNode, nu: np.ndarray, size: int) -> np.ndarray:  # [B, R, 2, M] -> [B, R, n]
    """Coefficients on both factors as coefficients on the node that they are entries of."""
    return onto(node.arrays["left"], nu[:, :, 0], size) + onto(node.arrays["right"], nu[:, :, 1], size)


def onto(index: np.ndarray, values: Any, size: int) -> np.ndarray:  # [M], [..., M] -> [..., size]
    """Sums of the values that each place gets."""
    order = np.argsort(index, kind="stable")
    place, out = index[order], np.zeros((*values.shape[:-1], size))
    first = np.flatnonzero(np.diff(place, prepend=-1))
    out[..., place[first]] = np.add.reduceat(values[..., order], first, axis=-1)
    return out
