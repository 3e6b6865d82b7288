"""Whether a certificate proves what it claims, in rational numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from verifier.checker import subdomains
from verifier.checker.check import Check, Elsewhere, announced, specification, touching_rows
from verifier.checker.document import Document
from verifier.checker.errors import ExactError
from verifier.checker.exact.model import ExactModel, Matrix, Number, Vector
from verifier.checker.exact.ranges import Chooser, ExactRanges
from verifier.checker.exact.region import ExactRegion
from verifier.checker.exact.subdomains import by_boxes, by_neurons, least_of, most_of
from verifier.checker.network import CanonicalNetwork

#: multiplications in all: minutes of work
WORK = 3_000_000_000


def check_exactly(network: CanonicalNetwork, document: Document, work: int = WORK) -> Check:
    """Check a certificate in rational arithmetic. A malformed one is invalid, with the reason.

    Args:
        work: multiplications that are done at most.

    Raises:
        ExactError: python-flint is missing, the network is too large, or the certificate is about something that this
            does not know: smooth activations, float32 semantics, sets other than linf, box and l1, semidefinite proofs.
    """
    start = time.perf_counter()
    model = ExactModel(network, work)
    try:
        lower, clauses = _checked(model, document)
    except ExactError:
        raise
    except Elsewhere as error:
        return Check(False, str(error), np.zeros(0), np.zeros(0), time.perf_counter() - start, 0)
    except RecursionError:
        raise ExactError("a tree of boxes is too deep for rational arithmetic: check this one without it") from None
    except Exception as error:  # whatever it is that a malformed document runs into
        reason = (
            f"malformed: {error}" if isinstance(error, ValueError) else f"malformed: {type(error).__name__}: {error}"
        )
        return Check(False, reason, np.zeros(0), np.zeros(0), time.perf_counter() - start, 0)
    left = [c for c, value in enumerate(clauses) if value is None or not value > 0]
    reason = f"{len(left)} of {len(clauses)} clauses are not proved, the first is {left[0]}" if left else ""
    rows, whole = (np.array([_below(value) for value in values]) for values in (lower, clauses))
    return Check(not left, reason, rows, whole, time.perf_counter() - start, len(document.head["parts"]))


def _checked(model: ExactModel, document: Document) -> tuple[list[Number | None], list[Number | None]]:
    head, arrays = announced(model.network, document), document.arrays
    if head["semantics"] != "real":
        raise ExactError(f"only real semantics can be checked in rational arithmetic, not {head['semantics']!r}")
    rows, offset, clause = specification(head["specification"], arrays, model.network.nodes[-1].size)
    touching = touching_rows(head["specification"], arrays, len(rows))
    spec = _ExactSpecification(
        model.matrix(rows), model.vector(offset), [np.flatnonzero(clause == c) for c in range(clause.max() + 1)]
    )
    parts, one = [], model.number(float(np.finfo(np.float64).tiny))  # above 0, of rows that need no more than 0
    for record in head["parts"]:
        part = _ExactSetProof(model, arrays, record["set"], spec)
        for step in record["bounds"]:
            part.step(step)
        for proof in record["proofs"]:
            part.prove(proof)
        judged = [one if value == 0 and met else value for value, met in zip(part.lower, touching, strict=True)]
        best = [most_of([part.clauses[c], *(judged[r] for r in of)]) for c, of in enumerate(spec.clauses)]
        parts.append((part.lower, best))
    if not parts:
        raise ValueError("a certificate of no set")
    lower, clauses = ([least_of(list(of)) for of in zip(*lists, strict=True)] for lists in zip(*parts, strict=True))
    return lower, clauses


def _below(value: Number | None) -> float:
    """The largest float that is not above."""
    if value is None:
        return -math.inf
    exact = Fraction(int(value.p), int(value.q))
    near = float(exact)
    return near if Fraction(near) <= exact else math.nextafter(near, -math.inf)


class _ExactSpecification:
    def __init__(self, rows: Matrix, offset: Vector, clauses: list[np.ndarray]) -> None:
        self.rows, self.offset, self.clauses = rows, offset, clauses


class _ExactSetProof:
    """One set, and what was proved on it: a number for every row and clause, or None."""

    def __init__(
        self, model: ExactModel, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], spec: _ExactSpecification
    ) -> None:
        self.model, self.arrays, self.spec = model, arrays, spec
        self.inputs = ExactRegion.of(model, record, arrays)
        self.ranges = ExactRanges(model, self.inputs)
        self.ranges.forward(1)
        self.lower: list[Number | None] = [None] * spec.rows.nrows()
        self.clauses: list[Number | None] = [None] * len(spec.clauses)
        self.last = len(model.network.nodes) - 1

    def step(self, step: Mapping[str, Any]) -> None:
        inner = self.model.network.pre_activations
        if "rule" in step:
            nodes = inner if step["nodes"] == "all" else step["nodes"]
            if not set(nodes) <= set(inner) or list(nodes) != sorted(nodes):
                raise ValueError(f"nodes {nodes} to bound, of which some are no pre-activations or out of order")
            self.ranges.tighten(nodes, step["rule"])
            return
        k, neurons, sides = step["node"], *(self.arrays[step[name]].astype(np.int64) for name in ("neurons", "sides"))
        fits = (
            k in inner and neurons.shape == sides.shape == (len(neurons),) and bool(((sides == 0) | (sides == 1)).all())
        )
        if not fits or not ((neurons >= 0) & (neurons < self.model.network.nodes[k].size)).all():
            raise ValueError(f"neurons of node {k} that it does not have, or sides other than 0 and 1")
        rows = self.ranges.units(k, neurons, sides)
        if "cases" in step:
            clauses = [([row], [self.model.number(0.0)]) for row in rows.tolist()]
            found = by_neurons(self.ranges, self._record(step["cases"]), k, clauses)
        else:
            found = self.ranges.walk(k, rows, self._own(step["slopes"], len(neurons)), self.inputs)
        self.ranges.neurons(k, neurons, sides, found)

    def prove(self, proof: Mapping[str, Any]) -> None:
        if "sdp" in proof:
            raise ExactError("semidefinite proofs are not known in rational arithmetic: check this one without it")
        table = self.spec.rows.tolist()
        if "cases" in proof or "boxes" in proof:
            clauses = [([table[r] for r in of], [self.spec.offset[r] for r in of]) for of in self.spec.clauses]
            record = self._record(proof["cases" if "cases" in proof else "boxes"])
            if "cases" in proof:
                found = by_neurons(self.ranges, record, self.last, clauses)
            else:
                found = by_boxes(self.ranges, record, clauses)
            self.clauses = [most_of(pair) for pair in zip(self.clauses, found, strict=True)]
            return
        chosen = self.arrays[proof["rows"]].astype(np.int64).tolist()
        if not all(0 <= r < len(table) for r in chosen):
            raise ValueError("rows to prove that the specification does not have")
        rows = self.model.rows([table[r] for r in chosen], self.spec.rows.ncols())
        choose = self._own(proof["slopes"], len(chosen)) if "slopes" in proof else self.ranges.by_rule(proof["rule"])
        for r, value in zip(chosen, self.ranges.walk(self.last, rows, choose, self.inputs), strict=True):
            self.lower[r] = most_of([self.lower[r], value + self.spec.offset[r]])

    def _record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {k: self._record(v) if isinstance(v, dict) else self.arrays.get(v, v) for k, v in record.items()}

    def _own(self, record: Mapping[str, Any], count: int) -> Chooser:
        return self.ranges.own(subdomains.slopes_of(self.model.network, self._record(record), count))
