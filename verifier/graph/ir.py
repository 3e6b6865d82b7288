"""The computation graph: immutable, topologically ordered, free of batches, bounds and verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verifier.errors import InputError, InternalError
from verifier.ops.base import Activation, Affine, Nonlinear, Operator, Shape
from verifier.ops.shape import Reshape

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class Node:
    """One value of the network. The input node has no operator and no parents."""

    name: str
    shape: Shape
    op: Operator | None = None
    parents: tuple[int, ...] = ()
    origin: str = ""  #: where in the user's model it comes from, for messages

    @property
    def size(self) -> int:
        return int(torch.Size(self.shape).numel())

    def __str__(self) -> str:
        kind = type(self.op).__name__ if self.op is not None else "Input"
        return f"{self.name} ({kind}{', from ' + self.origin if self.origin else ''}) {list(self.shape)}"


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order: `nodes[0]` is the input, the last node the output.

    `rounded`: what the import computed of the model's constants in another way than the model, and rounded; empty where
    there is none. What is proved of such a graph is not proved of the model to the last digit.
    `computed`: some constants are what the model computes from its parameters on every call (a normalised weight, say).
    The network is the one with the numbers that they have in the model's own precision, which the import computed once.
    `ordered`: a node whose entries are always in the order of the outputs, which are a softmax or a sigmoid of them.
    """

    nodes: tuple[Node, ...]
    rounded: str = ""
    ordered: int | None = None
    computed: bool = False

    def __post_init__(self) -> None:
        if not self.nodes or self.nodes[0].op is not None:
            raise InternalError("a graph starts with its input node")
        for i, node in enumerate(self.nodes[1:], 1):
            if node.op is None or not node.parents or any(not 0 <= p < i for p in node.parents):
                raise InternalError(f"node {i} ({node.name}) is not in topological order or has no operator")

    @property
    def input_shape(self) -> Shape:
        return self.nodes[0].shape

    @property
    def output(self) -> int:
        return len(self.nodes) - 1

    @property
    def output_shape(self) -> Shape:
        return self.nodes[-1].shape

    def ports(self, index: int) -> Shape:
        """The shape of multipliers of an activation or a product: one for every entry that it reads."""
        op, shape = self.nodes[index].op, self.nodes[index].shape
        assert isinstance(op, Nonlinear)
        return op.ports(shape)

    def parent_shapes(self, index: int) -> list[Shape]:
        return [self.nodes[p].shape for p in self.nodes[index].parents]

    @cached_property
    def activations(self) -> tuple[int, ...]:
        """Nodes that need a relaxation: activations, and products of two values."""
        return tuple(i for i, n in enumerate(self.nodes) if isinstance(n.op, Nonlinear))

    @cached_property
    def has_products(self) -> bool:
        """Whether two values that depend on the input are multiplied somewhere."""
        return any(not isinstance(self.nodes[i].op, Activation) for i in self.activations)

    @cached_property
    def pre_activations(self) -> tuple[int, ...]:
        """Nodes that feed an activation, in topological order, each once."""
        return tuple(sorted({self.nodes[i].parents[0] for i in self.activations}))

    @cached_property
    def exact_by_interval(self) -> tuple[bool, ...]:
        """Per node: interval bounds are exact when the input set is a box.

        That holds for one affine layer on top of elementwise ones, where the inputs vary independently.
        """
        exact, independent = [True], [True]
        for node in self.nodes[1:]:
            free = all(independent[p] for p in node.parents) and len(node.parents) == 1
            elementwise = isinstance(node.op, Activation) or getattr(node.op, "diagonal", False)
            independent.append(free and elementwise)
            one_affine = isinstance(node.op, Affine) and free
            diagonal = len(node.parents) == 1 and elementwise and exact[node.parents[0]]
            exact.append(one_affine or diagonal)
        return tuple(exact)

    @cached_property
    def ancestors(self) -> tuple[frozenset[int], ...]:
        """Per node: the nodes that it depends on, itself included."""
        above: list[frozenset[int]] = []
        for i, node in enumerate(self.nodes):
            above.append(frozenset({i}).union(*(above[p] for p in node.parents)))
        return tuple(above)

    def forward(self, x: Tensor) -> Tensor:
        """The network's outputs, [B, *input] -> [B, *output]."""
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """The value of every node at x [B, *input]."""
        values = [x]
        for node in self.nodes[1:]:
            assert node.op is not None
            values.append(node.op.apply(*(values[p] for p in node.parents)))
        return values

    def forward_from(self, node: int, value: Tensor) -> Tensor:  # [B, *shape of the node] -> [B, *output]
        """The network's outputs from the value of a cut node (verifier.graph.cuts), without the nodes before it.

        Raises:
            InputError: some path to the output passes the node by.
        """
        values = {node: value}
        for i, follower in enumerate(self.nodes[node + 1 :], node + 1):
            assert follower.op is not None
            if any(p not in values for p in follower.parents):
                raise InputError(f"{follower} reads the input past {self.nodes[node]}: start from a cut of the graph")
            values[i] = follower.op.apply(*(values[p] for p in follower.parents))
        return values[self.output]

    def until(self, node: int) -> Graph:
        """The part that ends with `node` as its output; nodes keep their numbers."""
        return Graph(self.nodes[: node + 1], self.rounded, computed=self.computed)

    @property
    def before_last(self) -> Graph:
        """What questions about which output is larger are answered on: without a last softmax or sigmoid."""
        return self if self.ordered is None else self.until(self.ordered)

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Graph:  # [...] -> [...] each
        """The same graph with every parameter tensor replaced by function(tensor)."""
        nodes = (n if n.op is None else replace(n, op=n.op.map_tensors(function)) for n in self.nodes)
        return Graph(tuple(nodes), self.rounded, self.ordered, self.computed)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Graph:
        """A detached copy on another device or in another precision."""
        return self.map_tensors(lambda t: t.detach().to(device=device, dtype=dtype if t.is_floating_point() else None))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters (float32 where there are none)."""
        for node in self.nodes[1:]:
            assert node.op is not None
            for _, tensor in node.op.parameters():
                if tensor.is_floating_point():
                    return tensor.dtype
        return torch.float32

    def digest(self) -> str:
        """SHA-256 of the network's content: operators, their options, their parameters, their wiring."""
        digest = hashlib.sha256()
        for node in self.nodes:
            digest.update(f"{node.shape}{node.parents}{node.op!r}".encode())
            for name, value in node.op.parameters() if node.op is not None else ():
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to_networkx(self) -> networkx.DiGraph:
        """Node indices with `label` and `shape`, for ordering, dominators, checks and drawing."""
        import networkx

        graph = networkx.DiGraph()
        for i, node in enumerate(self.nodes):
            graph.add_node(i, label=str(node), shape=node.shape)
            graph.add_edges_from((p, i) for p in node.parents)
        return graph

    def __str__(self) -> str:
        lines = [f"{i:3d}  {node}  <- {list(node.parents)}" for i, node in enumerate(self.nodes)]
        return "\n".join(lines)


class GraphBuilder:
    """Collects nodes in topological order; shapes are found by running each operator on zeros."""

    def __init__(self, input_shape: Shape, name: str = "input") -> None:
        self.nodes: list[Node] = [Node(name, tuple(input_shape))]
        self.rounded, self.computed = "", False  #: as of the graph
        self.orders: dict[int, int] = {}  #: nodes, and those whose entries are in the same order (`Graph.ordered`)

    def add(self, op: Operator, parents: Sequence[int], name: str = "", origin: str = "") -> int:
        """Append a node; returns its index. Raises what `op.apply` raises where the shapes do not fit.

        An activation of one number per example is put between reshapes: stages count on a dimension of neurons.
        """
        if isinstance(op, Activation) and self.nodes[parents[0]].shape == ():
            inner = self.add(op, (self.add(Reshape((1,)), parents),), name, origin)
            return self.add(Reshape(()), (inner,))
        reference = next((t for _, t in op.parameters() if t.is_floating_point()), torch.zeros(()))
        zeros = [reference.new_zeros(1, *self.nodes[p].shape) for p in parents]
        with torch.no_grad():
            shape = tuple(op.apply(*zeros).shape[1:])
        self.nodes.append(
            Node(name or f"{type(op).__name__.lower()}_{len(self.nodes)}", shape, op, tuple(parents), origin)
        )
        return len(self.nodes) - 1

    def build(self, output: int | None = None) -> Graph:
        """The graph of everything that `output` (default: the last node) depends on."""
        output = len(self.nodes) - 1 if output is None else output
        needed = {0, output}
        for i in range(output, 0, -1):
            if i in needed:
                needed.update(self.nodes[i].parents)
        order = sorted(needed)
        position = {old: new for new, old in enumerate(order)}
        nodes = (replace(self.nodes[i], parents=tuple(position[p] for p in self.nodes[i].parents)) for i in order)
        return Graph(tuple(nodes), self.rounded, position.get(self._ordered(output)), self.computed)

    def _ordered(self, output: int) -> int:
        """The node that the output is in the order of; -1 where there is none."""
        while output not in self.orders and isinstance(self.nodes[output].op, Reshape):
            (output,) = self.nodes[output].parents
        return self.orders.get(output) or -1  # the input alone is no network
