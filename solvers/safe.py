"""A lower bound that holds whatever a solver says, from any row duals.

Neumaier and Shcherbina, "Safe bounds in linear and mixed-integer linear programming" (2004), section 3, extended to
ranged rows and to columns without bounds. For every y and every feasible x,

    c x = y (A x) + (c - A^T y) x >= sum_i min over row i's range of y_i t + sum_j min over column j's range of d_j x_j,

with d = c - A^T y. d is enclosed with the error bound of a sum in any order; all further rounding goes downward.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from solvers.program import Program, Vector

UNIT = 2.0**-53  # half the distance from 1 to the next number
TINY = 2.0**-1022  # more than a product loses by underflow


def safe_bound(program: Program, cost: Vector, row_duals: Vector | None) -> float:
    """A number below cost x for every x of the program or of its relaxation; -inf where `row_duals` gives none.

    A dual whose side of the row is infinite counts as 0. None, a wrong shape and NaN give -inf.

    Args:
        cost: [n], finite.
        row_duals: [m], of any origin; signs as in `Answer.row_duals`.
    """
    if row_duals is None or row_duals.shape != (program.rows,) or not np.isfinite(row_duals).all():
        return -math.inf
    y = _usable(program, row_duals)
    with np.errstate(over="ignore", invalid="ignore"):
        parts = np.concatenate([_rows(program, y), _columns(program, cost, y)])
        return _sum_down(parts)


def _usable(program: Program, y: Vector) -> Vector:  # [m] -> [m]
    infinite = np.isinf(np.where(y > 0, program.row_lower, program.row_upper))
    return np.where(infinite, 0.0, y)


def _rows(program: Program, y: Vector) -> Vector:  # [m] -> [m]
    end = np.where(y > 0, program.row_lower, program.row_upper)
    return np.where(y == 0, 0.0, y) * np.where(y == 0, 0.0, end)


def _columns(program: Program, cost: Vector, y: Vector) -> Vector:  # [n], [m] -> [n]
    low, high = _reduced(program, cost, y)
    ends = [program.lower, program.upper]
    products = [np.where(d == 0, 0.0, d * np.where(d == 0, 0.0, x)) for d in (low, high) for x in ends]
    return np.minimum.reduce(products)


def _reduced(program: Program, cost: Vector, y: Vector) -> tuple[Vector, Vector]:
    """c - A^T y as an interval [n], exact where a column has an infinite end and the sign is in doubt."""
    transposed = program.matrix.T
    entries = np.bincount(program.matrix.indices, minlength=program.columns)
    middle = cost - transposed @ y
    # any order of summation errs by gamma_(k+1) of the sum of magnitudes; twice that covers the rounding of this line
    error = 2 * (entries + 3) * (UNIT * (abs(transposed) @ np.abs(y) + np.abs(cost)) + TINY)
    low, high = np.nextafter(middle - error, -math.inf), np.nextafter(middle + error, math.inf)
    doubt = ((low < 0) & np.isposinf(program.upper)) | ((high > 0) & np.isneginf(program.lower))
    if doubt.any():
        _exactly(program, cost, y, np.flatnonzero(doubt), low, high)
    return low, high


def _exactly(
    program: Program, cost: Vector, y: Vector, columns: NDArray[np.integer], low: Vector, high: Vector
) -> None:
    """Overwrites low and high [n] at `columns` with the values of c - A^T y rounded outward."""
    by_column = program.matrix[:, columns].tocsc()
    for k, j in enumerate(columns):
        entries = slice(by_column.indptr[k], by_column.indptr[k + 1])
        exact = Fraction(cost[j]) - sum(
            Fraction(a) * Fraction(y[i])
            for a, i in zip(by_column.data[entries], by_column.indices[entries], strict=True)
        )
        near = float(exact)
        low[j] = near if Fraction(near) <= exact else np.nextafter(near, -math.inf)
        high[j] = near if Fraction(near) >= exact else np.nextafter(near, math.inf)


def _sum_down(parts: Vector) -> float:
    """Below the sum of the numbers that `parts` are the rounded values of."""
    if np.isnan(parts).any() or np.isneginf(parts).any():
        return -math.inf
    parts = np.minimum(parts, np.finfo(np.float64).max)  # what overflowed is at least that
    try:
        loss = 4 * UNIT * math.fsum(np.abs(parts)) + len(parts) * TINY
        return float(np.nextafter(math.fsum(parts) - loss, -math.inf))
    except OverflowError:
        return -math.inf
