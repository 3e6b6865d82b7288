"""S-shaped activations: sigmoid and tanh.

Soundness does not rest on where a tangent point was found. For a slope s >= 0 the best upper bias is

    max over [l, u] of f(x) - s x,

whose maximum lies at l, at u, or at the one point x* >= 0 where f'(x*) = s, which has a closed form; the best lower
bias is the mirror image. So slopes are chosen freely (bisection finds the tangents of the hull), and the bias of
whatever slope came out is evaluated at the worst point, rounding errors accounted for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.ops.base import Activation, LinearRelaxation, OperatorExample, Primitive, Shape, SlopeRule, register
from verifier.ops.facts import Facts

_STEPS = 30  # of bisection; one Newton step follows


class _SShaped(Activation):
    """Odd about (0, f(0)), convex below 0, concave above; f(x) = floor + height (1 + tanh(sharpness x)) / 2."""

    piecewise_linear = False
    ulps = 4
    roundings = 8  # a unit in the last place is two units of roundoff at most
    floor: float
    height: float
    sharpness: float

    @property
    def facts(self) -> Facts:
        rising, falling = (-math.inf, 0.0), (0.0, math.inf)
        values = (self.floor, self.floor + self.height)
        return Facts(monotone=True, convex=(rising,), concave=(falling,), values=values)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive(type(self).__name__.lower(), {}, {})

    @property
    def top_slope(self) -> float:
        """The slope at 0, the largest there is."""
        return self.height * self.sharpness / 2

    @property
    def slope_range(self) -> tuple[float, float]:
        return 0.0, self.top_slope

    def derivative(self, x: Tensor) -> Tensor:  # [...] -> [...]
        """f'(x), to a few units in the last place also where f saturates."""
        z = torch.exp(-2 * self.sharpness * x.abs())
        return self.top_slope * 4 * z / (1 + z) ** 2

    def unstable(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each
        return ~(lower >= upper)

    def _error(self, value: Tensor, line: Tensor | float = 0.0) -> Tensor:  # [...] each
        """Bound on the rounding errors of f(x) - s x, from the computed f(x) and s x; underflow included."""
        limits = torch.finfo(value.dtype)
        size = value.detach().abs() + (line.detach().abs() if isinstance(line, Tensor) else line)
        return (self.ulps + 4) * limits.eps * size + limits.tiny

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each
        low, high = self.apply(lower), self.apply(upper)
        ceiling = self.floor + self.height
        return (low - self._error(low)).clamp(min=self.floor), (high + self._error(high)).clamp(max=ceiling)

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:  # [B, *shape] each
        """Slope t in [0, 1] moves both lines, each from the flattest to the steepest slope of its hull."""
        chord = self._chord(lower, upper)
        up = self._tangents(lower, upper, chord)
        down = self._tangents(-upper, -lower, chord)
        parallel = slope is SlopeRule.FIXED
        if parallel:  # the slope that brings two parallel lines closest: the chord's, or the flatter tangent's
            curved = (lower < 0) & (upper > 0)
            above = below = torch.where(curved, torch.minimum(up[1], down[1]), chord)
        elif isinstance(slope, SlopeRule):  # least area: tangents at the middle where the hull has one there
            middle = lower / 2 + upper / 2
            at_middle = self.derivative(middle)
            above, below = (torch.maximum(torch.minimum(at_middle, steep), flat) for flat, steep in (up, down))
            above = torch.where(middle >= 0, above, up[1])
            below = torch.where(middle <= 0, below, down[1])
        else:
            share = slope.clamp(0, 1).to(lower)
            above, below = (flat + share * (steep - flat) for flat, steep in (up, down))
        above, below = (self._usable(s, lower, upper) for s in (above, below))
        upper_bias = self._worst(above, lower, upper, 1.0)
        lower_bias = self._worst(below, lower, upper, -1.0)
        unknown = lower.isnan() | upper.isnan()
        a, b, c, d = (torch.where(unknown, torch.nan, t) for t in (below, lower_bias, above, upper_bias))
        return LinearRelaxation(a, b, c, d, parallel)

    def _usable(self, slope: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Slopes in [0, steepest], 0 where the interval is unbounded."""
        slope = slope.clamp(0, self.top_slope)
        return torch.where(lower.isinf() | upper.isinf(), 0.0, slope)

    def _worst(self, slope: Tensor, lower: Tensor, upper: Tensor, side: float) -> Tensor:
        """The bias of the line of that slope: above f on [l, u] for side 1, below it for side -1."""
        with torch.no_grad():  # at a stationary point the bias does not change with the point
            share = slope / self.top_slope
            root = (1 - share).clamp(min=0).sqrt()  # |tanh(sharpness x*)|
            distance = (torch.log1p(root) - share.log() / 2) / self.sharpness
        stationary = torch.minimum(torch.maximum(side * distance, lower), upper)  # moves with the bound it meets
        biases = []
        largest = torch.finfo(lower.dtype).max
        for x in (lower, upper, stationary):
            value, line = self.apply(x), slope * x.clamp(-largest, largest)
            biases.append(side * (value - line) + self._error(value, line))
        return side * torch.maximum(torch.maximum(biases[0], biases[1]), biases[2])

    def _chord(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each
        """Slope from (l, f(l)) to (u, f(u)), kept between the slopes that f has there; f'(l) where l = u."""
        width = upper - lower
        wide = width > 0
        chord = (self.apply(upper) - self.apply(lower)) / torch.where(wide, width, 1.0)
        ends = self.derivative(lower), self.derivative(upper)
        flattest = torch.minimum(*ends)
        steepest = torch.where((lower < 0) & (upper > 0), self.top_slope, torch.maximum(*ends))
        # cancellation over a narrow interval can leave no digit of the quotient: the derivatives then bound it
        chord = torch.maximum(torch.minimum(chord, steepest), flattest)
        return torch.where(wide, chord, ends[0])

    def _tangents(self, lower: Tensor, upper: Tensor, chord: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each
        """Flattest and steepest slope of the lines that touch the upper hull on its curved part; else the chord's."""
        start = self._touching(lower, upper)
        curved = (upper > 0) & (start < upper)
        flat = torch.where(curved, self.derivative(torch.where(curved, upper, 0.0)), chord)
        steep = torch.where(curved, self.derivative(torch.where(curved, start, 0.0)), chord)
        return flat, torch.maximum(flat, steep)

    def _touching(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each
        """Where the upper hull starts to be curved: l where l >= 0, else the point d in (0, u] at which the line from
        (l, f(l)) is tangent (u where there is none)."""
        inside = (lower < 0) & (upper > 0)
        left = torch.where(inside, lower, -1.0)
        right = torch.where(inside, upper, 1.0)
        with torch.no_grad():
            # from where f' underflows on, the hull has nothing to gain
            low, high = torch.zeros_like(right), right.clamp(max=400 / self.sharpness)
            none = self._excess(right, left) >= 0
            for _ in range(_STEPS):
                middle = (low + high) / 2
                before = self._excess(middle, left) > 0
                low, high = torch.where(before, middle, low), torch.where(before, high, middle)
            point = (low + high) / 2
            point = torch.where(none, right, point)
        # one Newton step with the point held fixed: more digits, and the gradient of the implicit function
        bend = self._bend(point) * (point - left.detach())
        usable = ~none & (bend.abs() > torch.finfo(bend.dtype).tiny)
        step = self._excess(point, left) / torch.where(usable, bend, 1.0)
        refined = torch.minimum(torch.where(usable, point - step, point).clamp(min=0), right)
        refined = torch.where(none, right, refined)
        return torch.where(inside, refined, torch.where(lower >= 0, lower, upper))

    def _excess(self, x: Tensor, left: Tensor) -> Tensor:  # [...] each
        """f'(x) (x - left) - (f(x) - f(left)): positive before the tangent point, negative beyond it."""
        return self.derivative(x) * (x - left) - (self.apply(x) - self.apply(left))

    def _bend(self, x: Tensor) -> Tensor:  # [...] -> [...]
        """f''(x)."""
        return -2 * self.sharpness * torch.tanh(self.sharpness * x) * self.derivative(x)


@register
class Tanh(_SShaped):
    """tanh(x)."""

    floor, height, sharpness = -1.0, 2.0, 1.0
    lipschitz = 1.0

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.tanh(x)

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


@register
class Sigmoid(_SShaped):
    """1 / (1 + exp(-x))."""

    floor, height, sharpness = 0.0, 1.0, 0.5
    lipschitz = 0.25

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.sigmoid(x)

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]
