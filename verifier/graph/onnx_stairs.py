"""ONNX operators that jump: thresholds, shrinking, remainders, quantisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifier.graph.compositions import stairs as made
from verifier.graph.onnx_functions import unary
from verifier.graph.onnx_walker import OnnxValue, OnnxWalker, Operand
from verifier.ops.elementwise import Divide, Multiply, Shift
from verifier.ops.gates import SiLU
from verifier.ops.handlers import onnx_operator


@onnx_operator("Shrink")
def _shrink(w: OnnxWalker, x: Operand) -> OnnxValue:
    limit, bias = w.attribute("lambd", 0.5), w.attribute("bias", 0.0)
    return unary(w, x, lambda v: made.shrink(w, v, limit, bias))


@onnx_operator("ThresholdedRelu")
def _thresholded(w: OnnxWalker, x: Operand) -> OnnxValue:
    limit = w.attribute("alpha", 1.0)
    return unary(w, x, lambda v: made.threshold(w, v, limit, 0.0))


@onnx_operator("Swish")
def _swish(w: OnnxWalker, x: Operand) -> OnnxValue:
    """x sigmoid(alpha x)."""
    alpha = w.attribute("alpha", 1.0)
    if alpha == 0:
        return unary(w, x, lambda v: w.emit(Multiply(0.5), v))
    return unary(w, x, lambda v: w.scaled(w.emit(SiLU(), w.scaled(v, alpha)), 1 / alpha))


@onnx_operator("Mod")
def _mod(w: OnnxWalker, x: Operand, divisor: Operand) -> OnnxValue:
    given = w.weights(divisor, "divisor")
    if given.numel() != 1 or given.dim() > len(w.dependent(x).shape):
        raise w.unsupported("its divisor must be one constant number")
    return unary(w, x, lambda v: made.remainder(w, v, float(given), bool(w.attribute("fmod", 0))))


#: the numbers of the integer types of activations
_LIMITS = {torch.uint8: (0, 255), torch.int8: (-128, 127)}


@onnx_operator("QuantizeLinear")
def _quantised(w: OnnxWalker, x: Operand, scale: Operand, zero: Operand = None) -> OnnxValue:
    """clip(round(x / scale) + zero, low, high), whole numbers."""
    x = w.dependent(x)
    kind = torch.uint8 if zero is None else w.tensor(zero, "zero point").dtype
    if kind not in _LIMITS or w.attribute("output_dtype", 0) or w.attribute("block_size", 0):
        raise w.unsupported("only quantisation to 8 bits is computed")
    scales, zeros = _along(w, x, w.weights(scale, "scale")), _along(w, x, _zero(w, zero))
    if bool((scales <= 0).any()):
        raise w.unsupported("its scale must be positive")
    first = zeros.flatten()[0]
    if not bool((zeros == first).all()):
        raise w.unsupported("its zero points differ")
    low, high = (float(limit - first) for limit in _LIMITS[kind])
    value = w.elementwise(
        lambda v, s: w.emit(Shift(float(first)), made.quantised(w, w.with_constant(Divide, v, s), low, high)), x, scales
    )
    return OnnxValue(value.var, value.shape, kind)


@onnx_operator("DequantizeLinear")
def _dequantised(w: OnnxWalker, x: Operand, scale: Operand, zero: Operand = None) -> OnnxValue:
    """(x - zero) scale."""
    x = w.dependent(x)
    if x.kind not in _LIMITS or w.attribute("block_size", 0):
        raise w.unsupported("only quantisation to 8 bits is computed")
    scales, zeros = _along(w, x, w.weights(scale, "scale")), _along(w, x, _zero(w, zero))
    shifted = w.elementwise(lambda v, c: w.with_constant(Shift, v, -c), x, zeros)
    return w.elementwise(lambda v, c: w.with_constant(Multiply, v, c), shifted, scales)


def _zero(w: OnnxWalker, zero: Operand) -> Tensor:
    return torch.zeros((), dtype=w.dtype) if zero is None else w.tensor(zero, "zero point").to(w.dtype)


def _along(w: OnnxWalker, x: OnnxValue, values: Tensor) -> Any:  # [] or [n] -> broadcasts to the value's shape
    if values.numel() == 1:
        return values.reshape(())
    axis = w.axis(w.attribute("axis", 1), len(x.shape))
    return values.reshape(-1, *(1,) * (len(x.shape) - 1 - axis))
