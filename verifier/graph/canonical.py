"""From a graph to the network that certificates name: few kinds of node, flat values, one digest for one function.

The canonical network is the real function of the model's parameters. Parameters are numbers of float64, float32 ones
exactly so; what has to be computed from them (the scale of a batch norm, 1/9 in a mean) comes with how far it may be
off (`ulps`). Nothing is folded: that would round.

Graphs of one network from different importers differ in what copies values and in where a bias is added. Nodes that
return their parent as it is are left out, and a bias on its own joins the matrix or the convolution before it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from verifier.checker.network import NONLINEAR, CanonicalNetwork, CanonicalNode
from verifier.errors import UnsupportedError
from verifier.graph import Graph
from verifier.ops.base import Primitive
from verifier.ops.shape import Reshape


@dataclass(frozen=True)
class Canonical:
    """A graph's canonical network, and where its nodes are in it."""

    network: CanonicalNetwork
    #: node of the graph -> node of the network that has its values; none for those that the output does not depend on,
    #: nor for a sum before its bias
    place: dict[int, int]
    #: activation of the graph -> activation of the network with the same slopes
    activations: dict[int, int]


@dataclass(frozen=True)
class _Draft:
    """A node that is not numbered yet; parents are nodes of the graph."""

    kind: str
    parents: tuple[int, ...]
    size: int
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def canonical(graph: Graph) -> Canonical:
    """The canonical network of a graph in any precision, on any device.

    Raises:
        UnsupportedError: an operator that certificates have no kind for, or whose numbers they cannot vouch for.
    """
    graph = graph.to("cpu", torch.float64)
    alias: dict[int, int] = {}
    activations: dict[int, int] = {}
    drafts: dict[int, _Draft] = {}  # by node of the graph, those of chains but for their last by numbers beyond
    for i, node in enumerate(graph.nodes):
        if node.op is None:
            drafts[i] = _Draft("input", (), node.size)
            continue
        parents = tuple(alias.get(p, p) for p in node.parents)
        try:
            chain = () if isinstance(node.op, Reshape) else node.op.primitives(graph.parent_shapes(i))
            found = [_draft(primitive, node.size) for primitive in chain]
        except UnsupportedError as error:
            raise UnsupportedError(f"{node}: {error}") from None
        for k, draft in enumerate(found, 1):
            own = i if k == len(found) else len(graph.nodes) + len(drafts)
            if draft.kind in NONLINEAR:
                activations[i] = own
            drafts[own] = replace(draft, parents=parents)
            parents = (own,)
        if not found or (len(found) == 1 and _identity(drafts[i], drafts)):
            alias[i] = (drafts.pop(i).parents if found else parents)[0]
    output = alias.get(graph.output, graph.output)
    _join_biases(drafts, output)
    order = _order(drafts, output)
    number = {node: k for k, node in enumerate(order)}
    parts = (drafts[i] for i in order)
    nodes = tuple(
        CanonicalNode(d.kind, tuple(number[p] for p in d.parents), d.size, d.arrays, d.options) for d in parts
    )
    try:
        network = CanonicalNetwork(nodes)
    except ValueError as error:
        raise UnsupportedError(f"certificates cannot speak of this network: {error}") from None
    place = {i: number[alias.get(i, i)] for i in range(len(graph.nodes)) if alias.get(i, i) in number}
    return Canonical(network, place, {i: number[k] for i, k in activations.items() if k in number})


def _draft(primitive: Primitive, size: int) -> _Draft:
    """Checked, and without a bias that is zero."""
    arrays = dict(primitive.arrays)
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UnsupportedError(f"its {name} has NaN or infinite entries")
        # -0.0 and 0.0 are one number
        arrays[name] = np.ascontiguousarray(values + 0.0 if values.dtype.kind == "f" else values)
    if "bias" in arrays and not arrays["bias"].any() and not arrays.get("bias_size", np.zeros(1)).any():
        del arrays["bias"]
        arrays.pop("bias_size", None)
    return _Draft(primitive.kind, (), size, arrays, dict(primitive.options))


def _identity(draft: _Draft, drafts: dict[int, _Draft]) -> bool:
    return "bias" not in draft.arrays and _shift(draft, drafts[draft.parents[0]].size)


def _shift(draft: _Draft, size: int) -> bool:
    """Whether a node is its one parent (of that size), entry for entry, but for a bias."""
    if draft.kind != "sparse" or len(draft.parents) != 1 or draft.options.get("ulps", 0) or draft.size != size:
        return False
    every = np.arange(size)
    row, column, value = (draft.arrays[name] for name in ("row", "column", "value"))
    return len(row) == size and bool((row == every).all() and (column == every).all() and (value == 1).all())


def _join_biases(drafts: dict[int, _Draft], output: int) -> None:
    """Give each lone bias to the matrix or convolution that nothing else reads, in place."""
    order = _order(drafts, output)
    readers = Counter(p for i in order for p in drafts[i].parents)
    for i in order:
        draft = drafts[i]
        if len(draft.parents) != 1 or "bias" not in draft.arrays or readers[draft.parents[0]] != 1:
            continue
        parent = drafts[draft.parents[0]]
        if not _shift(draft, parent.size) or "bias" in parent.arrays:
            continue
        bias = _fitting(parent, draft.arrays["bias"])
        if bias is not None:
            drafts[i] = replace(parent, arrays={**parent.arrays, "bias": bias})


def _fitting(parent: _Draft, bias: np.ndarray) -> np.ndarray | None:
    """A bias on every entry as a bias of that node; None where it has no such bias."""
    if parent.kind == "matrix":
        return bias
    if parent.kind not in ("conv", "conv_transpose"):
        return None
    shape = parent.options["output" if parent.kind == "conv" else "input"]
    channels = bias.reshape(shape[0], -1)
    return np.ascontiguousarray(channels[:, 0]) if (channels == channels[:, :1]).all() else None


def _order(drafts: dict[int, _Draft], output: int) -> list[int]:
    """The input, then what the output depends on, depth first, each node after its parents in their order."""
    order, seen = [0], {0}
    stack = [(output, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(p, False) for p in reversed(drafts[node].parents)]
    return order
