"""Small ONNX models for tests, written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[Any],
    shape: Sequence[int | str | None],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 13,
    kind: int = FLOAT,
    output: str = "y",
) -> ModelProto:
    """A model from x [*shape] to `output`; the output's shape is left open."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(output, kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 10 if opset > 20 else 8
    return made


def one(
    kind: str,
    shape: Sequence[int | str | None],
    inputs: Sequence[Any] = ("x",),
    opset: int = 13,
    outputs: Sequence[str] = ("y",),
    **attributes: Any,
) -> ModelProto:
    """A model of one operator; arrays among its inputs become constants, "" stays an input that is left out."""
    names, constants = [], {}
    for number, given in enumerate(inputs):
        if isinstance(given, str):
            names.append(given)
        else:
            names.append(f"c{number}")
            constants[f"c{number}"] = given
    return model([helper.make_node(kind, names, list(outputs), **attributes)], shape, constants, opset)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def weights(*shape: int) -> np.ndarray:
    """Generic numbers of a shape, always the same."""
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape).astype(np.float32)
