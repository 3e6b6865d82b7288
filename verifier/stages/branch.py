"""Branch and bound on neurons (beta-CROWN BaB): our own proof, every subdomain closed by a dual bound in float64."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from verifier.bounds import Bounds
from verifier.branching.dual import SubdomainDual
from verifier.branching.evidence import SubdomainEvidence
from verifier.branching.matrices import Matrices
from verifier.branching.search import SearchResult, SearchSettings, SubdomainSearch
from verifier.budget import Budget
from verifier.ops.base import Activation
from verifier.query import Query
from verifier.relaxation import interval
from verifier.relaxation.dual import DEFAULT_MEMORY, intermediate
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.optimised import affordable, optimised_already, tighten
from verifier.relaxation.parallel import ordered_map
from verifier.rounding import margin_error
from verifier.stages.attack import descend
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Trust


class BranchStage(Stage):
    """Splits the intervals of unstable neurons until dual bounds prove every subdomain of every open row.

    Branch and bound (BaB) on neurons in the manner of beta-CROWN (Wang et al. 2021).

    Complete for piecewise linear networks, up to rounding and the limit on subdomains; smooth activations are split in
    the middle. Each example's intermediate bounds are tightened first (dual-optimised). A clause of several rows is
    proved by weights of its rows, each subdomain's own. The proof is a tree whose leaves carry their slopes and
    multipliers; it is as good as our own arithmetic. Counterexamples are sought from the points at which the worst
    subdomains' bounds are attained.

    Args:
        name, cost_rank: by which it is registered.
        most: subdomains per example. candidates: neurons that are tried for each split.
        share: of an example's seconds that this stage may take; the rest is for the stages behind it.
        margin: a subdomain is closed by a bound above so many times the margin's estimated rounding error.
        memory: bytes that the subdomains of one example may take.
        smooth: whether to work on networks of smooth activations alone, too, which can be split without end.
    """

    precision: ClassVar[torch.dtype | None] = torch.float64

    def __init__(
        self,
        name: str = "branch",
        cost_rank: int = 58,
        most: int = 20_000,
        candidates: int = 4,
        share: float = 0.5,
        margin: float = 2.0,
        memory: int = 2 * DEFAULT_MEMORY,
        smooth: bool = False,
    ) -> None:
        self.name, self.cost_rank = name, cost_rank  # type: ignore[misc]
        self.aliases = ("beta-crown", "bab") if name == "branch" else ()  # type: ignore[misc]
        self.most, self.candidates, self.share, self.margin = most, candidates, share, margin
        self.memory, self.smooth = memory, smooth

    def supports(self, query: Query) -> bool:
        ops = [query.graph.nodes[i].op for i in query.graph.activations]
        return any(isinstance(op, Activation) and (self.smooth or op.piecewise_linear) for op in ops)

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        stop, home, here = threading.Event(), query.open.device, torch.device("cpu")
        if home != here:  # many small operations: a CPU is the place for them
            query, bounds = query.on(here), bounds.on(here)

        lines: list[NeuronSlopes] = []

        def work(i: int) -> tuple[Bounds, SearchResult | None, Tensor, float]:
            one, began, own = torch.tensor([i], device=query.open.device), time.perf_counter(), list[NeuronSlopes]()
            done = self._example(query.select(one), bounds.select(one), self.share * budget.example(i), stop, own)
            lines.extend(line.of_example(i) for line in own)
            return *done, time.perf_counter() - began

        examples = ordered_map(work, range(query.batch), query.open.device, stop)
        found = [f for _, f, _, _ in examples]
        nothing = torch.full((query.spec.clauses,), -torch.inf, dtype=torch.float64)
        clauses = torch.stack([nothing if f is None else f.lower for f in found])
        return StageReport(
            query.spec.alone(clauses),
            Bounds.concatenate([b for b, _, _, _ in examples]),
            candidates=torch.stack([c for _, _, c, _ in examples]),
            trust=Trust.FLOAT,
            evidence=SubdomainEvidence(tuple(None if f is None else f.tree for f in found)),
            clauses=clauses,
            neurons=affordable(lines),
            seconds=[s for _, _, _, s in examples],
            exhausted=any(f is None or f.exhausted for f in found),
        ).on(home)

    def _example(
        self, query: Query, bounds: Bounds, seconds: float, stop: threading.Event, lines: list[NeuronSlopes]
    ) -> tuple[Bounds, SearchResult | None, Tensor]:
        """Bounds (the slopes that prove them are added to `lines`), what the search found, and the best candidate."""
        deadline = time.monotonic() + seconds
        tight = intermediate(query, bounds)
        counterexamples = _PrimalSearch(query)
        if stop.is_set() or seconds <= 0:
            return tight, None, counterexamples.best
        if not optimised_already(bounds):
            tight = tighten(query, tight, budget=Budget(seconds), memory=DEFAULT_MEMORY, lines=lines)[0]
        enough = self.margin * margin_error(query, interval.propagate(query, tight))[0]
        dual = SubdomainDual.of(Matrices.of(query, tight), query.spec.clause)
        settings = SearchSettings(candidates=self.candidates, most=self.most, memory=self.memory)
        open_ = query.open_clauses[0].nonzero().squeeze(1)
        return (
            tight,
            SubdomainSearch(dual, enough, settings).run(open_, counterexamples, deadline, stop.is_set),
            counterexamples.best,
        )


class _PrimalSearch:
    """Looks for counterexamples of one example where its subdomains' bounds are attained."""

    #: points of one round that are looked at, and followed by gradient, how far and every so many rounds
    POINTS, STEPS, STEP, EVERY = 32, 15, 0.1, 8

    def __init__(self, query: Query) -> None:
        self.query, self.round = query, 0
        self.best = query.inputs.center()[0].to(query.graph.dtype)
        self.value = torch.inf

    def follow(self, forms: Tensor) -> bool:  # [D, n]
        low, high = (t.flatten(1) for t in self.query.inputs.box(self.query.graph.dtype))
        forms = forms[: self.POINTS]  # of the worst subdomains
        part, points, value = self._evaluated(torch.where(forms > 0, low, high))
        self._keep(points, value)
        if self.value >= 0 and self.round % self.EVERY == 0:
            self._keep(*descend(part, points, self.STEPS, self.STEP))
        self.round += 1
        return self.value < 0

    def look(self, points: Tensor) -> bool:  # [k, n]
        self._keep(*self._evaluated(points)[1:])
        return self.value < 0

    def _evaluated(self, points: Tensor) -> tuple[Query, Tensor, Tensor]:
        """The query once per point, the points [k, *input] moved into the set, their worst clause values [k]."""
        part = self.query.select(torch.zeros(len(points), dtype=torch.int64, device=points.device))
        points = part.inputs.project(points.to(part.graph.dtype).unflatten(1, part.inputs.shape))
        with torch.no_grad():
            return part, points, part.spec.worst(part.spec.values(part.graph.forward(points).flatten(1)))

    def _keep(self, points: Tensor, value: Tensor) -> None:
        if float(value.min()) < self.value:
            self.value, self.best = float(value.min()), points[value.argmin()]


register(BranchStage)
register(partial(BranchStage, "branch-deep", 95, most=1_000_000, share=1.0))
