"""A basis to start the simplex method from: the vertex that the dual bound with lines by a rule is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from solvers import Program
from solvers.base import Basis
from verifier.encoding.placement import PlacedProducts, Placement
from verifier.encoding.value import Indices, Mask, Vector, widened

_LOWER, _BASIC, _UPPER = -1, 0, 1


def starts(program: Program, hulls: Sequence[Placement | PlacedProducts], costs: Vector, tied: int = 0) -> list[Basis]:
    """One basis per question, costs [q, n]: each neuron follows one side of its hull, inputs are at their worse ends.

    The side is chosen by the sign of the neuron's coefficient and at the middle of its interval (Zhang et al. 2018),
    so that all reduced costs have the right sign: the dual simplex method starts at that dual bound, and has only the
    way from there to the optimum to go. Costs are pulled back through the neurons as in the dual network.

    Args:
        tied: the first so many rows say what as many first columns are by others (`properties.lifted.Lifted`): those
            columns are basic, and it is the others that are at their ends.
    """
    pulled = np.array(costs, dtype=np.float64)
    columns: NDArray[np.int8] = np.full(pulled.shape, _LOWER, dtype=np.int8)
    rows: NDArray[np.int8] = np.full((len(pulled), program.rows), _BASIC, dtype=np.int8)
    for hull in reversed(hulls):
        coefficient = pulled[:, hull.out]  # [q, k]
        if isinstance(hull, PlacedProducts):
            pulled += _follow(hull, coefficient, columns, rows)
            continue
        side = np.where(coefficient >= 0, _middle(hull, True), _middle(hull, False))
        slopes = np.stack([np.zeros(len(hull.out)), *(s.slope for s in hull.sides)])
        nu = coefficient * slopes[side, np.arange(len(hull.out))]
        matrix = widened(hull.neurons.z.matrix, program.columns)
        pulled += np.asarray((matrix.T @ nu.T).T)
        _place(hull, side - 1, coefficient >= 0, columns, rows)
    first = hulls[0].out[0] if hulls else program.columns
    if tied:
        pulled -= np.asarray((program.matrix[:tied].T @ pulled[:, :tied].T).T)
        rows[:, :tied] = _LOWER
    columns[:, :first] = np.where(pulled[:, :first] >= 0, _LOWER, _UPPER)
    columns[:, :tied] = _BASIC
    return [Basis(c, r) for c, r in zip(columns, rows, strict=True)]


def _follow(
    hull: PlacedProducts, coefficient: Vector, columns: NDArray[np.int8], rows: NDArray[np.int8]
) -> Vector:  # coefficient [q, k] -> [q, n]
    """Products on the first plane of the side that the sign picks, and what that puts on the columns."""
    below = coefficient >= 0
    columns[:, hull.out] = _BASIC
    rows[:, hull.rows[0]] = np.where(below, _LOWER, _BASIC)
    rows[:, hull.rows[2]] = np.where(below, _BASIC, _UPPER)
    total = np.zeros_like(columns, dtype=np.float64)
    for k, factor in enumerate((hull.left, hull.right)):
        nu = coefficient * np.where(below, hull.slopes[0, k], hull.slopes[2, k])
        total += np.asarray((widened(factor.matrix, columns.shape[1]).T @ nu.T).T)
    return total


def _middle(hull: Placement, below: bool) -> Indices:
    """The side that is the hull's boundary at the middle of the interval, [k]: 0 for the flat one, else 1 + number."""
    x, y = hull.neurons.x, hull.neurons.y
    middle = (x.min(0) + x.max(0)) / 2
    sign = 1.0 if below else -1.0
    heights = [sign * (y.min(0) if below else y.max(0))]
    for s in hull.sides:
        usable = s.valid & (s.below == below)
        heights.append(np.where(usable, sign * (s.slope * middle + s.bias), -np.inf))
    return np.argmax(np.stack(heights), axis=0)


def _place(hull: Placement, side: Indices, below: Mask, columns: NDArray[np.int8], rows: NDArray[np.int8]) -> None:
    """Write the statuses of one hull's columns and rows; side [q, k] is -1 for the flat side."""
    sloped = hull.gap >= 0
    flat, steepest = side < 0, side == hull.steepest
    end = np.where(below, _LOWER, _UPPER)
    columns[:, hull.out] = np.where(flat, end, _BASIC)
    gap = np.where(steepest, end, _BASIC)
    columns[:, hull.gap[sloped]] = gap[:, sloped]
    rows[:, hull.tied[sloped]] = _LOWER
    for number, row in enumerate(hull.rows):
        there = row >= 0
        rows[:, row[there]] = np.where(side == number, end, _BASIC)[:, there]
