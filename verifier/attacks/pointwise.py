"""A counterexample with few changed entries: salt and pepper, then entries set back one by one (Schott et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifier.attacks.base import Attack, register
from verifier.attacks.nearest import NearestAttack, NearestPoints
from verifier.attacks.problem import AttackProblem

if TYPE_CHECKING:
    from verifier.budget import Budget

#: how often what is too far out is moved back by half
_HALVINGS = 8


@register
class Pointwise(NearestAttack):
    """Random entries at the ends of their ranges, more of them until the example breaks; then fewer, while it stays so.

    Schott et al. (2019), Towards the first adversarially robust neural network model on MNIST: salt-and-pepper noise,
    and the pointwise attack that shrinks it. No gradient is followed. Ranges are the set's box: in an l-infinity ball
    as large as the valid range, any change of few entries is allowed. Entries are numbers, so that a pixel in colour
    counts for as many as it has channels. In sets other than boxes (an l1 ball, say) the search leaves the set, inside
    its box: entries that are still needed are then moved back by halves, as far as the example stays broken, and the
    projection of what that ends at is the answer. Projecting on the way would spread the change over all entries.

    Args:
        starts: salt-and-pepper points of each share, of which the first to break is shrunk.
        shares: how many shares of the entries are tried, evenly, up to all of them.
        confidence, seed: as of `NearestAttack`.
    """

    name = "pointwise"
    norm = 0

    def __init__(self, starts: int = 3, shares: int = 20, confidence: float = 1e-4, seed: int = 0) -> None:
        super().__init__(confidence, seed)
        if starts < 1 or shares < 1:
            raise ValueError(f"starts and shares must be at least 1, got {starts} and {shares}")
        self.starts, self.shares = starts, shares

    @classmethod
    def examples(cls) -> Sequence[Attack]:
        return [cls(1, 4)]

    def approach(
        self, problem: AttackProblem, found: NearestPoints, generator: torch.Generator, budget: Budget | None
    ) -> None:
        for _ in range(self.starts):
            point = self._noisy(problem, found, generator, budget)
            point = self._shrunk(found, point, found.center, generator, budget)
            for _ in range(_HALVINGS):
                if bool(problem.inputs.contains(point).all()) or (budget is not None and budget.spent):
                    break
                # half the way back of what is left, entry by entry
                point = self._shrunk(found, point, (point + found.center) / 2, generator, budget)
            found.look(problem.inputs.project(point))

    def _noisy(
        self, problem: AttackProblem, found: NearestPoints, generator: torch.Generator, budget: Budget | None
    ) -> Tensor:  # -> [B, *input]
        """Of each example the salt-and-pepper point with the fewest changes that breaks it; else the center."""
        center = found.center
        lower, upper = (end.to(center) for end in problem.inputs.box(problem.dtype))
        draws, sides = (torch.rand(center.shape, generator=generator, dtype=torch.float64).to(center) for _ in range(2))
        ends = torch.where(sides < 0.5, lower, upper)
        kept, left = center.clone(), torch.ones(len(center), dtype=torch.bool, device=center.device)
        for k in range(1, self.shares + 1):
            if not bool(left.any()) or (budget is not None and budget.spent):
                break
            point = torch.where(draws < k / self.shares, ends, center)
            inside = problem.inputs.project(point)
            broken = found.look(inside)
            now = (broken if torch.equal(inside, point) else found.breaks(point)) & left
            kept[now], left = point[now], left & ~now
        return kept

    @staticmethod
    def _shrunk(
        found: NearestPoints, point: Tensor, back: Tensor, generator: torch.Generator, budget: Budget | None
    ) -> Tensor:  # [B, *input] each -> [B, *input]
        """Sets entries to `back` in random order, where the example stays broken, until a round changes nothing."""
        shape, goal, flat = point.shape, back.flatten(1), point.flatten(1).clone()
        order = torch.rand(flat.shape, generator=generator, dtype=torch.float64).to(flat.device)
        rows = torch.arange(len(flat), device=flat.device)
        while True:
            apart = flat != goal
            before, most = int(apart.sum()), int(apart.sum(1).max())
            for entry in (order + 1.0 * ~apart).argsort(1).T[:most]:  # those that are to be changed come first
                if budget is not None and budget.spent:
                    return flat.reshape(shape)
                tried = flat.clone()
                tried[rows, entry] = goal[rows, entry]
                stays = found.breaks(tried.reshape(shape))
                flat[stays] = tried[stays]
            if int((flat != goal).sum()) >= before:
                return flat.reshape(shape)
