"""The protocol of a linear form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from properties.input_set import Local
from verifier.errors import InternalError


class LinearForm(ABC):
    """S linear functionals, per example, of a node of shape [*shape].

    Every structure answers the same few questions; whatever it has no better answer for, it answers densely.
    A form that does not depend on the example has batch size 1 and broadcasts.
    """

    shape: tuple[int, ...]  #: of the node
    rows: int  #: S

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """A tensor of the coefficients' precision, where they are."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the coefficients."""
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        """Where the coefficients are."""
        return self.like.device

    @abstractmethod
    def dense(self) -> Tensor:
        """All coefficients, [B or 1, S, *shape]."""

    @abstractmethod
    def scale(self, factor: Tensor) -> LinearForm:  # factor [B or 1, *shape]
        """The form of x -> form . (factor * x): coefficients times `factor`, column by column."""

    @abstractmethod
    def abs(self) -> LinearForm:
        """Absolute values of the coefficients."""

    @abstractmethod
    def dot(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        """The functionals' values at x."""

    @property
    def terms(self) -> int:
        """How many products `dot` and `abs_dot` sum for a row, at most: drives rounding-error bounds."""
        return math.prod(self.shape)

    def abs_dot(self, radius: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        """Sum of |coefficient| * radius."""
        return self.abs().dot(radius)

    def envelope_abs_dot(self, half: LinearForm, radius: Tensor) -> tuple[Tensor, Tensor]:
        """(self - half).abs_dot(radius) and (self + half).abs_dot(radius)."""
        return self.combine(half, -1.0).abs_dot(radius), self.combine(half, 1.0).abs_dot(radius)

    def norm(self, p: float) -> Tensor:  # [B or 1, S]
        """Euclidean norm (p = 2) or largest magnitude (p = infinity) of each row's coefficients."""
        local = self.local()
        return local.rows(vector_norm(local.coefficients.flatten(local.lead), p))

    def envelope_norm(self, half: LinearForm, p: float) -> tuple[Tensor, Tensor]:
        """(self - half).norm(p) and (self + half).norm(p)."""
        return self.combine(half, -1.0).norm(p), self.combine(half, 1.0).norm(p)

    def local(self, margin: int = 0) -> Local:
        """All coefficients, written out where there are any (properties.input_set.Local)."""
        return row_by_row(self.dense(), lambda x: x.unsqueeze(1))

    def settled(self) -> LinearForm:
        """The same form with its coefficients written out, where it keeps them as a product."""
        return self

    def add(self, other: LinearForm) -> LinearForm:
        """Coefficient-wise sum."""
        from verifier.forms.dense import Dense

        return Dense(self.dense() + other.dense())

    def combine(self, other: LinearForm, sign: float) -> LinearForm:
        """self + sign * other."""
        return self.add(other.times(sign))

    def times(self, number: float) -> LinearForm:
        """Every coefficient times one number."""
        return self.scale(torch.full((1,) * (1 + len(self.shape)), number, dtype=self.dtype, device=self.device))

    def stack(self, other: LinearForm) -> LinearForm:
        """The rows of self followed by those of other."""
        from verifier.forms.dense import Dense

        a, b = self.dense(), other.dense()
        batch = max(len(a), len(b))
        return Dense(torch.cat([a.expand(batch, *a.shape[1:]), b.expand(batch, *b.shape[1:])], 1))

    def relaxed(self, mean: Tensor, spread: Tensor | None) -> LinearForm:
        """Coefficients c mean - |c| spread: the form below an activation whose lines have those slopes."""
        scaled = self.scale(mean)
        return scaled if spread is None else scaled.combine(self.abs().scale(spread), -1.0)

    def below(
        self, mean: Tensor, spread: Tensor | None, bias_mean: Tensor, bias_spread: Tensor
    ) -> tuple[LinearForm, Tensor]:
        """The form below an activation between the lines (mean -/+ spread) x + (bias_mean -/+ bias_spread).

        All [B or 1, *shape]; no spread is a spread of zero. Returns the form on the activation's input and the
        constant [B, S] that joins it.
        """
        return self.relaxed(mean, spread), self.dot(bias_mean) - self.abs_dot(bias_spread)


def vector_norm(values: Tensor, p: float) -> Tensor:  # [..., n] -> [...]
    """Upper bounds, up to rounding, of norms over the last dimension, p = 2 or infinity; their gradient at 0 is 0."""
    if p not in (2, math.inf):
        raise InternalError(f"norms of forms are there for p = 2 and infinity, not for {p}")
    norm = torch.linalg.vector_norm(values, p, dim=-1)
    return norm if p == math.inf else torch.hypot(norm, norm.new_tensor(underflow(values.shape[-1], values.dtype)))


def root(squares: Tensor, terms: int) -> Tensor:
    """Square roots of sums of that many squares, with what underflow may have cost the sums."""
    return (squares + underflow(terms, squares.dtype) ** 2).sqrt()


def underflow(terms: int, dtype: torch.dtype) -> float:
    """How much of a Euclidean norm of so many entries may be lost because their squares are too small for a float."""
    return math.sqrt(terms * torch.finfo(dtype).tiny)


def row_by_row(coefficients: Tensor, gather: Callable[[Tensor], Tensor]) -> Local:  # [B or 1, S, *window]
    """Coefficients whose leading dimensions are the examples and the rows."""
    return Local(coefficients, 2, gather, lambda rows: rows, lambda numbers: numbers, lambda numbers: numbers[:, None])
