"""Clipping to an interval: hardtanh, ReLU6, clamp."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.errors import InputError
from verifier.ops import sparse
from verifier.ops.base import (
    Activation,
    LinearRelaxation,
    OperatorExample,
    Pieces,
    Primitive,
    Shape,
    SlopeRule,
    flat,
    register,
)
from verifier.ops.facts import Facts
from verifier.ops.relu import _share


@register
class Clip(Activation):
    """min(max(x, low), high); low or high may be None (no limit).

    Where only the lower kink lies inside (l, u) the function is convex there (a ReLU moved to `low`), where only the
    upper one does it is concave. Where both do, the hull has the corners (l, low), (low, low), (high, high), (u, high):
    its lower lines pass through (low, low) with slopes up to (high - low) / (u - low), its upper lines through
    (high, high) with slopes up to (high - low) / (high - l). `slope` in [0, 1] is the share of the largest slope that a
    free line has.
    """

    def __init__(self, low: float | None, high: float | None) -> None:
        self.low = None if low is None or low == -torch.inf else float(low)
        self.high = None if high is None or high == torch.inf else float(high)
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise InputError(f"clipping to [{self.low}, {self.high}]: the lower limit is above the upper one")

    @property
    def facts(self) -> Facts:
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        return Facts(
            monotone=True,
            kinks=tuple(k for k in (low, high) if math.isfinite(k)),
            convex=((-math.inf, high),),
            concave=((low, math.inf),),
            values=(low, high),
        )

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return x if self.low is None and self.high is None else x.clamp(self.low, self.high)

    @property
    def slope_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def _kinks(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each
        """Where the lower and where the upper kink may lie strictly inside (l, u); a NaN bound counts as inside."""
        nowhere = torch.zeros_like(lower, dtype=torch.bool)
        low = nowhere if self.low is None else ~((lower >= self.low) | (upper <= self.low))
        high = nowhere if self.high is None else ~((lower >= self.high) | (upper <= self.high))
        return low, high

    def unstable(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each
        low, high = self._kinks(lower, upper)
        return low | high

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each
        return self.apply(lower), self.apply(upper)

    def pieces(self, lower: Tensor, upper: Tensor) -> Pieces:  # [B, *shape] each -> [K, B, *shape]
        limits = [k for k in (self.low, self.high) if k is not None]
        kinks = (torch.minimum(torch.maximum(torch.full_like(lower, k), lower), upper) for k in limits)
        x = torch.stack([lower, *kinks, upper])
        return Pieces(x, self.apply(x), exact=True)

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:  # [B, *shape] each
        at_low, at_high = self._kinks(lower, upper)
        low, high = self.low or 0.0, self.high or 0.0  # the stand-in 0 is used only where there is no such kink
        # chords: of the convex part through (l, low), (u, u); of the concave part through (l, l), (u, high)
        rise, rise_gap = _share(lower - low, upper - low, at_low)
        fall, fall_gap = _share(high - upper, high - lower, at_high)
        both = at_low & at_high
        cap_up = torch.where(both, _ratio(high - low, high - lower, both), 1.0).to(lower)
        cap_down = torch.where(both, _ratio(high - low, upper - low, both), 1.0).to(lower)
        parallel = slope is SlopeRule.FIXED
        if parallel:
            shared = torch.where(both, torch.minimum(cap_up, cap_down), torch.where(at_low, rise, fall))
            up = down = shared
        elif isinstance(slope, SlopeRule):
            middle = lower / 2 + upper / 2
            up, down = cap_up * (middle < high), cap_down * (middle > low)  # least area: lowest (highest) at the middle
        else:
            share = slope.clamp(0, 1).to(lower)
            up, down = share * cap_up, share * cap_down
        flat_slope, flat_bias = self._stable(lower, upper)
        upper_slope = torch.where(at_high, up, torch.where(at_low, rise, flat_slope))
        upper_bias = torch.where(at_low, low * _rest(lower - low, upper - low, at_low) + rise_gap, flat_bias)
        upper_bias = torch.where(at_high, high * (1 - up), upper_bias)
        lower_slope = torch.where(at_low, down, torch.where(at_high, fall, flat_slope))
        lower_bias = torch.where(at_high, high * _rest(high - upper, high - lower, at_high) - fall_gap, flat_bias)
        lower_bias = torch.where(at_low, low * (1 - down), lower_bias)
        unknown = lower.isnan() | upper.isnan()
        lines = (lower_slope, lower_bias, upper_slope, upper_bias)
        a, b, c, d = (torch.where(unknown, torch.nan, t) for t in lines)
        return LinearRelaxation(a, b, c, d, parallel)

    def _stable(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each
        """Slope and bias where no kink is inside: the constant low or high, or x itself."""
        slope, bias = torch.ones_like(lower), torch.zeros_like(lower)
        if self.high is not None:
            above = lower >= self.high
            slope, bias = torch.where(above, 0.0, slope), torch.where(above, self.high, bias)
        if self.low is not None:
            below = upper <= self.low
            slope, bias = torch.where(below, 0.0, slope), torch.where(below, self.low, bias)
        return slope, bias

    def primitives(self, shapes: Sequence[Shape]) -> Sequence[Primitive]:
        if self.low is None and self.high is None:
            return ()
        if self.low is not None and self.high is not None:
            return (Primitive("clip", {}, {"low": self.low, "high": self.high}),)
        # one limit: low + ReLU(x - low), or high - ReLU(high - x)
        relu, size = Primitive("leaky", {}, {"slope": 0.0}), math.prod(shapes[0])
        if self.low == 0:
            return (relu,)
        limit, sign = (self.high or 0.0, -1.0) if self.low is None else (self.low, 1.0)
        parts = []
        for bias in (-sign * limit, limit):
            arrays = sparse.diagonal_triplets(torch.full((size,), sign))
            parts.append(
                Primitive("sparse", {**arrays, "bias": flat(torch.full((size,), bias, dtype=torch.float64))}, {})
            )
        return parts[0], relu, parts[1]

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        limits = [(-1.0, 1.0), (0.0, 6.0), (0.5, None), (None, -0.25), (2.0, 2.5), (0.75, 0.75), (None, None)]
        return [OperatorExample(cls(low, high), ((4,),)) for low, high in limits]


def _ratio(numerator: float, denominator: Tensor, where: Tensor) -> Tensor:  # [...] each
    """numerator / denominator where asked, 1 elsewhere, with finite gradients everywhere; never rounded up.

    The largest slope of a free line: one unit in the last place less keeps the line on the safe side of the corner.
    """
    ratio = numerator / torch.where(where, denominator, 1.0)
    return ratio - torch.finfo(ratio.dtype).eps * ratio


def _rest(lower: Tensor, upper: Tensor, where: Tensor) -> Tensor:  # [...] each, entry by entry
    """1 - upper / (upper - lower), without cancellation."""
    return _share(-upper, -lower, where)[0]
