"""Projected gradient descent on the specification's margin, with restarts (Madry et al. 2018), batched."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from verifier.bounds import Bounds
from verifier.query import Query
from verifier.result import Trust
from verifier.stages.base import Budget, Stage, StageReport, register


class AttackStage(Stage):
    """Looks for points of the set where some clause has no positive row.

    The first restart starts at the clean input and attacks whichever clause is lowest at each step; restart r > 0
    starts at a random member and attacks the r-th lowest clause of the clean input.

    Args:
        steps: gradient steps per restart.
        restarts: number of starts.
        step: length of the first step as a fraction of the set's radius; it shrinks linearly to a tenth.
        seed: of the random starts.
    """

    name: ClassVar[str] = "attack"
    cost_rank: ClassVar[int] = 40
    trust: ClassVar[Trust | None] = None

    def __init__(self, steps: int = 40, restarts: int = 6, step: float = 0.3, seed: int = 0) -> None:
        self.steps, self.restarts, self.step, self.seed = steps, restarts, step, seed

    def supports(self, query: Query) -> bool:
        return query.batch > 0

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        generator = torch.Generator().manual_seed(self.seed)
        best = query.inputs.center().to(query.graph.dtype)
        lowest, order = _clean_order(query, best)
        for restart in range(self.restarts):
            left = (lowest > 0).nonzero().squeeze(1)
            if len(left) == 0 or budget.spent:
                break
            part = query.select(left)
            # drawn for the whole batch, so that an example's start does not depend on which others are left
            start = part.inputs.center() if restart == 0 else query.inputs.sample(generator)[left]
            target = None if restart == 0 else order[left, (restart - 1) % order.shape[1]]
            point, value = descend(part, start.to(best.dtype), self.steps, self.step, target, budget)
            better = value < lowest[left]
            best[left[better]], lowest[left[better]] = point[better], value[better]
        return StageReport(candidates=best, exhausted=budget.spent)


def descend(
    query: Query,
    x: Tensor,
    steps: int,
    step: float,
    target: Tensor | None = None,
    budget: Budget | None = None,
) -> tuple[Tensor, Tensor]:
    """Projected gradient descent from starts x [B, *input]: the best points seen, and their worst clause values [B].

    Args:
        step: length of the first step as a fraction of the set's radius; it shrinks linearly to a tenth.
        target: [B] the clause to attack; default whichever is lowest at each step.
    """
    best = x.clone()
    lowest = x.new_full((len(x),), torch.inf)
    for k in range(steps + 1):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            clauses = _clauses(query, x)
            loss = clauses.amin(1) if target is None else clauses.gather(1, target.unsqueeze(1)).squeeze(1)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
        worst = clauses.detach().amin(1)
        better = worst < lowest
        best[better], lowest[better] = x.detach()[better], worst[better]
        if k == steps or (budget is not None and budget.spent):
            break
        length = step * (1 - 0.9 * k / steps)
        x = query.inputs.project(x.detach() + query.inputs.steepest_ascent(-gradient, length))
    return best, lowest


def _clauses(query: Query, x: Tensor) -> Tensor:
    """Value of every clause at x: [B, clauses]."""
    return query.spec.per_clause(query.spec.values(query.graph.forward(x).flatten(1)))


def _clean_order(query: Query, x: Tensor) -> tuple[Tensor, Tensor]:
    """Worst clause value at x [B], and the clauses from lowest to highest [B, clauses]."""
    with torch.no_grad():
        clauses = _clauses(query, x)
    return clauses.amin(1), clauses.argsort(1)


register(AttackStage, AttackStage.name)
