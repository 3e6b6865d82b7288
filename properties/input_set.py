"""The protocol of an input set: a set of inputs is its support function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, Self

import torch
from torch import Tensor


class Functional(Protocol):
    """A batch of S linear functionals per example, in whatever structure the caller keeps them.

    Input sets ask for no more than these products, so that nothing sparse has to be made dense.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the coefficients."""

    def dot(self, x: Tensor) -> Tensor:  # x [B, *input] -> [B, S]
        """Value of every functional at the points x."""

    def abs_dot(self, radius: Tensor) -> Tensor:  # radius [B, *input], >= 0 -> [B, S]
        """Sum of |coefficient| * radius."""

    def times(self, number: float) -> Functional:
        """Every coefficient times one number."""

    def combine(self, other: Any, sign: float) -> Functional:
        """self + sign * other."""

    def envelope_abs_dot(self, half: Any, radius: Tensor) -> tuple[Tensor, Tensor]:
        """(self - half).abs_dot(radius) and (self + half).abs_dot(radius)."""

    def dense(self) -> Tensor:  # [B or 1, S, *input]
        """All coefficients, written out."""


#: every input set class by name, filled by `InputSet.__init_subclass__`
REGISTRY: dict[str, type[InputSet]] = {}


class InputSet(ABC):
    """A batch of B sets of inputs, one per example. Immutable.

    A subclass is a threat model; every stage, attack and trainer uses it through these methods only. It registers
    itself, and the conformance tests run on its `examples()`.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        REGISTRY[cls.__name__] = cls

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """Small instances that cover the set's options, of inputs of shape (2, 3)."""

    #: True when the set is exactly `box()`, so that interval bounds of a first affine layer are exact
    is_box: bool = False

    @property
    @abstractmethod
    def batch(self) -> int:
        """Number of examples B."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @abstractmethod
    def support(self, form: Functional) -> Tensor:
        """max over the set of form . x, an upper bound of it where that maximum is not closed form; [B, S]."""

    def minimum(self, form: Functional) -> Tensor:
        """min over the set of form . x, a lower bound of it where that minimum is not closed form; [B, S]."""
        return -self.support(form.times(-1.0))

    def range(self, form: Functional, half: Functional | None = None) -> tuple[Tensor, Tensor]:
        """(minimum of form - half, support of form + half), each [B, S]; no `half` is a half of zero."""
        if half is None:
            return self.minimum(form), self.support(form)
        return self.minimum(form.combine(half, -1.0)), self.support(form.combine(half, 1.0))

    @abstractmethod
    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Interval hull (lower, upper), each [B, *input], rounded outward to `dtype`."""

    @abstractmethod
    def center(self) -> Tensor:
        """One member of each set, [B, *input], where the clean input is known: that input."""

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Whether each x[b] lies in set b, decided exactly (no tolerance); x [B, *input] -> bool [B]."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """A member of each set near (for convex sets: nearest to) x, up to rounding; [B, *input]."""

    @abstractmethod
    def steepest_ascent(self, gradient: Tensor, step: float) -> Tensor:
        """Update that increases gradient . x most at length `step` (a fraction of the set's size); [B, *input]."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One random member of each set, [B, *input], up to rounding (see `inside`)."""

    @abstractmethod
    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x cast to `dtype` and moved, by roundings only, to a point that `contains` accepts where one is near."""

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """The sets of the examples `index` ([k] int64 or [B] bool)."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same sets on another device."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Kind and parameters, as JSON values: names the set in stores, tables and certificates."""
