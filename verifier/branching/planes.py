"""McCormick's planes of a block of products in every subdomain, as families of one parameter per product.

The counterpart of verifier.relaxation.families for what reads two entries: a side's planes move with t in [0, 1],
slopes and bias linearly, from one of McCormick's two to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.ops.product import planes
from verifier.relaxation.families import LineFamily


@dataclass(frozen=True)
class PlaneFamily:
    """The lower and the upper planes of m products of k entries: slopes [D or 1, 2, m], biases [D or 1, m]."""

    low: LineFamily
    up: LineFamily
    factors: Tensor  # [2, m] int64, among the k entries

    @classmethod
    def over(cls, lower: Tensor, upper: Tensor, factors: Tensor) -> PlaneFamily:
        """Over intervals [D, k] of the entries."""
        return cls.of(lower[:, factors], upper[:, factors], factors)

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor, factors: Tensor) -> PlaneFamily:
        """Over boxes [D, 2, m]."""
        start, end = (planes(lower, upper, lower.new_full((1, 1), t)) for t in (0.0, 1.0))
        low = LineFamily(
            start.lower_slope, end.lower_slope - start.lower_slope, start.lower_bias, end.lower_bias - start.lower_bias
        )
        up = LineFamily(
            start.upper_slope, end.upper_slope - start.upper_slope, start.upper_bias, end.upper_bias - start.upper_bias
        )
        return cls(low, up, factors)

    def sided(self, positive: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes [D, 2, m] and biases [D, m] of the planes that coefficients use: the lower ones where `positive`.

        Args:
            positive: [D, m] bool. t: [D, m].
        """
        both = self._slopes(t.unsqueeze(1))
        bias = torch.where(positive, self.low.bias_at(t), self.up.bias_at(t))
        return torch.where(positive.unsqueeze(1), *both), bias

    def change(self, positive: Tensor, z: Tensor) -> Tensor:  # [D, m], entries [D, k] -> [D, m]
        """d value / d t of the planes that coefficients use, at z."""
        factors = z[:, self.factors]
        low, up = ((f.slope_step * factors).sum(1) + f.bias_step for f in (self.low, self.up))
        return torch.where(positive, low, up)

    def value(self, positive: Tensor, z: Tensor, t: Tensor) -> Tensor:  # [D, m], entries [D, k], [D, m] -> [D, m]
        slope, bias = self.sided(positive, t)
        return (slope * z[:, self.factors]).sum(1) + bias

    def keeping(self, positive: Tensor, slope: Tensor, factor: Tensor) -> Tensor:
        """The t of the planes with given slopes on one factor of each product, or of the nearest: [D, m].

        Args:
            positive: [D, m] bool. slope: [D, m], on the factor 0 (left) or 1 (right): [D, m] int64.
        """
        start, step = (
            torch.where(positive, *(t.expand(len(factor), -1, -1).gather(1, factor.unsqueeze(1))[:, 0] for t in pair))
            for pair in ((self.low.slope, self.up.slope), (self.low.slope_step, self.up.slope_step))
        )
        usable = step != 0
        return torch.where(usable, (slope - start) / torch.where(usable, step, 1.0), 0.5).clamp(0, 1)

    def select(self, index: Tensor) -> PlaneFamily:  # [k] int64
        """Of these examples; what all examples share stays."""
        return self._map(lambda t: t if len(t) == 1 else t[index])

    def _slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:  # [D, 1, m] -> [D, 2, m] each
        return self.low.slope_at(t), self.up.slope_at(t)

    def _map(self, function: Callable[[Tensor], Tensor]) -> PlaneFamily:
        return PlaneFamily(self.low.map(function), self.up.map(function), self.factors)
