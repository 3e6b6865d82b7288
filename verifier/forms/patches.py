"""Forms of a convolution's kind: every row sees one small patch of the node.

A neuron two convolutions deep depends on a few hundred inputs. Rows are the neurons (channel o, position p) of some
later feature map; row (o, p) has coefficients on the window of the node that starts at p * stride - padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from properties.input_set import Local
from verifier.device import ask_numbers
from verifier.errors import InternalError
from verifier.forms.base import Dense, LinearForm, root
from verifier.forms.unit import Diagonal, Identity

Pair = tuple[int, int]


@dataclass(frozen=True)
class PatchGrid:
    """Where the windows are: position (i, j) sees size[0] rows from i * stride[0] - padding[0] on, columns likewise."""

    positions: Pair
    size: Pair
    stride: Pair
    padding: Pair

    def padded(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] with zeros around it (or cropped), so that the windows tile it from its corner."""
        (ph, pw), (kh, kw), (sh, sw) = self.positions, self.size, self.stride
        top, left = self.padding
        bottom = (ph - 1) * sh + kh - top - x.shape[2]
        right = (pw - 1) * sw + kw - left - x.shape[3]
        return F.pad(x, (left, right, top, bottom))

    def windows(self, x: Tensor) -> Tensor:
        """Entries of x [B, C, H, W] in every window, zero outside: [B, P, C, size0, size1] (a view where possible)."""
        (kh, kw), (sh, sw) = self.size, self.stride
        x = self.padded(x).unfold(2, kh, sh).unfold(3, kw, sw)  # [B, C, ph, pw, kh, kw]
        return x.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)

    def grown(self, margin: int) -> PatchGrid:
        """The same windows with `margin` more entries on every side."""
        size = (self.size[0] + 2 * margin, self.size[1] + 2 * margin)
        padding = (self.padding[0] + margin, self.padding[1] + margin)
        return PatchGrid(self.positions, size, self.stride, padding)

    def through(self, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> PatchGrid:
        """The windows that these windows of a convolution's output see of its input."""
        size = tuple((n - 1) * s + k for n, s, k in zip(self.size, stride, kernel, strict=True))
        steps = tuple(a * s for a, s in zip(self.stride, stride, strict=True))
        pads = tuple(a * s + p for a, s, p in zip(self.padding, stride, padding, strict=True))
        return PatchGrid(self.positions, size, steps, pads)  # type: ignore[arg-type]


class Patches(LinearForm):
    """Rows (o, p): coefficients [B or 1, P or 1, O, C, kh, kw], times column factors [B or 1, C, H, W] where given.

    With P = 1 the kernel is the same at every position (a convolution's). The factor is kept apart until a product
    needs it: it makes the slopes of one activation, and a shared kernel stays shared.
    """

    def __init__(
        self, coefficients: Tensor, grid: PatchGrid, shape: tuple[int, ...], factor: Tensor | None = None
    ) -> None:
        self.coefficients, self.grid, self.shape, self.factor = coefficients, grid, tuple(shape), factor
        self.rows = coefficients.shape[2] * grid.positions[0] * grid.positions[1]

    @property
    def like(self) -> Tensor:
        return self.coefficients

    @property
    def terms(self) -> int:
        return math.prod(self.coefficients.shape[3:])

    @property
    def shared(self) -> bool:
        """One kernel for all examples and positions."""
        return self.coefficients.shape[0] == 1 and self.coefficients.shape[1] == 1

    def _with(self, coefficients: Tensor, factor: Tensor | None) -> Patches:  # as of the class, [B or 1, *shape]
        return Patches(coefficients, self.grid, self.shape, factor)

    def scale(self, factor: Tensor) -> Patches:  # [B or 1, *shape]
        if self.factor is None and not self.shared:
            windows = self.grid.windows(factor.expand(-1, *self.shape)).unsqueeze(2)
            return self._with(self.coefficients * windows, None)
        return self._with(self.coefficients, factor if self.factor is None else self.factor * factor)

    def times(self, number: float) -> Patches:
        return self._with(self.coefficients * number, self.factor)

    def abs(self) -> Patches:
        return self._with(self.coefficients.abs(), None if self.factor is None else self.factor.abs())

    def materialised(self) -> Tensor:
        """Coefficients with the factor in them and zeros outside the node: [B or 1, P, O, C, kh, kw]."""
        factor = self.factor
        if factor is None:
            factor = self.coefficients.new_ones(1, *self.shape)
        return self.coefficients * self.grid.windows(factor.expand(-1, *self.shape)).unsqueeze(2)

    def dot(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        if x.shape[1:] != self.shape:
            raise InternalError(f"values of shape {tuple(x.shape[1:])} for a form on a node of shape {self.shape}")
        x = x if self.factor is None else x * self.factor
        if self.shared:  # a convolution
            return F.conv2d(self.grid.padded(x), self.coefficients[0, 0], stride=self.grid.stride).flatten(1)
        windows = self.grid.windows(x).flatten(2).unsqueeze(2)  # [B, P, 1, K]
        return (self.coefficients.flatten(3) * windows).sum(-1).transpose(1, 2).flatten(1)

    def norm(self, p: float) -> Tensor:  # [B or 1, S]
        if p == 2 and self.shared:  # a convolution of squares: positions differ only by what hangs over the edge
            kernel, most = _scaled_down(self.coefficients[:, 0])
            factor = kernel.new_ones(1, *self.shape) if self.factor is None else self.factor
            factor, largest = _scaled_down(factor)
            squares = F.conv2d(self.grid.padded(factor.square()), kernel[0].square(), stride=self.grid.stride)
            return root(squares.flatten(1), 4 * kernel[0, 0].numel()) * most * largest
        return super().norm(p)

    def local(self, margin: int = 0) -> Local:
        grid = self.grid.grown(margin)
        coefficients = F.pad(self.materialised(), (margin,) * 4) if margin else self.materialised()
        return Local(
            coefficients,
            3,
            lambda x: grid.windows(x).unsqueeze(2),
            lambda rows: rows.transpose(1, 2).flatten(1),
            lambda numbers: numbers.unflatten(1, (-1, coefficients.shape[1])).transpose(1, 2),
            lambda numbers: numbers[:, None, None],
        )

    def dense(self) -> Tensor:  # [B or 1, S, *shape]
        coefficients = self.materialised()
        batch, positions, outs = coefficients.shape[:3]
        channels, height, width = self.shape
        (ph, pw), (kh, kw), (sh, sw) = self.grid.positions, self.grid.size, self.grid.stride
        full = ((ph - 1) * sh + kh, (pw - 1) * sw + kw)
        ask_numbers(coefficients, 2.0 * batch * outs * positions * channels * max(full[0], 1) * max(full[1], 1))
        out = coefficients.new_zeros(batch, outs, positions, channels, max(full[0], 1), max(full[1], 1))
        for p in range(positions):
            i, j = p // pw * sh, p % pw * sw
            out[:, :, p, :, i : i + kh, j : j + kw] = coefficients[:, p]
        top, left = self.grid.padding
        return F.pad(out, (-left, width + left - full[1], -top, height + top - full[0])).flatten(1, 2)

    def add(self, other: LinearForm) -> LinearForm:
        other = diagonal_patches(other) if isinstance(other, Diagonal) else other.settled()
        if not (isinstance(other, Patches) and _aligned(self.grid, other.grid)):
            return Dense(self.dense() + other.dense())
        grid = _union(self.grid, other.grid)
        if self.factor is None and other.factor is None:
            total = _grown(self.coefficients, self.grid, grid) + _grown(other.coefficients, other.grid, grid)
        else:
            total = _grown(self.materialised(), self.grid, grid) + _grown(other.materialised(), other.grid, grid)
        return Patches(total, grid, self.shape)

    def combine(self, other: LinearForm, sign: float) -> LinearForm:
        if isinstance(other, Patches) and self.factor is None and other.factor is None and other.grid == self.grid:
            return self._with(torch.add(self.coefficients, other.coefficients, alpha=sign), None)
        return super().combine(other, sign)

    def stack(self, other: LinearForm) -> LinearForm:
        other = diagonal_patches(other) if isinstance(other, Diagonal) else other.settled()
        if not (isinstance(other, Patches) and _aligned(self.grid, other.grid)):
            return super().stack(other)
        grid = _union(self.grid, other.grid)
        a, b = (_grown(form.materialised(), form.grid, grid) for form in (self, other))
        batch = max(len(a), len(b))
        both = [t.expand(batch, *t.shape[1:]) for t in (a, b)]
        return Patches(torch.cat(both, 2), grid, self.shape)

    def relaxed(self, mean: Tensor, spread: Tensor | None) -> LinearForm:  # [B or 1, *shape] each
        if spread is None:
            return self.scale(mean)
        coefficients = self.materialised()
        windows = (self.grid.windows(t.expand(-1, *self.shape)).unsqueeze(2) for t in (mean, spread))
        return self._with(coefficients * next(windows) - coefficients.abs() * next(windows), None)


def diagonal_patches(form: Diagonal) -> Patches:
    """A diagonal form of a feature map, as patches of one entry."""
    channels, height, width = form.shape
    kernel = torch.eye(channels, dtype=form.dtype, device=form.device).reshape(1, 1, channels, channels, 1, 1)
    grid = PatchGrid((height, width), (1, 1), (1, 1), (0, 0))
    return Patches(kernel, grid, form.shape, None if isinstance(form, Identity) else form.factor)


def stacked(first: LinearForm, second: LinearForm) -> LinearForm:
    """The rows of `first` followed by those of `second`, forms of one node: diagonals of a feature map as patches."""
    if isinstance(first, Diagonal) and len(first.shape) == 3:
        first = diagonal_patches(first)
    return first.stack(second)


def _scaled_down(values: Tensor) -> tuple[Tensor, Tensor]:  # [B, ...] -> [B, ...], [B, 1]
    """Values over the largest magnitude of each example, and that.

    What is lost of a square that underflows is then multiplied by 1 at most, whatever the other factor.
    """
    most = values.detach().abs().flatten(1).amax(1).clamp(min=torch.finfo(values.dtype).tiny)
    return values / most.reshape(-1, *(1,) * (values.dim() - 1)), most.unsqueeze(1)


def _aligned(a: PatchGrid, b: PatchGrid) -> bool:
    return a.positions == b.positions and a.stride == b.stride


def _union(a: PatchGrid, b: PatchGrid) -> PatchGrid:
    """The smallest windows that hold both grids' windows."""
    padding = tuple(max(p, q) for p, q in zip(a.padding, b.padding, strict=True))
    ends = (max(k - p, m - q) for k, p, m, q in zip(a.size, a.padding, b.size, b.padding, strict=True))
    size = tuple(p + e for p, e in zip(padding, ends, strict=True))
    return PatchGrid(a.positions, size, a.stride, padding)  # type: ignore[arg-type]


def _grown(coefficients: Tensor, grid: PatchGrid, to: PatchGrid) -> Tensor:
    """Coefficients padded with zeros to larger windows."""
    top, left = (q - p for p, q in zip(grid.padding, to.padding, strict=True))
    bottom = to.size[0] - grid.size[0] - top
    right = to.size[1] - grid.size[1] - left
    return F.pad(coefficients, (left, right, top, bottom))
