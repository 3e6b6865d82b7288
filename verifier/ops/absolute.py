"""The absolute value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.ops.base import LinearRelaxation, OperatorExample, Primitive, Shape, SlopeRule, register
from verifier.ops.relu import LeakyReLU


@register
class Abs(LeakyReLU):
    """|x|: a leaky ReLU of negative slope -1, so its upper line is the chord and its lower lines pass through 0.

    `slope` in [0, 1] moves the lower line's slope from -1 to 1.
    """

    def __init__(self) -> None:
        super().__init__(-1.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return x.abs()

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:  # [B, *shape] each
        lines = super().relax(lower, upper, slope)
        unknown = lower.isnan() | upper.isnan()
        parts = (lines.lower_slope, lines.lower_bias, lines.upper_slope, lines.upper_bias)
        a, b, c, d = (torch.where(unknown, torch.nan, t) for t in parts)
        return LinearRelaxation(a, b, c, d, lines.parallel)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("abs", {}, {})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]
