"""Branch and bound on neurons (beta-CROWN BaB): our own proof, every subdomain closed by a dual bound in float64."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.branching.evidence import SubdomainEvidence
from verifier.branching.plan import Efforts
from verifier.branching.prove import prove_by_subdomains
from verifier.branching.search import SearchSettings
from verifier.branching.split import TriedGains
from verifier.budget import Budget
from verifier.ops.base import Activation
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation.dual import DEFAULT_MEMORY
from verifier.relaxation.optimised import affordable
from verifier.stages.base import Stage, StageReport, register
from verifier.verdict import Trust

#: subdomains of one example, where no other stage is to have its turn
MOST = 1_000_000

#: share of an example's seconds that are all: the rest is for saying how far the search got, or for the certificate
_ALL = 0.97


class BranchStage(Stage):
    """Splits the intervals of unstable neurons, and of factors, until dual bounds prove every part of every open row.

    Branch and bound (BaB) on neurons in the manner of beta-CROWN (Wang et al. 2021).

    Complete for piecewise linear networks, up to rounding and the limit on subdomains; smooth activations and factors
    of products are split in the middle. Each example's intermediate bounds are tightened first (dual-optimised), and
    again by cases (dual-cases) where the search does not come to an end. A clause of several rows is proved by weights
    of its rows, each subdomain's own. The proof is a tree whose leaves carry their slopes and multipliers; it is as
    good as our own arithmetic. Counterexamples are sought from the points at which the worst subdomains' bounds are
    attained.

    Args:
        name, cost_rank: by which it is registered.
        most: subdomains per example. candidates: neurons that are tried for each split.
        share: of an example's seconds that this stage may take; the rest is for the stages behind it. Where none of
            those is expected to decide it, all of them, and as many subdomains as fit.
        margin: a subdomain is closed by a bound above so many times the margin's estimated rounding error.
        memory: bytes that the subdomains of one example may take.
        smooth: whether to work on networks of smooth activations alone, too, which can be split without end.
        efforts: for the bounds of neurons, in turns with the search (verifier.branching.plan).
    """

    precision: ClassVar[torch.dtype | None] = torch.float64
    by_example: ClassVar[bool] = True

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
        efforts: Efforts | None = None,
    ) -> None:
        self.name, self.cost_rank = name, cost_rank  # type: ignore[misc]
        self.aliases = ("beta-crown", "bab") if name == "branch" else ()  # type: ignore[misc]
        self.most, self.candidates, self.share, self.margin = most, candidates, share, margin
        self.memory, self.smooth, self.efforts = memory, smooth, efforts or Efforts()

    def supports(self, query: Query) -> bool:
        ops = [query.graph.nodes[i].op for i in query.graph.activations]
        always = [isinstance(op, Product) or (isinstance(op, Activation) and op.piecewise_linear) for op in ops]
        return any(always) or (self.smooth and bool(ops))

    def hopes(self, query: Query, bounds: Bounds) -> Tensor:
        """None: a second tree is no better than all the time for the first."""
        return torch.zeros(query.batch, dtype=torch.bool)

    def bounding(self) -> None:
        """None: a part is closed as soon as its sign is known."""

    def run(self, query: Query, bounds: Bounds, budget: Budget) -> StageReport:
        home, here = query.open.device, torch.device("cpu")
        if home != here:  # many small operations: a CPU is the place for them
            query, bounds = query.on(here), bounds.on(here)

        def seconds(i: int) -> float:
            return (_ALL if budget.alone(i) else self.share) * budget.example(i)

        def settings(i: int) -> SearchSettings:
            most = max(self.most, MOST) if budget.alone(i) else self.most
            return SearchSettings(rule=TriedGains(self.candidates), most=most, memory=self.memory)

        examples = prove_by_subdomains(query, bounds, seconds, settings, self.margin, self.efforts)
        found = [e.found for e in examples]
        nothing = torch.full((query.spec.clauses,), -torch.inf, dtype=torch.float64)
        clauses = torch.stack([nothing if f is None else f.lower for f in found])
        return StageReport(
            query.spec.alone(clauses),
            Bounds.concatenate([e.bounds for e in examples]),
            candidates=torch.stack([e.candidate for e in examples]),
            trust=Trust.FLOAT,
            evidence=SubdomainEvidence(tuple(None if f is None else f.tree for f in found)),
            clauses=clauses,
            neurons=affordable(one for e in examples for one in e.evidence),
            seconds=[e.seconds for e in examples],
            exhausted=any(f is None or f.exhausted for f in found),
            starved=all(e.starved for e in examples),
            closed=torch.tensor([0.0 if f is None else f.closed for f in found], dtype=torch.float64),
        ).on(home)


register(BranchStage)
register(partial(BranchStage, "branch-deep", 95, most=MOST, share=1.0))
