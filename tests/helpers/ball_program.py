"""A linear program with one Euclidean ball more, solved by an interior point method that proves how exact it is.

Imports nothing from the product. The central path of a logarithmic barrier gives a feasible point, whose cost is above
the minimum, and multipliers, which give a number below it by weak duality: Boyd & Vandenberghe, Convex Optimization,
sections 11.2 and 11.3. What it returns is right if the two are close, however they were found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import linprog

Array = np.ndarray


@dataclass(frozen=True)
class BallProgram:
    """The set { v : equal v = ends, above v <= limits, low <= v <= high, |at v - center| <= eps }.

    `low` is below `high` everywhere, and both are finite.
    """

    equal: Array  # [e, n]
    ends: Array  # [e]
    above: Array  # [m, n]
    limits: Array  # [m]
    low: Array  # [n]
    high: Array  # [n]
    at: Array  # [d, n]
    center: Array  # [d]
    eps: float

    def minimum(self, cost: Array, gap: float = 1e-6) -> tuple[float, float]:
        """Numbers below and above the minimum of cost [n], at most `gap` apart.

        Raises AssertionError where they are further apart, or where the set has no interior.
        """
        v, strength = self._inside(), 1.0
        basis = null_space(self.equal) if len(self.equal) else np.eye(len(v))
        while True:
            v = self._centred(v, basis, strength * cost)
            below, above = self._below(v, cost, strength), float(cost @ v)
            if above - below <= gap or strength > 1e12:
                break
            strength *= 5
        assert below <= above <= below + gap, (below, above)
        return below, above

    @property
    def _sides(self) -> tuple[Array, Array]:
        """All inequalities but the ball: rows [m + 2n, n] and limits."""
        unit = np.eye(len(self.low))
        return np.vstack([self.above, unit, -unit]), np.concatenate([self.limits, self.high, -self.low])

    def _inside(self) -> Array:
        """A point with room on all sides: the inequalities, and a box inside the ball, with the largest margin."""
        rows, limits = self._sides
        reach = self.eps / np.sqrt(len(self.at))
        rows = np.vstack([rows, self.at, -self.at])
        limits = np.concatenate([limits, self.center + reach, reach - self.center])
        rows = np.pad(rows, ((0, 0), (0, 1)), constant_values=1.0)
        found = linprog(
            np.eye(rows.shape[1])[-1] * -1, rows, limits, np.pad(self.equal, ((0, 0), (0, 1))), self.ends,
            bounds=[(None, None)] * len(self.low) + [(0, 1)],
        )  # fmt: skip
        assert found.success and found.x[-1] > 1e-6, "the set has no interior"
        return np.asarray(found.x[:-1])

    def _barrier(self, v: Array, cost: Array) -> float:
        rows, limits = self._sides
        room, d = limits - rows @ v, self.at @ v - self.center
        ball = self.eps**2 - d @ d
        if room.min() <= 0 or ball <= 0:
            return np.inf
        return float(cost @ v - np.log(room).sum() - np.log(ball))

    def _centred(self, v: Array, basis: Array, cost: Array) -> Array:
        """Newton's method with backtracking, along the equalities."""
        rows, limits = self._sides
        for _ in range(100):
            room, d = limits - rows @ v, self.at @ v - self.center
            ball, normal = self.eps**2 - d @ d, 2 * self.at.T @ d
            slope = cost + rows.T @ (1 / room) + normal / ball
            curve = (rows.T / room**2) @ rows + 2 * self.at.T @ self.at / ball + np.outer(normal, normal) / ball**2
            step = -basis @ np.linalg.solve(basis.T @ curve @ basis, basis.T @ slope)
            decrease, length, here = -float(slope @ step), 1.0, self._barrier(v, cost)
            if decrease < 1e-8:
                break
            while self._barrier(v + length * step, cost) > here - 0.1 * length * decrease and length > 1e-9:
                length /= 2
            if length <= 1e-9:
                break
            v = v + length * step
        return v

    def _below(self, v: Array, cost: Array, strength: float) -> float:
        """Weak duality: on the set, cost.v is at least itself plus any multiple >= 0 of what is <= 0 there."""
        rows, limits = self._sides
        d = self.at @ v - self.center
        price = 1 / (strength * (limits - rows @ v))
        pull = 2 * d / (strength * (self.eps**2 - d @ d))
        rest = cost + rows.T @ price + self.at.T @ pull
        tied = np.linalg.lstsq(self.equal.T, -rest, rcond=None)[0]
        rest = rest + self.equal.T @ tied
        spread = np.minimum(rest * self.low, rest * self.high).sum()
        return float(spread - price @ limits - tied @ self.ends - pull @ self.center - self.eps * np.linalg.norm(pull))
