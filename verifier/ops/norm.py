"""Batch normalisation at inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.errors import ModelError
from verifier.forms import LinearForm
from verifier.ops import sparse
from verifier.ops.base import Affine, OperatorExample, Shape, register

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array


@register
class BatchNorm(Affine):
    """(x - mean) / sqrt(var + eps) * weight + bias per channel (the first dimension), with stored statistics.

    All tensors are [C] and live: mean and var are the module's running buffers, in a step of training the statistics of
    its batch; weight and bias may be None.
    """

    tensors = ("weight", "offset", "mean", "var")
    diagonal = True
    keeps_patches = True
    # scale: the sum var + eps under the root (half a unit), the root, the quotient, the product, 4 together; the shift
    # adds a product and a sum, and `bias_size` itself is rounded thrice, which with the products of errors stays in 8
    roundings = 8

    def __init__(self, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float) -> None:
        self.weight, self.offset, self.mean, self.var, self.eps = weight, bias, mean, var, float(eps)
        if self.eps < 0 or bool((var < 0).any()):  # var + eps would cancel, with any relative error
            raise ModelError("batch normalisation with a negative variance or eps has no meaning: repair the model")

    def normalised_by(self, mean: Tensor, var: Tensor) -> BatchNorm:  # [C], [C]
        """The same with other statistics."""
        return self.map_tensors(lambda t: mean if t is self.mean else var if t is self.var else t)

    def scale(self) -> Tensor:
        """The factor of each channel, [C]."""
        factor = torch.rsqrt(self.var + self.eps)
        return factor if self.weight is None else factor * self.weight

    def shift(self) -> Tensor:
        """What is added to each channel, [C]."""
        moved = -self.mean * self.scale()
        return moved if self.offset is None else moved + self.offset

    def _per_channel(self, values: Tensor, dims: int) -> Tensor:
        """[C] -> [1, C, 1, ...], to go with a node of `dims` dimensions."""
        return values.reshape(1, -1, *(1,) * (dims - 1))

    def apply(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        if self.mean.requires_grad or self.var.requires_grad:  # of a batch: torch's function gives them no gradient
            return x * self._per_channel(self.scale(), x.dim() - 1) + self._per_channel(self.shift(), x.dim() - 1)
        return F.batch_norm(x, self.mean, self.var, self.weight, self.offset, False, 0.0, self.eps)

    def linear(self, x: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return x * self._per_channel(self.scale(), x.dim() - 1)

    def bias(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:  # [1, *output shape]
        return self._per_channel(self.shift(), len(shapes[0])).expand(1, *shapes[0])

    def bias_size(self, shapes: Sequence[Shape], like: Tensor) -> Tensor | None:  # [1, *output shape]
        # the shift is a difference that may cancel
        size = (self.mean * self.scale()).abs()
        size = size if self.offset is None else size + self.offset.abs()
        return self._per_channel(size, len(shapes[0])).expand(1, *shapes[0])

    def apply_abs(self, r: Tensor) -> Tensor:  # [B, *shape] -> [B, *output shape]
        return r * self._per_channel(self.scale().abs(), r.dim() - 1)

    def terms(self, shapes: Sequence[Shape]) -> int:
        return 8  # the product and the sum, and the roundings inside scale (4) and shift (2)

    def adjoint(self, form: LinearForm, shapes: Sequence[Shape], parent: int) -> LinearForm:
        return form.scale(self._per_channel(self.scale(), len(shapes[0])).expand(1, *shapes[0]))

    def to_sparse(self, shapes: Sequence[Shape]) -> list[csr_array]:
        return [sparse.diagonal(self._per_channel(self.scale(), len(shapes[0])).expand(1, *shapes[0]))]

    def triplets(self, shapes: Sequence[Shape]) -> dict[str, np.ndarray]:
        return sparse.diagonal_triplets(self._per_channel(self.scale(), len(shapes[0])).expand(1, *shapes[0]))

    @classmethod
    def examples(cls) -> list[OperatorExample]:
        g = torch.Generator().manual_seed(0)

        def random() -> Tensor:
            return torch.randn(3, generator=g)

        var = torch.rand(3, generator=g) + 0.1
        return [
            OperatorExample(cls(random(), random(), random(), var, 1e-5), ((3,),)),
            OperatorExample(cls(None, None, random(), var, 1e-3), ((3, 4),)),
            OperatorExample(cls(random(), None, random(), var, 1e-5), ((3, 2, 4),)),
        ]
