"""Escalation: each stage works on the examples that the stages before it left undecided."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from properties import InputSet
from verifier.bounds import Bounds
from verifier.certificate import Certificate, StageRun
from verifier.certificate.rigour import Rigour, Standing
from verifier.errors import InternalError
from verifier.graph import Graph
from verifier.policy import Ladder
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.roundoff import PAID, counted
from verifier.rounding import evaluation_error, margin_error, row_error, sizes_at, unit_roundoff
from verifier.stages import Budget, Stage, StageReport
from verifier.verdict import Reason, Semantics, StageCost, Trust, Verdict

#: the network as the user gave it: float64 [B, *input] -> float64 [B, outputs]
Replay = Callable[[Tensor], Tensor]


@dataclass
class Outcome:
    """What a cascade found for B examples; `Verifier` turns it into a Result."""

    verdict: list[Verdict]
    decided_by: list[str | None]
    reason: list[Reason | None]
    trust: list[Trust | None]
    certificate: list[Certificate | None]
    counterexample: list[Tensor | None]
    lower: Tensor  # [B, S] float64: best lower bound of every row
    attack: Tensor  # [B] float64: the smallest worst-clause value that an attack reached in a replay
    seconds: Tensor  # [B] float64
    above: Tensor  # [B, S] float64: best lower bound less the rounding error it has not paid; what is > 0 is proved
    error: Tensor  # [B, S] float64: estimated rounding error of the latest lower bounds; 0 where nobody needs it
    row_trust: Tensor  # [B, S] float64: trust of the bound behind `above`
    row_run: Tensor  # [B, S] int64: index into `runs` of the run that proved the row; -1 where none did
    clause_trust: Tensor  # [B, C] float64: trust of the proof of a clause as a whole
    clause_run: Tensor  # [B, C] int64: index into `runs` of the run that proved it; -1 where none did
    runs: list[StageRun] = field(default_factory=list)
    examples: list[Tensor] = field(default_factory=list)  # per run: [k] int64, the examples in its batch
    costs: list[StageCost] = field(default_factory=list)

    @classmethod
    def unknown(cls, query: Query) -> Outcome:
        b, none = query.batch, [None] * query.batch
        lower = torch.full(query.open.shape, -torch.inf, dtype=torch.float64)
        infinite, zero = torch.full((b,), torch.inf, dtype=torch.float64), torch.zeros(b, dtype=torch.float64)
        return cls(
            [Verdict.UNKNOWN] * b, list(none), [Reason.UNSUPPORTED] * b, list(none), list(none), list(none),
            lower, infinite, zero, lower.clone(), torch.zeros_like(lower), torch.zeros_like(lower),
            torch.full(lower.shape, -1), torch.zeros(b, query.spec.clauses, dtype=torch.float64),
            torch.full((b, query.spec.clauses), -1),
        )  # fmt: skip

    def certify(self, example: int, trust: Trust) -> Certificate:
        """The evidence that the runs so far have for one example."""
        index = [int(torch.searchsorted(e, example)) for e in self.examples]
        source, clauses = self.row_run[example], self.clause_run[example]
        return Certificate.of(self.runs, index, source, clauses, self.lower[example].clone(), trust)

    def reopen(self, example: int) -> None:
        """Forget what was proved of an example without error bounds: it did not hold with them."""
        loose = self.row_trust[example] < Trust.CHECKED
        self.above[example, loose], self.row_run[example, loose] = -torch.inf, -1
        self.clause_run[example, self.clause_trust[example] < Trust.CHECKED] = -1
        self.reason[example] = Reason.NUMERICAL

    def open(self) -> Tensor:
        """Indices of the undecided examples."""
        return torch.tensor([i for i, v in enumerate(self.verdict) if v is Verdict.UNKNOWN], dtype=torch.int64)


class Cascade:
    """Runs stages in order over what is still open.

    A rigorous bound decides when it is above zero: it has paid for its rounding errors (verifier.relaxation.roundoff).
    Another one decides when it is above the error that evaluating the margin may have in the precision it was computed
    in (verifier.rounding). A float32 bound within that error of zero is computed again in float64.

    Args:
        ladder: says which stages to run, in which order; it learns from the run.
        replay: the original model, evaluated in `precision` (float64 unless the model insists on its own).
        dtype: that counterexamples are returned in.
        original: the graph with the model's own weights: a query's may have been rounded to another precision.
        rigour: examines proofs that are not rigorous by themselves; what fails is open again.
    """

    def __init__(
        self,
        ladder: Ladder,
        replay: Replay,
        dtype: torch.dtype,
        precision: torch.dtype = torch.float64,
        *,
        original: Graph,
        rigour: Rigour | None = None,
    ) -> None:
        self.ladder, self.replay, self.dtype, self.precision = ladder, replay, dtype, precision
        self.rigour = rigour
        self.original, self.model = original, original.digest()

    def run(self, query: Query, budget: Budget) -> Outcome:
        outcome = Outcome.unknown(query)
        precise = replace(query, graph=self.original.to(query.open.device, torch.float64))
        graphs = {query.graph.dtype: query.graph, torch.float64: precise.graph}
        known = {dtype: Bounds() for dtype in graphs}  # a bound counts in the precision that it was computed in
        alive = outcome.open()
        for stage in self.ladder.order():
            if budget.spent:
                break
            alive, known = self._affordable(outcome, known, alive, budget)
            if len(alive) == 0:
                break
            dtype = stage.precision or query.graph.dtype
            part = replace(query, graph=graphs[dtype]).select(alive.to(query.open.device))
            if query.semantics not in stage.semantics or not stage.supports(part):
                continue
            began = time.perf_counter()
            report = stage.run(part, known[dtype], budget.less(outcome.seconds[alive].tolist()))
            known[dtype] = known[dtype].intersect(report.bounds)
            self._take_bounds(outcome, stage, part, report, known[dtype], alive, budget)
            if dtype is torch.float64:
                self._note_close(outcome, part, report, alive)
            elif report.lower is not None:
                confirmed = self._confirm(outcome, stage, precise, alive, budget)
                known[torch.float64] = known[torch.float64].intersect(confirmed)
            self._take_candidates(outcome, stage, precise, report, alive)
            spent = time.perf_counter() - began
            left = alive[torch.isin(alive, outcome.open())]
            outcome.costs.append(StageCost(stage.name, len(alive) - len(left), len(alive), spent))
            outcome.seconds[alive] += _shares(report, len(alive), spent)
            for i in left.tolist():
                if outcome.reason[i] is not Reason.NUMERICAL:
                    outcome.reason[i] = Reason.BUDGET if report.exhausted else Reason.BOUNDS
            known, alive = _kept(known, torch.isin(alive, left).to(query.open.device)), left
            query = replace(query, open=self._open_rows(query, outcome))
        if budget.spent:
            for i in outcome.open().tolist():
                outcome.reason[i] = Reason.BUDGET
        self.ladder.record(outcome.costs)
        return outcome

    @staticmethod
    def _affordable(
        outcome: Outcome, known: dict[torch.dtype, Bounds], alive: Tensor, budget: Budget
    ) -> tuple[Tensor, dict[torch.dtype, Bounds]]:
        """Examples that have seconds of their own left, with their bounds; the others are UNKNOWN for their budget."""
        spent = outcome.seconds[alive] >= budget.per_example
        if not spent.any():
            return alive, known
        for i in alive[spent].tolist():
            outcome.reason[i] = Reason.BUDGET
        return alive[~spent], _kept(known, ~spent)

    @staticmethod
    def _tolerance(part: Query, bounds: Bounds, more: int = 0) -> Tensor:
        """Rounding error [B, S] of the margins anywhere in the input sets, in the query's precision."""
        return margin_error(part, interval.propagate(part, bounds), more).double().cpu()

    @staticmethod
    def _open_rows(query: Query, outcome: Outcome) -> Tensor:
        """Rows of clauses that no row has proved yet: [B, S]."""
        proved = torch.where(outcome.above > 0, 1.0, -1.0)
        clauses = query.spec.per_clause(proved.to(query.open.device))
        whole = (outcome.clause_run >= 0).to(query.open.device)
        return ((clauses < 0) & ~whole)[:, query.spec.clause]

    def _take_bounds(
        self, outcome: Outcome, stage: Stage, part: Query, report: StageReport, bounds: Bounds, alive: Tensor,
        budget: Budget,
    ) -> None:  # fmt: skip
        """Keep better lower bounds, and decide the examples whose every clause is proved."""
        if report.lower is None:
            return
        if report.lower.shape != part.open.shape:
            wrong, right = list(report.lower.shape), list(part.open.shape)
            raise InternalError(f"stage {stage.name!r} reported lower bounds of shape {wrong} for rows {right}")
        lower = report.lower.detach().double().cpu().nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
        # rows that an example has proved already may be bounded again for a neighbour's sake: not of its result
        lower = lower.masked_fill(~part.open.cpu(), -torch.inf)
        outcome.lower[alive] = torch.maximum(outcome.lower[alive], lower)
        rests_on = zip(bounds.trusts(len(alive)), report.bounds.trusts(len(alive)), strict=True)
        trusts = torch.tensor([float(min(report.trust, *pair)) for pair in rests_on], dtype=lower.dtype)
        paid = trusts == Trust.CHECKED
        outcome.error[alive] = error = self._errors(part, report, lower, paid)
        # each bound against the rounding error of its own precision, with the bounds that it rests on; what is proved
        # stays as it was proved
        above, before = lower - torch.where(paid.unsqueeze(1), 0.0, error), outcome.above[alive]
        better = (above > before) & (before <= 0)  # not where the error is NaN
        outcome.above[alive] = above = torch.where(better, above, before)
        outcome.row_trust[alive] = torch.where(better, trusts.unsqueeze(1), outcome.row_trust[alive])
        outcome.row_run[alive] = torch.where(better & (above > 0), len(outcome.runs), outcome.row_run[alive])
        self._take_clauses(outcome, part, report, trusts, alive)
        outcome.runs.append(
            StageRun(
                stage.name, report.evidence, part, report.bounds, self.original, self.model,
                report.multipliers, report.trees, report.witness, report.boxes, report.lines,
            )
        )  # fmt: skip
        outcome.examples.append(alive)
        spec = part.spec.to(torch.device("cpu"))
        # of each clause's best-trusted row, or of its proof as a whole; -1 where there is neither
        trusted = spec.per_clause(torch.where(above > 0, outcome.row_trust[alive], -1.0))
        whole = torch.where(outcome.clause_run[alive] >= 0, outcome.clause_trust[alive], -1.0)
        least = torch.maximum(trusted, whole).amin(1)
        for k in (least >= 0).nonzero().squeeze(1).tolist():
            i = int(alive[k])
            if outcome.verdict[i] is not Verdict.UNKNOWN:
                continue
            certificate = outcome.certify(i, Trust(int(least[k])))
            if certificate.trust is not Trust.CHECKED and self.rigour is not None:
                seconds = min(budget.left, budget.per_example - float(outcome.seconds[i]))
                standing, certificate = self.rigour.examine(certificate, seconds)
                if standing is Standing.FAILS:
                    outcome.reopen(i)
                    continue
            outcome.verdict[i], outcome.decided_by[i] = Verdict.VERIFIED, stage.name
            outcome.reason[i], outcome.trust[i] = None, certificate.trust
            outcome.certificate[i] = certificate

    def _errors(self, part: Query, report: StageReport, lower: Tensor, paid: Tensor) -> Tensor:
        """Estimated rounding errors [B, S] of bounds; 0 for the examples that are proved without them.

        For bounds that have paid, about what they paid: they may be that much too low.
        """
        asked = ~paid | ~(part.spec.to(torch.device("cpu")).worst(lower) > 0)
        errors = torch.zeros_like(lower)
        for some, more in ((asked & ~paid, 0), (asked & paid, PAID * counted(part.graph))):
            if some.any():
                index = some.to(part.open.device)
                errors[some] = self._tolerance(part.select(index), report.bounds.select(index), more)
        return errors

    @staticmethod
    def _take_clauses(outcome: Outcome, part: Query, report: StageReport, trusts: Tensor, alive: Tensor) -> None:
        """Keep the proofs of clauses as a whole: bounds of their largest rows, above the rounding error of any row."""
        if report.clauses is None:
            return
        if report.clauses.shape != (len(alive), part.spec.clauses):
            wrong, right = list(report.clauses.shape), [len(alive), part.spec.clauses]
            raise InternalError(f"a stage reported lower bounds of shape {wrong} for clauses {right}")
        spec = part.spec.to(torch.device("cpu"))
        error = spec.per_clause(outcome.error[alive])
        error = torch.where(spec.per_clause(outcome.error[alive].isnan().double()) > 0, torch.nan, error)
        value = report.clauses.detach().double().cpu()
        proved = value.isfinite() & (value > error) & (outcome.clause_run[alive] < 0)
        outcome.clause_run[alive] = torch.where(proved, len(outcome.runs), outcome.clause_run[alive])
        outcome.clause_trust[alive] = torch.where(proved, trusts.unsqueeze(1), outcome.clause_trust[alive])

    def _confirm(self, outcome: Outcome, stage: Stage, precise: Query, alive: Tensor, budget: Budget) -> Bounds:
        """Compute close calls again in float64: open examples with no clause clearly below zero.

        Returns:
            The bounds of the examples `alive` that this found; none where it is not about all of them.
        """
        left = torch.tensor([i for i in alive.tolist() if outcome.verdict[i] is Verdict.UNKNOWN], dtype=torch.int64)
        spec = precise.spec.to(torch.device("cpu"))
        close = spec.select(left).worst(outcome.lower[left] + outcome.error[left]) > 0
        left = left[close]
        if len(left) == 0:
            return Bounds()
        part = precise.select(left.to(precise.open.device))
        report = stage.run(part, Bounds(), budget.less(outcome.seconds[left].tolist()))
        self._take_bounds(outcome, stage, part, report, report.bounds, left, budget)
        self._note_close(outcome, part, report, left)
        return report.bounds if len(left) == len(alive) else Bounds()

    @staticmethod
    def _note_close(outcome: Outcome, part: Query, report: StageReport, alive: Tensor) -> None:
        """Say of the examples that not even float64 can tell that they are too close."""
        if report.lower is None:
            return
        lower = report.lower.detach().double().cpu() + outcome.error[alive]
        for i in alive[part.spec.to(torch.device("cpu")).worst(lower) > 0].tolist():
            if outcome.verdict[i] is Verdict.UNKNOWN:
                outcome.reason[i] = Reason.NUMERICAL

    def _take_candidates(
        self, outcome: Outcome, stage: Stage, precise: Query, report: StageReport, alive: Tensor
    ) -> None:
        """Replay candidates in the original model; those that hold beyond rounding decide their examples."""
        if report.candidates is None:
            return
        part = precise.select(alive.to(precise.open.device))
        if report.candidates.shape != (len(alive), *part.inputs.shape):
            wrong, right = list(report.candidates.shape), [len(alive), *part.inputs.shape]
            raise InternalError(f"stage {stage.name!r} reported candidates of shape {wrong}, not {right}")
        point, member = _members(part.inputs, report.candidates, self.dtype)
        value, error = self._replayed(part, point)
        worst = torch.where(member, value, torch.inf)
        outcome.attack[alive] = torch.minimum(outcome.attack[alive], worst)
        for k, i in enumerate(alive.tolist()):
            if outcome.verdict[i] is Verdict.VERIFIED and member[k] and value[k] < -error[k]:
                self._contradicted(outcome, i, stage, float(value[k]))
            if outcome.verdict[i] is not Verdict.UNKNOWN or not member[k]:
                continue
            if value[k] < -error[k]:
                outcome.verdict[i], outcome.decided_by[i], outcome.reason[i] = Verdict.FALSIFIED, stage.name, None
                outcome.counterexample[i] = point[k].cpu()
            elif value[k] <= error[k]:
                outcome.reason[i] = Reason.NUMERICAL

    @staticmethod
    def _contradicted(outcome: Outcome, i: int, stage: Stage, value: float) -> None:
        """Raises where a counterexample contradicts a proof that claims more than a probability."""
        trust, by = outcome.trust[i], outcome.decided_by[i]
        if trust is not None and trust > Trust.PROBABILISTIC:
            raise InternalError(
                f"stage {stage.name!r} replayed a counterexample (value {value:.3g}) of what {by!r} proved: one of the "
                "two is wrong; please report this with the model and the input"
            )

    def _replayed(self, part: Query, point: Tensor) -> tuple[Tensor, Tensor]:
        return replayed(part, point, self.replay, self.precision)


def replayed(query: Query, point: Tensor, replay: Replay, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Worst clause value of the original model at one point per example, and the rounding error of it.

    In float32 semantics the outputs are the network's own, with no error; those of the rows themselves are left.

    Args:
        query: on the float64 graph. point: [B, *input], on the query's device.
        replay: the original model, evaluated in `precision`.

    Returns:
        Both [B], on the CPU.
    """
    x = point.double()
    y = replay(x).to(x.device)
    rows = query.spec.values(y)
    if query.semantics is Semantics.FLOAT32:
        error = row_error(query.spec, y, torch.zeros_like(y), unit_roundoff(torch.float64)).amax(1)
        return query.spec.worst(rows).cpu(), error.cpu()
    sizes, unit = sizes_at(query.graph, x), unit_roundoff(precision)
    error = row_error(query.spec, sizes[-1], evaluation_error(query.graph, sizes, unit), unit).amax(1)
    return query.spec.worst(rows).cpu(), error.cpu()


def _kept(known: dict[torch.dtype, Bounds], kept: Tensor) -> dict[torch.dtype, Bounds]:
    """The bounds of the examples where `kept` [B] is True."""
    return {dtype: bounds.select(kept) for dtype, bounds in known.items()}


def _shares(report: StageReport, batch: int, spent: float) -> Tensor:
    """Seconds [B] of a stage's time that each example answers for."""
    if report.seconds is None:
        return torch.full((batch,), spent / batch, dtype=torch.float64)
    return torch.tensor(report.seconds, dtype=torch.float64)


def _members(inputs: InputSet, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in `dtype`, moved into its set by roundings where that suffices, and whether it is a member: [B] bool."""
    point = inputs.inside(x.detach(), dtype)
    return point, inputs.contains(point).cpu()
