"""McCormick's planes of a block of products in every subdomain, as families of one parameter per product.

The counterpart of verifier.relaxation.families for what reads two entries: a side's planes move with t in [0, 1],
slopes and bias linearly, from one of McCormick's two to the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.ops.product import planes


@dataclass(frozen=True)
class PlaneSide:
    """slope + t slope_step and bias + t bias_step for t in [0, 1]: the planes on one side of the products."""

    slope: Tensor  # [D or 1, 2, m]
    slope_step: Tensor  # [D or 1, 2, m]
    bias: Tensor  # [D or 1, m]
    bias_step: Tensor  # [D or 1, m]

    @classmethod
    def between(cls, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> PlaneSide:
        """From slopes [D, 2, m] and biases [D, m] to others."""
        (slope, bias), (last_slope, last_bias) = start, end
        return cls(slope, last_slope - slope, bias, last_bias - bias)

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:  # [D, m] -> [D, 2, m], [D, m]
        slope = torch.addcmul(self.slope, t.unsqueeze(1), self.slope_step)
        return slope, torch.addcmul(self.bias, t, self.bias_step)

    def change(self, factors: Tensor) -> Tensor:  # [D, 2, m] -> [D, m]
        """d value / d t at these factors."""
        return (self.slope_step * factors).sum(1) + self.bias_step

    def select(self, index: Tensor) -> PlaneSide:  # [k] int64
        """Of these examples; what all examples share stays."""
        parts = (self.slope, self.slope_step, self.bias, self.bias_step)
        return PlaneSide(*(t if len(t) == 1 else t[index] for t in parts))


@dataclass(frozen=True)
class PlaneFamily:
    """The lower and the upper planes of m products of k entries."""

    low: PlaneSide
    up: PlaneSide
    factors: Tensor  # [2, m] int64, among the k entries

    @classmethod
    def over(cls, lower: Tensor, upper: Tensor, factors: Tensor) -> PlaneFamily:
        """Over intervals [D, k] of the entries."""
        return cls.of(lower[:, factors], upper[:, factors], factors)

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor, factors: Tensor) -> PlaneFamily:
        """Over boxes [D, 2, m] of the factors."""
        ends = [planes(lower, upper, lower.new_full((1, 1), t)) for t in (0.0, 1.0)]
        low = PlaneSide.between(*((e.lower_slope, e.lower_bias) for e in ends))
        return cls(low, PlaneSide.between(*((e.upper_slope, e.upper_bias) for e in ends)), factors)

    def sided(self, positive: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes [D, 2, m] and biases [D, m] of the planes that coefficients use: the lower ones where `positive`.

        Args:
            positive: [D, m] bool. t: [D, m].
        """
        (low, bias), (up, other) = self.low.at(t), self.up.at(t)
        return torch.where(positive.unsqueeze(1), low, up), torch.where(positive, bias, other)

    def change(self, positive: Tensor, z: Tensor) -> Tensor:  # [D, m], entries [D, k] -> [D, m]
        """d value / d t of the planes that coefficients use, at z."""
        factors = z[:, self.factors]
        return torch.where(positive, self.low.change(factors), self.up.change(factors))

    def value(self, positive: Tensor, z: Tensor, t: Tensor) -> Tensor:  # [D, m], entries [D, k], [D, m] -> [D, m]
        slope, bias = self.sided(positive, t)
        return (slope * z[:, self.factors]).sum(1) + bias

    def keeping(self, positive: Tensor, slope: Tensor, factor: Tensor) -> Tensor:
        """The t of the planes with given slopes on one factor of each product, or of the nearest: [D, m].

        Args:
            positive: [D, m] bool. slope: [D, m], on the factor 0 (left) or 1 (right): [D, m] int64.
        """
        which = factor.unsqueeze(1)

        def chosen(low: Tensor, up: Tensor) -> Tensor:  # [D or 1, 2, m] each -> [D, m]
            below, above = (t.expand(len(factor), -1, -1).gather(1, which)[:, 0] for t in (low, up))
            return torch.where(positive, below, above)

        way = slope - chosen(self.low.slope, self.up.slope)
        step = chosen(self.low.slope_step, self.up.slope_step)
        usable = step != 0
        return torch.where(usable, way / torch.where(usable, step, 1.0), 0.5).clamp(0, 1)

    def select(self, index: Tensor) -> PlaneFamily:  # [k] int64
        """Of these examples; what all examples share stays."""
        return PlaneFamily(self.low.select(index), self.up.select(index), self.factors)
