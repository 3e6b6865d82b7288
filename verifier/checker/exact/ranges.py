"""Exact intervals of all nodes, and walks backwards that bound rows over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from verifier.checker import lines
from verifier.checker.exact.model import ExactModel, Matrix, Number, Vector
from verifier.checker.exact.region import ExactRegion
from verifier.checker.network import ACTIVATIONS, CanonicalNode

#: an activation -> slopes of its lower and upper lines for the row of that number, [n] each
Chooser = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


class ExactRanges:
    """Exact intervals of every node's value that hold on a set."""

    def __init__(self, model: ExactModel, inputs: ExactRegion) -> None:
        self.model, self.inputs, self.nodes = model, inputs, model.network.nodes
        self.known: dict[int, tuple[Vector, Vector]] = {}
        self.low, self.high = [inputs.low] * len(self.nodes), [inputs.high] * len(self.nodes)

    def forward(self, start: int) -> None:
        """Interval arithmetic from node `start` on, within what is known."""
        for k in range(max(1, start), len(self.nodes)):
            node = self.nodes[k]
            ends = [(self.low[p], self.high[p]) for p in node.parents]
            if node.kind in ACTIVATIONS:
                zero = self.model.number(0.0)
                pairs = list(zip(*ends[0], strict=True))
                low = [min(self.corners(node, a, b, zero)) for a, b in pairs]
                high = [max(self.corners(node, a, b, zero)) for a, b in pairs]
            else:
                low = [b - s for b, s in zip(self.model.bias[k], self.roundoff(k), strict=True)]
                high = [b + s for b, s in zip(self.model.bias[k], self.roundoff(k), strict=True)]
                for (a, absolute), (least, most) in zip(self.model.parts[k], ends, strict=True):
                    pairs = list(zip(least, most, strict=True))
                    middle = self.model.times(a, self.model.rows([[(p + q) / 2] for p, q in pairs], 1)).entries()
                    radius = self.model.times(absolute, self.model.rows([[(q - p) / 2] for p, q in pairs], 1)).entries()
                    low = [v + m - r for v, m, r in zip(low, middle, radius, strict=True)]
                    high = [v + m + r for v, m, r in zip(high, middle, radius, strict=True)]
            if k in self.known:
                low, high = _within((low, high), self.known[k])
            self.low[k], self.high[k] = low, high

    def roundoff(self, k: int) -> Vector:
        most = [
            [max(abs(a), abs(b)) for a, b in zip(self.low[p], self.high[p], strict=True)] for p in self.nodes[k].parents
        ]
        return self.model.uncertain(k, most)

    def learn(self, k: int, low: Vector, high: Vector) -> None:
        self.known[k] = self.low[k], self.high[k] = _within((self.low[k], self.high[k]), (low, high))
        self.forward(k + 1)

    def corners(self, node: CanonicalNode, low: Number, high: Number, slope: Number) -> Vector:
        """act(z) - slope z at the ends of an interval and the kinks within."""
        z = [low, high, *(kink for kink in map(self.model.number, lines.kinks(node)) if low < kink < high)]
        return [self._value(node, v) - slope * v for v in z]

    def _value(self, node: CanonicalNode, z: Number) -> Number:
        if node.kind == "leaky":
            return z if z > 0 else self.model.number(node.options["slope"]) * z
        if node.kind == "clip":
            return min(max(z, self.model.number(node.options["low"])), self.model.number(node.options["high"]))
        return abs(z)

    def floats(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The intervals of node k in floating point, [1, n] each: slopes are chosen by them."""
        return tuple(np.array([[float(Fraction(int(v.p), int(v.q))) for v in e[k]]]) for e in (self.low, self.high))  # type: ignore[return-value]

    def by_rule(self, rule: str) -> Chooser:
        if rule not in lines.RULES:
            raise ValueError(f"no rule for lines is called {rule!r}")
        kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def choose(k: int, row: int) -> tuple[np.ndarray, np.ndarray]:
            if k not in kept:
                below, above = lines.slopes(self.nodes[k], *self.floats(self.nodes[k].parents[0]), rule)
                kept[k] = below[0], above[0]
            return kept[k]

        return choose

    def own(self, given: Mapping[int, Mapping[str, np.ndarray]]) -> Chooser:
        """Slopes that a certificate gives, [R, u] for each of some activations; of the others by the adaptive rule."""
        others, kept = self.by_rule("adaptive"), {}

        def choose(k: int, row: int) -> tuple[np.ndarray, np.ndarray]:
            if k not in given:
                return others(k, row)
            if k not in kept:
                part = {name: a if name == "neurons" else a[None] for name, a in given[k].items()}
                found = lines.own(self.nodes[k], *self.floats(self.nodes[k].parents[0]), part)
                kept[k] = found[0][0], found[2][0]
            return kept[k][0][row], kept[k][1][row]

        return choose

    def walk(
        self, node: int, rows: Matrix, choose: Chooser, inputs: ExactRegion, extra: Mapping[int, Vector] | None = None
    ) -> Vector:
        """Lower bounds of rows [R, n] of a node's value over `inputs`; `extra` is added to their coefficients."""
        carried, zero = {node: rows}, self.model.number(0.0)
        total, extra = [zero] * rows.nrows(), extra or {}
        for k in range(node, 0, -1):
            nu = carried.pop(k, None)
            if k in extra:
                more = self.model.rows([extra[k]] * len(total), self.nodes[k].size)
                nu = more if nu is None else nu + more
            if nu is None:
                continue
            if self.nodes[k].kind in ACTIVATIONS:
                parts = [self._activation(k, nu, choose, total)]
            else:
                roundoff, bias = self.roundoff(k), self.model.bias[k]
                for r, row in enumerate(nu.tolist()):
                    total[r] += sum((v * b - abs(v) * s for v, b, s in zip(row, bias, roundoff, strict=True)), zero)
                parts = [self.model.times(nu, a) for a, _ in self.model.parts[k]]
            for p, part in zip(self.nodes[k].parents, parts, strict=True):
                carried[p] = carried[p] + part if p in carried else part
        if 0 not in carried:
            return total
        return [t + inputs.minimum(row) for t, row in zip(total, carried[0].tolist(), strict=True)]

    def _activation(self, k: int, nu: Matrix, choose: Chooser, total: Vector) -> Matrix:
        """Coefficients of the activation's input, its constants added to the total."""
        node, low, high = self.nodes[k], self.low[self.nodes[k].parents[0]], self.high[self.nodes[k].parents[0]]
        found = []
        for r, row in enumerate(nu.tolist()):
            below, above = choose(k, r)
            out = []
            for j, v in enumerate(row):
                slope = self.model.number((below if v > 0 else above)[j])
                out.append(v * slope)
                if v != 0:
                    values = self.corners(node, low[j], high[j], slope)
                    total[r] += v * (min(values) if v > 0 else max(values))
            found.append(out)
        return self.model.rows(found, node.size)

    def tighten(self, nodes: Sequence[int], rule: str) -> None:
        """Both sides of the unstable neurons of pre-activations, by lines of a rule."""
        for k in nodes:
            low, high = self.floats(k)
            readers = [n for n in self.nodes if n.kind in ACTIVATIONS and n.parents == (k,)]
            places = np.flatnonzero(np.logical_or.reduce([lines.unstable(n, low, high) for n in readers])[0])
            sides = np.repeat([0, 1], len(places))
            places = np.tile(places, 2)
            found = self.walk(k, self.units(k, places, sides), self.by_rule(rule), self.inputs)
            self.neurons(k, places, sides, found)

    def units(self, k: int, places: np.ndarray, sides: np.ndarray) -> Matrix:
        rows = np.zeros((len(places), self.nodes[k].size))
        rows[np.arange(len(places)), places] = 1.0 - 2.0 * sides
        return self.model.matrix(rows)

    def neurons(self, k: int, places: np.ndarray, sides: np.ndarray, found: Sequence[Number | None]) -> None:
        """Learn bounds of neurons: lower ones where the side is 0, negatives of upper ones where it is 1."""
        low, high = list(self.low[k]), list(self.high[k])
        for j, side, value in zip(places.tolist(), sides.tolist(), found, strict=True):
            if value is not None:
                low[j], high[j] = (low[j], min(high[j], -value)) if side else (max(low[j], value), high[j])
        self.learn(k, low, high)


def _within(a: tuple[Vector, Vector], b: tuple[Vector, Vector]) -> tuple[Vector, Vector]:
    return [max(v, w) for v, w in zip(a[0], b[0], strict=True)], [min(v, w) for v, w in zip(a[1], b[1], strict=True)]
