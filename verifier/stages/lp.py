"""Linear programs over the convex hull of every neuron: the best that one relaxation with given bounds can say.

Ehlers (2017); Salman et al. (2019) call its value the convex relaxation barrier. What is solved, and what becomes of
the solver's word, is in verifier.encoding: the rows (relaxed_rows), and bounds of neurons before them (refinement).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties.rounding import cast_down, cast_up
from verifier.bound_map import Bounds, Interval
from verifier.budget import Budget
from verifier.query import Query
from verifier.relaxation.dual import intermediate
from verifier.relaxation.evidence import MultiplierEvidence
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.optimised import affordable
from verifier.relaxation.refinable import refinable
from verifier.stages.base import Stage, StageReport, register
from verifier.stages.prospects import few_unstable
from verifier.verdict import Trust

if TYPE_CHECKING:
    from verifier.encoding.clock import Clock
    from verifier.encoding.relaxed_rows import RelaxationRows

CPU = torch.device("cpu")


@register
class LpStage(Stage):
    """The linear relaxation of every open row.

    For ReLU networks the triangle LP (Planet, Ehlers 2017).

    Args:
        backend: name of a solver (`solvers.backend`). workers: processes; 0: never any, None: one per core, once
            there is enough to do.
    """

    name = "lp"
    aliases = ("triangle-lp", "planet")
    cost_rank = 70
    precision = torch.float64

    def __init__(self, backend: str = "highs", workers: int | None = None) -> None:
        self.backend, self.workers = backend, workers
        self.to_the_end = False  #: whether sets that are no boxes are cut beyond the sign of a row

    def supports(self, query: Query) -> bool:
        return True

    def hopes(self, query: Query, bounds: Bounds) -> Tensor:
        return few_unstable(query, bounds)

    def bounding(self) -> LpStage:
        other = copy.copy(self)
        other.to_the_end = True
        return other

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        from solvers.inline import Adaptive
        from verifier.encoding.clock import Clock
        from verifier.encoding.relaxed_rows import TO_THE_END, solve_rows

        rounds = TO_THE_END if self.to_the_end else None
        known, clock = intermediate(query, bounds, budget), Clock(budget, query.batch)
        with Adaptive(self.workers, self.backend) as executor:
            found = solve_rows(query.on(CPU, torch.float64), known.to(torch.float64).on(CPU), clock, executor, rounds)
        return report(query, known, found, clock)


@register
class LpRefineStage(Stage):
    """Bounds of the most influential neurons by linear programs, then the rows over the tighter relaxation.

    Args:
        neurons: how many neurons of one example at most. backend, workers: as of `LpStage`.
    """

    name = "lp-refine"
    aliases = ("obbt",)
    cost_rank = 75
    precision = torch.float64

    def __init__(self, neurons: int = 200, backend: str = "highs", workers: int | None = None) -> None:
        self.neurons, self.backend, self.workers = neurons, backend, workers

    def supports(self, query: Query) -> bool:
        """Where there is a layer whose bounds are not exact anyhow."""
        return bool(refinable(query))

    def hopes(self, query: Query, bounds: Bounds) -> Tensor:
        return few_unstable(query, bounds)

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        from solvers.inline import Adaptive
        from verifier.encoding.clock import Clock
        from verifier.encoding.refinement import refine
        from verifier.encoding.relaxed_rows import solve_rows

        with Adaptive(self.workers, self.backend) as executor:
            exact = query.on(CPU, torch.float64)
            known = intermediate(query, bounds, budget).to(torch.float64).on(CPU)
            clock = Clock(budget, query.batch)
            evidence: list[NeuronSlopes] = []
            tight = refine(exact, known, clock, self.neurons, executor, evidence)
            found = solve_rows(exact, tight, clock, executor)
        tight = Bounds({i: _like(query, interval) for i, interval in tight.items()})
        return replace(report(query, tight, found, clock), neurons=affordable(evidence))


def report(query: Query, bounds: Bounds, found: RelaxationRows, clock: Clock) -> StageReport:
    """What a stage reports of solved rows."""
    device, dtype = query.open.device, query.graph.dtype
    return StageReport(
        cast_down(found.lower, dtype).to(device), bounds, found.points.to(device), Trust.FLOAT,
        MultiplierEvidence({i: nu.to(device) for i, nu in found.multipliers.items()}), seconds=clock.used,
        exhausted=found.exhausted,
    )  # fmt: skip


def _like(query: Query, interval: Interval) -> Interval:
    """An interval in the query's place and precision, rounded outward where that is less."""
    dtype = query.graph.dtype
    lower, upper = cast_down(interval.lower.double(), dtype), cast_up(interval.upper.double(), dtype)
    return replace(interval, lower=lower, upper=upper).on(query.open.device)
