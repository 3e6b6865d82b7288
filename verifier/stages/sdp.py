"""The semidefinite certificate of Raghunathan et al. (2018) as a stage (verifier.sdp)."""

from __future__ import annotations

import torch

from verifier.bound_map import Bounds, Interval
from verifier.budget import Budget
from verifier.query import Query
from verifier.relaxation.interval import SOURCE, propagate
from verifier.sdp.bounds import SdpBounds
from verifier.sdp.two_layer import entries, is_two_layer
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Trust


@register
class SdpStage(Stage):
    """Semidefinite bound of a network with one activation layer, one certificate per pair of classes for all inputs.

    The certificates do not depend on the input. They are kept for the last network that was asked about, so that a test
    set pays for them once: about a second for each pair of classes and 500 neurons.

    Args:
        entries: of the matrix from the input to the neurons, at most: it is written out.
        share: of the time that is left, how much making certificates may take. What is unfinished then is valid, and
            goes on with the next query.
    """

    name = "sdp"
    cost_rank = 62
    precision = torch.float64

    def __init__(self, entries: int = 2**23, share: float = 0.25) -> None:
        self.entries, self.share = entries, share
        self._known: SdpBounds | None = None

    def supports(self, query: Query) -> bool:
        """One activation node, and a matrix in front of it that is not too large. Any input set, by its box."""
        return is_two_layer(query.graph) and entries(query.graph) <= self.entries

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        if budget.spent:
            return StageReport(torch.full_like(query.open, -torch.inf, dtype=query.graph.dtype), exhausted=True)
        certificates = self.certificates(query)
        wanted = query.spec.rows[query.open].unique(dim=0)
        finished = certificates.solve(wanted, self.share * budget.together(range(query.batch)).left)
        lower = certificates.lower(query).to(query.open.device).masked_fill(~query.open, -torch.inf)
        ranges = propagate(query, bounds)
        found = Bounds({i: Interval.of(*ranges[i], SOURCE) for i in query.graph.pre_activations})
        return StageReport(
            lower, found, trust=Trust.FLOAT, evidence=certificates.evidence(),
            exhausted=not finished,
        )  # fmt: skip

    def certificates(self, query: Query) -> SdpBounds:
        """Those of the query's network: kept from an earlier query where it was the same one."""
        known = self._known
        if known is None or known.digest != query.graph.to("cpu", torch.float64).digest():
            self._known = known = SdpBounds(query.graph)
        return known

    def use(self, certificates: SdpBounds) -> None:
        """Start from these, loaded or made before; they go when another network is asked about."""
        self._known = certificates
