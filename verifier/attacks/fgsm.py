"""The fast gradient sign method, in any set's geometry: one steepest step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifier.attacks.base import Attack, descent_direction, register
from verifier.attacks.losses import AttackLoss, CrossEntropy
from verifier.attacks.problem import AttackProblem
from verifier.attacks.starts import Center, Random, StartRule

if TYPE_CHECKING:
    from verifier.budget import Budget


@register
class FGSM(Attack):
    """One steepest step from a start, projected: exact on a linear network from the center of an l-infinity ball.

    The start and the step lie in the set without its valid range, and the point moves into the range last (Wong 2020,
    algorithm 7). Where the range halves an interval, as at every black pixel, a step of more than the radius would
    otherwise end at one of its two ends from wherever it starts, and a network trained on such points learns those
    corners alone.

    Args:
        step: its length as a fraction of the set's size (Goodfellow et al. 2015: 1, from the center).
        loss: default the cross-entropy.
        start: default the center.
        seed: of a random start.
    """

    name = "fgsm"

    def __init__(
        self, step: float = 1.0, loss: AttackLoss | None = None, start: StartRule | None = None, seed: int = 0
    ) -> None:
        super().__init__(seed)
        self.step, self.loss, self.start = step, loss or CrossEntropy(), start or Center()

    @classmethod
    def fast(cls, step: float = 1.25, loss: AttackLoss | None = None, seed: int = 0) -> FGSM:
        """From a random member: the attack of fast adversarial training (Wong 2020, section 4.1.1, algorithm 7)."""
        return cls(step, loss, Random(), seed)

    def points(self, problem: AttackProblem, generator: torch.Generator) -> Tensor:
        """The points [B, *input] that the step ends at, members up to rounding."""
        clipped, ball = problem.inputs, problem.inputs.unclipped()
        asked = problem if ball is clipped else replace(problem, inputs=ball)
        x = self.start.points(asked, torch.arange(problem.batch, device=problem.spec.rows.device), generator)
        _, direction = descent_direction(asked, x, self.loss, problem.target)
        end = ball.project(x + clipped.steepest_ascent(x, direction, self.step))
        return end if ball is clipped else clipped.project(end)

    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        x = self.points(problem, generator)
        with torch.no_grad():
            return x, problem.value(problem.clauses(x))


register(FGSM.fast, "fgsm-random")
