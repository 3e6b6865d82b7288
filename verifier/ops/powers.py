"""Powers: squares, roots, reciprocals, and any other exponent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from verifier.errors import InputError
from verifier.ops.base import OperatorExample, Primitive, Shape, register
from verifier.ops.curves import Bent, Smooth, Stretch
from verifier.ops.facts import LINE, Facts

#: smaller numbers count as zero: what 1 / x makes of them has a square within float32's range
LEAST = 2.0**-60
#: squares of larger numbers are beyond float32's range
LARGEST_ROOT = 1e19
POSITIVE = (LEAST, math.inf)
#: for messages
TRIFLES = f"numbers below {LEAST:.2g} count as 0"
NOT_POSITIVE = f"x <= 0 ({TRIFLES})"
_OTHERS = "x^2 is Square, x^(1/2) Sqrt, x^(-1) Reciprocal, x^(-1/2) Rsqrt"


@register
class Square(Bent):
    """x^2."""

    formula = "x^2"
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


class _FromZero(Smooth):
    """A function that is steep at 0, if not infinitely: nearer to 0 than a trifle its derivative is taken there.

    What that may cost a tangent is no more than the function rises up to the trifle, which is paid.
    """

    _TRIFLE: ClassVar[float] = 1e-36
    steep = 1.0

    def value(self, x: Tensor) -> Tensor:  # [...] -> [...]
        near = x <= self._TRIFLE
        return torch.where(near, self.apply(x).detach(), self.apply(torch.where(near, 1.0, x)))

    def _tangent(self, slope: Tensor, part: Stretch, side: float) -> Tensor:  # [B, *shape]
        found = super()._tangent(slope, part, side)
        trifle = self.apply(torch.full((), self._TRIFLE, dtype=found.dtype, device=found.device))
        return torch.where(part.start < part.end, found - (2 * trifle if self.facts.monotone else 0.0), found)


@register
class Sqrt(_FromZero, Bent):
    """The square root, from 0 on."""

    ulps = 1
    facts = Facts(monotone=True, concave=((0.0, math.inf),), domain=(0.0, math.inf), values=(0.0, math.inf))
    slopes = (0.0, math.inf)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.sqrt(x)

    def derivative(self, x: Tensor) -> Tensor:
        return 0.5 / torch.sqrt(x.clamp(min=self._TRIFLE))

    def _touching(self, slope: Tensor, part: Stretch, side: float) -> Tensor:
        return (0.5 / slope.clamp(min=torch.finfo(slope.dtype).tiny)) ** 2

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Rsqrt(Bent):
    """1 / sqrt(x) of positive x."""

    formula = "1 / sqrt(x)"
    forbidden = NOT_POSITIVE
    facts = Facts(convex=(POSITIVE,), domain=POSITIVE, values=(0.0, math.inf))
    slopes = (-math.inf, 0.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.rsqrt(x)

    def derivative(self, x: Tensor) -> Tensor:
        y = torch.rsqrt(x)
        return -0.5 * y / x

    def _touching(self, slope: Tensor, part: Stretch, side: float) -> Tensor:
        return (-2 * slope).clamp(min=torch.finfo(slope.dtype).tiny) ** (-2 / 3)

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Reciprocal(Smooth):
    """1 / x on intervals that are positive, or negative."""

    formula = "1 / x"
    forbidden = f"x = 0 ({TRIFLES})"
    remedy = "keep what it divides by away from 0 by an epsilon or a clamp"
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

    def _touching(self, slope: Tensor, part: Stretch, side: float) -> Tensor:
        size = torch.rsqrt((-slope).clamp(min=torch.finfo(slope.dtype).tiny))
        return torch.where(part.start > 0, size, -size)

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class WholePower(Smooth):
    """x^p of any x, for whole p >= 3."""

    def __init__(self, exponent: int) -> None:
        self.exponent = int(exponent)
        if self.exponent != exponent or self.exponent < 3:
            raise InputError(f"a whole power from 3 on is needed, not {exponent}: {_OTHERS}")

    @property
    def facts(self) -> Facts:
        end = 1e38 ** (1 / self.exponent)
        if self.exponent % 2 == 0:
            return Facts(extrema=(0.0,), convex=(LINE,), domain=(-end, end), values=(0.0, math.inf))
        half = ((-math.inf, 0.0), (0.0, math.inf))
        return Facts(monotone=True, concave=half[:1], convex=half[1:], domain=(-end, end))

    @property
    def formula(self) -> str:
        return f"x^{self.exponent}"

    @property
    def roundings(self) -> int:  # one for each factor, and as many for what libraries make of it
        return 4 * self.exponent + 8

    @property
    def slopes(self) -> tuple[float, float]:
        return (-math.inf if self.exponent % 2 == 0 else 0.0), math.inf

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return x**self.exponent

    def derivative(self, x: Tensor) -> Tensor:
        return self.exponent * x ** (self.exponent - 1)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("power", {}, {"exponent": float(self.exponent)})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(p), ((4,),)) for p in (3, 4)]


@register
class Power(_FromZero):
    """x^p of x >= 0, of x > 0 where p < 0; p is neither 0 nor 1."""

    roundings = 256  # in float32 the exponent is rounded as well, which counts |log x| times

    def __init__(self, exponent: float) -> None:
        self.exponent = float(exponent)
        if not math.isfinite(self.exponent) or self.exponent in (0.0, 1.0):
            raise InputError(f"an exponent of {exponent} makes no power that needs bounds: {_OTHERS}")

    @property
    def facts(self) -> Facts:
        p = self.exponent
        least = 0.0 if p > 0 else 1e-36 ** (1 / max(2.0, 1.0 - p))
        domain = (least, 1e38 ** (1 / max(1.0, p)) if p > 1 else math.inf)
        whole = ((least, math.inf),)
        convex, concave = ((), whole) if 0 < p < 1 else (whole, ())
        return Facts(monotone=p > 0, convex=convex, concave=concave, domain=domain, values=(0.0, math.inf))

    @property
    def formula(self) -> str:
        return f"x^{self.exponent:g}"

    @property
    def slopes(self) -> tuple[float, float]:
        return (0.0, math.inf) if self.exponent > 0 else (-math.inf, 0.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        # in float32 the exponent is rounded too, which costs log(x) times as much: 20 units in the last place and more
        return (x.double() ** self.exponent).to(x.dtype)

    def derivative(self, x: Tensor) -> Tensor:
        near = x.clamp(min=self._TRIFLE).double()
        return (self.exponent * near ** (self.exponent - 1)).to(x.dtype)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("power", {}, {"exponent": self.exponent})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(p), ((4,),)) for p in (1.5, 0.3, -1.5, 2.7, -1.7)]
