"""A tree of subdomains of our own where the evidence is a solver's word, which no certificate can hold."""

from __future__ import annotations

from dataclasses import replace

import torch

from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.certificate.proof import ExampleProof, SetProofs
from verifier.errors import CertificateError
from verifier.graph import Graph
from verifier.query import Query
from verifier.stages.branch import BranchStage
from verifier.verdict import Trust


def with_own_search(found: SetProofs, graph: Graph, seconds: float) -> SetProofs:
    """The proofs themselves, or with a search's trees in place of a solver's word.

    Raises:
        CertificateError: there is nothing but such words, or probabilities, and the search did not finish.
    """
    if found.trust not in (Trust.SOLVER, Trust.PROBABILISTIC):
        return found
    kind = "a solver's word" if found.trust is Trust.SOLVER else "a probability"
    advice = "name stages that prove by arithmetic of ours, such as 'branch'"
    error = CertificateError(f"{kind} has no certificate; {advice} (this was proved by {found.last.stage!r})")
    if found.trust is Trust.PROBABILISTIC or seconds <= 0:
        raise error
    proofs, last = tuple(p for p in found.proofs if p.evidence.recordable), found.last
    clause = last.spec.clause
    covered = {c for p in proofs for c in (*clause[p.rows].tolist(), *p.clauses.tolist())}
    left = torch.tensor([c not in covered for c in range(last.spec.clauses)])
    query = Query.of(graph.to("cpu", torch.float64), last.inputs, last.spec).on(torch.device("cpu"))
    query = replace(query, open=left[clause.cpu()].unsqueeze(0))
    report = BranchStage(share=1.0).run(query, Bounds(), Budget(seconds))
    if report.clauses is None or not bool((report.clauses[0][left] > 0).all()):
        raise error
    made = replace(
        last.run, stage="branch", evidence=report.evidence, query=query, bounds=report.bounds, neurons=report.neurons
    )
    own = ExampleProof(made, 0, torch.zeros(0, dtype=torch.int64), left.nonzero().squeeze(1))
    return SetProofs((*proofs, own), report.trust, (*found.helpers, (made, 0)))
