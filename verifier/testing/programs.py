"""Programs for the tests of solvers and pools."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array

from solvers import Program


def random_program(seed: int, rows: int = 12, columns: int = 10, whole: bool = False) -> Program:
    """Feasible at 0, boxed, with equalities, ranges and one-sided rows."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < 0.5)
    low, high = -rng.random(rows) * 2, rng.random(rows) * 2
    kind = rng.integers(4, size=rows)
    low[kind == 0], high[kind == 1] = -math.inf, math.inf
    low[kind == 2] = high[kind == 2] = 0
    integer = (rng.random(columns) < 0.5) & whole
    return Program(csr_array(matrix), low, high, np.full(columns, -2.0), np.full(columns, 3.0), integer)


def hard(columns: int = 60, rows: int = 30) -> tuple[Program, np.ndarray]:
    """An integer program that takes much longer than the tests' limits."""
    rng = np.random.default_rng(0)
    matrix = rng.random((rows, columns)) * (rng.random((rows, columns)) < 0.5)
    bounds = np.zeros(columns), np.ones(columns)
    p = Program(csr_array(matrix), np.full(rows, -math.inf), matrix.sum(1) / 2, *bounds, np.ones(columns, bool))
    return p, -rng.random(columns)
