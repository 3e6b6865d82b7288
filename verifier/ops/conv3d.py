"""Convolutions over volumes. Their adjoints are vector-Jacobian products: no structure is kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.ops.base import Affine, OperatorExample, Shape, register

Ints = tuple[int, ...]


class _Volumes(Affine):
    """weight [C2, C1 / groups, *kernel] (transposed: [C1, C2 / groups, *kernel]), bias [C2]; on x [C1, D, H, W]."""

    tensors = ("weight", "offset")
    roundings = 0

    def __init__(self, weight: Tensor, bias: Tensor | None, **settings: Ints | int) -> None:
        self.weight, self.offset, self.settings = weight, bias, settings

    def _run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # [B, *shape] -> [B, *output shape]
        raise NotImplementedError

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self._run(x, self.weight, self.offset)

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self._run(x, self.weight, None)

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self._run(r, self.weight.abs(), None)

    def bias(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:  # [1, *output shape]
        if self.offset is None:
            return None
        output = self.apply(self.weight.new_zeros(1, *shapes[0])).shape[1:]
        return self.offset.reshape(1, -1, 1, 1, 1).expand(1, *output)

    def terms(self, shapes: Sequence[Shape]) -> int:
        return self.weight.numel() // min(self.weight.shape[:2]) + 1


@register
class Conv3d(_Volumes):
    """nn.Conv3d; settings: stride, padding, dilation, groups."""

    def _run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return F.conv3d(x, weight, bias, **self.settings)  # type: ignore[arg-type]

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)
        weight, bias = torch.randn(2, 2, 2, 2, 2, generator=g), torch.randn(2, generator=g)
        return [
            OperatorExample(cls(weight, bias, stride=(2, 1, 1), padding=(1, 0, 1)), ((2, 3, 3, 2),)),
            OperatorExample(cls(weight[:, :1], None, groups=2), ((2, 2, 3, 2),)),
        ]


@register
class ConvTranspose3d(_Volumes):
    """nn.ConvTranspose3d; settings: stride, padding, output_padding, dilation, groups."""

    def _run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return F.conv_transpose3d(x, weight, bias, **self.settings)  # type: ignore[arg-type]

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)
        weight, bias = torch.randn(2, 2, 2, 2, 2, generator=g), torch.randn(2, generator=g)
        return [OperatorExample(cls(weight, bias, stride=(2, 1, 1), padding=(1, 0, 0)), ((2, 2, 2, 2),))]
