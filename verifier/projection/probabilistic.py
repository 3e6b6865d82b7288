"""The dual bound with a stated probability: Wong et al. (2018), appendix E. The proof is in docs/soundness.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.budget import Budget, OutOfTime
from verifier.ops.base import Activation
from verifier.projection.estimators import cauchy_factor, normal_factor
from verifier.projection.forward import (
    Draws,
    Noise,
    bounded_nodes,
    center_of,
    center_step,
    project,
    row_values,
    within,
)
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.dual import unstable_at
from verifier.relaxation.ranges import Range
from verifier.zonotope.band import Band

#: random vectors carried at once; a part of what a seed means
TOGETHER = 50


@dataclass(frozen=True)
class Estimates:
    """How widths are estimated: these numbers and the query give every bound again.

    Args: as of `verifier.stages.probabilistic.ProbabilisticDualStage`.
    """

    failure: float
    rows: int
    groups: int
    seed: int

    def bounds(self, query: Query, budget: Budget, memory: int) -> tuple[Tensor, bool]:
        """Lower bounds [B, S] of the open rows, minus infinity for all others, and whether the budget ended them.

        Args:
            memory: bytes to work in; examples are split so as to stay inside, which changes no result.
        """
        lower = torch.full(query.open.shape, -torch.inf, dtype=query.graph.dtype, device=query.open.device)
        widest = max(node.size for node in query.graph.nodes)
        at_once = max(1, memory // (8 * 8 * min(TOGETHER, self.rows) * widest))
        for index in torch.arange(query.batch, device=lower.device).split(at_once):
            own = budget.together(index.tolist())
            try:
                with own.enforced():
                    projected = ProjectedPass(self, query.select(index), own)
                    if not projected.tighten():
                        return lower, True
                    lower[index] = projected.row_bounds()
            except OutOfTime:
                return lower, True
        return lower, False

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


class ProjectedPass:
    """One chunk of examples: the bands of all activations, in order, and then the rows."""

    def __init__(self, estimates: Estimates, query: Query, budget: Budget) -> None:
        self.estimates, self.query, self.budget = estimates, query, budget
        self.graph, self.dtype = query.graph, query.graph.dtype
        self.factors, self.seeds = estimates.factors(query), estimates.seeds(len(self.graph.nodes))
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
        each = self.estimates.rows // self.estimates.groups
        cauchy, normal = torch.zeros_like(like), torch.zeros_like(like)
        for _ in range(self.estimates.groups):
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
                normal = normal + squares / self.estimates.rows
        return self.factors[0] * cauchy + self.factors[1] * normal.sqrt()

    def _noises(self, node: int, rows: Tensor | None, count: int, generator: torch.Generator) -> Iterator[Noise]:
        """`count` random vectors at a node, a few at a time; of `rows` [B, S, n] of it, where given."""
        for start in range(0, count, TOGETHER):
            draws = Draws(min(TOGETHER, count - start), generator)
            noise = project(self.graph, self.query.inputs, self.bands, node, draws)
            yield noise if rows is None else noise.rows(rows)
