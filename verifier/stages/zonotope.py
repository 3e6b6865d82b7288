"""Zonotopes as stages: with the slopes of DeepZ, and with slopes learned per row.

Bounds first, layer by layer, each layer's from the zonotope of the layers before it over the tightest intervals known;
then the rows. With the slopes of DeepZ a neuron's range over the zonotope is its dual bound with fixed slopes (the two
are one relaxation; Singh et al. 2018, Wong & Kolter 2018), so the passes of the dual stage compute it. What the stage
adds to that one is what it relaxes over: the dual stage takes the bounds that it found itself, as published, this one
the best that any stage before it found. The generators themselves are in verifier.zonotope.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from verifier.bound_map import BoundMethod, Bounds, Interval, Provenance
from verifier.budget import Budget
from verifier.ops.base import Operator, SlopeRule
from verifier.query import Query
from verifier.relaxation.dual import DEFAULT_MEMORY
from verifier.relaxation.evidence import MultiplierEvidence
from verifier.relaxation.optimised import Enough, no_multipliers
from verifier.relaxation.parallel import ordered_map_small, workers
from verifier.stages.base import Stage, StageReport, register
from verifier.stages.dual import DualStage
from verifier.stages.prospects import few_unstable
from verifier.verdict import Semantics, Trust
from verifier.zonotope.rows import learned_rows


@register
class ZonotopeStage(DualStage):
    """The zonotope with the slopes of DeepZ, u / (u - l) for a ReLU.

    Args:
        memory: bytes of working memory; examples and rows are split so as to stay inside.
    """

    precision: ClassVar[torch.dtype | None] = torch.float64

    def __init__(self, memory: int = DEFAULT_MEMORY) -> None:
        super().__init__(SlopeRule.FIXED, memory)
        self.name, self.aliases, self.cost_rank = "zonotope", ("deepz",), 60  # type: ignore[misc]
        self.source = Provenance("zonotope", Trust.CHECKED, BoundMethod.FIXED)

    def hopes(self, query: Query, bounds: Bounds) -> Tensor:
        return few_unstable(query, bounds)

    def summary(self) -> str:
        return Stage.summary(self)

    def _relaxed_over(self, tight: Interval, own: Interval, readers: Iterable[Operator]) -> Interval:
        return tight.intersect(own)


@register
class LearnedZonotopeStage(ZonotopeStage):
    """The same bounds; then, for the rows that are still open, slopes learned by Adam (verifier.zonotope.rows).

    Args:
        steps, rate: of the ascent.
        margin: a row is done when its bound is above so many times its estimated rounding error; infinite: every row
            is taken to the end.
        memory: bytes of working memory.
    """

    trust: ClassVar[Trust | None] = Trust.FLOAT
    semantics: ClassVar[frozenset[Semantics]] = frozenset({Semantics.REAL})

    def __init__(self, steps: int = 20, rate: float = 0.25, margin: float = 2.0, memory: int = DEFAULT_MEMORY) -> None:
        super().__init__(memory)
        self.name, self.aliases, self.cost_rank = "zonotope-learned", (), 61  # type: ignore[misc]
        self.steps, self.rate, self.margin = steps, rate, margin

    def bounding(self) -> Stage:
        other = copy.copy(self)
        other.margin = math.inf
        return other

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        device = query.open.device
        memory = self.memory // workers(device)

        def work(index: Tensor) -> StageReport:  # [k] int64
            part, own = query.select(index), budget.together(index.tolist())
            fixed = super(LearnedZonotopeStage, self).run(part, bounds.select(index), own)
            if fixed.exhausted:
                return replace(fixed, evidence=MultiplierEvidence(no_multipliers(part)))
            return self._learned(part, fixed, memory, own)

        parts = ordered_map_small(work, torch.arange(query.batch, device=device).split(1), device)
        proofs = [p.evidence for p in parts if isinstance(p.evidence, MultiplierEvidence)]
        nu = {i: torch.cat([proof.multipliers[i] for proof in proofs]) for i in query.graph.activations}
        return StageReport(
            torch.cat([p.lower for p in parts if p.lower is not None]), Bounds.concatenate([p.bounds for p in parts]),
            trust=Trust.FLOAT, evidence=MultiplierEvidence(nu),
            exhausted=any(p.exhausted for p in parts),
        )  # fmt: skip

    def _learned(self, query: Query, fixed: StageReport, memory: int, budget: Budget) -> StageReport:
        """What the fixed slopes found, with the rows of the learned ones."""
        enough = Enough.of(query, fixed.bounds, self.margin)
        rows = learned_rows(query, fixed.bounds, self.steps, self.rate, enough, budget, memory)
        lower = rows.lower.masked_fill(~query.open, -torch.inf)
        return replace(fixed, lower=lower, evidence=MultiplierEvidence(rows.multipliers), exhausted=rows.exhausted)
