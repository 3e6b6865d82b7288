"""Any solver that PuLP reaches; by default CBC, which comes with PuLP. Slow to set up: for comparison.

PuLP reports little, and not all of it is right: its interface to HiGHS gives a solve that ran out of time the status
"Optimal". So a solve counts as OPTIMAL only if both of PuLP's status fields say so and its seconds had not run out.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.base import Backend, OnIncumbent, Session, SolveResult, SolveStatus, checked_cost, register
from solvers.program import Program, Vector

#: a point that breaks the program by more is no incumbent, whatever it is called
FEASIBLE = 1e-6

#: the share of its seconds after which a solve is taken to have run out of them: solvers stop a little early
SPENT = 0.9


@register
class PuLP(Backend):
    """`solver` is PuLP's name of it; `options` go to its constructor, which raises on what it does not know."""

    name = "pulp"

    def __init__(self, solver: str = "PULP_CBC_CMD", **options: Any) -> None:
        self.solver, self.options = solver, options

    @classmethod
    def examples(cls) -> list[Backend]:
        return [cls(), cls("HiGHS")]

    def available(self) -> bool:
        if find_spec("pulp") is None:
            return False
        import pulp

        return self.solver in pulp.listSolvers(onlyAvailable=True)

    def load(self, program: Program) -> Session:
        return PuLPSession(program, self.solver, self.options)


class PuLPSession(Session):
    def __init__(self, program: Program, solver: str, options: dict[str, Any]) -> None:
        import pulp

        self.program, self.solver, self.options = program, solver, options
        self.problem: Any = pulp.LpProblem("program", pulp.LpMinimize)
        kinds = [pulp.LpInteger if whole else pulp.LpContinuous for whole in program.integer]
        self.variables = [pulp.LpVariable(f"x{j}", cat=kind) for j, kind in enumerate(kinds)]
        self.lower, self.upper = program.lower.copy(), program.upper.copy()
        self.set_bounds(np.arange(program.columns), program.lower, program.upper)
        self.sides: list[tuple[int, Any]] = []  # (row, constraint): a ranged row is two
        for row in range(program.rows):
            self._add(row)

    def minimise(
        self,
        cost: Vector,
        *,
        seconds: float | None = None,
        stop_above: float | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> SolveResult:
        cost = checked_cost(cost, self.lower.size)
        if self._plainly_empty():
            return SolveResult(
                SolveStatus.INFEASIBLE, message="a column's bounds or a row without entries cannot be met"
            )
        start = time.monotonic()
        self._solve(cost, seconds)
        spent = time.monotonic() - start
        answer = self._answer(cost, seconds is not None and spent >= SPENT * seconds)
        if on_incumbent is not None and answer.primal is not None and self.program.integer.any():
            on_incumbent(answer.incumbent, answer.primal)
        return replace(answer, seconds=spent)

    def set_bounds(self, columns: NDArray[np.integer], lower: Vector, upper: Vector) -> None:
        self.lower[columns], self.upper[columns] = lower, upper
        for j, low, high in zip(columns, lower, upper, strict=True):
            self.variables[j].lowBound = float(low) if np.isfinite(low) else None
            self.variables[j].upBound = float(high) if np.isfinite(high) else None

    def close(self) -> None:
        del self.problem, self.variables, self.sides

    def _add(self, row: int) -> None:
        from pulp import LpAffineExpression

        matrix, low, high = self.program.matrix, self.program.row_lower[row], self.program.row_upper[row]
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        pairs = zip(matrix.indices[entries].tolist(), matrix.data[entries].tolist(), strict=True)
        activity = LpAffineExpression([(self.variables[j], a) for j, a in pairs])
        if activity.isNumericalConstant():
            return
        if low == high:
            sides = [activity == low]
        else:
            sides = [activity >= low] if np.isfinite(low) else []
            sides += [activity <= high] if np.isfinite(high) else []
        for k, side in enumerate(sides):
            self.problem.addConstraint(side, f"r{row}_{k}")
            self.sides.append((row, side))

    def _plainly_empty(self) -> bool:
        """What PuLP cannot express: a column without values, a row without entries that leaves out 0."""
        p = self.program
        without = np.diff(p.matrix.indptr) == 0
        return bool((self.lower > self.upper).any() or (without & ((p.row_lower > 0) | (p.row_upper < 0))).any())

    def _solve(self, cost: Vector, seconds: float | None) -> None:
        import pulp

        for variable in self.variables:
            variable.varValue = None
        for _, side in self.sides:
            side.pi = None
        used = np.flatnonzero(cost).tolist()
        self.problem.setObjective(pulp.LpAffineExpression([(self.variables[j], float(cost[j])) for j in used]))
        limit = {} if seconds is None else {"timeLimit": max(seconds, 1e-2)}
        self.problem.solve(pulp.getSolver(self.solver, msg=False, **limit, **self.options))

    def _answer(self, cost: Vector, out_of_time: bool) -> SolveResult:
        status, word = self._status(out_of_time), f"{self.problem.status}, {self.problem.sol_status}"
        if status not in (SolveStatus.OPTIMAL, SolveStatus.LIMIT):
            return SolveResult(status, message=word)
        x = self._point()
        if not self._feasible(x):
            return SolveResult(SolveStatus.FAILED if status is SolveStatus.OPTIMAL else status, message=word)
        value = float(cost @ x)
        solved = status is SolveStatus.OPTIMAL
        return SolveResult(
            status,
            dual_bound=value if solved else -math.inf,
            incumbent=value,
            primal=x,
            row_duals=self._duals() if solved and not self.program.integer.any() else None,
            message=word,
        )

    def _status(self, out_of_time: bool) -> SolveStatus:
        import pulp

        status, solution = self.problem.status, self.problem.sol_status
        if status == pulp.LpStatusInfeasible:
            return SolveStatus.LIMIT if out_of_time else SolveStatus.INFEASIBLE
        if status == pulp.LpStatusUnbounded:
            return SolveStatus.UNBOUNDED
        if status == pulp.LpStatusOptimal and solution == pulp.LpSolutionOptimal and not out_of_time:
            return SolveStatus.OPTIMAL
        return SolveStatus.LIMIT if out_of_time or solution == pulp.LpSolutionIntegerFeasible else SolveStatus.FAILED

    def _point(self) -> Vector:  # [n]
        """The values; a column in no row and without cost has none, and any value will do."""
        anything = np.clip(0.0, self.lower, self.upper)
        values = [v.varValue for v in self.variables]
        return np.array([a if v is None else v for v, a in zip(values, anything, strict=True)], dtype=float)

    def _feasible(self, x: Vector) -> bool:
        return replace(self.program, lower=self.lower, upper=self.upper).violation(x) <= FEASIBLE

    def _duals(self) -> Vector | None:  # [m]
        y = np.zeros(self.program.rows)
        for row, side in self.sides:
            if side.pi is None:
                return None
            y[row] += side.pi
        return y
