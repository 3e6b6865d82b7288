"""The record of branch and bound on the input: how boxes divide the set, and which row or weights close each.

The rule that a bound follows from is part of the record: a box's intermediate bounds are those of the box that it came
from, tightened by `dual-adaptive`; the rows are bounded over the lines of these. A box that a clip cut off is bounded
by the lines of the box that it was cut from. Where slopes were chosen by ascent, they are kept; nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from properties import Box
from verifier.bound_map import Bounds
from verifier.graph import Graph
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.activations import activation_over, relaxed
from verifier.relaxation.backward import Lowering, OneSided, Relaxation, bound
from verifier.relaxation.dual import DEFAULT_MEMORY, DualPass, start_form
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.products import Planes

_NO = -1
#: positions of lines are kept in one byte
LEVELS = 255


@dataclass(frozen=True)
class BoxTree:
    """A binary tree of boxes of one example. Node 0 is the input set.

    A node that splits has both its halves, x <= at and x >= at of one side, so that what is under a node covers it by
    construction. A proof says that at every point of its node's box a clause has a row > 0.
    """

    side: Tensor  # [T] int64: the input entry that a node splits, -1 at a leaf
    at: Tensor  # [T] float64: where
    below: Tensor  # [T] int64: child with x <= at
    above: Tensor  # [T] int64: child with x >= at
    fresh: Tensor  # [T] bool: bounded by its own lines; otherwise by those of the nearest such node above
    node: Tensor  # [P] int32: where each proof is
    clause: Tensor  # [P] int32: what it proves
    weights: Tensor  # [P, R] float32, >= 0: of the clause's rows, in their order; 0 beyond
    slopes: Tensor  # [P] int32: row of `levels`, -1 where slopes are by the rule
    levels: Tensor  # [Q, N] uint8: positions of the activations' lines in 255ths, in the activations' order

    def recompute(self, query: Query, bounds: Bounds, at_once: int = 256) -> Tensor:
        """The lower bounds [C] of the clauses' largest rows that the record proves, in the graph's precision.

        By the generic dual bound, without the kernel that found the proof; -inf for a clause that some box leaves open.

        Args:
            query: of one example, its set a box. bounds: of every pre-activation, what the tree was grown on.
        """
        least = torch.full((self._size, query.spec.clauses), -torch.inf, dtype=torch.float64)
        if not self._sound(query):
            return least[0]
        lower, upper = self._boxes(query)
        groups, alone = self._groups()
        proofs = self._by_node()
        stack = [(torch.tensor([0]), bounds.to(query.graph.dtype))]
        dual, plan = DualPass(SlopeRule.ADAPTIVE), PassPlan(query.graph, DEFAULT_MEMORY)
        while stack:
            nodes, known = stack.pop()
            if len(nodes) > at_once:
                stack.append((nodes[at_once:], known.select(torch.arange(at_once, len(nodes)))))
                nodes, known = nodes[:at_once], known.select(torch.arange(at_once))
            part = self._part(query, lower[nodes], upper[nodes], torch.zeros_like(nodes))
            tight, relaxed = dual.tighten(part, known, plan)
            members = [(k, m) for k, n in enumerate(nodes.tolist()) for m in groups[n]]
            owners = [(k, p) for k, m in members for p in proofs.get(m, ())]
            for kept in (False, True):
                some = torch.tensor([o for o in owners if (int(self.slopes[o[1]]) != _NO) == kept], dtype=torch.int64)
                if len(some):
                    over = self._own_relaxations(query, tight, some) if kept else _picked(relaxed, some[:, 0])
                    self._prove(least, query, lower, upper, over, some[:, 1])
            below = [(k, child) for k, n in enumerate(nodes.tolist()) for child in alone[n]]
            if below:
                index = torch.tensor(below)
                stack.append((index[:, 1], tight.select(index[:, 0])))
        return self._gathered(least)

    @property
    def _size(self) -> int:
        return len(self.side)

    def _sound(self, query: Query) -> bool:
        """Whether the record is a tree of splits, with weights that can prove; anything else proves nothing."""
        n = int(torch.Size(query.graph.input_shape).numel())
        split = (self.side != _NO).nonzero().squeeze(1)
        children = torch.cat([self.below[split], self.above[split]])
        each_once = torch.equal(children.sort().values, torch.arange(1, self._size))
        downwards = bool((torch.minimum(self.below[split], self.above[split]) > split).all())
        inside = bool(((self.side >= _NO) & (self.side < n)).all() and self.at[split].isfinite().all())
        proofs = bool((self.weights >= 0).all() and self.weights.isfinite().all())
        named = bool(((self.node >= 0) & (self.node < self._size)).all())
        named = named and bool(((self.clause >= 0) & (self.clause < query.spec.clauses)).all())
        used = self.slopes[self.slopes != _NO]
        size = sum(query.graph.nodes[i].size for i in query.graph.activations)
        named = named and bool(((used >= 0) & (used < len(self.levels))).all())
        named = named and (len(used) == 0 or self.levels.shape[1] == size)
        return each_once and downwards and inside and proofs and named and bool(self.fresh[0])

    def _boxes(self, query: Query) -> tuple[Tensor, Tensor]:
        """Ends [T, n] of every node's box. A split outside of its box leaves one half as it is and the other empty."""
        low, high = (t.flatten(1) for t in query.inputs.box())
        lower, upper = low.repeat(self._size, 1), high.repeat(self._size, 1)
        for i in (self.side != _NO).nonzero().squeeze(1).tolist():
            side, at, below, above = int(self.side[i]), float(self.at[i]), int(self.below[i]), int(self.above[i])
            lower[below], upper[below], lower[above], upper[above] = lower[i], upper[i], lower[i], upper[i]
            # clamped, so that a half never reaches beyond its whole; then one half is all of it
            upper[below, side] = min(max(at, float(lower[i, side])), float(upper[i, side]))
            lower[above, side] = max(min(at, float(upper[i, side])), float(lower[i, side]))
        return lower, upper

    def _groups(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """Per fresh node: the nodes that its lines bound, itself first, and the fresh ones right below those."""
        owner = list(range(self._size))
        members: dict[int, list[int]] = {0: [0]}
        below: dict[int, list[int]] = {0: []}
        fresh = self.fresh.tolist()
        for i in (self.side != _NO).nonzero().squeeze(1).tolist():  # parents come before children
            for child in (int(self.below[i]), int(self.above[i])):
                if fresh[child]:
                    members[child], below[child] = [child], []
                    below[owner[i]].append(child)
                else:
                    owner[child] = owner[i]
                    members[owner[i]].append(child)
        return members, below

    def _by_node(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for p, node in enumerate(self.node.tolist()):
            found.setdefault(node, []).append(p)
        return found

    @staticmethod
    def _part(query: Query, lower: Tensor, upper: Tensor, example: Tensor) -> Query:  # [k, n] each, [k] int64
        part = query.select(example)
        shape = query.graph.input_shape
        box = Box(lower.unflatten(1, shape), upper.unflatten(1, shape))
        return Query(part.graph, box, part.spec, torch.zeros_like(part.open))

    def _own_relaxations(self, query: Query, tight: Bounds, owners: Tensor) -> dict[int, Lowering]:
        """The relaxations of proofs with slopes of their own; owners [k, 2]: place of the bounds, number of a proof."""
        place, kept = owners[:, 0], self.levels[self.slopes[owners[:, 1]].long()]
        over = {}
        for i, position in positions(query.graph, kept).items():
            op, lower, upper = activation_over(query.graph, tight, i)
            over[i] = relaxed(op, lower[place], upper[place], position)
        return over

    def _prove(
        self, least: Tensor, query: Query, lower: Tensor, upper: Tensor, over: dict[int, Lowering], proof: Tensor
    ) -> None:  # proof [k]: numbers; over: their relaxations
        graph, spec = query.graph, query.spec
        node, clause = self.node[proof].long(), self.clause[proof].long()
        mix = torch.zeros(len(proof), len(spec.clause), dtype=torch.float64)
        for c in clause.unique().tolist():
            of, rows = (clause == c).nonzero().squeeze(1), (spec.clause == c).nonzero().squeeze(1)
            mix[of.unsqueeze(1), rows] = self.weights[proof[of]].double()[:, : len(rows)]
        total = mix.sum(1, keepdim=True)
        mix = torch.where(total > 0, mix / total, torch.nan)  # the bound of a mean of rows is one of their largest
        rows = torch.einsum("ks,so->ko", mix, spec.rows[0].double()).unsqueeze(1).to(graph.dtype)
        offset = mix @ spec.offset[0].double()
        part = self._part(query, lower[node], upper[node], torch.zeros_like(node))
        values = bound(graph, part.inputs, over, graph.output, OneSided(start_form(graph, rows)), rows)[:, 0].double()
        values = (values + offset).nan_to_num(nan=-torch.inf)
        least.index_put_((node, clause), torch.maximum(least[node, clause], values))

    def _gathered(self, least: Tensor) -> Tensor:
        """Bounds [C] at the root: of a node, its own or the worse of its halves', whichever is better."""
        for i in (self.side != _NO).nonzero().squeeze(1).flip(0).tolist():
            halves = torch.minimum(least[int(self.below[i])], least[int(self.above[i])])
            least[i] = torch.maximum(least[i], halves)
        return least[0]


def positions(graph: Graph, levels: Tensor) -> dict[int, Tensor]:  # [D, N] -> per activation [D, *shape]
    """The lines' positions in [0, 1] from what is kept of them."""
    nodes = [graph.nodes[i] for i in graph.activations]
    parts = levels.to(graph.dtype).div(LEVELS).split([n.size for n in nodes], 1)
    return {i: p.unflatten(1, n.shape) for i, n, p in zip(graph.activations, nodes, parts, strict=True)}


def _picked(relaxed: dict[int, Lowering], place: Tensor) -> dict[int, Lowering]:  # [k] int64
    """The linear relaxations at some places of the batch."""
    found: dict[int, Lowering] = {}
    for i, lines in relaxed.items():
        assert isinstance(lines, Relaxation | Planes)
        found[i] = lines.select(place)
    return found


class BoxTreeBuilder:
    """Grows the trees of several examples while their boxes are searched."""

    def __init__(self, examples: int, rows: int) -> None:
        self.size, self._roots, self._rows = examples, examples, rows  # the roots come first
        self._example = [torch.arange(examples)]
        self._fresh = [torch.ones(examples, dtype=torch.bool)]
        self._splits: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        self._proofs: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._levels: list[Tensor] = []
        self._kept = 0

    def split(
        self, nodes: Tensor, example: Tensor, side: Tensor, at: Tensor, fresh: bool
    ) -> tuple[Tensor, Tensor]:  # [k] each
        """Split leaves; returns the halves with x <= at and those with x >= at."""
        below, above = (torch.arange(self.size + k * len(nodes), self.size + (k + 1) * len(nodes)) for k in (0, 1))
        self.size += 2 * len(nodes)
        self._example += [example, example]
        self._fresh.append(torch.full((2 * len(nodes),), fresh))
        self._splits.append((nodes, side, at.double(), below, above))
        return below, above

    def prove(self, nodes: Tensor, clause: Tensor, weights: Tensor, levels: Tensor | None = None) -> None:
        """Weights [k, R] prove clauses [k] at nodes [k], by the rule's slopes or by those of `levels` [k, N] uint8."""
        slopes = torch.full_like(nodes, _NO)
        if levels is not None:
            slopes = torch.arange(self._kept, self._kept + len(nodes))
            self._kept += len(nodes)
            self._levels.append(levels)
        self._proofs.append((nodes.int(), clause.int(), weights.float(), slopes.int()))

    def covered(self, clauses: int) -> Tensor:  # [examples, clauses] bool
        """Which clauses the record proves all over each example's set: at every leaf, there or further up."""
        done = torch.zeros(self.size, clauses, dtype=torch.bool)
        for nodes, clause, _, _ in self._proofs:
            done[nodes.long(), clause.long()] = True
        for nodes, _, _, below, above in reversed(self._splits):  # of a node later than of the one it came from
            done[nodes] |= done[below] & done[above]
        return done[: self._roots]

    def closed_share(self, clauses: Tensor) -> Tensor:  # [examples, clauses] bool -> [examples] float64
        """Which share of each example's search over some clauses is closed, the sides of a split being half each."""
        share = torch.zeros(self.size, clauses.shape[1], dtype=torch.float64)
        for nodes, clause, _, _ in self._proofs:
            share[nodes.long(), clause.long()] = 1.0
        for nodes, _, _, below, above in reversed(self._splits):
            share[nodes] = torch.maximum(share[nodes], (share[below] + share[above]) / 2)
        return (share[: self._roots] * clauses).sum(1) / clauses.sum(1).clamp(min=1)

    def build(self, examples: list[int]) -> dict[int, BoxTree]:
        """The trees of some examples."""
        whole = torch.full((self.size,), _NO)
        side, below, above = (whole.clone() for _ in range(3))
        at = torch.zeros(self.size, dtype=torch.float64)
        for nodes, split, place, low, high in self._splits:
            side[nodes], at[nodes], below[nodes], above[nodes] = split, place, low, high
        fresh, owner = torch.cat(self._fresh), torch.cat(self._example)
        none = torch.zeros(0, dtype=torch.int32)
        nothing = (none, none, torch.zeros(0, self._rows), none)
        node, clause, weights, slopes = (torch.cat(t) for t in zip(nothing, *self._proofs, strict=True))
        levels = torch.cat(self._levels) if self._levels else torch.zeros(0, 0, dtype=torch.uint8)
        found = {}
        for b in examples:
            mine = (owner == b).nonzero().squeeze(1)
            number = whole.clone()
            number[mine] = torch.arange(len(mine))
            of = owner[node.long()] == b
            low, high = (torch.where(t[mine] == _NO, _NO, number[t[mine]]) for t in (below, above))
            at_node = number[node[of].long()].int()
            own = slopes[of].long()
            kept = own[own != _NO]
            renumbered = torch.full_like(own, _NO)
            renumbered[own != _NO] = torch.arange(len(kept))
            found[b] = BoxTree(
                side[mine], at[mine], low, high, fresh[mine], at_node, clause[of], weights[of], renumbered.int(),
                levels[kept],
            )  # fmt: skip
        return found
