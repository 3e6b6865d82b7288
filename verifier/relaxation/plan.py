"""How to split a backward pass so that it stays inside a memory budget, and which structure it should use."""

from __future__ import annotations

from functools import cache

from verifier.graph import Graph
from verifier.ops.base import Activation, Affine

#: tensors of the size of a form that are alive at once in a backward pass
_COPIES = 8


class PassPlan:
    """Sizes, in numbers, of the backward passes of one graph.

    Args:
        memory: bytes of working memory for one chunk of examples.
    """

    def __init__(self, graph: Graph, memory: int) -> None:
        self.graph = graph
        self.numbers = max(1, memory // (graph.dtype.itemsize * _COPIES))
        self.patch_cost = cache(self._patch_cost)

    @property
    def examples(self) -> int:
        """Examples to work on at once: at least 1, at most 256."""
        widest = 1
        for node in (*self.graph.pre_activations, self.graph.output):
            patches = self.patch_cost(node)
            dense = 2 * self.graph.nodes[node].size * self._widest_below(node)
            widest = max(widest, dense if patches is None else min(dense, patches))
        return max(1, min(256, self.numbers // widest))

    def rows(self, node: int, batch: int) -> int:
        """Rows of a dense form at `node` to carry at once, for `batch` examples."""
        return max(1, self.numbers // (2 * batch * self._widest_below(node)))

    def use_patches(self, node: int, rows: int) -> bool:
        """Whether patches for all neurons of `node` cost less than dense forms for `rows` of them."""
        patches = self.patch_cost(node)
        if patches is None:
            return False
        sizes = sum(self.graph.nodes[i].size for i in self.graph.ancestors[node] - {node})
        return patches <= 2 * rows * sizes and patches <= self.numbers

    def _widest_below(self, node: int) -> int:
        return max(self.graph.nodes[i].size for i in self.graph.ancestors[node])

    def _patch_cost(self, node: int) -> int | None:
        """Numbers in the patch forms from `node` down to the input; None where they would not stay patches."""
        graph = self.graph
        if len(graph.nodes[node].shape) != 3:
            return None
        size, step = {node: (1, 1)}, {node: (1, 1)}
        total = 0
        for i in sorted(graph.ancestors[node], reverse=True):
            if i == 0:
                break
            op = graph.nodes[i].op
            if not isinstance(op, Activation) and not (isinstance(op, Affine) and op.keeps_patches):
                return None
            below = op.window(size[i]) if isinstance(op, Affine) else size[i]
            stride = getattr(op, "stride", (1, 1))
            steps = (step[i][0] * stride[0], step[i][1] * stride[1])
            for parent in graph.nodes[i].parents:
                if step.setdefault(parent, steps) != steps:
                    return None  # windows that move at different strides do not add up to windows
                height, width = size.get(parent, (0, 0))
                size[parent] = (max(height, below[0]), max(width, below[1]))
            if below != size[i]:
                total += graph.nodes[node].size * graph.nodes[graph.nodes[i].parents[0]].shape[0] * below[0] * below[1]
        return total
