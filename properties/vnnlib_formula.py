"""Formulas over the inputs and outputs of a network: constraints joined by and, or. All numbers are exact.

Terms are polynomials. A product of variables is an output of its own, beside those of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from properties.vnnlib_text import BracketList, PropertyText, Word, number

#: variables that are multiplied, in order, with repetition; the constant's has none
Monomial = tuple[int, ...]
Polynomial = dict[Monomial, Fraction]

#: variables in one product, and terms in one comparison
MAX_DEGREE, MAX_TERMS = 8, 100_000

_COMPARISONS = frozenset({"<=", ">=", "<", ">", "=", "==", "!="})


@dataclass(frozen=True, slots=True)
class Row:
    """outputs . y + inputs . x + constant <= 0, or < 0 where strict. Pairs (number of the variable, coefficient)."""

    outputs: tuple[tuple[int, Fraction], ...]
    inputs: tuple[tuple[int, Fraction], ...]
    constant: Fraction
    strict: bool = False

    def value(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
        """The left side at inputs x and outputs y."""
        total = self.constant
        for j, coefficient in self.outputs:
            total += coefficient * y[j]
        for i, coefficient in self.inputs:
            total += coefficient * x[i]
        return total

    def holds(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
        value = self.value(x, y)
        return value < 0 or (value == 0 and not self.strict)


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Formula, ...]


Formula = Row | And | Or
#: a name's number: input i is i, output j is -1 - j; None for what is no name
Variable = Callable[[Word], int | None]
#: the number of the output that a product of variables is
Multiplied = Callable[[Monomial], int]


def formula(source: PropertyText, node: Word | BracketList, variable: Variable, multiplied: Multiplied) -> Formula:
    """The formula that a bracketed list writes down.

    Raises:
        ValueError: with the place in the file, for anything that is not and, or, not, or a comparison of polynomials.
    """
    if isinstance(node, Word):
        raise source.error(f"a constraint such as (<= X_0 1.0) should be here, not {node.text!r}", node.at)
    head, rest = _split(node)
    if head == "not":
        if len(rest) != 1:
            raise source.error(f"not is about one constraint, not {len(rest)}", node.at)
        return _negated(formula(source, rest[0], variable, multiplied))
    if head in ("and", "or"):
        if not rest:
            raise source.error(f"({head}) is about nothing", node.at)
        parts = tuple(formula(source, part, variable, multiplied) for part in rest)
        if len(parts) == 1:
            return parts[0]
        return And(parts) if head == "and" else Or(parts)
    if head not in _COMPARISONS:
        raise source.error(f"{head or '('!r} is not one of and, or, not, {', '.join(sorted(_COMPARISONS))}", node.at)
    if len(rest) != 2:
        raise source.error(f"{head} compares two terms, not {len(rest)}", node.at)
    left, right = (_polynomial(source, side, variable) for side in rest)
    difference = _with_products(_combined([(left, Fraction(1)), (right, Fraction(-1))]), multiplied)
    less, more = difference, {v: -c for v, c in difference.items()}
    if head in ("<=", "<"):
        return _row(less, head == "<")
    if head in (">=", ">"):
        return _row(more, head == ">")
    if head == "!=":
        return Or((_row(less, True), _row(more, True)))
    return And((_row(less, False), _row(more, False)))


def _negated(part: Formula) -> Formula:
    if isinstance(part, Row):
        outputs, inputs = (tuple((v, -c) for v, c in terms) for terms in (part.outputs, part.inputs))
        return Row(outputs, inputs, -part.constant, not part.strict)
    parts = tuple(map(_negated, part.parts))
    return Or(parts) if isinstance(part, And) else And(parts)


def _split(node: BracketList) -> tuple[str, tuple[Word | BracketList, ...]]:
    """The operator and what it is about: (< Y_0 1.0), or (Y_0 < 1.0)."""
    items = _operands(node.items)
    middle = items[1] if len(items) == 3 else None
    if isinstance(middle, Word) and middle.text in _COMPARISONS:
        return middle.text, (items[0], items[2])
    return node.head, items[1:]


def _operands(items: Sequence[Word | BracketList]) -> tuple[Word | BracketList, ...]:
    """An index is joined to the name before it: X [0,1] is one operand."""
    operands: list[Word | BracketList] = []
    for item in items:
        last = operands[-1] if operands else None
        if isinstance(item, Word) and item.text.startswith("[") and isinstance(last, Word) and "[" not in last.text:
            operands[-1] = Word(last.text + item.text, last.at)
        else:
            operands.append(item)
    return tuple(operands)


def _row(terms: Mapping[int | None, Fraction], strict: bool) -> Row:
    outputs = tuple((-1 - v, c) for v, c in terms.items() if v is not None and v < 0 and c)
    inputs = tuple((v, c) for v, c in terms.items() if v is not None and v >= 0 and c)
    return Row(tuple(sorted(outputs)), tuple(sorted(inputs)), terms.get(None, Fraction(0)), strict)


def _with_products(terms: Polynomial, multiplied: Multiplied) -> dict[int | None, Fraction]:
    """Coefficients by variable, those of products among them; the constant under None."""
    found: dict[int | None, Fraction] = {}
    for factors, c in terms.items():
        if len(factors) < 2:
            found[factors[0] if factors else None] = c
        elif c:
            found[multiplied(factors)] = c
    return found


def _polynomial(source: PropertyText, node: Word | BracketList, variable: Variable) -> Polynomial:
    if isinstance(node, Word):
        try:
            value = number(node.text)
        except ValueError as error:
            raise source.error(str(error), node.at) from None
        if value is not None:
            return {(): value}
        named = variable(node)
        if named is None:
            raise source.error(f"{node.text[:60]!r} is neither a number nor a declared variable", node.at)
        return {(named,): Fraction(1)}
    head, rest = node.head, _operands(node.items[1:])
    if head not in ("+", "-", "*", "/") or not rest:
        raise source.error(f"{head or '('!r} is not one of +, -, *, / with something to work on", node.at)
    parts = [_polynomial(source, part, variable) for part in rest]
    if head == "+":
        return _combined([(part, Fraction(1)) for part in parts])
    if head == "-":
        if len(parts) == 1:
            return _combined([(parts[0], Fraction(-1))])
        return _combined([(parts[0], Fraction(1)), *((part, Fraction(-1)) for part in parts[1:])])
    made = parts[0]
    for part in parts[1:]:
        made = _quotient(source, node, made, part) if head == "/" else _product(source, node, made, part)
        if any(max(c.numerator.bit_length(), c.denominator.bit_length()) > 1 << 16 for c in made.values()):
            raise source.error("the numbers in here become too long", node.at)
    return made


def _quotient(source: PropertyText, node: BracketList, above: Polynomial, below: Polynomial) -> Polynomial:
    if any(factors and c for factors, c in below.items()):
        raise source.error(
            "a quotient of variables is not supported: multiply the comparison by the divisor where its sign is known",
            node.at,
        )
    divisor = below.get((), Fraction(0))
    if divisor == 0:
        raise source.error("division by zero", node.at)
    return _combined([(above, 1 / divisor)])


def _product(source: PropertyText, node: BracketList, left: Polynomial, right: Polynomial) -> Polynomial:
    if len(left) * len(right) > MAX_TERMS:
        raise source.error(f"the product has more than {MAX_TERMS} terms: not supported", node.at)
    made: Polynomial = {}
    for factors, c in left.items():
        for others, d in right.items():
            joined = tuple(sorted((*factors, *others)))
            if len(joined) > MAX_DEGREE:
                raise source.error(f"a product of more than {MAX_DEGREE} variables is not supported", node.at)
            made[joined] = made.get(joined, Fraction(0)) + c * d
    return made


def _combined(parts: Sequence[tuple[Polynomial, Fraction]]) -> Polynomial:
    """The sum of terms times factors."""
    total: Polynomial = {}
    for terms, factor in parts:
        for v, c in terms.items():
            c = c if factor == 1 else c * factor
            total[v] = total[v] + c if v in total else c
    return total
