"""Bounds by the norms of a network's two layers, which the semidefinite certificate is compared with, as stages."""

from __future__ import annotations

import torch

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.query import Query
from verifier.sdp.bounds import SdpBounds
from verifier.sdp.norms import NORMS, NormEvidence
from verifier.sdp.two_layer import entries, is_two_layer
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Trust


class NormStage(Stage):
    """The row at the middle of the set's box, less the norms of both layers times half the box's diagonal.

    Raghunathan et al. (2018), section 5: never better than stage "sdp", and mostly far from it; for comparisons.

    Args:
        norm: of the first layer, "spectral" (eq. 17) or "frobenius" (eq. 18).
        entries: of the matrix from the input to the neurons, at most: it is written out.
    """

    precision = torch.float64
    default = False

    def __init__(self, norm: str, entries: int = 2**23) -> None:
        self.norm, self.entries = norm, entries
        self.name, self.cost_rank = norm, 15 + NORMS.index(norm)  # type: ignore[misc]

    def supports(self, query: Query) -> bool:
        """One activation node, and a matrix in front of it that is not too large. Any input set, by its box."""
        return is_two_layer(query.graph) and entries(query.graph) <= self.entries

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        if budget.spent:
            return StageReport(torch.full_like(query.open, -torch.inf, dtype=query.graph.dtype), exhausted=True)
        lower = SdpBounds(query.graph).lower_by_norm(query, self.norm).to(query.open.device)
        return StageReport(
            lower.masked_fill(~query.open, -torch.inf), trust=Trust.FLOAT, evidence=NormEvidence(self.norm)
        )  # fmt: skip


@register
def spectral() -> NormStage:
    """By the spectral norm of the first layer."""
    return NormStage("spectral")


@register
def frobenius() -> NormStage:
    """By the Frobenius norm of the first layer."""
    return NormStage("frobenius")
