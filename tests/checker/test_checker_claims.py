"""Specifications that the checker takes for a claim, and those that it refuses, whatever else a document says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from verifier.checker.check import _indices, check, specification
from verifier.checker.document import Document, claim_digest
from verifier.checker.network import CanonicalNetwork, CanonicalNode

GOOD = {
    "rows": np.array([[1.0, -1, 0], [0, 1, -1], [2, 0, 0]]),
    "offset": np.array([0.5, 0, -1]),
    "clause": np.array([0, 1, 0]),
}
RECORD = {"kind": "rows", "rows": "rows", "offset": "offset", "clause": "clause"}


def test_rows_are_taken_as_they_are() -> None:
    rows, offset, clause = specification(RECORD, GOOD, 3)
    assert np.array_equal(rows, GOOD["rows"]) and np.array_equal(offset, GOOD["offset"])
    assert np.array_equal(clause, GOOD["clause"])
    single = {**GOOD, "rows": GOOD["rows"].astype(np.float16), "offset": GOOD["offset"].astype(np.float32)}
    assert all(a.dtype == np.float64 for a in specification(RECORD, single, 3)[:2])


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_label_is_above_every_other_one(label: int) -> None:
    rows, offset, clause = specification({"kind": "robustness", "label": label, "classes": 3}, {}, 3)
    y = np.array([5.0, 7.0, 11.0])
    assert (rows @ y + offset).tolist() == [y[label] - v for j, v in enumerate(y) if j != label]
    assert clause.tolist() == [0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"label": 3}, {"label": -1}, {"label": 1.0}, {"label": True}, {"label": "1"}, {"classes": 2}, {"classes": 4},
        {"classes": None}, {"kind": "row"}, {"kind": "all", **{k: k for k in GOOD}}, {"kind": None},
    ],
)  # fmt: skip
def test_labels_are_classes_of_the_network(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"label|kind"):
        specification({"kind": "robustness", "label": 1, "classes": 3, **change}, GOOD, 3)


def test_one_class_is_no_claim() -> None:
    with pytest.raises(ValueError, match="label"):
        specification({"kind": "robustness", "label": 0, "classes": 1}, {}, 1)
    assert len(specification({"kind": "robustness", "label": 0, "classes": 2}, {}, 2)[0]) == 1


NONE = {name: a[:0] for name, a in GOOD.items()}
BROKEN: list[dict[str, np.ndarray]] = [
    NONE, {"rows": np.zeros((3, 2))}, {"rows": np.zeros((3, 3, 1))}, {"rows": np.zeros((2, 3))}, {"rows": np.zeros(3)},
    {"offset": np.zeros(2)}, {"offset": np.zeros((3, 1))}, {"offset": np.zeros(4)}, {"clause": np.zeros(2, int)},
    {"clause": np.zeros((3, 1), int)}, {"rows": GOOD["rows"].astype(int)}, {"offset": np.zeros(3, int)},
    {"rows": GOOD["rows"].astype(int), "offset": np.zeros(3, int)}, {"rows": GOOD["rows"] + 0j},
    {"rows": GOOD["rows"] > 0}, {"rows": np.where(np.eye(3) > 0, np.nan, 1.0)}, {"offset": np.array([0, np.inf, 0])},
    {"clause": np.array([0, 1, 3])}, {"clause": np.array([0, 2, 0])}, {"clause": np.array([1, 1, 1])},
    {"clause": np.array([-1, 0, 1])}, {"clause": np.zeros(3)}, {"clause": np.zeros(3, np.uint8)},
    {"clause": np.array([0, 1, 2**62])}, {"clause": np.zeros(3, bool)},
]  # fmt: skip


@pytest.mark.parametrize("change", BROKEN)
def test_rows_that_do_not_fit_are_no_claim(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="specification"):
        specification(RECORD, {**GOOD, **change}, 3)


def test_places_are_whole_numbers_within_a_size() -> None:
    for dtype in (np.int64, np.int32, np.uint8, np.uint64):
        assert _indices(np.array([0, 2], dtype), 3) and _indices(np.zeros(0, dtype), 0)
        assert not _indices(np.array([0, 3], dtype), 3) and not _indices(np.array([[0]], dtype), 3)
    for wrong in (np.array([-1, 0]), np.array([0.0]), np.array([True]), np.array(1), np.array(["0"]), np.array([0j])):
        assert not _indices(wrong, 3)


def document(network: CanonicalNetwork, arrays: dict[str, np.ndarray], size: int, **part: Any) -> Document:
    """About the point [2, 1], or as much of it, rows by intervals."""
    rest: dict[str, Any] = {"set": {"kind": "linf", "x": "x", "eps": 0.0}, "bounds": []}
    rest["proofs"] = [{"rule": "interval", "rows": "chosen"}]
    head: dict[str, Any] = {"version": 1, "network": network.digest, "semantics": "real", "specification": RECORD}
    head["parts"] = [{**rest, **part}]
    arrays = {"x": np.array([2.0, 1.0])[:size], "chosen": np.arange(len(arrays["rows"])), **arrays}
    return Document({**head, "claim": claim_digest(head, arrays)}, arrays)


def test_one_row_proves_a_clause_and_every_clause_needs_one() -> None:
    own = CanonicalNetwork((CanonicalNode("input", (), 2, {}, {}), CanonicalNode("abs", (0,), 2, {}, {})))
    arrays = {"rows": np.array([[1.0, 0], [0, -1], [1, -1]]), "offset": np.array([0.0, 0, 0.5])}
    for clause, valid, bounds in (([0, 0, 0], True, [2]), ([0, 1, 0], False, [2, -1]), ([1, 0, 0], True, [1.5, 2])):
        found = check(own, document(own, {**arrays, "clause": np.array(clause)}, 2))
        assert found.valid == valid and np.allclose(found.clauses, bounds, rtol=0, atol=1e-9)
        assert np.allclose(found.lower, [2, -1, 1.5], rtol=0, atol=1e-9) and (found.lower <= [2, -1, 1.5]).all()


def test_sets_are_of_the_inputs_of_the_network() -> None:
    own = CanonicalNetwork((CanonicalNode("input", (), 2, {}, {}), CanonicalNode("abs", (0,), 2, {}, {})))
    arrays = {"rows": np.array([[1.0, 1]]), "offset": np.zeros(1), "clause": np.zeros(1, int)}
    assert check(own, document(own, arrays, 2)).valid
    assert "a set of 1 inputs" in check(own, document(own, arrays, 1)).reason
