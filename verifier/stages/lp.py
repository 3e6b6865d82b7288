"""Linear programs over the convex hull of every neuron: the best that one relaxation with given bounds can say.

Ehlers (2017); Salman et al. (2019) call its value the convex relaxation barrier. One program per example, the rows as
changing objectives. What counts is never the solver's value: its row duals are multipliers of the dual network
(verifier.relaxation.multipliers), and the bound is computed from them by weak duality. Boxes and images of polytopes
(properties.lifted) are in the program as they are, other sets by their interval hull and by half-spaces
(verifier.encoding.cutting); the bound is computed with the set's support function.

LP refinement (Singh et al. 2019, "Boosting robustness certification", section 4) first tightens the bounds of chosen
neurons by programs that end at their layer, the most influential neurons first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties.rounding import cast_down, cast_up
from verifier.bounds import BoundMethod, Bounds, Interval, Provenance
from verifier.budget import Budget
from verifier.ops.base import Activation, SlopeRule
from verifier.query import Query
from verifier.relaxation.backward import State
from verifier.relaxation.dual import DEFAULT_MEMORY, intermediate, unstable_at
from verifier.relaxation.evidence import MultiplierEvidence
from verifier.relaxation.influence import influences
from verifier.relaxation.multipliers import as_slopes
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.optimised import affordable
from verifier.relaxation.plan import PassPlan
from verifier.stages.base import Stage, StageReport, register
from verifier.stages.dual import DualStage
from verifier.verdict import Trust

if TYPE_CHECKING:
    from verifier.encoding import Encoder
    from verifier.encoding.cutting import Rounds
    from verifier.encoding.relaxation import Executor, Minimisation, Solved

SOURCE = Provenance("lp", Trust.FLOAT, BoundMethod.PROGRAM)
CPU = torch.device("cpu")
#: share of the way to the center by which a solver's point, feasible to its tolerance, is moved into the set
BACK = 1e-6
#: neurons of one program on a set that is cut by planes: each brings one of its own
_TOGETHER = 32


@dataclass(frozen=True)
class RelaxationRows:
    """The rows of a specification over the relaxation with given bounds."""

    lower: Tensor  # [B, S] float64: recomputed by weak duality; -inf where nothing was found
    optimum: Tensor  # [B, S] float64: the solver's own values; NaN where it did not finish
    multipliers: dict[int, Tensor]  #: activation node -> [B, S, *shape] float64: what proves `lower`
    points: Tensor  # [B, *input] float64: the input at the optimum of the lowest row, else the set's center
    exhausted: bool  #: a limit left some row unfinished


class Clock:
    """What each example of a query has used of its own part of the budget while a stage runs."""

    def __init__(self, budget: Budget, batch: int) -> None:
        self.budget, self.used = budget, [0.0] * batch

    def left(self, example: int) -> float:
        return self.budget.example(example) - self.used[example]

    @property
    def spent(self) -> bool:
        return self.budget.spent


@register
class LpStage(Stage):
    """The linear relaxation of every open row.

    For ReLU networks the triangle LP (Planet, Ehlers 2017).

    Args:
        backend: name of a solver (`solvers.backend`). workers: processes; 0: never any, None: one per core, once
            there is enough to do.
    """

    name = "lp"
    aliases = ("triangle-lp", "planet")
    cost_rank = 70
    precision = torch.float64

    def __init__(self, backend: str = "highs", workers: int | None = None) -> None:
        self.backend, self.workers = backend, workers

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        from solvers.inline import Adaptive

        known, clock = intermediate(query, bounds, budget), Clock(budget, query.batch)
        with Adaptive(self.workers, self.backend) as executor:
            found = solve_rows(query.on(CPU, torch.float64), known.to(torch.float64).on(CPU), clock, executor)
        return report(query, known, found, clock)


@register
class LpRefineStage(Stage):
    """Bounds of the most influential neurons by linear programs, then the rows over the tighter relaxation.

    Args:
        neurons: how many neurons of one example at most. backend, workers: as of `LpStage`.
    """

    name = "lp-refine"
    aliases = ("obbt",)
    cost_rank = 75
    precision = torch.float64

    def __init__(self, neurons: int = 200, backend: str = "highs", workers: int | None = None) -> None:
        self.neurons, self.backend, self.workers = neurons, backend, workers

    def supports(self, query: Query) -> bool:
        """Where there is a layer whose bounds are not exact anyhow."""
        return bool(refinable(query))

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        from solvers.inline import Adaptive

        with Adaptive(self.workers, self.backend) as executor:
            exact = query.on(CPU, torch.float64)
            known = intermediate(query, bounds, budget).to(torch.float64).on(CPU)
            clock = Clock(budget, query.batch)
            lines: list[NeuronSlopes] = []
            tight = refine(exact, known, clock, self.neurons, executor, lines)
            found = solve_rows(exact, tight, clock, executor)
        tight = Bounds({i: _like(query, interval) for i, interval in tight.items()})
        return replace(report(query, tight, found, clock), neurons=affordable(lines))


def lp_rows(query: Query, bounds: Bounds, backend: str = "highs", workers: int | None = 0) -> RelaxationRows:
    """All rows over the relaxation with the bounds given; for comparing methods on equal bounds.

    Args:
        bounds: of every pre-activation. backend, workers: as of `LpStage`.
    """
    from solvers.inline import Adaptive
    from verifier.encoding.cutting import Rounds

    to_the_end = Rounds(most=60, share=1e-3, sign=False)

    everything = replace(query.on(CPU, torch.float64), open=torch.ones_like(query.open).cpu())
    with Adaptive(workers, backend) as executor:
        known, clock = bounds.to(torch.float64).on(CPU), Clock(Budget(), query.batch)
        return solve_rows(everything, known, clock, executor, to_the_end)


def report(query: Query, bounds: Bounds, found: RelaxationRows, clock: Clock) -> StageReport:
    """What a stage reports of solved rows."""
    device, dtype = query.open.device, query.graph.dtype
    return StageReport(
        cast_down(found.lower, dtype).to(device), bounds, found.points.to(device), Trust.FLOAT,
        MultiplierEvidence({i: nu.to(device) for i, nu in found.multipliers.items()}), seconds=clock.used,
        exhausted=found.exhausted,
    )  # fmt: skip


def solve_rows(
    query: Query, bounds: Bounds, clock: Clock, executor: Executor, rounds: Rounds | None = None
) -> RelaxationRows:
    """The open rows, one program per example. Query and bounds are in float64 on the CPU.

    Args:
        rounds: how long sets that are no boxes are cut; by default until the signs are known or it no longer pays.
    """
    from verifier.encoding import Encoder
    from verifier.encoding.cutting import Rounds, minima, questions

    graph, encoder = query.graph, Encoder(query.graph)
    lower = torch.full(query.open.shape, -torch.inf, dtype=torch.float64)
    optimum = torch.full_like(lower, torch.nan)
    multipliers = {i: lower.new_zeros(*lower.shape, *graph.nodes[i].shape) for i in graph.activations}
    points = query.inputs.center().double().clone()
    late: list[bool] = []
    asked = questions(query, bounds, encoder, clock.left, lambda: late.append(True))
    limited = False
    with torch.no_grad():
        for solved in minima(query, bounds, graph.output, asked, executor, clock.left, rounds or Rounds()):
            i, rows = solved.asked.example, torch.from_numpy(solved.asked.rows)
            clock.used[i] += solved.seconds
            optimum[i, rows] = solved.optimum
            better = solved.lower >= lower[i, rows]  # rows come once for each round
            lower[i, rows[better]] = solved.lower[better]
            for node, nu in solved.multipliers.items():
                multipliers[node][i, rows[better]] = nu[better]
            point = solved.points[int(solved.lower.argmin())]
            if point is not None:
                points[i] = point
            limited |= solved.limited
    if not query.inputs.is_box:
        points = _members(query, points)
    return RelaxationRows(lower, optimum, multipliers, points, limited or bool(late))


def _members(query: Query, points: Tensor) -> Tensor:  # [B, *input]
    """Members near points that programs have of the sets: projections only where a hair's breadth is not enough."""
    near = query.inputs.inside(points + BACK * (query.inputs.center().to(points) - points), points.dtype)
    there = query.inputs.contains(near).reshape(-1, *(1,) * (points.dim() - 1))
    return near if bool(there.all()) else torch.where(there, near, query.inputs.project(points))


def refinable(query: Query) -> list[int]:
    """Pre-activations whose bounds a linear program may tighten: not those that intervals bound exactly."""
    graph = query.graph
    if query.inputs.is_box:
        return [i for i in graph.pre_activations if not graph.exact_by_interval[i]]
    # before the first activation the dual bound is the set's own support function
    return [i for i in graph.pre_activations if not graph.ancestors[i].isdisjoint(graph.activations)]


def refine(
    query: Query,
    bounds: Bounds,
    budget: Budget | Clock,
    neurons: int,
    executor: Executor | None = None,
    lines: list[NeuronSlopes] | None = None,
) -> Bounds:
    """Tighter bounds of the `neurons` most influential unstable neurons of each example, layer by layer.

    Each bound is recomputed from the solver's duals on the part of the graph before the neuron. The bound that is
    nearer to zero is first: where it makes the neuron stable, the other one is not asked for.

    Args:
        query, bounds: in float64 on the CPU; the bounds of every pre-activation.
        lines: the slopes that prove the better bounds are added to it.
    """
    from solvers.inline import Inline
    from verifier.encoding import Encoder

    executor, encoder = executor or Inline(), Encoder(query.graph)
    clock = Clock(budget, query.batch) if isinstance(budget, Budget) else budget
    with torch.no_grad():
        chosen = most_influential(query, bounds, neurons)
        plan, dual = PassPlan(query.graph, DEFAULT_MEMORY), DualStage(SlopeRule.ADAPTIVE)
        for node in refinable(query):
            asked = False
            for nearer in (True, False):
                if clock.spent:
                    return bounds
                layer = _NeuronQuestions(query, bounds, clock, encoder, node, chosen[node], nearer)
                if layer.ask.any():
                    bounds, asked = bounds.intersect({node: layer.tightened(executor, lines)}), True
            if asked and node != refinable(query)[-1] and not clock.spent:
                bounds = bounds.intersect(dual.tighten(query, bounds, plan)[0])
    return bounds


def most_influential(query: Query, bounds: Bounds, neurons: int) -> dict[int, Tensor]:
    """Per refinable pre-activation: which neurons [B, size] are among the `neurons` that cost the open rows most."""
    graph, nodes = query.graph, refinable(query)
    lower, scores = influences(query, bounds)
    lost = (query.open & ~(lower > 0)).double()  # rows that the bounds so far do not prove
    parts = {node: lower.new_zeros(query.batch, graph.nodes[node].size) for node in nodes}
    for i, score in scores.items():
        parent = graph.nodes[i].parents[0]
        if parent in parts:
            parts[parent] += (score.flatten(2).nan_to_num(nan=0.0, posinf=0.0) * lost.unsqueeze(2)).sum(1)
    total = torch.cat([lower.new_zeros(query.batch, 0), *parts.values()], 1)
    count = min(neurons, total.shape[1])
    mask = torch.zeros_like(total, dtype=torch.bool)
    if count:
        mask = mask.scatter(1, total.topk(count, 1).indices, True) & (total > 0)
    sizes = [part.shape[1] for part in parts.values()]
    return dict(zip(nodes, mask.split(sizes, 1) if sizes else (), strict=True))


class _NeuronQuestions:
    """The questions about one bound of each chosen neuron of one node."""

    def __init__(
        self, query: Query, bounds: Bounds, clock: Clock, encoder: Encoder, node: int, chosen: Tensor, nearer: bool
    ) -> None:
        self.query, self.bounds, self.clock, self.encoder, self.node = query, bounds, clock, encoder, node
        low, high = bounds[node].lower, bounds[node].upper
        self.ask = chosen & unstable_at(query.graph, node, low, high).flatten(1)
        #: whether the lower bound is asked for
        self.below = (-low <= high).flatten(1) == nearer

    def __iter__(self) -> Iterator[Minimisation]:
        import numpy as np

        from verifier.encoding import EncodingError, ProgramSource
        from verifier.encoding.relaxation import Minimisation

        for i in range(self.query.batch):
            neurons, seconds, began = self.ask[i].nonzero().squeeze(1).numpy(), self.clock.left(i), time.monotonic()
            if len(neurons) == 0 or seconds <= 0:
                continue
            one = torch.tensor([i])
            source = ProgramSource.of_set(self.query.inputs.select(one))
            try:
                encoding = self.encoder.encode(source, self.bounds.select(one), self.node, wanted=self.ask[i].numpy())
            except EncodingError:
                continue
            functionals = np.zeros((len(neurons), self.ask.shape[1]))
            functionals[np.arange(len(neurons)), neurons] = np.where(self.below[i, neurons].numpy(), 1.0, -1.0)
            together = len(neurons) if source.whole else _TOGETHER
            for first in range(0, len(neurons), together):
                part = slice(first, first + together)
                built = time.monotonic() - began
                left, offset = self.clock.left(i) - built, np.zeros(len(neurons[part]))
                yield Minimisation(i, encoding, neurons[part], functionals[part], offset, left, built)
                began = time.monotonic()

    def tightened(self, executor: Executor, lines: list[NeuronSlopes] | None = None) -> Interval:
        """The bounds that were found, infinite elsewhere; the slopes that prove them are added to `lines`."""
        from verifier.encoding.cutting import Rounds, minima

        lower = torch.full(self.ask.shape, -torch.inf, dtype=torch.float64)
        upper = torch.full_like(lower, torch.inf)
        few = Rounds(most=5, share=0.1, sign=False)  # any tighter bound helps, and there are many
        for solved in minima(self.query, self.bounds, self.node, self, executor, self.clock.left, few):
            i, neurons = solved.asked.example, torch.from_numpy(solved.asked.rows)
            self.clock.used[i] += solved.seconds
            below = self.below[i, neurons]
            if lines is not None:
                lines += self._lines(solved, below)
            for bound, of, side in ((lower, below, 1.0), (upper, ~below, -1.0)):
                new, old = solved.lower[of], side * bound[i, neurons[of]]  # neurons come once for each round
                bound[i, neurons[of]] = side * torch.maximum(new, old)
        shape = self.bounds[self.node].lower.shape
        return Interval.of(lower.reshape(shape), upper.reshape(shape), SOURCE)

    def _lines(self, solved: Solved, below: Tensor) -> list[NeuronSlopes]:
        """The slopes nu / nu-hat of the bounds that are better than those known; `below` [q]: they are lower ones."""
        from verifier.encoding.relaxation import pulled

        i, graph, known = solved.asked.example, self.query.graph, self.bounds[self.node]
        one, place = torch.tensor([i]), torch.from_numpy(solved.asked.rows)
        low, high = (t.flatten(1)[i, place] for t in (known.lower, known.upper))
        kept = (solved.lower > torch.where(below, low, -high)).nonzero().squeeze(1)
        slopes: dict[int, tuple[Tensor, Tensor]] = {}

        def visit(node: int, above: State, under: State) -> None:
            op, own = graph.nodes[node].op, self.bounds[graph.nodes[node].parents[0]]
            assert isinstance(op, Activation)
            free = op.unstable(own.lower[i], own.upper[i]).flatten().nonzero().squeeze(1)
            nu_hat, nu = (s.one_sided().form.dense()[0].flatten(1)[:, free] for s in (above, under))
            slopes[node] = free, as_slopes(nu_hat, nu).float()

        if len(kept) == 0:
            return []
        functionals = torch.from_numpy(solved.asked.functionals)[kept].unsqueeze(0)
        nu = {node: m[kept].unsqueeze(0) for node, m in solved.multipliers.items()}
        pulled(self.query.select(one), self.bounds.select(one), self.node, functionals, nu, visit)
        return [NeuronSlopes(i, self.node, place[kept], (~below[kept]).to(torch.uint8), slopes)]


def _like(query: Query, interval: Interval) -> Interval:
    """An interval in the query's place and precision, rounded outward where that is less."""
    device, dtype = query.open.device, query.graph.dtype
    return Interval(
        cast_down(interval.lower.double(), dtype).to(device),
        cast_up(interval.upper.double(), dtype).to(device),
        interval.lower_origin.to(device),
        interval.upper_origin.to(device),
        interval.sources,
    )
