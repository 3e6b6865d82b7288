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


@register
class Pointwise(NearestAttack):
    """Random entries at the ends of their ranges, more of them until the example breaks; then fewer, while it stays so.

    Schott et al. (2019), Towards the first adversarially robust neural network model on MNIST: salt-and-pepper noise,
    and the pointwise attack that shrinks it. No gradient is followed. Ranges are the set's box: in an l-infinity ball
    as large as the valid range, any change of few entries is allowed. Entries are numbers, so that a pixel in colour
    counts for as many as it has channels. In sets other than boxes points are projected, which changes more entries.

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
            start = self._noisy(problem, found, generator, budget)
            self._set_back(problem, found, start, generator, budget)

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
            point = problem.inputs.project(torch.where(draws < k / self.shares, ends, center))
            now = found.look(point) & left
            kept[now], left = point[now], left & ~now
        return kept

    def _set_back(
        self, problem: AttackProblem, found: NearestPoints, point: Tensor, generator: torch.Generator,
        budget: Budget | None,
    ) -> None:  # point [B, *input]  # fmt: skip
        """Sets entries back in random order, each where the example stays broken, until a round changes nothing."""
        center, flat = found.center.flatten(1), point.flatten(1).clone()
        order = torch.rand(flat.shape, generator=generator, dtype=torch.float64).argsort(1).to(flat.device)
        rows = torch.arange(len(flat), device=flat.device)
        while True:
            before = int((flat != center).sum())
            for entry in order.T:
                changed = flat[rows, entry] != center[rows, entry]
                if not bool(changed.any()):
                    continue
                if budget is not None and budget.spent:
                    return
                tried = flat.clone()
                tried[rows, entry] = center[rows, entry]
                tried = problem.inputs.project(tried.reshape(found.center.shape)).flatten(1)
                stays = found.look(tried.reshape(found.center.shape)) & changed
                flat[stays] = tried[stays]
            if int((flat != center).sum()) >= before:
                return
