"""Functions that are constant but for jumps: floor, rounding, sign, step.

Over an interval the graph lies between two polygons through the ends and through both limits at the first and at the
last jump inside; between these two jumps, floor and round stay within parallel lines of slope 1. Slopes are chosen
along the polygons, capped where a jump is next to an end of the interval; the bias for a slope s is then the least
(largest) of y - s x over the corners, less (plus) its rounding errors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

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
from verifier.ops.facts import Facts

#: the steepest line across a jump: as in certificates
STEEPEST = 64.0
#: an integer program has a binary for each jump of a neuron, of so many at most
MOST_JUMPS = 64


class Corners(NamedTuple):
    """The first and the last jump inside, and the limits there: [B, *shape] each."""

    first: Tensor
    last: Tensor
    below: tuple[Tensor, Tensor]  #: the lower limits at the first and at the last jump
    above: tuple[Tensor, Tensor]  #: the upper limits


class Jump(Activation):
    """A rising function that is constant between jumps. Its values are exact in any precision."""

    piecewise_linear: ClassVar[bool] = False
    roundings = 0
    lipschitz = float("inf")
    #: slope, and biases below and above, of two lines between which the whole graph lies
    band: ClassVar[tuple[float, float, float]]

    @property
    def slope_range(self) -> tuple[float, float]:
        return 0.0, float("inf")

    @abstractmethod
    def corners(self, lower: Tensor, upper: Tensor) -> Corners:
        """The jumps inside the intervals, where there is one; anything within them elsewhere.

        Args:
            lower, upper: [B, *shape].
        """

    @abstractmethod
    def near(self, x: Tensor) -> Tensor:  # [...] -> [...]
        """The jump nearest to x."""

    def unstable(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each
        return ~(self.apply(lower) == self.apply(upper))

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each
        return self.apply(lower), self.apply(upper)

    def steepest(self, lower: Tensor, upper: Tensor) -> Tensor:  # [...] each -> [...]
        return torch.where(self.unstable(lower, upper), torch.inf, 0.0).to(lower)

    def moved(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:  # [...] each -> [...]
        """As of `Activation.moved`: the height of all jumps within reach."""
        inf = torch.full_like(lower, torch.inf)
        low, high = torch.nextafter(lower - error, -inf), torch.nextafter(upper + error, inf)
        return self.apply(high) - self.apply(low)

    def lines_moved(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:  # [...] each -> [...]
        """As of `Activation.lines_moved`: lines turn about their corners, until a jump comes within reach of an end."""
        ends = torch.stack([lower, upper])
        lines = self.relax(lower, upper, torch.ones_like(lower))
        slope = torch.maximum(lines.lower_slope, lines.upper_slope)
        # both ends were moved outwards by the error
        inside = ends + torch.stack([2 * error, -2 * error])
        appear = (self.apply(inside) - self.apply(ends)).abs().sum(0)
        return 2 * slope * error + appear

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
        """Slope t in [0, 1] turns both lines: from constants to the steepest sides of the polygons.

        Args: lower, upper: [B, *shape]. slope: as of `Activation.relax`.
        """
        jumps = self.unstable(lower, upper)
        usable = jumps & lower.isfinite() & upper.isfinite()
        low, high = torch.where(usable, lower, -1.0), torch.where(usable, upper, 1.0)
        at_low, at_high = self.apply(low), self.apply(high)
        c = self.corners(low, high)
        between = (c.last > c.first).to(low)  # slope of both polygons from the first jump to the last
        rise, fall = at_high - c.below[1], c.above[0] - at_low
        last = _steepness(rise, high - c.last, between)
        first = _steepness(fall, c.first - low, between)
        parallel = slope is SlopeRule.FIXED
        if isinstance(slope, Tensor):
            share = slope.clamp(0, 1).to(low)
            below, above = share * last, share * first
        elif parallel:
            below = above = _steepness(at_high - at_low, high - low, between)
        else:
            middle = 0.5 * low + 0.5 * high
            below = torch.where(middle <= c.first, 0.0, torch.where(middle <= c.last, between, last))
            above = torch.where(middle < c.first, first, torch.where(middle < c.last, between, 0.0))
        under = [(low, at_low), (c.first, c.below[0]), (c.last, c.below[1]), (high, at_high)]
        over = [(low, at_low), (c.first, c.above[0]), (c.last, c.above[1]), (high, at_high)]
        lower_bias = torch.stack([_bias(x, y, below, 1.0) for x, y in under]).amin(0)
        upper_bias = -torch.stack([_bias(x, y, above, -1.0) for x, y in over]).amin(0)
        lines = LinearRelaxation(below, lower_bias, above, upper_bias, parallel)
        return self._elsewhere(lower, upper, usable, jumps, lines)

    def _elsewhere(
        self, lower: Tensor, upper: Tensor, usable: Tensor, jumps: Tensor, lines: LinearRelaxation
    ) -> LinearRelaxation:
        """The value itself where there is no jump, the band where an end is infinite, NaN where it is unknown."""
        value, (steep, under, over) = self.apply(lower), self.band
        unknown = lower.isnan() | upper.isnan()

        def chosen(line: Tensor, endless: float, stable: Tensor | float) -> Tensor:  # [B, *shape]
            found = torch.where(usable, line, torch.where(jumps, endless, stable))
            return torch.where(unknown, torch.nan, found)

        return LinearRelaxation(
            chosen(lines.lower_slope, steep, 0.0), chosen(lines.lower_bias, under, value),
            chosen(lines.upper_slope, steep, 0.0), chosen(lines.upper_bias, over, value), lines.parallel,
        )  # fmt: skip

    def pieces(self, lower: Tensor, upper: Tensor) -> Pieces:  # [B, *shape] each -> [K, B, *shape]
        c = self.corners(lower, upper)
        at_low, at_high = self.apply(lower), self.apply(upper)
        x = [lower, c.first, c.first, c.last, c.last, upper]
        y = [at_low, c.below[0], c.above[0], c.below[1], c.above[1], at_high]
        jumps = self.unstable(lower, upper)
        return Pieces(
            torch.stack([torch.where(jumps, t, lower if k < 5 else upper) for k, t in enumerate(x)]),
            torch.stack([torch.where(jumps, t, at_low) for t in y]),
            exact=False,
        )

    def polyline(self, lower: Tensor, upper: Tensor) -> Pieces:  # [B, *shape] each -> [K, B, *shape]
        """As of `Activation.polyline`: up the stairs."""
        x, y = self.stairs(lower, upper)
        jumps = self.unstable(lower, upper)
        x = torch.cat([lower.unsqueeze(0), torch.where(jumps, x, upper), upper.unsqueeze(0)])
        first, last = self.apply(lower).unsqueeze(0), self.apply(upper).unsqueeze(0)
        return Pieces(x, torch.cat([first, torch.where(jumps, y, last), last]), exact=True)

    @abstractmethod
    def stairs(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The corners of the graph at the jumps inside, x and y [K, B, *shape]; see `polyline`.

        Args:
            lower, upper: [B, *shape].
        """

    def split_at(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each
        """The jump nearest to the middle, where one is inside."""
        place = self.near(0.5 * lower + 0.5 * upper)
        return torch.where((place > lower) & (place < upper), place, torch.nan)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive(type(self).__name__.lower(), {}, {})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,),))]


def _steepness(rise: Tensor, width: Tensor, otherwise: Tensor) -> Tensor:  # [...] each
    """rise / width, capped; `otherwise` where there is no width to speak of."""
    wide = width > 0
    quotient = rise / torch.where(wide, width, 1.0)
    steep = wide & (quotient > STEEPEST)  # a constant: the quotient's gradients may be huge
    return torch.where(wide, torch.where(steep, STEEPEST, quotient), otherwise)


def _bias(x: Tensor, y: Tensor, slope: Tensor, side: float) -> Tensor:  # [...] each
    line = slope * x
    limits = torch.finfo(line.dtype)
    return side * (y - line) - 4 * (limits.eps * (line.detach().abs() + y.abs()) + limits.tiny)


class _Stairs(Jump):
    """Steps of height and width 1 without end; `reach`: from an integer value to the next jump."""

    reach: ClassVar[float]

    def corners(self, lower: Tensor, upper: Tensor) -> Corners:  # [B, *shape] each
        low, high = self.apply(lower), self.apply(upper)
        first, last = low + self.reach, high - (1 - self.reach)
        first, last = (torch.minimum(torch.maximum(p, lower), upper) for p in (first, last))
        return Corners(first, torch.maximum(first, last), (low, high - 1), (low + 1, high))

    def stairs(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each -> [K, B, *shape] each
        low, high = self.apply(lower), self.apply(upper)
        count = high - low
        most = int(count.clamp(max=MOST_JUMPS).max()) if count.numel() else 0
        number = torch.arange(most, device=low.device, dtype=low.dtype).reshape(-1, *(1,) * low.dim())
        inside = number < count
        place = torch.where(inside, low + number + self.reach, upper)
        ends = [torch.where(inside, low + number + k, high) for k in (0, 1)]
        x, y = torch.stack([place, place], 1).flatten(0, 1), torch.stack(ends, 1).flatten(0, 1)
        return torch.where(count > MOST_JUMPS, torch.nan, x), y


@register
class Floor(_Stairs):
    """The largest integer that is no larger."""

    reach = 1.0
    band = (1.0, -1.0, 0.0)
    facts = Facts(monotone=True, jumps=(0.0,), spacing=1.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.floor(x)

    def near(self, x: Tensor) -> Tensor:  # [...] -> [...]
        return torch.round(x)


@register
class Round(_Stairs):
    """The nearest integer, the even one of two."""

    reach = 0.5
    band = (1.0, -0.5, 0.5)
    facts = Facts(monotone=True, jumps=(0.5,), spacing=1.0)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.round(x)

    def near(self, x: Tensor) -> Tensor:  # [...] -> [...]
        return torch.floor(x) + 0.5


class _AtZero(Jump):
    """One jump, at zero: from `low` to 1."""

    low: ClassVar[float]

    def corners(self, lower: Tensor, upper: Tensor) -> Corners:  # [B, *shape] each
        zero = torch.zeros_like(lower)
        place = torch.minimum(torch.maximum(zero, lower), upper)
        own = self.apply(zero)
        below, above = torch.where(lower < 0, self.low, own), torch.where(upper > 0, 1.0, own)
        return Corners(place, place, (below, below), (above, above))

    def stairs(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each -> [K, B, *shape] each
        c = self.corners(lower, upper)
        return torch.stack([c.first] * 3), torch.stack([c.below[0], self.apply(c.first), c.above[0]])

    def near(self, x: Tensor) -> Tensor:  # [...] -> [...]
        return torch.zeros_like(x)


@register
class Sign(_AtZero):
    """-1, 0 or 1."""

    low = -1.0
    band = (0.0, -1.0, 1.0)
    facts = Facts(monotone=True, jumps=(0.0,), values=(-1.0, 1.0))

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        return torch.where(x.isnan(), x, torch.sign(x))  # torch has no sign of NaN


@register
class Step(_AtZero):
    """1 where x > 0 (closed: where x >= 0), 0 elsewhere."""

    low = 0.0
    band = (0.0, 0.0, 1.0)
    facts = Facts(monotone=True, jumps=(0.0,), values=(0.0, 1.0))

    def __init__(self, closed: bool = False) -> None:
        self.closed = bool(closed)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *shape]
        value = (x >= 0 if self.closed else x > 0).to(x)
        return torch.where(x.isnan(), x, value)

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive("step", {}, {"closed": float(self.closed)})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(closed), ((4,),)) for closed in (False, True)]
