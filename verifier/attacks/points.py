"""The lowest points that a search has seen: what every attack, and every search beside a proof, keeps its books in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from verifier.attacks.problem import AttackProblem


@dataclass(frozen=True)
class AttackPoints:
    """The best point seen of each of B examples. `keep` and `keep_lowest` write into these very tensors."""

    points: Tensor  # [B, *input], in the network's precision
    value: Tensor  # [B] the worst clause value there (of the target, where there is one)

    @classmethod
    def unseen(cls, points: Tensor) -> AttackPoints:
        """Points [B, *input] to begin with, as a copy; whatever is looked at counts as lower."""
        return cls(points.clone(), points.new_full((len(points),), torch.inf))

    @classmethod
    def of_centers(cls, problem: AttackProblem) -> tuple[AttackPoints, Tensor]:
        """The clean inputs, and their clauses [B, clauses]."""
        center = problem.center()
        with torch.no_grad():
            clauses = problem.clauses(center)
        return cls(center, problem.value(clauses)), clauses

    def keep(self, points: Tensor, value: Tensor, example: Tensor | None = None) -> None:
        """Keep points [k, *input] whose values [k] are lower than their examples' best; NaN is never lower.

        Args:
            example: [k] int64, each example at most once; default all of them, in order.
        """
        known = self if example is None else AttackPoints(self.points[example], self.value[example])
        better = value < known.value
        lower = torch.where(better, value, known.value)
        there = torch.where(better.reshape(-1, *(1,) * (points.dim() - 1)), points, known.points)
        if example is None:
            self.points.copy_(there)
            self.value.copy_(lower)
        else:
            self.points[example], self.value[example] = there, lower

    def keep_lowest(self, points: Tensor, value: Tensor, example: Tensor) -> None:
        """`keep` for any number of points [k, *input] of the same example; of equal values the first counts.

        Args:
            value: [k], no NaN. example: [k] int64.
        """
        least = torch.full_like(self.value, torch.inf).scatter_reduce(0, example, value, "amin")
        lowest = (value == least[example]).nonzero().squeeze(1)
        first = example.new_full((len(self.value),), len(value)).scatter_reduce(0, example[lowest], lowest, "amin")
        seen = (first < len(value)).nonzero().squeeze(1)
        self.keep(points[first[seen]], value[first[seen]], seen)
