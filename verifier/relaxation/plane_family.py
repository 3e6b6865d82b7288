"""McCormick's planes as families of one parameter per product, the counterpart of verifier.relaxation.families.

A side's planes move with t in [0, 1], slopes and bias linearly, from one of McCormick's two to the other; a mean of two
sound planes is sound. They are worked out once, at both ends, however often an ascent asks for others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from verifier.ops.product import planes


@dataclass(frozen=True)
class PlaneSide:
    """slope + t slope_step and bias + t bias_step for t in [0, 1]: the planes on one side of the products."""

    slope: Tensor  # [..., 2, m]
    slope_step: Tensor  # [..., 2, m]
    bias: Tensor  # [..., m]
    bias_step: Tensor  # [..., m]

    @classmethod
    def between(cls, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> PlaneSide:
        """From slopes [..., 2, m] and biases [..., m] to others."""
        (slope, bias), (last_slope, last_bias) = start, end
        return cls(slope, last_slope - slope, bias, last_bias - bias)

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:  # [..., m] -> [..., 2, m], [..., m]
        slope = torch.addcmul(self.slope, t.unsqueeze(-2), self.slope_step)
        return slope, torch.addcmul(self.bias, t, self.bias_step)

    def change(self, factors: Tensor) -> Tensor:  # [..., 2, m] -> [..., m]
        """d value / d t at these factors."""
        return (self.slope_step * factors).sum(-2) + self.bias_step

    def select(self, index: Tensor) -> PlaneSide:  # [k] int64
        """Of these examples; what all examples share stays."""
        parts = (self.slope, self.slope_step, self.bias, self.bias_step)
        return PlaneSide(*(t if len(t) == 1 else t[index] for t in parts))


@dataclass(frozen=True)
class PlaneFamily:
    """The lower and the upper planes of m products."""

    low: PlaneSide
    up: PlaneSide

    @staticmethod
    def sides(lower: Tensor, upper: Tensor) -> tuple[PlaneSide, PlaneSide]:
        """The lower and the upper planes over boxes [..., 2, m] of the factors."""
        ends = [planes(lower, upper, torch.full_like(lower[..., 0, :], t)) for t in (0.0, 1.0)]
        low = PlaneSide.between(*((e.lower_slope, e.lower_bias) for e in ends))
        return low, PlaneSide.between(*((e.upper_slope, e.upper_bias) for e in ends))

    def sided(self, positive: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes [..., 2, m] and biases [..., m] of the planes that coefficients use: the lower ones where `positive`.

        Args:
            positive: [..., m] bool. t: [..., m].
        """
        (low, bias), (up, other) = self.low.at(t), self.up.at(t)
        return torch.where(positive.unsqueeze(-2), low, up), torch.where(positive, bias, other)

    def select(self, index: Tensor) -> Self:  # [k] int64
        """Of these examples; what all examples share stays."""
        return replace(self, low=self.low.select(index), up=self.up.select(index))
