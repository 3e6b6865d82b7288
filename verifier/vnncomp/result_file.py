"""The result of an instance as the competition writes it: a status word, and the witness where it is sat.

For a property of VNN-LIB 1.0 the witness is ((X_0 value) ... (Y_0 value) ...), one variable a line; for one of 2.0 it
is what the standard's solvers print: a line with name, type and shape, then one value a line (VNN-LIB 2.0, chapter on
the solver's command line).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path

from properties.vnnlib import Property
from verifier.errors import InputError
from verifier.vnncomp.answer import InstanceAnswer, InstanceStatus

_PAIR = re.compile(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)")


def decimal(value: float) -> str:
    """The value as a decimal number that is equal to it: the short one where that is, else all digits."""
    short = repr(float(value))
    return short if Decimal(short) == Decimal(value) else str(Decimal(value)).lower()


def render(answer: InstanceAnswer, prop: Property | None = None) -> str:
    """The text of the result file."""
    word = f"{answer.status.value}\n"
    if answer.witness is None or prop is None:
        return word
    x, y = answer.witness.x, answer.witness.y
    if prop.version == "1.0":
        pairs = [f"({name}_{i} {decimal(v)})" for name, values in (("X", x), ("Y", y)) for i, v in enumerate(values)]
        return word + "(" + "\n".join(pairs) + ")\n"
    lines, values_of = [], iter(x)
    inputs = [(n, e, s, list(islice(values_of, math.prod(s)))) for n, s, e in _inputs(prop)]
    for name, element, shape, values in (*inputs, (prop.output_name, prop.output_type, prop.output_shape, y)):
        lines += [f"{name} {element} [{','.join(map(str, shape))}]", *map(decimal, values)]
    return word + "\n".join(lines) + "\n"


def parsed(path: Path, prop: Property | None = None) -> tuple[InstanceStatus, tuple[list[float], list[float]] | None]:
    """Status and witness (x, y) in a result file; no property: the status alone.

    Raises:
        InputError: the file is not a result, or its witness is not of the property's variables.
    """
    try:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
        status = InstanceStatus(first.strip())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a result file: {error}") from error
    if status is not InstanceStatus.SAT or prop is None:
        return status, None
    try:
        x, y = _witness_1(rest, prop) if prop.version == "1.0" else _witness_2(rest.splitlines(), prop)
    except (ValueError, IndexError, KeyError) as error:
        raise InputError(f"{path}: the witness is not of the property's variables: {error}") from error
    if not all(map(math.isfinite, (*x, *y))):
        raise InputError(f"{path}: the witness has values that are not finite")
    return status, (x, y)


def _witness_1(text: str, prop: Property) -> tuple[list[float], list[float]]:
    values = {(kind, int(i)): float(value) for kind, i, value in _PAIR.findall(text)}
    x = [values.pop(("X", i)) for i in range(prop.inputs)]
    y = [values.pop(("Y", i)) for i in range(prop.outputs)]
    if values:
        raise ValueError(f"there is no {'_'.join(map(str, next(iter(values))))}")
    return x, y


def _witness_2(lines: Sequence[str], prop: Property) -> tuple[list[float], list[float]]:
    inputs = _inputs(prop)
    size = prop.inputs + len(inputs)
    if len(lines) != size + prop.outputs + 1:
        raise ValueError(f"{len(lines)} lines")
    x: list[float] = []
    at = 0
    for name, shape, _ in inputs:
        if lines[at].split()[0] != name:
            raise ValueError(f"line {at + 2} is not about {name}")
        end = at + 1 + math.prod(shape)
        x += [float(v) for v in lines[at + 1 : end]]
        at = end
    return x, [float(v) for v in lines[size + 1 :]]


def _inputs(prop: Property) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """Name, shape and type of every input that a 2.0 file declares."""
    return prop.parts or ((prop.input_name, prop.input_shape, prop.input_type),)
