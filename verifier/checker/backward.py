"""Intervals of every node, and walks backwards that tighten them and prove rows: weak duality with rounding paid for.

A walk carries numbers nu_k for every node k still in the sum. Whatever they are, at an affine node z_k = A z + b

    nu_k . z_k  =  nu . z + nu_k . b + (A^T nu_k - nu) . z,     |last term| <= gamma |nu_k| . |A| M,     M >= |z|,

for the computed nu; at an activation y = act(z) >= s z + b (or <=, by the sign of nu_k) the same holds for nu = s nu_k.
So a row pays |nu_k| . roundoff_k at every node it passes, whatever the order of sums, and roundoff_k covers every
rounding: of the product with A^T, of adding up coefficients of several readers, of the constants, of the roundoff
itself; and, in float32 semantics, that the network's own value is off by gamma32 (|A| M + |b|). What is left at the
input is bounded by the set's support function. Float32 semantics covers every order of summation, with or without
fused products or blocks, and results flushed to zero; not Winograd's or Fourier's convolutions, nor TF32, nor operands
flushed to zero. It assumes sigmoid and tanh within 4 units in the last place, inputs that are float32, and proves
nothing beyond float32's range.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy

import numpy as np

from verifier.checker import lines, products
from verifier.checker.network import NONLINEAR, PRODUCT, CanonicalNetwork, CanonicalNode
from verifier.checker.rounding import (
    AMPLE,
    DOUBLE,
    LARGEST_SINGLE,
    SINGLE,
    SMOOTH,
    SMOOTH_SLOPE,
    TINY,
    TINY_SINGLE,
    down,
    gamma,
    up,
)  # fmt: skip

#: numbers of a tensor that fits a core's first cache, and of the largest that rows are worked on in: its second one
CACHED, MANY = 1 << 15, 1 << 18
Chooser = Callable[[int], lines.Lines]  #: the lines of an activation
Extra = tuple[np.ndarray, np.ndarray]  #: added to the coefficients [B, 1, n] of a node, and to the sum [B, 1]
SlopeTable = Mapping[
    int, Mapping[str, np.ndarray]
]  #: activation -> neurons [u], slopes [R, u] and perhaps upper [R, u]
ALL = slice(None)


class NodeRanges:
    """Rigorous intervals [low, high] of every node's value over B sets, [B, n] each, and every node's roundoff.

    Args:
        low, high: [B, n] boxes around the sets. minimum: rigorous lower bounds [1, R] of the least c . x over one set
            for c [1, R, n]; None where the sets are the boxes.
        deadline: of time.monotonic(), after which a walk raises TimeoutError.
    """

    def __init__(
        self, network: CanonicalNetwork, low: np.ndarray, high: np.ndarray, float32: bool,
        minimum: Callable[[np.ndarray], np.ndarray] | None = None, deadline: float = math.inf,
    ) -> None:  # fmt: skip
        self.network, self.float32, self.deadline, count = network, float32, deadline, len(network.nodes)
        self.low, self.high, self.roundoff = ([low] * count, [high] * count, [np.zeros((1, 1))] * count)
        self.mass = [1 + self.size(0).sum(1)] * count  #: of all nodes up to each: one more than all their sizes, [B]
        self.known: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.minimum, self.readers = minimum, max(network.readers)
        self.widest = max(node.size for node in network.nodes)
        self._lines: dict[tuple[int, str], tuple[np.ndarray, np.ndarray, lines.Lines]] = {}

    def copy(self) -> NodeRanges:
        """The same, for more to be learnt of it than of this one."""
        new = copy(self)
        new.low, new.high, new.roundoff, new.mass = [*self.low], [*self.high], [*self.roundoff], [*self.mass]
        new.known, new._lines = {**self.known}, {**self._lines}
        return new

    def forward(self, start: int, stop: int) -> None:
        """The intervals of nodes from `start` to before `stop` by interval arithmetic, within what is known of them."""
        for k in range(max(start, 1), stop):
            kind = self.network.nodes[k].kind
            step = self._product if kind == PRODUCT else self._activation if kind in NONLINEAR else self._affine
            low, high, self.roundoff[k] = step(k)
            if k in self.known:
                low, high = np.fmax(low, self.known[k][0]), np.fmin(high, self.known[k][1])
            self.low[k], self.high[k] = low, high
            self.mass[k] = self.mass[k - 1] + self.size(k).sum(1)

    def size(self, k: int, boxes: np.ndarray | slice = ALL) -> np.ndarray:
        return np.maximum(np.abs(_picked(self.low[k], boxes)), np.abs(_picked(self.high[k], boxes)))

    def _affine(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        node = self.network.nodes[k]
        low, high = (np.concatenate([ends[p] for p in node.parents], 1) for ends in (self.low, self.high))
        middle = 0.5 * low + 0.5 * high
        radius = np.maximum(high - middle, middle - low) * (1 + 8 * DOUBLE)
        value = node.forward(middle) + node.bias
        largest = np.maximum(np.abs(low), np.abs(high))
        absolute = node.magnitude.forward(np.concatenate([radius, largest]))
        spread, size = absolute[: len(low)], absolute[len(low) :] + node.bias_size
        share = gamma(2 * sum(node.terms) + node.size + self.readers + 32) + gamma(node.ulps)
        roundoff = share * size * AMPLE + TINY
        if self.float32:
            terms = node.terms[0] + 4 + node.ulps
            # parameters are rounded as well: those that are too small for that to be relative, by less than the least
            rounded = gamma(terms, SINGLE) * size * AMPLE + (terms + largest.sum(1, keepdims=True)) * TINY_SINGLE
            roundoff = np.where(size * AMPLE < LARGEST_SINGLE, roundoff + np.where(node.copies, 0.0, rounded), np.inf)
        return down(value - (spread + roundoff)), up(value + (spread + roundoff)), roundoff

    def _activation(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        node, low, high = self.network.nodes[k], self.low[self._parent(k)], self.high[self._parent(k)]
        least, most = lines.intercepts(node, low, high, np.zeros(1))
        size, steep = self.size(self._parent(k)), lines.steepest(node, low, high)
        own: np.ndarray = np.zeros(1)
        if lines.smooth(node):
            own = own + SMOOTH + (4 * 2 * SINGLE * AMPLE + TINY_SINGLE if self.float32 else 0.0)
        elif node.kind in lines.functions.KINDS:
            steep = steep + 2.0**-39 * (1 + abs(node.options.get("alpha", 0.0)))  # slopes over parts are off as well
            if self.float32:
                own = lines.functions.single(node.kind, np.maximum(np.abs(least), np.abs(most)), size, node.options)
        elif node.options.get("slope", 0.0) not in (0.0, 1.0):
            share, tiny = (gamma(3, SINGLE), TINY_SINGLE) if self.float32 else (gamma(3), TINY)
            own = share * steep * size * AMPLE + tiny * (1 + size)
        elif self.float32 and node.kind == "clip":
            own = own + SINGLE * max(map(abs, lines.kinks(node))) * AMPLE + TINY_SINGLE  # its limits are rounded
        if self.float32:  # values beyond its range, which a slope or a limit may make
            own = np.where(np.maximum(np.abs(least), np.abs(most)) * AMPLE < LARGEST_SINGLE, own, np.inf)
        if bool(np.any(own > 0)):
            least, most = down(least - own), up(most + own)
        share = gamma(node.size + self.readers + 32)
        roundoff = own + share * (np.maximum(np.abs(least), np.abs(most)) + steep * size) * AMPLE + TINY
        return least, most, roundoff + (SMOOTH_SLOPE * (high - low) * AMPLE if lines.smooth(node) else 0.0)

    def _product(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        node, parent = self.network.nodes[k], self._parent(k)
        least, most, size = products.span(node, self.low[parent], self.high[parent])
        own: np.ndarray = np.zeros(1)
        if self.float32:
            own = np.where(size * AMPLE < LARGEST_SINGLE, 2 * SINGLE * size * AMPLE + TINY_SINGLE, np.inf)
            least, most = down(least - own), up(most + own)
        share = gamma(2 * node.size + self.readers + 32)
        return least, most, own + 4 * share * size * AMPLE + TINY

    def _parent(self, k: int) -> int:
        return self.network.nodes[k].parents[0]

    def lines(self, rule: str, boxes: np.ndarray | slice = ALL) -> Chooser:
        """The lines of every activation by a rule, over the intervals as they are."""
        if rule not in lines.RULES:
            raise ValueError(f"no rule for lines is called {rule!r}")

        def choose(k: int) -> lines.Lines:
            low, high = self.low[self._parent(k)], self.high[self._parent(k)]
            kept = self._lines.get((k, rule))
            if kept is None or kept[0] is not low or kept[1] is not high:
                found = _by_rule(self.network.nodes[k], low, high, rule)
                kept = self._lines[k, rule] = low, high, found
            a, b, c, d = (_picked(t, boxes) for t in kept[2])
            return a, b, c, d

        return choose

    def own_lines(self, given: SlopeTable, boxes: np.ndarray | slice = ALL) -> Chooser:
        """The lines by slopes of a certificate's own."""
        by_rule = self.lines("adaptive", boxes)

        def choose(k: int) -> lines.Lines:
            low, high = (_picked(t[self._parent(k)], boxes) for t in (self.low, self.high))
            own = products.own if self.network.nodes[k].kind == PRODUCT else lines.own
            return own(self.network.nodes[k], low, high, given[k]) if k in given else by_rule(k)

        return choose

    def walk(
        self, node: int, nu: np.ndarray, choose: Chooser, boxes: np.ndarray | slice = ALL,
        within: tuple[np.ndarray, np.ndarray] | None = None, extra: Mapping[int, Extra] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Lower bounds [B, R] of nu . z of a node, for nu [B, R, n].

        Args:
            choose: lines, over intervals at least as large as the sets make them.
            boxes: which of the sets, one for each of B. within: boxes in these, to be proved for in their place.
            extra: of pre-activations, added to what is bounded: nothing but what is <= 0 on the sets.
        """
        if time.monotonic() > self.deadline:
            raise TimeoutError("the time is up")
        nodes, total, size, count = self.network.nodes, np.zeros(nu.shape[:2]), np.zeros(nu.shape[:2]), 2
        carried = {node: nu}
        for k in range(node, 0, -1):
            if extra and k in extra:
                carried[k] = carried[k] + extra[k][0] if k in carried else extra[k][0]
                total, size, count = total + extra[k][1], size + np.abs(extra[k][1]), count + 1
            if k not in carried:
                continue
            nu, roundoff = carried.pop(k), _picked(self.roundoff[k], boxes)[:, None]
            if nodes[k].kind in NONLINEAR:
                below, b, above, c = choose(k)
                plus, minus = np.maximum(nu, 0), np.minimum(nu, 0)
                term = _dot(plus, b - roundoff) + _dot(minus, c + roundoff)
                if nodes[k].kind == PRODUCT:
                    both = plus[:, :, None] * below + minus[:, :, None] * above
                    parts = [products.pulled(nodes[k], both, nodes[self._parent(k)].size)]
                else:
                    plus, minus = np.multiply(plus, below, out=plus), np.multiply(minus, above, out=minus)
                    parts = [np.add(plus, minus, out=plus)]
            else:
                term = nu @ nodes[k].bias - _dot(np.abs(nu), roundoff)
                sizes = [nodes[p].size for p in nodes[k].parents]
                found = nodes[k].adjoint(nu.reshape(-1, nodes[k].size), sum(sizes)).reshape(*nu.shape[:2], -1)
                parts = np.split(found, np.cumsum(sizes)[:-1], axis=2) if len(sizes) > 1 else [found]
            for p, part in zip(nodes[k].parents, parts, strict=True):
                carried[p] = carried[p] + part if p in carried else part
            total, size, count = total + term, size + np.abs(term), count + 1
        at_input = carried.get(0, np.zeros((*total.shape, nodes[0].size)))
        if self.minimum is None or within is not None:
            low, high = within or (_picked(self.low[0], boxes), _picked(self.high[0], boxes))
            least = least_over(at_input, low, high)
        else:
            least = self.minimum(at_input)
        tiny = _picked(self.mass[node - 1], boxes)[:, None] * TINY if node else TINY
        return down(total - (gamma(2 * count + 16) * size * AMPLE + tiny) + least)

    def tighten(self, k: int, rule: str) -> None:
        """Both sides of the unstable neurons of pre-activation k, by lines of a rule."""
        self.lines(rule)  # which may be none
        low, high, n = self.low[k].copy(), self.high[k].copy(), self.network.nodes[k].size
        readers = [node for node in self.network.nodes if node.kind in NONLINEAR and node.parents == (k,)]
        open_ = np.logical_or.reduce([_unstable(node, low, high) for node in readers])
        counts, index = open_.sum(1), np.argsort(~open_, axis=1, kind="stable")
        order, start = np.argsort(-counts, kind="stable"), 0
        while start < len(order) and counts[order[start]] > 0:
            most = int(counts[order[start]])
            boxes = order[start : start + max(1, CACHED // (2 * most * self.widest))]
            start, step = start + len(boxes), max(1, MANY // (2 * len(boxes) * self.widest))
            for first in range(0, most, step):
                picked = index[boxes, first : min(first + step, most)]
                place = (boxes[:, None], picked)
                found = self.walk(k, _both(picked, n), self.lines(rule, boxes), boxes)
                # rows that only fill up a box's are left out, so that no box depends on its neighbours
                below, above = np.split(np.where(np.tile(open_[place], 2), found, -np.inf), 2, axis=1)
                low[place], high[place] = np.fmax(low[place], below), np.fmin(high[place], -above)
        self.learn(k, low, high)

    def tighten_all(self, nodes: Sequence[int], rule: str) -> None:
        done = 1
        for k in nodes:
            self.forward(done, k + 1)
            self.tighten(k, rule)
            done = k + 1
        self.forward(done, len(self.network.nodes))

    def learn(self, k: int, low: np.ndarray, high: np.ndarray) -> None:
        """These hold of node k."""
        self.low[k], self.high[k] = np.fmax(self.low[k], low), np.fmin(self.high[k], high)
        self.known[k], self.mass[k] = (self.low[k], self.high[k]), self.mass[k - 1] + self.size(k).sum(1)

    def rows(
        self, k: int, rows: Callable[[slice], np.ndarray], count: int, chooser: Callable[[slice], Chooser]
    ) -> np.ndarray:
        """Lower bounds [count] of rows at node k over one set, a few at a time; rows(part) is [R, n]."""
        step = max(1, MANY // self.widest)
        parts = [slice(first, min(first + step, count)) for first in range(0, count, step)]
        return np.concatenate([np.zeros(0), *(self.walk(k, rows(p)[None], chooser(p))[0] for p in parts)])


def _by_rule(node: CanonicalNode, low: np.ndarray, high: np.ndarray, rule: str) -> lines.Lines:
    """Lines over intervals [B, n] by a rule."""
    if node.kind == PRODUCT:
        return products.planes(node, low, high, 0.0 if rule == "adaptive" else 0.5)
    by_rule = (s[:, None] for s in lines.slopes(node, low, high, rule))
    return lines.through(node, low[:, None], high[:, None], *by_rule)


def _unstable(node: CanonicalNode, low: np.ndarray, high: np.ndarray) -> np.ndarray:  # [B, n] each -> [B, n]
    return (products if node.kind == PRODUCT else lines).unstable(node, low, high)


def least_over(c: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Rigorous lower bounds [B, R], but for underflow, of the least c . x over boxes [low, high]; c is [B, R, n]."""
    middle = 0.5 * low + 0.5 * high
    radius = np.maximum(high - middle, middle - low)
    radius = up(radius + gamma(2 * c.shape[2] + 32) * AMPLE * (np.abs(middle) + radius))  # up: it may underflow
    return _dot(c, middle[:, None]) - _dot(np.abs(c), radius[:, None])


def units(places: np.ndarray, signs: np.ndarray, n: int) -> np.ndarray:  # [R], [R] -> [R, n]
    rows = np.zeros((len(places), n))
    rows[np.arange(len(places)), places] = signs
    return rows


def _both(picked: np.ndarray, n: int) -> np.ndarray:  # [B, R] -> [B, 2 R, n]
    ones = units(picked.ravel(), np.ones(picked.size), n).reshape(*picked.shape, n)
    return np.concatenate([ones, -ones], 1)


def _picked(a: np.ndarray, boxes: np.ndarray | slice) -> np.ndarray:
    return a if len(a) == 1 else a[boxes]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:  # [B, R, n], [B, 1 or R, n] -> [B, R]
    return np.matmul(a, b.transpose(0, 2, 1))[:, :, 0] if b.shape[1] == 1 else np.einsum("brn,brn->br", a, b)
