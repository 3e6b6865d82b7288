"""Integer programs on the final layers: Tjeng, Xiao & Tedrake (2019); Balunovic & Vechev (2020, COLT), section 6.

The last k layers are encoded exactly, what lies before them by its linear relaxation or by a zonotope; with all layers
and no cap on the binaries the program is the network itself. A bound from here has the trust of a solver's word
(`verifier.encoding.questions` says which words count, `verifier.encoding.final_layers` solves).

Boxes and images of polytopes (properties.lifted) are in the programs as they are. Of other sets, and where a zonotope
comes first, they know the interval hull and half-spaces that hold it: what they say of that holds on the set. Where an
optimum's input lies outside the set and the row is not decided, half-spaces that cut it off join the program, and it is
solved again.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.evidence import SolverEvidence
from verifier.graph.cuts import CutLayer, layers
from verifier.graph.polylines import all_polylines, is_polyline
from verifier.query import Query
from verifier.relaxation.dual import intermediate
from verifier.stages.base import Stage, StageReport, register
from verifier.stages.prospects import few_unstable
from verifier.verdict import Trust

CPU = torch.device("cpu")

Before = Literal["relaxation", "zonotope"]


class MilpStage(Stage):
    """The minimum of every open row, by a solver, until its sign is known.

    With all layers the complete MILP (MIPVerify, Tjeng et al. 2019).

    Args:
        layers: how many final layers are exact (verifier.graph.cuts); None: all of them.
        cap: neurons exact in one program, the most influential on the row first; None: no limit.
        before: what stands for the layers before the exact ones.
        backend: name of a solver (`solvers.backend`).
        workers: processes that solve; 0: this one. None: one per core.
    """

    precision: ClassVar[torch.dtype | None] = torch.float64
    trust: ClassVar[Trust | None] = Trust.SOLVER

    def __init__(
        self,
        layers: int | None = None,
        cap: int | None = None,
        before: Before = "relaxation",
        backend: str = "highs",
        workers: int | None = None,
    ) -> None:
        if before not in ("relaxation", "zonotope"):
            raise ValueError(f"before must be 'relaxation' or 'zonotope', got {before!r}")
        if layers is not None and layers < 1:
            raise ValueError(f"layers must be at least 1, or None for all of them, got {layers}")
        self.layers, self.cap, self.before, self.backend, self.workers = layers, cap, before, backend, workers
        self.minima = False  #: whether rows are taken to their minima, beyond their signs
        self.name = "milp" if layers is None else f"milp-{layers}"  # type: ignore[misc]
        self.aliases = ("complete-milp",) if layers is None else ()  # type: ignore[misc]
        self.cost_rank = 90 if layers is None else min(78 + 2 * layers, 88)  # type: ignore[misc]

    def summary(self) -> str:
        what = "The whole network" if self.layers is None else f"The last {self.layers} layer(s)"
        return f"{what} as an integer program" + ("" if self.cap is None else f", at most {self.cap} neurons exact")

    def supports(self, query: Query) -> bool:
        """Final layers with something to encode exactly."""
        return any(is_polyline(query.graph, i) for layer in self.final(query) for i in layer.activations)

    def final(self, query: Query) -> list[CutLayer]:
        """The layers that are exact, the last one first."""
        return layers(query.graph)[: self.layers]

    def complete(self, query: Query) -> bool:
        """Whether enough time decides every row: everything is exact. (A clause of several rows may stay open.)"""
        return self.cap is None and all_polylines(query.graph, self.final(query))

    def hopes(self, query: Query, bounds: Bounds) -> Tensor:
        return few_unstable(query, bounds)

    def bounding(self) -> MilpStage:
        other = copy.copy(self)
        other.minima = True
        return other

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        from solvers import backend as find_backend
        from solvers.inline import Adaptive
        from verifier.encoding.exact_programs import ExactPlan
        from verifier.encoding.exact_rows import cutoffs, solver_error
        from verifier.encoding.final_layers import Work

        known = intermediate(query, bounds, budget)
        plan = ExactPlan(self.final(query), self.cap, self.before)
        exact = set() if self.cap is not None else {i for layer in plan.final for i in layer.activations}
        error = solver_error(query, known, find_backend(self.backend).tolerance, exact)
        work = Work(
            plan,
            query.on(CPU, torch.float64),
            known.to(torch.float64).on(CPU),
            budget,
            None if self.minima else cutoffs(query, known) + error,
            error,
        )
        with Adaptive(self.workers, self.backend) as executor:
            work.run(executor)
        like = query.open.device
        return StageReport(
            work.lower.to(like, query.graph.dtype), known, work.point.to(like), Trust.SOLVER,
            SolverEvidence(self.backend, {"layers": str(self.layers), "cap": str(self.cap), "before": self.before}),
            seconds=work.spent, exhausted=work.exhausted,
        )  # fmt: skip


register(partial(MilpStage, 1, 30))
register(partial(MilpStage, 2, 100))
register(MilpStage)
