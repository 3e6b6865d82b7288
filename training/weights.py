"""The weights that a graph works with: the model's own parameters, or what it computes from them on every call."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.graph import Graph


def live(graph: Graph, node: int) -> list[Tensor]:  # [...] each
    """What a node works with that gradients go to."""
    op = graph.nodes[node].op
    return [] if op is None else [t for _, t in op.parameters() if t.requires_grad]


def sources(tensor: Tensor) -> list[Tensor]:  # [...] -> [...] each
    """The parameters that a tensor is computed from; itself, where it is one."""
    if tensor.grad_fn is None:
        return [tensor] if tensor.requires_grad else []
    found: dict[int, Tensor] = {}
    seen, open_ = {tensor.grad_fn}, [tensor.grad_fn]
    while open_:
        step = open_.pop()
        parameter = getattr(step, "variable", None)
        if parameter is not None:
            found[id(parameter)] = parameter
        for before, _ in step.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                open_.append(before)
    return list(found.values())


def matrices(graph: Graph, cut: int = 0) -> list[Tensor]:  # [m, n, ...] each
    """Weights of more than one dimension that work behind a node alone: no biases, and no factors of channels."""
    before = {id(t) for i in graph.ancestors[cut] for t in live(graph, i)}
    behind = (t for i in range(cut + 1, len(graph.nodes)) for t in live(graph, i))
    return list({id(t): t for t in behind if t.dim() > 1 and id(t) not in before}.values())


def l1_norm(graph: Graph, cut: int = 0) -> Tensor:  # []
    """The sum of the absolute values of `matrices`."""
    return sum((w.abs().sum() for w in matrices(graph, cut)), torch.zeros(()))
