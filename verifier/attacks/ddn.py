"""The nearest counterexample in the l2 norm by decoupling direction and norm (Rony et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from verifier.attacks.base import Attack, descent_direction, register
from verifier.attacks.losses import CrossEntropy
from verifier.attacks.nearest import NearestAttack, NearestPoints
from verifier.attacks.problem import AttackProblem

if TYPE_CHECKING:
    from verifier.budget import Budget


@register
class DDN(NearestAttack):
    """Steps along the cross-entropy's gradient, each followed by a change of the perturbation's length.

    Rony et al. (2019), Decoupling direction and norm for efficient gradient-based l2 adversarial attacks, algorithm 1:
    the length shrinks by the factor 1 - shrink where the point breaks its example, and grows by 1 + shrink where it
    does not; the step's length falls from 1 to 0.01 by a cosine, in multiples of `first`.

    Args:
        steps: gradient steps (the paper: 100, 300 or 1000).
        first: length of the perturbation at first, in the l2 norm (the paper: 1, for images in [0, 1]).
        shrink: gamma, 0 < shrink < 1.
        confidence, seed: as of `NearestAttack`.
    """

    name = "ddn"
    norm = 2

    def __init__(
        self, steps: int = 100, first: float = 1.0, shrink: float = 0.05, confidence: float = 1e-4, seed: int = 0
    ) -> None:
        super().__init__(confidence, seed)
        if steps < 1 or not 0 < first < math.inf or not 0 < shrink < 1:
            raise ValueError(
                f"steps must be at least 1, first > 0 and shrink in (0, 1), got {steps}, {first} and {shrink}"
            )
        self.steps, self.first, self.shrink = steps, first, shrink

    @classmethod
    def examples(cls) -> Sequence[Attack]:
        return [cls(5)]

    def approach(
        self, problem: AttackProblem, found: NearestPoints, generator: torch.Generator, budget: Budget | None
    ) -> None:
        center, loss = found.center, CrossEntropy()
        shape = (-1, *(1,) * (center.dim() - 1))
        x, length = center.clone(), center.new_full((len(center),), self.first)
        change = torch.zeros_like(center)
        for k in range(self.steps):
            if budget is not None and budget.spent:
                return
            clauses, direction = descent_direction(problem, x, loss, problem.target)
            broken = found.look(x, problem.value(clauses))
            size = found.lengths(direction).reshape(shape)
            step = self.first * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * k / self.steps)))
            change = change + step * torch.where(size > 0, direction / size, 0.0)
            length = length * torch.where(broken, 1 - self.shrink, 1 + self.shrink)
            size = found.lengths(change).reshape(shape)
            x = problem.inputs.project(center + torch.where(size > 0, length.reshape(shape) * change / size, 0.0))
            change = x - center
        found.look(x)
