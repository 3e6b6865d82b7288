"""What further ONNX operators become that are linear: einsum, running sums, triangles, entries chosen by constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph.linear_maps import contractions, letters, masked, pair_contraction, running_sums
from verifier.graph.onnx_walker import OnnxValue, OnnxWalker, Operand
from verifier.ops.concat import Concat
from verifier.ops.handlers import onnx_operator
from verifier.ops.shape import Reshape


@onnx_operator("CumSum")
def _cumsum(w: OnnxWalker, x: Operand, axis: Operand) -> OnnxValue:
    x = w.dependent(x)
    (given,) = w.integers(axis, "axis")
    settings = bool(w.attribute("exclusive", 0)), bool(w.attribute("reverse", 0))
    return w.value(running_sums(w, w.in_full(x), w.axis(given, len(x.shape)), *settings), x.shape)


@onnx_operator("Trilu")
def _trilu(w: OnnxWalker, x: Operand, k: Operand = None) -> OnnxValue:
    x = w.dependent(x)
    (offset,) = [0] if k is None else w.integers(k, "k")
    cut = torch.triu if w.attribute("upper", 1) else torch.tril
    return w.value(masked(w, w.in_full(x), cut(torch.ones(x.shape), offset)), x.shape)


@onnx_operator("Einsum")
def _einsum(w: OnnxWalker, *operands: Operand) -> OnnxValue:
    terms, result = letters(w, w.attribute("equation", ""), [len(o.shape) for o in operands if o is not None])
    places = [i for i, o in enumerate(operands) if isinstance(o, OnnxValue)]
    sizes = {
        c: n for t, o in zip(terms, operands, strict=True) if o is not None for c, n in zip(t, o.shape, strict=True)
    }
    shape = tuple(sizes[c] for c in result)
    w.check_size(shape)
    nodes = [w.in_full(w.dependent(operands[i])) for i in places]
    if len(nodes) == 2 and len(operands) == 2:
        return w.value(pair_contraction(w, nodes[0], terms[0], nodes[1], terms[1], result), shape)
    if len(nodes) > 1:
        raise w.unsupported("a sum of products of more than two values")
    others = [i for i in range(len(operands)) if i not in places]
    constants = [(w.weights(operands[i], "operand"), terms[i]) for i in others]
    return w.value(contractions(w, nodes[0], terms[places[0]], constants, result), shape)


@onnx_operator("GatherElements")
def _gather_elements(w: OnnxWalker, x: Operand, indices: Operand) -> Any:
    x = w.dependent(x)
    axis = w.axis(w.attribute("axis", 0), len(x.shape))
    index = w.tensor(indices, "indices").long()
    w.check_size(index.shape)
    index = torch.where(index < 0, index + x.shape[axis], index)
    return w.moved(x, lambda t: t.gather(axis, index))


@onnx_operator("GatherND")
def _gather_nd(w: OnnxWalker, x: Operand, indices: Operand) -> Any:
    x = w.dependent(x)
    index, lead = w.tensor(indices, "indices").long(), w.attribute("batch_dims", 0)
    shape = x.shape
    tail = (*index.shape[:-1], *shape[lead + index.shape[-1] :])
    w.check_size(tail)

    def move(t: Tensor) -> Tensor:  # [*shape]
        if not lead:
            return t[tuple(index.unbind(-1))]
        flat, places = t.flatten(0, lead - 1), index.flatten(0, lead - 1)
        return torch.stack([a[tuple(i.unbind(-1))] for a, i in zip(flat, places, strict=True)]).reshape(tail)

    return w.moved(x, move)


def _scattered(w: OnnxWalker, x: Operand, updates: Operand, place: Any) -> OnnxValue:
    """A copy of x with entries of `updates`, place(entries of x, entries of updates) says where."""
    if w.attribute("reduction", "none") != "none":
        raise w.unsupported("it adds to the entries that it is given")
    assert x is not None and updates is not None
    like = next(o.var for o in (x, updates) if isinstance(o, OnnxValue))
    nodes = []
    for operand in (x, updates):
        if isinstance(operand, OnnxValue):
            node = w.in_full(operand)
        else:
            node = w.as_node(w.weights(operand, "operand"), like, tuple(operand.shape))
        nodes.append(w.emit(Reshape((int(np.prod(operand.shape)),)), node))
    first = torch.arange(w.shape(nodes[0])[0]).reshape(x.shape)
    second = torch.arange(w.shape(nodes[1])[0]).reshape(updates.shape) + first.numel()
    joined = w.emit(Concat(0), *nodes)
    return w.value(w.gathered(joined, place(first, second)), x.shape)


@onnx_operator("ScatterElements", "Scatter")
def _scatter_elements(w: OnnxWalker, x: Operand, indices: Operand, updates: Operand) -> OnnxValue:
    if x is None:
        raise ModelError(str(w.unsupported("its data are missing")))
    axis = w.axis(w.attribute("axis", 0), len(x.shape))
    index = w.tensor(indices, "indices").long()
    index = torch.where(index < 0, index + x.shape[axis], index)
    return _scattered(w, x, updates, lambda t, u: t.scatter(axis, index, u))


@onnx_operator("ScatterND")
def _scatter_nd(w: OnnxWalker, x: Operand, indices: Operand, updates: Operand) -> OnnxValue:
    index = w.tensor(indices, "indices").long()

    def place(t: Tensor, u: Tensor) -> Tensor:  # [*shape], [*shape of the updates]
        return t.index_put(tuple(index.unbind(-1)), u)

    return _scattered(w, x, updates, place)


@onnx_operator("CastLike")
def _cast_like(w: OnnxWalker, x: Operand, like: Operand) -> Operand:
    kind = w.dtype if isinstance(like, OnnxValue) else w.tensor(like, "type").dtype
    if kind != w.dtype:
        raise w.unsupported(f"it changes the precision from {w.dtype}")
    return x
