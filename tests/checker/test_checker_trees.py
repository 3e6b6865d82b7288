"""Trees of cases and slopes that the checker takes, and what it refuses of them before it proves anything."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from test_checker import boxes_case, check, node, plain, split_case

from verifier.checker import subdomains
from verifier.checker.backward import NodeRanges
from verifier.checker.network import CanonicalNetwork
from verifier.checker.subdomains import BoxForest, SplitForest, forest, slopes_of

NONE = np.nan
#: two trees: node 0 splits into 2 and 3, node 3 into 4 and 5; node 1 is a leaf
TREES: dict[str, Any] = {
    "split": np.array([0, -1, -1, 1, -1, -1]), "at": np.array([0.5, NONE, NONE, -1, NONE, NONE]),
    "below": np.array([2, -1, -1, 4, -1, -1]), "above": np.array([3, -1, -1, 5, -1, -1]), "kinds": 2,
    "roots": np.array([0, 1]),
}  # fmt: skip


def with_(name: str, place: int, value: float) -> dict[str, Any]:
    other = TREES[name].copy()
    other[place] = value
    return {name: other}


def test_trees_and_single_leaves_are_trees() -> None:
    forest(**TREES)
    forest(**{**TREES, "below": TREES["above"], "above": TREES["below"]})
    leaf, none = np.array([-1]), np.zeros(1)
    forest(leaf, none, leaf, leaf, 0, np.array([0]))
    swapped = {"below": np.array([3, -1, -1, 5, -1, -1]), "above": np.array([2, -1, -1, 4, -1, -1])}
    forest(**{**TREES, **swapped})


@pytest.mark.parametrize(
    "change",
    [
        *({name: TREES[name][:-1]} for name in ("split", "at", "below", "above")),
        *({name: np.append(TREES[name], -1)} for name in ("split", "at", "below", "above")),
        with_("split", 0, 2), with_("split", 3, 2), with_("split", 0, -2), with_("split", 1, -2), with_("split", 3, 9),
        with_("at", 0, NONE), with_("at", 3, NONE), with_("at", 0, np.inf), with_("at", 3, -np.inf), {"kinds": 1},
        with_("below", 0, -1), with_("above", 3, -1), with_("below", 0, 6), with_("above", 3, 6), with_("above", 0, 2),
        with_("below", 3, 2), with_("below", 3, 3), with_("below", 0, 0), with_("above", 0, 1), with_("roots", 0, 1),
        with_("roots", 1, -1), with_("roots", 1, 6), with_("roots", 1, 4), {"roots": np.array([0, 1, 1])},
        {"roots": np.array([0, 1, 5])}, with_("split", 4, 0),
        # a child before its parent
        {"split": np.array([-1, 0, -1]), "at": np.zeros(3), "below": np.array([-1, 0, -1]),
         "above": np.array([-1, 2, -1]), "roots": np.array([1])},
        {"split": np.array([-1, 0, -1]), "at": np.zeros(3), "below": np.array([-1, 2, -1]),
         "above": np.array([-1, 0, -1]), "roots": np.array([1])},
        {"split": np.array([0]), "at": np.zeros(1), "below": np.zeros(1, int), "above": np.zeros(1, int),
         "roots": np.zeros(0, int)},
    ],
)  # fmt: skip
def test_what_is_no_tree_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no tree"):
        forest(**{**TREES, **change})


@pytest.mark.parametrize("places", [[], [0], [5], [0, 5], [3, 2, 2]])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_slopes_are_of_any_neurons(places: list[int], dtype: type) -> None:
    record = {"2": {"neurons": np.array(places, dtype), "slopes": np.zeros((4, len(places)))}}
    assert slopes_of(plain()[0], record, 4)[2] is record["2"]


@pytest.mark.parametrize("places", [[-1], [6], [-1, 3], [3, 6], [0.0], [[0]], [True]])
def test_slopes_of_other_neurons_are_refused(places: list[Any]) -> None:
    given = np.array(places)
    with pytest.raises(ValueError, match="slopes of"):
        slopes_of(plain()[0], {"2": {"neurons": given, "slopes": np.zeros((4, *given.shape))}}, 4)


def test_slopes_of_other_nodes_or_rows_are_refused() -> None:
    cases = [(name, (4, 2)) for name in ("1", "0", "-2", "5", "99")]
    for name, shape in [*cases, ("2", (3, 2)), ("2", (4, 1)), ("2", (4,)), ("2", (4, 2, 1))]:
        with pytest.raises(ValueError, match="slopes of"):
            slopes_of(plain()[0], {name: {"neurons": np.array([0, 1]), "slopes": np.zeros(shape)}}, 4)


def variables() -> dict[str, Any]:
    """Of one tree of two leaves, which have no multiplier and two of them."""
    _, good = split_case()
    arrays = {name: good.arrays[name] for name in good.head["parts"][0]["proofs"][0]["cases"] if name != "neurons"}
    return {**arrays, "neurons": {"2": np.array([0, 1])}, "slope": np.zeros((2, 2), np.uint8),
            "first": np.array([0, 0, 2]), "split": np.array([0, 1]), "gamma": np.ones(2)}  # fmt: skip


def test_variables_of_leaves() -> None:
    found = SplitForest(split_case()[0], variables(), 1)
    assert [leaf for leaf, _, _ in found.leaves(0)] in ([0, 1], [1, 0])
    SplitForest(split_case()[0], {**variables(), "upper": np.zeros((2, 2))}, 1)
    SplitForest(split_case()[0], {**variables(), "roots": np.array([[6, 0]])}, 7)


@pytest.mark.parametrize(
    "change",
    [
        *({"neurons": {"2": np.array(places)}} for places in ([0, 2], [0, -1], [[0, 1]])),
        *({"neurons": {name: np.array([0, 1])}} for name in ("1", "0", "3", "-2", "4")),
        {"neuron": np.array([2, -1, -1])},
        {"slope": np.zeros((2, 1), np.uint8)}, {"slope": np.zeros((3, 2), np.uint8)}, {"slope": np.zeros(2)},
        {"upper": np.zeros((2, 1))}, {"upper": np.zeros((1, 2))}, {"weight": np.ones((3, 1))},
        {"first": np.array([0, 2])}, {"first": np.array([0, 0, 2, 2])}, {"first": np.array([[0, 0, 2]])},
        {"first": np.array([1, 1, 2])}, {"first": np.array([0, 3, 2])}, {"first": np.array([0, 0, 1])},
        {"first": np.array([0, 0, 3])}, {"split": np.array([0])}, {"split": np.array([0, 1, 1])}, {"gamma": np.ones(1)},
        {"gamma": np.ones(3)}, {"split": np.array([0, 2])}, {"split": np.array([-1, 0])},
        {"gamma": np.array([0, NONE])},
        {"gamma": np.array([np.inf, 0])}, {"proof": np.array([-1, 0])}, {"proof": np.array([-1, 0, 1, 1])},
        {"roots": np.array([[1, 0]])}, {"roots": np.array([[-1, 0]])}, {"roots": np.array([[0, 3]])},
        {"roots": np.array([[0, 0], [0, 1]])}, {"neuron": np.full(3, -1), "roots": np.array([[0, 0], [1, 1]])},
    ],
)  # fmt: skip
def test_variables_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"free neurons|variables|no tree"):
        SplitForest(split_case()[0], {**variables(), **change}, 1)


def box_record() -> tuple[NodeRanges, dict[str, Any]]:
    network, good = boxes_case()
    ranges = NodeRanges(network, -np.ones((1, 1)), np.ones((1, 1)), False)
    ranges.forward(1, len(network.nodes))
    names = good.head["parts"][0]["proofs"][0]["boxes"]
    record = {name: good.arrays[name] for name in names if name != "slopes"}
    return ranges, {**record, "slopes": {"2": {"neurons": np.array([0]), "slopes": np.zeros((1, 1), np.uint8)}}}


@pytest.mark.parametrize(
    "change",
    [
        {"node": np.array([1, 3, 5])}, {"node": np.array([-1, 3, 4])}, {"node": np.array([1, 3])},
        {"clause": np.array([0, 0, 1])}, {"clause": np.array([0, -1, 0])}, {"clause": np.zeros(2, int)},
        {"own": np.array([-1, 0])}, {"own": np.array([[-1, -1, 0]])}, {"own": np.array([-1, 1, 0])},
        {"fresh": np.ones(4, bool)}, {"fresh": np.ones(6, bool)}, {"weights": np.ones((2, 1))},
        {"weights": np.ones((4, 1))}, {"side": np.array([1, -1, 0, -1, -1])}, {"at": np.array([NONE, 0, 0.25, 0, 0])},
        {"below": np.array([2, -1, 3, -1, -1])},
        {"slopes": {"2": {"neurons": np.array([0]), "slopes": np.ones((2, 1))}}},
    ],
)  # fmt: skip
def test_proofs_of_boxes_that_are_not_there_are_refused(change: dict[str, Any]) -> None:
    ranges, good = box_record()
    BoxForest(ranges, good, 1)
    with pytest.raises(ValueError, match=r"proofs of|no tree|slopes of"):
        BoxForest(ranges, {**good, **change}, 1)


def test_boxes_are_halves_of_those_above() -> None:
    """A split outside of its box leaves one half as it is, and of the other its edge."""
    ranges, good = box_record()
    for at, ends in (([0, 0, 0.25, 0, 0], [(-1, 1), (-1, 0), (0, 1), (0, 0.25), (0.25, 1)]),
                     ([-2, 0, 0.25, 0, 0], [(-1, 1), (-1, -1), (-1, 1), (-1, 0.25), (0.25, 1)]),
                     ([0.5, 0, 0.25, 0, 0], [(-1, 1), (-1, 0.5), (0.5, 1), (0.5, 0.5), (0.5, 1)]),
                     ([3, 0, 0.25, 0, 0], [(-1, 1), (-1, 1), (1, 1), (1, 1), (1, 1)])):  # fmt: skip
        found = BoxForest(ranges, {**good, "at": np.array(at)}, 1)
        assert list(zip(found.lower[:, 0].tolist(), found.upper[:, 0].tolist(), strict=True)) == ends
        assert found.owner.tolist() == [0, 1, 2, 2, 4] and sorted(found.kids.tolist()) == [1, 2, 4]


def test_a_constraint_of_one_neuron_is_paid_for() -> None:
    network = CanonicalNetwork((node("input", (), 1), node("abs", (0,), 1)))
    for z, g in np.random.default_rng(0).normal(size=(50, 2)).tolist():
        ranges = NodeRanges(network, np.array([[z]]), np.array([[z]]), False)
        ranges.forward(1, 2)
        found, exact = one_leaf(network, ranges, np.array([g])), -Fraction(g) * Fraction(z)
        assert exact - Fraction(1e-12) < Fraction(found[1].item()) <= exact


def one_leaf(network: CanonicalNetwork, ranges: NodeRanges, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What multipliers g of the input's entries add."""
    record = {name: np.zeros(1, int) for name in ("at", "below", "above", "proof")}
    record |= {"roots": np.zeros((1, 2), int), "neuron": -np.ones(1, int), "slope": np.zeros((1, len(g)))}
    record |= {"weight": np.ones((1, 1)), "first": np.array([0, len(g)]), "split": np.arange(len(g)), "gamma": g}
    tree = SplitForest(network, {**record, "neurons": {"1": np.arange(len(g))}}, 1)
    return tree.narrowed(ranges, list(tree.leaves(0)))[2][0]


def test_splits_of_one_neuron_narrow_it_from_both_sides() -> None:
    changes = {"neuron": np.array([0, 0, -1, 0, -1, -1, -1]), "at": np.array([0.5, 0.75, 0, -1, 0, 0, 0])}
    changes |= {"below": np.array([1, 3, 0, 4, 0, 0, 0]), "above": np.array([2, 5, 0, 6, 0, 0, 0])}
    tree = SplitForest(split_case()[0], {**variables(), **changes, "proof": np.arange(7)}, 1)
    ends = {leaf: (low.get(0), high.get(0)) for leaf, low, high in tree.leaves(0)}
    assert ends == {4: (None, -1), 6: (-1, 0.5), 5: (0.75, 0.5), 2: (0.5, None)}
    changes |= {"at": np.array([0.5, 0, 0.25, 0, 0, 0, 0]), "neuron": np.array([0, -1, 0, -1, -1, -1, -1])}
    changes |= {"below": np.array([1, 0, 3, 0, 0, 0, 0]), "above": np.array([2, 0, 4, 0, 0, 0, 0])}
    tree = SplitForest(split_case()[0], {**variables(), **changes, "proof": np.arange(7)}, 1)
    assert {leaf: (low.get(0), high.get(0)) for leaf, low, high in tree.leaves(0)}[4] == (0.5, None)


@pytest.mark.parametrize("case", [split_case, boxes_case])
def test_means_count_as_the_largest_row(case: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network, good = case()
    before = check(network, good).clauses[0]
    monkeypatch.setattr(subdomains, "largest", lambda values, count: values - count)
    assert abs(check(network, good).clauses[0] - before + 1) < 1e-12


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_multipliers_add_what_is_never_above_zero(flip: float) -> None:
    """The least of gamma (z - end), on each leaf, less what the sum with a row's coefficients may round by."""
    n = 300
    hard = np.append(1 + 2.0**-10, np.full(n - 1, 0.9 * 2.0**-53))
    often = node("sparse", (0,) * 500, 1, {"row": np.zeros(1, int), "column": np.zeros(1, int), "value": np.ones(1)})
    network = CanonicalNetwork((node("input", (), n), node("abs", (0,), n), often))
    for low, high in ((-np.ones(n), hard), (-hard, np.ones(n)), (-hard, 0 * hard), (0 * hard, hard), (hard, hard)):
        pair = np.sort([flip * low, flip * high], axis=0)
        ranges = NodeRanges(network, pair[:1], pair[1:], False)
        ranges.forward(1, 3)
        for g in (np.ones(n), -np.ones(n), np.where(np.arange(n) == 0, 2.0, -1e-20), 1e-320 * np.ones(n)):
            found, ends = one_leaf(network, ranges, g), np.where(g > 0, ranges.high[0][0], ranges.low[0][0])
            assert np.array_equal(found[0][0, 0], g)
            exact = -sum(Fraction(a) * Fraction(b) for a, b in zip(g.tolist(), ends.tolist(), strict=True))
            sizes = zip(g.tolist(), ranges.size(0)[0].tolist(), strict=True)
            size = sum(abs(Fraction(a)) * Fraction(b) for a, b in sizes)
            assert Fraction(found[1].item()) <= exact - (500 + n) * size / 2**53 - Fraction(2) ** -1014
            assert abs(float(Fraction(found[1].item()) - exact)) < 1e-9
