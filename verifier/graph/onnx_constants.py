"""What an ONNX model computes from constants alone, and the shapes of its values: computed at import."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph.onnx_file import stored_tensor
from verifier.graph.onnx_moves import MOVES
from verifier.graph.onnx_runtime import session
from verifier.graph.onnx_walker import OnnxWalker, Operand
from verifier.ops.handlers import ONNX as HANDLERS
from verifier.ops.handlers import onnx_operator

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# fmt: off
#: computed by onnxruntime itself: their results have no more entries than `_broadcasting` says
_ELEMENTWISE = frozenset((
    "Abs", "Add", "And", "ArgMax", "ArgMin", "BitShift", "Ceil", "Clip", "Cos", "CumSum", "DequantizeLinear",
    "Div", "Equal", "Erf", "Exp", "Floor", "GatherElements", "Greater", "GreaterOrEqual",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare", "Relu", "Round", "ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin", "Softmax",
    "Sqrt", "Sub", "Sum", "Tanh", "Trilu", "Where", "Xor",
))
# fmt: on

#: of these, what selects among numbers or changes their signs, without rounding
_SELECTING = frozenset(
    ("Abs", "Clip", "GatherElements", "Max", "Min", "Neg", "Relu", "ScatterElements", "Trilu", "Where")
)


@onnx_operator("Shape")
def _shape(w: OnnxWalker, x: Operand) -> Tensor:  # [rank] int64
    assert x is not None
    shape = list(x.shape)
    last = w.attribute("end")
    return torch.tensor(shape[slice(w.attribute("start", 0), last)], dtype=torch.int64)


@onnx_operator("Size")
def _size(w: OnnxWalker, x: Operand) -> Tensor:  # [] int64
    assert x is not None
    return torch.tensor(math.prod(x.shape), dtype=torch.int64)


def folded(w: OnnxWalker, inputs: list[Any]) -> Any:
    """The results of the current operator, which reads constants alone."""
    node = w.node
    assert node is not None
    kind = node.op_type
    if kind == "Constant":
        return _constant(w, node)
    if kind == "ConstantOfShape":
        return _filled(w, inputs)
    if kind == "Range":
        return _range(w, inputs)
    if kind in MOVES or kind in ("Shape", "Size"):
        handler = HANDLERS[kind]
        w.check_inputs(handler, inputs)
        return handler(w, *inputs)
    if kind == "Concat":
        rank = inputs[0].dim()
        w.check_size((sum(t.numel() for t in inputs),), constant=True)
        return torch.cat(inputs, w.axis(w.attribute("axis", 0), rank))
    if kind in _ELEMENTWISE:
        results = _by_runtime(w, node, inputs)
        w.computed |= kind not in _SELECTING and any(t.is_floating_point() for t in results)
        return results
    if kind in ("If", "Loop", "Scan"):
        raise w.unsupported("control flow is not followed")
    w.computed = True
    return _by_runtime(w, node, inputs, inferred=True)


def _constant(w: OnnxWalker, node: NodeProto) -> Tensor:  # [*shape]
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        value = w.attribute(name)
        if value is not None:
            if isinstance(value, Tensor):
                return value
            return torch.tensor(value, dtype=torch.float32 if "float" in name else torch.int64)
    raise w.unsupported("it holds no numbers")


def _filled(w: OnnxWalker, inputs: list[Any]) -> Tensor:  # [*shape]
    shape = w.integers(inputs[0] if inputs else None, "shape")
    if min(shape, default=0) < 0:
        raise ModelError(str(w.unsupported(f"shape {shape}")))
    value = w.attribute("value", torch.zeros(1))
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ModelError(str(w.unsupported("its value must be one number")))
    return torch.full(w.check_size(shape, constant=True), value.item(), dtype=value.dtype)


def _range(w: OnnxWalker, inputs: list[Any]) -> Tensor:  # [n]
    start, limit, step = (w.tensor(t, "limits") for t in (*inputs, None, None, None)[:3])
    if any(t.numel() != 1 or t.dtype not in (torch.int32, torch.int64) for t in (start, limit, step)) or not step:
        raise w.unsupported("only ranges of integers are computed")
    numbers = range(int(start), int(limit), int(step))
    w.check_size((len(numbers),), constant=True)
    return torch.arange(int(start), int(limit), int(step), dtype=start.dtype) if numbers else start.new_empty(0)


def _by_runtime(w: OnnxWalker, node: NodeProto, inputs: list[Any], inferred: bool = False) -> list[Tensor]:
    """The operator as a model of its own, run by onnxruntime: its own arithmetic, its own rounding."""
    from onnx import helper, numpy_helper

    if not inferred:
        if not inputs or (any(t is None for t in inputs) and node.op_type != "Clip"):  # onnxruntime fails hard there
            raise ModelError(str(w.unsupported("an input that it needs is missing")))
        w.check_size(np.broadcast_shapes(*_broadcasting(node, inputs)), constant=True)
    for attribute in node.attribute:
        w._attribute(attribute)  # refuses graphs and the like
    given = {name: value for name, value in zip(node.input, inputs, strict=True) if isinstance(value, Tensor)}
    stored = [numpy_helper.from_array(value.contiguous().numpy(), name) for name, value in given.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "constant", [], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", w.opset)], ir_version=8)
    if w.opset > 18:
        model.ir_version = w.model.ir_version
    if inferred:
        _check_inferred(w, model)
    arrays = session(model.SerializeToString(), str(w.unsupported("onnxruntime cannot compute it"))).run(None, {})
    return [stored_tensor(numpy_helper.from_array(array), f"the result of {w.label!r}") for array in arrays]


def _check_inferred(w: OnnxWalker, model: ModelProto) -> None:
    """Refuses a model of one operator whose results' sizes are not known, or too large, before it is run."""
    from onnx import shape_inference

    try:
        found = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph.output
    except Exception as error:  # onnx documents no exceptions of its own
        raise w.unsupported("it is not among the supported operators", list_all=True) from error
    for output in found:
        dims = output.type.tensor_type.shape.dim
        if not output.type.tensor_type.HasField("shape") or any(not d.HasField("dim_value") for d in dims):
            raise w.unsupported("it does not depend on the input, and the size of its result is not known ahead")
        w.check_size([d.dim_value for d in dims], constant=True)


def _broadcasting(node: NodeProto, inputs: list[Any]) -> list[tuple[int, ...]]:
    """Shapes whose broadcast has as many entries as the result, or more."""
    shapes = [tuple(t.shape) for t in inputs if isinstance(t, Tensor)]
    unlike = node.op_type.startswith(("Reduce", "Gather", "Scatter", "CumSum", "Arg", "Trilu", "Dequantize"))
    return [(sum(math.prod(s) for s in shapes),)] if unlike else shapes
