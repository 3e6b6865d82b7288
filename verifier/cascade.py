"""Escalation: each stage works on the examples that the stages before it left undecided."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.budget import Budget, OutOfTime
from verifier.certificate.certificate import Certificate
from verifier.certificate.proof import StageRun
from verifier.certificate.rigour import Rigour, Standing
from verifier.device import ask_memory, out_of_memory
from verifier.errors import InternalError
from verifier.graph import Graph
from verifier.judge import Judge, Judgement
from verifier.outcome import BatchRun, Outcome, StageStep, StageWatch
from verifier.pace import Pace
from verifier.policy import Ladder
from verifier.query import Query
from verifier.recheck import proved_by_those, stages_again, standing, take_over
from verifier.relaxation import interval
from verifier.relaxation.domains import outside
from verifier.relaxation.parallel import ordered_map
from verifier.relaxation.plan import together
from verifier.relaxation.roundoff import PAID, counted
from verifier.result import ExampleResult
from verifier.rounding import margin_error
from verifier.stages.base import Stage, StageReport
from verifier.verdict import Reason, StageCost, Trust, Verdict, total_costs

_log = logging.getLogger(__name__)

_CPU = torch.device("cpu")

#: more than what products that underflow in float32 cost a bound
_UNDERFLOW = 1e-25


class Cascade:
    """Runs stages in order over what is still open.

    A rigorous bound decides when it is above zero: it has paid for its rounding errors (verifier.relaxation.roundoff).
    Another one decides when it is above the error that evaluating the margin may have in the precision it was computed
    in (verifier.rounding). A float32 bound within that error of zero is computed again in float64.

    Args:
        ladder: says which stages to run, in which order; it learns from the run.
        judge: replays candidates for counterexamples.
        original: the graph with the model's own weights: a query's may have been rounded to another precision.
        rigour: examines proofs that are not rigorous by themselves; what fails is open again.
        watch: is told of every stage.
        tell: is told of which examples [k] of the batch nothing more is done about; makes a stage work in parts that
            take a few seconds, where it has many examples.
    """

    def __init__(
        self,
        ladder: Ladder,
        judge: Judge,
        *,
        original: Graph,
        rigour: Rigour | None = None,
        watch: StageWatch | None = None,
        tell: Callable[[Tensor, Outcome], None] | None = None,
    ) -> None:
        self.tell = tell
        self.ladder, self.judge, self.rigour, self.watch = ladder, judge, rigour, watch
        self.original, self.model = original, original.digest()

    @cached_property
    def _home(self) -> Graph:
        """The original graph on the CPU."""
        return self.original.to(_CPU)

    def run(self, query: Query, budget: Budget) -> Outcome:
        """Reduce the question to what is open, run a stage on it, judge its candidates, keep what it proved."""
        left = _Open(query, self.original)
        order = self.ladder.order()
        for place, stage in enumerate(order):
            given = left.examples
            if budget.spent or self.judge.finished or not left.affordable(budget):
                break
            self._tell(given, left)
            if left.reduced(stage) is not None:
                self._climb(left, stage, order[place + 1 :], budget)
        if budget.spent:
            for i in left.outcome.open().tolist():
                left.outcome.examples[i].reason = Reason.BUDGET
        left.note_domains()
        self.ladder.record(left.outcome.costs)
        return left.outcome

    def _climb(self, left: _Open, stage: Stage, behind: Sequence[Stage], budget: Budget) -> None:
        """One stage on all that is open: at once or, where somebody waits for what is decided, part by part.

        Args:
            behind: the stages that come after it.
        """
        given, before = left.examples, len(left.outcome.costs)
        _log.debug("stage %s begins with %d examples", stage.name, len(given))
        if self.watch is not None:
            self.watch.begins(stage.name)
        pace = None if self.tell is None else Pace(self.ladder.price(stage), left.query.open.device)
        done, rest, reports = list[_Open](), left, list[StageReport]()
        while len(rest.examples) > 0 and not (done and (budget.spent or self.judge.finished)):
            part, rest = rest.cut(len(rest.examples) if pace is None else pace.size)
            some, began = part.examples, time.perf_counter()
            last = pace is not None and all(part.reduced(other) is None for other in behind)
            reports.append(self._work(part, stage, behind, budget))
            done.append(part)
            if pace is not None:
                pace.took(len(some), time.perf_counter() - began)
                if last:
                    part.give_up()
                self._tell(some, part)
        left.join([*done, rest])
        left.outcome.costs[before:] = total_costs(left.outcome.costs[before:])
        step = left.step(reports, given)
        _log.info("stage %s decided %d of %d in %.2f s", step.name, step.decided, step.attempted, step.seconds)
        if self.watch is not None:
            self.watch.ended(step)

    def _work(self, left: _Open, stage: Stage, behind: Sequence[Stage], budget: Budget) -> StageReport:
        """One stage on examples that are worked on together."""
        part, known, used = left.reduced(stage), left.bounds(stage), left.outcome.seconds(left.examples)
        if part is None:  # it has something to say about others of the batch alone
            left.outcome.costs.append(StageCost(stage.name, 0, 0, 0.0))
            return StageReport()
        began = time.perf_counter()
        own = budget.less(used, cache(partial(self.ladder.alone, part, known, behind)))
        report = reported(stage, part, known, own)
        spent = _seconds(part.batch, report, time.perf_counter() - began)
        self._keep(left, stage, part, report, own.further(spent))
        self._judge(left, stage, report, budget)
        left.close(stage, report, time.perf_counter() - began)
        return report

    def _tell(self, given: Tensor, left: _Open) -> None:  # [k] int64
        """Tell whoever waits which of these examples nothing more is done about."""
        settled = given[~torch.isin(given, left.examples)]
        if self.tell is not None and len(settled) > 0:
            self.tell(settled, left.outcome)

    def _keep(self, left: _Open, stage: Stage, part: Query, report: StageReport, budget: Budget) -> None:
        """Keep bounds and proofs; close calls of another precision are computed again in float64."""
        known = left.learn(stage, report.bounds)
        self._keep_rows(left.outcome, stage, part, report, known, left.examples, budget)
        if part.graph.dtype is torch.float64:
            _note_close(left.outcome, part, report, left.examples)
        elif report.lower is not None:
            left.learn_precisely(self._confirm(left, stage, budget))

    def _keep_rows(
        self, outcome: Outcome, stage: Stage, part: Query, report: StageReport, bounds: Bounds, alive: Tensor,
        budget: Budget,
    ) -> None:  # fmt: skip
        """Keep better lower bounds, and decide the examples whose every clause is proved.

        Args:
            alive: [k] int64, the places of the examples of `part` in the whole batch. budget: what they have left.
        """
        if report.lower is None:
            return
        lower, rows = _checked_rows(stage, part, report), outcome.rows
        rows.lower[alive] = torch.maximum(rows.lower[alive], lower)
        rests_on = zip(bounds.trusts(len(alive)), report.bounds.trusts(len(alive)), strict=True)
        trusts = torch.tensor([float(min(report.trust, *pair)) for pair in rests_on], dtype=lower.dtype)
        paid = trusts == Trust.CHECKED
        rows.error[alive] = error = _errors(part, report, lower, paid, budget)
        # each bound against the rounding error of its own precision, with the bounds that it rests on; what is proved
        # stays as it was proved
        above, before = lower - torch.where(paid.unsqueeze(1), 0.0, error), rows.above[alive]
        rows.sound[alive] = torch.maximum(rows.sound[alive], above)
        spec = part.spec.to(_CPU)
        better = (above > before) & ~(spec.judged(before) > 0)
        rows.above[alive] = torch.where(better, above, before)
        rows.trust[alive] = torch.where(better, trusts.unsqueeze(1), rows.trust[alive])
        rows.run[alive] = torch.where(better & (spec.judged(above) > 0), len(outcome.runs), rows.run[alive])
        _keep_clauses(outcome, part, report, trusts, alive)
        run = StageRun(
            stage.name, report.evidence, part, report.bounds, self.original, self.model, tuple(report.neurons)
        )
        outcome.runs.append(BatchRun(run, alive, stage))
        self._verify(outcome, stage, part, alive, budget)

    def _verify(self, outcome: Outcome, stage: Stage, part: Query, alive: Tensor, budget: Budget) -> None:
        """VERIFIED where every clause is proved, and what proves it holds.

        Args:
            alive: [k] int64, the places of the examples of `part` in the whole batch. budget: what they have left.
        """
        spec, rows, clauses = part.spec.to(_CPU), outcome.rows, outcome.clauses
        # of each clause's best-trusted row, or of its proof as a whole; -1 where there is neither
        trusted = spec.per_clause(torch.where(spec.judged(rows.above[alive]) > 0, rows.trust[alive], -1.0))
        whole = torch.where(clauses.run[alive] >= 0, clauses.trust[alive], -1.0)
        least = torch.maximum(trusted, whole).amin(1)
        proved = [(int(alive[k]), Trust(int(least[k]))) for k in (least >= 0).nonzero().squeeze(1).tolist()]
        new = [(i, trust) for i, trust in proved if outcome.examples[i].verdict is Verdict.UNKNOWN]

        close = [item for item in self._close(outcome, part, alive) if item[0] not in dict(new)]
        again = self._again(outcome, part, sorted(new + close), alive, budget)
        new += [(i, trust) for i, trust in close if i in again and again[i][0] is Standing.HOLDS]

        def examined(item: tuple[int, Trust]) -> tuple[Standing, Certificate | None]:
            example, trust = item
            if example in again:
                return again[example]
            certificate = outcome.certify(*item)
            if trust is Trust.CHECKED or self.rigour is None:
                return Standing.HOLDS, certificate
            return self.rigour.examine(certificate, budget.example(int(torch.searchsorted(alive, example))))

        # others are a look at tables
        loose = any(trust is not Trust.CHECKED and i not in again for i, trust in new)
        found = ordered_map(examined, new, _CPU) if loose else [examined(item) for item in new]
        for (i, _), (told, certificate) in zip(new, found, strict=True):
            if told is Standing.FAILS or certificate is None:
                outcome.reopen(i)
            else:
                outcome.examples[i].verified(stage.name, certificate)

    @staticmethod
    def _close(outcome: Outcome, part: Query, alive: Tensor) -> list[tuple[int, Trust]]:
        """Which open examples of `part`, bounded on a device, only their rounding errors may keep from being proved.

        In float64: where bounds are in float32, these are computed again first. Arguments as of `_verify`.
        """
        if part.open.device == _CPU or part.graph.dtype is not torch.float64:
            return []
        spec, whole = part.spec.to(_CPU), outcome.clauses.run[alive] >= 0
        rows = _highest(outcome.rows.lower[alive], outcome.rows.error[alive])
        near = (spec.per_clause(spec.judged(rows)) > 0) | whole
        return [(i, Trust.FLOAT) for i in alive[near.all(1)].tolist() if outcome.examples[i].verdict is Verdict.UNKNOWN]

    def _again(
        self, outcome: Outcome, part: Query, new: Sequence[tuple[int, Trust]], alive: Tensor, budget: Budget
    ) -> dict[int, tuple[Standing, Certificate | None]]:
        """What becomes of examples that a device proved, when the CPU bounds them as one batch (verifier.recheck).

        Args:
            new: the examples that seem to be proved, and how far that is to be trusted. Others as of `_verify`.

        Returns:
            By example what became of the proof, and the new one's certificate. Nothing of what that says nothing about.
        """
        stages = stages_again(outcome, part)
        chosen = [i for i, trust in new if stages and trust is not Trust.CHECKED and proved_by_those(outcome, i)]
        if not chosen:
            return {}
        examples = torch.tensor(chosen)
        at = torch.searchsorted(alive, examples)
        asked = part.select(at.to(part.open.device))
        graph = self._home.to(dtype=outcome.dtype)
        query = Query.of(graph, asked.inputs.to(_CPU), asked.spec.to(_CPU), part.semantics)
        again = self._bounded(query, stages, budget.of(at.tolist()))
        told = [standing(outcome, i, again, place) for place, i in enumerate(chosen)]
        take_over(outcome, again, examples, torch.tensor([one is Standing.HOLDS for one in told]))
        found = ((one, again.examples[place].certificate) for place, one in enumerate(told))
        return {i: one for i, one in zip(chosen, found, strict=True) if one[0] is not Standing.UNTOLD}

    def _bounded(self, query: Query, stages: Sequence[Stage], budget: Budget) -> Outcome:
        """What some stages prove, each given what the ones before it left open; nobody is told, and no point judged."""
        left = _Open(query, self._home)
        for stage in stages:
            if budget.spent or len(left.examples) == 0:
                break
            part, known = left.reduced(stage), left.bounds(stage)
            if part is None:
                continue
            own, began = budget.of(left.examples.tolist()), time.perf_counter()
            own = own.further(left.outcome.seconds(left.examples))
            report = reported(stage, part, known, own)
            self._keep(
                left, stage, part, report, own.further(_seconds(part.batch, report, time.perf_counter() - began))
            )
            left.close(stage, report, time.perf_counter() - began)
        if budget.spent:
            for i in left.outcome.open().tolist():
                left.outcome.examples[i].reason = Reason.BUDGET
        return left.outcome

    def _confirm(self, left: _Open, stage: Stage, budget: Budget) -> Bounds:
        """Compute close calls again in float64: open examples with no clause clearly below zero.

        Returns:
            The bounds of the examples at hand that this found; none where it is not about all of them.
        """
        outcome, precise = left.outcome, left.precise
        index = left.examples[[outcome.examples[i].verdict is Verdict.UNKNOWN for i in left.examples.tolist()]]
        spec = precise.spec.to(_CPU)
        close = _highest(outcome.rows.lower[index], outcome.rows.error[index])
        if spec.touching is not None:  # terms that are all 0 have paid for underflow alone, which no estimate sees
            close = close + _UNDERFLOW
        index = index[spec.select(index).worst(close) > 0]
        if len(index) == 0:
            return Bounds()
        part = precise.select(index.to(precise.open.device))
        own, began = budget.of(torch.searchsorted(left.examples, index).tolist()), time.perf_counter()
        report = reported(stage, part, Bounds(), own)
        own = own.further(_seconds(part.batch, report, time.perf_counter() - began))
        self._keep_rows(outcome, stage, part, report, report.bounds, index, own)
        _note_close(outcome, part, report, index)
        return report.bounds if len(index) == len(left.examples) else Bounds()

    def _judge(self, left: _Open, stage: Stage, report: StageReport, budget: Budget) -> None:
        """Have candidates replayed, as many as there is time for; those that hold beyond rounding decide."""
        if report.candidates is None:
            return
        part = left.precise.select(left.examples.to(left.precise.open.device))
        if report.candidates.shape != (len(left.examples), *part.inputs.shape):
            wrong, right = list(report.candidates.shape), [len(left.examples), *part.inputs.shape]
            raise InternalError(f"stage {stage.name!r} reported candidates of shape {wrong}, not {right}")
        for index in torch.arange(part.batch).split(together(part.graph, part.open.device)):
            here, examples = index.to(part.open.device), left.examples[index]
            found = self.judge.judge(part.select(here), report.candidates[here], examples, stage.name)
            self._judged(left.outcome, stage, found, examples)
            if budget.spent:
                break

    @staticmethod
    def _judged(outcome: Outcome, stage: Stage, found: Judgement, examples: Tensor) -> None:  # [k] int64
        """What a judge's word decides."""
        members, values, errors = found.member.tolist(), found.value.tolist(), found.error.tolist()
        for k, i in enumerate(examples.tolist()):
            example, value, error = outcome.examples[i], values[k], errors[k]
            if not members[k]:
                continue
            example.attack_margin = min(example.attack_margin, value)
            if example.verdict is Verdict.VERIFIED and value < -error:
                _contradicted(example, stage, value)
            if example.verdict is not Verdict.UNKNOWN:
                continue
            if value < -error:
                example.falsified(stage.name, found.point[k].cpu())
            elif value <= error:
                example.reason = Reason.NUMERICAL


class _Open:
    """What is left of a batch: the examples that are open, their open rows, and the bounds known of them."""

    def __init__(self, query: Query, original: Graph) -> None:
        self.query, self.outcome = query, Outcome.unknown(query)
        self.precise = replace(query, graph=original.to(query.open.device, torch.float64))
        self.examples = self.outcome.open()
        self._graphs = {query.graph.dtype: query.graph, torch.float64: self.precise.graph}
        #: a bound counts in the precision that it was computed in
        self._known = {dtype: Bounds() for dtype in self._graphs}

    def affordable(self, budget: Budget) -> bool:
        """Leaves out the examples that have no seconds of their own left; whether there are others."""
        spent = torch.tensor(self.outcome.seconds(self.examples), dtype=torch.float64) >= budget.per_example
        if spent.any():
            for i in self.examples[spent].tolist():
                self.outcome.examples[i].reason = Reason.BUDGET
            self.note_domains()
            self._select(~spent)
        return len(self.examples) > 0

    def note_domains(self) -> None:
        """Say of the open examples at hand where a function may be applied to what it has no value for."""
        if len(self.examples) == 0 or not self.outcome.runs:
            return
        part = self.precise.select(self.examples.to(self.precise.open.device))
        told = [outside(replace(part, graph=self._graphs[dtype]), bounds) for dtype, bounds in self._known.items()]
        for i, *found in zip(self.examples.tolist(), *told, strict=True):
            example = self.outcome.examples[i]
            if None in found:  # the bounds of one precision are within the domain
                continue
            example.outside = found[0]
            if example.reason is Reason.BOUNDS:
                example.reason = Reason.DOMAIN

    def give_up(self) -> None:
        """Nothing more is done about the examples at hand."""
        self.note_domains()
        self._select(torch.zeros(len(self.examples), dtype=torch.bool))

    def cut(self, size: int) -> tuple[_Open, _Open]:
        """The first so many of the examples at hand, and the others; both account to the same outcome."""
        chosen = torch.arange(len(self.examples)) < size
        first, others = self if bool(chosen.all()) else copy.copy(self), copy.copy(self)
        others._select(~chosen)
        if first is not self:
            first._select(chosen)
        return first, others

    def join(self, parts: Sequence[_Open]) -> None:
        """Go on with what is open in all parts that this was cut into."""
        self.examples = torch.cat([part.examples for part in parts])
        for dtype in self._known:
            known = [part._known[dtype] for part in parts if len(part.examples) > 0] or [Bounds()]
            of_all = [node for node in known[0] if all(node in one for one in known)]
            self._known[dtype] = Bounds.concatenate([Bounds({node: one[node] for node in of_all}) for one in known])
        self.query = replace(self.query, open=self.outcome.open_rows(self.query))

    def reduced(self, stage: Stage) -> Query | None:
        """The question that is left, in the stage's precision; None where the stage has nothing to say about it."""
        graph = self._graphs[self._precision(stage)]
        part = replace(self.query, graph=graph).select(self.examples.to(self.query.open.device))
        return part if part.semantics in stage.semantics and stage.supports(part) else None

    def bounds(self, stage: Stage) -> Bounds:
        """What is known in the stage's precision of the open examples."""
        return self._known[self._precision(stage)]

    def learn(self, stage: Stage, found: Bounds) -> Bounds:
        """Adds what a stage found to what is known in its precision."""
        dtype = self._precision(stage)
        self._known[dtype] = self._known[dtype].intersect(found)
        return self._known[dtype]

    def learn_precisely(self, found: Bounds) -> None:
        """Adds what was found in float64."""
        self._known[torch.float64] = self._known[torch.float64].intersect(found)

    def close(self, stage: Stage, report: StageReport, spent: float) -> None:
        """Account for a stage's time, and go on with the examples that it left open."""
        outcome, batch = self.outcome, len(self.examples)
        still = torch.isin(self.examples, outcome.open())
        outcome.costs.append(StageCost(stage.name, batch - int(still.sum()), batch, spent))
        for i, seconds in zip(self.examples.tolist(), _seconds(batch, report, spent), strict=True):
            outcome.examples[i].seconds += seconds
            outcome.examples[i].spend(stage.name, seconds)
        self._select(still)
        for i in self.examples.tolist():
            outcome.examples[i].reason = _reason(outcome.examples[i].reason, report)
        self.query = replace(self.query, open=outcome.open_rows(self.query))

    def step(self, reports: Sequence[StageReport], given: Tensor) -> StageStep:
        """How far the stage got that has just been closed.

        Args:
            reports: of its parts. given: [k] int64, the examples that it was given.
        """
        cost, open_ = self.outcome.costs[-1], self.examples
        worst = self.query.spec.to(_CPU).select(open_).worst(self.outcome.rows.lower[open_])
        closed = [report.closed.cpu() for report in reports if report.closed is not None]
        whole = closed and sum(map(len, closed)) == len(given)
        share = torch.cat(closed)[torch.isin(given, open_)] if whole else None
        return StageStep(
            cost.name, cost.decided, cost.attempted, cost.seconds,
            float(worst.min()) if len(worst) else torch.inf,
            float(share.mean()) if share is not None and len(share) else None,
        )  # fmt: skip

    def _precision(self, stage: Stage) -> torch.dtype:
        return stage.precision or self.query.graph.dtype

    def _select(self, kept: Tensor) -> None:  # [k] bool, of the examples at hand
        self.examples = self.examples[kept]
        on_device = kept.to(self.query.open.device)
        self._known = {dtype: bounds.select(on_device) for dtype, bounds in self._known.items()}


def reported(stage: Stage, part: Query, known: Bounds, budget: Budget) -> StageReport:
    """What a stage finds in its time and in the memory that there is; nothing where it needs more of either."""
    try:
        if part.open.device.type == "cpu":  # the two ends of every node's interval, at least
            sizes = sum(node.size for node in part.graph.nodes)
            ask_memory(2.0 * part.graph.dtype.itemsize * part.batch * sizes)
        with budget.together(range(part.batch)).enforced(finish=True):
            return stage.run(part, known, budget)
    except OutOfTime:
        return StageReport(exhausted=True)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    return StageReport(starved=True)  # outside the handler, whose traceback holds on to what was allocated


def _seconds(batch: int, report: StageReport, spent: float) -> Sequence[float]:
    """What each example took of a stage's seconds."""
    return [spent / batch] * batch if report.seconds is None else report.seconds


def _reason(before: Reason | None, report: StageReport) -> Reason | None:
    """Why an example is open after a stage; loose bounds are none where others found no room for tighter ones."""
    if before is Reason.NUMERICAL:
        return before
    if report.starved:
        return Reason.MEMORY
    if report.exhausted:
        return Reason.BUDGET
    return before if before is Reason.MEMORY else Reason.BOUNDS


def _checked_rows(stage: Stage, part: Query, report: StageReport) -> Tensor:
    """The reported lower bounds [B, S] in float64 on the CPU, what is no bound as -inf."""
    assert report.lower is not None
    if report.lower.shape != part.open.shape:
        wrong, right = list(report.lower.shape), list(part.open.shape)
        raise InternalError(f"stage {stage.name!r} reported lower bounds of shape {wrong} for rows {right}")
    lower = report.lower.detach().double().cpu().nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    # rows that an example has proved already may be bounded again for a neighbour's sake: not of its result
    return lower.masked_fill(~part.open.cpu(), -torch.inf)


def _errors(part: Query, report: StageReport, lower: Tensor, paid: Tensor, budget: Budget) -> Tensor:
    """Estimated rounding errors [B, S] of bounds; 0 for the examples that are proved without them.

    For bounds that have paid, about what they paid: they may be that much too low. Infinite, as what is not known,
    where there is no time for them and nothing is proved.
    """
    proved = part.spec.to(_CPU).worst(lower) > 0
    nothing = (lower == -torch.inf).all(1) if report.clauses is None else torch.zeros_like(proved)
    errors = torch.zeros_like(lower)
    for asked, more in ((~paid & ~nothing, 0), (paid & ~proved & ~nothing, PAID * counted(part.graph))):
        for some in asked.nonzero().squeeze(1).split(together(part.graph, part.open.device)):
            if budget.spent and report.clauses is None and not proved[some].any():
                errors[some] = torch.inf
                continue
            index = some.to(part.open.device)
            one, bounds = part.select(index), report.bounds.select(index)
            errors[some] = margin_error(one, interval.propagate(one, bounds), more).double().cpu()
    return errors


def _highest(lower: Tensor, error: Tensor) -> Tensor:  # [B, S] each -> [B, S]
    """What bounds may be without their rounding errors: above 0 where it takes more precision to tell.

    Of a bound whose error is not known, the bound itself: one above 0 is computed again, and of one below there is no
    reason to expect more.
    """
    return torch.where(error.isfinite(), lower + error, lower)


def _keep_clauses(outcome: Outcome, part: Query, report: StageReport, trusts: Tensor, alive: Tensor) -> None:
    """Keep the proofs of clauses as a whole: bounds of their largest rows, above the rounding error of any row.

    Args:
        trusts: [k], of the examples of `part`. alive: [k] int64, their places in the whole batch.
    """
    if report.clauses is None:
        return
    if report.clauses.shape != (len(alive), part.spec.clauses):
        wrong, right = list(report.clauses.shape), [len(alive), part.spec.clauses]
        raise InternalError(f"a stage reported lower bounds of shape {wrong} for clauses {right}")
    spec, table = part.spec.to(_CPU), outcome.clauses
    error = spec.per_clause(outcome.rows.error[alive])
    value = report.clauses.detach().double().cpu()
    proved = value.isfinite() & (value > error) & (table.run[alive] < 0)
    table.run[alive] = torch.where(proved, len(outcome.runs), table.run[alive])
    table.trust[alive] = torch.where(proved, trusts.unsqueeze(1), table.trust[alive])


def _note_close(outcome: Outcome, part: Query, report: StageReport, alive: Tensor) -> None:  # [k] int64
    """Say of the examples that not even float64 can tell that they are too close."""
    if report.lower is None:
        return
    lower = _highest(report.lower.detach().double().cpu(), outcome.rows.error[alive])
    for i in alive[part.spec.to(_CPU).worst(lower) > 0].tolist():
        if outcome.examples[i].verdict is Verdict.UNKNOWN:
            outcome.examples[i].reason = Reason.NUMERICAL


def _contradicted(example: ExampleResult, stage: Stage, value: float) -> None:
    """Raises where a counterexample contradicts a proof that claims more than a probability."""
    if example.trust is not None and example.trust > Trust.PROBABILISTIC:
        raise InternalError(
            f"stage {stage.name!r} replayed a counterexample (value {value:.3g}) of what "
            f"{example.decided_by!r} proved: one of the two is wrong; please report this with the model and the input"
        )
