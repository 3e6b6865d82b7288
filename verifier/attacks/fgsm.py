"""The fast gradient sign method, in any set's geometry: one steepest step."""

from __future__ import annotations

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
        x = self.start.points(problem, torch.arange(problem.batch, device=problem.spec.rows.device), generator)
        _, direction = descent_direction(problem, x, self.loss, problem.target)
        return problem.inputs.project(x + problem.inputs.steepest_ascent(x, direction, self.step))

    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        x = self.points(problem, generator)
        with torch.no_grad():
            return x, problem.value(problem.clauses(x))


register(FGSM.fast, "fgsm-random")
