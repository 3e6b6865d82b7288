"""Patch-structured forms through a convolution: where the dual stage's time goes.

A row of the form looks at a k2 x k2 window of the convolution's output; each of those looks at a k1 x k1 window of
its input with stride s, so that the row looks at ((k2 - 1) s + k1) squared. With one shared kernel V for all rows and
column factors f (the slopes of the activation in between),

    form[p, o, c1, q] = sum over c2, t of  f[c2, window p, t] * V[o, c2, t] * W[c2, c1, q - s t].

For one q only ceil(k1 / s) values of t per axis contribute, the same ones for each block of s consecutive q. One
batched matrix product over those blocks therefore does all the work at the cost of the two kernels' structure
(for the papers' small MNIST network 6.4 M multiply-adds per image and form instead of 40 M for a dense
kernel-times-kernel matrix).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.forms.patches import Pair, Patches, PatchGrid


def through_convolution(
    form: Patches,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    shape: tuple[int, ...],
) -> Patches:
    """Pull `form`, on the output of a convolution of `weight` [C2, C1, kh, kw], back to its input of `shape`."""
    reach = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    size = tuple((k - 1) * s + r for k, s, r in zip(form.grid.size, stride, reach, strict=True))
    steps = tuple(a * s for a, s in zip(form.grid.stride, stride, strict=True))
    pads = tuple(a * s + p for a, s, p in zip(form.grid.padding, stride, padding, strict=True))
    grid = PatchGrid(form.grid.positions, size, steps, pads)  # type: ignore[arg-type]
    if form.shared and all(d == 1 for d in dilation):
        return Patches(_shared_product(form, weight, (stride[0], stride[1])), grid, shape)
    coefficients = form.materialised()
    rows = F.conv_transpose2d(coefficients.flatten(0, 2), weight, stride=stride, dilation=dilation)
    return Patches(rows.unflatten(0, coefficients.shape[:3]), grid, shape)


def _shared_product(form: Patches, weight: Tensor, stride: Pair) -> Tensor:
    """The sum above for every position: [B, P, O, C1, size0, size1]."""
    factor = form.factor
    if factor is None:  # ones inside the feature map, zeros in its padding
        factor = weight.new_ones(1, *form.shape)
    factor = factor.expand(-1, *form.shape)
    kernel = form.coefficients[0, 0]  # [O, C2, k2, k2]
    if not torch.is_grad_enabled() or not factor.requires_grad:
        live = (factor != 0).flatten(2).any(2).any(0)  # channels that are inactive everywhere add nothing
        if not live.all():
            factor, kernel, weight = factor[:, live], kernel[:, live], weight[live]
    blocks = _Blocks.of(kernel, weight, stride)
    factors = blocks.factors(factor, form.grid)  # [J, B P, C2 T]
    product = torch.bmm(factors, blocks.kernels)  # [J, B P, O C1 s s]
    return blocks.assemble(product, len(factor))


class _Blocks:
    """The block structure of one kernel-times-kernel product (see the module's docstring)."""

    def __init__(self, kernels: Tensor, taps: Pair, counts: Pair, stride: Pair, sizes: Pair, outs: Pair) -> None:
        self.kernels = kernels  # [J0 J1, C2 T0 T1, O C1 s0 s1]
        self.taps, self.counts, self.stride, self.sizes, self.outs = taps, counts, stride, sizes, outs

    @classmethod
    def of(cls, kernel: Tensor, weight: Tensor, stride: Pair) -> _Blocks:
        """Products V[o, c2, t] W[c2, c1, q - s t] for the taps of each block; kernel [O, C2, k2, k2]."""
        k2, k1 = kernel.shape[2:], weight.shape[2:]
        taps = tuple(-(-k // s) for k, s in zip(k1, stride, strict=True))
        counts = tuple(k + t - 1 for k, t in zip(k2, taps, strict=True))
        sizes = tuple((k - 1) * s + r for k, s, r in zip(k2, stride, k1, strict=True))
        # inner[c2, c1, a, r]: the weight's entry seen at offset r of a block from tap a (tap t = block - T + 1 + a)
        inner = F.pad(weight, (0, taps[1] * stride[1] - k1[1], 0, taps[0] * stride[0] - k1[0]))
        inner = inner.unflatten(3, (taps[1], stride[1])).unflatten(2, (taps[0], stride[0]))
        inner = inner.permute(0, 1, 2, 4, 3, 5).flip(2, 3)  # [C2, C1, T0, T1, s0, s1]
        # outer[o, c2, j, a] = V at tap j - T + 1 + a, zero outside the kernel
        outer = F.pad(kernel, (taps[1] - 1, taps[1] - 1, taps[0] - 1, taps[0] - 1))
        outer = outer.unfold(2, taps[0], 1).unfold(3, taps[1], 1)  # [O, C2, J0, J1, T0, T1]
        kernels = torch.einsum("ocijab,cdabrs->ijcabodrs", outer, inner)
        outs = (kernel.shape[0], weight.shape[1])
        kernels = kernels.flatten(5).flatten(2, 4).flatten(0, 1)
        return cls(kernels, taps, counts, stride, sizes, outs)  # type: ignore[arg-type]

    def factors(self, factor: Tensor, grid: PatchGrid) -> Tensor:
        """Column factors [B, C2, H, W] gathered per block: [J0 J1, B P, C2 T0 T1]."""
        (t0, t1), (j0, j1) = self.taps, self.counts
        wide = PatchGrid(
            grid.positions,
            (j0 + t0 - 1, j1 + t1 - 1),
            grid.stride,
            (grid.padding[0] + t0 - 1, grid.padding[1] + t1 - 1),
        )
        windows = wide.windows(factor).unfold(3, t0, 1).unfold(4, t1, 1)  # [B, P, C2, J0, J1, T0, T1]
        windows = windows.permute(3, 4, 0, 1, 2, 5, 6)
        return windows.reshape(j0 * j1, windows.shape[2] * windows.shape[3], -1)

    def assemble(self, product: Tensor, batch: int) -> Tensor:
        """[J0 J1, B P, O C1 s0 s1] -> [B, P, O, C1, size0, size1]."""
        (j0, j1), (s0, s1), (outs, channels) = self.counts, self.stride, self.outs
        out = product.reshape(j0, j1, batch, -1, outs, channels, s0, s1)
        out = out.permute(2, 3, 4, 5, 0, 6, 1, 7).flatten(6, 7).flatten(4, 5)
        return out[..., : self.sizes[0], : self.sizes[1]]
