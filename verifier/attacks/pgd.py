"""Projected gradient descent with restarts (Madry et al. 2018), in any set's geometry (Wong 2020, section 5.3.3).

On a Wasserstein ball this is the projected Sinkhorn attack: the projection is the set's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifier.attacks.base import Attack, descent_direction, register
from verifier.attacks.losses import AttackLoss, MarginLoss
from verifier.attacks.points import AttackPoints
from verifier.attacks.problem import AttackProblem
from verifier.attacks.starts import Center, Random, StartRule
from verifier.query import Query

if TYPE_CHECKING:
    from verifier.budget import Budget


@register
class PGD(Attack):
    """Steepest steps, each projected; the best point of all steps and restarts counts.

    The first run starts at `first`, the others at `start`. The defaults found most on real networks for their time
    (benchmarks/attack_figures.py): many short runs with momentum, each after whichever clause is lowest on its way.

    Args:
        steps: gradient steps per run.
        restarts: number of runs, >= 1.
        step: length of the first step as a fraction of the set's size; it shrinks linearly to a tenth.
        loss: default the margin.
        start: of the runs after the first; default a random member.
        targeted: run r > 0 attacks the r-th lowest clause of the clean input, where the problem has no target.
        momentum: share of the last direction that is kept, 0 <= momentum < 1 (Dong et al. 2018).
        stop: an example whose value is below it is in no further run; -inf: every run is for all examples.
        first: of the first run; default the center.
        seed: of the random starts.
    """

    name = "pgd"
    never_worse = True

    def __init__(
        self,
        steps: int = 20,
        restarts: int = 12,
        step: float = 0.3,
        loss: AttackLoss | None = None,
        start: StartRule | None = None,
        *,
        targeted: bool = False,
        momentum: float = 0.75,
        stop: float = 0.0,
        first: StartRule | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if steps < 1 or restarts < 1:
            raise ValueError(f"steps and restarts must be at least 1, got {steps} and {restarts}")
        if not step > 0 or not 0 <= momentum < 1:
            raise ValueError(f"step must be > 0 and momentum in [0, 1), got {step} and {momentum}")
        self.steps, self.restarts, self.step, self.stop = steps, restarts, step, stop
        self.loss, self.start, self.first = loss or MarginLoss(), start or Random(), first or Center()
        self.targeted, self.momentum = targeted, momentum

    @classmethod
    def examples(cls) -> list[Attack]:
        return [cls(6, 2), cls(6, 3, targeted=True, momentum=0.0)]

    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        best, clauses = AttackPoints.of_centers(problem)
        order = clauses.argsort(1)
        for run in range(self.restarts):
            left, part = self._left(problem, best.value)
            if len(left) == 0 or (budget is not None and budget.spent):
                break
            start = (self.first if run == 0 else self.start).points(problem, left, generator)
            target = part.target
            if target is None and self.targeted and run > 0:
                target = order[left, (run - 1) % order.shape[1]]
            best.keep(*self.descend(part, start, target, budget), left)
        return best.points, best.value

    def _left(self, problem: AttackProblem, value: Tensor) -> tuple[Tensor, AttackProblem]:  # [B]
        """Numbers [k] of the examples that another run is for, by their best values, and their problem."""
        if self.stop == -torch.inf:  # all, which no accelerator has to be asked for
            return torch.arange(len(value), device=value.device), problem
        left = (~(value < self.stop)).nonzero().squeeze(1)
        return left, problem.select(left)

    def descend(
        self, problem: AttackProblem, x: Tensor, target: Tensor | None = None, budget: Budget | None = None
    ) -> tuple[Tensor, Tensor]:
        """One run from starts x [B, *input]: the best points seen, and their values [B].

        Args:
            target: [B] the clause to attack; default whichever the loss points to. The values are the problem's.
        """
        best = AttackPoints.unseen(x)
        pull = torch.zeros_like(x)
        for length in self.lengths():
            clauses, direction = descent_direction(problem, x, self.loss, target)
            best.keep(x, problem.value(clauses))
            if budget is not None and budget.spent:
                return best.points, best.value
            if self.momentum > 0:
                pull = direction = self.momentum * pull + unit(direction)
            x = self.move(problem, x, direction, length, target)
        with torch.no_grad():
            best.keep(x, problem.value(problem.clauses(x)))
        return best.points, best.value

    def lengths(self) -> Iterator[float]:
        """Lengths of the steps."""
        return (self.step * (1 - 0.9 * k / self.steps) for k in range(self.steps))

    def move(
        self, problem: AttackProblem, x: Tensor, direction: Tensor, length: float, target: Tensor | None
    ) -> Tensor:
        """The next points after x [B, *input], members up to rounding."""
        return problem.inputs.project(x + problem.inputs.steepest_ascent(x, direction, length))


def descend(
    query: Query,
    x: Tensor,
    steps: int,
    step: float,
    target: Tensor | None = None,
    budget: Budget | None = None,
) -> tuple[Tensor, Tensor]:
    """One run of plain PGD from starts x [B, *input]: the best points seen, and their worst clause values [B].

    Args:
        step: length of the first step as a fraction of the set's radius; it shrinks linearly to a tenth.
        target: [B] the clause to attack; default whichever is lowest at each step.
    """
    return PGD(steps, 1, step, momentum=0.0).descend(AttackProblem.of(query), x, target, budget)


def unit(direction: Tensor) -> Tensor:
    """Each example's direction [B, *input] with its absolute values summed to 1; zero stays zero."""
    size = direction.abs().flatten(1).sum(1).reshape(-1, *(1,) * (direction.dim() - 1))
    return direction / torch.where(size > 0, size, 1.0)
