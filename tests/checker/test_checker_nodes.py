"""What the checker takes for a network: kinds, shapes, options and parents of nodes, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_checker import Arrays, image, node

from verifier.checker import network as module
from verifier.checker.network import CanonicalNetwork, CanonicalNode

WIDTH = 24  #: of the input that all of these read
FILTER: dict[str, Any] = {
    "groups": 2, "stride": [2, 1], "padding": [1, 2, 0, 3], "dilation": [1, 2], "input": [4, 2, 3], "output": [6, 2, 4],
}  # fmt: skip


def numbers(*shape: int) -> np.ndarray:
    return np.arange(1.0, 1.0 + int(np.prod(shape))).reshape(shape)


def entries(row: list[int], column: list[int]) -> Arrays:
    return {"row": np.array(row), "column": np.array(column), "value": numbers(len(row))}


BIASES = {"bias": -numbers(2), "bias_size": numbers(2)}
GOOD: dict[str, CanonicalNode] = {
    "matrix": node("matrix", (0,), 2, {"weight": numbers(2, WIDTH), **BIASES}),
    "blocks": node("matrix", (0,), 6, {"weight": numbers(2, 8), "bias": -numbers(6)}, repeat=3, ulps=2),
    "sparse": node("sparse", (0,), 2, {**entries([0, 0, 1], [1, WIDTH - 1, 0]), **BIASES}),
    "second": node("sparse", (0, 0), 3, entries([1, 1, 2], [0, WIDTH, 1])),
    "nothing": node("sparse", (0,), 2, entries([], []) | {"row": np.zeros(0, int), "column": np.zeros(0, int)}),
    "conv": node("conv", (0,), 48, {"weight": numbers(6, 2, 3, 2), "bias": numbers(6)}, **FILTER),
    "one window": node("conv", (0,), 2, {"weight": numbers(2, 4, 2, 3)}, **{
        **FILTER, "groups": 1, "stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "output": [2, 1, 1]}),
    "transpose": node("conv_transpose", (0,), 2, {"weight": numbers(2, 1, 2, 2), "bias": numbers(1)}, groups=1,
        stride=[1, 1], padding=[2, 1, 1, 2], dilation=[1, 1], input=[1, 1, 2], output=[2, 3, 4]),
    "leaky": node("leaky", (0,), WIDTH, slope=-0.5),
    "clip": node("clip", (0,), WIDTH, low=1.0, high=1.0),
    "abs": node("abs", (0,), WIDTH),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(GOOD))
def test_these_are_well_formed(name: str) -> None:
    """And their products are those with one matrix: the transpose's is its transpose, |A| in place of A is |A|."""
    own = GOOD[name]
    CanonicalNetwork((node("input", (), WIDTH), own))
    if own.arrays:
        width = WIDTH * len(own.parents)
        a = own.forward(np.eye(width)).T
        assert a.shape == (own.size, width) and np.array_equal(own.adjoint(np.eye(own.size), width), a)
        assert np.array_equal(own.magnitude.forward(np.eye(width)).T, np.abs(a))
        assert own.bias.shape == (own.size,) and (own.bias_size >= np.abs(own.bias)).all()
        units = np.eye(own.size)
        two, none = units[:1] - units[1:2], np.zeros((1, own.size))
        for rows in (two, -2 * units, none, np.concatenate([two, none]), np.concatenate([units, two, none])):
            assert np.array_equal(own.adjoint(rows, width), rows @ a)


@pytest.mark.parametrize("k", [1, 3])
def test_convolutions_in_pieces_are_the_same(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own = image(np.random.default_rng(0)).nodes[k]
    x = np.random.default_rng(1).normal(size=(3, 80 if k == 1 else 90))
    whole = own.forward(x)
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    assert np.allclose(own.forward(x), whole, rtol=0, atol=1e-12)


NONE, INF = float("nan"), float("inf")
#: what a good node is changed into: its fields, or options and arrays beside those that it has
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("matrix", {"kind": "relu"}), ("matrix", {"size": 0}), ("matrix", {"size": 2.0}), ("abs", {"size": float(WIDTH)}),
    ("matrix", {"parents": ()}), ("nothing", {"parents": ()}), ("abs", {"parents": ()}),
    # options
    ("matrix", {"slope": 1.0}), ("leaky", {"low": 1.0}), ("leaky", {"options": {}}), ("conv", {"options": {}}),
    ("blocks", {"repeat": 2}), ("blocks", {"repeat": 3.0}), ("blocks", {"repeat": True}), ("matrix", {"ulps": -1}),
    ("matrix", {"ulps": 1.0}), ("matrix", {"ulps": True}), ("sparse", {"ulps": NONE}), ("conv", {"groups": [2]}),
    ("conv", {"padding": [1, 2, 0]}), ("conv", {"padding": [1, 2, 0, 3, 0]}), ("conv", {"padding": [1, 2, 0, 3.0]}),
    ("conv", {"padding": [1, 2, -1, 4]}), ("conv", {"stride": [2, 1, 1]}), ("conv", {"dilation": [1.0, 2]}),
    # activations
    ("leaky", {"slope": 1}), ("leaky", {"slope": NONE}), ("leaky", {"slope": INF}), ("abs", {"parents": (0, 0)}),
    ("abs", {"size": WIDTH - 1}), ("abs", {"weight": numbers(2)}), ("clip", {"low": 2.0}), ("clip", {"low": 1}),
    ("clip", {"low": -INF}), ("clip", {"high": INF}), ("clip", {"high": NONE}),
    # arrays
    ("matrix", {"arrays": {}}), ("matrix", {"other": numbers(2)}), ("matrix", {"row": np.zeros(2, int)}),
    ("blocks", {"bias_size": numbers(6), "bias": None}), ("sparse", {"value": None}),
    ("sparse", {"weight": numbers(3)}), ("matrix", {"weight": numbers(2, WIDTH).astype(np.float32)}),
    ("matrix", {"weight": numbers(2, WIDTH).astype(int)}),
    ("matrix", {"bias": np.array([1.0, NONE])}), ("matrix", {"bias_size": np.array([INF, 1.0])}),
    ("sparse", {"row": np.array([0, 0, 1], np.int32)}), ("sparse", {"row": np.array([0.0, 0.0, 1.0])}),
    ("sparse", {"column": np.array([1, 2, 0], np.uint64)}),
    # shapes of matrices and of biases
    ("matrix", {"weight": numbers(2, WIDTH - 1)}), ("matrix", {"weight": numbers(3, WIDTH)}), ("matrix", {"size": 3}),
    ("matrix", {"weight": numbers(2, WIDTH, 1)}), ("matrix", {"weight": numbers(WIDTH)}),
    ("matrix", {"bias": numbers(3)}), ("matrix", {"bias": numbers(1)}), ("matrix", {"bias": numbers(1, 2)}),
    ("matrix", {"bias_size": numbers(1)}), ("blocks", {"bias": numbers(2)}), ("conv", {"bias": numbers(48)}),
    ("matrix", {"parents": (0, 0), "weight": numbers(2, 2 * WIDTH)}), ("transpose", {"bias": numbers(2)}),
    ("sparse", {"bias": numbers(3), "bias_size": numbers(3)}),
    # entries of sparse matrices
    ("sparse", {"row": np.array([0, 0])}), ("sparse", {"column": np.array([1, 2])}), ("sparse", {"value": numbers(2)}),
    ("sparse", entries([-1, 0, 1], [1, 2, 0])), ("sparse", entries([0, 0, 2], [1, 2, 0])),
    ("sparse", entries([0, 0, 1], [-1, 2, 0])), ("sparse", entries([0, 0, 1], [1, 2, WIDTH])),
    ("sparse", entries([0, 0, 0], [1, 3, 2])), ("sparse", entries([1, 0, 0], [0, 1, 2])),
    ("sparse", entries([0, 0, 1], [1, 1, 0])), ("sparse", entries([0, 0, 1], [2, 1, 0])),
    ("sparse", {k: a[None] for k, a in entries([0], [1]).items()}), ("second", {"parents": (0,)}),
    # convolutions
    ("conv", {"weight": numbers(6, 2, 3)}), ("conv", {"weight": numbers(6, 2, 3, 2, 1)}), ("conv", {"groups": 0}),
    ("conv", {"weight": numbers(6, 4, 3, 2)}), ("conv", {"weight": numbers(6, 1, 3, 2)}),
    ("conv", {"stride": [0, 1]}), ("conv", {"dilation": [0, 2]}), ("conv", {"dilation": [1, 0]}),
    ("conv", {"groups": 3, "weight": numbers(6, 1, 3, 2)}),
    ("one window", {"groups": 4, "weight": numbers(2, 1, 2, 3)}),
    ("conv", {"output": [6, 4, 2]}), ("conv", {"output": [3, 4, 4]}), ("conv", {"output": [12, 2, 2]}),
    ("conv", {"weight": numbers(4, 2, 3, 2), "bias": numbers(4)}), ("conv", {"input": [4, 3, 2]}),
    ("conv", {"padding": [0, 2, 0, 3]}), ("conv", {"padding": [1, 0, 0, 3]}), ("conv", {"padding": [1, 2, 1, 3]}),
    ("conv", {"padding": [1, 2, 0, 2]}), ("transpose", {"output": [2, 4, 3]}), ("transpose", {"input": [1, 2, 1]}),
    ("one window", {"weight": numbers(2, 4, 3, 3)}), ("one window", {"weight": numbers(2, 4, 2, 4)}),
]  # fmt: skip


def changed(name: str, change: dict[str, Any]) -> CanonicalNode:
    own = GOOD[name]
    fields = {k: v for k, v in change.items() if k in ("kind", "parents", "size", "arrays", "options")}
    more = {k: v for k, v in change.items() if k not in fields}
    arrays = {**own.arrays, **{k: v for k, v in more.items() if v is None or isinstance(v, np.ndarray)}}
    options = {**own.options, **{k: v for k, v in more.items() if k not in arrays}}
    whole = {"arrays": {k: a for k, a in arrays.items() if a is not None}, "options": options, **fields}
    return replace(own, **whole)


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_wrong_nodes_are_refused(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="node 1"):
        CanonicalNetwork((node("input", (), WIDTH), changed(name, change)))


@pytest.mark.parametrize("parent", [-1, 1, 2, True, False, 0.0, np.int64(0), None])
def test_parents_are_numbers_of_earlier_nodes(parent: Any) -> None:
    with pytest.raises(ValueError, match="come before"):
        CanonicalNetwork((node("input", (), 2), node("abs", (parent,), 2)))
    with pytest.raises(ValueError, match="come before"):
        both = {"row": np.array([0]), "column": np.array([0]), "value": np.ones(1)}
        CanonicalNetwork((node("input", (), 2), node("sparse", (0, parent), 1, both)))


def test_the_first_node_and_no_other_is_an_input_that_has_a_size_alone() -> None:
    good = node("input", (), 1)
    CanonicalNetwork((good,))
    wrong: list[dict[str, Any]] = [{"size": 0}, {"parents": (0,)}, {"arrays": {"weight": np.ones(1)}}]
    wrong.append({"options": {"slope": 1.0}})
    for nodes in ((), (node("abs", (), 1),), (good, good), *((replace(good, **change),) for change in wrong)):
        with pytest.raises(ValueError, match=r"input|come before"):
            CanonicalNetwork(nodes)
