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

from properties.vnnlib_cases import Case, Sides, cases
from properties.vnnlib_formula import And, Formula, Row, formula
from properties.vnnlib_text import MAX_BYTES, NUMBER, BracketList, PropertyText, Word, load, number

#: entries of the input and of the output
MAX_VARIABLES = 1_000_000

_REALS = frozenset({"Real", "real", "float64", "float32", "float16", "bfloat16", "F64", "F32", "F16"})
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
    cases: tuple[Case, ...]
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

    @property
    def with_inputs(self) -> bool:
        """Whether some constraint, beside the boxes, is about inputs."""
        return any(row.inputs for case in self.cases for rows in case.clauses for row in rows)

    def witness(self, x: Sequence[float], y: Sequence[float]) -> tuple[int, int] | None:
        """The case and the clause that inputs x with outputs y are a counterexample of; None where of none.

        Decided in exact arithmetic: a float is the number that it is, a bound is the decimal in the file.
        """
        if len(x) != self.inputs or len(y) != self.outputs:
            raise ValueError(
                f"the property is about {self.inputs} inputs and {self.outputs} outputs, got {len(x)} and {len(y)}"
            )
        if not all(map(math.isfinite, (*x, *y))):
            return None
        exact_x, exact_y = [Fraction(v) for v in x], [Fraction(v) for v in y]
        for k, case in enumerate(self.cases):
            clause = case.clause_at(exact_x, exact_y) if case.contains(exact_x) else None
            if clause is not None:
                return k, clause
        return None

    def admits(self, x: Sequence[float]) -> bool:
        """Whether x is an input of some case, exactly."""
        exact = [Fraction(v) for v in x] if all(map(math.isfinite, x)) else []
        return len(exact) == self.inputs and any(case.contains(exact) for case in self.cases)


def read(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Property:
    """The property in a .vnnlib or .vnnlib.gz file.

    Raises:
        ValueError: the file cannot be read, is not VNN-LIB, or asks for what is not supported here (several networks,
            hidden nodes, integers, products of variables, inputs without bounds); with file and line.
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
        self.shapes: dict[str, tuple[str, tuple[int, ...], str]] = {}  # 2.0: X or Y -> name, shape, type
        self.parts: list[tuple[str, tuple[int, ...], str]] = []  # 2.0: every input
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
            self._assert(formula(source, command.items[1], self._variable))
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
        if any(self.declared.values()) or self.shapes:
            raise self.source.error("vnnlib-version comes before all declarations", command.at)
        self.version = text[1:-1]

    def _network(self, command: BracketList) -> None:
        """(declare-network N (declare-input X Real [1,2]) (declare-output Y Real [3]))."""
        if self.version == "1.0":
            raise self.source.error("declare-network is of version 2.0: (vnnlib-version <2.0>) is missing", command.at)
        if self.shapes:
            raise self.source.error("a second network: properties of several networks are not supported", command.at)
        parts = command.items[2:]
        if len(command.items) < 2 or not isinstance(command.items[1], Word):
            raise self.source.error("declare-network needs a name", command.at)
        for part in parts:
            kind = part.head if isinstance(part, BracketList) else part.text
            if kind in ("declare-input", "declare-output") and isinstance(part, BracketList):
                self._tensor(part, "X" if kind == "declare-input" else "Y")
            else:
                raise self.source.error(f"{kind or '('!r} in a network is not supported", part.at)
        missing = next((k for k in ("X", "Y") if k not in self.shapes), None)
        if missing is not None:
            raise self.source.error(f"the network declares no {'input' if missing == 'X' else 'output'}", command.at)

    def _tensor(self, part: BracketList, kind: str) -> None:
        what = "input" if kind == "X" else "output"
        if kind in self.shapes and kind == "Y":
            raise self.source.error(f"a second {what}: networks of several {what}s are not supported", part.at)
        words = [item.text for item in part.items[1:] if isinstance(item, Word)]
        if len(words) != len(part.items) - 1 or len(words) not in (3, 4):
            raise self.source.error(f"an {what} is declared as (declare-{what} {kind} float32 [1,2])", part.at)
        if len(words) == 4 and not re.fullmatch(r'"[^"]*"', words[3]):
            raise self.source.error(f"{words[3][:40]!r} is not the name of an onnx node, in quotes", part.at)
        name, element, shape = words[:3]
        if element not in _REALS:
            raise self.source.error(f"{what}s of type {element[:40]!r} are not supported, only real numbers", part.at)
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII) or any(
            name == n for n, _, _ in (*self.shapes.values(), *self.parts)
        ):
            raise self.source.error(f"{name[:40]!r} is no name, or is taken already", part.at)
        sizes = _integers(shape)
        if sizes is None or 0 in sizes or math.prod(sizes) > MAX_VARIABLES:
            raise self.source.error(f"{shape[:40]!r} is not a shape such as [1,2] that is supported", part.at)
        if kind == "X":
            self.parts.append((name, sizes, element))
            count = sum(math.prod(shape) for _, shape, _ in self.parts)
            if count > MAX_VARIABLES:
                raise self.source.error(f"more than {MAX_VARIABLES} entries of inputs are not supported", part.at)
            self.shapes[kind] = (name, sizes, element) if len(self.parts) == 1 else ("the inputs", (count,), element)
        else:
            self.shapes[kind] = name, sizes, element
        self.declared[kind] = set(range(math.prod(self.shapes[kind][1])))

    def _variable(self, word: Word) -> int | None:
        """Input i is i, output j is -1 - j."""
        if self.version == "1.0":
            found = _NAME.fullmatch(word.text)
            if found is None or int(found[2]) not in self.declared[found[1]]:
                return None
            return int(found[2]) if found[1] == "X" else -1 - int(found[2])
        name, bracket, rest = word.text.partition("[")
        before = 0
        for declared, shape, _ in (*self.parts, self.shapes["Y"]) if self.shapes else ():
            if name == declared:
                flat = _flat(_integers("[" + rest) if bracket else (), shape)
                if flat is None:
                    raise self.source.error(f"{word.text[:60]} is not an entry of {name} {list(shape)}", word.at)
                return before + flat if name != self.shapes["Y"][0] else -1 - flat
            before += math.prod(shape)
        return None

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
        (x, x_shape, x_type), (y, y_shape, y_type) = (self.shapes.get(k, (k, (counts[k],), "Real")) for k in ("X", "Y"))
        separator = "_" if self.version == "1.0" else " at flat index "
        named = [(n, math.prod(s)) for n, s, _ in self.parts] or [(x, counts["X"])]
        names = [f"{name}{separator}{i}" for name, count in named for i in range(count)]
        made = cases(self.sides, self.formulas, names, self.source.name)
        parts = tuple(self.parts) if len(self.parts) > 1 else ()
        return Property(counts["X"], counts["Y"], made, self.version, x_shape, y_shape, x, y, x_type, y_type, parts)


def _integers(text: str) -> tuple[int, ...] | None:
    """The numbers in [1,2,3]; None where that is something else."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    parts = [part.strip() for part in text[1:-1].split(",")] if text[1:-1].strip() else []
    if not all(re.fullmatch(r"\d{1,9}", part, re.ASCII) for part in parts):
        return None
    return tuple(map(int, parts))


def _flat(index: tuple[int, ...] | None, shape: tuple[int, ...]) -> int | None:
    """The place of an entry in row-major order; None where there is no such entry."""
    if index is None or len(index) != len(shape) or any(i >= n for i, n in zip(index, shape, strict=True)):
        return None
    flat = 0
    for i, n in zip(index, shape, strict=True):
        flat = flat * n + i
    return flat
