"""Softmax and its kin by differences: softmax_i = 1 / (1 + sum over j != i of exp(x_j - x_i)).

Each term depends on a difference alone, so that what all entries share cancels before anything is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.graph.emitter import Emitter, Var
from verifier.ops.base import Shape
from verifier.ops.elementwise import Multiply, Shift, Subtract
from verifier.ops.exponential import Exp, Log, Softplus
from verifier.ops.pool import Reduce
from verifier.ops.powers import Reciprocal
from verifier.ops.shape import Permute, Reshape
from verifier.ops.smooth import Sigmoid

#: differences that one softmax may have: each is a neuron to be bounded
_MOST_DIFFERENCES = 2**12


def in_order(w: Emitter, x: Var, y: Var, dims: Sequence[int]) -> Var:
    """y, noted as being in the order of x where it is a function of all of x's entries at once, `dims` of them."""
    shape = w.shape(x)
    if math.prod(shape[d] for d in dims) == math.prod(shape) and w.shape(y) == shape:
        w.builder.orders[y.index] = x.index
    return y


def softmax(w: Emitter, x: Var, dim: int, allowed: Tensor | None = None) -> Var:
    """Softmax along a dimension (batch-free).

    Args:
        allowed: bool, broadcasts to the node's shape: entries that take part; the others are minus infinity, their
            results zero. None: all. Entries of the node that stand for minus infinity never do.
    """
    x, endless = w.finite_part(x)
    shape = w.shape(x)
    if endless is not None:
        if bool(endless.all(dim).any()):
            raise w.unsupported("all entries of one softmax are minus infinity: its result is not a number")
        allowed = ~endless if allowed is None else allowed & ~endless
    size = shape[dim]
    if size == 1 and allowed is None:
        return w.as_node(1.0, x, shape)
    if _many(shape, dim) and allowed is None:
        return _centred(w, x, dim)
    differences, mask = _differences(w, x, dim, allowed)
    if size == 2 and mask is None:
        one = w.emit(Sigmoid(), w.emit(Multiply(-1.0), w.emit(Reshape(w.shape(differences)[:-1]), differences)))
        return in_order(w, x, _back(w, one, shape, dim), (dim,))
    result = w.emit(Reciprocal(), _sum(w, differences, mask))
    if allowed is not None:
        result = w.with_constant(Multiply, result, _last(allowed.expand(shape), dim).to(w.dtype))
    result = _back(w, result, shape, dim)
    return result if allowed is not None else in_order(w, x, result, (dim,))


def _many(shape: Shape, dim: int) -> bool:
    return int(torch.Size(shape).numel()) * (shape[dim] - 1) > _MOST_DIFFERENCES


def _centred(w: Emitter, x: Var, dim: int) -> Var:
    """exp(x_i - m) / sum over j of exp(x_j - m), m the mean: fewer exponentials than differences have, and looser."""
    terms = w.emit(Exp(), w.difference(x, w.emit(Reduce([dim], True, True), x)))
    return w.product(terms, w.emit(Reciprocal(), w.emit(Reduce([dim], True), terms)))


def log_softmax(w: Emitter, x: Var, dim: int) -> Var:
    """log softmax_i = -log(1 + sum over j != i of exp(x_j - x_i))."""
    shape = w.shape(x)
    if shape[dim] == 1:
        return w.as_node(0.0, x, shape)
    differences, _ = _differences(w, x, dim, None)
    if shape[dim] == 2:
        total = w.emit(Softplus(), w.emit(Reshape(w.shape(differences)[:-1]), differences))
    else:
        total = w.emit(Log(), _sum(w, differences, None))
    return in_order(w, x, _back(w, w.emit(Multiply(-1.0), total), shape, dim), (dim,))


def logsumexp(w: Emitter, x: Var, dims: Sequence[int], keepdim: bool) -> Var:
    """log of the sum of exponentials: x_0 + log(1 + sum over j > 0 of exp(x_j - x_0)) along all dimensions given."""
    shape = w.shape(x)
    rest = [d for d in range(len(shape)) if d not in dims]
    numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
    flat = numbers.permute(*rest, *dims).reshape(*(shape[d] for d in rest), -1)
    first = w.gathered(x, flat[..., 0])
    if flat.shape[-1] > 1:
        others = w.gathered(x, flat[..., 1:])
        own = w.gathered(x, flat[..., :1].expand(flat[..., 1:].shape))
        difference = w.emit(Subtract(), others, own)
        total = w.emit(Log(), _sum(w, difference, None))
        first = w.sum(first, total)
    return w.emit(Reshape([1 if d in dims else n for d, n in enumerate(shape)]), first) if keepdim else first


def _last(t: Tensor, dim: int) -> Tensor:  # [*shape] -> [*rest, n]
    return t.movedim(dim, -1)


def _back(w: Emitter, x: Var, shape: Shape, dim: int) -> Var:
    """From [*rest, n] to the shape with n at `dim`."""
    rank = len(shape)
    if dim == rank - 1:
        return x
    order = list(range(rank - 1))
    order.insert(dim, rank - 1)
    return w.emit(Permute(order), x)


def _differences(w: Emitter, x: Var, dim: int, allowed: Tensor | None) -> tuple[Var, Tensor | None]:
    """x_j - x_i for every i and every j != i, [*rest, n, n - 1]; with the places that take part, of that shape."""
    shape = w.shape(x)
    size = shape[dim]
    numbers = _last(torch.arange(int(torch.Size(shape).numel())).reshape(shape), dim)
    others = torch.tensor([[j for j in range(size) if j != i] for i in range(size)]).reshape(size, size - 1)
    second = numbers[..., others]
    first = numbers.unsqueeze(-1).expand(second.shape)
    difference = w.emit(Subtract(), w.gathered(x, second), w.gathered(x, first))
    if allowed is None:
        return difference, None
    known = _last(allowed.expand(shape), dim)
    mask = known[..., others].to(w.dtype)
    return w.with_constant(Multiply, difference, mask * known.unsqueeze(-1).to(w.dtype)), mask


def _sum(w: Emitter, differences: Var, mask: Tensor | None) -> Var:
    """1 + the sum of exponentials over the last dimension."""
    terms = w.emit(Exp(), differences)
    if mask is not None:
        terms = w.with_constant(Multiply, terms, mask)
    return w.emit(Shift(1.0), w.emit(Reduce([len(w.shape(terms)) - 1]), terms))
