"""The rows of a specification by integer programs: what they are asked below, and their minima where all is exact."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from solvers import SolveStatus
from solvers.inline import Adaptive
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.encoding.exact_programs import ExactPlan
from verifier.encoding.final_layers import Work
from verifier.graph.cuts import layers
from verifier.graph.polylines import all_polylines
from verifier.query import Query
from verifier.relaxation import interval
from verifier.rounding import margin_error, tolerance_error

#: rows are asked about below this value: far above a solver's tolerances, far below margins that matter
CUTOFF = 1e-3

_CPU = torch.device("cpu")


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
        backend, workers: as of `verifier.stages.milp.MilpStage`.
    """
    final = layers(query.graph)
    if not final or not all_polylines(query.graph, final):
        return ExactRows(
            torch.full(query.open.shape, torch.nan, dtype=torch.float64),
            tuple((None,) * query.open.shape[1] for _ in range(query.batch)),
        )
    plan = ExactPlan(final, None, "relaxation", row_seconds=seconds)
    work = Work(plan, query.on(_CPU, torch.float64), bounds.to(torch.float64).on(_CPU), Budget(), None)
    with Adaptive(workers, backend) as executor:
        work.run(executor)
    return ExactRows(work.exact, tuple(tuple(row) for row in work.status))


def cutoffs(query: Query, bounds: Bounds) -> Tensor:
    """What to ask below, per row [B, S]: a bound there must be clear of its own rounding error."""
    error = margin_error(query, interval.propagate(query, bounds)).double().cpu()
    return (4 * error).clamp(min=CUTOFF)


def solver_error(query: Query, bounds: Bounds, tolerance: float, widened: Collection[int] = ()) -> Tensor:
    """What a solver's word about each row [B, S] may be wrong by, because it holds programs only to its tolerance.

    On a badly scaled network that is more than any margin, and nothing is proved. `widened`: as of `tolerance_error`.
    """
    error = tolerance_error(query, interval.propagate(query, bounds), tolerance, widened)
    return error.double().cpu().nan_to_num(nan=torch.inf)
