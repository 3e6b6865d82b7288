"""Exponential, logarithm, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.ops.base import OperatorExample, Primitive, Shape, register
from verifier.ops.curves import Bent, Smooth
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

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


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
