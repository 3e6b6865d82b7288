"""The transport problem of one pair of images as a linear program: distances, membership, separation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from properties.wasserstein.moves import Moves

if TYPE_CHECKING:  # scipy is imported with the first program
    from scipy.optimize import OptimizeResult
    from scipy.sparse import csr_matrix

Array = np.ndarray


@dataclass(frozen=True)
class Routes:
    """Every way that mass of one image may take; pixels by their place in the flattened image."""

    pixels: int
    source: Array  # [R]
    target: Array  # [R]
    cost: Array  # [R]

    @classmethod
    def of(cls, x: Array, moves: Moves) -> Routes:
        """The routes of an image x [C, H, W], from its pixels with mass."""
        _, height, width = x.shape
        channel, row, column = np.nonzero(x > 0)
        parts = []
        for cost, offsets in moves.classes():
            for down, right in offsets:
                to_row, to_column = row + down, column + right
                ok = (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
                source = ((channel * height + row) * width + column)[ok]
                target = ((channel * height + to_row) * width + to_column)[ok]
                parts.append((source, target, np.full(len(source), cost)))
        return cls(x.size, *(np.concatenate(column) for column in zip(*parts, strict=True)))

    @property
    def sources(self) -> Array:
        """The pixels that send."""
        return np.unique(self.source)

    def matrix(self, pixels: Array) -> csr_matrix:
        """[pixels, R]: 1 where a route ends at (or starts from) the pixel of that place."""
        from scipy import sparse

        ones = np.ones(len(pixels))
        return sparse.csr_matrix((ones, (pixels, np.arange(len(pixels)))), shape=(self.pixels, len(pixels)))


def optimal_transport(
    x: Tensor, z: Tensor, window: int = 5, cost: Tensor | None = None, rounding: float = 2.0**-24
) -> Tensor:
    """The Wasserstein distance of images z from x, each [B, C, H, W], with local plans: [B] float64.

    The least cost of a local plan that moves x to within `rounding` of z at every pixel, per unit of mass in x (the
    unit of eps); infinite where there is none. As a solver's optimum, to about 1e-9: for measuring, not for proofs.

    Args:
        window, cost: as of `WassersteinBall`.
    """
    moves = Moves.euclidean(window) if cost is None else Moves.of(cost)
    found = []
    for a, b in zip(x.detach().double().cpu().numpy(), z.detach().double().cpu().numpy(), strict=True):
        routes, mass = Routes.of(a, moves), a.sum()
        plan = cheapest(routes, a.ravel(), b.ravel(), rounding, math.inf)
        if plan is None:
            found.append(math.inf)
        else:
            found.append(float(plan @ routes.cost / mass) if mass > 0 else 0.0)
    return torch.tensor(found, dtype=torch.float64)


def cheapest(routes: Routes, x: Array, z: Array, slack: float, cap: float) -> Array | None:
    """Mass [R] on every route of a cheapest plan from x [n] to within `slack` of z [n], ending below `cap`; or None."""
    from scipy import sparse

    reached = np.unique(routes.target)
    apart = np.ones(len(z), dtype=bool)
    apart[reached] = False
    if (np.abs(z[apart]) > slack).any():
        return None
    sources, n = routes.sources, len(reached)
    if len(sources) == 0:
        return np.zeros(0)
    rows, columns = routes.matrix(routes.source)[sources], routes.matrix(routes.target)[reached]
    program = sparse.bmat([[rows, None], [columns, sparse.identity(n)]], format="csr")
    bounds = np.zeros((len(routes.cost) + n, 2))
    bounds[: len(routes.cost), 1] = np.inf
    bounds[len(routes.cost) :, 0] = np.maximum(-slack, z[reached] - cap)
    bounds[len(routes.cost) :, 1] = slack
    if (bounds[:, 0] > bounds[:, 1]).any():
        return None
    result = _solved(np.r_[routes.cost, np.zeros(n)], program, np.r_[x[sources], z[reached]], bounds)
    return result.x[: len(routes.cost)] if result.status == 0 else None


def _solved(
    objective: Array, equal: csr_matrix, value: Array, bounds: Array, under: tuple[Array, float] | None = None
) -> OptimizeResult:
    """A linear program, minimised with the tightest tolerances that HiGHS takes."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    row, limit = (None, None) if under is None else (csr_matrix(under[0][None]), [under[1]])
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    return linprog(objective, row, limit, equal, value, bounds, method="highs", options=options)


def is_member(routes: Routes, x: Array, z: Array, eps: float, rounding: float, cap: float) -> bool:  # x, z [n]
    """Whether some plan of x at a cost of at most eps times the mass of x ends within `rounding` of z, below the cap.

    A solver proposes a plan; True only if that one, repaired, passes in rational arithmetic.
    """
    margin = min(1e-9, rounding / 16)  # the solver's tolerance must not spoil the plan
    plan = cheapest(routes, x, z, rounding - min(rounding / 8, 1e-8), cap - margin)
    return plan is not None and proves(routes, plan, x, z, eps, rounding, cap)


def proves(routes: Routes, plan: Array, x: Array, z: Array, eps: float, rounding: float, cap: float) -> bool:
    """Whether a plan [R], made a plan of exactly x, shows that z [n] is a member; in rational arithmetic."""
    used = (plan > 0) & (routes.source != routes.target)
    flows = zip(*(a[used].tolist() for a in (routes.source, routes.target, routes.cost, plan)), strict=True)
    left = {i: Fraction(float(x[i])) for i in routes.sources.tolist()}
    mass = sum(left.values(), Fraction(0))
    came: dict[int, Fraction] = {}
    spent = Fraction(0)
    for source, target, cost, amount in flows:
        sent = min(Fraction(amount), left[source])  # what is not sent stays
        left[source] -= sent
        came[target] = came.get(target, Fraction(0)) + sent
        spent += sent * Fraction(cost)
    if spent > Fraction(eps) * mass:
        return False
    for pixel, value in enumerate(z.tolist()):
        held = left.get(pixel, Fraction(0)) + came.get(pixel, Fraction(0))
        if (cap < math.inf and held > Fraction(cap)) or abs(Fraction(value) - held) > Fraction(rounding):
            return False
    return True


def separating(routes: Routes, x: Array, z: Array, budget: float) -> Array | None:
    """The normal a [n], |a| <= 1, with the largest a . z - max of a over the ball (without cap and roundings), or None.

    The duals of the least sum of |z - y| over members y: prices of pixels, of Kantorovich's kind.
    """
    from scipy import sparse

    reached = np.unique(np.r_[routes.target, np.flatnonzero(z)])
    sources, n, count = routes.sources, len(reached), len(routes.cost)
    rows, columns = routes.matrix(routes.source)[sources], routes.matrix(routes.target)[reached]
    one = sparse.identity(n)
    # the plan, then by how much z is above and below what its pixels end with
    program = sparse.bmat([[rows, None, None], [columns, one, -one]], format="csr")
    bounds = np.zeros((count + 2 * n, 2))
    bounds[:, 1] = np.inf
    objective = np.r_[np.zeros(count), np.ones(2 * n)]
    result = _solved(
        objective, program, np.r_[x[sources], z[reached]], bounds, (np.r_[routes.cost, np.zeros(2 * n)], budget)
    )
    if result.status != 0:
        return None
    normal = np.zeros(len(z))
    normal[reached] = result.eqlin.marginals[-n:]
    return normal
