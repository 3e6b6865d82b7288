"""Tighter bounds of neurons by linear programs: Singh et al. (2019), "Boosting robustness certification", section 4.

Programs end at the layer of the neurons that they are about, the most influential neurons first. Each bound is
recomputed from the solver's duals, as those of rows are (verifier.encoding.relaxed_rows).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from solvers.inline import Inline
from verifier.bound_map import BoundMethod, Bounds, Interval, Provenance
from verifier.budget import Budget, OutOfTime
from verifier.encoding.activation import EncodingError
from verifier.encoding.clock import Clock
from verifier.encoding.cutting import Rounds, minima
from verifier.encoding.encoder import Encoder, ProgramSource
from verifier.encoding.relaxation import Executor, Minimisation, Solved, pulled
from verifier.ops.base import Activation, SlopeRule
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation.backward import State
from verifier.relaxation.dual import DEFAULT_MEMORY, DualPass, unstable_at
from verifier.relaxation.multipliers import as_slopes
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.plan import PassPlan
from verifier.relaxation.products import plane_positions
from verifier.relaxation.refinable import most_influential, refinable
from verifier.verdict import Trust

SOURCE = Provenance("lp", Trust.FLOAT, BoundMethod.PROGRAM)
#: neurons of one program on a set that is cut by planes: each brings one of its own
_TOGETHER = 32


def refine(
    query: Query,
    bounds: Bounds,
    budget: Budget | Clock,
    neurons: int,
    executor: Executor | None = None,
    evidence: list[NeuronSlopes] | None = None,
) -> Bounds:
    """Tighter bounds of the `neurons` most influential unstable neurons of each example, layer by layer.

    Each bound is recomputed from the solver's duals on the part of the graph before the neuron. The bound that is
    nearer to zero is first: where it makes the neuron stable, the other one is not asked for.

    Args:
        query, bounds: in float64 on the CPU; the bounds of every pre-activation.
        evidence: the slopes that prove the better bounds are added to it.
    """
    executor, encoder = executor or Inline(), Encoder(query.graph)
    clock = Clock(budget, query.batch) if isinstance(budget, Budget) else budget
    with torch.no_grad(), suppress(OutOfTime):  # what is finished stays
        chosen = most_influential(query, bounds, neurons)
        plan, dual = PassPlan(query.graph, DEFAULT_MEMORY), DualPass(SlopeRule.ADAPTIVE)
        for node in refinable(query):
            asked = False
            for nearer in (True, False):
                if clock.spent:
                    return bounds
                layer = _NeuronQuestions(query, bounds, clock, encoder, node, chosen[node], nearer)
                if layer.ask.any():
                    bounds, asked = bounds.intersect({node: layer.tightened(executor, evidence)}), True
            if asked and node != refinable(query)[-1] and not clock.spent:
                bounds = bounds.intersect(dual.tighten(query, bounds, plan)[0])
    return bounds


class _NeuronQuestions:
    """The questions about one bound of each chosen neuron of one node.

    Args:
        chosen: [B, size] bool, the neurons.
    """

    def __init__(
        self, query: Query, bounds: Bounds, clock: Clock, encoder: Encoder, node: int, chosen: Tensor, nearer: bool
    ) -> None:
        self.query, self.bounds, self.clock, self.encoder, self.node = query, bounds, clock, encoder, node
        low, high = bounds[node].lower, bounds[node].upper
        self.ask = chosen & unstable_at(query.graph, node, low, high).flatten(1)
        #: whether the lower bound is asked for
        self.below = (-low <= high).flatten(1) == nearer

    def __iter__(self) -> Iterator[Minimisation]:
        for i in range(self.query.batch):
            neurons, seconds, began = self.ask[i].nonzero().squeeze(1).numpy(), self.clock.left(i), time.monotonic()
            if len(neurons) == 0 or seconds <= 0:
                continue
            one = torch.tensor([i])
            source = ProgramSource.of_set(self.query.inputs.select(one))
            try:
                with Budget(seconds).enforced():
                    encoding = self.encoder.encode(
                        source, self.bounds.select(one), self.node, wanted=self.ask[i].numpy()
                    )
            except EncodingError:
                continue
            except OutOfTime:
                self.clock.used[i] += time.monotonic() - began
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

    def tightened(self, executor: Executor, evidence: list[NeuronSlopes] | None = None) -> Interval:
        """The bounds that were found, infinite elsewhere; the slopes that prove them are added to `evidence`."""
        lower = torch.full(self.ask.shape, -torch.inf, dtype=torch.float64)
        upper = torch.full_like(lower, torch.inf)
        few = Rounds(most=5, share=0.1, sign=False)  # any tighter bound helps, and there are many
        for solved in minima(self.query, self.bounds, self.node, self, executor, self.clock.left, few):
            i, neurons = solved.asked.example, torch.from_numpy(solved.asked.rows)
            self.clock.used[i] += solved.seconds
            below = self.below[i, neurons]
            if evidence is not None:
                evidence += self._slopes(solved, below)
            for bound, of, side in ((lower, below, 1.0), (upper, ~below, -1.0)):
                new, old = solved.lower[of], side * bound[i, neurons[of]]  # neurons come once for each round
                bound[i, neurons[of]] = side * torch.maximum(new, old)
        shape = self.bounds[self.node].lower.shape
        return Interval.of(lower.reshape(shape), upper.reshape(shape), SOURCE)

    def _slopes(self, solved: Solved, below: Tensor) -> list[NeuronSlopes]:
        """The slopes nu / nu-hat of the bounds that are better than those known; `below` [q]: they are lower ones."""
        i, graph, known = solved.asked.example, self.query.graph, self.bounds[self.node]
        one, place = torch.tensor([i]), torch.from_numpy(solved.asked.rows)
        low, high = (t.flatten(1)[i, place] for t in (known.lower, known.upper))
        kept = (solved.lower > torch.where(below, low, -high)).nonzero().squeeze(1)
        slopes: dict[int, tuple[Tensor, Tensor]] = {}
        given = {node: m[kept].unsqueeze(0) for node, m in solved.multipliers.items()}

        def visit(node: int, above: State, under: State) -> None:
            op, own = graph.nodes[node].op, self.bounds[graph.nodes[node].parents[0]]
            if isinstance(op, Product):
                ends = own.lower[i : i + 1], own.upper[i : i + 1]
                t = plane_positions(op, *ends, above.one_sided().form.dense()[0], given[node][0])
                slopes[node] = torch.arange(t.shape[1]), t.float()
                return
            assert isinstance(op, Activation)
            free = op.unstable(own.lower[i], own.upper[i]).flatten().nonzero().squeeze(1)
            nu_hat, nu = (s.one_sided().form.dense()[0].flatten(1)[:, free] for s in (above, under))
            slopes[node] = free, as_slopes(nu_hat, nu).float()

        if len(kept) == 0:
            return []
        functionals = torch.from_numpy(solved.asked.functionals)[kept].unsqueeze(0)
        pulled(self.query.select(one), self.bounds.select(one), self.node, functionals, given, visit)
        return [NeuronSlopes(i, self.node, place[kept], (~below[kept]).to(torch.uint8), slopes)]
