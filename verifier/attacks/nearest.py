"""Attacks that look for the nearest counterexample of a set, where others look for the worst point."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from verifier.attacks.base import Attack
from verifier.attacks.points import AttackPoints
from verifier.attacks.problem import AttackProblem

if TYPE_CHECKING:
    from verifier.budget import Budget


class NearestAttack(Attack):
    """A search for the counterexample that is nearest to the set's center, in a norm of the attack's own.

    Points are kept in the set by its projection: ask about a set that is as large as a perturbation may be, and about
    the valid range with it. Where nothing breaks the specification, the answer is the lowest point that was seen.

    Args:
        confidence: how far below zero a value has to be, so that it is there for the model's replay too.
        seed: of all that is random.
    """

    #: the norm: 2, or 0 for the number of entries that are changed
    norm: ClassVar[float]
    never_worse = True

    def __init__(self, confidence: float = 1e-4, seed: int = 0) -> None:
        super().__init__(seed)
        if not 0 <= confidence < math.inf:
            raise ValueError(f"confidence must be a number >= 0, got {confidence}")
        self.confidence = confidence

    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        found = NearestPoints(problem, self.norm, self.confidence)
        found.look(found.center)
        self.approach(problem, found, generator, budget)
        return found.answer()

    @abstractmethod
    def approach(
        self, problem: AttackProblem, found: NearestPoints, generator: torch.Generator, budget: Budget | None
    ) -> None:
        """The search: every point that may count is shown to `found`, members up to rounding."""


class NearestPoints:
    """What was seen so far of each of B examples: the nearest point that breaks it, and the lowest one.

    Args:
        norm: distances are of this norm, 2 or 0.
        confidence: a point breaks an example where its value is below minus this.
    """

    def __init__(self, problem: AttackProblem, norm: float, confidence: float) -> None:
        self.problem, self.norm, self.confidence = problem, norm, confidence
        self.center = problem.center()
        self.lowest = AttackPoints.unseen(self.center)
        self.nearest = AttackPoints.unseen(self.center)
        self.distance = self.center.new_full((problem.batch,), torch.inf)

    def look(self, points: Tensor, value: Tensor | None = None) -> Tensor:  # [B, *input], [B] -> [B] bool
        """Take note of points; returns which of them break their examples.

        Args:
            value: of the points, where it is known.
        """
        points = points.detach()
        value = self._values(points) if value is None else value.detach()
        self.lowest.keep(points, value)
        broken, distance = value < -self.confidence, self.lengths(points - self.center)
        better = broken & (distance < self.distance)
        self.nearest.points[better], self.nearest.value[better] = points[better], value[better]
        self.distance[better] = distance[better]
        return broken

    def breaks(self, points: Tensor) -> Tensor:  # [B, *input] -> [B] bool
        """Which points break their examples, members or not; none is taken note of."""
        return self._values(points) < -self.confidence

    def _values(self, points: Tensor) -> Tensor:  # [B, *input] -> [B]
        with torch.no_grad():
            return self.problem.value(self.problem.clauses(points))

    def lengths(self, change: Tensor) -> Tensor:  # [B, *input] -> [B]
        """Of perturbations, in the norm."""
        return torch.linalg.vector_norm(change.flatten(1), self.norm, dim=1)

    def answer(self) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        """The nearest points where there are any, else the lowest; and their values."""
        broken = self.distance < torch.inf
        at = broken.reshape(-1, *(1,) * (self.center.dim() - 1))
        return (
            torch.where(at, self.nearest.points, self.lowest.points),
            torch.where(broken, self.nearest.value, self.lowest.value),
        )
