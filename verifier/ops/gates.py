"""Gated units, x times something between 0 and 1, and other functions that bend both ways.

Points of inflection and minima that have no closed form are given to double precision. An interval of a few units in
the last place round such a point, on which the curvature has the other sign, moves the function by less than what is
paid for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.ops.base import OperatorExample, Primitive, Shape, register
from verifier.ops.curves import Smooth
from verifier.ops.facts import Facts

_INF = math.inf


class _Plain(Smooth):
    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


def _gate(least: float, value: float, inflections: tuple[float, float]) -> Facts:
    """Convex between two points, concave beyond; one minimum, of that value, which is rounded down."""
    first, last = inflections
    values = (value - 1e-6, _INF)
    return Facts(extrema=(least,), convex=(inflections,), concave=((-_INF, first), (last, _INF)), values=values)


@register
class SiLU(_Plain):
    """x sigmoid(x)."""

    facts = _gate(-1.2784645427610738, -0.27846454276107380, (-2.3993572805154677, 2.3993572805154677))
    slopes, steep = (-0.1, 1.1), 1.0

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return F.silu(x)

    def derivative(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(x)
        return y * (1 + x.clamp(-1e4, 1e4) * (1 - y))

    def _error(self, value: Tensor, line: Tensor | float = 0.0, *, at: Tensor) -> Tensor:  # [...] each
        # where exp(-x) overflows torch says 0: up to |x| / exp(-x), 23 tiny in float32 and 178 in float64
        return super()._error(value, line, at=at) + 256 * torch.finfo(value.dtype).tiny


@register
class GELU(_Plain):
    """x Phi(x), Phi the normal distribution's (Hendrycks & Gimpel 2016)."""

    facts = _gate(-0.7517915246935645, -0.16997120747990367, (-math.sqrt(2), math.sqrt(2)))
    slopes, steep, cancels = (-0.13, 1.13), 1.0, True

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return F.gelu(x)

    def derivative(self, x: Tensor) -> Tensor:
        near = x.clamp(-40, 40)
        density = torch.exp(-0.5 * near * near) / math.sqrt(2 * math.pi)
        return 0.5 * torch.erfc(-near / math.sqrt(2)) + near * density


@register
class GELUTanh(_Plain):
    """The same with tanh(sqrt(2 / pi) (x + 0.044715 x^3)) in place of erf(x / sqrt(2))."""

    facts = _gate(-0.7524614220710163, -0.17004075057125406, (-1.4185040087908284, 1.4185040087908284))
    slopes, steep, cancels, ulps = (-0.13, 1.13), 1.0, True, 8

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return F.gelu(x, approximate="tanh")

    def derivative(self, x: Tensor) -> Tensor:
        near = x.clamp(-40, 40)
        scale = math.sqrt(2 / math.pi)
        y = torch.tanh(scale * (near + 0.044715 * near**3))
        return 0.5 * (1 + y) + 0.5 * near * (1 - y * y) * scale * (1 + 3 * 0.044715 * near * near)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("gelu_tanh", {}, {})


@register
class Mish(_Plain):
    """x tanh(softplus(x))."""

    facts = _gate(-1.1924312145154952, -0.30884341301725041, (-2.2563763963607931, 1.4905711794854285))
    slopes, steep, ulps = (-0.12, 1.09), 1.0, 8

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return F.mish(x)

    def derivative(self, x: Tensor) -> Tensor:
        near = x.clamp(-1e4, 1e4)
        y = torch.tanh(F.softplus(near))
        return y + near * torch.sigmoid(near) * (1 - y) * (1 + y)


@register
class HardSwish(_Plain):
    """x clip(x / 6 + 1/2, 0, 1): a parabola between two lines."""

    facts = Facts(
        kinks=(-3.0, 3.0), extrema=(-1.5,), convex=((-3.0, 3.0),), concave=((-_INF, -3.0), (3.0, _INF)),
        values=(-0.375, _INF),
    )  # fmt: skip
    slopes, steep = (-0.5, 1.5), 1.0

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return F.hardswish(x)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.where(x < -3, 0.0, torch.where(x >= 3, 1.0, x / 3 + 0.5))

    def derivative_before(self, x: Tensor) -> Tensor:
        return torch.where(x <= -3, 0.0, torch.where(x > 3, 1.0, x / 3 + 0.5))


@register
class Softsign(_Plain):
    """x / (1 + |x|)."""

    facts = Facts(monotone=True, convex=((-_INF, 0.0),), concave=((0.0, _INF),), values=(-1.0, 1.0))
    slopes = (0.0, 1.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return F.softsign(x)

    def derivative(self, x: Tensor) -> Tensor:
        return (1 + x.abs()) ** -2


@register
class Tanhshrink(_Plain):
    """x - tanh(x)."""

    facts = Facts(monotone=True, concave=((-_INF, 0.0),), convex=((0.0, _INF),))
    slopes, cancels = (0.0, 1.0), True

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return x - torch.tanh(x)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.tanh(x) ** 2


@register
class Erf(_Plain):
    """The error function."""

    facts = Facts(monotone=True, convex=((-_INF, 0.0),), concave=((0.0, _INF),), values=(-1.0, 1.0))
    slopes = (0.0, 1.1284)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.erf(x)

    def derivative(self, x: Tensor) -> Tensor:
        near = x.clamp(-1e4, 1e4)
        return 2 / math.sqrt(math.pi) * torch.exp(-near * near)


@register
class Atan(_Plain):
    """The inverse tangent."""

    facts = Facts(
        monotone=True, convex=((-_INF, 0.0),), concave=((0.0, _INF),), values=(-1.5708, 1.5708)
    )  # fmt: skip
    slopes = (0.0, 1.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.atan(x)

    def derivative(self, x: Tensor) -> Tensor:
        return 1 / (1 + x * x)
