"""Steps and proofs of a certificate, one at a time: what they come to, and which are refused."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from test_checker import Arrays, check, claimed, node, plain, split_case

from verifier.checker.check import SetProof
from verifier.checker.document import Document
from verifier.checker.network import CanonicalNetwork


def part(network: CanonicalNetwork, arrays: Arrays, x: float, eps: float, offset: float = 0.0) -> SetProof:
    spec = np.ones((1, network.nodes[-1].size)), np.full(1, offset), np.zeros(1, int)
    given = {"x": np.full(network.nodes[0].size, x), "all": np.zeros(1, int), **arrays}
    return SetProof(network, given, {"kind": "linf", "x": "x", "eps": eps}, spec, False, np.inf)


def test_steps_bound_the_sides_that_they_name() -> None:
    """relu(x) - relu(x) + 5 on [-1, 1] by slopes of 1/2 is within 1/2 of 5."""
    twice = node("matrix", (0,), 2, {"weight": np.ones((2, 1))})
    last = node("matrix", (2,), 1, {"weight": np.array([[1.0, -1.0]]), "bias": np.array([5.0])})
    nodes = (node("input", (), 1), twice, node("leaky", (1,), 2, slope=0.0), last, node("abs", (3,), 1))
    arrays = {"both": np.array([0, 1]), "half": np.full((1, 2), 0.5), "halves": np.full((2, 2), 0.5)}
    arrays |= {"one": np.zeros(1, int), "two": np.zeros(2, int), "lower": np.zeros(1, int), "upper": np.ones(1, int)}
    for neurons, sides, slopes, low, high in (
        ("one", "lower", "half", 4.5, 6), ("one", "upper", "half", 4, 5.5), ("two", "both", "halves", 4.5, 5.5)
    ):  # fmt: skip
        own = part(CanonicalNetwork(nodes), arrays, 0.0, 1.0)
        given = {"2": {"neurons": "both", "slopes": slopes}}
        own.step({"node": 3, "neurons": neurons, "sides": sides, "slopes": given})
        for k in (3, 4):
            assert low - 1e-9 < own.ranges.low[k].item() <= low and high <= own.ranges.high[k].item() < high + 1e-9


def test_steps_that_do_not_fit_are_refused() -> None:
    network, good = plain()
    known = {**good.arrays, "one": np.zeros(1, int)}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"rule": "adaptive", "nodes": [2]}, "to bound"), ({"rule": "adaptive", "nodes": [1, 1, 0]}, "to bound"),
        ({"rule": "adaptive", "nodes": [3]}, "to bound"),
        ({"node": 1, "neurons": "k", "sides": "one", "slopes": {}}, "as many sides"),
        ({"node": 2, "neurons": "k", "sides": "sides", "slopes": {}}, "does not have"),
    ]  # fmt: skip
    for step, message in wrong:
        parts = [{**good.head["parts"][0], "bounds": [step]}]
        assert message in check(network, claimed({**good.head, "parts": parts}, known)).reason
    for rows in (np.array([-1]), np.array([2]), np.array([[0]]), np.array([0.0])):
        assert "rows to prove" in check(network, Document(good.head, {**good.arrays, "rows": rows})).reason
    own = part(CanonicalNetwork((*network.nodes, node("abs", (4,), 3), node("abs", (5,), 3))), {}, 1.0, 0.1)
    for nodes in ([4, 1], [5, 4, 1]):
        with pytest.raises(ValueError, match="out of order"):
            own.step({"rule": "adaptive", "nodes": nodes})
    own.step({"rule": "adaptive", "nodes": [1, 4]})


def test_offsets_are_added_below() -> None:
    """To numbers beside which a half is lost."""
    own = part(CanonicalNetwork((node("input", (), 1), node("abs", (0,), 1))), {}, 1.5, 0.0, 2.0**53 + 2)
    own.prove({"rule": "interval", "rows": "all"})
    assert 2**53 <= Fraction(own.lower.item()) <= 2**53 + Fraction(7, 2)


def test_the_best_of_several_proofs_counts() -> None:
    network, good = split_case()
    arrays = {**good.arrays, "none": np.zeros(2)}
    (first,) = good.head["parts"][0]["proofs"]
    worse = {"cases": {**first["cases"], "gamma": "none"}}
    for proofs in ([first, worse], [worse, first], [first, {"rule": "interval", "rows": "rows"}]):
        parts = [{**good.head["parts"][0], "proofs": proofs}]
        assert 0.1 - 1e-9 < check(network, claimed({**good.head, "parts": parts}, arrays)).clauses[0] <= 0.1
