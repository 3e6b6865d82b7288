"""The nearest counterexample in the l2 norm by minimising a sum (Carlini and Wagner 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.attacks.base import Attack, register
from verifier.attacks.nearest import NearestAttack, NearestPoints
from verifier.attacks.problem import AttackProblem

if TYPE_CHECKING:
    from verifier.budget import Budget


@register
class CarliniWagner(NearestAttack):
    """Adam on |d|^2 + c max(value at x + d, -confidence), with c found for each example by bisection.

    Carlini and Wagner (2017), Towards evaluating the robustness of neural networks, section 6.A. Their change of
    variables keeps points in the valid range; here the set's projection does after each step, so that any set will do.

    Args:
        steps: of Adam for each c (the paper: up to 10,000).
        searches: values of c that are tried: ten times as much until the example breaks, then bisected.
        rate: Adam's.
        first: of the values of c.
        confidence, seed: as of `NearestAttack`; the paper's kappa.
    """

    name = "carlini-wagner"
    norm = 2

    def __init__(
        self,
        steps: int = 100,
        searches: int = 6,
        rate: float = 0.02,
        first: float = 0.1,
        confidence: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__(confidence, seed)
        if steps < 1 or searches < 1 or not 0 < rate < math.inf or not 0 < first < math.inf:
            raise ValueError(
                f"steps and searches must be at least 1, rate and first > 0, got {steps}, {searches}, {rate}, {first}"
            )
        self.steps, self.searches, self.rate, self.first = steps, searches, rate, first

    @classmethod
    def examples(cls) -> Sequence[Attack]:
        return [cls(4, 2)]

    def approach(
        self, problem: AttackProblem, found: NearestPoints, generator: torch.Generator, budget: Budget | None
    ) -> None:
        c = found.center.new_full((problem.batch,), self.first)
        lower, upper = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.searches):
            if budget is not None and budget.spent:
                return
            broken = self._minimise(problem, found, c, budget)
            lower, upper = torch.where(broken, lower, c), torch.where(broken, c, upper)
            c = torch.where(upper < torch.inf, (lower + upper) / 2, 10 * c)

    def _minimise(
        self, problem: AttackProblem, found: NearestPoints, c: Tensor, budget: Budget | None
    ) -> Tensor:  # c [B] -> [B] bool
        """One run of Adam from the centers; returns which examples were broken on its way."""
        x = found.center.clone()
        ever = torch.zeros_like(c, dtype=torch.bool)
        optimiser = torch.optim.Adam([x], self.rate)
        for _ in range(self.steps):
            if budget is not None and budget.spent:
                break
            with torch.enable_grad():
                x.requires_grad_()
                value = problem.value(problem.clauses(x))
                far = (x - found.center).flatten(1).square().sum(1)
                loss = far + c * (F.relu(value + 2 * self.confidence))
                (x.grad,) = torch.autograd.grad(loss.sum(), x)
            ever |= found.look(x, value)
            optimiser.step()
            with torch.no_grad():
                x.copy_(problem.inputs.project(x))
        return ever | found.look(x)
