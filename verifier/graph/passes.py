"""Simplification passes, Graph -> Graph.

Each keeps the network's function over the real numbers but not bit by bit: a folded batch norm rounds its weights
anew. They are for speed; proofs are about the imported graph. Results hold new tensors that are computed from the live
ones: gradients flow through them, but they do not follow a later change of the weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from verifier.graph.ir import Graph, GraphBuilder, Node
from verifier.ops.base import Operator, Shape
from verifier.ops.clip import Clip
from verifier.ops.conv import Conv1d, Conv2d
from verifier.ops.elementwise import Divide, Multiply, Shift
from verifier.ops.linear import Linear
from verifier.ops.norm import BatchNorm
from verifier.ops.pad import Pad
from verifier.ops.shape import Gather, Permute, Reshape


def simplify(graph: Graph) -> Graph:
    """All passes, until none shortens the graph any more."""
    while True:
        before = len(graph.nodes)
        for one in (drop_identities, merge_reshapes, fold_scalings, merge_linear):
            graph = one(graph)
        if len(graph.nodes) == before:
            return graph


def drop_identities(graph: Graph) -> Graph:
    """Without nodes that return their parent unchanged, and without nodes that the output does not depend on."""

    def forward(graph: Graph, index: int) -> int | None:
        node = graph.nodes[index]
        identity = len(node.parents) == 1 and _is_identity(node.op, graph.nodes[node.parents[0]].shape)
        return node.parents[0] if identity else None

    return _rebuilt(graph, lambda graph, index: None, forward)


def merge_reshapes(graph: Graph) -> Graph:
    """A reshape of a reshape becomes the outer one alone."""

    def replace(graph: Graph, index: int) -> tuple[Operator, tuple[int, ...]] | None:
        node, parent = _chain(graph, index)
        if parent is not None and isinstance(node.op, Reshape) and isinstance(parent.op, Reshape):
            return node.op, parent.parents
        return None

    return _rebuilt(graph, replace)


def fold_scalings(graph: Graph) -> Graph:
    """Batch norms, and products, quotients and sums with constants, into a linear layer or convolution just before
    them that has no other reader."""

    def replace(graph: Graph, index: int) -> tuple[Operator, tuple[int, ...]] | None:
        node, parent = _chain(graph, index, alone=True)
        if parent is None or not isinstance(parent.op, Linear | Conv1d | Conv2d):
            return None
        scaling = _scaling(node.op, parent.shape, _channel_dim(parent.op, parent.shape))
        return None if scaling is None else (_scaled(parent.op, *scaling), parent.parents)

    return _rebuilt(graph, replace)


def merge_linear(graph: Graph) -> Graph:
    """A linear layer of a linear layer that has no other reader becomes one, where that is not larger than both."""

    def replace(graph: Graph, index: int) -> tuple[Operator, tuple[int, ...]] | None:
        node, parent = _chain(graph, index, alone=True)
        if parent is None or not (isinstance(node.op, Linear) and isinstance(parent.op, Linear)):
            return None
        outer, inner = node.op, parent.op
        if outer.weight.shape[0] * inner.weight.shape[1] > outer.weight.numel() + inner.weight.numel():
            return None  # a bottleneck: cheaper in two steps
        bias = outer.offset
        if inner.offset is not None:
            moved = outer.weight @ inner.offset
            bias = moved if bias is None else moved + bias
        return Linear(outer.weight @ inner.weight, bias), parent.parents

    return _rebuilt(graph, replace)


def _rebuilt(
    graph: Graph,
    replace: Callable[[Graph, int], tuple[Operator, tuple[int, ...]] | None],
    forward: Callable[[Graph, int], int | None] | None = None,
) -> Graph:
    """The graph with some nodes replaced by (operator, parents) or forwarded to an earlier node.

    What nobody reads any more is dropped. A chain shrinks by one node per call.
    """
    builder = GraphBuilder(graph.input_shape, graph.nodes[0].name)
    position = {0: 0}
    taken: set[int] = set()  # nodes merged into their reader: not to be read again by another merge
    for i, node in enumerate(graph.nodes[1:], 1):
        earlier = forward(graph, i) if forward is not None else None
        if earlier is not None:
            position[i] = position[earlier]
            continue
        new = replace(graph, i) if node.parents[0] not in taken else None
        if new is not None:
            taken.add(i)  # the next link of the chain must see the merged node, in the next round
        op, parents = new if new is not None else (node.op, node.parents)
        assert op is not None
        position[i] = builder.add(op, [position[p] for p in parents], node.name, node.origin)
    return builder.build(position[graph.output])


def _chain(graph: Graph, index: int, alone: bool = False) -> tuple[Node, Node | None]:
    """The node and its only parent; None for the parent where it has several, is the input, or has other readers."""
    node = graph.nodes[index]
    if len(node.parents) != 1 or node.parents[0] == 0:
        return node, None
    readers = Counter(p for n in graph.nodes for p in n.parents)
    if alone and readers[node.parents[0]] > 1:
        return node, None
    return node, graph.nodes[node.parents[0]]


def _is_identity(op: Operator | None, shape: Shape) -> bool:
    """The operator returns its input of this shape unchanged, whatever it is."""
    match op:
        case Reshape():
            return op.shape == tuple(shape)
        case Permute():
            return op.order == tuple(range(len(op.order)))
        case Gather():
            size = int(torch.Size(shape).numel())
            same = tuple(op.index.shape) == tuple(shape)
            return same and torch.equal(op.index.flatten().cpu(), torch.arange(size))
        case Pad():
            return not any(op.amounts)
        case Clip():
            return op.low is None and op.high is None
        case Multiply() | Divide():  # a live tensor of ones may change: only numbers count
            return op.constant == 1.0 if isinstance(op.constant, float) else False
        case Shift():
            return op.constant == 0.0 if isinstance(op.constant, float) else False
    return False


def _channel_dim(op: Linear | Conv1d | Conv2d, shape: Shape) -> int:
    """The dimension of the output that runs over the weight's rows."""
    return len(shape) - 1 if isinstance(op, Linear) else 0


def _scaling(op: Operator | None, shape: Shape, channel: int) -> tuple[Tensor | float, Tensor | float] | None:
    """(factor, shift) of an operator on a node of this shape, each one number or one per channel; None if not so.

    Returns:
        Where they are tensors: [] or [channels].
    """
    if isinstance(op, BatchNorm):
        return (op.scale(), op.shift()) if channel == 0 else None
    if not isinstance(op, Multiply | Divide | Shift):
        return None
    constant = op.constant
    if isinstance(constant, Tensor) and constant.numel() > 1:
        aligned = constant.reshape(*(1,) * (len(shape) - constant.dim()), *constant.shape)
        if any(n != 1 for d, n in enumerate(aligned.shape) if d != channel):
            return None  # it differs between positions that share a row of the weight
        constant = aligned.flatten()
    elif isinstance(constant, Tensor):
        constant = constant.reshape(())
    if isinstance(op, Shift):
        return 1.0, constant
    return (constant, 0.0) if isinstance(op, Multiply) else (1 / constant, 0.0)


def _scaled(op: Linear | Conv1d | Conv2d, factor: Tensor | float, shift: Tensor | float) -> Operator:
    """The layer followed by factor * y + shift, where tensors [] or [rows]."""
    weight, bias = op.weight, op.offset
    rows = weight.shape[0]
    column = factor.reshape(-1, *(1,) * (weight.dim() - 1)) if isinstance(factor, Tensor) else factor
    moved = (weight.new_zeros(rows) if bias is None else bias * factor) + shift
    if isinstance(op, Linear):
        return Linear(weight * column, moved.expand(rows))
    return type(op)(weight * column, moved.expand(rows), op.stride, op.padding, op.dilation, op.groups)
