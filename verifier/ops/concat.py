"""Concatenation of several nodes along one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifier.forms import Dense, LinearForm, Patches, Windows
from verifier.ops import sparse
from verifier.ops.base import Affine, OperatorExample, Shape, register
from verifier.ops.shape import as_patches

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@register
class Concat(Affine):
    """The parents one after another along dimension `dim` (batch-free, from 0).

    `diagonal` stays False (only single-parent nodes count as independent). Patch forms stay patches along channels;
    along another dimension the adjoint is dense.
    """

    exact = True

    def __init__(self, dim: int) -> None:
        self.dim = int(dim)
        self.keeps_patches = self.dim == 0

    def apply(self, *xs: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return torch.cat(xs, self.dim + 1)

    def linear(self, *xs: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self.apply(*xs)

    def apply_abs(self, *rs: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self.apply(*rs)

    def terms(self, shapes: Sequence[Shape]) -> int:
        return 1

    def adjoint_terms(self, shapes: Sequence[Shape], outputs: int) -> int:
        return 1

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        start = sum(s[self.dim] for s in shapes[:parent])
        length = shapes[parent][self.dim]
        if isinstance(form, Windows) and self.dim == 0:
            return Windows(form.coefficients.narrow(2, start, length), form.corner, shapes[parent])
        patches = as_patches(form) if self.dim == 0 else None
        if patches is None:
            return Dense(form.dense().narrow(self.dim + 2, start, length))
        factor = None if patches.factor is None else patches.factor.narrow(1, start, length)
        return Patches(patches.coefficients.narrow(3, start, length), patches.grid, shapes[parent], factor)

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        sizes = [int(torch.Size(s).numel()) for s in shapes]
        matrices = []
        for parent, size in enumerate(sizes):
            numbers = [torch.full((1, *s), -1) for s in shapes]
            numbers[parent] = torch.arange(size).reshape(1, *shapes[parent])
            matrices.append(sparse.picks(self.apply(*numbers), size))
        return matrices

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [
            OperatorExample(cls(0), ((3,), (2,), (4,))),
            OperatorExample(cls(0), ((2, 3, 3), (1, 3, 3))),
            OperatorExample(cls(2), ((2, 3, 1), (2, 3, 4))),
        ]
