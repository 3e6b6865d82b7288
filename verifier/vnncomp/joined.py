"""Networks that give their input back after their output, so that a specification can be about both."""

from __future__ import annotations

from verifier.graph import Graph
from verifier.graph.ir import GraphBuilder
from verifier.ops.concat import Concat
from verifier.ops.shape import Reshape


def with_input(graph: Graph) -> Graph:
    """The graph whose output is the flattened output, then the flattened input."""
    builder = GraphBuilder(graph.input_shape, graph.nodes[0].name)
    builder.nodes, builder.rounded, builder.computed = list(graph.nodes), graph.rounded, graph.computed
    output = _flat(builder, graph.output)
    builder.add(Concat(0), (output, _flat(builder, 0)), "output and input")
    return builder.build()


def _flat(builder: GraphBuilder, node: int) -> int:
    shape = builder.nodes[node].shape
    return node if len(shape) == 1 else builder.add(Reshape((builder.nodes[node].size,)), (node,))
