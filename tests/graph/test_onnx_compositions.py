"""ONNX operators that become several nodes, and further linear ones, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
from helpers.onnx_models import floats, ints, model, one, weights
from onnx import ModelProto, helper

from verifier.errors import UnsupportedError
from verifier.graph.onnx_model import OnnxModel

ROW, ROWS, IMAGE = (1, 4), (1, 3, 4), (1, 4, 3, 5)
W = weights


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, outputs, **attributes)


def positive(kind: str, shape: tuple[int, ...] = ROWS, opset: int = 13, **attributes: Any) -> ModelProto:
    """The operator on |x| + 0.5."""
    nodes = [_node("Abs", ["x"], ["a"]), _node("Add", ["a", "c"], ["b"]), _node(kind, ["b"], ["y"], **attributes)]
    return model(nodes, shape, {"c": floats(0.5)}, opset)


def pair(kind: str, shape: tuple[int, ...] = ROWS, **attributes: Any) -> ModelProto:
    """The operator on x and |x| + 0.5."""
    nodes = [_node("Abs", ["x"], ["a"]), _node("Add", ["a", "c"], ["b"]), _node(kind, ["x", "b"], ["y"], **attributes)]
    return model(nodes, shape, {"c": floats(0.5)})


def recurrent(kind: str, gates: int, extra: int = 0, steps: int = 3, **attributes: Any) -> ModelProto:
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    constants = {"w": W(ways, gates * 2, 4), "r": W(ways, gates * 2, 2), "b": W(ways, gates * 4), "h": W(ways, 1, 2)}
    names = ["x", "w", "r", "b", "", "h"]
    if kind == "LSTM":
        constants["c"] = W(ways, 1, 2) + 1
        names.append("c")
    node = _node(kind, names, ["y"], hidden_size=2, **attributes)
    return model([node], (steps, 1, 4), constants, 14)


MINUS = np.triu(np.full((3, 3), -np.inf, dtype=np.float32), 1)
CASES: dict[str, ModelProto] = {
    "softmax": one("Softmax", ROWS, axis=1),
    "softmax, last": one("Softmax", ROWS),
    "softmax, of all that follows": one("Softmax", ROWS, opset=11, axis=1),
    "softmax of two": one("Softmax", (1, 2)),
    "shrink": one("Shrink", ROW, lambd=0.3),
    "shrink, bias": one("Shrink", ROW, lambd=0.3, bias=0.2),
    "thresholded": one("ThresholdedRelu", ROW, alpha=0.4),
    "thresholded below zero": one("ThresholdedRelu", ROW, alpha=-0.4),
    "swish": one("Swish", ROW, opset=24, alpha=1.5),
    "mod": one("Mod", ROW, ("x", floats(0.7)), fmod=1),
    "quantised and back": model(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        ROW,
        {"s": np.float32(0.07), "z": np.int8(3)},
    ),
    "quantised by channels, moved": model(
        [
            helper.make_node("QuantizeLinear", ["x", "s"], ["q"], axis=2),
            helper.make_node("Transpose", ["q"], ["p"], perm=[0, 2, 1]),
            helper.make_node("DequantizeLinear", ["p", "s"], ["y"], axis=1),
        ],
        ROWS,
        {"s": np.abs(weights(ROWS[2])) + np.float32(0.1)},
    ),
    "softmax of a sum with minus infinity": model(
        [helper.make_node("Add", ["x", "m"], ["h"]), helper.make_node("Softmax", ["h"], ["y"], axis=-1)],
        (1, 3, 3),
        {"m": MINUS},
    ),
    "softmax of a choice with minus infinity": model(
        [
            helper.make_node("Where", ["c", "i", "x"], ["h"]),
            helper.make_node("Mul", ["h", "s"], ["g"]),
            helper.make_node("Softmax", ["g"], ["y"], axis=-1),
        ],
        (1, 3, 3),
        {"c": MINUS < 0, "i": floats(-np.inf), "s": floats(0.5)},
    ),
    "log softmax": one("LogSoftmax", ROWS, axis=2),
    "log softmax, opset 11": one("LogSoftmax", ROW, opset=11),
    "logsumexp": one("ReduceLogSumExp", ROWS, axes=[1]),
    "logsumexp of all": one("ReduceLogSumExp", ROWS, keepdims=0),
    "log of a sum": positive("ReduceLogSum", axes=[2]),
    "norm 1": one("ReduceL1", ROWS, axes=[2], keepdims=0),
    "norm 2": one("ReduceL2", ROWS, ("x", ints(1)), 18),
    "squares": one("ReduceSumSquare", ROWS, axes=[1, 2]),
    "products": one("ReduceProd", ROWS, axes=[1]),
    "layer norm": one("LayerNormalization", ROWS, ("x", W(4), W(4)), 17),
    "layer norm, two axes": one("LayerNormalization", ROWS, ("x", W(3, 4)), 17, axis=1),
    "rms norm": one("RMSNormalization", ROWS, ("x", W(4)), 23),
    "instance norm": one("InstanceNormalization", IMAGE, ("x", W(4), W(4)), epsilon=0.01),
    "group norm": one("GroupNormalization", IMAGE, ("x", W(4), W(4)), 21, num_groups=2),
    "lp norm": one("LpNormalization", ROWS, axis=1, p=2),
    "lp norm 1": one("LpNormalization", ROWS, p=1),
    "mean and variance": one("MeanVarianceNormalization", IMAGE),
    "quotient": pair("Div"),
    "constant by value": positive("Reciprocal"),
    "product": pair("Mul"),
    "square": one("Mul", ROWS, ("x", "x")),
    "matrix product": model(
        [_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), _node("MatMul", ["x", "t"], ["y"])], ROWS
    ),
    "vector by vector": one("MatMul", (4,), ("x", "x")),
    "einsum": one("Einsum", ROWS, ("x", W(4, 2)), equation="btd,de->bte"),
    "einsum of two": one("Einsum", ROWS, ("x", "x"), equation="bid,bjd->bij"),
    "einsum, diagonal": one("Einsum", (3, 3), equation="ii->i"),
    "lstm": recurrent("LSTM", 4),
    "lstm, both ways": recurrent("LSTM", 4, direction="bidirectional"),
    "gru": recurrent("GRU", 3),
    "gru, as torch has it": recurrent("GRU", 3, linear_before_reset=1, direction="reverse"),
    "rnn": recurrent("RNN", 1),
    "rnn, relu": recurrent("RNN", 1, activations=["Relu"]),
    "cumsum": one("CumSum", ROWS, ("x", np.array(1)), 14),
    "cumsum, exclusive": one("CumSum", ROWS, ("x", np.array(2)), 14, exclusive=1, reverse=1),
    "upper triangle": one("Trilu", ROWS, ("x", np.array(1)), 14),
    "lower triangle": one("Trilu", ROWS, opset=14, upper=0),
    "gather elements": one("GatherElements", ROWS, ("x", ints(0, 2, -1).reshape(1, 3, 1)), axis=2),
    "gather nd": one("GatherND", ROWS, ("x", ints(0, 1, 0, 2).reshape(2, 2))),
    "gather nd, batch": one("GatherND", ROWS, ("x", ints(2).reshape(1, 1)), batch_dims=1),
    "scatter elements": one("ScatterElements", ROWS, ("x", ints(0, 2, -1).reshape(1, 3, 1), W(1, 3, 1)), axis=2),
    "scatter onto constants": one(
        "ScatterElements", (1, 3, 1), (W(1, 3, 4), ints(0, 2, 1).reshape(1, 3, 1), "x"), axis=2
    ),
    "scatter, opset 10": one("Scatter", ROWS, ("x", ints(0, 2, 1).reshape(1, 3, 1), W(1, 3, 1)), 10, axis=2),
    "scatter nd": one("ScatterND", ROWS, ("x", ints(0, 1).reshape(1, 2), W(1, 4))),
    "conv3d": one("Conv", (1, 2, 3, 4, 3), ("x", W(3, 2, 2, 2, 2), W(3)), pads=[1, 0, 0, 0, 1, 1], strides=[1, 2, 1]),
    "resize, linear": one("Resize", (1, 2, 4, 5), ("x", "", "", ints(1, 2, 7, 8)), mode="linear"),
    "resize, smaller": one("Resize", (1, 2, 4, 5), ("x", "", "", ints(1, 2, 3, 2)), mode="linear"),
    "resize, corners": one(
        "Resize",
        (1, 2, 4, 5),
        ("x", "", "", ints(1, 2, 7, 8)),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    "resize, cubic": one("Resize", (1, 2, 4, 5), ("x", "", floats(1, 1, 1.5, 2)), mode="cubic"),
    "upsample, linear": one("Upsample", (1, 2, 4, 5), ("x", floats(1, 1, 2, 2)), 9, mode="linear"),
    "cast like": one("CastLike", ROW, ("x", floats(1)), 15),
    "gelu": one("Gelu", ROW, opset=20),
    "gelu, tanh": one("Gelu", ROW, opset=20, approximate="tanh"),
    "pow": one("Pow", ROW, ("x", floats(3))),
    "pow, integer": one("Pow", ROW, ("x", ints(2).reshape(()))),
    "elu": one("Elu", ROW, alpha=0.7),
    "celu": one("Celu", ROW, alpha=0.7),
    "selu": one("Selu", ROW),
    "softplus": one("Softplus", ROW),
    "hard sigmoid": one("HardSigmoid", ROW),
    **{
        name: one(name, ROW, opset=22)
        for name in (
            "Exp",
            "Sin",
            "Cos",
            "Atan",
            "Erf",
            "Mish",
            "HardSwish",
            "Softsign",
            "Floor",
            "Ceil",
            "Round",
            "Sign",
        )
    },
    **{name: positive(name) for name in ("Log", "Sqrt")},
    "Tan": model([_node("Tanh", ["x"], ["t"]), _node("Tan", ["t"], ["y"])], ROW),
    "second output left out": one("MaxPool", (1, 1, 4, 4), opset=12, outputs=("y", "i"), kernel_shape=[2, 2]),
    "product of constants": model(
        [_node("MatMul", ["a", "b"], ["m"]), _node("MatMul", ["x", "m"], ["y"])], ROW, {"a": W(4, 2), "b": W(2, 3)}
    ),
    "weights of one byte": model(
        [_node("DequantizeLinear", ["q", "s", "z"], ["m"]), _node("MatMul", ["x", "m"], ["y"])],
        ROW,
        {
            "q": np.arange(-6, 6, dtype=np.int8).reshape(4, 3),
            "s": np.float32(0.03),
            "z": np.int8(1),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_onnxruntime(name: str) -> None:
    imported = OnnxModel(CASES[name], name)  # compared on import
    x = torch.randn(4, *imported.input_shape, generator=torch.Generator().manual_seed(5))
    theirs, ours = imported.run(x), imported.graph.forward(x).flatten(1)
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_choices_are_asked_as_specifications() -> None:
    with pytest.raises(UnsupportedError, match="specification"):
        OnnxModel(one("ArgMax", ROW), "model")
