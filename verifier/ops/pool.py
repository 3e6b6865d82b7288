"""Average pooling, reductions, and max pooling written with ReLUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.errors import UnsupportedError
from verifier.forms import Dense, Diagonal, LinearForm, Patches, Runs, Windows
from verifier.ops import sparse
from verifier.ops.base import Affine, Operator, OperatorExample, Shape, register
from verifier.ops.concat import Concat
from verifier.ops.conv import Conv2d
from verifier.ops.elementwise import Add, Subtract
from verifier.ops.relu import ReLU
from verifier.ops.shape import Gather, Reshape, Tap

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Ints = tuple[int, ...]

#: taps of a window up to which each is a node
_FEW_TAPS = 16


class _Average(Affine):
    """Means and sums: weights are not negative, so |A| = A, but for a negative divisor."""

    #: of 1 / n: one quotient, or one after another for two dimensions, or a product with a rounded 1 / n
    roundings = 2

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self.apply(x)

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self.apply(r)


class _ChannelwiseAverage(_Average):
    """The same means in every channel, the first dimension."""

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        from scipy.sparse import csr_array, kron

        channels, *size = shapes[0]
        (one,) = super().to_sparse([(1, *size)])
        return [csr_array(kron(sparse.diagonal(torch.ones(channels)), one))]


@register
class AveragePool(_ChannelwiseAverage):
    """F.avg_pool1d / F.avg_pool2d on [C, *size], by the length of `kernel`."""

    keeps_patches = True

    def __init__(
        self,
        kernel: Ints,
        stride: Ints | None = None,
        padding: Ints | None = None,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> None:
        self.kernel, self.stride = tuple(kernel), tuple(stride or kernel)
        self.padding = tuple(padding or (0,) * len(kernel))
        self.ceil_mode, self.count_include_pad, self.divisor = bool(ceil_mode), bool(count_include_pad), divisor

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        settings = (self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return F.avg_pool1d(x, *settings) if len(self.kernel) == 1 else F.avg_pool2d(x, *settings, self.divisor)

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return -self.apply(r) if self.divisor is not None and self.divisor < 0 else self.apply(r)

    def terms(self, shapes: Sequence[Shape]) -> int:
        return int(torch.Size(self.kernel).numel()) + 1  # the division rounds too

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        form = form.settled()
        if not isinstance(form, Diagonal | Patches | Windows) or len(self.kernel) != 2:
            return super().adjoint(form, shapes, parent)
        weighted = form.scale(self._weights(shapes[0], form.dtype, form.device))
        ones = torch.ones(shapes[0][0], 1, *self.kernel, dtype=form.dtype, device=form.device)
        summing = Conv2d(ones, None, self.stride, self.padding, None, shapes[0][0])
        return summing.adjoint(weighted, shapes, 0)

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = ((n - 1) * s + k for n, s, k in zip(size, self.stride, self.kernel, strict=True))
        return height, width

    def _weights(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
        """1 / divisor of every window, [1, C, *output size]: windows at the edge may count fewer entries."""
        channel = torch.ones(1, 1, *shape[1:], dtype=dtype, device=device)
        means = self.apply(channel)  # entries inside the node / divisor
        inside = AveragePool(self.kernel, self.stride, self.padding, self.ceil_mode, True, 1).apply(channel)
        return (means / inside).expand(1, shape[0], *means.shape[2:])

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [
            OperatorExample(cls((2,)), ((2, 6),)),
            OperatorExample(cls((3,), (2,), (1,), True, False), ((2, 6),)),
            OperatorExample(cls((2, 2)), ((2, 4, 5),)),
            OperatorExample(cls((3, 2), (2, 1), (1, 1)), ((2, 5, 4),)),
            OperatorExample(cls((3, 3), (2, 2), (1, 1), True, False), ((2, 6, 6),)),
            OperatorExample(cls((3, 3), (2, 2), (1, 1), True, True), ((2, 6, 6),)),
            OperatorExample(cls((2, 2), (2, 2), (0, 0), False, True, 3), ((1, 4, 4),)),
            OperatorExample(cls((2, 2), (1, 2), (1, 0), False, True, -3), ((1, 4, 4),)),
        ]


@register
class AdaptiveAveragePool(_ChannelwiseAverage):
    """F.adaptive_avg_pool1d / F.adaptive_avg_pool2d on [C, *size], by the length of `size`."""

    def __init__(self, size: Ints) -> None:
        self.size = tuple(size)

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        if len(self.size) == 1:
            return F.adaptive_avg_pool1d(x, self.size[0])
        return F.adaptive_avg_pool2d(x, list(self.size))  # type: ignore[arg-type]

    def terms(self, shapes: Sequence[Shape]) -> int:
        widths = [-(-n // m) + 1 for n, m in zip(shapes[0][1:], self.size, strict=True)]
        return int(torch.Size(widths).numel()) + 1

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [OperatorExample(cls((2,)), ((2, 5),)), OperatorExample(cls((2, 3)), ((2, 5, 4),))]


@register
class Reduce(_Average):
    """Sum or mean over dimensions `dims` (batch-free)."""

    adds = True

    def __init__(self, dims: Sequence[int], keepdim: bool = False, mean: bool = False) -> None:
        self.dims, self.keepdim, self.mean = tuple(sorted(int(d) for d in dims)), bool(keepdim), bool(mean)
        self.roundings = 2 if mean else 0

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        dims = [d + 1 for d in self.dims]
        return x.mean(dims, self.keepdim) if self.mean else x.sum(dims, self.keepdim)

    def _count(self, shape: Shape) -> int:
        return int(torch.Size([shape[d] for d in self.dims]).numel())

    def terms(self, shapes: Sequence[Shape]) -> int:
        return self._count(shapes[0]) + 1

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        coefficients = form.dense()
        if not self.mean and self.dims == tuple(range(len(shapes[0]) - len(self.dims), len(shapes[0]))):
            return Runs(coefficients.reshape(*coefficients.shape[:2], -1), tuple(shapes[0]))
        if not self.keepdim:
            for d in self.dims:
                coefficients = coefficients.unsqueeze(d + 2)
        if self.mean:
            coefficients = coefficients / self._count(shapes[0])
        return Dense(coefficients.expand(*coefficients.shape[:2], *shapes[0]))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        return [
            OperatorExample(cls((0,)), ((4,),)),
            OperatorExample(cls((1, 2), False, True), ((2, 3, 2),)),
            OperatorExample(cls((0, 2), True, True), ((2, 3, 2),)),
            OperatorExample(cls((1,), True), ((2, 3),)),
        ]


class Emit(Protocol):
    """Adds a node and returns its index: GraphBuilder.add with names taken care of."""

    def __call__(self, op: Operator, parents: Sequence[int]) -> int: ...


def window_taps(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Tensor:
    """Positions that each window of one axis sees, [outputs, kernel].

    A tap that falls in the padding (minus infinity for a maximum) is replaced by another one of its window.

    Raises:
        UnsupportedError: a window sees nothing but padding.
    """
    reach = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-reach // stride) if ceil_mode else reach // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # as PyTorch: the last window starts inside the input or its left padding
    if count < 1:
        raise UnsupportedError(f"max pooling of a window of {kernel} over {size} entries has no output")
    taps = torch.arange(count)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return inside_taps(taps, size)


def adaptive_taps(size: int, outputs: int) -> Tensor:
    """The same for adaptive pooling to `outputs` windows: [outputs, widest window]."""
    first = torch.arange(outputs) * size // outputs
    last = ((torch.arange(outputs) + 1) * size + outputs - 1) // outputs
    taps = first[:, None] + torch.arange(int((last - first).max()))
    return torch.where(taps < last[:, None], taps, first[:, None])


def inside_taps(taps: Tensor, size: int) -> Tensor:  # [outputs, taps]
    """Positions outside 0 .. size - 1 replaced by another one of their window, which changes no maximum.

    Raises:
        UnsupportedError: a window sees nothing but padding.
    """
    valid = (taps >= 0) & (taps < size)
    if not valid.any(1).all():
        raise UnsupportedError("a max-pooling window lies in the padding alone, where the maximum is minus infinity")
    substitute = taps.gather(1, valid.int().argmax(1, keepdim=True))
    return torch.where(valid, taps, substitute)


def pool_index(shape: Shape, axes: Sequence[Tensor]) -> Tensor:
    """Flat indices of all taps of all windows over the trailing axes of `shape`: [taps, *leading, *outputs].

    Args:
        axes: positions per pooled axis, each [outputs, taps].
    """
    index = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
    lead = len(shape) - len(axes)
    for i, taps in enumerate(axes):  # axis lead + i becomes an axis of outputs; its taps go last
        index = index.index_select(lead + i, taps.flatten()).unflatten(lead + i, tuple(taps.shape))
        index = index.movedim(lead + i + 1, -1)
    return index.flatten(len(shape)).movedim(-1, 0).contiguous()


def taps_of(shape: Shape, index: Tensor) -> list[Tap] | None:
    """The windows that `index` [taps, *output] reads of a feature map of `shape`, tap by tap.

    None where they are irregular, or many.
    """
    if len(shape) != 3 or index.ndim != 4 or index.shape[1] != shape[0] or len(index) > _FEW_TAPS:
        return None
    corners = [divmod(n, shape[2]) for n in index[:, 0, 0, 0].tolist()]
    count = tuple(index.shape[2:])
    last = divmod(int(index[0, 0, -1, -1]), shape[2])
    stride = tuple(max(1, (e - s) // max(1, n - 1)) for s, e, n in zip(corners[0], last, count, strict=True))
    kernel = tuple(max(c[d] for c in corners) + 1 for d in (0, 1))
    taps = [Tap(corner, kernel, stride, count) for corner in corners]
    numbers = torch.arange(math.prod(shape)).reshape(1, *shape)
    found = (tap.apply(numbers)[0] for tap in taps)
    return taps if all(f.shape == i.shape and bool((f == i).all()) for f, i in zip(found, index, strict=True)) else None


def max_pool(emit: Emit, parent: int, shape: Shape, index: Tensor) -> int:
    """The maximum over the first dimension of parent[index], index [taps, *output]; returns the last node's index.

    A balanced tree of max(a, b) = b + ReLU(a - b). The real function is that of the pool; its rounding is not. Windows
    at regular places of a feature map stay feature maps, one ReLU node for each pair of maps: all backward passes
    through them are by patches, in a tenth of the time and less.
    """
    taps = taps_of(shape, index)
    return (
        _gathered_maximum(emit, parent, index) if taps is None else _largest(emit, [emit(t, (parent,)) for t in taps])
    )


def _largest(emit: Emit, nodes: list[int]) -> int:
    """The maximum of nodes of one shape, entry by entry."""
    while len(nodes) > 1:
        half = len(nodes) // 2
        pairs = zip(nodes[:half], nodes[half : 2 * half], strict=True)
        tops = [emit(Add(), (b, emit(ReLU(), (emit(Subtract(), (a, b)),)))) for a, b in pairs]
        nodes = tops + nodes[2 * half :]
    return nodes[0]


def _gathered_maximum(emit: Emit, parent: int, index: Tensor) -> int:  # [taps, *output]
    """For any index: all pairs of a level stacked on a leading dimension, k taps in ceil(log2 k) ReLU nodes."""
    whole = False  # the index is that of all entries of the parent, in their order
    while len(index) > 1:
        half = len(index) // 2
        a, b = (emit(Gather(index[i : i + half].contiguous()), (parent,)) for i in (0, half))
        relu = emit(ReLU(), (emit(Subtract(), (a, b)),))
        top = emit(Add(), (b, relu))
        rest = index[2 * half :]
        if len(rest):
            top = emit(Concat(0), (top, emit(Gather(rest.contiguous()), (parent,))))
        parent, whole = top, True
        count = half + len(rest)
        index = torch.arange(count * index[0].numel()).reshape(count, *index.shape[1:])
    return emit(Reshape(index[0].shape) if whole else Gather(index[0].contiguous()), (parent,))
