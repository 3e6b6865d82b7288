"""Sums and differences of two nodes; products, quotients and sums of a node with a constant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifier.forms import LinearForm
from verifier.ops import sparse
from verifier.ops.base import Affine, OperatorExample, Shape, register

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array


@register
class Add(Affine):
    """x + y of two nodes of the same shape."""

    roundings = 0

    keeps_patches = True

    def apply(self, x: Tensor, y: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x + y

    def linear(self, x: Tensor, y: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x + y

    def apply_abs(self, r: Tensor, s: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return r + s

    def terms(self, shapes: Sequence[Shape]) -> int:
        return 2

    def adjoint_terms(self, shapes: Sequence[Shape], outputs: int) -> int:
        return 1

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        return form

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        ones = torch.ones(shapes[0], dtype=torch.float64)
        return [sparse.diagonal(self.linear(*pair)) for pair in ((ones, 0 * ones), (0 * ones, ones))]

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls(), ((4,), (4,))), OperatorExample(cls(), ((2, 3, 3), (2, 3, 3)))]


@register
class Subtract(Add):
    """x - y of two nodes of the same shape."""

    def apply(self, x: Tensor, y: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x - y

    def linear(self, x: Tensor, y: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x - y

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        return form if parent == 0 else form.times(-1.0)


class _WithConstant(Affine):
    """One node and one constant: a live tensor that broadcasts to [*shape] (no batch dimension), or a number.

    A number stays a Python float, as it is in the user's code: each precision then rounds it for itself.
    """

    roundings = 0

    tensors = ("constant",)
    diagonal = True
    keeps_patches = True

    def __init__(self, constant: Tensor | float) -> None:
        self.constant = constant if isinstance(constant, Tensor) else float(constant)

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        if isinstance(self.constant, Tensor):
            yield "constant", self.constant

    @property
    def magnitude(self) -> Tensor | float:
        """|constant|."""
        return self.constant.abs() if isinstance(self.constant, Tensor) else abs(self.constant)

    def spread(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The constant at every entry of the node, [1, *shape]; gradients reach it."""
        constant = torch.as_tensor(self.constant, dtype=dtype, device=device)
        return constant.expand(1, *shape)

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        return [sparse.diagonal(self._diagonal(shapes))]

    def triplets(self, shapes: Sequence[Shape]) -> dict[str, np.ndarray]:
        return sparse.diagonal_triplets(self._diagonal(shapes))

    def _diagonal(self, shapes: Sequence[Shape]) -> Tensor:  # [1, *shape]
        return self.linear(torch.ones(1, *shapes[0], dtype=torch.float64))

    @classmethod
    def _instances(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)
        vector = torch.randn(4, generator=g)
        channels = torch.randn(2, 1, 1, generator=g)
        full = torch.randn(2, 3, 3, generator=g)
        return [
            OperatorExample(cls(vector), ((4,),)),
            OperatorExample(cls(-1.7), ((4,),)),
            OperatorExample(cls(channels), ((2, 3, 3),)),
            OperatorExample(cls(full), ((2, 3, 3),)),
            OperatorExample(cls(torch.tensor(0.3)), ((2, 3),)),
        ]


@register
class Multiply(_WithConstant):
    """constant * x, entry by entry (negation: the constant -1)."""

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x * self.constant

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x * self.constant

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return r * self.magnitude

    def terms(self, shapes: Sequence[Shape]) -> int:
        return 2 if isinstance(self.constant, Tensor) else 3  # a number is rounded to the node's precision first

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        return form.scale(self.spread(shapes[0], form.dtype, form.device))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return cls._instances()


@register
class Divide(_WithConstant):
    """x / constant, entry by entry; the constant has no zeros."""

    roundings = 1  # of 1 / constant

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x / self.constant

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x / self.constant

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return r / self.magnitude

    def terms(self, shapes: Sequence[Shape]) -> int:
        return 3  # the adjoint multiplies by 1 / constant, which is rounded, as is a number to the node's precision

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        return form.scale(1 / self.spread(shapes[0], form.dtype, form.device))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return cls._instances()


@register
class Shift(_WithConstant):
    """x + constant, entry by entry."""

    adds = True

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x + self.constant

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x

    def bias(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:  # [1, *output shape]
        return self.spread(shapes[0], like.dtype, like.device)

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return r

    def terms(self, shapes: Sequence[Shape]) -> int:
        return 2 if isinstance(self.constant, Tensor) else 3

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        return form

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return cls._instances()
