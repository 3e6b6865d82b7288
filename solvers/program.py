"""A linear or integer program as sparse arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Program:
    """The set { x : row_lower <= A x <= row_upper, lower <= x <= upper, x_j integer where marked }.

    It has no cost: costs come with each question, so that a session answers many on one program.
    Infinite limits are +-inf. `csr_array`, float64, indices sorted, no duplicate entries.
    """

    matrix: csr_array  # A [m, n]
    row_lower: Vector  # [m]
    row_upper: Vector  # [m]
    lower: Vector  # [n]
    upper: Vector  # [n]
    integer: NDArray[np.bool_]  # [n]

    @property
    def columns(self) -> int:
        return len(self.lower)

    @property
    def rows(self) -> int:
        return len(self.row_lower)

    def with_rows(self, matrix: csr_array | Vector, lower: Vector, upper: Vector) -> Program:
        """The program with the rows  lower <= matrix @ x <= upper  as well; matrix [k, n], limits [k]."""
        rows = vstack([self.matrix, csr_array(matrix)], format="csr")
        rows.sort_indices()
        limits = np.concatenate([self.row_lower, lower]), np.concatenate([self.row_upper, upper])
        return replace(self, matrix=rows, row_lower=limits[0], row_upper=limits[1])

    def violation(self, x: Vector) -> float:
        """The largest amount by which x [n] breaks a row, a bound or integrality."""
        activity = self.matrix @ x
        parts = [self.row_lower - activity, activity - self.row_upper, self.lower - x, x - self.upper]
        parts.append(np.abs(x - np.round(x))[self.integer])
        return max((float(p.max()) for p in parts if p.size), default=0.0)
