"""One family of linear relaxations of an activation over an interval, made here from `Activation.relax` for everybody.

Each side of the relaxation is a line that moves with one parameter t in [0, 1], its slope and bias linearly. A mean of
two sound lines is sound, so that any t is: for a piecewise linear activation the family is all that its operator offers
(for a ReLU lower lines through the origin, of slope t: the alpha of alpha-CROWN). Optimised slopes
(verifier.relaxation.slopes), branch and bound on neurons (verifier.branching.relaxations) and the slopes of zonotopes
(verifier.zonotope.slopes) choose from it. Where nothing is to be chosen, two other forms are faster and stay: middle
and spread for forms that are structured (verifier.relaxation.backward.Relaxation), lower line and difference for
thousands of boxes (verifier.branching.inputs_bounds.Relaxed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.ops.base import Activation, LinearRelaxation

#: the part of a smooth activation's own family that `RelaxationFamily.inner` spans
_INNER = (0.25, 0.75)


class Line(NamedTuple):
    """slope x + bias; None where zero everywhere."""

    slope: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True)
class LineFamily:
    """slope + t slope_step and bias + t bias_step for t in [0, 1]; tensors that broadcast, None where all are zero."""

    slope: Tensor | None
    slope_step: Tensor | None
    bias: Tensor | None
    bias_step: Tensor | None

    def slope_at(self, t: Tensor) -> Tensor | None:  # [*shape] -> [*shape], or what broadcasts to it
        return _along(self.slope, self.slope_step, t)

    def bias_at(self, t: Tensor) -> Tensor | None:  # [*shape] -> [*shape], or what broadcasts to it
        return _along(self.bias, self.bias_step, t)

    def at(self, t: Tensor) -> Line:  # [*shape]
        return Line(self.slope_at(t), self.bias_at(t))

    def value(self, z: Tensor, t: Tensor) -> Tensor:  # [*shape] each -> [*shape]
        """The lines t at z."""
        return _sum(_product(self.slope_at(t), z), self.bias_at(t), z)

    def change(self, z: Tensor) -> Tensor:  # [*shape] -> [*shape]
        """d value / d t at z."""
        return _sum(_product(self.slope_step, z), self.bias_step, z)

    def position(self, slope: Tensor) -> Tensor:  # [*shape] -> [*shape]
        """The t in [0, 1] of the line of a slope, or of the one nearest to it; 1/2 where all have one slope."""
        if self.slope_step is None:
            return torch.full_like(slope, 0.5)
        way = slope if self.slope is None else slope - self.slope
        usable = (self.slope_step != 0) & slope.isfinite()
        return torch.where(usable, way / torch.where(usable, self.slope_step, 1.0), 0.5).clamp(0, 1)

    def slopes(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest slope, in the shape [*shape] of `like`."""
        start = torch.zeros_like(like) if self.slope is None else self.slope
        end = start if self.slope_step is None else start + self.slope_step
        return torch.minimum(start, end), torch.maximum(start, end)

    def map(self, function: Callable[[Tensor], Tensor | None]) -> LineFamily:  # [*shape] -> [*shape]
        """With another tensor in place of each."""
        return LineFamily(*(None if t is None else function(t) for t in self.parts))

    @property
    def parts(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # [*shape] each
        return self.slope, self.slope_step, self.bias, self.bias_step


@dataclass(frozen=True)
class RelaxationFamily:
    """The lower and the upper lines of some neurons."""

    low: LineFamily
    up: LineFamily

    @classmethod
    def of(
        cls, op: Activation, lower: Tensor, upper: Tensor, ends: tuple[float, float] = (0.0, 1.0)
    ) -> RelaxationFamily:
        """Between two members of the operator's own family, default the outermost, over [lower, upper] ([*shape])."""
        flat, steep = (op.relax(lower, upper, torch.full_like(lower, t)) for t in ends)
        return cls(_between(*(lower_line(lines) for lines in (flat, steep))),
                   _between(*(upper_line(lines) for lines in (flat, steep))))  # fmt: skip

    @classmethod
    def inner(cls, op: Activation, lower: Tensor, upper: Tensor) -> RelaxationFamily:
        """Where every member is to be tight: the outermost lines of a smooth activation meet it at its ends only.

        Args:
            lower, upper: [*shape].
        """
        return cls.of(op, lower, upper) if op.piecewise_linear else cls.of(op, lower, upper, _INNER)

    def sided(self, positive: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:  # [*shape] each
        """Slope and bias of the line that a coefficient uses: the lower one where it is `positive`, else the upper."""
        slope = _side(positive, self.low.slope_at(t), self.up.slope_at(t))
        bias = _side(positive, self.low.bias_at(t), self.up.bias_at(t))
        return t.new_zeros(1, 1) if slope is None else slope, bias

    def steps(self, positive: Tensor) -> tuple[Tensor | None, Tensor | None]:  # [*shape]
        """d slope / d t and d bias / d t of the line that a coefficient uses; None where zero everywhere."""
        slope = _side(positive, self.low.slope_step, self.up.slope_step)
        return slope, _side(positive, self.low.bias_step, self.up.bias_step)

    def change(self, positive: Tensor, z: Tensor) -> Tensor:  # [*shape] each -> [*shape]
        """d value / d t of the line that a coefficient uses, at z."""
        return torch.where(positive, self.low.change(z), self.up.change(z))

    def value(self, positive: Tensor, z: Tensor, t: Tensor) -> Tensor:  # [*shape] each -> [*shape]
        return torch.where(positive, self.low.value(z, t), self.up.value(z, t))

    def position(self, positive: Tensor, lower_slope: Tensor, upper_slope: Tensor) -> Tensor:  # [*shape]
        """The t in [0, 1] of the lines of some slopes, on the side that a coefficient uses."""
        return torch.where(positive, self.low.position(lower_slope), self.up.position(upper_slope))

    def select(self, index: Tensor) -> RelaxationFamily:  # [k] int64
        """Of these examples; what all examples share stays."""
        return self._map(lambda t: t if len(t) == 1 else t[index])

    def lean(self) -> RelaxationFamily:
        """None in place of what is zero everywhere."""
        parts = [t for t in (*self.low.parts, *self.up.parts) if t is not None]
        some = iter(torch.stack([t.any() for t in parts]).tolist() if parts else [])  # asked at once
        return self._map(lambda t: t if next(some) else None)

    def _map(self, function: Callable[[Tensor], Tensor | None]) -> RelaxationFamily:  # [*shape] -> [*shape]
        return RelaxationFamily(self.low.map(function), self.up.map(function))


def lower_line(lines: LinearRelaxation) -> Line:
    return Line(lines.lower_slope, lines.lower_bias)


def upper_line(lines: LinearRelaxation) -> Line:
    return Line(lines.upper_slope, lines.upper_bias)


def _between(start: Line, end: Line) -> LineFamily:
    (slope, bias), (last_slope, last_bias) = start, end
    assert slope is not None and bias is not None and last_slope is not None and last_bias is not None
    return LineFamily(slope, last_slope - slope, bias, last_bias - bias)


def _along(start: Tensor | None, step: Tensor | None, t: Tensor) -> Tensor | None:  # [*shape]
    if step is None:
        return start
    return t * step if start is None else torch.addcmul(start, t, step)


def _side(positive: Tensor, low: Tensor | None, up: Tensor | None) -> Tensor | None:  # [*shape] each
    if low is None and up is None:
        return None
    assert low is not None or up is not None
    # numbers, which a device takes as they are
    return torch.where(positive, 0.0 if low is None else low, 0.0 if up is None else up)


def _product(a: Tensor | None, z: Tensor) -> Tensor | None:  # [*shape] each
    return None if a is None else a * z


def _sum(a: Tensor | None, b: Tensor | None, like: Tensor) -> Tensor:  # [*shape] each
    if a is None:
        return torch.zeros_like(like) if b is None else b.expand_as(like)
    return a if b is None else a + b
