"""ONNX models of several inputs or outputs as models of one: a flat input that is cut, an output that is chosen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from verifier.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from onnx import ModelProto

#: what the one input is called
JOINED = "inputs joined"


def inputs_of(proto: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs that are no weights; 0 where a dimension has no fixed size."""
    weights = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
    return {
        i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim)
        for i in proto.graph.input
        if i.name not in weights
    }


def with_output(proto: ModelProto, output: int | str) -> ModelProto:
    """The model with one of its outputs. Raises InputError where there is none of that place or name.

    Args:
        output: a place, which may be written as a text where no output is called that, or a name.
    """
    names = [o.name for o in proto.graph.output]
    place = names.index(output) if output in names else output
    place = int(place) if isinstance(place, str) and place.isdigit() else place
    if not isinstance(place, int) or not 0 <= place < len(names):
        raise InputError(f"the model has no output {output!r}; it has {', '.join(names)}")
    chosen = type(proto)()
    chosen.CopyFrom(proto)
    kept = chosen.graph.output[place]
    only = type(kept)()
    only.CopyFrom(kept)
    del chosen.graph.output[:]
    chosen.graph.output.append(only)
    return chosen


def with_one_input(proto: ModelProto) -> ModelProto:
    """The model as a function of [1, n], its inputs flattened, one after another.

    Raises:
        UnsupportedError: an input without a fixed shape, or inputs of several types.
    """
    from onnx import helper, numpy_helper

    shapes = inputs_of(proto)
    kinds = {i.type.tensor_type.elem_type for i in proto.graph.input if i.name in shapes}
    open_ = next((name for name, shape in shapes.items() if 0 in shape[1:] or not shape), None)
    if open_ is not None or len(kinds) > 1:
        why = f"{open_!r} has no fixed shape" if open_ is not None else "they are of several types"
        raise UnsupportedError(f"the model has {len(shapes)} inputs, which can be joined where they are alike: {why}")
    shapes = {name: (1, *shape[1:]) if shape[0] == 0 else shape for name, shape in shapes.items()}
    sizes = [math.prod(shape) for shape in shapes.values()]
    joined = type(proto)()
    joined.CopyFrom(proto)
    weights = [i for i in joined.graph.input if i.name not in shapes]
    nodes, at = [], 0

    def constant(values: list[int], name: str) -> str:
        joined.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    for (name, shape), size in zip(shapes.items(), sizes, strict=True):
        ends = [constant(v, f"{JOINED}, {what} of {name}") for what, v in (("begin", [at]), ("end", [at + size]))]
        axis, form = constant([1], f"{JOINED}, axis of {name}"), constant(list(shape), f"{JOINED}, shape of {name}")
        nodes.append(helper.make_node("Slice", [JOINED, *ends, axis], [f"{JOINED}, part {name}"]))
        nodes.append(helper.make_node("Reshape", [f"{JOINED}, part {name}", form], [name]))
        at += size
    old = list(joined.graph.node)
    del joined.graph.node[:]
    joined.graph.node.extend([*nodes, *old])
    del joined.graph.input[:]
    joined.graph.input.append(helper.make_tensor_value_info(JOINED, kinds.pop(), [1, at]))
    joined.graph.input.extend(weights)
    return joined
