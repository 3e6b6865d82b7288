"""What attacks cost: how many starts a number of products pays for."""

from __future__ import annotations

from verifier.graph import Graph
from verifier.ops.base import Affine

#: cost of a step, forward and backward, in forward passes
_PASS = 3


def starts_within(products: float, graph: Graph, batch: int, steps: float) -> int:
    """How many starts can take so many steps each for so many products of numbers.

    Args:
        products: of all passes through the network together, forward and backward.
        batch: sets that are attacked, each from that many starts.
        steps: per start.
    """
    once = sum(
        node.size * node.op.terms([graph.nodes[i].shape for i in node.parents])
        for node in graph.nodes
        if isinstance(node.op, Affine)
    )
    return int(products / (_PASS * steps * max(once, 1) * batch))
