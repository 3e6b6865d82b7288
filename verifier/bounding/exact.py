"""The exact range of outputs: from outside by proofs, from inside by points that are there, until the two meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from properties import InputSet, Threat, Union
from verifier.arithmetic import precise_arithmetic
from verifier.attacks.pgd import PGD, descend
from verifier.attacks.problem import AttackProblem
from verifier.bound_map import Bounds
from verifier.bounding.asked import query_about, rows_on_outputs
from verifier.bounding.run import graph_of, set_of
from verifier.budget import Budget, seconds_of
from verifier.cascade import reported
from verifier.errors import InputError, UnsupportedError
from verifier.ops.base import SlopeRule
from verifier.query import Query
from verifier.relaxation import interval
from verifier.rounding import margin_error, row_error_at, unit_roundoff
from verifier.stages import Stage
from verifier.stages.branch import MOST, BranchStage
from verifier.stages.branch_input import BranchInputStage
from verifier.stages.dual import DualStage
from verifier.stages.milp import MilpStage
from verifier.verdict import Trust

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from verifier.graph import Graph
    from verifier.graph.runner import ImportedModel

#: questions about one end that are asked close to the best point seen; later ones halve what is open
_CLOSE = 3
#: of the descent from a point that a proof has shown
_STEPS, _STEP = 60, 0.2
#: how far from the best point the search asks first, as a share of the tolerance
_BESIDE = 0.5


@dataclass(frozen=True)
class ExactRange:
    """What B examples' S rows can be: lower <= minimum <= attained_lower, attained_upper <= maximum <= upper.

    The attained values are the network's at `lowest` and `highest`, members of the sets, as float64 computes them.
    """

    lower: Tensor  # [B, S] float64: proved
    upper: Tensor  # [B, S] float64: proved
    attained_lower: Tensor  # [B, S] float64
    attained_upper: Tensor  # [B, S] float64
    lowest: Tensor  # [B, S, *input] float64: where the smallest values were seen
    highest: Tensor  # [B, S, *input] float64
    trust: tuple[Trust, ...]  #: per example, of what is proved
    #: the budget ended the search with some gap above the tolerance; without that a gap is what the method is left with
    exhausted: bool

    @property
    def gap(self) -> Tensor:  # [B, S]
        """How far the two ranges are apart at most: at one end or the other."""
        return torch.maximum(self.attained_lower - self.lower, self.upper - self.attained_upper)

    def __repr__(self) -> str:
        examples, rows = self.lower.shape
        least, worst = min(self.trust, default=Trust.CHECKED).name, float(self.gap.max())
        spent = ", budget spent" * self.exhausted
        return f"ExactRange({examples} examples, {rows} rows: largest gap {worst:.3g}, trust {least}{spent})"


def exact_range(
    model: nn.Module | ExportedProgram | ImportedModel | Graph,
    x: Tensor | Sequence[Tensor],
    eps: float | Sequence[float] | None = None,
    *,
    C: Tensor | None = None,
    method: str = "branch",
    tolerance: float = 1e-4,
    budget: float | str | None = 60.0,
    threat: str | Threat = "linf",
    clip: tuple[float, float] | None = None,
    input_set: InputSet | Sequence[InputSet] | None = None,
    device: torch.device | str | None = None,
    output: int | str | None = None,
) -> ExactRange:
    """The smallest and the largest value of every output over a set around each input, and how exactly it is known.

    Anytime: when the budget ends, what is proved and what is attained are both there, and the gap says how far they
    are apart. Rows are worked on one after another, each with its share of what is left of the budget.

    Args:
        model, x, eps, threat, clip, input_set, output: as of `bounds`.
        C: rows on the outputs, [S, outputs] or [B, S, outputs]; default the outputs themselves.
        method: "branch", branch and bound on neurons (our arithmetic, trust FLOAT); "branch-input", on the input's box,
            where few inputs vary (FLOAT); "milp", the complete integer program (SOLVER).
        tolerance: a row is done when its gap is at most so much, relative to 1 + its size.
        budget: seconds for all of it; None: no limit.
        device: of the network; default the model's. Everything is computed in float64.

    Raises:
        InputError: unusable arguments. ModelError, UnsupportedError: as `bounds`.
    """
    if not tolerance > 0:
        raise InputError(f"tolerance must be a number > 0, got {tolerance}")
    chosen, clock = _searching(method), Budget(seconds_of(budget, "budget"))
    model, whole, sets = set_of(model, x, eps, threat, clip, input_set, output)
    if isinstance(sets, Union):
        raise InputError("ask about each member of a union, and take the least and the greatest")
    graph = graph_of(model, whole, chosen, device, torch.float64, live=False)
    rows = rows_on_outputs(graph, C, sets.batch)
    query = query_about(graph, sets.to(rows.device), torch.cat([rows, -rows], 1))
    with precise_arithmetic(), torch.no_grad():
        return _Search(query, chosen, tolerance, clock).run()


def _searching(method: str) -> Stage:
    kinds: dict[str, Stage] = {
        "branch": BranchStage(most=MOST, share=1.0, smooth=True),
        "branch-input": BranchInputStage(),
        "milp": MilpStage().bounding(),
    }
    if method not in kinds:
        raise InputError(f"method must be one of {', '.join(kinds)}, got {method!r}")
    return kinds[method]


@dataclass
class _End:
    """The minimum of one row of one example, as far as it is known."""

    lower: float  #: proved
    value: float  #: attained at `point`, its rounding paid for
    point: Tensor  # [1, *input]
    cut_short: bool = False  #: time ended the latest question, or there was none to ask one

    @property
    def gap(self) -> float:
        return self.value - self.lower

    def done(self, tolerance: float) -> bool:
        return self.gap <= tolerance * (1 + abs(self.value))


class _Search:
    """The minima of all rows of a query, one example and row after another.

    Args:
        query: rows [B, 2 S, outputs]: those asked about, then their negatives.
    """

    def __init__(self, query: Query, stage: Stage, tolerance: float, budget: Budget) -> None:
        self.query, self.stage, self.tolerance, self.budget = query, stage, tolerance, budget
        first = reported(DualStage(SlopeRule.ADAPTIVE), query, Bounds(), budget)
        self.bounds = [first.bounds.select(torch.tensor([b])) for b in range(query.batch)]
        self.lower = torch.full(query.open.shape, -torch.inf, dtype=torch.float64, device=query.open.device)
        self.trust = [Trust.CHECKED] * query.batch
        if first.lower is None:  # there was no time, or no room
            return
        self.trust = [min(first.trust, t) for t in first.bounds.trusts(query.batch)]
        self.lower = first.lower.clone()
        for b in range(query.batch):
            if self.trust[b] is not Trust.CHECKED:
                self.lower[b] -= self._error(query.select(torch.tensor([b])), self.bounds[b])[0]

    def run(self) -> ExactRange:
        batch, rows = self.query.open.shape
        ends = [[self._end(b, r, batch * rows - b * rows - r) for r in range(rows)] for b in range(batch)]
        lower, value = (
            torch.tensor([[getattr(e, name) for e in row] for row in ends], dtype=torch.float64)
            for name in ("lower", "value")
        )
        points = torch.stack([torch.cat([e.point for e in row]) for row in ends])
        proved, seen = lower.chunk(2, 1), value.chunk(2, 1)
        lowest, highest = points.chunk(2, 1)
        late = any(e.cut_short and not e.done(self.tolerance) for row in ends for e in row)
        return ExactRange(proved[0], -proved[1], seen[0], -seen[1], lowest, highest, tuple(self.trust), late)

    def _end(self, b: int, r: int, left: int) -> _End:
        """The minimum of one row, with its share of the time that is left for so many."""
        example = self.query.select(torch.tensor([b]))
        rows = example.spec.rows[:, r : r + 1]
        one = query_about(self.query.graph, example.inputs, rows)
        own = Budget(None if self.budget.left == math.inf else max(0.0, self.budget.left / left))
        start = PGD(stop=-math.inf).run(AttackProblem.of(one), torch.Generator().manual_seed(0), own).points
        end = _End(float(self.lower[b, r]), math.inf, start)
        self._look(one, one.inputs.center().double(), end)
        self._look(one, start, end)
        asked = 0
        while not end.done(self.tolerance) and not own.spent:
            beside = _BESIDE * self.tolerance * (1 + abs(end.value))
            target = end.value - beside if asked < _CLOSE or end.lower == -math.inf else (end.lower + end.value) / 2
            gap, asked = end.gap, asked + 1
            self._ask(b, one, target, end, own)
            if end.gap == gap:  # neither a proof nor a lower point: another question would be the same
                break
        end.cut_short |= own.spent
        return end

    def _ask(self, b: int, one: Query, target: float, end: _End, budget: Budget) -> None:
        """Ask the stage for a proof that the row is above the target, and look where it shows a point."""
        asked = replace(one, spec=replace(one.spec, offset=torch.full_like(one.spec.offset, -target)))
        if not self.stage.supports(asked):
            raise UnsupportedError(
                f"{self.stage.name} cannot be asked about this network over this set; another method may "
                f"({self.stage.name}: {self.stage.summary()})"
            )
        report = reported(self.stage, asked, self.bounds[b], Budget(None if budget.left == math.inf else budget.left))
        self.bounds[b], end.cut_short = self.bounds[b].intersect(report.bounds), report.exhausted
        if report.lower is not None:
            trust = min(report.trust, *report.bounds.trusts(1))
            proved = float(report.lower[0, 0])
            if trust is Trust.FLOAT:
                proved -= float(self._error(asked, self.bounds[b])[0, 0])
            if proved + target > end.lower:
                # the sum rounds once
                end.lower = math.nextafter(proved + target, -math.inf)
                self.trust[b] = min(self.trust[b], trust)
        if report.candidates is not None:
            self._look(one, report.candidates.double(), end)
            self._look(one, descend(one, report.candidates.double(), _STEPS, _STEP, budget=budget)[0], end)

    @staticmethod
    def _look(one: Query, x: Tensor, end: _End) -> None:  # [1, *input]
        """Keep a member near x where the row is lower than seen so far."""
        x = one.inputs.inside(x, torch.float64)
        if not bool(one.inputs.contains(x)[0]):
            return
        value = one.spec.values(one.graph.forward(x).flatten(1))
        value = value + row_error_at(one.graph, one.spec, x, unit_roundoff(torch.float64))
        if float(value[0, 0]) < end.value:
            end.value, end.point = float(value[0, 0]), x

    @staticmethod
    def _error(query: Query, bounds: Bounds) -> Tensor:  # [B, S]
        return margin_error(query, interval.propagate(query, bounds)).double()
