"""ReLU, leaky ReLU: one kink at zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.ops.base import (
    Activation,
    LinearRelaxation,
    OperatorExample,
    Pieces,
    Primitive,
    Shape,
    SlopeRule,
    register,
)
from verifier.ops.facts import LINE, Facts


@register
class LeakyReLU(Activation):
    """max(x, 0) + negative_slope min(x, 0).

    With negative_slope <= 1 the function is convex: its upper line is the chord over [l, u] (for ReLU the triangle
    relaxation's lambda = u / (u - l), Wong & Kolter 2018, eq. 3), and its lower lines pass through the origin with
    any slope between negative_slope and 1. `slope` in [0, 1] moves between these two. With negative_slope > 1 it is
    concave and the roles are exchanged.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = float(negative_slope)
        self.lipschitz = max(1.0, abs(self.negative_slope))

    @property
    def roundings(self) -> int:
        return 0 if self.negative_slope in (-1.0, 0.0, 1.0) else 2

    @property
    def facts(self) -> Facts:
        a = self.negative_slope
        return Facts(
            monotone=a >= 0,
            kinks=() if a == 1 else (0.0,),
            extrema=(0.0,) if a < 0 else (),
            convex=(LINE,) if a <= 1 else (),
            concave=(LINE,) if a >= 1 else (),
            values=LINE if a > 0 else (0.0, math.inf),
        )

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.where(x >= 0, x, self.negative_slope * x)

    @property
    def slope_range(self) -> tuple[float, float]:
        return min(1.0, self.negative_slope), max(1.0, self.negative_slope)

    def unstable(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each
        return ~((lower >= 0) | (upper <= 0))

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each
        low, high = self.apply(lower), self.apply(upper)
        if self.negative_slope >= 0:
            return low, high
        zero = torch.where(self.unstable(lower, upper), torch.zeros_like(low), torch.full_like(low, torch.inf))
        return torch.minimum(torch.minimum(low, high), zero), torch.maximum(low, high)

    def pieces(self, lower: Tensor, upper: Tensor) -> Pieces:  # [B, *shape] each -> [K, B, *shape]
        kink = torch.minimum(torch.maximum(torch.zeros_like(lower), lower), upper)
        x = torch.stack([lower, kink, upper])
        return Pieces(x, self.apply(x), exact=True)

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:  # [B, *shape] each
        a = self.negative_slope
        unstable = self.unstable(lower, upper)
        # chord through (l, a l) and (u, u): share = u / (u - l) of the way from slope a to slope 1
        share, gap = _share(lower, upper, unstable)
        steep = torch.where(lower >= 0, 1.0, 0.0).to(lower)  # share of stable neurons: active 1, inactive 0
        share = torch.where(unstable, share, steep)
        chord = a + (1 - a) * share
        chord_bias = torch.where(unstable, (1 - a) * gap, 0.0)
        if isinstance(slope, SlopeRule):
            parallel = slope is SlopeRule.FIXED
            free = share if parallel else torch.where(unstable, (upper > -lower).to(lower), share)
        else:
            parallel = False
            free = torch.where(unstable, slope.clamp(0, 1).to(lower), share)
        tangent = chord if parallel else a + (1 - a) * free
        tangent = torch.where(lower.isnan() | upper.isnan(), torch.nan, tangent)
        zero = torch.zeros_like(chord_bias)
        if a <= 1:
            return LinearRelaxation(tangent, zero, chord, chord_bias, parallel)
        return LinearRelaxation(chord, chord_bias, tangent, zero, parallel)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("leaky", {}, {"slope": self.negative_slope})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(a), ((4,),)) for a in (0.01, 0.3, -0.2, 1.5)]


@register
class ReLU(LeakyReLU):
    """max(x, 0)."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return x.clamp(min=0)

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),)), OperatorExample(cls(), ((2, 3, 3),))]


def _share(lower: Tensor, upper: Tensor, unstable: Tensor) -> tuple[Tensor, Tensor]:  # [...] each, entry by entry
    """lambda = u / (u - l) and -lambda l where l < 0 < u, both without overflow or division by zero.

    With q = min(-l, u) / max(-l, u) in (0, 1], lambda is 1 / (1 + q) or q / (1 + q), and -lambda l = min / (1 + q).
    """
    up = torch.where(unstable, upper, 1.0)
    down = torch.where(unstable, -lower, 1.0)
    small, large = torch.minimum(up, down), torch.maximum(up, down)
    ratio = small / large
    share = torch.where(up >= down, 1 / (1 + ratio), ratio / (1 + ratio))
    return share, small / (1 + ratio)
