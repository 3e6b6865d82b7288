"""ONNX operators on conditions: comparisons, logic, casts between numbers of different kinds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verifier.graph.compositions import conditions as made
from verifier.graph.onnx_walker import OnnxValue, OnnxWalker, Operand
from verifier.ops.handlers import Handler, onnx_operator


def _numbers(w: OnnxWalker, operand: Operand) -> OnnxValue | Tensor:  # [*shape]
    """An operand of a comparison: conditions and whole numbers are numbers."""
    if isinstance(operand, Tensor):
        return w.weights(operand if operand.is_floating_point() else operand.to(w.dtype), "operand")
    assert operand is not None
    return operand


def _comparison(kind: str) -> Handler:
    def handler(w: OnnxWalker, x: Operand, y: Operand) -> OnnxValue:
        return _condition(w.elementwise(lambda a, b: made.compared(w, kind, a, b), _numbers(w, x), _numbers(w, y)))

    return handler


def _combination(kind: str) -> Handler:
    def handler(w: OnnxWalker, x: Operand, y: Operand) -> OnnxValue:
        assert x is not None and y is not None
        return _condition(w.elementwise(lambda a, b: made.combined(w, kind, a, b), x, y))

    return handler


onnx_operator("Greater")(_comparison("gt"))
onnx_operator("GreaterOrEqual")(_comparison("ge"))
onnx_operator("Less")(_comparison("lt"))
onnx_operator("LessOrEqual")(_comparison("le"))
onnx_operator("Equal")(_comparison("eq"))
for _name in ("And", "Or", "Xor"):
    onnx_operator(_name)(_combination(_name.lower()))


@onnx_operator("Not")
def _negated(w: OnnxWalker, x: Operand) -> OnnxValue:
    x = w.dependent(x)
    return _condition(OnnxValue(made.negated(w, x.var), x.shape))


def _condition(value: OnnxValue) -> OnnxValue:
    return OnnxValue(value.var, value.shape, torch.bool)


@onnx_operator("Cast")
def _cast(w: OnnxWalker, x: Operand) -> Any:
    from onnx import TensorProto

    to = w.attribute("to")
    dtypes = {
        TensorProto.FLOAT: torch.float32,
        TensorProto.DOUBLE: torch.float64,
        TensorProto.INT32: torch.int32,
        TensorProto.INT64: torch.int64,
        TensorProto.BOOL: torch.bool,
    }
    if to not in dtypes:
        raise w.unsupported("it makes numbers of a kind that is not computed with here")
    target = dtypes[to]
    if not isinstance(x, OnnxValue):
        return w.tensor(x, "input").to(target)
    if target.is_floating_point:
        if target != w.dtype:
            raise w.unsupported(f"it changes the precision from {w.dtype}")
        return OnnxValue(x.var, x.shape)
    if target == torch.bool:
        return _condition(x if x.kind == torch.bool else OnnxValue(made.compared(w, "ne", x.var, 0.0), x.shape))
    return OnnxValue(made.truncated(w, x.var) if x.kind is None else x.var, x.shape, target)
