"""Verification of unions of input sets: robust to the union is robust to every member (Wong 2020, section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from properties import InputSet, Specification, Union
from verifier.budget import Budget
from verifier.certificate.certificate import Certificate
from verifier.certificate.proof import SetProofs
from verifier.graph import Graph
from verifier.outcome import RunWatch, StageWatch
from verifier.policy import Ladder
from verifier.result import ExampleResult, Result
from verifier.stages.base import Stage
from verifier.verdict import Reason, Semantics, StageCost, Trust


@dataclass(frozen=True)
class UnionCertificate(Certificate):
    """Evidence for one example of a union: a certificate for each member."""

    members: tuple[Certificate, ...]

    @property
    def trust(self) -> Trust:
        return min(c.trust for c in self.members)

    @property
    def lower(self) -> Tensor:  # [S]: the smallest of the members
        return torch.stack([c.lower for c in self.members]).amin(0)

    @property
    def sets(self) -> tuple[SetProofs, ...]:
        return tuple(part for c in self.members for part in c.sets)

    @property
    def inputs(self) -> InputSet:
        return Union([c.inputs for c in self.members])

    def recompute(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [S] over the whole union again: the smallest that the members' certificates prove.

        Members may prove a clause of several rows by different rows, of which this then has none: ask `members`.
        """
        return torch.stack([c.recompute(graph) for c in self.members]).amin(0)

    def recompute_clauses(self, graph: Graph | None = None) -> Tensor:  # [C]
        return torch.stack([c.recompute_clauses(graph) for c in self.members]).amin(0)


class Climber(Protocol):
    """A network made ready, as far as verifying a union asks anything of it: see `verifier.api.Verifier`."""

    @property
    def ladder(self) -> Ladder: ...

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    @property
    def classes(self) -> int: ...

    @property
    def input_dtype(self) -> torch.dtype: ...

    @property
    def semantics(self) -> Semantics: ...

    def predict(self, x: Tensor) -> Tensor: ...  # [B, *input] -> [B, classes]

    def climb(
        self,
        ladder: Ladder,
        inputs: InputSet,
        spec: Specification,
        budget: Budget,
        stages: StageWatch | None = None,
        watch: RunWatch | None = None,
    ) -> Result: ...


def run_union(
    verifier: Climber, union: Union, spec: Specification, budget: Budget, watch: RunWatch | None = None
) -> Result:
    """Verify a batch of unions: VERIFIED where every member is, FALSIFIED by a counterexample in any of them.

    The stages that look for counterexamples run on the whole union, and those that come before the last of them on
    each member. Then each member that is not proved yet gets every stage that proves. `decided_by` of a VERIFIED
    example is the costliest stage that a member needed, and its trust the least; an UNKNOWN has the reason of its
    first open member. Margins are the smallest over the members, -inf where a member was not bounded.
    """
    if len(union.members) == 1:
        return verifier.climb(verifier.ladder, union.members[0], spec, budget, watch, watch)
    search = _UnionSearch(verifier, union, spec, budget, watch)
    order = verifier.ladder.order()
    last = max((i for i, stage in enumerate(order) if stage.trust is None), default=-1)
    for attacks, stages in groupby(order[: last + 1], key=lambda stage: stage.trust is None):
        ladder = Ladder(tuple(stages), adapts=False)
        search.attack(ladder) if attacks else search.bound(ladder)
    proving = tuple(stage for stage in order if stage.trust is not None)
    if proving:
        search.bound(Ladder(proving, adapts=False))
    verifier.ladder.record(search.costs)
    return search.result()


class _UnionSearch:
    """What is known of each example and member while they are worked on."""

    def __init__(
        self, verifier: Climber, union: Union, spec: Specification, budget: Budget, watch: RunWatch | None
    ) -> None:
        self.verifier, self.union, self.spec, self.budget, self.watch = verifier, union, spec, budget, watch
        members, batch = len(union.members), union.batch
        #: [member][example]: what the latest run said of it
        self.found = [[ExampleResult(reason=Reason.UNSUPPORTED) for _ in range(batch)] for _ in range(members)]
        #: [example]: of the whole union: counterexamples, the best attack, the time
        self.whole = [ExampleResult() for _ in range(batch)]
        columns = spec.rows.shape[1] if spec.label is None else verifier.classes
        self.margins = torch.full((members, batch, columns), -torch.inf, dtype=torch.float64)
        if spec.label is not None:
            self.margins.scatter_(2, spec.label.cpu().reshape(1, -1, 1).expand(members, -1, 1), torch.inf)
        self.costs: list[StageCost] = []
        self.limit = ""  #: `Result.trust_limit`

    def attack(self, ladder: Ladder) -> None:
        """Look for counterexamples of the open examples, in the whole union."""
        left = self._open()
        if len(left) == 0:
            return
        result = self._climb(ladder, self.union, left, self.budget.per_example)
        self._note(left, result)
        for k, i in enumerate(left.tolist()):
            for member in self.found:  # until a member's own stages know better
                member[i].reason = result.reason[k] or Reason.BOUNDS
        self._tell(left)

    def bound(self, ladder: Ladder) -> None:
        """Bound each member for the open examples that it is not proved for."""
        for m, member in enumerate(self.union.members):
            open_ = [i for i in self._open().tolist() if self.found[m][i].certificate is None]
            left = torch.tensor(open_, dtype=torch.int64)
            if len(left) == 0:
                continue
            # each member may take its part of what is left: the time that one saves is there for the next
            share = 1 / (len(self.union.members) - m)
            own = share * (self.budget.per_example - max(self.whole[i].seconds for i in open_))
            result = self._climb(ladder, member, left, own, share)
            self._note(left, result)
            self.margins[m, left] = torch.maximum(self.margins[m, left], result.margins)
            for k, i in enumerate(open_):
                self.found[m][i] = result.example(k)
            self._tell(left)

    def _tell(self, left: Tensor) -> None:  # [k] int64
        """Tell whoever watches which of these examples, which were open, are decided now."""
        decided = sorted({*left.tolist()} - {*self._open().tolist()})
        if self.watch is not None and decided:
            self.watch.settled(decided, self._answer(decided))

    def _climb(self, ladder: Ladder, inputs: InputSet, left: Tensor, own: float, share: float = 1.0) -> Result:
        """One run over the examples `left` [k] int64: `own` seconds for each, and a share of the seconds for all."""
        seconds = None if self.budget.left == torch.inf else max(0.0, share * self.budget.left)
        budget = Budget(seconds, max(0.0, own))
        return self.verifier.climb(ladder, inputs.select(left), self.spec.select(left), budget, self.watch)

    def _open(self) -> Tensor:
        """The examples [k] int64 that are neither broken nor proved for every member."""
        left = [
            i for i, whole in enumerate(self.whole)
            if whole.counterexample is None and any(member[i].certificate is None for member in self.found)
        ]  # fmt: skip
        return torch.tensor(left, dtype=torch.int64)

    def _note(self, left: Tensor, result: Result) -> None:
        """Keep what a run found of the examples `left` [k] int64, whichever set it was about."""
        self.costs += result.stages
        self.limit = self.limit or result.trust_limit
        for k, i in enumerate(left.tolist()):
            whole, found = self.whole[i], result.example(k)
            whole.attack_margin = min(whole.attack_margin, found.attack_margin)
            whole.seconds += found.seconds
            for stage, seconds in found.spent.items():
                whole.spend(stage, seconds)
            if found.counterexample is not None:
                whole.falsified(found.decided_by, found.counterexample, found.float32_agrees)

    def result(self) -> Result:
        """The members' answers put together."""
        for i in self._open().tolist():
            member = next(m[i] for m in self.found if m[i].certificate is None)
            self.whole[i].reason, self.whole[i].outside = member.reason or Reason.BOUNDS, member.outside
        return self._answer(range(self.union.batch))

    def _answer(self, which: Sequence[int]) -> Result:
        """Of the examples `which`, as far as their members are known."""
        stages = {stage.name: stage for stage in self.verifier.stages}
        for i in which:
            certificates, whole = [m[i].certificate for m in self.found], self.whole[i]
            proved = [c for c in certificates if c is not None]
            if whole.counterexample is None and len(proved) == len(certificates):
                costliest = max((m[i].decided_by for m in self.found), key=lambda name: _rank(stages, name))
                whole.verified(costliest, UnionCertificate(tuple(proved)))
        index = torch.tensor(which, dtype=torch.int64)
        with torch.no_grad():
            x = self.union.select(index).center()
            clean = self.verifier.predict(x.to(self.verifier.input_dtype)).cpu()
        label = None if self.spec.label is None else self.spec.label.cpu()[index]
        margins, semantics = self.margins.amin(0)[index], self.verifier.semantics
        examples = [self.whole[i] for i in which]
        clause = None if label is not None else self.spec.clause.cpu()
        answer = Result.of(examples, margins, label, clean.argmax(1), self.costs, semantics, clause)
        return replace(answer, trust_limit=self.limit)


def _rank(stages: dict[str, Stage], name: str | None) -> int:
    return -1 if name is None else stages[name].cost_rank
