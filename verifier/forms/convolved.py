"""A shared kernel pulled back through one more convolution: where the dual bound's time goes.

A row of the outer form looks at a k2 x k2 window of the convolution's output; each of those looks at a k1 x k1 window
of its input with stride s, so that the row looks at ((k2 - 1) s + k1) squared entries. With one shared kernel V for
all rows and column factors f (the slopes of the activation in between),

    form[p, o, c1, q] = sum over c2, t of  f[c2, window p, t] * V[o, c2, t] * W[c2, c1, q - s t].

For one q only ceil(k1 / s) values of t per axis contribute, the same ones for each block of s consecutive q. One
matrix product per block does all the work at the cost of the two kernels' structure (for the papers' small MNIST
network 6.4 M multiply-adds per image and form, instead of 40 M for a dense kernel-times-kernel matrix), and a block's
result is used while it is in the cache: the form itself is never written out unless somebody asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn import functional as F

from properties.input_set import Local
from verifier.forms.base import LinearForm, root
from verifier.forms.patches import Pair, Patches, PatchGrid


class ConvolvedPatches(LinearForm):
    """The form x -> outer . conv(x), for a shared outer kernel and a convolution without bias or dilation.

    Args:
        outer: a `Patches` with one kernel for all positions, on the convolution's output.
        weight: [C2, C1, kh, kw], of one group.
        shape: of the convolution's input.
    """

    def __init__(self, outer: Patches, weight: Tensor, stride: Pair, padding: Pair, shape: tuple[int, ...]) -> None:
        self.outer, self.weight, self.stride, self.padding = outer, weight, stride, padding
        self.shape, self.rows = tuple(shape), outer.rows

    @property
    def like(self) -> Tensor:
        return self.weight

    @property
    def terms(self) -> int:
        return max(self._terms, self.outer.terms + math.prod(self.weight.shape[1:]))

    @cached_property
    def grid(self) -> PatchGrid:
        return self.outer.grid.through(self.weight.shape[2:], self.stride, self.padding)

    def settled(self) -> Patches:
        """The same form with its coefficients written out."""
        blocks = _Blocks.of(self)
        products = torch.stack([blocks.product(j) for j in range(len(blocks.kernels))])
        return Patches(blocks.assemble(products), self.grid, self.shape)

    def dot(self, x: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        # (A^T c) . x = c . (A x): a forward pass, no coefficients needed. The windows are those of the outer form's
        # node: a pool in ceil mode has windows that hang over the padding.
        (_, height, width), (kh, kw) = self.outer.shape, self.weight.shape[2:]
        windows = PatchGrid((height, width), (kh, kw), self.stride, self.padding)
        return self.outer.dot(F.conv2d(windows.padded(x), self.weight, None, self.stride))

    def abs_dot(self, radius: Tensor) -> Tensor:  # [B or 1, *shape] -> [B or 1, S]
        return self._folded(_add_weighted, radius)

    def envelope_abs_dot(self, half: LinearForm, radius: Tensor) -> tuple[Tensor, Tensor]:  # -> [B or 1, S] each
        if not self._matches(half):
            return super().envelope_abs_dot(half, radius)
        return self._envelope_folded(half, _add_weighted, radius)

    def norm(self, p: float) -> Tensor:  # [B or 1, S]
        if p == 2:
            return root(self._folded(_add_squares, self._ones), self._terms)
        return self._folded(_largest, self._ones) if p == math.inf else super().norm(p)

    def envelope_norm(self, half: LinearForm, p: float) -> tuple[Tensor, Tensor]:  # [B or 1, S] each
        if p not in (2, math.inf) or not self._matches(half):
            return super().envelope_norm(half, p)
        low, high = self._envelope_folded(half, _add_squares if p == 2 else _largest, self._ones)
        return (root(low, self._terms), root(high, self._terms)) if p == 2 else (low, high)

    @property
    def _terms(self) -> int:
        """Entries that a row may have."""
        return self.grid.size[0] * self.grid.size[1] * self.shape[0]

    @property
    def _ones(self) -> Tensor:  # [1, *shape]
        return self.weight.new_ones(1, *self.shape)

    def _matches(self, other: LinearForm) -> TypeGuard[ConvolvedPatches]:
        return isinstance(other, ConvolvedPatches) and other.grid == self.grid

    def _folded(self, fold: Fold, weight: Tensor) -> Tensor:
        """The coefficients of each row folded with the weights [B or 1, *shape] of their entries."""
        blocks = _Blocks.of(self, len(weight))
        weights, total = blocks.windows(weight), None
        for j in range(len(blocks.kernels)):
            total = fold(total, blocks.product(j), weights[j])
        assert total is not None
        return blocks.rows(total)

    def _envelope_folded(self, half: ConvolvedPatches, fold: Fold, weight: Tensor) -> tuple[Tensor, Tensor]:  # [B, n]
        """The same of self - half and of self + half."""
        mine, other = _Blocks.of(self, len(weight)), _Blocks.of(half, len(weight))
        batch = max(mine.batch, other.batch)
        if mine.batch != other.batch:
            mine, other = _Blocks.of(self, batch), _Blocks.of(half, batch)
        weights = mine.windows(weight)
        low: Tensor | None = None
        high: Tensor | None = None
        for j in range(len(mine.kernels)):
            p, q = mine.product(j), other.product(j)
            low = fold(low, p - q, weights[j])
            high = fold(high, p.add_(q) if not p.requires_grad else p + q, weights[j])
        assert low is not None and high is not None
        return mine.rows(low), mine.rows(high)

    def local(self, margin: int = 0) -> Local:
        return self.settled().local(margin)

    def dense(self) -> Tensor:  # [B or 1, S, *shape]
        return self.settled().dense()

    def scale(self, factor: Tensor) -> LinearForm:  # [B or 1, *shape]
        return self.settled().scale(factor)

    def times(self, number: float) -> LinearForm:
        return ConvolvedPatches(self.outer.times(number), self.weight, self.stride, self.padding, self.shape)

    def abs(self) -> LinearForm:
        return self.settled().abs()

    def add(self, other: LinearForm) -> LinearForm:
        return self.settled().add(other.settled())

    def combine(self, other: LinearForm, sign: float) -> LinearForm:
        return self.settled().combine(other.settled(), sign)

    def stack(self, other: LinearForm) -> LinearForm:
        return self.settled().stack(other.settled())

    def relaxed(self, mean: Tensor, spread: Tensor | None) -> LinearForm:  # [B or 1, *shape] each
        return self.settled().relaxed(mean, spread)


#: (result so far [N, O], block of coefficients [N, K, O], weights [N, K]) -> result; may overwrite the block
Fold = Callable[[Tensor | None, Tensor, Tensor], Tensor]


def _add_weighted(total: Tensor | None, product: Tensor, weights: Tensor) -> Tensor:
    """total + sum over k of |product[:, k]| * weights[:, k]."""
    size = product.abs() if product.requires_grad else product.abs_()
    return _weighted_sum(total, size, weights)


def _add_squares(total: Tensor | None, product: Tensor, weights: Tensor) -> Tensor:
    """total + sum over k of product[:, k]^2 * weights[:, k]."""
    return _weighted_sum(total, product.square() if product.requires_grad else product.square_(), weights)


def _weighted_sum(total: Tensor | None, size: Tensor, weights: Tensor) -> Tensor:  # [R, n], [R, K, n], [R, K]
    if total is None:
        total = size.new_zeros(size.shape[0], size.shape[2])
    for k in range(size.shape[1]):
        total = torch.addcmul(total, size[:, k], weights[:, k : k + 1])
    return total


def _largest(total: Tensor | None, product: Tensor, weights: Tensor) -> Tensor:
    """The larger of total and all |product[:, k]| * weights[:, k]."""
    largest = (product.abs() * weights.unsqueeze(2)).amax(1)
    return largest if total is None else torch.maximum(total, largest)


@dataclass(frozen=True)
class _Blocks:
    """The block structure of one product (see the module's docstring)."""

    factors: Tensor  # [J0 J1, B P, T0 T1 C2]
    kernels: Tensor  # [J0 J1, T0 T1 C2, C1 s0 s1 O]
    counts: Pair  # J0, J1
    stride: Pair
    grid: PatchGrid  # of the result
    batch: int
    channels: int  # C1

    @classmethod
    def of(cls, form: ConvolvedPatches, batch: int = 1) -> _Blocks:
        kernel, factor, weight = form.outer.coefficients[0, 0], form.outer.factor, form.weight
        if factor is None:  # ones inside the feature map, zeros in its padding
            factor = weight.new_ones(1, *form.outer.shape)
        factor = factor.expand(max(batch, len(factor)), *form.outer.shape)
        live = (factor != 0).flatten(2).any(2).any(0)  # channels with no slope anywhere add nothing
        if not live.all():
            factor, kernel, weight = factor[:, live], kernel[:, live], weight[live]
        k2, k1 = kernel.shape[2:], weight.shape[2:]
        taps = (-(-k1[0] // form.stride[0]), -(-k1[1] // form.stride[1]))
        counts = (k2[0] + taps[0] - 1, k2[1] + taps[1] - 1)
        return cls(
            _block_factors(factor, form.outer.grid, taps, counts),
            _block_kernels(kernel, weight, taps, form.stride),
            counts,
            form.stride,
            form.grid,
            len(factor),
            form.weight.shape[1],
        )

    def product(self, j: int) -> Tensor:
        """Coefficients of block j: [B P, C1 s0 s1, O]."""
        product = self.factors[j] @ self.kernels[j]
        return product.view(len(product), self.channels * self.stride[0] * self.stride[1], -1)

    def windows(self, x: Tensor) -> Tensor:
        """Entries of x [B, C1, H, W] in the order of the products: [J0 J1, B P, C1 s0 s1]."""
        x = x.expand(self.batch, *x.shape[1:])
        windows = self.grid.windows(x)
        (j0, j1), (s0, s1) = self.counts, self.stride
        windows = F.pad(windows, (0, j1 * s1 - windows.shape[4], 0, j0 * s0 - windows.shape[3]))
        windows = windows.unflatten(4, (j1, s1)).unflatten(3, (j0, s0))  # [B, P, C1, J0, s0, J1, s1]
        return windows.permute(3, 5, 0, 1, 2, 4, 6).flatten(4).flatten(2, 3).flatten(0, 1)

    def rows(self, values: Tensor) -> Tensor:
        """[B P, O] -> [B, O P]."""
        return values.unflatten(0, (self.batch, -1)).transpose(1, 2).flatten(1)

    def assemble(self, products: Tensor) -> Tensor:
        """[J0 J1, B P, C1 s0 s1, O] -> [B, P, O, C1, size0, size1]."""
        (j0, j1), (s0, s1) = self.counts, self.stride
        out = products.reshape(j0, j1, self.batch, -1, self.channels, s0, s1, products.shape[-1])
        out = out.permute(2, 3, 7, 4, 0, 5, 1, 6).flatten(6, 7).flatten(4, 5)
        return out[..., : self.grid.size[0], : self.grid.size[1]]


def _block_factors(factor: Tensor, grid: PatchGrid, taps: Pair, counts: Pair) -> Tensor:
    """Column factors [B, C2, H, W] gathered per block: [J0 J1, B P, T0 T1 C2]."""
    (t0, t1), (j0, j1), (s0, s1) = taps, counts, grid.stride
    size, padding = (j0 + t0 - 1, j1 + t1 - 1), (grid.padding[0] + t0 - 1, grid.padding[1] + t1 - 1)
    wide = PatchGrid(grid.positions, size, grid.stride, padding)
    last = wide.padded(factor).permute(0, 2, 3, 1).contiguous()  # channels last: whole runs of memory are copied
    windows = last.unfold(1, size[0], s0).unfold(2, size[1], s1)  # [B, ph, pw, C2, size0, size1]
    windows = windows.unfold(4, t0, 1).unfold(5, t1, 1)  # [B, ph, pw, C2, J0, J1, T0, T1]
    return windows.permute(4, 5, 0, 1, 2, 6, 7, 3).flatten(5).flatten(2, 4).flatten(0, 1)


def _block_kernels(kernel: Tensor, weight: Tensor, taps: Pair, stride: Pair) -> Tensor:
    """Products V[o, c2, t] W[c2, c1, q - s t] for the taps of each block: [J0 J1, T0 T1 C2, C1 s0 s1 O].

    Block j holds the s entries q = j s .. j s + s - 1; its tap number a is t = j - T + 1 + a.
    """
    (t0, t1), (s0, s1) = taps, stride
    inner = F.pad(weight, (0, t1 * s1 - weight.shape[3], 0, t0 * s0 - weight.shape[2]))
    inner = inner.unflatten(3, (t1, s1)).unflatten(2, (t0, s0))
    inner = inner.permute(0, 1, 2, 4, 3, 5).flip(2, 3)  # [C2, C1, T0, T1, s0, s1]
    outer = F.pad(kernel, (t1 - 1, t1 - 1, t0 - 1, t0 - 1))  # no such tap: zero
    outer = outer.unfold(2, t0, 1).unfold(3, t1, 1)  # [O, C2, J0, J1, T0, T1]
    kernels = torch.einsum("ocijab,cdabrs->ijabcdrso", outer, inner)
    return kernels.flatten(5).flatten(2, 4).flatten(0, 1)
