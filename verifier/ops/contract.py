"""Sums of products with a constant over named dimensions: einsum of one node and one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.errors import InputError
from verifier.ops.base import Affine, OperatorExample, Shape, register


@register
class Contract(Affine):
    """y = einsum(x, weight): dimensions are letters, those that the result has not are summed over.

    Args:
        own, other, result: letters of x (batch-free), of the weight and of the result, each letter once in each; the
            result's are among the others', and every letter of the weight is in x or in the result.
    """

    tensors = ("weight",)
    roundings = 0  # an entry of x meets an entry of the result in one entry of the weight

    def __init__(self, own: str, other: str, result: str, weight: Tensor) -> None:
        if not set(other) <= set(own + result) or not set(result) <= set(own + other):
            raise InputError(f"the letters {own},{other}->{result} leave a dimension of one tensor alone summed over")
        if any(len(set(letters)) < len(letters) for letters in (own, other, result)) or weight.dim() != len(other):
            raise InputError(f"the letters {own},{other}->{result} name a dimension twice, or not all of the weight's")
        self.own, self.other, self.result, self.weight = own, other, result, weight

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return torch.einsum(f"...{self.own},{self.other}->...{self.result}", x, self.weight)

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return self.apply(x)

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return torch.einsum(f"...{self.own},{self.other}->...{self.result}", r, self.weight.abs())

    def terms(self, shapes: Sequence[Shape]) -> int:
        sizes = dict(zip(self.own, shapes[0], strict=True))
        return math.prod(n for letter, n in sizes.items() if letter not in self.result) + 1

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)
        return [
            OperatorExample(cls("bmk", "bkn", "bmn", torch.randn(2, 4, 3, generator=g)), ((2, 3, 4),)),
            OperatorExample(cls("ij", "kj", "ki", torch.randn(2, 3, generator=g)), ((4, 3),)),
            OperatorExample(cls("ij", "ijk", "k", torch.randn(2, 3, 4, generator=g)), ((2, 3),)),
        ]
