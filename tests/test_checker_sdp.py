"""The checker's semidefinite proofs: against exhaustion and the verifier's own, with wrong weights and eigenvectors."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from test_sdp import ROWS, exhaustive, graph_of, is_norm_at_most

from properties import LinfBall, Specification
from verifier.certificate.canonical import canonical
from verifier.certificate.checker import sdp
from verifier.certificate.checker.network import ACTIVATIONS, Network
from verifier.certificate.checker.walk import Ranges
from verifier.query import Query
from verifier.sdp import SdpBounds, TwoLayer


def layer_of(network: Network) -> int:
    return next(k for k, node in enumerate(network.nodes) if node.kind in ACTIVATIONS)


@pytest.mark.parametrize("name", ["relu", "steep", "sigmoid", "beside", "convolution"])
def test_rows_move_no_further_than_proved(name: str) -> None:
    graph = graph_of(name)
    found, network = SdpBounds(graph), canonical(graph).network
    found.solve(ROWS)
    kept = [found.certificate(row) for row in ROWS]
    left, right = (np.stack([getattr(c, side).numpy() for c in kept]) for side in ("left", "right"))
    radius = torch.linspace(0, 0.5, network.nodes[0].size, dtype=torch.float64)
    truth = exhaustive(TwoLayer.of(graph), ROWS, radius).numpy()

    def reach(a: np.ndarray, c: np.ndarray) -> np.ndarray:
        return sdp.reach(network.nodes, layer_of(network), ROWS.numpy(), a, c, radius.numpy())

    theirs = found.reach(ROWS, radius.reshape(1, *graph.nodes[0].shape))[0].numpy()
    assert (truth <= reach(left, right)).all()
    assert np.allclose(reach(left, right), theirs, rtol=1e-9, atol=0)
    generator = np.random.default_rng(0)
    assert (truth <= reach(generator.random(left.shape), generator.random(right.shape))).all()
    assert (truth <= reach(1e-150 * left, 1e150 * right)).all()
    with np.errstate(all="ignore"):
        for bad in (0 * left, np.nan * left, np.inf * left):
            assert not (reach(bad, right) < np.inf).any()
    x = torch.rand(1, *graph.nodes[0].shape, dtype=torch.float64)
    ball = LinfBall(x, 0.1)
    ends = [end.reshape(1, -1).numpy() for end in ball.box()]
    lower = sdp.bounds(Ranges(network, *ends, False), {"left": left, "right": right}, ROWS.numpy())
    spec = Specification(ROWS[None], torch.zeros(1, len(ROWS)).double(), torch.arange(len(ROWS)))
    assert np.allclose(lower, found.lower(Query.of(graph, ball, spec))[0].numpy(), rtol=1e-9, atol=1e-12)


def test_the_norm_holds_in_exact_arithmetic_whatever_the_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, right = np.random.default_rng(0), np.linalg.eigh
    for shape in ((1, 1), (4, 6), (5, 3)):
        k = generator.normal(size=shape)
        for vectors in (lambda v: v, lambda v: 0 * v, lambda v: v + 0.1, lambda v: 3 * v):
            for values in (lambda w: w, lambda w: 0.5 * w, lambda w: w - 1):
                monkeypatch.setattr(np.linalg, "eigh", lambda g, v=vectors, w=values: (w(right(g)[0]), v(right(g)[1])))
                assert is_norm_at_most(torch.from_numpy(k), sdp._norm(k))
        monkeypatch.setattr(np.linalg, "eigh", right)
        assert not is_norm_at_most(torch.from_numpy(k), sdp._norm(k) * (1 - 1e-11))


def test_what_the_proof_is_not_about() -> None:
    graph = graph_of("relu")
    network = canonical(graph).network
    low, high = np.zeros((1, 4)), np.ones((1, 4))
    weights = {"left": np.ones((1, 7)), "right": np.ones((1, 4))}
    row = np.eye(3)[:1]
    assert np.isfinite(sdp.bounds(Ranges(network, low, high, False), weights, row)).all()
    for ranges, record in (
        (Ranges(network, low, high, True), weights),
        (Ranges(network, low, high, False), {**weights, "left": np.ones((1, 4))}),
        (Ranges(network, low, high, False), {**weights, "right": np.ones((2, 4))}),
        (Ranges(Network(network.nodes[:2]), low, high, False), weights),
    ):
        with pytest.raises(ValueError, match=r"semidefinite|weights"):
            sdp.bounds(ranges, record, row)


def test_lengths_are_rounded_up() -> None:
    for x in (np.array([3.0, 4.0]), np.array([1e-200, 1e-200]), np.linspace(-1, 1, 1001), np.zeros(4)):
        assert Fraction(sdp._length(x)) ** 2 >= sum(Fraction(v) ** 2 for v in x.tolist())
