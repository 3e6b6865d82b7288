"""The dual bound with a stated probability: Wong et al. (2018), appendix E.

Widths come from the geometric estimator (verifier.projection.probabilistic), whose cost is linear in the number of
units: for networks on which the exact dual bound is too slow. The proof that it holds is in docs/soundness.md.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.errors import InputError
from verifier.projection.evidence import SeedEvidence
from verifier.projection.forward import supported
from verifier.projection.probabilistic import Estimates
from verifier.query import Query
from verifier.relaxation.dual import DEFAULT_MEMORY
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Trust


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
        self.estimates, self.memory = Estimates(failure, rows, groups, seed), memory

    def supports(self, query: Query) -> bool:
        """Boxes and l-infinity balls; l2 balls without a valid range. Networks without products."""
        return supported(query.inputs) and not query.graph.has_products

    @torch.no_grad()
    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        """As of Stage. The bounds known so far are not used: all that this rests on is the seed."""
        lower, exhausted = self.estimates.bounds(query, budget, self.memory)
        evidence = SeedEvidence(self.estimates, self.memory)
        return StageReport(lower, trust=Trust.PROBABILISTIC, evidence=evidence, exhausted=exhausted)
