"""The methods of this project, with the roles that they play in the laws (verifier.comparison.laws)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from properties import Specification
from verifier.attacks.pgd import descend
from verifier.comparison.method import ComparisonMethod, ComparisonProblem, Role, register
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.activations import relaxations
from verifier.relaxation.ascent import Schedule
from verifier.relaxation.dual import DEFAULT_MEMORY, specification_rows
from verifier.relaxation.optimised import free_rows, optimised_rows
from verifier.relaxation.plan import PassPlan
from verifier.zonotope import learned_rows, region

_RELAXED = frozenset({Role.LOWER, Role.RELAXED})
#: longer, and with shorter steps from the slopes on, than where a proof is all that is wanted: this is to reach the LP
_SLOPES = Schedule(steps=100, rate=0.25, decay=0.97)
_MULTIPLIERS = Schedule(steps=400, rate=0.01, decay=0.985, look=20)
#: bytes that one call may work with: enough for the papers' networks, one example at a time
_MEMORY = 2**32
#: a solver's programs take all examples in one call: its workers are started once
_ALL = 2**31


def by_intervals(problem: ComparisonProblem) -> Tensor:  # [B, S]
    """Interval arithmetic from the bounds on."""
    return interval.specification_bound(problem.query, interval.propagate(problem.query, problem.bounds))


def dual(rule: SlopeRule) -> Callable[[ComparisonProblem], Tensor]:  # -> [B, S]
    """The dual bound with slopes by a rule."""

    def rows(problem: ComparisonProblem) -> Tensor:  # [B, S]
        graph = problem.query.graph
        lines = relaxations(graph, problem.bounds, rule)
        return specification_rows(problem.query, lines, PassPlan(graph, DEFAULT_MEMORY))

    return rows


def optimised(problem: ComparisonProblem) -> Tensor:  # [B, S]
    """The dual bound with the best slopes found for each row."""
    return optimised_rows(problem.query, problem.bounds).lower


def free(problem: ComparisonProblem) -> Tensor:  # [B, S]
    """The dual bound with the best multipliers found for each row, from the best slopes on."""
    first = optimised_rows(problem.query, problem.bounds, _SLOPES)
    found = free_rows(problem.query, problem.bounds, _MULTIPLIERS, first.multipliers)
    return torch.maximum(first.lower, found.lower)


def zonotope(problem: ComparisonProblem) -> Tensor:  # [B, S]
    """The output's zonotope, with its generators written out: no code shared with the dual's bounds of rows."""
    query = problem.query
    rows = query.spec.rows.to(query.graph.dtype).unflatten(2, query.graph.output_shape)
    zone = region(query.graph, query.inputs, problem.bounds, query.graph.output)
    return zone.minimum(rows) + query.spec.offset.to(rows.dtype)


def zonotope_learned(problem: ComparisonProblem) -> Tensor:  # [B, S]
    """The zonotope with slopes learned for each row."""
    return learned_rows(problem.query, problem.bounds, memory=_MEMORY).lower


def lp(problem: ComparisonProblem) -> Tensor:  # [B, S]
    """The linear program, as recomputed from the solver's duals; NaN where the solver did not finish."""
    from verifier.encoding.relaxed_rows import lp_rows

    found = lp_rows(problem.query, problem.bounds, workers=problem.workers)
    return torch.where(found.optimum.isnan(), torch.nan, found.lower)


def exact(problem: ComparisonProblem) -> Tensor:  # [B, S]
    """The complete integer program; NaN where its seconds do not suffice."""
    if problem.exact_seconds <= 0:
        return torch.full(problem.query.open.shape, torch.nan, dtype=torch.float64)
    from verifier.encoding.exact_rows import exact_rows

    return exact_rows(problem.query, problem.bounds, problem.exact_seconds, workers=problem.workers).value


def attack(problem: ComparisonProblem) -> Tensor:  # [B, S]
    """The smallest value of each row at the clean input and at what gradient descent finds, each row for itself."""
    query, generator = problem.query, torch.Generator().manual_seed(0)
    starts = [query.inputs.center().to(query.graph.dtype), query.inputs.sample(generator)]
    with torch.no_grad():
        lowest = query.spec.values(query.graph.forward(starts[0]).flatten(1))
    for row in range(lowest.shape[1]):
        spec = query.spec
        single = Specification(spec.rows[:, row : row + 1], spec.offset[:, row : row + 1], spec.clause[:1] * 0)
        asked = Query.of(query.graph, query.inputs, single)
        for start in starts:
            point, _ = descend(asked, start, steps=20, step=0.3)
            with torch.no_grad():  # a point found for one row may be low in another
                lowest = torch.minimum(lowest, spec.values(query.graph.forward(point).flatten(1)))
    return lowest


for _method in (
    ComparisonMethod("interval", by_intervals, frozenset({Role.LOWER})),
    ComparisonMethod("dual", dual(SlopeRule.FIXED), _RELAXED),
    ComparisonMethod("dual-adaptive", dual(SlopeRule.ADAPTIVE), _RELAXED),
    ComparisonMethod("dual-optimised", optimised, _RELAXED, together=2),
    ComparisonMethod("dual-free", free, _RELAXED, together=2),
    ComparisonMethod("zonotope", zonotope, _RELAXED),
    ComparisonMethod("zonotope-learned", zonotope_learned, _RELAXED, together=1),
    ComparisonMethod("lp", lp, frozenset({Role.LOWER, Role.LP}), together=_ALL, tolerance=1e-6, partial=True),
    ComparisonMethod("exact", exact, frozenset({Role.EXACT}), together=_ALL, tolerance=1e-5, partial=True),
    ComparisonMethod("attack", attack, frozenset({Role.UPPER})),
):
    register(_method)
