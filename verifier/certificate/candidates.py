"""Candidates for a certificate of one set: ways to bound its neurons, and what then proves its rows or clauses."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from verifier.bounds import Bounds
from verifier.certificate.canonical import Canonical
from verifier.certificate.evidence import ExampleProof
from verifier.certificate.split_trees import boxes_of, cases_of
from verifier.checker.lines import slope_range
from verifier.checker.network import CanonicalNetwork
from verifier.graph import Graph
from verifier.ops.base import Activation, SlopeRule
from verifier.relaxation.multipliers import as_slopes
from verifier.relaxation.neuron_slopes import NeuronSlopes
from verifier.relaxation.optimised import piecewise_linear
from verifier.sdp.bounds import SdpWitness

if TYPE_CHECKING:
    from verifier.certificate.evidence import Certificate

#: types of slopes, the smallest first
CODES = (np.uint8, np.float16, np.float32)


@dataclass(frozen=True)
class RecordedSlopes:
    """Slopes of rows at some neurons: canonical activation -> (neurons [u], slopes [R, u])."""

    at: Mapping[int, tuple[np.ndarray, np.ndarray]]

    def select(self, rows: np.ndarray) -> RecordedSlopes:
        return RecordedSlopes({k: (neurons, slopes[rows]) for k, (neurons, slopes) in self.at.items()})

    def coded(self, network: CanonicalNetwork, code: type[np.generic]) -> dict[str, dict[str, np.ndarray]]:
        """As a certificate has them: in a byte a slope is a position in the activation's range of slopes."""
        found = {}
        for k, (neurons, slopes) in sorted(self.at.items()):
            if len(neurons) == 0:
                continue
            values, largest = slopes, 255.0 if code is np.uint8 else float(np.finfo(np.dtype(code)).max)
            if code is np.uint8:
                least, most = slope_range(network.nodes[k])
                way = most - least
                values = np.rint(255 * ((slopes - least) / way if way > 0 else 0 * slopes)).clip(0, 255)
            found[str(k)] = {"neurons": neurons.astype(np.int32), "slopes": values.clip(-largest, largest).astype(code)}
        return found


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


class Candidates:
    """What proves one set, in the terms of the canonical network."""

    def __init__(self, found: Canonical, graph: Graph, certificate: Certificate) -> None:
        self.network, self.graph, self.certificate = found.network, graph, certificate
        self.canonical, self.place, self.activations = found, found.place, found.activations
        self.spec = certificate.spec.to(torch.device("cpu"))

    @cached_property
    def targets(self) -> dict[int, tuple[ExampleProof, int | None]]:
        """Per clause: what proves it, and the row where it is one row."""
        found: dict[int, tuple[ExampleProof, int | None]] = {}
        clause = self.spec.clause.tolist()
        for proof in self.certificate.proofs:
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

    def ladder(self, code: type[np.generic]) -> Iterator[Steps]:
        """Ways to bound the pre-activations, the shortest first."""
        proofs = [proof for proof, _ in self.targets.values()]
        rules = {rule for proof in proofs for interval in proof.bounds.values() for rule in interval.rules()}
        by = {proof.run.evidence.get("slopes", proof.run.evidence.get("rule")) for proof in proofs}
        if by == {"interval"}:
            yield Steps("intervals", (), "interval")
        fixed = {"rule": "fixed", "nodes": "all"}
        adaptive = {"rule": "adaptive", "nodes": "all"}
        if "fixed" in by and rules <= {"interval", "dual", "zonotope"}:
            yield Steps("fixed slopes", (fixed,), "fixed")
        yield Steps("adaptive slopes", (adaptive,), "adaptive")
        both = (fixed, adaptive) if rules & {"dual", "zonotope"} else (adaptive,)
        if len(both) > 1:
            yield Steps("fixed and adaptive slopes", both, "adaptive")
        own = [step for line in self._lines if (step := self._step(line, code)) is not None]
        if not piecewise_linear(self.graph):
            # which lines of a smooth activation a rule takes is the checker's own business
            own = [*self._by_slopes(code), *own]
        if own:
            yield Steps("own slopes", (*both, *own), "adaptive", code)
            yield Steps("own slopes, adaptive ones in between", (*both, *self._between(own)), "adaptive", code)

    def _by_slopes(self, code: type[np.generic]) -> Iterator[dict[str, Any]]:
        """Bounds of all unstable neurons by the lines of the verifier's own rule."""
        proof = self.certificate.proofs[-1]
        rule = SlopeRule.FIXED if proof.run.evidence.get("slopes") == SlopeRule.FIXED.value else SlopeRule.ADAPTIVE
        lines: dict[int, dict[str, np.ndarray]] = {}
        width = np.float32 if code is np.float32 else np.float16
        for node in self.graph.pre_activations:
            known, free = proof.bounds[node], torch.zeros(self.graph.nodes[node].size, dtype=torch.bool)
            readers = [a for a in self.graph.activations if self.graph.nodes[a].parents[0] == node]
            for a in readers:
                op = self.graph.nodes[a].op
                assert isinstance(op, Activation)
                open_ = op.unstable(known.lower[0], known.upper[0]).flatten().cpu()
                free |= open_
                found = op.relax(known.lower, known.upper, rule)
                both = (t[0].flatten().cpu()[open_].numpy() for t in (found.lower_slope, found.upper_slope))
                names = ("neurons", "slopes", "upper")
                lines[a] = dict(zip(names, (open_.nonzero().squeeze(1).numpy().astype(np.int32), *both), strict=True))
            neurons = free.nonzero().squeeze(1).numpy().astype(np.int32)
            below = [a for a in self.graph.activations if a in self.graph.ancestors[node]]
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

    @cached_property
    def _lines(self) -> list[NeuronSlopes]:
        """Of pre-activations, as they were found."""
        helpers = self.certificate.helpers
        return [
            line for run, i in helpers for line in run.lines if line.example == i and line.node != self.graph.output
        ]

    def _step(self, line: NeuronSlopes, code: type[np.generic]) -> dict[str, Any] | None:
        if line.node not in self.place:
            return None
        if line.tree is not None and line.row is not None:
            bounds = self._cases_bounds(line)
            rows = line.row.tolist()
            record = cases_of(line.tree, rows, self.graph, self.canonical, bounds, code)
            if record is None:
                return None
            # clauses of the record are places among the step's rows
            place = {row: k for k, row in enumerate(rows)}
            record["roots"][:, 0] = [place[int(row)] for row in record["roots"][:, 0]]
            return {
                "node": self.place[line.node], "neurons": line.neuron.numpy().astype(np.int32),
                "sides": line.side.numpy().astype(np.uint8), "cases": record,
            }  # fmt: skip
        return {
            "node": self.place[line.node], "neurons": line.neuron.numpy().astype(np.int32),
            "sides": line.side.numpy().astype(np.uint8), "slopes": self._placed(line).coded(self.network, code),
        }  # fmt: skip

    def _cases_bounds(self, line: NeuronSlopes) -> Bounds:
        """Of the run that has these cases."""
        for run, i in self.certificate.helpers:
            if any(line is own for own in run.lines):
                return run.bounds.select(torch.tensor([i])).to(torch.float64)
        return self.certificate.bounds.to(torch.float64)

    def _placed(self, line: NeuronSlopes) -> RecordedSlopes:
        return RecordedSlopes(
            {self.activations[a]: (n.numpy(), s.double().numpy()) for a, (n, s) in line.slopes.items()}
        )

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
        for proof in self.certificate.proofs:
            mine = [c for c in left if c in self.targets and self.targets[c][0] is proof]
            if mine:
                own = self._own(proof, mine, code)
                if own is None:
                    return None
                found += own
        return found

    def _own(self, proof: ExampleProof, clauses: list[int], code: type[np.generic]) -> list[dict[str, Any]] | None:
        """A proof's own evidence for some clauses."""
        if proof.tree is not None:
            record = cases_of(proof.tree, clauses, self.graph, self.canonical, proof.bounds.to(torch.float64), code)
            return None if record is None else [{"cases": record}]
        if proof.boxes is not None:
            return [{"boxes": boxes_of(proof.boxes, self.graph, self.canonical)}]
        rows = self.rows(clauses)
        if isinstance(proof.run.witness, SdpWitness):
            weights = [proof.run.witness.weights(self.spec.rows[0, row]) for row in rows]
            left, right = (np.stack([w[k].numpy() for w in weights]).astype(np.float32) for k in (0, 1))
            return [{"sdp": {"left": left, "right": right}, "rows": rows}]
        found = []
        for slopes, known in self._slopes(proof):
            place = {int(row): k for k, row in enumerate(known)}
            if all(int(row) in place for row in rows):
                chosen = slopes.select(np.array([place[int(row)] for row in rows]))
                found.append({"slopes": chosen.coded(self.network, code), "rows": rows})
        return found or None

    def _slopes(self, proof: ExampleProof) -> Iterator[tuple[RecordedSlopes, np.ndarray]]:
        """Slopes of a proof's rows, and the rows' numbers."""
        for line in proof.run.lines:
            if line.example == proof.index and line.node == self.graph.output:
                yield self._placed(line), line.neuron.numpy()
        duals = proof.dual_variables(self.graph)
        if not duals:
            return
        at = {}
        for node, dual in duals.items():
            op, known = self.graph.nodes[node].op, proof.bounds[self.graph.nodes[node].parents[0]]
            assert isinstance(op, Activation)
            free = op.unstable(known.lower[0], known.upper[0]).flatten().nonzero().squeeze(1)
            nu_hat, nu = (t.flatten(1)[:, free].double() for t in (dual.nu_hat, dual.nu))
            at[self.activations[node]] = free.cpu().numpy(), as_slopes(nu_hat, nu).cpu().numpy()
        yield RecordedSlopes(at), np.arange(self.spec.rows.shape[1])
