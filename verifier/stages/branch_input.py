"""Branch and bound on the input: for networks of few inputs, where halving boxes soon leaves little to relax."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from verifier.bound_map import Bounds
from verifier.branching.evidence import BoxEvidence
from verifier.branching.prove import prove_by_boxes
from verifier.budget import Budget
from verifier.query import Query
from verifier.relaxation.dual import DEFAULT_MEMORY
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Trust


@register
class BranchInputStage(Stage):
    """Splits the input boxes until dual bounds prove every clause on every part, by whichever of its rows.

    Branch and bound on the input (input BaB).

    Complete for piecewise linear networks with margins clearly above rounding, in time that grows quickly with the
    number of inputs. The boxes of all examples are worked on together, thousands at once. Linear bounds cut off what
    they prove before a box is split. Counterexamples are sought by sampling and descent, then where the worst boxes'
    bounds are attained. The proof is a tree of boxes.

    Args:
        share: of an example's seconds that this stage may take; the rest is for the stages behind it.
        margin: a row counts as positive above so many times the margin's estimated rounding error.
        memory: bytes for open boxes.
        most_inputs: it supports boxes with at most so many inputs that vary.
    """

    name: ClassVar[str] = "branch-input"
    aliases: ClassVar[tuple[str, ...]] = ("input-bab",)
    cost_rank: ClassVar[int] = 57
    precision: ClassVar[torch.dtype | None] = torch.float64
    default: ClassVar[bool] = False

    def __init__(
        self, share: float = 1.0, margin: float = 2.0, memory: int = DEFAULT_MEMORY, most_inputs: int = 40
    ) -> None:
        self.share, self.margin, self.memory, self.most_inputs = share, margin, memory, most_inputs

    def supports(self, query: Query) -> bool:
        if not query.inputs.is_box:
            return False
        low, high = query.inputs.box()
        return int((high > low).flatten(1).any(0).sum()) <= self.most_inputs

    def bounding(self) -> None:
        """None: a part is closed as soon as its sign is known."""

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        home, here = query.open.device, torch.device("cpu")
        if home != here:
            query, bounds = query.on(here), bounds.on(here)
        seconds = self.share * budget.together(range(query.batch)).left
        attempt = prove_by_boxes(query, bounds, seconds, self.memory, self.margin)
        proved = attempt.found
        nothing = StageReport(
            torch.full(query.open.shape, -torch.inf, dtype=torch.float64), attempt.bounds,
            candidates=attempt.candidates, trust=Trust.FLOAT,
        )  # fmt: skip
        if proved is None:
            return nothing.on(home)
        evidence = BoxEvidence(tuple(proved.trees.get(b) for b in range(query.batch)))
        lower = query.spec.alone(proved.clauses)
        found = replace(
            nothing, lower=lower, clauses=proved.clauses, evidence=evidence, exhausted=proved.exhausted,
            closed=proved.closed,
        )  # fmt: skip
        return found.on(home)
