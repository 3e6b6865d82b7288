"""How to split a backward pass so that it stays inside a memory budget, and which structure it should use."""

from __future__ import annotations

from functools import cache

import torch

from verifier.device import ask_numbers
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine

#: tensors of the size of a form that are alive at once in a backward pass
_COPIES = 8

#: numbers in a dense form, both sides of its rows: larger tensors are returned to the system and zeroed by it again for
#: every operation, which takes longer than the operation
_CACHED = 1 << 21

#: numbers in patches of all neurons of a node, beyond which chosen neurons' windows are worked on a few rows at a time
_PATCHES = 1 << 24


#: numbers in the values of all nodes, of the examples that a network is evaluated for at once: enough to keep a
#: processor busy, so few that an evaluation is soon over and a dozen such tensors stay far inside of a stage's memory
_EVALUATED = 1 << 22


def together(graph: Graph, device: torch.device) -> int:
    """Examples to evaluate a network for at once, from its input to its output, by whatever arithmetic: at least 1."""
    sizes = sum(node.size for node in graph.nodes)
    return max(1, (_EVALUATED if device.type == "cpu" else 16 * _EVALUATED) // sizes)


class PassPlan:
    """Sizes, in numbers, of the backward passes of one graph.

    Args:
        memory: bytes of working memory for one chunk of examples.
        device: where they are worked on; default a CPU, which is fastest inside of its caches.
    """

    def __init__(self, graph: Graph, memory: int, device: torch.device | None = None) -> None:
        self.graph = graph
        self.numbers = max(1, memory // (graph.dtype.itemsize * _COPIES))
        on_cpu = device is None or device.type == "cpu"
        self.at_once = min(self.numbers, _CACHED) if on_cpu else self.numbers
        self.patch_cost = cache(self._patch_cost)
        self.window_sizes = cache(self._window_sizes)

    @property
    def examples(self) -> int:
        """Examples to work on at once: at least 1, at most 256."""
        widest = 1
        for node in (*self.graph.pre_activations, self.graph.output):
            patches = self.patch_cost(node)
            dense = 2 * self.graph.nodes[node].size * self._widest_below(node)
            widest = max(widest, dense if patches is None else min(dense, patches))
        return max(1, min(256, self.numbers // widest))

    def rows(self, node: int, batch: int, windows: bool = False) -> int:
        """Rows at `node` to carry at once, for `batch` examples, as windows or as a dense form."""
        return max(1, self.at_once // (2 * batch * self.widest(node, windows)))

    def widest(self, node: int, windows: bool = False) -> int:
        """Numbers that one row at `node` has at most in a node below it, as windows or as a dense form."""
        return self.window_sizes(node)[1] if windows else self._widest_below(node)

    def ask(self, like: torch.Tensor, numbers: float) -> None:
        """To be called before a pass over forms of so many numbers, which keeps several tensors of their size.

        Raises:
            MemoryError: the machine has less left, however much the plan may take.
        """
        ask_numbers(like, _COPIES * numbers)

    def use_windows(self, node: int) -> bool:
        """Whether the windows of single neurons of `node` are clearly smaller than the nodes below it."""
        dense = sum(self.graph.nodes[i].size for i in self.graph.ancestors[node] - {node})
        return 2 * self.window_sizes(node)[0] < dense

    def use_patches(self, node: int, rows: int) -> bool:
        """Whether patches for all neurons of `node` cost less than dense forms for `rows` of them."""
        patches = self.patch_cost(node)
        if patches is None:
            return False
        sizes = sum(self.graph.nodes[i].size for i in self.graph.ancestors[node] - {node})
        return patches <= 2 * rows * sizes and patches <= min(self.numbers, _PATCHES)

    def _widest_below(self, node: int) -> int:
        return max(self.graph.nodes[i].size for i in self.graph.ancestors[node])

    def _window_sizes(self, node: int) -> tuple[int, int]:
        """Numbers that one neuron of `node` has in the nodes below it, as windows: in all, and in the largest."""
        graph = self.graph
        seen: dict[int, tuple[int, int]] = {}  # height and width of windows; no entry: dense
        if len(graph.nodes[node].shape) == 3:
            seen[node] = (1, 1)
        for i in sorted(graph.ancestors[node], reverse=True):
            op, parents = graph.nodes[i].op, graph.nodes[i].parents
            keeps = isinstance(op, Activation) or (isinstance(op, Affine) and op.keeps_patches)
            for parent in parents:
                if not keeps or i not in seen or len(graph.nodes[parent].shape) != 3:
                    shape = graph.nodes[parent].shape
                    seen[parent] = (shape[1], shape[2]) if len(shape) == 3 else (1, 1)
                    continue
                below = op.window(seen[i]) if isinstance(op, Affine) else seen[i]
                high, wide = seen.get(parent, (0, 0))
                seen[parent] = (max(high, below[0]), max(wide, below[1]))
        sizes = []
        for i in graph.ancestors[node] - {node}:
            size = graph.nodes[i].size
            if i in seen and len(graph.nodes[i].shape) == 3:
                size = min(size, graph.nodes[i].shape[0] * seen[i][0] * seen[i][1])
            sizes.append(size)
        return sum(sizes), max(sizes, default=1)

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
