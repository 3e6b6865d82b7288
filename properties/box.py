"""Boxes and l-infinity balls, each optionally clipped to the valid range of inputs."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from properties.arguments import check_finite, finite, radii_of, said, valid_range
from properties.device import sent, some
from properties.input_set import Functional, InputSet, register
from properties.lifted import one_example
from properties.record import SetRecord, written, written_range
from properties.rounding import add_down, add_up, cast_down, cast_up, two_sum


@register
class Box(InputSet):
    """{x : lower <= x <= upper}, elementwise.

    Args:
        lower, upper: [B, *input], finite, lower <= upper; kept in float64. Where no float32 number lies between the
            two, as where both are 0.1, a float32 network is asked about their float32 hull (`representable`).
        nominal: [B, *input], the clean inputs, members of their sets; default the midpoints.
    """

    is_box = True
    summed = 1  # c . middle and |c| . radius, with |middle| + radius the largest |entry|

    def __init__(self, lower: Tensor, upper: Tensor, nominal: Tensor | None = None) -> None:
        lower, upper = finite(lower, "lower"), finite(upper, "upper")
        self._keep(lower, upper, None if nominal is None else finite(nominal, "nominal"))

    def _keep(self, lower: Tensor, upper: Tensor, nominal: Tensor | None) -> None:  # [B, *input] float64 each
        """Take tensors that nobody else holds, and that are finite."""
        self.lower, self.upper = lower, upper
        if self.lower.shape != self.upper.shape or self.lower.dim() < 2:
            raise ValueError(
                f"a box needs lower and upper of one shape [batch, *input], got {tuple(lower.shape)} "
                f"and {tuple(upper.shape)}"
            )
        crossed = self.lower > self.upper
        if some(crossed):
            at = tuple(int(i) for i in crossed.nonzero()[0])
            raise ValueError(f"the box is empty: lower > upper at index {at} (and {int(crossed.sum()) - 1} more)")
        self.nominal = _midpoint(self.lower, self.upper) if nominal is None else nominal

    @classmethod
    def examples(cls) -> list[Self]:
        lower = torch.linspace(-1, 1, 12).reshape(2, 2, 3)
        return [cls(lower, lower + 0.5), cls(lower, lower + torch.tensor([0.0, 0.1, 2.0]))]

    @property
    def batch(self) -> int:
        return self.lower.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.lower.shape[1:])

    def support(self, form: Functional) -> Tensor:  # [B, S]
        return self.range(form)[1]

    def minimum(self, form: Functional) -> Tensor:  # [B, S]
        return self.range(form)[0]

    def range(self, form: Functional, half: Functional | None = None) -> tuple[Tensor, Tensor]:  # [B, S] each
        middle, radius = self.middle_and_radius(form.dtype)
        value = form.dot(middle)
        if half is None:
            reach = form.abs_dot(radius)
            return value - reach, value + reach
        spread = half.dot(middle)
        low, high = form.envelope_abs_dot(half, radius)
        return value - spread - low, value + spread + high

    def middle_and_radius(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # each [B, *input]
        """Middle and radius in `dtype`; the interval that they span encloses the box."""
        middle = _midpoint(self.lower, self.upper).to(dtype)
        exact = middle.double()
        return middle, cast_up(torch.maximum(add_up(self.upper, -exact), add_up(exact, -self.lower)), dtype)

    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:  # [B, *input] each
        return cast_down(self.lower, dtype), cast_up(self.upper, dtype)

    def center(self) -> Tensor:  # [B, *input]
        return self.nominal

    def representable(self, dtype: torch.dtype) -> InputSet:
        if dtype == torch.float64:
            return self
        low, high = (end.double() for end in self.box(dtype))
        nearest = self.inside(self.nominal, dtype).double()
        empty = ~self._holds(nearest) & low.isfinite() & high.isfinite()
        if not empty.any():
            return self
        return Box(torch.where(empty, low, self.lower), torch.where(empty, high, self.upper), self.nominal)

    def _holds(self, x: Tensor) -> Tensor:  # [B, *input] float64 -> bool [B, *input]
        """Which entries lie in their intervals, decided exactly."""
        return (x >= self.lower) & (x <= self.upper)

    def contains(self, x: Tensor) -> Tensor:  # [B, *input] -> bool [B]
        return self._holds(x.double()).flatten(1).all(1)

    def project(self, x: Tensor) -> Tensor:  # [B, *input]
        return torch.minimum(torch.maximum(x, self.lower.to(x.dtype)), self.upper.to(x.dtype))

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:  # [B, *input] each
        return gradient.sign() * (step * 0.5 * (self.upper - self.lower)).to(gradient.dtype)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:  # [B, *input]
        u = torch.rand(self.lower.shape, generator=generator, dtype=torch.float64)
        return self.lower + sent(u, self.lower.device) * (self.upper - self.lower)

    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [B, *input]
        # the box's corners rounded inward to dtype; where no value of dtype is inside, the cast of the projection
        low, high = cast_up(self.lower, dtype), cast_down(self.upper, dtype)
        return torch.minimum(torch.maximum(x.to(dtype), low), torch.maximum(high, low))

    def select(self, index: Tensor) -> Self:  # [k] or bool [B]
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen.lower, chosen.upper = self.lower[index], self.upper[index]
        chosen.nominal = self.nominal[index]
        return chosen

    def to(self, device: torch.device) -> Self:
        moved = object.__new__(type(self))
        moved.__dict__.update(self.__dict__)
        moved.lower, moved.upper = self.lower.to(device), self.upper.to(device)
        moved.nominal = self.nominal.to(device)
        return moved

    def describe(self) -> dict[str, object]:
        return {"kind": "box"}

    def record(self) -> SetRecord:
        one_example(self)
        return SetRecord("box", {}, {"lower": written(self.lower[0]), "upper": written(self.upper[0])})


@register
class LinfBall(Box):
    """{z : |z - x| <= eps elementwise}, intersected with `clip` = (low, high) where given.

    Args:
        x: [B, *input], finite, inside the valid range where one is given.
        eps: radius >= 0, in the units of the model's input: one number, or one per example [B].
        clip: valid range of inputs, or None.

    The corners are rounded outward to float64; membership is decided exactly by an error-free difference.
    """

    threat = "linf"
    symmetric = True
    nested = True

    @classmethod
    def around(cls, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> LinfBall:  # [B, *input]
        return cls(x, eps, clip)

    def __init__(self, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> None:
        x = finite(x, "x")
        self.eps, self._dims = radii_of(eps, x), x.dim() - 1
        radius = self._per_entry()
        lower, upper = add_down(x, -radius), add_up(x, radius)
        if clip is not None:
            low, high = valid_range(clip, x)
            lower, upper = lower.clamp_(min=low), upper.clamp_(max=high)
            clip = (low, high)
        for end, name in ((lower, "lower"), (upper, "upper")):
            check_finite(end, name)
        self._keep(lower, upper, x)
        self.clip = clip

    @classmethod
    def examples(cls) -> list[Self]:
        x = torch.linspace(0, 1, 12).reshape(2, 2, 3)
        return [cls(x, 0.1), cls(x, 0.3, (0, 1)), cls(x, torch.tensor([0.0, 1e-3])), cls(x, 0.0)]

    def _per_entry(self) -> Tensor:
        """The radii [B, 1, ...], to be compared with inputs."""
        return self.eps.reshape(-1, *(1,) * self._dims)

    def unclipped(self) -> LinfBall:
        return self if self.clip is None else LinfBall(self.nominal, self.eps)

    def _outside(self, x: Tensor) -> Tensor:
        """Entries of x (float64) further than eps from the center, decided exactly: bool [B, *input]."""
        difference, error = two_sum(x, -self.nominal)
        size, eps = difference.abs(), self._per_entry()
        error = error.mul_(difference.sign())  # size + error is |x - nominal| exactly; no difference has no error
        return ~((size < eps) | ((size == eps) & (error <= 0)))

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:  # [B, *input] each
        # a fraction of the ball's radius also where the valid range cuts the ball: one full step reaches its corner
        return gradient.sign() * (step * self._per_entry()).to(gradient.dtype)

    def _holds(self, x: Tensor) -> Tensor:  # [B, *input] float64 -> bool [B, *input]
        return super()._holds(x) & ~self._outside(x)

    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [B, *input]
        # an outward-rounded corner may lie outside the ball by one rounding: step such entries towards the center
        y = super().inside(x, dtype)
        return torch.where(self._outside(y.double()), torch.nextafter(y, self.nominal.to(dtype)), y)

    def select(self, index: Tensor) -> Self:  # [k] or bool [B]
        chosen = super().select(index)
        chosen.eps = self.eps[index]
        return chosen

    def to(self, device: torch.device) -> Self:
        moved = super().to(device)
        moved.eps = self.eps.to(device)
        return moved

    def describe(self) -> dict[str, object]:
        return {"kind": "linf", "eps": said(self.eps), "clip": self.clip}

    def record(self) -> SetRecord:
        one_example(self)
        options = {"eps": float(self.eps[0]), **written_range(self.clip)}
        return SetRecord("linf", options, {"x": written(self.nominal[0])})


def _midpoint(lower: Tensor, upper: Tensor) -> Tensor:  # [...] each, entry by entry
    return 0.5 * lower + 0.5 * upper
