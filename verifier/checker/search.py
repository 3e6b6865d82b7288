"""Searches for the numbers at which `sets` bounds a support function. They need no proof, and no care with rounding.

Whatever is found here, be it NaN, `sets` bounds rigorously at these numbers: a bad search makes a bound loose. All rows
c are [R, n]; `low` and `high` [n] are the ends of a box around the set.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
TINY = float(np.finfo(np.float64).tiny)
#: what mass may do: its moves (down, right) by what they cost, staying among the first ones
Moves = list[tuple[float, list[tuple[int, int]]]]


def l2_part(c: Array, x: Array, eps: float, low: Array, high: Array) -> Array:  # -> [R, n]
    """c, no entry further from 0 than lambda times its way to the box's end; one lambda fills the ball's radius."""
    below, over = low - x, high - x
    ends, multiplier = np.where(c > 0, over, below), np.linalg.norm(c, axis=1, keepdims=True) / eps
    for _ in range(16):  # the box stops ever more entries; the others share what is left of the radius
        e = np.clip(c, multiplier * below, multiplier * over)
        left = eps**2 - (ends**2).sum(1, keepdims=True, where=e != c)
        better = np.sqrt((c**2).sum(1, keepdims=True, where=e == c) / left)
        multiplier = np.where((left > 0) & (better < multiplier), better, multiplier)
    return np.clip(c, multiplier * below, multiplier * over)


def l1_part(c: Array, x: Array, eps: float, low: Array, high: Array) -> Array:  # -> [R, n]
    """c, no entry further from 0 than lambda: the size of the entry at which the radius is used up."""
    size, room = np.abs(c), np.where(c > 0, high - x, x - low)
    order = np.argsort(-size, axis=1)
    used = np.cumsum(np.take_along_axis(room, order, 1), 1)
    sizes = np.append(np.take_along_axis(size, order, 1), np.zeros((len(c), 1)), 1)
    multiplier = np.take_along_axis(sizes, (used < eps).sum(1, keepdims=True), 1)
    return np.clip(c, -multiplier, multiplier)


def row_multipliers(c: Array, rows: Array, limits: Array, low: Array, high: Array) -> Array:  # -> [R, m], >= 0
    """Of a polytope's rows, by a primal-dual interior point method: max c . y with rows y <= limits, |y| <= 1."""
    half, middle = (high - low) / 2, (high + low) / 2
    sizes = np.abs(rows * half).sum(1)  # all in units of the box, the rows, the coefficients
    sizes = np.where(sizes > 0, sizes, 1.0)
    a, b = rows * half / sizes[:, None], (limits - rows @ middle) / sizes
    scale = np.abs(c * half).max(1, initial=0, keepdims=True) + TINY
    c = c * half / scale
    y, m = np.zeros_like(c), np.ones((len(c), len(b)))
    s = np.ones_like(m) * np.maximum(b, 0.1)  # what is left of the limits
    v = c - m @ a
    p, q = (np.hypot(v, 2) + v) / 2, (np.hypot(v, 2) - v) / 2  # multipliers of y <= 1 and y >= -1: p - q = c - m a
    for _ in range(30):
        gap = ((p * (1 - y) + q * (1 + y)).sum(1) + (m * s).sum(1)) / (2 * c.shape[1] + len(b))
        aim, off = 0.15 * gap[:, None], b - y @ a.T - s
        weight = 1 / (p / (1 - y) + q / (1 + y))
        pull = aim / (1 - y) - aim / (1 + y) - (p - q)
        matrix = (a * weight[:, None]) @ a.T
        matrix[:, range(len(b)), range(len(b))] += s / m
        going = (gap > 1e-13) & np.isfinite(matrix).all((1, 2))
        if not going.any():
            break
        matrix[~going] = np.eye(len(b))
        right = aim / m - s - off - (pull * weight) @ a.T
        matrix[:, range(len(b)), range(len(b))] *= 1 + 1e-13  # never singular
        dm = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
        dy = -weight * (pull + dm @ a)
        ds, dp, dq = aim / m - s - s * dm / m, (aim + p * dy) / (1 - y) - p, (aim - q * dy) / (1 + y) - q
        pairs = ((p, dp), (q, dq), (m, dm), (s, ds), (1 - y, -dy), (1 + y, dy))
        furthest = np.maximum.reduce([(-d / t).max(1, initial=0.95) for t, d in pairs])
        step = np.where(going & np.isfinite(furthest), 0.95 / furthest, 0)[:, None]
        moved = (np.where(step > 0, t + step * d, t) for t, d in ((y, dy), (p, dp), (q, dq), (m, dm), (s, ds)))
        y, p, q, m, s = moved
    return np.maximum(np.nan_to_num(m * scale / sizes, nan=0, posinf=0), 0)


def price_of_cost(mass: Array, gains: list[Array], moves: Moves, budget: float) -> Array:  # -> [R], >= 0
    """The psi at which mass that goes where it gains most, less psi times the cost, has just spent the budget.

    Args:
        mass: [sources]. gains: [sources, R], the largest coefficient that each finds at a cost, for each of `moves`.
    """
    steepest = [((g - gains[0]) / price).max(0, initial=0) for (price, _), g in zip(moves[1:], gains[1:], strict=True)]
    low, high = np.zeros(gains[0].shape[1]), np.maximum.reduce([np.zeros(gains[0].shape[1]), *steepest])
    for _ in range(48):
        psi = (low + high) / 2
        best, cost = gains[0], np.zeros_like(gains[0])
        for (price, _), gain in zip(moves[1:], gains[1:], strict=True):
            net = gain - psi * price
            cost = np.where(net > best, price, cost)
            best = np.maximum(best, net)
        dear = mass @ cost > budget
        low, high = np.where(dear, psi, low), np.where(dear, high, psi)
    return high


def neighbours(values: Array, moves: list[tuple[int, int]], outside: float) -> list[Array]:  # values [C, H, W, R]
    """What every pixel finds at each of those moves from it."""
    r, (height, width) = max(max(abs(a), abs(b)) for a, b in moves), values.shape[1:3]
    wide = np.pad(values, ((0, 0), (r, r), (r, r), (0, 0)), constant_values=outside)
    return [wide[:, r + a : r + a + height, r + b : r + b + width] for a, b in moves]


def prices_of_room(c: Array, x: Array, moves: Moves, budget: float, cap: float) -> Array:  # [C, H, W, R], x [C, H, W]
    """Prices >= 0 of pixels that are full at `cap`: Sinkhorn iterations with falling temperatures.

    (See properties/wasserstein/prices.py.)
    """
    spread = np.ptp(c, axis=(0, 1, 2)) + TINY * 1e6
    c, x = (c / spread).astype(np.float32), x[..., None].astype(np.float32)
    costs = np.array([[price] for price, _ in moves], dtype=np.float32)
    beta, psi, tiny = np.zeros_like(c), np.zeros(c.shape[-1], dtype=np.float32), np.finfo(np.float32).tiny

    def summed(values: Array, sign: int) -> Array:
        turned = ([(sign * a, sign * b) for a, b in group] for _, group in moves)
        return np.stack([np.sum(neighbours(values, group, 0.0), axis=0) for group in turned])

    for step in range(20):
        heat = np.float32(0.1 * 0.15 ** (step / 19))
        net = (c - beta) / heat
        weight = np.exp(np.maximum(net - net.max((0, 1, 2)), -80))
        sums, kernel = summed(weight, 1), np.exp(-psi / heat * costs)  # [classes, C, H, W, R], [classes, R]
        flow = kernel * (x / np.einsum("tr,tchwr->chwr", kernel, sums) * sums).sum((1, 2, 3))
        spent = (flow * costs).sum(0)
        gain = np.log(spent / np.float32(budget)) * spent / (flow * costs**2).sum(0)
        psi = np.nan_to_num(np.maximum(psi + heat * gain, 0))
        kernel = np.exp(-psi / heat * costs)
        sent = summed(x / np.einsum("tr,tchwr->chwr", kernel, sums), -1)
        held = weight * np.einsum("tr,tchwr->chwr", kernel, sent) / np.float32(cap)
        beta = np.nan_to_num(np.maximum(beta + np.float32(1.9) * heat * np.log(held + tiny), 0))
    return beta * spread
