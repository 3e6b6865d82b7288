"""Certificates checked in rational arithmetic: no rounding at all, for small networks of piecewise linear activations.

The same documents as the checker's, by the same argument: any slopes give lines, and lines give bounds. Slopes are
floating-point numbers here too, chosen by the same rules; all else is exact. So a bound is what the certificate's
slopes are worth, and never less than the checker's own but for the last bits of slopes that a rule gives. It is an
oracle for the checker, and for whoever mistrusts bounds on rounding errors.

Needs python-flint: pip install 'rampart-verifier[exact]'.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from verifier.certificate.checker import cases, lines
from verifier.certificate.checker.check import Check, Elsewhere, announced, specification
from verifier.certificate.checker.network import ACTIVATIONS, Network, Node
from verifier.certificate.document import Document
from verifier.errors import InputError

#: entries of all matrices, and multiplications in all: minutes of work
ENTRIES, WORK = 4_000_000, 3_000_000_000
Number = Any  # flint.fmpq
Matrix = Any  # flint.fmpq_mat
Vector = list[Number]
#: an activation -> slopes of its lower and upper lines for the row of that number, [n] each
Chooser = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def check_exactly(network: Network, document: Document, work: int = WORK) -> Check:
    """Check a certificate in rational arithmetic. A malformed one is invalid, with the reason.

    Args:
        work: multiplications that are done at most.

    Raises:
        InputError: python-flint is missing, the network is too large, or the certificate is about something that this
            does not know: smooth activations, float32 semantics, sets other than linf, box and l1, semidefinite proofs.
    """
    start = time.perf_counter()
    model = _Model(network, work)
    try:
        lower, clauses = _checked(model, document)
    except InputError:
        raise
    except Elsewhere as error:
        return Check(False, str(error), np.zeros(0), np.zeros(0), time.perf_counter() - start, 0)
    except RecursionError:
        raise InputError("a tree of boxes is too deep for rational arithmetic: check this one without it") from None
    except Exception as error:  # whatever it is that a malformed document runs into
        reason = (
            f"malformed: {error}" if isinstance(error, ValueError) else f"malformed: {type(error).__name__}: {error}"
        )
        return Check(False, reason, np.zeros(0), np.zeros(0), time.perf_counter() - start, 0)
    left = [c for c, value in enumerate(clauses) if value is None or not value > 0]
    reason = f"{len(left)} of {len(clauses)} clauses are not proved, the first is {left[0]}" if left else ""
    rows, whole = (np.array([_below(value) for value in values]) for values in (lower, clauses))
    return Check(not left, reason, rows, whole, time.perf_counter() - start, len(document.head["parts"]))


def _checked(model: _Model, document: Document) -> tuple[list[Number | None], list[Number | None]]:
    head, arrays = announced(model.network, document), document.arrays
    if head["semantics"] != "real":
        raise InputError(f"only real semantics can be checked in rational arithmetic, not {head['semantics']!r}")
    rows, offset, clause = specification(head["specification"], arrays, model.network.nodes[-1].size)
    spec = _Spec(
        model.matrix(rows), model.vector(offset), [np.flatnonzero(clause == c) for c in range(clause.max() + 1)]
    )
    parts = []
    for record in head["parts"]:
        part = _Part(model, arrays, record["set"], spec)
        for step in record["bounds"]:
            part.step(step)
        for proof in record["proofs"]:
            part.prove(proof)
        best = [_most([part.clauses[c], *(part.lower[r] for r in of)]) for c, of in enumerate(spec.clauses)]
        parts.append((part.lower, best))
    if not parts:
        raise ValueError("a certificate of no set")
    lower, clauses = ([_least(list(of)) for of in zip(*lists, strict=True)] for lists in zip(*parts, strict=True))
    return lower, clauses


def _most(values: Sequence[Number | None]) -> Number | None:
    known = [v for v in values if v is not None]
    return max(known) if known else None


def _least(values: Sequence[Number | None]) -> Number | None:
    known = [v for v in values if v is not None]
    return min(known) if len(known) == len(values) else None


def _below(value: Number | None) -> float:
    """The largest float that is not above."""
    if value is None:
        return -math.inf
    exact = Fraction(int(value.p), int(value.q))
    near = float(exact)
    return near if Fraction(near) <= exact else math.nextafter(near, -math.inf)


class _Spec:
    def __init__(self, rows: Matrix, offset: Vector, clauses: list[np.ndarray]) -> None:
        self.rows, self.offset, self.clauses = rows, offset, clauses


class _Model:
    """A network in rational numbers: a matrix for each parent of every affine node."""

    def __init__(self, network: Network, work: int) -> None:
        try:
            import flint
        except ImportError:
            raise InputError("rational arithmetic needs python-flint: pip install 'rampart-verifier[exact]'") from None
        self.flint, self.network, self.work = flint, network, work
        smooth = [node.kind for node in network.nodes if node.kind in ("sigmoid", "tanh")]
        if smooth:
            raise InputError(f"{smooth[0]} has irrational values: check this certificate without rational arithmetic")
        sizes = [node.size for node in network.nodes]
        entries = sum(n.size * sum(sizes[p] for p in n.parents) for n in network.nodes if n.kind not in ACTIVATIONS)
        if entries > ENTRIES:
            raise InputError(
                f"the network's matrices have {entries} entries, rational arithmetic takes {ENTRIES} at most"
            )
        self.parts: dict[int, list[tuple[Matrix, Matrix]]] = {}  # of each parent: A [size, parent's] and |A|
        self.bias: dict[int, Vector] = {}
        for k, node in enumerate(network.nodes):
            if k and node.kind not in ACTIVATIONS:
                whole, ends = (
                    _written(node, sum(sizes[p] for p in node.parents)),
                    np.cumsum([sizes[p] for p in node.parents]),
                )
                split = np.split(whole, ends[:-1], axis=1)
                self.parts[k] = [(self.matrix(part), self.matrix(np.abs(part))) for part in split]
                bias = node.arrays.get("bias", np.zeros(1))
                self.bias[k] = self.vector(np.repeat(bias, node.size // len(bias)))

    def number(self, x: float) -> Number:
        return self.flint.fmpq(*(x if isinstance(x, int) else float(x)).as_integer_ratio())

    def vector(self, x: np.ndarray) -> Vector:  # [n]
        return [self.number(value) for value in x.tolist()]

    def matrix(self, x: np.ndarray) -> Matrix:  # [m, n]
        return self.flint.fmpq_mat(x.shape[0], x.shape[1], [value for row in x for value in self.vector(row)])

    def rows(self, x: Sequence[Vector], width: int) -> Matrix:
        return self.flint.fmpq_mat(len(x), width, [value for row in x for value in row])

    def times(self, a: Matrix, b: Matrix) -> Matrix:
        self.work -= a.nrows() * a.ncols() * b.ncols()
        if self.work < 0:
            raise InputError(
                "this certificate takes more multiplications than allowed: give a larger `work`, or check it without "
                "rational arithmetic"
            )
        return a * b

    def uncertain(self, k: int, most: list[Vector]) -> Vector:
        """How far node k's values may be off by its parameters, where they are not known exactly; |z| <= most."""
        node, size = self.network.nodes[k], self.network.nodes[k].size
        if node.ulps >= 2**32:
            raise ValueError(f"parameters of node {k} that are off by {node.ulps} units in the last place")
        if not node.ulps:
            return [self.number(0.0)] * size
        # at least gamma_ulps = ulps / (2^53 - ulps), with a denominator that does not make all others grow
        share = self.flint.fmpq(node.ulps * (2**20 + 1), 2**73)
        given = np.maximum(np.abs(node.arrays.get("bias", np.zeros(1))), node.arrays.get("bias_size", np.zeros(1)))
        total = self.vector(np.repeat(given, size // len(given)))
        for (_, absolute), values in zip(self.parts[k], most, strict=True):
            moved = self.times(absolute, self.rows([[v] for v in values], 1)).entries()
            total = [a + b for a, b in zip(total, moved, strict=True)]
        return [share * value for value in total]


def _written(node: Node, width: int) -> np.ndarray:
    """The matrix of an affine node, [size, all parents' sizes]."""
    a, arrays, options = np.zeros((node.size, width)), node.arrays, node.options
    if node.kind == "sparse":
        a[arrays["row"], arrays["column"]] = arrays["value"]
        return a
    w = arrays["weight"]
    if node.kind == "matrix":
        for i in range(node.size // len(w)):
            a[i * w.shape[0] : (i + 1) * w.shape[0], i * w.shape[1] : (i + 1) * w.shape[1]] = w
        return a
    (o, high, wide), (c, height, width_) = options["output"], options["input"]
    out = np.zeros((o, high, wide, c, height, width_))
    per, each = c // options["groups"], o // options["groups"]
    for f, i, j, y, x in np.ndindex(w.shape[0], *w.shape[2:], high, wide):
        row = y * options["stride"][0] - options["padding"][0] + i * options["dilation"][0]
        column = x * options["stride"][1] - options["padding"][2] + j * options["dilation"][1]
        if 0 <= row < height and 0 <= column < width_:
            group = f // each
            out[f, y, x, group * per : (group + 1) * per, row, column] = w[f, :, i, j]
    found = out.reshape(o * high * wide, c * height * width_)
    return found.T if node.kind == "conv_transpose" else found


class _Set:
    """A box, perhaps with an l1 ball inside."""

    def __init__(self, low: Vector, high: Vector, center: Vector | None = None, eps: Number | None = None) -> None:
        self.low, self.high, self.center, self.eps = low, high, center, eps

    @classmethod
    def of(cls, model: _Model, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> _Set:
        kind = record["kind"]
        if kind not in ("linf", "box", "l1"):
            raise InputError(f"sets of kind {kind!r} are not known in rational arithmetic: only linf, box and l1")
        wanted = {"lower", "upper"} if kind == "box" else {"x", "eps"}
        if not wanted <= set(record) - {"kind"} <= wanted | {"low", "high"}:
            raise ValueError(f"a set {kind!r} of {sorted(record)}")
        if kind == "box":
            low, high = (model.vector(arrays[record[name]].ravel()) for name in ("lower", "upper"))
            center, eps = None, None
        else:
            center, eps = model.vector(arrays[record["x"]].ravel()), model.number(record["eps"])
            low, high = [v - eps for v in center], [v + eps for v in center]
        if "low" in record:
            low = [max(v, model.number(record["low"])) for v in low]
        if "high" in record:
            high = [min(v, model.number(record["high"])) for v in high]
        inner = model.network.nodes[0].size
        if len(low) != inner or len(high) != inner or any(a > b for a, b in zip(low, high, strict=True)):
            raise ValueError("a set that is empty, or of other inputs than the network's")
        inside = center is None or all(a <= v <= b for a, v, b in zip(low, center, high, strict=True))
        if not inside:
            raise ValueError("the middle of a ball is outside of its valid range")
        return cls(low, high, center if kind == "l1" else None, eps)

    def minimum(self, c: Vector) -> Number:
        """The least c . z."""
        if self.center is None:
            return sum(
                (v * (a if v > 0 else b) for v, a, b in zip(c, self.low, self.high, strict=True)), 0 * self.low[0]
            )
        total, left = sum((v * x for v, x in zip(c, self.center, strict=True)), 0 * self.low[0]), self.eps
        for i in sorted(range(len(c)), key=lambda i: -abs(c[i])):  # the entries that gain most first
            room = self.center[i] - self.low[i] if c[i] > 0 else self.high[i] - self.center[i]
            moved = min(room, left)
            total, left = total - abs(c[i]) * moved, left - moved
        return total


class _Ranges:
    """Exact intervals of every node's value that hold on a set."""

    def __init__(self, model: _Model, inputs: _Set) -> None:
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
                low = [b - s for b, s in zip(self.model.bias[k], self.slack(k), strict=True)]
                high = [b + s for b, s in zip(self.model.bias[k], self.slack(k), strict=True)]
                for (a, absolute), (least, most) in zip(self.model.parts[k], ends, strict=True):
                    pairs = list(zip(least, most, strict=True))
                    middle = self.model.times(a, self.model.rows([[(p + q) / 2] for p, q in pairs], 1)).entries()
                    radius = self.model.times(absolute, self.model.rows([[(q - p) / 2] for p, q in pairs], 1)).entries()
                    low = [v + m - r for v, m, r in zip(low, middle, radius, strict=True)]
                    high = [v + m + r for v, m, r in zip(high, middle, radius, strict=True)]
            if k in self.known:
                low, high = _within((low, high), self.known[k])
            self.low[k], self.high[k] = low, high

    def slack(self, k: int) -> Vector:
        most = [
            [max(abs(a), abs(b)) for a, b in zip(self.low[p], self.high[p], strict=True)] for p in self.nodes[k].parents
        ]
        return self.model.uncertain(k, most)

    def learn(self, k: int, low: Vector, high: Vector) -> None:
        self.known[k] = self.low[k], self.high[k] = _within((self.low[k], self.high[k]), (low, high))
        self.forward(k + 1)

    def corners(self, node: Node, low: Number, high: Number, slope: Number) -> Vector:
        """act(z) - slope z at the ends of an interval and the kinks within."""
        z = [low, high, *(kink for kink in map(self.model.number, lines.kinks(node)) if low < kink < high)]
        return [self._value(node, v) - slope * v for v in z]

    def _value(self, node: Node, z: Number) -> Number:
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
        self, node: int, rows: Matrix, choose: Chooser, inputs: _Set, extra: Mapping[int, Vector] | None = None
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
                slack, bias = self.slack(k), self.model.bias[k]
                for r, row in enumerate(nu.tolist()):
                    total[r] += sum((v * b - abs(v) * s for v, b, s in zip(row, bias, slack, strict=True)), zero)
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


class _Part:
    """One set, and what was proved on it: a number for every row and clause, or None."""

    def __init__(self, model: _Model, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], spec: _Spec) -> None:
        self.model, self.arrays, self.spec = model, arrays, spec
        self.inputs = _Set.of(model, record, arrays)
        self.ranges = _Ranges(model, self.inputs)
        self.ranges.forward(1)
        self.lower: list[Number | None] = [None] * spec.rows.nrows()
        self.clauses: list[Number | None] = [None] * len(spec.clauses)
        self.last = len(model.network.nodes) - 1

    def step(self, step: Mapping[str, Any]) -> None:
        inner = self.model.network.pre_activations
        if "rule" in step:
            nodes = inner if step["nodes"] == "all" else step["nodes"]
            if not set(nodes) <= set(inner) or list(nodes) != sorted(nodes):
                raise ValueError(f"nodes {nodes} to bound, of which some are no pre-activations or out of order")
            self.ranges.tighten(nodes, step["rule"])
            return
        k, neurons, sides = step["node"], *(self.arrays[step[name]].astype(np.int64) for name in ("neurons", "sides"))
        fits = (
            k in inner and neurons.shape == sides.shape == (len(neurons),) and bool(((sides == 0) | (sides == 1)).all())
        )
        if not fits or not ((neurons >= 0) & (neurons < self.model.network.nodes[k].size)).all():
            raise ValueError(f"neurons of node {k} that it does not have, or sides other than 0 and 1")
        rows = self.ranges.units(k, neurons, sides)
        if "cases" in step:
            clauses = [([row], [self.model.number(0.0)]) for row in rows.tolist()]
            found = self._forest(self._record(step["cases"]), k, clauses)
        else:
            found = self.ranges.walk(k, rows, self._own(step["slopes"], len(neurons)), self.inputs)
        self.ranges.neurons(k, neurons, sides, found)

    def prove(self, proof: Mapping[str, Any]) -> None:
        if "sdp" in proof:
            raise InputError("semidefinite proofs are not known in rational arithmetic: check this one without it")
        table = self.spec.rows.tolist()
        if "cases" in proof or "boxes" in proof:
            clauses = [([table[r] for r in of], [self.spec.offset[r] for r in of]) for of in self.spec.clauses]
            record = self._record(proof["cases" if "cases" in proof else "boxes"])
            found = self._forest(record, self.last, clauses) if "cases" in proof else self._boxes(record, clauses)
            self.clauses = [_most(pair) for pair in zip(self.clauses, found, strict=True)]
            return
        chosen = self.arrays[proof["rows"]].astype(np.int64).tolist()
        if not all(0 <= r < len(table) for r in chosen):
            raise ValueError("rows to prove that the specification does not have")
        rows = self.model.rows([table[r] for r in chosen], self.spec.rows.ncols())
        choose = self._own(proof["slopes"], len(chosen)) if "slopes" in proof else self.ranges.by_rule(proof["rule"])
        for r, value in zip(chosen, self.ranges.walk(self.last, rows, choose, self.inputs), strict=True):
            self.lower[r] = _most([self.lower[r], value + self.spec.offset[r]])

    def _record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {k: self._record(v) if isinstance(v, dict) else self.arrays.get(v, v) for k, v in record.items()}

    def _own(self, record: Mapping[str, Any], count: int) -> Chooser:
        return self.ranges.own(cases.slopes_of(self.model.network, self._record(record), count))

    def _mean(self, weights: np.ndarray, clause: tuple[list[Vector], Vector]) -> tuple[Vector, Number]:
        """The mean of a clause's rows and offsets with these weights."""
        rows, offsets = clause
        factors = self.model.vector(weights.astype(np.float64)[: len(rows)])
        if len(factors) != len(rows) or any(f < 0 for f in factors) or not sum(factors) > 0:
            raise ValueError("weights of rows that are negative, none, or too few")
        factors = [f / sum(factors) for f in factors]
        row = [sum(f * v for f, v in zip(factors, column, strict=True)) for column in zip(*rows, strict=True)]
        return row, sum(f * v for f, v in zip(factors, offsets, strict=True))

    def _forest(
        self, record: Mapping[str, Any], node: int, clauses: Sequence[tuple[list[Vector], Vector]]
    ) -> list[Number | None]:
        """Bounds of every clause's largest row by trees of cases (`cases` has the format)."""
        whole = {
            n: record[n].astype(np.int64) for n in ("neuron", "below", "above", "proof", "roots", "first", "split")
        }
        roots, numbers = whole["roots"].reshape(-1, 2), {n: self.model.vector(record[n]) for n in ("at", "gamma")}
        places = {int(k): record["neurons"][k].astype(np.int64) for k in sorted(record["neurons"], key=int)}
        free = [(self.model.network.nodes[k].parents[0], int(j)) for k, p in places.items() for j in p]
        cases.forest(whole["neuron"], record["at"], whole["below"], whole["above"], len(free), roots[:, 1])
        ends = np.cumsum([0, *map(len, places.values())])
        found: list[Number | None] = [None] * len(clauses)
        for clause, root in roots.tolist():
            if not 0 <= clause < len(clauses):
                raise ValueError("a tree of a clause that is not there")
            values, stack = [], [(root, dict[int, Number](), dict[int, Number]())]
            while stack:
                t, low, high = stack.pop()
                j, at, leaf = int(whole["neuron"][t]), numbers["at"][t], int(whole["proof"][t])
                if j >= 0:
                    stack.append((int(whole["below"][t]), low, {**high, j: min(at, high.get(j, at))}))
                    stack.append((int(whole["above"][t]), {**low, j: max(at, low.get(j, at))}, high))
                    continue
                if not 0 <= leaf < len(record["weight"]):
                    raise ValueError("a leaf without variables")
                part = _Ranges(self.model, self.inputs)
                part.low, part.high = list(self.ranges.low), list(self.ranges.high)
                for ends_, given, pick in ((part.low, low, max), (part.high, high, min)):
                    for i, value in given.items():
                        k, place = free[i]
                        ends_[k] = [*ends_[k][:place], pick(ends_[k][place], value), *ends_[k][place + 1 :]]
                touched = [free[i] for i in {*low, *high}]
                if any(part.low[k][place] > part.high[k][place] for k, place in touched):
                    continue  # no point of the set is in this case
                row, constant = self._mean(record["weight"][leaf], clauses[clause])
                extra: dict[int, Vector] = {}
                for g in range(whole["first"][leaf], whole["first"][leaf + 1]):
                    (k, place), factor = free[whole["split"][g]], numbers["gamma"][g]
                    if not 0 < k <= node:
                        continue  # the walk does not come by it: its constant alone would be no multiple of z - end
                    more = extra.setdefault(k, [self.model.number(0.0)] * self.model.network.nodes[k].size)
                    more[place] += factor
                for k, more in extra.items():
                    pairs = zip(more, part.low[k], part.high[k], strict=True)
                    constant -= sum(f * (b if f > 0 else a) for f, a, b in pairs)
                given = {
                    k: {"neurons": p, **{n: record[s][leaf : leaf + 1, a:b] for n, s in _SLOPES if s in record}}
                    for (k, p), a, b in zip(places.items(), ends, ends[1:], strict=False)
                }
                own, others = part.own(given), self.ranges.by_rule("adaptive")
                choose = _either(given, own, others)
                table = self.model.rows([row], len(row))
                values.append(part.walk(node, table, choose, self.inputs, extra)[0] + constant)
            found[clause] = min(values) if values else None
        return found

    def _boxes(self, record: Mapping[str, Any], clauses: Sequence[tuple[list[Vector], Vector]]) -> list[Number | None]:
        """Bounds of every clause's largest row by a tree of boxes (`cases` has the format)."""
        if self.inputs.center is not None:
            raise ValueError("a proof by boxes of a set that is no box")
        side, below, above, node, clause, own = (
            record[n].astype(np.int64) for n in ("side", "below", "above", "node", "clause", "own")
        )
        inner, fresh, at = (
            self.model.network.pre_activations,
            record["fresh"].astype(bool),
            self.model.vector(record["at"]),
        )
        cases.forest(side, record["at"], below, above, self.model.network.nodes[0].size, np.zeros(1, np.int64))
        count = int(own.max(initial=-1)) + 1
        slopes = cases.slopes_of(self.model.network, record["slopes"], count) if count else {}

        def visit(t: int, box: _Set, near: _Ranges) -> list[Number | None]:
            if t == 0 or fresh[t]:
                part = _Ranges(self.model, box)
                part.known = {k: (near.low[k], near.high[k]) for k in inner}
                part.forward(1)
                part.tighten(inner, "adaptive")
            else:
                part = near
            found: list[Number | None] = [None] * len(clauses)
            for q in np.flatnonzero(node == t):
                row, constant = self._mean(record["weights"][q], clauses[clause[q]])
                given = {
                    k: {n: a if n == "neurons" else a[own[q] : own[q] + 1] for n, a in v.items()}
                    for k, v in slopes.items()
                }
                choose = part.own(given) if own[q] >= 0 else part.by_rule("adaptive")
                value = part.walk(self.last, self.model.rows([row], len(row)), choose, box)[0] + constant
                found[clause[q]] = _most([found[clause[q]], value])
            if side[t] == -1:
                return found
            i = int(side[t])
            cut = max(box.low[i], min(box.high[i], at[t]))
            halves = (
                visit(int(below[t]), _Set(box.low, [*box.high[:i], cut, *box.high[i + 1 :]]), part),
                visit(int(above[t]), _Set([*box.low[:i], cut, *box.low[i + 1 :]], box.high), part),
            )
            return [_most([f, _least(both)]) for f, both in zip(found, zip(*halves, strict=True), strict=True)]

        return visit(0, _Set(self.inputs.low, self.inputs.high), self.ranges)


_SLOPES = (("slopes", "slope"), ("upper", "upper"))


def _either(given: Mapping[int, Any], own: Chooser, others: Chooser) -> Chooser:
    return lambda k, row: own(k, row) if k in given else others(k, row)
