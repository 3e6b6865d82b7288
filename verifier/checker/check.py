"""Whether a certificate proves what it claims of a network. Anything malformed in it makes it invalid, with the reason.

Every step and every proof works all numbers out again, so that nothing in a certificate needs to be believed: a wrong
slope, interval or tree proves less, or nothing. A clause holds when one of its rows is positive all over the set (or
not negative, where the specification says of the row that it is `touching`), or when cases that cover the set prove it
each (`cases`); a union of sets is proved set by set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verifier.checker import directed, sets, subdomains
from verifier.checker.backward import NodeRanges, SlopeTable, units
from verifier.checker.document import Document, claim_digest
from verifier.checker.network import CanonicalNetwork
from verifier.checker.rounding import down

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """What checking found. `reason` is empty where the certificate is valid."""

    valid: bool
    reason: str
    lower: np.ndarray  #: [S] rigorous lower bounds of every row over the whole set; -inf where no row alone was bounded
    clauses: np.ndarray  #: [C] of every clause's largest row
    seconds: float
    parts: int  #: sets that the claim is about the union of
    #: what is known of the network's values on each; empty where the document is malformed
    sets: tuple[SetProof, ...] = field(default=(), repr=False, compare=False)


class Elsewhere(Exception):
    """A document that has nothing wrong, about something else."""


def check(network: CanonicalNetwork, document: Document, seconds: float = math.inf) -> Check:
    """Check a certificate. Never raises: a malformed one is invalid, with the reason.

    Args:
        seconds: after which it gives up: not valid, the time is up.
    """
    start, none = time.perf_counter(), np.zeros(0)
    try:
        with np.errstate(all="ignore"):
            lower, clauses, sets_ = _checked(network, document, time.monotonic() + seconds)
    except (TimeoutError, Elsewhere) as error:
        return Check(False, str(error), none, none, time.perf_counter() - start, 0)
    except Exception as error:  # whatever it is that a malformed document runs into
        reason = (
            f"malformed: {error}" if isinstance(error, ValueError) else f"malformed: {type(error).__name__}: {error}"
        )
        return Check(False, reason, none, none, time.perf_counter() - start, 0)
    open_ = [c for c in range(len(clauses)) if not clauses[c] > 0]
    shown = ", ".join(f"{c} (lower bound {clauses[c]:.3g})" for c in open_[:3]) + ", ..." * (len(open_) > 3)
    reason = f"{len(open_)} of {len(clauses)} clauses are not proved: {shown}" if open_ else ""
    return Check(not open_, reason, lower, clauses, time.perf_counter() - start, len(sets_), tuple(sets_))


def _checked(
    network: CanonicalNetwork, document: Document, deadline: float
) -> tuple[np.ndarray, np.ndarray, list[SetProof]]:
    head, arrays = announced(network, document), document.arrays
    if head["semantics"] not in ("real", "float32") or not head["parts"]:
        raise ValueError(f"semantics {head['semantics']!r} of {len(head['parts'])} parts")
    rows, offset, clause = specification(head["specification"], arrays, network.nodes[-1].size)
    touching = touching_rows(head["specification"], arrays, len(rows))
    lower, clauses, found = np.full(len(rows), np.inf), np.full(int(clause.max()) + 1, np.inf), []
    for record in head["parts"]:
        part = SetProof(
            network, arrays, record["set"], (rows, offset, clause), head["semantics"] == "float32", deadline, touching
        )
        for step in record["bounds"]:
            part.step(step)
        for proof in record["proofs"]:
            part.prove(proof)
        lower, clauses = np.minimum(lower, part.lower), np.minimum(clauses, part.best())
        found.append(part)
    return lower, clauses, found


def announced(network: CanonicalNetwork, document: Document) -> dict[str, Any]:
    """The head of a document of a known version, about this network, with its claim as it was made."""
    head = document.head
    if head["version"] != 1:
        raise ValueError(f"version {head['version']!r} is not known, only 1 is")
    if head["network"] != network.digest:
        raise Elsewhere(f"it is about another network, {head['network']!r}; this one is {network.digest!r}")
    if head["claim"] != claim_digest(head, document.arrays):
        raise ValueError("its claim was changed: the digest differs")
    return head


def specification(record: Any, arrays: Arrays, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [S, outputs], offsets [S] and clauses [S]."""
    if record["kind"] == "robustness":
        label, classes = record["label"], record["classes"]
        if type(label) is not int or classes != outputs or not 0 <= label < outputs or outputs < 2:
            raise ValueError(f"label {label!r} of {classes!r} classes, where the network has {outputs} outputs")
        rows = np.delete(np.eye(outputs)[label] - np.eye(outputs), label, axis=0)
        return rows, np.zeros(len(rows)), np.arange(len(rows))
    if record["kind"] != "rows":
        raise ValueError(f"no specification is of kind {record['kind']!r}")
    rows, offset, clause = (arrays[record[name]] for name in ("rows", "offset", "clause"))
    fine = rows.shape == (len(rows), outputs) and offset.shape == clause.shape == (len(rows),) and len(rows) > 0
    fine = fine and rows.dtype.kind == offset.dtype.kind == "f"  # large integers would be rounded
    if not fine or not np.isfinite(rows).all() or not np.isfinite(offset).all():
        raise ValueError("rows of the specification that do not fit the network's outputs, or are not numbers")
    if clause.dtype.kind != "i" or clause.max() >= len(clause) or set(clause.tolist()) != set(range(clause.max() + 1)):
        raise ValueError("clauses of the specification are numbered from 0 on, and each has a row")
    return rows.astype(np.float64), offset.astype(np.float64), clause


def touching_rows(record: Any, arrays: Arrays, count: int) -> np.ndarray:
    """[S] bool: the rows that hold at 0 as well; none of them where the specification does not say."""
    if "touching" not in record:
        return np.zeros(count, bool)
    touching = arrays[record["touching"]]
    if record["kind"] != "rows" or touching.dtype != np.bool_ or touching.shape != (count,):
        raise ValueError("touching needs a truth value for each row of the specification")
    return touching


class SetProof:
    """One set: what is known of the network's values on it, and what was proved of the rows and clauses."""

    def __init__(
        self, network: CanonicalNetwork, arrays: Arrays, record: Mapping[str, Any], spec: subdomains.Specification,
        float32: bool, deadline: float, touching: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.network, self.arrays, self.spec, self.kind = network, arrays, spec, record["kind"]
        self.touching = np.zeros(len(spec[0]), bool) if touching is None else touching
        options = {k: v for k, v in record.items() if k != "kind" and not isinstance(v, str)}
        numbers = {k: arrays[v] for k, v in record.items() if k != "kind" and isinstance(v, str)}
        low, high = sets.box(self.kind, options, numbers)
        if low.shape != (network.nodes[0].size,):
            raise ValueError(f"a set of {low.size} inputs, where the network has {network.nodes[0].size}")

        def minimum(c: np.ndarray) -> np.ndarray:
            return -sets.support(self.kind, options, numbers, -c.reshape(-1, c.shape[-1])).reshape(c.shape[:-1])

        self.boxed = self.kind in ("box", "linf")
        self.ranges = NodeRanges(network, low[None], high[None], float32, None if self.boxed else minimum, deadline)
        self.ranges.forward(1, len(network.nodes))
        self.lower = np.full(len(spec[0]), -np.inf)
        self.clauses = np.full(int(spec[2].max()) + 1, -np.inf)

    def copy(self) -> SetProof:
        """The same, for more to be learnt and proved of it than of this one."""
        new = copy(self)
        new.ranges, new.lower, new.clauses = self.ranges.copy(), self.lower.copy(), self.clauses.copy()
        return new

    def best(self) -> np.ndarray:
        """[C] lower bounds of every clause's largest row, by one row or as a whole."""
        clause, smallest = self.spec[2], np.finfo(np.float64).tiny
        judged = np.where(self.touching & (self.lower == 0), smallest, self.lower)  # of these, 0 is enough
        by_rows = [judged[clause == c].max() for c in range(len(self.clauses))]
        return np.maximum(self.clauses, by_rows)

    def step(self, step: Mapping[str, Any]) -> None:
        """Tighten intervals."""
        inner, ranges = self.network.pre_activations, self.ranges
        if "rule" in step:
            nodes = inner if step["nodes"] == "all" else step["nodes"]
            if not set(nodes) <= set(inner) or list(nodes) != sorted(nodes):
                raise ValueError(f"nodes {nodes} to bound, of which some are no pre-activations or out of order")
            return ranges.tighten_all(nodes, step["rule"])
        k, (neurons, sides) = step["node"], (self.arrays[step[name]] for name in ("neurons", "sides"))
        if k not in inner or not _indices(neurons, ranges.low[k].size) or not _indices(sides, 2):
            raise ValueError(f"neurons of node {k} that it does not have, or sides other than 0 and 1")
        if neurons.shape != sides.shape:
            raise ValueError("as many sides as neurons are needed")
        signs, n = 1.0 - 2.0 * sides, ranges.low[k].size
        if "cases" in step:
            rows = units(neurons, signs, n)[:, None]
            found = subdomains.by_neurons(ranges, self._record(step["cases"]), k, list(rows), [np.zeros(1)] * len(rows))
        else:
            given = self._slopes(step["slopes"], len(neurons))
            found = ranges.rows(
                k, lambda p: units(neurons[p], signs[p], n), len(neurons), lambda p: ranges.own_lines(_part(given, p))
            )
        low, high = ranges.low[k][0].copy(), ranges.high[k][0].copy()
        np.fmax.at(low, neurons[sides == 0], found[sides == 0])
        np.fmin.at(high, neurons[sides == 1], -found[sides == 1])
        ranges.learn(k, low[None], high[None])
        return ranges.forward(k + 1, len(self.network.nodes))

    def prove(self, proof: Mapping[str, Any]) -> None:
        """Bound rows or clauses."""
        rows, offset, clause = self.spec
        if "cases" in proof or "boxes" in proof:
            if "boxes" in proof and not self.boxed:
                raise ValueError(f"a proof by boxes of a set of kind {self.kind!r}")
            name, method = ("cases", subdomains.by_neurons) if "cases" in proof else ("boxes", subdomains.by_boxes)
            of = [clause == c for c in range(len(self.clauses))]
            grouped = [rows[m] for m in of], [offset[m] for m in of]
            found = method(self.ranges, self._record(proof[name]), len(self.network.nodes) - 1, *grouped)
            self.clauses = np.fmax(self.clauses, found)
            return
        chosen = self.arrays[proof["rows"]]
        if not _indices(chosen, len(rows)):
            raise ValueError("rows to prove that the specification does not have")
        if "sdp" in proof:
            from verifier.checker import sdp

            found = sdp.bounds(self.ranges, self._record(proof["sdp"]), rows[chosen])
        else:
            given = self._slopes(proof["slopes"], len(chosen)) if "slopes" in proof else {}
            rule = None if "slopes" in proof else self.ranges.lines(proof["rule"])
            found = self.ranges.rows(
                len(self.network.nodes) - 1, lambda p: rows[chosen[p]], len(chosen),
                lambda p: self.ranges.own_lines(_part(given, p)) if rule is None else rule,
            )  # fmt: skip
        np.fmax.at(self.lower, chosen, down(found + offset[chosen]))
        if proof.get("rule") == "interval" and self.touching[chosen].any():
            chosen = chosen[self.touching[chosen]]
            np.fmax.at(self.lower, chosen, directed.row_bounds(self.ranges, rows[chosen], offset[chosen]))

    def _record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """With arrays in place of their names."""
        return {k: self._record(v) if isinstance(v, dict) else self.arrays.get(v, v) for k, v in record.items()}

    def _slopes(self, record: Mapping[str, Any], count: int) -> SlopeTable:
        return subdomains.slopes_of(self.network, self._record(record), count)


def _part(given: SlopeTable, rows: slice) -> SlopeTable:
    return {k: {n: a if n == "neurons" else a[None, rows] for n, a in v.items()} for k, v in given.items()}


def _indices(a: np.ndarray, size: int) -> bool:
    """Whether these are places in something of that size."""
    return a.ndim == 1 and a.dtype.kind in "iu" and bool(((a >= 0) & (a < size)).all())
