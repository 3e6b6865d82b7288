"""Variance, norms, and the normalisations made of them: layer, group, instance, root mean square."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.graph.emitter import Emitter, Var
from verifier.ops.absolute import Abs
from verifier.ops.elementwise import Divide, Multiply, Shift
from verifier.ops.pool import Reduce
from verifier.ops.powers import Power, Reciprocal, Rsqrt, Sqrt, Square
from verifier.ops.shape import Reshape


def centred(w: Emitter, x: Var, dims: Sequence[int]) -> Var:
    """The node less its mean over dimensions."""
    return w.difference(x, w.emit(Reduce(dims, True, True), x))


def variance(w: Emitter, x: Var, dims: Sequence[int], correction: float = 0.0, keepdim: bool = False) -> Var:
    """The mean of the squared distances to the mean; n - correction in place of n."""
    count = math.prod(w.shape(x)[d] for d in dims)
    if count <= correction:
        raise w.unsupported(f"a variance of {count} entries with correction {correction:g}")
    squares = w.emit(Square(), centred(w, x, dims))
    if correction == 0:
        return w.emit(Reduce(dims, keepdim, True), squares)
    return w.emit(Divide(float(count - correction)), w.emit(Reduce(dims, keepdim), squares))


def power_norm(w: Emitter, x: Var, order: float, dims: Sequence[int], keepdim: bool) -> Var:
    """The norm of an order >= 1 (or infinity) over dimensions."""
    if order == 2:
        return w.emit(Sqrt(), w.emit(Reduce(dims, keepdim), w.emit(Square(), x)))
    size = w.emit(Abs(), x)
    if order == 1:
        return w.emit(Reduce(dims, keepdim), size)
    if order == math.inf:
        return largest(w, size, dims, keepdim)
    if order < 1:
        raise w.unsupported(f"a norm of order {order}")
    return w.emit(Power(1 / order), w.emit(Reduce(dims, keepdim), w.emit(Power(order), size)))


def largest(w: Emitter, x: Var, dims: Sequence[int], keepdim: bool) -> Var:
    """The maximum over dimensions."""
    shape = w.shape(x)
    rest = [d for d in range(len(shape)) if d not in dims]
    numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
    found = w.maximum(x, numbers.permute(*dims, *rest).reshape(-1, *(shape[d] for d in rest)))
    return w.emit(Reshape([1 if d in dims else n for d, n in enumerate(shape)]), found) if keepdim else found


def scaled_and_shifted(w: Emitter, x: Var, weight: Tensor | None, bias: Tensor | None) -> Var:
    """weight * x + bias, constants that broadcast to the node's shape."""
    x = x if weight is None else w.with_constant(Multiply, x, weight)
    return x if bias is None else w.with_constant(Shift, x, bias)


def normalised(w: Emitter, x: Var, dims: Sequence[int], eps: float) -> Var:
    """(x - mean) / sqrt(variance + eps) over dimensions."""
    middle = centred(w, x, dims)
    spread = w.emit(Reduce(dims, True, True), w.emit(Square(), middle))
    return w.product(middle, w.emit(Rsqrt(), w.emit(Shift(eps), spread)))


def root_mean_square(w: Emitter, x: Var, dims: Sequence[int], eps: float) -> Var:
    """x / sqrt(mean of x^2 + eps) over dimensions."""
    spread = w.emit(Reduce(dims, True, True), w.emit(Square(), x))
    return w.product(x, w.emit(Rsqrt(), w.emit(Shift(eps), spread)))


def group_norm(w: Emitter, x: Var, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Var:
    """Normalisation of groups of channels of a node [C, *size]; weight and bias [C]."""
    shape = w.shape(x)
    if shape[0] % groups:
        raise w.unsupported(f"{shape[0]} channels in {groups} groups")
    grouped = w.emit(Reshape((groups, math.prod(shape) // groups)), x)
    result = w.emit(Reshape(shape), normalised(w, grouped, (1,), eps))
    spread = (-1, *(1,) * (len(shape) - 1))
    each = [t if t is None else t.reshape(spread) for t in (weight, bias)]
    return scaled_and_shifted(w, result, *each)


def quotient(w: Emitter, x: Var | Tensor | float, y: Var) -> Var:
    """x / y as x times 1 / y."""
    return w.product(x, w.emit(Reciprocal(), y))


def product_along(w: Emitter, x: Var, dims: Sequence[int], keepdim: bool) -> Var:
    """The product of all entries along dimensions, two by two."""
    shape = w.shape(x)
    rest = [d for d in range(len(shape)) if d not in dims]
    numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
    parts = [w.gathered(x, one) for one in numbers.permute(*dims, *rest).reshape(-1, *(shape[d] for d in rest))]
    while len(parts) > 1:
        pairs = [w.product(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(parts) - len(parts) % 2 :]
    (found,) = parts
    return w.emit(Reshape([1 if d in dims else n for d, n in enumerate(shape)]), found) if keepdim else found
