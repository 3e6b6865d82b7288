"""Proofs by cases in rational numbers, on neurons and on boxes of inputs. checker/subdomains.py has the format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from verifier.checker import subdomains
from verifier.checker.exact.model import ExactModel, Number, Vector
from verifier.checker.exact.ranges import Chooser, ExactRanges
from verifier.checker.exact.region import ExactRegion

#: rows of a clause and their offsets
Clause = tuple[list[Vector], Vector]
#: what a certificate calls slopes, and what the checker does
_SLOPES = (("slopes", "slope"), ("upper", "upper"))


def most_of(values: Sequence[Number | None]) -> Number | None:
    known = [v for v in values if v is not None]
    return max(known) if known else None


def least_of(values: Sequence[Number | None]) -> Number | None:
    known = [v for v in values if v is not None]
    return min(known) if len(known) == len(values) else None


def by_neurons(
    ranges: ExactRanges, record: Mapping[str, Any], node: int, clauses: Sequence[Clause]
) -> list[Number | None]:
    """Bounds of every clause's largest row of a node's value, by trees of cases; None where nothing was proved."""
    trees, found = _ExactTrees(ranges, record, node), [None] * len(clauses)
    for clause, root in record["roots"].astype(np.int64).reshape(-1, 2).tolist():
        if not 0 <= clause < len(clauses):
            raise ValueError("a tree of a clause that is not there")
        values = [trees.leaf(*leaf, clauses[clause]) for leaf in trees.leaves(root)]
        found[clause] = min((v for v in values if v is not None), default=None)  # None: no point is in that case
    return found


class _ExactTrees:
    """Trees of cases, and what the variables of their leaves prove."""

    def __init__(self, ranges: ExactRanges, record: Mapping[str, Any], node: int) -> None:
        self.ranges, self.model, self.record, self.node = ranges, ranges.model, record, node
        names = ("neuron", "below", "above", "proof", "first", "split")
        self.whole = {n: record[n].astype(np.int64) for n in names}
        self.numbers = {n: self.model.vector(record[n]) for n in ("at", "gamma")}
        self.places = {int(k): record["neurons"][k].astype(np.int64) for k in sorted(record["neurons"], key=int)}
        parent = {k: self.model.network.nodes[k].parents[0] for k in self.places}
        self.free = [(parent[k], int(j)) for k, p in self.places.items() for j in p]
        self.ends = np.cumsum([0, *map(len, self.places.values())])
        self.others = ranges.by_rule("adaptive")
        roots = record["roots"].astype(np.int64).reshape(-1, 2)[:, 1]
        tree = self.whole
        subdomains.forest(tree["neuron"], record["at"], tree["below"], tree["above"], len(self.free), roots)

    def leaves(self, root: int) -> Iterator[tuple[int, dict[int, Number], dict[int, Number]]]:
        """Every leaf's variables, and the ends that the cases above it give to some of the free neurons."""
        stack = [(root, dict[int, Number](), dict[int, Number]())]
        while stack:
            t, low, high = stack.pop()
            j, at = int(self.whole["neuron"][t]), self.numbers["at"][t]
            if j < 0:
                yield int(self.whole["proof"][t]), low, high
                continue
            stack.append((int(self.whole["below"][t]), low, {**high, j: min(at, high.get(j, at))}))
            stack.append((int(self.whole["above"][t]), {**low, j: max(at, low.get(j, at))}, high))

    def leaf(self, leaf: int, low: dict[int, Number], high: dict[int, Number], clause: Clause) -> Number | None:
        """A lower bound of the clause's mean row in one case; None where the case has no point."""
        if not 0 <= leaf < len(self.record["weight"]):
            raise ValueError("a leaf without variables")
        part = self._within(low, high)
        if any(part.low[k][j] > part.high[k][j] for k, j in (self.free[i] for i in {*low, *high})):
            return None
        row, constant = _mean(self.model, self.record["weight"][leaf], clause)
        extra = self._extra(leaf)
        for k, more in extra.items():
            pairs = zip(more, part.low[k], part.high[k], strict=True)
            constant -= sum(f * (b if f > 0 else a) for f, a, b in pairs)
        rows = self.model.rows([row], len(row))
        return part.walk(self.node, rows, self._chosen(leaf, part), self.ranges.inputs, extra)[0] + constant

    def _within(self, low: dict[int, Number], high: dict[int, Number]) -> ExactRanges:
        """The ranges of one case."""
        part = ExactRanges(self.model, self.ranges.inputs)
        part.low, part.high = list(self.ranges.low), list(self.ranges.high)
        for ends, given, pick in ((part.low, low, max), (part.high, high, min)):
            for i, value in given.items():
                k, place = self.free[i]
                ends[k] = [*ends[k][:place], pick(ends[k][place], value), *ends[k][place + 1 :]]
        return part

    def _extra(self, leaf: int) -> dict[int, Vector]:
        """Multipliers of a leaf's cases, by node: gamma (z - end) <= 0 is added to the row."""
        extra: dict[int, Vector] = {}
        for g in range(self.whole["first"][leaf], self.whole["first"][leaf + 1]):
            (k, place), factor = self.free[self.whole["split"][g]], self.numbers["gamma"][g]
            if not 0 < k <= self.node:
                continue  # the walk does not come by it: its constant alone would be no multiple of z - end
            more = extra.setdefault(k, [self.model.number(0.0)] * self.model.network.nodes[k].size)
            more[place] += factor
        return extra

    def _chosen(self, leaf: int, part: ExactRanges) -> Chooser:
        """The leaf's own slopes, and the adaptive rule over the whole set where it has none."""
        given = {
            k: {"neurons": p, **{n: self.record[s][leaf : leaf + 1, a:b] for n, s in _SLOPES if s in self.record}}
            for (k, p), a, b in zip(self.places.items(), self.ends, self.ends[1:], strict=False)
        }
        own = part.own(given)
        return lambda k, row: own(k, row) if k in given else self.others(k, row)


def by_boxes(ranges: ExactRanges, record: Mapping[str, Any], clauses: Sequence[Clause]) -> list[Number | None]:
    """Bounds of every clause's largest row of the output, by a tree of boxes; None where nothing was proved."""
    if ranges.inputs.center is not None:
        raise ValueError("a proof by boxes of a set that is no box")
    return _ExactBoxes(ranges, record, clauses).visit(0, ExactRegion(ranges.inputs.low, ranges.inputs.high), ranges)


class _ExactBoxes:
    """A tree of boxes, and what is proved on each."""

    def __init__(self, ranges: ExactRanges, record: Mapping[str, Any], clauses: Sequence[Clause]) -> None:
        self.model, self.record, self.clauses = ranges.model, record, clauses
        names = ("side", "below", "above", "node", "clause", "own")
        self.whole = {n: record[n].astype(np.int64) for n in names}
        self.fresh, self.at = record["fresh"].astype(bool), self.model.vector(record["at"])
        tree, size = self.whole, self.model.network.nodes[0].size
        subdomains.forest(tree["side"], record["at"], tree["below"], tree["above"], size, np.zeros(1, np.int64))
        count = int(self.whole["own"].max(initial=-1)) + 1
        self.slopes = subdomains.slopes_of(self.model.network, record["slopes"], count) if count else {}

    def visit(self, t: int, box: ExactRegion, near: ExactRanges) -> list[Number | None]:
        """What is proved of every clause on a box, there or on its two halves.

        Args:
            near: ranges on a box that has this one within.
        """
        part = self._ranges(box, near) if t == 0 or self.fresh[t] else near
        found: list[Number | None] = [None] * len(self.clauses)
        for q in np.flatnonzero(self.whole["node"] == t):
            clause = self.whole["clause"][q]
            found[clause] = most_of([found[clause], self._bound(int(q), box, part)])
        i = int(self.whole["side"][t])
        if i == -1:
            return found
        cut = max(box.low[i], min(box.high[i], self.at[t]))
        halves = (
            self.visit(
                int(self.whole["below"][t]), ExactRegion(box.low, [*box.high[:i], cut, *box.high[i + 1 :]]), part
            ),
            self.visit(
                int(self.whole["above"][t]), ExactRegion([*box.low[:i], cut, *box.low[i + 1 :]], box.high), part
            ),
        )
        return [most_of([f, least_of(both)]) for f, both in zip(found, zip(*halves, strict=True), strict=True)]

    def _ranges(self, box: ExactRegion, near: ExactRanges) -> ExactRanges:
        inner, part = self.model.network.pre_activations, ExactRanges(self.model, box)
        part.known = {k: (near.low[k], near.high[k]) for k in inner}
        part.forward(1)
        part.tighten(inner, "adaptive")
        return part

    def _bound(self, q: int, box: ExactRegion, part: ExactRanges) -> Number:
        row, constant = _mean(self.model, self.record["weights"][q], self.clauses[self.whole["clause"][q]])
        own = self.whole["own"][q]
        given = {
            k: {n: a if n == "neurons" else a[own : own + 1] for n, a in v.items()} for k, v in self.slopes.items()
        }
        choose = part.own(given) if own >= 0 else part.by_rule("adaptive")
        last, rows = len(self.model.network.nodes) - 1, self.model.rows([row], len(row))
        return part.walk(last, rows, choose, box)[0] + constant


def _mean(model: ExactModel, weights: np.ndarray, clause: Clause) -> tuple[Vector, Number]:
    """The mean of a clause's rows and offsets with these weights."""
    rows, offsets = clause
    factors = model.vector(weights.astype(np.float64)[: len(rows)])
    if len(factors) != len(rows) or any(f < 0 for f in factors) or not sum(factors) > 0:
        raise ValueError("weights of rows that are negative, none, or too few")
    factors = [f / sum(factors) for f in factors]
    row = [sum(f * v for f, v in zip(factors, column, strict=True)) for column in zip(*rows, strict=True)]
    return row, sum(f * v for f, v in zip(factors, offsets, strict=True))
