"""Candidates for a certificate of one set: ways to bound its neurons, and what then proves its rows or clauses."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from verifier.bound_map import BoundMethod, Bounds
from verifier.certificate.proof import ExampleProof, SetProofs
from verifier.errors import CertificateError, InputError
from verifier.evidence import Record, RecordRequest
from verifier.graph import Graph
from verifier.graph.canonical import Canonical
from verifier.ops.base import Activation, Nonlinear, SlopeRule
from verifier.query import Query
from verifier.relaxation.optimised import piecewise_linear

#: types of slopes, the smallest first
CODES = (np.uint8, np.float16, np.float32)


@dataclass(frozen=True)
class Steps:
    """How a candidate bounds the pre-activations, and by which rule it bounds rows."""

    name: str
    steps: tuple[dict[str, Any], ...]
    rule: str
    width: type[np.generic] | None = None  #: of slopes that are among the steps

    @property
    def key(self) -> Hashable:
        return self.name, self.width

    def begin_with(self, other: Steps) -> bool:
        """Whether these are the other's steps, which are rules, and then some."""
        start = self.steps[: len(other.steps)]
        return all("rule" in step for step in other.steps) and other.steps == start


class Candidates:
    """What proves one set, in the terms of the canonical network."""

    def __init__(self, found: Canonical, graph: Graph, evidence: SetProofs) -> None:
        self.network, self.graph, self.evidence = found.network, graph, evidence
        self.canonical, self.place, self.activations = found, found.place, found.activations
        self.spec = evidence.last.spec.to(torch.device("cpu"))
        #: of each proof, the example alone in float64: copied once, whatever is tried
        self._asked: dict[int, tuple[Query, Bounds]] = {}

    @cached_property
    def targets(self) -> dict[int, tuple[ExampleProof, int | None]]:
        """Per clause: what proves it, and the row where it is one row."""
        found: dict[int, tuple[ExampleProof, int | None]] = {}
        clause = self.spec.clause.tolist()
        for proof in self.evidence.proofs:
            for row in proof.rows.tolist():
                found.setdefault(clause[row], (proof, row))
            for whole in proof.clauses.tolist():
                found.setdefault(whole, (proof, None))
        return found

    def rows(self, clauses: Sequence[int]) -> np.ndarray:
        """The rows that prove clauses; all of a clause that is proved as a whole."""
        found: list[int] = []
        for clause in clauses:
            row = self.targets[clause][1] if clause in self.targets else None
            of = (self.spec.clause == clause).nonzero().squeeze(1).tolist()
            found += of if row is None else [row]
        return np.array(found, dtype=np.int64)

    @cached_property
    def methods(self) -> set[BoundMethod]:
        """By which the bounds of neurons were found that the proofs rest on."""
        proofs = (proof for proof, _ in self.targets.values())
        return {m for proof in proofs for interval in proof.bounds.values() for m in interval.methods()}

    @property
    def closer(self) -> bool:
        """Whether neurons were bounded by more than a rule, which is done where a rule is not enough."""
        return bool({BoundMethod.OPTIMISED, BoundMethod.SUBDOMAINS} & self.methods)

    def attempts(self) -> Iterator[tuple[Steps, type[np.generic]]]:
        """What to try: steps, and the type of slopes that prove rows, each pair once.

        Of a proof that rests on neurons' own bounds, steps with these come before wider slopes: what rules lack
        is no precision.
        """
        done = set[tuple[Hashable, type[np.generic]]]()
        ladders: dict[type[np.generic], list[Steps]] = {}

        def wanted() -> Iterator[tuple[Steps, type[np.generic]]]:
            for width in CODES if self.closer else ():
                ladders[width] = list(self.ladder(width))
                yield from ((steps, width) for steps in ladders[width])
            for width in CODES:
                for steps in ladders.get(width) or self.ladder(width):
                    yield from ((steps, code) for code in CODES)

        for steps, code in wanted():
            if (steps.key, code) not in done:
                done.add((steps.key, code))
                yield steps, code

    def ladder(self, code: type[np.generic]) -> Iterator[Steps]:
        """Ways to bound the pre-activations, the shortest first but for those that others make unlikely."""
        methods, closer = self.methods, self.closer
        by = {proof.evidence.rule for proof, _ in self.targets.values()}
        if by == {"interval"}:
            yield Steps("intervals", (), "interval")
        fixed = {"rule": "fixed", "nodes": "all"}
        adaptive = {"rule": "adaptive", "nodes": "all"}
        if "fixed" in by and methods <= {BoundMethod.INTERVAL, BoundMethod.FIXED}:
            yield Steps("fixed slopes", (fixed,), "fixed")
        alone = Steps("adaptive slopes", (adaptive,), "adaptive")
        both = (fixed, adaptive) if BoundMethod.FIXED in methods else (adaptive,)
        if not closer or len(both) == 1:
            yield alone
        if len(both) > 1:
            yield Steps("fixed and adaptive slopes", both, "adaptive")
        own = list(self._own_steps(code))
        if not piecewise_linear(self.graph):
            # which lines of a smooth activation a rule takes is the checker's own business
            own = [*self._by_slopes(code), *own]
        if own:
            yield Steps("own slopes", (*both, *own), "adaptive", code)
            yield Steps("own slopes, adaptive ones in between", (*both, *self._between(own)), "adaptive", code)
        if closer and len(both) > 1:
            yield alone

    def _by_slopes(self, code: type[np.generic]) -> Iterator[dict[str, Any]]:
        """Bounds of all unstable neurons by the lines of the verifier's own rule."""
        proof = self.evidence.last
        rule = SlopeRule.FIXED if proof.evidence.rule == SlopeRule.FIXED.value else SlopeRule.ADAPTIVE
        lines: dict[int, dict[str, np.ndarray]] = {}
        width = np.float32 if code is np.float32 else np.float16
        for node in self.graph.pre_activations:
            known, free = proof.bounds[node], torch.zeros(self.graph.nodes[node].size, dtype=torch.bool)
            readers = [a for a in self.graph.activations if self.graph.nodes[a].parents[0] == node]
            for a in readers:
                op = self.graph.nodes[a].op
                if not isinstance(op, Activation):  # the checker's planes are those of the rule
                    assert isinstance(op, Nonlinear)
                    free |= op.unstable(known.lower, known.upper)[0].flatten().cpu()
                    continue
                open_ = op.unstable(known.lower[0], known.upper[0]).flatten().cpu()
                free |= open_
                found = op.relax(known.lower, known.upper, rule)
                both = (t[0].flatten().cpu()[open_].numpy() for t in (found.lower_slope, found.upper_slope))
                names = ("neurons", "slopes", "upper")
                lines[a] = dict(zip(names, (open_.nonzero().squeeze(1).numpy().astype(np.int32), *both), strict=True))
            neurons = free.nonzero().squeeze(1).numpy().astype(np.int32)
            below = [a for a in lines if a in self.graph.ancestors[node]]
            if len(neurons) and below and node in self.place:
                count = 2 * len(neurons)
                slopes = {
                    str(self.activations[a]): {
                        k: v if k == "neurons" else np.tile(v.astype(width), (count, 1)) for k, v in lines[a].items()
                    }
                    for a in below
                }
                sides = np.repeat(np.array([0, 1], dtype=np.uint8), len(neurons))
                yield {"node": self.place[node], "neurons": np.tile(neurons, 2), "sides": sides, "slopes": slopes}

    def _own_steps(self, code: type[np.generic]) -> Iterator[Record]:
        """What proves bounds of pre-activations that no rule does, as it was found."""
        for run, i in self.evidence.helpers:
            bounds: Bounds | None = None
            for found in run.neurons:
                if found.example != i:
                    continue
                if bounds is None:
                    bounds = run.bounds.select(torch.tensor([i])).to(torch.float64)
                step = found.step(self.canonical, self.graph, bounds, code)
                if step is not None:
                    yield step

    def _between(self, own: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The steps, and after the last one of each node adaptive slopes for all later nodes."""
        for step, following in zip(own, [*own[1:], None], strict=True):
            yield step
            later = [k for k in self.network.pre_activations if k > step["node"]]
            if later and (following is None or following["node"] != step["node"]):
                yield {"rule": "adaptive", "nodes": later}

    def by_rule(self, rule: str) -> list[dict[str, Any]]:
        return [{"rule": rule, "rows": self.rows(range(self.spec.clauses))}]

    def proofs(self, steps: Steps, rules: np.ndarray, code: type[np.generic]) -> list[dict[str, Any]] | None:
        """Of the clauses that the rule proves, by it; of others by their own evidence. None where one has none.

        Args:
            rules: [C], the clauses' bounds by the rule.
        """
        left = [c for c in range(self.spec.clauses) if not rules[c] > 0]
        done = [c for c in range(self.spec.clauses) if rules[c] > 0]
        found: list[dict[str, Any]] = [{"rule": steps.rule, "rows": self.rows(done)}] if done else []
        for proof in self.evidence.proofs:
            mine = [c for c in left if c in self.targets and self.targets[c][0] is proof]
            if mine:
                own = self._own(proof, mine, code)
                if own is None:
                    return None
                found += own
        return found

    def _own(self, proof: ExampleProof, clauses: list[int], code: type[np.generic]) -> list[Record] | None:
        """A proof's own evidence for some clauses."""
        if id(proof) not in self._asked:
            try:
                self._asked[id(proof)] = proof.asked(self.graph)
            except InputError as error:  # a stage that left no bounds of its neurons: nothing can rest on them
                raise CertificateError(str(error)) from error
        query, bounds = self._asked[id(proof)]
        asked = RecordRequest(self.canonical, query, bounds, clauses, self.rows(clauses), code)
        return proof.evidence.proof(asked)
