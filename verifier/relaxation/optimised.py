"""The dual bound with optimised slopes (alpha-CROWN) and multipliers: per row, by ascent on the condensed network.

Wong & Kolter (2018), eq. 6, leaves the slope of every unstable neuron free in [0, 1]; any value is sound, and the best
one for each row is found by ascent (alpha-CROWN, Xu et al. 2021, there jointly for all layers). Here every row is
optimised for itself: first the specification's with the intermediate bounds as they are, then, for the examples that
stay open, the bounds of unstable neurons layer by layer, each neuron's two bounds with slopes of their own, then the
rows again. Bounds of later layers rise with those of earlier ones, so that nothing joint is lost by that order.

The free dual has one multiplier per unstable neuron and row instead of a line. By strong duality its best value is the
linear program over the neurons' convex hulls, whatever the intermediate bounds are; the best lines reach that only
where the relaxation itself implies those bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from verifier.bound_map import BoundMethod, Bounds, Interval, Provenance
from verifier.budget import Budget, OutOfTime
from verifier.evidence import NeuronEvidence
from verifier.forms import Dense
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.activations import activation_over
from verifier.relaxation.ascent import Schedule
from verifier.relaxation.backward import Lowering, OneSided, State, bound
from verifier.relaxation.condensed import Condensed, Evaluable, Functionals, Rows, Unknowns
from verifier.relaxation.dual import DEFAULT_MEMORY, unstable_at
from verifier.relaxation.multipliers import as_slopes, dual_bound
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.picking import chosen, take
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.products import Planes
from verifier.relaxation.row_ascent import Done, ascend_roughly, ascend_rows
from verifier.relaxation.slopes import Parameters, start, start_at
from verifier.relaxation.whole import OutputRows, Whole
from verifier.rounding import margin_error
from verifier.verdict import Trust

SOURCE = Provenance("dual-optimised", Trust.FLOAT, BoundMethod.OPTIMISED)
#: of bounds of neurons by branch and bound (verifier.stages.dual_cases), which start from optimised slopes as well
BY_SUBDOMAINS = Provenance("dual-cases", Trust.FLOAT, BoundMethod.SUBDOMAINS)


def optimised_already(bounds: Bounds) -> Tensor:
    """Of which examples neurons have been bounded by optimised slopes of their own: [B] bool."""
    own = [i.by({BoundMethod.OPTIMISED, BoundMethod.SUBDOMAINS}) for i in bounds.values()]
    return torch.stack(own).any(0)


#: bytes of slopes that one run of a stage keeps for certificates, at most
MOST_EVIDENCE = 2**28

#: of the specification's rows, and of the bounds of neurons
ROWS = Schedule(steps=40, rate=0.25, decay=0.95)
NEURONS = Schedule(steps=20, rate=0.25, decay=0.9)
FREE = Schedule(steps=200, rate=0.5, decay=0.97, look=20)


@dataclass(frozen=True)
class Multiplied:
    """Bounds of a specification's rows with what proves them."""

    lower: Tensor  # [B, S]
    multipliers: dict[int, Tensor]  #: activation node -> [B, S, *shape], of all neurons; of a product [B, S, 2, M]
    exhausted: bool = False  #: the budget ended the ascent
    evidence: tuple[NeuronEvidence, ...] = ()  #: of neurons' bounds, and of rows that no multipliers stand for

    @staticmethod
    def joined(parts: Sequence[Multiplied]) -> Multiplied:
        """Those of several batches as of one, without the evidence."""
        nu = {i: torch.cat([m.multipliers[i] for m in parts]) for i in parts[0].multipliers}
        return Multiplied(torch.cat([m.lower for m in parts]), nu, any(m.exhausted for m in parts))

    def select(self, examples: Tensor) -> Multiplied:  # [k] int64
        chosen_ = {i: m[examples] for i, m in self.multipliers.items()}
        return Multiplied(self.lower[examples], chosen_, self.exhausted)

    def best(self, other: Multiplied) -> Multiplied:
        """Row by row the better of the two."""
        own = self.lower >= other.lower
        pairs = ((i, m, other.multipliers[i]) for i, m in self.multipliers.items())
        multipliers = {i: torch.where(own.view(*own.shape, *[1] * (m.dim() - 2)), m, n) for i, m, n in pairs}
        return Multiplied(torch.maximum(self.lower, other.lower), multipliers, self.exhausted or other.exhausted)

    def replaced(self, other: Multiplied, examples: Tensor) -> Multiplied:  # [k] int64
        """With what `other` says of these examples."""
        multipliers = {i: m.index_copy(0, examples, other.multipliers[i]) for i, m in self.multipliers.items()}
        lower = self.lower.index_copy(0, examples, other.lower)
        return Multiplied(lower, multipliers, self.exhausted or other.exhausted)


def condensed(query: Query, bounds: Bounds, plan: PassPlan, free: Mapping[int, Tensor] | None = None) -> Condensed:
    """The query's network with the unknowns `free` (activation -> [B, *shape] bool; default the unstable neurons)."""
    graph = query.graph
    network = Condensed(graph, query.inputs)
    for i in graph.activations:
        node, (op, lower, upper) = graph.nodes[i].parents[0], activation_over(graph, bounds, i)
        mask = op.unstable(lower, upper) if free is None else free[i]
        at_once = plan.rows(node, query.batch)
        before = partial(network.of_neurons, node, like=lower, at_once=at_once)
        network = network.with_activation(i, lower, upper, mask, before)
    return network


def specification(query: Query, network: Condensed) -> Functionals:
    """All rows of the specification."""
    rows = query.spec.rows.to(query.graph.dtype)
    found = network.functionals(query.graph.output, Dense(rows.unflatten(2, query.graph.output_shape)), rows)
    return replace(found, constant=found.constant + query.spec.offset.to(rows.dtype))


def optimised_rows(
    query: Query,
    bounds: Bounds,
    schedule: Schedule = ROWS,
    done: Done | None = None,
    budget: Budget | None = None,
    memory: int = DEFAULT_MEMORY,
    network: Condensed | None = None,
) -> Multiplied:
    """Lower bounds of all rows by the best slopes found, with the intermediate bounds as they are given.

    At least those of the fixed and of the adaptive slopes. Where every activation is piecewise linear, `dual_bound`
    with the multipliers gives the bounds; elsewhere lines are better than the hulls that it uses.

    Args:
        bounds: finite, of every pre-activation, in the graph's precision.
        done: from bounds [B, S], which rows need no better ones; default none.
        network: condensed by these very bounds, where the caller has it.
    """
    with torch.no_grad():
        network = network or condensed(query, bounds, PassPlan(query.graph, memory, query.open.device))
        return _rows_of(query, bounds, network, specification(query, network), schedule, done, budget)


def optimised_rows_of_whole(
    query: Query, bounds: Bounds, schedule: Schedule = ROWS, done: Done | None = None, budget: Budget | None = None
) -> Multiplied:
    """The same where a condensed network would be too large: each step is a backward pass over the graph."""
    with torch.no_grad():
        network, rows = Whole.of(query, bounds), OutputRows.of(query)
        return _rows_of(query, bounds, network, rows, schedule, done, budget)


def _rows_of(
    query: Query, bounds: Bounds, network: Evaluable, rows: Rows, schedule: Schedule, done: Done | None,
    budget: Budget | None,
) -> Multiplied:  # fmt: skip
    values, slopes = start(network, rows)
    values, slopes, spent = ascend_rows(network, rows, values, slopes, schedule, done, budget)
    found = evaluated(query, bounds, multipliers_at(network, rows, slopes), spent)
    if piecewise_linear(query.graph):
        return found
    own = recorded(network, query.graph.output, rows, slopes, torch.ones_like(values, dtype=torch.bool))
    return replace(found, lower=values.nan_to_num(nan=-torch.inf), evidence=tuple(own))


def evaluated(
    query: Query, bounds: Bounds, nu: Mapping[int, Tensor], exhausted: bool, free: Mapping[int, Tensor] | None = None
) -> Multiplied:
    """What the multipliers prove, on the network itself; with those of neurons that follow their lines filled in.

    Args:
        nu: activation node -> [B, S, *shape]. free: activation node -> [B, *shape] bool.
    """
    complete = dict(nu)

    def visit(node: int, above: State, below: State) -> None:
        if isinstance(query.graph.nodes[node].op, Activation):  # a product keeps its own: a form does not tell factors
            complete[node] = below.one_sided().form.dense().expand_as(complete[node])

    values = dual_bound(query, bounds, nu, free, visit)
    return Multiplied(values.nan_to_num(nan=-torch.inf), complete, exhausted)


def free_rows(
    query: Query,
    bounds: Bounds,
    schedule: Schedule = FREE,
    multipliers: Mapping[int, Tensor] | None = None,
    free: Mapping[int, Tensor] | None = None,
    done: Done | None = None,
    budget: Budget | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Multiplied:
    """Lower bounds of all rows by the best multipliers found: `dual_bound` of them, the intervals used as constraints.

    Args:
        bounds: finite, of every pre-activation, in the graph's precision; each example may have its own.
        multipliers: to start from, activation -> [B, S, *shape]; default the better slope rule.
        free: activation -> [B, *shape] bool, the neurons whose hull over the interval is used; default the unstable
            ones. Neurons that a split made stable must be named for the split to count.
        done: from bounds [B, S], which rows need no better ones; default none.
    """
    with torch.no_grad():
        network = condensed(query, bounds, PassPlan(query.graph, memory, query.open.device), free)
        rows = specification(query, network)
        compact = None if multipliers is None else _compact(network, multipliers)
        first, parameters = start_at(network, rows, compact)
        _, best, spent = ascend_rows(network, rows, first, parameters, schedule, done, budget)
        return evaluated(query, bounds, multipliers_at(network, rows, best), spent, free)


def _compact(network: Condensed, multipliers: Mapping[int, Tensor]) -> dict[int, Tensor]:  # [B, S, n]
    return {u.node: u.of_ports(multipliers[u.node].to(u.lower)) for u in network.unknowns}


def multipliers_at(network: Evaluable, rows: Rows, parameters: Parameters) -> dict[int, Tensor]:
    """nu of every activation [B, R, *shape] that the parameters amount to."""
    found: dict[int, Tensor] = {}

    def below(u: Unknowns, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n] -> [B, R, n], [B, R]
        nu, constant = parameters.below(u, nu_hat)
        found[u.node] = u.on_ports(nu)
        return nu, constant

    network.bound(rows, below)
    lead = rows.constant.shape
    for i in network.graph.activations:
        if i not in found:
            found[i] = rows.constant.new_zeros(*lead, *network.graph.ports(i))
    return found


def piecewise_linear(graph: Graph) -> bool:
    """Whether hulls are exact, so that multipliers say all that lines do."""
    ops = (graph.nodes[i].op for i in graph.activations)
    return all(isinstance(op, Activation) and op.piecewise_linear for op in ops)


def recorded(
    network: Evaluable,
    node: int,
    rows: Rows,
    parameters: Parameters,
    kept: Tensor,
    neuron: Tensor | None = None,
    side: Tensor | None = None,
) -> list[NeuronSlopes]:
    """The slopes nu / nu-hat of the rows `kept` ([B, R] bool), by one more backward pass; of products, their t.

    Args:
        neuron: [B, R], the entry of `node` that each row is about; default the row's own number.
        side: [R], 1 for rows that are about its negative; default 0.
    """
    found: list[tuple[Unknowns, Tensor]] = []

    def below(u: Unknowns, nu_hat: Tensor) -> tuple[Tensor, Tensor]:  # [B, R, n] -> [B, R, n], [B, R]
        nu, constant = parameters.below(u, nu_hat)
        found.append((u, parameters.varied[u.node] if isinstance(u.op, Product) else as_slopes(nu_hat, nu)))
        return nu, constant

    network.bound(rows, below, lambda inputs: rows.constant)
    every = torch.arange(kept.shape[1], device=kept.device)
    about = every.expand_as(kept) if neuron is None else neuron
    sides = torch.zeros_like(every) if side is None else side
    index, valid = chosen(kept)
    if index.shape[1] == 0 or not found:
        return []
    # three copies to where evidence is kept, however many examples and activations there are
    widths = [_width(u) for u, _ in found]
    rough = torch.cat([take(slope, index).half() for _, slope in found], 2).cpu().split(widths, 2)
    places = torch.cat([about.gather(1, index), sides[index], valid.sum(1, keepdim=True)], 1).cpu()
    neurons = torch.cat([t for u, _ in found for t in (u.index, u.valid[:, 0].long())], 1).cpu()
    counted = neurons.split([width for width in widths for _ in range(2)], 1)
    evidence, most = [], index.shape[1]
    for b, count in enumerate(places[:, -1].tolist()):
        slopes = {}
        for (u, _), slope, neuron, real in zip(found, rough, counted[::2], counted[1::2], strict=True):
            some = real[b].bool()
            slopes[u.node] = (neuron[b][some], slope[b, :count][:, some])
        if count:
            own = places[b, :count].clone(), places[b, most : most + count].to(torch.uint8)
            evidence.append(NeuronSlopes(b, node, *own, slopes))
    return evidence


def _width(u: Unknowns) -> int:
    return u.index.shape[1]


def tighten(
    query: Query, bounds: Bounds, schedule: Schedule = NEURONS, budget: Budget | None = None,
    memory: int = DEFAULT_MEMORY, evidence: list[NeuronSlopes] | None = None,
) -> tuple[Bounds, Condensed, bool]:  # fmt: skip
    """`tightened` by the best slopes found for each of a neuron's two bounds; the slopes are added to `evidence`."""

    def improve(layer: NeuronLayer, network: Condensed, budget: Budget) -> tuple[Interval, bool]:
        return layer.optimised(network, schedule, budget, evidence)

    return tightened(query, bounds, improve, budget or Budget(), memory)


#: better bounds of a layer's unstable neurons, and whether the budget ended them
Improve = Callable[["NeuronLayer", Condensed, Budget], tuple[Interval, bool]]


def tightened(
    query: Query, bounds: Bounds, improve: Improve, budget: Budget, memory: int
) -> tuple[Bounds, Condensed, bool]:
    """Bounds of all pre-activations, those of unstable neurons as `improve` finds them.

    Layer by layer, never looser than `bounds` (of every pre-activation). Neurons that became stable are left alone, and
    so are those that depend on no unstable neuron, for which there are no slopes to choose.

    Returns:
        the bounds, the network condensed by them, and whether the budget ended before the last layer was done. Where
        the budget is spent, the network may lack layers.
    """
    graph, plan = query.graph, PassPlan(query.graph, memory, query.open.device)
    network, found, spent = Condensed(graph, query.inputs), dict(bounds.items()), False
    try:
        with torch.no_grad():
            for node in graph.pre_activations:
                spent = spent or budget.spent
                if budget.spent:
                    break
                children = [i for i in graph.activations if graph.nodes[i].parents[0] == node]
                layer = NeuronLayer.of(query, network, node, found[node], plan)
                if layer is not None and not spent and network.unknowns:
                    own, spent = improve(layer, network, budget)
                    found[node] = found[node].intersect(own)
                for i in children:
                    op, lower, upper = activation_over(graph, found, i)
                    before = layer.rows if layer is not None else _nothing_asked
                    network = network.with_activation(i, lower, upper, op.unstable(lower, upper), before)
    except OutOfTime:
        spent = True
    return Bounds(found), network, spent or budget.spent


def _nothing_asked(index: Tensor) -> Functionals:  # [B, n] int64
    raise AssertionError("an unstable neuron in a layer that had none")


@dataclass(frozen=True)
class NeuronLayer:
    """The unstable neurons of one pre-activation as rows of their own."""

    index: Tensor  # [B, n]
    valid: Tensor  # [B, n]
    known: Interval
    node: int
    functionals: Functionals

    @classmethod
    def of(cls, query: Query, network: Condensed, node: int, known: Interval, plan: PassPlan) -> NeuronLayer | None:
        """None where no neuron is unstable."""
        index, valid = chosen(unstable_at(query.graph, node, known.lower, known.upper).flatten(1))
        if index.shape[1] == 0:
            return None
        rows = network.of_neurons(node, index, known.lower, plan.rows(node, query.batch))
        return cls(index, valid, known, node, rows)

    def rows(self, index: Tensor) -> Functionals:
        """The neurons index [B, k], all of this layer (or padding, for which any row will do)."""
        size = self.known.lower[0].numel()
        place = torch.zeros(len(index), size, dtype=torch.int64, device=index.device)
        order = torch.arange(self.index.shape[1], device=index.device).expand_as(self.index)
        return self.functionals.rows(place.scatter(1, self.index, order).gather(1, index))

    def optimised(
        self, network: Condensed, schedule: Schedule, budget: Budget, evidence: list[NeuronSlopes] | None = None
    ) -> tuple[Interval, bool]:
        """Bounds by optimised slopes; infinite for all other neurons. And whether the budget ended it.

        The slopes of the bounds that are better than what was known are added to `evidence`.
        """
        n = self.index.shape[1]
        low, high = (t.flatten(1).gather(1, self.index) for t in (self.known.lower, self.known.upper))

        def done(values: Tensor) -> Tensor:  # [B, 2 n]
            below, above = torch.maximum(low, values[:, :n]), torch.minimum(high, -values[:, n:])
            stable = ~(self.valid & self.unstable(network.graph, below, above))
            return torch.cat([stable, stable], 1)

        rows, outer = self.functionals.both_signs(), network.inputs.outer()
        values, slopes = start(network if outer is None else replace(network, inputs=outer), rows)
        values, slopes, spent = ascend_roughly(network, rows, values, slopes, schedule, done, budget)
        if evidence is not None:
            neuron, side = self.index.repeat(1, 2), (torch.arange(2 * n, device=low.device) >= n).to(torch.uint8)
            useful = self.useful(network.graph, values)
            evidence += recorded(network, self.node, rows, slopes, useful, neuron, side)
        return self.interval(values, SOURCE), spent

    def unstable(self, graph: Graph, lower: Tensor, upper: Tensor) -> Tensor:  # [B, n] each -> [B, n] bool
        """Which neurons their readers still have unstable, were these their bounds."""
        readers = (graph.nodes[i].op for i in graph.activations if graph.nodes[i].parents[0] == self.node)
        if all(isinstance(op, Activation) for op in readers):
            return unstable_at(graph, self.node, lower, upper)
        # a product asks for both its factors: they have to be where they are in the node
        ends = (self.known.lower, lower), (self.known.upper, upper)
        full = (known.flatten(1).scatter(1, self.index, own).view_as(known) for known, own in ends)
        return unstable_at(graph, self.node, *full).flatten(1).gather(1, self.index)

    def useful(self, graph: Graph, values: Tensor) -> Tensor:  # [B, 2 n] -> [B, 2 n] bool
        """The bounds that are better than the known ones; one of a neuron's two where it makes the neuron stable."""
        n = self.index.shape[1]
        low, high = (t.flatten(1).gather(1, self.index) for t in (self.known.lower, self.known.upper))
        below, above = torch.maximum(low, values[:, :n]), torch.minimum(high, -values[:, n:])
        alone = [~self.unstable(graph, *ends) for ends in ((below, high), (low, above))]
        return torch.cat([self.valid & (below > low) & ~alone[1], self.valid & (above < high) & ~alone[0]], 1)

    def interval(self, values: Tensor, source: Provenance) -> Interval:
        """Lower bounds [B, 2 n] of the neurons, then of their negatives, as intervals; infinite for all others."""
        n = self.index.shape[1]
        values = torch.where(self.valid.repeat(1, 2), values, -torch.inf).nan_to_num(nan=-torch.inf)
        lower = torch.full_like(self.known.lower.flatten(1), -torch.inf)
        upper = torch.full_like(lower, torch.inf)
        shape = self.known.lower.shape
        lower = lower.scatter(1, self.index, values[:, :n]).view(shape)
        upper = upper.scatter(1, self.index, -values[:, n:]).view(shape)
        return Interval.of(lower, upper, source)


@dataclass(frozen=True)
class Enough:
    """Which rows need no better bound: those above a threshold."""

    threshold: Tensor  # [B, S]

    @classmethod
    def of(cls, query: Query, bounds: Bounds, margin: float) -> Enough:
        """Bounds above `margin` times their estimated rounding error; any bound for rows that are not open."""
        error = margin_error(query, interval.propagate(query, bounds))
        return cls(torch.where(query.open, margin * error, -torch.inf))

    def __call__(self, values: Tensor) -> Tensor:  # [B, S] -> [B, S] bool
        return values > self.threshold

    def select(self, examples: Tensor) -> Enough:  # [k] int64
        return Enough(self.threshold[examples])


def affordable(evidence: Iterable[NeuronEvidence]) -> tuple[NeuronEvidence, ...]:
    """As many as `MOST_EVIDENCE` bytes hold."""
    found: list[NeuronEvidence] = []
    size = 0
    for one in evidence:
        size += one.size
        if size > MOST_EVIDENCE:
            break
        found.append(one)
    return tuple(found)


def rows_and_neurons(
    graph: Graph, evidence: Iterable[NeuronEvidence]
) -> tuple[tuple[NeuronSlopes, ...], tuple[NeuronEvidence, ...]]:
    """What is about rows of the specification, and what is about neurons."""
    evidence = tuple(evidence)
    rows = tuple(one for one in evidence if isinstance(one, NeuronSlopes) and one.node == graph.output)
    return rows, tuple(one for one in evidence if one.node != graph.output)


def by_relaxations(query: Query, relaxations: Mapping[int, Lowering]) -> Multiplied:
    """Bounds of all rows by given linear relaxations, with the multipliers that those amount to."""
    nu = no_multipliers(query)

    def visit(node: int, above: State, below: State) -> None:
        planes = relaxations[node]
        form = above.one_sided().form
        found = planes.multipliers(form)[0] if isinstance(planes, Planes) else below.one_sided().form.dense()
        nu[node] = found.expand_as(nu[node])

    rows = query.spec.rows.to(query.graph.dtype)
    start_row = OneSided(Dense(rows.unflatten(2, query.graph.output_shape)))
    values = bound(query.graph, query.inputs, relaxations, query.graph.output, start_row, rows, visit)
    return Multiplied(values + query.spec.offset.to(rows.dtype), nu)


def no_multipliers(query: Query) -> dict[int, Tensor]:  # [B, S, *shape] each
    like = query.spec.rows.to(query.graph.dtype)
    return {i: like.new_zeros(*query.open.shape, *query.graph.ports(i)) for i in query.graph.activations}


def with_part(bounds: Bounds, tight: Bounds, examples: Tensor) -> Bounds:
    """`bounds`, those of some examples ([k] int64) tightened."""
    batch = len(next(iter(bounds.values())).lower)
    place = torch.full((batch,), 0, device=examples.device)
    place[examples] = torch.arange(len(examples), device=examples.device)
    known = torch.zeros(batch, dtype=torch.bool, device=examples.device)
    known[examples] = True
    widened = {}
    for node, found in tight.select(place).items():
        others = ~known.view(-1, *[1] * (found.lower.dim() - 1))
        lower, upper = found.lower.masked_fill(others, -torch.inf), found.upper.masked_fill(others, torch.inf)
        widened[node] = replace(found, lower=lower, upper=upper)
    return bounds.intersect(widened)
