"""Disjuncts that differ in their numbers alone: the comparisons are read once, and the numbers of each fill them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from properties.vnnlib_formula import Multiplied, Row, Variable, formula
from properties.vnnlib_text import NUMBER, BracketList, PropertyText, Word, number

#: numbers, where they stand as the second operand of a comparison
_NUMBERS = re.compile(rf"(?<=\s)({NUMBER})(?=[\s)])", re.ASCII)


def cut(text: str) -> tuple[tuple[str, ...], list[str]]:
    """What a disjunct is made of: the text between its numbers, and the numbers."""
    parts = _NUMBERS.split(text)
    return tuple(parts[::2]), parts[1::2]


@dataclass(frozen=True)
class Skeleton:
    """A conjunction of comparisons with places for numbers: bounds of inputs, and rows.

    Args:
        lower, upper: (input, place of its number), in the order of the text.
        rows: with the constant 0 where it is given by a number. constants: for each row the place of its number and
            the number's sign in the constant; None for a row without a number.
    """

    lower: tuple[tuple[int, int], ...]
    upper: tuple[tuple[int, int], ...]
    rows: tuple[Row, ...]
    constants: tuple[tuple[int, int] | None, ...]
    places: int

    @cached_property
    def bounds(self) -> list[int]:
        """The places of the numbers that make the box."""
        return [place for _, place in (*self.lower, *self.upper)]

    @cached_property
    def sides(self) -> str:
        """Which sides of the box these are."""
        return " ".join(str(i) for i, _ in self.lower) + ">" + " ".join(str(i) for i, _ in self.upper)

    def filled(self, numbers: Sequence[str]) -> tuple[Row, ...]:
        """The rows with these numbers, exactly."""
        made = []
        for row, given in zip(self.rows, self.constants, strict=True):
            constant = row.constant if given is None else given[1] * exactly(numbers[given[0]])
            made.append(Row(row.outputs, row.inputs, constant, row.strict))
        return tuple(made)


def exactly(text: str) -> Fraction:
    value = number(text)
    assert value is not None, "a skeleton's places are filled with numbers"
    return value


def skeleton(source: PropertyText, at: int, variable: Variable, multiplied: Multiplied) -> Skeleton | None:
    """The skeleton of the disjunct that begins at `at`; None where it is of another kind.

    Raises:
        ValueError: it is no formula; with its place in the file.
    """
    node, _ = source.group(at)
    formula(source, node, variable, multiplied)  # says what is wrong with it
    atoms = node.items[1:] if node.head == "and" else (node,)
    sides: dict[str, list[tuple[int, int]]] = {"<=": [], ">=": []}
    rows, constants, places = list[Row](), list[tuple[int, int] | None](), 0
    for atom in atoms:
        kind = _comparison(source, atom, variable, multiplied)
        if kind is None:
            return None
        head, of, row, numbered = kind
        if of >= 0 and numbered:
            if head not in sides:
                return None
            sides[head].append((of, places))
        else:
            rows.append(Row(row.outputs, row.inputs, Fraction(0), row.strict))
            constants.append((places, -1 if head in ("<=", "<") else 1) if numbered else None)
        places += numbered
    if len(set(rows)) < len(rows):
        return None  # of two rows that differ in a number alone one may be the other
    return Skeleton(tuple(sides[">="]), tuple(sides["<="]), tuple(rows), tuple(constants), places)


def _comparison(
    source: PropertyText, atom: Word | BracketList, variable: Variable, multiplied: Multiplied
) -> tuple[str, int, Row, bool] | None:
    """Operator, first variable, row, and whether a number is the second operand; None for other formulas."""
    if not isinstance(atom, BracketList) or len(atom.items) != 3 or atom.head not in ("<=", ">=", "<", ">"):
        return None
    left, right = atom.items[1:]
    if not (isinstance(left, Word) and isinstance(right, Word)):
        return None
    of, row = variable(left), formula(source, atom, variable, multiplied)
    if of is None or not isinstance(row, Row) or not (row.outputs or row.inputs):
        return None
    return atom.head, of, row, variable(right) is None
