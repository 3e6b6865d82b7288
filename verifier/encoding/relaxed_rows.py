"""The rows of a specification over the relaxation: Ehlers (2017), Salman et al. (2019), as linear programs.

One program per example, the rows as changing objectives. What counts is never the solver's value: its row duals are
multipliers of the dual network (verifier.relaxation.multipliers), and the bound is computed from them by weak duality.
Boxes and images of polytopes (properties.lifted) are in the program as they are, other sets by their interval hull and
by half-spaces (verifier.encoding.cutting); the bound is computed with the set's support function.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solvers.inline import Adaptive
from verifier.bound_map import Bounds
from verifier.budget import Budget, OutOfTime
from verifier.encoding.clock import Clock
from verifier.encoding.cutting import Rounds, minima, questions
from verifier.encoding.encoder import Encoder
from verifier.encoding.relaxation import Executor
from verifier.query import Query

#: share of the way to the center by which a solver's point, feasible to its tolerance, is moved into the set
BACK = 1e-6
_CPU = torch.device("cpu")

#: of sets that are no boxes, where the rows' values are wanted, not their signs
TO_THE_END = Rounds(most=60, share=1e-3, sign=False)


@dataclass(frozen=True)
class RelaxationRows:
    """The rows of a specification over the relaxation with given bounds."""

    lower: Tensor  # [B, S] float64: recomputed by weak duality; -inf where nothing was found
    optimum: Tensor  # [B, S] float64: the solver's own values; NaN where it did not finish
    multipliers: dict[int, Tensor]  #: activation node -> [B, S, *its ports] float64: what proves `lower`
    points: Tensor  # [B, *input] float64: the input at the optimum of the lowest row, else the set's center
    exhausted: bool  #: a limit left some row unfinished


def lp_rows(query: Query, bounds: Bounds, backend: str = "highs", workers: int | None = 0) -> RelaxationRows:
    """All rows over the relaxation with the bounds given; for comparing methods on equal bounds.

    Args:
        bounds: of every pre-activation. backend, workers: as of `verifier.stages.lp.LpStage`.
    """
    everything = replace(query.on(_CPU, torch.float64), open=torch.ones_like(query.open).cpu())
    with Adaptive(workers, backend) as executor:
        known, clock = bounds.to(torch.float64).on(_CPU), Clock(Budget(), query.batch)
        return solve_rows(everything, known, clock, executor, TO_THE_END)


def solve_rows(
    query: Query, bounds: Bounds, clock: Clock, executor: Executor, rounds: Rounds | None = None
) -> RelaxationRows:
    """The open rows, one program per example. Query and bounds are in float64 on the CPU.

    Args:
        rounds: how long sets that are no boxes are cut; by default until the signs are known or it no longer pays.
    """
    graph, encoder = query.graph, Encoder(query.graph)
    lower = torch.full(query.open.shape, -torch.inf, dtype=torch.float64)
    optimum = torch.full_like(lower, torch.nan)
    multipliers = {i: lower.new_zeros(*lower.shape, *graph.ports(i)) for i in graph.activations}
    points = query.inputs.center().double().clone()
    late: list[bool] = []

    def in_vain(example: int, seconds: float) -> None:
        clock.used[example] += seconds
        late.append(True)

    asked = questions(query, bounds, encoder, clock.left, in_vain)
    limited = True
    with torch.no_grad(), suppress(OutOfTime):
        for solved in minima(query, bounds, graph.output, asked, executor, clock.left, rounds or Rounds()):
            i, rows = solved.asked.example, torch.from_numpy(solved.asked.rows)
            clock.used[i] += solved.seconds
            optimum[i, rows] = solved.optimum
            better = solved.lower >= lower[i, rows]  # rows come once for each round
            lower[i, rows[better]] = solved.lower[better]
            for node, nu in solved.multipliers.items():
                multipliers[node][i, rows[better]] = nu[better]
            point = solved.points[int(solved.lower.argmin())]
            if point is not None:
                points[i] = point
            late += [True] * solved.limited
        limited = bool(late)
    if not query.inputs.is_box:
        points = _members(query, points)
    return RelaxationRows(lower, optimum, multipliers, points, limited)


def _members(query: Query, points: Tensor) -> Tensor:  # [B, *input]
    """Members near points that programs have of the sets: projections only where a hair's breadth is not enough."""
    near = query.inputs.inside(points + BACK * (query.inputs.center().to(points) - points), points.dtype)
    there = query.inputs.contains(near).reshape(-1, *(1,) * (points.dim() - 1))
    return near if bool(there.all()) else torch.where(there, near, query.inputs.project(points))
