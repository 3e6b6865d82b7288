"""The one rule for smooth functions of one variable: tangents, secants, and biases that are right for any slope.

A function says what it is made of: its values, its derivative, and the stretches on which it is convex or concave,
between its points of inflection. Slopes are chosen where they do well: the lower line's between the slopes of the
lower hull at both ends of the interval, the upper line's likewise. Soundness does not rest on how. For a slope s the
best bias of a lower line is the least of f(x) - s x over the interval, which is taken stretch by stretch:

- where f is concave it is at an end of the stretch;
- where f is convex, f(x) >= f(t) + f'(t) (x - t) for any t of the stretch, so that

      f(x) - s x  >=  f(t) - s t + min of (f'(t) - s) (x - t) at both ends,

  and t is found by bisection, or by a formula, near the point where f'(t) = s, where next to nothing is lost.

Upper lines are the lower lines of -f. Rounding errors of f, f' and the line are taken off.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from verifier.ops.base import Activation, LinearRelaxation, Primitive, Shape, SlopeRule
from verifier.ops.facts import Facts

#: halvings of the search for a touching point: what is left of the interval costs as much as a rounding or less
_STEPS = {torch.float32: 24, torch.float64: 40}
#: points at which the hull's end slopes are looked for
_SAMPLES = 9
#: an interval that is not divided any more, in relation to the numbers in it
_NARROW = 1e-4


class Stretch(NamedTuple):
    """Part of the intervals, [B, *shape] each, on which the function is convex (where `convex` is), else concave."""

    start: Tensor
    end: Tensor
    convex: Tensor | bool


class Smooth(Activation):
    """A smooth function; subclasses give `apply`, `derivative` and facts, most of them nothing else."""

    piecewise_linear: ClassVar[bool] = False
    ulps: ClassVar[int] = 4  #: assumed of the library's function
    roundings = 8
    #: the smallest and the largest slope there is anywhere
    slopes: tuple[float, float] = (-float("inf"), float("inf"))
    #: a size that the derivative is a sum of terms of: it is off by a few units in the last place of that
    steep: ClassVar[float] = 0.0
    facts: Facts = Facts()

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:  # [...] -> [...]
        """f'(x)."""

    def value(self, x: Tensor) -> Tensor:  # [...] -> [...]
        """f(x), with gradients that are finite everywhere in the domain."""
        return self.apply(x)

    def derivative_before(self, x: Tensor) -> Tensor:  # [...] -> [...]
        """f'(x) from the left, where that is another than `derivative`, which is then that from the right.

        Points where the two differ are ends of stretches.
        """
        return self.derivative(x)

    def stretches(self, lower: Tensor, upper: Tensor) -> Sequence[Stretch]:
        """The parts of the intervals between points of inflection, from left to right; default by the facts."""
        known = [(a, b, True) for a, b in self.facts.convex] + [(a, b, False) for a, b in self.facts.concave]
        ordered = sorted(known)
        inf, last = float("inf"), len(ordered) - 1

        def end(x: float) -> Tensor:
            return torch.minimum(torch.maximum(torch.full_like(lower, x), lower), upper)

        # whatever lies outside of the domain is none of the interval
        return [
            Stretch(lower if k == 0 or a == -inf else end(a), upper if k == last or b == inf else end(b), convex)
            for k, (a, b, convex) in enumerate(ordered)
        ]

    def defined(self, lower: Tensor, upper: Tensor) -> Tensor:  # [...] each -> bool [...]
        """Where the whole interval is in the domain."""
        first, last = self.facts.domain
        return (lower >= first) & (upper <= last)

    @property
    def formula(self) -> str:
        """f(x) as messages write it."""
        return f"{type(self).__name__.lower()}(x)"

    @property
    def forbidden(self) -> str:
        """The x outside of the domain, as messages write them."""
        first, last = self.facts.domain
        ends = ([f"x < {first:.6g}"] if first > -math.inf else []) + ([f"x > {last:.6g}"] if last < math.inf else [])
        return " or ".join(ends)

    @property
    def remedy(self) -> str:
        """What to do in the model so that x stays in the domain."""
        first, last = self.facts.domain
        if first > -math.inf and last < math.inf:
            return "clamp what it reads"
        return "add an epsilon to what it reads, or clamp it from below" if last == math.inf else "clamp it from above"

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        return Primitive(type(self).__name__.lower(), {}, {})

    @property
    def slope_range(self) -> tuple[float, float]:
        return self.slopes

    @property
    def lipschitz(self) -> float:
        return max(map(abs, self.slopes))

    def steepest(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The largest |f'| over intervals, rounded up: at their ends, and where f turns its curvature."""
        least, most = self._slopes_over(lower, upper)
        found = torch.maximum(least.abs(), most.abs())
        eps = torch.finfo(found.dtype).eps
        found = found + 32 * eps * (found + self.steep)
        return torch.where(self.defined(lower, upper) & ~found.isnan(), found, torch.inf)

    def _slopes_over(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest f' over intervals, up to rounding: [...] each."""
        points = [lower, upper, *(s.end for s in self.stretches(lower, upper)[:-1])]
        found = torch.stack([d(x) for x in points for d in (self.derivative, self.derivative_before)])
        return found.amin(0), found.amax(0)

    def lines_moved(self, lower: Tensor, upper: Tensor, error: Tensor) -> Tensor:  # [...] each -> [...]
        """Of a line of slope s: |s| e by its input, and |f' - s| e where that is beyond the bounds it was made for.

        Slopes of lines are among those of f over the interval, which are all nearly one on a narrow interval. On a wide
        one the two are about 2 max |f'|.
        """
        least, most = self._slopes_over(lower, upper)
        steep = self.steepest(lower, upper)
        spread = most - least + 64 * torch.finfo(most.dtype).eps * (steep + self.steep)
        factor = torch.minimum(2 * steep, steep + torch.where(spread.isnan(), torch.inf, spread))
        return torch.where(error > 0, error * factor, 0.0)

    def unstable(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each
        return ~(lower >= upper)

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:  # [B, *shape] each
        known = self.defined(lower, upper)
        lower, upper = (torch.where(known, t, torch.nan) for t in (lower, upper))
        ends = torch.stack([self.value(lower), self.value(upper)])
        low, high = ends.amin(0), ends.amax(0)
        for turn, value in self.turns(lower, upper):
            low = torch.where(turn, torch.minimum(low, value), low)
            high = torch.where(turn, torch.maximum(high, value), high)
        first, last = self.facts.values
        reach = torch.maximum(lower.abs(), upper.abs())
        low, high = low - self._error(low, at=reach), high + self._error(high, at=reach)
        low, high = low.clamp(min=first), high.clamp(max=last)
        return torch.where(known, low, torch.nan), torch.where(known, high, torch.nan)

    def turns(self, lower: Tensor, upper: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        """Per extremum of the function, which intervals have it inside, and its value there: [B, *shape] each."""
        points = [torch.full_like(lower, x) for x in self.facts.extrema]
        return [((lower < x) & (x < upper), self.apply(x)) for x in points]

    def _error(self, value: Tensor, line: Tensor | float = 0.0, *, at: Tensor) -> Tensor:  # [...] each
        """Bound on the rounding errors of f(x) - s x, from the computed f(x) and s x, x = `at`; underflow included."""
        limits = torch.finfo(value.dtype)
        size = value.detach().abs() + (line.detach().abs() if isinstance(line, Tensor) else line)
        if self.cancels:
            size = size + at.detach().abs()
        return (self.ulps + 4) * limits.eps * size + limits.tiny

    def relax(self, lower: Tensor, upper: Tensor, slope: Tensor | SlopeRule) -> LinearRelaxation:
        """Slope t in [0, 1] moves both lines: along touching points where f bends one way, else along slopes.

        Args: lower, upper: [B, *shape]. slope: as of `Activation.relax`.
        """
        known = self.defined(lower, upper) & ~(lower.isinf() | upper.isinf())
        endless = ~known
        # a stand-in of one point where there is nothing to be known; its lines are put aside
        low, high = torch.where(endless, self._inside, lower), torch.where(endless, self._inside, upper)
        parts = self.stretches(low, high)
        chord = self._chord(low, high)
        parallel = slope is SlopeRule.FIXED
        if parallel:
            below = above = chord
        else:
            share = 0.5 if isinstance(slope, SlopeRule) else slope.clamp(0, 1).to(low)
            below = self._slope(low, high, chord, share, parts, 1.0, isinstance(slope, SlopeRule))
            above = self._slope(low, high, chord, share, parts, -1.0, isinstance(slope, SlopeRule))
        lower_bias = self._bias(below, parts, 1.0)
        upper_bias = -self._bias(-above, parts, -1.0)
        return self._put_aside(lower, upper, LinearRelaxation(below, lower_bias, above, upper_bias, parallel))

    @property
    def _inside(self) -> float:
        """A point of the domain."""
        first, last = self.facts.domain
        return min(max(1.0, first), last)

    def _put_aside(self, lower: Tensor, upper: Tensor, lines: LinearRelaxation) -> LinearRelaxation:
        """Constants by the range where an end, or a line, is infinite; NaN outside of the domain."""
        low, high = self.range(lower, upper)
        known = self.defined(lower, upper)
        usable = ~(lower.isinf() | upper.isinf())
        below = usable & lines.lower_slope.isfinite() & lines.lower_bias.isfinite()
        above = usable & lines.upper_slope.isfinite() & lines.upper_bias.isfinite()
        if lines.parallel:
            below = above = below & above

        def chosen(use: Tensor, line: Tensor, otherwise: Tensor | float) -> Tensor:  # [B, *shape]
            return torch.where(known, torch.where(use, line, otherwise), torch.nan)

        return LinearRelaxation(
            chosen(below, lines.lower_slope, 0.0), chosen(below, lines.lower_bias, low),
            chosen(above, lines.upper_slope, 0.0), chosen(above, lines.upper_bias, high), lines.parallel,
        )  # fmt: skip

    def _chord(self, low: Tensor, high: Tensor) -> Tensor:  # [B, *shape] each
        """Slope from (l, f(l)) to (u, f(u)); f' in the middle where cancellation leaves nothing of the quotient."""
        width = high - low
        sizes = low.abs() + high.abs()
        wide = width > 1e3 * torch.finfo(low.dtype).eps * sizes + 1e3 * torch.finfo(low.dtype).tiny
        quotient = (self.value(high) - self.value(low)) / torch.where(wide, width, 1.0)
        middle = self.derivative(0.5 * low + 0.5 * high)
        found = torch.where(wide & quotient.isfinite(), quotient, middle)
        return torch.where(found.isfinite(), found, 0.0)

    def _slope(
        self, low: Tensor, high: Tensor, chord: Tensor, share: Tensor | float, parts: Sequence[Stretch], side: float,
        middle: bool,
    ) -> Tensor:  # fmt: skip
        """The slope of the lower line (side 1) or of the upper one (side -1), a share of the way along the hull."""
        at_share = self.derivative(low + share * (high - low))
        bends, straight = self._bending(low, parts, side)
        if len(parts) == 1:
            slope = torch.where(bends, at_share, chord)
        else:
            first, last = self._hull_ends(low, high, side)
            inner = torch.minimum(torch.maximum(at_share, torch.minimum(first, last)), torch.maximum(first, last))
            mixed = inner if middle else first + share * (last - first)
            slope = torch.where(bends, at_share, torch.where(straight, chord, mixed))
        return torch.where(slope.isfinite(), slope, chord)

    @staticmethod
    def _bending(low: Tensor, parts: Sequence[Stretch], side: float) -> tuple[Tensor, Tensor]:
        """Where the whole interval curves towards the line, and where it curves away from it: bool [B, *shape]."""
        bends = torch.ones_like(low, dtype=torch.bool)
        straight = bends.clone()
        for part in parts:
            empty = part.start >= part.end
            towards = torch.as_tensor(part.convex, device=low.device) == (side > 0)
            bends &= empty | towards
            straight &= empty | ~towards
        return bends, straight

    def _hull_ends(self, low: Tensor, high: Tensor, side: float) -> tuple[Tensor, Tensor]:
        """Slopes of the lower (side 1) or upper hull at both ends, about: the steepest way down from either of them."""
        width = torch.where(high > low, high - low, 1.0)
        at_low, at_high = self.value(low), self.value(high)
        first, last = side * self.derivative(low), side * self.derivative(high)
        for k in range(1, _SAMPLES + 1):
            step = width * (k / _SAMPLES)
            first = torch.minimum(first, side * (self.value(torch.minimum(low + step, high)) - at_low) / step)
            last = torch.maximum(last, side * (at_high - self.value(torch.maximum(high - step, low))) / step)
        return side * first, side * last

    def _bias(self, slope: Tensor, parts: Sequence[Stretch], side: float) -> Tensor:
        """The least of side * f(x) - slope * x over the intervals, less its rounding errors: [B, *shape]."""
        least: Tensor | None = None
        some = [part for part in parts if bool((part.start < part.end).any())]
        for part in some or parts[:1]:  # a stretch that no interval reaches into has its neighbour's end
            convex = torch.as_tensor(part.convex, device=slope.device) == (side > 0)
            ends = [self._value(x, slope, side) for x in (part.start, part.end)]
            found = torch.minimum(*ends)
            if bool(convex.any()):
                found = torch.where(convex, self._tangent(slope, part, side), found)
            least = found if least is None else torch.minimum(least, found)
        assert least is not None
        return least

    def _value(self, x: Tensor, slope: Tensor, side: float) -> Tensor:  # [B, *shape] each
        value, line = self.value(x), slope * x
        return side * value - line - self._error(value, line, at=x)

    def _tangent(self, slope: Tensor, part: Stretch, side: float) -> Tensor:
        """A lower bound of side * f(x) - slope * x over stretches on which side * f is convex."""
        with torch.no_grad():
            t = self._touching(side * slope, part, side)
        # it moves with the end that it meets, and with one of them where there is but one point
        at = torch.where(t <= part.start, part.start, torch.where(t >= part.end, part.end, t))
        with torch.no_grad():  # where the line touches, this is zero up to rounding
            own = torch.where(at >= part.end, self.derivative_before(at), self.derivative(at))
            off = side * own - slope
            ends = torch.minimum(off * (part.start - at), off * (part.end - at)).clamp(max=0)
            size = off.abs() + slope.abs() + self.steep
            limits = torch.finfo(slope.dtype)
            paid = (32 * limits.eps * size + limits.tiny) * (part.end - part.start)  # a derivative may underflow
            paid = torch.where(part.start < part.end, paid, 0.0)
            ends = torch.where(part.start < part.end, ends, 0.0)
        return self._value(at, slope, side) + ends - paid

    def _touching(self, slope: Tensor, part: Stretch, side: float) -> Tensor:
        """About where f' = slope on a stretch on which side * f is convex, by bisection."""
        start, end, goal = part.start, part.end, side * slope
        for _ in range(_STEPS.get(slope.dtype, 40)):
            middle = 0.5 * start + 0.5 * end
            before = side * self.derivative(middle) < goal
            start, end = torch.where(before, middle, start), torch.where(before, end, middle)
        found = torch.where(side * self.derivative_before(part.end) <= goal, part.end, 0.5 * start + 0.5 * end)
        return torch.where(side * self.derivative(part.start) >= goal, part.start, found)

    def split_at(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Where the function is farthest from its chord, about; at a point of inflection where one is well inside.

        Args: lower, upper: [B, *shape].
        """
        middle = 0.5 * lower + 0.5 * upper
        wide = (upper - lower > _NARROW * (1 + lower.abs() + upper.abs())) & self.defined(lower, upper)
        low, high = torch.where(wide, lower, self._inside), torch.where(wide, upper, self._inside)
        place = middle
        for part in self.stretches(low, high)[:-1]:
            share = (part.end - low) / torch.where(wide, high - low, 1.0)
            place = torch.where((share > 0.2) & (share < 0.8), part.end, place)
        return torch.where(wide & (place > lower) & (place < upper), place, torch.nan)


class Bent(Smooth):
    """A function that bends one way on its whole domain: lines touch at l + t (u - l), or are the chord."""

    def split_at(self, lower: Tensor, upper: Tensor) -> Tensor:  # [B, *shape] each
        middle = super().split_at(lower, upper)
        usable = ~middle.isnan()
        low, high = torch.where(usable, lower, self._inside), torch.where(usable, upper, self._inside)
        (part,) = self.stretches(low, high)
        side = 1.0 if part.convex is True else -1.0
        place = self._touching(self._chord(low, high), part, side)
        inside = low + 0.1 * (high - low), high - 0.1 * (high - low)  # neither half may keep nearly all
        return torch.where(usable, torch.minimum(torch.maximum(place, inside[0]), inside[1]), middle)
