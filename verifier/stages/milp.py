"""Integer programs on the final layers: Tjeng, Xiao & Tedrake (2019); Balunovic & Vechev (2020, COLT), section 6.

The last k layers are encoded exactly, what lies before them by its linear relaxation or by a zonotope; with all layers
and no cap on the binaries the program is the network itself. A bound from here has the trust of a solver's word
(`verifier.encoding.questions` says which words count).

Boxes and images of polytopes (properties.lifted) are in the programs as they are. Of other sets, and where a zonotope
comes first, they know the interval hull and half-spaces that hold it: what they say of that holds on the set. Where an
optimum's input lies outside the set and the row is not decided, half-spaces that cut it off join the program, and it is
solved again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from verifier.bounds import Bounds
from verifier.budget import Budget
from verifier.evidence import SolverEvidence
from verifier.graph.cuts import CutLayer, layers
from verifier.ops.base import Activation
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.dual import intermediate
from verifier.rounding import margin_error, tolerance_error
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Trust

if TYPE_CHECKING:
    from solvers import SolveStatus

#: rows are asked about below this value: far above a solver's tolerances, far below margins that matter
CUTOFF = 1e-3

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
        self.name = "milp" if layers is None else f"milp-{layers}"  # type: ignore[misc]
        self.aliases = ("complete-milp",) if layers is None else ()  # type: ignore[misc]
        self.cost_rank = 90 if layers is None else min(78 + 2 * layers, 88)  # type: ignore[misc]

    def summary(self) -> str:
        what = "The whole network" if self.layers is None else f"The last {self.layers} layer(s)"
        return f"{what} as an integer program" + ("" if self.cap is None else f", at most {self.cap} neurons exact")

    def supports(self, query: Query) -> bool:
        """Final layers with something to encode exactly."""
        return any(is_polyline(query, i) for layer in self.final(query) for i in layer.activations)

    def final(self, query: Query) -> list[CutLayer]:
        """The layers that are exact, the last one first."""
        return layers(query.graph)[: self.layers]

    def complete(self, query: Query) -> bool:
        """Whether enough time decides every row: everything is exact. (A clause of several rows may stay open.)"""
        final = {i for layer in self.final(query) for i in layer.activations}
        return self.cap is None and all(i in final and is_polyline(query, i) for i in query.graph.activations)

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        from solvers import backend as find_backend
        from solvers.inline import Adaptive
        from verifier.encoding.final_layers import ExactPlan, Work

        known = intermediate(query, bounds, budget)
        plan = ExactPlan(self.final(query), self.cap, self.before)
        slack = solver_slack(query, known, find_backend(self.backend).tolerance)
        work = Work(
            plan,
            query.on(CPU, torch.float64),
            known.to(torch.float64).on(CPU),
            budget,
            cutoffs(query, known) + slack,
            slack,
        )
        with Adaptive(self.workers, self.backend) as executor:
            work.run(executor)
        like = query.open.device
        return StageReport(
            work.lower.to(like, query.graph.dtype), known, work.point.to(like), Trust.SOLVER,
            SolverEvidence(self.backend, {"layers": str(self.layers), "cap": str(self.cap), "before": self.before}),
            seconds=work.spent, exhausted=work.exhausted,
        )  # fmt: skip


@dataclass(frozen=True)
class ExactRows:
    """Minima of the rows of a specification."""

    value: Tensor  # [B, S] float64: within the solver's tolerance; NaN where it is not known
    status: tuple[tuple[SolveStatus | None, ...], ...]  #: how each solve ended; None where nothing was asked


def exact_rows(
    query: Query, bounds: Bounds, seconds: float | None = None, backend: str = "highs", workers: int | None = None
) -> ExactRows:
    """The exact minimum of every open row, where the complete integer program is solved to the end.

    Args:
        bounds: of every pre-activation. seconds: for each row.
        backend, workers: as of `MilpStage`.
    """
    from solvers.inline import Adaptive
    from verifier.encoding.final_layers import ExactPlan, Work

    stage = MilpStage(backend=backend, workers=workers)
    if not stage.supports(query) or not stage.complete(query):
        return ExactRows(
            torch.full(query.open.shape, torch.nan, dtype=torch.float64),
            tuple((None,) * query.open.shape[1] for _ in range(query.batch)),
        )
    plan = ExactPlan(stage.final(query), None, "relaxation", row_seconds=seconds)
    work = Work(plan, query.on(CPU, torch.float64), bounds.to(torch.float64).on(CPU), Budget(), None)
    with Adaptive(workers, backend) as executor:
        work.run(executor)
    return ExactRows(work.exact, tuple(tuple(row) for row in work.status))


def is_polyline(query: Query, node: int) -> bool:
    """Whether an activation has an exact encoding."""
    op = query.graph.nodes[node].op
    assert isinstance(op, Activation)
    end = torch.ones(1, 1, dtype=torch.float64)
    return op.pieces(-end, end).exact


def cutoffs(query: Query, bounds: Bounds) -> Tensor:
    """What to ask below, per row [B, S]: a bound there must be clear of its own rounding error."""
    error = margin_error(query, interval.propagate(query, bounds)).double().cpu()
    return (4 * error.nan_to_num(nan=torch.inf)).clamp(min=CUTOFF)


def solver_slack(query: Query, bounds: Bounds, tolerance: float) -> Tensor:
    """What a solver's word about each row [B, S] may be wrong by, because it holds programs only to its tolerance.

    On a badly scaled network that is more than any margin, and nothing is proved.
    """
    slack = tolerance_error(query, interval.propagate(query, bounds), tolerance)
    return slack.double().cpu().nan_to_num(nan=torch.inf)


register(partial(MilpStage, 1, 30))
register(partial(MilpStage, 2, 100))
register(MilpStage)
