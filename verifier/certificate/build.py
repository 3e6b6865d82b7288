"""From what the verifier knows of a VERIFIED to a certificate that the checker accepts.

The verifier's bounds are floating-point numbers; a certificate has none of them. It names rules and gives slopes, from
which the checker works everything out again, rigorously. So what to write is a matter of trying: the smallest first
(a rule for all bounds and all rows), then slopes of a byte, then wider ones, then slopes of the neurons' own bounds as
well. Each candidate is handed to the checker itself, and what is written is the first that it accepts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from properties import InputSet, Specification, robustness
from verifier.certificate.candidates import Candidates, Steps
from verifier.certificate.own_search import with_own_search
from verifier.certificate.proof import SetProofs
from verifier.checker.check import SetProof, check
from verifier.checker.document import Document, claim_digest
from verifier.checker.network import CanonicalNetwork
from verifier.errors import CertificateError, InternalError, RejectedError
from verifier.graph import Graph
from verifier.graph.canonical import Canonical, canonical

#: seconds for a tree of our own in place of a solver's word
SEARCH = 20.0


@dataclass
class Writer:
    """Collects arrays under names of their own."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, value: Any, name: str = "a") -> Any:
        """The value as JSON, with the names of its arrays in their place."""
        if isinstance(value, np.ndarray):
            self.arrays[name] = np.ascontiguousarray(value)
            return name
        if isinstance(value, dict):
            return {key: self(part, f"{name}.{key}") for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self(part, f"{name}.{i}") for i, part in enumerate(value)]
        return value


@dataclass(frozen=True)
class CertificateBuilder:
    """Certificates about one network.

    Args:
        graph: as it was imported.
        semantics: "real" or "float32", what the certificates are to hold for.
    """

    graph: Graph
    semantics: str = "real"

    @cached_property
    def canonical(self) -> Canonical:
        return canonical(self.graph)

    @property
    def network(self) -> CanonicalNetwork:
        return self.canonical.network

    def build(
        self,
        sets: Sequence[SetProofs],
        about: Mapping[str, Any] | None = None,
        deadline: float = math.inf,
        search: float = SEARCH,
        known: Document | None = None,
    ) -> Document:
        """The smallest document found that the checker accepts.

        Args:
            sets: what was proved of one example, set by set.
            about: free information for its head, JSON values.
            deadline: of time.monotonic(), after which nothing more is tried.
            search: seconds for a tree of our own, where the evidence is a solver's word.
            known: a document of the same that the checker has accepted already.

        Raises:
            RejectedError: the checker accepts nothing that can be made of the evidence.
            CertificateError: the evidence does not make a certificate, or the time is up.
            UnsupportedError: certificates do not know an operator of the network.
            InputError: the certificate is about another network.
        """
        info = {"stage": sets[-1].last.stage, **(about or {})}
        of = (self.network.digest, self.semantics)
        if known is not None and (known.head["network"], known.head["semantics"]) == of:
            return Document({**known.head, "about": info}, known.arrays)
        members = [with_own_search(member, self.graph, search) for member in sets]
        spec = specification(sets[-1].last.spec)
        parts = [self._part(member, spec, deadline) for member in members]
        return self.document(parts, spec, info)

    def document(self, parts: Sequence[dict[str, Any]], spec: dict[str, Any], about: Mapping[str, Any]) -> Document:
        """Of parts and a specification that still have arrays in them."""
        write = Writer()
        head: dict[str, Any] = {"version": 1, "network": self.network.digest, "semantics": self.semantics}
        head["about"] = dict(about)
        head["specification"] = write(spec, "specification")
        head["parts"] = [write(part, f"{i}") for i, part in enumerate(parts)]
        head["claim"] = claim_digest(head, write.arrays)
        return Document(head, write.arrays)

    def _part(self, member: SetProofs, spec: dict[str, Any], deadline: float) -> dict[str, Any]:
        """What proves one set: the first candidate that the checker accepts."""
        candidates = Candidates(self.canonical, self.graph, member)
        trial = _Trial(self, input_set(member.last.inputs), spec, deadline)
        rules: dict[Hashable, np.ndarray] = {}
        for steps, code in candidates.attempts():
            if steps.key not in rules:
                rules[steps.key] = trial.attempt(steps, candidates.by_rule(steps.rule))
            proofs = None if trial.accepted is not None else candidates.proofs(steps, rules[steps.key], code)
            if proofs is not None:
                trial.tried = True
                trial.attempt(steps, proofs)
            if trial.accepted is not None:
                return trial.accepted
        kind = RejectedError if trial.tried else CertificateError
        raise kind(f"the checker accepts no certificate made of the evidence of {member.last.stage!r}: {trial.reason}")


class _Trial:
    """Candidates for one part, shown to the checker; those with the same steps share what these cost."""

    def __init__(
        self, builder: CertificateBuilder, inputs: dict[str, Any], spec: dict[str, Any], deadline: float
    ) -> None:
        self.builder, self.inputs, self.spec, self.deadline = builder, inputs, spec, deadline
        self.accepted: dict[str, Any] | None = None
        self.reason = "there is no evidence of a kind that certificates have"
        self.tried = False  #: evidence of the proof's own, not only rules
        #: by the keys of steps: what they give
        self._parts: dict[Hashable, tuple[Steps, SetProof]] = {}

    def attempt(self, steps: Steps, proofs: list[dict[str, Any]]) -> np.ndarray:
        """Bounds [C] of the clauses by these proofs; the part is accepted where the checker takes it, alone."""
        part = {"set": self.inputs, "bounds": list(steps.steps), "proofs": proofs}
        document = self.builder.document([part], self.spec, {})
        # a tree of boxes is what a document of one costs, and the same at every width of slopes: it is walked once
        walked = any("boxes" in proof for proof in proofs)
        if steps.key not in self._parts and not walked:
            self._go_on(steps, document)
        if steps.key in self._parts and not walked:
            bounds = self._bounds(self._parts[steps.key][1], document)
            if not bool((bounds > 0).all()):
                self.reason = f"the least clause has {bounds.min():.3g} by {steps.name}"
                return bounds
        # what counts is the checker's word on the document, not what was put together here
        found = check(self.builder.network, document, self.deadline - time.monotonic())
        if found.valid:
            self.accepted = part
        elif time.monotonic() > self.deadline:
            raise _late()
        elif not found.sets:
            raise InternalError(f"the checker finds a certificate that was just made {found.reason}")
        else:
            self.reason = f"the least clause has {found.clauses.min():.3g} by {steps.name}"
            self._parts.setdefault(steps.key, (steps, found.sets[0]))
        return found.clauses

    def _go_on(self, steps: Steps, document: Document) -> None:
        """What steps give that begin as known ones do, from what those give; nothing where there are none."""
        starts = [known for known in self._parts.values() if steps.begin_with(known[0])]
        if not starts:
            return
        start, known = max(starts, key=lambda one: len(one[0].steps))
        part = known.copy()
        part.arrays = document.arrays
        try:
            with np.errstate(all="ignore"):
                for step in document.head["parts"][0]["bounds"][len(start.steps) :]:
                    part.step(step)
        except TimeoutError:
            raise _late() from None
        self._parts[steps.key] = steps, part

    def _bounds(self, part: SetProof, document: Document) -> np.ndarray:
        """Bounds [C] of the clauses by a document's proofs, from what its steps are known to give."""
        part.arrays = document.arrays
        part.lower[:], part.clauses[:] = -np.inf, -np.inf
        try:
            with np.errstate(all="ignore"):
                for proof in document.head["parts"][0]["proofs"]:
                    part.prove(proof)
        except TimeoutError:
            raise _late() from None
        return part.best()


def _late() -> CertificateError:
    return CertificateError("there was no time left to check the certificate")


def specification(spec: Specification) -> dict[str, Any]:
    """Of one example, with its arrays."""
    spec = spec.to(torch.device("cpu"))
    rows, offset, clause = spec.rows[0].double(), spec.offset[0].double(), spec.clause
    classes = rows.shape[1]
    if spec.label is not None and classes > 1 and 0 <= int(spec.label[0]) < classes:
        usual = robustness(spec.label, classes)
        same = usual.rows[0].shape == rows.shape and torch.equal(usual.rows[0], rows)
        same = same and (spec.touching is None or not bool(spec.touching.any()))
        if same and not bool(offset.any()) and torch.equal(usual.clause, clause):
            return {"kind": "robustness", "label": int(spec.label[0]), "classes": classes}
    found = {"kind": "rows", "rows": rows.numpy(), "offset": offset.numpy(), "clause": clause.numpy().astype(np.int64)}
    if spec.touching is not None and bool(spec.touching.any()):
        found["touching"] = spec.touching[0].numpy()
    return found


def input_set(inputs: InputSet) -> dict[str, Any]:
    """Of one example, with its arrays."""
    try:
        record = inputs.to(torch.device("cpu")).record()
    except ValueError as error:
        raise CertificateError(str(error)) from None
    return {"kind": record.kind, **record.options, **record.arrays}
