"""Verification of unions of input sets: robust to the union is robust to every member (Wong 2020, section 5.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties import InputSet, Specification, Union
from verifier.certificate import Certificate
from verifier.certificate.batch import Certificates
from verifier.graph import Graph
from verifier.policy import Ladder
from verifier.result import Result
from verifier.stages import Budget, Stage
from verifier.verdict import Reason, StageCost, Trust, Verdict

if TYPE_CHECKING:
    from verifier.api import Verifier


@dataclass(frozen=True)
class UnionCertificate(Certificate):
    """Evidence for one example of a union: a certificate for each member.

    `proofs` are those of all members, in their order; bounds, slopes and dual variables are the last proof's.
    """

    members: tuple[Certificate, ...] = field(default=())

    @classmethod
    def over(cls, members: list[Certificate]) -> UnionCertificate:
        """From the members' certificates, at least one."""
        lower = torch.stack([c.lower for c in members]).amin(0)
        proofs = tuple(proof for c in members for proof in c.proofs)
        return cls(proofs, lower, min(c.trust for c in members), members=tuple(members))

    @property
    def inputs(self) -> InputSet:
        return Union([c.inputs for c in self.members])

    def recompute(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [S] over the whole union again: the smallest that the members' certificates prove.

        Members may prove a clause of several rows by different rows, of which this then has none: ask `members`.
        """
        return torch.stack([c.recompute(graph) for c in self.members]).amin(0)


def run_union(verifier: Verifier, union: Union, spec: Specification, budget: Budget) -> Result:
    """Verify a batch of unions: VERIFIED where every member is, FALSIFIED by a counterexample in any of them.

    The stages that look for counterexamples run on the whole union, and those that come before the last of them on
    each member. Then each member that is not proved yet gets every stage that proves. `decided_by` of a VERIFIED
    example is the costliest stage that a member needed, and its trust the least; an UNKNOWN has the reason of its
    first open member. Margins are the smallest over the members, -inf where a member was not bounded.
    """
    if len(union.members) == 1:
        return verifier.climb(verifier.ladder, union.members[0], spec, budget)
    search = _UnionSearch(verifier, union, spec, budget)
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

    def __init__(self, verifier: Verifier, union: Union, spec: Specification, budget: Budget) -> None:
        self.verifier, self.union, self.spec, self.budget = verifier, union, spec, budget
        members, batch = len(union.members), union.batch
        #: [member][example]: the verdict's details, from the latest run
        self.proof: list[list[_Proof | None]] = [[None] * batch for _ in range(members)]
        self.reason: list[list[Reason]] = [[Reason.UNSUPPORTED] * batch for _ in range(members)]
        columns = spec.rows.shape[1] if spec.label is None else verifier.classes
        self.margins = torch.full((members, batch, columns), -torch.inf, dtype=torch.float64)
        if spec.label is not None:
            self.margins.scatter_(2, spec.label.cpu().reshape(1, -1, 1).expand(members, -1, 1), torch.inf)
        self.broken: list[_Broken | None] = [None] * batch
        self.attack_margin = torch.full((batch,), torch.inf, dtype=torch.float64)
        self.seconds = torch.zeros(batch, dtype=torch.float64)
        self.costs: list[StageCost] = []

    def attack(self, ladder: Ladder) -> None:
        """Look for counterexamples of the open examples, in the whole union."""
        left = self._open()
        if len(left) == 0:
            return
        result = self._climb(ladder, self.union, left, self.budget.per_example)
        self._note(left, result)
        for k, i in enumerate(left.tolist()):
            for reasons in self.reason:  # until a member's own stages know better
                reasons[i] = result.reason[k] or Reason.BOUNDS

    def bound(self, ladder: Ladder) -> None:
        """Bound each member for the open examples that it is not proved for."""
        for m, member in enumerate(self.union.members):
            left = torch.tensor([i for i in self._open().tolist() if self.proof[m][i] is None], dtype=torch.int64)
            if len(left) == 0:
                continue
            # each member may take its part of what is left: the time that one saves is there for the next
            share = 1 / (len(self.union.members) - m)
            own = share * (self.budget.per_example - float(self.seconds[left].max()))
            result = self._climb(ladder, member, left, own, share)
            self._note(left, result)
            self.margins[m, left] = torch.maximum(self.margins[m, left], result.margins)
            for k, i in enumerate(left.tolist()):
                self._take(m, i, result, k)

    def _climb(self, ladder: Ladder, inputs: InputSet, left: Tensor, own: float, share: float = 1.0) -> Result:
        """One run over the examples `left`, with `own` seconds for each and a share of the seconds for all."""
        seconds = None if self.budget.left == torch.inf else max(0.0, share * self.budget.left)
        budget = Budget(seconds, max(0.0, own))
        return self.verifier.climb(ladder, inputs.select(left), self.spec.select(left), budget)

    def _open(self) -> Tensor:
        """The examples that are neither broken nor proved for every member."""
        proved = [all(row[i] is not None for row in self.proof) for i in range(self.union.batch)]
        broken = [b is not None for b in self.broken]
        left = [i for i in range(self.union.batch) if not proved[i] and not broken[i]]
        return torch.tensor(left, dtype=torch.int64)

    def _note(self, left: Tensor, result: Result) -> None:
        """Keep what a run found of the examples `left`, whichever set it was about."""
        self.attack_margin[left] = torch.minimum(self.attack_margin[left], result.attack_margin)
        self.seconds[left] += result.seconds
        self.costs += result.stages
        for k, i in enumerate(left.tolist()):
            point = result.counterexample[k]
            if result.verdict[k] is Verdict.FALSIFIED and point is not None:
                self.broken[i] = _Broken(result.decided_by[k], point, result.float32_agrees[k])

    def _take(self, m: int, i: int, result: Result, k: int) -> None:
        """Keep what a run on member m proved of example i, its k-th."""
        self.reason[m][i] = result.reason[k] or Reason.BOUNDS
        trust, certificate = result.trust[k], result.certificate[k]
        if result.verdict[k] is Verdict.VERIFIED and trust is not None and certificate is not None:
            self.proof[m][i] = _Proof(result.decided_by[k], trust, certificate)

    def result(self) -> Result:
        """The members' answers put together."""
        parts = [self._example(i) for i in range(self.union.batch)]
        label = self.spec.label
        with torch.no_grad():
            clean = self.verifier.predict(self.union.center().to(self.verifier.input_dtype)).cpu()
        broken = self.broken
        return Result(
            verdict=tuple(p.verdict for p in parts),
            margins=self.margins.amin(0),
            label=torch.full((len(parts),), -1) if label is None else label.cpu(),
            prediction=clean.argmax(1),
            decided_by=tuple(p.decided_by for p in parts),
            reason=tuple(p.reason for p in parts),
            trust=tuple(p.trust for p in parts),
            counterexample=tuple(None if b is None else b.point for b in broken),
            attack_margin=self.attack_margin,
            float32_agrees=tuple(None if b is None else b.agrees for b in broken),
            certificate=Certificates(p.certificate for p in parts),
            seconds=self.seconds,
            stages=tuple(self.costs),
            semantics=self.verifier.semantics,
        )

    def _example(self, i: int) -> _Answer:
        """The answer on one example: UNKNOWN unless there is evidence."""
        broken = self.broken[i]
        if broken is not None:
            return _Answer(Verdict.FALSIFIED, broken.stage)
        proofs = [row[i] for row in self.proof]
        missing = [m for m, proof in enumerate(proofs) if proof is None]
        if missing:
            return _Answer(Verdict.UNKNOWN, reason=self.reason[missing[0]][i])
        certificate = UnionCertificate.over([p.certificate for p in proofs if p is not None])
        stages = {stage.name: stage for stage in self.verifier.stages}
        costliest = max((p.stage for p in proofs if p is not None), key=lambda name: _rank(stages, name))
        return _Answer(Verdict.VERIFIED, costliest, None, certificate.trust, certificate)


@dataclass(frozen=True)
class _Proof:
    """That one member was proved for one example."""

    stage: str | None
    trust: Trust
    certificate: Certificate


@dataclass(frozen=True)
class _Broken:
    """A counterexample to one example."""

    stage: str | None
    point: Tensor  # [*input]
    agrees: bool | None


@dataclass(frozen=True)
class _Answer:
    """The verdict on one example, as a Result has it."""

    verdict: Verdict
    decided_by: str | None = None
    reason: Reason | None = None
    trust: Trust | None = None
    certificate: Certificate | None = None


def _rank(stages: dict[str, Stage], name: str | None) -> int:
    return -1 if name is None else stages[name].cost_rank
