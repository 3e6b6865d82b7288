"""Proofs by cases: trees that split neurons, and trees that split the input box.

A node of a tree that splits has two children, z <= at and z >= at of one entry that an activation or a product reads (x
of one input), so that the leaves under a root cover what the root stands for. Every node is the child of at most one
other, and comes after it. On a leaf, weights w >= 0 of a clause's rows that do not all vanish prove the clause where
sum w_r row_r > 0; multipliers gamma of the leaf's own constraints may be added to it, gamma (z - upper) for gamma > 0
and gamma (z - lower) for gamma < 0: both are <= 0 on the leaf.

Arrays of `cases` (T nodes, L leaves, M free neurons and products; `neurons` of all these nodes in order make up the M,
and what they read the Z entries that may be split: an activation's neurons themselves, and a product's `reads`):
    neurons {"<activation or product>": [m]}, reads {"<product>": [k]} (places in its parent; where there are products),
    roots [K, 2] (clause, or row of a step; node), neuron [T] (the entry, -1 at a leaf), at [T], below [T], above [T],
    proof [T] (the leaf, -1 elsewhere), slope [L, M] and perhaps upper [L, M] (as of rows' own slopes; products have
    none), weight [L, W >= rows of a clause], first [L + 1], split [G] (entries), gamma [G]: leaf i has the multipliers
    from first[i] to before first[i + 1].
Arrays of `boxes` (T nodes, P proofs, R rows of a clause; node 0 is the whole set):
    side [T] (-1 at a leaf), at [T], below [T], above [T], fresh [T] bool or uint8 (bounded by lines of its own, by the
    rule "adaptive" within what is known of the nearest fresh one above; others by that one's lines), node [P],
    clause [P], weights [P, W >= R], own [P] (row of slopes, -1 for the rule) with slopes {"<activation>": {"neurons",
    "slopes" [Q, u], ...}}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from verifier.checker import lines, products
from verifier.checker.backward import Extra, NodeRanges, SlopeTable
from verifier.checker.network import NONLINEAR, PRODUCT, CanonicalNetwork
from verifier.checker.rounding import AMPLE, TINY, down, gamma

Record = Mapping[str, Any]
Specification = tuple[np.ndarray, np.ndarray, np.ndarray]  #: rows [S, n], offsets [S], clauses [S]
Rows = Sequence[np.ndarray]  #: of every clause, [R, n]
Ends = dict[int, float]  #: entry -> an end of its interval
Values = dict[int, np.ndarray]  #: pre-activation -> [B, n]
#: cases that are worked on at a time
_LEAVES, _BOXES = 64, 512


def slopes_of(network: CanonicalNetwork, record: Record, count: int) -> SlopeTable:
    """Slopes of a certificate's own for `count` rows, with places and shapes checked."""
    found = {}
    for name, given in record.items():
        k = int(name)
        places, codes = given["neurons"], given["slopes"]
        fits = 0 <= k < len(network.nodes) and network.nodes[k].kind in NONLINEAR
        if not fits or places.dtype.kind not in "iu" or codes.shape != (count, len(places)) or places.ndim != 1:
            raise ValueError(f"slopes of node {name} that is no activation, or not one for each of {count} rows")
        if len(places) and not 0 <= places.min() <= places.max() < network.nodes[k].size:
            raise ValueError(f"slopes of neurons that node {name} does not have")
        found[k] = given
    return found


def forest(
    split: np.ndarray, at: np.ndarray, below: np.ndarray, above: np.ndarray, kinds: int, roots: np.ndarray
) -> None:
    """Raise unless every splitting node has two later children, no node is reached twice, and splits are of `kinds`."""
    inner = np.flatnonzero(split != -1)
    children = np.concatenate([below[inner], above[inner], roots])
    fine = split.shape == at.shape == below.shape == above.shape and bool(((split >= -1) & (split < kinds)).all())
    fine = (
        fine and bool(((children >= 0) & (children < len(split))).all()) and len(np.unique(children)) == len(children)
    )
    if not fine or not bool((np.minimum(below[inner], above[inner]) > inner).all()) or not np.isfinite(at[inner]).all():
        raise ValueError("cases that are no tree: a child that is missing, comes first or is shared, or a wrong split")


def mixed(rows: np.ndarray, offset: np.ndarray, weights: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [q, n] and constants [q] by weights [q, R] of a clause's rows [R, n], less than the exact combination.

    Args:
        size: [q or 1, n] largest values of what the rows are applied to.
    """
    weights = weights[:, : len(rows)].astype(np.float64)
    if (
        weights.shape[1] != len(rows)
        or not ((weights >= 0) & np.isfinite(weights)).all()
        or not (weights.sum(1) > 0).all()
    ):
        raise ValueError("weights of rows that are negative, none, too few, or not numbers")
    weights = weights / weights.sum(1, keepdims=True)
    terms = ((weights @ np.abs(rows)) * size).sum(1) + weights @ np.abs(offset)
    paid = gamma(2 * rows.size + 16) * AMPLE * terms + TINY * (1 + size.sum(1))
    return weights @ rows, down(weights @ offset - paid)


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Bounds of the largest row, from those of means whose weights sum to one up to rounding."""
    return down(values - np.abs(values) * gamma(2 * count + 16) * AMPLE)


class SplitForest:
    """The record of `by_neurons`, checked."""

    def __init__(self, network: CanonicalNetwork, record: Record, clauses: int) -> None:
        whole, numbers = (lambda n: record[n].astype(np.int64)), (lambda n: record[n].astype(np.float64))
        self.neuron, self.at, self.proof = whole("neuron"), numbers("at"), whole("proof")
        self.below, self.above, self.roots = whole("below"), whole("above"), whole("roots").reshape(-1, 2)
        self.first, self.split, self.gamma, self.weight = (
            whole("first"),
            whole("split"),
            numbers("gamma"),
            record["weight"],
        )
        self.places = {int(k): record["neurons"][k].astype(np.int64) for k in sorted(record["neurons"], key=int)}
        reads = dict(self.places)
        for k, p in self.places.items():
            if (
                not 0 <= k < len(network.nodes)
                or network.nodes[k].kind not in NONLINEAR
                or not _inside(p, network.nodes[k].size)
            ):
                raise ValueError(f"free neurons that node {k} does not have")
            if network.nodes[k].kind == PRODUCT:
                reads[k] = record["reads"][str(k)].astype(np.int64)
                if not _inside(reads[k], network.nodes[network.nodes[k].parents[0]].size):
                    raise ValueError(f"factors that the products of node {k} do not have")
        ends, leaves = np.cumsum([0, *map(len, self.places.values())]), len(self.weight)
        self.codes = {n: record[s] for n, s in (("slopes", "slope"), ("upper", "upper")) if s in record}
        self.parts = {k: slice(a, b) for k, a, b in zip(self.places, ends, ends[1:], strict=False)}
        none = [np.zeros(0, np.int64)]
        self.node = np.concatenate(none + [np.full(len(p), network.nodes[k].parents[0]) for k, p in reads.items()])
        self.place = np.concatenate(none + list(reads.values()))
        forest(self.neuron, self.at, self.below, self.above, len(self.place), self.roots[:, 1])
        fine = all(c.shape == (leaves, ends[-1]) for c in self.codes.values()) and self.first.shape == (leaves + 1,)
        fine = fine and self.split.shape == self.gamma.shape == (int(self.first[-1]),) and self.first[0] == 0
        fine = fine and (np.diff(self.first) >= 0).all() and self.proof.shape == self.at.shape
        fine = fine and ((self.split >= 0) & (self.split < len(self.place))).all() and np.isfinite(self.gamma).all()
        if not fine or not ((self.roots[:, 0] >= 0) & (self.roots[:, 0] < clauses)).all():
            raise ValueError("variables of leaves, or roots, that do not fit each other")

    def leaves(self, root: int) -> Iterator[tuple[int, Ends, Ends]]:
        """The variables of every leaf under a root (-1: none), and the ends that the splits above it set."""
        stack: list[tuple[int, Ends, Ends]] = [(root, {}, {})]
        while stack:
            node, low, high = stack.pop()
            j, at = int(self.neuron[node]), float(self.at[node])
            if j == -1:
                yield int(self.proof[node]), low, high
            else:
                stack.append((int(self.below[node]), low, {**high, j: min(at, high.get(j, at))}))
                stack.append((int(self.above[node]), {**low, j: max(at, low.get(j, at))}, high))

    def narrowed(
        self, ranges: NodeRanges, leaves: Sequence[tuple[int, Ends, Ends]]
    ) -> tuple[Values, Values, dict[int, Extra]]:
        """Intervals of pre-activations on leaves, [B, n], and what their multipliers add there."""
        inner = sorted({*self.node.tolist(), *(ranges.network.nodes[k].parents[0] for k in self.places)})
        lows, highs = ({k: np.repeat(a[k], len(leaves), 0) for k in inner} for a in (ranges.low, ranges.high))
        gammas = {k: np.zeros_like(low) for k, low in lows.items()}
        for b, (leaf, low, high) in enumerate(leaves):
            for ends, values, closer in ((low, lows, max), (high, highs, min)):
                for j, at in ends.items():
                    row = values[int(self.node[j])][b]
                    row[self.place[j]] = closer(row[self.place[j]], at)
            for i in range(self.first[leaf], self.first[leaf + 1]):
                gammas[int(self.node[self.split[i]])][b, self.place[self.split[i]]] += self.gamma[i]
        extra = {}
        for k, g in gammas.items():
            end = np.where(g > 0, highs[k], np.where(g < 0, lows[k], 0.0))
            size = (np.abs(g) * (np.abs(end) + ranges.size(k))).sum(1)
            paid = gamma(2 * g.shape[1] + ranges.readers + 32) * AMPLE * size
            extra[k] = g[:, None], (-(g * end).sum(1) - paid - TINY)[:, None]
        return lows, highs, extra


def by_neurons(ranges: NodeRanges, record: Record, node: int, rows: Rows, offsets: Rows) -> np.ndarray:
    """Lower bounds of the largest of every clause's rows [R, n] at a node; -inf for clauses without a tree."""
    tree, network = SplitForest(ranges.network, record, len(rows)), ranges.network
    by_rule, worst = ranges.lines("adaptive"), np.full(len(rows), -np.inf)
    for clause, root in tree.roots.tolist():
        leaves, bounds = list(tree.leaves(root)), []
        if not all(0 <= leaf < len(tree.weight) for leaf, _, _ in leaves):
            continue  # a leaf without variables proves nothing
        for start in range(0, len(leaves), _LEAVES):
            part = leaves[start : start + _LEAVES]
            index, (low, high, extra) = np.array([leaf for leaf, _, _ in part]), tree.narrowed(ranges, part)
            row, constant = mixed(rows[clause], offsets[clause], tree.weight[index], ranges.size(node))

            def choose(k: int, low: Values = low, high: Values = high, index: np.ndarray = index) -> lines.Lines:
                if k not in tree.places:
                    return by_rule(k)
                codes = {name: c[index, None, tree.parts[k]] for name, c in tree.codes.items()}
                p, given = network.nodes[k].parents[0], {"neurons": tree.places[k], **codes}
                if network.nodes[k].kind == PRODUCT:
                    given.pop("upper", None)
                    return products.own(network.nodes[k], low[p], high[p], given)
                return lines.own(network.nodes[k], low[p], high[p], given)

            found = ranges.walk(node, row[:, None], choose, extra=extra)[:, 0]
            bounds.append(largest(down(found + constant), len(offsets[clause])).min())
        worst[clause] = min(bounds)
    return worst


def _inside(places: np.ndarray, size: int) -> bool:
    """Whether these are places in something of that size."""
    return places.ndim == 1 and bool(((places >= 0) & (places < size)).all())


class BoxForest:
    """The record of `by_boxes`, checked, with the boxes [T, n] that its splits make of the set."""

    def __init__(self, ranges: NodeRanges, record: Record, clauses: int) -> None:
        network, whole = ranges.network, (lambda name: record[name].astype(np.int64))
        self.side, self.below, self.above = whole("side"), whole("below"), whole("above")
        self.node, self.clause, self.own = whole("node"), whole("clause"), whole("own")
        at, fresh, self.weights = record["at"].astype(np.float64), record["fresh"].astype(bool), record["weights"]
        forest(self.side, at, self.below, self.above, network.nodes[0].size, np.zeros(1, np.int64))
        fine = fresh.shape == at.shape and self.node.shape == self.clause.shape == self.own.shape == (
            len(self.weights),
        )
        fine = fine and ((self.node >= 0) & (self.node < len(at)) & (self.clause >= 0) & (self.clause < clauses)).all()
        if not fine:
            raise ValueError("proofs of boxes or clauses that are not there")
        count = int(self.own.max(initial=-1)) + 1
        self.slopes = slopes_of(network, record["slopes"], count) if count else {}
        self.lower, self.upper = (np.repeat(t[0], len(at), 0) for t in (ranges.low, ranges.high))
        #: splitting nodes, level by level; the fresh node whose lines bound a node, and the one above that
        self.levels: list[np.ndarray] = []
        self.owner, self.parent = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
        level, kids = np.zeros(1, np.int64), [np.zeros(0, np.int64)]
        while len(level):
            s = level[self.side[level] != -1]
            for child, ends in ((self.below[s], self.upper), (self.above[s], self.lower)):
                self.lower[child], self.upper[child] = self.lower[s], self.upper[s]
                # a split outside of its box leaves one half as it is and makes the other, which is empty, an edge
                ends[child, self.side[s]] = np.clip(at[s], self.lower[s, self.side[s]], self.upper[s, self.side[s]])
                self.owner[child], self.parent[child] = np.where(fresh[child], child, self.owner[s]), self.owner[s]
                kids.append(child[fresh[child]])
            self.levels.append(s)
            level = np.concatenate([self.below[s], self.above[s]])
        fresh_ones = np.concatenate(kids)
        self.kids = fresh_ones[np.argsort(self.parent[fresh_ones], kind="stable")]
        self.proofs = np.argsort(self.owner[self.node], kind="stable")

    def chosen(self, proofs: np.ndarray) -> SlopeTable:
        """The slopes of proofs that have their own, one row each."""
        rows = self.own[proofs]
        return {k: {n: a if n == "neurons" else a[rows, None] for n, a in v.items()} for k, v in self.slopes.items()}


def by_boxes(ranges: NodeRanges, record: Record, node: int, rows: Rows, offsets: Rows) -> np.ndarray:
    """Lower bounds of the largest of every clause's rows at a node, by a tree of boxes."""
    boxes, inner = BoxForest(ranges, record, len(rows)), ranges.network.pre_activations
    least = np.full((len(boxes.side), len(rows)), -np.inf)
    stack = [(np.zeros(1, np.int64), {k: (ranges.low[k], ranges.high[k]) for k in inner})]
    while stack:
        nodes, known = stack.pop()
        if len(nodes) > _BOXES:
            stack.append((nodes[_BOXES:], {k: (a[_BOXES:], b[_BOXES:]) for k, (a, b) in known.items()}))
            nodes, known = nodes[:_BOXES], {k: (a[:_BOXES], b[:_BOXES]) for k, (a, b) in known.items()}
        part = NodeRanges(
            ranges.network, boxes.lower[nodes], boxes.upper[nodes], ranges.float32, deadline=ranges.deadline
        )  # fmt: skip
        part.known.update(known)
        part.tighten_all(inner, "adaptive")
        place, mine = _members(boxes.owner[boxes.node[boxes.proofs]], nodes)
        proofs = boxes.proofs[mine]
        for c, kept in ((c, kept) for c in range(len(rows)) for kept in (False, True)):
            some = (boxes.clause[proofs] == c) & ((boxes.own[proofs] >= 0) == kept)
            q, of = proofs[some], place[some]
            if len(q):
                row, constant = mixed(rows[c], offsets[c], boxes.weights[q], part.size(node, of))
                choose = part.own_lines(boxes.chosen(q), of) if kept else part.lines("adaptive", of)
                box = boxes.lower[boxes.node[q]], boxes.upper[boxes.node[q]]
                found = part.walk(node, row[:, None], choose, of, box)[:, 0]
                np.fmax.at(least, (boxes.node[q], c), largest(down(found + constant), len(offsets[c])))
        place, mine = _members(boxes.parent[boxes.kids], nodes)
        if len(mine):
            stack.append((boxes.kids[mine], {k: (part.low[k][place], part.high[k][place]) for k in inner}))
    for s in reversed(boxes.levels):  # of a node: its own bound, or the worse of its halves'
        least[s] = np.fmax(least[s], np.minimum(least[boxes.below[s]], least[boxes.above[s]]))
    return least[0]


def _members(owners: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the sorted owners [m] are among the nodes [B]: the nodes' places, and the owners'."""
    first, last = (np.searchsorted(owners, nodes, side) for side in ("left", "right"))
    place = np.repeat(np.arange(len(nodes)), last - first)
    return place, np.concatenate([np.zeros(0, np.int64), *map(np.arange, first, last)]).astype(np.int64)
