"""Small ONNX networks and properties, written to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest


def write_mlp(path: Path, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> Path:
    """A network of layers (weight [out, in], bias [out]) with a ReLU between them; its input is [1, in]."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, last = [], [], "x"
    for i, (weight, bias) in enumerate(layers):
        weights += [
            numpy_helper.from_array(np.float32(weight), f"w{i}"),
            numpy_helper.from_array(np.float32(bias), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"z{i}"], transB=1))
        last = f"z{i}"
        if i < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
    sizes = layers[0][0].shape[1], layers[-1][0].shape[0]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in zip(("x", last), sizes, strict=True)
    ]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def write_absolute(path: Path) -> Path:
    """y = (h0 - h1, h1 - h0) with h = (relu(x0 + x1), relu(x0 - x1)): y0 is at most 1 on [0, 0.5] x [-0.5, 0.5]."""
    zeros = np.zeros(2)
    return write_mlp(path, [(np.array([[1, 1], [1, -1]]), zeros), (np.array([[1, -1], [-1, 1]]), zeros)])


def vnnlib(inputs: Sequence[tuple[str, str]], outputs: int, *constraints: str) -> str:
    """A property: the bounds of every input, then constraints such as (<= Y_0 1.0)."""
    lines = [f"(declare-const {name}_{i} Real)" for name, n in (("X", len(inputs)), ("Y", outputs)) for i in range(n)]
    lines += [f"(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i, (low, high) in enumerate(inputs)]
    return "\n".join(lines + [f"(assert {constraint})" for constraint in constraints]) + "\n"
