"""Padding with a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.forms import Dense, LinearForm, Patches, PatchGrid, Windows
from verifier.ops import sparse
from verifier.ops.base import Affine, OperatorExample, Shape, register
from verifier.ops.shape import as_patches

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@register
class Pad(Affine):
    """`value` around the node; amounts as in F.pad: (before, after) of the last dimension, then of the one before it.

    Negative amounts crop.
    """

    roundings = 0

    diagonal = True

    def __init__(self, amounts: Sequence[int], value: float = 0.0) -> None:
        self.amounts, self.value = tuple(int(a) for a in amounts), float(value)
        self.keeps_patches = min(self.amounts, default=0) >= 0

    @property
    def exact(self) -> bool:
        return float(torch.tensor(self.value, dtype=torch.float32)) == self.value  # the value is not rounded either

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return F.pad(x, self.amounts, value=self.value)

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return F.pad(x, self.amounts)

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return F.pad(r, self.amounts)

    def bias(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:  # [1, *output shape]
        return None if self.value == 0 else self.apply(like.new_zeros(1, *shapes[0]))

    def terms(self, shapes: Sequence[Shape]) -> int:
        return 1

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        if isinstance(form, Windows) and min(self.amounts, default=0) >= 0:
            amounts = (*self.amounts, *(0,) * (6 - len(self.amounts)))
            inner = form.coefficients[:, :, amounts[4] : amounts[4] + shapes[0][0]]
            return form.moved(inner, shapes[0], (-amounts[2], -amounts[0]))
        patches = as_patches(form) if len(shapes[0]) == 3 and min(self.amounts, default=0) >= 0 else None
        if patches is None:
            return Dense(F.pad(form.dense(), [-a for a in self.amounts]))
        amounts = (*self.amounts, *(0,) * (6 - len(self.amounts)))
        left, top, front = amounts[0], amounts[2], amounts[4]
        channels, height, width = shapes[0]
        factor = patches.factor
        if factor is not None:
            factor = factor[:, front : front + channels, top : top + height, left : left + width]
        grid = patches.grid
        grid = PatchGrid(grid.positions, grid.size, grid.stride, (grid.padding[0] + top, grid.padding[1] + left))
        # what a window sees of the padding lies outside the smaller node, where patches read as zero
        return Patches(patches.coefficients[:, :, :, front : front + channels], grid, shapes[0], factor)

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        size = int(torch.Size(shapes[0]).numel())
        numbers = torch.arange(1, size + 1).reshape(1, *shapes[0])
        return [sparse.picks(self.linear(numbers) - 1, size)]  # what is added reads as 0, hence nothing

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [
            OperatorExample(cls((1, 2)), ((3,),)),
            OperatorExample(cls((1, 0, 0, 2), 0.5), ((2, 3, 3),)),
            OperatorExample(cls((1, 0, 0, 2), 0.7), ((2, 3, 3),)),
            OperatorExample(cls((0, 0, 0, 0, 1, 1)), ((2, 3, 2),)),
            OperatorExample(cls((1, -1, 0, -1)), ((2, 3, 3),)),
        ]


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) per spatial dimension that keeps a convolution of stride 1 at its input's size."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [(t // 2, t - t // 2) for t in totals]
