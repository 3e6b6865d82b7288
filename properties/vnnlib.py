"""VNN-LIB properties, versions 1.0 and 2.0: which counterexamples are sought, exactly as the file's decimals say.

A file describes a set of counterexamples: points (x, y = network(x)) that satisfy all of its assertions. `read` turns
it into cases, each a box of inputs with clauses: a counterexample is a point of one box at which all rows of one of
its clauses hold. Numbers stay fractions; properties/vnnlib_floats.py rounds them, outward.

Standard: VNN-LIB 1.0 (Demarchi et al. 2023), 2.0 (Roy, Antony, Gimelli, Daggitt 2025), www.vnnlib.org.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from properties.vnnlib_boxes import BoxCases, Disjunction, box_cases, disjunction
from properties.vnnlib_cases import Case, Sides, cases
from properties.vnnlib_formula import And, Formula, Monomial, Row, formula
from properties.vnnlib_networks import MAX_VARIABLES, Declared, DeclaredNetwork, declared_network, flat, integers
from properties.vnnlib_reduce import Renumbered, equalities
from properties.vnnlib_text import MAX_BYTES, NUMBER, BracketList, PropertyText, Word, load, number

#: products of variables in one file
MAX_PRODUCTS = 1_000

#: SMT-LIB's commands to a solver, which say nothing about the property
_SOLVERS = frozenset({"set-logic", "set-info", "set-option", "check-sat", "get-model", "get-value", "exit"})
_SPACE = re.compile(r"(?:\s+|;[^\n\r]*)*+")
#: what a 1.0 file is made of, for the most part: read without making lists of it
_COMMON = re.compile(
    r"\(declare-const\s+([XY])_(\d{1,9})\s+Real\s*\)"
    rf"|\(assert\s*\(\s*([<>]=)\s+X_(\d{{1,9}})\s+({NUMBER})\s*\)\s*\)",
    re.ASCII,
)
_NAME = re.compile(r"([XY])_(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Property:
    """The counterexamples that a file asks for: the union of its cases. No cases: there are none, whatever the
    network."""

    inputs: int
    outputs: int
    cases: tuple[Case, ...] | BoxCases
    version: str = "1.0"
    #: shapes that a 2.0 file declares; (entries,) for 1.0
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    #: what the file calls them, entry by entry, is this and the index
    input_name: str = "X"
    output_name: str = "Y"
    input_type: str = "Real"
    output_type: str = "Real"
    #: of a 2.0 file with several inputs: name, shape and type of each; entries are numbered through them in order
    parts: tuple[tuple[str, tuple[int, ...], str], ...] = ()
    #: of a 2.0 file: its networks; inputs are numbered through all of them, and so are hidden nodes and outputs
    networks: tuple[DeclaredNetwork, ...] = ()
    #: where the file says that some inputs are equal: for each declared entry its number among the `inputs`
    tied: tuple[int, ...] = ()
    #: products of variables (input i is i, output j is -1 - j): the last of the `outputs`, which no network gives
    products: tuple[Monomial, ...] = ()

    @property
    def given(self) -> int:
        """Number of outputs that networks give: without the products."""
        return self.outputs - len(self.products)

    @property
    def clauses(self) -> int:
        """Number of the clauses of all cases."""
        if isinstance(self.cases, BoxCases):
            return sum(map(len, self.cases.members))
        return sum(len(case.clauses) for case in self.cases)

    @property
    def plain(self) -> bool:
        """Whether it is about the input and the output of one network as they are in its file."""
        return not (self.tied or self.products or self.networks) or (
            len(self.networks) == 1 and self.networks[0].simple and not self.tied and not self.products
        )

    @property
    def tensors(self) -> list[Declared]:
        """All inputs, hidden nodes and outputs of a 2.0 file, in order."""
        return [tensor for network in self.networks for tensor in network.tensors]

    def widened(self, x: Sequence[float]) -> list[float]:
        """All declared inputs, of those that are left where some are equal."""
        return [x[i] for i in self.tied] if self.tied else list(x)

    def narrowed(self, x: Sequence[float]) -> list[float] | None:
        """The inverse: None where inputs differ that the file says are equal."""
        if not self.tied:
            return list(x)
        found: dict[int, float] = {}
        for i, value in zip(self.tied, x, strict=True):
            if found.setdefault(i, value) != value:
                return None
        return [found[i] for i in range(self.inputs)]

    @property
    def with_inputs(self) -> bool:
        """Whether some constraint, beside the boxes, is about inputs."""
        if isinstance(self.cases, BoxCases):
            return self.cases.with_inputs
        return any(row.inputs for case in self.cases for rows in case.clauses for row in rows)

    def witness(self, x: Sequence[float], y: Sequence[float]) -> tuple[int, int] | None:
        """The case and the clause that inputs x with outputs y are a counterexample of; None where of none.

        Decided in exact arithmetic: a float is the number that it is, a bound is the decimal in the file, a product is
        worked out here.

        Args:
            x: the `inputs`. y: the outputs that are `given`.
        """
        if len(x) != self.inputs or len(y) != self.given:
            raise ValueError(
                f"the property is about {self.inputs} inputs and {self.given} outputs, got {len(x)} and {len(y)}"
            )
        if not all(map(math.isfinite, (*x, *y))):
            return None
        exact_x, exact_y = [Fraction(v) for v in x], [Fraction(v) for v in y]
        exact_y += [
            math.prod((exact_x[v] if v >= 0 else exact_y[-1 - v] for v in factors), start=Fraction(1))
            for factors in self.products
        ]
        for k in self._near(exact_x):
            case = self.cases[k]
            clause = case.clause_at(exact_x, exact_y) if case.contains(exact_x) else None
            if clause is not None:
                return k, clause
        return None

    def admits(self, x: Sequence[float]) -> bool:
        """Whether x is an input of some case, exactly."""
        exact = [Fraction(v) for v in x] if all(map(math.isfinite, x)) else []
        return len(exact) == self.inputs and any(self.cases[k].contains(exact) for k in self._near(exact))

    def _near(self, x: Sequence[Fraction]) -> Sequence[int]:
        """The cases that may hold a point of float64 numbers."""
        return self.cases.near(x) if isinstance(self.cases, BoxCases) else range(len(self.cases))


def read(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Property:
    """The property in a .vnnlib or .vnnlib.gz file.

    Raises:
        ValueError: the file cannot be read, is not VNN-LIB, or asks for what is not supported here (integers, quotients
            of variables, inputs without bounds); with file, line and column.
    """
    return parse(load(path, max_bytes))


def parse(source: PropertyText) -> Property:
    """The property that a text writes down; as `read`."""
    try:
        return _PropertyReader(source).property()
    except OverflowError as error:
        raise ValueError(f"{source.name}: a number is too large: {error}") from error


class _PropertyReader:
    """Reads one file from top to bottom."""

    def __init__(self, source: PropertyText) -> None:
        self.source = source
        self.declared: dict[str, set[int]] = {"X": set(), "Y": set()}
        self.sides, self.formulas = Sides(), list[Formula]()
        self.disjunctions: list[tuple[int, Disjunction]] = []  # 1.0: where they are, and what they say
        self.networks: list[DeclaredNetwork] = []  # 2.0
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}  # 2.0: a tensor's first variable, and its shape
        self.products: dict[Monomial, int] = {}  # the output that each is, counted from MAX_VARIABLES on
        self.version = "1.0"

    def property(self) -> Property:
        text, at, source = self.source.text, 0, self.source
        while True:
            found = _SPACE.match(text, at)
            at = found.end() if found else at
            if at == len(text):
                break
            common = _COMMON.match(text, at) if self.version == "1.0" else None
            if common is not None:
                self._common(common)
                at = common.end()
                continue
            if text[at] != "(":
                raise source.error(f"a command such as (assert ...) should be here, not {text[at : at + 20]!r}", at)
            boxes = disjunction(source, at, self._variable, self._multiplied) if self.version == "1.0" else None
            if boxes is not None:
                self.disjunctions.append((at, boxes[0]))
                at = boxes[1]
                continue
            command, at = source.group(at)
            self._command(command)
        return self._made()

    def _common(self, found: re.Match[str]) -> None:
        kind, index, comparison, i, bound = found.groups()
        if kind is not None:
            self._declare(kind, int(index), found.start())
            return
        if int(i) not in self.declared["X"]:
            raise self.source.error(f"X_{i} is not declared", found.start())
        try:
            value = number(bound)
        except ValueError as error:
            raise self.source.error(str(error), found.start()) from None
        assert value is not None
        if comparison == "<=":
            self.sides.below(int(i), value)
        else:
            self.sides.above(int(i), value)

    def _declare(self, kind: str, index: int, at: int) -> None:
        if index in self.declared[kind]:
            raise self.source.error(f"{kind}_{index} is declared twice", at)
        if index >= MAX_VARIABLES:
            raise self.source.error(f"{kind}_{index}: more than {MAX_VARIABLES} variables are not supported", at)
        self.declared[kind].add(index)

    def _command(self, command: BracketList) -> None:
        name, source = command.head, self.source
        if name == "vnnlib-version":
            self._version(command)
        elif name == "declare-network":
            self._network(command)
        elif name in ("declare-const", "declare-fun"):
            self._constant(command)
        elif name == "assert":
            if len(command.items) != 2:
                raise source.error(f"assert takes one constraint, not {len(command.items) - 1}", command.at)
            self._assert(formula(source, command.items[1], self._variable, self._multiplied))
        elif name not in _SOLVERS:
            raise source.error(f"the command {name or '('!r} is not known", command.at)

    def _assert(self, part: Formula) -> None:
        if isinstance(part, Row):
            if not part.outputs and len(part.inputs) == 1:
                self.sides.take(part)
            else:
                self.formulas.append(part)
        elif isinstance(part, And):
            for inner in part.parts:
                self._assert(inner)
        else:
            self.formulas.append(part)

    def _constant(self, command: BracketList) -> None:
        """(declare-const X_0 Real), or (declare-fun X_0 () Real)."""
        words = [item for item in command.items[1:] if isinstance(item, Word)]
        empty = [item for item in command.items[1:] if isinstance(item, BracketList) and not item.items]
        if len(words) != 2 or len(command.items) != 3 + len(empty) or len(empty) != (command.head == "declare-fun"):
            raise self.source.error("a declaration is (declare-const X_0 Real)", command.at)
        if self.version != "1.0":
            raise self.source.error(f"{command.head} is of version 1.0, the file is of {self.version}", command.at)
        if words[1].text != "Real":
            raise self.source.error(
                f"variables of type {words[1].text[:40]!r} are not supported, only Real", command.at
            )
        found = _NAME.fullmatch(words[0].text)
        if found is None:
            raise self.source.error(f"{words[0].text[:60]!r} is not a name such as X_0 or Y_0", command.at)
        self._declare(found[1], int(found[2]), command.at)

    def _version(self, command: BracketList) -> None:
        text = command.items[1].text if len(command.items) == 2 and isinstance(command.items[1], Word) else ""
        if text not in ("<1.0>", "<2.0>"):
            raise self.source.error(f"version {text[:20]!r} is not supported, only <1.0> and <2.0>", command.at)
        if any(self.declared.values()) or self.networks:
            raise self.source.error("vnnlib-version comes before all declarations", command.at)
        self.version = text[1:-1]

    def _network(self, command: BracketList) -> None:
        if self.version == "1.0":
            raise self.source.error("declare-network is of version 2.0: (vnnlib-version <2.0>) is missing", command.at)
        if self.formulas or self.sides.lower or self.sides.upper:
            raise self.source.error("networks are declared before all assertions", command.at)
        made = declared_network(self.source, command, self.networks)
        self.networks.append(made)
        for tensor in made.tensors:
            kind = "X" if tensor.kind == "input" else "Y"
            before = len(self.declared[kind])
            if before + tensor.size > MAX_VARIABLES:
                raise self.source.error(
                    f"more than {MAX_VARIABLES} entries of {tensor.kind}s are not supported", command.at
                )
            self.declared[kind] |= set(range(before, before + tensor.size))
            self.places[tensor.name] = before if kind == "X" else -1 - before, tensor.shape

    def _multiplied(self, factors: Monomial) -> int:
        """The number of the output that a product is, until all outputs are known."""
        if factors not in self.products and len(self.products) == MAX_PRODUCTS:
            raise ValueError(f"{self.source.name}: more than {MAX_PRODUCTS} products of variables are not supported")
        return -1 - MAX_VARIABLES - self.products.setdefault(factors, len(self.products))

    def _variable(self, word: Word) -> int | None:
        """Input i is i, output j is -1 - j."""
        if self.version == "1.0":
            found = _NAME.fullmatch(word.text)
            if found is None or int(found[2]) not in self.declared[found[1]]:
                return None
            return int(found[2]) if found[1] == "X" else -1 - int(found[2])
        name, bracket, rest = word.text.partition("[")
        if name not in self.places:
            return None
        first, shape = self.places[name]
        place = flat(integers("[" + rest) if bracket else (), shape)
        if place is None:
            raise self.source.error(f"{word.text[:60]} is not an entry of {name} {list(shape)}", word.at)
        return first + place if first >= 0 else first - place

    def _made(self) -> Property:
        counts = {}
        for kind, what in (("X", "input"), ("Y", "output")):
            indices = self.declared[kind]
            if not indices:
                raise ValueError(f"{self.source.name}: no {what} is declared")
            gap = next((i for i in range(len(indices)) if i not in indices), None)
            if gap is not None:
                raise ValueError(f"{self.source.name}: {kind}_{gap} is not declared, but {kind}_{max(indices)} is")
            counts[kind] = len(indices)
        boxes = self._boxes(counts["X"])
        tied, left = equalities(self.formulas, counts["X"]) if self.networks else ((), self.formulas)
        inputs = max(tied) + 1 if tied else counts["X"]
        new = Renumbered(tied, {})
        factors = {f: tuple(sorted(new.input(v) if v >= 0 else v for v in f)) for f in self.products}
        products = tuple(dict.fromkeys(factors.values()))
        numbers = {MAX_VARIABLES + k: counts["Y"] + products.index(factors[f]) for f, k in self.products.items()}
        new = Renumbered(tied, numbers)
        if tied or products:
            self.sides, left = new.sides(self.sides), [new.formula(part) for part in left]
        made = cases(self.sides, left, self._names(tied, inputs), self.source.name) if boxes is None else boxes
        x, y = (self._interface(kind, counts[k]) for kind, k in (("input", "X"), ("output", "Y")))
        named = [(t.name, t.shape, t.element) for network in self.networks for t in network.of("input")]
        return Property(
            inputs, counts["Y"] + len(products), made, self.version, x[1], y[1], x[0], y[0], x[2], y[2],
            tuple(named) if len(named) > 1 else (), tuple(self.networks), tied, products,
        )  # fmt: skip

    def _boxes(self, inputs: int) -> BoxCases | None:
        """The cases where one disjunction of boxes is all there is beside rows; all others become formulas."""
        rows = tuple(dict.fromkeys(part for part in self.formulas if isinstance(part, Row)))
        constant = any(not row.inputs and not row.outputs for row in rows)
        if len(self.disjunctions) == 1 and len(rows) == len(self.formulas) and not (constant or self.products):
            made = box_cases(self.disjunctions[0][1], self.sides, rows, self._names((), inputs))
            if made is not None:
                return made
        for at, _ in self.disjunctions:
            command, _ = self.source.group(at)
            self._assert(formula(self.source, command.items[1], self._variable, self._multiplied))
        return None

    def _names(self, tied: Sequence[int], inputs: int) -> list[str]:
        """What messages call the inputs."""
        if not self.networks:
            return [f"X_{i}" for i in range(inputs)]
        every = [t for network in self.networks for t in network.of("input")]
        names = [f"{t.name} at flat index {i}" for t in every for i in range(t.size)]
        return [names[tied.index(i)] for i in range(inputs)] if tied else names

    def _interface(self, kind: str, count: int) -> tuple[str, tuple[int, ...], str]:
        """Name, shape and type of the input or the output; of several, of all as one."""
        kinds = ("input",) if kind == "input" else ("hidden", "output")
        found = [t for network in self.networks for t in network.of(*kinds)]
        if not found:
            return "X" if kind == "input" else "Y", (count,), "Real"
        if len(found) == 1:
            return found[0].name, found[0].shape, found[0].element
        return f"the {kind}s", (count,), found[0].element
