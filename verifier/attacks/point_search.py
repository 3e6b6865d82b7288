"""The search for counterexamples that goes on beside a proof: points come from whoever proves, a few at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.attacks.pgd import descend
from verifier.attacks.points import AttackPoints
from verifier.budget import Budget
from verifier.query import Query
from verifier.relaxation.plan import together
from verifier.rounding import row_error_at, unit_roundoff


class PointSearch:
    """Looks at points of each example's input set until it has a counterexample beyond rounding.

    Args:
        query: in the precision that points are evaluated in.
        steps: of a descent. step: length of the first one, as of `verifier.attacks.PGD`.
        budget: when it is spent, the points that are next are not looked at, and descents end.
    """

    def __init__(self, query: Query, steps: int, step: float, budget: Budget) -> None:
        self.query, self.steps, self.step, self.budget = query, steps, step, budget
        self.best = AttackPoints.unseen(query.inputs.center().to(query.graph.dtype))
        self.done = torch.zeros(query.batch, dtype=torch.bool)  # [B]: by a counterexample beyond rounding

    def evaluate(self, points: Tensor, example: Tensor) -> tuple[Tensor, Tensor]:
        """Points [k, *input] moved into the sets of their examples [k] int64, and their worst clause values [k].

        Where a value is not a number, or there was no time to find it, it is infinite.
        """
        part = self.query.select(example)
        points = part.inputs.project(points.to(self.best.points))
        value = torch.full_like(points.flatten(1)[:, 0], torch.inf)
        for index in torch.arange(len(points), device=value.device).split(together(part.graph, value.device)):
            if self.budget.spent:
                break
            with torch.no_grad():
                outputs = part.graph.forward(points[index]).flatten(1)
            spec = part.spec.select(index)
            value[index] = spec.worst(spec.values(outputs))
        value = torch.where(value.isnan(), torch.inf, value)
        self._keep(points, value, example)
        return points, value

    def descend(self, points: Tensor, example: Tensor) -> None:
        """Follow members [k, *input] of the sets of `example` [k] int64 by gradient."""
        found, value = descend(self.query.select(example), points, self.steps, self.step, budget=self.budget)
        self._keep(found, value, example)

    def _keep(self, points: Tensor, value: Tensor, example: Tensor) -> None:  # [k, *input], [k], [k] int64
        self.best.keep_lowest(points, value, example)
        low = ((self.best.value < 0) & ~self.done).nonzero().squeeze(1)
        if len(low):
            part, value = self.query.select(low), self.best.value[low]
            error = row_error_at(part.graph, part.spec, self.best.points[low], unit_roundoff(part.graph.dtype)).amax(1)
            self.done[low] = value < -2 * error
