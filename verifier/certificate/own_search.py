"""A tree of cases of our own where the evidence is a solver's word, which no certificate can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from verifier.bounds import Bounds
from verifier.budget import Budget
from verifier.certificate.evidence import ExampleProof
from verifier.errors import CertificateError
from verifier.graph import Graph
from verifier.query import Query
from verifier.stages.branch import BranchStage
from verifier.verdict import Trust

if TYPE_CHECKING:
    from verifier.certificate.evidence import Certificate


def with_own_search(certificate: Certificate, graph: Graph, seconds: float) -> Certificate:
    """The certificate itself, or with a search's trees in place of a solver's word.

    Raises:
        CertificateError: it has nothing but such words, or probabilities, and the search did not finish.
    """
    if certificate.trust not in (Trust.SOLVER, Trust.PROBABILISTIC):
        return certificate
    kind = "a solver's word" if certificate.trust is Trust.SOLVER else "a probability"
    advice = "name stages that prove by arithmetic of ours, such as 'branch'"
    error = CertificateError(f"{kind} has no certificate; {advice} (this was proved by {certificate.stage!r})")
    if certificate.trust is Trust.PROBABILISTIC or seconds <= 0:
        raise error
    proofs = tuple(p for p in certificate.proofs if p.run.evidence.get("rule") != "milp")
    last, clause = certificate.proofs[-1], certificate.spec.clause
    covered = {c for p in proofs for c in (*clause[p.rows].tolist(), *p.clauses.tolist())}
    left = torch.tensor([c not in covered for c in range(certificate.spec.clauses)])
    query = Query.of(graph.to("cpu", torch.float64), last.inputs, last.spec).on(torch.device("cpu"))
    query = replace(query, open=left[clause.cpu()].unsqueeze(0))
    report = BranchStage(share=1.0).run(query, Bounds(), Budget(seconds))
    if report.clauses is None or not bool((report.clauses[0][left] > 0).all()):
        raise error
    made = replace(
        last.run, stage="branch", evidence=report.evidence, query=query, bounds=report.bounds, multipliers=None,
        trees=report.trees, witness=None, boxes=None, lines=report.lines,
    )  # fmt: skip
    found = ExampleProof(made, 0, torch.zeros(0, dtype=torch.int64), left.nonzero().squeeze(1))
    helpers = (*certificate.helpers, (made, 0))
    return replace(certificate, proofs=(*proofs, found), trust=report.trust, helpers=helpers)
