"""ONNX operators that compute: products, convolutions, normalisation, arithmetic, activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph.compositions.conditions import chosen_by
from verifier.graph.compositions.functions import prelu, sigmoid
from verifier.graph.compositions.statistics import quotient
from verifier.graph.emitter import Var
from verifier.graph.onnx_walker import OnnxValue, OnnxWalker, Operand, own_shape
from verifier.ops.absolute import Abs
from verifier.ops.base import Operator
from verifier.ops.clip import Clip
from verifier.ops.concat import Concat
from verifier.ops.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from verifier.ops.conv3d import Conv3d, ConvTranspose3d
from verifier.ops.elementwise import Divide, Multiply
from verifier.ops.handlers import onnx_operator
from verifier.ops.linear import Linear
from verifier.ops.norm import BatchNorm
from verifier.ops.pad import Pad
from verifier.ops.relu import LeakyReLU, ReLU
from verifier.ops.shape import Permute
from verifier.ops.smooth import Tanh

#: matrices of one batched product with a constant; each becomes a layer of its own
_MOST_MATRICES = 64
#: what attributes are that a node leaves out: float32 numbers, as those that it gives
_EPSILON, _ALPHA = float(np.float32(1e-5)), float(np.float32(0.01))

# --- products --------------------------------------------------------------------------------------------------------


@onnx_operator("MatMul")
def _matmul(w: OnnxWalker, x: Operand, y: Operand) -> OnnxValue:
    if isinstance(x, OnnxValue) and isinstance(y, OnnxValue):
        return _of_two(w, x, y)
    if isinstance(x, OnnxValue):
        return _times(w, x, w.weights(y, "right operand"))
    assert isinstance(y, OnnxValue)
    left = w.weights(x, "left operand")
    if len(y.shape) == 1:  # x y = (y^T x^T)^T, and a vector is its own transpose
        return _times(w, y, left.transpose(-1, -2) if left.dim() > 1 else left)
    if left.dim() == 1:
        return _times(w, _swapped(w, y), left)
    return _swapped(w, _times(w, _swapped(w, y), left.transpose(-1, -2)))


def _of_two(w: OnnxWalker, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    """The matrix product of two values, vectors being rows on the left and columns on the right."""
    left = (1, *x.shape) if len(x.shape) == 1 else x.shape
    right = (*y.shape, 1) if len(y.shape) == 1 else y.shape
    if left[-1] != right[-2]:
        raise ModelError(str(w.unsupported(f"shapes {list(x.shape)} and {list(y.shape)} do not fit")))
    lead = tuple(np.broadcast_shapes(left[:-2], right[:-2]))
    w.check_size((*lead, left[-2], right[-1], left[-1]))
    var = w.matrix_product(w.reshaped(x.var, left), w.reshaped(y.var, right))
    rows = () if len(x.shape) == 1 else (left[-2],)
    columns = () if len(y.shape) == 1 else (right[-1],)
    return w.value(var, (*lead, *rows, *columns))


def _swapped(w: OnnxWalker, x: OnnxValue) -> OnnxValue:
    rank = len(x.shape)
    result = w.transposed(x, [*range(rank - 2), rank - 1, rank - 2])
    assert isinstance(result, OnnxValue)
    return result


def _times(w: OnnxWalker, x: OnnxValue, y: Tensor) -> OnnxValue:
    """x @ y as numpy has it: x [..., k] or [..., m, k], y [k], [k, n] or [..., k, n]."""
    if not x.shape or not y.dim() or x.shape[-1] != y.shape[0 if y.dim() == 1 else -2]:
        raise ModelError(str(w.unsupported(f"shapes {list(x.shape)} and {list(y.shape)} do not fit")))
    if y.dim() == 1:
        return w.value(_layer(w, x, y.unsqueeze(1)), x.shape[:-1])
    if math.prod(y.shape[:-2]) == 1:
        rank = max(len(x.shape), y.dim()) - (len(x.shape) == 1)
        shape = (*x.shape[:-1], y.shape[-1])
        return w.value(_layer(w, x, y.reshape(y.shape[-2:])), (1,) * (rank - len(shape)) + shape)
    return _batched_product(w, x, y)


def _layer(w: OnnxWalker, x: OnnxValue, matrix: Tensor) -> Var:
    """The product of the last dimension with a matrix [k, n], in our graph's shape of the result."""
    var = w.emit(Linear(matrix.t().contiguous()), w.reshaped(x.var, own_shape(x.shape)))
    return w.reshaped(var, own_shape((*x.shape[:-1], matrix.shape[1])))


def _batched_product(w: OnnxWalker, x: OnnxValue, y: Tensor) -> OnnxValue:
    """One layer per matrix of a batch y [..., k, n] of them, joined."""
    vector = len(x.shape) == 1
    full = (1, *x.shape) if vector else x.shape
    lead = tuple(np.broadcast_shapes(full[:-2], y.shape[:-2]))
    count, (rows, inner), columns = math.prod(lead), full[-2:], y.shape[-1]
    if count > _MOST_MATRICES:
        raise w.unsupported(f"a product with a batch of {count} matrices; at most {_MOST_MATRICES} are taken")
    w.check_size((count, rows, inner))
    matrices = y.expand(*lead, inner, columns).reshape(count, inner, columns)
    spread = w.moved(x, lambda t: t.reshape(full).expand(*lead, rows, inner).reshape(count, rows, inner))
    parts = []
    for i, matrix in enumerate(matrices):
        one = w.moved(spread, partial(torch.select, dim=0, index=i))
        parts.append(w.reshaped(_layer(w, one, matrix), (1, rows, columns)))
    joined = parts[0] if count == 1 else w.emit(Concat(0), *parts)
    return w.value(joined, (*lead, columns) if vector else (*lead, rows, columns))


@onnx_operator("Gemm")
def _gemm(w: OnnxWalker, a: Operand, b: Operand, c: Operand = None) -> OnnxValue:
    alpha, beta = w.attribute("alpha", 1.0), w.attribute("beta", 1.0)
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2:
        raise ModelError(str(w.unsupported("its operands must be matrices")))
    a = w.transposed(a, (1, 0)) if w.attribute("transA", 0) else a
    b = w.transposed(b, (1, 0)) if w.attribute("transB", 0) else b
    assert a is not None and b is not None
    size = (a.shape[0], b.shape[1])
    if c is not None and tuple(np.broadcast_shapes(tuple(c.shape), size)) != size:
        raise ModelError(str(w.unsupported(f"its bias of shape {list(c.shape)} does not fit {list(size)}")))
    if isinstance(a, Tensor) and isinstance(b, Tensor):  # only the bias depends on the input
        left, right = w.weights(a, "left operand"), w.weights(b, "right operand")
        assert isinstance(c, OnnxValue)
        return w.elementwise(w.sum, w.elementwise(lambda v: w.scaled(v, beta), c), left @ right * alpha)
    plain = isinstance(a, OnnxValue) and isinstance(b, Tensor) and alpha == beta == 1
    if plain and isinstance(c, Tensor) and c.numel() == size[1] and c.shape[-1] == size[1]:
        assert isinstance(a, OnnxValue) and isinstance(b, Tensor)
        weight, bias = w.weights(b, "weights"), w.weights(c, "bias").reshape(-1)
        return w.value(w.emit(Linear(weight.t().contiguous(), bias), w.reshaped(a.var, own_shape(a.shape))), size)
    product = _matmul(w, a, b)
    if alpha != 1:
        product = w.elementwise(lambda v: w.scaled(v, alpha), product)
    if c is None or beta == 0:
        return product
    if isinstance(c, OnnxValue):
        return w.elementwise(w.sum, product, w.elementwise(lambda v: w.scaled(v, beta), c))
    return w.elementwise(w.sum, product, c if beta == 1 else w.scaled(c, beta))


# --- convolutions ----------------------------------------------------------------------------------------------------


def window_settings(w: OnnxWalker, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], ...]:
    """Strides, dilations, and padding before and after, per dimension of a window over `sizes`."""
    spatial = len(sizes)
    strides = w.attribute("strides") or [1] * spatial
    dilations = w.attribute("dilations") or [1] * spatial
    if not len(strides) == len(dilations) == len(kernel) == spatial or min(*strides, *dilations, *kernel) < 1:
        raise ModelError(str(w.unsupported(f"kernel {list(kernel)}, strides {strides}, dilations {dilations}")))
    auto = w.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            first = total // 2 if auto == "SAME_UPPER" else total - total // 2
            before.append(first)
            after.append(total - first)
        return strides, dilations, before, after
    if auto not in ("NOTSET", "VALID"):
        raise ModelError(str(w.unsupported(f"auto_pad {auto!r} is unknown")))
    pads = [0] * 2 * spatial if auto == "VALID" else w.attribute("pads") or [0] * 2 * spatial
    if len(pads) != 2 * spatial or min(pads) < 0:
        raise ModelError(str(w.unsupported(f"pads {pads} for {spatial} dimensions")))
    return strides, dilations, pads[:spatial], pads[spatial:]


def around(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Padding before and after each dimension, in the order of `Pad`: the last dimension first."""
    return [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]


def _kernel(w: OnnxWalker, weight: Tensor, rank: int) -> list[int]:  # [c, c', *kernel]
    kernel = list(weight.shape[2:])
    if weight.dim() != rank or w.attribute("kernel_shape", kernel) != kernel:
        raise ModelError(str(w.unsupported(f"weights of shape {list(weight.shape)} do not fit")))
    if len(kernel) not in (1, 2, 3):
        raise w.unsupported(f"a convolution over {len(kernel)} dimensions; one to three are supported")
    return kernel


def _convolved(
    w: OnnxWalker, x: Operand, weight: Operand, bias: Operand
) -> tuple[OnnxValue, Tensor, Tensor | None, list[int]]:
    """The operands of a convolution, and its kernel's sizes.

    Returns:
        The value, the weight [c, c', *kernel], the bias [channels] and the kernel.
    """
    if not isinstance(x, OnnxValue):
        raise w.unsupported("its weights depend on the model's input: not linear")
    weight = w.weights(weight, "weights")
    return x, weight, None if bias is None else w.weights(bias, "bias"), _kernel(w, weight, len(x.shape))


@onnx_operator("Conv")
def _conv(w: OnnxWalker, x: Operand, weight: Operand, bias: Operand = None) -> OnnxValue:
    x, weight, bias, kernel = _convolved(w, x, weight, bias)
    var = w.batched(x, 3)
    strides, dilations, before, after = window_settings(w, x.shape[2:], kernel)
    if before != after:
        var = w.emit(Pad(around(before, after)), var)
        before = [0] * len(kernel)
    if len(kernel) == 3:
        volumes = {"stride": tuple(strides), "padding": tuple(before), "dilation": tuple(dilations)}
        var = w.emit(Conv3d(weight, bias, **volumes, groups=w.attribute("group", 1)), var)
        return OnnxValue(var, (1, *w.shape(var)))
    kind = Conv1d if len(kernel) == 1 else Conv2d
    settings = (tuple(strides), tuple(before), tuple(dilations), w.attribute("group", 1))
    var = w.emit(kind(weight, bias, *settings), var)
    return OnnxValue(var, (1, *w.shape(var)))


@onnx_operator("ConvTranspose")
def _conv_transpose(w: OnnxWalker, x: Operand, weight: Operand, bias: Operand = None) -> OnnxValue:
    x, weight, bias, kernel = _convolved(w, x, weight, bias)
    spatial = len(kernel)
    strides, dilations, before, after = window_settings(w, [1] * spatial, kernel)
    beyond = w.attribute("output_padding") or [0] * spatial
    sizes = x.shape[2:]
    wanted, auto = w.attribute("output_shape"), w.attribute("auto_pad", "NOTSET")
    reach = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(sizes, strides, kernel, dilations, strict=True)]
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)]
    if wanted is not None:
        wanted = wanted[-spatial:]
        totals = [r + b - n for r, b, n in zip(reach, beyond, wanted, strict=True)]
        if min(totals) < 0:
            raise w.unsupported(f"its output_shape {wanted} is larger than what it computes")
        before = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals]
        after = [t - b for t, b in zip(totals, before, strict=True)]
    var = w.batched(x, 3)
    padding = tuple(before) if before == after else (0,) * spatial
    settings = (tuple(strides), padding, tuple(beyond), tuple(dilations))
    op: Operator
    if spatial == 3:
        names = ("stride", "padding", "output_padding", "dilation")
        w.check_size((weight.shape[1] * w.attribute("group", 1) * math.prod(reach),))
        each = dict(zip(names, settings, strict=True))
        op = ConvTranspose3d(weight, bias, **each, groups=w.attribute("group", 1))
    else:
        kind = ConvTranspose1d if spatial == 1 else ConvTranspose2d
        op = kind(weight, bias, *settings, w.attribute("group", 1))
    var = w.emit(op, var)
    if before != after:
        var = w.emit(Pad([-n for n in around(before, after)]), var)
    return OnnxValue(var, (1, *w.shape(var)))


@onnx_operator("BatchNormalization")
def _batch_norm(w: OnnxWalker, x: Operand, scale: Operand, bias: Operand, mean: Operand, var: Operand) -> OnnxValue:
    if not isinstance(x, OnnxValue) or w.attribute("spatial", 1) != 1:
        raise w.unsupported("its statistics must be constants, one per channel")
    assert w.node is not None
    if w.attribute("training_mode", 0) or any(list(w.node.output)[1:]):
        raise ModelError(f"{w.unsupported('it behaves as in training')} Export the model in eval mode.")
    given = zip((scale, bias, mean, var), ("scale", "bias", "mean", "variance"), strict=True)
    factor, moved, center, spread = tensors = [w.weights(t, what) for t, what in given]
    if len(x.shape) < 2 or any(tuple(t.shape) != (x.shape[1],) for t in tensors):
        raise ModelError(str(w.unsupported(f"its statistics do not fit an input of shape {list(x.shape)}")))
    op = BatchNorm(factor, moved, center, spread, w.attribute("epsilon", _EPSILON))
    if x.shape[0] == 1:
        return OnnxValue(w.emit(op, x.var), x.shape)
    order = [1, 0, *range(2, len(x.shape))]
    return w.value(w.emit(Permute(order), w.emit(op, w.emit(Permute(order), x.var))), x.shape)


# --- arithmetic ------------------------------------------------------------------------------------------------------


def _chain(w: OnnxWalker, function: Any, operands: Sequence[Operand]) -> Any:
    """function(... function(a, b) ..., z) over operands, constants computed among themselves first."""
    if any(o is None for o in operands) or not operands:
        raise ModelError(str(w.unsupported("an operand is missing")))
    result: Any = operands[0]
    for operand in operands[1:]:
        result = w.elementwise(function, result, operand)  # type: ignore[arg-type]
    return result


def _first_values(operands: Sequence[Operand]) -> list[Operand]:
    """Values before constants, so that each step of a chain has a value."""
    return sorted(operands, key=lambda o: not isinstance(o, OnnxValue))


@onnx_operator("Add", "Sum")
def _sum(w: OnnxWalker, *operands: Operand) -> Any:
    if len(operands) == 2:
        biased = _biased(w, *_first_values(operands))
        if biased is not None:
            return biased
    return _chain(w, w.sum, _first_values(operands))


def _biased(w: OnnxWalker, x: Operand, bias: Operand) -> OnnxValue | None:
    """The sum as the bias of the layer that x is, where it is one without."""
    if not isinstance(x, OnnxValue) or not isinstance(bias, Tensor):
        return None
    node = w.builder.nodes[x.var.index]
    if not isinstance(node.op, Linear) or node.op.offset is not None:
        return None
    size = node.op.weight.shape[0]
    if x.shape[-1:] != (size,) or bias.numel() != size or bias.shape[-1:] != (size,) or bias.dim() > len(x.shape):
        return None
    op = Linear(node.op.weight, w.weights(bias, "operand").reshape(-1))
    return OnnxValue(w.emit(op, Var(node.parents[0])), x.shape)


@onnx_operator("Mean")
def _mean(w: OnnxWalker, *operands: Operand) -> Any:
    total = _chain(w, w.sum, _first_values(operands))
    return w.elementwise(lambda v: w.with_constant(Divide, v, float(len(operands))), total)


@onnx_operator("Sub")
def _sub(w: OnnxWalker, x: Operand, y: Operand) -> Any:
    return _chain(w, w.difference, (x, y))


@onnx_operator("Max")
def _max(w: OnnxWalker, *operands: Operand) -> Any:
    return _chain(w, w.larger, _first_values(operands))


@onnx_operator("Min")
def _min(w: OnnxWalker, *operands: Operand) -> Any:
    return _chain(w, w.smaller, _first_values(operands))


@onnx_operator("Mul")
def _mul(w: OnnxWalker, x: Operand, y: Operand) -> OnnxValue:
    if isinstance(x, OnnxValue) and isinstance(y, OnnxValue):
        return w.elementwise(w.product, x, y)
    value, factor = (x, y) if isinstance(x, OnnxValue) else (y, x)
    assert isinstance(value, OnnxValue)
    return w.elementwise(lambda v, c: w.with_constant(Multiply, v, c), value, w.weights(factor, "factor"))


@onnx_operator("Div")
def _div(w: OnnxWalker, x: Operand, y: Operand) -> OnnxValue:
    if isinstance(y, OnnxValue):
        dividend = w.weights(x, "dividend") if isinstance(x, Tensor) else x
        assert dividend is not None
        return w.elementwise(lambda a, b: quotient(w, a, b), dividend, y)
    divisor = w.weights(y, "divisor")
    x = w.dependent(x)
    if bool((divisor == 0).any()):
        raise ModelError(str(w.unsupported("it divides by zero")))
    return w.elementwise(lambda v, c: w.with_constant(Divide, v, c), x, divisor)


@onnx_operator("Where")
def _where(w: OnnxWalker, condition: Operand, x: Operand, y: Operand) -> OnnxValue:
    """By a constant condition: masks of zeros and ones, which round nothing."""
    assert x is not None and y is not None
    if isinstance(condition, OnnxValue):
        own = [w.weights(v, "operand") if isinstance(v, Tensor) else v for v in (x, y)]
        return w.elementwise(lambda c, a, b: chosen_by(w, c, a, b), condition, *own)
    mask = w.tensor(condition, "condition").to(w.dtype)
    endless: list[Tensor] = []

    def masked(operand: OnnxValue | Tensor, own: Tensor) -> OnnxValue | Tensor:  # [*shape]
        if isinstance(operand, Tensor):
            if bool((operand == -torch.inf).any()):
                endless.append((own != 0) & (operand == -torch.inf))
                operand = torch.where(operand == -torch.inf, torch.zeros_like(operand), operand)
            return w.weights(operand, "operand") * own
        return w.elementwise(lambda v, c: w.with_constant(Multiply, v, c), operand, own)

    result = w.elementwise(w.sum, masked(x, mask), masked(y, 1 - mask))
    for place in endless:
        result = w.elementwise(lambda v, c: w.with_endless(v, c), result, place)
    return result


@onnx_operator("Neg")
def _neg(w: OnnxWalker, x: Operand) -> OnnxValue:
    return _unary(w, Multiply(-1.0), x)


# --- activations -----------------------------------------------------------------------------------------------------


def _unary(w: OnnxWalker, op: Operator, x: Operand) -> OnnxValue:
    x = w.dependent(x)
    return OnnxValue(w.emit(op, x.var), x.shape)


onnx_operator("Relu")(lambda w, x: _unary(w, ReLU(), x))
onnx_operator("Abs")(lambda w, x: _unary(w, Abs(), x))
onnx_operator("Sigmoid")(lambda w, x: OnnxValue(sigmoid(w, w.dependent(x).var), x.shape))
onnx_operator("Tanh")(lambda w, x: _unary(w, Tanh(), x))
onnx_operator("LeakyRelu")(lambda w, x: _unary(w, LeakyReLU(w.attribute("alpha", _ALPHA)), x))


@onnx_operator("PRelu")
def _prelu(w: OnnxWalker, x: Operand, slope: Operand) -> OnnxValue:
    slopes = w.weights(slope, "slope")
    x = w.dependent(x)
    if bool((slopes == slopes.flatten()[0]).all()):
        return _unary(w, LeakyReLU(float(slopes.flatten()[0])), x)
    return w.elementwise(lambda v, c: prelu(w, v, c), x, slopes)


@onnx_operator("Clip")
def _clip(w: OnnxWalker, x: Operand, low: Operand = None, high: Operand = None) -> OnnxValue:
    old = w.opset < 11
    limits = [w.attribute("min"), w.attribute("max")] if old else [_limit(w, low), _limit(w, high)]
    if any(v is not None and math.isnan(v) for v in limits):
        raise w.unsupported("a limit is NaN")
    bottom, top = (None if v is None or abs(v) >= torch.finfo(w.dtype).max else v for v in limits)
    if bottom is not None and top is not None and bottom > top:
        raise w.unsupported(f"its limits {bottom} and {top} are in the wrong order")
    if ((limits[0] or 0) > 0 and bottom is None) or ((limits[1] or 0) < 0 and top is None):
        raise w.unsupported(f"its limits {limits} leave no finite value")
    x = w.dependent(x)
    if bottom is None and top is None:
        return x
    return _unary(w, ReLU() if (bottom, top) == (0.0, None) else Clip(bottom, top), x)


def _limit(w: OnnxWalker, value: Operand) -> float | None:
    if value is None:
        return None
    tensor = w.tensor(value, "limit")
    if tensor.numel() != 1 or tensor.dtype != w.dtype:
        raise w.unsupported("its limits must be single numbers of the model's precision")
    return float(tensor)
