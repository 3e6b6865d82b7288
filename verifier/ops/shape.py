"""Moving entries about: reshape, permute, and gather for slices, expansions, flips and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifier.forms import Dense, Diagonal, Identity, LinearForm, Patches, Runs, Selected, Windows
from verifier.forms.patches import diagonal_patches
from verifier.ops import sparse
from verifier.ops.base import Affine, OperatorExample, Shape, register

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class _Rearrangement(Affine):
    """Entries are copied, never computed with."""

    exact = True

    def linear(self, *xs: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self.apply(*xs)

    def apply_abs(self, *rs: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self.apply(*rs)

    def terms(self, shapes: Sequence[Shape]) -> int:
        return 1

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        size = int(torch.Size(shapes[0]).numel())
        return [sparse.picks(self.apply(torch.arange(size).reshape(1, *shapes[0])), size)]


@register
class Reshape(_Rearrangement):
    """The same entries in the same order in another shape (batch-free)."""

    diagonal = True

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(int(n) for n in shape)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x.reshape(len(x), *self.shape)

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        shape = tuple(shapes[0])
        if isinstance(form, Identity):
            return Identity(shape, form.factor)
        if isinstance(form, Diagonal):
            return Diagonal(form.factor.reshape(len(form.factor), *shape))
        if isinstance(form, Selected):
            return Selected(form.index, shape, torch.empty((), dtype=form.dtype, device=form.device))
        if isinstance(form, Runs):
            return Runs(form.coefficients, shape)
        coefficients = form.dense()
        return Dense(coefficients.reshape(*coefficients.shape[:2], *shape))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [
            OperatorExample(cls((12,)), ((2, 3, 2),)),
            OperatorExample(cls((3, 2, 2)), ((2, 3, 2),)),
            OperatorExample(cls((1, 4)), ((4,),)),
            OperatorExample(cls(()), ((1,),)),
        ]


@register
class Permute(_Rearrangement):
    """Dimensions reordered: dimension i of the result is dimension order[i] of the parent (batch-free)."""

    diagonal = True

    def __init__(self, order: Sequence[int]) -> None:
        self.order = tuple(int(d) for d in order)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x.permute(0, *(d + 1 for d in self.order))

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return Dense(form.dense().permute(0, 1, *(d + 2 for d in back)))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls((1, 0)), ((2, 3),)), OperatorExample(cls((2, 0, 1)), ((2, 3, 4),))]


@register
class Gather(_Rearrangement):
    """Entry i of the result is entry index[i] of the flattened parent; index is int64 of the result's shape.

    Covers slice, select, split, expand, flip, index_select and the windows of max pooling. `diagonal` stays False:
    an entry may be read twice.
    """

    tensors = ("index",)

    def __init__(self, index: Tensor) -> None:
        self.index = index

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        index = self.index.flatten().to(x.device)
        return x.unsqueeze(-1).flatten(1).index_select(1, index).reshape(len(x), *self.index.shape)

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        shape = tuple(shapes[0])
        if isinstance(form, Selected):
            index = self.index.flatten().to(form.device)[form.index]
            return Selected(index, shape, torch.empty((), dtype=form.dtype, device=form.device))
        coefficients = form.dense()
        rows = coefficients.new_zeros(*coefficients.shape[:2], int(torch.Size(shape).numel()))
        entries = coefficients.reshape(*coefficients.shape[:2], -1)
        rows = rows.index_add(2, self.index.flatten().to(form.device), entries)
        return Dense(rows.reshape(*coefficients.shape[:2], *shape))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [
            OperatorExample(cls(torch.tensor([3, 0, 0])), ((4,),)),
            OperatorExample(cls(torch.arange(12).reshape(2, 3, 2)[:, 1:, :1].contiguous()), ((2, 3, 2),)),
            OperatorExample(cls(torch.arange(3).reshape(3, 1).expand(3, 2).contiguous()), ((3, 1),)),
            OperatorExample(cls(torch.tensor(2)), ((4,),)),
        ]


@register
class Tap(_Rearrangement):
    """One entry of every window of a feature map [C, H, W]: y[c, i, j] = x[c, i stride + offset, j stride + offset].

    Windows are `kernel` large, lie `count` in number, and hang over no edge. Patch forms stay patches.
    """

    diagonal = True
    keeps_patches = True

    def __init__(
        self, offset: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], count: tuple[int, ...]
    ) -> None:
        self.offset, self.kernel, self.stride, self.count = (tuple(t) for t in (offset, kernel, stride, count))

    def _entries(self, count: tuple[int, ...]) -> tuple[slice, slice]:
        """Where this tap of so many windows is, in rows and columns."""
        each = zip(self.offset, self.stride, count, strict=True)
        rows, columns = (slice(o, o + (n - 1) * s + 1, s) for o, s, n in each)
        return rows, columns

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        rows, columns = self._entries(self.count)
        return x[:, :, rows, columns]

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        shape = tuple(shapes[0])
        if isinstance(form, Selected):
            number = self.apply(torch.arange(int(torch.Size(shape).numel())).reshape(1, *shape)).flatten()
            like = torch.empty((), dtype=form.dtype, device=form.device)
            return Selected(number.to(form.device)[form.index], shape, like)
        if isinstance(form, Windows):
            seen = form.coefficients.new_zeros(*form.coefficients.shape[:3], *self.window(form.size))
            seen[(..., *self._entries(form.size))] = form.coefficients
            return form.moved(seen, shape, (0, 0), self.stride)  # type: ignore[arg-type]
        patches = as_patches(form)
        if patches is None:
            coefficients = form.dense()
            spread = coefficients.new_zeros(*coefficients.shape[:2], *shape)
            rows, columns = self._entries(self.count)
            spread[..., rows, columns] = coefficients
            return Dense(spread)
        kernel = patches.coefficients
        spread = kernel.new_zeros(*kernel.shape[:4], *self.window(patches.grid.size))
        rows, columns = self._entries(patches.grid.size)
        spread[..., rows, columns] = kernel
        # what of a window hangs over the edge of this node may lie inside the parent: the factor is zero there
        ones = kernel.new_ones(1, *patches.shape) if patches.factor is None else patches.factor
        factor = ones.new_zeros(len(ones), *shape)
        rows, columns = self._entries(self.count)
        factor[:, :, rows, columns] = ones.expand(-1, *patches.shape)
        return Patches(spread, patches.grid.through(self.kernel, self.stride, (0, 0)), shape, factor)

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = ((n - 1) * s + k for n, s, k in zip(size, self.stride, self.kernel, strict=True))
        return height, width

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [
            OperatorExample(cls((1, 0), (2, 2), (2, 2), (2, 2)), ((2, 4, 5),)),
            OperatorExample(cls((0, 2), (2, 3), (1, 2), (4, 2)), ((3, 5, 6),)),
        ]


def as_patches(form: LinearForm) -> Patches | None:
    """The form as patches, where it has that structure or is diagonal on a feature map [C, H, W]; else None."""
    form = form.settled()
    if isinstance(form, Patches):
        return form
    if not isinstance(form, Diagonal) or len(form.shape) != 3:
        return None
    return diagonal_patches(form)
