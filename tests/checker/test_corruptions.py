"""Certificates that were tampered with. The law: what the checker then says is true of what the document then claims.

Every bound that it reports, valid or not, is held against members of the set that the document names, in exact
arithmetic. Each certificate proves its rows by hardly more than nothing, so that most changes should make it invalid.
"""

from __future__ import annotations

import copy
import dataclasses
import gzip
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checker import boxes_case, dense, exact_values, random_tree, split_case

from verifier.checker import backward, sets, subdomains
from verifier.checker.backward import NodeRanges
from verifier.checker.check import Check, check
from verifier.checker.document import Document, claim_digest
from verifier.checker.network import CanonicalNetwork

Arrays = dict[str, np.ndarray]
ROOM = 1e-4  #: by which the certificates prove their clauses


# certificates of every kind -------------------------------------------------------------------------------------------


def tree(
    rng: np.random.Generator, free: int, width: int, clauses: int, depth: int = 2
) -> tuple[dict[str, Any], Arrays]:
    """Cases of neurons, with variables that were drawn."""
    found = random_tree(rng, depth, free, width, clauses)
    found["gamma"] = 0.05 * found["gamma"]
    return {name: f"t.{name}" for name in found}, {f"t.{name}": a for name, a in found.items()}


def boxes(rng: np.random.Generator, x: np.ndarray, eps: float, clauses: int) -> tuple[dict[str, Any], Arrays]:
    found = random_tree(rng, 2, len(x), 1, 1)
    leaves, total = np.flatnonzero(found["neuron"] == -1), len(found["neuron"])
    arrays = {
        "side": found["neuron"], "at": x[found["neuron"]] + rng.uniform(-0.6, 0.6, total) * eps,
        "below": found["below"], "above": found["above"], "fresh": rng.random(total) < 0.5,
        "node": np.tile(leaves, clauses), "clause": np.repeat(np.arange(clauses), len(leaves)),
        "weights": np.ones((clauses * len(leaves), 2), np.float32), "own": rng.integers(-1, 1, clauses * len(leaves)),
    }  # fmt: skip
    record: dict[str, Any] = {name: f"b.{name}" for name in arrays}
    record["slopes"] = {"2": {"neurons": "free2", "slopes": "b.codes"}}
    return record, {f"b.{name}": a for name, a in arrays.items()} | {"b.codes": rng.random((1, 4))}


def lively(rng: np.random.Generator, sizes: list[int], kind: str, eps: float) -> tuple[CanonicalNetwork, np.ndarray]:
    """A network and an input around which no neuron is always the same, and most bend."""
    while True:
        network = dense(rng, sizes, kind, {"slope": 0.0} if kind == "leaky" else {}, scale=3.0)
        x = np.round(rng.normal(size=2) * 4) / 16
        ranges = NodeRanges(network, (x - eps)[None], (x + eps)[None], False)
        ranges.tighten_all(network.pre_activations, "adaptive")
        values = np.stack([run(network, p) for p in members({"kind": "linf", "eps": eps, "x": "x"}, {"x": x})])
        bends = [((ranges.low[k] < 0) & (ranges.high[k] > 0)).all() for k in network.pre_activations]
        if (all(bends) or kind != "leaky") and (np.ptp(values, 0) > 0.1).all():
            return network, x


def named(kind: str) -> tuple[CanonicalNetwork, dict[str, Any], Arrays]:
    """A certificate before its offsets are made to fit: network, head, arrays."""
    rng, eps = np.random.default_rng(sum(map(ord, kind))), 0.25
    network, x = lively(
        rng, [2, 4, 2] if kind == "sdp" else [2, 4, 3, 2], "sigmoid" if kind == "smooth" else "leaky", eps
    )
    arrays: Arrays = {
        "x": x, "free2": np.arange(4), "free4": np.array([0, 2]), "rows": np.arange(3),
        "spec": np.round(rng.normal(size=(3, 2)) * 8) / 8, "offset": np.zeros(3), "clause": np.array([0, 1, 0]),
        "s2": rng.integers(0, 256, (3, 4)).astype(np.uint8), "s4": rng.random((3, 2)).astype(np.float16),
        "u4": rng.random((3, 2)).astype(np.float16), "neurons": np.array([0, 1, 2]),
        "sides": np.array([0, 1, 1], np.uint8), "left": 0.5 + rng.random((3, 5)), "right": 0.5 + rng.random((3, 2)),
    }  # fmt: skip
    where: dict[str, Any] = {"kind": "linf", "eps": eps, "x": "x"}
    bounds: list[dict[str, Any]] = [{"rule": "adaptive", "nodes": "all"}]
    proofs: list[dict[str, Any]] = [{"rule": "adaptive", "rows": "rows"}]
    own = {"2": {"neurons": "free2", "slopes": "s2"}, "4": {"neurons": "free4", "slopes": "s4", "upper": "u4"}}
    if kind == "intervals":
        bounds, proofs = [], [{"rule": "interval", "rows": "rows"}]
    elif kind == "fixed":
        bounds, proofs = [{"rule": "fixed", "nodes": [3]}], [{"rule": "fixed", "rows": "rows"}]
    elif kind in ("slopes", "union", "clipped"):
        bounds.append({"node": 3, "neurons": "neurons", "sides": "sides", "slopes": {"2": own["2"]}})
        proofs = [{"slopes": own, "rows": "rows"}]
    elif kind in ("cases", "float32"):
        record, more = tree(rng, 6, 2, 2)
        proofs, arrays = [{"cases": record | {"neurons": {"2": "free2", "4": "free4"}}}], arrays | more
    elif kind == "boxes":
        record, more = boxes(rng, x, eps, 2)
        proofs, arrays = [{"boxes": record}], arrays | more
    elif kind == "neuron cases":
        record, more = tree(rng, 4, 1, 3)
        step = {"node": 3, "neurons": "neurons", "sides": "sides", "cases": record | {"neurons": {"2": "free2"}}}
        bounds, arrays = [*bounds, step], arrays | more
    elif kind == "sdp":
        bounds, proofs = [], [{"sdp": {"left": "left", "right": "right"}, "rows": "rows"}]
    elif kind == "l2":
        where = {**where, "kind": "l2"}
    if kind == "clipped":
        where |= {"low": float(x.min()) - 0.125, "high": float(x.max()) + 0.125}
    parts = [{"set": where, "bounds": bounds, "proofs": proofs}]
    if kind == "union":
        arrays["y"] = x + 0.5
        parts.append({**parts[0], "set": {"kind": "l1", "eps": 0.25, "x": "y"}})
    spec = {"kind": "rows", "rows": "spec", "offset": "offset", "clause": "clause"}
    semantics = "float32" if kind == "float32" else "real"
    head = {"version": 1, "network": network.digest, "semantics": semantics, "specification": spec, "parts": parts}
    return network, head, arrays


def claimed(head: dict[str, Any], arrays: Arrays) -> Document:
    return Document({**head, "claim": claim_digest(head, arrays)}, arrays)


KINDS = ("intervals", "fixed", "slopes", "cases", "boxes", "neuron cases", "sdp", "smooth", "l2", "clipped", "union",
         "float32")  # fmt: skip


@cache
def certificate(kind: str) -> tuple[CanonicalNetwork, Document]:
    """Offsets are such that each clause is proved with nothing but ROOM."""
    network, head, arrays = named(kind)
    for _ in range(2):
        found = check(network, claimed(head, arrays))
        assert "malformed" not in found.reason and np.isfinite(found.clauses).all(), (kind, found)
        arrays = {**arrays, "offset": arrays["offset"] - found.clauses[arrays["clause"]] + ROOM}
    return network, claimed(head, arrays)


def copied(kind: str) -> tuple[CanonicalNetwork, dict[str, Any], Arrays]:
    network, document = certificate(kind)
    return network, copy.deepcopy(document.head), {k: a.copy() for k, a in document.arrays.items()}


# what a document claims -----------------------------------------------------------------------------------------------


def members(record: dict[str, Any], arrays: Arrays) -> Iterator[np.ndarray]:
    """Points of a ball or box."""
    options = {k: v for k, v in record.items() if k in ("low", "high")}
    least, most = options.get("low", -np.inf), options.get("high", np.inf)
    steps = np.array(list(product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=2)))
    if record["kind"] == "box":
        lower, upper = arrays[record["lower"]].ravel(), arrays[record["upper"]].ravel()
        for step in steps:
            yield np.clip(lower + (0.5 + 0.5 * step) * (upper - lower), lower, upper).clip(least, most)
        return
    x, eps = arrays[record["x"]].ravel().astype(np.float64), record["eps"]
    power = {"linf": np.inf, "l2": 2, "l1": 1}[record["kind"]]
    for step in steps:
        length = np.linalg.norm(step, power)
        yield (x + (1 - 2.0**-30) * eps * step / max(length, 1)).clip(least, most)


def holds(network: CanonicalNetwork, document: Document, found: Check) -> None:
    """The checker's bounds are below the exact values of members of the sets that the document names."""
    spec, arrays = document.head["specification"], document.arrays
    if spec["kind"] == "robustness":
        rows = np.delete(np.eye(2)[spec["label"]] - np.eye(2), spec["label"], axis=0)
        offset, clause = np.zeros(1), np.zeros(1, int)
    else:
        rows, offset, clause = (arrays[spec[name]] for name in ("rows", "offset", "clause"))
    points = [p for part in document.head["parts"] for p in members(part["set"], arrays)]
    values = [run(network, p) @ rows.T.astype(float) + offset for p in points]
    bounds = [(bound, np.flatnonzero(clause == c)) for c, bound in enumerate(found.clauses.tolist())]
    for bound, of in bounds + [(bound, np.array([s])) for s, bound in enumerate(found.lower.tolist())]:
        assert not np.isnan(bound)
        worst = int(np.argmin([v[of].max() for v in values]))
        if bound == -np.inf or bound < values[worst][of].max() - 1e-6:  # floating point will do
            continue
        y = exact_values(network, [Fraction(v) for v in points[worst].tolist()])[-1]
        exact = max(
            sum((Fraction(a) * v for a, v in zip(rows[s].tolist(), y, strict=True)), Fraction(offset.tolist()[s]))
            for s in of.tolist()
        )
        assert bound < np.inf and Fraction(bound) <= exact, (of, bound, float(exact))


def run(network: CanonicalNetwork, x: np.ndarray) -> np.ndarray:
    from verifier.checker.lines import value

    values = [x[None]]
    for node in network.nodes[1:]:
        z = np.concatenate([values[p] for p in node.parents], 1)
        values.append(node.forward(z) + node.bias if node.arrays else value(node, z))
    return values[-1][0]


def law(kind: str, head: Any, arrays: Arrays, claim: bool) -> Check:
    """The law of a document; `claim` makes up the digest of what it claims."""
    network, good = certificate(kind)
    document = Document(head, arrays)
    if claim:
        try:
            document = claimed(head, arrays)
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
            claim = False
    found = check(network, document)
    if found.valid and not claim:
        assert claim_digest(document.head, document.arrays) == good.head["claim"]
    if len(found.clauses):
        holds(network, document, found)
    assert found.valid == (not found.reason) == bool(len(found.clauses) and (found.clauses > 0).all())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_are_valid_before(kind: str) -> None:
    network, good = certificate(kind)
    found = check(network, good)
    assert found.valid and (found.clauses < 2 * ROOM).all()
    holds(network, good, found)


@pytest.mark.parametrize("kind", KINDS)
def test_work_in_pieces_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One leaf, one box, one row at a time: the same bounds up to rounding, and sets that no other one helps."""
    network, good = certificate(kind)
    before = check(network, good)
    for module, name in (
        (subdomains, "_LEAVES"),
        (subdomains, "_BOXES"),
        (backward, "MANY"),
        (backward, "CACHED"),
        (sets, "PIECE"),
    ):
        monkeypatch.setattr(module, name, 1)
    after = check(network, good)
    assert after.valid and np.allclose(after.clauses, before.clauses, rtol=0, atol=1e-12)
    assert np.allclose(after.lower, before.lower, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [split_case, boxes_case])
def test_offsets_and_weights_of_cases_are_those_of_the_claim(
    case: Callable[[], tuple[CanonicalNetwork, Document]],
) -> None:
    """Proofs that reach the exact minimum, 0.1: less than the truth by roundings alone, and never more."""
    network, good = case()
    spec = {"kind": "rows", "rows": "spec", "offset": "offset", "clause": "of"}
    name = "weight" if case is split_case else "weights"
    for offset, other, weight in ((-0.05, 0.0, 0.0), (0.25, 1.0, 0.0), (-0.2, 3.0, 0.25), (0.5, -1.0, 1.0)):
        weights = np.full((len(good.arrays[name]), 2), 1.0) * [1.0, weight]
        numbers = {"spec": np.array([[1.0, -1.0], [0.0, 0.0]]), "offset": np.array([offset, other])}
        arrays = {**good.arrays, **numbers, "of": np.zeros(2, np.int64), name: weights}
        if case is split_case:
            arrays["gamma"] = good.arrays["gamma"].astype(np.float64) / (1 + weight)
        found = check(network, claimed({**good.head, "specification": spec}, arrays))
        exact = (Fraction(0.1) + Fraction(offset) + Fraction(other) * Fraction(weight)) / (1 + Fraction(weight))
        largest = max(Fraction(0.1) + Fraction(offset), Fraction(other))
        assert float(exact) - 1e-9 < found.clauses[0] <= float(exact) + 1e-9
        assert Fraction(float(found.clauses[0])) <= largest


# changes by hand ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_other_claims(kind: str) -> None:
    """With and without the digest of the new claim: another input, a larger radius, rows, labels, parts, semantics."""
    _, head, arrays = copied(kind)

    def expect(head: dict[str, Any], arrays: Arrays, valid: bool) -> None:
        assert not law(kind, head, arrays, False).valid
        assert law(kind, head, arrays, True).valid == valid

    where = head["parts"][0]["set"]
    for eps in (where["eps"] * 1.1, 10.0, np.inf, np.nan, -1.0, None, "0.25", True):
        wider = copy.deepcopy(head)
        wider["parts"][0]["set"]["eps"] = eps
        expect(wider, arrays, kind == "clipped" and eps is not True and type(eps) is float and 0 < eps < 99)
    narrow = copy.deepcopy(head)
    narrow["parts"][0]["set"]["eps"] = 0.5 * where["eps"]
    assert not law(kind, narrow, arrays, False).valid
    law(kind, narrow, arrays, True)
    for other in (arrays["x"] + 0.5, arrays["x"] - 0.5, np.nextafter(arrays["x"], 9), np.full(2, np.nan)):
        moved = {**arrays, "x": other}
        assert not law(kind, head, moved, False).valid
        law(kind, head, moved, True)
    expect(head, {**arrays, "offset": arrays["offset"] - 2 * ROOM}, False)
    negative = {**arrays, "spec": -arrays["spec"]}
    assert not law(kind, head, negative, False).valid
    law(kind, head, negative, True)
    expect(head, {**arrays, "clause": np.array([0, 2, 0])}, False)
    expect(head, {**arrays, "clause": np.array([-1, 1, 0])}, False)
    expect({**head, "parts": []}, arrays, False)
    fewer = {**arrays, **{name: arrays[name][:2] for name in ("spec", "offset", "clause")}}
    assert not law(kind, head, fewer, False).valid
    law(kind, head, fewer, True)
    for label in (0, 1):
        other = {**head, "specification": {"kind": "robustness", "label": label, "classes": 2}}
        assert not law(kind, other, arrays, False).valid
        law(kind, other, arrays, True)
    for name, value in (("version", 2), ("version", 1.5), ("network", "0" * 64), ("semantics", "exact")):
        expect({**head, name: value}, arrays, False)
    if kind == "union":
        assert not law(kind, {**head, "parts": head["parts"][:1]}, arrays, False).valid
        assert not law(
            kind, {**head, "parts": [*head["parts"], {**head["parts"][0], "proofs": []}]}, arrays, True
        ).valid


@pytest.mark.parametrize("kind", ("slopes", "smooth", "cases"))
def test_another_network(kind: str) -> None:
    """One weight differs by one unit in the last place, and anything else that a node has."""
    network, good = certificate(kind)
    for k, node in enumerate(network.nodes[1:], 1):
        changes = [{"options": {"slope": 0.5}, "kind": "leaky"}, {"options": {}, "kind": "abs"}]
        if node.arrays:
            changes = []
            for name, a in node.arrays.items():
                other = a.copy()
                other.flat[0] = np.nextafter(other.flat[0], np.inf)
                changes.append({"arrays": {**node.arrays, name: other}})
        for change in changes:
            nodes = (*network.nodes[:k], dataclasses.replace(node, **change), *network.nodes[k + 1 :])
            assert "another network" in check(CanonicalNetwork(nodes), good).reason
            honest = claimed({**good.head, "network": CanonicalNetwork(nodes).digest}, good.arrays)
            holds(CanonicalNetwork(nodes), honest, check(CanonicalNetwork(nodes), honest))
    assert "another network" in check(CanonicalNetwork(network.nodes[:-2]), good).reason


def changed_by(kind: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Check:
    _, head, arrays = copied(kind)
    with np.errstate(all="ignore"):
        return law(kind, head, {**arrays, name: change(arrays[name])}, False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(value: float) -> None:
    """In any array that is read as numbers."""
    for kind in KINDS:
        _, head, arrays = copied(kind)
        for name, a in arrays.items():
            used = json.dumps(head["parts"]).count(f'"{name}"') or json.dumps(head["specification"]).count(f'"{name}"')
            if a.dtype.kind == "f" and used and name != "t.at":
                other = a.copy()
                other.flat[0] = value
                for claim in (False, True):
                    assert not law(kind, head, {**arrays, name: other}, claim).valid, (kind, name)


def test_slopes_that_are_wrong_prove_less() -> None:
    for change in (
        lambda a: -a.astype(np.float64),
        lambda a: a.astype(np.float64) * 1e30,
        lambda a: a + np.float32(1.5),
    ):
        for name in ("s4", "u4"):
            law("slopes", *copied("slopes")[1:], False)
            changed_by("slopes", name, change)
        changed_by("boxes", "b.codes", change)
    assert not changed_by("slopes", "s4", lambda a: -8 * a).valid
    for kind, name in (("slopes", "s2"), ("cases", "t.slope"), ("neuron cases", "t.slope")):
        changed_by(kind, name, lambda a: 255 - a)
        changed_by(kind, name, lambda a: a.astype(np.float32))  # numbers that were positions: far too steep


@pytest.mark.parametrize("kind", ["cases", "neuron cases", "float32"])
def test_trees_of_cases_without_a_leaf_or_with_swapped_children(kind: str) -> None:
    _, head, arrays = copied(kind)
    inner, leaves = np.flatnonzero(arrays["t.proof"] < 0), np.flatnonzero(arrays["t.proof"] >= 0)
    swapped = {**arrays, "t.below": arrays["t.above"], "t.above": arrays["t.below"]}
    law(kind, head, swapped, False)  # leaves of the wrong halves: other numbers, and they must hold
    for leaf in leaves:
        for proof in (-1, len(leaves), 10**9):
            gone = {**arrays, "t.proof": np.where(np.arange(len(arrays["t.proof"])) == leaf, proof, arrays["t.proof"])}
            assert kind == "neuron cases" or not law(kind, head, gone, False).valid
            law(kind, head, gone, False)
    for k in inner:
        for name, child in product(("t.below", "t.above"), (-1, 0, k, k + 1, len(arrays["t.at"]))):
            other = arrays[name].copy()
            other[k] = child
            law(kind, head, {**arrays, name: other}, False)
        for at in (-9.0, 9.0, 1e300, arrays["t.at"][k] + 0.25):
            law(
                kind, head, {**arrays, "t.at": np.where(np.arange(len(arrays["t.at"])) == k, at, arrays["t.at"])}, False
            )
    for weights in (0 * arrays["t.weight"], -arrays["t.weight"], arrays["t.weight"][:, :0]):
        assert not law(kind, head, {**arrays, "t.weight": weights}, False).valid
    for factor in (-1, 0, 100.0, 1e300):
        law(kind, head, {**arrays, "t.gamma": arrays["t.gamma"] * factor}, False)


def test_trees_of_boxes_without_a_leaf_or_with_wrong_splits() -> None:
    _, head, arrays = copied("boxes")
    for k in range(len(arrays["b.node"])):
        kept = np.arange(len(arrays["b.node"])) != k
        fewer = {name: arrays[name][kept] for name in ("b.node", "b.clause", "b.weights", "b.own")}
        assert not law("boxes", head, {**arrays, **fewer}, False).valid
        for name in ("b.node", "b.clause", "b.own"):
            for value in (-1, 0, 1, 2, 6):
                law("boxes", head, {**arrays, name: np.where(kept, arrays[name], value)}, False)
    for at in (-50.0, 50.0, 0.0):
        for k in range(len(arrays["b.at"])):
            law("boxes", head, {**arrays, "b.at": np.where(np.arange(7) == k, at, arrays["b.at"])}, False)
    law("boxes", head, {**arrays, "b.below": arrays["b.above"], "b.above": arrays["b.below"]}, False)
    for fresh in (np.ones(7, bool), np.zeros(7, bool), ~arrays["b.fresh"]):
        law("boxes", head, {**arrays, "b.fresh": fresh}, False)
    for weights in (0 * arrays["b.weights"], -arrays["b.weights"]):
        assert not law("boxes", head, {**arrays, "b.weights": weights}, False).valid


def test_semidefinite_weights_that_are_wrong() -> None:
    for name in ("left", "right"):
        for change in (lambda a: -a, lambda a: 0 * a, lambda a: 1e200 * a, lambda a: a[:, ::-1], lambda a: a[:1]):
            changed_by("sdp", name, change)
        assert not changed_by("sdp", name, lambda a: 0 * a).valid
    for kind in ("slopes", "l2"):  # of a network with two activations, and a set that is no box
        _, head, arrays = copied(kind)
        head["parts"][0]["proofs"] = [{"sdp": {"left": "left", "right": "right"}, "rows": "rows"}]
        assert not law(kind, head, arrays, False).valid


def test_steps_in_another_order_or_left_out() -> None:
    for kind in KINDS:
        _, head, arrays = copied(kind)
        for part in range(len(head["parts"])):
            for bounds in ([], head["parts"][part]["bounds"][::-1], 3 * head["parts"][part]["bounds"], None, {}, "all"):
                other = copy.deepcopy(head)
                other["parts"][part]["bounds"] = bounds
                law(kind, other, arrays, False)
            for proofs in ([], [{}], [{"oracle": "rows", "rows": "rows"}], [{"rule": "exact", "rows": "rows"}], None):
                other = copy.deepcopy(head)
                other["parts"][part]["proofs"] = proofs
                assert not law(kind, other, arrays, False).valid


def test_huge_json(tmp_path: Path) -> None:
    """A great deal of it changes nothing where nothing rests on it, and nothing may be nested without end."""
    network, head, arrays = copied("slopes")
    head["about"] = {str(k): "[{" * 10 for k in range(20000)}
    (tmp_path / "a.cert").write_bytes(Document(head, arrays).packed())
    assert check(network, Document.read(tmp_path / "a.cert")).valid
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    for name in ("about", "specification"):
        found = check(network, Document({**head, name: deep}, arrays))
        assert found.valid == (name == "about")  # about is not read at all
    head["parts"] = head["parts"] * 50
    assert not check(network, Document(head, arrays)).valid  # another claim, though it is the same set
    assert law("slopes", head, arrays, True).valid


def test_numbers_of_clauses_that_no_memory_holds() -> None:
    _, head, arrays = copied("slopes")
    for number in (2**62, 2**40, -(2**63)):
        found = law("slopes", head, {**arrays, "clause": np.array([0, 1, number])}, True)
        assert not found.valid and "numbered" in found.reason


# changes by chance ----------------------------------------------------------------------------------------------------

VALUES = st.sampled_from([
    0, 1, -1, 2, 3, 1e308, 0.125, None, True, "x", "rows", "spec", "all", "s2", "linf", "l2", "box", "adaptive",
    "fixed", "interval", "", [], {}, [0], [1, 3], [3, 1], {"kind": "linf"},
])  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in some JSON, with every key."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def tampered(draw: Callable[[Any], Any], a: np.ndarray) -> np.ndarray:
    how = draw(st.integers(0, 11))
    a, place = a.copy(), draw(st.integers(0, max(0, a.size - 1)))
    if how == 0 and a.size:
        bits = a.reshape(-1).view(np.uint8)
        bits[draw(st.integers(0, bits.size - 1))] ^= 1 << draw(st.integers(0, 7))
    elif how == 1 and a.size:
        a.flat[place] = -a.flat[place] if a.dtype.kind != "b" else not a.flat[place]
    elif how == 2 and a.size:
        a.flat[place] = draw(st.sampled_from([0, 1, 2, 3, 5, 100]))
    elif how == 3 and a.size:
        other = draw(st.integers(0, a.size - 1))
        a.flat[place], a.flat[other] = a.flat[other], a.flat[place]
    elif how == 4:
        a = a[: draw(st.integers(0, len(a)))]
    elif how == 5:
        a = np.concatenate([a, a[-1:]])
    elif how == 6:
        a = a[::-1]
    elif how == 7:
        kinds = [np.float64, np.float32, np.float16, np.int64, np.uint8, np.uint64, np.int8, np.bool_]
        a = a.astype(draw(st.sampled_from(kinds)))
    elif how == 8:
        a = draw(st.sampled_from([a.T, a.reshape(-1), a[None], a[..., None]]))
    elif how == 9 and a.dtype.kind in "fiu":
        a = a * a.dtype.type(draw(st.sampled_from([2, 0, 100])))
    elif how == 10 and a.dtype.kind == "f":
        a = a + draw(st.floats(-2, 2))
    elif how == 11:
        a = np.full_like(a, a.flat[place]) if a.size else a
    return np.ascontiguousarray(a)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_random_changes_prove_nothing_that_is_not_so(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    _, head, arrays = copied(kind)
    used = [name for name in arrays if f'"{name}"' in json.dumps([head["parts"], head["specification"]])]
    for _ in range(data.draw(st.integers(1, 2))):
        how = data.draw(st.integers(0, 9))
        if how <= 6:
            name = data.draw(st.sampled_from(used))
            with np.errstate(all="ignore"):
                arrays[name] = tampered(data.draw, arrays[name])
        elif how == 7:
            arrays[data.draw(st.sampled_from(used))] = arrays[data.draw(st.sampled_from(used))].copy()
        else:
            container, key = data.draw(st.sampled_from(list(places(head))))
            if (how == 8 and key in ("parts", "set", "claim", "kind")) or data.draw(st.integers(0, 3)):
                container[key] = data.draw(VALUES)
            else:
                del container[key]
    law(kind, head, arrays, data.draw(st.booleans()))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_flipped_bits_of_files(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In the packed file or in what it holds."""
    kind = data.draw(st.sampled_from(KINDS))
    path = tmp_path_factory.mktemp("bits") / "a.cert"
    path.write_bytes(certificate(kind)[1].packed())
    packed = data.draw(st.integers(0, 4)) == 0
    content = bytearray(path.read_bytes() if packed else gzip.decompress(path.read_bytes()))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content) if packed else gzip.compress(bytes(content)))
    try:
        read = Document.read(path)
    except ValueError:
        return
    law(kind, read.head, read.arrays, data.draw(st.booleans()))
