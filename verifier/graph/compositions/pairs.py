"""What is computed of two vectors: bilinear maps and cosines."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.graph.compositions.statistics import power_norm, quotient
from verifier.graph.emitter import Emitter, Var
from verifier.ops.clip import Clip
from verifier.ops.elementwise import Shift
from verifier.ops.linear import Linear
from verifier.ops.pool import Reduce
from verifier.ops.shape import Reshape


def bilinear(w: Emitter, x: Var, y: Var | Tensor, weight: Tensor, bias: Tensor | None) -> Var:
    """sum over i, j of x_i weight_kij y_j, plus bias_k.

    Args:
        x, y: [..., n] and [..., m], alike but for the last dimension; y may be constant. weight: [k, n, m].
    """
    outputs, n, m = weight.shape
    own = w.emit(Linear(weight.transpose(1, 2).reshape(outputs * m, n)), x)
    own = w.emit(Reshape((*w.shape(x)[:-1], outputs, m)), own)
    other = w.emit(Reshape((*w.shape(y)[:-1], 1, m)), y) if isinstance(y, Var) else y.unsqueeze(-2)
    result = w.emit(Reduce([len(w.shape(own)) - 1]), w.product(own, other))
    return result if bias is None else w.with_constant(Shift, result, bias)


def cosine(w: Emitter, x: Var | Tensor, y: Var | Tensor, dim: int, eps: float) -> Var:
    """x . y / (max(|x|, eps) max(|y|, eps)) along a dimension, counted from the last one: -1, -2, ..."""

    def directed(v: Var | Tensor) -> Var | Tensor:
        if isinstance(v, Tensor):
            w.computed = True
            return v / torch.linalg.vector_norm(v, dim=dim, keepdim=True).clamp(min=eps)
        norm = power_norm(w, v, 2, (dim + len(w.shape(v)),), True)
        return quotient(w, v, w.emit(Clip(eps, None), norm))

    product = w.product(directed(x), directed(y))
    return w.emit(Reduce([dim + len(w.shape(product))]), product)
