"""The network that a certificate is about: affine maps, activations and products on flat float64 vectors.

Every affine kind has a product with A, one with its transpose and one with |A|, all made of sums of products, in some
order. A digest names the function: Merkle's, so that it does not depend on how nodes are numbered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from verifier.checker.pieces import malformed

#: kind -> its options, with how many numbers each holds; matrix and sparse may leave theirs out
_CONV = {"groups": 0, "stride": 2, "padding": 4, "dilation": 2, "input": 3, "output": 3}
AFFINE: dict[str, dict[str, int]] = {"matrix": {}, "sparse": {}, "conv": _CONV, "conv_transpose": _CONV}
_NONE: tuple[str, ...] = ()
ACTIVATIONS = {"leaky": ("slope",), "clip": ("low", "high"), "abs": _NONE, "sigmoid": _NONE, "tanh": _NONE}
_SMOOTH = (
    "exp", "log", "reciprocal", "sqrt", "rsqrt", "square", "sin", "cos", "tan", "atan", "erf", "softplus", "gelu",
    "gelu_tanh", "silu", "mish", "softsign", "tanhshrink", "hardswish",
)  # fmt: skip
ACTIVATIONS |= {**dict.fromkeys(_SMOOTH, _NONE), "power": ("exponent",), "elu": ("alpha",), "celu": ("alpha",)}
ACTIVATIONS |= {"polyline": ("x", "y", "left", "right"), **dict.fromkeys(("floor", "round", "sign"), _NONE)}
ACTIVATIONS |= {"step": ("closed",)}
#: products of two entries of one node
PRODUCT = "product"
NONLINEAR = (*ACTIVATIONS, PRODUCT)  #: what is bounded by lines
_AT_ONCE = 1 << 20  #: numbers in the columns of a convolution


@dataclass(frozen=True, eq=False)
class CanonicalNode:
    """`kind`, the nodes it reads, the length of its value, parameters and options (docs/guide/certificates.md)."""

    kind: str
    parents: tuple[int, ...]
    size: int
    arrays: dict[str, np.ndarray]
    options: dict[str, Any]

    @cached_property
    def magnitude(self) -> CanonicalNode:
        """The same with |A| in place of A."""
        return replace(self, arrays={k: np.abs(a) if k in ("weight", "value") else a for k, a in self.arrays.items()})

    @cached_property
    def bias(self) -> np.ndarray:  # [size]
        return self._spread(self.arrays.get("bias", np.zeros(1)))

    @cached_property
    def bias_size(self) -> np.ndarray:  # [size]: at least |bias|
        return np.maximum(np.abs(self.bias), self._spread(self.arrays.get("bias_size", np.zeros(1))))

    def _spread(self, bias: np.ndarray) -> np.ndarray:
        return np.repeat(bias, self.size // len(bias))

    @cached_property
    def ulps(self) -> int:
        return self.options.get("ulps", 0)

    @cached_property
    def terms(self) -> tuple[int, int]:
        """The longest sums in a product with A and in one with its transpose."""
        if self.kind == "sparse":
            row, column = (np.bincount(self.arrays[k]).max(initial=0) for k in ("row", "column"))
            return int(row), int(column)
        w, groups = self.arrays["weight"].shape, self.options.get("groups", 1)
        forward, adjoint = prod(w[1:]), prod((w[0], *w[2:])) // groups
        return (adjoint, forward) if self.kind == "conv_transpose" else (forward, adjoint)

    @cached_property
    def copies(self) -> np.ndarray:
        """[size] bool: the value is one parent's entry or its negative, so that no arithmetic rounds it."""
        if self.kind != "sparse":
            return np.zeros(self.size, bool)
        row, one = self.arrays["row"], np.abs(self.arrays["value"]) == 1
        count, ones = (np.bincount(r, minlength=self.size) for r in (row, row[one]))
        return (count == 1) & (ones == 1) & (self.bias_size == 0) & (self.ulps == 0)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """A x without the bias: [N, all parents' sizes] -> [N, size]."""
        if self.kind == "matrix":
            w = self.arrays["weight"]
            return (x.reshape(-1, w.shape[1]) @ w.T).reshape(len(x), -1)
        if self.kind == "sparse":
            return _summed(x[:, self.arrays["column"]] * self.arrays["value"], self.arrays["row"], self.size)
        return self._convolved(x) if self.kind == "conv" else self._deconvolved(x)

    def adjoint(self, nu: np.ndarray, width: int) -> np.ndarray:
        """A^T nu: [N, size] -> [N, width], the sum of all parents' sizes."""
        if self.kind == "matrix":
            w = self.arrays["weight"]
            return (nu.reshape(-1, w.shape[0]) @ w).reshape(len(nu), -1)
        if self.kind == "sparse":
            column, order = self.arrays["column"], self._by_column
            return _summed((nu[:, self.arrays["row"]] * self.arrays["value"])[:, order], column[order], width)
        return self._deconvolved(nu) if self.kind == "conv" else self._convolved(nu)

    @cached_property
    def _by_column(self) -> np.ndarray:
        return np.argsort(self.arrays["column"], kind="stable")

    def _windows(self) -> Iterator[tuple[int, slice, slice]]:
        """Where each weight of a filter reads the padded image."""
        (sh, sw), (dh, dw), (_, h, w) = (self.options[k] for k in ("stride", "dilation", "output"))
        kh, kw = self.arrays["weight"].shape[2:]
        for t in range(kh * kw):
            i, j = t // kw * dh, t % kw * dw
            yield t, slice(i, i + (h - 1) * sh + 1, sh), slice(j, j + (w - 1) * sw + 1, sw)

    def _parts(self, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Pieces of a batch, with their padded images (zero) and their columns (empty)."""
        (c, h, w), (top, bottom, left, right) = self.options["input"], self.options["padding"]
        area, groups = prod(self.options["output"][1:]), self.options["groups"]
        kernel = prod(self.arrays["weight"].shape[2:])
        step = max(1, _AT_ONCE // (c * kernel * area))
        for start in range(0, len(x), step):
            part = slice(start, min(start + step, len(x)))
            n = part.stop - start
            padded = np.zeros((n, c, h + top + bottom, w + left + right))
            yield part, padded, np.empty((n, groups, c // groups * kernel, area))

    def _convolved(self, x: np.ndarray) -> np.ndarray:
        (c, h, w), (_, high, wide), (top, _, left, _) = (self.options[k] for k in ("input", "output", "padding"))
        weight = self.arrays["weight"]
        filters = weight.reshape(self.options["groups"], -1, prod(weight.shape[1:]))
        y = np.empty((len(x), prod(self.options["output"])))
        for part, padded, columns in self._parts(x):
            padded[:, :, top : top + h, left : left + w] = x[part].reshape(-1, c, h, w)
            view = columns.reshape(len(padded), c, -1, high, wide)
            for t, rows, cols in self._windows():
                view[:, :, t] = padded[:, :, rows, cols]
            y[part] = (filters @ columns).reshape(len(padded), -1)
        return y

    def _deconvolved(self, nu: np.ndarray) -> np.ndarray:
        (c, h, w), (_, high, wide), (top, _, left, _) = (self.options[k] for k in ("input", "output", "padding"))
        weight, groups = self.arrays["weight"], self.options["groups"]
        if np.count_nonzero(nu) <= len(nu):
            row, place = np.nonzero(nu)
            if bool((np.diff(row) > 0).all()):
                return self._placed(nu, row, place)
        filters = weight.reshape(groups, -1, prod(weight.shape[1:])).transpose(0, 2, 1)
        x = np.empty((len(nu), c * h * w))
        for part, padded, columns in self._parts(nu):
            np.matmul(filters, nu[part].reshape(len(padded), groups, -1, high * wide), out=columns)
            view = columns.reshape(len(padded), c, -1, high, wide)
            for t, rows, cols in self._windows():
                padded[:, :, rows, cols] += view[:, :, t]
            x[part] = padded[:, :, top : top + h, left : left + w].reshape(len(padded), -1)
        return x

    def _placed(self, nu: np.ndarray, row: np.ndarray, place: np.ndarray) -> np.ndarray:
        """What `_deconvolved` gives of rows with no more than one entry: a multiple of one filter each, at its place.

        Args:
            row, place: [K], where the entries are; no two in one row.
        """
        (c, h, w), (_, high, wide), (top, bottom, left, right) = (
            self.options[k] for k in ("input", "output", "padding")
        )
        (sh, sw), (dh, dw), weight = self.options["stride"], self.options["dilation"], self.arrays["weight"]
        filters, (depth, kh, kw) = place // (high * wide), weight.shape[1:]
        first = filters // (len(weight) // self.options["groups"]) * depth
        channels = first[:, None] + np.arange(depth)
        rows = (place // wide % high * sh)[:, None] + np.arange(kh) * dh
        cols = (place % wide * sw)[:, None] + np.arange(kw) * dw
        padded = np.zeros((len(nu), c, h + top + bottom, w + left + right))
        at = row[:, None, None, None], channels[:, :, None, None], rows[:, None, :, None], cols[:, None, None, :]
        padded[at] = nu[row, place][:, None, None, None] * weight[filters]
        return padded[:, :, top : top + h, left : left + w].reshape(len(nu), -1)

    def check(self, sizes: list[int]) -> str:
        """What is wrong with this node, given its parents' sizes; an empty string if nothing is."""
        wanted = _NONE if self.kind == PRODUCT else AFFINE.get(self.kind, ACTIVATIONS.get(self.kind))
        if wanted is None or not isinstance(self.size, int) or self.size < 1:
            return f"an unknown kind, or a size of {self.size}"
        if not set(wanted) <= set(self.options) <= {*wanted, "ulps", "repeat"}:
            return f"options {sorted(self.options)}, where {sorted(wanted)} are needed"
        if self.kind in ACTIVATIONS:
            if self.kind == "polyline":
                fine = not self.arrays and sizes == [self.size] and not malformed(self.options)
                return "" if fine else "a polyline has one parent of its own size and as many finite, rising x as y"
            values = list(self.options.values())
            fine = not self.arrays and sizes == [self.size] and all(type(v) is float for v in values)
            fine = fine and bool(np.isfinite(values).all())
            fine = fine and (self.kind != "clip" or self.options["low"] <= self.options["high"])
            fine = fine and (self.kind != "celu" or self.options["alpha"] > 0)
            fine = fine and (self.kind != "step" or self.options["closed"] in (0.0, 1.0))
            return "" if fine else "an activation has one parent of its own size, no arrays, and finite float options"
        if self.kind == PRODUCT:
            places = [self.arrays.get(name, np.zeros(0)) for name in ("left", "right")]
            fine = len(sizes) == 1 and len(self.arrays) == 2 and not self.options
            fine = fine and all(p.dtype == np.int64 and p.shape == (self.size,) for p in places)
            fine = fine and all(((p >= 0) & (p < sizes[0])).all() for p in places)
            return "" if fine else "a product has one parent, and places of its factors in it for every entry"
        numbers = [n for v in self.options.values() for n in (v if isinstance(v, list) else [v])]
        counts = [
            len(self.options[k]) == n if n else type(self.options[k]) is int for k, n in AFFINE[self.kind].items()
        ]
        if not all(type(n) is int and n >= 0 for n in numbers) or not all(counts):
            return "options that are not (lists of the right length of) integers from 0 on"
        names = {"row", "column", "value"} if self.kind == "sparse" else {"weight"}
        if not names <= set(self.arrays) <= names | {"bias", "bias_size"} or ("bias_size" in self.arrays) > (
            "bias" in self.arrays
        ):
            return f"arrays {sorted(self.arrays)}"
        for name, a in self.arrays.items():
            if a.dtype != (np.int64 if name in ("row", "column") else np.float64) or not np.isfinite(a).all():
                return f"{name}: finite float64 numbers are needed (int64 for indices)"
        reads, writes, biases, shapes = self._shapes(sum(sizes))
        for name in {"bias", "bias_size"} & set(self.arrays):
            shapes = shapes and self.arrays[name].shape == (biases,)
        one = self.kind == "sparse" or len(sizes) == 1
        fine = shapes and one and reads == sum(sizes) and writes == self.size and len(sizes) > 0
        return "" if fine else f"shapes that do not fit: parents of {sizes}, {self.size} values"

    def _shapes(self, width: int) -> tuple[int, int, int, bool]:
        """What the arrays and options make of it: numbers read, written, of biases, and whether they fit each other."""
        if self.kind == "sparse":
            row, column, value = (self.arrays[k] for k in ("row", "column", "value"))
            if not row.shape == column.shape == value.shape == (len(row),):
                return 0, 0, 0, False
            inside = bool(((row >= 0) & (row < self.size) & (column >= 0) & (column < width)).all())
            place = row * width + column
            return width, self.size, self.size, inside and bool((np.diff(place) > 0).all())
        w = self.arrays["weight"].shape
        if self.kind == "matrix":
            repeat = self.options.get("repeat", 1)
            return (repeat * w[1], repeat * w[0], repeat * w[0], True) if len(w) == 2 else (0, 0, 0, False)
        (o, (c, h, wide)), groups = (self.options["output"], self.options["input"]), self.options["groups"]
        (top, bottom, left, right), stride, dilation = (self.options[k] for k in ("padding", "stride", "dilation"))
        if len(w) != 4 or groups < 1 or min(*stride, *dilation, *w) < 1 or c % groups or o[0] % groups:
            return 0, 0, 0, False
        room = [h + top + bottom - dilation[0] * (w[2] - 1) - 1, wide + left + right - dilation[1] * (w[3] - 1) - 1]
        fits = min(room) >= 0 and o == [w[0], room[0] // stride[0] + 1, room[1] // stride[1] + 1]
        fits = fits and w[1] == c // groups
        ends = (c * h * wide, prod(o), o[0]) if self.kind == "conv" else (prod(o), c * h * wide, c)
        return (*ends, fits)


def _summed(products: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """Sums [N, size] of the products [N, nnz] of each place, which are in order."""
    y = np.zeros((len(products), size))
    first = np.flatnonzero(np.diff(place, prepend=-1))
    if len(first):
        y[:, place[first]] = products if len(first) == len(place) else np.add.reduceat(products, first, axis=1)
    return y


@dataclass(frozen=True, eq=False)
class CanonicalNetwork:
    """Nodes in an order in which parents come first; node 0 is the input, the last one the output.

    Raises:
        ValueError: a node that is malformed, with what is wrong.
    """

    nodes: tuple[CanonicalNode, ...]

    def __post_init__(self) -> None:
        for k, node in enumerate(self.nodes):
            if not all(type(p) is int and 0 <= p < k for p in node.parents):
                raise ValueError(f"node {k} ({node.kind}) reads nodes {node.parents}, which do not come before it")
            if (node.kind == "input") != (k == 0):
                raise ValueError(f"node {k} is of kind {node.kind!r}: node 0, and no other, is the input")
            wrong = "" if k == 0 else node.check([self.nodes[p].size for p in node.parents])
            if wrong or (k == 0 and (node.parents or node.arrays or node.options or node.size < 1)):
                raise ValueError(
                    f"node {k} ({node.kind}) of the network is malformed: {wrong or 'an input has a size'}"
                )
        if not self.nodes:
            raise ValueError("a network has at least an input")

    @cached_property
    def digest(self) -> str:
        """sha256 over the nodes and, in place of parents, their digests."""
        digests: list[str] = []
        for node in self.nodes:
            arrays = [(name, node.arrays[name]) for name in sorted(node.arrays)]
            names = [[name, a.dtype.str[1:], list(a.shape)] for name, a in arrays]
            head = [node.kind, node.size, node.options, names, [digests[p] for p in node.parents]]
            found = hashlib.sha256(json.dumps(head, sort_keys=True).encode() + b"\n")
            for _, a in arrays:
                found.update(np.ascontiguousarray(a + 0, a.dtype.newbyteorder("<")).tobytes())  # -0.0 becomes 0.0
            digests.append(found.hexdigest())
        return digests[-1]

    @cached_property
    def readers(self) -> list[int]:
        """How many places read each node."""
        return [sum(n.parents.count(k) for n in self.nodes) for k in range(len(self.nodes))]

    @cached_property
    def pre_activations(self) -> list[int]:
        """The nodes that activations and products read, in order."""
        return sorted({n.parents[0] for n in self.nodes if n.kind in NONLINEAR})
