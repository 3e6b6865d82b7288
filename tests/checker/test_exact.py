"""Rational arithmetic as an oracle: the checker's bounds are never above it, hardly below it, and verdicts agree."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from properties import Box, InputSet, L1Ball, L2Ball, LinfBall
from verifier.checker.check import check
from verifier.checker.document import Document, claim_digest
from verifier.checker.errors import ExactError
from verifier.checker.exact import check_exactly
from verifier.checker.exact.model import written
from verifier.checker.lines import value
from verifier.checker.network import ACTIVATIONS, CanonicalNetwork, CanonicalNode
from verifier.graph.canonical import canonical
from verifier.graph.torch_import import import_torch

pytest.importorskip("flint")


def mlp() -> nn.Module:
    tail = [nn.Hardtanh(), nn.Linear(5, 4), nn.LeakyReLU(0.3), nn.Linear(4, 3)]
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), *tail)


def convolution() -> nn.Module:
    """With a batch norm, whose scale is only known up to roundings."""
    front = [nn.Conv2d(1, 4, 2, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    middle = [nn.Conv2d(4, 2, (1, 2), groups=2, dilation=2, padding=(0, 1)), nn.ReLU(), nn.ConvTranspose2d(2, 1, 2)]
    return nn.Sequential(*front, *middle, nn.LeakyReLU(1.5), nn.Flatten(), nn.LazyLinear(3))


MODELS = {"mlp": (mlp, (4,)), "convolution": (convolution, (1, 3, 3))}


def network_of(name: str) -> CanonicalNetwork:
    torch.manual_seed(1)
    make, shape = MODELS[name]
    model = make()
    model(torch.rand(4, *shape))  # sizes, and statistics
    return canonical(import_torch(model.eval(), torch.zeros(1, *shape))).network


def document(
    network: CanonicalNetwork, inputs: InputSet, bounds: list[dict], proofs: list[dict], **arrays: np.ndarray
) -> Document:
    record = inputs.record()
    names = {name: f"set.{name}" for name in record.arrays}
    arrays = {**arrays, **{names[name]: array for name, array in record.arrays.items()}, "rows": np.arange(2)}
    part = {"set": {"kind": record.kind, **record.options, **names}, "bounds": bounds, "proofs": proofs}
    spec = {"kind": "robustness", "label": 1, "classes": 3}
    head: dict[str, Any] = {"version": 1, "network": network.digest, "semantics": "real", "specification": spec}
    head["parts"] = [part]
    head["claim"] = claim_digest(head, arrays)
    return Document(head, arrays)


def center(network: CanonicalNetwork) -> torch.Tensor:
    return torch.linspace(0.2, 0.8, network.nodes[0].size).reshape(1, -1)


def compare(network: CanonicalNetwork, given: Document) -> None:
    """The checker is below, by no more than roundings."""
    exact, found = check_exactly(network, given), check(network, given)
    assert not exact.reason.startswith("malformed") and not found.reason.startswith("malformed")
    assert np.isfinite(exact.clauses).all()
    for theirs, mine in ((exact.clauses, found.clauses), (exact.lower, found.lower)):
        assert (np.isfinite(theirs) == np.isfinite(mine)).all()
        theirs, mine = theirs[np.isfinite(theirs)], mine[np.isfinite(mine)]
        assert (mine <= theirs).all() and (theirs <= mine + 1e-11).all()
    assert exact.valid == bool((exact.clauses > 0).all()) and found.valid == exact.valid


def sets(network: CanonicalNetwork) -> Iterator[InputSet]:
    x = center(network)
    yield LinfBall(x, 0.05, (0, 1))
    yield Box(x - 0.01, x + torch.linspace(0, 0.1, x.shape[1]))
    yield L1Ball(x, 0.3, (0, 1))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_rules_and_slopes(name: str) -> None:
    network = network_of(name)
    generator, last = np.random.default_rng(0), network.pre_activations[-1]
    for inputs in sets(network):
        for rule in ("interval", "fixed", "adaptive"):
            steps = [] if rule == "interval" else [{"rule": rule, "nodes": "all"}]
            compare(network, document(network, inputs, steps, [{"rule": rule, "rows": "rows"}]))
        arrays: dict[str, np.ndarray] = {}
        records = []
        for rows, kind in ((2, np.uint8), (4, np.float32)):
            record: dict[str, Any] = {}
            for k, node in enumerate(network.nodes):
                if node.kind in ACTIVATIONS and (rows == 2 or node.parents[0] < last):
                    slopes = generator.random((rows, node.size))
                    arrays[f"{k}.{rows}"] = (255 * slopes).astype(np.uint8) if kind is np.uint8 else slopes.astype(kind)
                    arrays[f"{k}.n"] = np.arange(node.size, dtype=np.int32)
                    record[str(k)] = {"neurons": f"{k}.n", "slopes": f"{k}.{rows}"}
            records.append(record)
        arrays["neurons"], arrays["sides"] = np.array([0, 1, 0, 2], np.int32), np.array([0, 0, 1, 1], np.uint8)
        step = {"node": last, "neurons": "neurons", "sides": "sides", "slopes": records[1]}
        proof = {"rows": "rows", "slopes": records[0]}
        compare(network, document(network, inputs, [{"rule": "adaptive", "nodes": "all"}, step], [proof], **arrays))


def tree(network: CanonicalNetwork, last: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A tree for each of two clauses, of three leaves each, on neurons of the first activation and the one at `last`.

    They are split at their values in the middle, so that no case is empty.
    """
    generator, layers = np.random.default_rng(0), [k for k, n in enumerate(network.nodes) if n.kind in ACTIVATIONS]
    places = {layers[0]: [0, 2], layers[last]: [1]} if last else {layers[0]: [0, 2, 3]}
    values = middle_values(network)
    free = np.concatenate([values[network.nodes[k].parents[0]][0, p] for k, p in places.items()])
    neuron = np.array([0, -1, 2, -1, -1, 1, 0, -1, -1, -1])
    arrays = {
        "roots": np.array([[0, 0], [1, 5]]), "neuron": neuron, "at": free[neuron],
        "below": np.array([1, 0, 3, 0, 0, 6, 7, 0, 0, 0]), "above": np.array([2, 0, 4, 0, 0, 9, 8, 0, 0, 0]),
        "proof": np.array([-1, 0, -1, 1, 2, -1, -1, 3, 4, 5]), "slope": generator.random((6, 3)),
        "weight": np.ones((6, 1)), "first": np.arange(7), "split": np.array([0, 0, 2, 0, 0, 1]),
        "gamma": 0.01 * generator.normal(size=6),
    }  # fmt: skip
    record = {n: n for n in arrays} | {"neurons": {str(k): f"{k}.places" for k in places}}
    return record, arrays | {f"{k}.places": np.array(p) for k, p in places.items()}


def middle_values(network: CanonicalNetwork) -> list[np.ndarray]:
    found = [center(network).double().numpy()]
    for node in network.nodes[1:]:
        x = np.concatenate([found[p] for p in node.parents], 1)
        found.append(value(node, x) if node.kind in ACTIVATIONS else node.forward(x) + node.bias)
    return found


@pytest.mark.parametrize("last", [1, 2])
def test_cases_on_neurons(last: int) -> None:
    network = network_of("mlp")
    record, arrays = tree(network, last)
    for inputs in sets(network):
        compare(network, document(network, inputs, [{"rule": "fixed", "nodes": "all"}], [{"cases": record}], **arrays))


def test_cases_on_neurons_bound_neurons() -> None:
    network = network_of("mlp")
    record, arrays = tree(network, 0)
    arrays |= {"n": np.array([0, 3], np.int32), "s": np.array([0, 1], np.uint8)}
    step = {"node": network.pre_activations[1], "neurons": "n", "sides": "s", "cases": record}
    for inputs in sets(network):
        compare(network, document(network, inputs, [step], [{"rule": "fixed", "rows": "rows"}], **arrays))


def test_cases_on_the_input() -> None:
    network = network_of("mlp")
    layers = [k for k, node in enumerate(network.nodes) if node.kind in ACTIVATIONS]
    arrays = {
        "side": np.array([0, 2, -1, -1, -1]), "at": np.array([0.2, 0.6, 0, 0, 0]),
        "below": np.array([1, 3, 0, 0, 0]), "above": np.array([2, 4, 0, 0, 0]), "fresh": np.array([1, 0, 1, 0, 1]) > 0,
        "node": np.array([2, 2, 3, 3, 4, 4]), "clause": np.array([0, 1, 0, 1, 0, 1]), "weights": np.ones((6, 1)),
        "own": np.array([-1, 0, 1, -1, -1, -1]), "n": np.arange(3),
        "s": np.random.default_rng(0).random((2, 3)),
    }  # fmt: skip
    record = {n: n for n in arrays if len(n) > 1} | {"slopes": {str(layers[1]): {"neurons": "n", "slopes": "s"}}}
    for inputs in list(sets(network))[:2]:
        compare(network, document(network, inputs, [], [{"boxes": record}], **arrays))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_matrices_are_those_of_the_network(name: str) -> None:
    network = network_of(name)
    for node in network.nodes[1:]:
        if node.kind not in ACTIVATIONS:
            width = sum(network.nodes[p].size for p in node.parents)
            assert np.array_equal(written(node, width), node.forward(np.eye(width)).T)


def test_a_margin_of_exactly_zero_proves_nothing() -> None:
    """And a margin that floating point cannot see does."""
    for bias, valid in ((0.0, False), (2.0**-60, True)):
        weight = np.array([[1.0], [1.0]])
        layer = CanonicalNode("matrix", (0,), 2, {"weight": weight, "bias": np.array([0.0, bias])}, {})
        network = CanonicalNetwork((CanonicalNode("input", (), 1, {}, {}), layer))
        given = document(network, Box(torch.zeros(1, 1), torch.ones(1, 1)), [], [{"rule": "fixed", "rows": "one"}],
                         one=np.array([0]))  # fmt: skip
        given.head["specification"]["classes"] = 2
        given.head["claim"] = claim_digest(given.head, given.arrays)
        found = check_exactly(network, given)
        assert found.valid == valid and Fraction(found.lower[0]) == Fraction(bias)
        assert not check(network, given).valid


def test_what_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("mlp")
    rule = [{"rule": "fixed", "rows": "rows"}]
    given = document(network, next(sets(network)), [], rule)
    with pytest.raises(ExactError, match="only linf, box and l1"):
        check_exactly(network, document(network, L2Ball(center(network), 0.1), [], rule))
    with pytest.raises(ExactError, match="semidefinite"):
        check_exactly(network, document(network, next(sets(network)), [], [{"sdp": {}, "rows": "rows"}]))
    with pytest.raises(ExactError, match="larger `work`"):
        check_exactly(network, given, work=10)
    given.head["semantics"] = "float32"
    given.head["claim"] = claim_digest(given.head, given.arrays)
    with pytest.raises(ExactError, match="real semantics"):
        check_exactly(network, given)
    smooth = CanonicalNetwork((*network.nodes, CanonicalNode("tanh", (len(network.nodes) - 1,), 3, {}, {})))
    with pytest.raises(ExactError, match="tanh"):
        check_exactly(smooth, given)
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(ExactError, match=r"pip install 'rampart-verifier\[exact\]'"):
        check_exactly(network, given)


def test_malformed_certificates_are_invalid() -> None:
    network = network_of("mlp")
    rule = {"rule": "fixed", "rows": "rows"}
    given = document(network, next(sets(network)), [], [rule])
    assert not check_exactly(network, given).reason.startswith("malformed")
    other = network_of("convolution")
    assert "another network" in check_exactly(other, given).reason
    negative = {**given.head["parts"][0]["set"], "eps": -1.0}
    for change in ({"bounds": [{"rule": "fixed", "nodes": [99]}]}, {"proofs": [{**rule, "rows": "nowhere"}]},
                   {"proofs": [{**rule, "rule": "best"}]}, {"set": negative}):  # fmt: skip
        part = {**given.head["parts"][0], **change}
        head = {**given.head, "parts": [part]}
        head["claim"] = claim_digest(head, given.arrays)
        found = check_exactly(network, Document(head, given.arrays))
        assert not found.valid and found.reason.startswith("malformed")
