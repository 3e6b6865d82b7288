"""Bounds by norms of the layers: the paper's formulas, where they stand, and that certificates are made of them."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.sdp import MODELS, dense, graph_of
from torch import nn

from properties import LinfBall, robustness
from verifier import import_torch, verify
from verifier.bound_map import Bounds
from verifier.budget import Budget
from verifier.checker.check import check
from verifier.checker.document import Document
from verifier.evidence import RecordRequest
from verifier.graph.canonical import canonical
from verifier.query import Query
from verifier.sdp import SdpBounds, SdpCertificate
from verifier.sdp.coupling import Coupling
from verifier.sdp.norms import NormEvidence
from verifier.stages import stage

EPS = 0.05


def model_and_inputs(count: int = 5) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(1)
    return dense(nn.ReLU()).double().eval(), torch.rand(count, 4, dtype=torch.float64)


@pytest.mark.parametrize(("name", "order"), [("spectral", 2), ("frobenius", "fro")])
def test_the_stage_has_the_paper_s_bound(name: str, order: int | str) -> None:
    """Eq. 17 and 18: the margin less eps sqrt(d) ||W|| ||V_i - V_j||."""
    model, x = model_and_inputs()
    label = model(x).argmax(1)
    made = stage(name)
    lower = made.run(
        Query.of(import_torch(model, x[:1]), LinfBall(x, EPS), robustness(label, 3)), Bounds(), Budget()
    ).lower
    assert lower is not None
    first, last = model[1].weight.detach(), model[3].weight.detach()  # type: ignore[index]
    outputs = model(x).detach()
    for i, y in enumerate(label.tolist()):
        for k, j in enumerate(j for j in range(3) if j != y):
            norm = torch.linalg.matrix_norm(first, order)  # type: ignore[arg-type]
            expected = outputs[i, y] - outputs[i, j] - EPS * 2 * norm * (last[y] - last[j]).norm()
            assert float(lower[i, k]) == pytest.approx(float(expected), abs=1e-7)


@pytest.mark.parametrize("name", ["spectral", "frobenius"])
def test_the_reach_is_never_below_the_exact_one(name: str) -> None:
    """One input, one neuron: what a row can move is a product of three numbers, here as fractions."""
    torch.manual_seed(3)
    for _ in range(8):
        model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).double().eval()
        radius = torch.rand(1, 1, dtype=torch.float64)
        bounds = SdpBounds(import_torch(model, radius))
        found = getattr(bounds, name)(torch.eye(2, dtype=torch.float64), radius)[0]
        first, last = (model[k].weight.detach().flatten().tolist() for k in (0, 2))
        for reach, weight in zip(found.tolist(), last, strict=True):
            exact = abs(Fraction(weight) * Fraction(first[0])) * Fraction(float(radius))
            assert exact <= Fraction(reach) <= exact * (1 + Fraction(1, 10**12))


def test_each_is_above_the_next() -> None:
    """Semidefinite, spectral, Frobenius: from tight to loose, on every row of every input."""
    model, x = model_and_inputs()
    query = Query.of(import_torch(model, x[:1]), LinfBall(x, EPS), robustness(model(x).argmax(1), 3))
    lower = [stage(name).run(query, Bounds(), Budget()).lower for name in ("sdp", "spectral", "frobenius")]
    for better, worse in pairwise(lower):
        assert better is not None and worse is not None and bool((better > worse).all())


@pytest.mark.parametrize("name", sorted({*MODELS} - {"beside"}))
def test_its_certificate_proves_no_less(name: str) -> None:
    """Where nothing goes by the neurons: weights written out by hand reach no further than eq. 17."""
    graph = graph_of(name, 7)
    known = SdpBounds(graph)
    x = torch.rand(1, *graph.input_shape, dtype=torch.float64)
    spec = robustness(graph.forward(x).argmax(1), 3)
    query = Query.of(graph, LinfBall(x, 0.1), spec)
    asked = RecordRequest(canonical(graph), query, Bounds(), (0, 1), np.arange(2), np.uint8)
    (record,) = NormEvidence("spectral").proof(asked) or []
    radius = torch.full((1, *graph.input_shape), 0.1, dtype=torch.float64)
    coupling = Coupling.of(known.network, spec.rows[0].double())
    spectral = known.spectral(spec.rows[0].double(), radius)
    for s in range(2):
        left, right = (torch.from_numpy(record["sdp"][side][s]).double() for side in ("left", "right"))
        reach = SdpCertificate.of(coupling, s, left, right).reach(radius.flatten(1))
        assert float(reach) <= float(spectral[0, s]) * (1 + 1e-5)


@pytest.mark.parametrize("name", ["spectral", "frobenius"])
def test_its_proofs_are_checked(name: str, tmp_path: Path) -> None:
    model, x = model_and_inputs()
    label = model(x).argmax(1)
    result = verify(model, x, 0.01, label=label, stages=[name])
    assert result.summary()["verified"] >= 2
    for i, certificate in enumerate(result.certificate):
        if certificate is not None:
            certificate.save(tmp_path / f"{i}.cert")
            found = check(canonical(certificate.proofs[0].graph()).network, Document.read(tmp_path / f"{i}.cert"))
            assert found.valid, found.reason
