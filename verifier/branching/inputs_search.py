"""Branch and bound on the input (input BaB): all examples' boxes in one pool."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.branching.inputs_bounds import BoxBounds, Forms, Kernel
from verifier.branching.inputs_clause import Clauses, best
from verifier.branching.inputs_slopes import ascend
from verifier.branching.inputs_split import choose, cuts
from verifier.branching.inputs_tree import BoxTree, BoxTreeBuilder
from verifier.budget import OutOfTime
from verifier.query import Query
from verifier.relaxation.ranges import Range

#: seconds that one round should take: budgets and answers are looked at between rounds
_ROUND = 0.3
#: depth that the pool's memory is planned for
_DEPTH = 64


@dataclass(frozen=True)
class OpenBoxes:
    """D open boxes."""

    example: Tensor  # [D] int64
    node: Tensor  # [D] int64: of the record
    lower: Tensor  # [D, n]
    upper: Tensor  # [D, n]
    open: Tensor  # [D, C] bool: clauses that nothing has proved on the box
    known: dict[int, Range]  #: of pre-activations: what holds on the box because it held on the box it came from

    def __len__(self) -> int:
        return len(self.node)

    def select(self, index: Tensor) -> OpenBoxes:  # [k] int64 or [D] bool
        known = {i: (low[index], high[index]) for i, (low, high) in self.known.items()}
        return OpenBoxes(
            self.example[index], self.node[index], self.lower[index], self.upper[index], self.open[index], known
        )  # fmt: skip

    @staticmethod
    def concatenate(parts: list[OpenBoxes]) -> OpenBoxes:
        if len(parts) == 1:
            return parts[0]
        known = {
            i: (torch.cat([p.known[i][0] for p in parts]), torch.cat([p.known[i][1] for p in parts]))
            for i in parts[0].known
        }
        return OpenBoxes(
            torch.cat([p.example for p in parts]), torch.cat([p.node for p in parts]),
            torch.cat([p.lower for p in parts]), torch.cat([p.upper for p in parts]),
            torch.cat([p.open for p in parts]), known,
        )  # fmt: skip


@dataclass(frozen=True)
class Proved:
    """What a search proved of B examples."""

    clauses: Tensor  # [B, C] lower bounds of the clauses' largest rows; -inf where some box is open
    trees: dict[int, BoxTree]  #: of the examples with a proved clause
    boxes: int  #: that were bounded
    exhausted: bool
    closed: Tensor  # [B] float64: share of each example's search that is closed


class BoxSearch:
    """Splits the boxes of a query until every clause is proved on each, depth first, the worst boxes first.

    Args:
        query: on a graph in float64; its sets are boxes. known: of every pre-activation, for the whole sets.
        enough: [B, S] a row counts as positive above this.
        memory: bytes for open boxes.
    """

    def __init__(self, query: Query, known: dict[int, Range], enough: Tensor, memory: int) -> None:
        self.query, self.spec, self.enough = query, query.spec, enough
        low, high = (t.flatten(1) for t in query.inputs.box())
        self.kernel = Kernel(query.graph, (high > low).any(0).nonzero().squeeze(1))
        self.rows = self.spec.rows.to(query.graph.dtype)
        self.offset = self.spec.offset.to(query.graph.dtype)
        self.clause_enough = self.spec.per_clause(enough)
        self.sizes = torch.bincount(self.spec.clause, minlength=self.spec.clauses)
        # place of each row within its clause: the record keeps the weights of one clause's rows
        self.place = torch.tensor([int((self.spec.clause[:s] == c).sum()) for s, c in enumerate(self.spec.clause)])
        self.known = known
        self.least = torch.full(self.clause_enough.shape, torch.inf, dtype=torch.float64)
        self.record = BoxTreeBuilder(query.batch, int(self.sizes.max()))
        numbers = 2 * sum(query.graph.nodes[i].size for i in query.graph.pre_activations) + 2 * self._inputs
        self.most = max(16, memory // (query.graph.dtype.itemsize * numbers * _DEPTH))
        self.bounded = 0
        self._closing = 0.5  # share of the boxes given to the ascent of slopes that it closed, of late

    @property
    def _inputs(self) -> int:
        return int(torch.Size(self.query.graph.input_shape).numel())

    def run(self, look: Callable[[OpenBoxes, Tensor], Tensor], deadline: float) -> Proved:
        """Search until the deadline (time.monotonic).

        Args:
            look: given open boxes and [D, n] the slopes of the forms that left them open, looks for counterexamples
                there; returns the examples that need no more work, [B] bool.
        """
        pool, size, rate = [self._roots()], 64, float("inf")
        given_up = ~self.clause_enough.isfinite().all(1)  # rounding may be anything there
        while pool and (left := deadline - time.monotonic()) > 0:
            began = time.perf_counter()
            boxes = _pop(pool, max(1, int(min(size, self.most, rate * left + 1))))
            boxes = boxes.select(~given_up[boxes.example])
            if len(boxes) == 0:
                continue
            try:
                open_, stuck = self._step(boxes, look, given_up)
            except OutOfTime:
                pool.append(boxes)
                break
            given_up[stuck] = True
            if len(open_):
                pool.append(open_)
            took = time.perf_counter() - began
            rate = len(boxes) / took
            if took > _ROUND:
                size = max(1, int(_ROUND * rate))
            elif len(boxes) >= size:
                size *= 2
        return self._proved(pool)

    def _roots(self) -> OpenBoxes:
        query = self.query
        low, high = (t.flatten(1) for t in query.inputs.box(query.graph.dtype))
        clauses = query.open_clauses
        boxes = OpenBoxes(torch.arange(query.batch), torch.arange(query.batch), low, high, clauses, self.known)
        return boxes.select(clauses.any(1))

    def _step(
        self, boxes: OpenBoxes, look: Callable[[OpenBoxes, Tensor], Tensor], done: Tensor
    ) -> tuple[OpenBoxes, Tensor]:
        """Bound some boxes, and split those that stay open; returns the new ones and examples to give up ([k] int64).

        Args:
            done: [B] bool, the examples that need no more work; what `look` says is added.
        """
        found = self.kernel.bounds(boxes.lower, boxes.upper, boxes.known)
        forms = self.kernel.rows(self.rows[boxes.example], found.relaxed).add(self.offset[boxes.example])
        self.bounded += len(boxes)
        enough = torch.where(boxes.open, self.clause_enough[boxes.example], torch.inf)
        clauses = best(self.spec, forms, boxes.lower, boxes.upper, enough)
        proved = boxes.open & (clauses.value > enough)
        self._close(boxes, proved, clauses)
        open_ = boxes.open & ~proved
        index = open_.any(1).nonzero().squeeze(1)
        none = torch.zeros(0, dtype=torch.int64)
        if len(index) == 0:
            return boxes.select(index), none
        # the worst last, where the pool is taken from
        index = index[torch.where(open_, clauses.value, torch.inf).amin(1)[index].argsort(descending=True)]
        open_, forms, clauses, found = open_[index], forms.select(index), clauses.select(index), found.select(index)
        left = replace(replace(boxes, known={}).select(index), open=open_)
        row, slope = self._hardest(left, forms, clauses)
        if self.kernel.graph.activations:  # else there are no slopes
            open_ = open_ & ~self._by_ascent(left, found, row, clauses)
            left = replace(left, open=open_)
        still = open_.any(1)
        if still.any():
            done |= look(left.select(still), slope[still])
        keep = (still & ~done[left.example]).nonzero().squeeze(1)
        if len(keep) == 0:
            return left.select(keep), none
        if len(keep) < len(left):
            left, forms, found, row, slope = (
                left.select(keep), forms.select(keep), found.select(keep), row[keep], slope[keep],
            )  # fmt: skip
        return self._divide(left, forms, found, row, slope)

    def _close(self, boxes: OpenBoxes, proved: Tensor, clauses: Clauses) -> None:  # [D, C] bool
        at, clause = proved.nonzero().unbind(1)
        if len(at) == 0:
            return
        self.record.prove(boxes.node[at], clause, self._of_clause(clauses.weights[at], clause))
        self._lower(boxes.example[at], clause, clauses.value[at, clause])

    def _by_ascent(self, boxes: OpenBoxes, found: BoxBounds, row: Tensor, clauses: Clauses) -> Tensor:
        """Try slopes of their own on the boxes that lack least; returns what clauses that proves, [D, C] bool."""
        proved = torch.zeros_like(boxes.open)
        value, worst = torch.where(boxes.open, clauses.value, torch.inf).min(1)
        # few where it has closed few: it costs about as much as bounding the halves
        count = min(len(boxes), max(8, int(2 * self._closing * len(boxes))))
        chosen = value.argsort(descending=True)[:count]
        part, clause = boxes.select(chosen), worst[chosen]
        mix = clauses.weights[chosen] * (self.spec.clause == clause.unsqueeze(1))
        offset = (mix * self.offset[part.example]).sum(1)
        enough = self.clause_enough[part.example, clause]
        raised = ascend(self.kernel, row[chosen], found.select(chosen), part.lower, part.upper, enough - offset)
        final = raised.value + offset
        sure = (final > enough).nonzero().squeeze(1)
        self._closing = 0.5 * (self._closing + len(sure) / count)
        if len(sure):
            weights = self._of_clause(mix[sure], clause[sure])
            self.record.prove(part.node[sure], clause[sure], weights, raised.levels[sure])
            self._lower(part.example[sure], clause[sure], final[sure])
            proved[chosen[sure], clause[sure]] = True
        return proved

    def _of_clause(self, weights: Tensor, clause: Tensor) -> Tensor:  # [k, S], [k] -> [k, R]
        """The weights of one clause's rows, side by side."""
        mine = weights * (self.spec.clause == clause.unsqueeze(1))
        return mine.new_zeros(len(mine), int(self.sizes.max())).index_add_(1, self.place, mine)

    def _lower(self, example: Tensor, clause: Tensor, value: Tensor) -> None:  # [k] each
        flat = self.least.view(-1)
        flat.scatter_reduce_(0, example * self.spec.clauses + clause, value.double(), "amin")

    def _hardest(self, boxes: OpenBoxes, forms: Forms, clauses: Clauses) -> tuple[Tensor, Tensor]:
        """The combination of rows that left the worst open clause of each box open: on the outputs, and its slope.

        Returns:
            [D, *output] and [D, n].
        """
        worst = torch.where(boxes.open, clauses.value, torch.inf).argmin(1)
        mix = clauses.weights * (self.spec.clause == worst.unsqueeze(1))
        row = torch.einsum("ds,ds...->d...", mix, self.rows[boxes.example])
        return row.unflatten(1, self.query.graph.output_shape), torch.einsum("ds,dsn->dn", mix, forms.slope)

    def _divide(
        self, boxes: OpenBoxes, forms: Forms, found: BoxBounds, row: Tensor, slope: Tensor
    ) -> tuple[OpenBoxes, Tensor]:  # [D, *output], [D, n] -> [k] int64
        lower, upper, node = boxes.lower.clone(), boxes.upper.clone(), boxes.node.clone()
        enough = self.enough[boxes.example]
        for cut in cuts(self.spec, forms, lower, upper, boxes.open, enough):
            example, side = boxes.example[cut.boxes], torch.full_like(cut.boxes, cut.side)
            below, above = self.record.split(node[cut.boxes], example, side, cut.at, fresh=False)
            slab, node[cut.boxes] = (below, above) if cut.keeps_above else (above, below)
            at, clause = boxes.open[cut.boxes].nonzero().unbind(1)
            mix = torch.zeros(len(at), len(self.spec.clause), dtype=lower.dtype)
            mix[torch.arange(len(at)), cut.row[at, clause]] = 1.0
            self.record.prove(slab[at], clause, self._of_clause(mix, clause))
            self._lower(example[at], clause, cut.value[at, clause])
        losses = self.kernel.losses(row, found)
        side, at, possible = choose(losses, slope, lower, upper, boxes.upper - boxes.lower)
        stuck = boxes.example[~possible].unique()
        keep = possible.nonzero().squeeze(1)
        example, side, at = boxes.example[keep], side[keep], at[keep]
        below, above = self.record.split(node[keep], example, side, at, fresh=True)
        split_upper, split_lower = upper[keep].clone(), lower[keep].clone()
        split_upper.scatter_(1, side.unsqueeze(1), at.unsqueeze(1))
        split_lower.scatter_(1, side.unsqueeze(1), at.unsqueeze(1))
        ranges = {i: found.ranges[i] for i in self.query.graph.pre_activations}
        known = {i: (low[keep], high[keep]) for i, (low, high) in ranges.items()}
        halves = [
            OpenBoxes(example, below, lower[keep], split_upper, boxes.open[keep], known),
            OpenBoxes(example, above, split_lower, upper[keep], boxes.open[keep], known),
        ]
        # the halves of a box side by side, so that the order of boxes is kept
        both = torch.arange(2 * len(keep)).view(2, -1).T.flatten()
        return OpenBoxes.concatenate(halves).select(both), stuck

    def _proved(self, pool: list[OpenBoxes]) -> Proved:
        # what the record says, not what the pool no longer holds: a box that got lost leaves its clauses open
        proved = self.query.open_clauses & self.record.covered(self.spec.clauses)
        clauses = torch.where(proved, self.least, -torch.inf)
        trees = self.record.build(proved.any(1).nonzero().squeeze(1).tolist())
        return Proved(clauses, trees, self.bounded, bool(pool), self.record.closed_share(self.query.open_clauses))


def _pop(pool: list[OpenBoxes], size: int) -> OpenBoxes:
    """At most `size` boxes from the end of the pool."""
    parts, count = [], 0
    while pool and count < size:
        top = pool.pop()
        if count + len(top) > size:
            keep = len(top) - (size - count)
            pool.append(top.select(torch.arange(keep)))
            top = top.select(torch.arange(keep, len(top)))
        parts.append(top)
        count += len(top)
    return OpenBoxes.concatenate(parts)
