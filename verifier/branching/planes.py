"""McCormick's planes of a block of products in every subdomain: of factors that products share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.relaxation.plane_family import PlaneFamily


@dataclass(frozen=True)
class SharedPlanes(PlaneFamily):
    """The lower and the upper planes of m products of k entries."""

    factors: Tensor  # [2, m] int64, among the k entries

    @classmethod
    def over(cls, lower: Tensor, upper: Tensor, factors: Tensor) -> SharedPlanes:
        """Over intervals [D, k] of the entries."""
        return cls.of(lower[:, factors], upper[:, factors], factors)

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor, factors: Tensor) -> SharedPlanes:
        """Over boxes [D, 2, m] of the factors."""
        return cls(*cls.sides(lower, upper), factors)

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
