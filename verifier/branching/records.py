"""Proofs by branch and bound in the terms of certificates (verifier/checker/subdomains.py says what those hold)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.branching.inputs_tree import BoxTree
from verifier.branching.subdomains import STEPS
from verifier.branching.tree import SplitTree
from verifier.errors import UnsupportedError
from verifier.graph import Graph
from verifier.graph.canonical import Canonical
from verifier.ops.base import Activation
from verifier.ops.clip import Clip
from verifier.ops.product import Product
from verifier.ops.relu import LeakyReLU
from verifier.relaxation.families import RelaxationFamily

_NO = -1


def subdomains_of(
    tree: SplitTree, clauses: Sequence[int], graph: Graph, found: Canonical, bounds: Bounds, code: type[np.generic]
) -> dict[str, Any] | None:
    """The trees of some clauses as a record of cases; None where one of them has no tree.

    Args:
        bounds: of pre-activations, a batch of 1: what the tree was grown on.
        code: of the leaves' slopes. Positions of lines in a byte are taken as they are where all activations bend once.

    Raises:
        UnsupportedError: a split of a neuron that certificates have another way to write.
    """
    roots = [(clause, root) for clause, root in tree.roots if clause in clauses]
    if {clause for clause, _ in roots} != set(clauses):
        return None
    _check(tree, graph, found)
    # places in the certificate's order -> free neurons [M], and entries [Z], of the tree
    order, entries = (_order(parts, found) for parts in (tree.neurons, tree.reads))
    rank = np.empty_like(entries)
    rank[entries] = np.arange(len(entries))
    nodes, leaves = _reached(tree, [root for _, root in roots])
    number = np.full(len(tree.neuron), _NO)
    number[nodes] = np.arange(len(nodes))
    leaf_number = np.full(len(tree.slope) + 1, _NO)
    leaf_number[leaves] = np.arange(len(leaves))
    neuron, below, above, proof = (t.numpy()[nodes] for t in (tree.neuron, tree.below, tree.above, tree.proof))
    inner = neuron != _NO
    first, split, gamma = (t.numpy() for t in (tree.first, tree.split, tree.gamma))
    counts = first[leaves + 1] - first[leaves]
    picked = np.concatenate([np.zeros(0, np.int64), *(np.arange(first[i], first[i + 1]) for i in leaves)])
    ordered = _ordered(tree.neurons, found)
    neurons = {str(found.activations[a]): tree.neurons[a].numpy().astype(np.int32) for a in ordered}
    products = [a for a in ordered if isinstance(graph.nodes[a].op, Product)]
    reads = {str(found.activations[a]): tree.reads[a].numpy().astype(np.int32) for a in products}
    return {
        "neurons": neurons,
        **({"reads": reads} if reads else {}),
        "roots": np.array([(clause, number[root]) for clause, root in roots], dtype=np.int32),
        "neuron": np.where(inner, rank[neuron] if len(rank) else neuron, _NO).astype(np.int32),
        "at": tree.at.numpy()[nodes],
        "below": np.where(inner, number[below], _NO).astype(np.int32),
        "above": np.where(inner, number[above], _NO).astype(np.int32),
        "proof": np.where(inner, _NO, leaf_number[proof]).astype(np.int32),
        **_slopes(tree, leaves, order, graph, bounds, code),
        "weight": tree.weight.numpy()[leaves].astype(np.float32),
        "first": np.concatenate([[0], counts.cumsum()]).astype(np.int32),
        "split": rank[split[picked]].astype(np.int32),
        "gamma": gamma[picked].astype(np.float32),
    }  # fmt: skip


def _ordered(parts: Mapping[int, Tensor], found: Canonical) -> list[int]:
    """The activations and products with free neurons in the certificate's order."""
    return sorted(parts, key=lambda a: found.activations[a])


def _check(tree: SplitTree, graph: Graph, found: Canonical) -> None:
    for a in tree.neurons:
        parent = found.network.nodes[found.activations[a]].parents[0]
        if found.place.get(graph.nodes[a].parents[0]) != parent:
            raise UnsupportedError(f"{graph.nodes[a]}: certificates have no splits of clipping at one limit")


def _order(parts: Mapping[int, Tensor], found: Canonical) -> np.ndarray:
    """What the tree numbers in its own order, in the certificate's."""
    begin, start = {}, 0
    for a, places in parts.items():
        begin[a], start = start, start + len(places)
    own = (np.arange(begin[a], begin[a] + len(parts[a])) for a in _ordered(parts, found))
    return np.concatenate([np.zeros(0, np.int64), *own])


def _reached(tree: SplitTree, roots: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes under some roots, and the proofs at their leaves, in order."""
    stack, nodes, proofs = list(roots), [], []
    neuron, below, above, proof = (t.tolist() for t in (tree.neuron, tree.below, tree.above, tree.proof))
    while stack:
        node = stack.pop()
        nodes.append(node)
        if neuron[node] != _NO:
            stack += [below[node], above[node]]
        elif proof[node] != _NO:
            proofs.append(proof[node])
    return np.array(sorted(nodes)), np.array(sorted(set(proofs)), dtype=np.int64)


def _slopes(
    tree: SplitTree, leaves: np.ndarray, order: np.ndarray, graph: Graph, bounds: Bounds, code: type[np.generic]
) -> dict[str, np.ndarray]:
    """The leaves' slopes [L, M]: positions as they are, or the slopes of the lines that they stand for.

    Of products, positions always.
    """
    ops = {a: graph.nodes[a].op for a in tree.neurons}
    if code is np.uint8 and all(isinstance(op, LeakyReLU | Product) for op in ops.values()):
        positions, first = tree.slope.numpy()[leaves].copy(), 0
        for a, places in tree.neurons.items():
            op = ops[a]
            if isinstance(op, LeakyReLU) and op.negative_slope > 1:  # its lines are counted from the steepest on
                part = slice(first, first + len(places))
                positions[:, part] = STEPS - positions[:, part]
            first += len(places)
        return {"slope": positions[:, order]}
    width = np.float16 if code is np.uint8 else code
    lower, upper = _ends(tree, leaves, graph, bounds)
    shape = len(leaves), len(order)
    below, above, first, begin = np.zeros(shape), np.zeros(shape), 0, 0
    for a, places in tree.neurons.items():
        part, reads = slice(first, first + len(places)), slice(begin, begin + len(tree.reads[a]))
        position = (tree.slope[torch.from_numpy(leaves)][:, part].double() / STEPS).clamp(0, 1)
        op = ops[a]
        if isinstance(op, Product):
            below[:, part] = position.numpy()  # of planes, positions are all that is written
        else:
            assert isinstance(op, Activation)
            lines = RelaxationFamily.inner(op, lower[:, reads], upper[:, reads])
            for side, family in ((below, lines.low), (above, lines.up)):
                slope = family.slope_at(position)
                side[:, part] = 0.0 if slope is None else slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).numpy()
        first, begin = part.stop, reads.stop
    return {"slope": below[:, order].astype(width), "upper": above[:, order].astype(width)}


def _ends(tree: SplitTree, leaves: np.ndarray, graph: Graph, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """The intervals of what free neurons read, on each leaf: [L, Z]."""
    parts: list[tuple[Tensor, Tensor]] = []
    for a, places in tree.reads.items():
        known = bounds[graph.nodes[a].parents[0]]
        parts.append((known.lower[0].double().flatten()[places], known.upper[0].double().flatten()[places]))
    none = torch.zeros(0, dtype=torch.float64)
    low, high = (torch.cat([none, *(p[k] for p in parts)]) for k in (0, 1))
    lower, upper = low.repeat(len(leaves), 1), high.repeat(len(leaves), 1)
    row = {int(leaf): k for k, leaf in enumerate(leaves)}
    for _, root in tree.roots:
        stack: list[tuple[int, Tensor, Tensor]] = [(root, low, high)]
        while stack:
            node, down, up = stack.pop()
            neuron, proof = int(tree.neuron[node]), int(tree.proof[node])
            if neuron != _NO:
                at = tree.at[node]
                under, over = up.clone(), down.clone()
                under[neuron], over[neuron] = at, at
                stack += [(int(tree.below[node]), down, under), (int(tree.above[node]), over, up)]
            elif proof in row:
                lower[row[proof]], upper[row[proof]] = down, up
    return lower, upper


def boxes_of(tree: BoxTree, graph: Graph, found: Canonical) -> dict[str, Any]:
    """A tree of boxes as a record; its own slopes are kept where an activation's lines have theirs as positions."""
    kept = all(isinstance(graph.nodes[a].op, LeakyReLU | Clip | Product) for a in graph.activations)
    slopes = _levels(tree, graph, found.activations) if kept and len(tree.levels) else {}
    own = tree.slopes.numpy() if slopes else np.full(len(tree.slopes), _NO)
    return {
        "side": tree.side.numpy().astype(np.int32), "at": tree.at.numpy(),
        "below": tree.below.numpy().astype(np.int32), "above": tree.above.numpy().astype(np.int32),
        "fresh": tree.fresh.numpy().astype(np.uint8), "node": tree.node.numpy().astype(np.int32),
        "clause": tree.clause.numpy().astype(np.int32), "weights": tree.weights.numpy().astype(np.float32),
        "own": own.astype(np.int32), "slopes": slopes,
    }  # fmt: skip


def _levels(tree: BoxTree, graph: Graph, activations: Mapping[int, int]) -> dict[str, dict[str, np.ndarray]]:
    slopes, start = {}, 0
    for a in graph.activations:
        size, op = graph.nodes[a].size, graph.nodes[a].op
        levels = tree.levels[:, start : start + size].numpy()
        if isinstance(op, LeakyReLU) and op.negative_slope > 1:
            levels = 255 - levels
        if a in activations:
            slopes[str(activations[a])] = {"neurons": np.arange(size, dtype=np.int32), "slopes": levels}
        start += size
    return slopes
