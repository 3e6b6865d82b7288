"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.forms import Dense, LinearForm, Selected
from verifier.ops import sparse
from verifier.ops.base import Affine, OperatorExample, Primitive, Shape, flat, register

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@register
class Linear(Affine):
    """y = x W^T + b on the last dimension; weight [out, in], bias [out] or None."""

    roundings = 0

    tensors = ("weight", "offset")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.offset = weight, bias

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return F.linear(x, self.weight, self.offset)

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return F.linear(x, self.weight)

    def bias(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:  # [1, *output shape]
        if self.offset is None:
            return None
        return self.offset.expand(1, *shapes[0][:-1], -1)

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return F.linear(r, self.weight.abs())

    def terms(self, shapes: Sequence[Shape]) -> int:
        return self.weight.shape[1] + 1

    def adjoint_terms(self, shapes: Sequence[Shape], outputs: int) -> int:
        return self.weight.shape[0]

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        if isinstance(form, Selected) and len(shapes[0]) == 1:
            return Dense(self.weight[form.index])  # unit rows pick rows of W: no product needed
        return Dense(form.dense() @ self.weight)

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        from scipy.sparse import csr_array, kron

        weight = csr_array(self.weight.detach().double().cpu().numpy())
        repeats = int(torch.Size(shapes[0][:-1]).numel())
        return [weight if repeats == 1 else csr_array(kron(sparse.diagonal(torch.ones(repeats)), weight))]

    def primitive(self, shapes: Sequence[Shape]) -> Primitive:
        arrays = {"weight": flat(self.weight).reshape(tuple(self.weight.shape))}
        repeat = int(torch.Size(shapes[0][:-1]).numel())
        if self.offset is not None:
            arrays["bias"] = flat(self.offset.expand(repeat, -1))
        return Primitive("matrix", arrays, {"repeat": repeat})

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)
        weight = torch.randn(3, 5, generator=g)
        return [
            OperatorExample(cls(weight, torch.randn(3, generator=g)), ((5,),)),
            OperatorExample(cls(weight), ((2, 5),)),
        ]
