"""The dual LP bound as a stage: Wong & Kolter (2018), Algorithm 1 (verifier.relaxation.dual)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation.dual import DEFAULT_MEMORY, NAMES, DualPass, Passed
from verifier.relaxation.evidence import SlopeRuleEvidence
from verifier.relaxation.roundoff import proof_trust
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Semantics, Trust

#: fixed slopes: Weng et al. (2018), Wong & Kolter (2018); adaptive ones: Zhang et al. (2018), Singh et al. (2019)
ALIASES = {SlopeRule.FIXED: ("fast-lin", "wong-kolter"), SlopeRule.ADAPTIVE: ("crown", "deeppoly")}


class DualStage(DualPass, Stage):
    """Dual bounds with slopes by a rule.

    With fixed slopes Fast-Lin (Weng et al. 2018), which is the dual of Wong & Kolter (2018); with adaptive ones CROWN
    (Zhang et al. 2018), which is the backward pass of DeepPoly (Singh et al. 2019).

    `run` takes off what rounding may cost (verifier.relaxation.roundoff), `plain` does not: trainers take that.

    Args: as of `DualPass`.
    """

    trust: ClassVar[Trust | None] = Trust.CHECKED
    semantics: ClassVar[frozenset[Semantics]] = frozenset(Semantics)

    def __init__(self, rule: SlopeRule = SlopeRule.FIXED, memory: int = DEFAULT_MEMORY) -> None:
        super().__init__(rule, memory)
        self.name, self.aliases = NAMES[rule], ALIASES[rule]  # type: ignore[misc]
        self.cost_rank = 20 if rule is SlopeRule.FIXED else 30  # type: ignore[misc]

    def summary(self) -> str:
        return f"Dual bounds with {self.rule.value} slopes"

    def supports(self, query: Query) -> bool:
        return True

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        return self._report(self.rigorous_bounds(query, bounds, budget), proof_trust(query))

    def plain(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        """The bounds as floating point computes them, over the real numbers; differentiable. Trust FLOAT."""
        return self._report(self.plain_bounds(query, bounds, budget), Trust.FLOAT)

    def _report(self, passed: Passed, trust: Trust) -> StageReport:
        evidence = SlopeRuleEvidence(self.rule)
        return StageReport(passed.lower, passed.bounds, trust=trust, evidence=evidence, exhausted=passed.exhausted)


for _rule in SlopeRule:
    register(partial(DualStage, _rule))
