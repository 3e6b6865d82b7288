"""Each ONNX operator against onnxruntime, in the variants that the operator sets brought."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
from helpers.onnx_models import floats, ints, model, one, weights
from onnx import ModelProto, TensorProto, helper

from verifier.graph.onnx_model import OnnxModel
from verifier.graph.onnx_walker import supported_onnx_operators

IMAGE = (1, 2, 5, 6)
W = weights


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, outputs, **attributes)


def _resize(*rest: Any, shape: tuple[int, ...] = IMAGE, opset: int = 13, **attributes: Any) -> ModelProto:
    return one("Resize", shape, ("x", *rest), opset, **attributes)


def _condition(nodes: list[Any]) -> ModelProto:
    """A condition `a` of x, as numbers."""
    constants = {"b": W(4), "z": floats(0), "t": np.array([True, False, True, False])}
    return model([*nodes, _node("Cast", ["a"], ["y"], to=TensorProto.FLOAT)], (1, 4), constants)


CASES: dict[str, ModelProto] = {
    # products
    "gemm": one("Gemm", (1, 4), ("x", W(4, 3), W(3))),
    "gemm, batch open": one("Gemm", ("N", 4), ("x", W(4, 3), W(3))),
    "gemm, no bias": one("Gemm", (1, 4), ("x", W(4, 3)), 11),
    "gemm, alpha beta trans": one("Gemm", (1, 4), ("x", W(3, 4), W(1, 3)), alpha=0.5, beta=2.0, transB=1),
    "gemm, transA": one("Gemm", (4, 1), ("x", W(4, 3), W(1, 1)), transA=1),
    "gemm, rows": one("Gemm", (5, 4), ("x", W(4, 3), W(5, 1))),
    "gemm, rows, square bias": one("Gemm", (3, 4), ("x", W(4, 3), W(3, 3)), 7),
    "gemm, constant left": one("Gemm", (4, 2), (W(3, 4), "x", W(2)), alpha=0.3),
    "gemm, bias depends": one("Gemm", (1, 3), (W(2, 4), W(4, 3), "x"), alpha=0.3, beta=-1.5),
    "gemm, scalar bias": one("Gemm", (1, 4), ("x", W(4, 3), np.float32(0.7))),
    "matmul": one("MatMul", (1, 4), ("x", W(4, 3))),
    "matmul, vector matrix": one("MatMul", (4,), ("x", W(4, 3))),
    "matmul, vector vector": one("MatMul", (4,), ("x", W(4))),
    "matmul, matrix vector": one("MatMul", (3, 4), ("x", W(4))),
    "matmul, batch vector": one("MatMul", (1, 4), ("x", W(4))),
    "matmul, left": one("MatMul", (4, 3), (W(2, 4), "x")),
    "matmul, left of a vector": one("MatMul", (4,), (W(2, 4), "x")),
    "matmul, vector left": one("MatMul", (4, 3), (W(4), "x")),
    "matmul, left, batch": one("MatMul", (1, 4, 3), (W(2, 4), "x")),
    "matmul, images": one("MatMul", (1, 2, 3, 4), ("x", W(4, 3))),
    "matmul, constant of rank 3": one("MatMul", (1, 4), ("x", W(1, 4, 3))),
    "matmul, vector by rank 3": one("MatMul", (4,), ("x", W(1, 4, 3))),
    "matmul, batched constant": one("MatMul", (1, 2, 4), ("x", W(3, 4, 2))),
    "matmul, batched both": one("MatMul", (3, 2, 4), ("x", W(3, 4, 2))),
    "matmul, batched left": one("MatMul", (1, 4, 2), (W(3, 5, 4), "x")),
    "matmul, vector by batch": one("MatMul", (4,), ("x", W(3, 4, 2))),
    "matmul, batch by vector": one("MatMul", (4, 2), (W(3, 5, 4), "x")),
    "matmul, column": one("MatMul", (1, 1), ("x", W(1, 3))),
    # convolutions
    "conv": one("Conv", IMAGE, ("x", W(3, 2, 3, 3), W(3)), pads=[1, 1, 1, 1]),
    "conv, no bias": one("Conv", IMAGE, ("x", W(3, 2, 3, 2)), kernel_shape=[3, 2], strides=[2, 1]),
    "conv, asymmetric": one("Conv", IMAGE, ("x", W(3, 2, 3, 3), W(3)), pads=[0, 1, 2, 1], strides=[2, 2]),
    "conv, dilated": one("Conv", IMAGE, ("x", W(3, 2, 2, 3), W(3)), dilations=[3, 2]),
    "conv, groups": one("Conv", (1, 4, 5, 5), ("x", W(6, 2, 3, 3), W(6)), group=2),
    "conv, same upper": one("Conv", IMAGE, ("x", W(3, 2, 4, 2)), auto_pad="SAME_UPPER", strides=[2, 3]),
    "conv, same lower": one("Conv", IMAGE, ("x", W(3, 2, 4, 2)), auto_pad="SAME_LOWER"),
    "conv, valid": one("Conv", IMAGE, ("x", W(3, 2, 4, 2)), auto_pad="VALID"),
    "conv 1d": one("Conv", (1, 2, 7), ("x", W(3, 2, 3), W(3)), pads=[2, 0], strides=[2]),
    "conv, batch open": one("Conv", ("N", 2, 5, 6), ("x", W(3, 2, 3, 3), W(3)), 7),
    "transposed": one("ConvTranspose", IMAGE, ("x", W(2, 3, 3, 3), W(3)), strides=[2, 2], pads=[1, 1, 1, 1]),
    "transposed, volumes": one(
        "ConvTranspose", (1, 2, 2, 3, 3), ("x", W(2, 3, 2, 2, 3), W(3)), strides=[2, 1, 2], pads=[1, 0, 1, 1, 0, 1]
    ),
    "transposed, padded": one(
        "ConvTranspose", IMAGE, ("x", W(2, 3, 3, 3), W(3)), strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1]
    ),
    "transposed, asymmetric": one(
        "ConvTranspose", IMAGE, ("x", W(2, 3, 3, 3), W(3)), strides=[2, 2], pads=[0, 1, 1, 0], output_padding=[1, 0]
    ),
    "transposed, output shape": one(
        "ConvTranspose", IMAGE, ("x", W(2, 3, 3, 3), W(3)), strides=[2, 2], output_shape=[10, 12]
    ),
    "transposed, same": one("ConvTranspose", IMAGE, ("x", W(2, 3, 3, 3)), strides=[2, 2], auto_pad="SAME_UPPER"),
    "transposed, same lower": one("ConvTranspose", IMAGE, ("x", W(2, 3, 4, 3)), strides=[2, 3], auto_pad="SAME_LOWER"),
    "transposed, groups": one("ConvTranspose", (1, 4, 3, 3), ("x", W(4, 2, 2, 2)), group=2, dilations=[2, 1]),
    "transposed 1d": one("ConvTranspose", (1, 2, 4), ("x", W(2, 3, 3), W(3)), strides=[2]),
    # normalisation
    "batch norm": one("BatchNormalization", IMAGE, ("x", W(2), W(2), W(2), np.abs(W(2)) + 0.1), epsilon=0.01),
    "batch norm, opset 7": one("BatchNormalization", IMAGE, ("x", W(2), W(2), W(2), np.abs(W(2)) + 0.1), 7),
    "batch norm, opset 15": one("BatchNormalization", (1, 4), ("x", W(4), W(4), W(4), np.abs(W(4)) + 0.1), 15),
    "batch norm, rows": one("BatchNormalization", (3, 4), ("x", W(4), W(4), W(4), np.abs(W(4)) + 0.1)),
    "dropout, opset 7": one("Dropout", (1, 4), opset=7, ratio=0.5),
    "dropout, opset 12": one("Dropout", (1, 4), ("x", np.float32(0.5)), 12),
    "dropout, said not to train": one("Dropout", (1, 4), ("x", np.float32(0.5), np.array(False)), 13),
    "identity": one("Identity", (1, 4)),
    # arithmetic
    "add": one("Add", IMAGE, ("x", W(2, 1, 1)), 7),
    "add, constant first": one("Add", (5,), (W(5), "x")),
    "add, widening": one("Add", (1, 4), ("x", W(3, 2, 1, 4))),
    "add, widening a vector": one("Add", (4,), ("x", W(3, 4))),
    "add, of itself": one("Add", (1, 4), ("x", "x")),
    "sub": one("Sub", IMAGE, ("x", W(1, 2, 1, 1))),
    "sub, from a constant": one("Sub", (1, 4), (W(4), "x")),
    "mul": one("Mul", IMAGE, ("x", W(6))),
    "mul, scalar": one("Mul", (1, 4), (np.float32(-2.5), "x")),
    "div": one("Div", IMAGE, ("x", np.abs(W(2, 1, 1)) + 0.1)),
    "neg": one("Neg", (1, 4)),
    "sum": one("Sum", (1, 4), ("x", W(4), "x", W(1, 4))),
    "sum of one": one("Sum", (1, 4)),
    "mean": one("Mean", (1, 4), ("x", W(4), "x")),
    "max": one("Max", (1, 4), ("x", W(4)), 8),
    "min": one("Min", (1, 4), (W(3, 4), "x"), 8),
    "max of three": model(
        [_node("Neg", ["x"], ["n"]), _node("Max", ["x", "n", "c"], ["y"])], (1, 4), {"c": W(4)}, opset=12
    ),
    "min of two values": model([_node("Neg", ["x"], ["n"]), _node("Min", ["x", "n"], ["y"])], (2, 4)),
    "values of two ranks": model(
        [_node("ReduceSum", ["x", "a"], ["s"], keepdims=0), _node("Sub", ["x", "s"], ["y"])], (1, 3, 4), {"a": ints(1)}
    ),
    "values that broadcast": model(
        [_node("ReduceMean", ["x"], ["s"], axes=[1]), _node("Sub", ["s", "x"], ["y"])], (1, 3, 4), opset=13
    ),
    "where": one("Where", (1, 4), (np.array([[True], [False], [True]]), "x", W(4))),
    "where, of a vector": one("Where", (4,), (np.array([True, False, False, True]), floats(0.5), "x"), 9),
    # conditions
    **{
        f"{kind.lower()}, cast": _condition([_node(kind, ["x", "b"], ["a"])])
        for kind in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    },
    "greater, constant first": _condition([_node("Greater", ["b", "x"], ["a"])]),
    "equal after relu": _condition([_node("Relu", ["x"], ["r"]), _node("Equal", ["r", "z"], ["a"])]),
    **{
        f"{kind.lower()} of conditions": _condition(
            [_node("Greater", ["x", "b"], ["f"]), _node("Less", ["x", "z"], ["g"]), _node(kind, ["f", "g"], ["a"])]
        )
        for kind in ("And", "Or", "Xor")
    },
    "and, constant": _condition([_node("Greater", ["x", "b"], ["f"]), _node("And", ["t", "f"], ["a"])]),
    "or, constant": _condition([_node("Greater", ["x", "b"], ["f"]), _node("Or", ["f", "t"], ["a"])]),
    "not": _condition([_node("Greater", ["x", "b"], ["f"]), _node("Not", ["f"], ["a"])]),
    "moved condition": _condition([_node("Greater", ["x", "b"], ["f"]), _node("Transpose", ["f"], ["a"], perm=[1, 0])]),
    "where, by a value": model(
        [_node("Greater", ["x", "b"], ["f"]), _node("Where", ["f", "x", "b"], ["y"])], (1, 4), {"b": W(4)}
    ),
    "where, of whole numbers": model(
        [
            _node("Greater", ["x", "b"], ["f"]),
            _node("Cast", ["x"], ["i"], to=TensorProto.INT64),
            _node("Where", ["f", "i", "i"], ["j"]),
            _node("Cast", ["j"], ["y"], to=TensorProto.FLOAT),
        ],
        (1, 4),
        {"b": W(4)},
    ),
    "cast to whole numbers": model(
        [
            _node("Mul", ["x", "c"], ["m"]),
            _node("Cast", ["m"], ["i"], to=TensorProto.INT32),
            _node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
        ],
        (1, 4),
        {"c": floats(3)},
    ),
    "cast to truth": _condition([_node("Relu", ["x"], ["r"]), _node("Cast", ["r"], ["a"], to=TensorProto.BOOL)]),
    # activations
    "relu": one("Relu", (1, 4)),
    "relu of a vector": one("Relu", (4,)),
    "leaky": one("LeakyRelu", (1, 4), alpha=0.3),
    "leaky, default": one("LeakyRelu", (1, 4), opset=7),
    "prelu": one("PRelu", IMAGE, ("x", np.abs(W(2, 1, 1)))),
    "prelu, one slope": one("PRelu", (1, 4), ("x", floats(0.3)), 9),
    "abs": one("Abs", (1, 4)),
    "sigmoid": one("Sigmoid", (1, 4)),
    "tanh": one("Tanh", (1, 4)),
    "clip, opset 7": one("Clip", (1, 4), opset=7, min=-0.3, max=0.4),
    "clip, opset 7, low": one("Clip", (1, 4), opset=7, min=0.0),
    "clip": one("Clip", (1, 4), ("x", np.float32(-0.3), np.float32(0.4)), 11),
    "clip, high": one("Clip", (1, 4), ("x", "", np.float32(0.4)), 13),
    "clip, nothing": one("Clip", (1, 4), ("x",), 13),
    # pooling
    "max pool": one("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], opset=8),
    "max pool, padded": one("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 2]),
    "max pool, ceil": one("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1),
    "max pool, dilated": one("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    "max pool, same": one("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    "max pool, same lower": one("MaxPool", IMAGE, kernel_shape=[2, 4], auto_pad="SAME_LOWER"),
    "max pool 1d": one("MaxPool", (1, 2, 7), kernel_shape=[3]),
    "max pool 3d": one("MaxPool", (1, 2, 3, 4, 3), kernel_shape=[2, 2, 2]),
    "max pool, no batch of one": one("MaxPool", (2, 2, 4, 4), kernel_shape=[2, 2]),
    "average": one("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[2, 1]),
    "average, padded": one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "average, padding counts": one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    "average, asymmetric": one("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 2, 0], strides=[2, 2]),
    "average, asymmetric counts": one(
        "AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 2, 0], strides=[2, 2], count_include_pad=1
    ),
    "average, ceil": one("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, opset=19),
    "average, ceil padded": one(
        "AveragePool", (1, 1, 7, 7), kernel_shape=[3, 3], strides=[2, 3], pads=[1, 1, 1, 1], ceil_mode=1, opset=19
    ),
    "average, ceil padding counts": one(
        "AveragePool",
        (1, 1, 6, 6),
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        ceil_mode=1,
        count_include_pad=1,
        opset=19,
    ),
    "average, same": one("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_UPPER", opset=7),
    "average 1d": one("AveragePool", (1, 2, 7), kernel_shape=[3], strides=[2]),
    "average, no batch of one": one("AveragePool", (3, 2, 4, 4), kernel_shape=[2, 2]),
    "global average": one("GlobalAveragePool", IMAGE),
    "global max": one("GlobalMaxPool", IMAGE),
    "reduce mean": one("ReduceMean", IMAGE, axes=[2, 3], keepdims=0),
    "reduce mean, opset 18": one("ReduceMean", IMAGE, ("x", ints(-1)), 18),
    "reduce mean, all": one("ReduceMean", IMAGE, keepdims=0),
    "reduce sum, opset 11": one("ReduceSum", IMAGE, opset=11, axes=[1]),
    "reduce sum": one("ReduceSum", IMAGE, ("x", ints(0, 2)), keepdims=0),
    "reduce sum, nothing": one("ReduceSum", IMAGE, ("x",), noop_with_empty_axes=1),
    "reduce sum, rows": one("ReduceSum", (3, 4), ("x", ints(0)), keepdims=0),
    "reduce max": one("ReduceMax", IMAGE, axes=[1, 3], keepdims=0),
    "reduce min": one("ReduceMin", IMAGE, ("x", ints(2)), 18),
    # shapes
    "flatten": one("Flatten", IMAGE),
    "flatten, axis": one("Flatten", IMAGE, axis=3),
    "flatten, all": one("Flatten", IMAGE, axis=0),
    "flatten, negative": one("Flatten", IMAGE, axis=-2),
    "reshape": one("Reshape", IMAGE, ("x", ints(0, -1))),
    "reshape, no batch": one("Reshape", IMAGE, ("x", ints(-1))),
    "reshape, other": one("Reshape", IMAGE, ("x", ints(6, 0, 5))),
    "reshape, opset 14": one("Reshape", IMAGE, ("x", ints(4, 15)), 14, allowzero=1),
    "transpose": one("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    "transpose, default": one("Transpose", IMAGE),
    "transpose, batch": one("Transpose", (1, 3, 1, 4), perm=[1, 0, 2, 3]),
    "transpose, rows": one("Transpose", (3, 4), perm=[1, 0]),
    "squeeze": one("Squeeze", (1, 3, 1, 4), opset=11, axes=[2]),
    "squeeze, opset 13": one("Squeeze", (1, 3, 1, 4), ("x", ints(0, -2))),
    "squeeze, all": one("Squeeze", (1, 3, 1, 4)),
    "unsqueeze": one("Unsqueeze", (1, 3), opset=11, axes=[0, 2]),
    "unsqueeze, opset 13": one("Unsqueeze", (3, 2), ("x", ints(-1, 1))),
    "concat": one("Concat", IMAGE, ("x", W(1, 3, 5, 6), "x"), axis=1),
    "concat, first": one("Concat", (1, 4), ("x", W(2, 4), "x"), axis=0),
    "concat, last": one("Concat", IMAGE, ("x", "x"), axis=-1),
    "concat, vectors": one("Concat", (4,), ("x", W(2)), axis=0),
    "split, opset 11": one("Split", (1, 6), opset=11, outputs=("a", "y"), axis=1, split=[2, 4]),
    "split, equal": one("Split", (1, 6), outputs=("a", "y", "b"), axis=-1),
    "split, opset 13": one("Split", (1, 6), ("x", ints(1, 5)), outputs=("a", "y"), axis=1),
    "split, opset 18": one("Split", (1, 7), opset=18, outputs=("a", "y"), axis=1, num_outputs=2),
    "slice, opset 9": one("Slice", IMAGE, opset=9, starts=[1, -3], ends=[2, 100], axes=[1, 3]),
    "slice, opset 10": one("Slice", IMAGE, ("x", ints(0, 4), ints(3, -100), ints(2, 3), ints(2, -2)), 10),
    "slice, backward": one("Slice", (1, 6), ("x", ints(-1), ints(-(2**63)), ints(1), ints(-1))),
    "slice, no axes": one("Slice", (3, 4), ("x", ints(1, 0), ints(3, 2))),
    "gather": one("Gather", IMAGE, ("x", ints(4, -1, 0)), axis=3),
    "gather, one": one("Gather", IMAGE, ("x", np.int64(1)), axis=1),
    "gather, matrix": one("Gather", (1, 6), ("x", np.array([[0, 1], [5, -6]])), axis=1),
    "gather, vector": one("Gather", (6,), ("x", np.array([1, 3], dtype=np.int32))),
    "expand": one("Expand", (1, 4), ("x", ints(3, 1))),
    "expand, ranks": one("Expand", (4, 1), ("x", ints(2, 1, 3))),
    "tile": one("Tile", (1, 4), ("x", ints(2, 3))),
    "depth to space": one("DepthToSpace", (1, 8, 2, 3), blocksize=2),
    "depth to space, crd": one("DepthToSpace", (1, 8, 2, 3), blocksize=2, mode="CRD"),
    "space to depth": one("SpaceToDepth", (1, 2, 4, 6), blocksize=2),
    "cast to the same": one("Cast", (1, 4), to=TensorProto.FLOAT),
    # padding
    "pad, opset 7": one("Pad", IMAGE, opset=7, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.5),
    "pad": one("Pad", IMAGE, ("x", ints(0, 1, 0, 0, 0, 0, 0, 2)), 11),
    "pad, value": one("Pad", (4,), ("x", ints(1, 2), np.float32(0.3))),
    "pad, batch": one("Pad", (1, 4), ("x", ints(1, 2, 0, 1))),
    "pad, crop": one("Pad", (1, 4), ("x", ints(0, -1, 0, 2))),
    "pad, axes": one("Pad", IMAGE, ("x", ints(1, 2), "", ints(3)), 18),
    "pad, reflect": one("Pad", IMAGE, ("x", ints(0, 0, 2, 1, 0, 0, 0, 3)), mode="reflect"),
    "pad, edge": one("Pad", IMAGE, ("x", ints(0, 0, 2, 1, 0, 0, 0, 3)), mode="edge"),
    # upsampling
    "upsample, opset 7": one("Upsample", IMAGE, opset=7, scales=[1.0, 1.0, 2.0, 3.0]),
    "upsample, opset 9": one("Upsample", IMAGE, ("x", floats(1, 1, 2, 1.5)), 9),
    "resize, opset 10": _resize(floats(1, 1, 2, 2), opset=10),
    "resize, opset 10, smaller": _resize(floats(1, 1, 0.5, 0.6), opset=10),
    "resize": _resize("", floats(1, 1, 2, 2)),
    "resize, sizes": _resize("", "", ints(1, 2, 10, 18)),
    "resize, floor": _resize("", floats(1, 1, 2, 3), coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "resize, odd": _resize("", floats(1, 1, 1.7, 2.3)),
    "resize, smaller": _resize("", floats(1, 1, 0.6, 0.5)),
    "resize, to the same": _resize("", floats(1, 1, 1.1, 1.15)),
    "resize, axes": _resize("", floats(2.0, 3.0), opset=18, axes=[2, 3]),
    # shapes computed from shapes
    "view as (batch, -1)": model(
        [
            _node("Shape", ["x"], ["s"]),
            _node("Gather", ["s", "zero"], ["b"]),
            _node("Unsqueeze", ["b", "axis"], ["b1"]),
            _node("Concat", ["b1", "rest"], ["shape"], axis=0),
            _node("Reshape", ["x", "shape"], ["y"]),
        ],
        ("N", 2, 3),
        {"zero": np.int64(0), "axis": ints(0), "rest": ints(-1)},
    ),
    "shape, part": model(
        [
            _node("Shape", ["x"], ["s"], start=-2),
            _node("ReduceProd", ["s"], ["p"]),
            _node("Reshape", ["x", "p"], ["y"]),
        ],
        (1, 2, 3),
        opset=15,
    ),
    "range and constants": model(
        [
            _node("Range", ["a", "b", "c"], ["i"]),
            _node("Gather", ["x", "i"], ["g"], axis=1),
            _node("ConstantOfShape", ["shape"], ["ones"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.5])),
            _node("Sqrt", ["ones"], ["root"]),
            _node("Mul", ["g", "root"], ["y"]),
        ],
        (1, 6),
        {"a": np.int64(5), "b": np.int64(0), "c": np.int64(-2), "shape": ints(1, 3)},
    ),
    "constant nodes": model(
        [
            _node("Constant", [], ["k"], value_floats=[1.0, -2.0, 0.5, 3.0]),
            _node("Constant", [], ["m"], value_int=2),
            _node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
            _node("Mul", ["k", "f"], ["kf"]),
            _node("Add", ["x", "kf"], ["y"]),
        ],
        (1, 4),
    ),
    "weights computed from weights": model(
        [
            _node("ReduceL2", ["v"], ["norm"], axes=[1]),
            _node("Div", ["v", "norm"], ["unit"]),
            _node("Transpose", ["unit"], ["w"], perm=[1, 0]),
            _node("MatMul", ["x", "w"], ["y"]),
        ],
        (1, 4),
        {"v": W(3, 4)},
    ),
    "operators out of order": model([_node("Relu", ["h"], ["y"]), _node("Neg", ["x"], ["h"])], (1, 4)),
    "operators of no use": model(
        [_node("Relu", ["x"], ["y"]), _node("Softmax", ["x"], ["p"]), _node("Erf", ["x"], ["q"])], (1, 4)
    ),
    "in float64": model(
        [_node("Gemm", ["x", "w"], ["h"]), _node("Relu", ["h"], ["y"])],
        (1, 4),
        {"w": W(4, 3).astype(np.float64)},
        kind=TensorProto.DOUBLE,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_computes_what_onnxruntime_does(name: str) -> None:
    imported = OnnxModel(CASES[name])  # refuses what differs on its own points
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(5, *imported.input_shape, generator=generator, dtype=torch.float64).to(imported.precision)
    theirs = imported.run(x)
    assert theirs.shape == (5, imported.outputs) and theirs.dtype == imported.precision
    assert float(theirs.abs().max()) > 0, "an output that is zero would hide everything"
    torch.testing.assert_close(imported.graph.forward(x).flatten(1), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(imported.run(x, torch.float64), theirs.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape", "inputs", "said"),
    [
        ("LeakyRelu", (1, 4), ("x",), {"alpha": 0.01}),
        ("BatchNormalization", (1, 2), ("x", W(2), W(2), W(2), floats(0, 0)), {"epsilon": 1e-5}),
    ],
)
def test_defaults_are_what_they_are_when_said(kind: str, shape: Any, inputs: Any, said: dict[str, float]) -> None:
    silent, spoken = OnnxModel(one(kind, shape, inputs)), OnnxModel(one(kind, shape, inputs, **said))
    x = torch.randn(3, *silent.input_shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(silent.run(x, torch.float64), spoken.run(x, torch.float64))  # attributes are float32 numbers


def test_every_operator_has_a_case() -> None:
    from test_onnx_compositions import CASES as COMPOSED

    used = {node.op_type for case in (*CASES.values(), *COMPOSED.values()) for node in case.graph.node}
    assert set(supported_onnx_operators()) <= used | {"Size"}
