"""What every importer does to build a graph: nodes with names, moved entries, arithmetic with constants.

A walk over a traced or a stored program (`verifier.graph.walker`, `verifier.graph.onnx_walker`) meets values that
depend on the input (`Var`, a node under construction) and constants; handlers say which operator each becomes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verifier.errors import UnsupportedError
from verifier.graph.ir import GraphBuilder
from verifier.ops.base import REGISTRY, Operator, Shape
from verifier.ops.concat import Concat
from verifier.ops.elementwise import Add, Divide, Multiply, Shift, Subtract
from verifier.ops.gates import Tanhshrink
from verifier.ops.pool import Reduce, max_pool
from verifier.ops.powers import Square
from verifier.ops.product import Product
from verifier.ops.relu import ReLU
from verifier.ops.shape import Gather, Permute, Reshape
from verifier.ops.smooth import Tanh


@dataclass(frozen=True)
class Var:
    """A value that depends on the input: a node of the graph under construction."""

    index: int


class Emitter(ABC):
    """A graph under construction. Subclasses say which operator of the user's model is being read."""

    def __init__(self, input_shape: Shape, dtype: torch.dtype) -> None:
        REGISTRY.load()  # files of operators may bring handlers of their own
        self.builder = GraphBuilder(tuple(input_shape))
        self.dtype = dtype
        self.names: set[str] = {"input"}
        #: entries of nodes that stand for minus infinity, bool [*shape]: only softmax reads such a node
        self.endless: dict[int, Tensor] = {}
        self.rounded = ""  #: as of the graph
        self.computed = False  #: as of the graph
        self.loose = False  #: some function is another than the model's, by less than is said of it everywhere

    def rounds(self, what: str) -> None:
        """Say that the import rounded a constant of its own making; the first is told."""
        self.rounded = self.rounded or f"{what} ({self.label})"

    @property
    @abstractmethod
    def label(self) -> str:
        """Name of the operator that is being read: nodes are named after it."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where in the user's model it comes from."""

    @abstractmethod
    def unsupported(self, reason: str, list_all: bool = False) -> UnsupportedError:
        """An error that says which operator, where, and why."""

    @abstractmethod
    def constant(self, value: Any, rank: int) -> Tensor | float:
        """A constant operand [*shape] without its batch dimension, checked.

        Args:
            rank: the other operand's, the batch counted.
        """

    # --- nodes

    def shape(self, var: Var) -> Shape:
        return self.builder.nodes[var.index].shape

    def emit(self, op: Operator, *parents: Var) -> Var:
        return Var(self._emit(op, [p.index for p in parents]))

    def _emit(self, op: Operator, parents: Sequence[int]) -> int:
        base, number = self.label, 1
        name = base
        while name in self.names:
            number += 1
            name = f"{base}.{number}"
        self.names.add(name)
        endless = self._endless_after(op, parents)
        index = self.builder.add(op, parents, name, self.origin)
        if endless is not None:
            self.endless[index] = endless.expand(self.builder.nodes[index].shape)
        return index

    def _endless_after(self, op: Operator, parents: Sequence[int]) -> Tensor | None:
        """Which entries of a result stand for minus infinity; refused where what they become is none."""
        places = [self.endless[p] for p in parents if p in self.endless]
        if not places:
            return None
        if isinstance(op, Reshape | Permute | Gather):
            return op.apply(places[0].unsqueeze(0))[0]
        positive = isinstance(op, Multiply | Divide) and bool((torch.as_tensor(op.constant) > 0).all())
        if positive or isinstance(op, Shift):
            return places[0]
        raise self.unsupported("it reads an entry that is minus infinity, which only softmax does")

    def with_endless(self, var: Var, place: Tensor) -> Var:
        """The node with entries that stand for minus infinity, of probability zero in a softmax.

        Args:
            place: bool, broadcasts against the node's shape.
        """
        shape = tuple(np.broadcast_shapes(self.shape(var), place.shape))
        marked = self.emit(Reshape(shape), self.expanded(var, shape))
        others = self.endless.get(marked.index)
        self.endless[marked.index] = place.expand(shape) if others is None else place | others
        return marked

    def finite_part(self, var: Var) -> tuple[Var, Tensor | None]:
        """The node with anything in place of entries that are minus infinity, and which these are: bool [*shape]."""
        place = self.endless.pop(var.index, None)
        if place is None:
            return var, None
        finite = self.emit(Reshape(self.shape(var)), var)
        self.endless[var.index] = place
        return finite, place

    def maximum(self, var: Var, index: Tensor) -> Var:
        """Maximum over the first dimension of var[index], index [taps, *output]."""
        return Var(max_pool(self._emit, var.index, self.shape(var), index))

    def gathered(self, var: Var, index: Tensor) -> Var:  # index [*shape of the result]
        """Entries index (of the result's shape) of the flattened node, by the simplest operator that does it."""
        shape, target = self.shape(var), tuple(index.shape)
        size = int(torch.Size(shape).numel())
        if index.numel() != size or not torch.equal(index.flatten(), torch.arange(size)):
            order = _dimensions_moved(index) if index.numel() == size else None
            if order is None:
                return self.emit(Gather(index.contiguous()), var)
            before, moves = order
            var = self.emit(Permute(moves), var if before == shape else self.emit(Reshape(before), var))
            shape = self.shape(var)
        return var if target == shape else self.emit(Reshape(target), var)

    # --- constants and broadcasting

    def expanded(self, var: Var, shape: Shape) -> Var:
        """The node broadcast to a shape of the same or a higher rank (batch-free)."""
        own = self.shape(var)
        if own == tuple(shape):
            return var
        index = torch.arange(int(torch.Size(own).numel())).reshape(own)
        return self.gathered(var, index.expand(shape))

    def broadcast(self, a: Var, b: Var) -> tuple[Var, Var]:
        """Both nodes in their common shape."""
        shape = tuple(np.broadcast_shapes(self.shape(a), self.shape(b)))
        return self.expanded(a, shape), self.expanded(b, shape)

    def with_constant(self, kind: type[Multiply | Divide | Shift], var: Var, value: Any) -> Var:
        constant = self.constant(value, len(self.shape(var)) + 1)
        if isinstance(constant, Tensor):
            var = self.expanded(var, tuple(np.broadcast_shapes(self.shape(var), constant.shape)))
        return self.emit(kind(constant), var)

    def as_node(self, value: Any, like: Var, shape: Shape) -> Var:
        """A node that is constant: a shift of zero times some entry of `like`."""
        zero = self.emit(Multiply(0.0), self.gathered(like, torch.zeros(shape, dtype=torch.int64)))
        return self.with_constant(Shift, zero, value)

    # --- arithmetic of nodes and constants

    def scaled(self, value: Any, factor: Any) -> Any:
        """factor * value of a node or a constant; unchanged where the factor is 1."""
        if not isinstance(factor, Tensor) and factor == 1:
            return value
        if isinstance(value, Var):
            return self.with_constant(Multiply, value, factor)
        result = value * factor
        if not _exact(result, value, factor):
            self.rounds(f"a constant times {factor:g}")
        return result

    def sum(self, a: Any, b: Any) -> Var:
        if isinstance(a, Var) and isinstance(b, Var):
            return self.emit(Add(), *self.broadcast(a, b))
        var, constant = (a, b) if isinstance(a, Var) else (b, a)
        endless = constant == -torch.inf if isinstance(constant, Tensor) else None
        if endless is None or not bool(endless.any()):
            return self.with_constant(Shift, var, constant)
        shifted = self.with_constant(Shift, var, torch.where(endless, torch.zeros_like(constant), constant))
        return self.with_endless(shifted, self.mask(endless, len(self.shape(shifted)) + 1))

    def mask(self, place: Tensor, rank: int) -> Tensor:
        """A constant condition [*shape] without its batch dimension; `rank` as of `constant`."""
        return torch.as_tensor(self.constant(place.to(self.dtype), rank)) != 0

    def difference(self, a: Any, b: Any) -> Var:
        if isinstance(a, Var) and isinstance(b, Var):
            other = self.builder.nodes[b.index]
            if isinstance(other.op, Tanh) and list(other.parents) == [a.index]:
                return self.emit(Tanhshrink(), a)
            return self.emit(Subtract(), *self.broadcast(a, b))
        if isinstance(a, Var):
            return self.with_constant(Shift, a, -b)
        return self.with_constant(Shift, self.scaled(b, -1.0), a)

    def product(self, a: Any, b: Any) -> Var:
        """a * b, entry by entry with broadcasting, of nodes or of a node and a constant."""
        if not (isinstance(a, Var) and isinstance(b, Var)):
            return self.with_constant(Multiply, a, b) if isinstance(a, Var) else self.with_constant(Multiply, b, a)
        if a == b:
            return self.emit(Square(), a)
        first, second = self.shape(a), self.shape(b)
        shape = tuple(np.broadcast_shapes(first, second))
        left, right = (torch.arange(int(torch.Size(s).numel())).reshape(s).expand(shape) for s in (first, second))
        return self._products(a, b, left, right)

    def matrix_product(self, a: Var, b: Var) -> Var:
        """a @ b of two nodes [..., i, k] and [..., k, j] (batch-free), whose other dimensions broadcast: [..., i, j].

        Each product of entries is one node's entry, [..., i, j, k], summed over k: factors are bounded once each.
        """
        (*lead, rows, inner), (*other, _, columns) = self.shape(a), self.shape(b)
        shape = (*np.broadcast_shapes(tuple(lead), tuple(other)), rows, columns, inner)
        left, right = (torch.arange(int(torch.Size(self.shape(v)).numel())).reshape(self.shape(v)) for v in (a, b))
        left = left.unsqueeze(-2).expand(shape)
        right = right.transpose(-1, -2).unsqueeze(-3).expand(shape)
        return self.emit(Reduce([len(shape) - 1], False, False), self._products(a, b, left, right))

    def _products(self, a: Var, b: Var, left: Tensor, right: Tensor) -> Var:
        """Products of entries `left` of a with entries `right` of b, [*shape] int64 each."""
        shape = tuple(left.shape)
        factors, start = a, 0
        if a != b:
            flat = [self.emit(Reshape((int(torch.Size(self.shape(v)).numel()),)), v) for v in (a, b)]
            factors, start = self.emit(Concat(0), *flat), self.shape(flat[0])[0]
        y = self.emit(Product(left.flatten(), right.flatten() + start), factors)
        return y if self.shape(y) == shape else self.emit(Reshape(shape), y)

    def larger(self, a: Any, b: Any) -> Var:
        """max(a, b) = b + ReLU(a - b)."""
        if isinstance(a, Var) and isinstance(b, Var):
            a, b = self.broadcast(a, b)
        return self.sum(self.emit(ReLU(), self.difference(a, b)), b)

    def smaller(self, a: Any, b: Any) -> Var:
        """min(a, b) = a - ReLU(a - b)."""
        if isinstance(a, Var) and isinstance(b, Var):
            a, b = self.broadcast(a, b)
        return self.difference(a, self.emit(ReLU(), self.difference(a, b)))


def _dimensions_moved(index: Tensor) -> tuple[Shape, list[int]] | None:  # [*shape of the result]
    """The shape to give a node, and the order of its dimensions then, that put every entry where `index` says.

    None where no order of dimensions does.
    """
    flat, size = index.flatten(), index.numel()
    if size < 2 or int(flat[0]):
        return None
    sizes = [n for n in index.shape if n > 1]
    line = index.reshape(sizes)
    steps = [int(line[tuple(int(d == k) for k in range(len(sizes)))]) for d in range(len(sizes))]
    order = sorted(range(len(sizes)), key=lambda d: -steps[d])
    expected = 1
    for d in reversed(order):
        if steps[d] != expected:
            return None
        expected *= sizes[d]
    before = tuple(sizes[d] for d in order)
    moves = [order.index(d) for d in range(len(sizes))]
    if expected != size or not torch.equal(torch.arange(size).reshape(before).permute(moves).flatten(), flat):
        return None
    return before, moves


def _exact(result: Any, value: Any, factor: float) -> bool:
    """Whether result = value times factor, both numbers or tensors, was not rounded."""
    if math.frexp(factor)[0] in (0.5, -0.5):  # a power of two
        return True
    # products of two float32 numbers are numbers of float64
    narrow = isinstance(value, Tensor) and value.dtype is torch.float32 and float(np.float32(factor)) == factor
    return narrow and torch.equal(result.double(), value.double() * factor)
