"""ONNX operators that pool and reduce."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph.onnx_layers import around, window_settings
from verifier.graph.onnx_walker import OnnxValue, OnnxWalker, Operand, own_shape
from verifier.ops.elementwise import Divide, Multiply
from verifier.ops.handlers import onnx_operator
from verifier.ops.pad import Pad
from verifier.ops.pool import AveragePool, Reduce, inside_taps, pool_index
from verifier.ops.shape import Reshape


def _counts(
    w: OnnxWalker, sizes: Sequence[int], kernel: Sequence[int], settings: tuple[list[int], ...]
) -> tuple[list[int], list[int]]:
    """Windows per dimension, and the padding after it that they reach into."""
    strides, dilations, before, after = settings
    ceil = bool(w.attribute("ceil_mode", 0)) and not w.attribute("auto_pad", "NOTSET").startswith("SAME")
    counts, reached = [], []
    for n, k, s, d, p, q in zip(sizes, kernel, strides, dilations, before, after, strict=True):
        reach = n + p + q - d * (k - 1) - 1
        count = (-(-reach // s) if ceil else reach // s) + 1
        if ceil and (count - 1) * s >= n + p:
            count -= 1  # the last window would start in the padding after the input
        if count < 1:
            raise ModelError(str(w.unsupported(f"a window of {k} over {n} entries has no output")))
        counts.append(count)
        reached.append((count - 1) * s + d * (k - 1) + 1 - n - p)
    return counts, reached


def _kernel(w: OnnxWalker, x: OnnxValue) -> list[int]:
    kernel = w.attribute("kernel_shape")
    if not kernel or len(kernel) != len(x.shape) - 2:
        raise ModelError(
            str(w.unsupported(f"its kernel_shape {kernel} does not fit an input of shape {list(x.shape)}"))
        )
    return list(kernel)


@onnx_operator("MaxPool")
def _max_pool(w: OnnxWalker, x: Operand) -> OnnxValue:
    x = w.dependent(x)
    kernel = _kernel(w, x)
    sizes = x.shape[2:]
    settings = window_settings(w, sizes, kernel)
    counts, _ = _counts(w, sizes, kernel, settings)
    w.check_size((*x.shape[:2], *counts, *kernel))
    axes = []
    for n, m, k, s, d, p in zip(sizes, counts, kernel, *settings[:3], strict=True):
        axes.append(inside_taps(torch.arange(m)[:, None] * s - p + torch.arange(k) * d, n))
    var = w.maximum(x.var, pool_index(w.shape(x.var), axes))
    return OnnxValue(var, (*x.shape[:2], *counts))


@onnx_operator("AveragePool")
def _average_pool(w: OnnxWalker, x: Operand) -> OnnxValue:
    x = w.dependent(x)
    kernel = _kernel(w, x)
    if len(kernel) not in (1, 2):
        raise w.unsupported(f"average pooling over {len(kernel)} dimensions; one and two are supported")
    sizes = x.shape[2:]
    settings = window_settings(w, sizes, kernel)
    strides, dilations, before, after = settings
    if any(d != 1 for d in dilations):
        raise w.unsupported("average pooling with dilations")
    counts, reached = _counts(w, sizes, kernel, settings)
    full = w.check_size((*x.shape[:2], *counts, *kernel))[: len(x.shape)]
    with_padding = bool(w.attribute("count_include_pad", 0))
    var = w.reshaped(x.var, (x.shape[0] * x.shape[1], *sizes))
    padded = any(before) or any(after)
    if not padded and max(reached) <= 0:
        return w.value(w.emit(AveragePool(tuple(kernel), tuple(strides)), var), full)
    fits = all(2 * b <= k for b, k in zip(before, kernel, strict=True))  # what PyTorch takes
    if before == after and fits and not w.attribute("ceil_mode", 0):
        op = AveragePool(tuple(kernel), tuple(strides), tuple(before), False, with_padding)
        return w.value(w.emit(op, var), full)
    # sums of windows over zeros, divided by what each window counts
    each = zip(sizes, counts, kernel, strides, before, after, strict=True)
    counted = [_counted(n, m, k, s, b, a, with_padding) for n, m, k, s, b, a in each]
    divisor = counted[0] if len(counted) == 1 else counted[0][:, None] * counted[1]
    var = w.emit(Pad(around(before, [max(r, 0) for r in reached])), var)
    means = w.emit(AveragePool(tuple(kernel), tuple(strides)), var)
    factor = (math.prod(kernel) / divisor).to(w.dtype)
    if bool((factor != 1).any()):
        w.rounds("averages over windows of several sizes")
        means = w.with_constant(Divide, w.emit(Multiply(float(math.prod(kernel))), means), divisor.to(w.dtype))
    return w.value(means, full)


def _counted(size: int, count: int, kernel: int, stride: int, before: int, after: int, with_padding: bool) -> Tensor:
    """How many entries each window of one dimension counts, [count]."""
    taps = torch.arange(count)[:, None] * stride - before + torch.arange(kernel)
    low, high = (-before, size + after) if with_padding else (0, size)
    return ((taps >= low) & (taps < high)).sum(1)


@onnx_operator("GlobalAveragePool")
def _global_average(w: OnnxWalker, x: Operand) -> OnnxValue:
    x = w.dependent(x)
    return _reduced(w, x, list(range(2, len(x.shape))), True, True)


@onnx_operator("GlobalMaxPool")
def _global_max(w: OnnxWalker, x: Operand) -> OnnxValue:
    x = w.dependent(x)
    return _largest(w, x, list(range(2, len(x.shape))), True)


def _axes(w: OnnxWalker, x: OnnxValue, given: Operand, since: int) -> list[int] | None:
    """The axes to reduce, all where none are named; None where there is nothing to do."""
    if w.opset >= since:
        named = [] if given is None else w.integers(given, "axes")
        if not named and w.attribute("noop_with_empty_axes", 0):
            return None
    else:
        named = w.attribute("axes") or []
    return sorted(w.axes(named, len(x.shape))) or list(range(len(x.shape)))


def _reduced(w: OnnxWalker, x: OnnxValue, axes: list[int], keep: bool, mean: bool) -> OnnxValue:
    lead = len(x.shape) > 1 and x.shape[0] == 1
    own = [a - lead for a in axes if not (lead and a == 0)]
    var = w.emit(Reduce(own, True, mean), x.var) if own else x.var
    return w.value(var, _kept(x, axes, keep))


def _kept(x: OnnxValue, axes: list[int], keep: bool) -> tuple[int, ...]:
    return tuple(1 if a in axes else n for a, n in enumerate(x.shape) if keep or a not in axes)


@onnx_operator("ReduceMean")
def _reduce_mean(w: OnnxWalker, x: Operand, axes: Operand = None) -> OnnxValue:
    x = w.dependent(x)
    named = _axes(w, x, axes, 18)
    return x if named is None else _reduced(w, x, named, bool(w.attribute("keepdims", 1)), True)


@onnx_operator("ReduceSum")
def _reduce_sum(w: OnnxWalker, x: Operand, axes: Operand = None) -> OnnxValue:
    x = w.dependent(x)
    named = _axes(w, x, axes, 13)
    return x if named is None else _reduced(w, x, named, bool(w.attribute("keepdims", 1)), False)


@onnx_operator("ReduceMax")
def _reduce_max(w: OnnxWalker, x: Operand, axes: Operand = None) -> OnnxValue:
    x = w.dependent(x)
    named = _axes(w, x, axes, 18)
    return x if named is None else _largest(w, x, named, bool(w.attribute("keepdims", 1)))


@onnx_operator("ReduceMin")
def _reduce_min(w: OnnxWalker, x: Operand, axes: Operand = None) -> OnnxValue:
    x = w.dependent(x)
    named = _axes(w, x, axes, 18)
    if named is None:
        return x
    negative = OnnxValue(w.emit(Multiply(-1.0), x.var), x.shape)
    largest = _largest(w, negative, named, bool(w.attribute("keepdims", 1)))
    return OnnxValue(w.emit(Multiply(-1.0), largest.var), largest.shape)


def _largest(w: OnnxWalker, x: OnnxValue, axes: list[int], keep: bool) -> OnnxValue:
    """The maximum over some dimensions, by the tree of a max pool."""
    rest = [a for a in range(len(x.shape)) if a not in axes]
    numbers = torch.arange(math.prod(x.shape)).reshape(x.shape).permute(*axes, *rest)
    shape = _kept(x, axes, keep)
    index = numbers.reshape(-1, *own_shape(shape))
    var = w.maximum(x.var, index)
    return OnnxValue(var if w.shape(var) == own_shape(shape) else w.emit(Reshape(own_shape(shape)), var), shape)
