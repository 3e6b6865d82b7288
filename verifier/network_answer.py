"""The answers of a cascade of networks to a batch: by which rule a network answers, and with what certificate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from properties import InputSet, robustness
from verifier.api import Verifier
from verifier.arithmetic import precise_arithmetic
from verifier.budget import Budget
from verifier.certificate.certificate import Certificate
from verifier.certificate.proof import SetProofs
from verifier.checker.document import Document
from verifier.graph import Graph
from verifier.judge import replayed
from verifier.outcome import StageStep, StageWatch
from verifier.query import Query
from verifier.result import ExampleResult, Result
from verifier.verdict import Reason, StageCost, Trust, Verdict, of_network

#: reasons why a network certified nothing that say more than that it did not
_TELLING = (Reason.BUDGET, Reason.MEMORY, Reason.NUMERICAL, Reason.UNSUPPORTED, Reason.DOMAIN)


class Rule(Enum):
    """When a network that certifies its own prediction answers for the cascade."""

    #: at once (Wong et al. 2018, Algorithm 2); where none certifies, the last network answers, without a certificate
    FIRST = "first"
    #: if all networks before it predict the same (Wong 2020, Algorithm 4); where none does, the cascade abstains
    AGREED = "agreed"


class Guarantee(Enum):
    """What a VERIFIED of a cascade says. Either way the network that answers gives the label in the whole set."""

    #: nothing more: elsewhere in the set other networks of the cascade may answer otherwise, and certify it
    NETWORK = "the network that answers here gives this label in the whole set; the cascade may answer otherwise"
    #: an input of the set gets the label with a certificate, or an answer without one (which AGREED never gives)
    ANSWER = "no input of the set gets another label with a certificate"


@dataclass(frozen=True)
class CascadeCertificate(Certificate):
    """Evidence for one example: the deciding network's certificate, and what else the guarantee rests on."""

    own: Certificate = field(repr=False)  #: of the deciding network
    trust: Trust
    network: int  #: which of the cascade certified its prediction
    label: int
    guarantee: Guarantee
    predictions: tuple[int, ...]  #: of all networks at the clean input

    @property
    def lower(self) -> Tensor:  # [S]: of the deciding network's margins
        return self.own.lower

    @property
    def sets(self) -> tuple[SetProofs, ...]:
        return self.own.sets

    @property
    def known_document(self) -> Document | None:
        return self.own.known_document

    @property
    def inputs(self) -> InputSet:
        return self.own.inputs

    def recompute(self, graph: Graph | None = None) -> Tensor:
        """Lower bounds [S] of the deciding network's margins again; `graph`: of that network."""
        return self.own.recompute(graph)

    def recompute_clauses(self, graph: Graph | None = None) -> Tensor:  # [C]
        return self.own.recompute_clauses(graph)


@dataclass(frozen=True)
class _StagesAlone:
    """Passes on what is told of stages: what one network says is not yet the cascade's answer."""

    watch: StageWatch

    def begins(self, stage: str) -> None:
        self.watch.begins(stage)

    def ended(self, step: StageStep) -> None:
        self.watch.ended(step)

    def settled(self, places: Sequence[int], result: Result) -> None:
        """Nobody is told."""


class CascadePass:
    """One batch on its way through the networks: what each example's answer is, and by which network.

    Args:
        networks: of the same classes, in order, with the same stages.
        symmetric: whether x' is in the set around x exactly where x is in the set around x'.
    """

    def __init__(self, networks: Sequence[Verifier], rule: Rule, symmetric: bool, inputs: InputSet) -> None:
        self.networks, self.rule, self.symmetric, self.inputs = networks, rule, symmetric, inputs
        x = inputs.center()
        with torch.no_grad():
            outputs = [n.predict(x.to(n.input_dtype)).cpu() for n in self.networks]
        self.x, batch = x, inputs.batch
        self.predictions = torch.stack([y.argmax(1) for y in outputs])  # [K, B]
        self.network = torch.full((batch,), -1)  # the one that certified
        self.found: list[tuple[Result, int] | None] = [None] * batch  # its result, and the example's place in it
        self.examples = [ExampleResult(reason=Reason.UNCERTIFIED) for _ in range(batch)]
        self.costs: list[StageCost] = []

    def go(self, budget: Budget, watch: StageWatch | None = None) -> None:
        """Ask network after network about the examples that are left to it."""
        left = torch.arange(self.inputs.batch)
        for k, network in enumerate(self.networks):
            if k > 0 and self.rule is Rule.AGREED:
                left = left[self._agree(k, left)]
            if len(left) == 0:
                return
            own = max(0.0, budget.per_example - max(self.examples[i].seconds for i in left.tolist()))
            spec = robustness(self.predictions[k, left], network.classes)
            seconds = None if budget.left == math.inf else max(0.0, budget.left)
            told = None if watch is None else _StagesAlone(watch)
            result = network.run(self.inputs.select(left.to(self.x.device)), spec, seconds, own, told)
            self._take(k, left, result)
            left = left[~result.verified]

    def _agree(self, k: int, left: Tensor) -> Tensor:  # [m] -> [m] bool
        """Whether network k predicts what the first does, and network k - 1 does so beyond rounding.

        The first network of all counts by its own prediction, which must be beyond rounding as well.
        """
        same = self.predictions[k, left] == self.predictions[0, left]
        same[same.clone()] = self._surely(k - 1, left[same], self.predictions[0, left[same]])
        return same

    def _surely(self, k: int, which: Tensor, label: Tensor) -> Tensor:  # [m], [m] -> [m] bool
        """Whether network k gives the label at the clean input, by more than a replay's rounding error."""
        if len(which) == 0:
            return torch.zeros(0, dtype=torch.bool)
        margin, error = self._margin(k, which, label)
        return margin > error

    def _margin(self, k: int, which: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Network k's smallest margin of the label at the clean inputs `which`, and its rounding error: [m] each."""
        network, index = self.networks[k], which.to(self.x.device)
        device = network.device
        spec = robustness(label, network.classes).to(device)
        graph = network.imported.to(device, torch.float64)
        query = Query.of(graph, self.inputs.select(index).to(device), spec)
        with precise_arithmetic(), torch.no_grad():
            return replayed(query, self.x[index].to(device), network.replay, network.replay_dtype)

    def _take(self, k: int, left: Tensor, result: Result) -> None:  # [m] int64
        """Keep what network k certified of its own predictions."""
        self.costs += [StageCost(of_network(k, c.name), c.decided, c.attempted, c.seconds) for c in result.stages]
        for j, i in enumerate(left.tolist()):
            reason, example = result.reason[j], self.examples[i]
            example.seconds += float(result.seconds[j])
            for name, seconds in result.spent[j].items():
                example.spend(of_network(k, name), seconds)
            if result.verdict[j] is Verdict.VERIFIED:
                self.network[i], self.found[i] = k, (result, j)
            elif reason in _TELLING and example.reason is not Reason.BUDGET:
                example.reason, example.outside = reason, result.outside[j]

    def answer(self) -> Tensor:  # [B]
        """The label at each clean input: certified, else the last network's (FIRST) or none, -1 (AGREED)."""
        certified = self.predictions.gather(0, self.network.clamp(min=0).unsqueeze(0))[0]
        other = self.predictions[-1] if self.rule is Rule.FIRST else torch.full_like(certified, -1)
        return torch.where(self.network >= 0, certified, other)

    # --- verdicts

    def result(self, wanted: Tensor | None) -> Result:
        """Verdicts on the labels that are wanted [B], or on the cascade's own answers."""
        answer = self.answer()
        label = torch.where(answer >= 0, answer, self.predictions[0]) if wanted is None else wanted
        margins = torch.full((len(label), self.networks[0].classes), -torch.inf, dtype=torch.float64)
        margins.scatter_(1, label.unsqueeze(1), torch.inf)
        right = ((self.network >= 0) & (answer == label)).nonzero().squeeze(1)
        sure = self._answer_is_sure(right)
        for i in right.tolist():
            certificate, stage, lower = self._evidence(i, bool(sure[i]))
            if certificate is not None:
                self.examples[i].verified(stage, certificate)
                margins[i] = lower
        for i, margin, by in self._wrong(label):
            point, example = self.x[i].to(self.networks[0].input_dtype), self.examples[i]
            if not torch.equal(point.double(), self.x[i].double()):  # another point, perhaps outside of the set
                example.reason = Reason.NUMERICAL
                continue
            example.falsified(by, point.cpu(), bool(answer[i] != label[i]))
            example.attack_margin = margin
        return Result.of(self.examples, margins, label, answer, self.costs)

    def _answer_is_sure(self, which: Tensor) -> Tensor:  # [m] -> [B] bool
        """Whether no input of the sets `which` gets another label with a certificate (docs/guide/cascades.md).

        AGREED goes on only where the networks before agree, beyond rounding: there it always holds. With FIRST it
        holds where all the other networks give the label at the clean input. Never with stages that may be wrong with
        some probability: of the infinitely many inputs of a set, one may well get a wrong certificate.
        """
        sure = torch.zeros_like(self.network, dtype=torch.bool)
        if not self.symmetric or any(s.trust is Trust.PROBABILISTIC for s in self.networks[0].stages):
            return sure
        sure[which] = True
        if self.rule is Rule.FIRST:
            label = self.answer()
            for k in range(len(self.networks)):
                asked = which[sure[which] & (self.network[which] != k)]
                sure[asked] = self._surely(k, asked, label[asked])
        return sure

    def _evidence(self, i: int, sure: bool) -> tuple[CascadeCertificate | None, str | None, Tensor]:
        """Example i's certificate, what decided it, and the proven margins [classes]."""
        found = self.found[i]
        assert found is not None
        (result, j), k = found, int(self.network[i])
        own, trust = result.certificate[j], result.trust[j]
        if own is None or trust is None:
            return None, None, result.margins[j]
        # what is certified at other points of the set is certified by the cascade's stages: it rests on them as well
        trust = min(trust, Trust.FLOAT, *(s.trust for s in self.networks[0].stages if s.trust is not None and sure))
        guarantee = Guarantee.ANSWER if sure else Guarantee.NETWORK
        certificate = CascadeCertificate(
            own, Trust(trust), k, int(self.predictions[k, i]), guarantee, tuple(self.predictions[:, i].tolist())
        )
        return certificate, of_network(k, str(result.decided_by[j])), result.margins[j]

    def _wrong(self, label: Tensor) -> list[tuple[int, float, str]]:  # [B] int64
        """The clean inputs that the cascade itself answers wrongly: example, margin of the label, what shows it.

        The label's margin in the network that answers must be negative beyond rounding. Where a budget ended the search
        for certificates, a longer one may give another answer: nothing is shown then.
        """
        by = self.network.clone()
        if self.rule is Rule.FIRST:
            spent = torch.tensor([e.reason is Reason.BUDGET for e in self.examples])
            by[(by < 0) & ~spent] = len(self.networks) - 1
        found = []
        for k in range(len(self.networks)):
            which = ((by == k) & (self.predictions[k] != label)).nonzero().squeeze(1)
            if len(which) == 0:
                continue
            margin, error = self._margin(k, which, label[which])
            for i, value, e in zip(which.tolist(), margin.tolist(), error.tolist(), strict=True):
                if value < -e:
                    found.append((i, value, of_network(k, "its answer at the clean input")))
        return found
