"""What a hostile reader found in the checker of certificates: each of these once proved something that is not so."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from properties import Perturbation
from verifier.certification.dataset import dataset
from verifier.certification.expected import Expected
from verifier.checker.backward import NodeRanges
from verifier.checker.check import check
from verifier.checker.document import Document, claim_digest
from verifier.checker.network import CanonicalNetwork, CanonicalNode


def node(kind: str, parents: tuple[int, ...], size: int, **rest: object) -> CanonicalNode:
    arrays = {name: value for name, value in rest.items() if isinstance(value, np.ndarray)}
    return CanonicalNode(kind, parents, size, arrays, {k: v for k, v in rest.items() if k not in arrays})


def document(network: CanonicalNetwork, specification: dict[str, object], arrays: dict[str, np.ndarray]) -> Document:
    """About the point arrays["x"], rows by intervals."""
    part = {"set": {"kind": "linf", "x": "x", "eps": 0.0}, "bounds": []}
    head = {"version": 1, "network": network.digest, "semantics": "real", "specification": specification}
    proofs = [{"rule": "interval", "rows": "chosen"}]
    head |= {"parts": [part | {"proofs": proofs}], "about": {"index": 0}}
    head["claim"] = claim_digest(head, arrays)
    return Document(head, arrays)


def test_what_underflows_at_the_input_is_paid_for() -> None:
    """Subnormal inputs times enormous coefficients are ordinary numbers, whose rounding once cost nothing."""
    rng = np.random.default_rng(0)
    identity = CanonicalNetwork((node("input", (), 5),))
    for scale in (1e-305, 1e-308, 1e-310, 1e-315):
        for _ in range(40):
            x, row = rng.normal(size=5) * scale, rng.normal(size=5) * 1e290
            ranges = NodeRanges(identity, x[None], x[None], False)
            bound = float(ranges.walk(0, row[None, None], ranges.lines("interval"))[0, 0])
            exact = sum(Fraction(c) * Fraction(z) for c, z in zip(row.tolist(), x.tolist(), strict=True))
            assert Fraction(bound) <= exact


@pytest.mark.parametrize(
    ("kind", "options", "value"),
    [("leaky", {"slope": 1e30}, -1e30), ("clip", {"low": 1e300, "high": 2e300}, 1.0)],
)
def test_nothing_is_proved_of_activations_beyond_float32(kind: str, options: dict[str, float], value: float) -> None:
    """In float32 these values are infinite."""
    network = CanonicalNetwork((node("input", (), 1), node(kind, (0,), 1, **options)))
    x = np.array([[value]])
    for float32, finite in ((False, True), (True, False)):
        ranges = NodeRanges(network, x, x, float32)
        ranges.forward(1, 2)
        with np.errstate(invalid="ignore"):
            bound = ranges.walk(1, np.ones((1, 1, 1)), ranges.lines("adaptive"))
        assert np.isfinite(bound).all() == finite


def test_parameters_that_are_subnormal_in_float32_are_rounded_by_more_than_a_unit_of_them() -> None:
    weight, x = 1.4e-45 * 1.4, np.float32(1e30)
    affine = node("matrix", (0,), 1, weight=np.array([[weight]]))
    for network in (
        CanonicalNetwork((node("input", (), 1), n)) for n in (affine, node("leaky", (0,), 1, slope=weight))
    ):
        point = np.array([[float(x)]]) * (1 if network.nodes[1].kind == "matrix" else -1)
        ranges = NodeRanges(network, point, point, True)
        ranges.forward(1, 2)
        value = float(np.float32(weight) * np.float32(point[0, 0]))
        assert value != weight * point[0, 0]
        assert float(ranges.low[1][0, 0]) <= value <= float(ranges.high[1][0, 0])


def test_rows_of_integers_are_refused_and_a_label_needs_a_robustness_claim() -> None:
    """Integers beyond 2^53 would be rounded; rows of their own may carry a label that nothing checks."""
    network = CanonicalNetwork((node("input", (), 2),))
    arrays = {"x": np.array([2.0, 1.0]), "rows": np.array([[0.0, 1.0]]), "offset": np.zeros(1)}
    arrays |= {"clause": np.zeros(1, np.int64), "chosen": np.zeros(1, np.int64)}
    own = {"kind": "rows", "rows": "rows", "offset": "offset", "clause": "clause", "label": 0}
    usual = {"kind": "robustness", "label": 0, "classes": 2}
    data = dataset(np.array([[2.0, 1.0]]), np.array([0]))
    for specification, right in ((own, False), (usual, True)):
        written = document(network, specification, arrays)
        assert check(network, written).valid
        assert (Expected(data, Perturbation(0.0)).contradiction(written, 0) == "") == right
    for name in ("rows", "offset"):
        assert (
            "not numbers" in check(network, document(network, own, {**arrays, name: arrays[name].astype(int)})).reason
        )


@pytest.mark.parametrize("stepwise", [False, True])
def test_multipliers_of_neurons_that_a_walk_does_not_pass_prove_nothing(stepwise: bool) -> None:
    """gamma (z - end) is at most 0; its constant -gamma end alone is any number."""
    pytest.importorskip("flint")
    from verifier.checker.exact import check_exactly

    # max(z, 0) of z in [-3, -1], and the double of it; stepwise: a bound of z by a multiplier of what comes after it
    one, fork = np.ones((1, 1)), np.array([[1.0], [2.0]])
    nodes = [node("input", (), 1), node("leaky", (0,), 1, slope=0.0), node("matrix", (1,), 2, weight=fork)]
    if stepwise:
        nodes = [nodes[0], node("matrix", (0,), 1, weight=one), node("leaky", (1,), 1, slope=0.0)]
        nodes += [node("matrix", (2,), 1, weight=one, bias=-np.ones(1)), node("leaky", (3,), 1, slope=0.0)]
        nodes.append(node("matrix", (2,), 2, weight=fork))
        nodes.append(node("sparse", (5, 4), 2, row=np.array([0, 1]), column=np.array([0, 1]), value=np.ones(2)))
    network, zero = CanonicalNetwork(tuple(nodes)), np.zeros(1, np.int64)
    arrays = {"x": np.array([-2.0]), "zero": zero, "none": zero - 1, "at": np.zeros(1), "slope": np.zeros((1, 1))}
    arrays |= {"roots": np.zeros((1, 2), np.int64), "weight": np.ones((1, 1)), "first": np.array([0, 1])}
    arrays |= {"gamma": np.array([1e6])}
    names = {"neuron": "none", "below": "zero", "above": "zero", "proof": "zero", "split": "zero"}
    names |= {name: name for name in ("roots", "at", "slope", "weight", "first", "gamma")}
    cases = {"neurons": {"4" if stepwise else "1": "zero"}, **names}
    part = {"set": {"kind": "linf", "x": "x", "eps": 1.0}, "bounds": [], "proofs": [{"cases": cases}]}
    if stepwise:
        part["bounds"] = [{"node": 1, "neurons": "zero", "sides": "zero", "cases": cases}]
        part["proofs"] = [{"rule": "adaptive", "rows": "zero"}]
    head = {"version": 1, "network": network.digest, "semantics": "real", "parts": [part]}
    head["specification"] = {"kind": "robustness", "label": 1, "classes": 2}
    head["claim"] = claim_digest(head, arrays)
    for checker in (check, check_exactly):
        found = checker(network, Document(head, arrays))
        assert not found.valid and "malformed" not in found.reason, found.reason
        assert -1e-9 < found.clauses[0] <= 0
