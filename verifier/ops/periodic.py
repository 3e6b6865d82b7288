"""Sine, cosine, tangent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from verifier.ops.base import LinearRelaxation, OperatorExample, SlopeRule, register
from verifier.ops.curves import Smooth, Stretch
from verifier.ops.facts import Facts

#: beyond this multiples of pi are no longer known well enough: only -1 <= sin <= 1 is used
_FAR = 1e4


class _Wave(Smooth):
    """A sine that is shifted: at start + k pi it crosses zero, concave after even k, convex after odd ones.

    Intervals of up to a period are cut into its stretches; wider ones get constants.
    """

    start: ClassVar[float]
    slopes = (-1.0, 1.0)
    steep = 1.0
    facts = Facts(values=(-1.0, 1.0))

    def stretches(self, lower: Tensor, upper: Tensor) -> Sequence[Stretch]:  # [B, *shape] each
        first = torch.floor((lower.detach() - self.start) / math.pi)
        found, begin = [], lower
        for k in range(4):
            number = first + k
            crossing = self.start + (number + 1) * math.pi
            end = torch.minimum(torch.maximum(crossing, begin), upper) if k < 3 else upper
            found.append(Stretch(begin, end, number.remainder(2) == 1))
            begin = end
        return found

    def _near(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each -> bool [B, *shape]
        return (upper == lower) | ((upper - lower < 2 * math.pi) & (lower > -_FAR) & (upper < _FAR))

    def turns(self, lower: Tensor, upper: Tensor) -> Sequence[tuple[Tensor, Tensor]]:  # [B, *shape] each
        found = []
        for place, value in ((0.5, 1.0), (1.5, -1.0)):  # of the half periods from `start` on
            top = self.start + place * math.pi
            turn = torch.ceil((lower - top) / (2 * math.pi) - 1e-9) * (2 * math.pi) + top
            inside = ~self._near(lower, upper) | (turn <= upper + 1e-9 * (1 + upper.abs()))
            found.append((inside & ~(lower == upper), torch.full_like(lower, value)))
        return found

    def steepest(self, lower: Tensor, upper: Tensor) -> Tensor:  # [...] each -> [...]
        return torch.ones_like(lower)

    def _slopes_over(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [...] each
        near = self._near(lower, upper)
        least, most = super()._slopes_over(torch.where(near, lower, 0.0), torch.where(near, upper, 0.0))
        return torch.where(near, least, -1.0), torch.where(near, most, 1.0)

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:  # [B, *shape] each
        near = self._near(lower, upper)
        known = ~(lower.isnan() | upper.isnan())
        lines = super().relax(torch.where(near, lower, 0.0), torch.where(near, upper, 0.0), slope)
        low, high = self.range(lower, upper)

        def chosen(line: Tensor, otherwise: Tensor | float) -> Tensor:  # [B, *shape]
            return torch.where(known, torch.where(near, line, otherwise), torch.nan)

        return LinearRelaxation(
            chosen(lines.lower_slope, 0.0), chosen(lines.lower_bias, low.detach()), chosen(lines.upper_slope, 0.0),
            chosen(lines.upper_bias, high.detach()), lines.parallel,
        )  # fmt: skip

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Sin(_Wave):
    """The sine."""

    start = 0.0

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.sin(x)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.cos(x)


@register
class Cos(_Wave):
    """The cosine."""

    start = -math.pi / 2

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.cos(x)

    def derivative(self, x: Tensor) -> Tensor:
        return -torch.sin(x)


@register
class Tan(Smooth):
    """The tangent between its poles at -pi/2 and pi/2."""

    facts = Facts(monotone=True, concave=((-math.inf, 0.0),), convex=((0.0, math.inf),), domain=(-1.57, 1.57))
    slopes = (1.0, math.inf)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.tan(x)

    def derivative(self, x: Tensor) -> Tensor:
        return 1 + torch.tan(x) ** 2

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]
