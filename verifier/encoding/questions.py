"""Rows of a specification as questions to a solver, and the one place where an answer becomes a bound.

What a bound from here rests on is the solver's word (Trust.SOLVER): no tree of branch and bound comes back with it.
An answer that contradicts what is known for certain is no answer.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from solvers import Program, SolveResult, SolveStatus
from solvers.pool import Task
from solvers.scaling import Scaled
from verifier.encoding.exact import ExactEncoding
from verifier.encoding.value import Vector

#: how far a solver's point may be outside its program, and its bound beside the optimum, relative to their size
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Question:
    """The minimum of one row of one example over a program."""

    example: int
    row: int
    encoding: ExactEncoding
    cost: Vector  # [n]
    constant: float
    #: ask only about points where the row is at most this: the solver prunes what is proved; None: about all
    cutoff: float | None
    #: without the cut-off, the program holds the network at the clean input, as we have checked
    feasible: bool

    @cached_property
    def program(self) -> Program:
        program = self.encoding.program
        if self.cutoff is None:
            return program
        return program.with_rows(self.cost[None], np.full(1, -np.inf), np.full(1, self.cutoff - self.constant))

    @cached_property
    def scaled(self) -> Scaled:
        """What the solver is given: its tolerances are absolute."""
        return Scaled.of(self.program)

    def task(self, seconds: float) -> Task:
        """The question for a solver.

        It needs no bound to stop at: once every branch is above the cut-off, none is left. (A solver that was to stop
        there would see its bound jump to infinity at the end, and stop before it has said "infeasible".)
        """
        return Task(self.scaled.program, self.scaled.cost(self.cost)[None], until=time.monotonic() + seconds)

    def bound(self, answer: SolveResult, seen: float) -> float:
        """A lower bound of the row over the whole set, on the solver's word; -inf where it gave none that counts.

        Args:
            answer: of the scaled program.
            seen: the smallest value of the row that a member of the set is known to have.

        "Infeasible" counts only for a program with a cut-off row which is feasible without it, and only where no member
        below the cut-off is known. A dual bound above a value that a member or the solver's own point has is a
        contradiction. Both are taken less the tolerance of the solver, and no bound is above the cut-off: beyond it
        the program says nothing.
        """
        answer = self.scaled.answer(answer)
        if not self.feasible:
            return -math.inf
        if answer.status is SolveStatus.INFEASIBLE:
            proved = self.cutoff is not None and seen > self.cutoff
            return _less(self.cutoff) if proved and self.cutoff is not None else -math.inf
        if answer.status not in (SolveStatus.OPTIMAL, SolveStatus.BOUND_REACHED, SolveStatus.LIMIT):
            return -math.inf
        claimed = answer.dual_bound + self.constant
        highest = min(seen, answer.incumbent + self.constant)
        if math.isnan(answer.incumbent) or not math.isfinite(claimed) or not math.isfinite(highest):
            return -math.inf
        if claimed > highest + TOLERANCE * (1 + abs(highest)):
            return -math.inf
        if answer.primal is not None and not self._is_point(answer.primal, answer.incumbent):
            return -math.inf
        return _less(claimed if self.cutoff is None else min(claimed, self.cutoff))

    def _is_point(self, x: Vector, value: float) -> bool:
        """Whether x is in the program and has that objective value, within tolerance; NaN is not."""
        if x.shape != self.cost.shape or not np.isfinite(x).all():
            return False
        size = 1 + float(np.abs(x).max(initial=0.0))
        inside = self.program.violation(x) <= 10 * TOLERANCE * size
        return inside and abs(float(self.cost @ x) - value) <= 10 * TOLERANCE * (size + abs(value))


def _less(value: float) -> float:
    return value - TOLERANCE * (1 + abs(value))
