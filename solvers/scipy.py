"""SciPy's linprog and milp: HiGHS again, in the version that SciPy carries, without warm starts and callbacks."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import vstack

from solvers.base import Backend, OnIncumbent, Session, SolveResult, SolveStatus, checked_cost, register
from solvers.program import Program, Vector

#: the codes of scipy.optimize; all others are FAILED
STATUS = {0: SolveStatus.OPTIMAL, 1: SolveStatus.LIMIT, 2: SolveStatus.INFEASIBLE, 3: SolveStatus.UNBOUNDED}


@register
class SciPy(Backend):
    name = "scipy"

    def available(self) -> bool:
        return find_spec("scipy") is not None

    def load(self, program: Program) -> Session:
        return (ScipyInteger if program.integer.any() else ScipyLinear)(program)


class SciPySession(Session):
    def __init__(self, program: Program) -> None:
        self.program = program
        self.lower, self.upper = program.lower.copy(), program.upper.copy()

    def minimise(
        self,
        cost: Vector,
        *,
        seconds: float | None = None,
        stop_above: float | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> SolveResult:
        cost = checked_cost(cost, self.lower.size)
        if (self.lower > self.upper).any():
            return SolveResult(SolveStatus.INFEASIBLE, message="a column's bounds are empty")
        start = time.monotonic()
        answer = self._solve(cost, {} if seconds is None else {"time_limit": max(seconds, 1e-3)})
        if on_incumbent is not None and answer.primal is not None and self.program.integer.any():
            on_incumbent(answer.incumbent, answer.primal)
        return replace(answer, seconds=time.monotonic() - start)

    def set_bounds(self, columns: NDArray[np.integer], lower: Vector, upper: Vector) -> None:
        self.lower[columns], self.upper[columns] = lower, upper

    def close(self) -> None:
        del self.program

    def _solve(self, cost: Vector, options: dict[str, Any]) -> SolveResult:
        raise NotImplementedError


class ScipyLinear(SciPySession):
    def __init__(self, program: Program) -> None:
        super().__init__(program)
        equal = program.row_lower == program.row_upper
        self.equal = np.flatnonzero(equal)
        self.above = np.flatnonzero(~equal & np.isfinite(program.row_upper))
        self.below = np.flatnonzero(~equal & np.isfinite(program.row_lower))

    def _solve(self, cost: Vector, options: dict[str, Any]) -> SolveResult:
        from scipy.optimize import linprog

        p = self.program
        result = linprog(
            cost,
            A_ub=vstack([p.matrix[self.above], -p.matrix[self.below]]),
            b_ub=np.concatenate([p.row_upper[self.above], -p.row_lower[self.below]]),
            A_eq=p.matrix[self.equal],
            b_eq=p.row_lower[self.equal],
            bounds=np.stack([self.lower, self.upper], axis=1),
            method="highs-ds",
            options=options,
        )
        status = STATUS.get(result.status, SolveStatus.FAILED)
        if status is not SolveStatus.OPTIMAL:
            return SolveResult(status, message=result.message)
        value = float(result.fun)
        return SolveResult(status, value, value, result.x, self._duals(result), iterations=result.nit)

    def _duals(self, result: Any) -> Vector:  # [m]
        y = np.zeros(self.program.rows)
        y[self.equal] = result.eqlin.marginals
        y[self.above] += result.ineqlin.marginals[: len(self.above)]
        y[self.below] -= result.ineqlin.marginals[len(self.above) :]
        return y


class ScipyInteger(SciPySession):
    def _solve(self, cost: Vector, options: dict[str, Any]) -> SolveResult:
        from scipy.optimize import Bounds, LinearConstraint, milp

        p = self.program
        result = milp(
            cost,
            integrality=p.integer.astype(int),
            bounds=Bounds(self.lower, self.upper),
            constraints=LinearConstraint(p.matrix, p.row_lower, p.row_upper),
            options={**options, "mip_rel_gap": 0.0},
        )
        status = STATUS.get(result.status, SolveStatus.FAILED)
        known = status in (SolveStatus.OPTIMAL, SolveStatus.LIMIT)
        found = known and result.x is not None
        bound = result.mip_dual_bound if known and result.mip_dual_bound is not None else -math.inf
        return SolveResult(
            status,
            dual_bound=-math.inf if math.isnan(bound) else float(bound),
            incumbent=float(result.fun) if found else math.inf,
            primal=result.x if found else None,
            nodes=int(result.mip_node_count or 0),
            message=result.message,
        )
