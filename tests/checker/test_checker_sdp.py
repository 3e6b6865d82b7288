"""The checker's semidefinite proofs: against exhaustion and the verifier's own, with wrong weights and eigenvectors."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.sdp import ROWS, exhaustive, graph_of, is_norm_at_most

from properties import LinfBall, Specification
from verifier.checker import sdp
from verifier.checker.backward import NodeRanges
from verifier.checker.network import ACTIVATIONS, CanonicalNetwork, CanonicalNode
from verifier.graph.canonical import canonical
from verifier.query import Query
from verifier.sdp import SdpBounds, TwoLayer


def layer_of(network: CanonicalNetwork) -> int:
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
    lower = sdp.bounds(NodeRanges(network, *ends, False), {"left": left, "right": right}, ROWS.numpy())
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
    assert np.isfinite(sdp.bounds(NodeRanges(network, low, high, False), weights, row)).all()
    for ranges, record in (
        (NodeRanges(network, low, high, True), weights),
        (NodeRanges(network, low, high, False), {**weights, "left": np.ones((1, 4))}),
        (NodeRanges(network, low, high, False), {**weights, "right": np.ones((2, 4))}),
        (NodeRanges(CanonicalNetwork(network.nodes[:2]), low, high, False), weights),
    ):
        with pytest.raises(ValueError, match=r"semidefinite|weights"):
            sdp.bounds(ranges, record, row)


def affine(parent: int, weight: np.ndarray, **options: int) -> CanonicalNode:
    return CanonicalNode("matrix", (parent,), len(weight), {"weight": weight}, dict(options))


def moved(nodes: tuple[CanonicalNode, ...], row: np.ndarray, left: np.ndarray, radius: float, layer: int) -> Fraction:
    nodes = CanonicalNetwork((CanonicalNode("input", (), 1, {}, {}), *nodes)).nodes
    found = sdp.reach(nodes, layer, row[None], left[None], np.ones((1, 1)), np.array([radius]))
    return Fraction(found.item())


LINE = CanonicalNode(
    "leaky", (2,), 1, {}, {"slope": 1.0}
)  #: of one slope: the row moves by its coefficient times the radius
TINY_TERMS = np.full((20000, 1), 0.9 * 2.0**-53)


@pytest.mark.parametrize("head", [1 + 2.0**-10, -1 - 2.0**-10])
def test_sums_on_the_way_to_a_neuron_and_from_it_are_paid_for(head: float) -> None:
    """Of a large number and many that are each lost beside it."""
    hard, ones = np.concatenate([[[head]], np.sign(head) * TINY_TERMS]), np.ones((1, 20001))
    weights = np.array([1.0, 0.0])
    exact = sum(map(Fraction, hard[:, 0].tolist()), Fraction(0))
    before = affine(0, hard), affine(1, ones), LINE, affine(3, np.ones((1, 1)))
    after = affine(0, np.ones((1, 1))), affine(1, np.ones((1, 1))), LINE, affine(3, hard), affine(4, ones)
    for row, left in ((1.0, weights), (-0.3, weights), (1.0, np.array([1.0, 1e-9])), (1e-100, 1e9 * weights)):
        for nodes in (before, after):
            assert moved(nodes, np.array([row]), left, 0.3, 3) >= abs(exact) * abs(Fraction(row)) * Fraction(0.3)


def test_rows_that_nearly_cancel_are_paid_for() -> None:
    small = 0.4 * 2.0**-53
    last = affine(3, np.array([[1.0], [-small], [1.0]]))
    nodes = affine(0, np.ones((1, 1))), affine(1, np.ones((1, 1))), LINE, last
    assert moved(nodes, np.array([1.0, 1.0, -1.0]), np.array([1.0, 0.0]), 1.0, 3) >= Fraction(small)


def test_parameters_that_are_off_are_paid_for() -> None:
    one = np.ones((1, 1))
    nodes = affine(0, one, ulps=10**6), affine(1, one), LINE, affine(3, one)
    assert moved(nodes, np.ones(1), np.array([1.0, 0.0]), 1.0, 3) >= 1 + Fraction(10**6, 2**53)


def test_products_of_subnormal_numbers_move_a_row() -> None:
    for scale in (1e-155, 1e-160, 1e-162, 1e-170):
        nodes = affine(0, np.full((1, 1), scale)), affine(1, np.ones((1, 1))), LINE, affine(3, np.full((1, 1), scale))
        assert moved(nodes, np.ones(1), np.array([1.0, 0.0]), 1e140, 3) >= Fraction(scale) ** 2 * Fraction(1e140)


@pytest.mark.parametrize("ends", [(-1.0, 2.0), (0.1, 0.3), (-0.7, -0.1), (1e17, 1e17 + 64)])
def test_bounds_of_a_line_are_below_its_least_value(ends: tuple[float, float]) -> None:
    """Of several outputs, in the middle of the box and at its ends."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, last = rng.normal(size=(1, 1)), rng.normal(size=(6, 1))
        nodes = affine(0, first), affine(1, np.ones((1, 1))), LINE, affine(3, last)
        network, rows = CanonicalNetwork((CanonicalNode("input", (), 1, {}, {}), *nodes)), rng.normal(size=(3, 6))
        ranges = NodeRanges(network, *(np.array([[end]]) for end in ends), False)
        weights = {"left": np.tile([[1.0, 0.0]], (3, 1)), "right": np.ones((3, 1))}
        for row, found in zip(rows.tolist(), sdp.bounds(ranges, weights, rows).tolist(), strict=True):
            slope = sum(Fraction(a) * Fraction(b) for a, b in zip(row, last[:, 0].tolist(), strict=True))
            assert Fraction(found) <= min(slope * Fraction(first.item()) * Fraction(end) for end in ends)


@pytest.mark.parametrize("n", [1, 150])
def test_the_value_in_the_middle_is_paid_for(n: int) -> None:
    """Outputs that are a limit, in rows that are hard to add up, and a box that is a point."""
    rng = np.random.default_rng(1)
    hard = np.append(1 + 2.0**-10, TINY_TERMS[: n - 1, 0])
    rows = np.concatenate([rng.normal(size=(12, n)), [hard, -hard]])
    weights = {"left": np.ones((len(rows), n + 1)), "right": np.ones((len(rows), n))}
    for limit in (0.7, -0.7, 1.0, -1.0):
        clip = CanonicalNode("clip", (0,), n, {}, {"low": limit - 1, "high": limit})
        ranges = NodeRanges(
            CanonicalNetwork((CanonicalNode("input", (), n, {}, {}), clip)), *2 * [np.full((1, n), 5.0)], False
        )
        for row, found in zip(rows.tolist(), sdp.bounds(ranges, weights, rows).tolist(), strict=True):
            assert Fraction(found) <= sum(map(Fraction, row)) * Fraction(limit)
        weak = {"left": np.full((1, n + 1), 1e-100), "right": np.full((1, n), 1e-100)}
        assert sdp.bounds(ranges, weak, np.zeros((1, n))).item() <= 0


def test_what_is_unknown_is_below_everything() -> None:
    one, weights = np.ones((1, 1)), {"left": np.array([[1.0, 0.0]]), "right": np.ones((1, 1))}
    nodes = (CanonicalNode("input", (), 1, {}, {}), affine(0, one), affine(1, one), LINE, affine(3, one))
    huge = (*nodes[:4], affine(3, np.array([[1e308]])))
    cases = [(nodes, {**weights, "left": np.full((1, 2), bad)}, one) for bad in (np.nan, np.inf, 0.0)]
    with np.errstate(all="ignore"):
        for own, record, row in [*cases, (huge, weights, 1e10 * one), (nodes, weights, np.inf * one)]:
            assert sdp.bounds(NodeRanges(CanonicalNetwork(own), -9 * one, 10 * one, False), record, row).tolist() == [
                -np.inf
            ]


def test_lengths_are_rounded_up() -> None:
    for x in (np.array([3.0, 4.0]), np.array([1e-200, 1e-200]), np.linspace(-1, 1, 1001), np.zeros(4)):
        assert Fraction(sdp._length(x)) ** 2 >= sum(Fraction(v) ** 2 for v in x.tolist())
