"""The dual LP bound: Wong & Kolter (2018), Theorem 1 and Algorithm 1, on any graph.

With fixed slopes it is also known as Fast-Lin (Weng et al. 2018), with adaptive ones as CROWN (Zhang et al. 2018) and
DeepPoly (Singh et al. 2019).

Bounds of the pre-activations are found in topological order, each from the relaxations of the activations before it;
then the specification's rows. Only neurons that interval bounds leave unstable are bounded by a backward pass.
Differentiable in the graph's parameters: the trainers' robust loss (Theorem 2) is made of these bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bound_map import BoundMethod, Bounds, Interval, Provenance
from verifier.budget import Budget, OutOfTime, interruption
from verifier.forms import Dense, Identity, LinearForm, Selected, Windows
from verifier.graph import Graph
from verifier.ops.base import Activation, Nonlinear, Operator, SlopeRule
from verifier.ops.facts import LINE
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.activations import relaxed
from verifier.relaxation.backward import Lowering, OneSided, TwoSided, bound, bound_both
from verifier.relaxation.demand import demanded
from verifier.relaxation.forward import AffineEnclosures
from verifier.relaxation.parallel import ordered_map, workers
from verifier.relaxation.picking import masked_first, take
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.roundoff import Roundoffs, roundoffs_for, trusts_of
from verifier.verdict import Trust

#: working memory that one chunk of examples may take, in bytes
DEFAULT_MEMORY = 2**30

#: of ranges that functions of the input give, node after node
FORWARD = Provenance("forward", Trust.CHECKED, BoundMethod.OTHER)

NAMES = {SlopeRule.FIXED: "dual", SlopeRule.ADAPTIVE: "dual-adaptive"}


class Passed(NamedTuple):
    """Bounds of the rows [B, S], the intermediate bounds that they rest on, whether time ran out."""

    lower: Tensor
    bounds: Bounds
    exhausted: bool


class DualPass:
    """Dual bounds with slopes by a rule: Algorithm 1, in chunks of examples.

    Args:
        rule: how the free lines are chosen (verifier.ops.base.SlopeRule).
        memory: bytes of working memory; examples and rows are split so as to stay inside.
    """

    def __init__(self, rule: SlopeRule = SlopeRule.FIXED, memory: int = DEFAULT_MEMORY) -> None:
        self.rule, self.memory = rule, memory
        self.source = Provenance(NAMES[rule], Trust.CHECKED, BoundMethod[rule.name])

    def rigorous_bounds(self, query: Query, bounds: Bounds, budget: Budget) -> Passed:
        """What rounding may cost is taken off (verifier.relaxation.roundoff)."""
        return self.in_chunks(query, bounds, budget, roundoffs_for)

    def plain_bounds(self, query: Query, bounds: Bounds, budget: Budget) -> Passed:
        """As floating point computes them; differentiable."""
        return self.in_chunks(query, bounds, budget, lambda part: None)

    def in_chunks(
        self, query: Query, bounds: Bounds, budget: Budget, roundoffs_of: Callable[[Query], Roundoffs | None]
    ) -> Passed:
        device = query.open.device
        plan = PassPlan(query.graph, self.memory // workers(device))

        def work(chunk: range) -> tuple[Tensor, Bounds, bool]:  # of k examples -> [k, S]
            part, known, own = query, bounds, budget.together(chunk)
            if len(chunk) < query.batch:
                index = torch.arange(chunk.start, chunk.stop, device=device)
                part, known = query.select(index), bounds.select(index)
            if own.spent:
                return (*nothing_known(part), False)
            roundoffs = roundoffs_of(part)
            with own.enforced():
                tight, relaxations = self.tighten(part, known, plan, roundoffs, demanded(part))
            with own.enforced(finish=True):
                return specification_rows(part, relaxations, plan, roundoffs), tight, not own.spent

        examples = range(query.batch)
        starts = range(0, max(1, query.batch), plan.examples)
        chunks = [examples[first : first + plan.examples] for first in starts]
        lowers, found, finished = zip(*ordered_map(work, chunks, device), strict=True)
        return Passed(torch.cat(lowers), Bounds.concatenate(list(found)), not all(finished))

    def tighten(
        self,
        query: Query,
        known: Bounds,
        plan: PassPlan,
        roundoffs: Roundoffs | None = None,
        wanted: Mapping[int, Tensor] | None = None,
    ) -> tuple[Bounds, dict[int, Lowering]]:
        """Algorithm 1: bounds of every pre-activation, and the relaxation of every activation.

        Where the time is over (verifier.budget), neurons that no pass has reached keep what intervals say of them.

        Args:
            roundoffs: new ones, to be filled in here; default: rounding is not accounted for.
            wanted: pre-activation -> [B, *shape] bool, the neurons that need a bound; default all.
        """
        graph = query.graph
        trusts = trusts_of(query, known) if roundoffs is not None else torch.full((query.batch,), int(Trust.FLOAT))
        ranges = {0: query.inputs.box(graph.dtype)}
        relaxations: dict[int, Lowering] = {}
        found: dict[int, Interval] = {}
        children, ahead = _activations_by_parent(query), self.ahead(query)
        for node in range(len(graph.nodes)):
            if node > 0:
                ranges[node] = interval.step(graph, node, ranges) if roundoffs is None else roundoffs.step(node, ranges)
            tight = Interval.resting(*ranges[node], interval.SOURCE, trusts)
            ahead = None if time.monotonic() > interruption() else ahead
            if ahead is not None and node > 0:
                forward = Interval.resting(*ahead.step(node, ranges[node], relaxations), FORWARD, trusts)
                tight = tight.intersect(forward)
                ranges[node] = (tight.lower, tight.upper)
            if node not in children:
                continue
            if node in known:
                tight = tight.intersect(known[node])
            asked = None if wanted is None else wanted[node]
            both = self._bound_unstable(query, node, tight, relaxations, plan, roundoffs, asked)
            own = Interval.resting(*both, self.source, trusts)
            best = tight.intersect(own)
            ranges[node] = (best.lower, best.upper)
            found[node] = self._relaxed_over(
                tight, own, [op for c in children[node] if (op := graph.nodes[c].op) is not None]
            )
            for child in children[node]:
                ends = found[node].lower, found[node].upper
                op = graph.nodes[child].op
                assert isinstance(op, Nonlinear)
                if roundoffs is not None and isinstance(op, Activation):
                    relaxations[child] = roundoffs.relaxation(child, *ends, self.rule, ranges[node])
                else:  # a product pays for what it puts on its factors, as multipliers do
                    relaxations[child] = relaxed(op, *ends, self.rule)
        return Bounds(found), relaxations

    def ahead(self, query: Query) -> AffineEnclosures | None:
        """What bounds all neurons of a layer before those that it leaves unstable are pulled back; None: intervals."""
        return None

    def _relaxed_over(self, tight: Interval, own: Interval, readers: Iterable[Operator]) -> Interval:
        """The intervals that activations are relaxed over, from what is known and what this pass found."""
        # With fixed slopes a tighter interval can loosen what follows. The published algorithm relaxes a neuron
        # over the bounds that it computed itself, and so do we: its figures come out exactly.
        # Functions that are not defined everywhere need every bound there is, to be relaxed at all.
        defined = all(not isinstance(op, Activation) or op.facts.domain == LINE for op in readers)
        return tight.replaced(own) if self.rule is SlopeRule.FIXED and defined else tight.intersect(own)

    @staticmethod
    def _bound_unstable(
        query: Query,
        node: int,
        tight: Interval,
        relaxations: dict[int, Lowering],
        plan: PassPlan,
        roundoffs: Roundoffs | None,
        asked: Tensor | None = None,  # [B, *shape] bool
    ) -> tuple[Tensor, Tensor]:
        """Backward bounds of the neurons asked for whose activations `tight` leaves undecided; infinite elsewhere.

        Returns:
            Lower and upper bounds, [B, *shape] each.
        """
        graph = query.graph
        infinite = torch.full_like(tight.lower, torch.inf)
        nothing = -infinite, infinite
        if graph.exact_by_interval[node] and query.inputs.is_box:
            return nothing
        mask = unstable_at(graph, node, tight.lower, tight.upper)
        mask = mask if asked is None else mask & asked
        rows = int(mask.reshape(len(mask), -1).sum(1).max())
        if rows == 0:
            return nothing
        run = partial(bound_both, graph, query.inputs, relaxations, node, like=tight.lower, roundoffs=roundoffs)
        if plan.use_patches(node, rows):
            plan.ask(tight.lower, float(len(mask)) * (plan.patch_cost(node) or 0))
            try:
                both = run(TwoSided(Identity(graph.nodes[node].shape, tight.lower)))
            except OutOfTime:
                return nothing
            lower, upper = both[:, : mask[0].numel()], -both[:, mask[0].numel() :]
        else:
            windows = plan.use_windows(node)
            at_once = plan.rows(node, len(mask), windows)
            plan.ask(tight.lower, 2.0 * len(mask) * min(rows, at_once) * plan.widest(node, windows))
            select = Windows.selected if windows else Selected
            lower, upper = DualPass._selected_rows(mask, rows, run, at_once, tight.lower, select)
        # neurons that nobody asked for are left as they are, so that no result depends on the rest of the batch
        lower = torch.where(mask, lower.view_as(mask), -torch.inf)
        return lower, torch.where(mask, upper.view_as(mask), torch.inf)

    @staticmethod
    def _selected_rows(
        mask: Tensor,
        rows: int,
        run: partial[Tensor],
        at_once: int,
        like: Tensor,
        select: Callable[[Tensor, tuple[int, ...], Tensor], LinearForm],
    ) -> tuple[Tensor, Tensor]:
        """Bounds [B, n] of the masked neurons only; infinite elsewhere, and where the time was over before."""
        flat = mask.reshape(len(mask), -1)
        # examples select differently many: those with fewer are padded with neurons that need no bound
        index = masked_first(flat)[:, :rows]
        lower = torch.full_like(like.reshape(len(like), -1), -torch.inf)
        upper = torch.full_like(lower, torch.inf)
        for part in index.split(at_once, 1):
            try:
                both = run(TwoSided(select(part, tuple(mask.shape[1:]), like)))
            except OutOfTime:
                break
            lower = lower.scatter(1, part, both[:, : part.shape[1]])
            upper = upper.scatter(1, part, -both[:, part.shape[1] :])
        return lower, upper


def intermediate(query: Query, known: Bounds, budget: Budget | None = None) -> Bounds:
    """Bounds of every pre-activation: `known`, or where one is missing, those of adaptive slopes as well."""
    if all(node in known for node in query.graph.pre_activations):
        return known
    no_rows = replace(query, open=torch.zeros_like(query.open))
    with torch.no_grad():
        return DualPass(SlopeRule.ADAPTIVE).rigorous_bounds(no_rows, known, budget or Budget()).bounds


def unstable_at(graph: Graph, node: int, lower: Tensor, upper: Tensor) -> Tensor:  # [*shape] each -> [*shape] bool
    """Neurons of a pre-activation that some activation has unstable over [lower, upper], three tensors of one shape."""
    mask = torch.zeros_like(lower, dtype=torch.bool)
    for i in graph.activations:
        op = graph.nodes[i].op
        if graph.nodes[i].parents[0] == node and isinstance(op, Nonlinear):
            mask |= op.unstable(lower, upper)
    return mask


def start_form(graph: Graph, rows: Tensor) -> Dense:
    """The specification's rows [B, S, outputs] as a form on the output node."""
    return Dense(rows.unflatten(2, graph.output_shape))


def specification_rows(
    query: Query, relaxations: dict[int, Lowering], plan: PassPlan, roundoffs: Roundoffs | None = None
) -> Tensor:
    """Lower bounds [B, S] of the specification's open rows; -inf for the others.

    Args:
        roundoffs: what rounding may cost, taken off; they have seen all nodes and these relaxations.

    Returns:
        -inf as well for rows that no pass has reached when the time was over (verifier.budget).
    """
    graph, dtype = query.graph, query.graph.dtype
    most = query.most_open
    lower = torch.full(query.open.shape, -torch.inf, dtype=dtype, device=query.open.device)
    if most == 0:
        return lower
    index = masked_first(query.open)[:, :most]
    rows = query.spec.rows.to(dtype)
    at_once = plan.rows(graph.output, query.batch)
    plan.ask(lower, 1.0 * query.batch * min(most, at_once) * plan.widest(graph.output))
    for part in index.split(at_once, 1):
        start = OneSided(start_form(graph, take(rows, part)))
        try:
            values = bound(graph, query.inputs, relaxations, graph.output, start, rows, roundoffs=roundoffs)
        except OutOfTime:
            break
        values = values + query.spec.offset.to(dtype).gather(1, part)
        if roundoffs is not None:
            values = values - roundoffs.offset(query).gather(1, part)
        lower = lower.scatter(1, part, values)
    return lower


def nothing_known(query: Query) -> tuple[Tensor, Bounds]:  # [B, S]
    """What is known without any work: every value is somewhere on the real line."""
    graph, rows = query.graph, query.open
    source = Provenance("none", Trust.FLOAT)
    empty = {}
    for node in graph.pre_activations:
        low = torch.full((query.batch, *graph.nodes[node].shape), -torch.inf, dtype=graph.dtype, device=rows.device)
        empty[node] = Interval.of(low, -low, source)
    return torch.full(rows.shape, -torch.inf, dtype=graph.dtype, device=rows.device), Bounds(empty)


def _activations_by_parent(query: Query) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for i in query.graph.activations:
        children.setdefault(query.graph.nodes[i].parents[0], []).append(i)
    return children
