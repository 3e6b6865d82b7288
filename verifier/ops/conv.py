"""Convolutions and transposed convolutions, in one and two dimensions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.device import ask_memory
from verifier.forms import ConvolvedPatches, Dense, Diagonal, LinearForm, Patches, PatchGrid, Windows
from verifier.ops import sparse
from verifier.ops.base import Affine, OperatorExample, Primitive, Shape, flat, register

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Ints = tuple[int, ...]

#: bytes for each entry of a convolution's matrix while it is written: sources and weights, and the matrix
_TAP = 40.0


class _WithKernel(Affine):
    """What convolutions and transposed convolutions share; bias [out] or None."""

    roundings = 0

    tensors = ("weight", "offset")
    spatial: int
    weight: Tensor
    offset: Tensor | None

    @abstractmethod
    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...  # [N, C, *size]

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self._convolve(x, self.weight, self.offset)

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self._convolve(x, self.weight, None)

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self._convolve(r, self.weight.abs(), None)


class _Convolution(_WithKernel):
    """What convolutions of all dimensions share; weight [out, in / groups, *kernel]."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Ints | None = None,
        padding: Ints | None = None,
        dilation: Ints | None = None,
        groups: int = 1,
    ) -> None:
        ones, zeros = (1,) * self.spatial, (0,) * self.spatial
        self.weight, self.offset = weight, bias
        self.stride, self.padding = tuple(stride or ones), tuple(padding or zeros)
        self.dilation, self.groups = tuple(dilation or ones), int(groups)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # [N, C, *size]
        function = F.conv1d if self.spatial == 1 else F.conv2d
        return function(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def bias(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:  # [1, *output shape]
        if self.offset is None:
            return None
        return self.offset.reshape(1, -1, *(1,) * self.spatial).expand(1, -1, *self._output_size(shapes[0]))

    def _output_size(self, shape: Shape) -> Ints:
        sizes = zip(shape[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)

    def terms(self, shapes: Sequence[Shape]) -> int:
        return self.weight[0].numel() + 1

    def adjoint_terms(self, shapes: Sequence[Shape], outputs: int) -> int:
        # taps that reach one entry are s / gcd(s, d) apart
        steps = (s // math.gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True))
        taps = (-(-k // s) for k, s in zip(self.weight.shape[2:], steps, strict=True))
        return self.weight.shape[0] // self.groups * math.prod(taps)

    def _transpose(self, y: Tensor, size: Ints) -> Tensor:
        """Adjoint on coefficients [N, out, *size of the output] -> [N, in, *size]."""
        parts = zip(size, y.shape[2:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        missing = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in parts]
        function = F.conv_transpose1d if self.spatial == 1 else F.conv_transpose2d
        return function(y, self.weight, None, self.stride, self.padding, missing, self.groups, self.dilation)

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        coefficients = form.dense()
        rows = self._transpose(coefficients.flatten(0, 1), shapes[0][1:])
        return Dense(rows.unflatten(0, coefficients.shape[:2]))

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        # windows of entry numbers (from 1: what lies in the padding reads as 0) say which entry each tap reads
        size = int(torch.Size(shapes[0]).numel())
        flat = (1,) * (2 - self.spatial)  # one dimension as two
        numbers = torch.arange(1, size + 1, dtype=torch.float64).reshape(1, shapes[0][0], *flat, *shapes[0][1:])
        kernel = (*flat, *self.weight.shape[2:])
        padding = (*(0,) * (2 - self.spatial), *self.padding)
        seen = F.unfold(numbers, kernel, (*flat, *self.dilation), padding, (*flat, *self.stride))[0].long() - 1
        outputs, positions = self.weight.shape[0], seen.shape[1]
        ask_memory(_TAP * positions * self.weight.numel())
        seen = seen.reshape(self.groups, -1, positions).transpose(1, 2)  # [groups, positions, taps]
        source = seen.repeat_interleave(outputs // self.groups, 0).flatten(0, 1)  # [out * positions, taps]
        weights = self.weight.flatten(1).unsqueeze(1).expand(-1, positions, -1)
        return [sparse.taps(source, weights.flatten(0, 1), size)]

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        ends = [(p, p) for p in self.padding]
        result = (self.weight.shape[0], *self._output_size(shapes[0]))
        return _as_plane("conv", self, ends, shapes[0], result)


@register
class Conv1d(_Convolution):
    """nn.Conv1d with zero padding."""

    spatial = 1

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)
        return [
            OperatorExample(cls(torch.randn(3, 2, 3, generator=g), torch.randn(3, generator=g), (2,), (1,)), ((2, 8),)),
            OperatorExample(cls(torch.randn(4, 1, 2, generator=g), None, (1,), (0,), (2,), 2), ((2, 7),)),
        ]


@register
class Conv2d(_Convolution):
    """nn.Conv2d with zero padding."""

    spatial = 2
    keeps_patches = True

    def _transpose(self, y: Tensor, size: Ints) -> Tensor:  # [N, C2, *out] -> [N, C1, *size]
        if self.groups > 1 or any(d > 1 for d in self.dilation):
            return super()._transpose(y, size)
        return _transpose_by_phases(y, self.weight, self.stride, self.padding, size)

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        if isinstance(form, Diagonal):
            return self._own_patches(form, shapes[0])
        form = form.settled()
        if isinstance(form, Windows):
            return self._seen(form, shapes[0])
        if not isinstance(form, Patches):
            return super().adjoint(form, shapes, parent)
        weight = _dilated(self._ungrouped(), self.dilation)
        if form.shared:
            return ConvolvedPatches(form, weight, self.stride, self.padding, shapes[0])  # type: ignore[arg-type]
        coefficients = form.materialised()
        grid = form.grid.through(tuple(weight.shape[2:]), self.stride, self.padding)
        rows = _transpose_by_phases(coefficients.flatten(0, 2), weight, self.stride, (0, 0), grid.size)
        return Patches(rows.unflatten(0, coefficients.shape[:3]), grid, shapes[0])

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        parts = zip(size, self.stride, self.dilation, self.weight.shape[2:], strict=True)
        height, width = ((n - 1) * s + d * (k - 1) + 1 for n, s, d, k in parts)
        return height, width

    def _seen(self, form: Windows, shape: Shape) -> LinearForm:
        """What windows of the output see of the input; dense where that is all of it."""
        size = self.window(form.size)
        if size[0] * size[1] >= shape[1] * shape[2]:
            return super().adjoint(form, [shape], 0)
        rows = form.coefficients.flatten(0, 1)
        if self.groups > 1:
            rows = F.conv_transpose2d(rows, self.weight, None, self.stride, 0, 0, self.groups, self.dilation)
            rows = F.pad(rows, (0, size[1] - rows.shape[3], 0, size[0] - rows.shape[2]))
        else:
            # torch convolves float64 by small products of its own: one large product is faster there
            transpose = _transpose_by_product if rows.dtype is torch.float64 else _transpose_by_phases
            rows = transpose(rows, _dilated(self.weight, self.dilation), self.stride, (0, 0), size)
        offset = -self.padding[0], -self.padding[1]
        return form.moved(rows.unflatten(0, form.coefficients.shape[:2]), shape, offset, self.stride)  # type: ignore[arg-type]

    def _ungrouped(self) -> Tensor:
        """The weight as of one group, [out, in, kh, kw]: zeros between the groups."""
        if self.groups == 1:
            return self.weight
        blocks = self.weight.chunk(self.groups, 0)
        width = self.weight.shape[1]
        padded = [F.pad(b, (0, 0, 0, 0, i * width, (self.groups - 1 - i) * width)) for i, b in enumerate(blocks)]
        return torch.cat(padded, 0)

    def _own_patches(self, form: Diagonal, shape: Shape) -> Patches:
        """The form of the layer's own outputs, each times its factor."""
        weight = _dilated(self._ungrouped(), self.dilation)
        positions = form.shape[1:]
        grid = PatchGrid(positions, tuple(weight.shape[2:]), self.stride, self.padding)  # type: ignore[arg-type]
        kernel = weight[None, None]
        if type(form) is Diagonal:  # [B, O, ph, pw] -> [B, P, O, 1, 1, 1]
            factor = form.factor.flatten(2).transpose(1, 2)
            kernel = kernel * factor[..., None, None, None]
        return Patches(kernel, grid, shape)

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g)

        return [
            OperatorExample(cls(random(3, 2, 3, 3), random(3), (1, 1), (1, 1)), ((2, 5, 4),)),
            OperatorExample(cls(random(4, 2, 4, 4), random(4), (2, 2), (1, 1)), ((2, 8, 8),)),
            OperatorExample(cls(random(4, 2, 2, 3), None, (2, 3), (0, 2), (2, 1)), ((2, 7, 6),)),
            OperatorExample(cls(random(4, 1, 3, 3), random(4), (2, 1), (1, 0), (1, 1), 2), ((2, 6, 5),)),
        ]


class _TransposedConvolution(_WithKernel):
    """Weight [in, out / groups, *kernel]."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Ints | None = None,
        padding: Ints | None = None,
        output_padding: Ints | None = None,
        dilation: Ints | None = None,
        groups: int = 1,
    ) -> None:
        ones, zeros = (1,) * self.spatial, (0,) * self.spatial
        self.weight, self.offset = weight, bias
        self.stride, self.padding = tuple(stride or ones), tuple(padding or zeros)
        self.output_padding, self.dilation = tuple(output_padding or zeros), tuple(dilation or ones)
        self.groups = int(groups)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # [N, C, *size]
        function = F.conv_transpose1d if self.spatial == 1 else F.conv_transpose2d
        return function(x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)

    def bias(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:  # [1, *output shape]
        if self.offset is None:
            return None
        size = self.linear(like.new_zeros(1, *shapes[0])).shape[2:]
        return self.offset.reshape(1, -1, *(1,) * self.spatial).expand(1, -1, *size)

    def terms(self, shapes: Sequence[Shape]) -> int:
        return self.weight.shape[0] // self.groups * self.weight[0, 0].numel() + 1

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        function = F.conv1d if self.spatial == 1 else F.conv2d
        coefficients = form.dense()
        rows = function(
            coefficients.flatten(0, 1), self.weight, None, self.stride, self.padding, self.dilation, self.groups
        )
        size = (slice(None), slice(None), *(slice(n) for n in shapes[0][1:]))
        return Dense(rows[size].unflatten(0, coefficients.shape[:2]))

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        # the entries that `output_padding` adds are those that padding would have cut off: with that much less of it
        # at the end, the convolution from the result to the input fits exactly
        ends = [(p, p - o) for p, o in zip(self.padding, self.output_padding, strict=True)]
        if min(after for _, after in ends) < 0:
            return super().primitive(shapes)
        like = torch.zeros(1, *shapes[0], dtype=torch.float64)
        result = tuple(self.linear(like).shape[1:])
        return _as_plane("conv_transpose", self, ends, result, shapes[0])


@register
class ConvTranspose1d(_TransposedConvolution):
    """nn.ConvTranspose1d."""

    spatial = 1

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)
        return [
            OperatorExample(cls(torch.randn(2, 3, 3, generator=g), torch.randn(3, generator=g), (2,), (1,)), ((2, 4),))
        ]


@register
class ConvTranspose2d(_TransposedConvolution):
    """nn.ConvTranspose2d."""

    spatial = 2

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)
        weight, bias = torch.randn(2, 3, 3, 3, generator=g), torch.randn(3, generator=g)
        grouped = torch.randn(4, 1, 2, 2, generator=g)
        return [
            OperatorExample(cls(weight, bias, (2, 2), (1, 1), (1, 1)), ((2, 4, 3),)),
            OperatorExample(cls(grouped, None, (1, 2), (0, 0), (0, 0), (2, 1), 2), ((4, 3, 3),)),
        ]


def _as_plane(
    kind: str,
    op: _Convolution | _TransposedConvolution,
    padding: Sequence[tuple[int, int]],
    larger: Sequence[int],
    smaller: Sequence[int],
) -> Primitive:
    """A primitive of two dimensions between feature maps, the larger one being that which is padded.

    One dimension is a plane of height 1.
    """
    missing = 2 - op.spatial
    ones, zeros = [1] * missing, [(0, 0)] * missing
    kernel = (*op.weight.shape[:2], *ones, *op.weight.shape[2:])
    arrays = {"weight": flat(op.weight).reshape(tuple(kernel))}
    if op.offset is not None:
        arrays["bias"] = flat(op.offset)
    sizes = {name: [int(s[0]), *ones, *map(int, s[1:])] for name, s in (("input", larger), ("output", smaller))}
    options = {
        "groups": op.groups, "stride": [*ones, *op.stride], "dilation": [*ones, *op.dilation],
        "padding": [int(p) for pair in (*zeros, *padding) for p in pair], **sizes,
    }  # fmt: skip
    return Primitive(kind, arrays, options)


def _transpose_by_phases(y: Tensor, weight: Tensor, stride: Ints, padding: Ints, size: Ints) -> Tensor:
    """The transposed convolution as one plain convolution: 2-4x faster on a CPU than conv_transpose2d.

    From y [N, C2, *out], by weight [C2, C1, k0, k1], to [N, C1, *size]. Entries of the result at the same offset modulo
    the stride (one phase) see the same taps of the kernel, so each phase is an output channel of a convolution with a
    kernel of ceil(k / stride) taps; the phases are interleaved.
    """
    (s0, s1), (k0, k1) = stride, weight.shape[2:]
    t0, t1 = -(-k0 // s0), -(-k1 // s1)
    kernel = F.pad(weight, (0, t1 * s1 - k1, 0, t0 * s0 - k0)).unflatten(3, (t1, s1)).unflatten(2, (t0, s0))
    kernel = kernel.flip(2, 4).permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # [C1 s0 s1, C2, T0, T1]
    phases = F.conv2d(y, kernel, padding=(t0 - 1, t1 - 1)).unflatten(1, (-1, s0, s1))  # [N, C1, s0, s1, J0, J1]
    full = phases.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
    (p0, p1), (n0, n1) = padding, size
    # columns that no window of the convolution reaches get zeros
    return F.pad(full, (-p1, n1 + p1 - full.shape[3], -p0, n0 + p0 - full.shape[2]))


def _transpose_by_product(y: Tensor, weight: Tensor, stride: Ints, padding: Ints, size: Ints) -> Tensor:
    """The same as one matrix product, whose columns are then added up where they overlap; without padding."""
    columns = weight.flatten(1).T @ y.transpose(0, 1).flatten(1)  # [C1 k0 k1, N out]
    columns = columns.unflatten(1, (len(y), -1)).transpose(0, 1)
    return F.fold(columns, size, tuple(weight.shape[2:]), 1, padding, stride)


def _dilated(weight: Tensor, dilation: Ints) -> Tensor:  # [C2, C1, *k] -> [C2, C1, *larger]
    """The kernel with its holes written out as zeros."""
    if all(d == 1 for d in dilation):
        return weight
    size = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    out = weight.new_zeros(*weight.shape[:2], *size)
    out[:, :, :: dilation[0], :: dilation[1]] = weight
    return out
