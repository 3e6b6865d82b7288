"""Where a graph can be cut in two: nodes that everything after them reads the input through.

Such nodes are the dominators of the output: every path from the input to the output passes them. Between two
neighbouring ones lies a piece of the network that cannot be split further: one layer of a sequential network, a block
of a residual one.
"""

from __future__ import annotations

from dataclasses import dataclass

from verifier.graph.ir import Graph


@dataclass(frozen=True)
class CutLayer:
    """Activations that lie between two neighbouring cuts.

    `cut` is the latest node that all of them, and everything after them, read the input through: a pre-activation in a
    sequential network.
    """

    cut: int
    activations: tuple[int, ...]  # in topological order, never empty


def cuts(graph: Graph) -> list[int]:
    """The cut nodes from the output (the first) to the input (the last)."""
    import networkx

    dominator = networkx.immediate_dominators(graph.to_networkx(), 0)
    found = [graph.output]
    while found[-1] != 0:
        found.append(int(dominator[found[-1]]))
    return found


def layers(graph: Graph) -> list[CutLayer]:
    """The layers from the last to the first: layers(graph)[:k] are the final k.

    Every activation that the output depends on is in exactly one. An ancestor of the output that is no ancestor of a
    cut node comes after it: a path through it passes the cut node first.
    """
    found: list[CutLayer] = []
    left = [i for i in graph.activations if i in graph.ancestors[graph.output]]
    for cut in cuts(graph):
        after = tuple(i for i in left if i not in graph.ancestors[cut])
        if after:
            found.append(CutLayer(cut, after))
            left = [i for i in left if i in graph.ancestors[cut]]
    return found
