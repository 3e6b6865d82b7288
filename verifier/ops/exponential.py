"""Exponential, logarithm, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from verifier.ops.base import LinearRelaxation, OperatorExample, Primitive, Shape, SlopeRule, register
from verifier.ops.curves import Bent, Smooth, Stretch
from verifier.ops.facts import LINE, Facts
from verifier.ops.powers import LEAST, NOT_POSITIVE


@register
class Exp(Bent):
    """exp(x), up to where float32 ends."""

    facts = Facts(monotone=True, convex=(LINE,), domain=(-math.inf, 88.0), values=(0.0, math.inf))
    slopes = (0.0, math.inf)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.exp(x)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def _touching(self, slope: Tensor, part: Stretch, side: float) -> Tensor:
        return torch.log(slope.clamp(min=torch.finfo(slope.dtype).tiny))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Log(Bent):
    """The natural logarithm of positive x."""

    forbidden = NOT_POSITIVE
    facts = Facts(monotone=True, concave=((LEAST, math.inf),), domain=(LEAST, math.inf))
    slopes = (0.0, math.inf)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.log(x)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.reciprocal(x)

    def _touching(self, slope: Tensor, part: Stretch, side: float) -> Tensor:
        return torch.reciprocal(slope.clamp(min=torch.finfo(slope.dtype).tiny))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Softplus(Bent):
    """log(1 + exp(x))."""

    facts = Facts(monotone=True, convex=(LINE,), values=(0.0, math.inf))
    slopes = (0.0, 1.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device))

    def derivative(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def _touching(self, slope: Tensor, part: Stretch, side: float) -> Tensor:
        return torch.logit(slope.clamp(0, 1))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class ThresholdSoftplus(Softplus):
    """torch's softplus: log(1 + exp(x)) up to 20 and x itself beyond, which is less, by up to log(1 + exp(-20)).

    Lines are those of the smooth function, the lower one that much lower on intervals that hold 20, or are x itself.
    Certificates have one kind for the two functions, which holds of both.
    """

    threshold: ClassVar[float] = 20.0
    _LESS: ClassVar[float] = 2.07e-9
    facts = Facts(values=(0.0, math.inf))

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.where(x > self.threshold, x, super().apply(x))

    def derivative(self, x: Tensor) -> Tensor:
        return torch.where(x > self.threshold, 1.0, super().derivative(x))

    def stretches(self, lower: Tensor, upper: Tensor) -> Sequence[Stretch]:  # [B, *shape] each
        return (Stretch(lower, upper, True),)

    def _across(self, lower: Tensor, upper: Tensor) -> Tensor:  # [...] each -> bool [...]
        return (lower <= self.threshold) & (self.threshold < upper)

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each
        low, high = super().range(lower, upper)
        across = self._across(lower, upper)
        return torch.where(across, low - self._LESS, low), torch.where(across, high + self._LESS, high)

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
        lines, across = super().relax(lower, upper, slope), self._across(lower, upper)
        below = torch.where(across, lines.lower_bias - 2 * self._LESS, lines.lower_bias)
        above = torch.where(across, lines.upper_bias + 2 * self._LESS, lines.upper_bias)
        return replace(lines, lower_bias=below, upper_bias=above)

    def moved(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:  # [...] each -> [...]
        across = self._across(lower - error, upper + error) & (error > 0)
        return super().moved(lower, upper, error) + torch.where(across, self._LESS, 0.0)

    def lines_moved(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:  # [...] each -> [...]
        across = self._across(lower, upper) & (error > 0)
        return super().lines_moved(lower, upper, error) + torch.where(across, self._LESS, 0.0)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("softplus", {}, {})


class _Elu(Smooth):
    """x from 0 on, scale (exp(x / width) - 1) below."""

    steep = 1.0

    def __init__(self, scale: float, width: float) -> None:
        self.scale, self.width = float(scale), float(width)

    @property
    def facts(self) -> Facts:
        steepest = self.scale / self.width
        parts = (LINE,) if steepest == 1 else ((-math.inf, 0.0), (0.0, math.inf))
        kinks = () if steepest == 1 else (0.0,)
        return Facts(monotone=True, kinks=kinks, convex=parts, values=(-self.scale, math.inf))

    @property
    def slopes(self) -> tuple[float, float]:
        return 0.0, max(1.0, self.scale / self.width)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.where(x >= 0, x, self.scale * torch.expm1(x.clamp(max=0) / self.width))

    def derivative(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, self._rising(x))

    def derivative_before(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, 1.0, self._rising(x))

    def _rising(self, x: Tensor) -> Tensor:  # [...] -> [...]
        return self.scale / self.width * torch.exp(x.clamp(max=0) / self.width)


@register
class Elu(_Elu):
    """x from 0 on, alpha (exp(x) - 1) below; alpha > 0."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha, 1.0)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("elu", {}, {"alpha": self.scale})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(a), ((4,),)) for a in (1.0, 0.4, 1.7)]


@register
class Celu(_Elu):
    """x from 0 on, alpha (exp(x / alpha) - 1) below; alpha > 0."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha, alpha)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("celu", {}, {"alpha": self.scale})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(a), ((4,),)) for a in (0.5, 2.0)]
