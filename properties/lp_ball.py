"""What l2 and l1 balls have in common: a center, radii, a valid range; members are decided in exact arithmetic."""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from typing import ClassVar, Self

import torch
from torch import Tensor

from properties.arguments import finite, radii_of, said, valid_range
from properties.device import sent
from properties.input_set import Functional, InputSet, Local
from properties.lifted import one_example
from properties.record import SetRecord, written, written_range
from properties.rounding import add_down, add_up, cast_down, cast_up, two_sum

#: unit roundoff of float64
UNIT = 2.0**-53


class Ball(InputSet):
    """{z : norm(z - x) <= eps}, intersected with the valid range `clip` = (low, high) where given.

    Args:
        x: [B, *input], finite, inside the valid range where one is given.
        eps: radius >= 0, in the units of the model's input: one number, or one per example [B].
        clip: valid range of inputs, or None.

    Members are decided exactly, in the arithmetic of the float64 numbers given.
    """

    # Without a valid range: c . center, and a norm times the radius. With one, `largest_gain` has two sums: of c . d,
    # and of the multiplier times what d leaves of the radius. The multiplier that the searches end with, lambda, is at
    # most |c|_2 (l2: 1 / lambda rises from 1 / |c|_2 on) or the largest |c| (l1), so lambda eps is at most the sum of
    # |c| eps; for l1, lambda d <= |c| d where d > 0. Any d in the range gives a bound but for what it differs from the
    # maximiser of lambda, which is a rounding of it.
    summed = 4
    #: p of the norm: the sum of |entry|^p is compared with eps^p
    power: ClassVar[int]
    #: p of the dual norm
    dual: ClassVar[float]

    def __init__(self, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> None:
        self.nominal = finite(x, "x")
        if x.dim() < 2:
            raise ValueError(f"a ball needs clean inputs [batch, *input], got shape {tuple(x.shape)}")
        self.eps = radii_of(eps, self.nominal)
        self.clip = None if clip is None else valid_range(clip, self.nominal)

    @classmethod
    def around(cls, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> Self:  # x [B, *input]
        return cls(x, eps, clip)

    @classmethod
    def examples(cls) -> list[Self]:
        x = torch.linspace(0, 1, 12).reshape(2, 2, 3)
        return [
            cls(x, 0.5), cls(x, 0.5, (0, 1)), cls(x, torch.tensor([0.0, 1e-3]), (0, 1)), cls(x, 0.0), cls(x, 5, (0, 1)),
        ]  # fmt: skip

    @property
    def batch(self) -> int:
        return self.nominal.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.nominal.shape[1:])

    def per_entry(self, numbers: Tensor) -> Tensor:  # [B] -> [B, 1, ...]
        """Numbers of the examples, to be broadcast with inputs."""
        return numbers.reshape(-1, *(1,) * len(self.shape))

    def center_and_radius(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Centers [B, *input] in `dtype`, and radii [B] of balls around those that enclose the balls."""
        center = self.nominal.to(dtype)
        moved = add_up((self.nominal - center.double()).abs(), torch.zeros_like(self.nominal))  # exact: a cast's error
        off = moved.flatten(1).sum(1) * (1 + 2 * UNIT * moved[0].numel())  # at least the norm of the difference
        return center, cast_up(torch.where(off > 0, add_up(self.eps, off), self.eps), dtype)

    def reach(self, center: Tensor) -> tuple[Tensor, Tensor]:  # [B, *input] -> two of [B, *input]
        """How far each entry may go below (<= 0) and above (>= 0) a center that lies in the box, rounded outward."""
        low, high = self.box()
        exact = center.double()
        below, above = add_down(low, -exact).clamp(max=0), add_up(high, -exact).clamp(min=0)
        return cast_down(below, center.dtype), cast_up(above, center.dtype)

    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:  # [B, *input] each
        radius = self.per_entry(self.eps).expand_as(self.nominal)
        lower, upper = add_down(self.nominal, -radius), add_up(self.nominal, radius)
        if self.clip is not None:
            lower, upper = lower.clamp(min=self.clip[0]), upper.clamp(max=self.clip[1])
        return cast_down(lower, dtype), cast_up(upper, dtype)

    def center(self) -> Tensor:  # [B, *input]
        return self.nominal

    def outer(self) -> Self | None:
        """The ball without the valid range."""
        return None if self.clip is None else self._changed(clip=None)

    def unclipped(self) -> Self:
        return self if self.clip is None else self._changed(clip=None)

    def support(self, form: Functional) -> Tensor:  # [B, S]
        if self.clip is not None:
            return self._clipped(form, form.local())
        center, radius = self.center_and_radius(form.dtype)
        return form.dot(center) + _product(radius, form.norm(self.dual))

    def support_where(self, form: Functional, rows: Tensor) -> Tensor:  # rows [B, S] -> [B, S]
        return self.support(form) if self.clip is None else self._clipped(form, form.local().only(rows))

    def range(self, form: Functional, half: Functional | None = None) -> tuple[Tensor, Tensor]:  # [B, S] each
        if self.clip is not None:
            return super().range(form, half)
        center, radius = self.center_and_radius(form.dtype)
        value = form.dot(center)
        if half is None:
            reach = _product(radius, form.norm(self.dual))
            return value - reach, value + reach
        spread = half.dot(center)
        low, high = (_product(radius, norm) for norm in form.envelope_norm(half, self.dual))
        return value - spread - low, value + spread + high

    def _clipped(self, form: Functional, local: Local) -> Tensor:  # [B, S]
        center, radius = self.center_and_radius(form.dtype)
        c, low, high = local.entries(*self.reach(center))
        return form.dot(center) + local.rows(self.largest_gain(c, low, high, local.per_example(radius)))

    @staticmethod
    @abstractmethod
    def largest_gain(c: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
        """Bounds [*lead] of c . d over low <= d <= high of length eps at most; low <= 0 <= high.

        Args:
            c: [*lead, K], low and high likewise (or broadcast); eps: broadcasts with [*lead].
        """

    @abstractmethod
    def length(self, difference: Tensor) -> Tensor:  # [B, *input] -> [B]
        """The norm."""

    def contains(self, x: Tensor) -> Tensor:  # [B, *input] -> bool [B]
        x = x.double()
        valid = x.isfinite().flatten(1).all(1)
        if self.clip is not None:
            valid &= ((x >= self.clip[0]) & (x <= self.clip[1])).flatten(1).all(1)
        x = torch.where(self.per_entry(valid), x, self.nominal)
        difference, rest = two_sum(x, -self.nominal)
        far = ~difference.isfinite().flatten(1).all(1)  # further away than any float64
        difference, rest = (torch.where(self.per_entry(far), 0.0, t) for t in (difference, rest))
        length = self.length(difference)
        # the sum of n terms, their roundings, those of the root and of the differences: a generous count
        slack = (difference[0].numel() + 16) * 2 * UNIT
        inside, outside = length * (1 + slack) < self.eps, length * (1 - slack) > self.eps
        unsure = ~(inside | outside) | (length < 1e-140) | ~(length < 1e140)  # squares may under- or overflow
        for i in unsure.nonzero().squeeze(1).tolist():
            inside[i] = self._exactly(difference[i], rest[i], float(self.eps[i]))
        return inside & valid & ~far

    def _exactly(self, difference: Tensor, rest: Tensor, eps: float) -> bool:  # [*input] each
        """Membership of one example in rational arithmetic."""
        pairs = zip(difference.flatten().tolist(), rest.flatten().tolist(), strict=True)
        entries = (abs(Fraction(a) + Fraction(b)) for a, b in pairs if a != 0 or b != 0)
        return sum((entry**self.power for entry in entries), Fraction(0)) <= Fraction(eps) ** self.power

    def sample(self, generator: torch.Generator | None = None) -> Tensor:  # [B, *input]
        # a random direction with a random length, projected where it leaves the valid range
        shape = self.nominal.shape
        direction = sent(torch.randn(shape, generator=generator, dtype=torch.float64), self.nominal.device)
        share = sent(torch.rand(shape[0], generator=generator, dtype=torch.float64), self.nominal.device)
        length = self.length(direction).clamp(min=1e-300)
        return self.project(self.nominal + self.per_entry(share * self.eps / length) * direction)

    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [B, *input]
        y = self._clamped(x.to(dtype, copy=True))
        unit, moved = torch.finfo(dtype).eps, x.double() - self.nominal
        # what roundings of every entry may add to the norm, a few times over
        sizes = self.nominal.abs().flatten(1).amax(1) + self.eps
        most = 4 * unit * sizes * moved[0].numel() / self.length(moved).clamp(min=1e-300)
        share = unit
        while True:  # towards the center by ever more roundings, until exact arithmetic is content
            out = ~self.contains(y) & (share < most)
            if not out.any():
                return y
            back = self.per_entry(1.0 - min(share, 1.0) * out.double())
            nearer = self._clamped((self.nominal + moved * back).to(dtype))
            y, share = torch.where(self.per_entry(out), nearer, y), 2 * share

    def _clamped(self, x: Tensor) -> Tensor:  # [B, *input]
        if self.clip is None:
            return x
        ends = torch.tensor(self.clip, dtype=torch.float64)  # numbers, wherever x is
        low, high = cast_up(ends[0], x.dtype), cast_down(ends[1], x.dtype)
        return torch.minimum(torch.maximum(x, low), high)

    def select(self, index: Tensor) -> Self:  # [k] or bool [B]
        return self._changed(nominal=self.nominal[index], eps=self.eps[index])

    def to(self, device: torch.device) -> Self:
        return self._changed(nominal=self.nominal.to(device), eps=self.eps.to(device))

    def _changed(self, **fields: object) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **fields)
        return other

    def describe(self) -> dict[str, object]:
        return {"kind": self.threat, "eps": said(self.eps), "clip": self.clip}

    def record(self) -> SetRecord:
        one_example(self)
        options = {"eps": float(self.eps[0]), **written_range(self.clip)}
        return SetRecord(f"l{self.power}", options, {"x": written(self.nominal[0])})


def _product(radius: Tensor, norm: Tensor) -> Tensor:  # [B], [B or 1, S] -> [B, S]
    """radius * norm; 0 at radius 0, also where a norm is beyond all floats."""
    wide = radius.unsqueeze(1)
    return torch.where(wide > 0, wide * norm, 0.0)
