"""The dual bound with a stated probability: Wong et al. (2018), appendix E.

Widths come from the geometric estimator (verifier.projection.estimators), whose cost is linear in the number of units:
for networks on which the exact dual bound is too slow. The proof that it holds is in docs/soundness.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from verifier.bounds import Bounds
from verifier.budget import Budget
from verifier.errors import InputError
from verifier.evidence import Evidence
from verifier.ops.base import Activation
from verifier.projection.backward import (
    Draws,
    Noise,
    bounded_nodes,
    center_of,
    center_step,
    project,
    row_values,
    supported,
    within,
)
from verifier.projection.estimators import cauchy_factor, normal_factor
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.dual import DEFAULT_MEMORY, unstable_at
from verifier.relaxation.ranges import Range
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Trust
from verifier.zonotope.band import Band

#: random vectors carried at once; a part of what a seed means
TOGETHER = 50


@register
class ProbabilisticDualStage(Stage):
    """Dual bounds with fixed slopes whose widths are estimated: each example's hold but for a stated probability.

    Not in the default ladder. It reports no intermediate bounds, so that no other stage's proof rests on them, and
    takes none. All is drawn anew for every layer and for the rows, from a generator of its own seed. That the bounds of
    an example hold with probability 1 - failure is a statement about the seed, which must be chosen without knowing the
    network and the data: whoever fears a network that was made for this seed gives another one. For n questions that
    depend on the answers to one another (a search for the radius or for a seed, say) give failure / n, and likewise for
    unions of n sets, each of which is asked about by itself.

    Args:
        failure: probability, per example (and member of a union), that some bound does not hold; > 0 and < 1.
        rows: random vectors per estimate; the more, the tighter.
        groups: estimates are the greatest of so many geometric means, of rows / groups samples each (the paper's m).
            At the same number of rows one group is tightest, and fails with the same probability.
        seed: of everything that is random.
        memory: bytes of working memory; examples are split so as to stay inside, which changes no result.
    """

    name: ClassVar[str] = "dual-probabilistic"
    aliases: ClassVar[tuple[str, ...]] = ("random-projections",)
    cost_rank: ClassVar[int] = 45
    precision: ClassVar[torch.dtype | None] = torch.float64
    trust: ClassVar[Trust | None] = Trust.PROBABILISTIC
    default: ClassVar[bool] = False

    def __init__(
        self, failure: float = 1e-3, rows: int = 2000, groups: int = 1, seed: int = 0, memory: int = DEFAULT_MEMORY
    ) -> None:
        if not 0 < failure < 1:
            raise InputError(f"failure is a probability, > 0 and < 1, got {failure}")
        if groups < 1 or rows < groups or rows % groups:
            raise InputError(f"rows must be a multiple of groups, both at least 1, got {rows} rows, {groups} groups")
        self.failure, self.rows, self.groups, self.seed, self.memory = failure, rows, groups, seed, memory

    def supports(self, query: Query) -> bool:
        """Boxes and l-infinity balls; l2 balls without a valid range."""
        return supported(query.inputs)

    @torch.no_grad()
    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        """As of Stage. The bounds known so far are not used: all that this rests on is the seed."""
        lower = torch.full(query.open.shape, -torch.inf, dtype=query.graph.dtype, device=query.open.device)
        exhausted = False
        for index in torch.arange(query.batch, device=lower.device).split(self._examples(query)):
            forward = _ProjectedPass(self, query.select(index), budget)
            exhausted |= not forward.tighten()
            if exhausted:
                break
            lower[index] = forward.row_bounds()
        return StageReport(lower, trust=Trust.PROBABILISTIC, evidence=SeedEvidence(self), exhausted=exhausted)

    def _examples(self, query: Query) -> int:
        """Examples to work on at once."""
        widest = max(node.size for node in query.graph.nodes)
        return max(1, self.memory // (8 * 8 * min(TOGETHER, self.rows) * widest))

    def factors(self, query: Query) -> tuple[float, float]:
        """What geometric means, and roots of mean squares, are multiplied with: the union bound over all estimates.

        One estimate for every neuron that is not bounded exactly by intervals, asked for or not, and one for every row.
        Sets that are no boxes have two in the place of each: of the input's part, and of the activations'.
        """
        graph = query.graph
        count = sum(graph.nodes[i].size for i in bounded_nodes(query)) + query.open.shape[1]
        each = self.failure / (count if query.inputs.is_box else 2 * count)
        return cauchy_factor(self.rows, each), normal_factor(self.rows, each)

    def seeds(self, nodes: int) -> list[int]:
        """One seed for each node's estimates, and one for the rows', at the end."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(2**62, (nodes + 1,), generator=generator).tolist()


class _ProjectedPass:
    """One chunk of examples: the bands of all activations, in order, and then the rows."""

    def __init__(self, stage: ProbabilisticDualStage, query: Query, budget: Budget) -> None:
        self.stage, self.query, self.budget = stage, query, budget
        self.graph, self.dtype = query.graph, query.graph.dtype
        self.factors, self.seeds = stage.factors(query), stage.seeds(len(self.graph.nodes))
        self.bands: dict[int, Band] = {}
        self.centers = {0: center_of(query.inputs, self.dtype)}
        self.ranges: dict[int, Range] = {0: query.inputs.box(self.dtype)}

    def tighten(self) -> bool:
        """Bounds of every pre-activation, and the bands over them; False if the budget ended before."""
        graph, to_bound = self.graph, set(bounded_nodes(self.query))
        for node in range(1, len(graph.nodes)):
            if self.budget.spent:
                return False
            op = graph.nodes[node].op
            if isinstance(op, Activation):
                self.bands[node] = Band.fixed(op, *self.ranges[graph.nodes[node].parents[0]])
            self.centers[node] = center_step(graph, node, self.centers, self.bands.get(node))
            self.ranges[node] = interval.step(graph, node, self.ranges)
            if node in to_bound:
                self._tighten_unstable(node)
        return not self.budget.spent

    def _tighten_unstable(self, node: int) -> None:
        """Only neurons that interval bounds leave undecided: no result depends on the rest of the batch."""
        low, high = self.ranges[node]
        mask = unstable_at(self.graph, node, low, high)
        if not mask.any():
            return
        width = self._widths(node, None, self.centers[node])
        lower, upper = within((low, high), self.centers[node], width)
        self.ranges[node] = torch.where(mask, lower, low), torch.where(mask, upper, high)

    def row_bounds(self) -> Tensor:  # [B, S]
        """Lower bounds of the open rows; -inf for the others."""
        value = row_values(self.query, self.centers[self.graph.output])
        lower = value - self._widths(self.graph.output, self.query.spec.rows.to(self.dtype), value)
        return lower.masked_fill(~self.query.open, -torch.inf)

    def _widths(self, node: int, rows: Tensor | None, like: Tensor) -> Tensor:
        """Upper bounds, but for the failure, of how far a node (or rows of it, [B, S, n]) moves from its center."""
        generator = torch.Generator(like.device).manual_seed(self.seeds[-1 if rows is not None else node])
        each = self.stage.rows // self.stage.groups
        cauchy, normal = torch.zeros_like(like), torch.zeros_like(like)
        for _ in range(self.stage.groups):
            logs, squares, any_cauchy, any_normal = torch.zeros_like(like), torch.zeros_like(like), False, False
            for noise in self._noises(node, rows, each, generator):
                if noise.cauchy is not None:
                    logs, any_cauchy = logs + noise.cauchy.abs().log().sum(0), True
                if noise.normal is not None:
                    squares, any_normal = squares + noise.normal.square().sum(0), True
            # NaN, from overflows, must stay NaN: maximum does that
            if any_cauchy:
                cauchy = torch.maximum(cauchy, (logs / each).exp())
            if any_normal:
                normal = normal + squares / self.stage.rows
        return self.factors[0] * cauchy + self.factors[1] * normal.sqrt()

    def _noises(self, node: int, rows: Tensor | None, count: int, generator: torch.Generator) -> Iterator[Noise]:
        """`count` random vectors at a node, a few at a time."""
        for start in range(0, count, TOGETHER):
            draws = Draws(min(TOGETHER, count - start), generator)
            noise = project(self.graph, self.query.inputs, self.bands, node, draws)
            yield noise if rows is None else noise.rows(rows)


@dataclass(frozen=True)
class SeedEvidence(Evidence):
    """Evidence of a bound with a probability: the very numbers that were drawn, by their seed."""

    kind: ClassVar[str] = "seed"
    recordable: ClassVar[bool] = False
    rests_on_bounds: ClassVar[bool] = False
    stage: ProbabilisticDualStage  #: its failure, rows, groups and seed say what is drawn

    def recompute(self, query: Query, bounds: Bounds) -> Tensor:
        lower = self.stage.run(query, Bounds(), Budget()).lower
        assert lower is not None
        return lower

    def select(self, example: int) -> Self:
        return self
