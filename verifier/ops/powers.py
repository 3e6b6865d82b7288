"""Powers: squares, roots, reciprocals, and any other exponent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.errors import InputError
from verifier.ops.base import OperatorExample, Primitive, Shape, register
from verifier.ops.curves import Bent, Smooth, Stretch
from verifier.ops.facts import LINE, Facts

#: smaller numbers count as zero: float32's smallest normal one
LEAST = 2.0**-126
#: squares of larger numbers are beyond float32's range
LARGEST_ROOT = 1e19
POSITIVE = (LEAST, math.inf)


@register
class Square(Bent):
    """x^2."""

    ulps = 1
    facts = Facts(extrema=(0.0,), convex=(LINE,), domain=(-LARGEST_ROOT, LARGEST_ROOT), values=(0.0, math.inf))

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return x * x

    def derivative(self, x: Tensor) -> Tensor:
        return 2 * x

    def _touching(self, slope: Tensor, part: Stretch, side: float) -> Tensor:
        return side * slope / 2

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Sqrt(Bent):
    """The square root, from 0 on."""

    ulps = 1
    facts = Facts(monotone=True, concave=((0.0, math.inf),), domain=(0.0, math.inf), values=(0.0, math.inf))
    slopes = (0.0, math.inf)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.sqrt(x)

    def derivative(self, x: Tensor) -> Tensor:
        return 0.5 / torch.sqrt(x)

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Rsqrt(Bent):
    """1 / sqrt(x) of positive x."""

    facts = Facts(convex=(POSITIVE,), domain=POSITIVE, values=(0.0, math.inf))
    slopes = (-math.inf, 0.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.rsqrt(x)

    def derivative(self, x: Tensor) -> Tensor:
        y = torch.rsqrt(x)
        return -0.5 * y / x

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Reciprocal(Smooth):
    """1 / x on intervals that are positive, or negative."""

    ulps = 1
    facts = Facts(convex=(POSITIVE,), domain=POSITIVE)
    slopes = (-math.inf, 0.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.reciprocal(x)

    def derivative(self, x: Tensor) -> Tensor:
        y = torch.reciprocal(x)
        return -y * y

    def defined(self, lower: Tensor, upper: Tensor) -> Tensor:  # [...] each -> bool [...]
        return (lower >= LEAST) | (upper <= -LEAST)

    def stretches(self, lower: Tensor, upper: Tensor) -> Sequence[Stretch]:  # [B, *shape] each
        return (Stretch(lower, upper, lower > 0),)

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Power(Smooth):
    """x^p: of any x for whole p >= 3, else of positive x (of x >= 0 where p > 0)."""

    def __init__(self, exponent: float) -> None:
        self.exponent = float(exponent)
        if not math.isfinite(self.exponent) or self.exponent in (0.0, 1.0):
            raise InputError(f"a power of exponent {exponent} is no power that needs bounds")

    @property
    def _whole(self) -> bool:
        return self.exponent.is_integer() and self.exponent >= 2

    @property
    def facts(self) -> Facts:  # type: ignore[override]
        p = self.exponent
        if self._whole:
            end = 1e38 ** (1 / p)
            if p % 2 == 0:
                return Facts(extrema=(0.0,), convex=(LINE,), domain=(-end, end), values=(0.0, math.inf))
            half = ((-math.inf, 0.0), (0.0, math.inf))
            return Facts(monotone=True, concave=half[:1], convex=half[1:], domain=(-end, end))
        least = 0.0 if p > 0 else 1e-38 ** (1 / max(1.0, -p))
        domain = (least, 1e38 ** (1 / max(1.0, p)) if p > 1 else math.inf)
        whole = ((least, math.inf),)
        curved = {"concave": whole} if 0 < p < 1 else {"convex": whole}
        return Facts(monotone=p > 0, domain=domain, values=(0.0, math.inf), **curved)

    @property
    def slopes(self) -> tuple[float, float]:  # type: ignore[override]
        if self._whole and self.exponent % 2 == 0:
            return -math.inf, math.inf
        return (0.0, math.inf) if self.exponent > 0 else (-math.inf, 0.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return x**self.exponent

    def derivative(self, x: Tensor) -> Tensor:
        return self.exponent * x ** (self.exponent - 1)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("power", {}, {"exponent": self.exponent})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(p), ((4,),)) for p in (3.0, 4.0, 1.5, 0.3, -1.5)]
