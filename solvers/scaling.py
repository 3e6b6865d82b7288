"""Scaling a program so that a solver's absolute tolerances mean the same everywhere.

Solvers hold rows, bounds and integrality to absolute tolerances, and drop small entries. On a program whose entries
range over many powers of ten that changes the answer. Here continuous columns are divided by about their width and
rows by about their largest entry, both by powers of two: nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from solvers.base import SolveResult
from solvers.program import Program, Vector


@dataclass(frozen=True)
class Scaled:
    """A program in scaled columns: x = columns * x'."""

    program: Program
    columns: Vector  # [n]

    @classmethod
    def of(cls, program: Program) -> Scaled:
        width = np.where(program.integer, 1.0, program.upper - program.lower)
        columns = _power_of_two(width)
        matrix = csr_array(program.matrix * columns[None, :])
        largest = abs(matrix).max(axis=1).toarray().ravel() if matrix.nnz else np.ones(program.rows)
        rows = 1 / _power_of_two(largest)
        matrix = csr_array(matrix * rows[:, None])
        matrix.sort_indices()
        scaled = Program(
            matrix, program.row_lower * rows, program.row_upper * rows,
            program.lower / columns, program.upper / columns, program.integer,
        )  # fmt: skip
        return cls(scaled, columns)

    def cost(self, cost: Vector) -> Vector:
        """A cost on x as one on x'."""
        return cost * self.columns

    def point(self, point: Vector) -> Vector:
        """A point x' as x."""
        return point * self.columns if np.shape(point) == self.columns.shape else point

    def answer(self, answer: SolveResult) -> SolveResult:
        """An answer about x' as one about x. Row duals of the scaled rows are left out."""
        primal = None if answer.primal is None else self.point(answer.primal)
        return replace(answer, primal=primal, row_duals=None)


def _power_of_two(size: Vector) -> Vector:
    """The nearest power of two, 1 where there is none."""
    usable = (size > 0) & np.isfinite(size)
    exponent = np.clip(np.round(np.log2(np.where(usable, size, 1.0))), -500, 500)
    return np.asarray(np.exp2(exponent), dtype=np.float64)
