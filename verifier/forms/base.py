"""The protocol of a linear form, and the dense form, which answers where a structure has no better answer."""

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
    A form that does not depend on the example has batch size 1 and broadcasts. Immutable.
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
        """All coefficients, written out.

        Returns:
            [B or 1, S, *shape]. What conformance tests compare every other method with.

        Raises:
            MemoryError: the machine has no room for them.
        """

    @abstractmethod
    def scale(self, factor: Tensor) -> LinearForm:  # factor [B or 1, *shape]
        """The form of x -> form . (factor * x): the adjoint of an entrywise product.

        Args:
            factor: [B or 1, *shape], or with ones for dimensions that it is constant along.

        Returns:
            Coefficients times `factor`, column by column.
        """

    @abstractmethod
    def abs(self) -> LinearForm:
        """Absolute values of the coefficients, in the same structure: radii and roundoff are summed with them."""

    @abstractmethod
    def dot(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        """The functionals' values at x.

        Args:
            x: [B or 1, *shape].

        Returns:
            [B or 1, S], a sum of at most `terms` products each.
        """

    @property
    def terms(self) -> int:
        """How many products `dot` and `abs_dot` sum for a row, at most: drives rounding-error bounds."""
        return math.prod(self.shape)

    def abs_dot(self, radius: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        """Sum of |coefficient| * radius.

        Args:
            radius: [B or 1, *shape], >= 0.

        Returns:
            [B or 1, S].
        """
        return self.abs().dot(radius)

    def envelope_abs_dot(self, half: LinearForm, radius: Tensor) -> tuple[Tensor, Tensor]:
        """(self - half).abs_dot(radius) and (self + half).abs_dot(radius): both sides of neurons bounded in one pass.

        Args:
            half: a form of as many rows.
            radius: [B or 1, *shape], >= 0.

        Returns:
            Two tensors [B or 1, S].
        """
        return self.combine(half, -1.0).abs_dot(radius), self.combine(half, 1.0).abs_dot(radius)

    def norm(self, p: float) -> Tensor:  # [B or 1, S]
        """A norm of each row's coefficients: the support function of a ball.

        Args:
            p: 2, the Euclidean norm, or infinity, the largest magnitude.

        Returns:
            [B or 1, S], never below the norm but for rounding.
        """
        local = self.local()
        return local.rows(vector_norm(local.coefficients.flatten(local.lead), p))

    def envelope_norm(self, half: LinearForm, p: float) -> tuple[Tensor, Tensor]:
        """(self - half).norm(p) and (self + half).norm(p), each [B or 1, S]."""
        return self.combine(half, -1.0).norm(p), self.combine(half, 1.0).norm(p)

    def local(self, margin: int = 0) -> Local:
        """All coefficients, written out where there are any (properties.input_set.Local)."""
        return row_by_row(self.dense(), lambda x: x.unsqueeze(1))

    def settled(self) -> LinearForm:
        """The same form with its coefficients written out, where it keeps them as a product."""
        return self

    def add(self, other: LinearForm) -> LinearForm:
        """Coefficient-wise sum: where two paths of the backward pass meet.

        Args:
            other: a form of the same node and as many rows, in any structure.
        """
        return Dense(self.dense() + other.dense())

    def combine(self, other: LinearForm, sign: float) -> LinearForm:
        """self + sign * other.

        Args:
            other: a form of the same node and as many rows.
            sign: 1 or -1.
        """
        return self.add(other.times(sign))

    def times(self, number: float) -> LinearForm:
        """Every coefficient times one number."""
        return self.scale(torch.full((1,) * (1 + len(self.shape)), number, dtype=self.dtype, device=self.device))

    def stack(self, other: LinearForm) -> LinearForm:
        """The rows of self followed by those of other, as a form of S + S' functionals.

        Args:
            other: a form of the same node.
        """
        a, b = self.dense(), other.dense()
        batch = max(len(a), len(b))
        return Dense(torch.cat([a.expand(batch, *a.shape[1:]), b.expand(batch, *b.shape[1:])], 1))

    def relaxed(self, mean: Tensor, spread: Tensor | None) -> LinearForm:
        """Coefficients c mean - |c| spread: the form below an activation whose lines have those slopes.

        Args:
            mean: [B or 1, *shape], the mean of the lower and the upper line's slope.
            spread: [B or 1, *shape], half of their difference; None where they are parallel.
        """
        scaled = self.scale(mean)
        return scaled if spread is None else scaled.combine(self.abs().scale(spread), -1.0)

    def below(
        self, mean: Tensor, spread: Tensor | None, bias_mean: Tensor, bias_spread: Tensor
    ) -> tuple[LinearForm, Tensor]:
        """The form below an activation between the lines (mean -/+ spread) x + (bias_mean -/+ bias_spread).

        Args:
            mean, bias_mean, bias_spread: [B or 1, *shape].
            spread: [B or 1, *shape]; None is a spread of zero.

        Returns:
            The form on the activation's input, and the constant [B, S] that joins it.
        """
        return self.relaxed(mean, spread), self.dot(bias_mean) - self.abs_dot(bias_spread)


class Dense(LinearForm):
    """A form with all its coefficients written out: coefficients [B or 1, S, *shape]."""

    def __init__(self, coefficients: Tensor) -> None:
        self.coefficients = coefficients
        self.shape = tuple(coefficients.shape[2:])
        self.rows = coefficients.shape[1]

    @property
    def like(self) -> Tensor:
        return self.coefficients

    def dense(self) -> Tensor:  # [B or 1, S, *shape]
        return self.coefficients

    def scale(self, factor: Tensor) -> Dense:  # [B or 1, *shape]
        return Dense(self.coefficients * factor.unsqueeze(1))

    def abs(self) -> Dense:
        return Dense(self.coefficients.abs())

    def times(self, number: float) -> Dense:
        return Dense(self.coefficients * number)

    def add(self, other: LinearForm) -> LinearForm:
        return Dense(self.coefficients + other.dense())

    def combine(self, other: LinearForm, sign: float) -> LinearForm:
        return Dense(torch.add(self.coefficients, other.dense(), alpha=sign))

    def below(
        self, mean: Tensor, spread: Tensor | None, bias_mean: Tensor, bias_spread: Tensor
    ) -> tuple[LinearForm, Tensor]:  # [B or 1, *shape] each
        size = self.abs()  # once, for both uses
        constant = self.dot(bias_mean) - size.dot(bias_spread)
        scaled = self.coefficients * mean.unsqueeze(1)
        if spread is not None:
            scaled = torch.addcmul(scaled, size.coefficients, spread.unsqueeze(1), value=-1)
        return Dense(scaled), constant

    def dot(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        flat, x = self.coefficients.reshape(*self.coefficients.shape[:2], -1), x.reshape(len(x), -1)
        if len(flat) == 1:
            return x @ flat[0].T
        if len(x) == 1:
            return flat @ x[0]
        return torch.bmm(flat, x.unsqueeze(2)).squeeze(2)


def vector_norm(values: Tensor, p: float) -> Tensor:  # [..., n] -> [...]
    """Upper bounds, up to rounding, of norms over the last dimension; their gradient at 0 is 0.

    Args:
        values: [..., n].
        p: 2 or infinity.

    Returns:
        [...].

    Raises:
        InternalError: another p.
    """
    if p not in (2, math.inf):
        raise InternalError(f"norms of forms are there for p = 2 and infinity, not for {p}")
    norm = torch.linalg.vector_norm(values, p, dim=-1)
    return norm if p == math.inf else torch.hypot(norm, norm.new_tensor(underflow(values.shape[-1], values.dtype)))


def root(squares: Tensor, terms: int) -> Tensor:
    """Square roots of sums of that many squares [...], with what underflow may have cost the sums; [...]."""
    return (squares + underflow(terms, squares.dtype) ** 2).sqrt()


def underflow(terms: int, dtype: torch.dtype) -> float:
    """How much of a Euclidean norm of so many entries may be lost because their squares are too small for a float."""
    return math.sqrt(terms * torch.finfo(dtype).tiny)


def row_by_row(coefficients: Tensor, gather: Callable[[Tensor], Tensor]) -> Local:  # [B or 1, S, *window]
    """Coefficients whose leading dimensions are the examples and the rows."""
    return Local(coefficients, 2, gather, lambda rows: rows, lambda numbers: numbers, lambda numbers: numbers[:, None])
